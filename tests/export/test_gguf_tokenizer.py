"""llama.cpp gives a text the ids that the base's own tokenizer gives it."""

import gzip
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from amazon_desc.data.encoding.tokenizer import backend_of, load_tokenizer
from amazon_desc.export.gguf.pretokenizers import REST, WORDS, splitting_of, steps_of
from amazon_desc.export.gguf.tokenizer import NO_SCORE, scores_of, vocabulary_of
from amazon_desc.export.gguf.writer import write_gguf
from amazon_desc.support.errors import UserError
from tests.export.llama_cpp import LlamaCpp
from tests.export.small_gemma import gemma_tokenizer
from tests.export.test_gguf import OF_GEMMA, SHAPE, TINY

ODD = [
    *("a", "A  b   c", "  two spaces first", "tab\there", "line\nbreak\n\nand two\n", "ends "),
    *(
        "3.5 in 12345 67",
        "don't you'LL WE'VE",
        "naïve café — “quoted” …",
        "日本語のマグ",
        "🚀🚀 ok",
        "½ €5",
    ),
    *("<s> and </s> are text", "<unk>", "zero\u200bwidth", "nbsp\u00a0here", "a\u0301 composed"),
]


def sample_texts() -> list[str]:
    with gzip.open(TINY.parent / "sample.json.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row["content"] for row in rows]


@pytest.fixture(scope="session")
def real_texts(real_dir: Path) -> list[str]:
    """1,000 titles and 1,000 contents of real rows, as they are, uncleaned."""
    with gzip.open(real_dir / "trn.json.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = [row[field].strip()[:4_000] for field in ("title", "content") for row in rows]
    titles, contents = texts[: len(rows)], texts[len(rows) :]
    chosen = [text for text in titles if text][:1_000] + [text for text in contents if text][:1_000]
    assert len(chosen) == 2_000
    return chosen


def loaded(folder: Path, file: Path, model_type: str = "llama", **changes: Any) -> LlamaCpp:
    """Returns llama.cpp with the folder's tokenizer, on a random model."""
    settings = {**SHAPE, "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32}
    rows = 1 + max(backend_of(load_tokenizer(folder)).get_vocab().values())
    config = AutoConfig.for_model(model_type, **{**settings, "vocab_size": rows, **changes})
    model = AutoModelForCausalLM.from_config(config)
    write_gguf(model.state_dict().items(), config, folder, file, "f16", {})
    return LlamaCpp(file)


def assert_same_ids(llama: LlamaCpp, folder: Path, texts: list[str]) -> None:
    backend = backend_of(load_tokenizer(folder))
    # control tokens in a text are text: llama.cpp is asked for the same
    others = [
        text
        for text in texts
        if llama.ids(text) != backend.encode(text, add_special_tokens=False).ids
    ]
    assert others == []
    start = backend.encode("a mug", add_special_tokens=True).ids
    assert llama.ids("a mug", with_special=True) == start


def byte_pair_tokenizer(
    folder: Path, *steps: Any, ignore_merges: bool = False, **more: Any
) -> Path:
    """Trains and saves a byte-level BPE tokenizer of 600 tokens that splits by these steps."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps)) if steps[1:] else steps[0]
    tokenizer.normalizer = more.get("normalizer")
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*sample_texts()[:300], *ODD * 5], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>"
    ).save_pretrained(folder)
    return folder


def byte_level(use_regex: bool) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def words(digits: str) -> Any:
    return pre_tokenizers.Split(Regex(WORDS + digits + REST), behavior="isolated")


BYTE_PAIRS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "gpt-2": ([byte_level(True)], {}),
    "smollm": ([pre_tokenizers.Digits(individual_digits=True), byte_level(True)], {}),
    "llama-bpe": ([words(r"\p{N}{1,3}"), byte_level(False)], {"ignore_merges": True}),
    "qwen2": ([words(r"\p{N}"), byte_level(False)], {}),
}


@pytest.mark.parametrize("pre", BYTE_PAIRS)
def test_byte_pairs_have_the_ids_of_their_own_splitting(pre: str, tmp_path: Path):
    steps, more = BYTE_PAIRS[pre]
    folder = byte_pair_tokenizer(tmp_path / "tokenizer", *steps, **more)
    llama = loaded(folder, tmp_path / "m.gguf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == pre
    assert_same_ids(llama, folder, [*ODD, *sample_texts()[300:400]])


def test_pieces_have_the_ids_of_the_shipped_base(tmp_path: Path):
    llama = loaded(TINY, tmp_path / "m.gguf")
    # llama.cpp has every text that is a control token's for one, if pieces of it make it up
    texts = [text for text in ODD if "<" not in text and not text.startswith(" ")]
    assert_same_ids(llama, TINY, [*texts, *sample_texts()[:500]])
    assert llama.ids("a mug", with_special=True)[:1] == [1]


def test_gemmas_pieces_have_their_ids_and_no_space_in_front(tmp_path: Path):
    folder = gemma_tokenizer(tmp_path / "gemma", sample_texts()[:300])
    llama = loaded(folder, tmp_path / "m.gguf", "gemma3_text", **{**OF_GEMMA, "vocab_size": 700})
    texts = [*(text for text in ODD if "<" not in text), "a\n\n\nb", "x    y", "<strong>bold"]
    assert_same_ids(llama, folder, [*texts, *sample_texts()[300:500]])
    bos, first, *_ = llama.ids("mug", with_special=True)
    assert bos == 2
    assert not load_tokenizer(folder).convert_ids_to_tokens(first).startswith("▁")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinyllama", "stories260k", "tiny"])
def test_real_texts_have_the_same_ids(
    name: str, tmp_path: Path, real_dir: Path, real_texts: list[str]
):
    folder = TINY if name == "tiny" else real_dir / name
    assert_same_ids(loaded(folder, tmp_path / "m.gguf"), folder, real_texts)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("pre", BYTE_PAIRS)
def test_real_texts_have_the_same_ids_in_byte_pairs(
    pre: str, tmp_path: Path, real_texts: list[str]
):
    steps, more = BYTE_PAIRS[pre]
    folder = byte_pair_tokenizer(tmp_path / "tokenizer", *steps, **more)
    assert_same_ids(loaded(folder, tmp_path / "m.gguf"), folder, real_texts)


def test_the_order_of_scores_is_that_of_a_sentencepiece_model():
    """So a tokenizer.model need not be there: of a saved tokenizer it mostly is not."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = sentencepiece.SentencePieceProcessor(model_file=str(TINY / "tokenizer.model"))
    vocabulary = vocabulary_of(TINY)
    made = [index for index, score in enumerate(vocabulary.scores) if score != NO_SCORE]
    assert len(made) > 1_000
    assert [model.id_to_piece(index) for index in made] == [vocabulary.tokens[i] for i in made]
    by_ours = sorted(made, key=lambda index: -vocabulary.scores[index])
    assert by_ours == sorted(made, key=lambda index: -model.get_score(index))


def test_a_piece_that_is_made_sooner_has_a_higher_score():
    tokens, merges = ["m", "▁a", "mu", "mug"], [["▁", "a"], ["m", "u"], ["mu", "g"], ["m", "ug"]]
    assert scores_of(tokens, merges) == [NO_SCORE, 0, -1, -2]


def test_each_token_has_its_type_and_a_text_of_its_own(tmp_path: Path):
    folder = gemma_tokenizer(tmp_path / "gemma", sample_texts()[:300])
    vocabulary = vocabulary_of(folder, 720)
    kinds = gguf.TokenType
    type_of = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == 720
    assert type_of["<start_of_turn>"] == type_of["<bos>"] == kinds.CONTROL
    assert type_of["<0x0A>"] == kinds.BYTE
    assert type_of["<unk>"] == kinds.UNKNOWN
    assert type_of["\n\n"] == type_of["<strong>"] == kinds.USER_DEFINED
    assert type_of["   "] == kinds.USER_DEFINED  # three spaces, as they stand in a text
    assert type_of["▁a"] == kinds.NORMAL
    assert type_of["[PAD719]"] == kinds.UNUSED


def test_a_token_that_was_added_beyond_the_rows_is_left_out(tmp_path: Path):
    folder = gemma_tokenizer(tmp_path / "gemma", sample_texts()[:300])
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(tmp_path / "more")
    assert "<image_soft_token>" in vocabulary_of(tmp_path / "more").tokens
    assert vocabulary_of(tmp_path / "more", 700).tokens == vocabulary_of(folder, 700).tokens
    assert len(vocabulary_of(folder, 900, fill=False).tokens) < 900


def test_more_pieces_than_rows_are_refused():
    with pytest.raises(UserError, match="found 2000 rows and the token 2047"):
        vocabulary_of(TINY, 2_000)


@pytest.mark.parametrize(
    ("steps", "more"),
    [
        ([byte_level(True)], {"normalizer": normalizers.Lowercase()}),
        ([byte_level(True)], {"ignore_merges": True}),
        ([pre_tokenizers.Whitespace(), byte_level(False)], {}),
        ([pre_tokenizers.ByteLevel(add_prefix_space=True)], {}),
        ([words(r"\p{N}{1,3}"), byte_level(False)], {}),  # Llama 3 takes whole words first
    ],
    ids=["lower case", "whole words first", "white space", "space in front", "llama 3 by merges"],
)
def test_a_splitting_that_is_not_known_is_refused_and_not_guessed(
    steps: list[Any], more: dict[str, Any], tmp_path: Path
):
    folder = byte_pair_tokenizer(tmp_path, *steps, **more)
    with pytest.raises(UserError, match=r"Wanted a SentencePiece BPE \(Llama 2, Gemma\)"):
        vocabulary_of(folder)


def test_a_unigram_tokenizer_is_refused():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, byte_fallback=False))
    with pytest.raises(UserError, match="found Unigram"):
        splitting_of(json.loads(tokenizer.to_str()), Path("folder"))


def test_steps_are_what_decides_ids():
    split = {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": False}
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    assert steps_of(None) == ()
    assert steps_of({"type": "Sequence", "pretokenizers": [split, level]}) == (
        ("Split", "a", "Isolated"),
        ("ByteLevel", False, True),
    )
