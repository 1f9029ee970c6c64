"""Text as it was read -> the same text without what a customer never reads: one function a rule.

What the model is shown it learns to write, so entities, tags, a bookshop's boilerplate and
invisible characters go, and words glued together come apart where that is sure. RULES says in which
order they run; cleaning.py says which. Every rule is str -> str, and takes time linear in the text.
Not done here: no text is refused or shortened, and words glued without a mark ("softAnd") stay so.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Mapping
from html.entities import html5
from types import MappingProxyType

# `&copy=1` and `AT&T` hold no entity: only what ends in a semicolon is one.
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_MAX_ESCAPES = 3  # "&amp;amp;#8217;": nobody escapes more often

# In a browser these stand apart from what surrounds them; other tags end no word.
_BLOCK_NAMES = (
    "address|article|aside|blockquote|body|br|button|caption|center|dd|details|div|dl|dt|"
    "fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|header|hr|html|iframe|img|"
    "input|legend|li|link|main|meta|nav|noscript|object|ol|option|p|param|pre|section|select|"
    "summary|table|tbody|td|textarea|tfoot|th|thead|title|tr|ul|video"
)
_INLINE_NAMES = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|del|dfn|em|embed|font|head|i|ins|kbd|label|mark|"
    "nobr|q|s|samp|script|small|source|span|strike|strong|style|sub|sup|svg|time|tt|u|var|wbr"
)
# Unclosed, these run to the end of the text, as in a browser; so every search ends in a match,
# and a text full of openings takes no longer than another.
_UNSEEN = re.compile(
    r"<(script|style|head)\b[^<>]*>.*?(?:</\1\s*>|(?=<body\b)|\Z)|<!--.*?(?:-->|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_BLOCK_TAG = re.compile(
    rf"</?(?:{_BLOCK_NAMES})(?:[\s/][^<>]*)?>|<!doctype\b[^<>]*>|<\?xml[^<>]*>", re.IGNORECASE
)
_INLINE_TAG = re.compile(
    rf"</?(?i:{_INLINE_NAMES})(?:[\s/][^<>]*)?>"
    r"|</?[A-Za-z]\w*:\w[^<>]*>"  # Word's own: <o:p>, <st1:place w:st="on">
    r"|</?[a-z][a-z0-9]*\s*/?>"  # misspelt: <ulu>
)

# C0 and C1 controls that are no white space, soft hyphen, zero-width and bidirectional marks, the
# halves of surrogate pairs, tag characters, and U+FFFD, which only says that something was lost.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffd-\uffff\U000e0000-\U000e007f]"
)

# No script piles more marks on a letter (Unicode calls it stream-safe); putting a longer pile into
# its order takes time that grows with the square of its height.
_MAX_MARKS = 30
_PILE = re.compile(rf"[^\w\s\x00-\x7f]{{{_MAX_MARKS + 1},}}")

EDITION_WORDS = "This text refers to"
_EDITION = re.compile(rf"{EDITION_WORDS} (?:the|an?\b).{{1,80}}?edition(?: of this title)?\.\s*")
_DASHES = ("--", "-", "\u2013", "\u2014")

# A capitalised word right after a mark. Two small letters must stand before the mark (or a bracket,
# a closing quote, three dots), so "e.g.", "Ph.D.", "A.J.Smith", "3:1" and "O’Hara" stay.
_GLUED = re.compile(
    r"[.,;:!?)\]”’](?=[A-Z][a-z]|[AI]$|(?<=\))[“‘][A-Z])"
    r"(?:(?<=[a-z]{2}[.,;:!?\]])|(?<=[)\]”][.,;:!?])|(?<=[a-z]\.{3})|(?<=[.!?][”’])|(?<=\)))"
    r"(?!(?:Com|Net|Org|Edu|Gov|Info|Uk|Fm|Tv|Js)\b)"
    r"(?!(?:Txt|Pdf|Docx?|Xlsx?|Jpe?g|Gif|Png|Exe|Zip|Html?|Php|Mp[34]|Wav|Avi)\b)"
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
        return "A" if "A" <= character <= "Z" else "a"
    return " " if character == " " else "\n"


_KINDS = "".join(map(_kind, range(256))).encode()


def _shape(text: str) -> bytes:
    r"""Every character becomes one of five kinds, in which pairs are found much faster.

    "A joy.It’s 5\t!" -> b"A aaa.Aa.a a\n." (what is not Latin-1 counts as a mark)
    """
    return text.encode("latin-1", "replace").translate(_KINDS)


def _unescape_entity(match: re.Match[str]) -> str:
    entity = match[0]
    # html.unescape would read "&notit;" as "&not" and "it;".
    is_known = entity[1] == "#" or entity[1:] in html5
    return html.unescape(entity) if is_known else entity


def unescape_entities(text: str) -> str:
    """Entities become their characters; what only looks like one stays.

    "Caf&eacute; &#151; R&B; &amp;#8220;Mog&amp;#8221;" -> "Café — R&B; “Mog”"
    """
    for _ in range(_MAX_ESCAPES):
        if "&" not in text:
            break
        text = _ENTITY.sub(_unescape_entity, text)
    return text


def remove_tags(text: str) -> str:
    """HTML becomes its text; `<` before a number, a space or a capitalised unknown name stays.

    "<p>Soft<br>and <b>warm</b></p><3 in <10 lbs" -> " Soft and warm <3 in <10 lbs"
    """
    if "<" not in text:
        return text
    text = _UNSEEN.sub(" ", text)
    text = _BLOCK_TAG.sub(" ", text)
    return _INLINE_TAG.sub("", text)


def remove_invisible(text: str) -> str:
    r"""Characters that nobody sees go; white space stays for the rule that collapses it.

    "Blue\xadtooth\u200b \x1b" -> "Bluetooth "
    """
    is_clean = text.isprintable() and "\ufffd" not in text  # U+FFFD counts as printable
    return text if is_clean else _INVISIBLE.sub("", text)


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


def _separate(match: re.Match[str]) -> str:
    mark, word = match[0], match.string
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
    pieces, done, place = [], 0, shape.find(b".A")
    while place >= 0:
        start = text.rfind(" ", done, place) + 1 or done
        end = text.find(" ", place)
        word = text[start : end if end >= 0 else len(text)]
        pieces += (text[done:start], word if _ADDRESS.search(word) else _GLUED.sub(_separate, word))
        done = start + len(word)
        place = shape.find(b".A", done)
    return "".join((*pieces, text[done:])) if pieces else text


RULES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "entities": unescape_entities,
        "tags": remove_tags,
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
