"""The tiny base -> its first two layers of four, which train and write in little more than half.

For what holds of any base: that runs resume, refuse and keep. What is measured of texts and scores
is measured on the whole one.
"""

import json
import re
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from amazon_desc.support.resources import TINY_BASE

NUM_LAYERS = 2
OF_LAYER = re.compile(r"\.layers\.(\d+)\.")


def shallow_base(folder: Path) -> Path:
    """Writes the base into a folder that is not there yet; returns the folder."""
    shutil.copytree(TINY_BASE, folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["num_hidden_layers"] > NUM_LAYERS
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": NUM_LAYERS}))
    weights = load_file(folder / "model.safetensors")
    kept = {
        name: tensor
        for name, tensor in weights.items()
        if (found := OF_LAYER.search(name)) is None or int(found[1]) < NUM_LAYERS
    }
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
