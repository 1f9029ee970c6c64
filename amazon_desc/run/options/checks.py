"""What is refused before a base is loaded: options and weights that do not go together.

In come options, folders and files, out comes nothing, or a UserError that says what to do. Each
check stands alone; what only the loaded base can tell is checked where it is loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.trainer import Trainer

from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.encoding.prompts import Frame
from amazon_desc.model import adapter as adapters
from amazon_desc.model.adapter_folder import check_folder, unused_in
from amazon_desc.model.backbone import weights_folder
from amazon_desc.model.identity import OPTIONS, check_identity, frame_in, read_record
from amazon_desc.model.probe import attention_for
from amazon_desc.model.suitability import read_config, refuse_quantized, refuse_too_long
from amazon_desc.run.checkpoints import read_checkpoint
from amazon_desc.run.folder import RunFolder
from amazon_desc.run.options.settings import refuse_other_settings
from amazon_desc.support.errors import UserError
from amazon_desc.support.files import empty_folder_removed, refuse_unwritable, storage
from amazon_desc.support.hub import find_adapter, find_backbone
from amazon_desc.support.layouts import ADAPTER_WEIGHTS
from amazon_desc.support.locks import alone
from amazon_desc.support.printing import say
from amazon_desc.training.module import DescriptionModule
from amazon_desc.training.random_states import moved


def check_base(model: DescriptionModule, data: DescriptionData) -> None:
    """Refuses a base that cannot be trained, before data is prepared or its weights are fetched.

    Pickled weights are converted here, so that what is wrong with them shows before all else.
    """
    base = find_backbone(model.backbone, model.revision, needs_weights=False)
    config = read_config(base)
    refuse_quantized(base, config, model.quantization)
    most_written = data.longest_prompt + model.decoding.max_new_tokens
    warning = refuse_too_long(base, config, data.max_seq_length, most_written)
    if warning is not None:
        say(warning)
    attention_for(base)
    weights_folder(find_backbone(model.backbone, model.revision))


def check_adapter(
    folder: Path,
    model: DescriptionModule,
    data: DescriptionData,
    keys: Collection[str] = tuple(OPTIONS),
) -> None:
    """Refuses an adapter that does not belong to this base and prompt; PEFT's own say nothing."""
    config, base_config = check_folder(folder), read_config(model.base)
    unused = unused_in(folder, base_config.get_text_config(decoder=True))
    if unused is not None:
        say(unused)
    record = read_record(folder)
    if record is not None:
        check_identity(record, model.identity(data), f"the adapter {folder}", keys)
    elif (own := config.get("base_model_name_or_path")) and not is_named(model.backbone, own):
        say(f"The adapter {folder} was trained on the base {own}, this run has {model.backbone}.")


def recorded_frame(
    run: RunFolder, checkpoint: Path | None, adapter: str | None, is_fit: bool
) -> Frame | None:
    """Returns what the chat template wrote when the weights that are used began to be trained.

    None: they are new, or of before that was recorded, or another program's.
    """
    if checkpoint is not None:
        return frame_in(read_checkpoint(checkpoint)["identity"])
    if is_fit:
        return None
    folder = run.adapter if adapter is None else find_adapter(adapter)
    return frame_in(read_record(folder))


def check_checkpoint(path: Path, model: DescriptionModule, data: DescriptionData) -> None:
    """Refuses a checkpoint of another base, quantisation or prompt, or of other LoRA."""
    check_weights(read_checkpoint(path), path, model, data)


def check_weights(
    checkpoint: dict[str, Any], path: Path, model: DescriptionModule, data: DescriptionData
) -> None:
    """Refuses what check_checkpoint does, of a checkpoint that was read from `path`."""
    check_identity(checkpoint["identity"], model.identity(data), f"the checkpoint {path}")
    if model.adapter is None:
        check_lora(checkpoint, path, model.lora)


def check_lora(checkpoint: dict[str, Any], path: Path, lora: adapters.LoraSettings) -> None:
    """Refuses LoRA of another rank or kind, or of another scale, which would fit unnoticed."""
    weights, settings = checkpoint["state_dict"], checkpoint.get("settings")
    ranks = {len(w) for name, w in weights.items() if "lora_A" in name}
    found = {
        "r": lora.r if ranks == {lora.r} else ", ".join(map(str, sorted(ranks))) or "none",
        "use_dora": any("lora_magnitude_vector" in name for name in weights),
    }
    # one that was started from an adapter has that one's scale
    if isinstance(settings, dict) and settings.get("--model.adapter") is None:
        scale = {"alpha": lora.alpha, "use_rslora": False}
        found |= {name: settings.get(f"--model.lora.{name}", scale[name]) for name in scale}
    for name, value in found.items():
        if value != getattr(lora, name):
            raise UserError(
                f"the checkpoint {path} was trained with --model.lora.{name} {value}, this run has "
                f"{getattr(lora, name)}. Set --model.lora.{name} to what it was trained with."
            )


def check_resumed(
    path: Path, model: DescriptionModule, data: DescriptionData, trainer: Trainer, run: RunFolder
) -> str:
    """Refuses a checkpoint that this run cannot resume; returns what is said of it."""
    checkpoint = read_checkpoint(path)
    if "settings" in checkpoint:
        owner = f"the checkpoint {path}"
        refuse_other_settings(checkpoint["settings"], model.settings, owner, run)
    check_weights(checkpoint, path, model, data)
    precision, device = str(trainer.precision), trainer.strategy.root_device
    said = f"Resuming from {path}"
    if (before := checkpoint.get("precision", precision)) != precision:
        said += f", now in {precision} instead of {before}, as the device has it"
    if (before := moved(checkpoint["random_states"], device)) is not None:
        said += (
            f", now on {device.type} instead of {before}: the last bits will differ, and masks of "
            f"dropout may"
        )
    return said


class TrainedWeights(NamedTuple):
    """What is scored or written with."""

    file: Path
    """that holds them"""
    adapter: str | None
    """what --model.adapter then is; a checkpoint's weights take its place"""


def find_weights(
    run: RunFolder, checkpoint: Path | None, model: DescriptionModule, data: DescriptionData
) -> TrainedWeights:
    """Returns trained weights that fit base and prompt, or refuses, before a base is loaded."""
    with storage(run.path), empty_folder_removed(run.path):
        refuse_unwritable(run.path)
    if checkpoint:
        check_checkpoint(checkpoint, model, data)
        return TrainedWeights(checkpoint, model.adapter)
    if model.adapter is None and not run.adapter.is_dir():
        raise UserError(
            f"no trained weights: {run.adapter} does not exist. Run fit first, or "
            f"name weights with --model.adapter FOLDER or --ckpt_path FILE."
        )
    adapter = str(run.adapter) if model.adapter is None else model.adapter
    folder = find_adapter(adapter)
    check_adapter(folder, model, data)
    return TrainedWeights(folder / ADAPTER_WEIGHTS, adapter)


def is_named(backbone: str, name: str) -> bool:
    """Whether a base has that name, as a hub id or as the path of its folder."""
    return backbone == name or Path(backbone).expanduser().resolve() == Path(name).resolve()


@contextmanager
def only_fit_in(run: RunFolder) -> Iterator[None]:
    """Has a run folder to itself, or refuses: it cannot be written, or another fit is there.

    What a killed fit left half written is removed.
    """
    with ExitStack() as held:
        with storage(run.path):
            held.enter_context(empty_folder_removed(run.path))
            held.enter_context(empty_folder_removed(run.checkpoints))
        refuse_unwritable(run.checkpoints)
        held.enter_context(alone(run.checkpoints, "trained"))
        run.remove_leftovers()
        yield


def refuse_optimizer(model: DescriptionModule) -> None:
    """Refuses what cannot step with gradients such as ours, before there is a model to train."""
    weights, num_evaluated = torch.nn.Parameter(torch.ones(1, 1)), 0

    def evaluate() -> float:
        nonlocal num_evaluated
        num_evaluated += 1
        weights.grad = torch.ones(1, 1)
        return 1.0

    try:
        optimizer = model.optimizer([weights])
        if type(optimizer).__module__.startswith("torch.optim"):  # others may want a GPU for it
            optimizer.step(evaluate)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--model.optimizer: {error}. Set its arguments to what it takes."
        ) from error
    if num_evaluated > 1:
        raise UserError(
            f"--model.optimizer {type(optimizer).__name__}: wanted an optimizer that takes a step "
            f"with one gradient; this one evaluates the loss again. Name another, such as "
            f"torch.optim.AdamW."
        )


def run_folder_of(options: Any) -> RunFolder:
    """Returns the run folder, or refuses: it has no name, or it or the prepared data is a file."""
    name = options.trainer.default_root_dir
    if not name:  # to Path, the working folder
        raise UserError(
            "--trainer.default_root_dir: wanted the name of a folder, found none. Give one, for "
            "example runs/mine."
        )
    refuse_file(Path(name), "--trainer.default_root_dir")
    refuse_file(Path(options.data.corpora or name), "--data.corpora")
    return RunFolder(Path(name))


def refuse_file(folder: Path, option: str) -> None:
    """Refuses a folder that cannot be made, since a file is in the way."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UserError(
                f"{option} {folder}: wanted a folder, found a file at {path}. Name "
                f"another folder, or move the file."
            )
