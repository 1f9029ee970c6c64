"""Spreadsheets are read like any table, within a bound, or the sentence says how."""

import sys
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from amazon_desc.data.reading.files.sources import Meter
from amazon_desc.data.reading.formats import Form
from amazon_desc.data.reading.records import Product, read_products, read_title_records
from amazon_desc.data.reading.tables import sheet_sizes
from amazon_desc.support.errors import DataError
from tests.data.sheets import Rows, write_ods, write_xlsx

Write = Callable[[Path, dict[str, Rows]], Path]
WRITERS = pytest.mark.parametrize(
    ("write", "name"), [(write_xlsx, "shop.xlsx"), (write_ods, "shop.ods")]
)
ROWS: Rows = [
    ["sku", "title", "content", "price", "since", "sold"],
    [7, "Red Mug", "Holds tea.\nAnd coffee.", 3.5, date(2026, 5, 1), True],
    [None],
    [8, 1984, None, 3.0, None, False],
]


def refusal(path: Path, **form) -> str:
    with pytest.raises(DataError) as error:
        list(read_products(path, form=Form(**form)))
    return str(error.value)


@WRITERS
def test_a_sheet_gives_its_rows_as_products_and_titles(tmp_path: Path, write: Write, name: str):
    path, meter = write(tmp_path / name, {"Shop": ROWS}), Meter()
    products = list(read_products(path, meter=meter))
    assert products == [Product("Red Mug", "Holds tea.\nAnd coffee."), Product("1984", "")]
    assert products[1].place == f"{name} (Shop), row 4"
    assert meter.remarks == []
    kept = [record.kept for record in read_title_records(path, kept=["sku", "price", "since"])]
    assert kept == [
        '{"sku":7,"price":3.5,"since":"2026-05-01"}',
        '{"sku":8,"price":3,"since":""}',
    ]
    assert [record.title for record in read_title_records(path, "since")] == ["2026-05-01", ""]
    assert [record.title for record in read_title_records(path, "sold")] == ["true", "false"]


@WRITERS
def test_the_first_sheet_with_the_columns_is_read_and_the_others_named(
    tmp_path: Path, write: Write, name: str
):
    notes: Rows = [["Read me"], ["All is here", "or there"]]
    meter = Meter()
    path = write(tmp_path / name, {"Notes": notes, "Shop": ROWS, "Old": ROWS, "None": []})
    assert len(list(read_products(path, meter=meter))) == 2
    assert meter.remarks == [f'{name}: the sheet "Shop" is read, not "Notes", "Old", "None"']


@WRITERS
def test_rows_in_front_of_the_header_are_passed_over(tmp_path: Path, write: Write, name: str):
    meter = Meter()
    path = write(tmp_path / name, {"Shop": [[None], ["Products of May"], [None], *ROWS]})
    products = list(read_products(path, meter=meter))
    assert products[0] == Product("Red Mug", "Holds tea.\nAnd coffee.")
    assert products[0].place == f"{name} (Shop), row 5"
    assert meter.remarks == [f"{name}: row 4 names the columns (--data.header_row)"]
    assert list(read_products(path, form=Form(header_row=4))) == products
    message = refusal(path, header_row=3)
    assert "wanted the names of the columns in row 3 (--data.header_row), found no" in message


@WRITERS
def test_columns_that_are_missing_are_named_as_in_any_table(
    tmp_path: Path, write: Write, name: str
):
    path = write(tmp_path / name, {"Shop": [["sku", "nimi"], [1, "Mug"]]})
    assert "the columns seen are sku, nimi. Name yours with" in refusal(path)
    path = write(tmp_path / name, {"Shop": [["title", "content", "content"], ["Mug", "a", "b"]]})
    assert "wanted one column 'content', found 2" in refusal(path)
    assert "holds no record" in refusal(write(tmp_path / name, {"Shop": [["title", "content"]]}))
    assert "wanted the names of the columns in the first rows" in refusal(
        write(tmp_path / name, {"Shop": []})
    )


def test_without_calamine_the_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    path = write_xlsx(tmp_path / "shop.xlsx", {"Shop": ROWS})
    assert refusal(path) == (
        f"{path}: spreadsheets are read by python-calamine, which is not installed. Install it "
        'with `pip install "amazon_desc[excel]"` (in a checkout: `pip install -e ".[excel]"`), '
        "or save the sheet as CSV."
    )


def test_the_format_of_before_2007_is_named(tmp_path: Path):
    (tmp_path / "shop.xls").write_bytes(b"\xd0\xcf\x11\xe0")
    message = refusal(tmp_path / "shop.xls")
    assert "the suffix '.xls' is not supported" in message
    assert "Save it as .xlsx or .csv" in message


@WRITERS
def test_a_workbook_that_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, name: str
):
    path = write(tmp_path / name, {"Shop": [*ROWS, *[[1, "x" * 1000, "y"]] * 200]})
    monkeypatch.setattr(sheet_sizes, "MOST_BYTES", 100_000)
    message = refusal(path)
    assert "MB when it is unpacked; spreadsheets are read up to 0. Save the sheet as CSV" in message
    monkeypatch.undo()
    monkeypatch.setattr(sheet_sizes, "MOST_CELLS", 204 * 6 - 1)
    assert "a sheet has 1,224 cells up to its last one" in refusal(path)
    monkeypatch.setattr(sheet_sizes, "MOST_CELLS", 204 * 6)
    assert len(list(read_products(path))) == 202


def test_a_cell_far_away_fills_no_memory(tmp_path: Path):
    """Read, it would take 500 GB and end the process."""
    path = write_xlsx(tmp_path / "shop.xlsx", {"Shop": ROWS})
    rewrite(path, "xl/worksheets/sheet1.xml", b'<c r="A4">', b'<c r="XFD1048576">')
    assert "a sheet has 17,179,869,184 cells up to its last one, empty ones" in refusal(path)
    path = write_ods(tmp_path / "shop.ods", {"Shop": [["title", "content"], ["Mug", "x"]]})
    repeated = b'table:number-columns-repeated="16384" office:value-type="string" >'
    rewrite(path, "content.xml", b'office:value-type="string" >', repeated)
    rewrite(
        path,
        "content.xml",
        b"<table:table-row>",
        b'<table:table-row table:number-rows-repeated="1000000">',
    )
    assert "a sheet has 65,536,000,000 cells" in refusal(path)


def test_a_text_that_stands_in_many_cells_counts_as_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each cell gets a copy of it: of half a megabyte, packed, may come gigabytes."""
    path = write_xlsx(tmp_path / "shop.xlsx", {"Shop": [["title", "content"], [0, 1], [0, 1]]})
    rewrite(path, "xl/worksheets/sheet1.xml", b"><v>", b' t="s"><v>')
    rewrite(
        path,
        "xl/_rels/workbook.xml.rels",
        b'Id="rId0"',
        b'Id="rs" Target="sharedStrings.xml" Type="http://schemas.openxmlformats.org/'
        b'officeDocument/2006/relationships/sharedStrings"/><Relationship Id="rId0"',
    )
    shared = b"<sst xmlns='http://schemas.openxmlformats.org/spreadsheetml/2006/main'>"
    shared += b"<si><t>Mug</t></si><si><t>%s</t></si></sst>" % (b"x" * 30_000)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("xl/sharedStrings.xml", shared)
    assert list(read_products(path)) == [Product("Mug", "x" * 30_000)] * 2
    monkeypatch.setattr(sheet_sizes, "MOST_BYTES", 60_000)
    assert "a sheet has 0 MB of texts that stand in several cells" in refusal(path)
    path = write_ods(tmp_path / "shop.ods", {"Shop": [["title", "content"], ["Mug", "y" * 30_000]]})
    rewrite(
        path,
        "content.xml",
        b'office:value-type="string" ><text:p>y',
        b'table:number-columns-repeated="3" office:value-type="string" ><text:p>y',
    )
    assert "MB of texts that stand in several cells; they are read up to 0" in refusal(path)


def test_empty_rows_and_cells_that_an_office_repeats_count_for_nothing(tmp_path: Path):
    path = write_ods(tmp_path / "shop.ods", {"Shop": ROWS})
    rest = (
        b'<table:table-row table:number-rows-repeated="1048572"><table:table-cell '
        b'table:number-columns-repeated="16384"/></table:table-row></table:table>'
    )
    rewrite(path, "content.xml", b"</table:table>", rest)
    assert len(list(read_products(path))) == 2


@WRITERS
def test_a_damaged_workbook_is_named(tmp_path: Path, write: Write, name: str):
    path = write(tmp_path / name, {"Shop": ROWS})
    whole = path.read_bytes()
    for length in range(1, len(whole), 97):
        path.write_bytes(whole[:length])
        assert f"{path} is damaged, protected" in refusal(path)
    path.write_bytes(b"<html><table><tr><td>title</td></tr></table></html>")
    assert f"{path} is a page of the web (HTML), not a file of products" in refusal(path)
    path.write_bytes(b"Mug and saucer")
    assert f"{path} is damaged, protected by a password or no spreadsheet" in refusal(path)
    zipped = tmp_path / f"other_{name}"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("notes.md", "Mug")
    assert f"{zipped} is damaged, protected or no spreadsheet" in refusal(zipped)


def rewrite(path: Path, member: str, old: bytes, new: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    assert old in members[member]
    members[member] = members[member].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
