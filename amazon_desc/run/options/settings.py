"""Which options decide what a run ends with, and what one says that is resumed with others.

In come all options of a fit, out goes the record of those that decide, which every checkpoint and
RUN/run.json hold; two records are compared with old and new side by side. Every option stands in
one of the lists below.
"""

from __future__ import annotations

from dataclasses import asdict
from shlex import quote
from typing import Any

from amazon_desc.generation.decoding import GREEDY
from amazon_desc.run.folder import RunFolder
from amazon_desc.support.digests import sha256_of
from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import find_adapter
from amazon_desc.support.layouts import ADAPTER_WEIGHTS

# Another value gives other weights: a run is resumed only with the same.
DECIDING = """
    seed_everything
    trainer.precision trainer.callbacks trainer.plugins trainer.fast_dev_run trainer.max_epochs
    trainer.min_epochs trainer.max_steps trainer.min_steps
    trainer.limit_train_batches trainer.limit_val_batches trainer.overfit_batches
    trainer.val_check_interval trainer.check_val_every_n_epoch trainer.gradient_clip_val
    trainer.gradient_clip_algorithm
    model.quantization model.lora model.optimizer model.schedule model.warmup_fraction
    model.warmup_steps model.final_lr_fraction
    data.title_column data.description_column data.separator data.encoding data.header_row
    data.cleaning data.repeated_titles data.num_products
    data.validation_fraction data.test_fraction data.num_scored data.num_sampled data.prompt
    data.max_seq_length data.row_tokens data.rows_per_step data.loss_on checkpoint.monitor
""".split()  # noqa: SIM905 (a list to read)

# Files and folders: what is in them decides, not where they are.
BY_CONTENT = """
    model.backbone model.revision model.adapter data.train_file data.test_file
""".split()  # noqa: SIM905

# How, where and how fast; what is logged, saved and written. Micro-batches are accumulated to the
# rows of an optimizer step, which decide.
OPERATIONAL = """
    config help print_config ckpt_path
    trainer.accelerator trainer.strategy trainer.devices trainer.num_nodes trainer.logger
    trainer.max_time trainer.limit_test_batches trainer.limit_predict_batches
    trainer.num_sanity_val_steps
    trainer.log_every_n_steps trainer.enable_checkpointing trainer.enable_progress_bar
    trainer.enable_model_summary trainer.deterministic trainer.benchmark trainer.inference_mode
    trainer.use_distributed_sampler trainer.profiler trainer.detect_anomaly trainer.barebones
    trainer.sync_batchnorm trainer.reload_dataloaders_every_n_epochs trainer.default_root_dir
    trainer.enable_autolog_hparams trainer.model_registry trainer.accumulate_grad_batches
    model.decoding model.engine model.max_new_tokens model.kernels model.recompute
    data.titles data.title data.output data.keep_columns data.max_bad_records
    data.max_bad_share
    data.batch_size data.generation_batch_size data.num_workers
    data.corpora data.prepare_workers data.verify
    checkpoint.every_n_steps checkpoint.every_n_minutes checkpoint.keep
""".split()  # noqa: SIM905

# Of those that decide, what runs usually differ in, and the columns that show it: TensorBoard sorts
# these by name, capitals first, and shows the first five until it is asked for more.
COMPARED = {
    "Learning rate": "model.optimizer.init_args.lr",
    "LoRA alpha": "model.lora.alpha",
    "LoRA dropout": "model.lora.dropout",
    "LoRA r": "model.lora.r",
    "adapter": "model.adapter",
    "backbone": "model.backbone",
    "data": "data.train_file",
    "epochs": "trainer.max_epochs",
    "loss on": "data.loss_on",
    "max_seq_length": "data.max_seq_length",
    "max_steps": "trainer.max_steps",
    "num_products": "data.num_products",
    "quantization": "model.quantization",
    "row_tokens": "data.row_tokens",
    "rows_per_step": "data.rows_per_step",
    "schedule": "model.schedule",
    "seed": "seed_everything",
    "target_modules": "model.lora.target_modules",
    "warmup_fraction": "model.warmup_fraction",
    "weight_decay": "model.optimizer.init_args.weight_decay",
}

# Set by another option, which is in one of the lists above.
FOLLOWING = ["data.backbone", "data.revision", "data.num_epochs", "data.max_rows", "data.seed"]

# What runs had that were begun before there were such options, of which their records say nothing.
BEFORE = {
    "--data.prompt.system": None,
    "--model.schedule": "cosine",
    "--model.warmup_steps": None,
    "--model.lora.use_rslora": False,
    "--model.lora.use_dora": False,
    "--checkpoint.monitor": "validation/loss",
}

# The same of texts, which were written greedily.
WRITTEN_BEFORE = {
    f"--model.decoding.{name}": value
    for name, value in asdict(GREEDY).items()
    if name not in ("max_new_tokens", "seed")
}

# What options were called in the records of such runs.
RENAMED = {
    "--data.batch_size x --trainer.accumulate_grad_batches": "--data.rows_per_step",
    "--model.max_new_tokens": "--model.decoding.max_new_tokens",
}

# Where one of these is changed, weights that were trained before cannot be started from.
SHAPES = {
    *("--model.backbone", "--model.lora.r", "--model.lora.alpha"),
    *("--model.lora.target_modules", "--model.lora.use_rslora", "--model.lora.use_dora"),
}


def options_of(config: dict[str, Any], prefix: str = "", decides: bool = False) -> dict[str, Any]:
    """Returns the deciding options of a config, by name.

    {"seed_everything": 1, "model": {"lora": {"r": 4}, "max_new_tokens": 9}}
    -> {"--seed_everything": 1, "--model.lora.r": 4}
    """
    found = {}
    for name, value in config.items():
        option = prefix + name
        is_deciding = decides or option in DECIDING
        # an option of the trainer that is a class is one option
        if isinstance(value, dict) and not option.startswith("trainer."):
            found |= options_of(value, f"{option}.", is_deciding)
        elif is_deciding:
            found[f"--{option}"] = value
    return found


def settings_record(
    config: dict[str, Any], base_sha256: str, files: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns what decides a run, as plain values.

    Args:
        config: all options of a fit, as its YAML has them
        files: the files of products as digests.describe_file describes them
    """
    record = options_of(config)
    record["--model.backbone"] = content(config["model"]["backbone"], base_sha256)
    record["--model.adapter"] = adapter = config["model"]["adapter"]
    if adapter is not None and (weights := find_adapter(adapter) / ADAPTER_WEIGHTS).is_file():
        record["--model.adapter"] = content(adapter, sha256_of(weights))
    for use in ("train", "test"):
        record[f"--data.{use}_file"] = [
            content(file["path"], file["sha256"]) for file in files if file["use"] == use
        ]
    return record


def compared(record: dict[str, Any]) -> dict[str, str | int | float]:
    """Returns what runs usually differ in, by column: what is left open is left out.

    {"--model.lora.r": 16, "--data.train_file": [{"name": "files/a.csv", "sha256": "..."}]}
    -> {"LoRA r": 16, "data": "a.csv"}
    """
    found = {column: record.get(f"--{option}") for column, option in COMPARED.items()}
    return {column: short(value) for column, value in found.items() if value is not None}


def short(value: Any) -> str | int | float:
    """Returns a number as it is, and of files and bases the last part of their names."""
    if isinstance(value, dict):
        return str(value.get("name")).rstrip("/").rpartition("/")[2]
    if isinstance(value, list):
        return ", ".join(str(short(entry)) for entry in value)
    return value if isinstance(value, int | float) else str(value)


def content(name: str, sha256: str) -> dict[str, str]:
    return {"name": name, "sha256": sha256}


def refuse_other_settings(found: Any, wanted: dict[str, Any], owner: str, run: RunFolder) -> None:
    """Refuses to resume with settings that would have given other weights.

    Raises:
        UserError: what has changed, old and new side by side, and the way out.
    """
    if not isinstance(found, dict):
        raise UserError(
            f"{owner} does not say which settings it was trained with, so it cannot be resumed. "
            f"Start anew in another --trainer.default_root_dir."
        )
    if changed := differing(found, wanted):
        differences = "\n".join(changes(found, wanted))
        further = (
            f"; with --model.adapter {quote(str(run.adapter))} as well, from the weights that are "
            f"trained already"
        )
        raise UserError(
            f"{owner} was trained with other settings; resuming would give neither the one run nor "
            f"the other:\n{differences}\nSet them back to resume in {run.path}. Or start anew with "
            f"--trainer.default_root_dir NEW{'' if SHAPES & set(changed) else further}."
        )


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Returns the options in which two records differ.

    What one of them lacks is not compared: it was written by another version. Of BEFORE it is
    known what such a version did, and RENAMED is compared under the name of now.
    """
    found = as_now(found)
    return [
        option
        for option in wanted
        if option in found and identifying(found[option]) != identifying(wanted[option])
    ]


def changes(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Returns what two records do not have in common, a line each, old and new side by side."""
    found = as_now(found)
    return [
        f"  {option}: {shown(found[option])}, now {shown(wanted[option])}"
        for option in differing(found, wanted)
    ]


def as_now(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record as this version would have written it."""
    named = {RENAMED.get(option, option): value for option, value in record.items()}
    return BEFORE | WRITTEN_BEFORE | named


def identifying(value: Any) -> Any:
    """Returns what must be the same: of files the content, not the name."""
    if isinstance(value, dict) and set(value) == {"name", "sha256"}:
        return value["sha256"]
    return [identifying(entry) for entry in value] if isinstance(value, list) else value


def shown(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"name", "sha256"}:
        return f"{value['name']} (sha256 {value['sha256'][:12]})"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "none"
    return repr(value) if isinstance(value, str) else str(value)
