"""A family's row says what transformers' model of that family does; a new row is tried as well."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from amazon_desc.model import families
from amazon_desc.model.families import (
    ATTENTION,
    FAMILIES,
    MLP,
    activation_of,
    biased_of,
    family_of,
    logit_cap_of,
    logit_scale_of,
    rotary_of,
    text_part_of,
    windows_of,
)
from amazon_desc.model.kernels.supported import config_obstacle

SHAPE = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
KINDS = ["sliding_attention", "full_attention"]
NUM_TOKENS, WINDOW = 9, 4


def model_of(kind: str, **settings: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE | settings)
    return AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()


def projections(model: Any) -> dict[str, list[Any]]:
    """Returns the linear modules of all layers by the last part of their names."""
    found = [(name.rsplit(".", 1)[-1], module) for name, module in model.named_modules()]
    return {name: [m for n, m in found if n == name] for name in (*ATTENTION, *MLP)}


every_family = pytest.mark.parametrize("kind", FAMILIES)


def test_the_table_is_light():
    program = (
        "import sys; import amazon_desc.model.families\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@every_family
def test_nothing_about_a_family_is_in_the_way(kind: str):
    model = model_of(kind)
    assert family_of(model.config) is FAMILIES[kind]
    assert config_obstacle(model.config) is None
    assert {len(modules) for modules in projections(model).values()} == {2}


@every_family
@pytest.mark.parametrize("is_on", [False, True])
def test_the_projections_that_have_a_bias(kind: str, is_on: bool):
    names = [name for name, _ in FAMILIES[kind].bias_switches]
    model = model_of(kind, **dict.fromkeys(names, is_on))
    found = projections(model).items()
    biased = {name for name, modules in found if all(m.bias is not None for m in modules)}
    assert biased == biased_of(model.config)
    assert biased == {name for name, modules in found if any(m.bias is not None for m in modules)}


def test_the_biases_of_each_family():
    """The same, written out: the row above would also be right of models without any."""
    qkv = {"q_proj", "k_proj", "v_proj"}
    on = {"attention_bias": True, "mlp_bias": True}
    found = {kind: set(biased_of(model_of(kind, **on).config)) for kind in FAMILIES}
    assert found == {
        "llama": {*ATTENTION, *MLP},
        "mistral": set(),
        "qwen2": qkv,
        "qwen3": set(ATTENTION),
        "gemma3_text": set(ATTENTION),
    }


@every_family
def test_the_norms_and_what_they_add_to_their_weights(kind: str):
    family, model = FAMILIES[kind], model_of(kind)
    layer = model.model.layers[0]
    assert hasattr(layer.self_attn, "q_norm") == family.has_head_norms
    assert hasattr(layer.self_attn, "k_norm") == family.has_head_norms
    assert hasattr(layer, "pre_feedforward_layernorm") == family.has_post_norms
    assert hasattr(layer, "post_feedforward_layernorm") == family.has_post_norms
    norms = [m for name, m in model.named_modules() if name.endswith("norm")]
    per_layer = (4 if family.has_post_norms else 2) + (2 if family.has_head_norms else 0)
    assert len(norms) == 1 + 2 * per_layer
    for norm in norms:
        norm.weight.zero_()
        ones = torch.ones(1, len(norm.weight))
        torch.testing.assert_close(norm(ones), ones * family.norm_offset)


@every_family
def test_the_scale_of_embeddings(kind: str):
    model = model_of(kind)
    embed = model.get_input_embeddings()
    scale = 8.0 if FAMILIES[kind].is_embedding_scaled else 1.0  # the root of 64
    torch.testing.assert_close(embed(torch.tensor([3])), scale * embed.weight[3:4])


SEEING = [
    *((kind, layer_type, WINDOW) for kind in FAMILIES for layer_type in KINDS),
    *((kind, "full_attention", None) for kind in FAMILIES if kind != "gemma3_text"),  # has one
]


@pytest.mark.parametrize(("kind", "layer_type", "window"), SEEING)
def test_what_a_token_sees(kind: str, layer_type: str, window: int | None):
    """Of one layer: another first token changes those that see it, and no other."""
    model = model_of(
        kind,
        num_hidden_layers=1,
        layer_types=[layer_type],
        sliding_window=window,
        use_sliding_window=window is not None,
    )
    ids = torch.arange(3, 3 + NUM_TOKENS)[None]
    other = torch.cat([ids[:, :1] + 20, ids[:, 1:]], 1)
    first, second = (model.model(input_ids=i, use_cache=False)[0][0] for i in (ids, other))
    is_changed = (first != second).any(1).tolist()
    (found,) = windows_of(model.config)
    assert found in (None, window)
    num_seeing = NUM_TOKENS if found is None else found
    assert is_changed == [number < num_seeing for number in range(NUM_TOKENS)]


def test_the_windows_of_each_family():
    from transformers import AutoConfig

    settings = SHAPE | {"sliding_window": 4, "use_sliding_window": True, "layer_types": KINDS}
    found = {k: windows_of(AutoConfig.for_model(k, **settings)) for k in FAMILIES}
    assert found == {
        "llama": [None, None],
        "mistral": [4, 4],
        "qwen2": [4, None],
        "qwen3": [4, None],
        "gemma3_text": [4, None],
    }


@every_family
def test_the_activation_is_the_setting(kind: str):
    name = FAMILIES[kind].activation
    model = model_of(kind, **{name: "relu"})
    assert activation_of(model.config) == "relu"
    assert isinstance(model.model.layers[0].mlp.act_fn, torch.nn.ReLU)
    assert config_obstacle(model.config) == f"they have no layers of {kind} with relu"
    usual = {"gemma3_text": "gelu_pytorch_tanh"}.get(kind, "silu")
    assert activation_of(model_of(kind).config) == usual


@every_family
def test_the_soft_cap_of_logits(kind: str):
    """A setting that a family does not have is none, even where a configuration holds it."""
    ids = torch.arange(3, 9)[None]
    found = []
    for cap in (None, 0.5):
        model = model_of(kind, final_logit_softcapping=cap)
        model.get_output_embeddings().weight.mul_(100)
        found.append(model(input_ids=ids).logits)
    assert logit_cap_of(model.config) == (None if kind != "gemma3_text" else 0.5)
    cap = logit_cap_of(model.config)
    wanted = found[0] if cap is None else cap * torch.tanh(found[0] / cap)
    torch.testing.assert_close(found[1], wanted)
    assert float(found[0].abs().max()) > 1


@every_family
def test_rotary_positions_are_read_from_the_configuration(kind: str):
    found = rotary_of(model_of(kind).config)
    assert len(found) == (2 if kind == "gemma3_text" else 1)
    assert all(rope["rope_type"] == "default" and rope["rope_theta"] > 0 for rope in found)


def test_scores_with_a_soft_cap_are_refused_by_name():
    config = model_of("gemma3_text", attn_logit_softcapping=50.0).config
    assert config_obstacle(config) == "they have no attention with attn_logit_softcapping"


@pytest.mark.parametrize(
    ("family", "settings", "scale"),
    [
        ("cohere", {"logit_scale": 0.0625}, 0.0625),
        ("granite", {"logits_scaling": 8.0}, 0.125),
        ("granite", {}, 1.0),
        ("llama", {"logit_scale": 0.5}, 1.0),  # its row has none
        ("gpt2", {}, 1.0),
    ],
)
def test_what_logits_are_multiplied_by_is_read_from_the_configuration(
    family: str, settings: dict[str, float], scale: float, monkeypatch: pytest.MonkeyPatch
):
    from transformers import AutoConfig

    config = AutoConfig.for_model(family, **settings)
    assert logit_scale_of(config) == scale
    monkeypatch.setitem(FAMILIES, "llama", families.Family(logit_scale="logit_scale"))
    if family == "llama":
        assert logit_scale_of(config) == 0.5


def test_other_families_have_no_row():
    from transformers import AutoConfig, GPT2Config

    for config in (GPT2Config(), AutoConfig.for_model("phi")):
        assert family_of(config) is None
        assert text_part_of(config) is None
        assert biased_of(config) == frozenset()
    assert activation_of(GPT2Config()) == "gelu_new"
    assert logit_cap_of(AutoConfig.for_model("gemma2")) == 30.0
