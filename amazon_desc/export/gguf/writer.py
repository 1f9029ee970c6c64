"""A tuned model -> one GGUF file, which llama.cpp, Ollama and what is built on them load.

In come weights one at a time, under transformers' names and in float32; out goes the file, whole or
not at all. The head of the file (settings, tokenizer, places of the tensors) follows from the
configuration, so each weight is written where it belongs and forgotten.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from amazon_desc.export.gguf.families import (
    ARCHITECTURES,
    Target,
    add_settings,
    check_config,
    rotation_factors,
    targets_of,
)
from amazon_desc.export.gguf.metadata import add_facts
from amazon_desc.export.gguf.package import gguf_package
from amazon_desc.export.gguf.places import (
    add_tensors,
    bytes_of,
    fallbacks,
    placed,
    write_head,
    write_tensor,
)
from amazon_desc.export.gguf.quantizing import check_kind, file_type
from amazon_desc.export.gguf.tokenizer import vocabulary_of
from amazon_desc.support.errors import UserError
from amazon_desc.support.files import replacing_file
from amazon_desc.support.printing import say

if TYPE_CHECKING:
    from amazon_desc.data.encoding.encoder import Encoder

# No weight of the model: llama3's way to rotate, made from its settings.
ROTATION = "rope_freqs.weight"


def write_gguf(
    weights: Iterable[tuple[str, Tensor]],
    config: Any,
    tokenizer_folder: Path,
    file: Path,
    kind: str,
    facts: dict[str, str],
    *,
    encoder: Encoder | None = None,
) -> None:
    """Writes a model as GGUF; at most one weight and a copy of some of its rows are in memory.

    Args:
        weights: transformers' names of the text model, float32; in any order, each once. A head
            that is the embedding may come or not
        config: transformers' configuration of the text model
        kind: f32, f16, bf16, q8_0 or q4_0; vectors and norms are always f32
        facts: what is known of the model (metadata.py), such as its name and license
        encoder: of the run: the file then begins and ends texts as the run does; None: as the
            tokenizer does by itself

    Raises:
        UserError: llama.cpp cannot run this model or tokenizer, or the weights are not those of the
            configuration.
    """
    layout = Layout(config, tokenizer_folder, kind, facts, encoder)
    with replacing_file(file) as temporary:
        start = write_head(layout.gguf_writer(), temporary)
        with temporary.open("r+b") as out:
            out.truncate(start + layout.num_bytes)
            left = dict(layout.places)
            for name, weight in layout.all_of(weights):
                if name not in left:
                    raise UserError(
                        f"GGUF: {name} is a weight that this model does not have, or has twice. "
                        f"Export weights and configuration of one model."
                    )
                write_tensor(out, start, left.pop(name), name, weight)
        if left:
            raise UserError(
                f"GGUF: wanted {len(layout.places)} weights, found {len(left)} of them missing "
                f"(first: {next(iter(left))}). Export weights and configuration of one model."
            )
    if sentence := fallbacks(kind, layout.places.values()):
        say(sentence)


def gguf_bytes(
    config: Any,
    tokenizer_folder: Path,
    kind: str,
    facts: dict[str, str],
    *,
    encoder: Encoder | None = None,
) -> int:
    """Returns the size in bytes that `write_gguf` would give the file; no weights are needed."""
    layout = Layout(config, tokenizer_folder, kind, facts, encoder)
    with tempfile.TemporaryDirectory() as folder:
        return write_head(layout.gguf_writer(), Path(folder) / "head.gguf") + layout.num_bytes


class Layout:
    """What stands where in the file of a model; made before any weight is."""

    def __init__(
        self,
        config: Any,
        tokenizer_folder: Path,
        kind: str,
        facts: dict[str, str],
        encoder: Encoder | None,
    ) -> None:
        check_kind(kind)
        self.config = config.get_text_config(decoder=True)
        check_config(self.config)
        self.kind, self.facts = kind, facts
        self.arch = ARCHITECTURES[self.config.model_type]
        # llama.cpp's Gemma has as many rows as tokens; its Llama has a token for each row
        self.vocabulary = vocabulary_of(
            tokenizer_folder, self.config.vocab_size, encoder, fill=self.arch != "gemma3"
        )
        targets = targets_of(self.config, len(self.vocabulary.tokens))
        self.factors = rotation_factors(self.config)
        if self.factors is not None:
            targets[ROTATION] = Target(ROTATION, tuple(self.factors.shape))
        has_head = "lm_head.weight" in targets
        head = "output.weight" if has_head else "token_embd.weight"
        places = placed(targets.values(), kind, head)
        self.places = dict(zip(targets, places, strict=True))
        self.num_bytes = bytes_of(places)

    def gguf_writer(self) -> Any:
        """Returns a writer that knows all but the weights."""
        gguf = gguf_package()
        writer = gguf.GGUFWriter(None, self.arch)
        add_tensors(writer, self.places.values())
        writer.add_type(gguf.GGUFType.MODEL)
        add_facts(writer, self.facts)
        writer.add_size_label(gguf.size_label(*writer.get_total_parameter_count()))
        add_settings(writer, self.config, len(self.vocabulary.tokens))
        writer.add_file_type(file_type(self.kind))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        self.vocabulary.add_to(writer)
        return writer

    def all_of(self, weights: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
        """Yields what the file has of the weights, and what is made from settings."""
        if self.factors is not None:
            yield ROTATION, self.factors
        for name, weight in weights:
            if name != "lm_head.weight" or not self.config.tie_word_embeddings:
                yield name, weight
