"""Where the tests run kernels, and what on: decoders of random weights with LoRA, and packed rows.

On a card they run in bf16, as training does. Elsewhere Triton interprets them, a thousand times
slower, so all is tiny there; and in float32, which shows a wrong number far below bf16's rounding.
Triton's interpreter cuts bf16 off instead of rounding it, and multiplies its bit patterns.
"""

import importlib.util
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from amazon_desc.data.loading.batches import RowBatch, collate_rows
from amazon_desc.model import attention
from amazon_desc.model.execution import execute, machine_with
from amazon_desc.model.families import logit_cap_of, logit_scale_of
from amazon_desc.model.plan import plan, task_of
from amazon_desc.model.recomputation import Recompute

HAS_CARD = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if HAS_CARD else torch.device("cpu")
PRECISION = torch.bfloat16 if HAS_CARD else torch.float32
HALF = torch.bfloat16 if HAS_CARD else torch.float16
# Of the values' norm, twice what rounding alone makes.
ROUNDING = 4e-3 if HAS_CARD else 2e-6

VOCABULARY, ROW_TOKENS, LONGEST = (1000, 1024, 256) if HAS_CARD else (90, 40, 20)
NUM_LAYERS = 3 if HAS_CARD else 2


def quicken_interpreter() -> None:
    """Takes out of Triton's interpreter what takes much of its time and decides nothing.

    It puts its own functions in the place of Triton's in every call of a kernel's part, instead of
    once; follows each sum of whole numbers by another one in 64 bits, whose result nothing reads
    unless it is debugged; and makes its table of types anew for each look at it.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_LangPatchScope"):  # another version's, which is left as it is
        return
    interpreter._patch_lang(SimpleNamespace(__globals__={"tl": tl, "core": tl.core}))
    interpreter._patch_lang = lambda fn: interpreter._LangPatchScope()
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(
        sanitize_overflow=False
    )
    type_of, types = interpreter._get_np_dtype, {}

    def known_type_of(dtype: Any) -> Any:
        name = dtype.scalar.name
        if name not in types:
            types[name] = type_of(dtype)
        return types[name]

    interpreter._get_np_dtype = known_type_of


if not HAS_CARD and importlib.util.find_spec("triton") is not None:
    quicken_interpreter()


RUNS_KERNELS = [
    pytest.mark.triton,
    # Rows of a tile that hold no token are computed, and not stored.
    pytest.mark.filterwarnings("ignore:(invalid value|divide by zero):RuntimeWarning"),
]


def on_card(*values: Any) -> Any:
    """Returns parameters of a test that only a card is fast enough for."""
    return pytest.param(*values, marks=pytest.mark.gpu)


def random(*shape: int, scale: float = 1.0, dtype: torch.dtype = PRECISION) -> Tensor:
    return (torch.randn(*shape, device=DEVICE, dtype=torch.float32) * scale).to(dtype)


def close(found: Tensor, wanted: Tensor, within: float = ROUNDING) -> None:
    assert torch.isfinite(found).all()
    assert float((found.double() - wanted.double()).norm() / wanted.double().norm()) < within


# By the names that tests give them: the model_type, and settings beside the shape.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": 8}),
    "qwen 2": ("qwen2", {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen 3": ("qwen3", {"head_dim": 32, "attention_bias": True}),
    "gemma 3": ("gemma3_text", {"head_dim": 32, "sliding_window": 8}),
    "capped gemma 3": (
        "gemma3_text",
        {"head_dim": 32, "sliding_window": 8, "final_logit_softcapping": 3.0},
    ),
}
LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]


def shape_of(kind: str) -> dict[str, Any]:
    """Returns the settings of a base: tiny ones, or, on a card, such that tiles are full."""
    _, settings = KINDS[kind]
    shape = {"vocab_size": VOCABULARY, "num_hidden_layers": NUM_LAYERS, "num_key_value_heads": 2}
    if "gemma" in kind:
        shape |= {"layer_types": LAYER_TYPES[:NUM_LAYERS]}
    if not HAS_CARD:
        # Multiples of 64: bitsandbytes reads others wrongly from 4 bits on a CPU.
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
        return shape | sizes | settings
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8}
    larger = {}
    if "head_dim" in settings:
        larger |= {"head_dim": 256 if "gemma" in kind else 128, "num_attention_heads": 4}
    if "sliding_window" in settings:
        larger["sliding_window"] = 64
    if "final_logit_softcapping" in settings:
        larger["final_logit_softcapping"] = 30.0
    return shape | sizes | settings | larger


def base(kind: str, dtype: torch.dtype = PRECISION) -> Any:
    """Returns a base; norms and biases, which a new model has at 1 and 0, are random too.

    But the norms of the plain llama stay at 1.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, _ = KINDS[kind]
    config = AutoConfig.for_model(model_type, **shape_of(kind))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.register())
    for name, weight in model.named_parameters():
        if "norm" in name and kind != "llama":
            weight.data += torch.randn_like(weight) * 0.3
        if "bias" in name:
            # Larger ones leave so little of some gradients that bf16 rounds it away on both paths.
            weight.data.normal_(0, 0.03 if HAS_CARD else 0.3)
    model.requires_grad_(False).train().to(DEVICE, dtype)
    model.set_attn_implementation(attention.register())
    return model


def with_lora(
    model: Any, dropout: float, targets: Any = "all-linear", use_rslora: bool = False
) -> Any:
    from peft import LoraConfig, get_peft_model

    rank = 16 if HAS_CARD else 4
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=dropout,
        target_modules=targets,
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
        if "lora_B" in name:
            weight.data.normal_(0, 0.01 if HAS_CARD else 0.1)
    return model


def batches(number: int, num_rows: int = 1, row_tokens: int = ROW_TOKENS) -> list[RowBatch]:
    """Packed rows of uneven examples, the last tokens of a row padded."""
    chance = np.random.default_rng(0)
    shortest, middle = (24, 4.6) if HAS_CARD else (3, 2.0)
    found = []
    for _ in range(number):
        rows = []
        for _ in range(num_rows):
            lengths, left = [], row_tokens
            while left >= shortest:
                lengths.append(
                    int(min(LONGEST, left, max(shortest, chance.lognormal(middle, 0.7))))
                )
                left -= lengths[-1]
            ids = chance.integers(3, VOCABULARY, sum(lengths)).tolist()
            prompts = [length // 3 for length in lengths]
            rows.append({"input_ids": ids, "lengths": lengths, "prompt_lengths": prompts})
        found.append(moved(collate_rows(rows, row_tokens, 0, "completion")))
    return found


def moved(batch: RowBatch) -> RowBatch:
    """Returns a batch where the kernels are."""
    return RowBatch(*(x.to(DEVICE) if isinstance(x, Tensor) else x for x in batch))


def gradients(model: Any) -> dict[str, Tensor]:
    return {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}


def clear(model: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def share_masks(model: Any, fused: Any) -> None:
    """Gives PEFT's layers the masks of the fused path, as they are made from its seed."""
    by_matrix = {
        id(projection.a): linear.dropout
        for linear in fused.decoder.linears()
        for projection in linear.projections
    }
    made: dict[tuple[Any, ...], Tensor] = {}  # by salt, seed and shape: they take time

    def mask_of(x: Tensor, dropout: Any) -> Tensor:
        key = (dropout.salt, int(dropout.seed), *x.shape)
        if key not in made:
            made[key] = dropout(torch.ones_like(x.flatten(0, 1), dtype=torch.float32))
        return made[key].view_as(x)

    for module in model.modules():
        if hasattr(module, "lora_A"):
            dropout = by_matrix[id(module.lora_A["default"].weight)]

            def masked(x: Tensor, dropout: Any = dropout) -> Tensor:
                return (x * mask_of(x, dropout)).to(x.dtype)

            module.lora_dropout["default"].forward = masked


def step_of(
    model: Any, dtype: torch.dtype, is_dense: bool = True, recompute: Recompute = "none"
) -> Any:
    """Returns the fused step of a model on any device, without CUDA graphs."""
    from amazon_desc.model.kernels.from_peft import collect
    from amazon_desc.model.kernels.step import FusedStep

    base: Any = model.get_base_model()
    seed = torch.zeros((), dtype=torch.int64, device=DEVICE)
    decoder = collect(model, dtype, seed, LONGEST, is_dense, recompute)
    head = base.get_output_embeddings().weight.detach()
    shaping = (logit_cap_of(base.config), logit_scale_of(base.config))
    return FusedStep(decoder, head, *shaping, seed, captures=False)


def fused_of(model: Any, captures: bool = False) -> Any:
    """Returns the fused step of a model: on a card as a run would have it."""
    if not HAS_CARD:
        return step_of(model, model.get_input_embeddings().weight.dtype)
    task = task_of(model, PRECISION, ROW_TOKENS, "nf4", "fused")
    chosen = plan(task, machine_with(task, DEVICE), 1)
    fused = execute(chosen, model, LONGEST)
    assert fused is not None
    fused.captures = captures
    return fused
