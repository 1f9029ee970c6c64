"""The folder of an adapter, before it is loaded: whether it is LoRA that is computed rightly here.

In comes a folder that PEFT saved (so do TRL and Unsloth), out goes what loads it, or a refusal that
names what of PEFT's LoRA is not used here. Every field of PEFT's LoraConfig stands in one of the
lists below.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amazon_desc.model.published import MATRIX, Translation, part_of, translate
from amazon_desc.support.errors import UserError
from amazon_desc.support.files import read_json
from amazon_desc.support.layouts import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# PEFT applies them as they are, and all that is computed here is PEFT's model or asks it.
USED = """
    r lora_alpha use_rslora use_dora lora_bias bias fan_in_fan_out rank_pattern alpha_pattern
    target_modules exclude_modules layers_to_transform layers_pattern target_parameters
    modules_to_save trainable_token_indices ensure_weight_tying task_type peft_type
    init_lora_weights
""".split()  # noqa: SIM905 (a list to read)

# Nothing that trained matrices compute depends on them, or the run has its own.
WITHOUT_EFFECT = """
    auto_mapping peft_version base_model_name_or_path revision inference_mode lora_dropout
    runtime_config megatron_core qalora_group_size
    loftq_config eva_config corda_config lora_ga_config
""".split()  # noqa: SIM905

MERGE = (
    "Merge it into its base with PEFT (merge_and_unload), and name what that saves with "
    "--model.backbone."
)
TRAIN = "Name an adapter that was trained as plain LoRA."

# What they do, and the way out. On a base in 4 bits PEFT leaves most of them out without a word.
REFUSED = {
    "layer_replication": ("it repeats layers of the base, which would then be another one", MERGE),
    "alora_invocation_tokens": ("its matrices wake only behind these tokens (aLoRA)", TRAIN),
    "arrow_config": ("it routes between several adapters (Arrow)", TRAIN),
    "use_bdlora": ("its matrices are made of blocks (BD-LoRA)", MERGE),
    "kasa_config": ("it takes singular values from the base's own weights (KaSA)", MERGE),
    "monteclora_config": ("its matrices are drawn by chance (MonteCLoRA)", MERGE),
    "use_qalora": ("it is for a base quantised with GPTQ (QA-LoRA)", MERGE),
    "velora_config": ("it has a backward pass of its own (VeLoRA)", MERGE),
    "megatron_config": ("it is for layers of Megatron", TRAIN),
}

# What untrained matrices began with; that is of no more use, now that they are trained.
HARMLESS_STARTS = (True, False, "gaussian", "eva", "orthogonal")
# With these the base's own weights were changed before training.
CHANGED_BASE = (
    "the base's own weights were changed by how training began, so its matrices do not fit the "
    "base as it is published"
)
CONVERT = (
    "Have PEFT save it as plain LoRA (save_pretrained with path_initial_model_for_weight_"
    "conversion), or merge it into its base (merge_and_unload) and name that with --model.backbone."
)

# More than matrices of LoRA, or DoRA's norms: used, but not trained on.
MORE_THAN_LORA = ("modules_to_save", "trainable_token_indices", "lora_bias")


def check_folder(folder: Path) -> dict[str, Any]:
    """Returns the adapter's configuration.

    Raises:
        UserError: it is no LoRA adapter in safetensors, or of a kind that is not computed here.
    """
    problem = ""
    if not folder.is_dir():
        problem = "no such folder"
    elif not (folder / ADAPTER_CONFIG).is_file():
        problem = f"it has no {ADAPTER_CONFIG}"
    elif not (folder / ADAPTER_WEIGHTS).is_file():
        problem = f"it has no {ADAPTER_WEIGHTS} (pickled .bin weights are never loaded)"
    if problem:
        raise UserError(
            f"adapter {folder}: {problem}. Wanted a folder that PEFT saved, with "
            f"{ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}: name one with --model.adapter."
        )
    config = read_json(folder / ADAPTER_CONFIG)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise UserError(
            f"adapter {folder}: wanted a LoRA adapter (peft_type LORA in {ADAPTER_CONFIG}), "
            f"found {kind}. Train or name a LoRA adapter."
        )
    for field, (what, remedy) in faults(config):
        raise UserError(
            f"adapter {folder}: wanted LoRA that is computed here, found {field} "
            f"{shown(config[field])} in {ADAPTER_CONFIG}: {what}. {remedy}"
        )
    if config.get("bias", "none") != "none":
        refuse_biases(folder)
    return config


def refuse_biases(folder: Path) -> None:
    """Refuses trained biases of the base: PEFT cannot switch them off, to score the base alone."""
    names = (name for name in tensor_names(folder) if name.endswith(".bias"))
    if (bias := next((name for name in names if not MATRIX.search(name)), None)) is not None:
        raise UserError(
            f"adapter {folder}: wanted matrices of LoRA on the base as it is, found the base's own "
            f"biases, trained (bias in {ADAPTER_CONFIG}; first: {bias}). {MERGE}"
        )


def faults(config: dict[str, Any]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yields the fields of a configuration that are refused: what they do, and the way out."""
    start = config.get("init_lora_weights", True)
    if start == "mica":
        yield "init_lora_weights", ("its matrices are kept as the base's own begin (MiCA)", MERGE)
    elif start not in HARMLESS_STARTS:
        yield "init_lora_weights", (CHANGED_BASE, CONVERT)
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        yield "task_type", ("it was not trained to write text", TRAIN)
    for field, value in config.items():
        if not value:
            continue
        if field in REFUSED:
            yield field, REFUSED[field]
        elif field not in USED and field not in WITHOUT_EFFECT:
            yield field, ("it is not known here what that does", MERGE)


def shown(value: Any) -> str:
    """Returns a field's value, as far as one line has room for it."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def refuse_more_than_lora(folder: Path) -> None:
    """Refuses to train on from an adapter that holds more than is trained here.

    Copies of the base's own weights are kept in its precision, where small steps would be lost.
    """
    config = check_folder(folder)
    found = [n for n in MORE_THAN_LORA if config.get(n) not in (None, False, [], {})]
    if found:
        raise UserError(
            f"adapter {folder}: wanted matrices of LoRA alone to train on from, found {found[0]} "
            f"{shown(config[found[0]])} in {ADAPTER_CONFIG}. predict, validate and test use it as "
            f"it is. To train on, merge it into its base with PEFT (merge_and_unload), and name "
            f"what that saves with --model.backbone."
        )


def tensor_names(folder: Path) -> list[str]:
    """Returns the names of an adapter's tensors; these are not read.

    Raises:
        UserError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise UserError(
            f"adapter {folder}: {ADAPTER_WEIGHTS} cannot be read ({error}). Copy or download it "
            f"again."
        ) from error


# What loads it


def translation_of(folder: Path, text_config: Any, dropout: float = 0.0) -> Translation:
    """Returns how an adapter of either naming is loaded, and trained with this `dropout`.

    Args:
        text_config: transformers' configuration of the text model

    Raises:
        UserError: it has no matrices for the text model.
    """
    from peft import PeftConfig

    config: Any = PeftConfig.from_pretrained(str(folder))
    config.lora_dropout = dropout
    config.inference_mode = False
    config.init_lora_weights = True  # what its matrices began with may not exist for 4 bits
    here = translate(config, tensor_names(folder), part_of(text_config))
    if not here.names:
        raise UserError(
            f"adapter {folder}: wanted matrices for the layers that write text, found those of "
            f"other parts of the base alone (first: {[*here.beside, 'none'][0]}). Name another "
            f"adapter."
        )
    return here


def unused_in(folder: Path, text_config: Any) -> str | None:
    """Returns what is said of matrices that no text goes through, or None."""
    beside = translation_of(folder, text_config).beside
    if not beside:
        return None
    return (
        f"The adapter {folder} has {len(beside)} matrices for images too (first: {beside[0]}): "
        f"they are left out, since no text goes through them."
    )


def refuse_other_embeddings(model: PreTrainedModel, folder: Path, here: Translation) -> None:
    """Refuses embeddings of an adapter's file that are not the base's: loading it changes these.

    Raises:
        UserError: the vocabulary was enlarged, or the embeddings were trained.
    """
    from safetensors import safe_open

    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        for name, text_name in here.names.items():
            if text_name not in here.copies:
                continue
            which = "lm_head" if ".lm_head." in text_name else "embed_tokens"
            layer: Any = model.get_input_embeddings()
            if which == "lm_head":
                layer = model.get_output_embeddings()
            own, found = layer.weight, file.get_tensor(name)
            dtype = min(own.dtype, found.dtype, key=lambda dtype: dtype.itemsize)
            is_same = own.shape == found.shape and found.to(dtype).equal(
                own.detach().cpu().to(dtype)
            )
            if not is_same:
                raise UserError(
                    f"adapter {folder}: wanted matrices of LoRA on the base as it is, found "
                    f"another {which} of {len(found)} rows in {ADAPTER_WEIGHTS}; the base's has "
                    f"{len(own)}. Its vocabulary was enlarged or trained. {MERGE}"
                )


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Says of what PEFT refuses of an adapter that it is of another base."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"the adapter {folder} does not fit the base "
            f"({str(error).strip().splitlines()[-1].strip()[:200]}). Name the base that it was "
            f"trained on with --model.backbone."
        ) from error
