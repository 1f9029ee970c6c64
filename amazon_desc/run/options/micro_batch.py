"""How many rows a micro-batch has where the option says `auto`: as many as fit, counted, not tried.

In come a base's configuration, the options and the free memory, out go rows that divide those of an
optimizer step, and a sentence that says why. Order and steps are the same with any of them; the
last bits are not, so a run that goes on keeps the rows it had as long as they fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.model.adapter import LoraSettings, check_folder
from amazon_desc.model.cost.memory import GIB, SHARE_OF_CARD, How, Memory, memory
from amazon_desc.model.execution import device_obstacle, dtype_of
from amazon_desc.model.kernels.supported import LINEARS, config_obstacle
from amazon_desc.model.recomputation import RecomputeOption
from amazon_desc.model.suitability import read_config
from amazon_desc.support.hub import find_backbone
from amazon_desc.training.module import DescriptionModule

# A machine without a card gains nothing from larger micro-batches, and has others to serve.
MOST_TOKENS_WITHOUT_CARD = 8192
SHARE_OF_MACHINE = 0.5


class Step(NamedTuple):
    """What decides the memory of a micro-batch, besides its rows."""

    config: Any
    lora: LoraSettings
    quantization: Literal["nf4", "none"]
    row_tokens: int
    is_fused: bool
    number_bytes: int
    recompute: RecomputeOption = "auto"

    @property
    def how(self) -> How:
        """How a micro-batch is trained at least, if nothing is said: what is quick to make again
        costs little, other things would cost more than a larger micro-batch gains.
        """
        if self.is_fused:
            return "parts" if self.recompute == "auto" else self.recompute
        return "plain layers" if self.recompute == "layers" else "plain"

    def memory(self, num_rows: int) -> Memory:
        """Returns what a fit takes at least, with so many rows in a micro-batch."""
        return memory(
            self.config,
            self.lora,
            num_rows * self.row_tokens,
            self.how,
            quantization=self.quantization,
            number_bytes=self.number_bytes,
        )

    def bytes_to_train(self, num_rows: int) -> int:
        return self.memory(num_rows).total

    def bytes_to_score(self, num_rows: int) -> int:
        needed = self.memory(num_rows)
        return needed.loaded + needed.workspace + needed.scoring


class Room(NamedTuple):
    """The memory that a step may take."""

    free: int
    """bytes"""
    share: float
    """of them that may be taken"""
    most_tokens: int | None
    """of a micro-batch; None: memory alone decides"""


class Chosen(NamedTuple):
    num_rows: int
    reason: str


def choose_rows(
    rows_per_step: int,
    row_tokens: int,
    needed: Callable[[int], int],
    room: Room,
    before: int | None = None,
) -> Chosen:
    """Chooses the rows of a micro-batch.

    Args:
        rows_per_step: of an optimizer step; what is chosen divides it
        needed: rows of a micro-batch -> bytes
        before: what the run had until now
    """

    def fits(rows: int) -> bool:
        has_few_tokens = room.most_tokens is None or rows * row_tokens <= room.most_tokens
        return has_few_tokens and needed(rows) <= room.share * room.free

    if before and rows_per_step % before == 0 and needed(before) <= room.share * room.free:
        rows, why = before, "as before"
    else:
        rows = largest_divisor(rows_per_step, fits)
        why = f"{needed(rows) / GIB:.1f} GiB needed, {room.free / GIB:.1f} GiB free"
        if needed(rows) > room.share * room.free:
            why += "; if memory runs out, lower --data.row_tokens"
        if before and before != rows:
            why += f"; before it had {before}, so the last bits may differ"
    return Chosen(rows, f"Micro-batches: {rows} of the {rows_per_step} rows of a step ({why}).")


def largest_divisor(number: int, fits: Callable[[int], bool]) -> int:
    """Returns the largest divisor that fits, or 1. Of 12, where up to 5 fit: 4."""
    divisors = (d for d in range(number, 1, -1) if number % d == 0)
    return next((d for d in divisors if fits(d)), 1)


def set_batch_size(
    model: DescriptionModule,
    data: DescriptionData,
    trainer: Any,
    precision: Any,
    is_fit: bool,
    before: int | None,
) -> Chosen:
    """Sets how many rows the data serves at a time, to train on and to score.

    Args:
        trainer: its options; rows of an optimizer step are what it accumulates
        before: rows of a micro-batch that the run had until now
    """
    device, dtype = device_of(trainer), dtype_of(precision)
    step = step_of_options(model, data, dtype)
    has_obstacle = device_obstacle(device, dtype) or path_obstacle(step.config, step.lora)
    step = step._replace(is_fused=model.kernels != "plain" and not has_obstacle)
    needed = step.bytes_to_train if is_fit else step.bytes_to_score
    rows_per_step = trainer.accumulate_grad_batches
    chosen = choose_rows(rows_per_step, step.row_tokens, needed, room_of(device), before)
    data.batch_size = chosen.num_rows
    return chosen


def step_of_options(
    model: DescriptionModule,
    data: DescriptionData,
    dtype: torch.dtype,
    *,
    needs_weights: bool = True,
) -> Step:
    """Returns what the options say of a micro-batch; the base's weights are not read.

    Args:
        needs_weights: False: they need not even be there
    """
    base = find_backbone(model.backbone, model.revision, needs_weights=needs_weights)
    return Step(
        read_config(base).get_text_config(decoder=True),
        lora_of(model),
        model.quantization,
        data.row_tokens,
        is_fused=dtype != torch.float32,
        number_bytes=dtype.itemsize,
        recompute=model.recompute,
    )


def path_obstacle(config: Any, lora: LoraSettings) -> str | None:
    """Returns what options alone say is in the way of the fused path, or None."""
    named = [] if lora.target_modules == "all-linear" else lora.target_modules
    others = [name for name in named if name.rsplit(".", 1)[-1] not in LINEARS]
    if others:
        return f"they have no LoRA on {others[0]}"
    no_dora = "they have no DoRA" if lora.use_dora else None
    return config_obstacle(config.get_text_config(decoder=True)) or no_dora


def lora_of(model: DescriptionModule) -> LoraSettings:
    """Returns the settings of LoRA: an adapter that a fit starts from brings its own."""
    if model.adapter_folder is None:
        return model.lora
    found = check_folder(model.adapter_folder)
    targets = found.get("target_modules")
    return LoraSettings(
        r=found.get("r", model.lora.r),
        alpha=found.get("lora_alpha", model.lora.alpha),
        dropout=model.lora.dropout,
        target_modules=targets if isinstance(targets, list) else "all-linear",
        use_rslora=found.get("use_rslora", False),
        use_dora=found.get("use_dora", False),
    )


def room_of(device: torch.device) -> Room:
    """Returns what is free on the card, or, without one, in the machine."""
    if device.type == "cuda":
        return Room(torch.cuda.mem_get_info(device)[0], SHARE_OF_CARD, None)
    return Room(free_machine_memory(), SHARE_OF_MACHINE, MOST_TOKENS_WITHOUT_CARD)


def free_machine_memory() -> int:
    """Returns the bytes that programs can still take, as psutil counts them."""
    import psutil

    return int(psutil.virtual_memory().available)


def device_of(trainer: Any) -> torch.device:
    """Returns the device that the options of a trainer name."""
    if trainer.accelerator in ("cpu", "mps") or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", trainer.devices[0] if isinstance(trainer.devices, list) else 0)
