"""Where the things are that ship with the package: sample products, tiny base, configs."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

SAMPLE_PRODUCTS = PACKAGE / "assets" / "sample.json.gz"
TINY_BASE = PACKAGE / "assets" / "tiny"
OPTIONS_IN_WORDS = PACKAGE / "assets" / "options.json"

CONFIG_FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")


def find_config(name: str) -> Path | None:
    """Returns the shipped config called `name` (`configs/quickstart.yaml` or `quickstart.yaml`).

    A wheel carries the configs inside the package; an editable install has them beside it. What
    else is in the folder is no config.
    """
    if Path(name).suffix != ".yaml":
        return None
    for folder in CONFIG_FOLDERS:
        candidate = folder / Path(name).name
        if candidate.is_file():
            return candidate
    return None


def shipped_configs() -> list[str]:
    """Returns the names of the shipped configs: ["gemma3.yaml", "qlora.yaml", ...]."""
    return sorted({path.name for folder in CONFIG_FOLDERS for path in folder.glob("*.yaml")})
