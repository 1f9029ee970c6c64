"""Promises of cleaning/content.py: what says nothing is told, and what says a little is not."""

from collections import Counter
from pathlib import Path

import pytest

from amazon_desc.data.cleaning.cleaner import Cleaner, CleaningSettings, Refusal
from amazon_desc.data.cleaning.content import is_list_of_codes, is_shipping_note
from amazon_desc.data.reading.records import Product, read_products

CODES = [
    "25 x 1N4148, 25 x In4007 10 x 1N5819 10 x FR107",
    "50V1UF 50V2.2UF 50V3.3UF 25V10UF 16V100UF 16V470UF",
    "1 x 0.2 1 x 0.3 1 x 0.4 1 x 0.5",
    "9780307474278, 9780552161275, 0307474275",
]
NO_CODES = [
    "100x 1N4001 Diode 1A/50V",
    '18" x 24" poster of a cat, printed in 2019.',
    "Assortment contains 30 grub screws: M3 x 5, M3 x 8, M4 x 6, M4 x 10.",
    "A novel in 3 parts.",
    "",
]
NOTES = [
    "Fast shipping from USA",
    "Ships from China. Please contact us before leaving feedback!",
    "Shipping via USPS takes 7-15 business days. Refunds within 30 days; buyer pays customs fees.",
]
NO_NOTES = [
    "Heavy duty shipping tape. Keeps boxes closed.",
    "Water delivery pump for use in an RV.",
    "Oil, 1 quart. Ships within two days.",
    "Free shipping, " + "and a long text on how this oak chair was made by hand " * 3,
    "In the box: 1 x car voltmeter, 1 x cable, 1 x manual, 30 days money back guarantee, one year",
    "",
]


@pytest.mark.parametrize("text", CODES)
def test_a_list_of_codes_is_told(text: str):
    assert is_list_of_codes(text)


@pytest.mark.parametrize("text", [*NO_CODES, *NOTES, *NO_NOTES])
def test_a_text_with_words_is_no_list_of_codes(text: str):
    assert not is_list_of_codes(text)


@pytest.mark.parametrize("text", NOTES)
def test_a_note_of_the_seller_is_told(text: str):
    assert is_shipping_note(text)


@pytest.mark.parametrize("text", [*NO_NOTES, *CODES, *NO_CODES])
def test_a_text_that_says_more_than_how_it_is_sent_is_no_note(text: str):
    assert not is_shipping_note(text)


def test_each_rule_refuses_by_its_name_and_can_be_switched_off():
    codes, note = Product("Diodes", CODES[0]), Product("Doppler", NOTES[1])
    assert Cleaner()(codes) == Refusal.LIST_OF_CODES
    assert Cleaner()(note) == Refusal.SHIPPING_NOTE
    without = Cleaner(CleaningSettings(codes=False, shipping_notes=False))
    assert without(codes) == codes
    assert without(note) == note


@pytest.mark.real
def test_of_real_products_only_those_that_say_nothing_are_refused(real_dir: Path):
    """Read by eye: four lists of parts, and three notes, such as "Fast shipping from USA"."""
    cleaner = Cleaner()
    refused = Counter(
        str(cleaner(product))
        for product in read_products(real_dir / "trn.json.gz")
        if isinstance(product, Product)
    )
    assert refused[Refusal.LIST_OF_CODES] == 4
    assert refused[Refusal.SHIPPING_NOTE] == 3
