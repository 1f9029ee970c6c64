"""Promises of corpus/near_repeats.py: texts that are alike are found, and others are not."""

import numpy as np
import pytest

from amazon_desc.data.corpus.near_repeats import MIN_EQUAL, NUM_HASHES, leaders_of, sketches_of


def sketched(texts: list[list[int]]) -> np.ndarray:
    ids = np.array([token for text in texts for token in text], "u2")
    return sketches_of(ids, np.array(list(map(len, texts)), "i8"))


def text_like(text: list[int], num_changed: int, generator: np.random.Generator) -> list[int]:
    """Returns a text with some tokens that no text has."""
    changed = list(text)
    for place in generator.choice(len(text), num_changed, replace=False):
        changed[place] = int(generator.integers(40_000, 60_000))
    return changed


def random_text(generator: np.random.Generator, length: int) -> list[int]:
    return generator.integers(0, 30_000, length).tolist()


def share_of_common_runs(one: list[int], other: list[int]) -> float:
    """The plain definition: of all runs of four tokens that one or the other has."""
    runs = [{tuple(text[at : at + 4]) for at in range(len(text) - 3)} for text in (one, other)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def test_a_sketch_is_of_its_own_text_whatever_stands_beside_it():
    generator = np.random.default_rng(3)
    texts = [random_text(generator, length) for length in (1, 3, 4, 5, 120, 2)]
    together = sketched(texts)
    assert together.shape == (6, NUM_HASHES)
    for text, sketch in zip(texts, together, strict=True):
        assert sketched([text])[0].tolist() == sketch.tolist()
    assert len({sketch.tobytes() for sketch in together}) == 6


def test_equal_hashes_are_as_many_as_common_runs():
    """In the mean, of one or two hundred pairs of texts each."""
    generator = np.random.default_rng(1)
    for num_changed in (0, 2, 5, 10, 25):
        shares, equal = [], []
        for _ in range(200):
            text = random_text(generator, 150)
            other = text_like(text, num_changed, generator)
            one, two = sketched([text, other])
            shares.append(share_of_common_runs(text, other))
            equal.append((one == two).mean())
        assert np.mean(equal) == pytest.approx(np.mean(shares), abs=0.03)


def test_those_that_are_alike_have_the_first_of_the_order_as_their_leader():
    generator = np.random.default_rng(2)
    texts = [random_text(generator, 200) for _ in range(40)]
    texts += [text_like(texts[number], 1, generator) for number in (7, 7, 12)]
    leaders = leaders_of(sketched(texts), np.arange(len(texts)))
    assert leaders.tolist() == [*range(40), 7, 7, 12]
    backwards = leaders_of(sketched(texts), np.arange(len(texts))[::-1])
    assert np.flatnonzero(backwards == backwards[7]).tolist() == [7, 40, 41]
    assert backwards[7] == 41
    assert backwards[12] == 42


def test_one_that_stands_for_others_stands_for_itself():
    """Also where texts are alike in a chain: each differs a little from the one before."""
    generator = np.random.default_rng(5)
    chain = [random_text(generator, 150)]
    for _ in range(60):
        chain.append(text_like(chain[-1], 1, generator))
    leaders = leaders_of(sketched(chain), generator.permutation(len(chain)))
    assert (leaders[leaders] == leaders).all()
    assert 1 < len(set(leaders.tolist())) < 60


def test_texts_that_are_not_alike_are_not_taken_for_it():
    """Of 2,000 of another half each, and of short ones of which a quarter is common, none is."""
    generator = np.random.default_rng(4)
    half = random_text(generator, 60)
    texts = [half + random_text(generator, 60) for _ in range(2_000)]
    texts += [half[:4] + random_text(generator, 12) for _ in range(500)]
    leaders = leaders_of(sketched(texts), np.arange(len(texts)))
    assert (leaders != np.arange(len(texts))).sum() == 0
    assert MIN_EQUAL > NUM_HASHES / 2


def test_nothing_in_nothing_out():
    empty = sketched([])
    assert empty.shape == (0, NUM_HASHES)
    assert leaders_of(empty, np.arange(0)).tolist() == []
