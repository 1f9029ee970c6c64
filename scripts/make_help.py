"""Writes what `COMMAND --help` prints of our options: amazon_desc/assets/options.json.

    python scripts/make_help.py

In come the options as they are declared, out goes the file that ships. It is to be called when an
option is new, gone or changed: a test says so.
"""

from __future__ import annotations

import json
from typing import Any

from amazon_desc.cli import build
from amazon_desc.run.options.described import sections
from amazon_desc.support.resources import OPTIONS_IN_WORDS


def as_text(found: dict[str, list[dict[str, str]]]) -> str:
    """Returns the file's text: an option a line, so that a change shows as one."""

    def compact(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    parts = (
        f"{compact(title)}: [\n" + ",\n".join(f"  {compact(row)}" for row in rows) + "\n]"
        for title, rows in found.items()
    )
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    OPTIONS_IN_WORDS.write_text(as_text(sections(build([], run=False).parser)), encoding="utf-8")
    print(f"{OPTIONS_IN_WORDS}: written")


if __name__ == "__main__":
    main()
