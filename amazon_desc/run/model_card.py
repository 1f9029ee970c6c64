"""The README of an adapter folder: what the adapter is, and Python that writes with it.

In come what the adapter belongs to and the module that was trained, out goes Markdown with one
block of Python, which needs no more than torch, transformers, peft and bitsandbytes, and writes
what `predict` writes, or says where transformers cannot. Any text may be in it: a template's
quotes, braces and line ends stay text.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from amazon_desc.data.encoding.markers import TITLE_SHOWN
from amazon_desc.data.encoding.prompts import TITLE
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.model.identity import Identity
from amazon_desc.training.module import DescriptionModule

# A longer one is written line by line.
MAX_LITERAL = 90


def model_card(identity: Identity, module: DescriptionModule, folder: Path) -> str:
    """Returns the README of the adapter folder: what it is, and lines that write with it."""
    dtype = str(module.card_dtype).removeprefix("torch.")
    options = ["    folder,", f"    dtype=torch.{dtype},", '    device_map="auto",']
    quantization = ""
    if identity.quantization == "nf4":
        quantization = QUANTIZATION.format(dtype=dtype)
        options.append("    quantization_config=quantization,")
    if identity.revision:
        options.append(f"    revision={literal(identity.revision)},  # of the base")
    return CARD.format(
        base=identity.backbone,
        chat=" as the user's turn of the tokenizer's chat template" if identity.is_chat else "",
        prompt=fenced(identity.template),
        system=SYSTEM.format(text=fenced(identity.system)) if identity.system else "",
        quantization=quantization,
        options="\n".join(options),
        imports=imports(bool(quantization), module.decoding),
        folder=literal(str(folder)),
        title=literal(TITLE_SHOWN),
        writing=lines_that_write(module),
    )


def imports(is_quantized: bool, settings: DecodingSettings) -> str:
    """Returns what the lines need of transformers beside AutoTokenizer."""
    names = ["BitsAndBytesConfig"] * is_quantized
    names += ["RepetitionPenaltyLogitsProcessor"] * (settings.repetition_penalty != 1)
    return "".join(f", {name}" for name in names)


def lines_that_write(module: DescriptionModule) -> str:
    """Returns Python that makes the ids of a `title`'s prompt as training did, and writes on."""
    encoder, end_ids = module.data.encoder, module.end_ids()
    before, template, after = encoder.prompter(TITLE)
    if not encoder.prompter.is_chat:
        start = f"{encoder.start_ids} + " if encoder.start_ids else ""
        ids = PLAIN_IDS.format(start=start)
    elif not encoder.control_strings.search(template):
        ids = CHAT_IDS
    else:
        ids = CHAT_IDS_IN_PARTS.format(num_anchor=len(encoder.anchor_ids))
        template = encoder.control_strings.sub(lambda m: f"{m[0][:1]}\0{m[0][1:]}", template)
    prompt = before + template + after
    source = literal(prompt)
    if len(source) > MAX_LITERAL:
        lines = "".join(f"    {literal(line)}\n" for line in prompt.splitlines(keepends=True))
        source = f"(\n{lines})"
    return WRITING.format(
        comment="  # in the chat template" if encoder.prompter.is_chat else "",
        prompt=source,
        ids=ids,
        penalties=function_of_penalties(module.decoding),
        note=note_on(module.decoding),
        options="".join(f"    {line},\n" for line in options_of_generate(module.decoding)),
        end_ids=end_ids,
        pad_id=end_ids[0],
    )


def options_of_generate(settings: DecodingSettings) -> Iterator[str]:
    """Yields what transformers is asked for, as far as it can; the rest is in note_on."""
    yield f"max_new_tokens={settings.max_new_tokens}"
    if settings.min_new_tokens:
        yield f"min_new_tokens={settings.min_new_tokens}"
    yield f"do_sample={settings.is_sampled}"
    if settings.is_sampled:  # what is left open would be filled from the base's own file
        for name in ("temperature", "top_k", "top_p", "min_p"):
            yield f"{name}={getattr(settings, name)}"
    yield f"num_beams={settings.num_beams}"
    if settings.num_beams > 1:
        yield from ("early_stopping=False", "length_penalty=1.0")
    yield from ("repetition_penalty=1.0", "no_repeat_ngram_size=0")
    processors = []
    if settings.repetition_penalty != 1:
        penalty = float(settings.repetition_penalty)
        processors.append(f"RepetitionPenaltyLogitsProcessor({penalty}, ids.shape[1])")
    if function_of_penalties(settings):
        processors.append("penalised")
    if processors:
        yield f"logits_processor=[{', '.join(processors)}]"


def function_of_penalties(settings: DecodingSettings) -> str:
    """Returns Python for penalties that transformers does not have, or counts the prompt for."""
    lines = ""
    for penalty, times in (
        (settings.presence_penalty, ""),
        (settings.frequency_penalty, " * text.count(token)"),
    ):
        if penalty:
            lines += LOWERED.format(amount=f"{penalty}{times}")
    if settings.no_repeat_ngram_size:
        lines += NO_REPEATS.format(last=settings.no_repeat_ngram_size - 1)
    return PENALISED.format(lines=lines) if lines else ""


def note_on(settings: DecodingSettings) -> str:
    """Returns a comment on what `predict` does and transformers cannot."""
    notes = []
    if settings.is_sampled:
        notes.append("draws with numbers of its own, so with the same settings other texts")
    if settings.trim:
        notes.append("ends a text that reached its limit at its last whole sentence")
    return "".join(f"# predict {note}.\n" for note in notes)


def literal(text: str) -> str:
    """Returns a text as Python source: on one line, in which no Markdown fence can end."""
    source = repr(text).replace("```", "\\x60" * 3)
    return source if "'" in text or '"' in text else f'"{source[1:-1]}"'


def fenced(text: str) -> str:
    """Returns a text in a Markdown fence that is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags: [lora, product-descriptions]
---

# Product descriptions from titles

LoRA matrices for `{base}`, trained by amazon_desc. The prompt{chat}:

{prompt}
{system}
Load it with the base in the form that it was trained on; in another form the texts differ:

```python
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer{imports}
{quantization}
folder = {folder}  # or wherever it was moved to, or its id on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForCausalLM.from_pretrained(
{options}
)
# On a CPU, or bitsandbytes repacks the weights of some of them and loses precision:
for layer in model.modules():
    if hasattr(layer, "support_avx512bf16_for_cpu"):
        layer.support_avx512bf16_for_cpu = False

title = {title}
{writing}
```
"""

QUANTIZATION = """
quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.{dtype},
)
"""

SYSTEM = """
The system message:

{text}
"""

PLAIN_IDS = """\
# A title or template that looks like a control token is text, as in training:
ids = {start}tokenizer.encode(prompt, add_special_tokens=False, split_special_tokens=True)"""

CHAT_IDS = """\
ids = tokenizer.encode(prompt, add_special_tokens=False)"""

# As Encoder.chat_ids_in_parts does it.
CHAT_IDS_IN_PARTS = """\
ids = []
# What looks like a control token in the template is text, as in training, and so is cut in two:
for part in prompt.split("\\0"):
    new = tokenizer.encode("\\n" * bool(ids) + part, add_special_tokens=False)
    ids += new[{num_anchor} * bool(ids) :]"""

PENALISED = """\


def penalised(found, scores):  # by what the text has already: the prompt does not count
    for text, row in zip(found[:, ids.shape[1] :].tolist(), scores):
{lines}    return scores


"""

LOWERED = """\
        for token in set(text):
            row[token] -= {amount}
"""

NO_REPEATS = """\
        last = text[max(0, len(text) - {last}) :]
        for start in range(len(text) - {last}):
            if text[start : start + {last}] == last:
                row[text[start + {last}]] = -torch.inf
"""

WRITING = """\
prompt = {prompt}
prompt = prompt.replace("{{title}}", title){comment}
{ids}
ids = torch.tensor([ids], device=model.device)
{penalties}{note}written = model.generate(
    input_ids=ids,
    attention_mask=torch.ones_like(ids),
{options}    use_cache=True,
    eos_token_id={end_ids},
    pad_token_id={pad_id},
)
text = tokenizer.decode(
    written[0, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False
)
print(text.rstrip("\\ufffd").strip())"""
