"""A family is taken by what it does: tried on a miniature of it, and on the loaded base."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from amazon_desc.model import attention, probe
from amazon_desc.model.adapter import LoraSettings, attach
from amazon_desc.model.backbone import load_backbone
from amazon_desc.model.loss import head_loss, of_similar_length, target_loss
from amazon_desc.model.probe import attention_for, choose_attention, fault_of, miniature
from amazon_desc.model.suitability import read_config
from amazon_desc.support.hub import Backbone, find_backbone
from tests.model.bases import base_of, refusal
from tests.model.conftest import batch_of

CPU = torch.device("cpu")

PACKED = ("llama", "gpt2", "opt", "qwen2", "gemma3_text", "granite", "cohere")
# Those whose attention cannot be ours, or leaves something out under it, or that are recurrent.
UNPACKED = ("bloom", "xglm", "falcon", "gpt_neo", "gemma2", "mpt", "gpt_oss", "lfm2", "qwen3_next")
EXAMPLES = [(list(range(3, 3 + length)), 4) for length in (20, 31, 6, 25, 9)]


@pytest.fixture(autouse=True)
def _found_anew():
    attention_for.cache_clear()


@pytest.mark.parametrize("family", PACKED)
def test_a_family_that_keeps_packed_examples_apart_is_packed(family: str, tmp_path: Path):
    assert attention_for(base_of(tmp_path, family)) == attention.NAME


@pytest.mark.parametrize("family", [*UNPACKED, "jamba", "granitemoehybrid"])
def test_other_families_get_each_example_as_a_row_of_its_own(family: str, tmp_path: Path):
    assert attention_for(base_of(tmp_path, family)) == attention.UNPACKED


@pytest.mark.parametrize("family", ["codegen", "gptj"])
def test_a_family_that_newer_transformers_can_pack_is_right_either_way(family: str, tmp_path: Path):
    assert attention_for(base_of(tmp_path, family)) in (attention.NAME, attention.UNPACKED)


@pytest.mark.parametrize("family", [*PACKED, *UNPACKED, "codegen", "gptj", "cohere2"])
def test_the_loss_of_packed_rows_is_that_of_transformers_for_each_example_alone(
    family: str, tmp_path: Path
):
    base = base_of(tmp_path, family)
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(read_config(base), attn_implementation="eager")
    with torch.no_grad():
        for parameter in plain.parameters():  # as they come, attention hardly tells
            parameter.mul_(3)
    plain.eval().save_pretrained(tmp_path)
    lora = LoraSettings(dropout=0.0)  # PEFT has none for the experts of a mixture
    model = attach(load_backbone(base, "none", torch.float32, CPU), lora).eval()
    with torch.no_grad():
        packed, num_targets = target_loss(model, batch_of(EXAMPLES, 64))
        alone = torch.zeros(())
        for ids, num_prompt in EXAMPLES:
            labels = torch.tensor([[-100] * num_prompt + ids[num_prompt:]])
            loss = plain(input_ids=torch.tensor([ids]), labels=labels, use_cache=False).loss
            alone += loss * (len(ids) - num_prompt)
    assert num_targets == sum(len(ids) - num_prompt for ids, num_prompt in EXAMPLES)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=0)


def test_unpacked_examples_get_the_gradients_that_they_get_in_a_packed_row(tmp_path: Path):
    model = attach(load_backbone(find_backbone("tiny"), "none", torch.float32, CPU), LoraSettings())
    found = []
    for name in (attention.NAME, attention.UNPACKED):
        probe.set_attention(model.get_base_model(), name)
        model.eval().zero_grad()
        target_loss(model, batch_of(EXAMPLES, 64))[0].backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if "lora_B" in n})
    assert all(gradient.abs().max() > 0 for gradient in found[0].values())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)


def test_examples_of_similar_length_run_together_with_little_padding():
    """The numbers of its docstring."""
    parts = list(of_similar_length(torch.tensor([[0, 1, 2, 3], [4, 5, 5, 5], [6, 7, 8, 8]])))
    assert [part.tolist() for part, _ in parts] == [[[0, 1, 2, 3], [6, 7, 8, 8]], [[4, 5]]]
    assert [is_token.tolist() for _, is_token in parts] == [
        [[True, True, True, True], [True, True, True, False]],
        [[True, True]],
    ]


def test_all_parts_together_have_less_than_twice_the_tokens():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 257, (40,), generator=generator).tolist()
    batch = batch_of([(list(range(3, 3 + length)), 1) for length in lengths], 256)
    parts = list(of_similar_length(batch.example_tokens))
    tokens = torch.cat([part[is_token] for part, is_token in parts])
    assert len(tokens) == len(set(tokens.tolist())) == sum(lengths)
    assert sum(part.numel() for part, _ in parts) < 2 * sum(lengths)


# What is wrong is said by the property that fails


@pytest.mark.parametrize("family", ["bert", "big_bird"])
def test_a_family_that_is_not_causal_is_refused(family: str, tmp_path: Path):
    assert refusal(attention_for, base_of(tmp_path, family)) == (
        f"--model.backbone some/{family}: {family} is not causal here: a token sees those that "
        f"follow, so it would learn to copy a description instead of writing one. Name a base of "
        f"another family, such as Llama or Gemma 3."
    )


def small(family: str, folder: Path, **settings: Any) -> Any:
    return miniature(read_config(base_of(folder, family, **settings)))


def test_a_leak_between_packed_examples_is_named(tmp_path: Path):
    model = small("lfm2", tmp_path)
    probe.set_attention(model, attention.register())
    assert fault_of(model) == probe.LEAKS


def test_attention_that_leaves_something_out_is_named(tmp_path: Path):
    """gpt-oss has sinks, which no example of a few tokens can do without."""
    model = small("gpt_oss", tmp_path, layer_types=["full_attention"] * 2)
    probe.set_attention(model, attention.register())
    assert fault_of(model) == probe.OTHER_LOGITS


@pytest.mark.parametrize(("family", "setting"), [("granite", "logits_scaling"), ("cohere", None)])
def test_logits_that_are_scaled_in_an_unknown_way_are_named(
    family: str, setting: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = small(family, tmp_path, **({} if setting is None else {setting: 8.0}))
    assert fault_of(model) == ""
    monkeypatch.setattr("amazon_desc.model.loss.logit_scale_of", lambda _: 1.0)
    assert fault_of(model) == probe.OTHER_LOGITS


def test_texts_that_depend_on_padding_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = small("llama", tmp_path)
    generate = model.generate

    def without_mask(ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> Any:
        return generate(ids, attention_mask=torch.ones_like(attention_mask), **options)

    monkeypatch.setattr(model, "generate", without_mask)
    assert fault_of(model) == probe.PADDED


def test_numbers_that_are_not_finite_are_named_with_their_precision(tmp_path: Path):
    model = small("llama", tmp_path).half()
    torch.nn.init.constant_(model.model.layers[0].mlp.down_proj.weight, 60_000.0)
    assert fault_of(model) == "computes numbers that are not finite in float16"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_fault(dtype: torch.dtype, tmp_path: Path):
    settings = {"num_hidden_layers": 12, "hidden_size": 128, "intermediate_size": 256}
    config = read_config(base_of(tmp_path, "llama", **settings))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name in (attention.register(), attention.UNPACKED):
        probe.set_attention(model, name)
        assert fault_of(model) == ""


def test_what_cannot_be_computed_is_refused_without_a_traceback(tmp_path: Path):
    model = small("llama", tmp_path)
    model.model.forward = lambda **_: 1 / 0
    assert refusal(choose_attention, model, "some/base") == (
        "--model.backbone some/base: llama cannot compute what training needs (ZeroDivisionError: "
        "division by zero). Name a base of another family, such as Llama or Gemma 3."
    )


# On what


def test_the_base_that_ships_passes_and_random_numbers_stay_as_they_are():
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    assert attention_for(find_backbone("tiny")) == attention.NAME
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_published_shape_passes_in_a_moment_since_its_miniature_is_small(tmp_path: Path):
    from tests.conftest import gemma_config

    gemma_config().save_pretrained(tmp_path)
    model = miniature(read_config(Backbone(tmp_path, "gemma")))
    assert {layer.self_attn.is_sliding for layer in model.model.layers} == {True, False}
    assert sum(p.numel() for p in model.parameters()) < 0.03 * 3_880_000_000


def test_a_window_is_shorter_than_the_examples_that_are_tried(tmp_path: Path):
    model = small("mistral", tmp_path, sliding_window=4096)
    assert model.config.sliding_window < min(probe.LENGTHS)


def test_the_loaded_base_is_tried_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tried = []
    fault = probe.fault_of

    def recorded(model: Any) -> str:
        tried.append(model.config.vocab_size)
        return fault(model)

    monkeypatch.setattr(probe, "fault_of", recorded)
    base = base_of(tmp_path, "llama", hidden_size=64)
    AutoModelForCausalLM.from_config(read_config(base)).save_pretrained(tmp_path)
    load_backbone(base, "nf4", torch.float32, CPU)
    assert tried == [probe.NUM_PIECES, 96]


@pytest.mark.parametrize(
    ("family", "wanted"), [("llama", attention.NAME), ("bloom", attention.UNPACKED)]
)
def test_where_no_miniature_can_be_made_the_loaded_base_decides(
    family: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def none(_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(probe, "miniature", none)
    base = base_of(tmp_path, family)
    assert attention_for(base) is None
    AutoModelForCausalLM.from_config(read_config(base)).save_pretrained(tmp_path)
    model = load_backbone(base, "none", torch.float32, CPU)
    assert model.config._attn_implementation == wanted


def test_a_logit_scale_is_learnt_through(tmp_path: Path):
    """Logits of Cohere are multiplied by a number, and so are their gradients."""
    model = small("cohere", tmp_path, logit_scale=0.25)
    hidden = torch.randn(3, model.config.hidden_size, requires_grad=True)
    targets = torch.tensor([5, 1, 9])
    loss = head_loss(model, hidden, targets)
    weight = model.get_output_embeddings().weight.double()
    logits = 0.25 * (hidden.double() @ weight.t())
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(loss.double(), wanted)
    gradient = torch.autograd.grad(loss, hidden)[0]
    torch.testing.assert_close(gradient.double(), torch.autograd.grad(wanted, hidden)[0].double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_in_a_trained_base_is_no_fault(dtype: torch.dtype, real_dir: Path):
    """Trained weights make more of rounding than random ones, above all of ids that are no text."""
    base = find_backbone(str(real_dir / "stories260k"))
    model = load_backbone(base, "nf4", dtype, CPU)
    for name in (attention.NAME, attention.UNPACKED):
        probe.set_attention(model, name)
        assert fault_of(model) == ""


@pytest.mark.parametrize(("num_pieces", "last"), [(64, 34), (50, 18), (32_000, 17_000)])
def test_examples_are_of_pieces_that_occur_in_text(num_pieces: int, last: int):
    ids = probe.ordinary_ids(num_pieces, CPU).tolist()
    assert len(set(ids)) == sum(probe.LENGTHS)
    assert ids[0] == num_pieces // 16
    assert ids[-1] == last
