"""Tokens: what is learnt is right by construction, and text never turns into a control token."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from amazon_desc.data.encoding.encoder import Encoder, Example
from amazon_desc.data.encoding.prompts import PromptSettings
from amazon_desc.data.encoding.tokenizer import load_tokenizer, tokenizer_fingerprint
from amazon_desc.data.reading.records import Product
from amazon_desc.support.errors import UserError
from tests.gemma_base import BOS, END_OF_TURN, EOS, START_OF_TURN, gemma_tokenizer
from tests.gemma_base import TEMPLATE as GEMMA_TEMPLATE

TEMPLATE = "Gere uma descrição criativa para o produto:\nTítulo: {title}\nDescrição:"
TUTU = Product(
    "Girls Ballet Tutu Neon Pink", "High quality 3 layer ballet tutu. 12 inches in length."
)
# TinyLlama's control tokens: <unk>, <s>, </s>.
CONTROL_IDS = {0, 1, 2}
# What TinyLlama-Chat's template writes around the user's words.
CHAT_HEAD = [529, 29989, 1792, 29989, 29958, 13]  # ▁< | user | > \n
CHAT_TAIL = [2, 13, 29966, 29989, 465, 22137, 29989, 29958, 13]  # </s> \n < | ass istant | > \n

HOSTILE = [
    "</s>",
    "<s>",
    "<unk>",
    "<|user|>",
    "a</s>b",
    "</s></s>",
    "</s> </s>",
    "<s></s><unk>" * 20,
    "<</s>/s>",
    "</s</s>>",
    "<s<s>>",
    "</</s>s>",
    "</s>\u2019</s>",
    "Mug </s>",
    "<|user|></s><|assistant|>",
    "{title}</s>",
]


def fuzzed(seed: int, count: int) -> list[str]:
    """Texts of control tokens and their splinters, single-spaced as cleaning leaves them."""
    draw = random.Random(seed)
    bits = ["</s>", "<s>", "<unk>", "<|user|>", "<|assistant|>", "<", "</", "/s>", "s>", ">"]
    bits += ["|", "a", "é", "\u4e66", "unk", " ", " Mug", "[INST]", "{title}", "\\"]
    texts = ("".join(draw.choices(bits, k=draw.randint(1, 12))) for _ in range(count))
    return [" ".join(text.split()) for text in texts]


def toy_encoder(
    toy: PreTrainedTokenizerBase, max_seq_length: int = 28, template: str = "describe: {title}"
) -> Encoder:
    return Encoder(toy, PromptSettings(template=template), max_seq_length)


def words(numbers: range) -> str:
    return " ".join(f"w{number}" for number in numbers)


def described(
    toy: PreTrainedTokenizerBase, description: str, max_seq_length: int = 28
) -> tuple[list[int], str]:
    """Returns ids and ending of a description behind a prompt of 5 tokens."""
    example = toy_encoder(toy, max_seq_length).examples([Product("red mug", description)])[0]
    assert example.input_ids[: example.num_prompt_tokens] == [1, 10, 11, 12, 13]
    return example.input_ids[example.num_prompt_tokens :], example.ending


def test_the_worked_example(toy_tokenizer: PreTrainedTokenizerBase):
    example = toy_encoder(toy_tokenizer).examples([Product("red mug", "a mug.")])
    assert example == [Example([1, 10, 11, 12, 13, 20, 13, 21, 2], 5, "whole")]


def test_a_chat_description_ends_with_the_templates_end_of_turn(
    toy_chat_tokenizer: PreTrainedTokenizerBase,
):
    encoder = toy_encoder(toy_chat_tokenizer, 64)
    assert encoder.end_id == 5
    prompt = [3, 6, 32, 11, 12, 13, 5, 6, 4, 6]  # <|user|> \n describe : ▁red ▁mug <|end|> ...
    example = encoder.examples([Product("red mug", "a mug.")])[0]
    assert example == Example([*prompt, 30, 13, 21, 5], 10, "whole")  # "a", not "▁a", behind \n


def ending_with(after: str) -> str:
    """Returns a chat template that writes this after each turn."""
    return (
        "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}"
        f"{after}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )


@pytest.mark.parametrize("after", ["<end_of_turn>\n", "\n<|im_end|>", "###"])
def test_an_end_of_turn_that_is_no_control_token_is_refused(
    after: str, toy_chat_tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
):
    """EOS would be learnt in its place, and the base's own end of turn never ends a text."""
    monkeypatch.setattr(toy_chat_tokenizer, "chat_template", ending_with(after))
    with pytest.raises(UserError) as error:
        toy_encoder(toy_chat_tokenizer, 64)
    assert (
        f"--data.prompt.chat: wanted a chat template that ends a turn with a control token of the "
        f"base's tokenizer, found {after.strip()!r}, which is text to it: "
    ) in str(error.value)
    Encoder(toy_chat_tokenizer, PromptSettings("describe: {title}", chat=False), 64)


@pytest.mark.parametrize(("after", "end_id"), [("", 2), ("\n", 2), ("</s>\n", 2), ("\n<|end|>", 5)])
def test_a_turn_that_ends_with_nothing_ends_with_eos(
    after: str,
    end_id: int,
    toy_chat_tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(toy_chat_tokenizer, "chat_template", ending_with(after))
    assert toy_encoder(toy_chat_tokenizer, 64).end_id == end_id


GEMMA_CHAT = [
    {"role": "user", "content": "Title: Red Mug\nText:"},
    {"role": "assistant", "content": "A mug. It holds 3 litres."},
]


def gemma_example(template: str) -> tuple[Example, list[int]]:
    """Returns an example of a tokenizer like Gemma's, and what its chat template makes of it."""
    tokenizer = gemma_tokenizer(template)
    encoder = Encoder(tokenizer, PromptSettings("Title: {title}\nText:"), 64)
    assert encoder.end_id == END_OF_TURN
    (example,) = encoder.examples([Product("Red Mug", GEMMA_CHAT[1]["content"])])
    ids: Any = tokenizer.apply_chat_template(GEMMA_CHAT, return_dict=False)
    return example, ids


def test_a_gemma_learns_its_own_end_of_turn_and_begins_once():
    example, ids = gemma_example(GEMMA_TEMPLATE)
    line_break = ids[-1]
    assert [*example.input_ids, line_break] == ids
    assert example.input_ids[:2] == [BOS, START_OF_TURN]
    assert example.input_ids.count(BOS) == 1
    assert example.input_ids.count(END_OF_TURN) == 2
    assert EOS not in ids


@pytest.mark.real
def test_the_chat_template_of_gemma_3_gives_the_same_ids(real_dir: Path):
    template = (real_dir / "gemma3" / "gemma3_chat_template.jinja").read_text()
    assert gemma_example(template) == gemma_example(GEMMA_TEMPLATE)


@pytest.mark.parametrize(
    ("template", "first"),
    [
        ("describe: {title}", 20),  # ends in the title, a word
        ("describe: {title} :", 20),
        ("describe: {title}\n", 30),
        ("describe: {title}\na: ", 30),
    ],
)
def test_a_description_begins_a_word_except_behind_white_space(
    toy_tokenizer: PreTrainedTokenizerBase, template: str, first: int
):
    encoder = toy_encoder(toy_tokenizer, 40, template)
    example = encoder.examples([Product("red mug", "a mug.")])[0]
    assert example.input_ids[example.num_prompt_tokens :] == [first, 13, 21, 2]


def test_a_byte_level_tokenizer_too_begins_a_word_behind_a_colon():
    """Such tokenizers add no space in front of a text, and "Description:High" is no text."""
    alphabet = {
        character: index for index, character in enumerate(pre_tokenizers.ByteLevel.alphabet())
    }
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    toy = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    encoder = toy_encoder(toy, 64, "{title}:")
    ids = encoder.examples([Product("Mug", "It is. 3.5")])[0].input_ids
    pieces = toy.convert_ids_to_tokens(ids)
    assert pieces == [*"Mug:", "Ġ", *"It", "Ġ", *"is.", "Ġ", *"3.5", "</s>"]
    long = encoder.examples([Product("Mug", "It is. " + "3.5" * 30)])[0]
    pieces = toy.convert_ids_to_tokens(long.input_ids)
    assert (pieces, long.ending) == ([*"Mug:", "Ġ", *"It", "Ġ", *"is.", "</s>"], "shortened")


@pytest.mark.parametrize("title", HOSTILE[:2] + HOSTILE[4:7] + HOSTILE[8:12])
def test_a_title_of_control_tokens_stays_text_for_the_toys(
    toy_tokenizer: PreTrainedTokenizerBase,
    toy_chat_tokenizer: PreTrainedTokenizerBase,
    title: str,
):
    plain = toy_encoder(toy_tokenizer, 64).prompts([title])[0]
    assert [(at, id_) for at, id_ in enumerate(plain) if id_ in (1, 2)] == [(0, 1)]
    chat = toy_encoder(toy_chat_tokenizer, 64).prompts([title])[0]
    assert [id_ for id_ in chat if id_ in range(1, 6)] == [3, 5, 4]
    assert (chat[0], chat[-4:]) == (3, [5, 6, 4, 6])
    decoded = toy_chat_tokenizer.decode(chat, clean_up_tokenization_spaces=False)
    assert decoded == f"<|user|>\ndescribe: {title}<|end|>\n<|assistant|>\n"


def test_line_breaks_of_a_template_keep_an_id_of_their_own(
    toy_chat_tokenizer: PreTrainedTokenizerBase,
):
    """Gemma's tokenizer has "\\n\\n" as an added token, which is text and no control token."""
    toy = copy.deepcopy(toy_chat_tokenizer)
    toy.add_tokens(["\n", "\n\n"])
    encoder = toy_encoder(toy, 64, "describe\n\n{title}\n\na\n:")
    asked = toy.apply_chat_template(
        [{"role": "user", "content": "describe\n\nred mug\n\na\n:"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    ids = encoder.prompt_ids("red mug")
    assert ids == toy(asked, add_special_tokens=False)["input_ids"]
    assert ids.count(toy.convert_tokens_to_ids("\n\n")) == 2


SENTENCES = [
    ("A mug. It holds 3.5 ", [19, 13, 21]),  # "3.5" is no sentence end
    ("A mug. It holds 3. ", [19, 13, 21, 22, 23, 24, 21]),
    ("A mug. It holds 3! ", [19, 13, 21, 22, 23, 24, 26]),
    ("A mug. It holds 3… ", [19, 13, 21, 22, 23, 24, 29]),
    ('A mug. It holds a!" ', [19, 13, 21, 22, 23, 20, 26, 27]),
    ('A mug. It holds a."") ', [19, 13, 21, 22, 23, 20, 21, 27, 27, 28]),
    ('A mug. It holds a") ', [19, 13, 21]),  # closed, but nothing ends
    ("A mug.It holds ", None),  # glued: no new word follows
]


@pytest.mark.parametrize(("beginning", "kept"), SENTENCES)
def test_a_description_too_long_ends_at_its_last_whole_sentence(
    toy_tokenizer: PreTrainedTokenizerBase, beginning: str, kept: list[int] | None
):
    ids, ending = described(toy_tokenizer, beginning + words(range(30)))
    if kept is None:
        assert (len(ids), ending) == (23, "cut")
        assert 2 not in ids
    else:
        assert (ids, ending) == ([*kept, 2], "shortened")


@pytest.mark.parametrize("num_words", [22, 23, 24, 90])
def test_a_description_without_a_sentence_end_is_cut_without_end_token(
    toy_tokenizer: PreTrainedTokenizerBase, num_words: int
):
    """28 tokens less 5 of the prompt leave 23: 22 words and the end token, or 23 words."""
    ids, ending = described(toy_tokenizer, words(range(num_words)))
    if num_words == 22:
        assert (ids, ending) == ([*range(100, 122), 2], "whole")
    else:
        assert (ids, ending) == (list(range(100, 123)), "cut")


@pytest.mark.parametrize(("num_words", "num_kept"), [(19, 21), (20, 22), (21, None)])
def test_the_last_sentence_needs_room_for_the_end_token(
    toy_tokenizer: PreTrainedTokenizerBase, num_words: int, num_kept: int | None
):
    """The sentence has its words, `w99` and a full stop; with the end token 23 fit."""
    ids, ending = described(toy_tokenizer, words(range(num_words)) + " w99. " + words(range(40)))
    if num_kept is None:
        assert (ids, ending) == ([*range(100, 121), 199, 21], "cut")
    else:
        assert (ids, ending) == ([*range(100, 100 + num_words), 199, 21, 2], "shortened")
        assert len(ids) == num_kept + 1


def test_a_text_longer_than_what_is_read_is_never_whole(toy_tokenizer: PreTrainedTokenizerBase):
    """6 characters a token and 28 tokens are 168; an unknown word is one token, <unk>."""
    assert described(toy_tokenizer, "x" * 168) == ([0, 2], "whole")
    assert described(toy_tokenizer, "x" * 169) == ([0], "cut")
    assert described(toy_tokenizer, "A mug. w7 " + "x" * 158) == ([19, 13, 21, 107, 0, 2], "whole")
    assert described(toy_tokenizer, "A mug. w7 " + "x" * 159) == ([19, 13, 21, 2], "shortened")


def test_a_long_title_loses_words_at_its_end_and_the_template_none(
    toy_tokenizer: PreTrainedTokenizerBase,
):
    """30 tokens less 16 for the description leave 14: <s> describe : ... : and ten words."""
    encoder = toy_encoder(toy_tokenizer, 30, "describe: {title}:")
    fitting, long = words(range(10)), words(range(90))
    wanted = [1, 10, 11, *range(100, 110), 11]
    assert encoder.prompts([fitting, long, words(range(11))]) == [wanted] * 3
    example = encoder.examples([Product(long, words(range(50)))])[0]
    assert example == Example([*wanted, *range(100, 116)], 14, "cut")
    assert encoder.prompts([long + " mug" * 100_000]) == [wanted]
    marks = [mark for _, mark in encoder.marked_prompts([fitting, long, long + " mug" * 100_000])]
    assert marks == [False, True, True]


def test_a_title_whose_first_word_does_not_fit_leaves_the_template(
    toy_tokenizer: PreTrainedTokenizerBase,
):
    encoder = toy_encoder(toy_tokenizer, 30, "describe: {title}:")
    assert encoder.prompts([":" * 100 + " mug"]) == [[1, 10, 11, 7, 11]]


def test_a_sequence_too_short_for_the_prompt_is_refused_with_numbers(
    toy_tokenizer: PreTrainedTokenizerBase,
):
    """The template alone is <s> ▁describe : ▁ and wants 8 of title and 16 of description."""
    with pytest.raises(UserError, match=r"max_seq_length 27: .* has 4 tokens; .* at least 28 tok"):
        toy_encoder(toy_tokenizer, 27)
    assert toy_encoder(toy_tokenizer, 28).max_seq_length == 28


def test_a_template_with_two_titles_shortens_both_alike(toy_tokenizer: PreTrainedTokenizerBase):
    """40 tokens less 16 for the description leave 24: <s> describe : ... : ... : and twice 9 words.

    The template alone is <s> ▁describe : ▁ : ▁ : and wants twice 8 of title.
    """
    template = "describe: {title}: {title}:"
    with pytest.raises(UserError, match=r"has 7 tokens; wanted at least 39 tokens"):
        toy_encoder(toy_tokenizer, 38, template)
    encoder = toy_encoder(toy_tokenizer, 40, template)
    wanted = [1, 10, 11, *range(100, 109), 11, *range(100, 109), 11]
    titles = [words(range(9)), words(range(10)), words(range(11)), words(range(90)), "mug " * 9_999]
    nine, *prompts, mugs = encoder.prompts(titles)
    assert nine == wanted
    ten = [1, 10, 11, *range(100, 110), 11, *range(100, 110), 11]
    assert len(ten) == 25
    assert prompts == [wanted] * 3
    assert mugs == [1, 10, 11, *[13] * 9, 11, *[13] * 9, 11]


def shortened_plainly(toy: PreTrainedTokenizerBase, template: str, title: str, limit: int) -> list:
    """Tokenises ever fewer words of a title, as a whole text, until the prompt fits."""
    kept = title.split(" ")
    while True:
        text = template.replace("{title}", " ".join(kept))
        if toy.chat_template:
            message = {"role": "user", "content": text}
            text = toy.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        ids = toy(text, add_special_tokens=not toy.chat_template)["input_ids"]
        if len(ids) <= limit or kept == [""]:
            return ids
        kept = kept[:-1] or [""]


@pytest.mark.parametrize("is_chat", [False, True])
@pytest.mark.parametrize(
    "template", ["{title}{title}", "A {title}: {title}", "{title}\n\na {title}"]
)
def test_prompts_with_two_titles_are_those_of_the_whole_text(
    toy_tokenizer: PreTrainedTokenizerBase,
    toy_chat_tokenizer: PreTrainedTokenizerBase,
    template: str,
    is_chat: bool,
):
    toy = toy_chat_tokenizer if is_chat else toy_tokenizer
    encoder = toy_encoder(toy, 60, template)
    draw = random.Random(7)
    pieces = ["mug", "red", "A", "a.", "w7", "w70:", '"a"', "3"]
    titles = [" ".join(draw.choices(pieces, k=draw.randint(1, 40))) for _ in range(60)]
    found = encoder.prompts(titles)
    assert found == [shortened_plainly(toy, template, title, 60 - 16) for title in titles]
    num_short = sum(len(ids) > 38 for ids in found)
    assert 10 < num_short < 60


def test_a_system_message_is_tokenised_as_part_of_the_chat(
    toy_chat_tokenizer: PreTrainedTokenizerBase,
):
    """<|system|> is no control token of the toy's, but <|end|> (5) is."""
    settings = PromptSettings(template="describe: {title}", system="a red mug.\nw7")
    encoder = Encoder(toy_chat_tokenizer, settings, 80)
    asked = toy_chat_tokenizer.apply_chat_template(
        [
            {"role": "system", "content": "a red mug.\nw7"},
            {"role": "user", "content": "describe: red mug"},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = toy_chat_tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert encoder.prompts(["red mug", "mug", "</s>"])[0] == ids
    assert ids.count(5) == 2
    assert [i for i in encoder.prompts(["</s> mug"])[0] if i in range(1, 6)] == [5, 3, 5, 4]


def test_a_system_message_leaves_less_room_for_the_prompt(
    toy_chat_tokenizer: PreTrainedTokenizerBase,
):
    settings = PromptSettings(template="describe: {title}", system=words(range(50)))
    with pytest.raises(UserError, match=r"or shorten --data.prompt.template or --data.prompt.sys"):
        Encoder(toy_chat_tokenizer, settings, 80)
    assert Encoder(toy_chat_tokenizer, settings, 120).prompt_ids("mug").count(5) == 2


def test_no_titles_and_no_products_give_nothing(toy_tokenizer: PreTrainedTokenizerBase):
    assert toy_encoder(toy_tokenizer).prompts([]) == []
    assert toy_encoder(toy_tokenizer).examples([]) == []


def test_a_tokenizer_without_end_token_is_refused(
    toy_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
):
    endless = copy.deepcopy(toy_tokenizer)
    endless.eos_token = None
    endless.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"names no end token \(eos_token\)"):
        load_tokenizer(tmp_path)


def test_the_fingerprint_is_that_of_the_tokenizers_files(tmp_path: Path):
    def fingerprint(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return tokenizer_fingerprint(tmp_path)

    first = fingerprint("tokenizer.json", "{}")
    assert fingerprint("config.json", "other") == first
    assert fingerprint("tokenizer.json", "{}") == first
    others = [
        fingerprint("tokenizer.json", "{1}"),
        fingerprint("chat_template.jinja", "x"),
        fingerprint("tokenizer_config.json", "y"),
        fingerprint("special_tokens_map.json", "z"),
    ]
    assert len({first, *others}) == 5
    assert fingerprint("merges.txt", "a b") == others[-1]  # tokenizer.json holds what it decides
    (tmp_path / "tokenizer.json").unlink()
    assert fingerprint("merges.txt", "a b") != fingerprint("merges.txt", "b a")


# The real tokenizer


@pytest.fixture(scope="module")
def plain(tinyllama: PreTrainedTokenizerBase) -> Encoder:
    return Encoder(tinyllama, PromptSettings(template=TEMPLATE, chat=False), 256)


@pytest.fixture(scope="module")
def chat(tinyllama: PreTrainedTokenizerBase) -> Encoder:
    return Encoder(tinyllama, PromptSettings(template=TEMPLATE, chat=True), 256)


# fmt: off
GOLDEN_PROMPT = {
    "<s>": 1, "▁G": 402, "ere": 406, "▁uma": 3672, "▁descri": 2342, "ção": 2340, "▁cri": 14783,
    "ativa": 8657, "▁para": 1702, "▁o": 288, "▁prod": 11859, "uto": 3066, ":": 29901, "\n": 13,
    "T": 29911, "ít": 2468, "ulo": 7207, "▁Girls": 23992, "▁Bal": 7392, "let": 1026, "▁T": 323,
    "ut": 329, "u": 29884, "▁Ne": 2448, "on": 265, "▁P": 349, "ink": 682, "Des": 4002, "cri": 699,
}
GOLDEN_PROMPT_IDS = [
    1, 402, 406, 3672, 2342, 2340, 14783, 8657, 1702, 288, 11859, 3066, 29901, 13,
    29911, 2468, 7207, 29901, 23992, 7392, 1026, 323, 329, 29884, 2448, 265, 349, 682, 13,
    4002, 699, 2340, 29901,
]
GOLDEN_PIECES = [
    "<s>", "▁G", "ere", "▁uma", "▁descri", "ção", "▁cri", "ativa", "▁para", "▁o", "▁prod", "uto",
    ":", "<0x0A>", "T", "ít", "ulo", ":", "▁Girls", "▁Bal", "let", "▁T", "ut", "u", "▁Ne", "on",
    "▁P", "ink", "<0x0A>", "Des", "cri", "ção", ":",
    "▁High", "▁quality", "▁", "3", "▁layer", "▁bal", "let", "▁tut", "u", ".", "▁", "1", "2",
    "▁inches", "▁in", "▁length", ".", "</s>",
]
GOLDEN_DESCRIPTION_IDS = [
    5057, 11029, 29871, 29941, 7546, 6411, 1026, 7149, 29884, 29889, 29871, 29896, 29906,
    22831, 297, 3309, 29889, 2,
]
# fmt: on


@pytest.mark.real
def test_golden_ids_of_the_reference_prompt(plain: Encoder, tinyllama: PreTrainedTokenizerBase):
    example = plain.examples([TUTU])[0]
    assert example == Example([*GOLDEN_PROMPT_IDS, *GOLDEN_DESCRIPTION_IDS], 33, "whole")
    assert tinyllama.convert_ids_to_tokens(example.input_ids) == GOLDEN_PIECES
    assert plain.prompts([TUTU.title]) == [GOLDEN_PROMPT_IDS]
    assert plain.end_id == 2


@pytest.mark.real
def test_golden_ids_of_the_reference_prompt_as_a_chat(
    chat: Encoder, tinyllama: PreTrainedTokenizerBase
):
    """In front there is no <s>; "Gere" and "High" stand behind a line break, not a space."""
    prompt = [*CHAT_HEAD, 29954, *GOLDEN_PROMPT_IDS[2:], *CHAT_TAIL]
    example = chat.examples([TUTU])[0]
    assert example == Example([*prompt, 16382, *GOLDEN_DESCRIPTION_IDS[1:]], 47, "whole")
    assert tinyllama.convert_ids_to_tokens([29954, 406, 16382]) == ["G", "ere", "High"]
    assert chat.prompts([TUTU.title]) == [prompt]
    assert chat.end_id == 2


@pytest.mark.real
def test_ids_are_those_of_the_joined_text(
    plain: Encoder, real_products: list[Product], tinyllama: PreTrainedTokenizerBase
):
    num_whole, products = 0, real_products[::2]
    for product, example in zip(products, plain.examples(products), strict=True):
        if example.ending == "whole":
            text = TEMPLATE.replace("{title}", product.title) + " " + product.description
            joined = tinyllama(text, split_special_tokens=True)["input_ids"]
            assert example.input_ids == [*joined, 2], product
            num_whole += 1
    assert num_whole > 2_500


@pytest.mark.real
def test_ids_are_those_of_the_chat_template(
    chat: Encoder, real_products: list[Product], tinyllama: PreTrainedTokenizerBase
):
    """Behind the end token the template goes on with a line break, which nobody need learn."""
    num_whole, products = 0, real_products[::3]
    for product, example in zip(products, chat.examples(products), strict=True):
        if example.ending == "whole":
            messages = [
                {"role": "user", "content": TEMPLATE.replace("{title}", product.title)},
                {"role": "assistant", "content": product.description},
            ]
            rendered = tinyllama.apply_chat_template(messages, return_dict=False)
            assert [*example.input_ids, 13] == rendered, product
            asked = tinyllama.apply_chat_template(
                messages[:1], return_dict=False, add_generation_prompt=True
            )
            assert example.input_ids[: example.num_prompt_tokens] == asked, product
            num_whole += 1
    assert num_whole > 1_500


@pytest.mark.real
@pytest.mark.parametrize("titles", [HOSTILE, fuzzed(seed=0, count=2_000)], ids=["named", "fuzz"])
def test_a_title_of_control_tokens_stays_text(
    plain: Encoder, chat: Encoder, titles: list[str], tinyllama: PreTrainedTokenizerBase
):
    assert len(titles) >= 16
    prompts = zip(titles, plain.prompts(titles), chat.prompts(titles), strict=True)
    for title, plain_ids, chat_ids in prompts:
        words = TEMPLATE.replace("{title}", title)
        assert plain_ids[0] == 1
        assert CONTROL_IDS.isdisjoint(plain_ids[1:]), title
        assert tinyllama.decode(plain_ids[1:]) == words
        assert chat_ids[:6] == CHAT_HEAD
        assert chat_ids[-9:] == CHAT_TAIL
        assert CONTROL_IDS.isdisjoint(chat_ids[:-9]), title
        assert tinyllama.decode(chat_ids[:-9]) == f"<|user|>\n{words}"


@pytest.mark.real
@pytest.mark.parametrize("texts", [HOSTILE, fuzzed(seed=1, count=2_000)], ids=["named", "fuzz"])
def test_a_description_of_control_tokens_has_exactly_one_end(
    plain: Encoder, chat: Encoder, texts: list[str], tinyllama: PreTrainedTokenizerBase
):
    products = [Product("Red Mug", f"Mug {text}") for text in texts]
    for encoder in (plain, chat):
        for product, example in zip(products, encoder.examples(products), strict=True):
            description = example.input_ids[example.num_prompt_tokens :]
            assert example.ending == "whole"
            assert description[-1] == 2
            assert CONTROL_IDS.isdisjoint(description[:-1]), product
            assert tinyllama.decode(description[:-1]) == product.description


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(
    ("is_chat", "max_seq_length"), [(False, 80), (False, 256), (True, 80), (True, 128), (True, 256)]
)
def test_real_examples_fit_and_end_as_they_say(
    tinyllama: PreTrainedTokenizerBase,
    real_products: list[Product],
    is_chat: bool,
    max_seq_length: int,
):
    settings = PromptSettings(template=TEMPLATE, chat=is_chat)
    encoder = Encoder(tinyllama, settings, max_seq_length)
    products = real_products[::8]
    prompts = encoder.prompts([product.title for product in products])
    endings = {"whole": 0, "shortened": 0, "cut": 0}
    for product, prompt, example in zip(products, prompts, encoder.examples(products), strict=True):
        assert len(example.input_ids) <= max_seq_length
        assert example.input_ids[: example.num_prompt_tokens] == prompt
        description = example.input_ids[example.num_prompt_tokens :]
        has_end = example.ending != "cut"
        assert (description[-1] == 2) == has_end
        assert CONTROL_IDS.isdisjoint(description[: -1 if has_end else None])
        text = tinyllama.decode(description[: -1 if has_end else None])
        if example.ending == "whole":
            assert text == product.description
        if example.ending == "shortened":
            assert product.description.startswith(f"{text} ")
            assert text.rstrip("\"'”’)]")[-1] in ".!?…"
        endings[example.ending] += 1
    assert min(endings.values()) > 10


@pytest.mark.real
def test_sentences_end_behind_closing_quotes_and_not_in_numbers(
    plain: Encoder, tinyllama: PreTrainedTokenizerBase
):
    """`’` and `)` are pieces of their own in TinyLlama's tokenizer, `.”` is one."""
    for sentence in ("He said “Wow.”", "It is (really.)", "The end...’)", '"Nice!"', "So…"):
        rest = " A size of 3.5 and 4.5 and so on without an end" + " and 7.5" * 200
        ids = plain.examples([Product("Red Mug", sentence + rest)])[0]
        assert ids.ending == "shortened"
        text = tinyllama.decode(ids.input_ids[ids.num_prompt_tokens : -1])
        assert text == sentence


@pytest.mark.real
def test_encoding_leaves_no_trace_in_the_tokenizer(
    plain: Encoder, tmp_path: Path, tinyllama: PreTrainedTokenizerBase
):
    """What is exported beside an adapter must be what the base came with."""
    tokenizer = tinyllama
    before = tokenizer("a</s>b")["input_ids"]
    plain.examples([TUTU])
    assert tokenizer("a</s>b")["input_ids"] == before == [1, 263, 2, 29890]
    tokenizer.save_pretrained(tmp_path)
    saved = load_tokenizer(tmp_path)("a</s>b" * 2_000)["input_ids"]
    assert saved == [1, 263, *[2, 2291] * 1_999, 2, 29890]  # <s> ▁a </s> ba </s> ... b
