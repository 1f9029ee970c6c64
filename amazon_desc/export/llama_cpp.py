"""The tuned model as llama.cpp and Ollama load it: a folder with one file, a Modelfile and a card.

In comes a module, or a run's adapter for LoRA alone, out goes what fills
the folder. How a GGUF file is made is known in gguf/.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from amazon_desc.data.encoding.markers import TITLE_SHOWN
from amazon_desc.data.encoding.prompts import TITLE
from amazon_desc.export.card import Use, card_of
from amazon_desc.export.facts import Facts, metadata_of
from amazon_desc.export.folders import Contents
from amazon_desc.export.gguf.adapter import write_adapter_gguf
from amazon_desc.export.gguf.modelfile import differences, modelfile, prompt
from amazon_desc.export.gguf.tokenizer import vocabulary_of
from amazon_desc.export.gguf.writer import gguf_bytes, write_gguf
from amazon_desc.export.usage import prompt_section
from amazon_desc.export.weights import merged_weights, weights_of
from amazon_desc.model.suitability import read_config
from amazon_desc.support.files import write_text
from amazon_desc.support.layouts import ADAPTER_WEIGHTS
from amazon_desc.training.module import DescriptionModule

CARD, MODELFILE = "README.md", "Modelfile"


def file_name(name: str, kind: str, is_adapter: bool = False) -> str:
    """shop, q8_0 -> shop-q8_0.gguf; of LoRA alone shop-lora-q8_0.gguf"""
    return f"{name}-{'lora-' * is_adapter}{kind}.gguf"


def contents_of(
    module: DescriptionModule, facts: Facts, card: str, name: str, kind: str
) -> Contents:
    """Returns what the folder of a whole model will hold; the module's weights are loaded for it.

    Args:
        name: of the model
        kind: of the numbers: f32, f16, bf16, q8_0 or q4_0

    Raises:
        UserError: llama.cpp cannot run this model or tokenizer, or LoRA cannot be merged.
    """
    module.configure_model()
    encoder, tokenizer = module.data.encoder, module.base.folder
    config = module.network.get_base_model().config
    weights = weights_of(module.network)  # says what cannot be merged before anything is written
    metadata = metadata_of(facts, name, encoder.prompter.template)

    def write(folder: Path) -> None:
        file = folder / file_name(name, kind)
        write_gguf(
            merged_weights(weights), config, tokenizer, file, kind, metadata, encoder=encoder
        )
        text = modelfile(file.name, tokenizer, encoder, module.decoding)
        write_text(folder / MODELFILE, text)
        write_text(folder / CARD, card)

    return Contents(gguf_bytes(config, tokenizer, kind, metadata, encoder=encoder), write)


def adapter_contents_of(
    module: DescriptionModule, adapter: Path, facts: Facts, card: str, name: str, kind: str
) -> Contents:
    """Returns what the folder of LoRA alone will hold.

    Args:
        adapter: the run's
        kind: of the numbers: f32, f16, bf16 or q8_0

    Raises:
        UserError: it is more than LoRA, or llama.cpp cannot run its base.
    """
    config = read_config(module.base)
    metadata = metadata_of(facts, name, module.data.encoder.prompter.template)

    def write(folder: Path) -> None:
        file = folder / file_name(name, kind, is_adapter=True)
        write_adapter_gguf(adapter, config, file, kind, metadata)
        write_text(folder / CARD, card)

    return Contents((adapter / ADAPTER_WEIGHTS).stat().st_size, write)


def card_for(
    module: DescriptionModule, facts: Facts, name: str, kind: str, is_adapter: bool
) -> str:
    """Returns the README of the export."""
    identity, file = module.identity(module.data), file_name(name, kind, is_adapter)
    if is_adapter:
        what = f"LoRA for `{facts.base}`, tuned by amazon_desc, as GGUF ({kind})."
        command = completion(module, "BASE.gguf", f" \\\n    --lora {shlex.quote(file)}")
        uses = [Use("With llama.cpp", OF_ADAPTER, "bash", command)]
    else:
        what = f"The model that amazon_desc tuned, LoRA merged into its weights, as GGUF ({kind})."
        limits = "".join(f"\n- {line}" for line in differences(module.decoding))
        ollama = OLLAMA.format(name=shlex.quote(name), title=shlex.quote(TITLE_SHOWN))
        text = f"In this folder.{f' What differs from the run:{chr(10)}{limits}' if limits else ''}"
        uses = [
            Use("With Ollama", text, "bash", ollama),
            Use("With llama.cpp", LLAMA_CPP, "bash", completion(module, file)),
        ]
    return card_of("gguf", facts, what, prompt_section(identity), uses)


def completion(module: DescriptionModule, file: str, more: str = "") -> str:
    """Returns the command with which llama.cpp writes for a title."""
    encoder, decoding = module.data.encoder, module.decoding
    text = prompt(encoder, vocabulary_of(module.base.folder, encoder=encoder))
    options = f"--temp {decoding.temperature:g} -n {decoding.max_new_tokens}"
    if decoding.frequency_penalty or decoding.presence_penalty:
        options += (
            f" --frequency-penalty {decoding.frequency_penalty:g}"
            f" --presence-penalty {decoding.presence_penalty:g} --repeat-last-n -1"
        )
    shown = shlex.quote(text.replace(TITLE, TITLE_SHOWN))
    return f"llama-completion -m {shlex.quote(file)}{more} \\\n    -no-cnv {options} -p {shown}"


OLLAMA = """\
ollama create {name} -f Modelfile
ollama run {name} {title}"""

LLAMA_CPP = "The prompt is the run's own, here for one title. llama.cpp's penalties count it too."

OF_ADAPTER = (
    "BASE.gguf is the base as GGUF. LoRA was learnt beside the weights of a base in the form that "
    "is named below; beside others texts differ. A whole model, merged, is `--to gguf` without "
    "`--adapter-only`."
)
