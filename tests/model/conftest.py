"""A tiny 4-bit base with LoRA, as a run would build it, and rows to feed it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from amazon_desc.data.corpus.packing import packed_rows
from amazon_desc.data.loading.batches import RowBatch, collate_rows
from amazon_desc.model import adapter, attention
from amazon_desc.model.backbone import load_backbone
from amazon_desc.support.hub import find_backbone

# Examples as (token ids, how many of them are the prompt), of uneven lengths.
EXAMPLES = [
    ([1, *range(100, 100 + length), 2], prompt)
    for length, prompt in ((20, 5), (3, 2), (31, 9), (11, 4), (7, 3), (26, 12))
]


@pytest.fixture
def build() -> Callable[..., torch.nn.Module]:
    """Returns a function that builds base and LoRA; its B matrices are small random values."""

    def build(quantization: str = "nf4", dropout: float = 0.0) -> torch.nn.Module:
        base = load_backbone(
            find_backbone("tiny"),
            quantization,  # pyright: ignore[reportArgumentType]
            torch.float32,
            torch.device("cpu"),
        )
        torch.manual_seed(7)
        model = adapter.attach(base, adapter.LoraSettings(r=4, alpha=8, dropout=dropout))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        return model.train()

    return build


def llama(dropout: float = 0.05, lora: adapter.LoraSettings | None = None, **changes: Any) -> Any:
    """Returns a small Llama with LoRA, its weights random."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    lora = lora or adapter.LoraSettings(dropout=dropout)
    config = LlamaConfig(**{**shape, **changes}, attn_implementation=attention.register())
    return adapter.attach(LlamaForCausalLM(config), lora)


def batch_of(examples: list[tuple[list[int], int]], row_tokens: int) -> RowBatch:
    ids = [ids for ids, _ in examples]
    prompts = [prompt for _, prompt in examples]
    rows = list(packed_rows(ids, prompts, row_tokens))
    return collate_rows(rows, row_tokens, pad_id=0, loss_on="completion")


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns the gradients of the LoRA matrices and clears them."""
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert found
    return found
