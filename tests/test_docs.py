"""The README.md files as they are: maps, links, commands and options are those of the project.

Each checker is tried on a small folder that was made up first, with faults planted in it.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from amazon_desc.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "amazon_desc"
ROOMS = [
    *sorted(init.parent for init in PACKAGE.glob("*/__init__.py")),
    *(PACKAGE / "model" / "kernels", ROOT / "configs", ROOT / "scripts", ROOT / "tests"),
]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md")),
    *(page for top in (PACKAGE, *ROOMS[-3:]) for page in sorted(top.rglob("*.md"))),
]
MAP = "\n## Map\n"
UNLISTED = {"__init__.py", "README.md", "__pycache__"}

FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FILE = re.compile(r"(?<![\w./-])(?:amazon_desc|configs|scripts|tests)/[\w./-]+\.(?:py|yaml|md)\b")
COMMAND = re.compile(r"python -m amazon_desc +([\w-]+)")
OPTION = re.compile(r"--((?:trainer|model|data|checkpoint)\.[\w.]+)")


def each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda p: p.relative_to(ROOT).as_posix())


def page_of(room: Path) -> str:
    return (room / "README.md").read_text(encoding="utf-8")


# Maps


def map_in(text: str) -> list[str]:
    """Returns what a page's map lists. What is indented is in the folder above.

    "a.py  one\nb/    two\n  c.py  three" -> ["a.py", "b/", "b/c.py"]
    """
    block = text.partition(MAP)[2].partition("```\n")[2].partition("```")[0]
    found, folders = [], [""]
    for line in block.splitlines():
        name, _, description = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        assert depth < len(folders), f"lies in no folder: {line}"
        assert description.strip(), f"does not say what it is: {line}"
        found.append(folders[depth] + name)
        folders = folders[: depth + 1]
        if name.endswith("/"):
            folders.append(folders[depth] + name)
    return found


def files_of(folder: Path) -> list[str]:
    """Returns what the map of a folder has to list: its files, and those of folders without one."""
    found = []
    for path in folder.iterdir():
        if path.name in UNLISTED or path.name.startswith("."):
            continue
        found.append(path.name + "/" * path.is_dir())
        if path.is_dir() and MAP not in (page_of(path) if has_page(path) else ""):
            found += [f"{path.name}/{name}" for name in files_of(path)]
    return found


def has_page(folder: Path) -> bool:
    return (folder / "README.md").is_file()


def faults(listed: list[str], there: list[str]) -> list[str]:
    """Returns what is wrong with a map, a line each."""
    return [
        *(f"{name}: not in the map" for name in sorted(set(there) - set(listed))),
        *(f"{name}: not there" for name in sorted(set(listed) - set(there))),
        *(f"{name}: twice" for name in sorted(set(listed)) if listed.count(name) > 1),
    ]


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A room with a map: two files, one of them in a folder, and a folder with its own map."""
    for folder in ("sub", "own", "sub/__pycache__"):
        (tmp_path / folder).mkdir()
    for file in ("a.py", "__init__.py", "sub/__init__.py", "sub/b.py", "own/c.py", "sub/.hidden"):
        (tmp_path / file).touch()
    (tmp_path / "own" / "README.md").write_text("# own\n\n## Map\n\n```\nc.py  third\n```\n")
    (tmp_path / "README.md").write_text(
        "# room\n\n```\npython elsewhere.py\n```\n\n## Map\n\nOf the room:\n\n"
        "```\nown/     another room\nsub/     some\n  b.py   second\na.py     first\n```\n"
    )
    return tmp_path


def test_a_map_that_is_right_has_no_fault(room: Path):
    assert map_in(page_of(room)) == ["own/", "sub/", "sub/b.py", "a.py"]
    assert sorted(files_of(room)) == ["a.py", "own/", "sub/", "sub/b.py"]
    assert map_in(page_of(room / "own")) == files_of(room / "own") == ["c.py"]
    assert faults(map_in(page_of(room)), files_of(room)) == []


@pytest.mark.parametrize("name", ["new.py", "sub/new.py", "data.json", "sub/notes.md"])
def test_a_file_that_no_line_names_is_found(room: Path, name: str):
    (room / name).touch()
    assert faults(map_in(page_of(room)), files_of(room)) == [f"{name}: not in the map"]


@pytest.mark.parametrize("name", ["a.py", "sub/b.py"])
def test_a_line_whose_file_is_gone_is_found(room: Path, name: str):
    (room / name).unlink()
    assert faults(map_in(page_of(room)), files_of(room)) == [f"{name}: not there"]


def test_a_line_that_stands_twice_is_found(room: Path):
    listed = map_in("\n## Map\n\n```\na.py  first\na.py  again\n```\n")
    assert faults(listed, ["a.py"]) == ["a.py: twice"]


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        ("a.py\n", "does not say what it is"),
        ("a.py  first\n  b.py  second\n", "lies in no folder"),
    ],
)
def test_a_line_that_says_nothing_or_lies_nowhere_is_found(block: str, fault: str):
    with pytest.raises(AssertionError, match=fault):
        map_in(f"\n## Map\n\n```\n{block}```\n")


@each(ROOMS)
def test_a_map_names_each_file_of_its_folder_once(path: Path):
    listed = map_in(page_of(path))
    assert listed
    assert faults(listed, files_of(path)) == []


def test_the_front_page_names_each_room_once():
    listed = map_in(page_of(ROOT))
    tops = ["amazon_desc/", "configs/", "scripts/", "tests/", "amazon_desc/model/kernels/"]
    inside = [
        f"amazon_desc/{path.name}{'/' * path.is_dir()}"
        for path in PACKAGE.iterdir()
        if path.name not in UNLISTED and not path.name.startswith(".")
    ]
    assert faults(listed, [*tops, *inside]) == []
    assert all(has_page(room) for room in ROOMS)


def test_the_front_page_is_short():
    assert 50 < len(page_of(ROOT).splitlines()) <= 200


# Links


def slug(heading: str) -> str:
    """Returns GitHub's anchor of a heading. "Amazon Titles-1.3MM" -> "amazon-titles-13mm" """
    text = re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower())
    return text.replace(" ", "-")


def anchors(text: str) -> set[str]:
    return {slug(heading) for heading in HEADING.findall(FENCE.sub("", text))}


def links_in(text: str) -> list[str]:
    """Returns where a page's links lead, but for those to other sites; code has none."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    return [link for link in LINK.findall(prose) if not link.startswith(("http:", "https:"))]


def dead_links(page: Path) -> Iterator[str]:
    for link in links_in(page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            yield f"{link}: no such file"
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            yield f"{link}: no such heading"


def test_dead_links_are_found_and_others_are_not(tmp_path: Path):
    (tmp_path / "other.md").write_text("# A: `b`, c\n\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md) [b](other.md#a-b-c) [c](#here) [d](https://example.org/#x)\n"
        "`[e](gone.md)`\n```\n[f](gone.md)\n```\n"
        "[g](gone.md) [h](other.md#no-heading) [i](#there)\n"
    )
    assert [fault.split(":")[0] for fault in dead_links(page)] == [
        *("gone.md", "other.md#no-heading", "#there")
    ]


@each(PAGES)
def test_links_lead_somewhere(path: Path):
    assert list(dead_links(path)) == []


def test_each_room_can_be_reached_from_the_front_page():
    front = {(ROOT / link.partition("#")[0]).resolve() for link in links_in(page_of(ROOT))}
    assert {room / "README.md" for room in ROOMS} <= front


# Commands and options


@each(PAGES)
def test_files_that_a_page_names_exist(path: Path):
    text = path.read_text(encoding="utf-8")
    if path.name != "CHANGELOG.md":  # which names what was once
        assert [name for name in FILE.findall(text) if not (ROOT / name).is_file()] == []
    assert set(COMMAND.findall(text)) <= {*COMMANDS, "--help"}


def test_pages_name_files_and_commands():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert FILE.findall("`python scripts/gone.py x` and pytest tests/data/test_gone.py") == [
        *("scripts/gone.py", "tests/data/test_gone.py")
    ]
    assert len(set(FILE.findall(text))) > 20
    assert set(COMMAND.findall(text)) >= {"fit", "validate", "test", "predict"}


def test_the_front_page_has_the_two_set_up_commands_in_blocks_of_their_own():
    install = "pip install -c constraints.txt -e"
    quickstart = "python -m amazon_desc fit --config configs/quickstart.yaml"
    blocks = [block.strip("`\n") for block in FENCE.findall(page_of(ROOT))]
    assert [block for block in blocks if block.startswith("pip")] == [
        *(f"{install} . && {quickstart}", f'{install} ".[test]" && pytest')
    ]
    checks = (ROOT / ".ci" / "run").read_text("utf-8")
    assert f'{install} ".[test]" && pytest'.removeprefix("pip install") in checks


@pytest.fixture(scope="module")
def defaults() -> dict[str, object]:
    """All options of a fit with their defaults, by name: {"data.row_tokens": 2048}."""
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("sys.stdout.write", printed.append)
        with pytest.raises(SystemExit) as exit_:
            main(["fit", "--print_config"])
    assert exit_.value.code == 0
    return dict(flat(yaml.safe_load("".join(printed))))


def flat(options: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields options by name, groups of options too."""
    for name, value in options.items():
        yield prefix + name, value
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")


@each(PAGES)
def test_options_that_a_page_names_exist(path: Path, defaults: dict[str, object]):
    if path.name != "CHANGELOG.md":
        named = {name.rstrip(".") for name in OPTION.findall(path.read_text(encoding="utf-8"))}
        # what a callback takes is tried in test_early_stopping.py
        named = {name for name in named if not name.startswith("trainer.callbacks.")}
        assert {name for name in named if name.removesuffix(".RULE") not in defaults} == set()


# Defaults that the table tells in words: what is null, and what is another option's or too long.
NONE = {"none", "all", "main branch", "beside the run folder", "if it has one", "by device"}
NONE |= {"the run's own", "the run's own choice", "after the titles' file"}
ELSEWHERE = {"see `--help`"}


def rows_of_options() -> Iterator[tuple[str, str]]:
    """Yields an option and its default as the table has them: ("model.lora.alpha", "32")."""
    table = page_of(ROOT / "configs").split("| option | default | meaning |\n|---|---|---|\n")[1]
    for line in table.split("\n\n")[0].splitlines():
        names, told = (cell.strip() for cell in line.strip("|").split("|")[:2])
        options = re.findall(r"`(?:--)?([\w.]+)`", names)
        group = options[0].rpartition(".")[0]
        options = [group + name if name.startswith(".") else name for name in options]
        values = told.split(", ") if ", " in told else [told] * len(options)
        yield from zip(options, values, strict=True)


def test_the_table_of_options_has_their_defaults(defaults: dict[str, object]):
    rows = list(rows_of_options())
    assert ("model.lora.alpha", "32") in rows
    assert len(rows) == len(dict(rows)) > 45
    for option, told in rows:
        if option.endswith(".RULE"):
            rules = defaults[option.removesuffix(".RULE")]
            assert isinstance(rules, dict)
            assert True in rules.values()
        elif told not in ELSEWHERE:
            value = None if told in NONE else yaml.safe_load(told.strip("`"))
            value = float(value) if value == "2e-4" else value  # YAML 1.1 wants 2.0e-4
            assert defaults[option] == value, option
