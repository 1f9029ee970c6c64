"""What cannot be trained is said for what it is, by the base's configuration alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from amazon_desc.model.backbone import load_backbone
from amazon_desc.model.suitability import read_config, refuse_quantized, refuse_too_long
from amazon_desc.support.hub import Backbone, find_backbone
from amazon_desc.support.resources import TINY_BASE
from tests.model.bases import base_of, refusal

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", ["t5", "bart", "whisper"])
def test_an_encoder_decoder_is_named(family: str, tmp_path: Path):
    message = refusal(read_config, base_of(tmp_path, family))
    assert f"some/{family}: it is an encoder-decoder ({family})," in message
    assert "Wanted a decoder" in message


def test_a_model_that_writes_no_text_is_named(tmp_path: Path):
    AutoConfig.for_model("vit").save_pretrained(tmp_path)
    message = refusal(read_config, Backbone(tmp_path, "some/vit"))
    assert "transformers has no language model of the family vit that stands alone" in message


def write_config(folder: Path, **settings: Any) -> Backbone:
    (folder / "config.json").write_text(json.dumps(settings))
    return Backbone(folder, "some/base")


def test_code_that_comes_with_a_base_is_never_run(tmp_path: Path):
    created = tmp_path / "created"
    (tmp_path / "configuration_own.py").write_text(f"open({str(created)!r}, 'w')\n")
    code = {"AutoConfig": "configuration_own.OwnConfig"}
    base = write_config(tmp_path, model_type="own", auto_map=code)
    assert "it comes with code of its own, which is never run here" in refusal(read_config, base)
    assert not created.exists()


@pytest.mark.parametrize("settings", [{"model_type": "llama17"}, {}])
def test_a_family_that_transformers_does_not_know_is_said(settings: dict[str, Any], tmp_path: Path):
    message = refusal(read_config, write_config(tmp_path, **settings))
    assert "its config.json cannot be used by the transformers that is installed" in message
    assert "Install a newer transformers, or name another base." in message


# Weights that are quantised already

NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_weights_in_another_form_of_few_bits_are_refused(
    method: str, quantization: str, tmp_path: Path
):
    base = base_of(tmp_path, "llama")
    config = read_config(base)
    config.quantization_config = {"quant_method": method, "bits": 4, "load_in_8bit": True}
    message = refusal(refuse_quantized, base, config, quantization)
    assert f"its weights are quantised already ({method}), in a form that is not" in message
    assert "Name the base that they were made from." in message


def test_weights_in_nf4_are_taken_as_nf4_only(tmp_path: Path):
    base = base_of(tmp_path, "llama")
    config = read_config(base)
    refuse_quantized(base, config, "none")
    config.quantization_config = NF4
    refuse_quantized(base, config, "nf4")
    message = refusal(refuse_quantized, base, config, "none")
    assert "in 4 bits (NF4) already, and --model.quantization is none. Set it to nf4" in message


def test_a_base_that_was_saved_in_nf4_computes_as_the_one_it_was_made_from(tmp_path: Path):
    model = load_backbone(find_backbone("tiny"), "nf4", torch.float32, CPU).eval()
    model.save_pretrained(tmp_path)
    for file in TINY_BASE.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    base = find_backbone(str(tmp_path))
    again = load_backbone(base, "nf4", torch.float32, CPU).eval()
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits)


# Positions


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_sequences_beyond_learnt_positions_are_refused_with_both_numbers(
    family: str, tmp_path: Path
):
    name = {"gpt2": "n_positions"}.get(family, "max_position_embeddings")
    base = base_of(tmp_path, family, **{name: 300})
    config = read_config(base)
    assert refuse_too_long(base, config, 300, 300) is None
    assert refusal(refuse_too_long, base, config, 301, 300) == (
        f"--data.max_seq_length 301: --model.backbone some/{family} has learnt 300 positions, and "
        f"none beyond them. Lower --data.max_seq_length to 300 or less."
    )
    assert refusal(refuse_too_long, base, config, 256, 368) == (
        f"--model.decoding.max_new_tokens: after the longest prompt of --data.max_seq_length 256 a "
        f"text would end at position 368, and --model.backbone some/{family} has learnt 300. Lower "
        f"--data.max_seq_length by 68, or --model.decoding.max_new_tokens."
    )


def test_sequences_beyond_rotary_positions_are_warned_of(tmp_path: Path):
    base = base_of(tmp_path, "llama", max_position_embeddings=300)
    config = read_config(base)
    assert refuse_too_long(base, config, 300, 300) is None
    assert refuse_too_long(base, config, 512, 600) == (
        "--model.backbone some/llama was trained with up to 300 tokens; with --data.max_seq_length "
        "512 sequences reach 600, where it writes worse."
    )


def test_a_base_without_positions_takes_any_length(tmp_path: Path):
    base = base_of(tmp_path, "bloom")
    assert refuse_too_long(base, read_config(base), 10**6, 10**6) is None


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_packed_rows_may_be_longer_than_learnt_positions(family: str, tmp_path: Path):
    """Positions begin anew with each example: packed in a row of 128 the loss is that of each alone
    though the base has 32 positions.
    """
    from amazon_desc.model.adapter import LoraSettings, attach
    from amazon_desc.model.loss import target_loss
    from tests.model.conftest import batch_of

    name = {"gpt2": "n_positions"}.get(family, "max_position_embeddings")
    small = {"opt": {"word_embed_proj_dim": 32}}.get(family, {})
    base = base_of(tmp_path, family, **{name: 32}, **small)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(read_config(base)).save_pretrained(tmp_path)
    model = attach(load_backbone(base, "none", torch.float32, CPU), LoraSettings()).eval()
    examples = [(list(range(3, 3 + length)), 4) for length in (20, 31, 25, 9)]
    with torch.no_grad():
        packed = target_loss(model, batch_of(examples, 128))[0]
        alone = [target_loss(model, batch_of([example], 32))[0] for example in examples]
    torch.testing.assert_close(packed, torch.stack(alone).sum())
