"""The bytes of a text file -> the same text in UTF-8, with line feeds at the ends of its lines.

In come how the file begins, its stream, and what is known of its encoding beforehand; out goes a
stream that all readers take for UTF-8. UTF-8 itself goes through as it is. Of an encoding that the
bytes do not show for certain nothing is guessed: the refusal names the likely one and the option.
"""

import codecs
import difflib
import io
import itertools
import re
from encodings.aliases import aliases
from typing import Any, NamedTuple

from amazon_desc.data.reading.files.packing import BUFFER_BYTES
from amazon_desc.support.errors import DataError, UserError
from amazon_desc.support.printing import printable

BOM = b"\xef\xbb\xbf"
# The longer ones first: UTF-32 begins as UTF-16 does.
_BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# A byte that no encoding gives a letter stays one that is not UTF-8: its record is told as bad.
_MARK = "amazon_desc.not_text"
codecs.register_error(_MARK, lambda error: ("\udcff", error.end))  # pyright: ignore

# In damaged UTF-8 there are at most so many bad places for each good one.
_FEW = 10
# A file is refused for its encoding alone from so many bytes on, and such a share of its lines:
# fewer are bad records of a file that is UTF-8.
_MANY_BYTES, _SHARE = 4, 0.02

# é, £ and “ begin so in UTF-8; in Windows-1252 that is Ã, Â and â, which hardly stand alone.
_LATIN_IN_UTF8 = (b"\xc2", b"\xc3", b"\xe2\x80")
_HIGH = re.compile(rb"[\x80-\xff]+")
# Letters of Turkish, Czech, Croatian and others, whose encodings have most other letters in common
# with cp1252; in what is written in that, they are rare.
_FOREIGN = frozenset("ðýþÿšžÐÝÞŸŠŽ")
_LETTER = "[^\\W\\d_]"
# What stands in no word of a language that is written in cp1252: p³yn is Polish in cp1250, erõs is
# Hungarian; Portuguese has õ before an e alone, a third accent in a row is Russian, and a
# third sign Japanese.
_ODD = re.compile(
    rf"(?<={_LETTER})[¡¿‚„ƒ†‡ˆ‰‹›¢£¤¥¦§¨ª¬¯²³¸¹º¼½¾µ¶˜€](?={_LETTER})"
    "|[¢-§¨ª¬¯²³¸¹º¼½¾µ¶ƒ†‡ˆ‰˜]{3}"
    "|(?<=[a-zà-öø-ÿ])[À-ÖØ-ÞŒŠŽ](?=[a-zà-öø-ÿ])|[À-ÖØ-öø-ÿŒœŠšŽž]{3}|õ(?!e)|Õ(?![Ee])"
)
_WORD = re.compile(rf"{_LETTER}{{1,30}}|[^\x00-\x7f]{{1,30}}")
# What shops' programs write: among all that Python knows, others look likely in a few rows.
_USUAL = [
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258"),
    *("cp874", "cp932", "gb18030", "big5", "cp949", "euc_jp", "koi8_r", "cp850", "mac_roman"),
]
# Languages of cp1250: of what is written in both alike, charset-normalizer names cp1250.
_OTHERS = ("Polish", "Czech", "Slovak", "Hungarian", "Romanian", "Slovene", "Croatian")


class Reading(NamedTuple):
    """How the bytes of a text file are read."""

    encoding: str
    is_recoded: bool
    """whether the bytes are not what the readers want already"""
    has_returns: bool = False
    """whether lines end with a carriage return alone"""
    remark: str = ""
    """what is to be said of it, where the file did not tell it itself"""
    guess_of: str = ""
    """the name of a file whose encoding its beginning showed; none where it is known"""


def codec_of(name: str) -> str:
    """Returns what Python calls an encoding that `--data.encoding` names: Windows-1252 -> cp1252.

    Raises:
        UserError: there is none of that name, or none of text.
    """
    if found := _text_codec(name):
        return found
    known = sorted({*aliases, *aliases.values()})
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, 6, 0.6)
    names = ", ".join(list(dict.fromkeys(filter(None, map(_text_codec, near))))[:3])
    raise UserError(
        f"--data.encoding {name}: wanted an encoding of text that Python knows, found none of that "
        f"name. Near to it: {names or 'utf-8, cp1252, utf-16'}."
    )


def _text_codec(name: str) -> str:
    try:
        found = codecs.lookup(name)
        b"aa".decode(found.name, "ignore")
    except (LookupError, UnicodeError, ValueError):  # none, or one of bytes as base64 is
        return ""
    is_escape = found.name in ("idna", "punycode", "raw-unicode-escape", "unicode-escape")
    return "" if is_escape else found.name


def reading_of(name: str, start: bytes, asked: str | None) -> Reading:
    """Returns how a text file that starts like this is read.

    Args:
        name: what the file is called
        start: its beginning, all of it or a few hundred KiB
        asked: the encoding, where it is known beforehand

        "Café" in UTF-8          -> utf-8
        "Café" in Windows-1252   -> cp1252, and a remark that shows the word
        "Bus" and a lone 0xff    -> utf-8, in which that line is a bad one
        "Żółty" in Windows-1250  -> a refusal that names cp1250

    Raises:
        DataError: it is not UTF-8, and what it is cannot be told for certain.
    """
    encoding, remark = (codec_of(asked), "") if asked is not None else _encoding_of(name, start)
    is_wide = encoding.startswith(("utf-16", "utf-32"))
    text = start.decode(encoding, "replace").encode() if is_wide else start
    has_returns = b"\r" in text and b"\n" not in text
    if has_returns:
        said = f"{name}: its lines end with a carriage return alone, as those of old Macs do."
        remark = f"{remark}\n{said}" if remark else said
    is_recoded = has_returns or encoding not in ("utf-8", "utf-8-sig", "ascii")
    guess_of = name if encoding == "cp1252" and not asked else ""
    return Reading(encoding, is_recoded, has_returns, remark, guess_of)


def _encoding_of(name: str, start: bytes) -> tuple[str, str]:
    for mark, encoding in _BOMS.items():
        if start.startswith(mark):
            return encoding, ""
    if start.startswith(BOM):
        return "utf-8", ""
    if wide := _wide(start):
        said = f"{name} is read as {wide.upper()}, as its bytes show (--data.encoding {wide})."
        return wide, said
    if _is_utf8(start):
        return "utf-8", ""
    if start.count(0) * 100 > len(start):
        return "utf-8", ""  # of a damaged file: its records tell
    if example := _example_of_cp1252(start):
        return "cp1252", (
            f"{name} is read as Windows-1252 (--data.encoding cp1252), as its bytes are no UTF-8: "
            f"it holds “{printable(example)}”."
        )
    likely, example = _likely(start)
    if not likely:
        return "utf-8", ""
    raise DataError(
        f"{name}: wanted text in UTF-8 (or Windows-1252), found another encoding, likely {likely}, "
        f"in which it holds “{printable(example)}”. If that is right, add --data.encoding "
        f"{likely}; if not, name its own, or save it as UTF-8."
    )


def _wide(start: bytes) -> str | None:
    """UTF-16 without a mark: of Latin text every second byte is NUL, and hardly one of the others.

    b"M\\0u\\0g\\0" -> "utf-16-le"
    """
    length = len(start) // 2
    if length < 2:
        return None
    even, odd = start[0::2].count(0) / length, start[1::2].count(0) / length
    if odd > 0.4 and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if even > 0.4 and odd < 0.05 else None


def _is_utf8(start: bytes) -> bool:
    """Says whether most of what is not ASCII is UTF-8; the last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        runs = _HIGH.findall(start)
        num_good = sum(map(_is_whole, runs))
        return num_good * _FEW > len(runs) - num_good
    return True


def _is_whole(run: bytes) -> bool:
    try:
        run.decode()
    except UnicodeDecodeError:
        return False
    return True


def _example_of_cp1252(start: bytes) -> str:
    """Returns a word with a letter beyond ASCII, if the bytes are surely Windows-1252."""
    try:
        text = start.decode("cp1252")
    except UnicodeDecodeError:
        return ""
    high = [character for character in text if character > "\x7f"]
    num_odd = sum(character in _FOREIGN for character in high)
    num_odd += sum(1 for _ in _ODD.finditer(text))
    if num_odd * 50 > len(high):
        return ""
    return _word_in(text)


def _best_guess(start: bytes) -> Any:
    """What charset-normalizer takes the lines that are not ASCII for; the last may be cut."""
    import charset_normalizer

    lines = re.split(rb"[\r\n]+", start)
    beyond = [line for line in (lines[:-1] or lines) if not line.isascii()] or lines
    sizes = itertools.accumulate(map(len, beyond))
    few = [line for line, size in zip(beyond, sizes, strict=False) if size < BUFFER_BYTES // 4]
    return charset_normalizer.from_bytes(b"\n".join(few or beyond[:1]), cp_isolation=_USUAL).best()


def _likely(start: bytes) -> tuple[str, str]:
    """Returns the likely encoding with a word that it gives; empty texts where hardly any is."""
    lines = start.splitlines()
    num_bytes = sum(map(len, _HIGH.findall(start)))
    num_lines = sum(not line.isascii() for line in lines)
    best = _best_guess(start)
    is_many = num_bytes >= _MANY_BYTES and num_lines >= _SHARE * len(lines)
    if not is_many or best is None or best.encoding in ("utf_8", "ascii"):
        return "", ""
    encoding = best.encoding
    # what is written in both is taken for the first of their kind
    if encoding == "cp1250" and best.language not in _OTHERS:
        encoding = "cp1252"
    return encoding, _word_in(best.raw.decode(encoding, "replace"))


def _word_in(text: str) -> str:
    """Returns a word that is not ASCII, a long one of the first hundred."""
    found = (match[0] for match in _WORD.finditer(text))
    words = itertools.islice((word for word in found if not word.isascii()), 100)
    return max(words, key=lambda word: (word.isalpha(), min(len(word), 12)), default="")


class Recoded(io.RawIOBase):
    """A stream of bytes in any encoding as UTF-8, with a line feed for each carriage return.

    The latter only where these end the lines, and of both together one. Where the encoding is
    guessed, UTF-8 further on is refused: its letters would be read as two signs each.
    """

    def __init__(self, stream: Any, reading: Reading) -> None:
        self._stream, self._returns = stream, reading.has_returns
        self._guess_of = reading.guess_of
        self._decode = codecs.getincrementaldecoder(reading.encoding)(_MARK).decode
        self._rest = b""
        self._has_return = self._is_over = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and not self._is_over:
            data = self._stream.read(BUFFER_BYTES // 4)
            self._is_over = not data
            if self._guess_of:
                self._refuse_utf8(data)
            self._rest = self._recoded(self._decode(data, self._is_over))
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def _refuse_utf8(self, data: bytes) -> None:
        runs = _HIGH.findall(data)
        num_good = sum(run.startswith(_LATIN_IN_UTF8) and _is_whole(run) for run in runs)
        if num_good and num_good * 2 >= len(runs):
            raise DataError(
                f"{self._guess_of}: its beginning is Windows-1252 and what follows is UTF-8, as if "
                f"two files were put together. Save it in one encoding, or say which one is meant "
                f"with --data.encoding: what is not in it is then left out and counted."
            )

    def _recoded(self, text: str) -> bytes:
        data = text.encode("utf-8", "surrogateescape")
        if self._returns and data:
            if self._has_return:
                data = data.removeprefix(b"\n")
            self._has_return = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data
