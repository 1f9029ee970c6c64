"""What a token asks of a card is counted from the weights; what the card can do is measured."""

import time
from collections.abc import Callable

import pytest
import torch

from amazon_desc.model.cost.mfu import flops_per_token, matmul_limit
from tests.conftest import tinyllama_config

# The tiny base: 4 layers, hidden 128, inner 384, 4 query and 2 key heads of 32, 2,048 pieces.
LAYER = 2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 384
HEAD = 2048 * 128


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_a_token_takes_four_flop_a_weight_of_linear_layers_and_head_once(
    quantization: str, build: Callable[..., torch.nn.Module]
):
    """LoRA is left out, 4-bit weights count whole, and the head counts where it is tied too."""
    assert flops_per_token(build(quantization)) == 4 * (4 * LAYER + HEAD) == 4 * 1_048_576


def test_tinyllama_takes_what_its_published_shape_says():
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(tinyllama_config()).requires_grad_(False)
    assert flops_per_token(model) == 4 * 1_034_420_224


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_limit_is_measured_quickly_in_little_memory_and_leaves_nothing(dtype: torch.dtype):
    device = torch.device("cuda", 0)
    torch.mm(*torch.ones(2, 64, 64, device=device, dtype=dtype))  # the library and its workspace
    torch.cuda.empty_cache()
    filling = torch.empty(torch.cuda.mem_get_info()[0] - 2**30, dtype=torch.uint8, device=device)
    state, cpu_state = torch.cuda.get_rng_state(), torch.get_rng_state()
    held = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    started = time.perf_counter()
    limit = matmul_limit(device, dtype)
    assert time.perf_counter() - started < 1
    assert limit is not None
    assert 1e12 < limit < 1e16
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == held
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.equal(torch.get_rng_state(), cpu_state)
    del filling


@pytest.mark.gpu
def test_a_card_without_room_is_not_measured():
    device = torch.device("cuda", 0)
    torch.cuda.empty_cache()
    filling = torch.empty(torch.cuda.mem_get_info()[0] - 2**27, dtype=torch.uint8, device=device)
    assert matmul_limit(device, torch.bfloat16) is None
    del filling
