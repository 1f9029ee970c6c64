"""What a base does, tried on two short examples: by which attention it is right, if by any.

In comes a base's folder, or a loaded model, out goes the attention, or a refusal that says what is
wrong. What a family does is tried, not looked up by its name: that no token sees a later one, that
no example sees another, that our logits are those of transformers, and that padding before a prompt
changes no text. Before a base is fetched, a miniature with random weights is tried in its place.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from amazon_desc.data.corpus.packing import Row
from amazon_desc.data.loading.batches import RowBatch, collate_rows
from amazon_desc.model import attention
from amazon_desc.model.loss import hidden_states, logits_of
from amazon_desc.model.suitability import read_config
from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import Backbone, first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LENGTHS = (7, 9)  # of the two examples, in tokens
NEW_TOKENS = 2  # the second one is written with a cache

# Of the miniature. With fewer pieces its embedding is small, and every family takes as many; with
# windows shorter than an example, what they hide is tried too.
NUM_PIECES = 64  # more than there are ids in the examples
NARROWED = ("intermediate_size", "moe_intermediate_size", "ffn_dim", "n_inner")
# What kinds of layers there are; by the second name alone in Jamba, and in RecurrentGemma of
# transformers 5.17.
KINDS = ("layer_types", "layers_block_type")
WINDOWS, WINDOW = ("sliding_window", "attention_chunk_size"), 5

# How far numbers may be apart that should be equal, as a share of their norm. In half precision
# rounding adds up over the layers of a large base; what is wrong there is wrong by more.
TOLERANCE, HALF_TOLERANCE = 1e-4, 0.2

NOT_FINITE = "computes numbers that are not finite in {dtype}"
NOT_CAUSAL = (
    "is not causal here: a token sees those that follow, so it would learn to copy a description "
    "instead of writing one"
)
LEAKS = "computes other numbers for an example when there are others beside it"
OTHER_LOGITS = "turns hidden states into logits in a way that is not known here"
PADDED = "writes other texts for a prompt when there is padding before it"


@functools.cache
def attention_for(base: Backbone) -> str | None:
    """Returns the attention that a base's family is right with, tried on a miniature of it.

    None: none can be made, so it shows on the loaded base.

    Raises:
        UserError: it is right with none.
    """
    config = read_config(base)
    try:
        small = miniature(config)
    except Exception:  # of what class is up to each family
        return None
    return choose_attention(small, base.name)


def choose_attention(model: Any, name: str, among: Iterable[str] | None = None) -> str:
    """Gives a model the first attention that it is right with, and returns that.

    Args:
        among: what to try; None: all, the faster one first

    Raises:
        UserError: it is right with none; what is wrong with the last of them.
    """
    fault = ""
    for one in among or (attention.register(), attention.UNPACKED):
        try:
            set_attention(model, one)
            fault = fault_of(model)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of what class is up to each family
            fault = f"cannot compute what training needs ({first_line(error)})"
        if not fault:
            return model.config._attn_implementation
    raise UserError(
        f"--model.backbone {name}: {model.config.model_type} {fault}. Name a base of another "
        f"family, such as Llama or Gemma 3."
    )


def set_attention(model: Any, name: str) -> None:
    """Asks transformers for an attention; a family that has only one keeps it."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it would say so each time
    try:
        model.set_attn_implementation(name)
    finally:
        logging.set_verbosity(before)


@contextmanager
def attending(model: Any, name: str) -> Iterator[None]:
    """Has a model attend in another way for a while."""
    mine = model.config._attn_implementation
    if name != mine:
        set_attention(model, name)
    try:
        yield
    finally:
        if name != mine:
            set_attention(model, mine)


@torch.no_grad()
def fault_of(model: Any) -> str:
    """Returns what is wrong with a model as it is, in words that follow its name; "": nothing."""
    embeddings = model.get_input_embeddings().weight
    device, ids = embeddings.device, ordinary_ids(len(embeddings), embeddings.device)
    changed = ids.clone()
    changed[-1] += 1
    examples = ids.split(LENGTHS)
    with at_rest(model, device):
        packed = hidden_states(model, row_of(examples))[0]
        early = hidden_states(model, row_of(changed.split(LENGTHS)))[0, :-1]
        alone = [hidden_states(model, row_of([example]))[0] for example in examples]
        new_ids, written = write(model, examples)
        wholes = [torch.cat([*pair]) for pair in zip(examples, new_ids[:, :-1], strict=True)]
        theirs = [reference_logits(model, whole) for whole in wholes]
        ours = [logits_of(model, states) for states in alone]
    if not packed.isfinite().all():
        return NOT_FINITE.format(dtype=str(embeddings.dtype).removeprefix("torch."))
    before_new = [logits[: len(mine)] for logits, mine in zip(theirs, ours, strict=True)]
    of_new = torch.stack([logits[-NEW_TOKENS:] for logits in theirs])
    tolerance = TOLERANCE if embeddings.dtype == torch.float32 else HALF_TOLERANCE
    for fault, found, wanted in (
        (NOT_CAUSAL, early, packed[:-1]),
        (LEAKS, packed, torch.cat(alone)),
        (OTHER_LOGITS, torch.cat(ours), torch.cat(before_new)),
        (PADDED, written, of_new),
    ):
        if not are_equal(found, wanted, tolerance):
            return fault
    return ""


def ordinary_ids(num_pieces: int, device: torch.device) -> Tensor:
    """Returns the ids of the examples: pieces that occur in text, none like the other.

    Control tokens at either end of a vocabulary would do as ids, but a trained base makes such
    numbers of them that rounding alone changes them by more than half.

        num_pieces = 64     ids = 4, 6, 8, ..., 34
    """
    return num_pieces // 16 + num_pieces // 32 * torch.arange(sum(LENGTHS), device=device)


@contextmanager
def at_rest(model: Any, device: torch.device) -> Iterator[None]:
    """Has a model compute as texts are written: without dropout, outside of autocast."""
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        model.train(was_training)


def row_of(examples: Sequence[Tensor]) -> RowBatch:
    """Returns one packed row, as training would have it."""
    ids, lengths = torch.cat([*examples]), [len(example) for example in examples]
    row: Row = {
        "input_ids": ids.tolist(),
        "lengths": lengths,
        "prompt_lengths": [1] * len(lengths),
    }
    return collate_rows([row], len(ids), pad_id=0, loss_on="completion").to(ids.device)


def write(model: Any, prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Writes as texts are written: greedily, with a cache, padding before the shorter prompt.

    Returns the new ids, (2, NEW_TOKENS), and the logits that they were chosen by,
    (2, NEW_TOKENS, vocabulary).
    """
    from transformers import GenerationConfig

    longest = max(LENGTHS)
    padded = torch.stack([pad(prompt, (longest - len(prompt), 0)) for prompt in prompts])
    is_token = torch.stack([pad(torch.ones_like(p), (longest - len(p), 0)) for p in prompts])
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    before, model.generation_config = model.generation_config, settings
    try:  # transformers fills open fields from the model's own settings
        written = model.generate(padded, attention_mask=is_token, generation_config=settings)
    finally:
        model.generation_config = before
    return written.sequences[:, longest:], torch.stack(written.logits, dim=1).float()


def reference_logits(model: Any, ids: Tensor) -> Tensor:
    """Returns transformers' own logits of one sequence, (T, vocabulary), in float32."""
    with attending(model, attention.UNPACKED):
        return model(input_ids=ids[None], use_cache=False).logits[0].float()


def are_equal(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Whether numbers are equal but for rounding; those that are not finite never are."""
    found, wanted = found.float(), wanted.float()
    return bool((found - wanted).norm() <= tolerance * wanted.norm())


def miniature(config: PretrainedConfig) -> Any:
    """Returns a model of the same family and layers, as few, thin and random as they can be."""
    from transformers import AutoModelForCausalLM

    small: Any = copy.deepcopy(config.get_text_config(decoder=True))
    name = next((name for name in KINDS if getattr(small, name, None)), None)
    num_layers, kinds = 1, getattr(small, name) if name else None
    if name and kinds:  # one layer of each kind at least
        num_layers = 1 + max(kinds.index(kind) for kind in set(kinds))
        with suppress(AttributeError):  # some families work them out
            setattr(small, name, kinds[:num_layers])
    small.num_hidden_layers = num_layers
    small.vocab_size = NUM_PIECES
    for token_id, name in enumerate(("pad_token_id", "bos_token_id", "eos_token_id")):
        setattr(small, name, token_id)
    if hasattr(small, "quantization_config"):
        del small.quantization_config
    for names, size in ((NARROWED, NUM_PIECES), (WINDOWS, WINDOW)):
        for name in names:
            if isinstance(getattr(small, name, None), int):
                setattr(small, name, size)
    # A run's own random numbers stay as they are; torch.manual_seed would begin a card's anew.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            small, attn_implementation=attention.UNPACKED, dtype=torch.float32
        )
        for parameter in model.parameters():
            if parameter.ndim > 1:  # with weights as small as they come, a leak is lost in rounding
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model
