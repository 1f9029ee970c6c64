"""The tokenizer of a base: loaded, fingerprinted, and what encoding has to know of it.

In comes a base's folder, out go its tokenizer as transformers has it, or that tokenizer's core, a
tokenizers.Tokenizer, which needs no transformers and can be sent to another process.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a base; code that comes with a base is never run."""
    from transformers import AutoTokenizer

    try:
        # left open, transformers would ask on the terminal whether to run a base's code
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of what class is up to tokenizers, which raises Exception itself
        raise UserError(
            f"--model.backbone {folder}: its tokenizer cannot be read by the transformers that is "
            f"installed ({first_line(error)}). Copy its files again if they are damaged, or name "
            f"another base."
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{folder}: its tokenizer names no end token (eos_token), so no description could ever "
            f"end. Set eos_token in tokenizer_config.json, or name another --model.backbone."
        )
    return tokenizer


def tokenizer_fingerprint(folder: Path) -> str:
    """Returns a sha256 over the files that decide what a text's ids are."""
    digest = hashlib.sha256()
    for file in tokenizer_files(folder):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def tokenizer_files(folder: Path) -> list[Path]:
    """Returns the files that decide what a text's ids are, the chat template among them."""
    patterns = ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*"]
    if not (folder / "tokenizer.json").is_file():  # older forms: what it would be made of
        patterns += ["vocab.*", "merges.txt", "s*.model", "*.tiktoken"]
    return [file for pattern in patterns for file in sorted(folder.glob(pattern))]


def pieces_by_id(backend: Tokenizer) -> list[str]:
    """Returns the text of each token; an id that is not in use has a text that means nothing."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    pieces = ["\0"] * (1 + max(vocabulary.values()))
    for piece, token_id in vocabulary.items():
        pieces[token_id] = piece or "\0"
    return pieces


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Returns a copy of the tokenizer's own core, which nobody else's calls can set up anew."""
    from tokenizers import Tokenizer

    core = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(core, Tokenizer):
        raise UserError(
            f"--model.backbone: wanted a tokenizer that the tokenizers library can run "
            f"(tokenizer.json), found {type(tokenizer).__name__}. Name another base, or convert "
            f"this tokenizer and save it beside the base."
        )
    copy = Tokenizer.from_str(core.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def control_strings(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Returns every text that this tokenizer would read as a control token.

    Other added tokens are text with an id of its own, such as Gemma's double line break.
    """
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
