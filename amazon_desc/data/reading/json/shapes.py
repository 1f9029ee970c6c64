"""How a JSON file begins -> where the records stand in it, or a refusal of what cannot be read.

In come the first bytes and the names of the columns that are asked for. Out goes a Shape: lines, an
array, objects over several lines, a list in an object, an object of columns or one that is keyed
by id. Nothing is read beyond the first bytes here; whoever reads on may still find it otherwise.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

import orjson

from amazon_desc.support.errors import DataError
from amazon_desc.support.printing import printable

_SPACE = " \t\n\r"
_DECODER = json.JSONDecoder()  # strict: a text with a line end in it is broken
_BLANK = re.compile(r"[ \t\n\r]*")
_KEY = re.compile(r'[ \t\n\r]*("(?:[^"\\\n]++|\\.)*+")[ \t\n\r]*:[ \t\n\r]*')
_CUT_KEY = re.compile(r'[ \t\n\r]*(?:"(?:[^"\\\n]++|\\.)*+(?:\\|"[ \t\n\r]*)?)?')
_CUT_VALUE = re.compile(r"[\w.+\\-]{0,9}")
_NUM_MEMBERS = 1000  # looked at of an object
_NUM_ELEMENTS = 5  # looked at of an array
_DEPTH = 4
_CHAT_KEYS = {"role", "from"}


class Shape(Enum):
    """Where the records of a JSON file stand."""

    LINES = "an object a line"
    ARRAY = "an array of objects"
    OBJECTS = "objects, each over several lines"
    WRAPPED = "a list in an object"
    KEYED = "an object whose members are the records"
    COLUMNS = "an object of columns"


class Found(NamedTuple):
    """The shape, and of a list in an object its key."""

    shape: Shape
    key: str = ""


class _Cut(NamedTuple):
    """What was seen of an object (its members) or a list (its first element) that goes on."""

    seen: dict[str, Any] | list[Any]


_BROKEN = object()


def shape_of(name: str, start: bytes, columns: Sequence[str]) -> Found:
    """Returns where the records stand in a file that starts like this.

        {"title": "a"}\\n{"title": "b"}         -> LINES
        [{"title": "a"}, {"title": "b"}]        -> ARRAY
        {\\n "title": "a"\\n}\\n{\\n "title":... -> OBJECTS
        {"count": 2, "items": [{"title": ...    -> WRAPPED, items
        {"B001": {"title": "a"}, "B002": ...    -> KEYED
        {"title": {"0": "a", "1": "b"}, ...     -> COLUMNS

    Args:
        name: of the file, for a refusal
        columns: that are asked for
    Raises:
        DataError: several lists may be meant, the records stand deeper, or there are none.
    """
    text = start.decode("utf-8-sig", errors="replace").lstrip(_SPACE)
    line, _, rest = text.partition("\n")
    is_line = bool(rest.strip()) and _is_json(line.strip().removesuffix(","))
    if text.startswith("["):
        if is_line and not line.rstrip().endswith(","):
            return Found(Shape.LINES)  # a list, which is a bad line among others
        _refuse_no_objects(name, text)
        return Found(Shape.ARRAY)
    if not text.startswith("{") or is_line:
        return Found(Shape.LINES)
    members, end = _members(text, 0)
    if end is None:
        return Found(Shape.LINES)
    several = Shape.OBJECTS if "\n" in (text if end < 0 else text[:end]) else Shape.LINES
    if end >= 0 and (behind := text[end:].lstrip(_SPACE + ",")):
        return Found(several if behind.startswith("{") else Shape.LINES)
    return _object_shape(name, members, end >= 0, columns) or Found(several)


def _is_json(line: str) -> bool:
    try:
        orjson.loads(line)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return False
    return True


def _members(text: str, start: int, depth: int = 0) -> tuple[dict[str, Any], int | None]:
    """What is seen of the object that starts there, and its end: -1 if cut, None if broken."""
    members: dict[str, Any] = {}
    at = _BLANK.match(text, start + 1).end()  # type: ignore[union-attr]  # it always matches
    if text.startswith("}", at):
        return members, at + 1
    while len(members) < _NUM_MEMBERS:
        if (key := _KEY.match(text, at)) is None:
            return members, -1 if _CUT_KEY.fullmatch(text, at) else None
        value, end = _value(text, key.end(), depth)
        if value is _BROKEN or not _is_json(key[1]):
            return members, None
        members[json.loads(key[1])] = value
        at = end if end < 0 else _BLANK.match(text, end).end()  # type: ignore[union-attr]
        if end < 0 or at == len(text):
            return members, -1
        if text[at] == "}":
            return members, at + 1
        if text[at] != ",":
            return members, None
        at += 1
    return members, -1


def _value(text: str, start: int, depth: int) -> tuple[Any, int]:
    """The value that starts there, and its end; -1: it is cut."""
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        is_cut = error.msg.startswith("Unterminated") or _CUT_VALUE.fullmatch(text, error.pos)
    except RecursionError:
        is_cut = False
    if not is_cut or depth == _DEPTH:
        return (None, -1) if is_cut else (_BROKEN, 0)
    if text.startswith("{", start):
        return _Cut(_members(text, start, depth + 1)[0]), -1
    if text.startswith("[", start):
        at = _BLANK.match(text, start + 1).end()  # type: ignore[union-attr]
        first = _value(text, at, depth + 1)[0] if at < len(text) else None
        return _Cut([None if first is _BROKEN else first]), -1
    return "", -1


def _refuse_no_objects(name: str, text: str) -> None:
    """Refuses an array of which the first elements are no objects."""
    elements: list[Any] = []
    at, mark = 1, ","
    while mark == "," and len(elements) < _NUM_ELEMENTS:
        at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
        value, at = _value(text, at, _DEPTH)
        if value is _BROKEN or at < 0 or isinstance(value, dict):
            return
        elements.append(value)
        at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
        mark, at = text[at : at + 1], at + 1
    if not mark:  # it is cut, or damaged
        return
    kinds = "lists" if isinstance(elements[0], list) else "texts, numbers or the like"
    raise DataError(
        f"{name}: wanted an array of objects, as in "
        f'[{{"title": "Mug", "content": "Holds tea."}}], found one of {kinds}. Write each product '
        "as an object with names for its values; titles alone may stand in a .txt, one a line."
    )


def _object_shape(
    name: str, members: dict[str, Any], is_whole: bool, columns: Sequence[str]
) -> Found | None:
    """The shape of a file that is one object; None: it is a record itself."""
    members = {key: value for key, value in members.items() if value != _Cut({})}
    values = {key: _seen(value) for key, value in members.items()}
    if values.get("type") in ("FeatureCollection", "Topology"):
        raise DataError(
            f"{name} is GeoJSON, a map, not a file of products. Write the properties of its "
            f"features as objects: jq -c '.features[].properties' {shlex.quote(name)} "
            "> products.jsonl"
        )
    if not values:
        return None
    if _is_split(values) or _are_lists(values, columns):
        return Found(Shape.COLUMNS)
    num_asked = _num_asked(values, columns)
    if all(isinstance(value, dict) and value for value in values.values()):
        return _shape_of_objects(name, members, values, columns)
    lists = [key for key, value in values.items() if _has_objects(value)]
    num_inside = max((_num_asked(_seen(values[key][0]), columns) for key in lists), default=0)
    if num_asked > num_inside:
        return None
    if num_asked and num_asked == num_inside:
        raise DataError(
            f"{name}: wanted one object, or one list of them, found what is asked for in an object "
            f"and in its list {_shown(lists[0])}. If the list is meant, take it out: "
            f"{taking_out(name, lists[:1])}"
        )
    if len(lists) > 1:
        raise DataError(
            f"{name}: wanted one list of products, found {len(lists)}: "
            f"{', '.join(map(_shown, lists[:10]))}. Take one of them out: "
            f"{taking_out(name, lists[:1])}"
        )
    if lists:
        return Found(Shape.WRAPPED, lists[0])
    _refuse_deeper(name, values, columns)
    return None


def _shape_of_objects(
    name: str, members: dict[str, Any], values: dict[str, Any], columns: Sequence[str]
) -> Found | None:
    """The shape of an object that holds nothing but objects."""
    inner = next(iter(values.values()))
    if _num_asked(values, columns):
        is_flat = all(map(_is_flat, values.values()))
        return Found(Shape.COLUMNS) if is_flat else None
    if _num_asked(inner, columns):
        return Found(Shape.KEYED)
    if not _is_flat(inner):
        _refuse_deeper(name, values, columns)
    elif isinstance(members[next(iter(members))], _Cut) or all(key.isdigit() for key in inner):
        return Found(Shape.COLUMNS)
    return Found(Shape.KEYED) if len(values) > 1 else None


def is_list_of_objects(text: str) -> bool:
    """Says whether the JSON of a value may be a list of products."""
    return text.startswith("[") and _has_objects(_value(text, 0, 0)[0])


def _seen(value: Any) -> Any:
    return value.seen if isinstance(value, _Cut) else value


def _is_flat(value: dict[str, Any]) -> bool:
    return not any(isinstance(_seen(inner), (dict, list)) for inner in value.values())


def _has_objects(value: Any) -> bool:
    """Says whether it is a list of objects; the messages of a chat are none that are meant."""
    first = _seen(value[0]) if isinstance(value, list) and value else None
    return isinstance(first, dict) and bool(first) and not _CHAT_KEYS & first.keys()


def _is_split(values: dict[str, Any]) -> bool:
    """As pandas writes it: {"columns": ["title"], "index": [0, 1], "data": [["a"], ["b"]]}."""
    names, data = values.get("columns"), values.get("data", [[]])
    has_rows = isinstance(data, list) and (not data or isinstance(_seen(data[0]), list))
    is_told = "data" in values or list(values) == ["columns", "index"]
    return isinstance(names, list) and isinstance((*names, None)[0], str) and has_rows and is_told


def _are_lists(values: dict[str, Any], columns: Sequence[str]) -> bool:
    is_table = all(isinstance(value, list) for value in values.values()) and not any(
        isinstance(_seen(element), dict) for value in values.values() for element in value
    )
    return is_table and (len(values) > 1 or bool(_num_asked(values, columns)))


def _num_asked(values: Any, columns: Sequence[str]) -> int:
    """How many of the columns are there, as such or as what leads to them; case says nothing."""
    names = {str(key).strip().casefold() for key in values} if isinstance(values, dict) else set()
    return sum(
        not names.isdisjoint({column.strip().casefold(), column.partition(".")[0].casefold()})
        for column in columns
    )


def _refuse_deeper(name: str, values: dict[str, Any], columns: Sequence[str]) -> None:
    """Refuses records that stand below the first level, with the command that takes them out."""
    has_texts = any(isinstance(value, str) and value for value in values.values())
    for keys, value in _below(values, ()):
        is_keyed = isinstance(value, dict) and any(
            _num_asked(_seen(inner), columns) for inner in value.values()
        )
        is_list = _has_objects(value) and len(keys) > 1
        if is_keyed or (is_list and (not has_texts or _num_asked(_seen(value[0]), columns))):
            raise DataError(
                f"{name}: wanted the products in a list at the first level, found them at "
                f"{_shown('.'.join(keys))}. Take them out: {taking_out(name, keys)}"
            )


def _below(values: dict[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields what stands in an object and in the objects of it, with the keys that lead there."""
    for key, value in values.items():
        seen, path = _seen(value), (*keys, key)
        yield path, seen
        if isinstance(seen, dict) and len(path) < _DEPTH:
            yield from _below(seen, path)


def taking_out(name: str, keys: Iterable[str]) -> str:
    """Returns the command that writes what stands at these keys of a file into one of its own."""
    path = "." + "".join(f"[{json.dumps(key, ensure_ascii=False)}]" for key in keys)
    return f"jq {shlex.quote(printable(path))} {shlex.quote(name)} > products.json"


def _shown(key: str) -> str:
    return f'"{printable(key[:60])}"'
