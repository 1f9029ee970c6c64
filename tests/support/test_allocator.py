"""A base that is loaded takes the memory of what is kept of it, not of what was read."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from amazon_desc.support.allocator import freed_at_once

LOADING = """
import sys, torch
from pathlib import Path
from amazon_desc.model.backbone import load_backbone
from amazon_desc.support.hub import Backbone, find_backbone
def taken():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10
def load(base):
    return load_backbone(base, "nf4", torch.float16, torch.device("cpu"))
load(find_backbone("tiny"))
before = taken()
model = load(Backbone(Path(sys.argv[1]), "some/base"))
print(taken() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process has taken")
def test_a_base_in_4_bits_takes_what_is_left_of_it(tmp_path: Path):
    """Files of 113 MB become a base of 37; read and made, they took 115."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 6000}
    config = AutoConfig.for_model("llama", **shape, **heads)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    program = [sys.executable, "-c", LOADING, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    read = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert read > 110_000_000
    assert 30_000_000 < int(done.stdout.split()[-1]) < 0.95 * read


def test_blocks_are_as_good_while_they_are_freed_at_once():
    with freed_at_once():
        kept = [torch.full((100_000,), float(number)) for number in range(20)]
        del kept[::2]
    assert [float(tensor.mean()) for tensor in kept] == [float(n) for n in range(1, 20, 2)]
