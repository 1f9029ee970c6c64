"""Where the things are that ship with the package: sample products, tiny base, configs."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

SAMPLE_PRODUCTS = PACKAGE / "assets" / "sample.json.gz"
TINY_BASE = PACKAGE / "assets" / "tiny"


def find_config(name: str) -> Path | None:
    """Returns the shipped config called `name` (`configs/quickstart.yaml` or `quickstart.yaml`).

    A wheel carries the configs inside the package; an editable install has them beside it. What
    else is in the folder is no config.
    """
    if Path(name).suffix != ".yaml":
        return None
    for folder in (PACKAGE / "configs", PACKAGE.parent / "configs"):
        candidate = folder / Path(name).name
        if candidate.is_file():
            return candidate
    return None
