"""Which path trains is chosen, and said in one line with the reason."""

from typing import Any

import pytest
import torch

from amazon_desc.errors import UserError
from amazon_desc.model.adapter import LoraSettings, attach
from amazon_desc.model.kernels.known import obstacle
from amazon_desc.model.paths import Kernels, choose_path, lora_of


def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    return attach(LlamaForCausalLM(LlamaConfig(**{**shape, **changes})), LoraSettings())


def choose(kernels: Kernels) -> Any:
    return choose_path(llama(), kernels, torch.device("cpu"), torch.float32, 256, 2048)


def test_without_a_card_the_plain_path_trains():
    assert choose("plain") == (None, "Kernels: plain, as asked for.")
    assert choose("auto") == (None, "Kernels: plain: the device is cpu, not cuda.")
    with pytest.raises(UserError, match=r"kernels fused: the device is cpu, not cuda\. Set"):
        choose("fused")


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


def test_the_settings_of_attached_lora_are_read_back():
    assert lora_of(llama()).r == 16
    linears = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert lora_of(llama()) == LoraSettings(16, 32, 0.05, linears)
