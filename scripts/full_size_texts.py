"""Makes titles and contents out of those of real rows, for make_full_size.py.

In: products and random numbers. Out: a title or a content of any length. Contents are sentences of
the rows in new order, with the data set's faults; titles are parts of titles. Rare words give way
to others, new ones as often as Heaps' law asks for. Which texts come again is not decided here.
"""

import html
import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, count
from math import log
from operator import attrgetter
from random import Random
from typing import Any, NamedTuple

from amazon_desc.data.corpus.splits import text_hash
from amazon_desc.data.reading.records import Product

LONGEST_TITLE, LONGEST_CONTENT = 1_999, 197_622  # characters
LEARNT_CHARACTERS = 1_536  # of a content, for Heaps' law
MAX_RARE = 2  # uses in the rows
NEAR = 16  # a content begins anywhere among this part of the sentences

PLAIN, MARKED, GIVEN = range(3)  # styles: in ASCII, with entities, with the rows' own characters
# Shares of the contents in a style, with a note on the edition, that are whole pages, with a
# character that nobody sees, in other languages.
MARKED_SHARE, GIVEN_SHARE, NOTE_SHARE = 0.17, 0.01, 0.25
PAGE_SHARE, STRAY_SHARE, FOREIGN_SHARE = 0.001, 0.003, 0.002
OUR_NOTE = "--This text refers to thePaperbackedition."
STRAY_CHARACTERS = ("\u200b", "\ufeff", "\u00ad", "\x07", "\x1f", "\x92")
FOREIGN_SENTENCES = (
    "Ein schönes Geschenk für alle, die gerne lesen. Geliefert werden zwei Stück. ",
    "Un livre émouvant, écrit avec finesse. Fabriqué à la main, il résiste à l'eau. ",
    "Una novela corta sobre el mar, la niñez y los días de verano. ",
    "Этот набор подойдёт для дома и для дачи. 軽くて丈夫なので、毎日の通勤に便利です。",
)
ENTITIES = [  # as pages wrote them, cp1252 numbers too
    str.maketrans(dict(zip("'’\"”–—&", entities.split(), strict=True)))
    for entities in (
        "&#8217; &#8217; &quot; &#8221; &#8211; &#8212; &amp;",
        "&#146; &#146; &#148; &#148; &#150; &#151; &amp;",
        "&#x2019; &rsquo; &#34; &rdquo; &ndash; &mdash; &amp;",
    )
]
TO_ASCII = str.maketrans("’‘”“–—•·【】（），：×", "''\"\"--**[](),:x")
NOTE = re.compile(r"-*\s?This text refers to.{1,80}?edition[^.]{0,20}\.")
SENTENCE = re.compile(r"\S.{0,300}?(?:[.!?][\"')\]]*\s+|$)|\S.{100,300}?\s+|\S+\s*", re.DOTALL)
WORD = re.compile(r"(\S+)(\s*)")
GLUE = re.compile(r"(?<=[a-z.,!?])(?=[A-Z])")


def pick(rng: Random, options: Sequence[Any]) -> Any:
    return options[int(rng.random() * len(options))]


@cache
def plain(word: str) -> str:
    """ "Caf&eacute;’s" -> "Cafe's"."""
    word = unicodedata.normalize("NFKD", html.unescape(word).translate(TO_ASCII))
    return word.encode("ascii", "ignore").decode()


def shape_of(word: str) -> str:
    """ "tip.The" -> "glued"; "12.5mm" -> "digits"; "dominance" -> "letters"."""
    return "glued" if GLUE.search(word) else "digits" if re.search("[0-9]", word) else "letters"


def coin(first: str, second: str, number: int) -> str:
    """Makes a word out of two of one shape, and a random number.

    "tip.The", "cooking,And", 0 -> "tip.And"
    "12.5mm", "M3", 7_654_321 -> "22.8mm"
    "dominance", "fountains,", 0 -> "dominains,"; 3 -> "dominance-fountains,"
    """
    shape = shape_of(first)
    if shape == "glued":
        return GLUE.split(first, maxsplit=1)[0] + GLUE.split(second, maxsplit=1)[-1]
    if shape == "digits":
        return re.sub("[0-9]", lambda at: str((int(at[0]) + number // 3 ** at.start()) % 10), first)
    if number % 5 > 2:
        return f"{first.rstrip('.,;:!?)')}{'-/-'[number % 3]}{second.lower()}"
    end = second[len(second) // 2 :]
    return first[: (len(first) + 1) // 2] + (end.upper() if first.isupper() else end.lower())


class BloomFilter:
    """Remembers texts in 32 MiB: never takes an old one for new, about never a new one for old."""

    def __init__(self) -> None:
        self.bits = bytearray(1 << 25)

    def add(self, text: str) -> bool:
        """Returns whether the text is new."""
        number, is_new = text_hash(text, ""), False
        for bit in (number & 0xFFF_FFFF, number >> 36):
            is_new = is_new or not self.bits[bit >> 3] & 1 << (bit & 7)
            self.bits[bit >> 3] |= 1 << (bit & 7)
        return is_new


class Vocabulary:
    """Gives words for the places of rare ones, as many new ones as V = K * N**beta asks for.

    N and V are words of the contents learnt from; K and beta fit the rows' last sixteenfold growth:
    32 words, 8 different, the first 2 with 2 -> beta 0.5, K 1.414.
    An old word comes as often as it came before, less a discount (Pitman and Yor): a few become
    frequent and most stay rare, as in real texts.
    """

    def __init__(self, contents: Sequence[str], rng: Random) -> None:
        given = [word for text in contents for word in text[:LEARNT_CHARACTERS].split()]
        num, num_early = len(set(given)), len(set(given[: len(given) // 16]))
        self.beta = round(log(num / num_early) / log(16), 4)
        self.scale = round(num / len(given) ** self.beta, 3)
        words = [plain(word) for word in given]
        self.rng, self.seen = rng, BloomFilter()
        self.rare: dict[str, str] = {}  # word: shape
        self.rows_words: dict[str, list[str]] = {"letters": [], "digits": [], "glued": []}
        for word, num_uses in Counter(words).items():
            self.seen.add(word)
            if num_uses <= MAX_RARE and word.split() == [word]:
                self.rare[word] = shape_of(word)
                self.rows_words[self.rare[word]].append(word)
        self.rows_words["letters"] = self.rows_words["letters"] or words
        self.unused = {shape: iter(words) for shape, words in self.rows_words.items()}
        self.used: dict[str, list[str]] = {shape: [] for shape in self.rows_words}
        self.met: set[str] = set()  # words of the rows
        self.num_words = self.num_wanted = self.num_made = 0

    def count(self, num_rare: int, other_words: Sequence[str]) -> None:
        """Takes note of a sentence's words: only the rare ones are still to be given."""
        self.num_words += num_rare + len(other_words)
        self.met.update(other_words)
        self.num_wanted = int(self.scale * self.num_words**self.beta)

    def word(self, shape: str, may_be_new: bool) -> str:
        used = self.used[shape]
        is_new = not used or (may_be_new and self.num_wanted > len(self.met) + self.num_made)
        word = self.new_word(shape) if is_new else pick(self.rng, used)
        # half of the uses tell what is frequent as well as all, in half of the memory
        if not used or self.rng.random() < (0.5 - 0.5 * self.beta if is_new else 0.5):
            used.append(word)
        return word

    def new_word(self, shape: str) -> str:
        """A rare word of the rows while there are unused ones, then made ones."""
        for word in self.unused[shape]:
            if word not in self.met:
                self.met.add(word)
                return word
        self.num_made += 1
        return next(word for word in self.coined(shape) if self.seen.add(word))

    def coined(self, shape: str) -> Iterator[str]:
        words = self.rows_words[shape]
        for attempt in count():
            first, second = pick(self.rng, words), pick(self.rng, words)
            number = pick(self.rng, range(10**9))
            yield coin(first, second, number) + str(number) * (attempt > 7)


class Sentence(NamedTuple):
    """ "It’s a 12.5mm rug. " in each style, with %s for 12.5mm, which is rare."""

    texts: list[str]  # "It's a %s rug. ", "It&#146;s a %s rug. ", "It’s a %s rug. "
    shapes: list[str]  # "digits"
    other_words: list[str]  # "It's", "a", "rug."
    length: int  # 19: in ASCII, with its own rare words
    content_length: int


class Sentences:
    """The rows' sentences, and texts of any length made of them."""

    def __init__(self, contents: Sequence[str], rng: Random) -> None:
        self.vocabulary, self.rng = Vocabulary(contents, rng), rng
        self.all = [
            self.sentence(text, len(content))
            for content in sorted(contents, key=len)
            for text in SENTENCE.findall(NOTE.sub(" ", content))
        ]
        ends = [sentence for sentence in self.all if len(sentence.other_words) > 2] or self.all
        self.ends = sorted(ends, key=attrgetter("length"))
        self.end_lengths = [sentence.length for sentence in self.ends]

    def sentence(self, text: str, content_length: int) -> Sentence:
        """Its last word stays even if it is rare, since that ends the sentence."""
        entities, words = pick(self.rng, ENTITIES), WORD.findall(text)
        parts, shapes, other_words, length = [], [], [], 0
        for place, (given, space) in enumerate(words, start=1):
            word, space = plain(given), plain(space) or " "
            length += len(word) + len(space)
            if word in self.vocabulary.rare and place < len(words):
                shapes.append(self.vocabulary.rare[word])
                parts.append([f"%s{space}"] * 3)
                continue
            other_words += word.split()
            marked = html.unescape(given).translate(entities).encode("ascii", "xmlcharrefreplace")
            styles = (word, marked.decode(), given)
            parts.append([style.replace("%", "%%") + space for style in styles])
        texts = ["".join(style) for style in zip(*parts, strict=True)]
        return Sentence(texts, shapes, other_words, length, content_length)

    def text(self, length: int, style: int, is_learnt: bool) -> str:
        """Sentences that follow each other, now and then one from near by, to about `length`.

        80 characters: two sentences of 27 and 25, the next one of 31 is longer than the rest of 28,
        so that any other one of about 28 is the end.
        They are taken where contents are about as long, since long ones are of another kind.
        """
        num_near = len(self.all) // NEAR
        first = bisect_left(self.all, length, key=attrgetter("content_length")) - num_near // 2
        first = min(max(first, 0), len(self.all) - num_near)
        place, rest = pick(self.rng, range(first, first + num_near)), length
        chosen: list[Sentence] = []
        while (sentence := self.all[place]).length <= rest:
            chosen.append(sentence)
            rest -= sentence.length
            place += 1 if self.rng.random() < 0.9 else pick(self.rng, range(100))
            place = place if place < len(self.all) else first
        num_learnt = LEARNT_CHARACTERS if is_learnt else 0
        text = self.fill(chosen, style, num_learnt)
        rest = length - len(text)
        if rest > 12 or len(text.split(maxsplit=3)) < 3:
            text += self.fill([self.end(rest)], style, num_learnt - len(text))
        return text.rstrip()

    def end(self, length: int) -> Sentence:
        """A sentence of about this length, or one of the eight next to it."""
        low = max(min(bisect_left(self.end_lengths, length - 1), len(self.ends) - 8), 0)
        high = max(bisect_left(self.end_lengths, length + 4), low + 8)
        return self.ends[min(pick(self.rng, range(low, high)), len(self.ends) - 1)]

    def fill(self, sentences: Sequence[Sentence], style: int, num_learnt: int) -> str:
        """Joins the sentences; those that begin before `num_learnt` characters are counted."""
        begins = accumulate((sentence.length for sentence in sentences), initial=0)
        for sentence, begin in zip(sentences, begins, strict=False):
            if begin < num_learnt:
                self.vocabulary.count(len(sentence.shapes), sentence.other_words)
        shapes = [shape for sentence in sentences for shape in sentence.shapes]
        words = [self.vocabulary.word(shape, num_learnt > 0) for shape in shapes]
        return "".join([sentence.texts[style] for sentence in sentences]) % tuple(words)


class Maker:
    """Makes titles and contents of any length."""

    def __init__(self, rows: Sequence[Product], rng: Random) -> None:
        self.rng = rng
        contents = [row.description for row in rows if row.description.strip()]
        self.sentences = Sentences(contents, rng)
        self.notes = [note for text in contents for note in NOTE.findall(text)] or [OUR_NOTE]
        self.vocabulary = self.sentences.vocabulary
        self.titles = " ".join(plain(word) for row in rows for word in row.title.split()) + " "
        self.titles *= 2 * LONGEST_TITLE // len(self.titles) + 2

    def content(self, length: int, is_learnt: bool) -> str:
        """Plain in most cases, or with one or more of the data set's faults."""
        make_text = self.sentences.text
        if length == LONGEST_CONTENT:
            return make_text(length + length // 20, PLAIN, is_learnt)[:length]
        if self.rng.random() < FOREIGN_SHARE:
            num = length // 60 + 1
            return "".join(pick(self.rng, FOREIGN_SENTENCES) for _ in range(num)).strip()
        if length > 200 and self.rng.random() < PAGE_SHARE:
            text = make_text(length - 90, MARKED, is_learnt).replace(". ", ".</p>\n<p>")
            box = f'<div class="leftImage" style="width: {200 + length % 300}px;">'
            return f'<div class="aplus">\n{box}<p>{text}</p></div>\n</div>'
        note = pick(self.rng, self.notes) if length > 90 and self.rng.random() < NOTE_SHARE else ""
        chance = self.rng.random()
        style = MARKED if chance < MARKED_SHARE else GIVEN if chance > 1 - GIVEN_SHARE else PLAIN
        length = (length - len(note)) * (97 if style == MARKED else 100) // 100  # entities lengthen
        text = make_text(length, style, is_learnt)
        if style == MARKED and "&" not in text:
            text = text.replace(" and " if " and " in text else " ", " &amp; ", 1)
        if self.rng.random() < STRAY_SHARE:
            text = text.replace(" ", pick(self.rng, STRAY_CHARACTERS) + " ", 1)
        return text + note

    def title(self, length: int) -> str:
        """Parts of two titles, with a rare word between them."""
        title = self.title_part(length * 3 // 5) + self.vocabulary.word("letters", False)
        return f"{title} {self.title_part(length - len(title) - 1)}".strip()

    def title_part(self, length: int) -> str:
        place = pick(self.rng, range(len(self.titles) - LONGEST_TITLE))
        start = self.titles.find(" ", place) + 1
        return self.titles[start : self.titles.find(" ", start + max(length - 4, 0)) + 1]
