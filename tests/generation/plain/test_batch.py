"""What prompts begin with together is passed once, and that changes no text."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.plain.batch import LEAST_SHARED, num_shared_by
from amazon_desc.generation.plain.cache import has_plain_cache
from amazon_desc.generation.plain.generating import generate
from amazon_desc.generation.plain.writer import write
from amazon_desc.generation.texts import Text, text_of
from amazon_desc.model.probe import choose_attention
from tests.model.bases import SMALL

TEMPLATE = [1, 5, 6, 7, 8, 9, 10, 11]
RESTS = [[20], list(range(21, 33)), [23, 24], [20, 21, 22], list(range(32, 20, -1))]
PROMPTS = [Prompt(row, TEMPLATE + rest) for row, rest in enumerate(RESTS)]
ENDS = [2, 40, 41, 42]


def random_model(family: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    small = {**SMALL[family], **settings, "vocab_size": 97}
    config = AutoConfig.for_model(family, **small, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    choose_attention(model, family)  # transformers' own choice may leave soft caps out
    return model


def written(model: Any, prompts: Sequence[Prompt], num_new: int) -> list[list[Text]]:
    return list(write(model, prompts, DecodingSettings(num_new), ENDS, 8))


def test_the_worked_example_of_what_prompts_share():
    def shared(*ids: list[int]) -> int:
        return num_shared_by([Prompt(row, of_one) for row, of_one in enumerate(ids)])

    assert shared([5, 6, 7], [5, 6, 8, 9], [5, 6]) == 1
    assert shared([5, 6, 7], [5, 6, 7]) == 2
    assert shared([5, 6, 7], [6, 6, 7]) == 0
    assert shared([5, 6, 7]) == 0


def test_prompts_of_one_template_have_their_beginning_passed_once():
    """8 tokens; then of each of 5 prompts as much as the longest one has after them, 12."""
    model, num_passed = random_model("llama"), []
    model.get_input_embeddings().register_forward_hook(
        lambda _, given, __: num_passed.append(given[0].numel())
    )
    assert len(TEMPLATE) >= LEAST_SHARED
    found = written(model, PROMPTS, 1)
    assert num_passed == [8, 5 * 12]
    num_passed.clear()
    assert [written(model, [prompt], 1)[0] for prompt in PROMPTS] == found
    assert num_passed == [9, 20, 10, 11, 20]


@pytest.mark.parametrize("prompts", [PROMPTS, [PROMPTS[1], PROMPTS[4]]], ids=["padded", "as long"])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("gpt2", {}),
        ("gpt_neo", {"window_size": 4}),
        ("gemma2", {"sliding_window": 5}),
        ("gemma3_text", {"sliding_window": 5}),
    ],
)
def test_what_is_shared_changes_no_text_in_any_family(
    family: str, settings: dict[str, Any], prompts: list[Prompt]
):
    """Also where a window or a table of positions counts from where a token stands."""
    model = random_model(family, **settings)
    assert has_plain_cache(model)
    ids = generate(model, prompts, ENDS, DecodingSettings(10)).tolist()
    assert written(model, prompts, 10) == [[text_of(of_one, ENDS)] for of_one in ids]
