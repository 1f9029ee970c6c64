"""llama.cpp computes from the file what transformers computes from the model."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from amazon_desc.export.gguf import package
from amazon_desc.export.gguf.families import permuted
from amazon_desc.export.gguf.quantizing import type_of
from amazon_desc.export.gguf.writer import gguf_bytes, write_gguf
from amazon_desc.support.errors import NotFiniteError, UserError
from tests.export.llama_cpp import LlamaCpp

TINY = Path(__file__).resolve().parents[2] / "amazon_desc" / "assets" / "tiny"
# Long enough that a small Gemma's sliding layers do not see its beginning.
IDS = [1, *range(700, 1500, 21)]
TOKENS = 2048

SHAPE = {
    "vocab_size": TOKENS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
LOCAL = {"rope_type": "default", "rope_theta": 10_000.0}
ROPE_OF_GEMMA = {
    "full_attention": {**LINEAR, "rope_theta": 1_000_000.0, "factor": 8.0},
    "sliding_attention": LOCAL,
}
OF_GEMMA = {
    "num_hidden_layers": 7,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 8,
    "vocab_size": TOKENS + 64,
    "rope_parameters": ROPE_OF_GEMMA,
}
MODELS = {
    "llama": ("llama", {}),
    "llama with its own head, wide heads and biases": (
        "llama",
        {"tie_word_embeddings": False, "head_dim": 32, "attention_bias": True, "mlp_bias": True},
    ),
    "llama with a tied head": ("llama", {"tie_word_embeddings": True}),
    "llama 3": ("llama", {"rope_parameters": LLAMA3}),
    "llama of stretched positions": ("llama", {"rope_parameters": LINEAR}),
    "llama of more rows than tokens": ("llama", {"vocab_size": TOKENS + 32}),
    "mistral": ("mistral", {"sliding_window": None}),
    "gemma 3": ("gemma3_text", OF_GEMMA),
}


def random_model(kind: str, **changes: Any) -> Any:
    """Returns a small model in which every weight matters, norms and biases too."""
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SHAPE, **changes}))
    for weight in model.parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, mean=weight.mean().item(), std=0.2)
    return model.eval()


def written(model: Any, file: Path, kind: str = "f32", folder: Path = TINY) -> Path:
    write_gguf(model.state_dict().items(), model.config, folder, file, kind, {"name": "Small"})
    return file


def log_probabilities(model: Any, ids: list[int]) -> torch.Tensor:
    """Returns those of the tokens that the file has: of a Gemma, those that the tokenizer has."""
    num_tokens = TOKENS if model.config.model_type == "gemma3_text" else model.config.vocab_size
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1, :num_tokens].log_softmax(-1)


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_gives_each_next_token_transformers_probability(name: str, tmp_path: Path):
    kind, changes = MODELS[name]
    model = random_model(kind, **changes)
    expected = log_probabilities(model, IDS)
    found = LlamaCpp(written(model, tmp_path / "m.gguf")).log_probabilities(IDS, len(expected))
    assert len(found) == len(expected)
    assert expected.std() > 1  # it matters which token it is
    assert farthest(expected, found) < (0.01 if kind == "gemma3_text" else 2e-3)  # GELU by a table


def farthest(expected: torch.Tensor, found: dict[int, float]) -> float:
    return max(abs(expected[index].item() - value) for index, value in found.items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"sliding_window": 9},
        {"rope_parameters": {**ROPE_OF_GEMMA, "sliding_attention": {**LOCAL, "rope_theta": 1e6}}},
        {"rope_parameters": {**ROPE_OF_GEMMA, "full_attention": {**LINEAR, "rope_theta": 1e6}}},
        {"rope_parameters": {**ROPE_OF_GEMMA, "full_attention": {**LINEAR, "factor": 8.0}}},
    ],
    ids=["window", "local base", "factor", "base"],
)
def test_a_wrong_setting_of_gemma_would_be_seen_above(wrong: dict[str, Any], tmp_path: Path):
    model = random_model("gemma3_text", **OF_GEMMA)
    config = AutoConfig.for_model("gemma3_text", **{**SHAPE, **OF_GEMMA, **wrong})
    write_gguf(model.state_dict().items(), config, TINY, tmp_path / "m.gguf", "f32", {})
    found = LlamaCpp(tmp_path / "m.gguf").log_probabilities(IDS, TOKENS)
    assert farthest(log_probabilities(model, IDS), found) > 0.04


# How far the logarithms of probabilities are off, about, at weights of 0.2.
@pytest.mark.parametrize(
    ("kind", "tolerance"), [("f16", 0.02), ("bf16", 0.15), ("q8_0", 0.15), ("q4_0", 2.5)]
)
def test_weights_of_fewer_bits_are_nearly_the_same_model(
    kind: str, tolerance: float, tmp_path: Path
):
    model = random_model("llama")
    expected = log_probabilities(model, IDS)
    found = LlamaCpp(written(model, tmp_path / "m.gguf", kind)).log_probabilities(IDS, TOKENS)
    errors = [abs(expected[index].item() - value) for index, value in found.items()]
    assert 0 < sum(errors) / len(errors) < tolerance


def test_rows_of_queries_are_ordered_as_pairs_that_rotate():
    assert permuted(torch.arange(4.0)[:, None], 1).flatten().tolist() == [0, 2, 1, 3]
    assert permuted(torch.arange(8.0), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(
    ("kind", "name", "shape", "is_head", "type_"),
    [
        ("q8_0", "blk.0.attn_norm.weight", (64,), False, "F32"),
        ("q8_0", "blk.0.attn_q.bias", (64,), False, "F32"),
        ("q8_0", "token_embd.weight", (2048, 64), False, "Q8_0"),
        ("q4_0", "token_embd.weight", (2048, 64), True, "Q8_0"),
        ("q4_0", "blk.0.ffn_up.weight", (96, 64), False, "Q4_0"),
        ("q8_0", "blk.0.ffn_down.weight", (64, 172), False, "F16"),
        ("bf16", "blk.0.ffn_down.weight", (64, 172), False, "BF16"),
    ],
)
def test_a_tensor_has_the_type_that_llama_cpps_converter_gives_it(
    kind: str, name: str, shape: tuple[int, ...], is_head: bool, type_: str
):
    assert type_of(kind, name, shape, is_head).name == type_


def test_what_could_not_be_quantised_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    written(random_model("llama", intermediate_size=100), tmp_path / "m.gguf", "q4_0")
    assert capsys.readouterr().out == (
        "q4_0: rows that are no whole blocks of 32 weights stay f16: ffn_down.weight (2).\n"
    )


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_the_size_is_known_before_it_is_written(kind: str, tmp_path: Path):
    model = random_model("llama", rope_parameters=LLAMA3)
    size = gguf_bytes(model.config, TINY, kind, {"name": "Small"})
    assert written(model, tmp_path / "m.gguf", kind).stat().st_size == size > 100_000


def test_the_file_says_what_it_is(tmp_path: Path):
    facts = {
        "name": "Shop",
        "license": "",
        "base_model": "TinyLlama",
        "base_model_version": "abc",
        "datasets": "a.csv\nb.csv",
        "prompt": "Title: {title}",
    }
    model = random_model("llama")
    write_gguf(model.state_dict().items(), model.config, TINY, tmp_path / "m.gguf", "q8_0", facts)
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    said = {name: field.contents() for name, field in fields.items()}
    assert {
        "general.type": "model",
        "general.architecture": "llama",
        "general.name": "Shop",
        "general.base_model.0.name": "TinyLlama",
        "general.base_model.0.version": "abc",
        "general.dataset.1.name": "b.csv",
        "amazon_desc.prompt": "Title: {title}",
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q8_0,
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        "llama.context_length": 256,
        "tokenizer.ggml.add_bos_token": True,
    }.items() <= said.items()
    assert "general.license" not in said


def test_the_tensors_are_those_of_llama_cpps_names_for_the_architecture(tmp_path: Path):
    model = random_model("gemma3_text", **OF_GEMMA)
    reader = gguf.GGUFReader(written(model, tmp_path / "m.gguf"))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert "output.weight" not in tensors
    assert list(tensors["token_embd.weight"].shape) == [64, TOKENS]  # the others have no token
    norm = model.model.layers[6].self_attn.k_norm.weight
    found = torch.tensor(tensors["blk.6.attn_k_norm.weight"].data.copy())
    torch.testing.assert_close(found, norm.detach() + 1)


def test_a_mistrals_window_is_its_context(tmp_path: Path):
    model = random_model("mistral", sliding_window=128)
    reader = gguf.GGUFReader(written(model, tmp_path / "m.gguf"))
    assert reader.fields["llama.context_length"].contents() == 128


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("qwen2", {}, "Llama, Mistral and Gemma 3"),
        ("llama", {"hidden_act": "gelu"}, "the activation is gelu"),
        ("llama", {"rope_parameters": {**LINEAR, "rope_type": "dynamic"}}, "rope_type is dynamic"),
        ("gemma3_text", {**OF_GEMMA, "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ("gemma3_text", {**OF_GEMMA, "query_pre_attn_scalar": 64}, "query_pre_attn_scalar is 64"),
        (
            "gemma3_text",
            {**OF_GEMMA, "layer_types": ["full_attention", *["sliding_attention"] * 6]},
            "five sliding",
        ),
    ],
)
def test_a_model_that_llama_cpp_would_run_as_another_is_refused(
    kind: str, changes: dict[str, Any], said: str, tmp_path: Path
):
    config = AutoConfig.for_model(kind, **{**SHAPE, **changes})
    with pytest.raises(UserError, match=said):
        write_gguf([], config, TINY, tmp_path / "m.gguf", "f16", {})
    assert list(tmp_path.iterdir()) == []


def test_a_type_that_cannot_be_written_is_refused(tmp_path: Path):
    model = random_model("llama")
    with pytest.raises(UserError, match="f32, f16, bf16, q8_0, q4_0, found q4_k"):
        written(model, tmp_path / "m.gguf", "q4_k")


@pytest.mark.parametrize("fault", ["missing", "twice", "unknown", "shape"])
def test_weights_that_are_not_the_models_leave_no_file(fault: str, tmp_path: Path):
    model = random_model("llama")
    weights = list(model.state_dict().items())
    name, weight = weights[3]
    changed = {
        "missing": [item for item in weights if item[0] != name],
        "twice": [*weights, (name, weight)],
        "unknown": [*weights, ("model.layers.0.self_attn.q_norm.weight", weight)],
        "shape": [(n, w[:, :-1] if n == name else w) for n, w in weights],
    }[fault]
    with pytest.raises(UserError, match="of one model"):
        write_gguf(changed, model.config, TINY, tmp_path / "m.gguf", "f16", {})
    assert list(tmp_path.iterdir()) == []


def test_a_weight_too_large_for_f16_is_refused_and_not_made_infinite(tmp_path: Path):
    model = random_model("llama")
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 70_000.0
    with pytest.raises(UserError, match=r"up_proj.weight has a weight of 70000"):
        written(model, tmp_path / "m.gguf", "f16")
    assert written(model, tmp_path / "m.gguf", "bf16").is_file()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path):
    model = random_model("llama")
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="NaN"):
        written(model, tmp_path / "m.gguf", "q8_0")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(UserError, match=r'pip install "amazon_desc\[gguf\]"'):
        package.gguf_package()
    with pytest.raises(UserError, match="gguf"):
        written(random_model("llama"), tmp_path / "m.gguf")
