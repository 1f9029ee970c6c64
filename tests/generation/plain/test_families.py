"""Texts of many at a time are those of `generate` for one prompt without padding, in every family.

The bases are miniatures: windows are shorter than most prompts, and there is a layer of each kind.
"""

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BloomForCausalLM, GenerationConfig, LogitsProcessorList

from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation import rounding
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.plain.cache import has_plain_cache
from amazon_desc.generation.plain.generating import Chosen
from amazon_desc.generation.plain.merged import merged
from amazon_desc.generation.plain.writer import write
from amazon_desc.generation.texts import Text, text_of
from amazon_desc.model.adapter import LoraSettings, attach
from amazon_desc.model.probe import PADDED, attention_for, choose_attention, miniature
from amazon_desc.model.suitability import read_config
from tests.conftest import slow_case
from tests.model.bases import base_of, refusal

NUM_PIECES = 64  # of a miniature
ENDS = [2, *range(40, 45)]  # so many that texts end early
LENGTHS = [7, 1, 20, 12, 7]
SETTINGS = {
    "greedy": DecodingSettings(10, repetition_penalty=1.2),
    "drawn": DecodingSettings(
        10,
        temperature=1.0,
        top_p=0.95,
        repetition_penalty=1.2,
        frequency_penalty=0.1,
        no_repeat_ngram_size=3,
        num_candidates=2,
    ),
}


@dataclass(frozen=True)
class Family:
    """A family's settings, how its texts are written, and what has LoRA."""

    model_type: str
    is_ours: bool = True
    """whether batches are ours; else they are those of `generate`"""
    settings: dict[str, Any] = field(default_factory=dict)
    targets: Any = "all-linear"


# Transformers 5.17 does, for caches of a fixed size: such texts are those of `generate` there.
PREPARES_BLOOM = "prepare_inputs_for_generation" in vars(BloomForCausalLM)
MAMBA = ["in_proj"]  # PEFT has no LoRA for all of its layers
# transformers reads the weights of dt_proj past its LoRA
JAMBA = ["in_proj", "x_proj", "out_proj", "q_proj", "o_proj"]
LONG = {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8, "factor": 4.0, "rope_theta": 1e4}
STRETCHED = {"original_max_position_embeddings": 16, "max_position_embeddings": 64}
LINEAR = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
ALTERNATING = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}

FAMILIES = {
    "sliding window": Family("mistral"),
    "windows and soft caps": Family("gemma2", settings=ALTERNATING),
    "windows and two rotations": Family("gemma3_text", settings=ALTERNATING),
    "alibi": Family("bloom", not PREPARES_BLOOM),
    "falcon": Family("falcon"),
    "falcon with alibi": Family("falcon", settings={"alibi": True}),
    "mpt": Family("mpt"),
    "learnt positions": Family("gpt2"),
    "learnt positions with an offset": Family("opt"),
    "local attention": Family("gpt_neo"),
    "rotation of a part": Family("gpt_neox"),
    "phi": Family("phi"),
    "mixture of experts": Family("mixtral"),
    "experts that are shared": Family("qwen2_moe"),
    "olmoe": Family("olmoe"),
    "keys wider than values": Family("deepseek_v3"),
    "layers side by side": Family("cohere"),
    "layers without positions": Family("cohere2", settings=ALTERNATING),
    "sinks": Family("gpt_oss"),
    "a mask of each head": Family("doge"),
    "dynamic positions": Family(
        "llama",
        settings={
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
        },
    ),
    "long and short positions": Family(
        "llama", settings=STRETCHED | {"rope_parameters": LONG | {"rope_type": "longrope"}}
    ),
    "computed anew when long": Family(
        "phi3", False, STRETCHED | {"rope_parameters": LONG | {"rope_type": "longrope"}}
    ),
    "recurrent": Family("mamba", False, targets=MAMBA),
    "falcon mamba": Family("falcon_mamba", False, targets=MAMBA),
    "mamba 2": Family("mamba2", False, targets=MAMBA),
    "convolutions": Family("lfm2", False),
    "granite hybrid": Family("granitemoehybrid", False),
    "bamba": Family("bamba", False),
    "jamba": Family("jamba", False, targets=JAMBA),
    "linear attention": Family("qwen3_5_text", False, LINEAR),
    "linear attention and experts": Family("qwen3_next", False, LINEAR),
}
FAST = {"sliding window", "alibi", "learnt positions", "dynamic positions", "recurrent"}


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    generator = torch.Generator().manual_seed(3)
    return [
        Prompt(10 + number, torch.randint(3, NUM_PIECES, (length,), generator=generator).tolist())
        for number, length in enumerate(LENGTHS)
    ]


def tuned(family: Family, folder: Path) -> Any:
    """Returns a miniature with LoRA, whose last token is not the likeliest next one."""
    settings = {"tie_word_embeddings": False, **family.settings}
    config = read_config(base_of(folder, family.model_type, **settings))
    base = miniature(config)
    choose_attention(base, family.model_type)
    torch.manual_seed(0)
    model = attach(base, LoraSettings(dropout=0.0, target_modules=family.targets))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def alone(model: Any, prompt: Prompt, settings: DecodingSettings) -> list[Text]:
    """Returns what transformers writes for one prompt, with a model that wrote nothing before."""
    texts = []
    for candidate in range(settings.num_candidates):
        new, ids = copy.deepcopy(model), torch.tensor([prompt.ids])
        which = torch.tensor([prompt.row]), torch.tensor([candidate])
        plain = GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=ENDS,
            pad_token_id=0,
        )
        new.get_base_model().generation_config = GenerationConfig()
        chosen = Chosen(settings, ids.shape[1], ENDS, *which)
        found = new.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=plain,
            logits_processor=LogitsProcessorList([chosen]),
        )
        texts.append(text_of(found[0, ids.shape[1] :].tolist(), ENDS))
    return texts


@pytest.mark.parametrize(
    "name", [name if name in FAST else slow_case(name) for name in FAMILIES], ids=str
)
def test_a_text_is_that_of_generate_for_its_prompt_alone(
    name: str, prompts: list[Prompt], tmp_path: Path
):
    """Merged and not, with LoRA and without, each way of drawing, two sizes of a batch."""
    family = FAMILIES[name]
    model = tuned(family, tmp_path)
    assert has_plain_cache(model.get_base_model()) == family.is_ours
    of_base, ends = {}, set()
    for has_lora in (False, True):
        ways = {"merged": merged(model, has_lora=has_lora), "as it is": model}
        for drawing, settings in SETTINGS.items():
            with nullcontext() if has_lora else model.disable_adapter():
                wanted = [alone(model, prompt, settings) for prompt in prompts]
                for way, network in ways.items():
                    size = 4 if way == "merged" else 3
                    found = list(write(network, prompts, settings, ENDS, size))
                    assert found == wanted, (has_lora, drawing, way)
            assert wanted != of_base.get(drawing), "LoRA does something"
            of_base[drawing] = wanted
            ends |= {len(text.ids) for texts in wanted for text in texts}
    assert len(ends) > 4, "texts end one after the other"


@pytest.mark.parametrize(
    "name",
    [
        *("sliding window", "alibi", "learnt positions", "dynamic positions"),
        *("long and short positions", "a mask of each head"),
    ],
)
def test_what_prompts_begin_with_together_changes_no_text(
    name: str, prompts: list[Prompt], tmp_path: Path
):
    model = tuned(FAMILIES[name], tmp_path)
    alike = [prompt._replace(ids=[9, 7, 33, 21, 14, 50, *prompt.ids]) for prompt in prompts]
    wanted = [alone(model, prompt, SETTINGS["greedy"]) for prompt in alike]
    assert list(write(merged(model), alike, SETTINGS["greedy"], ENDS, 4)) == wanted


@pytest.mark.parametrize("name", ["learnt positions", "recurrent"])
def test_a_token_that_rounding_could_change_is_the_one_that_its_text_has_alone(
    name: str, prompts: list[Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each of them, if rounding could do anything, and in a batch that computes nonsense."""
    network = merged(tuned(FAMILIES[name], tmp_path))
    forward = type(network).forward

    def nonsense(*arguments: Any, **options: Any) -> Any:
        found = forward(*arguments, **options)
        if options["use_cache"]:
            found.logits = torch.randn_like(found.logits)
        return found

    for settings in SETTINGS.values():
        wanted = list(write(network, prompts, settings, ENDS, 4))
        with monkeypatch.context() as patch:
            patch.setattr(type(network), "forward", nonsense)
            assert list(write(network, prompts, settings, ENDS, 4)) != wanted
            patch.setattr(rounding, "ROUNDING", 1e9)
            assert list(write(network, prompts, settings, ENDS, 4)) == wanted


@pytest.mark.parametrize("model_type", ["recurrent_gemma", "minimax"])
def test_a_family_whose_texts_depend_on_padding_is_not_taken(model_type: str, tmp_path: Path):
    attention_for.cache_clear()
    assert PADDED in refusal(attention_for, base_of(tmp_path, model_type))


def test_positions_that_were_stretched_by_a_long_text_are_forgotten(
    prompts: list[Prompt], tmp_path: Path
):
    """By the next text, and by the next training step."""
    model = tuned(FAMILIES["dynamic positions"], tmp_path)
    short, long = prompts[4], prompts[2]
    ids = torch.tensor([long.ids[:18]])  # it was trained for 16
    settings = DecodingSettings(14, min_new_tokens=14)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        first = list(write(model, [short], settings, ENDS, 1))
        list(write(model, [long], settings, ENDS, 1))
        assert list(write(model, [short], settings, ENDS, 1)) == first
        assert torch.equal(model(input_ids=ids).logits, before)
