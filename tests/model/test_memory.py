"""What a step needs is counted as models, layers and measurements have it."""

import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import amazon_desc.model.cost.memory
import amazon_desc.model.loss
from amazon_desc.data.loading.batches import RowBatch, collate_rows
from amazon_desc.model.adapter import LoraSettings, attach
from amazon_desc.model.backbone import load_backbone
from amazon_desc.model.cost.arithmetic import flops_by_part
from amazon_desc.model.cost.memory import (
    GIB,
    SHARE_OF_CARD,
    Mode,
    activation_bytes,
    memory,
)
from amazon_desc.model.cost.shape import num_lora_weights, shape_of
from amazon_desc.model.execution import execute
from amazon_desc.model.loss import target_loss
from amazon_desc.model.machine import Machine
from amazon_desc.model.plan import plan, task_of
from amazon_desc.support.hub import Backbone, find_backbone
from tests.conftest import gemma_config as gemma
from tests.conftest import tinyllama_config as tinyllama

LORA = LoraSettings()


def test_it_is_light() -> None:
    program = (
        "import sys; import amazon_desc.model.cost.memory\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


# Arithmetic


def test_tinyllama_takes_four_operations_a_weight_and_token() -> None:
    flops = flops_by_part(tinyllama(), LORA)
    assert flops.linears == 4 * 968_884_224
    assert flops.head == 4 * 65_536_000
    assert (flops.linears + flops.head) / 4e9 == pytest.approx(1.034, abs=5e-4)
    assert flops.lora == 6 * 12_615_680
    assert flops.attention == 0


def test_the_head_works_before_targets_only() -> None:
    flops = flops_by_part(tinyllama(), LORA, target_share=0.75, mean_context=128)
    assert flops.head == 3 * 65_536_000
    assert flops.attention == 12 * 22 * 2048 * 128
    assert flops.total == flops.linears + flops.head + flops.lora + flops.attention


# Shapes


def small(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape: Any = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    kind, *how = family.split()
    if how:
        shape |= {"tied": {"tie_word_embeddings": True}, "biased": {"attention_bias": True}}[how[0]]
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape))


@pytest.mark.parametrize(
    "family", ["llama", "llama tied", "llama biased", "mistral", "qwen2", "qwen3", "gemma3_text"]
)
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]], ids=["all", "two"])
@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_weights_are_those_of_the_model(family: str, targets: Any, use_dora: bool) -> None:
    model = small(family)
    lora = LoraSettings(r=4, target_modules=targets, use_dora=use_dora)
    shape = shape_of(model.config)
    linears = sum(p.numel() for n, p in model.named_parameters() if n.endswith("_proj.weight"))
    others = sum(p.numel() for p in model.parameters()) - linears
    assert shape.num_linear_weights == linears
    has_head_norms = family in ("gemma3_text", "qwen3")
    num_head_norms = 2 * 2 * 16 if has_head_norms else 0  # too small to be counted
    assert shape.num_other_weights == others - num_head_norms
    attached = attach(model, lora)
    trained = sum(p.numel() for p in attached.parameters() if p.requires_grad)
    assert num_lora_weights(shape, lora) == trained > 0


def test_of_a_model_with_vision_the_text_counts() -> None:
    from transformers import Gemma3Config

    assert shape_of(Gemma3Config(text_config=gemma().to_dict())) == shape_of(gemma())


# Memory


@pytest.mark.parametrize(
    ("config", "num_tokens", "mode", "is_dense", "dropout", "tensors", "held"),
    [
        (tinyllama, 2048, "none", True, 0.0, 5.52, 6.26),
        (tinyllama, 2048, "none", False, 0.0, 3.89, 4.59),
        (tinyllama, 2048, "parts", False, 0.0, 3.12, 3.63),
        (tinyllama, 2048, "mlp", False, 0.0, 2.17, 2.58),
        (tinyllama, 2048, "layers", False, 0.0, 1.66, 2.12),
        (tinyllama, 16_384, "none", True, 0.0, 23.98, 25.11),
        (tinyllama, 2048, "none", True, 0.05, 6.51, 7.35),
        (tinyllama, 16_384, "none", True, 0.05, 31.88, 33.03),
        (tinyllama, 2048, "mlp", False, 0.05, 2.11, 2.81),
        (gemma, 2048, "none", True, 0.0, 17.02, 17.82),
        (gemma, 2048, "parts", False, 0.0, 9.20, 10.49),
        (gemma, 2048, "mlp", False, 0.0, 6.55, 8.12),
        (gemma, 2048, "layers", False, 0.0, 4.63, 5.89),
    ],
)
def test_the_fused_path_takes_what_was_measured_on_an_h100(
    config: Any,
    num_tokens: int,
    mode: Mode,
    is_dense: bool,
    dropout: float,
    tensors: float,
    held: float,
) -> None:
    """GiB of bare steps: torch.cuda.max_memory_allocated() and max_memory_reserved()."""
    lora = LoraSettings(dropout=dropout)
    needed = memory(config(), lora, num_tokens, mode, is_dense=is_dense, target_share=0.75)
    assert needed.allocated / GIB == pytest.approx(tensors, rel=0.08)
    assert needed.total / SHARE_OF_CARD / GIB > held


def test_the_parts_of_per_step() -> None:
    needed = memory(tinyllama(), LORA, 2048, "parts")
    assert needed._asdict() == {
        "linears": 499_817_472,  # 968,884,224 x (1/2 + 1/64 + 1/4096)
        "tables": 262_328_320,  # 2 x (2 x 32,000 x 2,048 + 45 x 2,048)
        "lora": 50_462_720,
        "gradients": 50_462_720,
        "optimizer": 100_925_440,
        "lora_copies": 36_765_696,
        "dense": 0,
        "workspace": 46_991_360,  # 2 x (11,264 + 32) x (2,048 + 32)
        "activations": 1_815_937_024,  # 2 x 20,152 numbers x 22 layers x 2,048 tokens
        "hidden": 33_554_432,
        "logits": 131_072_000,
        "one_layer": 148_897_792,
        "scoring": 310_286_336,  # 10 x 32,000 x 524, and 2 x 34,816 numbers x 2,048 tokens
        "products": 134_217_728,
    }
    assert needed.loaded == 499_817_472 + 262_328_320 + 50_462_720
    assert needed.peak == 1_815_937_024 + 33_554_432 + 148_897_792
    states = 50_462_720 + 100_925_440 + 36_765_696 + 46_991_360
    assert needed.allocated == needed.loaded + needed.peak + states + 134_217_728
    assert needed.total == needed.allocated + round(0.3 * needed.allocated)


def test_dense_weights_take_the_place_of_workspace_and_copies() -> None:
    lean, dense = (memory(tinyllama(), LORA, 2048, "none", is_dense=d) for d in (False, True))
    assert dense.dense == 22 * 2 * (
        (2560 + 48) * (2048 + 48) + (2048 + 16) ** 2 + 11_296 * 2080 + (2048 + 16) * (5632 + 16)
    )
    assert (dense.workspace, dense.lora_copies) == (0, 0)
    assert dense.activations == lean.activations


def test_the_less_is_kept_the_less_memory_it_takes() -> None:
    every: tuple[Mode, ...] = ("none", "parts", "mlp", "layers")
    totals = [memory(gemma(), LORA, 4096, mode).total for mode in every]
    assert totals == sorted(totals, reverse=True)
    layers = memory(gemma(), LORA, 4096, "layers")
    inputs, one = 34 * 4096 * 2 * (2 * 2560 + 4), memory(gemma(), LORA, 4096, "none").activations
    assert layers.activations == inputs + one // 34
    plain, again = (memory(gemma(), LORA, 4096, mode) for mode in ("plain", "plain layers"))
    assert again.activations == 34 * 4096 * 4 * 2560 + plain.activations // 34


def test_dropout_keeps_the_inputs_under_their_masks() -> None:
    found = [
        activation_bytes(shape_of(tinyllama()), LoraSettings(dropout=share), 10, "none", 2)
        for share in (0.1, 0.0)
    ]
    assert found[0] - found[1] == 10 * 22 * 2 * (2048 + 2048 + 2048 + 5632)


def test_without_4_bits_a_weight_takes_two_bytes_or_four() -> None:
    found = [
        memory(tinyllama(), LORA, 1, "plain", quantization="none", number_bytes=size).linears
        for size in (2, 4)
    ]
    assert found == [2 * 968_884_224, 4 * 968_884_224]


def test_scores_take_a_part_of_the_logits_at_a_time() -> None:
    few, many = (memory(gemma(), LORA, n, "layers").scoring for n in (63, 6300))
    layer = 2 * 63 * (4 * 10_240 + 6 * 2560)
    assert few == 10 * 262_208 * 63 + layer
    assert many - few == 99 * layer
    needed = memory(gemma(), LORA, 2048, "layers")
    assert needed.peak > 2 * needed.scoring
    assert memory(gemma(), LORA, 63, "layers").peak == few


def test_dora_takes_norms_outputs_and_what_it_finds_norms_with() -> None:
    lora, dora = (
        memory(tinyllama(), LoraSettings(dropout=0.0, use_dora=use_dora), 2048, "plain")
        for use_dora in (False, True)
    )
    num_outputs = 2048 + 256 + 256 + 2048 + 5632 + 5632 + 2048
    assert dora.lora - lora.lora == 4 * 22 * num_outputs
    assert dora.activations - lora.activations == 8 * 22 * num_outputs * 2048
    assert dora.workspace - lora.workspace == 4 * 5632 * (5632 + 4 * 2048)
    assert (lora.dense, dora.dense) == (0, 0)


def test_dora_under_dropout_keeps_dense_weights() -> None:
    whole, again = (
        memory(tinyllama(), LoraSettings(dropout=0.1, use_dora=True), 2048, mode).dense
        for mode in ("plain", "plain layers")
    )
    assert (whole, again) == (2 * 968_884_224, 2 * 44_040_192)


# Against the tiny base, as transformers, PEFT and bitsandbytes have it


@pytest.fixture(scope="module")
def tiny() -> Any:
    base = load_backbone(find_backbone("tiny"), "nf4", torch.float32, torch.device("cpu"))
    return attach(base, LoraSettings(dropout=0.1))


def test_four_bit_weights_take_what_bitsandbytes_takes(tiny: Any) -> None:
    weights = [m.base_layer.weight for m in tiny.modules() if hasattr(m, "base_layer")]
    assert len(weights) == 28
    found = 0
    for weight in weights:
        state = weight.quant_state
        found += weight.numel() + state.absmax.numel() + 4 * state.state2.absmax.numel()
    counted = memory(tiny.config, LORA, 1, "plain").linears
    assert counted == pytest.approx(found, rel=0.01)


def test_the_plain_path_keeps_no_more_than_is_counted(tiny: Any) -> None:
    """Every tensor that autograd keeps, once, without weights and what the head keeps."""
    lengths = [100, 60, 50, 40]
    row: Any = {"input_ids": [5] * 250, "lengths": lengths, "prompt_lengths": [20] * 4}
    batch: RowBatch = collate_rows([row], 256, 0, "completion")
    owned = {p.untyped_storage().data_ptr() for p in tiny.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned and tensor.shape[-1:] != (2048,):
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        target_loss(tiny, batch)
    counted = activation_bytes(shape_of(tiny.config), LoraSettings(), 256, "plain", 4)
    assert counted / 2 < sum(kept.values()) < counted


class Allocated(TorchDispatchMode):
    """Counts the bytes of all tensors that are made and not yet gone."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.sizes.values()))
        return made


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_step_with_dora_takes_what_is_counted(dropout: float) -> None:
    """Beyond what is loaded; few tokens, so that the matrices are most of it."""
    lora = LoraSettings(dropout=dropout, use_dora=True)
    base = load_backbone(find_backbone("tiny"), "nf4", torch.float32, torch.device("cpu"))
    model = attach(base, lora)
    row: Any = {"input_ids": [5] * 32, "lengths": [20, 12], "prompt_lengths": [2, 2]}
    batch = collate_rows([row], 32, 0, "completion")
    with Allocated() as allocated:
        target_loss(model, batch)[0].backward()
    needed = memory(model.config, lora, 32, "plain", number_bytes=4)
    counted = needed.gradients + needed.dense + needed.workspace + needed.peak
    assert needed.workspace > 0.15 * counted
    assert (needed.dense > 0.2 * counted) == (dropout > 0)
    assert 0.8 * counted < allocated.peak < 1.1 * counted


@pytest.mark.parametrize("positions", [1000, 60])
@pytest.mark.parametrize("recompute", ["none", "layers"])
def test_a_step_between_whose_products_there_is_float32_takes_what_is_counted(
    recompute: Any, positions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Gemma in float16; with many pieces, and the head that sees all or some positions."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape: Any = {"vocab_size": 6000, "hidden_size": 128, "intermediate_size": 512, "head_dim": 64}
    shape |= {"num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model("gemma3_text", **shape, pad_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    base = Backbone(tmp_path, "some/gemma")
    lora = LoraSettings(r=4, dropout=0.0)
    model = attach(load_backbone(base, "nf4", torch.float16, torch.device("cpu")), lora)
    for module in (amazon_desc.model.loss, amazon_desc.model.cost.memory):
        monkeypatch.setattr(module, "LOGITS", 6000 * positions)
    task = task_of(model, torch.float16, 512, "nf4", recompute=recompute)
    found = plan(task, Machine(64 * GIB), 1)
    execute(found, model, 128)
    row: Any = {"input_ids": [5] * 500, "lengths": [125] * 4, "prompt_lengths": [2] * 4}
    with Allocated() as allocated:
        target_loss(model, collate_rows([row], 512, 0, "completion"))[0].backward()
    needed = found.memory
    at_a_time = max(needed.logits, needed.one_layer)
    counted = needed.gradients + needed.workspace + needed.activations + needed.hidden + at_a_time
    assert (needed.logits == at_a_time) == (positions == 1000)
    assert 0.75 * counted < allocated.peak < counted
