"""A product as it was read -> the same product as plain text on one line, or why it is refused.

Which rules run is chosen here; what each does is in rules.py and markup.py, what tells languages
apart in language.py, and what says nothing in content.py. Not done here: duplicates are not looked
for and nothing is shortened.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from amazon_desc.data.cleaning.content import is_list_of_codes, is_shipping_note
from amazon_desc.data.cleaning.language import LanguageCheck
from amazon_desc.data.cleaning.markup import unescape_page
from amazon_desc.data.cleaning.rules import EDITION_WORDS, RULES, is_plain
from amazon_desc.data.reading.records import Product
from amazon_desc.support.errors import UserError
from amazon_desc.support.options import NonNegativeInt, PositiveInt


@dataclass(frozen=True)
class CleaningSettings:
    """What is cleaned away, and which products are not learnt from.

    Args:
        entities: turn HTML entities into their characters (Caf&eacute;); R&B; is none and stays
        tags: remove HTML tags, comments, scripts and styles, also of a whole page; what is written
            with entities (&lt;b&gt;) is text and stays, unless the whole page is
        invisible: remove control characters, soft hyphens, zero-width and direction marks; joiners
            that are spelling stay
        compose: write a letter and its accent as one character (Unicode NFC)
        white_space: turn every run of white space into one space
        edition_notes: remove "--This text refers to the Paperback edition." and its like
        glued_words: put back a space lost after a mark, where that is sure ("a joy.The second")
        min_words: refuse descriptions of fewer words; 0: none
        max_characters: refuse longer descriptions, which are books or broken pages; null: none
        language: refuse descriptions that are surely in another language than this ISO 639-1 code,
            such as en; null: none; needs the extra amazon_desc[language]
        codes: refuse descriptions that are a list of codes, sizes and numbers
        shipping_notes: refuse descriptions that are only of sending, returns and the seller
        near_repeats: of titles that have nearly the same description, learn the longest alone
        boilerplate: refuse descriptions that at least so many titles share, nearly; null: none
    """

    entities: bool = True
    tags: bool = True
    invisible: bool = True
    compose: bool = True
    white_space: bool = True
    edition_notes: bool = True
    glued_words: bool = True
    min_words: NonNegativeInt = 3  # fewer say nothing a title does not: "AUDIO CD", "Laser"
    max_characters: PositiveInt | None = 50_000
    language: str | None = None
    codes: bool = True
    shipping_notes: bool = True
    near_repeats: bool = False
    boilerplate: PositiveInt | None = None

    def __post_init__(self) -> None:
        if self.min_words < 0:
            raise UserError(
                f"--data.cleaning.min_words: wanted 0 or more, got {self.min_words}. "
                "Set 0 to refuse no description for being short."
            )
        if self.max_characters is not None and self.max_characters < 1:
            raise UserError(
                f"--data.cleaning.max_characters: wanted 1 or more, got {self.max_characters}. "
                "Set null to refuse no description for being long."
            )
        if self.boilerplate is not None and self.boilerplate < 2:
            raise UserError(
                f"--data.cleaning.boilerplate: wanted 2 or more titles, got {self.boilerplate}. "
                "Set null to refuse no description for being shared."
            )

    @property
    def finds_near_repeats(self) -> bool:
        """Whether descriptions are compared with each other, which Cleaner does not do."""
        return self.near_repeats or self.boilerplate is not None


class Refusal(StrEnum):
    """Why a product is not learnt from; the first that applies, in this order."""

    EMPTY_TITLE = "empty_title"
    EMPTY_CONTENT = "empty_content"
    CONTENT_EQUALS_TITLE = "content_equals_title"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    OTHER_LANGUAGE = "other_language"
    LIST_OF_CODES = "list_of_codes"
    SHIPPING_NOTE = "shipping_note"


# Taking one thing out may bring another together ("&\u200bamp;"); nobody nests deeper than this.
_MAX_ROUNDS = 4
_ENTITY = re.compile(r"&(?=[#\w])")
# Rules that know tags, or clear the way to them; the others run once there is no tag left.
_MARKUP_RULES = ("invisible", "tags")

# Scripts that put no space between words count a character as a word: Thai to Khmer, kana, Han.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
)
# No part may be given back ("*+"): a word is counted once, and a hostile text is read once.
_WORD = rf"[^\w{_UNSPACED}]*+(?:[{_UNSPACED}]|\w[^\s{_UNSPACED}]*+)"


class Cleaner:
    """Cleans products and texts by the rules that are on.

    Cleaner()(Product("Mog &amp; Bunny", "<p>A cat's tale.</p>")) -> Product("Mog & Bunny", ...)
    Cleaner()(Product("Lonesome Blue", "LONESOME BLUE")) -> Refusal.CONTENT_EQUALS_TITLE
    Cleaner()(Product("Groove Collective", "AUDIO CD")) -> Refusal.TOO_SHORT (under 3 words)

    Raises:
        UserError: a language is asked for that is unknown, or py3langid is not installed.
    """

    def __init__(self, settings: CleaningSettings = CleaningSettings()) -> None:
        self.settings = settings
        rules = {name: rule for name, rule in RULES.items() if getattr(settings, name)}
        self._has_pages = settings.tags and settings.entities
        self._markup_rules = [rules[name] for name in _MARKUP_RULES if name in rules]
        self._rules = [rule for name, rule in rules.items() if name != "tags"]
        self._enough_words = re.compile(f"(?:{_WORD}){{{settings.min_words}}}")
        self._language = None if settings.language is None else LanguageCheck(settings.language)

    def text(self, text: str) -> str:
        r"""Applies the rules: plain text on one line, maybe empty.

        Again, it changes nothing, except where entities made a text that looks like markup.

        "<b>Caf&eacute;</b>\n Mog\u200b" -> "Café Mog"
        "Covers &lt;b&gt; and CSS"       -> "Covers <b> and CSS"
        """
        if self.settings.white_space:  # line ends are common, and to the rules they are spaces
            text = text.replace("\n", " ").strip(" ")
        if is_plain(text):
            return text
        if self._has_pages:
            text = unescape_page(text)
        if "<" in text:
            text = _repeated(self._markup_rules, text)
        return _repeated(self._rules, text)

    def __call__(self, product: Product) -> Product | Refusal:
        title = self.text(product.title)
        if not title.strip():
            return Refusal.EMPTY_TITLE
        description = self.text(product.description)
        if not description.strip():
            return Refusal.EMPTY_CONTENT
        if _is_repeated(title, description):
            return Refusal.CONTENT_EQUALS_TITLE
        if not self._enough_words.match(description):
            return Refusal.TOO_SHORT
        limit = self.settings.max_characters
        if limit is not None and len(description) > limit:
            return Refusal.TOO_LONG
        if self._language is not None and self._language.is_other(description):
            return Refusal.OTHER_LANGUAGE
        if self.settings.codes and is_list_of_codes(description):
            return Refusal.LIST_OF_CODES
        if self.settings.shipping_notes and is_shipping_note(description):
            return Refusal.SHIPPING_NOTE
        return Product(title, description, product.place)


def normalize_title(title: str) -> str:
    r"""What titles are compared by: case, white space and forms of a character are one.

    "\uff34he  CAT" (a full-width T) -> "the cat"
    """
    if not title.isascii():
        title = unicodedata.normalize("NFKC", title)
        title = unicodedata.normalize("NFKC", title.casefold())
    return " ".join(title.casefold().split())


def _repeated(rules: Sequence[Callable[[str], str]], text: str) -> str:
    for _ in range(_MAX_ROUNDS):
        before = text
        for rule in rules:
            text = rule(text)
        if text is before or not _may_hold_more(text):
            break
    return text


def _may_hold_more(text: str) -> bool:
    return (
        "<" in text or ("&" in text and _ENTITY.search(text) is not None) or EDITION_WORDS in text
    )


def _is_repeated(title: str, description: str) -> bool:
    """Glued words are common, so "Lonesome Blue" and "LonesomeBlue" are the same."""
    if len(description) > 2 * len(title):  # most rows: folding both would take longer than this
        return False
    return normalize_title(title).replace(" ", "") == normalize_title(description).replace(" ", "")
