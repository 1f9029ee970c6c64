"""Texts out of slots are those of transformers, in every family, whoever is beside them."""

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from amazon_desc.data.loading.prompts import Prompt
from amazon_desc.generation.decoding import GREEDY
from amazon_desc.generation.engine import queue
from amazon_desc.generation.engine.cache import Cache, attend, keep
from amazon_desc.generation.engine.merged import MergedDecoder, merge
from amazon_desc.generation.engine.queue import in_full_passes, write
from amazon_desc.generation.engine.slots import Begun, Ended, Look, Slots
from amazon_desc.generation.texts import Text
from amazon_desc.model.kernels.rotary import Heads
from tests.conftest import slow_case
from tests.model.fused import DEVICE, HAS_CARD, KINDS, PRECISION, RUNS_KERNELS, base, with_lora
from tests.model.test_fused_path import in_4_bits

pytestmark = RUNS_KERNELS

END, LONGEST, NEW = 2, 20, 5
PLAIN = replace(GREEDY, max_new_tokens=NEW)
FLOAT32_ONLY = pytest.mark.skipif(HAS_CARD, reason="tensor cores have no float32")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    random.seed(0)


def prompts_of(lengths: list[int], num_pieces: int) -> list[Prompt]:
    return [
        Prompt(row, [random.randrange(3, num_pieces) for _ in range(length)])
        for row, length in enumerate(lengths)
    ]


def texts_of(decoder: MergedDecoder, prompts: list[Prompt], num_slots: int) -> list[Text]:
    slots = Slots(decoder, PLAIN, num_slots, LONGEST, [END], prefilled=64)
    return [text for (text,) in write(slots, prompts)]


@torch.no_grad()
def reference(model: Any, prompt: list[int]) -> Text:
    """Writes greedily without a cache: the whole text is passed for each token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + NEW:
        logits = model(input_ids=torch.tensor([ids], device=DEVICE), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == END:
            return Text(ids[len(prompt) : -1], True)
    return Text(ids[len(prompt) :], False)


@FLOAT32_ONLY
@pytest.mark.parametrize("kind", ["llama", *map(slow_case, [k for k in KINDS if k != "llama"])])
def test_texts_are_those_of_transformers_in_every_family(kind: str):
    """Prompts of one token too, more than there are slots; LoRA is merged."""
    model = with_lora(base(kind, torch.float32), 0.0).eval()
    prompts = prompts_of([1, 17, 9, 5], model.get_base_model().config.vocab_size)
    decoder = merge(model, torch.float32, LONGEST + NEW)
    assert texts_of(decoder, prompts, 3) == [reference(model, p.ids) for p in prompts]


@pytest.mark.parametrize(("slots_kept", "most_a_round"), [(4, 1), (1, 9)])
def test_texts_that_end_together_are_handed_out_beside_the_rounds_that_follow(
    slots_kept: int, most_a_round: int, monkeypatch: pytest.MonkeyPatch
):
    """12 texts of one length in 4 slots, on a card that is through whenever it is asked.

    Prompts of one token, which need no pass. The last prompts begin first, so that all wait for the
    first one's text. Where more are kept than there may be, they are handed out until fewer are: 9
    of 12.
    """
    model = base("llama", torch.float32).eval()
    prompts = prompts_of([1] * 12, model.config.vocab_size)
    decoder = merge(with_lora(model, 0.0), torch.float32, LONGEST + NEW)
    settings = replace(PLAIN, max_new_tokens=2, min_new_tokens=2)
    slots = Slots(decoder, settings, 4, LONGEST, [END], prefilled=64)
    wanted = [text for (text,) in write(slots, prompts)]
    assert {len(text.ids) for text in wanted} == {2}
    assert len({tuple(text.ids) for text in wanted}) > 6
    monkeypatch.setattr(Look, "is_known", lambda look: True)
    monkeypatch.setattr(queue, "SLOTS_KEPT", slots_kept)
    run, rounds = slots.run, Counter[int]()
    num_rounds = 0

    def counted() -> None:
        nonlocal num_rounds
        num_rounds += 1
        run()

    monkeypatch.setattr(slots, "run", counted)
    found = []
    for (text,) in write(slots, prompts):
        found.append(text)
        rounds[num_rounds] += 1
    assert found == wanted
    assert max(rounds.values()) == most_a_round


@FLOAT32_ONLY
@pytest.mark.slow
def test_texts_of_the_base_alone_are_those_with_lora_switched_off():
    model = with_lora(in_4_bits(base("llama", torch.float32)), 0.0).eval()
    prompts = prompts_of([5, 9], model.get_base_model().config.vocab_size)
    tuned = texts_of(merge(model, torch.float32, LONGEST + NEW), prompts, 2)
    assert tuned == [reference(model, p.ids) for p in prompts]
    alone = texts_of(merge(model, torch.float32, LONGEST + NEW, has_lora=False), prompts, 2)
    with model.disable_adapter():
        assert alone == [reference(model, p.ids) for p in prompts]
    assert alone != tuned


@FLOAT32_ONLY
@pytest.mark.slow
def test_an_end_token_ends_a_text_and_its_slot_is_filled_again():
    """The id that would have been the third is made the end token, of all texts at once."""
    model = with_lora(base("llama", torch.float32), 0.0).eval()
    prompts = prompts_of([4, 6, 5], model.get_base_model().config.vocab_size)
    decoder = merge(model, torch.float32, LONGEST + NEW)
    whole = texts_of(decoder, prompts, len(prompts))
    end = whole[0].ids[2]
    slots = Slots(decoder, PLAIN, 1, LONGEST, [end, END], prefilled=64)
    for (text,), before in zip(write(slots, prompts), whole, strict=True):
        has_end = end in before.ids
        place = before.ids.index(end) if has_end else NEW
        assert text == Text(before.ids[:place], has_end)


def test_a_text_does_not_depend_on_who_is_beside_it():
    """Bit for bit in every order, in half precision on a card."""
    model = with_lora(base("llama", PRECISION), 0.0).eval()
    num_prompts, num_slots = (300, 32) if HAS_CARD else (4, 2)
    lengths = [random.randint(1, LONGEST) for _ in range(num_prompts)]
    prompts = prompts_of(lengths, model.get_base_model().config.vocab_size)
    decoder = merge(model, PRECISION, LONGEST + NEW)
    first = texts_of(decoder, prompts, num_slots)
    shuffled = random.sample(prompts, len(prompts))[: num_prompts - 1]
    again = texts_of(decoder, shuffled, num_slots)
    assert again == [first[prompt.row] for prompt in shuffled]


def test_merged_matrices_are_the_sum_in_float32_cast_last():
    model = with_lora(in_4_bits(base("llama", PRECISION)), 0.0)
    layer = model.get_base_model().model.layers[0]
    merged = merge(model, PRECISION, 8).layers[0]
    q = layer.self_attn.q_proj
    from bitsandbytes.functional import dequantize_4bit

    state = q.base_layer.weight.quant_state
    state.dtype = torch.float32
    whole = dequantize_4bit(q.base_layer.weight, state)
    a, b = q.lora_A["default"].weight, q.lora_B["default"].weight
    whole = whole + q.scaling["default"] * (b @ a)
    found = merged.qkv.weight[: len(whole)]
    assert found.dtype == PRECISION
    torch.testing.assert_close(found, whole.to(PRECISION))


# Keys and values


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("dim", [16, slow_case(24), slow_case(128), slow_case(256)])
def test_a_token_attends_to_what_its_slot_holds(dim: int, window: int | None):
    """Against a softmax in float64; slots hold different numbers of tokens, one of them one."""
    heads, length = Heads(num_q=6, num_kv=2, dim=dim), 90
    held = [1, 70, 7]
    dtype = torch.bfloat16 if HAS_CARD else torch.float32
    cache = Cache(heads, len(held), length, dtype, DEVICE)
    width = (heads.num_q + 2 * heads.num_kv) * dim
    tokens = [torch.randn(num, width, device=DEVICE).to(dtype) for num in held]
    for slot, of_slot in enumerate(tokens):
        places = torch.arange(len(of_slot), device=DEVICE)
        keep(cache, of_slot, torch.full_like(places, slot), places)
    last = torch.stack([of_slot[-1] for of_slot in tokens])
    positions = torch.tensor([num - 1 for num in held], device=DEVICE)
    found = attend(cache, last, positions, dim**-0.5, window)
    for slot, of_slot in enumerate(tokens):
        seen = of_slot[-window:] if window else of_slot
        q, k, v = (part.double() for part in heads.split(seen))
        k, v = (part.repeat_interleave(3, 1) for part in (k, v))
        scores = torch.einsum("hd,nhd->hn", q[-1], k) * dim**-0.5
        wanted = torch.einsum("hn,nhd->hd", scores.softmax(-1), v).flatten()
        tolerance = 2e-2 if HAS_CARD else 1e-5
        torch.testing.assert_close(found[slot].double(), wanted, rtol=tolerance, atol=tolerance)


def test_padding_is_kept_nowhere():
    heads = Heads(num_q=2, num_kv=1, dim=16)
    cache = Cache(heads, 2, 4, torch.float32, DEVICE)
    qkv = torch.ones(3, 64, device=DEVICE)
    slots = torch.tensor([1, -1, -1], device=DEVICE)
    keep(cache, qkv, slots, torch.tensor([3, 0, 0], device=DEVICE))
    assert cache.keys[1, 0, 3].eq(1).all()
    assert int(cache.keys.sum()) == int(cache.values.sum()) == 16


def test_prompts_are_packed_without_their_last_tokens_each_at_a_tile():
    model = with_lora(base("llama", torch.float32), 0.0)
    decoder = merge(model, torch.float32, LONGEST + NEW)
    slots = Slots(decoder, PLAIN, 3, LONGEST, [END], prefilled=32)
    slots.alignment = 4
    begun = [Begun(2, 0, 0, [7, 8, 9]), Begun(0, 1, 0, [5]), Begun(1, 2, 0, [1, 2, 3, 4, 6, 7])]
    (pack,) = slots.packed(begun)
    ids, positions, of_slots = pack.tolist()
    assert ids == [7, 8, 0, 0, 1, 2, 3, 4, 6, *[0] * 23]
    assert positions == [0, 1, 0, 0, 0, 1, 2, 3, 4, *[0] * 23]
    assert of_slots == [2, 2, -1, -1, 1, 1, 1, 1, 1, *[-1] * 23]
    assert len(slots.packed(begun * 3)) == 2


@pytest.mark.parametrize(
    ("lengths", "result"), [([4, 4, 3, 5, 2], 4), ([4, 4, 3], 2), ([4], 0), ([], 0), ([5, 4, 8], 3)]
)
def test_prompts_wait_until_a_pass_is_full(lengths: list[int], result: int):
    assert in_full_passes(lengths, 8) == result


class Recorded:
    """Slots that write a text as long as its prompt says, and count what they are asked for."""

    def __init__(self, num_slots: int, prefilled: int) -> None:
        self.num_slots, self.prefilled, self.alignment = num_slots, prefilled, 1
        self.left: dict[int, int] = {}
        self.num_passes, self.num_steps, self.num_busy = 0, 0, 0
        self.steps_a_round = 2

    def room_of(self, ids: list[int]) -> int:
        return len(ids) - 1

    def begin(self, begun: list[Begun]) -> None:
        self.left |= {each.slot: each.ids[-1] for each in begun}
        self.num_passes += -(-sum(self.room_of(each.ids) for each in begun) // self.prefilled)

    def run(self) -> None:
        self.num_steps += self.steps_a_round
        for slot in self.left:
            self.num_busy += max(0, min(self.steps_a_round, self.left[slot]))
            self.left[slot] -= self.steps_a_round

    def look(self) -> Any:
        return Look({slot for slot, left in self.left.items() if left <= 0}, None)  # pyright: ignore

    def take(self, look: Any, is_open: list[bool]) -> list[Ended]:
        done = [slot for slot in look.has_ended if is_open[slot]]
        for slot in done:
            del self.left[slot]
        return [Ended(slot, [slot], True) for slot in done]


def test_slots_are_busy_with_texts_of_uneven_length():
    """Texts of 5 to 128 tokens, 70 on average, out of prompts of 20 to 50."""
    prompts = [
        Prompt(row, [0] * random.randint(20, 50) + [random.randint(5, 128)]) for row in range(8000)
    ]
    slots: Any = Recorded(256, 1024)
    assert sum(1 for _ in write(slots, prompts)) == 8000
    assert slots.num_busy / (slots.num_steps * slots.num_slots) > 0.85
    tokens = sum(len(prompt.ids) - 1 for prompt in prompts)
    assert tokens / (slots.num_passes * slots.prefilled) > 0.9
