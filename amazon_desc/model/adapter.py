"""LoRA on a frozen base: attached anew, loaded from a folder, saved as plain PEFT.

In come a base and settings, or a folder that PEFT (or TRL) wrote; out goes a PEFT model whose LoRA
matrices alone are trainable, in float32. PEFT owns the weights; nothing here trains them.
"""

# No postponed annotations here: to read LoraSettings the command line would import PEFT for them.

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from amazon_desc.model.adapter_folder import (
    check_folder,
    fitting,
    refuse_other_embeddings,
    translation_of,
)
from amazon_desc.model.families import TextPart
from amazon_desc.model.published import named_by_us, published_key, published_settings
from amazon_desc.support.errors import UserError
from amazon_desc.support.files import read_json, write_text
from amazon_desc.support.hub import first_line
from amazon_desc.support.layouts import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from amazon_desc.support.options import Fraction, PositiveInt

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoraSettings:
    """The low-rank matrices that are trained.

    Args:
        r: rank: columns of each pair of matrices
        alpha: scale: the product of the matrices is multiplied by alpha / r
        dropout: share of a layer's inputs to LoRA that is zeroed in training, from 0 to below 1
        target_modules: names of the linear layers that get LoRA; all-linear: all but the head
        use_rslora: multiply by alpha / sqrt(r) instead (rsLoRA, arXiv 2312.03732)
        use_dora: train the norm of each row of a layer's weights as well (DoRA, arXiv 2402.09353);
            on the plain path only, which takes more memory and time for it
    """

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Fraction = 0.05
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False


def attach(model: "PreTrainedModel", lora: LoraSettings) -> "PeftModel":
    """Adds untrained LoRA matrices (they change nothing yet) to the layers asked for.

    Raises:
        UserError: a name in `target_modules` matches no linear layer, or PEFT has no such LoRA for
            a layer of the base.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora.target_modules
    if targets != "all-linear":
        check_targets(model, targets)
        targets = sorted(set(targets))
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)  # pyright: ignore[reportReturnType]
    except ValueError as error:
        family: Any = model.config.model_type
        raise UserError(
            f"--model.lora: PEFT cannot add it to {family} ({first_line(error)}). Set "
            f"--model.lora.dropout to 0, or name other layers with --model.lora.target_modules."
        ) from error


def check_targets(model: "PreTrainedModel", targets: list[str]) -> None:
    """Refuses a misspelt name: PEFT ignores it as long as another one matches."""
    head = model.get_output_embeddings()
    linear = {
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and layer is not head
    }
    unmatched = [t for t in targets if not any(f".{name}".endswith(f".{t}") for name in linear)]
    if unmatched or not targets:
        choices = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise UserError(
            f"--model.lora.target_modules: {', '.join(unmatched) or 'an empty list'} matches no "
            f"linear layer of the base. Wanted all-linear, or some of: {', '.join(choices)}."
        )


def overruled(folder: Path, lora: LoraSettings) -> Iterator[str]:
    """Yields a line for each of the settings that an adapter brings with it."""
    config = check_folder(folder)
    for option, found, asked in (
        ("r", config.get("r"), lora.r),
        ("alpha", config.get("lora_alpha"), lora.alpha),
        ("use_rslora", config.get("use_rslora", False), lora.use_rslora),
        ("use_dora", config.get("use_dora", False), lora.use_dora),
    ):
        if found != asked:
            yield f"--model.lora.{option} is {found}, as the adapter {folder} has it, not {asked}."
    targets = config.get("target_modules")  # names, or a regular expression, maybe one of ours
    targets = named_by_us(targets) or targets
    found = targets if isinstance(targets, str) else ", ".join(sorted(targets or []))
    # all-linear is the default, and PEFT writes down the names that it stands for
    if lora.target_modules != "all-linear" and found != ", ".join(sorted(set(lora.target_modules))):
        asked = ", ".join(lora.target_modules)
        yield (
            f"--model.lora.target_modules is {found}, as the adapter {folder} has it, not {asked}."
        )


def load(model: "PreTrainedModel", folder: Path, dropout: float) -> "PeftModel":
    """Attaches the adapter in `folder`, trainable, and checks that every matrix was found.

    Rank, scale and layers are the adapter's own, `dropout` is that of this run. Its names may be
    those of the text model or of the model that this was published in.

    Raises:
        UserError: the folder is no LoRA adapter that is used here, or belongs to another base.
    """
    from peft import PeftModel, get_peft_model_state_dict

    check_folder(folder)
    here = translation_of(folder, model.config, dropout)
    refuse_other_embeddings(model, folder, here)
    with fitting(folder):
        peft_model = PeftModel.from_pretrained(
            model,
            str(folder),
            is_trainable=True,
            config=here.config,
            key_mapping=here.key_mapping or None,
        )
    found = set(here.names.values()) - here.copies
    wanted = set(get_peft_model_state_dict(peft_model, save_embedding_layers=False))
    if found != wanted:
        lacking = sorted(wanted - found) or sorted(found - wanted)
        raise UserError(
            f"the adapter {folder} does not fit the base: {len(wanted - found)} matrices missing, "
            f"{len(found - wanted)} unknown (first: {lacking[0]}). Name the base that it was "
            f"trained on with --model.backbone."
        )
    return peft_model


def attach_as_in(model: "PreTrainedModel", folder: Path, dropout: float) -> "PeftModel":
    """Adds untrained matrices with the settings of an adapter, whose weights are not read.

    Raises:
        UserError: as `load` does.
    """
    from peft import get_peft_model

    check_folder(folder)
    with fitting(folder):
        config = translation_of(folder, model.config, dropout).config
        return get_peft_model(model, config)  # pyright: ignore[reportReturnType]


def save(
    model: "PeftModel",
    folder: Path,
    base_name: str,
    revision: str | None,
    part: TextPart | None = None,
) -> None:
    """Writes weights and configuration into the existing `folder`, as PEFT wants them.

    Args:
        part: how the base is published as a part of more: the folder has the names of that model,
            so that PEFT finds its layers there; None: the base stands alone
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as load_tensors
    from safetensors.torch import save_file

    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = base_name
    config.revision = revision
    for name in ("target_modules", "exclude_modules"):
        if isinstance(names := getattr(config, name, None), set):  # its order differs each time
            setattr(config, name, sorted(names))
    try:
        model.save_pretrained(str(folder), save_embedding_layers=False)
        if part is not None:
            file = folder / ADAPTER_WEIGHTS
            # from its bytes: tensors that are mapped from a file cannot be written over it
            tensors = load_tensors(file.read_bytes())
            tensors = {published_key(name, part): tensors[name] for name in tensors}
            save_file(tensors, file, {"format": "pt"})
            written = read_json(folder / ADAPTER_CONFIG) | published_settings(model, part)
            text = json.dumps(written, indent=2, sort_keys=True)
            write_text(folder / ADAPTER_CONFIG, text)
    except SafetensorError as error:  # all that can go wrong here is the disk
        raise OSError(errno.EIO, str(error), str(folder)) from error
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def settings_of(model: "PeftModel") -> LoraSettings:
    """Returns the settings of a model's LoRA; its layers are named one by one, as PEFT found them.

    all-linear on a Llama -> ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", ...]
    """
    config: Any = model.peft_config["default"]
    with_lora = [name for name, layer in model.named_modules() if hasattr(layer, "lora_A")]
    return LoraSettings(
        r=config.r,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        target_modules=sorted({name.rsplit(".", 1)[-1] for name in with_lora}),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
    )


def trainable_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns what training changes: the LoRA matrices by name."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def check_shapes(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Refuses the LoRA matrices of a checkpoint that are not this run's.

    Raises:
        UserError: a name or a shape is another.
    """
    shapes = {name: tensor.shape for name, tensor in found.items()}
    if shapes != {name: tensor.shape for name, tensor in wanted.items()}:
        raise UserError(
            "the checkpoint's LoRA matrices have other names or shapes than this run's: "
            "--model.lora was changed. Set r, target_modules and use_dora back to what they were."
        )
