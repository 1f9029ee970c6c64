"""What a process of bench_quality.py does: trains one side, and leaves an adapter to score.

In come the options of a fit, out goes a PEFT folder. TRL's side has the same examples and targets,
base, LoRA, optimizer, schedule and number of steps, read from these very options. The side without
packing is `fit` on rows that hold one example each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_cpu import examples_of


def train_with_trl(options: Sequence[str], folder: Path, is_packed: bool) -> None:
    """Trains with SFTTrainer, and saves its adapter into a folder."""
    from datasets import Dataset
    from transformers import set_seed
    from trl import SFTTrainer

    from amazon_desc.cli import build

    cli = build(list(options), run=False)
    module, data = cli.model, cli.datamodule
    module.trainer = data.trainer = cli.trainer
    data.setup("fit")
    set_seed(int(cli.config["seed_everything"]))  # LoRA is drawn before the trainer sets its own
    examples = list(examples_of(data.opened.rows()))
    trainer = SFTTrainer(
        model=loaded(module, cli.trainer.strategy.root_device),
        args=settings_of(cli, folder.parent / "trl", is_packed, len(examples)),
        train_dataset=Dataset.from_list(examples),
        processing_class=data.tokenizer,
        peft_config=lora_of(module.lora),
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL makes LoRA on a quantised base bfloat16, ours is float32
            parameter.data = parameter.data.float()
    found = trainer.train()
    print(f"seconds: {found.metrics['train_runtime']:.2f}")
    trainer.model.save_pretrained(str(folder))


def loaded(module: Any, device: Any) -> Any:
    """Returns the base as ours is kept, by transformers alone."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=module.compute_dtype,
    )
    return AutoModelForCausalLM.from_pretrained(
        module.base.folder,
        dtype=module.compute_dtype,
        device_map={"": device},
        attn_implementation="sdpa",
        quantization_config=quantization if module.quantization == "nf4" else None,
    )


def lora_of(lora: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def settings_of(cli: Any, folder: Path, is_packed: bool, num_examples: int) -> Any:
    """Returns what TRL needs to do what the options of a fit say: same rates, steps and targets."""
    import torch
    from trl import SFTConfig

    module, data, dtype = cli.model, cli.datamodule, cli.model.compute_dtype
    num_rows, per_step = len(data.opened.rows()), data.rows_per_step
    num_steps = -(-num_rows // per_step) * data.num_epochs
    optimizer = module.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer).__name__ == "AdamW", "TRL's default, too"
    return SFTConfig(
        output_dir=str(folder),
        seed=int(cli.config["seed_everything"]),
        max_steps=num_steps,
        max_length=data.row_tokens if is_packed else data.max_seq_length,
        packing=is_packed,
        packing_strategy="bfd",
        # padded: as many examples a step as our rows hold in the mean
        per_device_train_batch_size=(
            per_step if is_packed else round(per_step * num_examples / num_rows)
        ),
        completion_only_loss=True,
        gradient_checkpointing=False,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        use_cpu=cli.trainer.strategy.root_device.type == "cpu",
        learning_rate=optimizer.defaults["lr"],
        weight_decay=optimizer.defaults["weight_decay"],
        max_grad_norm=cli.trainer.gradient_clip_val or 0.0,
        warmup_steps=round(num_steps * module.warmup_fraction),
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": module.final_lr_fraction},
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def fit_unpacked(arguments: list[str]) -> None:
    """Runs `fit` on rows of one example each: a data set that is padded, not packed."""
    from amazon_desc.cli import main
    from amazon_desc.data.corpus import preparing

    def alone(lengths: Any, row_tokens: int) -> list[list[int]]:
        return [[number] for number in range(len(lengths))]

    preparing.pack = alone  # pyright: ignore[reportPrivateImportUsage]
    main(arguments)


def fit_with_noise(arguments: list[str], alpha: float = 5.0) -> None:
    """Runs `fit` with NEFTune's noise in what the first layer reads.

    Uniform in [-1, 1] times alpha / sqrt(tokens of the example x hidden size):
    https://arxiv.org/abs/2310.05914, eq. 1. On the fused path.
    """
    import torch

    from amazon_desc.cli import main
    from amazon_desc.model.kernels.decoder import Decoder

    plain = Decoder.embedded

    def embedded(decoder: Decoder, batch: Any, keeps: bool) -> torch.Tensor:
        h = plain(decoder, batch, keeps)
        if not keeps:  # nothing is trained
            return h
        examples = (batch.position_ids == 0).cumsum(0) - 1
        counts = torch.zeros(len(h), device=h.device).scatter_add_(
            0, examples, torch.ones(len(h), device=h.device)
        )
        size = alpha / (counts[examples] * h.shape[1]).sqrt()
        noise = torch.rand(h.shape, device=h.device) * 2 - 1
        return (h.float() + noise * size[:, None]).to(h.dtype)

    Decoder.embedded = embedded
    main(arguments)


if __name__ == "__main__":
    side, where, *given = sys.argv[1:]
    if side == "unpacked":
        fit_unpacked(["fit", *given])
    elif side == "noise":
        fit_with_noise(["fit", *given])
    else:
        train_with_trl(given, Path(where), side == "trl")
