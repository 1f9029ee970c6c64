"""Cleaning: one plain line of what a customer reads, or a name for why there is none."""

import inspect
import pickle
import random
import re
import sys
import time
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import orjson
import pytest

from amazon_desc.data.cleaning.cleaner import Cleaner, CleaningSettings, Refusal, normalize_title
from amazon_desc.data.cleaning.rules import RULES
from amazon_desc.data.reading.records import Product, read_products
from amazon_desc.support.errors import UserError

clean = Cleaner()


def test_the_defaults_are_what_the_readme_says():
    assert CleaningSettings() == CleaningSettings(
        entities=True,
        tags=True,
        invisible=True,
        compose=True,
        white_space=True,
        edition_notes=True,
        glued_words=True,
        min_words=3,
        max_characters=50_000,
        language=None,
    )


def test_every_setting_is_explained():
    arguments = (inspect.getdoc(CleaningSettings) or "").split("Args:")[1]
    explained = [line.split(":")[0].strip() for line in arguments.splitlines() if ": " in line]
    assert set(explained) >= {field.name for field in fields(CleaningSettings)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_words": -1}, "--data.cleaning.min_words: wanted 0 or more, got -1. Set 0 "),
        ({"max_characters": 0}, "--data.cleaning.max_characters: wanted 1 or more, got 0. Set "),
    ],
)
def test_a_wrong_setting_is_refused_with_the_way_out(settings: dict, message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        CleaningSettings(**settings)


DIRTY = {
    "entities": ("A Caf&eacute; mug", "A Café mug"),
    "tags": ("A <b>red</b><br>mug", "A red mug"),
    "invisible": ("A Blue\xadtooth\u200b mug", "A Bluetooth mug"),
    "compose": ("A Cafe\u0301 mug", "A Caf\u00e9 mug"),
    "white_space": (" A\n red \tmug", "A red mug"),
    "edition_notes": ("A mug.--This text refers to thePaperbackedition.", "A mug."),
    "glued_words": ("A mug.The second", "A mug. The second"),
}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_can_be_switched_off_alone(name: str):
    dirty, expected = DIRTY[name]
    assert Cleaner().text(dirty) == expected
    without = Cleaner(replace(CleaningSettings(), **{name: False}))
    assert without.text(dirty) == dirty
    assert [without.text(DIRTY[other][0]) for other in RULES if other != name] == [
        DIRTY[other][1] for other in RULES if other != name
    ]


def test_with_every_rule_off_a_text_stays_as_it_is():
    nothing = Cleaner(CleaningSettings(**dict.fromkeys(RULES, False), min_words=0))
    for dirty, _ in DIRTY.values():
        assert nothing.text(dirty) == dirty
        assert nothing(Product("Mug", dirty)) == Product("Mug", dirty)
    assert nothing(Product(" \n", "A mug.")) == "empty_title"


def test_a_cleaner_works_the_same_in_another_process():
    settings = CleaningSettings(tags=False, min_words=2)
    received = pickle.loads(pickle.dumps(Cleaner(settings)))
    assert received.settings == settings
    assert received(Product("Mug", "<b>Red&nbsp;mug</b>")) == Product("Mug", "<b>Red mug</b>")
    assert received(Product("Mug", "CD")) == "too_short"


def test_a_cleaned_product_keeps_its_place():
    cleaned = clean(Product("Mug", "A  red mug.", "trn.json, line 8"))
    assert isinstance(cleaned, Product)
    assert (cleaned.description, cleaned.place) == ("A red mug.", "trn.json, line 8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It\x92s so\x85", "It\u2019s so\u2026"),
        ("<\u200bb>Soft</b>", "Soft"),
        ("<p>Ever<b>Cool</b><sup>TM</sup></p><p>Tee</p>", "EverCoolTM Tee"),
        ("A joy.--This text refers to the<i>School &amp; Library Binding</i>edition.", "A joy."),
        ("&#0;a&#xAD;b&#8203;c&#xD800;", "abc"),
        ("A joy.<p>The second", "A joy. The second"),
        ("A joy.<b>The</b> second", "A joy. The second"),
        ("Fish &am<b></b>p; Chips", "Fish & Chips"),
        ("Fish &\u200bamp; Chips", "Fish & Chips"),
        ("<<b>b>Soft</<b>b> rug", "Soft rug"),
    ],
)
def test_rules_work_into_each_other(text: str, expected: str):
    assert clean.text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Covers the &lt;script&gt; element, forms and CSS. A must.",
            "Covers the <script> element, forms and CSS. A must.",
        ),
        ("The &lt;style&gt; tag and &lt;!-- explained", "The <style> tag and <!-- explained"),
        ("Use &#60;b&#62;, not &amp;lt;i&amp;gt;", "Use <b>, not <i>"),
        ("&lt;b&gt; and <i>more</i> &lt;/b&gt;", "<b> and more </b>"),
        ("For &lt;head-mounted&gt; lamps", "For <head-mounted> lamps"),
    ],
)
def test_what_was_an_entity_is_text(text: str, expected: str):
    assert clean.text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("&lt;p&gt;Soft&lt;/p&gt; and warm", "Soft and warm"),
        ("&lt;p class=&quot;a&quot;&gt;Soft &amp;amp; &amp;lt;b&amp;gt;&lt;/p&gt;", "Soft & <b>"),
        ("&amp;lt;UL&amp;gt;&amp;lt;li&amp;gt;Soft&amp;lt;/ul&amp;gt;", "Soft"),
        ("&lt;!DOCTYPE html&gt;&lt;body&gt;Soft", "Soft"),
    ],
)
def test_a_page_that_was_escaped_as_a_whole_becomes_its_text(text: str, expected: str):
    assert clean.text(text) == expected


def test_a_whole_page_becomes_its_text():
    page = (
        '<!DOCTYPE html><html><head><title>Shop</title><meta charset="utf-8"></head>\n<body>'
        '<div class="aplus"> <h4>Gift Cards</h4> <div style="width: 300px;">'
        '<img alt="x" height="200"/>For any occasion.</div></div></body></html>'
    )
    assert clean.text(page) == "Gift Cards For any occasion."


@pytest.mark.parametrize(
    ("title", "description", "expected"),
    [
        ("Mog &amp; Bunny", "<p>A cat's tale.</p>", Product("Mog & Bunny", "A cat's tale.")),
        ("", "A cat's tale.", "empty_title"),
        (" \u200b<br>", "", "empty_title"),
        ("Mog", "", "empty_content"),
        ("Mog", "--This text refers to thePaperbackedition.", "empty_content"),
        ("Lonesome Blue Sky", " LONESOME  blue\nSky", "content_equals_title"),
        ("Lonesome Blue Sky", "LonesomeBlue Sky", "content_equals_title"),
        ("Groove Collective", "AUDIO CD", "too_short"),
        ("Groove Collective", "###########", "too_short"),
        ("Groove Collective", "- - A - mug", "too_short"),
        ("Groove Collective", "An AUDIO CD", Product("Groove Collective", "An AUDIO CD")),
        ("Zahnbürste", "\u6f54\u6de8\u529b", Product("Zahnbürste", "\u6f54\u6de8\u529b")),
    ],
)
def test_a_product_is_cleaned_or_refused_by_name(title: str, description: str, expected):
    assert clean(Product(title, description)) == expected


def test_limits_count_what_is_left_after_cleaning():
    strict = Cleaner(CleaningSettings(min_words=4, max_characters=20))
    assert strict(Product("Mug", "<b>A red mug.</b>")) == "too_short"
    assert strict(Product("Mug", "<b>It is a red mug.</b>")) == Product("Mug", "It is a red mug.")
    assert strict(Product("Mug", "It is a red mug, 8 oz")) == "too_long"  # 21 characters
    assert clean(Product("Mug", "A mug. " * 7000)) == Product("Mug", ("A mug. " * 7000).strip())
    assert clean(Product("Mug", "A mug. " * 8000)) == "too_long"
    endless = Cleaner(CleaningSettings(min_words=0, max_characters=None))
    assert endless(Product("Mug", "CD")) == Product("Mug", "CD")
    assert endless(Product("Mug", "A mug. " * 8000)) == Product("Mug", ("A mug. " * 8000).strip())


def test_another_language_is_refused_only_if_asked():
    french = Product("Tasse", "Une tasse légère en grès, idéale pour le café du matin.")
    english = Product("Tasse", "A light stoneware cup that keeps coffee warm.")
    short = Product("Tasse", "Tasse XL, 2 pcs")
    assert clean(french) == french
    ask = pickle.loads(pickle.dumps(Cleaner(CleaningSettings(language="en"))))
    assert [ask(product) for product in (french, english, short)] == [
        "other_language",
        english,
        short,
    ]


def test_a_language_is_checked_before_the_first_product(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(UserError, match=r"--data\.cleaning\.language"):
        Cleaner(CleaningSettings(language="en"))


def test_a_refusal_is_no_product():
    assert isinstance(clean(Product("", "")), Refusal)
    assert [str(refusal) for refusal in Refusal] == [
        "empty_title",
        "empty_content",
        "content_equals_title",
        "too_short",
        "too_long",
        "other_language",
        "list_of_codes",
        "shipping_note",
    ]


def test_titles_that_read_the_same_are_one():
    assert normalize_title(" Mog's  KITTENS\n") == "mog's kittens"
    assert normalize_title("\uff34he\u3000CAT") == "the cat"
    assert normalize_title("Stra\u00dfe") == normalize_title("STRASSE") == "strasse"
    assert normalize_title("Cafe\u0301") == normalize_title("CAF\u00c9") == "caf\u00e9"
    assert normalize_title("Mog 1") != normalize_title("Mog 2")


PIECES = (
    *(
        "a",
        "soft",
        "Warm",
        "The",
        "to the",
        " ",
        " ",
        "  ",
        "\n",
        "\xa0",
        ".",
        ",",
        ":",
        "!",
        "...",
    ),
    *("(", ")", "]", "”", "“", "-", "--", "@", "&", "&amp;", "&lt;", "&gt;", "&#8217;", "&B;", "#"),
    *("amp;", "lt;", "<", ">", "<b>", "</b>", "<br>", "<!--", "-->", "<script>", "</script>", "/"),
    *("\u200b", "\ufffd", "\u0301", "This text refers to the", " Paperback edition.", "字"),
)


def test_a_cleaned_text_is_clean():
    """What entities make may look like markup; all else is not cleaned any more."""
    draw = random.Random(0)
    pieces = [piece for piece in PIECES if piece not in ("&lt;", "&gt;", "lt;")]
    texts = ["".join(draw.choices(pieces, k=draw.randint(1, 16))) for _ in range(50_000)]
    cleaned = [clean.text(text) for text in texts]
    assert [clean.text(text) for text in cleaned] == cleaned
    assert all(text.isprintable() and text == " ".join(text.split()) for text in cleaned)
    assert sum(old != new for old, new in zip(texts, cleaned, strict=True)) > 10_000


@pytest.mark.parametrize("name", [None, *RULES])
def test_the_quick_way_is_the_rules_one_after_the_other(name: str | None):
    settings = CleaningSettings() if name is None else CleaningSettings(**{name: False})
    cleaner = Cleaner(settings)
    draw = random.Random(1)
    for _ in range(3000):
        expected = text = "".join(draw.choices(PIECES, k=draw.randint(1, 8)))
        rules = [rule for rule in RULES if rule != name]
        for _ in range(4):
            for rule in [rule for rule in ("invisible", "tags") if rule in rules]:
                expected = RULES[rule](expected)
        for _ in range(4):
            for rule in [rule for rule in rules if rule != "tags"]:
                expected = RULES[rule](expected)
        assert cleaner.text(text) == expected


@pytest.mark.parametrize("piece", ["&<b>amp;", "&amp;", "&", "This text refers to the", "<<b>b>"])
def test_a_hostile_text_takes_no_longer_than_another(piece: str):
    for text in (piece * (200_000 // len(piece)), "&" + "amp;" * 50_000, "<" * 200_000):
        start = time.process_time()
        clean(Product("Mug", text))
        assert time.process_time() - start < 4


EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
ADDRESS = re.compile(r"(?<![\"'])(?:https?://|www\.)[^\s<>\"]+")  # in the text, not in a tag
ENTITY_OR_TAG = re.compile(r"&(?:[a-z]+|#\d+);|</?(?:p|br|b|li|ul|div|h4)\b")
ZERO_WIDTH = re.compile("[\u200b\u200e\u200f\u2060\ufeff\xad]|(?<![\u2190-\U0001faff])\u200d")

# By label: what the raw text must show, and what the cleaned one must not.
GONE = {
    "boilerplate_edition": re.compile("This text refers to"),
    "control_char": re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]"),
    "entities": ENTITY_OR_TAG,
    "entity_in_title": ENTITY_OR_TAG,
    "html_tags": ENTITY_OR_TAG,
    "mojibake": re.compile("\ufffd"),
    "newlines": re.compile("\n"),
    "quot_entity_glued": ENTITY_OR_TAG,
    "zero_width": ZERO_WIDTH,
}
STAYS = {"emoji": EMOJI, "url": ADDRESS}


def quirks(real_dir: Path) -> list[tuple[str, Product]]:
    rows = [orjson.loads(line) for line in (real_dir / "quirk_samples.jsonl").open("rb")]
    return [(row["quirk"], Product(row["title"], row["content"])) for row in rows]


@pytest.mark.real
@pytest.mark.parametrize("quirk", GONE)
def test_a_real_quirk_goes(quirk: str, real_dir: Path):
    raw = [f"{p.title}\n{p.description}" for label, p in quirks(real_dir) if label == quirk]
    assert sum(GONE[quirk].search(text) is not None for text in raw) >= 2
    assert not [text for text in raw if GONE[quirk].search(clean.text(text))]


@pytest.mark.real
@pytest.mark.parametrize("quirk", STAYS)
def test_a_real_oddity_that_is_meant_stays(quirk: str, real_dir: Path):
    raw = [product.description for label, product in quirks(real_dir) if label == quirk]
    found = [STAYS[quirk].findall(text) for text in raw]
    assert sum(map(bool, found)) >= 7
    assert [STAYS[quirk].findall(clean.text(text)) for text in raw] == found


@pytest.mark.slow
@pytest.mark.real
def test_real_rows_in_another_language_are_refused(real_dir: Path):
    ask = Cleaner(CleaningSettings(language="en"))
    products = [row for row in read_products(real_dir / "trn.json.gz") if isinstance(row, Product)]
    refused = [product for product in products if ask(product) == "other_language"]
    assert [product.description[:3] for product in refused] == ["300"]  # in Spanish
    labels = Counter(label for label, p in quirks(real_dir) if ask(p) == "other_language")
    assert labels == {  # two that are labelled so are English with foreign names in it
        "non_english": 6,
        "mojibake": 5,
        "zero_width": 4,
        "emoji": 2,
        "newlines": 2,
        "title_over_200": 1,
    }


@pytest.mark.real
def test_real_quirks_are_cleaned_by_their_label(real_dir: Path):
    outcomes = Counter()
    for quirk, product in quirks(real_dir):
        result = clean(product)
        kept = isinstance(result, Product)
        outcomes[quirk, "kept" if kept else str(result)] += 1
        if kept:
            text = f"{result.title}\n{result.description}"
            assert "This text refers to" not in text
            assert not any(mark in text for mark in ("&quot;", "&#", "</", "<br", "<p>", "\xad"))
            assert text.replace("\n", "").replace("\u200d", "").isprintable()
    assert outcomes == {
        ("same_title_other_content", "kept"): 11,
        ("same_title_other_content", "list_of_codes"): 1,
        ("empty_content", "empty_content"): 8,
        ("empty_title", "empty_title"): 8,
        ("content_equals_title", "content_equals_title"): 8,
        ("very_short", "too_short"): 8,
        ("entities", "kept"): 8,
        ("entity_in_title", "kept"): 6,
        ("entity_in_title", "too_short"): 1,
        ("entity_in_title", "empty_content"): 1,
        ("html_tags", "kept"): 8,
        ("over_5000_chars", "kept"): 8,
        ("title_over_200", "kept"): 8,
        ("zero_width", "kept"): 8,
        ("emoji", "kept"): 8,
        ("url", "kept"): 8,
        ("newlines", "kept"): 8,
        ("boilerplate_edition", "kept"): 8,
        ("quot_entity_glued", "kept"): 8,
        ("non_english", "kept"): 8,
        ("mojibake", "kept"): 5,
        ("control_char", "kept"): 2,
    }


@pytest.mark.real
def test_real_rows_are_cleaned_once_and_for_all(real_dir: Path):
    results = [clean(row) for row in read_products(real_dir / "trn.json.gz")]  # pyright: ignore
    kept = [result for result in results if isinstance(result, Product)]
    refused = Counter(str(result) for result in results if not isinstance(result, Product))
    assert len(kept) == 8361
    assert refused == {
        "empty_content": 562,
        "content_equals_title": 60,
        "too_short": 33,
        "list_of_codes": 4,
        "shipping_note": 3,
    }
    assert [clean(product) for product in kept] == kept
    first = "Judith Kerr\u2019s best\u2013selling adventures of that endearing"
    assert kept[0].title == "Mog's Kittens"
    assert kept[0].description.startswith(first)
