"""How a base is trained is decided once, before it is loaded or after, and said with the reason."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from amazon_desc.model.adapter import LoraSettings, attach, settings_of
from amazon_desc.model.cost.memory import GIB
from amazon_desc.model.kernels.supported import obstacle
from amazon_desc.model.machine import Machine
from amazon_desc.model.plan import (
    Kernels,
    Task,
    bytes_to_score,
    choose_rows,
    largest_divisor,
    plan,
    plan_rows,
    task_of,
)
from amazon_desc.model.skeleton import skeleton
from amazon_desc.support.errors import UserError
from tests.conftest import gemma_config, tinyllama_config
from tests.model.conftest import llama

CPU = Machine(64 * GIB, obstacle="the device is cpu, not cuda")
CARD = Machine(80 * GIB)


def task(model: Any, **options: Any) -> Task:
    return task_of(model, torch.bfloat16, 2048, "none", **options)


def said(machine: Machine, kernels: Kernels) -> str:
    return str(plan(task(llama(), kernels=kernels), machine, 1))


def test_without_a_card_the_plain_path_trains():
    assert said(CPU, "plain") == "Kernels: plain, as asked for."
    assert said(CPU, "auto") == "Kernels: plain: the device is cpu, not cuda."
    with pytest.raises(UserError, match=r"kernels fused: the device is cpu, not cuda\. Set"):
        said(CPU, "fused")


def test_on_a_card_the_fused_path_trains_what_it_knows():
    for kernels in ("auto", "fused"):
        expected = "Kernels: fused; weights once more in one matrix with LoRA's, activations kept."
        assert said(CARD, kernels) == expected
    assert said(CARD, "plain") == "Kernels: plain, as asked for."


def test_the_plain_path_recomputes_layers_only():
    found = plan(task(llama(), recompute="layers"), CPU, 1)
    assert str(found) == "Kernels: plain: the device is cpu, not cuda; layers recomputed."
    for recompute in ("parts", "mlp"):
        wanted = f"recompute {recompute}: only fused kernels .* they are plain: the device is cpu"
        with pytest.raises(UserError, match=wanted):
            plan(task(llama(), recompute=recompute), CPU, 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"hidden_act": "gelu"}, "they have no layers of llama with gelu"),
        ({"attention_bias": True, "mlp_bias": True}, None),
        ({"attention_dropout": 0.1}, "they have no attention with attention_dropout"),
        ({"head_dim": 12}, "they have no heads of 12 numbers"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "they have no rotary positions of the kind dynamic",
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "linear",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "partial_rotary_factor": 0.5,
                }
            },
            "they have no rotary positions of a part of a head",
        ),
    ],
    ids=["known", "act", "biases", "dropout", "heads", "rotary", "partial"],
)
def test_what_the_fused_path_does_not_know_of_a_base_is_said(
    changes: dict[str, Any], reason: str | None
):
    assert obstacle(llama(**changes)) == reason


def test_other_families_and_lora_elsewhere_are_not_taken_for_known():
    from transformers import GPT2Config, GPT2LMHeadModel

    other = attach(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2)), LoraSettings())
    assert obstacle(other) == "they have no layers of gpt2 with gelu_new"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, None),
        ({"target_modules": r".*\.(q|v)_proj"}, None),
        ({"use_rslora": True, "rank_pattern": {"q_proj": 4}}, None),
        ({"target_modules": ["q_proj", "lm_head"]}, "they have no LoRA on lm_head"),
        ({"use_dora": True}, "they have no DoRA"),
        ({"lora_bias": True}, r"they train lora_A and lora_B only, not .*lora_B\.default\.bias"),
        ({"modules_to_save": ["lm_head"]}, "they train lora_A and lora_B only, not .*modules_to"),
        (
            {"trainable_token_indices": [3]},
            "they train lora_A .* not .*trainable_tokens_delta",
        ),
        ({"alora_invocation_tokens": [3]}, "they have no ALoraLinearVariant"),
    ],
    ids=lambda value: " ".join(value) or "LoRA" if isinstance(value, dict) else "",
)
def test_only_what_trains_two_matrices_a_layer_is_taken_for_known(
    options: dict[str, Any], reason: str | None
):
    """Each of the others would miss a gradient, or compute something else, without a word."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        **{"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **options}
    )
    found = obstacle(get_peft_model(llama().unload(), config))
    if reason is None:
        assert found is None
    else:
        assert re.fullmatch(f"{reason}.*", str(found))


def test_biases_that_are_trained_are_not_taken_for_known():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", bias="all")
    found = obstacle(get_peft_model(llama(attention_bias=True).unload(), config))
    assert str(found).startswith("they train lora_A and lora_B only, not ")
    assert str(found).endswith("self_attn.q_proj.base_layer.bias")


def test_a_second_adapter_is_not_taken_for_known():
    from peft import LoraConfig

    model = llama()
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    assert obstacle(model) == "they train one adapter, not 2"


@pytest.mark.parametrize("use_dora", [False, True])
def test_dora_trains_on_the_plain_path_and_why_is_said(use_dora: bool):
    model = llama(lora=LoraSettings(use_rslora=True, use_dora=use_dora))
    found = str(plan(task(model), CARD, 1))
    assert found.startswith("Kernels: plain: they have no DoRA." if use_dora else "Kernels: fused")
    if use_dora:
        with pytest.raises(UserError, match=r"kernels fused: they have no DoRA\. Set it to auto"):
            plan(task(model, kernels="fused"), CARD, 1)


# Before a base is loaded


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_bias": True}, {"mlp_bias": True}, {"head_dim": 12}, {"hidden_act": "gelu"}],
    ids=lambda changes: " ".join(changes) or "known",
)
@pytest.mark.parametrize(
    "lora", [LoraSettings(), LoraSettings(use_dora=True), LoraSettings(target_modules=["q_proj"])]
)
def test_a_skeleton_says_what_the_loaded_model_will(changes: dict[str, Any], lora: LoraSettings):
    """Else micro-batches would be counted for one path, and trained on the other."""
    loaded = llama(lora=lora, **changes)
    built = skeleton(loaded.get_base_model().config, lora)
    assert {p.device.type for p in built.parameters()} == {"meta"}
    assert task(built) == task(loaded)
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (built, loaded)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("is_double", [True, False])
def test_a_base_that_is_published_in_4_bits_is_known_by_its_configuration(is_double: bool):
    config = tinyllama_config()
    config.quantization_config = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    config.quantization_config |= {"bnb_4bit_use_double_quant": is_double}
    found = obstacle(skeleton(config, LoraSettings()))
    assert found == (None if is_double else "they read NF4 with double quantisation only")


def test_a_skeleton_takes_no_random_number():
    before = torch.get_rng_state()
    skeleton(llama().get_base_model().config, LoraSettings())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    skeleton(tinyllama_config(), LoraSettings())
    assert torch.equal(torch.rand(3), expected)
    assert len(before) > 0


def test_an_adapter_brings_its_own_settings(tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    base = llama().unload()
    config = LoraConfig(r=4, lora_alpha=9, target_modules=r".*\.(q|v)_proj", lora_bias=True)
    get_peft_model(base, config).save_pretrained(str(tmp_path))
    built = skeleton(base.config, LoraSettings(dropout=0.1), tmp_path)
    expected = LoraSettings(r=4, alpha=9, dropout=0.1, target_modules=["q_proj", "v_proj"])
    assert settings_of(built) == expected
    assert "lora_B.default.bias" in str(obstacle(built))


def test_an_adapter_of_another_base_is_refused(tmp_path: Path):
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2))
    get_peft_model(base, LoraConfig(r=4, target_modules=["c_attn"])).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match=r"does not fit the base .*c_attn"):
        skeleton(tinyllama_config(), LoraSettings(), tmp_path)


def test_the_settings_of_attached_lora_are_read_back():
    assert settings_of(llama()).r == 16
    other = LoraSettings(r=4, alpha=7, use_rslora=True, use_dora=True)
    found = settings_of(llama(lora=other))
    assert (found.r, found.alpha, found.use_rslora, found.use_dora) == (4, 7, True, True)
    linears = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert settings_of(llama()) == LoraSettings(16, 32, 0.05, linears)


# What fits


def tinyllama(**changes: Any) -> Task:
    lora = LoraSettings(dropout=0.0)
    given = Task(tinyllama_config(), lora, "nf4", torch.bfloat16, row_tokens=2048, obstacle=None)
    return given._replace(**changes)


@pytest.mark.parametrize(
    ("free", "is_dense", "recompute"),
    [
        (80, True, "none"),
        (6, False, "none"),
        (4, False, "parts"),
        (3, False, "mlp"),
        (2, False, "layers"),
        (1, False, "layers"),
    ],
)
def test_the_fastest_way_that_fits_is_taken(free: float, is_dense: bool, recompute: str) -> None:
    found = plan(tinyllama(), Machine(int(free * GIB), share=1.0), 1)
    assert (found.is_fused, found.is_dense, found.recompute) == (True, is_dense, recompute)


def test_what_is_asked_for_is_recomputed() -> None:
    found = [
        plan(tinyllama(recompute="layers"), Machine(free * GIB, share=1.0), 1) for free in (80, 2)
    ]
    assert [(way.is_dense, way.recompute) for way in found] == [(True, "layers"), (False, "layers")]


T4 = Machine(int(14 * GIB), obstacle="T4 is too old for them")


@pytest.mark.parametrize(
    ("config", "row_tokens", "recompute", "shortage"),
    [
        (tinyllama_config, 2048, "none", ""),
        (tinyllama_config, 4096, "layers", ""),
        (gemma_config, 2048, "layers", ""),
        (gemma_config, 4096, "layers", ""),
        (
            *(gemma_config, 8192, "layers"),
            "; 14.0 GiB needed, 14.0 GiB free: if memory runs out, lower --data.row_tokens",
        ),
    ],
)
def test_the_plain_path_recomputes_layers_where_a_step_would_not_fit_otherwise(
    config: Any, row_tokens: int, recompute: str, shortage: str
):
    found = plan(tinyllama(config=config(), row_tokens=row_tokens, dtype=torch.float16), T4, 1)
    assert (found.is_fused, found.recompute, found.shortage) == (False, recompute, shortage)
    layers = "; layers recomputed" if recompute == "layers" else ""
    assert str(found) == f"Kernels: plain: T4 is too old for them{layers}{shortage}."


def test_what_is_asked_for_is_not_recomputed_even_if_it_does_not_fit_and_that_is_said():
    found = plan(tinyllama(recompute="none"), T4._replace(free=4 * GIB), 2)
    assert found.recompute == "none"
    needed = found.memory.total / GIB
    assert found.shortage.startswith(f"; {needed:.1f} GiB needed, 4.0 GiB free: if memory runs out")
    assert found.shortage.endswith("lower --data.batch_size")
    fused = plan(tinyllama(), Machine(GIB), 1)
    assert (fused.is_fused, fused.recompute) == (True, "layers")
    assert "layers recomputed; 2.0 GiB needed, 1.0 GiB free: if memory" in str(fused)


def test_rows_of_the_plain_path_are_counted_for_what_is_recomputed():
    """First all activations of fewer rows; layers only where not even one row would fit."""
    for free, num_rows, recompute in ((48, 4, "none"), (14, 1, "none"), (6, 2, "layers")):
        found, _ = plan_rows(tinyllama(), T4._replace(free=free * GIB), 16)
        assert (found.num_rows, found.recompute, found.shortage) == (num_rows, recompute, "")


def test_a_family_of_which_transformers_recomputes_no_layers_keeps_them():
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    for model, can in ((llama(), True), (None, False)):
        if model is None:
            base = OpenAIGPTLMHeadModel(OpenAIGPTConfig(n_layer=1, n_embd=32, n_head=2))
            model = attach(base, LoraSettings())
        assert task(model).can_recompute_layers == can
    unable = tinyllama(can_recompute_layers=False)
    found = plan(unable, T4._replace(free=4 * GIB), 1)
    assert (found.recompute, bool(found.shortage)) == ("none", True)
    with pytest.raises(UserError, match=r"recompute layers: transformers cannot .*llama\. Set it"):
        plan(unable._replace(recompute="layers"), T4, 1)


def test_rows_are_counted_for_the_path_that_trains_them():
    """Attention with dropout trains on the plain path, where a row takes far more."""
    shape = tinyllama_config().to_dict() | {"attention_dropout": 0.1}
    from transformers import LlamaConfig

    found = []
    for config in (tinyllama_config(), LlamaConfig(**shape)):
        given = task_of(skeleton(config, LoraSettings()), torch.bfloat16, 2048, "nf4")
        found.append(plan_rows(given, Machine(40 * GIB), 64)[0])
    assert [each.is_fused for each in found] == [True, False]
    assert found[1].num_rows < found[0].num_rows
    for each in found:
        assert each.memory.total <= 0.9 * 40 * GIB


def test_more_rows_need_more_and_scores_less_than_training():
    def bytes_of(rows: int, **changes: Any) -> int:
        return plan(tinyllama(**changes), CPU, rows).memory.total

    needed = [bytes_of(rows) for rows in (1, 2, 4, 8)]
    assert needed == sorted(needed)
    # the head sees some positions at a time, so that first the logits are most, then a layer
    assert needed[3] - needed[2] == pytest.approx(2 * (needed[2] - needed[1]), rel=0.05)
    assert 0 < bytes_to_score(tinyllama(), 2) < needed[1]
    dora = LoraSettings(use_dora=True)
    assert bytes_of(2, lora=dora) > 1.2 * needed[1]
    assert bytes_to_score(tinyllama(lora=dora), 2) > bytes_to_score(tinyllama(), 2)
    assert plan(tinyllama(), Machine(8 * GIB), 4).memory.total < needed[2]


@pytest.mark.parametrize(
    ("number", "most", "expected"),
    [(12, 5, 4), (12, 12, 12), (12, 1, 1), (12, 0, 1), (7, 6, 1), (64, 33, 32), (1, 9, 1)],
)
def test_the_largest_divisor_that_fits_is_taken(number: int, most: int, expected: int):
    assert largest_divisor(number, lambda rows: rows <= most) == expected


def gib_a_row(rows: int) -> int:
    return 2 * GIB + rows * GIB


ROOM = Machine(free=10 * GIB, share=0.9, most_tokens=None)


def test_what_is_chosen_is_said_with_what_it_needs():
    assert choose_rows(12, 256, gib_a_row, ROOM) == (
        6,
        "Micro-batches: 6 of the 12 rows of a step (8.0 GiB needed, 10.0 GiB free).",
    )


def test_where_not_even_a_row_fits_one_is_taken_and_the_way_out_is_said():
    assert choose_rows(12, 256, gib_a_row, ROOM._replace(free=2 * GIB)) == (
        1,
        "Micro-batches: 1 of the 12 rows of a step (3.0 GiB needed, 2.0 GiB free; if memory runs "
        "out, lower --data.row_tokens).",
    )


def test_without_a_card_a_micro_batch_has_so_many_tokens_at_most():
    room = Machine(free=1000 * GIB, share=0.5, most_tokens=8192)
    assert choose_rows(64, 2048, gib_a_row, room)[0] == 4
    assert choose_rows(64, 16_384, gib_a_row, room)[0] == 1


def test_a_run_that_goes_on_keeps_its_rows_while_they_fit():
    assert choose_rows(12, 256, gib_a_row, ROOM, before=2) == (
        2,
        "Micro-batches: 2 of the 12 rows of a step (as before).",
    )


@pytest.mark.parametrize("before", [12, 5])
def test_a_run_that_cannot_keep_its_rows_says_so(before: int):
    """12 do not fit, 5 are no divisor."""
    assert choose_rows(12, 256, gib_a_row, ROOM, before) == (
        6,
        f"Micro-batches: 6 of the 12 rows of a step (8.0 GiB needed, 10.0 GiB free; before it had "
        f"{before}, so the last bits may differ).",
    )
