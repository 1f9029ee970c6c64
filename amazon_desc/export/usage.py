"""Python that writes with an export: for a notebook cell, as it is, without this package.

In come what the weights belong to and the module that writes with them, out go lines for
transformers, PEFT and vLLM that write what `predict` writes, or say where those cannot. Any text
may be in them: a template's quotes, braces and line ends stay text.
"""

import re

from amazon_desc.data.encoding.markers import TITLE_SHOWN
from amazon_desc.data.encoding.prompts import TITLE
from amazon_desc.export.decoding_options import (
    function_of_penalties,
    note_on,
    notes_on_vllm,
    options_of_generate,
    options_of_vllm,
)
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.model.identity import Identity
from amazon_desc.training.module import DescriptionModule

# A longer one is written line by line.
MAX_LITERAL = 90


def adapter_lines(
    identity: Identity, module: DescriptionModule, folder: str, base: str | None = None
) -> str:
    """Returns lines for PEFT, which load the base in the form that the adapter was trained on.

    Args:
        folder: of the adapter
        base: its folder, where others cannot find it by the name that the adapter has for it
    """
    dtype = dtype_name(module)
    options = [f"    dtype=torch.{dtype},", '    device_map="auto",']
    quantization = ""
    if identity.quantization == "nf4":
        quantization = QUANTIZATION.format(dtype=dtype)
        options.append("    quantization_config=quantization,")
    if identity.revision and base is None:
        options.append(f"    revision={literal(identity.revision)},  # of the base")
    loaded = "\n".join(options)
    loading = OF_THE_HUB.format(options=loaded)
    if base is not None:
        loading = OF_A_FOLDER.format(base=literal(base), options=loaded)
    return ADAPTER.format(
        peft="AutoPeftModelForCausalLM" if base is None else "PeftModel",
        auto="" if base is None else "AutoModelForCausalLM, ",
        quantization=quantization,
        loading=loading,
        imports=imports(bool(quantization), module.decoding),
        folder=literal(folder),
        writing=writing_lines(module),
    )


def merged_lines(module: DescriptionModule, folder: str, dtype: str) -> str:
    """Returns lines for transformers alone, of a folder with merged weights of that precision."""
    return MERGED.format(
        imports=imports(False, module.decoding),
        folder=literal(folder),
        dtype=dtype,
        writing=writing_lines(module),
    )


def vllm_lines(module: DescriptionModule, folder: str, dtype: str) -> str:
    """Returns lines for vLLM, of the same folder."""
    settings = module.decoding
    return VLLM.format(
        folder=literal(folder),
        dtype=literal(dtype),
        ids=prompt_lines(module),
        notes="".join(f"# {note}\n" for note in notes_on_vllm(settings)),
        options="".join(f"    {line},\n" for line in options_of_vllm(settings)),
        end_ids=module.end_ids(),
    )


def dtype_name(module: DescriptionModule) -> str:
    return str(module.card_dtype).removeprefix("torch.")


def imports(is_quantized: bool, settings: DecodingSettings) -> str:
    """Returns what the lines need of transformers beside AutoTokenizer."""
    names = ["BitsAndBytesConfig"] * is_quantized
    names += ["RepetitionPenaltyLogitsProcessor"] * (settings.repetition_penalty != 1)
    return "".join(f", {name}" for name in names)


def writing_lines(module: DescriptionModule) -> str:
    """Returns Python that writes on for a title, when `model` and `tokenizer` are there."""
    end_ids = module.end_ids()
    return WRITING.format(
        prompt=prompt_lines(module),
        penalties=function_of_penalties(module.decoding),
        note=note_on(module.decoding),
        options="".join(f"    {line},\n" for line in options_of_generate(module.decoding)),
        end_ids=end_ids,
        pad_id=end_ids[0],
    )


def prompt_lines(module: DescriptionModule) -> str:
    """Returns Python that makes the ids of a `title`'s prompt as training did."""
    encoder = module.data.encoder
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
    return PROMPT.format(
        title=literal(TITLE_SHOWN),
        comment="  # in the chat template" if encoder.prompter.is_chat else "",
        prompt=source,
        ids=ids,
    )


def literal(text: str) -> str:
    """Returns a text as Python source: on one line, in which no Markdown fence can end."""
    source = repr(text).replace("```", "\\x60" * 3)
    return source if "'" in text or '"' in text else f'"{source[1:-1]}"'


def prompt_section(identity: Identity) -> str:
    """Returns Markdown that says what the weights are asked with."""
    chat = " as the user's turn of the tokenizer's chat template" if identity.is_chat else ""
    section = f"The prompt{chat}:\n\n{fenced(identity.template)}\n"
    if identity.system:
        section += f"\nThe system message:\n\n{fenced(identity.system)}\n"
    return section


def fenced(text: str, language: str = "text") -> str:
    """Returns a text in a Markdown fence that is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


ADAPTER = """\
import torch
from peft import {peft}
from transformers import {auto}AutoTokenizer{imports}
{quantization}
folder = {folder}  # or wherever it was moved to, or its id on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
{loading}
# On a CPU, or bitsandbytes repacks the weights of some of them and loses precision:
for layer in model.modules():
    if hasattr(layer, "support_avx512bf16_for_cpu"):
        layer.support_avx512bf16_for_cpu = False

{writing}"""

OF_THE_HUB = """\
model = AutoPeftModelForCausalLM.from_pretrained(
    folder,
{options}
)"""

OF_A_FOLDER = """\
base = {base}  # wherever the folder of the base is
model = AutoModelForCausalLM.from_pretrained(
    base,
{options}
)
model = PeftModel.from_pretrained(model, folder)"""

MERGED = """\
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer{imports}

folder = {folder}  # or wherever it was moved to, or its id on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.{dtype}, device_map="auto")

{writing}"""

VLLM = """\
from transformers import AutoTokenizer
from vllm import LLM, SamplingParams

folder = {folder}  # or wherever it was moved to, or its id on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = LLM(model=folder, dtype={dtype})

{ids}
{notes}settings = SamplingParams(
{options}    stop_token_ids={end_ids},
)
(written,) = model.generate([{{"prompt_token_ids": ids}}], settings)
print(written.outputs[0].text.rstrip("\\ufffd").strip())"""

QUANTIZATION = """
quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.{dtype},
)
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

PROMPT = """\
title = {title}
prompt = {prompt}
prompt = prompt.replace("{{title}}", title){comment}
{ids}"""

WRITING = """\
{prompt}
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
