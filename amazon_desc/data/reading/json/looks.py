"""The first lines of a file that should be JSON -> a refusal that says what they look like.

In come the first bytes of a file of lines. One of which no line is JSON, or can be mended into it,
is something else under a wrong name, and its lines are not counted one by one. What other files are
told by their first bytes alone is not known here.
"""

import json
import re
from collections.abc import Callable
from itertools import islice

import orjson

from amazon_desc.support.errors import DataError
from amazon_desc.support.printing import printable

_NUM_LINES = 20
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SHOWN = 100

_XML = re.compile(r"<[?!A-Za-z]")
_SQL = re.compile(r"(insert into|create table|drop table|-- (mysql|postgresql|dump)|select )", re.I)
_CODE = re.compile(r"((export|const|var|let|window|module)\b.*=|[\w.$]+\(\s*[\[{])")
_YAML = re.compile(r"(---\s*$|%YAML|- \w[\w ]*:|\w[\w ]*: *(\S|$))")


def refuse_unlike_json(
    name: str, start: bytes, is_cut: bool, is_mendable: Callable[[str], bool]
) -> None:
    """Refuses a file of lines of which none of the first is JSON.

    title,content\\nMug,It holds tea.   -> "... It looks like CSV: name it .csv."

    Raises:
        DataError: with the first line, and what the lines look like.
    """
    if start.startswith(_UTF16_BOMS):
        return
    pieces = start.split(b"\n")
    if is_cut:
        pieces.pop()
    lines = list(islice(filter(bytes.strip, pieces), _NUM_LINES))
    if not lines:
        return
    texts = [line.decode(errors="replace").strip() for line in lines]
    if any(map(_is_json, texts)) or any(map(is_mendable, texts)):
        return
    raise DataError(
        f"{name}: wanted an object a line, as in "
        f'{{"title": "Mug", "content": "Holds tea."}}; none of the first lines is one, the first '
        f"is: {printable(texts[0][:_SHOWN].replace(chr(9), ' '))}. {_remedy(texts, start)}"
    )


def _is_json(line: str) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _remedy(lines: list[str], start: bytes) -> str:
    first = lines[0]
    if first.startswith("{"):
        return _where_it_breaks(start)
    if _XML.match(first):
        return "It looks like XML: write its products as CSV or JSON Lines."
    if _SQL.match(first):
        return "It looks like SQL: export the table as CSV."
    if _CODE.match(first):
        return "It looks like JavaScript: keep what is between its outermost brackets."
    if first.startswith("```"):
        return "It looks like Markdown: leave the lines with ``` away."
    if (separator := _separator(lines)) is not None:
        return (
            f"It looks like {'TSV: name it .tsv' if separator == chr(9) else 'CSV: name it .csv'}."
        )
    if sum(bool(_YAML.match(line)) for line in lines) > len(lines) / 2:
        return "It looks like YAML: write its products as CSV or JSON Lines."
    return "It looks like text: titles alone may stand in a .txt, one a line."


def _where_it_breaks(start: bytes) -> str:
    """Says what is wrong with JSON that may be right but for one place."""
    try:
        json.loads(start.decode("utf-8-sig", errors="replace"))
    except json.JSONDecodeError as error:
        return f"It breaks at line {error.lineno}, column {error.colno}: {error.msg}."
    except RecursionError:
        return "It is nested too deep."
    return "Write one object a line."


def _separator(lines: list[str]) -> str | None:
    """What stands equally often in the first two lines or more, as between the fields of a CSV."""
    if len(lines) < 2:
        return None
    for separator in "\t;,|":
        nums = {line.count(separator) for line in lines[:2]}
        if 0 not in nums and (len(nums) == 1 or separator != ","):
            return separator
    header = lines[0].split(",")
    is_header = len(header) > 1 and all(re.fullmatch(r'"?\w[\w ]{0,40}"?', cell) for cell in header)
    return "," if is_header and all("," in line for line in lines[:2]) else None
