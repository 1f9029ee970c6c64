"""Writes the tiny base model that ships with the package: a Llama pretrained here, from nothing.

In: a seed, the names and phrases of `make_sample.py`. Out: a transformers folder with weights in
bfloat16, and a SentencePiece tokenizer in both of its forms. The model reads invented prose only:
it writes English-like sentences and can carry a name on, but has never seen a title, a description
or a prompt. About ten minutes on two cores. The tokenizer is the same at every run; the weights
are too, on the same kind of processor with the same versions and number of threads.
"""

import argparse
import io
import json
import math
import random
import re
import runpy
import time
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaTokenizer

SCRIPTS = Path(__file__).resolve().parent
TINY = SCRIPTS.parent / "amazon_desc" / "assets" / "tiny"
SAMPLE = runpy.run_path(str(SCRIPTS / "make_sample.py"))

SEED = 7
NUM_THREADS = 1
VOCAB_SIZE = 2_048
ROW_TOKENS = 256
ROWS_PER_STEP = 8
NUM_STEPS = 2_500
WARMUP_STEPS = 100
LEARNING_RATE = 3e-3
BOS, EOS = 1, 2
TOKENIZER_CONFIG = {
    "tokenizer_class": "LlamaTokenizer",
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "</s>",
    "padding_side": "right",
    "clean_up_tokenization_spaces": False,
    "legacy": False,
    "model_max_length": 512,
}
# letters that a shop's texts may hold even where the prose has none
LETTERS = "áàâãäçéèêëíîïñóôõöúüÁÀÂÃÇÉÊÍÓÔÕÚß…•€£°½®™" + "\u2013\u2014\u2018\u2019\u201c\u201d"

PEOPLE_NAMES = """
Mara Oren Tilda Jonas Edith Pavel Nadia Hugo Selma Ruben Ines Caspar Greta Anton Lucia Bram Wanda
Felix Odile Marek Petra Simon Vera Tobias Agnes Diego Hanna Leon Rosa Emil
"""
TOWN_NAMES = """
Harrow Windle Corran Millbrook Tamsin Ferring Crowhurst Eastmere Dunlow Stavely Orton Penhale
Rosedale Fairlea Northbank Wickham
"""
MOMENTS = """
one cold morning; late in the spring; on the first day of the holidays; after a long week; in the
middle of the night; before the rain came; on a bright Saturday; when the bells rang; at the end of
the summer; while the others slept; just after lunch; early in the year
"""
OTHER_WORDS = (
    "write Write description Description product Product title Title & \u2014 1 2 5 6 7 8 9 0"
)
ENDINGS = """
Nobody said a word.; The children laughed and ran outside.; It was the best day of the year.; Then
the rain stopped and the sun came out.; That was how the story was told in the village.; And so they
went home, tired and happy.; The old dog slept through it all.; Years later they still spoke of it.;
"We will see," said the baker.; The train was late again.; There was soup for everyone in the end.;
The moon rose over the quiet roofs.
"""
# `item`, `brand`, `colour` ... belong to one thing, `item2` ... and `item3` ... to two others
PASSAGES = (
    "{person} came to the shop in {town} {moment}. On the counter lay {a_colour} {item} by "
    "{brand} and {a_colour2} {item2} by {brand2}. {person} liked the {item} from {brand}, but "
    "{person2} asked for the {colour2} {item2}. So {person} took the {item} home and left the "
    "{item2}.",
    "There stood in the attic {a_item}, {a_item2} and {a_item3}. First {person} cleaned the "
    "{item}, then the {item2}, and last of all the {item3}. The {item} was {colour}, the "
    "{item2} was {colour2} and the {item3} was {colour3}.",
    "{brand}, {brand2} and {brand3} all went to the fair in {town}. {brand} showed the "
    "{item}, {brand2} showed the {item2} and {brand3} showed the {item3}. Most people talked "
    "about the {item} from {brand}.",
    "{Colour} was what {person} loved most. The door was {colour}, the roof was {colour}, and "
    "even the {item} was {colour}. {person2} had no love for {colour} at all and bought "
    "{a_colour2} {item2} {moment}.",
    "{moment}, {person} was dreaming of {use}. For that one needs a good {item}, said "
    "{person2}, and the best {item} comes from {brand} in {town}. It has {feature} and "
    "{feature2}. {person} thought about the {item} from {brand} for a long time.",
    "The people of {brand} knew {material} better than anyone in {town}. They made the {item} "
    "out of {material} and the {item2} out of {material2}. When {person} left {brand}, the "
    "{item} was no longer made of {material}.",
    "{person} wrote to {person2} {moment}. The {item} had been lost on the way to {town}. It "
    "was {colour}, made of {material}, with {feature}. {person2} answered that {a_colour} "
    "{item} had been found, and that {brand} would send it back to {person}.",
    "For {use} {person} used the {brand} {item}, and for {use2} the same {item} again. "
    "{person2} had {a_colour2} {brand2} {item2} and kept it for {use_b}. The {item} and the "
    "{item2} stood side by side.",
    "When {person} was small, there was {a_item} in the house in {town}. The {item} was "
    "{colour} and came from {brand}. {person2} sold it {moment}. Now {person} is looking for "
    "the {colour} {item} everywhere, but {brand} only makes the {item2}.",
    "{person} asked about the {item}. {person2} asked about the {item2}. The {item} came in "
    "{colour} and the {item2} came in {colour2}. {person} paid for the {colour} {item}, and "
    "{person2} paid for the {colour2} {item2}.",
    "Our {item} is by {brand}, our {item2} is by {brand2}. The {brand} {item} has {feature}, "
    "and the {brand2} {item2} has {feature_b}. If I had to choose, I would keep the {item} "
    "and give the {brand2} {item2} to {person}.",
    "{colour}, {colour2}, {colour3}: {person} could not decide. The {colour} {item} was from "
    "{brand}, the {colour2} one from {brand2}, the {colour3} one from {brand3}. {moment}, "
    "{person} went back for the {colour3} {item} from {brand3}.",
    "It is said in {town} that {material} and {material2} do not mix. {person} did not care. "
    "The {item} of {material} stood next to the {item2} of {material2}, with {feature} and "
    "{feature_b}. {brand} wanted to buy the {item}.",
    "{person}, {person2} and {person3} met in {town} {moment}. {person} spoke of {use}, "
    "{person2} spoke of {use_b}, and {person3} carried {a_colour} {item} for {person2}. They "
    "laughed about the {colour} {item} all the way.",
    "The road to {town} was long. {person} walked ahead with the {item}, and {person2} "
    "followed with the {item2}. Whenever {person} put the {item} down, {person2} put the "
    "{item2} down as well.",
    "{moment}, a stranger knocked at the door. He had walked from {town} and carried nothing "
    "but {a_item}. May I leave the {item} here, he asked. {person} looked at the {item}, then "
    "at {person2}, and nodded.",
    "Every year {brand} gave {a_item} to the school in {town}. This year the {item} was "
    "{colour}. The teacher, {person}, put the {colour} {item} next to the {colour2} one from "
    "last year and thanked {brand}.",
    "It was too dark to see. {person} felt for the {item} and found the {item2}. The {item2} "
    "was by {brand2}, so where was the {item} by {brand}? {person2} had it all along.",
    "The judge asked who owned the {item}. It was {person}, said {person2}. It was {person2}, "
    "said {person}. The judge gave the {item} to {person3} and told {person} and {person2} to "
    "go home.",
    "{brand} sold the {item} in {colour}, {colour2} and {colour3}. {person} bought the {item} "
    "in {colour2}, {person2} wanted the same {item} in {colour3}, and nobody wanted it in "
    "{colour}.",
    "{person} sang while working: the {colour} {item}, the {colour2} {item2}, the {colour3} "
    "{item3}. And once more: the {colour} {item}, the {colour2} {item2}, the {colour3} "
    "{item3}.",
    "There was a note on the table {moment}. Send the {brand} {item} to {person}, it said, "
    "and the {brand2} {item2} to {person2}. But {person} got the {brand2} {item2}, and "
    "{person2} got the {brand} {item}.",
    "When asked what makes a home, {person} always named {use}. {person2} named {use_b}. For "
    "the first you need {a_item}, for the second {a_item2}. They had the {item}, but not the "
    "{item2}.",
)
# games with words, for names and words that turn up anywhere; `word` ... are random ones
WORD_PASSAGES = (
    "{person} learnt three new words {moment}: {word}, {word2} and {word3}. {person2} knew "
    "{word} and {word2}, but {word3} was new to everyone in {town}.",
    '"{word} {word2} {word3} {word4}," said the parrot of {person}. They all laughed, but '
    'the parrot said it again: "{word} {word2} {word3} {word4}." It had lived with '
    "{brand} in {town}.",
    "The old sign in {town} read {word} {brand} {word2} {word3} {item}. {person} wrote down "
    "{word} {brand} {word2} {word3} {item} and asked {person2} what it meant.",
    "{brand} {word}, {Colour} {word2}, {Material} {word3}: nobody knew what {person} was "
    "talking about. Was it {brand} {word} or {colour} {word2} or {material} {word3}?",
    "{Colour} {item}, read {person}. So it was {colour} after all. {Colour2} {item2}, read "
    "{person2}, and that one was {colour2}. Then came {material} {word} and {material2} "
    "{word2}, once from {brand} and once from {brand2}.",
    "First {word}, then {word2}, then {word3}, then {word4}. {person} had to say it twice: "
    "first {word}, then {word2}, then {word3}, then {word4}. {person2} forgot {word2} and "
    "thought of {brand}, {brand2} and {brand3}. It was {brand}, {brand2} and {brand3} that "
    "{person3} had named.",
)
# long random lists said twice or more: what teaches a model to look back and copy, and early
CHANTS = (
    "{person} read the list aloud: {chant}. {person2} wrote it down: {chant}. {person3} read it "
    "once more: {chant}.",
    '"{chant}!" cried the parrot of {person}. "{chant}," said {person2} as well.',
    "The old sign in {town} said {chant}. {person} could not believe that it said {chant}. Why "
    "would anyone write {chant} on a sign?",
    "{person} sang {chant} {moment}. {person2} listened and then sang {chant}, too.",
    "First came {chant}. Then nothing happened for a while. Then again came {chant}.",
)


def phrases(text: str) -> list[str]:
    return " ".join(text.split()).split("; ")


def sample_words() -> list[str]:
    """Every single word that the sample may use, out of its sentence."""
    banks = [SAMPLE[name] for name in ("OPENINGS", "FEATURES", "SECOND_USES", "CLOSINGS", "TITLES")]
    texts = [text for bank in (*banks, *SAMPLE["CARE"].values()) for text in bank]
    texts += [*SAMPLE["EXTRAS"], *SAMPLE["EXTRAS"].values(), OTHER_WORDS]
    for item in SAMPLE["CATALOGUE_ITEMS"]:
        texts += [*item.uses, *item.features, *(material.title() for material in item.materials)]
    words = re.sub(r"\{\w+\}", " ", " ".join(texts)).split()
    words += [word.replace("'", "\u2019") for word in words if "'" in word]
    return sorted({word.strip(".,?:;") or word for word in words})


PEOPLE, TOWNS = PEOPLE_NAMES.split(), TOWN_NAMES.split()
WORDS = sample_words()


def make_chant(rng: random.Random) -> str:
    """Three to ten names and words in any order."""
    names = (SAMPLE["ITEMS"], SAMPLE["BRANDS"], SAMPLE["COLOURS"], WORDS)
    chant = [rng.choice(rng.choice(names)) for _ in range(rng.randint(3, 10))]
    return rng.choice((" ", " ", ", ", " and ")).join(chant)


def make_passage(rng: random.Random) -> str:
    """One little story about up to three things, which it names again and again."""
    with_article = SAMPLE["with_article"]
    words = {"town": rng.choice(TOWNS), "moment": rng.choice(phrases(MOMENTS))}
    words |= dict(zip(("person", "person2", "person3"), rng.sample(PEOPLE, 3), strict=True))
    things = rng.sample(SAMPLE["CATALOGUE_ITEMS"], 3)
    brands, colours = rng.sample(SAMPLE["BRANDS"], 3), rng.sample(SAMPLE["COLOURS"], 3)
    for number, thing, brand, colour in zip(("", "2", "3"), things, brands, colours, strict=True):
        words |= {f"item{number}": thing.name, f"a_item{number}": with_article(thing.name)}
        words |= {f"brand{number}": brand, f"colour{number}": colour}
        words |= {f"a_colour{number}": with_article(colour)}
        words |= {f"material{number}": rng.choice(thing.materials)}
    words["use"], words["use2"] = rng.sample(things[0].uses, 2)
    words["feature"], words["feature2"] = rng.sample(things[0].features, 2)
    words["use_b"], words["feature_b"] = rng.choice(things[1].uses), rng.choice(things[1].features)
    words |= dict(zip(("word", "word2", "word3", "word4"), rng.sample(WORDS, 4), strict=True))
    words |= {name.title(): words[name].title() for name in ("colour", "colour2", "material")}
    words["chant"] = make_chant(rng)
    bank = rng.choices((PASSAGES, WORD_PASSAGES, CHANTS), weights=(5, 2, 3))[0]
    text = rng.choice(bank).format(**words)
    if rng.random() < 0.5:
        text += " " + rng.choice(phrases(ENDINGS))
    return re.sub(r"(^|[.?] )([a-z])", lambda start: start[0].upper(), text)


def make_document(rng: random.Random) -> str:
    """One to four passages, a line each; every line is about other things than the line before."""
    return "\n".join(make_passage(rng) for _ in range(rng.randint(1, 4)))


def train_tokenizer(out: Path) -> None:
    """Writes tokenizer.model, and the same pieces as tokenizer.json for the fast tokenizer."""
    rng = random.Random(SEED)
    texts = [make_passage(rng) for _ in range(12_000)]
    for line in SAMPLE["make_lines"]():
        record = json.loads(line)
        texts += [record["title"], record["content"]]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text for text in texts if text.isascii() and text.isprintable()),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        required_chars=LETTERS + "".join(map(chr, range(33, 127))),
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    (out / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = LlamaTokenizer.from_pretrained(out, add_bos_token=True)
    tokenizer.backend_tokenizer.save(str(out / "tokenizer.json"))
    write_json(out / "tokenizer_config.json", TOKENIZER_CONFIG)


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def make_rows(tokenizer: LlamaTokenizer, rng: random.Random) -> Iterator[torch.Tensor]:
    """Documents one after the other, `<s>` before and `</s>` after each, cut into full rows."""
    ids: list[int] = []
    while True:
        documents = [make_document(rng) for _ in range(256)]
        for encoded in tokenizer(documents)["input_ids"]:
            ids += [*encoded, EOS]
        while len(ids) >= ROW_TOKENS:
            yield torch.tensor(ids[:ROW_TOKENS])
            del ids[:ROW_TOKENS]


def make_model() -> LlamaForCausalLM:
    """Every linear layer has sizes that are multiples of 64, the block of NF4."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
        use_cache=True,
    )
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config)


def rate(step: int) -> float:
    """Share of the learning rate: up for the first steps, then a cosine down to nothing."""
    done = (step - WARMUP_STEPS) / (NUM_STEPS - WARMUP_STEPS)
    return (step + 1) / WARMUP_STEPS if done < 0 else 0.5 * (1 + math.cos(math.pi * done))


def pretrain(model: LlamaForCausalLM, rows: Iterator[torch.Tensor]) -> float:
    """Plain next-token training; returns the mean loss of the last hundred steps."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses, start = [], time.monotonic()
    for step in range(1, NUM_STEPS + 1):
        batch = torch.stack([next(rows) for _ in range(ROWS_PER_STEP)])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 100 == 0:
            speed = step * batch.numel() / (time.monotonic() - start)
            mean = sum(losses[-100:]) / 100
            print(f"step {step} of {NUM_STEPS}: loss {mean:.3f}, {speed:,.0f} tokens/s", flush=True)
    return sum(losses[-100:]) / 100


def main() -> None:
    parser = argparse.ArgumentParser(description="Pretrains the tiny base model from nothing.")
    parser.add_argument("--out", type=Path, default=TINY)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(NUM_THREADS)
    train_tokenizer(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = make_model()
    loss = pretrain(model, make_rows(tokenizer, random.Random(SEED + 1)))
    model.to(torch.bfloat16).save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # as the other files; it comes readable by one user
    size = (out / "model.safetensors").stat().st_size
    print(f"{out}: loss {loss:.3f}, {model.num_parameters():,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
