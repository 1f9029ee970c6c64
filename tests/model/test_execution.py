"""Which path trains is chosen, and said in one line with the reason."""

from typing import Any

import pytest
import torch

from amazon_desc.model import execution as paths
from amazon_desc.model.adapter import LoraSettings, attach
from amazon_desc.model.cost.memory import GIB
from amazon_desc.model.execution import Kernels, Path, Way, choose_path, fastest_way, lora_of
from amazon_desc.model.kernels.supported import obstacle
from amazon_desc.model.loss import target_loss
from amazon_desc.run.options.micro_batch import path_obstacle
from amazon_desc.support.errors import UserError
from tests.conftest import tinyllama_config
from tests.model.conftest import EXAMPLES, batch_of


def llama(dropout: float = 0.05, lora: LoraSettings | None = None, **changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    lora = lora or LoraSettings(dropout=dropout)
    return attach(LlamaForCausalLM(LlamaConfig(**{**shape, **changes})), lora)


def choose(kernels: Kernels) -> Any:
    return choose_path(llama(), kernels, torch.device("cpu"), torch.float32, 256, 2048)


def test_without_a_card_the_plain_path_trains():
    assert choose("plain") == (None, "Kernels: plain, as asked for.")
    assert choose("auto") == (None, "Kernels: plain: the device is cpu, not cuda.")
    with pytest.raises(UserError, match=r"kernels fused: the device is cpu, not cuda\. Set"):
        choose("fused")


def test_the_plain_path_makes_whole_layers_again_with_the_same_gradients():
    found = []
    for recompute in ("none", "layers"):
        torch.manual_seed(0)
        model = llama(dropout=0.0, vocab_size=1000).train()
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(1))
        calls: list[int] = []
        layer = model.get_base_model().model.layers[0]
        layer.mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        cpu = torch.device("cpu")
        path = choose_path(model, "auto", cpu, torch.float32, 64, 64, recompute)
        made_again = "; layers made again" if recompute == "layers" else ""
        assert path.reason == f"Kernels: plain: the device is cpu, not cuda{made_again}."
        target_loss(model, batch_of(EXAMPLES, row_tokens=64))[0].backward()
        assert len(calls) == (2 if recompute == "layers" else 1)
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    assert len(found[0]) == len(found[1]) == 2 * 7 * 2
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("recompute", ["parts", "mlp"])
def test_the_plain_path_makes_no_parts_again(recompute: Any):
    wanted = f"recompute {recompute}: only fused kernels .* they are plain: the device is cpu"
    with pytest.raises(UserError, match=wanted):
        choose_path(llama(), "auto", torch.device("cpu"), torch.float32, 64, 64, recompute)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"hidden_act": "gelu"}, "they have no layers of llama with gelu"),
        ({"attention_bias": True}, "they have no bias in q_proj"),
        ({"head_dim": 12}, "they have no heads of 12 numbers"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "they have no rotary positions of the kind dynamic",
        ),
    ],
    ids=["known", "act", "bias", "heads", "rotary"],
)
def test_what_the_fused_path_does_not_know_of_a_base_is_said(
    changes: dict[str, Any], reason: str | None
):
    assert obstacle(llama(**changes)) == reason


def test_other_families_and_lora_elsewhere_are_not_taken_for_known():
    from transformers import GPT2Config, GPT2LMHeadModel

    other = attach(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2)), LoraSettings())
    assert obstacle(other) == "they have no layers of gpt2 with gelu_new"
    from peft import LoraConfig, get_peft_model

    head = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    assert obstacle(get_peft_model(llama().unload(), head)) == "they have no LoRA on lm_head"
    dora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", use_dora=True)
    assert obstacle(get_peft_model(llama().unload(), dora)) == "they have no DoRA"


@pytest.mark.parametrize("use_dora", [False, True])
def test_dora_trains_on_the_plain_path_and_why_is_said(
    use_dora: bool, monkeypatch: pytest.MonkeyPatch
):
    """As on a card that has the kernels."""
    monkeypatch.setattr(paths, "device_obstacle", lambda device, dtype: None)
    monkeypatch.setattr(paths, "fused_path", lambda *_: Path(None, "fused"))
    model = llama(lora=LoraSettings(use_rslora=True, use_dora=use_dora))
    arguments: Any = (torch.device("cpu"), torch.bfloat16, 256, 2048)
    found = choose_path(model, "auto", *arguments).reason
    assert found == ("Kernels: plain: they have no DoRA." if use_dora else "fused")
    if use_dora:
        with pytest.raises(UserError, match=r"kernels fused: they have no DoRA\. Set it to auto"):
            choose_path(model, "fused", *arguments)
    config = model.get_base_model().config
    assert path_obstacle(config, lora_of(model)) == obstacle(model), "the same before it is loaded"


def test_the_settings_of_attached_lora_are_read_back():
    assert lora_of(llama()).r == 16
    other = LoraSettings(r=4, alpha=7, use_rslora=True, use_dora=True)
    found = lora_of(llama(lora=other))
    assert (found.r, found.alpha, found.use_rslora, found.use_dora) == (4, 7, True, True)
    linears = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert lora_of(llama()) == LoraSettings(16, 32, 0.05, linears)


@pytest.mark.parametrize(
    ("free", "way"),
    [
        (80, Way(True, "none")),
        (6, Way(False, "none")),
        (4, Way(False, "parts")),
        (3, Way(False, "mlp")),
        (2, Way(False, "layers")),
        (1, Way(False, "layers")),
    ],
)
def test_the_fastest_way_that_fits_is_taken(free: float, way: Way) -> None:
    assert fastest_way(tinyllama_config(), LoraSettings(dropout=0.0), 2048, free * GIB) == way


def test_what_is_asked_for_is_made_again() -> None:
    found = [
        fastest_way(tinyllama_config(), LoraSettings(), 2048, free * GIB, "layers")
        for free in (80, 2)
    ]
    assert found == [Way(True, "layers"), Way(False, "layers")]
