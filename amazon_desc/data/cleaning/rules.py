"""Text as it was read -> the same text without what a customer never reads: one function a rule.

What the model is shown it learns to write, so a bookshop's boilerplate and invisible characters go,
and words glued together come apart where that is sure; HTML is read in markup.py. RULES says in
which order they run; cleaner.py says which. Every rule is str -> str, and takes time linear in the
text. Not done here: no text is refused or shortened, and words glued without a mark ("softAnd")
stay so.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType

from amazon_desc.data.cleaning.markup import remove_tags, unescape_entities

# C0 and C1 controls that are no white space, soft hyphen, zero-width and bidirectional marks, the
# halves of surrogate pairs, tag characters, and U+FFFD, which only says that something was lost.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\ud800-\udfff\ufeff\ufff9-\ufffb\ufffd-\uffff\U000e0000-\U000e007f]+"
)
# Bytes of Windows' code page 1252 that were read as Latin-1; five of its places are empty.
_WINDOWS = {
    byte: bytes([byte]).decode("cp1252")
    for byte in range(0x80, 0xA0)
    if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
}
_WINDOWS_BYTE = re.compile(f"[{''.join(map(chr, _WINDOWS))}]")

# Joiners are spelling in the scripts from Arabic to Mongolian, and make one emoji of several. After
# a black flag, tag characters say whose it is.
_JOINERS = "\u200c", "\u200d"
_JOINED_LETTER = re.compile(r"[\u0600-\u1cff\ua800-\uabff\U00010a00-\U00011fff]")
_EMOJI = re.compile(r"[\u2190-\u2bff\ufe0f\U0001f000-\U0001faff]")
_FLAG, _FLAG_TAGS = "\U0001f3f4", re.compile(r"[\U000e0020-\U000e007e]+\U000e007f")

# No script piles more marks on a letter (Unicode calls it stream-safe); putting a longer pile into
# its order takes time that grows with the square of its height.
_MAX_MARKS = 30
_PILE = re.compile(rf"[^\w\s\x00-\x7f]{{{_MAX_MARKS + 1},}}")

EDITION_WORDS = "This text refers to"
_EDITION = re.compile(rf"{EDITION_WORDS} (?:the|an?\b).{{1,80}}?edition(?: of this title)?\.\s*")
_DASHES = ("--", "-", "\u2013", "\u2014")

# The letters with a case: Latin, Greek and Cyrillic.
_CASED = [chr(code) for code in (*range(0x80, 0x530), *range(0x1E00, 0x2000))]
_CAPITAL = f"[A-Z{''.join(filter(str.isupper, _CASED))}]"
_SMALL = f"[a-z{''.join(filter(str.islower, _CASED))}]"
# A capitalised word right after a mark. Two small letters must stand before the mark (or a bracket,
# a closing quote, three dots), so "e.g.", "Ph.D.", "A.J.Smith", "3:1" and "O’Hara" stay.
_GLUED = re.compile(
    rf"[.,;:!?)\]”’](?={_CAPITAL}{_SMALL}|[AIÀÉ]$|(?<=\))[“‘]{_CAPITAL})"
    rf"(?:(?<={_SMALL}{{2}}[.,;:!?\]])|(?<=[)\]”][.,;:!?])|(?<={_SMALL}\.{{3}})|(?<=[.!?][”’])"
    r"|(?<=\)))"
)
# What is glued in a text that is not Latin-1 only; _shape finds the other pairs sooner.
_PAIR = re.compile(rf"[.,;:!?)\]”’“‘]{_CAPITAL}")
# The ends of addresses and of files' names, after a full stop. These begin sentences in
# some language too, so they end an address only after a name: Amazon.De.
_WORD_OR_ENDING = re.compile(r"(?:De|Fr|Es|Se|Eu|Au|Ca|Co|Ch|Fi|Io|Cl|Ar|Ie|Mx)\b")
_NAME = re.compile(r"(?<!\w)[A-Z]\w*\Z")
_ENDING = re.compile(
    r"(?:Com|Net|Org|Edu|Gov|Info|Biz|Uk|Fm|Tv|Jp|Cn|Nl|Pl|Ru|Br|Cz|Dk|Pt|Nz|Za|Js|Php|Py|Cpp|Sql|"
    r"Txt|Pdf|Docx?|Xlsx?|Pptx?|Odt|Rtf|Csv|Tsv|Json|Ya?ml|Xml|Toml|Ini|Cfg|Html?|Css|Epub|Mobi|"
    r"Jpe?g|Gif|Png|Bmp|Svg|Webp|Tiff?|Psd|Stl|Dwg|Mp[34]|Wav|Avi|Mkv|Flac|Ogg|"
    r"Exe|Dll|Zip|Rar|Gz|Iso|Apk)\b"
)
# "(Re)Make" and "(TM)Wire" are one word; "(June)Copyright" is what half of the book reviews say.
_ONE_WORD = re.compile(r"\([A-Za-z-]{1,30}\)(?!Copyright)")
# What may hold a mark and a capital without a space: a web or mail address, a path, an entity that
# nobody knows, names of code and people ("System.Data.Sql", "J.R.R.Tolkien").
_ADDRESS = re.compile(r"://|@|www\.|\\|&\w{1,31};|\.[a-z]{2,4}/|\.[A-Z]\w{0,30}\.[A-Z]")


def _kind(byte: int) -> str:
    character = chr(byte)
    if character in ".,;:!?)]":
        return "."
    if character.isprintable() and character != " ":
        return "A" if character.isupper() else "a"
    return " " if character == " " else "\n"


_KINDS = "".join(map(_kind, range(256))).encode()


def _shape(text: str) -> bytes:
    r"""Every character becomes one of five kinds, in which pairs are found much faster.

    "A joy.It’s 5\t!" -> b"A aaa.Aa.a a\n." (what is not Latin-1 counts as a mark)
    """
    return text.encode("latin-1", "replace").translate(_KINDS)


def _needed(match: re.Match[str]) -> str:
    """What stays of a run of invisible characters: a joiner that joins, the tags of a flag."""
    run, text = match[0], match.string
    before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    if before == _FLAG and (tags := _FLAG_TAGS.match(run)):
        return tags[0]
    joiner = next((character for character in run if character in _JOINERS), "")
    is_spelling = _JOINED_LETTER.match(before) and _JOINED_LETTER.match(after)
    is_emoji = joiner == "\u200d" and _EMOJI.match(before) and _EMOJI.match(after)
    return joiner if is_spelling or is_emoji else ""


def remove_invisible(text: str) -> str:
    r"""Characters that nobody sees go; white space stays for the rule that collapses it.

    Joiners stay where they are spelling, and a raw byte of Windows becomes what it stands for.

    "Blue\xadtooth\u200b \x1b", "It\x92s" -> "Bluetooth ", "It’s"
    """
    if text.isprintable() and "\ufffd" not in text:  # U+FFFD counts as printable
        return text
    text = _WINDOWS_BYTE.sub(lambda match: _WINDOWS[ord(match[0])], text)
    return _INVISIBLE.sub(_needed, text)


def _lower_piles(match: re.Match[str]) -> str:
    kept, height = [], 0
    for character in match[0]:
        height = height + 1 if unicodedata.combining(character) else 0
        if height <= _MAX_MARKS:
            kept.append(character)
    return "".join(kept)


def compose(text: str) -> str:
    r"""An accent that follows its letter becomes one character with it (Unicode NFC).

    "Cafe\u0301" -> "Café"
    """
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", _PILE.sub(_lower_piles, text))


def collapse_white_space(text: str) -> str:
    r"""Every run of white space (NBSP, line ends and U+2028 too) becomes one space, none outside.

    " Soft\n\n and\xa0warm " -> "Soft and warm"
    """
    text = text.replace("\n", " ")
    if "  " not in text and text.isprintable():  # so spaces are all there is, and single
        return text.strip()
    return " ".join(text.split())


def _without_dash(text: str) -> str:
    text = text.rstrip()
    dash = next((dash for dash in _DASHES if text.endswith(dash)), "")
    return text.removesuffix(dash).rstrip()


def remove_edition_note(text: str) -> str:
    """The bookshop's "--This text refers to thePaperbackedition." goes, with any edition's name.

    "A joy.--This text refers to theAudio CDedition. New." -> "A joy. New."
    """
    if EDITION_WORDS not in text:
        return text
    *before, last = _EDITION.split(text)
    return " ".join(filter(None, (*map(_without_dash, before), last))).strip()


def _ends_address(word: str, place: int) -> bool:
    """Amazon.De, config.Yaml: what follows the full stop belongs to what is before it."""
    if _ENDING.match(word, place + 1):
        return True
    is_ending = _WORD_OR_ENDING.match(word, place + 1)
    return is_ending is not None and _NAME.search(word, max(0, place - 40), place) is not None


def _separate(match: re.Match[str]) -> str:
    mark, word = match[0], match.string
    if mark == "." and _ends_address(word, match.start()):
        return mark
    if mark == ")":
        opening = word.rfind("(", max(0, match.start() - 40), match.start())
        if opening >= 0 and _ONE_WORD.match(word, opening):
            return mark
    return f"{mark} "


def separate_glued_words(text: str) -> str:
    """Words that lost the space after a mark get it back; what may be a name or an address stays.

    "A joy.The second, soft,Warm (feet.)Package at www.A.Com, Ph.D., Node.js, softAnd"
    -> "A joy. The second, soft, Warm (feet.) Package at www.A.Com, Ph.D., Node.js, softAnd"
    """
    shape = _shape(text)
    # A capital may be none of Latin-1.
    is_hidden = b".." in shape and not text.isascii()
    pieces, done, place = [], 0, _find_pair(text, shape, is_hidden, 0)
    while place >= 0:
        start = text.rfind(" ", done, place) + 1 or done
        end = text.find(" ", place)
        word = text[start : end if end >= 0 else len(text)]
        pieces += (text[done:start], word if _ADDRESS.search(word) else _GLUED.sub(_separate, word))
        done = start + len(word)
        place = _find_pair(text, shape, is_hidden, done)
    return "".join((*pieces, text[done:])) if pieces else text


def _find_pair(text: str, shape: bytes, is_hidden: bool, start: int) -> int:
    """Where the next mark with a capital after it is; -1: nowhere."""
    if not is_hidden:
        return shape.find(b".A", start)
    pair = _PAIR.search(text, start)
    return pair.start() if pair else -1


RULES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "tags": remove_tags,
        "entities": unescape_entities,
        "invisible": remove_invisible,
        "compose": compose,
        "white_space": collapse_white_space,
        "edition_notes": remove_edition_note,
        "glued_words": separate_glued_words,
    }
)


def is_plain(text: str) -> bool:
    """Tells of most texts, in a fifth of the time the rules take, that no rule changes them.

    "A joy. It's 5.1! Q & A" -> True
    "A joy.It's 5.1!", "A  joy", " joy", "A <joy", "A & joy;" -> False
    """
    if not text.isascii() or "<" in text or ("&" in text and ";" in text) or EDITION_WORDS in text:
        return False
    shape = _shape(text)
    is_odd = b"\n" in shape or b"  " in shape or b".A" in shape
    return not (is_odd or shape.startswith(b" ") or shape.endswith(b" "))
