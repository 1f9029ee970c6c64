"""A product as it was read -> the same product as plain text on one line, or why it is refused.

What the model is shown it learns to write, so entities, tags, a bookshop's boilerplate and
invisible characters go. The rules run in the order of RULES; each is a function str -> str.
Not done here: words that were glued together in the source stay glued, no language is refused,
duplicates are not looked for and nothing is shortened.
"""

import html
import re
import unicodedata
from enum import StrEnum
from html.entities import html5
from itertools import islice

from amazon_desc.data.records import Product

# Fewer words say nothing a title does not: "AUDIO CD", "Laser".
MIN_WORDS = 3


class Refusal(StrEnum):
    """Why a product is not learnt from; the first that applies, in this order."""

    EMPTY_TITLE = "empty_title"
    EMPTY_CONTENT = "empty_content"
    CONTENT_EQUALS_TITLE = "content_equals_title"
    TOO_SHORT = "too_short"


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

_EDITION = re.compile(
    r"\s*(?:--?|[\u2013\u2014])?\s*This text refers to (?:the|an?\b).{1,80}?edition"
    r"(?: of this title)?\.\s*"
)

# Scripts that put no space between words count a character as a word: Thai to Khmer, kana, Han.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|\w[^\s{_UNSPACED}]*")


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
    return text if text.isprintable() else _INVISIBLE.sub("", text)


def compose(text: str) -> str:
    r"""An accent that follows its letter becomes one character with it (Unicode NFC).

    "Cafe\u0301" -> "Café"
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def collapse_white_space(text: str) -> str:
    r"""Every run of white space (NBSP, line ends and U+2028 too) becomes one space, none outside.

    " Soft\n\n and\xa0warm " -> "Soft and warm"
    """
    if "  " not in text and text.isprintable():  # so spaces are all there is, and single
        return text.strip()
    return " ".join(text.split())


def remove_edition_note(text: str) -> str:
    """The bookshop's "--This text refers to thePaperbackedition." goes, with any edition's name.

    "A joy.--This text refers to theAudio CDedition. New." -> "A joy. New."
    """
    return _EDITION.sub(" ", text).strip() if "This text refers to" in text else text


RULES = (
    unescape_entities,
    remove_tags,
    remove_invisible,
    compose,
    collapse_white_space,
    remove_edition_note,
)


def clean_text(text: str) -> str:
    r"""Applies every rule: plain text on one line, maybe empty.

    "<b>Caf&eacute;</b>\n Mog\u200b" -> "Café Mog"
    """
    for rule in RULES:
        text = rule(text)
    return text


def normalize_title(title: str) -> str:
    r"""What titles are compared by: case, white space and forms of a character are one.

    "\uff34he  CAT" (a full-width T) -> "the cat"
    """
    if not title.isascii():
        title = unicodedata.normalize("NFKC", title)
        title = unicodedata.normalize("NFKC", title.casefold())
    return " ".join(title.casefold().split())


def clean(product: Product) -> Product | Refusal:
    """Cleans title and description, or names the first reason not to learn from the product.

    Product("Mog &amp; Bunny", "<p>A cat's tale.</p>") -> Product("Mog & Bunny", "A cat's tale.")
    Product("Lonesome Blue", "LONESOME BLUE") -> Refusal.CONTENT_EQUALS_TITLE
    Product("Groove Collective", "AUDIO CD") -> Refusal.TOO_SHORT (under 3 words)
    """
    title = clean_text(product.title)
    if not title:
        return Refusal.EMPTY_TITLE
    description = clean_text(product.description)
    if not description:
        return Refusal.EMPTY_CONTENT
    if _is_repeated(title, description):
        return Refusal.CONTENT_EQUALS_TITLE
    if len(list(islice(_WORD.finditer(description), MIN_WORDS))) < MIN_WORDS:
        return Refusal.TOO_SHORT
    return Product(title, description)


def _is_repeated(title: str, description: str) -> bool:
    """Glued words are common, so "Lonesome Blue" and "LonesomeBlue" are the same."""
    if len(description) > 2 * len(title):  # most rows: folding both would take longer than this
        return False
    return normalize_title(title).replace(" ", "") == normalize_title(description).replace(" ", "")
