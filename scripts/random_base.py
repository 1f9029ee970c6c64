"""Makes a base of random weights in a published shape, and products for it: to measure speed on.

In: a shape's name, a folder. Out: a base's folder with the tokenizer of the tiny base that ships,
and a file of products whose lengths in tokens are those of the real data set. Speed and memory do
not depend on what the weights or the words are. No download, no model of any use.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amazon_desc.support.resources import TINY_BASE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Model type and shape. `tiny` is the base that ships, as it is.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tinyllama": (
        "llama",
        {
            "vocab_size": 32_000,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
        },
    ),
    "gemma3-4b": (
        "gemma3_text",
        {
            "vocab_size": 262_208,
            "hidden_size": 2560,
            "intermediate_size": 10_240,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 1024,
            "query_pre_attn_scalar": 256,
            "max_position_embeddings": 131_072,
        },
    ),
}
BOS, EOS = 1, 2

# Tokens of the real contents: median 118, log-normal. With the reference run's prompt, 23 % of the
# examples are then too long for 256 tokens.
MEDIAN_TOKENS, SPREAD = 118, 0.72
SENTENCE_WORDS, TITLE_WORDS = (4, 20), (4, 16)  # at least and at most


def make_base(shape: str, folder: Path) -> Path:
    """Returns the folder of a base of that shape; made in `folder`, if it is not there yet."""
    if shape == "tiny":
        return TINY_BASE
    base = folder / shape
    if base.is_dir():
        return base
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    kind, settings = SHAPES[shape]
    ids = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": EOS}
    config = AutoConfig.for_model(kind, **settings, **ids)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    partial = folder / f"{shape}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(TINY_BASE / "tokenizer.json"),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )
    tokenizer.save_pretrained(partial)
    return partial.rename(base)


def write_products(file: Path, tokenizer: PreTrainedTokenizerBase, num: int, seed: int = 0) -> None:
    """Writes products of random words as JSON lines, with the real data set's lengths in tokens."""
    words, rng = words_of_one_token(tokenizer), random.Random(seed)
    with file.open("w", encoding="utf-8") as lines:
        for _ in range(num):
            num_tokens = round(rng.lognormvariate(math.log(MEDIAN_TOKENS), SPREAD))
            title = " ".join(rng.choices(words, k=rng.randint(*TITLE_WORDS)))
            content = " ".join(sentences(words, max(num_tokens, 4), rng))
            lines.write(json.dumps({"title": title, "content": content}) + "\n")


def sentences(words: list[str], num_tokens: int, rng: random.Random) -> Iterator[str]:
    """Yields sentences that have so many tokens together, each full stop being one of them."""
    while num_tokens > 1:
        num_words = min(rng.randint(*SENTENCE_WORDS), num_tokens - 1)
        yield " ".join(rng.choices(words, k=num_words)) + "."
        num_tokens -= num_words + 1


def words_of_one_token(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns the vocabulary's lower-case words of at least three letters, in alphabetic order."""
    pieces = tokenizer.get_vocab()
    words = {piece[1:] for piece in pieces if piece.startswith(("▁", "Ġ"))}
    return sorted(w for w in words if len(w) > 2 and w.isascii() and w.isalpha() and w.islower())
