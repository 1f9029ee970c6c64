"""Cleaning: one plain line of what a customer reads, or a name for why there is none."""

import time
from collections import Counter
from pathlib import Path

import orjson
import pytest

from amazon_desc.data.cleaning import (
    Refusal,
    clean,
    clean_text,
    collapse_white_space,
    compose,
    normalize_title,
    remove_edition_note,
    remove_invisible,
    remove_tags,
    unescape_entities,
)
from amazon_desc.data.records import Product, read_products


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Judith Kerr&#8217;s best&#8211;selling", "Judith Kerr\u2019s best\u2013selling"),
        ("a joy&#151;truly", "a joy\u2014truly"),
        ("It&#x92;s", "It\u2019s"),
        ("Caf&eacute; &quot;Mog&quot; &amp; Bunny", 'Café "Mog" & Bunny'),
        ("Kerr&amp;#8217;s &amp;amp;eacute;", "Kerr\u2019s é"),
    ],
)
def test_entities_become_their_characters(text: str, expected: str):
    assert unescape_entities(text) == expected


@pytest.mark.parametrize(
    "text", ["R&B; and soul", "AT&T", "Q&A;", "&notit;", "?a=1&copy=2", "Hanson & Sons; more", "&;"]
)
def test_what_only_looks_like_an_entity_stays(text: str):
    assert clean_text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Soft<br>warm<br />light", "Soft warm light"),
        ("<p>Ever<b>Cool</b><sup>TM</sup></p><p>Tee</p>", "EverCoolTM Tee"),
        ("<ul><li>Line dry.</li><li>Machine wash.</li></ul>", "Line dry. Machine wash."),
        ('<img alt="a" src="x.jpg">Gift <A HREF="http://x.de">card</A>', "Gift card"),
        ("&lt;p&gt;Soft&lt;/p&gt; and warm", "Soft and warm"),
        ("<ulu>The pipette</ulu>. <o:p>A line</o:p>", "The pipette. A line"),
        ("Soft<!-- <b>note --> and warm", "Soft and warm"),
        ("A<script>if (a < b) { c() }</script>B<STYLE>p {}</STYLE>C", "A B C"),
    ],
)
def test_tags_become_text(text: str, expected: str):
    assert clean_text(text) == expected


def test_a_whole_page_becomes_its_text():
    page = (
        '<!DOCTYPE html><html><head><title>Shop</title><meta charset="utf-8"></head>\n<body>'
        '<div class="aplus"> <h4>Gift Cards</h4> <div style="width: 300px;">'
        '<img alt="x" height="200"/>For any occasion.</div></div></body></html>'
    )
    assert clean_text(page) == "Gift Cards For any occasion."


@pytest.mark.parametrize(
    "text",
    ["I <3 cats", "5 < 6 and 7 > 6", "<10 lbs", "Weight: <55g", "CV <= 0.01%", "use <> for", "a <"],
)
def test_a_less_than_sign_stays(text: str):
    assert clean_text(text) == text


@pytest.mark.parametrize(
    "note",
    [
        "--This text refers to thePaperbackedition.",
        "--This text refers to the Paperback edition.",
        "--This text refers to an alternateHardcoveredition.",
        "--This text refers to theKindle Editionedition.",
        "--This text refers to thePrint on Demand (Paperback)edition.",
        "--This text refers to the<i>School &amp; Library Binding</i>edition.",
        " This text refers to an out of print or unavailable edition of this title.",
    ],
)
def test_the_note_on_editions_goes(note: str):
    assert clean_text(f"A joy.{note}") == "A joy."
    assert clean_text(f"A joy.{note}About the author") == "A joy. About the author"
    assert clean_text(note) == ""


@pytest.mark.parametrize(
    "text",
    [
        "This text refers to the war; its first printing was blue.",
        "A first edition. The text refers to it.",
    ],
)
def test_a_sentence_that_is_no_note_stays(text: str):
    assert clean_text(text) == text


def test_characters_that_nobody_sees_go():
    text = "\ufeffBlue\xadtooth\u200b \x00re\x1bady\u202e\u2066 \x92\ud800\ufffd\U000e0041 now"
    assert clean_text(text) == "Bluetooth ready now"
    assert clean_text("&#0;a&#xAD;b&#8203;c&#xD800;") == "abc"


def test_white_space_is_single_spaces_inside():
    text = " Soft\xa0\xa0and\r\nwarm\tas\u2028wool\u2029,\x85\x0b\x0clight \n"
    assert clean_text(text) == "Soft and warm as wool , light"


def test_accents_are_composed():
    assert clean_text("Cafe\u0301") == "Caf\u00e9"


def test_every_rule_keeps_its_example():
    escaped = "Caf&eacute; &#151; R&B; &amp;#8220;Mog&amp;#8221;"
    assert unescape_entities(escaped) == "Café \u2014 R&B; \u201cMog\u201d"
    html = "<p>Soft<br>and <b>warm</b></p><3 in <10 lbs"
    assert remove_tags(html) == " Soft and warm <3 in <10 lbs"
    assert remove_invisible("Blue\xadtooth\u200b \x1b") == "Bluetooth "
    assert compose("Cafe\u0301") == "Café"
    assert collapse_white_space(" Soft\n\n and\xa0warm ") == "Soft and warm"
    note = "A joy.--This text refers to theAudio CDedition. New."
    assert remove_edition_note(note) == "A joy. New."
    assert clean_text("<b>Caf&eacute;</b>\n Mog\u200b") == "Café Mog"


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
        ("Groove Collective", "An AUDIO CD", Product("Groove Collective", "An AUDIO CD")),
        ("Zahnbürste", "\u6f54\u6de8\u529b", Product("Zahnbürste", "\u6f54\u6de8\u529b")),
    ],
)
def test_a_product_is_cleaned_or_refused_by_name(title: str, description: str, expected):
    assert clean(Product(title, description)) == expected


def test_a_refusal_is_no_product():
    assert isinstance(clean(Product("", "")), Refusal)
    assert [str(refusal) for refusal in Refusal] == [
        "empty_title",
        "empty_content",
        "content_equals_title",
        "too_short",
    ]


def test_titles_that_read_the_same_are_one():
    assert normalize_title(" Mog's  KITTENS\n") == "mog's kittens"
    assert normalize_title("\uff34he\u3000CAT") == "the cat"
    assert normalize_title("Stra\u00dfe") == normalize_title("STRASSE") == "strasse"
    assert normalize_title("Cafe\u0301") == normalize_title("CAF\u00c9") == "caf\u00e9"
    assert normalize_title("Mog 1") != normalize_title("Mog 2")


@pytest.mark.parametrize(
    "piece",
    [
        "<script>",
        "<head><",
        "<!--",
        "<a:",
        "<br ",
        "</ulu ",
        "&amp;",
        "&#",
        " This text refers to the",
    ],
)
def test_a_hostile_text_takes_no_longer_than_another(piece: str):
    for text in (
        piece * (1_000_000 // len(piece)),
        piece + "a" * 1_000_000,
        piece + " " * 1_000_000,
    ):
        start = time.process_time()
        clean_text(text)
        assert time.process_time() - start < 2


@pytest.mark.real
def test_real_quirks_are_cleaned_by_their_label(real_dir: Path):
    rows = [orjson.loads(line) for line in (real_dir / "quirk_samples.jsonl").open("rb")]
    outcomes = Counter()
    for row in rows:
        result = clean(Product(row["title"], row["content"]))
        kept = isinstance(result, Product)
        outcomes[row["quirk"], "kept" if kept else str(result)] += 1
        if kept:
            text = f"{result.title}\n{result.description}"
            assert "This text refers to" not in text
            assert not any(mark in text for mark in ("&quot;", "&#", "</", "<br", "<p>", "\xad"))
            assert text.replace("\n", "").isprintable()
    assert outcomes == {
        ("same_title_other_content", "kept"): 12,
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
    assert len(kept) == 8368
    assert refused == {"empty_content": 562, "content_equals_title": 60, "too_short": 33}
    assert [clean(product) for product in kept] == kept
    first = "Judith Kerr\u2019s best\u2013selling adventures of that endearing"
    assert kept[0].title == "Mog's Kittens"
    assert kept[0].description.startswith(first)
