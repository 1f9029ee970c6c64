"""How fast cards are: the seconds of a micro-batch on either path, with where each number is from.

In come what is trained, the tokens of a micro-batch and a card, out go seconds. What was measured
was measured on an H100 SXM of 80 GB; other cards are reckoned from it. estimate.py makes the time
of a run of it.
"""

import dataclasses
from typing import NamedTuple

from amazon_desc.model.cost.arithmetic import flops_by_part
from amazon_desc.model.cost.memory import NF4_BYTES, activation_bytes
from amazon_desc.model.cost.shape import shape_of
from amazon_desc.model.plan import Task
from amazon_desc.model.recomputation import Recompute
from amazon_desc.model.writing_plan import Engine


class Card(NamedTuple):
    """A card's memory and speed."""

    name: str
    gib: float
    tera_flops: float
    """of large matrix products"""
    tera_bytes: float
    """of memory traffic a second"""
    is_old: bool
    """too old for the fused path"""
    source: str


# What an H100 does of the 989 TFLOP/s that its maker promises; others are expected to do as well.
OF_PEAK = 772 / 989
EXTRAPOLATED = "extrapolated from the H100 by its maker's numbers, not measured"
CARDS = {
    "h100": Card("H100 80 GB", 79.1, 772, 3.35, False, "products measured"),
    # Its memory is faster; so far that was not seen in the time of a task.
    "h200": Card("H200 141 GB", 139.8, 788, 3.35, False, "products measured"),
    "a100": Card("A100 40 GB", 39.4, 312 * OF_PEAK, 1.555, False, EXTRAPOLATED),
    "l4": Card("L4 24 GB", 22.0, 121 * OF_PEAK, 0.3, False, EXTRAPOLATED),
    "t4": Card("T4 16 GB", 14.6, 65 * OF_PEAK, 0.32, True, EXTRAPOLATED),
}

# The fused path: what thirteen bare steps measured on an H100 have in common, to 5 %. They were of
# 2,048 and 16,384 tokens, TinyLlama's shape and that of Gemma 3 4B, dense and in 4 bits, with all
# activations kept or recomputed, with and without dropout.
PRODUCTS_SHARE = 0.915  # of the speed of large products
PASSES = 7.1  # over the activations
DROPOUT_PASSES = 1.7  # more of them
RECOMPUTED_PASSES = 1.7  # where something is recomputed
DENSE_PASSES = 2.0  # over weights that are made dense for a product
LAYER_SECONDS = 1e-4  # until kernels have begun and ended
# The plain path waits for its launches: 6,400 tokens/s of TinyLlama's shape on an H100's host.
PLAIN_LAYER_SECONDS = 0.0145
PLAIN_PASSES = 30  # not measured
PLAIN_SHARE = 0.8  # neither
# Scores wait for launches as well: a forward pass, by TinyLlama's shape and Gemma 3 4B's on an
# H100's host.
FUSED_SCORED_LAYER_SECONDS = 0.0009
PLAIN_SCORED_LAYER_SECONDS = 0.0031
# A token of all texts that are written at a time, by TinyLlama's shape on an H200: of up to 1,024
# in one graph; of up to 256, whose layers the host launches.
WRITTEN_LAYER_SECONDS: dict[Engine, float] = {"fused": 0.0002, "plain": 0.0008}


class Work(NamedTuple):
    """The tokens of a micro-batch."""

    num_tokens: int
    """padding counted"""
    target_share: float
    mean_context: float
    """tokens that a token attends to, on average"""


def products_seconds(task: Task, work: Work, card: Card, again: float, share: float) -> float:
    """Returns the time of all products.

    Args:
        again: frozen weights whose product is made once more
        share: of the card's speed that is reached
    """
    flops = flops_by_part(task.config, task.lora, work.target_share, work.mean_context)
    return (flops.total + 2 * again) * work.num_tokens / (share * card.tera_flops * 1e12)


def fused_seconds(
    task: Task, work: Work, card: Card, is_dense: bool, recompute: Recompute
) -> float:
    """Returns the time of forward and backward on the fused path."""
    shape = shape_of(task.config)
    rows, columns = shape.linears()["gate_proj"]
    first_products = 2 * rows * columns * shape.num_layers  # of gate and up
    again = {"mlp": first_products, "layers": shape.num_linear_weights}.get(recompute, 0)
    passes = PASSES + DROPOUT_PASSES * (task.lora.dropout > 0)
    passes += RECOMPUTED_PASSES * (recompute != "none")
    bare = dataclasses.replace(task.lora, dropout=0.0)
    traffic = passes * activation_bytes(shape, bare, work.num_tokens, "none", 2)
    if not is_dense:  # made dense forward and backward
        num_weights = 2 * shape.num_linear_weights + again
        traffic += DENSE_PASSES * num_weights * (NF4_BYTES + 2)
    seconds = products_seconds(task, work, card, again, PRODUCTS_SHARE)
    waiting = shape.num_layers * LAYER_SECONDS
    return seconds + traffic / (card.tera_bytes * 1e12) + waiting


def plain_seconds(task: Task, work: Work, card: Card, recompute: Recompute) -> float:
    """Returns the time of forward and backward on the plain path."""
    shape = shape_of(task.config)
    widths = (task.number_bytes, 0, task.state_bytes)
    kept = activation_bytes(shape, task.lora, work.num_tokens, "plain", *widths)
    again = shape.num_linear_weights if recompute == "layers" else 0
    seconds = products_seconds(task, work, card, again, PLAIN_SHARE)
    busy = seconds + PLAIN_PASSES * kept / (card.tera_bytes * 1e12)
    launches = shape.num_layers * PLAIN_LAYER_SECONDS * (4 / 3 if again else 1)
    return max(busy, launches)


def scored_seconds(task: Task, work: Work, card: Card, is_fused: bool) -> float:
    """Returns the time of a forward pass alone: half of the products, or its launches."""
    busy = products_seconds(task, work, card, 0, PLAIN_SHARE) / 2
    launches = FUSED_SCORED_LAYER_SECONDS if is_fused else PLAIN_SCORED_LAYER_SECONDS
    return max(busy, shape_of(task.config).num_layers * launches)
