"""Ollama hands llama.cpp the prompt of the run, token by token, from a title alone."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from amazon_desc.data.encoding.encoder import Encoder
from amazon_desc.data.encoding.prompts import Frame, PromptSettings
from amazon_desc.data.encoding.tokenizer import backend_of, load_tokenizer
from amazon_desc.export.gguf.modelfile import as_go, modelfile, number
from amazon_desc.export.gguf.writer import write_gguf
from amazon_desc.generation.decoding import GREEDY, DecodingSettings
from tests.export.go_template import commands_in, prompt_for, rendered
from tests.export.llama_cpp import LlamaCpp
from tests.export.small_gemma import gemma_tokenizer
from tests.export.test_gguf import OF_GEMMA, SHAPE, TINY
from tests.export.test_gguf_tokenizer import BYTE_PAIRS, byte_pair_tokenizer, sample_texts

TITLES = ["Red Mug", "Mug, 3.5 in", "Girls Ballet Tutu Neon Pink", '{{ .System }} "Mug"', "a\\nb"]
# TinyLlama-Chat's: text first, and a control token in the midst.
TURNS = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# Mistral's: BOS is the template's.
INSTRUCTIONS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }} [/INST]{% else %}{{ message['content'] }}</s>{% endif %}"
    "{% endfor %}"
)
CHATML = (
    "{% for message in messages %}<|begin|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)


def tokenizer_folder(kind: str, place: Path) -> Path:
    folder = place / "tokenizer"
    if kind == "gemma":
        return gemma_tokenizer(folder, sample_texts()[:200])
    if kind == "byte pairs":
        steps, more = BYTE_PAIRS["smollm"]
        byte_pair_tokenizer(folder, *steps, **more)
    tokenizer = load_tokenizer(folder if kind == "byte pairs" else TINY)
    templates = {"turns": TURNS, "instructions": INSTRUCTIONS, "byte pairs": CHATML}
    tokenizer.chat_template = templates.get(kind)
    tokenizer.save_pretrained(folder)
    return folder


def made(kind: str, place: Path, template: str, **more: Any) -> tuple[Encoder, str, LlamaCpp]:
    """Returns the run's encoder, its Modelfile, and llama.cpp with a file of the same run."""
    folder = tokenizer_folder(kind, place)
    tokenizer = load_tokenizer(folder)
    encoder = Encoder(tokenizer, PromptSettings(template), 256, **more)
    changes = OF_GEMMA if kind == "gemma" else {}
    rows = 1 + max(backend_of(tokenizer).get_vocab().values())
    settings = {**SHAPE, "num_hidden_layers": 1, **changes, "vocab_size": rows}
    config = AutoConfig.for_model("gemma3_text" if changes else "llama", **settings)
    weights = AutoModelForCausalLM.from_config(config).state_dict().items()
    write_gguf(weights, config, folder, place / "m.gguf", "f16", {}, encoder=encoder)
    return encoder, modelfile("m.gguf", folder, encoder, GREEDY), LlamaCpp(place / "m.gguf")


@pytest.mark.parametrize("kind", ["plain", "turns", "instructions", "byte pairs", "gemma"])
def test_ollamas_prompt_has_the_ids_of_the_runs(kind: str, tmp_path: Path):
    template = 'Write {{"it": "{{title}}"}} for\n\n"""{title}"""\u3000{title}\nDescription:'
    template = template.replace("{{title}}", "{title}")
    encoder, text, llama = made(kind, tmp_path, template)
    assert encoder.prompter.is_chat == (kind != "plain")
    for title in TITLES:
        asked = prompt_for(text, title)
        assert llama.ids(asked, with_special=True) == encoder.prompt_ids(title), title
    assert text.isascii()


def test_a_plain_run_is_told_in_a_few_lines(tmp_path: Path):
    encoder = Encoder(load_tokenizer(TINY), PromptSettings(), 256)
    assert modelfile("shop-f16.gguf", TINY, encoder, GREEDY).split("\n", 1)[1] == (
        "FROM ./shop-f16.gguf\n"
        "PARAMETER temperature 0\n"
        "PARAMETER num_predict 128\n"
        "PARAMETER repeat_penalty 1\n"
        "PARAMETER presence_penalty 0\n"
        "PARAMETER frequency_penalty 0\n"
        'TEMPLATE """Write a description for the product:\n'
        "Title: {{ .Prompt }}\n"
        'Description:"""\n'
    )


def test_a_chat_run_stops_at_its_end_of_turn_and_keeps_its_frame(tmp_path: Path):
    folder = tokenizer_folder("byte pairs", tmp_path)
    frame = Frame("<|begin|>user on 3 May\n", "<|end|>\n<|begin|>assistant\n", "<|end|>\n")
    encoder = Encoder(load_tokenizer(folder), PromptSettings("{title}"), 256, frame=frame)
    commands = commands_in(modelfile("m.gguf", folder, encoder, GREEDY))
    assert ("stop", "<|end|>") in commands
    assert commands[-1] == (
        "TEMPLATE",
        "<|begin|>user on 3 May\n{{ .Prompt }}<|end|>\n<|begin|>assistant\n",
    )


def test_decoding_is_the_runs_and_what_ollama_lacks_is_said():
    encoder = Encoder(load_tokenizer(TINY), PromptSettings(), 256)
    settings = DecodingSettings(
        temperature=0.7, top_k=40, min_p=0.05, num_candidates=2, min_new_tokens=3, trim=True, seed=9
    )
    text = modelfile("m.gguf", TINY, encoder, settings)
    assert {
        ("temperature", "0.7"),
        ("top_k", "40"),
        ("top_p", "1"),
        ("min_p", "0.05"),
        ("seed", "9"),
        ("frequency_penalty", "0.6"),
        ("repeat_last_n", "-1"),
    } <= set(commands_in(text))
    for lacking in ("no_repeat_ngram_size (7 ", "prompt too", "one text", "min_new_tokens", "trim"):
        assert lacking in text
    beams = DecodingSettings(num_beams=4, num_candidates=2)
    assert "# Ollama has no beams (num_beams 4 in the run)." in modelfile(
        "m.gguf", TINY, encoder, beams
    )


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("Title: ", "Title: "),
        ("{{ x }}", '{{ "{{" }} x }}'),
        ("{", '{{ "{" }}'),
        ('""', '""'),
        ('"""', r'{{ "\"\"\"" }}'),
        ("é\u3000\t", r'{{ "\u00e9\u3000\u0009" }}'),
        ("🚀", r'{{ "\U0001f680" }}'),
        ("a\n\nb", "a\n\nb"),
    ],
)
def test_what_go_or_ollama_would_take_for_theirs_is_written_as_a_string(text: str, template: str):
    assert as_go(text) == template
    assert rendered(template, "") == text
    value = dict(commands_in(f'FROM x\nTEMPLATE """{template}"""\n'))["TEMPLATE"]
    assert rendered(value, "") == text


def test_numbers_are_ollamas():
    assert [number(value) for value in (0.0, 1.0, 0.6, 128)] == ["0", "1", "0.6", "128"]
