"""Promises of the package: the wheel holds all it needs, every dependency is named and pinned."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DEPENDENCIES = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    extra: [Requirement(line) for line in lines]
    for extra, lines in PROJECT["optional-dependencies"].items()
}
CUDA_PREFIXES = ("nvidia-", "cuda-", "pytorch-triton")

# More of these is used than they document.
REACHED_INTO = {
    *("bitsandbytes", "filelock", "huggingface-hub", "jsonargparse", "lightning", "peft"),
    *("tensorboard", "torch", "transformers"),
}

# What is used without an import of that name: by which line of which file.
USED_THROUGH = {
    "tensorboard": ("amazon_desc/run/logger.py", "import TensorBoardLogger"),
    "bitsandbytes": ("amazon_desc/model/backbone.py", "BitsAndBytesConfig"),
    # transformers reads a tokenizer.model with it.
    "sentencepiece": ("scripts/make_tiny.py", "import sentencepiece"),
}


def name_of(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)


def imported_packages(folder: Path) -> set[str]:
    """Returns the top-level names of all absolute imports in a folder, deferred ones too."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names


@pytest.fixture(scope="module")
def constraints() -> dict[str, str]:
    """The pins of constraints.txt: {"torch": "2.13.0"}."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line.split(";")[0].strip() for line in lines if line and not line.startswith("#")]
    found = {}
    for pin in pins:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", pin)
        assert match is not None, f"not NAME==VERSION, or with a local tag: {pin}"
        found[canonicalize_name(match[1])] = match[2]
    assert len(found) > 50
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="a wheel is built with hatchling: install '.[test]'")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def files_in(folder: Path) -> list[Path]:
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert files, folder
    return files


def test_wheel_holds_modules_assets_and_metric_byte_for_byte(wheel: zipfile.ZipFile):
    names = wheel.namelist()
    for file in files_in(ROOT / "amazon_desc"):
        name = file.relative_to(ROOT).as_posix()
        assert name in names
        assert wheel.read(name) == file.read_bytes(), name
    for name in (
        "amazon_desc/__main__.py",
        "amazon_desc/assets/sample.json.gz",
        "amazon_desc/assets/tiny/config.json",
        "amazon_desc/assets/tiny/model.safetensors",
        "amazon_desc/assets/tiny/tokenizer.json",
        "amazon_desc/evaluation/description_scores/README.md",
        "amazon_desc/evaluation/description_scores/description_scores.py",
    ):
        assert name in names


def test_wheel_holds_the_configs_of_the_tree_byte_for_byte(wheel: zipfile.ZipFile):
    in_wheel = {
        name.removeprefix("amazon_desc/configs/"): wheel.read(name)
        for name in wheel.namelist()
        if name.startswith("amazon_desc/configs/")
    }
    configs = ROOT / "configs"
    in_tree = {f.relative_to(configs).as_posix(): f.read_bytes() for f in files_in(configs)}
    assert "quickstart.yaml" in in_wheel
    assert in_wheel == in_tree


def test_wheel_holds_the_package_and_its_licence_and_nothing_else(wheel: zipfile.ZipFile):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    (dist_info,) = tops - {"amazon_desc"}
    assert dist_info.endswith(".dist-info")
    assert f"{dist_info}/licenses/LICENSE" in wheel.namelist()
    assert not [name for name in wheel.namelist() if name.endswith(".pyc")]


@pytest.mark.parametrize(
    "package",
    [
        *("lightning", "transformers", "peft", "bitsandbytes", "datasets", "sentencepiece"),
        *("torchmetrics", "evaluate", "tensorboard"),
    ],
)
def test_library_the_project_is_built_on_is_a_dependency_and_used(package: str):
    assert package in map(name_of, DEPENDENCIES)
    if package in USED_THROUGH:
        file, use = USED_THROUGH[package]
        assert use in (ROOT / file).read_text("utf-8")
    else:
        assert package in imported_packages(ROOT / "amazon_desc")


def test_every_import_of_the_package_is_a_declared_dependency():
    third_party = imported_packages(ROOT / "amazon_desc") - sys.stdlib_module_names
    third_party.remove("amazon_desc")
    third_party.remove("yaml")  # of the package PyYAML
    third_party.remove("google")  # of the package protobuf
    assert {"pyyaml", "protobuf"} <= set(map(name_of, DEPENDENCIES))
    assert {"torch", "lightning", "peft"} <= third_party
    # What only an option needs is in an extra, which the option's refusal names.
    optional = [*EXTRAS["language"], *EXTRAS["gguf"], *EXTRAS["excel"]]
    declared = set(map(name_of, [*DEPENDENCIES, *optional]))
    # Comes with torch, for the GPUs that it runs on.
    assert {canonicalize_name(name) for name in third_party} - {"triton"} <= declared


def test_every_lower_bound_admits_the_pinned_version(constraints: dict[str, str]):
    for requirement in [*DEPENDENCIES, *(r for extra in EXTRAS.values() for r in extra)]:
        pinned = constraints[name_of(requirement)]
        assert requirement.specifier, f"{requirement}: no lower bound"
        assert requirement.specifier.contains(pinned), f"{requirement}, pinned to {pinned}"


def test_what_is_reached_into_is_bounded_above_and_pinned_within(constraints: dict[str, str]):
    bounds = {
        name_of(requirement): [bound for bound in requirement.specifier if bound.operator == "<"]
        for requirement in DEPENDENCIES
    }
    assert {name for name, above in bounds.items() if above} == REACHED_INTO
    for name in REACHED_INTO:
        (above,) = bounds[name]
        assert Version(constraints[name]) < Version(above.version), name


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_the_versions_of_lightning_that_were_malware_are_refused(version: str):
    (lightning,) = (found for found in DEPENDENCIES if name_of(found) == "lightning")
    assert lightning.specifier.contains("2.6.6")
    assert not lightning.specifier.contains(version)


def test_constraints_leave_what_is_for_cuda_only_to_torch(constraints: dict[str, str]):
    assert "torch" in constraints
    assert [name for name in constraints if name.startswith(CUDA_PREFIXES)] == []


def test_constraints_pin_indirect_dependencies_too(constraints: dict[str, str]):
    needed = closure([*DEPENDENCIES, *EXTRAS["test"]])
    assert {"tokenizers", "accelerate", "fsspec", "pluggy"} <= needed
    assert needed - set(constraints) == set()


def closure(requirements: Iterable[Requirement]) -> set[str]:
    """Returns the names of all installed packages that these need, without those for CUDA only."""
    seen: set[tuple[str, str]] = set()
    here = [r for r in requirements if r.marker is None or r.marker.evaluate()]
    waiting = [(name_of(r), extra) for r in here for extra in ("", *r.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen or name.startswith(CUDA_PREFIXES):
            continue
        seen.add((name, extra))
        environment = {**default_environment(), "extra": extra}
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate(environment):
                waiting += [(name_of(needed), more) for more in ("", *needed.extras)]
    return {name for name, _ in seen}
