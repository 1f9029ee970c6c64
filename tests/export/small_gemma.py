"""A Gemma's kind of tokenizer, small: SentencePiece BPE with bytes, turns, and runs of spaces."""

import io
import json
from pathlib import Path

import sentencepiece

TURNS = ["<start_of_turn>", "<end_of_turn>"]
USER_DEFINED = ["\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<strong>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def gemma_tokenizer(folder: Path, texts: list[str]) -> Path:
    """Trains one of 700 pieces and saves it as Gemma is published: pad 0, eos 1, bos 2, unk 3."""
    folder.mkdir()
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        user_defined_symbols=[*TURNS, *USER_DEFINED],
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    special = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad")}
    config = {
        **special,
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": True,
        "extra_special_tokens": {"sot_token": TURNS[0], "eot_token": TURNS[1]},
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
