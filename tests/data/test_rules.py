"""Rules: each takes one oddity out of a text, leaves what only looks like one, and is quick."""

import random
import re
import time
import unicodedata
from pathlib import Path

import pytest

from amazon_desc.data.cleaning import rules
from amazon_desc.data.cleaning.markup import remove_tags, unescape_entities, unescape_page
from amazon_desc.data.cleaning.rules import (
    RULES,
    collapse_white_space,
    compose,
    is_plain,
    remove_edition_note,
    remove_invisible,
    separate_glued_words,
)
from amazon_desc.data.reading.records import Product, read_products


def test_the_rules_run_in_this_order():
    assert list(RULES) == [
        "tags",
        "entities",
        "invisible",
        "compose",
        "white_space",
        "edition_notes",
        "glued_words",
    ]


def test_every_rule_keeps_its_example():
    escaped = "Caf&eacute; &#151; R&B; &amp;#8220;Mog&amp;#8221;"
    assert unescape_entities(escaped) == "Café \u2014 R&B; \u201cMog\u201d"
    html = "<p>Soft<br>and <b>warm</b></p><3 in <10 lbs"
    assert remove_tags(html) == " Soft and warm <3 in <10 lbs"
    no_tags = "Color <red>, a<b and c>d, <head-mounted>"
    assert remove_tags(no_tags) == no_tags
    assert unescape_page("&lt;p&gt;Soft&lt;/p&gt; and warm") == "<p>Soft</p> and warm"
    for mentioned in ("Covers &lt;p&gt; and &lt;/p&gt;", "&lt;p&gt; for beginners"):
        assert unescape_page(mentioned) == mentioned
    assert remove_invisible("Blue\xadtooth\u200b \x1b") == "Bluetooth "
    assert remove_invisible("It\x92s") == "It\u2019s"
    assert compose("Cafe\u0301") == "Café"
    assert collapse_white_space(" Soft\n\n and\xa0warm ") == "Soft and warm"
    note = "A joy.--This text refers to theAudio CDedition. New."
    assert remove_edition_note(note) == "A joy. New."
    glued = "A joy.The second, soft,Warm (feet.)Package at www.A.Com, Ph.D., Node.js, softAnd"
    apart = "A joy. The second, soft, Warm (feet.) Package at www.A.Com, Ph.D., Node.js, softAnd"
    assert separate_glued_words(glued) == apart
    assert is_plain("A joy. It's 5.1! Q & A")
    for odd in ("A joy.It's 5.1!", "A  joy", " joy", "A <joy", "A & joy;"):
        assert not is_plain(odd)


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
    "text",
    ["R&B; and soul", "AT&T", "Q&A;", "&notit;", "?a=1&copy=2", "Hanson & Sons; more", "&;", "&"],
)
def test_what_only_looks_like_an_entity_stays(text: str):
    assert unescape_entities(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Soft<br>warm<br />light", "Soft warm light"),
        ("<p>Ever<b>Cool</b><sup>TM</sup></p><p>Tee</p>", " EverCoolTM  Tee "),
        ("<ul><li>Line dry.</li><li>Wash.</li></ul>", "  Line dry.  Wash.  "),
        ('<img alt="a" src="x.jpg">Gift <A HREF="http://x.de">card</A>', " Gift card"),
        ("<ulu>The pipette</ulu>. <o:p>A line</o:p>", "The pipette. A line"),
        ("Soft<!-- <b>note --> and warm", "Soft  and warm"),
        ("A<script>if (a < b) { c() }</script>B<STYLE>p {}</STYLE>C", "A B C"),
        ("<br / ><hr noshade><td nowrap align=left>Mug<a 'x'>", "   Mug"),
        ("<my-box size='1'>Mug</my-box> <Gift/>card</ul-u>", "Mug card"),
        ('<st1:place w:st="on">Rome</st1:place>', "Rome"),
        ("<head lang='en'><title>Shop</title></head><body>Mug", "  Mug"),
        ("<head><title>Shop</title><body class='a'>Mug", "  Mug"),
    ],
)
def test_tags_become_text(text: str, expected: str):
    assert remove_tags(text) == expected


@pytest.mark.parametrize("tag", ["<script>", "<style type='a'>", "<HEAD>", "<!--"])
def test_an_unclosed_tag_takes_only_itself(tag: str):
    assert remove_tags(f"Covers {tag} and CSS.").split() == ["Covers", "and", "CSS."]
    assert remove_tags(f"A<!-- note -->B {tag} and {tag} C").split() == ["A", "B", "and", "C"]


@pytest.mark.parametrize(
    "text",
    [
        "For <head-mounted> lamps, <script-like> and <style.css> and <a-b>",
        "a<b and c>d, <i am here>, <table lamp>, </ b>",
        "Color <red>, size <m>, <Model name>, <ulu>, <see: below>, <https://x.de>",
    ],
)
def test_only_known_or_closed_tags_are_tags(text: str):
    assert remove_tags(text) == text


@pytest.mark.parametrize(
    "text",
    ["I <3 cats", "5 < 6 and 7 > 6", "<10 lbs", "Weight: <55g", "CV <= 0.01%", "use <> for", "a <"],
)
def test_a_less_than_sign_stays(text: str):
    assert remove_tags(text) == text


def test_characters_that_nobody_sees_go():
    text = "\ufeffBlue\xadtooth\u200b \x00re\x1bady\u202e\u2066 \x81\ud800\ufffd\U000e0041 now"
    assert remove_invisible(text) == "Bluetooth ready  now"
    assert remove_invisible("lost \ufffd letter") == "lost  letter"  # the only printable one


def test_a_raw_byte_of_windows_reads_as_its_entity_does():
    raw = "".join(map(chr, range(0x80, 0xA0)))
    entities = "".join(f"&#x{code:x};" for code in range(0x80, 0xA0))
    assert remove_invisible(raw) == remove_invisible(unescape_entities(entities))
    assert (
        remove_invisible("\x93It\x92s\x94 \x96 so\x85") == "\u201cIt\u2019s\u201d \u2013 so\u2026"
    )


@pytest.mark.parametrize(
    "text",
    [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian "I want"
        "\u0915\u094d\u200d\u0937 \u0930\u200d\u094d",  # half forms of Hindi and Marathi
        "\U0001f469\u200d\U0001f469\u200d\U0001f466",  # a family
        "\U0001f9d1\U0001f3fc\u200d\U0001f4bb \u2764\ufe0f\u200d\U0001f525",
        "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # Scotland's
    ],
)
def test_joiners_that_are_spelling_stay(text: str):
    assert remove_invisible(text) == text
    assert remove_invisible(f"\u200d\u200c{text}\u200d \u200b{text}\u200c") == f"{text} {text}"


def test_joiners_that_join_nothing_go():
    assert remove_invisible("Blue\u200dtooth\u200c \u200d\U0001f469\u200d mug") == (
        "Bluetooth \U0001f469 mug"
    )
    assert remove_invisible("\u0645\u06cc\u200c\u200b\u200c\u062e") == "\u0645\u06cc\u200c\u062e"
    assert remove_invisible("\U0001f3f4\U000e0067 a\U000e0067\U000e007f") == "\U0001f3f4 a"


def test_white_space_stays_when_the_invisible_goes():
    text = "Soft\xa0and\r\nwarm\tas\u2028wool"
    assert remove_invisible(f"{text}\x00") == text


def test_white_space_is_single_spaces_inside():
    text = " Soft\xa0\xa0and\r\nwarm\tas\u2028wool\u2029,\x85\x0b\x0clight \n"
    assert collapse_white_space(text) == "Soft and warm as wool , light"


def test_accents_are_composed_and_piles_of_them_are_lowered():
    assert compose("Cafe\u0301 \u1100\u1161") == "Caf\u00e9 \uac00"
    assert compose("e" + "\u0301\u0323" * 50) == "\u1eb9" + "\u0323" * 14 + "\u0301" * 15
    stars = "\u2605" * 50
    assert compose(f"{stars} e\u0301") == f"{stars} \u00e9"


@pytest.mark.parametrize(
    "note",
    [
        "--This text refers to thePaperbackedition.",
        "--This text refers to the Paperback edition.",
        " - This text refers to the Paperback edition.",
        "\u2014This text refers to the Paperback edition.",
        "--This text refers to an alternateHardcoveredition.",
        "--This text refers to theKindle Editionedition.",
        "--This text refers to thePrint on Demand (Paperback)edition.",
        " This text refers to an out of print or unavailable edition of this title.",
    ],
)
def test_the_note_on_editions_goes(note: str):
    assert remove_edition_note(f"A joy.{note}") == "A joy."
    assert remove_edition_note(f"A joy.{note}About the author") == "A joy. About the author"
    assert remove_edition_note(f"A joy.{note} New. {note}") == "A joy. New."
    assert remove_edition_note(f"A joy.{note}{note}About it") == "A joy. About it"
    assert remove_edition_note(note) == ""


@pytest.mark.parametrize(
    "text",
    [
        "This text refers to the war; its first printing was blue.",
        "A first edition. The text refers to it.",
    ],
)
def test_a_sentence_that_is_no_note_stays(text: str):
    assert remove_edition_note(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It was a joy.The second is not.", "It was a joy. The second is not."),
        ("Features:Soft,Warm;Light", "Features: Soft, Warm; Light"),
        ("Really soft!Try it?Yes", "Really soft! Try it? Yes"),
        ("by hand.A great gift,I think", "by hand. A great gift, I think"),
        ("and then...Nobody came", "and then... Nobody came"),
        ("a cord (2 m long)Package: one", "a cord (2 m long) Package: one"),
        ("so it ends (at last).Then he left", "so it ends (at last). Then he left"),
        ("well told.(June)Copyright 2004", "well told.(June) Copyright 2004"),
        ("1)Open it (2)Close it", "1) Open it (2) Close it"),
        ("[Easy to use]Simply plug it in", "[Easy to use] Simply plug it in"),
        ("“A gem.”The Times", "“A gem.” The Times"),
        ("(The Times)“A gem.”", "(The Times) “A gem.”"),
        ("for Mrs.Smith,Jones etc.Now", "for Mrs. Smith, Jones etc. Now"),
        ("mail a@b.De.Or call.Now", "mail a@b.De.Or call. Now"),
        ("feito à mão.Não é seu,É", "feito à mão. Não é seu, É"),
        ("Żółć jest.Żaden – tak", "Żółć jest. Żaden – tak"),
        ("Это сделано.Новый товар:Да", "Это сделано. Новый товар: Да"),
        ("tudo bem.De novo, sim,De", "tudo bem. De novo, sim, De"),
        ("soft,Info;Pdf", "soft, Info; Pdf"),
    ],
)
def test_glued_words_come_apart_where_it_is_sure(text: str, expected: str):
    assert separate_glued_words(text) == expected
    assert separate_glued_words(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "U.S.Army U.S.A. P.D.James A.J.Smith J.R.R.Tolkien",
        "e.g.The i.e.A Ph.D.Thesis M.D.President Dr.Seuss St.John Mr.Smith",
        "Node.js ASP.NET .NET Asp.Net vb.Net paint.Net System.Data.Sql std::Vector",
        "Amazon.com Amazon.Com www.Shop.De http://shop.de/Red.Mug?a,B a.B@Shop.Org goo.gl/Mug.Red",
        "Readme.Txt photo.Jpg config.Yaml data.Json C:\\Program.Files\\Mug",
        "Amazon.De Amazon.Fr, (Shop.Es) shop.Jp",
        "iPhone PlayStation McDonald WiFi softAnd Yahoo! E!News",
        "2.0.1 3:1 10:30AM 5.1Sound v2.Beta Re:Zero NieR:Automata",
        "O’Hara Qur’An D’Angelo rock'n'Roll",
        "(Re)Make (TM)Wire Post(R)Notes (Self-)Made [T]he (s)He f(x)Max",
        "R&B;Soul &unknown;Soul Home&Garden;Best",
        "Größe:XL Material:PLA spool.ABS",
    ],
)
def test_names_numbers_and_addresses_stay_whole(text: str):
    assert separate_glued_words(text) == text


def test_what_is_left_of_an_address_is_still_cleaned():
    text = "It is fun.See www.Shop.De/A.Bc now.Thanks"
    assert separate_glued_words(text) == "It is fun. See www.Shop.De/A.Bc now. Thanks"


PIECES = [
    *("a", "B", "soft", "Warm", "The", "I", "A", "Com", "edition", "to the", "12", "é", "É", "字"),
    *(
        " ",
        " ",
        " ",
        "  ",
        "\n",
        "\t",
        "\xa0",
        "\x1c",
        "\u2028",
        ".",
        ",",
        ":",
        ";",
        "!",
        "?",
        "...",
    ),
    *("(", ")", "[", "]", "”", "“", "’", "‘", '"', "-", "--", "\u2014", "@", "www.", "://", "\\"),
    *("&", "&amp;", "&lt;", "&gt;", "&#8217;", "&B;", "#", "amp;", "<", ">", "<b>", "</b>", "<br>"),
    *("<p class='x'>", "<!--", "-->", "<script>", "</script>", "<3", "/", "\u200b", "\xad", "\x00"),
    *("\ufffd", "\u0301", "\u0323", "\u226e", "This text refers to the", " Paperback edition."),
]


def random_texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 14))) for _ in range(count)]


def plain_remove_edition_note(text: str) -> str:
    dash = r"\s*(?:--?|[\u2013\u2014])?\s*"
    name = r"(?:the|an?\b).{1,80}?edition(?: of this title)?"
    return re.sub(rf"(?:{dash}This text refers to {name}\.\s*)+", " ", text).strip()


def plain_separate_glued_words(text: str) -> str:
    words = text.split(" ")
    return " ".join(
        word if rules._ADDRESS.search(word) else rules._GLUED.sub(rules._separate, word)
        for word in words
    )


PLAIN_RULES = {
    remove_invisible: lambda text: "".join(map(remove_invisible, text)),
    compose: lambda text: unicodedata.normalize("NFC", text),
    collapse_white_space: lambda text: " ".join(text.split()),
    separate_glued_words: plain_separate_glued_words,
}


@pytest.mark.parametrize("rule", PLAIN_RULES, ids=lambda rule: rule.__name__)
def test_a_quick_rule_does_what_the_plain_one_does(rule):
    texts = random_texts(20_000, seed=1)
    assert [rule(text) for text in texts] == [PLAIN_RULES[rule](text) for text in texts]
    assert 100 < sum(rule(text) != text for text in texts) < len(texts) - 100


def test_a_note_goes_as_by_the_plain_rule():
    texts = [text for text in random_texts(200_000, seed=2) if rules.EDITION_WORDS in text]
    texts = [collapse_white_space(text) for text in texts]
    expected = [plain_remove_edition_note(text) if "edition." in text else text for text in texts]
    found = [remove_edition_note(text) if "edition." in text else text for text in texts]
    assert found == expected
    assert sum(text != new for text, new in zip(texts, found, strict=True)) > 100


def test_no_rule_changes_a_plain_text():
    draw = random.Random(3)
    pieces = [piece for piece in PIECES if piece.isascii()]
    texts = ["".join(draw.choices(pieces, k=draw.randint(1, 9))) for _ in range(50_000)]
    plain = [text for text in texts if is_plain(text)]
    assert 1000 < len(plain) < len(texts)
    for name, rule in RULES.items():
        assert [rule(text) for text in plain] == plain, name


@pytest.mark.parametrize(
    "piece",
    [
        *("<", "&", "&#", "&amp;", "<script>", "<head><", "<!--", "<a:", "<br ", "</ulu "),
        *("<br a", "<br/ ", "<ulu>", "</ulu>", "<b x=", "<style><script>", "&lt;p&gt;", "\u200d"),
        *("This text refers to ", " This text refers to the", "--", "a.B", "aa.Bb", "aa.Bb "),
        *(")Aa", "(aa)Bb", "(Aa", "aa@a.Bb", ".Aa", "&Aa", "\u0301\u0323", "\u200b", "\n", "\xa0"),
    ],
)
def test_a_hostile_text_takes_no_longer_than_another(piece: str):
    """Were a rule quadratic, 200,000 characters would take it minutes."""
    for text in (
        piece * (200_000 // len(piece)),
        piece + "a" * 200_000,
        piece + " " * 200_000,
        piece + "a." * 100_000,
    ):
        for name, rule in (RULES | {"pages": unescape_page}).items():
            start = time.process_time()
            rule(text)
            assert time.process_time() - start < 2, name


@pytest.mark.real
def test_real_words_are_separated_where_a_customer_would(real_dir: Path):
    products = [row for row in read_products(real_dir / "trn.json.gz") if isinstance(row, Product)]
    before = [collapse_white_space(product.description) for product in products]
    after = [separate_glued_words(text) for text in before]
    assert [separate_glued_words(text) for text in after] == after
    places = sum(len(new) - len(old) for old, new in zip(before, after, strict=True))
    assert 1500 < places < 2500
    assert [text.replace(" ", "") for text in after] == [text.replace(" ", "") for text in before]
    words = {word for text in after for word in text.split(" ")}
    for name in ("U.S.A.", "J.R.R.", "P.D.James", "www.P65Warnings.ca.gov.", "Dr.Meter"):
        assert name in words
