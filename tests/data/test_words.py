"""Words: the ids are the tokenizer's own, for any text and any tokenizer, only sooner."""

import json
import pickle
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from amazon_desc.data.cleaning.cleaner import Cleaner
from amazon_desc.data.encoding import vocabulary
from amazon_desc.data.encoding.words import WordTokenizer, keeps_words_apart
from amazon_desc.data.reading.records import Product, read_products
from amazon_desc.support.resources import TINY_BASE

LETTERS = "▁abcdefghijklmnopqrstuvwxyz<>/|.!\n\t"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = [
    "▁▁",
    "▁a",
    "▁the",
    "▁of",
    "▁red",
    "▁mug",
    "▁<",
    "he",
    "er",
    "re",
    "ed",
    "b>",
    "</s",
    "<b",
]
CONTROL = ["<s>", "</s>", "<|user|>"]

# Marks spaces as Gemma's does, or as Llama's: there the first word of a text is marked too.
GEMMA = normalizers.Replace(" ", "▁")
LLAMA = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
METASPACE = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)


def invented(
    normalizer: Any = None,
    pre_tokenizer: Any = None,
    added: Sequence[str | AddedToken] = (),
    pieces: Sequence[str] = PIECES,
    alphabet: str = LETTERS,
    **settings: Any,
) -> Tokenizer:
    """Returns a BPE that puts pieces together from the left; other characters become bytes."""
    vocabulary = ["<unk>", *CONTROL, *BYTES, *alphabet]
    merges = []
    for piece in pieces:
        for end in range(2, len(piece) + 1):
            if piece[:end] not in vocabulary:
                vocabulary.append(piece[:end])
                merges.append((piece[: end - 1], piece[end - 1]))
    settings = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, **settings}
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, **settings))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens(["<unk>", *CONTROL])
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False) if isinstance(t, str) else t for t in added]
    )
    return tokenizer


def pieces_of(tokenizer: WordTokenizer, text: str) -> list[str | None]:
    return [tokenizer.backend.id_to_token(token_id) for token_id in tokenizer([text])[0]]


ODD_BITS = [
    *("a", "b", "the", "of", "mug", "red", "e", ".", "!", "'", "3.5", "A", "Mug", "w" * 130),
    *(
        " ",
        " ",
        " ",
        " ",
        " ",
        " ",
        "  ",
        "   ",
        "\t",
        "\n",
        "\n\n",
        " \n",
        "\r\n",
        "\xa0",
        "\u3000",
    ),
    *("▁", "▁▁", " ▁", "▁a", "</s>", "<s>", "<unk>", "<|user|>", "<", "/s>", ">", "<0x0A>", "|"),
    *("<b>", "<b> ", " <b>", "<table>", "x<b>y", "é", "e\u0301", "\u0301", "ﬁ", "ß", "Ω", "İ"),
    *(
        "書",
        "書籍 ",
        "カ",
        "ไทย",
        "नि",
        "🧸",
        "👩‍👧",
        "\U0001f3fd",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u00ad",
    ),
    *("\x00", "\x07", "\x1b[2J", "\ufffd", "\uffff", "\U0010ffff"),
]
NAMED_TEXTS = [
    *(
        "",
        " ",
        "  ",
        "a",
        " a",
        "a ",
        " a ",
        "▁",
        "▁a",
        "a▁b",
        "a  b",
        "a b",
        "\n",
        "a\nb",
        "a \n b",
    ),
    *("</s>", "a </s> b", "a</s>b", "<s> a", "<b>", "x <b> y", "<b>y", "a<b>c", "x<b> y", "x <b>y"),
    *(
        "<b><b>",
        "<b> <b>",
        "a <b><b> b",
        "\n\n",
        "a\n\nb",
        "a \n\n b",
        "the <table> of",
        "書 書 書",
    ),
    "the red mug of " * 50,
    "mug" * 500 + " a " + "mug" * 500,
]


def fuzzed(seed: int, count: int, bits: Sequence[str] = ODD_BITS) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(bits, k=draw.randint(1, 12))) for _ in range(count)]


def spaced(seed: int, count: int) -> list[str]:
    """Texts as cleaning leaves them: words with one space between two."""
    return [" ".join(text.split()) for text in fuzzed(seed, count)]


def unequal(tokenizer: WordTokenizer, texts: Sequence[str]) -> list[str]:
    """Returns the texts whose ids are not those of the whole text."""
    wanted = tokenizer.whole(list(texts))
    found = zip(texts, tokenizer(texts), wanted, strict=True)
    return [text for text, ids, right in found if ids != right]


def share_by_words(tokenizer: WordTokenizer, texts: Sequence[str]) -> float:
    return sum(tokenizer.by_words([text])[0] is not None for text in texts) / len(texts)


@pytest.fixture(scope="module")
def shipped() -> WordTokenizer:
    """That of the tiny base that ships with the package."""
    return WordTokenizer(Tokenizer.from_file(str(TINY_BASE / "tokenizer.json")))


# What the ids are


def test_the_worked_example():
    ids = {"<unk>": 0, "▁": 1, "a": 2, "▁a": 20, "▁red": 12, "▁mug": 13}
    ids |= {"r": 3, "e": 4, "d": 5, "m": 6, "u": 7, "g": 8, "▁r": 9, "▁re": 10, "▁m": 11, "▁mu": 14}
    merges = [("▁", "a"), ("▁", "r"), ("▁r", "e"), ("▁re", "d"), ("▁", "m"), ("▁m", "u")]
    toy = Tokenizer(models.BPE(vocab=ids, merges=[*merges, ("▁mu", "g")], unk_token="<unk>"))
    toy.normalizer = LLAMA
    tokenizer = WordTokenizer(toy)
    assert tokenizer.keeps_words_apart
    assert tokenizer(["a red mug", "a mug"], [2, 9]) == [[20, 12], [20, 13]]
    assert tokenizer(["a red mug", "a mug"]) == [[20, 12, 13], [20, 13]]
    assert tokenizer([]) == []


@pytest.mark.parametrize(
    ("text", "of_gemma", "of_llama"),
    [
        ("red mug", ["re", "d", "▁mug"], ["▁red", "▁mug"]),
        ("a  mug", ["a", "▁▁", "m", "u", "g"], ["▁a", "▁▁", "m", "u", "g"]),
        ("a </s>", ["a", "▁<", "/", "s", ">"], ["▁a", "▁<", "/", "s", ">"]),
        ("x <b> y", ["x", "▁", "<b>", "▁", "y"], ["▁", "x", "▁", "<b>", "▁▁", "y"]),
        ("<b>y", ["<b>", "y"], ["<b>", "▁", "y"]),
        ("a<b>c", ["a", "<b>", "c"], ["▁a", "<b>", "▁", "c"]),
        ("a \n\n red", ["a", "▁", "\n\n", "▁red"], ["▁a", "▁", "\n\n", "▁▁", "re", "d"]),
        ("mug é", ["m", "u", "g", "▁", "<0xC3>", "<0xA9>"], ["▁mug", "▁", "<0xC3>", "<0xA9>"]),
    ],
)
def test_pieces_written_out(text: str, of_gemma: list[str], of_llama: list[str]):
    """Llama's marks the text behind an added token too, as if it were another text."""
    for normalizer, wanted in ((GEMMA, of_gemma), (LLAMA, of_llama)):
        tokenizer = WordTokenizer(invented(normalizer, added=["<b>", "\n\n"]))
        assert tokenizer.keeps_words_apart
        assert pieces_of(tokenizer, text) == wanted


def test_whole_is_what_the_tokenizer_says_itself(shipped: WordTokenizer):
    backend = Tokenizer.from_file(str(TINY_BASE / "tokenizer.json"))
    texts = [*NAMED_TEXTS, *fuzzed(0, 200)]
    wanted = [backend.encode(text, add_special_tokens=False).ids for text in texts]
    assert shipped.whole(texts, has_control_tokens=True) == wanted
    backend.encode_special_tokens = True
    assert shipped.whole(["a </s> b"]) == [backend.encode("a </s> b", add_special_tokens=False).ids]
    assert 2 in shipped.whole(["a </s> b"], has_control_tokens=True)[0]
    assert not {0, 1, 2} & set(shipped.whole(["a </s><s><unk> b"])[0])


@pytest.mark.parametrize("texts", [NAMED_TEXTS, fuzzed(1, 4_000), spaced(2, 2_000)])
def test_the_shipped_tokenizers_ids_of_odd_texts(shipped: WordTokenizer, texts: list[str]):
    assert shipped.keeps_words_apart
    assert unequal(shipped, texts) == []
    assert 0.1 < share_by_words(shipped, texts) < 1


INVENTED = {
    "gemma": {
        "normalizer": GEMMA,
        "pre_tokenizer": pre_tokenizers.Split(" ", "merged_with_previous"),
    },
    "gemma without a split": {"normalizer": GEMMA},
    "llama": {"normalizer": LLAMA},
    "metaspace first": {"pre_tokenizer": METASPACE},
    "metaspace always": {"pre_tokenizer": pre_tokenizers.Metaspace("▁", "always", split=True)},
    "metaspace never": {"pre_tokenizer": pre_tokenizers.Metaspace("▁", "never", split=True)},
}
ADDED = {
    "none": [],
    "text": ["<b>", "<table>", "\n\n", "▁▁", "  "],
    "matched when spaces are marked": [AddedToken("<b>", normalized=True), "\n\n"],
    "single words": [AddedToken("mug", single_word=True, normalized=False), "<b>"],
}


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("kind", INVENTED)
def test_ids_of_odd_texts_with_added_tokens(kind: str, added: str):
    tokenizer = WordTokenizer(invented(**INVENTED[kind], added=ADDED[added]))
    assert tokenizer.keeps_words_apart
    texts = [*NAMED_TEXTS, *fuzzed(3, 400), *spaced(4, 400)]
    assert unequal(tokenizer, texts) == []
    assert share_by_words(tokenizer, texts) > 0.3


def test_a_limit_is_the_number_of_ids_that_are_wanted(shipped: WordTokenizer):
    texts = ["A red mug that holds 3.5 l.", "two  spaces are no words", ""] * 5
    limits = [0, 0, 0, 1, 1, 1, 2, 2, 2, 5, 5, 5, 99, 99, 99]
    whole = shipped.whole(texts)
    wanted = [ids[:limit] for ids, limit in zip(whole, limits, strict=True)]
    assert shipped(texts, limits) == wanted
    assert [len(ids) for ids in wanted[:9]] == [0, 0, 0, 1, 1, 0, 2, 2, 0]
    assert wanted[12:] == whole[12:]
    with pytest.raises(ValueError, match="zip"):
        shipped(texts, [1])


def test_words_behind_the_limit_are_not_looked_at():
    tokenizer = WordTokenizer(invented(LLAMA))
    assert len(tokenizer(["the red mug of words"], [2])[0]) == 2
    assert set(tokenizer.first_words) == {"the", "red"}


# Which tokenizers


@pytest.mark.parametrize(
    "tokenizer",
    [
        pytest.param(invented(GEMMA, pieces=[*PIECES, "of▁the"]), id="a piece goes over a space"),
        pytest.param(invented(GEMMA, pieces=[*PIECES, ".▁"]), id="a piece ends in a mark"),
        pytest.param(invented(pieces=["of the"], alphabet=LETTERS + " "), id="spaces stay spaces"),
        pytest.param(
            invented(normalizers.Prepend("▁"), alphabet=LETTERS + " "), id="only prepends"
        ),
        pytest.param(invented(GEMMA, alphabet=LETTERS[1:], pieces=["he"]), id="no piece is a mark"),
        pytest.param(invented(GEMMA, added=["of the"]), id="added over a space"),
        pytest.param(invented(GEMMA, added=["the "]), id="added with a space behind"),
        pytest.param(invented(LLAMA, added=[" the"]), id="added with a space in front"),
        pytest.param(invented(LLAMA, added=[" "]), id="added space"),
        pytest.param(invented(GEMMA, added=[AddedToken("▁")]), id="added mark"),
        pytest.param(invented(GEMMA, added=[AddedToken("of▁the")]), id="added over a mark"),
        pytest.param(
            invented(GEMMA, added=[AddedToken("<b>", rstrip=True, normalized=False)]),
            id="added token that takes the spaces behind it",
        ),
        pytest.param(
            invented(GEMMA, added=[AddedToken("<b>", lstrip=True, normalized=False)]),
            id="added token that takes the spaces before it",
        ),
        pytest.param(
            invented(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False)),
            id="byte level",
        ),
        pytest.param(
            invented(
                pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous"),
                pieces=["a ", "b "],
                alphabet=LETTERS + " ",
            ),
            id="splits behind spaces that stay spaces",
        ),
        pytest.param(
            invented(normalizers.Sequence([normalizers.NFKC(), GEMMA])), id="rewrites characters"
        ),
        pytest.param(invented(normalizers.Sequence([normalizers.Strip(), GEMMA])), id="strips"),
        pytest.param(invented(GEMMA, ignore_merges=True), id="looks words up"),
        pytest.param(invented(GEMMA, end_of_word_suffix="</w>"), id="has word ends"),
    ],
)
def test_a_tokenizer_that_joins_words_or_changes_them_is_asked_for_whole_texts(
    tokenizer: Tokenizer,
):
    texts = [*NAMED_TEXTS, *fuzzed(5, 300), *spaced(6, 300), "a b a", "x b <b> of the \n <b> b"]
    by_words = WordTokenizer(tokenizer)
    assert unequal(by_words, texts) == []
    assert not by_words.keeps_words_apart
    assert share_by_words(by_words, texts) == 0


def test_a_byte_level_tokenizer_gives_its_own_ids():
    """As GPT-2's and Llama 3's: a space becomes Ġ in front of the next word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {piece: number for number, piece in enumerate([*alphabet, "Ġm", "ug", "Ġmug"])}
    merges = [("Ġ", "m"), ("u", "g"), ("Ġm", "ug")]
    byte_level = Tokenizer(models.BPE(vocab=ids, merges=merges))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = WordTokenizer(byte_level)
    assert not tokenizer.keeps_words_apart
    assert pieces_of(tokenizer, "a mug mug") == ["a", "Ġmug", "Ġmug"]
    assert unequal(tokenizer, [*NAMED_TEXTS, *fuzzed(7, 500)]) == []
    assert tokenizer.framed_by_words("<s>", ["a mug"], "</s>")[0] is None


@pytest.mark.parametrize("kind", ["WordLevel", "Unigram", "WordPiece"])
def test_a_tokenizer_that_is_no_bpe_is_asked_for_whole_texts(kind: str):
    ids = {"<unk>": 0, "▁": 1, "▁a": 2, "▁mug": 3, "a": 4}
    model = {
        "WordLevel": lambda: models.WordLevel(ids, unk_token="<unk>"),
        "WordPiece": lambda: models.WordPiece(ids, unk_token="<unk>"),
        "Unigram": lambda: models.Unigram([(piece, -1.0) for piece in ids], unk_id=0),
    }[kind]()
    other = Tokenizer(model)
    other.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first")
    tokenizer = WordTokenizer(other)
    assert not tokenizer.keeps_words_apart
    assert tokenizer(["a mug", "a  mug"]) == tokenizer.whole(["a mug", "a  mug"])
    assert tokenizer(["a mug"]) == [[2, 3]]


def test_a_tokenizer_with_dropout_is_asked_for_whole_texts():
    """It gives other ids each time, which a cache would end."""
    description = json.loads(invented(GEMMA, dropout=0.5).to_str())
    assert not keeps_words_apart(description)
    description["model"]["dropout"] = None
    assert keeps_words_apart(description)


def test_characters_that_leave_no_ids_are_no_failure():
    """Without unknown token and byte pieces what is not known is left out."""
    silent = invented(GEMMA, unk_token=None, byte_fallback=False)
    tokenizer = WordTokenizer(silent)
    assert pieces_of(tokenizer, "書 a") == ["▁a"]
    assert unequal(tokenizer, [*NAMED_TEXTS, "書", "書 書", *fuzzed(8, 500)]) == []


# Frames


FRAMES = [
    ("", ""),
    ("<|user|>\n", "</s>\n<|user|>\n"),
    ("<s><|user|>", "</s>"),
    ("<|user|> ", " </s> a"),
    ("a <s> b", "c"),
    ("<", "/s>"),
]


def framed_texts(seed: int, added: Sequence[str]) -> list[str]:
    """Texts without control tokens: those are for the frame alone."""
    named = [
        "a b",
        "the red mug of a",
        " a b",
        "a \n b",
        "<b> a",
        "a <b>",
        "a<b> c",
        "a <b>c",
        "> <",
    ]
    bits = [*(bit for bit in ODD_BITS if bit not in ("<", "|")), *added]
    texts = [" ".join(text.split()) for text in fuzzed(seed, 250, bits)] + fuzzed(seed, 50, bits)
    return named + [text for text in texts if not any(t in text for t in ("<unk>", *CONTROL))]


def check_frames(tokenizer: WordTokenizer, texts: Sequence[str]) -> int:
    """Returns how many texts had their ids by words; fails unless they are those of the whole."""
    num_found = 0
    wrong = []
    for before, after in FRAMES:
        framed = tokenizer.whole([before + text + after for text in texts], has_control_tokens=True)
        for text, wanted in zip(texts, framed, strict=True):
            ids = tokenizer.framed_by_words(before, [text], after)[0]
            num_found += ids is not None
            if ids not in (None, wanted):
                wrong.append((before, text, after))
    assert wrong == []
    return num_found


def test_a_frame_may_hold_control_tokens():
    tokenizer = WordTokenizer(invented(LLAMA))
    ids = tokenizer.framed_by_words("<|user|>\n", ["a red mug"], "</s>\n")[0]
    assert ids is not None
    pieces = [tokenizer.backend.id_to_token(token_id) for token_id in ids]
    assert pieces == ["<|user|>", "▁", "\n", "a", "▁red", "▁mug", "</s>", "▁", "\n"]


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("kind", INVENTED)
def test_ids_in_a_frame_are_those_of_the_whole(kind: str, added: str):
    tokenizer = WordTokenizer(invented(**INVENTED[kind], added=ADDED[added]))
    assert check_frames(tokenizer, framed_texts(9, ["<b>", "\n\n"])) > 200


def test_control_tokens_that_take_spaces_do_so_in_frames():
    """As Phi's: behind its control tokens white space is left out."""
    taking = invented(GEMMA)
    taking.add_special_tokens([AddedToken("<|user|>", rstrip=True, special=True)])
    tokenizer = WordTokenizer(taking)
    texts = [*framed_texts(10, []), " a b", "\n \n a b"]
    check_frames(tokenizer, texts)
    assert unequal(tokenizer, texts) == []


def test_one_word_has_no_frame_of_its_own(shipped: WordTokenizer):
    assert shipped.framed_by_words("<s>", ["mug"], "</s>")[0] is None
    assert shipped.framed_by_words("<s>", ["a  mug"], "</s>")[0] is None
    assert shipped.framed_by_words("<s>", ["a mug"], "</s>")[0] is not None


def test_a_text_of_few_tokens_is_read_on_until_there_are_enough():
    """Eleven characters a token: what is read at first has not half of the ids that are wanted."""
    tokenizer = WordTokenizer(invented(LLAMA, pieces=["▁theremugred"]))
    text = " ".join(["theremugred"] * 300)
    assert len(tokenizer.whole([text])[0]) == 300
    for limit in (200, 299, 300, 301):
        assert tokenizer([text], [limit]) == [tokenizer.whole([text])[0][:limit]]
    unbroken = "theremugred" * 300
    assert tokenizer([unbroken], [200]) == [tokenizer.whole([unbroken])[0][:200]]


# The cache


class Counted:
    """A tokenizer's core that notes how many texts it was asked for."""

    def __init__(self, backend: Tokenizer) -> None:
        self.backend = backend
        self.num_texts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
        self.num_texts += len(texts)
        return self.backend.encode_batch_fast(texts, **options)

    def encode(self, text: str, **options: Any) -> Any:
        self.num_texts += 1
        return self.backend.encode(text, **options)


def counted() -> tuple[WordTokenizer, Counted]:
    backend = Counted(invented(GEMMA))
    return WordTokenizer(backend), backend  # pyright: ignore[reportArgumentType]


def test_a_word_is_tokenised_once():
    tokenizer, backend = counted()
    texts = ["the red mug", "a red red mug", "the  mug"]
    backend.num_texts = 0
    first = tokenizer(texts)
    assert backend.num_texts == 4 + 1  # the, a; red, mug behind a space; and a text of no words
    assert tokenizer(texts) == first
    assert backend.num_texts == 5 + 1
    tokenizer(["mug the red"])
    assert backend.num_texts == 6 + 2  # mug in front, the behind a space


def test_a_frame_is_tokenised_once():
    tokenizer, backend = counted()
    for _ in range(3):
        before = backend.num_texts
        tokenizer.framed_by_words("<|user|>", ["the red mug"], "</s>")[0]
    assert backend.num_texts == before


def test_the_known_words_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vocabulary, "MAX_WORDS", 3)
    tokenizer = WordTokenizer(invented(LLAMA))
    texts = ["the red mug of a b c", "c b a of mug red the", "d e f"]
    assert unequal(tokenizer, texts) == []
    assert sorted(tokenizer.first_words) == ["mug", "red", "the"]


def test_very_long_words_are_not_kept():
    tokenizer = WordTokenizer(invented(LLAMA))
    texts = ["a " + "m" * 100, "a " + "m" * 101]
    assert unequal(tokenizer, texts) == []
    assert sorted(tokenizer.first_words) == ["a", "m" * 100]


def test_what_is_returned_is_the_callers_own():
    """A caller that adds to the ids must not add to a known word."""
    tokenizer = WordTokenizer(invented(GEMMA))
    for _ in range(2):
        ids = tokenizer(["mug"])[0]
        framed = tokenizer.framed_by_words("<s>", ["a mug"], "</s>")[0]
        assert framed is not None
        ids.append(7)
        framed.append(7)
    assert tokenizer(["mug"]) == tokenizer.whole(["mug"])
    assert framed[:-1] == tokenizer.whole(["<s>a mug</s>"], has_control_tokens=True)[0]


@pytest.mark.parametrize("kind", INVENTED)
def test_a_copy_in_another_process_gives_the_same_ids(kind: str):
    tokenizer = WordTokenizer(invented(**INVENTED[kind], added=["<b>", "\n\n"]))
    texts = [*NAMED_TEXTS, *fuzzed(11, 300)]
    wanted = tokenizer(texts)
    data = pickle.dumps(tokenizer)
    copy = pickle.loads(data)
    assert (len(copy.first_words), len(copy.later_words)) == (0, 0)
    assert copy.keeps_words_apart
    assert copy(texts) == wanted == tokenizer.whole(texts)
    assert len(pickle.dumps(tokenizer)) == len(data)  # known words do not travel


def test_white_space_and_marks_inside_words_change_nothing(shipped: WordTokenizer):
    """Every two odd bits beside each other, with and without a space between."""
    pairs = [a + space + b for a, b in pairwise(ODD_BITS * 2) for space in ("", " ")]
    assert len(pairs) > 200
    assert unequal(shipped, pairs) == []


# Real text


@pytest.fixture(scope="module")
def real_texts(real_dir: Path) -> list[str]:
    """All real titles and descriptions, as they were read and as they are cleaned."""
    clean = Cleaner()
    read = [row for row in read_products(real_dir / "trn.json.gz") if isinstance(row, Product)]
    cleaned = [row for row in map(clean, read) if isinstance(row, Product)]
    assert min(len(read), len(cleaned)) > 8_000
    texts = [text for row in (*read, *cleaned) for text in (row.title, row.description)]
    with (real_dir / "quirk_samples.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            texts += [value for value in json.loads(line).values() if isinstance(value, str)]
    return list(dict.fromkeys(texts))


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(("base", "step"), [("tinyllama", 1), ("stories260k", 5)])
def test_ids_of_real_texts(base: str, step: int, real_dir: Path, real_texts: list[str]):
    tokenizer = WordTokenizer(Tokenizer.from_file(str(real_dir / base / "tokenizer.json")))
    assert tokenizer.keeps_words_apart
    texts = real_texts[::step]
    found = {text: tokenizer.by_words([text])[0] for text in texts}
    made_of_words = [text for text in texts if found[text] is not None]
    assert len(made_of_words) > 12_000 / step
    wanted = zip(made_of_words, tokenizer.whole(made_of_words), strict=True)
    assert [text for text, ids in wanted if ids != found[text]] == []


@pytest.mark.real
@pytest.mark.parametrize("base", ["tinyllama", "stories260k"])
def test_real_tokenizers_ids_of_odd_texts(base: str, real_dir: Path):
    tokenizer = WordTokenizer(Tokenizer.from_file(str(real_dir / base / "tokenizer.json")))
    assert unequal(tokenizer, [*NAMED_TEXTS, *fuzzed(12, 3_000), *spaced(13, 2_000)]) == []
    assert check_frames(tokenizer, framed_texts(14, ["Gere", "Título: "])) > 300


@pytest.mark.real
def test_tinyllama_with_added_tokens(real_dir: Path):
    backend = Tokenizer.from_file(str(real_dir / "tinyllama" / "tokenizer.json"))
    backend.add_tokens([AddedToken("<b>", normalized=False), AddedToken("<table>")])
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = WordTokenizer(backend)
    assert tokenizer.keeps_words_apart
    texts = framed_texts(15, ["<b>", "<table>", "<|im_end|>"])
    assert unequal(tokenizer, [*NAMED_TEXTS, *texts, *fuzzed(16, 2_000)]) == []
    assert check_frames(tokenizer, [text for text in texts if "<|im" not in text]) > 150
