"""Makes a file of the full size of Amazon Titles-1.3MM out of real rows, to measure preparation on.

    python scripts/make_full_size.py REAL_ROWS OUT.json.gz

In: any file of products that `amazon_desc` reads. Out: lines of the data set's form and number,
with its counts of empty and repeated texts, its lengths and its faults; full_size_texts.py makes
the texts. The same rows, seed and number of lines give the same bytes. Nothing is cleaned here.
"""

import argparse
import gzip
import json
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from math import log
from pathlib import Path
from random import Random

import numpy as np
from full_size_texts import LONGEST_CONTENT, LONGEST_TITLE, Maker, pick
from tqdm import tqdm

from amazon_desc.data.corpus.splits import text_hash
from amazon_desc.data.reading.records import Product, read_products
from amazon_desc.support.errors import DataError, UserError
from amazon_desc.support.files import replacing_file

# Kind of line: how many of NUM_LINES, title, content. Pairs are what the others leave.
NUM_LINES = 2_248_619
KINDS = {
    "neither": (18_519, "", ""),
    "content only": (108_315, "", "new"),
    "title only": (717_608, "new", ""),
    "title again": (13_774, "old", ""),
    "another content": (15_065, "old", "new"),
    "pair again": (11_122, "old", "old"),
    "content equals title": (9_859, "new", "title"),
    "too short": (5_422, "new", "short"),
    "pair": (1_348_935, "new", "new"),
}
TITLE_LENGTHS = (54, 125, LONGEST_TITLE, 2_121_785)  # median, 95 %, longest; number of texts
CONTENT_LENGTHS = (398, 1_728, LONGEST_CONTENT, 1_498_718)
NUM_LABELS, MEAN_LABELS, MAX_LABELS = 1_305_265, 22.2, 200
SHORT = ("AUDIO CD", "Laser", "Hardcover", "VHS Tape", "DVD", "Brand new", "Paperback")
NUM_KEPT = 4_096  # pairs at hand to be repeated
RECASED_SHARE = 0.004  # of the titles: old ones but for case or spacing
MIN_ROWS, MIN_LINES = 100, 500


class Lengths:
    """The rows' lengths, bent to the published median and 95 %; beyond it, a power law.

    Rows of 1 to 100 characters, published 200, 500, 50_000 of 2_000 texts:
    quantile  0.25  0.5  0.75  0.95  0.995  0.9995
    length     101  200   366   500  5_000  49_999
    """

    def __init__(self, texts: Iterable[str], published: tuple[int, int, int, int]) -> None:
        self.rows = sorted(len(text) for text in texts if text.strip())
        self.median, self.high, self.longest, num = published
        self.power = log(self.longest / self.high) / log(0.05 * num)

    def quantile(self, share: float) -> int:
        """Returns the length that this share of the texts is shorter than."""
        if share >= 0.95:
            return min(round(self.high * (0.05 / (1 - share)) ** self.power), self.longest - 1)
        row, median, high = (self.rows[int(x * len(self.rows))] for x in (share, 0.5, 0.95))
        if row <= median:
            return max(row * self.median // median, 12)
        return self.median + (row - median) * (self.high - self.median) // (high - median)

    def shuffled(self, num: int, num_shorter: int, rng: Random) -> Iterator[int]:
        """Yields `num` lengths, evenly spread, after the shortest, which other texts have."""
        shares = ((num_shorter + place + 0.5) / (num_shorter + num) for place in range(num))
        lengths = array("I", map(self.quantile, shares))
        lengths[-1] = self.longest
        rng.shuffle(lengths)
        return iter(lengths)


def num_of_kinds(num_lines: int) -> dict[str, int]:
    """3_000 -> neither 24, content only 144, .., pair 1_803: together 3_000."""
    nums = {kind: num * num_lines // NUM_LINES for kind, (num, *_) in KINDS.items()}
    nums["pair"] += num_lines - sum(nums.values())
    return nums


def new_title(maker: Maker, length: int, kept: Sequence[tuple[str, str]], rng: Random) -> str:
    """Returns a title that no line has; now and then a kept one but for case or spacing."""
    if length == LONGEST_TITLE:
        return maker.title(length + 50)[:length]
    seen = maker.vocabulary.seen
    if kept and rng.random() < RECASED_SHARE:
        old, _ = pick(rng, kept)
        title = old.upper() if rng.random() < 0.5 else old.replace(" ", "  ", 1)
        if title != old and seen.add(f"recased {title}"):
            return title
    for attempt in count():
        title = maker.title(length) + f" {rng.random() * 1e5:.0f}" * (attempt > 4)
        if seen.add(title.lower()):
            break
    return title


def make_pairs(rows: Sequence[Product], num_lines: int, rng: Random) -> Iterator[tuple[str, str]]:
    """Yields title and content of every line; either may be empty."""
    maker, nums = Maker(rows, rng), num_of_kinds(num_lines)
    kept: list[tuple[str, str]] = []
    num_titles = sum(nums[kind] for kind, (_, title, _) in KINDS.items() if title == "new")
    num_contents = sum(nums[kind] for kind, (_, _, content) in KINDS.items() if content == "new")
    num_shorter = nums["content equals title"] + nums["too short"]
    lengths = Lengths((row.title for row in rows), TITLE_LENGTHS)
    title_lengths = lengths.shuffled(num_titles, 0, rng)
    lengths = Lengths((row.description for row in rows), CONTENT_LENGTHS)
    content_lengths = lengths.shuffled(num_contents, num_shorter, rng)
    kinds = [kind for kind in KINDS for _ in range(nums[kind])]
    first = kinds.pop()  # a pair, so that there is one to repeat
    rng.shuffle(kinds)
    for kind in [first, *kinds]:
        _, title_source, content_source = KINDS[kind]
        title, content = pick(rng, kept) if title_source == "old" else ("", "")
        if title_source == "new":
            title = new_title(maker, next(title_lengths), kept, rng)
        if content_source == "new":
            content = maker.content(next(content_lengths), is_learnt=bool(title))
        elif content_source != "old":
            content = {"": "", "title": title, "short": pick(rng, SHORT)}[content_source]
        if kind == "pair":
            place = pick(rng, range(NUM_KEPT)) if len(kept) == NUM_KEPT else len(kept)
            kept[place : place + 1] = [(title, content)]
        yield title, content


class Tally:
    """What was written; texts are told apart by their hashes."""

    def __init__(self) -> None:
        self.title_lengths, self.content_lengths = array("I"), array("I")
        self.titles, self.pairs = array("Q"), array("Q")
        self.num_refused = 0  # by cleaning, for what the content is

    def add(self, title: str, content: str) -> None:
        self.title_lengths.append(len(title))
        self.content_lengths.append(len(content))
        if title:
            self.titles.append(text_hash(title, ""))
        if title and content:
            self.pairs.append(text_hash(f"{title}\n{content}", ""))
            self.num_refused += content == title or len(content.split(maxsplit=2)) < 3

    def rows(self) -> Iterator[tuple[str, int, int]]:
        """Yields what is counted, what was asked for and what was got."""
        titles, contents = np.array(self.title_lengths), np.array(self.content_lengths)
        num_lines, num_pairs = len(titles), len(np.unique(self.pairs))
        nums = num_of_kinds(num_lines)
        no_title = nums["neither"] + nums["content only"]
        no_content = nums["neither"] + nums["title only"] + nums["title again"]
        again = nums["title again"] + nums["another content"] + nums["pair again"]
        both = num_lines - no_title - no_content + nums["neither"]
        kept = nums["pair"] + nums["another content"]
        yield "lines", num_lines, num_lines
        yield "empty titles", no_title, np.sum(titles == 0)
        yield "empty contents", no_content, np.sum(contents == 0)
        yield "title and content", both, len(self.pairs)
        yield "duplicate titles", again, len(self.titles) - len(np.unique(self.titles))
        yield "distinct pairs", both - nums["pair again"], num_pairs
        yield "... that cleaning keeps", kept, num_pairs - self.num_refused
        for name, lengths, published in (
            ("title", titles, TITLE_LENGTHS),
            ("content", contents, CONTENT_LENGTHS),
        ):
            got = np.percentile(lengths[lengths > 0], (50, 95, 100), method="inverted_cdf")
            for percent, wanted, found in zip((50, 95, 100), published, got, strict=False):
                yield f"{name} characters, {percent} %", wanted, found


def write_lines(rows: Sequence[Product], path: Path, num_lines: int, seed: int) -> Tally:
    rng, tally = Random(seed), Tally()
    labels = [pick(rng, range(NUM_LABELS)) for _ in range(100_000)]
    pairs = make_pairs(rows, num_lines, rng)
    with (
        replacing_file(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=3, fileobj=raw, mtime=0) as file,
    ):
        for number, (title, content) in enumerate(tqdm(pairs, "Writing", num_lines, unit=" lines")):
            start = pick(rng, range(len(labels) - MAX_LABELS))
            num = min(int(-MEAN_LABELS * log(1 - rng.random())) + 1, MAX_LABELS)
            line = {
                "uid": f"B0{number * 2_654_435_761 % 2**32:08X}",
                "title": title,
                "content": content,
                "target_ind": labels[start : start + num],
                "target_rel": [1.0] * num,
            }
            file.write(f"{json.dumps(line)}\n".encode())
            tally.add(title, content)
    return tally


def read_rows(path: Path) -> list[Product]:
    rows = [row for row in read_products(path) if isinstance(row, Product)]
    texts = {row.description for row in rows if row.title.strip()}
    num = sum(len(text.split(maxsplit=3)) > 2 for text in texts)
    if num < MIN_ROWS:
        raise DataError(
            f"{path}: wanted at least {MIN_ROWS} products with a title and different contents, "
            f"found {num}. Give a file of some thousand real ones."
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rows", type=Path, help="products in any file that amazon_desc trains on")
    parser.add_argument("out", type=Path, help="the file to write, .json.gz")
    parser.add_argument("--lines", type=int, default=NUM_LINES, help="%(default)s if not given")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s if not given")
    options = parser.parse_args(arguments)
    try:
        if options.lines < MIN_LINES:
            raise UserError(f"--lines {options.lines}: wanted at least {MIN_LINES}.")
        tally = write_lines(read_rows(options.rows), options.out, options.lines, options.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{'':<28}{'asked for':>12}{'got':>12}")
    for name, asked, got in tally.rows():
        print(f"{name:<28}{asked:>12}{got:>12}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
