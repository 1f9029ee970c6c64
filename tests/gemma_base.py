"""A small random Gemma 3 in its published form: text and vision in one folder, with chat tokens.

In: an empty or missing folder. Out: that folder, with the files of google/gemma-3-4b-it in their
old or new layout, or those of a Gemma that is text alone, as 270M and 1B are. As there, the
embedding has more rows than the tokenizer has tokens. Nothing here is of use but to be loaded.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    PreTrainedTokenizerFast,
)

from amazon_desc.support.resources import TINY_BASE

Layout = Literal["old", "new"]

CONTROL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
PAD, EOS, BOS, UNK, START_OF_TURN, END_OF_TURN = range(len(CONTROL))
IMAGE_TOKENS = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
SPARE_ROWS = 7  # of the embedding, beyond the tokenizer's

# What the published template writes of a conversation of texts, in fewer words.
TEMPLATE = (
    "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set first = '' %}{% endif %}"
    "{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ first if loop.first else '' }}{{ message.content | trim }}<end_of_turn>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 32,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "eos_token_id": EOS,
    "bos_token_id": BOS,
}
# As SigLIP's, its layers are called as those of the text part are: q_proj, k_proj, v_proj.
VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_use_head": False,
}


def gemma_tokenizer(template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    """Returns a tokenizer as Gemma's, with the pieces of the tiny base."""
    found = json.loads((TINY_BASE / "tokenizer.json").read_text("utf-8"))["model"]
    control = {"<unk>": UNK, "<s>": BOS, "</s>": EOS}
    names = [*CONTROL, *IMAGE_TOKENS, *(p for p in found["vocab"] if p not in control)]
    pieces = {name: number for number, name in enumerate(names)}
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in found["merges"]]
    bpe = models.BPE(pieces, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (*CONTROL, *IMAGE_TOKENS)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
    )
    fast.chat_template = template
    return fast


def full_gemma(folder: Path, layout: Layout = "old", template: str = TEMPLATE) -> Path:
    """Writes a Gemma3ForConditionalGeneration of random weights, in float32."""
    tokenizer = gemma_tokenizer(template)
    vision = len(CONTROL)
    config = Gemma3Config(
        text_config={**TEXT, "vocab_size": len(tokenizer) + SPARE_ROWS},
        vision_config=VISION,
        mm_tokens_per_image=4,
        boi_token_index=vision,
        eoi_token_index=vision + 1,
        image_token_index=vision + 2,
        eos_token_id=[EOS, END_OF_TURN],
    )
    model = random_model(Gemma3ForConditionalGeneration, config)
    model.save_pretrained(folder, save_original_format=layout == "old")
    return with_tokenizer(folder, tokenizer)


def text_gemma(folder: Path, template: str = TEMPLATE) -> Path:
    """Writes a Gemma3ForCausalLM of random weights, in float32."""
    tokenizer = gemma_tokenizer(template)
    config = Gemma3TextConfig(**TEXT, vocab_size=len(tokenizer) + SPARE_ROWS)
    random_model(Gemma3ForCausalLM, config).save_pretrained(folder)
    return with_tokenizer(folder, tokenizer)


def random_model(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = kind(config).float()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name:  # or attention would hardly matter
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model


def with_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Adds tokenizer, and how the published model would write by itself: it would sample."""
    tokenizer.save_pretrained(folder)
    settings = {
        "bos_token_id": BOS,
        "eos_token_id": [EOS, END_OF_TURN],
        "pad_token_id": PAD,
        "cache_implementation": "hybrid",
        "do_sample": True,
        "top_k": 64,
        "top_p": 0.95,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder
