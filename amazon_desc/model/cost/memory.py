"""The memory that a training step needs, counted and not tried.

In come a transformers configuration, LoRA settings and the tokens of a micro-batch; out go bytes by
part. Nothing is loaded and no card is asked: which card has how much, and what is done about it, is
the business of others.

The widths that are counted by are in shape.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from amazon_desc.model.cost.shape import (
    Shape,
    fused_blocks,
    num_lora_weights,
    shape_of,
    trained_linears,
)

if TYPE_CHECKING:
    from amazon_desc.model.adapter import LoraSettings

Mode = Literal["none", "parts", "mlp", "layers", "plain", "plain layers"]
"""What the fused path recomputes, see recomputation.py; `plain` is what autograd keeps, or, with
layers, keeps when whole layers are recomputed."""

GIB = 1 << 30
NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)  # a weight, a scale for 64, a scale of 256 scales
# The head makes at most so many logits at a time: on the fused path, 128 MiB in bf16; on the plain
# one, 768 MiB with what the backward pass makes of them; for scores there, 160 MiB with their
# log-softmax, both in float32.
LOGITS, SCORED_LOGITS = 1 << 26, 1 << 24
PRODUCTS_BYTES = 128 << 20  # what cuBLAS works in, on the stream and in graphs
CONTEXT_BYTES = 600 << 20  # CUDA itself, outside of torch's count
# What torch holds beyond what tensors take, since its pieces do not fit: measured on an H100.
SHARE_HELD = 0.3
# Of the memory that is free, what a step may take: the rest is lost between its parts.
SHARE_OF_CARD = 0.9


class Memory(NamedTuple):
    """Bytes of a training step on a device."""

    linears: int
    """the frozen matrices of the layers, in 4 bits or not"""
    tables: int
    """embeddings, head and norms, in the precision of the products"""
    lora: int
    """in float32: what is trained"""
    gradients: int
    """of LoRA, in float32"""
    optimizer: int
    """AdamW's two states, in float32"""
    lora_copies: int
    """LoRA in the precision of the products"""
    dense: int
    """the frozen matrices once more, if they are kept dense beside their 4 bits, as DoRA under
    dropout keeps them for the backward pass"""
    workspace: int
    """the largest matrix, dense, if they are not, and what DoRA finds its norms with"""
    activations: int
    """what is kept from the forward pass for the backward pass"""
    hidden: int
    """hidden states before the head, and their gradients"""
    logits: int
    """what the head makes, and its gradient"""
    one_layer: int
    """what comes and goes in the backward pass of a layer, while there are no logits"""
    scoring: int
    """what the micro-batch needs in place of all that when it is scored"""
    products: int
    """what the library of matrix products works in"""

    @property
    def loaded(self) -> int:
        """What is there before the first step."""
        return self.linears + self.tables + self.lora

    @property
    def peak(self) -> int:
        """What comes and goes, where it is most."""
        training = self.activations + self.hidden + max(self.logits, self.one_layer)
        return max(training, self.scoring)

    @property
    def allocated(self) -> int:
        """The most that tensors take at a time: torch.cuda.max_memory_allocated()."""
        states = self.gradients + self.optimizer + self.lora_copies + self.dense + self.workspace
        return self.loaded + states + self.peak + self.products

    @property
    def total(self) -> int:
        """What torch holds for them; CUDA's own CONTEXT_BYTES come on top."""
        return self.allocated + round(SHARE_HELD * (self.allocated - self.dense))


def memory(
    config: Any,
    lora: LoraSettings,
    num_tokens: int,
    mode: Mode,
    *,
    is_dense: bool = False,
    quantization: Literal["nf4", "none"] = "nf4",
    target_share: float = 1.0,
    number_bytes: int = 2,
    state_bytes: int | None = None,
    unpacked_tokens: int = 0,
) -> Memory:
    """Counts the bytes of a training step, by part.

    Args:
        num_tokens: of a micro-batch, padding counted
        is_dense: fused only: the frozen matrices are kept dense beside their 4 bits
        target_share: of all tokens, those before a target, where the head works
        number_bytes: of a number in the precision of the products: 2, or 4 in float32
        state_bytes: of a number between the products, on the plain path: 4 where float16 is too
            small for them; None: as many as in the products
        unpacked_tokens: of the longest example, where each is a row of its own; 0: they are packed
    """
    shape = shape_of(config)
    targets = round(target_share * num_tokens)
    if unpacked_tokens:  # rows of similar length together have at most that much padding
        num_tokens *= 2
    is_fused = not mode.startswith("plain")
    blocks = list(fused_blocks(shape, lora))
    weight_bytes = NF4_BYTES if quantization == "nf4" else number_bytes
    lora_bytes = 4 * num_lora_weights(shape, lora)
    states = number_bytes if is_fused or state_bytes is None else state_bytes
    weights = attention_weight_bytes(shape, unpacked_tokens, states)
    widths = (number_bytes, weights, states)
    activations = activation_bytes(shape, lora, num_tokens, mode, *widths)
    largest = max(rows * columns for rows, columns in shape.linears().values())
    if is_fused:
        copies = shape.num_layers * 2 * sum(b.room * (b.rows + b.columns) for b in blocks)
        dense = shape.num_layers * 2 * sum(b.matrix for b in blocks)
        workspace = 2 * max(b.matrix for b in blocks)
    else:
        copies, workspace = lora_bytes * number_bytes // 4, number_bytes * largest
        if states > number_bytes:  # LoRA is multiplied as it is
            copies = 0
        dense = dora_dense_bytes(shape, lora, mode, states)
        workspace += dora_workspace_bytes(shape, lora)
    return Memory(
        linears=round(shape.num_linear_weights * weight_bytes),
        tables=shape.num_other_weights * number_bytes,
        lora=lora_bytes,
        gradients=lora_bytes,
        optimizer=2 * lora_bytes,
        lora_copies=0 if is_fused and is_dense else copies,
        dense=0 if is_fused and not is_dense else dense,
        workspace=0 if is_fused and is_dense else workspace,
        activations=activations,
        hidden=2 * (num_tokens + targets) * shape.hidden * states,
        logits=logit_bytes(shape, targets, mode),
        one_layer=one_layer_bytes(shape, num_tokens, mode, number_bytes),
        scoring=scoring_bytes(shape, num_tokens, 4 if lora.use_dora else states),
        products=PRODUCTS_BYTES,
    )


def activation_bytes(
    shape: Shape,
    lora: LoraSettings,
    num_tokens: int,
    mode: Mode,
    number_bytes: int,
    attention_weights: int = 0,
    state_bytes: int | None = None,
) -> int:
    """Returns what all layers keep for the backward pass.

    Args:
        attention_weights: bytes of a token's in a layer, where attention keeps them
        state_bytes: of a number between the products; None: as many as in them
    """
    if mode.startswith("plain"):
        layer = plain_bytes(shape, lora, number_bytes, state_bytes or number_bytes)
        layer += attention_weights
        inputs = 4 * shape.hidden
    else:
        layer = 2 * layer_numbers(shape, lora, mode)
        inputs = 2 * input_numbers(shape)
    if mode.endswith("layers"):
        return num_tokens * (shape.num_layers * inputs + layer)
    return num_tokens * shape.num_layers * layer


def input_numbers(shape: Shape) -> int:
    """Returns how many 2-byte numbers of a token are kept before a layer: sums and 1 / rms."""
    return (2 if shape.has_post_norms else 1) * shape.hidden + 4


def layer_numbers(shape: Shape, lora: LoraSettings, mode: Mode) -> int:
    """Returns how many 2-byte numbers a layer of the fused path keeps of a token.

    Where layers are recomputed, one at a time keeps all.
    """
    hidden, projected = shape.hidden, shape.queries + 2 * shape.keys
    numbers = 2 * input_numbers(shape)  # before both norms
    numbers += projected + shape.queries + 2 * shape.num_heads  # q k v, attended, and its sums
    numbers += sum(block.room for block in fused_blocks(shape, lora))
    if shape.has_head_norms:
        numbers += projected  # before heads are normalised
    if mode != "mlp":
        numbers += 2 * shape.inner  # gate and up
    if mode in ("none", "layers"):
        numbers += 2 * hidden + shape.inner  # inputs of projections
        if lora.dropout:
            numbers += 2 * hidden + shape.queries + shape.inner  # and the same under their masks
    return numbers


def plain_bytes(shape: Shape, lora: LoraSettings, number_bytes: int, state_bytes: int) -> int:
    """Returns what autograd keeps of a token in a layer of transformers and PEFT."""
    trained = list(trained_linears(shape, lora).values())
    norms = 4 * (4 if shape.has_post_norms else 2) * shape.hidden  # in float32
    if shape.has_head_norms:
        norms += 4 * (shape.queries + shape.keys)
    # An input for each projection, and the mask of its dropout: bytes on a card, else numbers.
    mask = (1 if number_bytes == 2 else number_bytes) * (lora.dropout > 0)
    inputs = (state_bytes + mask) * sum(columns for _, columns in trained)
    # Queries, keys and values of as many heads, and the output, which examples of different length
    # pad by half.
    attention = 3 * state_bytes * 4 * shape.queries // 2
    gate = 3 * state_bytes * shape.inner
    # DoRA scales what a projection gives, and what LoRA adds, by a norm that is trained.
    outputs = 8 * sum(rows for rows, _ in trained) if lora.use_dora else 0
    return norms + inputs + attention + gate + outputs


def attention_weight_bytes(shape: Shape, unpacked_tokens: int, number_bytes: int) -> int:
    """Returns what transformers' own attention keeps of a token in a layer: one weight a head and
    token, in float32 after the softmax, and as the products take it.
    """
    a_weight = 4 + (number_bytes if number_bytes < 4 else 0)
    return a_weight * shape.num_heads * unpacked_tokens


def dora_dense_bytes(shape: Shape, lora: LoraSettings, mode: Mode, number_bytes: int) -> int:
    """Returns what DoRA keeps of the frozen matrices: under dropout PEFT multiplies by them again.

    Where layers are recomputed, one at a time is kept.
    """
    if not (lora.use_dora and lora.dropout):
        return 0
    numbers = sum(rows * columns for rows, columns in trained_linears(shape, lora).values())
    return number_bytes * numbers * (1 if mode.endswith("layers") else shape.num_layers)


def dora_workspace_bytes(shape: Shape, lora: LoraSettings) -> int:
    """Returns what PEFT finds the norms of the largest matrix with, in float32.

    The product of LoRA's pair is found by way of an identity; the matrix, the product, the product
    scaled, and their sum are there at a time.
    """
    if not lora.use_dora:
        return 0
    sizes = trained_linears(shape, lora).values()
    return max(4 * columns * (columns + 4 * rows) for rows, columns in sizes)


def logit_bytes(shape: Shape, num_targets: int, mode: Mode) -> int:
    part = positions_at_a_time(shape.vocabulary, LOGITS)
    if mode.startswith("plain"):
        # In float32: the logits, their log-softmax, and its gradient.
        return 12 * shape.vocabulary * min(num_targets, part)
    # The next part is made before the last one goes.
    return 2 * shape.vocabulary * min(num_targets, 2 * part)


def one_layer_bytes(shape: Shape, num_tokens: int, mode: Mode, number_bytes: int) -> int:
    """Returns what the backward pass of a layer makes: gradients of its MLP, and inputs again."""
    width = 4 if mode.startswith("plain") else number_bytes
    return width * num_tokens * (5 * shape.inner + 4 * shape.hidden)


def scoring_bytes(shape: Shape, num_tokens: int, number_bytes: int) -> int:
    """Returns what scores without gradients need: logits and their log-softmax in float32."""
    layer = number_bytes * num_tokens * (4 * shape.inner + 6 * shape.hidden)
    positions = min(num_tokens, positions_at_a_time(shape.vocabulary, SCORED_LOGITS))
    return (8 + number_bytes) * shape.vocabulary * positions + layer


def positions_at_a_time(vocabulary: int, most_logits: int) -> int:
    """Returns before how many targets the head works at a time."""
    return max(1, most_logits // vocabulary)
