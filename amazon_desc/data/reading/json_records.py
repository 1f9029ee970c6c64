"""JSON -> its records as (place, {key: value}), or a Fault for each that cannot be read.

Reads an object a line and one array of objects. Everything streams: no record of more than
LINE_BYTES is held. Where an array cannot be told into its elements, DataError is raised. What a
product is, is not known here.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import orjson

from amazon_desc.data.reading.sources import (
    BOM,
    BUFFER_BYTES,
    LINE_BYTES,
    LINE_TOO_LONG,
    NOT_UTF8,
    Fault,
    RawRecord,
    Source,
    split_lines,
)
from amazon_desc.support.errors import DataError

# Finds where an element of an array ends; whether it is valid is not decided by it.
_ELEMENT = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str)
_LONG_NUMBER = re.compile(r"\d{19}")
_SPACE, _MARK = " \t\n\r", re.compile(r"[ \t\n\r]*([],])[ \t\n\r]*")


def json_records(source: Source, is_exact: bool) -> Iterator[RawRecord | Fault]:
    """Yields every record; `is_exact`: whole numbers of any size stay what they are."""
    loads = _exactly if is_exact else orjson.loads
    if _is_array(source):
        yield from _array_rows(source, loads)
    else:
        yield from _json_rows(source, loads)


def _exactly(text: bytes | str) -> Any:
    """orjson takes whole numbers of over 64 bits for floats, and a shop's number may be one.

    12345678901234567890123 -> orjson: 1.2345678901234568e+22
    """
    values = orjson.loads(text)
    decoded = text.decode() if isinstance(text, bytes) else text
    if _LONG_NUMBER.search(decoded):
        with suppress(RecursionError):
            return json.loads(decoded)
    return values


def _json_rows(source: Source, loads: Callable[[bytes], Any]) -> Iterator[RawRecord | Fault]:
    for number, line in split_lines(source):
        place = f"{source.name}, line {number}"
        if line is None:
            yield Fault(place, LINE_TOO_LONG)
            continue
        try:
            values = loads(line)
        except orjson.JSONDecodeError:
            if line.strip():
                yield Fault(place, "not valid JSON" if _is_utf8(line) else NOT_UTF8)
            continue
        is_object = isinstance(values, dict)
        yield RawRecord(place, values) if is_object else Fault(place, "not a JSON object")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_array(source: Source) -> bool:
    """Tells an array from lines: a first line that is a whole list is a bad line among others."""
    start = source.stream.peek(BUFFER_BYTES).removeprefix(BOM).lstrip()
    line, _, rest = start.partition(b"\n")
    return start.startswith(b"[") and not (rest.strip() and _is_json(line))


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _array_rows(source: Source, loads: Callable[[str], Any]) -> Iterator[RawRecord | Fault]:
    for number, text in enumerate(_array_elements(source), start=1):
        place = f"{source.name}, record {number}"
        try:
            values = loads(text)
        except orjson.JSONDecodeError:
            is_utf8 = _is_utf8(text.encode(errors="surrogateescape"))
            yield Fault(place, "not valid JSON" if is_utf8 else NOT_UTF8)
            continue
        is_object = isinstance(values, dict)
        yield RawRecord(place, values) if is_object else Fault(place, "not a JSON object")


def _array_elements(source: Source) -> Iterator[str]:
    """Yields the text of each element; DataError where it cannot be told from the next one."""
    parts = iter(partial(source.stream.read, BUFFER_BYTES), b"")
    texts = codecs.iterdecode(parts, "utf-8-sig", errors="surrogateescape")
    text = next(texts).lstrip(_SPACE)[1:].lstrip(_SPACE)
    is_open = not text.startswith("]")
    number, start = 1, 0 if is_open else 1
    while is_open:
        mark = _mark_after(text, start)
        while mark is None and len(text) - start <= LINE_BYTES and (more := next(texts, "")):
            text, start = (text[start:] + more).lstrip(_SPACE), 0
            mark = _mark_after(text, start)
        if mark is None:
            break
        yield text[start : mark.start()]
        number, start, is_open = number + 1, mark.end(), mark[1] == ","
    # It is read to its end, also after the bracket: only there damage shows.
    if is_open or any(text.strip(_SPACE) for text in chain([text[start:]], texts)):
        raise DataError(
            f"{source.name} is not a valid JSON array: it breaks at record {number}, or that is "
            f"longer than {LINE_BYTES} bytes. Write one object a line instead: of such a file only "
            "bad lines are lost."
        )


def _mark_after(text: str, start: int) -> re.Match[str] | None:
    """The comma or bracket after the element that starts there, if both are whole."""
    try:
        end = _ELEMENT.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None
    return _MARK.match(text, end) if end - start <= LINE_BYTES else None
