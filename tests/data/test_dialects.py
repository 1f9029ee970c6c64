"""What separates fields and which line names columns is found, said once, or asked for."""

import gzip
from pathlib import Path

import pytest

from amazon_desc.data.reading.files.sources import Meter
from amazon_desc.data.reading.formats import Form
from amazon_desc.data.reading.records import Fault, Product, read_products, read_title_records
from amazon_desc.data.reading.tables.dialects import header_of
from amazon_desc.support.errors import DataError

ROWS = [["title", "content"], ["Mug, red", "Soft; warm"], ["Cup", "6 | 7"], ["Pot", "x"]]
PRODUCTS = [Product("Mug, red", "Soft; warm"), Product("Cup", "6 | 7"), Product("Pot", "x")]


def file(folder: Path, text: str, name: str = "shop.csv") -> Path:
    data = text.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


def joined(mark: str, rows: list[list[str]] = ROWS) -> str:
    """Writes rows as Excel does: a field is quoted if it has to be."""
    return "".join(
        mark.join(f'"{field}"' if mark in field else field for field in row) + "\r\n"
        for row in rows
    )


def read(path: Path, **form) -> tuple[list[Product | Fault], list[str]]:
    meter = Meter()
    return list(read_products(path, meter=meter, form=Form(**form))), meter.remarks


def refusal(path: Path, columns: tuple[str, str] = ("title", "content"), **form) -> str:
    with pytest.raises(DataError) as error:
        list(read_products(path, *columns, form=Form(**form)))
    return str(error.value)


@pytest.mark.parametrize("name", ["shop.csv", "shop.csv.gz", "shop.tsv"])
@pytest.mark.parametrize(
    ("mark", "said"), [(";", '";"'), ("|", '"|"'), ("\t", "tabs"), (",", '","')]
)
def test_a_separator_is_found_and_said_once_where_the_suffix_has_another(
    tmp_path: Path, name: str, mark: str, said: str
):
    products, remarks = read(file(tmp_path, joined(mark), name))
    assert products == PRODUCTS
    own = "\t" if name == "shop.tsv" else ","
    wanted = [f"{name}: fields are separated by {said} (--data.separator)"]
    assert remarks == ([] if mark == own else wanted)


def test_titles_are_read_with_their_separator_too(tmp_path: Path):
    meter = Meter()
    path = file(tmp_path, "sku;title;price\n1;Mug, red;3,50\n2;Cup;4\n")
    records = list(read_title_records(path, kept="all", meter=meter))
    assert [(record.title, record.kept) for record in records] == [
        ("Mug, red", '{"sku":"1","price":"3,50"}'),
        ("Cup", '{"sku":"2","price":"4"}'),
    ]
    assert meter.remarks == ['shop.csv: fields are separated by ";" (--data.separator)']


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_first_line_that_tells_the_separator_is_followed_and_no_record(tmp_path: Path, line: str):
    products, remarks = read(file(tmp_path, f"{line}\r\n{joined(';')}"))
    assert products == PRODUCTS
    assert [product.place for product in products if isinstance(product, Product)] == [
        "shop.csv, line 3",
        "shop.csv, line 4",
        "shop.csv, line 5",
    ]
    assert remarks == []


@pytest.mark.parametrize(
    ("mark", "spelled"), [("\t", "tab"), ("\t", "\\t"), ("\t", "\t"), ("|", "|"), ("~", "~")]
)
def test_a_separator_that_is_told_is_used(tmp_path: Path, mark: str, spelled: str):
    products, remarks = read(file(tmp_path, joined(mark)), separator=spelled)
    assert (products, remarks) == (PRODUCTS, [])


def test_a_separator_that_is_none_is_refused(tmp_path: Path):
    for separator in ("", ";;", '"', "\n"):
        message = refusal(file(tmp_path, joined(",")), separator=separator)
        assert message.startswith(f"--data.separator {separator!r}: wanted one character")


def test_the_suffixs_own_separator_is_preferred_where_it_agrees(tmp_path: Path):
    """Each text has one semicolon, and so has the header."""
    path = file(tmp_path, "title,content;long\nMug,a;b\nCup,c;d\n")
    meter = Meter()
    products = list(read_products(path, "title", "content;long", meter=meter))
    assert products == [Product("Mug", "a;b"), Product("Cup", "c;d")]
    assert meter.remarks == []


def test_quoted_texts_are_parsed_not_counted(tmp_path: Path):
    text = 'nimi;teksti\n"A, b, c";"1;2\n3,4"\nMug;x\n'
    meter = Meter()
    products = list(read_products(file(tmp_path, text), "nimi", "teksti", meter=meter))
    assert products == [Product("A, b, c", "1;2\n3,4"), Product("Mug", "x")]


@pytest.mark.parametrize("mark", [",", ";", "|", "\t"])
def test_a_single_column_keeps_what_looks_like_separators(tmp_path: Path, mark: str):
    meter = Meter()
    path = file(tmp_path, f"title\nMug{mark} red\nCup{mark} blue\n{mark}Pot{mark}{mark}\nBus\n")
    titles = [record.title for record in read_title_records(path, meter=meter)]
    assert titles == [f"Mug{mark} red", f"Cup{mark} blue", f"{mark}Pot{mark}{mark}", "Bus"]
    said = "shop.csv: there is one column, and ',' is a part of its texts"
    assert meter.remarks == ([said] if mark == "," else [])


def test_a_single_column_is_one_behind_lines_of_its_own_too(tmp_path: Path):
    meter = Meter()
    path = file(tmp_path, "Titles of May\n\ntitle\nMug, red\nCup\n")
    records = list(read_title_records(path, meter=meter))
    assert [(record.title, record.place) for record in records] == [
        ("Mug, red", "shop.csv, line 4"),
        ("Cup", "shop.csv, line 5"),
    ]
    assert meter.remarks == [
        "shop.csv: there is one column, and ',' is a part of its texts",
        "shop.csv: line 3 names the columns (--data.header_row)",
    ]


def test_a_single_column_in_quotes_needs_no_word(tmp_path: Path):
    meter = Meter()
    path = file(tmp_path, 'title\n"Mug, ""red"""\nCup\n')
    assert [record.title for record in read_title_records(path, meter=meter)] == [
        'Mug, "red"',
        "Cup",
    ]
    assert meter.remarks == []


@pytest.mark.parametrize("mark", [",", ";"])
def test_lines_may_end_as_on_old_macintoshes(tmp_path: Path, mark: str):
    products, _ = read(file(tmp_path, joined(mark).replace("\r\n", "\n").replace("\n", "\r")))
    assert products == PRODUCTS


# The line that names the columns


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_lines_in_front_of_the_header_are_passed_over_and_said_once(tmp_path: Path, mark: str):
    preamble = f"Products of May{mark}\r\n\r\nExported{mark}2026-05-01\r\n"
    products, remarks = read(file(tmp_path, preamble + joined(mark)))
    assert products == PRODUCTS
    assert remarks[-1] == "shop.csv: line 4 names the columns (--data.header_row)"
    assert len(remarks) == (1 if mark == "," else 2)


def test_amazons_own_files_have_labels_over_the_names(tmp_path: Path):
    text = (
        "TemplateType=home\tVersion=2026.0501\tThe top 3 rows are for Amazon.com use only.\t\n"
        "Seller SKU\tProduct Name\tProduct Description\tQuantity\n"
        "item_sku\titem_name\tproduct_description\tquantity\n"
        "A1\tRed Mug\tHolds tea.\t3\n"
    )
    products, remarks = read(file(tmp_path, text, "flat.tsv"))
    assert products == [Product("Red Mug", "Holds tea.")]
    assert remarks[-1] == "flat.tsv: line 3 names the columns (--data.header_row)"


def test_a_line_that_is_told_to_name_the_columns_does(tmp_path: Path):
    text = "title,content\nold,words\n\nnimi,teksti\nMug,It holds tea.\n"
    path = file(tmp_path, text)
    meter = Meter()
    found = list(read_products(path, "nimi", "teksti", meter=meter, form=Form(header_row=4)))
    assert found == [Product("Mug", "It holds tea.")]
    assert meter.remarks == []
    products, _ = read(path)
    assert products[0] == Product("old", "words")


def test_a_line_that_is_told_and_names_nothing_is_refused(tmp_path: Path):
    for text, row in ((joined(","), 9), ("a\n\ntitle,content\nMug,x\n", 2)):
        assert refusal(file(tmp_path, text), header_row=row) == (
            f"shop.csv: --data.header_row {row}: wanted a line that names the columns, found none "
            "there. Lines are counted from 1, blank ones too."
        )


def test_a_preamble_with_unknown_columns_behind_it_is_refused_with_the_line(tmp_path: Path):
    path = file(tmp_path, "Tuotteet\n\nnimi,teksti,hinta\nMug,Tea,1\nCup,Tea,2\nPot,Tea,3\n")
    message = refusal(path)
    assert message == (
        "shop.csv: wanted the names of the columns in line 1, found fewer fields than in the lines "
        "after it. Line 3 may name them (nimi, teksti, hinta): use --data.header_row 3, and "
        "--data.title_column and --data.description_column."
    )
    products = list(read_products(path, "nimi", "teksti"))
    assert products == [Product(title, "Tea") for title in ("Mug", "Cup", "Pot")]


def test_a_cell_that_reads_like_a_columns_name_makes_no_header(tmp_path: Path):
    rows = [["Name", "Description"], ["Title", "Content"], ["content", "title"], ["Mug", "x"]]
    products, _ = read(file(tmp_path, joined(",", rows)))
    assert products == [Product(*row) for row in rows[1:]]


def test_a_separator_at_the_end_of_each_line_is_no_column(tmp_path: Path):
    text = "title,content\nMug,Holds tea.,\nCup,x,\nPot,y\nBus,z,,\n"
    products, remarks = read(file(tmp_path, text))
    texts = {"Mug": "Holds tea.", "Cup": "x", "Pot": "y", "Bus": "z"}
    assert products == [Product(title, text) for title, text in texts.items()]
    assert remarks == []


def test_records_that_are_longer_than_the_header_are_refused_in_one_sentence(tmp_path: Path):
    text = "title,content\nMug,x\n" + "Cup,red, blue and green\n" * 200
    assert refusal(file(tmp_path, text)) == (
        "shop.csv: wanted as many fields in a record as line 1 names columns (2), found more in "
        '118 of the first 119. Put texts that hold "," into quotes, or see whether '
        "--data.separator and --data.header_row fit."
    )
    path = file(tmp_path, "title,content\nMug,x\nCup,red, blue\nPot,y, z\n")
    assert [isinstance(record, Fault) for record in read(path)[0]] == [False, True, True]


@pytest.mark.parametrize(
    ("rows", "header"),
    [
        ([["title", "content"], ["Mug", "Tea"]], 0),
        ([["Export"], ["title", "content"], ["Mug", "Tea"]], 1),
        ([["Export", "2026"], ["title", "content"]], 1),
        ([["Name", "Text"], ["title", "content"]], 0),  # it is no shorter
        ([["a"], ["b", "c"]], 0),
        ([], 0),
    ],
)
def test_the_header_is_the_first_row_or_a_longer_one_that_names_more(
    rows: list[list[str]], header: int
):
    assert header_of(rows, ["title", "content"]) == header
