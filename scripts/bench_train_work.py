"""What each process of bench_train.py does: makes the task, or trains for one line of its table.

In: a task as plain values. Out: its numbers as plain values. A peer's process imports nothing of
this project: its examples come from a file, and Unsloth has to be imported before transformers.
What is trained through the real program, `python -m amazon_desc fit`, needs nothing from here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amazon_desc.data.loading.batches import RowBatch

ROW_TOKENS = 256  # of a peer's packed rows
LEARNING_RATE = 2e-4
RANK, ALPHA = 16, 32
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


# The task: base, products, prepared data, and what the card can do


def begin(task: Mapping[str, Any]) -> dict[str, Any]:
    """Makes what all lines train on, and measures the card."""
    import torch
    from random_base import make_base, write_products

    from amazon_desc.data.encoding.tokenizer import load_tokenizer
    from amazon_desc.model.cost.mfu import matmul_limit

    folder = Path(task["folder"])
    base = Path(task["base"] or make_base(task["shape"], folder))
    if not Path(task["products"]).is_file():
        write_products(Path(task["products"]), load_tokenizer(base), task["num_products"])
    data = data_of([*task["options"], f"--model.backbone={base}"])
    data.setup("fit")
    counts = data.opened.manifest["counts"]
    ids = list(examples(data.opened.rows()))
    Path(task["examples"]).write_text(json.dumps(ids), encoding="utf-8")
    limit, name = None, "CPU"
    if torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if has_bf16 else torch.float16
        limit = matmul_limit(torch.device("cuda", 0), dtype)
        name = torch.cuda.get_device_name(0)
    return {
        "base": str(base),
        "card": name,
        "cuda": torch.version.cuda,
        "limit": limit,
        "flops_per_token": flops_of(base),
        "row_tokens": counts["num_tokens"] / counts["num_rows"],  # without padding
        "median_tokens": median(map(len, ids)),
    }


def flops_of(base: Path) -> int:
    """Returns the flop of a token from a base's shape alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from amazon_desc.model.cost.mfu import flops_per_token

    config = AutoConfig.from_pretrained(base, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(getattr(config, "text_config", config))
    return flops_per_token(model.requires_grad_(False))


def data_of(options: list[str]) -> Any:
    """Returns the data module that `fit` has with these options."""
    from amazon_desc.cli import build

    cli = build(options, run=False)
    cli.datamodule.trainer = cli.trainer
    return cli.datamodule


def examples(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[int]]:
    """Takes the examples out of packed rows.

    input_ids = [1, 7, 8, 2, 1, 5, 2], lengths = [4, 3]  ->  [1, 7, 8, 2], [1, 5, 2]
    """
    for row in rows:
        ends = [0]
        for length in row["lengths"]:
            ends.append(ends[-1] + length)
        for start, stop in pairwise(ends):
            yield [int(token_id) for token_id in row["input_ids"][start:stop]]


# Our step without the trainer


def bare(task: Mapping[str, Any]) -> dict[str, Any]:
    """Trains in a loop of its own: loss, gradients, clipping and optimizer, and nothing else."""
    import torch

    from amazon_desc.cli import build
    from amazon_desc.model.adapter import attach
    from amazon_desc.model.backbone import load_backbone
    from amazon_desc.model.execution import execute, machine_with
    from amazon_desc.model.loss import target_loss
    from amazon_desc.model.plan import plan, task_of
    from amazon_desc.support.hub import find_backbone

    cli = build(task["options"], run=False)
    module, data = cli.model, cli.datamodule
    module.trainer = data.trainer = cli.trainer
    device, dtype = cli.trainer.strategy.root_device, module.compute_dtype
    data.setup("fit")
    base = load_backbone(find_backbone(module.backbone), module.quantization, dtype, device)
    network = attach(base, module.lora).train()
    options = (module.quantization, module.kernels, module.recompute)
    given = task_of(network, dtype, data.row_tokens, *options)
    planned = plan(given, machine_with(given, device), data.batch_size)
    fused = execute(planned, network, data.max_seq_length)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = module.optimizer(parameters)
    num_measured = task["steps"] - task["steps"] // 2
    num_tokens, began = 0, 0.0

    def train(batch: RowBatch, seed: int) -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if fused is None:
                loss = target_loss(network, batch)[0]
            else:
                fused.begin()
                loss = fused.loss(batch, seed)[0]
        (loss / len(batch.before_targets)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=fused is None)

    def now() -> float:
        """Returns the time when all that was asked of the card is done."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for number, batch in zip(range(task["steps"]), data.train_dataloader(), strict=False):
        if number == task["steps"] - num_measured:
            num_tokens, began = 0, now()
        train(batch.to(device), number)
        num_tokens += batch.num_tokens
    seconds = now() - began
    return {
        "tokens_per_second": num_tokens / seconds,
        "ms_per_step": seconds / num_measured * 1e3,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
        "note": str(planned),
    }


# The peers: SFTTrainer, alone, with Liger's kernels, or with Unsloth's


def peer(task: Mapping[str, Any]) -> dict[str, Any]:
    """Trains with TRL's SFTTrainer on the same base, examples and LoRA."""
    if task["side"] == "unsloth":
        import unsloth  # noqa: F401 (it changes transformers, and must come first)
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class StepTimes(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            times.append(time.time())

    torch.cuda.set_device(local_rank())
    times: list[float] = []
    model, tokenizer, lora = unsloth_model(task) if task["side"] == "unsloth" else trl_model(task)
    config: dict[str, Any] = {
        "output_dir": str(Path(task["folder"], task["name"])),
        "per_device_train_batch_size": task["rows"],
        "gradient_accumulation_steps": task["accumulate"],
        "max_length": ROW_TOKENS,
        "packing": True,
        "learning_rate": LEARNING_RATE,
        "max_steps": task["steps"],
        "logging_steps": 1000,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": True,
        "use_liger_kernel": task["liger"],
    }
    if task["side"] == "trl":
        config["gradient_checkpointing"] = task["checkpointing"]
    ids = json.loads(Path(task["examples"]).read_text(encoding="utf-8"))
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**config),
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[StepTimes()],
    )
    lengths = [len(row) for row in trainer.train_dataset["input_ids"]]
    num_rows = task["rows"] * task["accumulate"] * task["devices"]
    num_tokens = sum(lengths) / len(lengths) * num_rows
    trainer.train()
    half = len(times) // 2
    seconds = (times[-1] - times[half]) / (len(times) - 1 - half)
    return {
        "tokens_per_second": num_tokens / seconds,
        "ms_per_step": seconds * 1e3,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "ready_seconds": times[0] - task["started"],
    }


def local_rank() -> int:
    """Returns the number of this process's card, as torchrun says it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def trl_model(task: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        task["base"],
        quantization_config=quantization,
        dtype=torch.bfloat16,
        device_map={"": local_rank()},
        attn_implementation="sdpa",
    )
    lora = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
        target_modules=LINEARS,
    )
    return model, AutoTokenizer.from_pretrained(task["base"]), lora


def unsloth_model(task: Mapping[str, Any]) -> tuple[Any, Any, None]:
    import torch
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        task["base"], max_seq_length=ROW_TOKENS, load_in_4bit=True, dtype=torch.bfloat16
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0,
        target_modules=LINEARS,
        use_gradient_checkpointing="unsloth" if task["checkpointing"] else False,
    )
    return model, tokenizer, None
