"""A base that is loaded takes the memory of what is kept of it, not of what was read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from amazon_desc.support.allocator import freed_at_once

TAKEN = """
def taken():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10
"""

LOADING = """
import sys, torch
from pathlib import Path
from amazon_desc.model.backbone import load_backbone
from amazon_desc.support.hub import Backbone, find_backbone
def load(base):
    return load_backbone(base, "nf4", torch.float16, torch.device("cpu"))
load(find_backbone("tiny"))
before = taken()
model = load(Backbone(Path(sys.argv[1]), "some/base"))
print(taken() - before)
"""


# 100 blocks of a megabyte come and go, and what comes between them stays.
CHURNING = """
import contextlib, sys
from amazon_desc.support.allocator import freed_at_once
b"x" * (24 << 20)  # once it is freed, glibc keeps what is smaller
before = taken()
with freed_at_once() if sys.argv[1] == "at once" else contextlib.nullcontext():
    pairs = [(b"x" * (1 << 20), b"x" * (number + 2000)) for number in range(100)]
    assert taken() - before > 100 << 20
    kept = [small for _, small in pairs]
    del pairs
print(taken() - before)
"""

ON_LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux says what a process has taken"
)


def printed_by(program: str, argument: str, **environment: str) -> int:
    """Returns the number that a program of its own process prints last."""
    done = subprocess.run(
        [sys.executable, "-c", TAKEN + program, argument],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


@ON_LINUX
def test_memory_that_is_freed_between_what_stays_goes_back_to_the_system():
    """Left to itself, glibc keeps it: then a half-made base takes what was read besides."""
    assert printed_by(CHURNING, "at once") < 5 << 20
    assert printed_by(CHURNING, "later") > 90 << 20


@pytest.mark.slow
@ON_LINUX
def test_a_base_in_4_bits_takes_what_is_left_of_it(tmp_path: Path):
    """Files of 113 MB become a base of 37; read and made, they may take 115.

    Which blocks lie side by side would depend on other threads, if they had memory of their own.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 6000}
    config = AutoConfig.for_model("llama", **shape, **heads)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    read = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert read > 110_000_000
    taken = printed_by(LOADING, str(tmp_path), MALLOC_ARENA_MAX="1")
    assert 30_000_000 < taken < 0.7 * read


def test_blocks_are_as_good_while_they_are_freed_at_once():
    with freed_at_once():
        kept = [torch.full((100_000,), float(number)) for number in range(20)]
        del kept[::2]
    assert [float(tensor.mean()) for tensor in kept] == [float(n) for n in range(1, 20, 2)]
