"""Wrong input, typed as a user types it: a sentence that helps, an exit code, nothing harmed.

Every case runs a command that must be refused. It names the exit code and the parts of the message:
where, what was wanted, what was found, what to do. A base that is loaded all the same fails the
test, and so does any file that is new or changed afterwards.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning_utilities.core.imports import RequirementCache

import amazon_desc.model.backbone
from amazon_desc.cli import main
from amazon_desc.run.checkpoints import serialized, write_sealed
from amazon_desc.support.resources import PACKAGE, TINY_BASE
from tests import published_layouts
from tests.conftest import slow_case

LOAD_BACKBONE = amazon_desc.model.backbone.load_backbone
SECRET = "hf_neverToBeShown0123456789"
SMALL = (
    *("--data.num_products", "100", "--data.num_scored", "4"),
    *("--model.decoding.max_new_tokens", "4"),
    *("--trainer.max_epochs", "1", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
    *("--checkpoint.every_n_steps", "2", "--trainer.enable_progress_bar", "false"),
)
FEW = ("--data.validation_fraction", "0", "--data.test_fraction", "0")
TRAINED_ON = "--trainer.default_root_dir=runs/trained"
ADAPTER, CHECKPOINT = "runs/trained/adapter", "runs/trained/checkpoints/step=00000002.ckpt"


class BaseLoaded(Exception):
    """A base would have been loaded."""


class Case(NamedTuple):
    """A command (`fit --config quickstart.yaml` goes without saying) and how it is refused."""

    name: str
    options: str
    code: int
    message: tuple[str, ...]
    command: str = "fit"


# Files that the cases name. A product line is good; each bad one is bad in its own way.
GOOD = b'{"title": "Oak Desk No. %d", "content": "A desk of oak that lasts for generations."}\n'
PRODUCTS = b"".join(GOOD % number for number in range(30))
BAD_LINES = (
    b'{"title": "cut off\n',
    b'{"title": "no description", "content": {}}\n',
    b'{"title": [7], "content": "A list for a title."}\n',
    b'{"title": "caf\xff", "content": "Not UTF-8."}\n',
    b'["a", "list"]\n',
)
FILES = {
    "empty.jsonl": b"",
    "blank.txt": b"\n  \n\n",
    "folder.jsonl/inside": b"",
    "columns.jsonl": b'{"label": "Desk", "text": "Of oak."}\n' * 3,
    "columns.csv": b"label,text\nDesk,Of oak.\n",
    "alpaca.jsonl": b'{"instruction": "Describe", "input": "Desk", "output": "Of oak."}\n',
    "table.json": b"title,content\nDesk,Of oak.\n" * 100,
    "one.jsonl": GOOD % 1,
    "useless.jsonl": b'{"title": "Desk", "content": ""}\n' * 4,
    "words.docx": b"PK",
    "broken.json.gz": b"\x1f\x8b\x08\x00 and then nothing of the kind",
    "noise.zip": b"no archive",
    "noise.parquet": b"PAR1 and noise",
    "russian.csv": "title,content\nСтол,Красная мебель для кухни\n".encode("cp1251") * 3,
    "pointer.csv": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
    "page.zip": b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>",
    "mixed/a.csv": b"title,content\n",
    "mixed/b.csv": b"title,content\n",
    "mixed/c.jsonl": GOOD % 1,
    "bad.jsonl": PRODUCTS + b"".join(BAD_LINES),
    "nul.csv": b"title,content\nDesk,Of \x00 oak.\n" + b"Chair,Of oak\n",
    "objects.jsonl": b'{"title": {"en": "Desk"}, "content": {"en": "Of oak."}}\n' * 3,
    "titles.txt": b"Oak Desk\nBlue Mug\n",
    "label.csv": b"label\nOak Desk\n",
    "gaps.txt": b"Oak Desk\n\nBlue\xff Mug\n",
    "noyaml.yaml": b"data: [1, 2\nmodel: }{\n",
    "list.yaml": b"- model\n- data\n",
    "misspelt.yaml": b"model:\n  lora:\n    rang: 4\n",
    "nested.yaml": b"fit:\n  trainer:\n    max_epochs: 2\n",
    "type.yaml": b"trainer:\n  max_epochs: two\n",
    "latin1.yaml": b"model:\n  backbone: caf\xe9\n",
    "foreign.ckpt": b"not a checkpoint at all",
    "empty.ckpt": b"",
}

EARLY = "--trainer.callbacks EarlyStopping"
OPTIONS = [
    Case(
        "misspelt option",
        "--data.batch_siz 3",
        2,
        ("siz 3: there", "--data.batch_size."),
    ),
    Case(
        "abbreviated option",
        "--data.batch_s 3",
        2,
        ("_s 3: there is", "batch_size."),
    ),
    Case("abbreviated command", "", 2, ("'fi'", "'fit', 'validate', 'test', 'predict'"), "fi"),
    Case("unknown command", "", 2, ("'serve'", "'fit', 'validate'", "--help"), "serve"),
    Case("option without value", "--data.titles", 2, ("data.titles", "expected one argument")),
    Case(
        "negative rank",
        "--model.lora.r=-1",
        2,
        ("lora.r: wanted a wh", "1, found -1."),
    ),
    Case("rank in words", "--model.lora.r many", 2, ("model.lora.r", "'many'", "fit --help")),
    Case("dropout of 1", "--model.lora.dropout 1", 2, ("dropout", "below 1, found 1.")),
    Case("quantisation", "--model.quantization int8", 2, ("wanted nf4 or none", "int8")),
    Case("unknown optimizer", "--model.optimizer Adaam", 2, ("model.optimizer", "Adaam")),
    Case("optimizer's option", "--model.optimizer.lrr 1", 2, ("model.optimizer", "lrr")),
    Case("learning rate", "--model.optimizer.lr=-1", 2, ("--model.optimizer: ", "rate: -1", "Set")),
    Case("fused and foreach", "--model.optimizer.foreach true", 2, ("--model.optimizer: ", "Set")),
    Case("linked option", "--data.backbone tiny", 2, ('"data.backbone"', '"model.backbone"')),
    Case("no epoch", "--trainer.max_epochs 0", 2, ("--trainer.max_epochs 0: wanted", "at least 1")),
    Case("all epochs", "--trainer.max_epochs=-1", 2, ("max_epochs -1: wanted", "Give the number")),
    Case("precision", "--trainer.precision 17", 2, ("trainer.precision", "bf16-mixed", "17")),
    Case("bf16 throughout", "--trainer.precision bf16-true", 2, ("small steps", "to bf16-mixed.")),
    Case("half throughout", "--trainer.precision 16-true", 2, ("wanted bf16-mixed", "16-mixed.")),
    Case("float64", "--trainer.precision 64-true", 2, ("--trainer.precision 64-true", "32-true.")),
    Case("float64 by number", "--trainer.precision 64", 2, ("precision 64: ", "to 32-true.")),
    Case("fp8", "--trainer.precision transformer-engine", 2, ("transformer-engine: ", "bf16-mix")),
    Case(
        "Lightning's 4 bits",
        "--trainer.plugins BitsandbytesPrecision --trainer.plugins.mode nf4",
        2,
        ("plugins lightning.", "BitsandbytesPrecision: ", "--model.quantization", "Leave the plug"),
    ),
    Case("half by plugin", "--trainer.plugins HalfPrecision", 2, ("HalfPrecision: ", "bf16-mixed")),
    Case("Lightning's files", "--trainer.plugins AsyncCheckpointIO", 2, ("show", "Leave the plu")),
    Case("steps below 0", "--trainer.max_steps=-7", 2, ("--trainer.max_steps -7: wanted", "-1 f")),
    Case("no step", "--trainer.max_steps=0", 2, ("--trainer.max_steps 0: wanted", "or -1 for no")),
    Case(
        "share of a run", "--trainer.val_check_interval 0.5", 2, ("wanted a number of opt", "500")
    ),
    Case(
        "share of the rows", "--trainer.limit_train_batches 0.5", 2, ("wanted a part", "num_prod")
    ),
    Case("one batch", "--trainer.limit_train_batches 1", 2, ("micro-batches", "Leave it away")),
    Case("no batch at all", "--trainer.limit_train_batches 0", 2, ("--trainer.max_steps",)),
    Case(
        "overfitting", "--trainer.overfit_batches 2", 2, ("overfit_batches 2: wanted", "num_prod")
    ),
    Case("no checkpoint", "--trainer.enable_checkpointing false", 2, ("wanted true", "Leave it")),
    Case(
        "bare bones", "--trainer.barebones true", 2, ("--trainer.barebones true: wanted", "Leave")
    ),
    Case(
        "clipping below 0",
        "--trainer.gradient_clip_val=-1",
        2,
        ("val -1: wanted the largest", "1.0"),
    ),
    Case("a seed too large", "--seed_everything 4294967296", 2, ("everything 4294967296: wanted",)),
    Case(
        "no run folder", "--trainer.default_root_dir=", 2, ("wanted the name of a folder", "Give")
    ),
    Case("null", "--trainer.default_root_dir null", 2, ("wanted the name of a folder", "Give one")),
    Case("corpora a file", "--data.corpora titles.txt", 2, ("--data.corpora titles.txt: wanted",)),
    Case("nobody's home", "--data.titles ~nobody-at-all/t", 2, ("found no such user", "Write the")),
    Case(
        "LBFGS", "--model.optimizer LBFGS", 2, ("--model.optimizer LBFGS: wanted", "evaluates the")
    ),
    Case(
        "SparseAdam", "--model.optimizer SparseAdam", 2, ("dense gradients", "--model.optimizer: ")
    ),
    Case(
        "a callback of wrong arguments",
        f"{EARLY} --trainer.callbacks.monitor x --trainer.callbacks.mode y",
        2,
        ("callbacks.EarlyStopping: wanted", "`mode` can be min, max, got y", "give other arg"),
    ),
    Case("a callback without", EARLY, 2, ("monitor", "fit --help")),
    Case("no such callback", "--trainer.callbacks NoSuch", 2, ("trainer.callbacks", "NoSuch")),
    Case("no such logger", "--trainer.logger NoSuch", 2, ("trainer.logger", "NoSuch")),
    Case("no such plugin", "--trainer.plugins NoSuch", 2, ("trainer.plugins", "NoSuch")),
    Case("no such profiler", "--trainer.profiler none", 2, ("profiler", "'simple', 'advanced'")),
    Case("no such model", "--model NoSuch", 2, ("model", "NoSuch")),
    Case(
        "averaged weights",
        "--trainer.callbacks StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.1",
        2,
        ("--trainer.callbacks StochasticWeightAveraging: wanted", "that watch a run", "Leave it a"),
    ),
    Case(
        "accumulation by callback",
        '--trainer.callbacks GradientAccumulationScheduler --trainer.callbacks.scheduling {"4":2}',
        2,
        ("--trainer.callbacks GradientAccumulationScheduler: wanted", "Leave it away"),
    ),
    Case("config of another form", "--config nested.yaml", 2, ("fit.trainer.max_epochs",)),
    Case("config empty", "--config empty.jsonl", 2, ("empty.jsonl", "wanted a config in YAML")),
    Case("config of a wrong type", "--config type.yaml", 2, ("trainer.max_epochs", "two")),
    Case("time in words", "--trainer.max_time 5m", 2, ("max_time 5m: wanted", "write 00:01:30:00")),
    Case(
        "Lightning's timer",
        "--trainer.callbacks Timer --trainer.callbacks.duration 00:00:00:01",
        2,
        ("--trainer.callbacks Timer: how long", "Leave the callback away", "--trainer.max_time"),
    ),
    Case("Lightning's limit", "--trainer.limit_val_batches=-3", 2, ("-3 for limit_val_batches",)),
    Case("no batch", "--trainer.accumulate_grad_batches 0", 2, ("batches 0: wanted", "Set --data")),
    Case(
        "no row",
        "--data.rows_per_step 0",
        2,
        ("rows_per_step", "1, found 0."),
    ),
    Case("validation by epochs", "--trainer.check_val_every_n_epoch 1", 2, ("epoch 1:", "Leave")),
    Case(
        "a seed below 0",
        "--seed_everything=-1",
        2,
        ("--seed_everything", "0, found -1."),
    ),
    Case(
        "row too short",
        "--data.max_seq_length 600 --data.row_tokens 512",
        2,
        ("--data.max_seq_length 600:", "must fit", "--data.row_tokens is 512", "Change one"),
    ),
    Case(
        "nothing to train on",
        "--data.validation_fraction 0.6 --data.test_fraction 0.4",
        2,
        ("--data.validation_fraction 0.6", "--data.test_fraction 0.4", "wanted a sum below 1"),
    ),
    Case(
        "sequence too short",
        "--data.max_seq_length 20",
        2,
        ("--data.max_seq_length 20:", "wanted at least", "template alone has", "Raise"),
    ),
    Case(
        "template without title",
        "--data.prompt.template Describe:",
        2,
        ("--data.prompt.template: wanted {title}", "at least once", "in 'Describe:'", "Write"),
    ),
    Case(
        "another place to fill",
        "--data.prompt.template {title}:{content}",
        2,
        ("wanted no place to fill but {title}", "found {content} in '{title}:{", "Leave it out"),
    ),
    Case(
        "system without a chat template",
        "--data.prompt.system Brief.",
        2,
        ("--data.prompt.system: only a chat template", "this base has none", "name a chat model"),
    ),
    Case(
        "title in the system message",
        "--data.prompt.system {title}.",
        2,
        ("--data.prompt.system: wanted a text that is the same", "Put the title into --data.pro"),
    ),
    Case(
        "chat without template",
        "--data.prompt.chat true",
        2,
        ("--data.prompt.chat true: the tokenizer", "no chat template", "Set --data.prompt.chat"),
    ),
    Case("config missing", "--config none.yaml", 2, ("config", "does not exist", "none.yaml")),
    Case("config is a folder", "--config folder.jsonl", 2, ("config", "folder.jsonl", "not a f")),
    Case("config not YAML", "--config noyaml.yaml", 2, ("noyaml.yaml", "wanted", "YAML", "line 2")),
    Case("config a list", "--config list.yaml", 2, ("list.yaml", "wanted a config", "options by")),
    Case(
        "config not UTF-8",
        "--config latin1.yaml",
        2,
        ("--config latin1.yaml: wanted UTF-8", "Save it"),
    ),
    Case(
        "config misspelt",
        "--config misspelt.yaml",
        2,
        ("misspelt.yaml: model", "lora.r."),
    ),
    Case("run folder a file", "--trainer.default_root_dir titles.txt", 2, ("a folder, found a f",)),
    Case(
        "run folder in a file",
        "--trainer.default_root_dir titles.txt/run",
        2,
        ("--trainer.default_root_dir titles.txt/run: wanted a folder", "found a file", "Name"),
    ),
]

NOTHING = [
    Case(
        "validate", "--trainer.limit_val_batches 0", 2, ("validate has nothing to do",), "validate"
    ),
    Case("test", "--trainer.limit_test_batches 0", 2, ("test has nothing to do",), "test"),
    Case("predict", "--trainer.limit_predict_batches 0", 2, ("predict has noth",), "predict"),
]

ONE_DEVICE = ("wanted one device of one node", "Set both to 1.")
DEVICES = [
    Case("none", "--trainer.devices 0", 2, ("devices 0: wanted at least one", "Give a number")),
    Case(
        "a step that three do not divide",
        "--trainer.devices 3 --data.rows_per_step 4 --data.batch_size 1",
        2,
        (
            "--data.rows_per_step 4: wanted a multiple of the processes, which are 3",
            "Set --data.rows_per_step to 3 or 6;",
            "or train on 2",
        ),
    ),
    Case(
        "two nodes without a meeting place",
        "--trainer.num_nodes 2 --data.batch_size 2",
        2,
        ("--trainer.num_nodes 2: wanted MASTER_ADDR, MASTER_PORT, NODE_RANK", "found no MASTER_A"),
    ),
    Case("spawned", "--trainer.strategy ddp_spawn", 2, ("strategy ddp_spawn: wanted", "Leave it")),
    Case(
        "fsdp", "--trainer.strategy fsdp", 2, ("strategy fsdp: wanted one of auto", "Leave it aw")
    ),
    Case("deepspeed", "--trainer.strategy deepspeed_stage_2", 2, ("stage_2: wanted", "Leave it")),
    Case("by class", "--trainer.strategy DDPStrategy", 2, ("DDPStrategy: wanted", "Leave it away")),
    Case("misspelt", "--trainer.strategy dpd", 2, ("strategy dpd: wanted one of auto", "Leave it")),
    Case(
        "a TPU", "--trainer.accelerator tpu", 2, ("accelerator tpu: wanted one of auto, cpu, gpu",)
    ),
    Case("by index on a CPU", "--trainer.devices [0]", 2, ("--trainer options", "an int > 0")),
]

PRODUCT_FILES = [
    Case("missing", "none.jsonl", 3, ("--data.train_file none.jsonl: no such file", "Name a file")),
    Case("a folder", "folder.jsonl", 3, ("folder.jsonl: wanted files", "found inside", "Name the")),
    Case("empty", "empty.jsonl", 3, ("empty.jsonl is empty (0 bytes)", "Copy or download it")),
    Case("suffix", "words.docx", 3, ("words.docx: the suffix '.docx'", "Wanted one of .json")),
    Case(
        "without the columns",
        "columns.jsonl",
        3,
        (
            "columns.jsonl: wanted a column 'title' with the title",
            "the columns seen are label, text",
            "Name yours with --data.title_column and --data.description_column",
        ),
    ),
    Case("CSV without the columns", "columns.csv", 3, ("column 'title'", "seen are label, text")),
    Case("Alpaca", "alpaca.jsonl", 3, ("--data.title_column input --data.description_column out",)),
    Case("no JSON at all", "table.json", 3, ("the first is: title,content", "CSV: name it .csv")),
    Case(
        "no usable row",
        "useless.jsonl",
        3,
        ("useless.jsonl: no usable product for train", "4 records read, 0 usable", "empty_content"),
    ),
    Case(
        "objects only",
        "objects.jsonl",
        3,
        (
            "objects.jsonl: wanted text in the column 'title' with the title",
            "found an object with en",
            "Name one of its parts, as in --data.title_column title.en",
        ),
    ),
    Case("damaged gzip", "broken.json.gz", 3, ("broken.json.gz is damaged", "Copy or download it")),
    Case("no zip", "noise.zip", 3, ("noise.zip is damaged", "Copy or download it again")),
    Case("no Parquet", "noise.parquet", 3, ("noise.parquet is damaged or no Parquet file", "Copy")),
    Case("Russian", "russian.csv", 3, ("likely cp1251", "“Красная”", "--data.encoding cp1251")),
    Case(
        "an encoding of no name",
        "one.jsonl --data.encoding uft8",
        2,
        ("--data.encoding uft8: wanted an encoding", "Near to it: utf-8"),
    ),
    Case("LFS", "pointer.csv", 3, ("pointer.csv is a Git LFS pointer", "Run `git lfs pull`")),
    Case("a page", "page.zip", 3, ("page.zip is a page of the web", "Drive", "gdown --fuzzy")),
    Case("a driver", "s3://shop/a.csv", 3, ("train_file s3://shop/a.csv: ", "pip install s3fs")),
    Case("mixed", "mixed", 3, ("mixed: wanted files of one kind", "2 × .csv and 1 × .json", "*.c")),
    Case("a pattern", "none*.csv", 3, ("none*.csv: no file has such a name", "in quotes")),
    Case("a data set", "some/shop", 3, ("no such file", "hf download --repo-type dataset some/s")),
    Case(
        "more bad records than allowed",
        "bad.jsonl --data.max_bad_records 4",
        3,
        (
            "more than 4 records cannot be read (--data.max_bad_records)",
            "1 × not valid JSON",
            "bad.jsonl, line 31: not valid JSON",
            "Mend the file, or raise the limit",
        ),
    ),
    Case("NUL", "nul.csv --data.max_bad_records 0", 3, ("nul.csv, line 2: NUL character", "Mend")),
]

TITLE_FILES = [
    Case("none named", "", 2, ("predict needs titles: --data.titles FILE", "--data.title")),
    Case("missing", "--data.titles none.txt", 3, ("none.txt does not exist", "Check the path")),
    Case(
        "a folder", "--data.titles folder.jsonl", 3, ("titles folder.jsonl: wanted files", "Name")
    ),
    Case("a page", "--data.titles page.zip", 3, ("page.zip is a page of the web", "gdown --fuzzy")),
    Case("empty", "--data.titles empty.jsonl", 3, ("empty.jsonl is empty (0 bytes)",)),
    Case("two", "--data.titles titles.txt --data.title Mug", 2, ("found both", "Leave one away")),
    Case("column", "--data.titles label.csv", 3, ("'title'", "are label", "--data.title_column")),
    Case(
        "form",
        "--data.titles titles.txt --data.output out.xlsx",
        2,
        ("--data.output out.xlsx", "ends in .jsonl, .csv, .parquet", "found .xlsx", "Give it one"),
    ),
    Case(
        "output is a folder",
        "--data.titles titles.txt --data.output folder.jsonl",
        2,
        ("--data.output folder.jsonl: wanted a file, found a folder", "name another"),
    ),
    Case(
        "output is the input",
        "--data.titles label.csv --data.output label.csv",
        2,
        ("label.csv is there already, and predictions are never overwritten", "name another"),
    ),
    Case(
        "column to keep",
        "--data.titles one.jsonl --data.keep_columns sku,price",
        3,
        ("'sku' and a column 'price' to keep", "are title, content", "--data.keep_columns"),
    ),
    Case(
        "columns of a text file",
        "--data.titles titles.txt --data.keep_columns sku",
        3,
        ("a column 'sku' to keep", "a .txt file holds titles alone", "--data.keep_columns"),
    ),
]

BASES = [
    Case("no folder", "./nowhere", 2, ("--model.backbone ./nowhere: wanted", "no such folder")),
    Case("a file", "titles.txt", 2, ("--model.backbone titles.txt: wanted", "found a file")),
    Case("empty folder", "bases/empty", 2, ("it is incomplete: missing config.json; found",)),
    Case("no pickle", "bases/pickle", 2, ("pytorch_model.bin cannot be read", "damaged", "Copy")),
    Case("no tokenizer", "bases/mute", 2, ("missing a tokenizer (tokenizer.json or", "Put")),
    Case("config damaged", "bases/config", 2, ("config.json is damaged: wanted JSON", "line 1")),
    Case("tokenizer damaged", "bases/tokenizer", 2, ("bases/tokenizer", "tokenizer", "Copy")),
    Case("an adapter", "bases/adapter", 2, ("it holds an adapter, not a base", "on: some/base.")),
    Case("GGUF", "bases/gguf", 2, ("GGUF files are for running a model, not for training it",)),
    Case("a GGUF file", "base.gguf", 2, ("base.gguf: GGUF files are for running a model",)),
    Case("LFS pointer", "bases/pointer", 2, ("model.safetensors is a Git LFS pointer", "lfs pull")),
    Case("encoder-decoder", "bases/t5", 2, ("bases/t5: it is an encoder-decoder (t5)",)),
    Case("not causal", "bases/bert", 2, ("bases/bert: bert is not causal here", "Name a base")),
    Case("quantised", "bases/gptq", 2, ("its weights are quantised already (gptq)",)),
    Case("few positions", "bases/gpt2", 2, ("--data.max_seq_length 256", "has learnt 128 posit")),
    Case("runs code", "bases/code", 2, ("pytorch_model.bin asks to run code when it is read",)),
    Case("not on the hub", "someone/nothing", 2, ("HF_HUB_OFFLINE is set", "`hf download some")),
]

ADAPTERS = [
    Case("missing", "adapters/none", 2, ("--model.adapter adapters/none: it is not", "no folder")),
    Case("no config", "adapters/empty", 2, ("has no adapter_config.json. Wanted a folder that",)),
    Case("pickle only", "adapters/pickle", 2, ("no adapter_model.safetensors (pickled .bin",)),
    Case("not LoRA", "adapters/ia3", 2, ("wanted a LoRA adapter", "found IA3", "Train or name")),
    Case("damaged config", "adapters/torn", 2, ("adapter_config.json is damaged: wanted JSON",)),
    Case("damaged record", "adapters/record", 2, ("amazon_desc.json is damaged: wanted JSON",)),
    Case("other base", "adapters/other", 2, ("--model.backbone 'else/where (sha256 000", "Set")),
]

CHECKPOINTS = [
    Case("missing", "none.ckpt", 2, ("--ckpt_path none.ckpt: no such file. Name a file",)),
    Case("a folder", "folder.jsonl", 2, ("--ckpt_path folder.jsonl: no such file",)),
    Case("empty", "empty.ckpt", 4, ("empty.ckpt: it has no checksum", "cut short", "Name another")),
    Case("garbage", "foreign.ckpt", 4, ("foreign.ckpt: it has no checksum", "Name another one")),
    Case("cut", "ckpt/cut.ckpt", 4, ("cut.ckpt: it has no checksum", "leave --ckpt_path away")),
    Case("a bit", "ckpt/bit.ckpt", 4, ("bit.ckpt: its checksum is not that of its bytes", "Name")),
    Case("a pickle", "ckpt/code.ckpt", 4, ("code.ckpt: it holds more than numbers and plain",)),
    Case("foreign", "ckpt/plain.ckpt", 4, ("plain.ckpt: it was not written by amazon_desc",)),
    Case(
        "of PyTorch",
        "ckpt/torch.ckpt",
        4,
        ("torch.ckpt: it has no checksum", "no checkpoint of our"),
    ),
    Case("other base", "ckpt/base_sha256.ckpt", 2, ("--model.backbone 'else", "this run has")),
    Case("quantisation", "ckpt/quantization.ckpt", 2, ("--model.quantization 'none', this run",)),
    Case("template", "ckpt/template.ckpt", 2, ("--data.prompt.template 'Say {title}'", "Set --da")),
    Case("chat", "ckpt/is_chat.ckpt", 2, ("--data.prompt.chat True, this run has False. Set",)),
    Case("system", "ckpt/system.ckpt", 2, ("--data.prompt.system 'Be brief.', this run has None",)),
    Case("rank", f"{CHECKPOINT} --model.lora.r 3", 2, ("--model.lora.r 16, this run has 3", "Set")),
    Case("scale", f"{CHECKPOINT} --model.lora.alpha 3", 2, ("alpha 32, this run has 3", "Set")),
    Case(
        "kind of scale",
        f"{CHECKPOINT} --model.lora.use_rslora true",
        2,
        ("--model.lora.use_rslora False, this run has True", "Set"),
    ),
    Case(
        "kind of LoRA",
        f"{CHECKPOINT} --model.lora.use_dora true",
        2,
        ("--model.lora.use_dora False, this run has True", "Set"),
    ),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/trained: two steps on the shipped sample."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", "--config", "quickstart.yaml", TRAINED_ON, *SMALL])
    assert (folder / ADAPTER).is_dir()
    assert (folder / CHECKPOINT).is_file()
    return folder


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Path]:
    """An empty working folder in which no base can be loaded and no secret may be shown."""

    def load_backbone(*_: object, **__: object) -> None:
        raise BaseLoaded

    monkeypatch.setattr(amazon_desc.model.backbone, "load_backbone", load_backbone)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
    capfd.readouterr()
    yield tmp_path
    out, err = capfd.readouterr()
    assert SECRET not in out + err


@pytest.fixture
def trained_place(place: Path, trained: Path) -> Path:
    """The same, with the trained run in it."""
    shutil.copytree(trained / "runs", place / "runs")
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def folders(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_dir()}


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[[Case, list[str]], str]:
    def run(case: Case, options: list[str]) -> str:
        """Returns what the user is told; a command that is not refused as the case says fails."""
        before, there = contents(Path.cwd()), folders(Path.cwd())
        with pytest.raises(SystemExit) as exit_:
            main([case.command, "--config", "quickstart.yaml", *options])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        assert SECRET not in out + err
        assert exit_.value.code == case.code, err
        assert case.message
        for part in case.message:
            assert part in err
        assert contents(Path.cwd()) == before
        assert folders(Path.cwd()) <= there
        return err

    return run


def table(cases: list[Case]) -> pytest.MarkDecorator:
    assert len({case.name for case in cases}) == len(cases) > 5
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name.replace(" ", "_"))


Refused = Callable[[Case, list[str]], str]


@pytest.mark.usefixtures("place")
def test_a_fit_that_has_nothing_to_validate_on_is_refused_before_the_base_is_loaded(
    capfd: pytest.CaptureFixture[str],
):
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", "quickstart.yaml", "--data.train_file", "one.jsonl"])
    assert exit_.value.code == 3
    assert capfd.readouterr().err.endswith(  # where a bar of progress was drawn
        "amazon_desc: --data.train_file one.jsonl: no usable product for validation: 1 records "
        "read, 1 usable. Name a file with more titles and descriptions, or train without: "
        "--data.validation_fraction 0.\n"
    )


@table(OPTIONS)
@pytest.mark.usefixtures("place")
def test_wrong_option_is_refused(case: Case, refused: Refused):
    refused(case, case.options.split())


@pytest.mark.usefixtures("place")
def test_a_logger_whose_package_is_not_installed_is_refused(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    lacking = RequirementCache("a-package-that-nobody-has>=1")
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", lacking)
    wanted = (
        "loggers.WandbLogger: wanted a class",
        "a-package-that-nobody-has",
        "or leave it away",
    )
    refused(Case("", "", 2, wanted), ["--trainer.logger", "WandbLogger"])


@pytest.mark.parametrize("case", NOTHING, ids=lambda case: case.name)
@pytest.mark.usefixtures("place")
def test_a_command_that_would_do_nothing_is_refused(case: Case, refused: Refused):
    refused(case, case.options.split())


@table(DEVICES)
@pytest.mark.usefixtures("place")
def test_devices_that_cannot_be_used_are_refused_in_one_sentence(case: Case, refused: Refused):
    err = refused(case, ["--trainer.accelerator", "cpu", *case.options.split()])
    assert len([line for line in err.splitlines() if "amazon_desc: " in line]) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.usefixtures("place")
def test_missing_gpu_is_refused(refused: Refused):
    refused(Case("", "", 2, ("gpu",)), ["--trainer.accelerator", "gpu"])


@table(PRODUCT_FILES)
@pytest.mark.usefixtures("place")
def test_unusable_file_of_products_is_refused(case: Case, refused: Refused):
    refused(case, ["--data.train_file", *case.options.split()])


@table(TITLE_FILES)
@pytest.mark.usefixtures("trained_place")
def test_unusable_file_of_titles_is_refused(case: Case, refused: Refused):
    refused(case._replace(command="predict"), [TRAINED_ON, *case.options.split()])


@pytest.mark.usefixtures("place")
def test_single_bad_records_are_skipped_counted_and_reported_with_their_lines(
    capfd: pytest.CaptureFixture[str],
):
    options = ["--data.train_file", "bad.jsonl", "--data.max_bad_share", "0.2", *FEW]
    with pytest.raises(BaseLoaded):
        main(["fit", "--config", "quickstart.yaml", *options])
    out = capfd.readouterr().out
    assert "35 records, 30 usable pairs" in out
    for reason in ("1 × not valid JSON", "1 × title is not text", "1 × not a JSON object"):
        assert reason in out
    for fault in (
        "bad.jsonl, line 31: not valid JSON",
        "bad.jsonl, line 32: description is not text",
        "bad.jsonl, line 33: title is not text",
        "bad.jsonl, line 34: not valid UTF-8",
        "bad.jsonl, line 35: not a JSON object",
    ):
        assert fault in out


@pytest.mark.usefixtures("trained_place")
def test_single_bad_titles_are_skipped_and_reported_with_their_lines(
    capfd: pytest.CaptureFixture[str],
):
    with pytest.raises(BaseLoaded):
        main(
            ["predict", "--config", "quickstart.yaml", TRAINED_ON, "--data.titles", "gaps.txt"],
        )
    out = capfd.readouterr().out
    assert "gaps.txt, line 2: title is empty" in out
    assert "gaps.txt, line 3: not valid UTF-8" in out


def make_bases(folder: Path) -> None:
    """Bases that lack something, each in a folder named after it."""
    whole = ("pickle", "mute", "config", "tokenizer", "pointer", "t5", "bert", "gptq", "gpt2")
    for name in ("empty", "adapter", "gguf", *whole):
        (folder / name).mkdir(parents=True)
    for name in whole:
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TINY_BASE / file, folder / name)
        weights = "pytorch_model.bin" if name == "pickle" else "model.safetensors"
        shutil.copy(TINY_BASE / "model.safetensors", folder / name / weights)
    (folder / "mute" / "tokenizer.json").unlink()
    (folder / "config" / "config.json").write_text("{model_type:")
    (folder / "tokenizer" / "tokenizer.json").write_text('{"version": "1.0"')
    record = {"peft_type": "LORA", "base_model_name_or_path": "some/base"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(record))
    (folder / "gguf" / "base.Q4_K_M.gguf").touch()
    (folder / "pointer" / "model.safetensors").write_bytes(published_layouts.lfs_pointer(b"w"))
    for name, settings in (
        ("t5", {"model_type": "t5", "is_encoder_decoder": True}),
        ("bert", {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 2}),
        ("gpt2", {"model_type": "gpt2", "n_embd": 32, "n_head": 2, "n_positions": 128}),
        ("gptq", json.loads((TINY_BASE / "config.json").read_text())),
    ):
        settings |= {"quantization_config": {"quant_method": "gptq"}} if name == "gptq" else {}
        (folder / name / "config.json").write_text(json.dumps(settings))
    published_layouts.bin_that_runs_code(folder / "code", folder / "code" / "created")


@table(BASES)
def test_unusable_base_is_refused(
    case: Case, place: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
):
    make_bases(place / "bases")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place.parent / "hub"))
    err = refused(case, ["--model.backbone", case.options])
    assert "amazon_desc_packed" not in err
    assert not (place / "bases" / "code" / "created").exists()


def make_adapters(folder: Path, trained: Path) -> None:
    """Adapters that cannot be used, each in a folder named after what is wrong."""
    (folder / "empty").mkdir(parents=True)
    for name in ("pickle", "ia3", "torn", "record", "other"):
        shutil.copytree(trained, folder / name)
    weights = folder / "pickle" / "adapter_model.safetensors"
    weights.rename(weights.with_name("adapter_model.bin"))
    (folder / "ia3" / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    (folder / "torn" / "adapter_config.json").write_text('{"peft_type": "LO')
    (folder / "record" / "amazon_desc.json").write_text('{"backbone"')
    record = json.loads((folder / "other" / "amazon_desc.json").read_text())
    record |= {"backbone": "else/where", "base_sha256": "0" * 64}
    (folder / "other" / "amazon_desc.json").write_text(json.dumps(record))


@pytest.mark.parametrize("command", ["fit", slow_case("validate")])
@table(ADAPTERS)
def test_unusable_adapter_is_refused(
    case: Case, command: str, trained_place: Path, refused: Refused
):
    make_adapters(trained_place / "adapters", trained_place / ADAPTER)
    refused(case._replace(command=command), ["--model.adapter", case.options])


@pytest.fixture(scope="module")
def bad_checkpoints(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints that cannot be used, each in a file named after what is wrong."""
    folder, checkpoint = tmp_path_factory.mktemp("ckpt"), trained / CHECKPOINT
    whole = checkpoint.read_bytes()
    (folder / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (folder / "bit.ckpt").write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    write_sealed(serialized({"identity": Path("needs code to load")}), folder / "code.ckpt")
    write_sealed(serialized({"state_dict": {}}), folder / "plain.ckpt")
    torch.save({"identity": {}}, folder / "torch.ckpt")
    for key, value in (
        ("base_sha256", "0" * 64),
        ("quantization", "none"),
        ("template", "Say {title}"),
        ("is_chat", True),
        ("system", "Be brief."),
    ):
        content = torch.load(checkpoint, weights_only=True)
        content["identity"] |= {key: value}
        if key == "base_sha256":
            content["identity"]["backbone"] = "else/where"
        write_sealed(serialized(content), folder / f"{key}.ckpt")
    return folder


@pytest.mark.parametrize("command", ["fit", slow_case("validate")])
@table(CHECKPOINTS)
def test_unusable_checkpoint_is_refused(
    case: Case, command: str, trained_place: Path, bad_checkpoints: Path, refused: Refused
):
    shutil.copytree(bad_checkpoints, trained_place / "ckpt", copy_function=os.link)
    if command == "fit" and case.code == 2 and "no such file" not in case.message[0]:
        case = case._replace(message=("was trained with other settings", "Set them back"))
    refused(case._replace(command=command), ["--ckpt_path", *case.options.split()])


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.usefixtures("place")
def test_command_without_trained_weights_is_refused(command: str, refused: Refused):
    wanted = ("no trained weights: runs/quickstart/adapter", "Run fit first", "--model.adapter")
    refused(Case("", "", 2, wanted, command), ["--data.titles", "titles.txt"])
    last = ("--ckpt_path last: there is no checkpoint in runs/quickstart/checkpoints", "Run fit")
    refused(Case("", "", 2, last, command), ["--ckpt_path", "last", "--data.titles", "titles.txt"])


def test_resumed_fit_of_another_base_leaves_the_run_as_it_was(
    trained_place: Path, refused: Refused
):
    (trained_place / "runs/trained/run.json").unlink()  # as if it had been killed
    wanted = (
        "step=00000002.ckpt was trained with other",
        "--model.quantization: 'nf4', now 'none'",
    )
    refused(Case("", "", 2, wanted), [TRAINED_ON, "--model.quantization", "none"])


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_they_are_kept(
    trained_place: Path, refused: Refused
):
    (trained_place / "runs/trained/run.json").unlink()
    file = trained_place / CHECKPOINT
    older = file.with_name("step=00000001.ckpt.damaged")
    older.write_bytes(b"set aside")
    file.write_bytes(b"PK half a file")
    wanted = (
        f"no intact checkpoint to resume from: {CHECKPOINT} (it has no checksum",
        "step=00000001.ckpt.damaged (set aside as damaged)",
        "start anew in another --trainer.default_root_dir",
    )
    refused(Case("", "", 4, wanted), [TRAINED_ON])
    refused(Case("", "", 4, wanted, "validate"), [TRAINED_ON, "--ckpt_path", "last"])
    file.unlink()
    refused(Case("", "", 4, wanted[1:]), [TRAINED_ON])


def test_damaged_record_of_a_run_is_refused(trained_place: Path, refused: Refused):
    (trained_place / "runs/trained/run.json").write_text('{"finished"')
    refused(Case("", "", 2, ("run.json is damaged: wanted JSON", "remove it")), [TRAINED_ON])


def test_predictions_are_never_overwritten(trained_place: Path, refused: Refused):
    file = trained_place / "runs/trained/predictions/titles.txt.jsonl"
    file.parent.mkdir()
    file.write_text("the work of a night")
    wanted = (
        "predictions/titles.txt.jsonl is there already",
        "never overwritten",
        "Move or delete it",
    )
    refused(Case("", "", 2, wanted, "predict"), [TRAINED_ON, "--data.titles", "titles.txt"])
    assert file.read_text() == "the work of a night"


@pytest.mark.usefixtures("place")
def test_target_modules_that_match_nothing_are_refused_and_no_config_is_written(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """What layers there are is known when the base is loaded, so here it is."""
    monkeypatch.setattr(amazon_desc.model.backbone, "load_backbone", LOAD_BACKBONE)
    options = ["--model.lora.target_modules", '["q_proj","w_proj"]', "--data.num_products", "100"]
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", "quickstart.yaml", *options])
    assert exit_.value.code == 2
    assert not Path("runs/quickstart/config.yaml").exists()
    assert not Path("runs/quickstart/run.json").exists()
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    assert "--model.lora.target_modules: w_proj matches no linear layer of the base" in err
    assert "Wanted all-linear, or some of: down_proj, gate_proj, k_proj, o_proj, q_proj" in err


@pytest.mark.usefixtures("trained_place")
def test_predict_needs_no_file_of_products(capfd: pytest.CaptureFixture[str]):
    arguments = [TRAINED_ON, "--data.titles", "titles.txt", "--data.train_file", "none.jsonl"]
    with pytest.raises(BaseLoaded):
        main(["predict", "--config", "quickstart.yaml", *arguments])
    assert "none.jsonl" not in capfd.readouterr().err


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """The address of a server that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


HUB_PROGRAM = """
import sys, time
from amazon_desc.support.errors import UserError
from amazon_desc.support.hub import find_backbone
import huggingface_hub.hf_api  # its import is not what is measured
started = time.monotonic()
try:
    find_backbone("someone/nothing")
except UserError as error:
    print(error, file=sys.stderr)
    print(time.monotonic() - started)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hub", ["silent", "refusing", "offline"])
def test_hub_that_is_away_is_said_within_seconds(hub: str, silent_hub: str, tmp_path: Path):
    endpoint = silent_hub if hub == "silent" else "http://127.0.0.1:9"
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_TOKEN": SECRET}
    env |= {"HF_HUB_OFFLINE": "1"} if hub == "offline" else {}
    done = subprocess.run(
        [sys.executable, "-c", HUB_PROGRAM],
        capture_output=True,
        text=True,
        env=env,
        cwd=PACKAGE.parent,
        timeout=60,
        check=True,
    )
    for part in (
        "--model.backbone someone/nothing: it is not in the local cache",
        "Check the name and the network",
        "`hf download someone/nothing`",
    ):
        assert part in done.stderr
    assert ("HF_HUB_OFFLINE is set" in done.stderr) == (hub == "offline")
    assert SECRET not in done.stdout + done.stderr
    assert float(done.stdout) < 15


NOTHING_THERE = ["-m", "amazon_desc", "fit", "--config"]


def check_ended(done: Any, code: int, message: str, folder: Path) -> None:
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert not list(folder.rglob("*.*"))


def test_a_program_leaves_with_the_exit_code_and_one_sentence(
    tmp_path: Path, run_program: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    check_ended(run_program(*NOTHING_THERE, "none.yaml", cwd=tmp_path), 2, "none.yaml", tmp_path)


@pytest.mark.slow
def test_a_process_leaves_with_the_exit_code_and_one_sentence(tmp_path: Path):
    no_file = ["quickstart.yaml", "--data.train_file", "none.jsonl"]
    done = subprocess.run(
        [sys.executable, *NOTHING_THERE, *no_file],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_TOKEN": SECRET, "PYTHONPATH": str(PACKAGE.parent)},
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    check_ended(done, 3, "none.jsonl", tmp_path)
