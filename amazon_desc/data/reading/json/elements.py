"""Bytes of JSON -> the texts of its elements one by one, so that no file has to be held.

Reads the elements of an array, the members of an object, and objects one behind the other. No
element of more than LINE_BYTES is held. Where they cannot be told from each other, DataError is
raised. Whether an element is valid is not decided here.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NoReturn, TypeVar

from amazon_desc.data.reading.files.sources import BUFFER_BYTES, LINE_BYTES, Source
from amazon_desc.support.errors import DataError

_Found = TypeVar("_Found")

# Finds where an element ends; whether it is valid is not decided by it.
_ELEMENT = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str)
_SPACE, _MARK = " \t\n\r", re.compile(r"[ \t\n\r]*([],}])[ \t\n\r]*")
_NO_SPACE = re.compile(r"[^ \t\n\r]")
_KEY = re.compile(r'("(?:[^"\\]++|\\.)*+")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)


class Elements:
    """Goes through the JSON of a file, an element at a time, and stands in front of the next.

    `form` is what the file should be, for the refusal: "a valid JSON array".
    """

    def __init__(self, source: Source, form: str) -> None:
        parts = iter(partial(source.stream.read, BUFFER_BYTES), b"")
        self._texts = codecs.iterdecode(parts, "utf-8-sig", errors="surrogateescape")
        self._name, self._form = source.name, form
        self._text, self._start = "", 0  # what comes next is the text from there on
        self._num = 0  # elements that have been yielded

    def array(self) -> Iterator[str]:
        """Yields the text of each element of the array that comes next.

        '[{"a": 1}, 2]' -> '{"a": 1}', '2'
        """
        self._num = 0
        self.step("[")
        is_open = not self.steps_over("]")
        while is_open:
            mark = self._whole(lambda: _mark_after(self._text, self._start, "],"))
            self._num += 1
            start, self._start = self._start, mark.end()
            yield self._text[start : mark.start()]
            is_open = mark[1] == ","

    def members(self, stop: str | None = None) -> Iterator[tuple[str, str]]:
        """Yields the key and the text of each member of the object that comes next.

        In front of the value of the key `stop` it ends, and stands there.

        '{"a": {"b": 1}, "c": 2}' -> ("a", '{"b": 1}'), ("c", "2")
        """
        self._num = 0
        self.step("{")
        if not self.steps_over("}"):
            yield from self.more_members(stop)

    def more_members(self, stop: str | None = None) -> Iterator[tuple[str, str]]:
        """Yields as `members` does, in an object of which some have been read."""
        is_open = True
        while is_open:
            key = self._whole(lambda: _KEY.match(self._text, self._start))
            name = self._name_of(key[1])
            if name == stop:
                self._start = key.end()
                return
            key, mark = self._whole(lambda: _member_at(self._text, self._start))
            self._num += 1
            self._start = mark.end()
            yield name, self._text[key.end() : mark.start()]
            is_open = mark[1] == ","

    def objects(self) -> Iterator[str]:
        """Yields the text of each object up to the file's end; commas may stand between them.

        '{"a": 1} {"a": 2}' -> '{"a": 1}', '{"a": 2}'
        """
        while self._next() == "{":
            end = self._whole(lambda: _end_of(self._text, self._start))
            self._num += 1
            start, self._start = self._start, end
            yield self._text[start:end]
            self.steps_over(",")
        self.end()

    def steps_over(self, mark: str) -> bool:
        """Says whether that character comes next, and if so steps over it."""
        if self._next() != mark:
            return False
        self._start += 1
        self._next()
        return True

    def end(self) -> None:
        """Raises DataError unless the file ends here: only behind its elements damage shows."""
        if self._next():
            self._refuse()

    def step(self, mark: str) -> None:
        """Steps over the character that comes next; DataError unless it is this one."""
        if not self.steps_over(mark):
            self._refuse()

    def _next(self) -> str:
        """Goes to the next character that is no white space, and returns it; "" at the end."""
        while (found := _NO_SPACE.search(self._text, self._start)) is None:
            self._start = len(self._text)
            if not self._reads_on():
                return ""
        self._start = found.start()
        return found[0]

    def _reads_on(self) -> bool:
        if not (more := next(self._texts, "")):
            return False
        self._text, self._start = (self._text[self._start :] + more).lstrip(_SPACE), 0
        return True

    def _whole(self, find: Callable[[], _Found | None]) -> _Found:
        """What is found where it stands, once enough of the file has been read."""
        found = find()
        while found is None and len(self._text) - self._start <= LINE_BYTES and self._reads_on():
            found = find()
        if found is None:
            self._refuse()
        return found

    def _name_of(self, key: str) -> str:
        try:
            name = json.loads(key.encode(errors="replace"), strict=False)
        except json.JSONDecodeError:  # an escape that is none
            self._refuse()
        return name.encode(errors="replace").decode()  # half a character is none

    def _refuse(self) -> NoReturn:
        raise DataError(
            f"{self._name} is not {self._form}: it breaks at record {self._num + 1}, or that is "
            f"longer than {LINE_BYTES} bytes. Write one object a line instead: of such a file only "
            "bad lines are lost."
        )


def _end_of(text: str, start: int) -> int | None:
    """Where the value ends that starts there, if it is whole and not too long."""
    try:
        end = _ELEMENT.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None
    return end if end - start <= LINE_BYTES else None


def _mark_after(text: str, start: int, marks: str) -> re.Match[str] | None:
    """The mark after the value that starts there, if both are whole."""
    end = _end_of(text, start)
    mark = None if end is None else _MARK.match(text, end)
    return mark if mark and mark[1] in marks else None


def _member_at(text: str, start: int) -> tuple[re.Match[str], re.Match[str]] | None:
    """The key with its colon, and the mark after the value, of the member that starts there."""
    key = _KEY.match(text, start)
    mark = _mark_after(text, key.end(), "},") if key else None
    return (key, mark) if key and mark else None
