"""Language: a text is called another language only when that is sure."""

import pickle
import subprocess
import sys

import pytest

from amazon_desc.data.cleaning.language import LanguageCheck
from amazon_desc.support.errors import UserError

ENGLISH = [
    "Keeps your coffee warm for hours and goes into the dishwasher.",
    "A moving novel about two sisters whom the war has parted.",
    "Glass Bead Assortment",
    "20 x BC547, 10 x BC557, 5 x LM317",
    "Tube 12mm 1kg",
    "Café Olé: crème brûlée, jalapeño and piñata mugs, set of 4",
    "SOCKS MENS BLK LGE Size: 11",
]
OTHERS = {
    "de": "Diese Tasse aus Steingut hält Ihren Kaffee lange warm und ist spülmaschinenfest.",
    "es": "Esta taza de gres mantiene el café caliente y es apta para lavavajillas.",
    "fr": "Une robe légère en coton, idéale pour les journées d'été.",
    "it": "Questa tazza in gres mantiene caldo il caffè ed è lavabile in lavastoviglie.",
    "ja": "このマグカップはコーヒーを長く温かく保ち、食洗機で洗えます。",
    "nl": "Deze mok van aardewerk houdt je koffie lang warm en kan in de vaatwasser.",
    "ru": "Эта кружка долго сохраняет кофе горячим, её можно мыть в посудомоечной машине.",
    "zh": "这款马克杯能让咖啡长时间保温，可放入洗碗机清洗。",
}


@pytest.fixture(scope="module")
def english() -> LanguageCheck:
    return LanguageCheck("en")


def test_the_language_meant_is_never_another(english: LanguageCheck):
    assert [text for text in ENGLISH if english.is_other(text)] == []
    for code in ("de", "fr", "ja"):
        assert not LanguageCheck(code).is_other(OTHERS[code]), code


def test_another_language_is_told(english: LanguageCheck):
    assert [code for code, text in OTHERS.items() if english.is_other(text)] == list(OTHERS)


def test_what_is_unsure_is_kept(english: LanguageCheck):
    for text in ("", "CD", "Laser", "15 lb", "###", "Bolsa", "\ud800"):
        assert not english.is_other(text), text


def test_a_long_text_is_judged_by_its_beginning(english: LanguageCheck):
    assert not english.is_other(" ".join(ENGLISH[:2] * 3) + OTHERS["de"] * 1000)
    assert english.is_other(OTHERS["de"] * 5 + ENGLISH[0] * 1000)


def test_another_process_judges_the_same(english: LanguageCheck):
    sent = pickle.dumps(english)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert received.code == "en"
    assert received.is_other(OTHERS["fr"])
    assert not received.is_other(ENGLISH[0])


def test_an_unknown_language_is_refused_with_those_that_are_known():
    with pytest.raises(
        UserError, match=r"language: wanted the code .*, got 'english'.* de, .*en, "
    ):
        LanguageCheck("english")
    for code in ("EN", "", "zxx"):  # zxx: what py3langid calls a text in no language
        with pytest.raises(UserError, match="Choose null or one of af, am, "):
            LanguageCheck(code)


def test_without_the_library_the_way_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(UserError, match=r'pip install "amazon_desc\[language\]"'):
        LanguageCheck("en")


def test_nothing_is_imported_until_a_language_is_asked_for():
    program = """
import sys
from amazon_desc.data.cleaning.cleaner import Cleaner
from amazon_desc.data.reading.records import Product
assert Cleaner()(Product("Mug", "A red mug.")) == Product("Mug", "A red mug.")
heavy = "torch transformers datasets lightning numpy py3langid".split()
print([name for name in heavy if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
