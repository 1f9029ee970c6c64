"""A batch of records -> its usable pairs of title and description, cleaned, hashed and tokenised.

In come titles and descriptions as they were read, out go columns: what is to be known of each pair
to choose among all of them, and its token ids. All of it depends on the batch alone, so batches are
worked on in any process. What is chosen is decided in selection.py, when all pairs are known.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from amazon_desc.data.cleaning.cleaner import Cleaner, Refusal, normalize_title
from amazon_desc.data.corpus.near_repeats import NO_SKETCHES, sketches_of
from amazon_desc.data.corpus.splits import HASH_RANGE, SPLITS, split_at, text_hash
from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.reading.records import Product

NUM_REFUSALS_SHOWN = 3
# Titles repeat words of their descriptions, but hardly so many characters in a row.
LEAK_CHARACTERS = 50
TRAIN, VALIDATION, TEST = range(len(SPLITS))
ENDINGS = ("whole", "shortened", "cut")

# What is known of a pair, in few bytes: those of all pairs are held in memory at once.
PAIR = np.dtype(
    [
        ("title", "u8"),  # hash of what titles are compared by
        ("description", "u8"),  # hash of the cleaned description
        ("part", "u8"),  # pairs with the smallest are the part that num_products asks for
        ("is_tested", "?"),  # comes from the test file
        ("split", "u1"),  # number in SPLITS
        ("ending", "u1"),  # number in ENDINGS
        ("title_characters", "i4"),
        ("description_characters", "i4"),
        ("num_tokens", "i4"),  # prompt, description and end token
        ("num_prompt_tokens", "i4"),
        ("is_leak", "?"),  # the title holds its own description
    ]
)


@dataclass
class ProductBatch:
    """Titles and descriptions as they were read."""

    titles: list[str]
    descriptions: list[str]
    is_tested: bool = False
    """they come from the test file"""
    max_part: int = HASH_RANGE
    """pairs with a larger `part` hash are known not to be asked for"""


@dataclass
class HeldOut:
    """A pair of validation or test, with its texts; `order` says where it stands among them."""

    order: int
    title: str
    description: str
    input_ids: list[int]
    num_prompt_tokens: int


@dataclass
class PairBatch:
    """The usable pairs of a ProductBatch, in its order, and what became of the other records."""

    pairs: np.ndarray
    """(N,) PAIR"""
    train_ids: np.ndarray
    """(tokens of the pairs in train,) token ids of one after the other"""
    held_out: list[HeldOut]
    """of the pairs that are not in train"""
    sketches: np.ndarray = field(default_factory=lambda: NO_SKETCHES)
    """(N, NUM_HASHES) of the descriptions' tokens; (0, NUM_HASHES) where none are asked for"""
    refused: Counter[str] = field(default_factory=Counter)
    refused_at: dict[str, list[int]] = field(default_factory=dict)
    """numbers, in the ProductBatch, of the first refused records of each reason"""
    titles: np.ndarray = field(default_factory=lambda: np.empty(0, "u8"))
    """hashes of all titles of a batch of the test file, those of refused records too"""
    split_hashes: np.ndarray = field(default_factory=lambda: np.empty(0, "u8"))
    """(N,) of the pairs' titles"""
    leak: tuple[int, int] | None = None
    """of the first pair whose title holds its description: its number among the pairs, and that of
    its record in the ProductBatch"""


@dataclass
class PairMaker:
    """Makes pairs of records; picklable, so that other processes can do the same."""

    cleaner: Cleaner
    encoder: Encoder
    validation_fraction: float
    test_fraction: float
    token_type: str
    """what holds a token id: "uint16" or "int32" """
    makes_sketches: bool = False
    """whether descriptions are to be compared with each other"""

    def __call__(self, batch: ProductBatch) -> PairBatch:
        made = PairBatch(np.empty(0, PAIR), np.empty(0, self.token_type), [])
        products: list[Product] = []
        known: list[tuple[str, int, int]] = []
        split_hashes: list[int] = []
        numbers: list[int] = []
        for number, (title, text) in enumerate(zip(batch.titles, batch.descriptions, strict=True)):
            product = self.cleaner(Product(title, text))
            if isinstance(product, Refusal):
                made.refused[str(product)] += 1
                if made.refused[str(product)] <= NUM_REFUSALS_SHOWN:
                    made.refused_at.setdefault(str(product), []).append(number)
                continue
            normal = normalize_title(product.title)
            part = text_hash(normal, "part")
            if part > batch.max_part:
                made.refused["beyond num_products"] += 1
                continue
            products.append(product)
            numbers.append(number)
            split_hashes.append(text_hash(normal, "split"))
            known.append((normal, part, self.split(split_hashes[-1], batch.is_tested)))
        if batch.is_tested:
            made.titles = self.title_hashes(batch.titles)
        self.encode(made, products, known, batch.is_tested)
        made.split_hashes = np.array(split_hashes, "u8")
        leaks = np.flatnonzero(made.pairs["is_leak"])
        if len(leaks):
            made.leak = (int(leaks[0]), numbers[leaks[0]])
        return made

    def split(self, split_hash: int, is_tested: bool) -> int:
        if is_tested:
            return TEST
        return SPLITS.index(split_at(split_hash, self.validation_fraction, self.test_fraction))

    def title_hashes(self, titles: list[str]) -> np.ndarray:
        cleaned = (normalize_title(self.cleaner.text(title)) for title in titles)
        return np.array([text_hash(title, "distinct") for title in cleaned], "u8")

    def encode(
        self,
        made: PairBatch,
        products: list[Product],
        known: list[tuple[str, int, int]],
        is_tested: bool,
    ) -> None:
        """Tokenises the products, and fills in what is known of each."""
        pairs, train_ids = [], []
        examples = self.encoder.examples(products)
        for product, example, (normal, part, split) in zip(products, examples, known, strict=True):
            pairs.append(
                (
                    text_hash(normal, "distinct"),
                    text_hash(product.description, "distinct"),
                    part,
                    is_tested,
                    split,
                    ENDINGS.index(example.ending),
                    len(product.title),
                    len(product.description),
                    len(example.input_ids),
                    example.num_prompt_tokens,
                    holds_description(product.title, product.description),
                )
            )
            if split == TRAIN:
                train_ids.append(example.input_ids)
            else:
                made.held_out.append(
                    HeldOut(
                        text_hash(normal, "order"),
                        product.title,
                        product.description,
                        example.input_ids,
                        example.num_prompt_tokens,
                    )
                )
        made.pairs = np.array(pairs, PAIR)
        if self.makes_sketches and examples:
            learnt = [example.input_ids[example.num_prompt_tokens :] for example in examples]
            ids = np.fromiter(chain.from_iterable(learnt), self.token_type)
            made.sketches = sketches_of(ids, np.fromiter(map(len, learnt), "i8"))
        made.train_ids = np.fromiter(chain.from_iterable(train_ids), self.token_type)


def holds_description(title: str, description: str) -> bool:
    """Says whether a cleaned title holds its own description, after other words, in any case.

    It does if the description's first LEAK_CHARACTERS characters, or all of a shorter one, stand
    in it, as they do when a title column is made as "{title} - {content}", even if that is cut
    after them. A title that a description begins with holds nothing: there it comes first.

        title "Red Mug - A MUG OF CLAY", description "A mug of clay"        -> True
        title "Red Mug", description "Red Mug: a mug of clay"               -> False
    """
    beginning = description[:LEAK_CHARACTERS]
    if len(title) <= len(beginning):  # most of them
        return False
    return title.lower().find(beginning.lower()) > 0
