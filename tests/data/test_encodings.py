"""Text in other encodings is read where its bytes are certain, else refused by name; never guessed.

All rows are invented.
"""

import io
from pathlib import Path

import pytest

from amazon_desc.data.corpus.product_files import BadRecords
from amazon_desc.data.reading.files import encodings
from amazon_desc.data.reading.files.encodings import codec_of, reading_of
from amazon_desc.data.reading.files.sources import LINE_BYTES, Meter
from amazon_desc.data.reading.formats import Form
from amazon_desc.data.reading.records import Fault, Product, read_products, read_title_records
from amazon_desc.support.errors import DataError, UserError

Found = list[tuple[str, str] | Fault]

HEADER = "title,content\n"
PORTUGUESE = (
    "Calça jeans azul,Calça confortável para o verão com botões. Não desbota.\n"
    "Xícara de café,Ótima opção de presente – 200 ml\n"
)
GERMAN = "Gartenstühle,Schöne Stühle für draußen: günstig und groß\nKanne,Preis 5 € statt 6 €\n"
SPANISH = "Camiseta niño,¡¡¡La mejor camiseta! Algodón suave\nSillón,¿Cómodo? Sí\n"
FRENCH = "Théière en grès,Une théière à l’ancienne… L’œuvre d’un potier\nChaise d’été,Légère\n"
ENGLISH = "Mug 5”,It’s a mug – 20° hot “nice”\nCup,½ off ® £5\n"
CAPITALS = "CALÇA,CALÇA CONFORTÁVEL PARA O VERÃO. “PROMOÇÃO”\n"
WESTERN = [PORTUGUESE, GERMAN, SPANISH, FRENCH, ENGLISH, CAPITALS]

OTHERS = {
    "cp1250": "Kubek,Piękny kubek z uchwytem: pojemność 300 ml. Żółty\nKrzesło,Łatwe do złożenia\n",
    "cp1251": "Кружка,Керамическая кружка объёмом 300 мл\nСтул,Удобный стул для всей семьи\n",
    "cp1253": "Κούπα,Όμορφη κεραμική κούπα με λαβή για τον καφέ\nΚαρέκλα,Άνετη καρέκλα κήπου\n",
    "cp1254": (
        "Kupa,Güzel bir kupa. Bulaşık makinesinde yıkanabilir: ağır değil\n"
        "Bahçe sandalyesi,Bütün aile için rahat sandalye: ışık geçirmez\n"
    ),
    "cp932": "マグカップ,美しい陶器のマグカップです。食器洗い機で洗えます。\n椅子,快適な椅子\n",
}


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def pairs(text: str) -> list[tuple[str, str]]:
    rows = [line.split(",") for line in text.splitlines()]
    return [(row[0], row[1]) for row in rows]


def read(path: Path, encoding: str | None = None) -> tuple[Found, list[str]]:
    """Returns what is read of a file, and what is said of it."""
    meter = Meter()
    records = list(read_products(path, meter=meter, form=Form(encoding=encoding)))
    found = [(r.title, r.description) if isinstance(r, Product) else r for r in records]
    return found, meter.remarks


def refusal(path: Path, encoding: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        read(path, encoding)
    return str(error.value)


# UTF-8


@pytest.mark.parametrize("text", [*WESTERN, *OTHERS.values()])
def test_utf8_is_read_in_silence(tmp_path: Path, text: str):
    path = written(tmp_path, "a.csv", (HEADER + text).encode())
    assert read(path) == (pairs(text), [])
    assert read(path, "utf-8") == (pairs(text), [])
    assert read(path, "UTF8") == (pairs(text), [])


@pytest.mark.parametrize("bad", [b"\xff", b"\xe9", b"\x93", b"\xf0\x9f"])
def test_one_bad_byte_in_utf8_is_one_bad_record_with_its_line(tmp_path: Path, bad: bytes):
    rows = [*PORTUGUESE.encode().splitlines(), b"Caf" + bad + b" mug,A mug", b"Mug,A mug"]
    path = written(tmp_path, "a.csv", HEADER.encode() + b"\n".join(rows))
    fault = Fault("a.csv, line 4", "not valid UTF-8")
    assert read(path) == ([*pairs(PORTUGUESE), fault, ("Mug", "A mug")], [])


def test_a_byte_that_is_no_letter_of_a_word_is_damage_in_ascii_too(tmp_path: Path):
    path = written(tmp_path, "a.csv", b"title,content\nMug,A m\xffg\nCup,A cup\n")
    assert read(path) == ([Fault("a.csv, line 2", "not valid UTF-8"), ("Cup", "A cup")], [])


def test_a_character_that_is_cut_at_the_end_of_what_is_looked_at_is_no_damage():
    assert reading_of("a", "Café".encode()[:-1], None).encoding == "utf-8"


# Windows-1252


@pytest.mark.parametrize("text", WESTERN)
@pytest.mark.parametrize("repeats", [1, 2_000], ids=["few", "many"])
def test_windows_1252_is_read_and_said_once_with_a_word(tmp_path: Path, text: str, repeats: int):
    path = written(tmp_path, "a.csv", (HEADER + text * repeats).encode("cp1252"))
    found, remarks = read(path)
    assert found == pairs(text) * repeats
    (remark,) = remarks
    assert remark.startswith("a.csv is read as Windows-1252 (--data.encoding cp1252), as its bytes")
    word = remark.partition("“")[2].removesuffix("”.")
    assert word in text
    assert not word.isascii()


def test_one_accent_in_all_of_a_file_is_read(tmp_path: Path):
    rows = "".join(f"Mug {number},A mug\n" for number in range(500))
    path = written(tmp_path, "a.csv", f"{HEADER}{rows}Café press,Makes tea\n".encode("cp1252"))
    found, remarks = read(path)
    assert found[-1] == ("Café press", "Makes tea")
    assert remarks[0].endswith("it holds “Café”.")


def test_an_accented_header_names_its_column(tmp_path: Path):
    path = written(tmp_path, "a.csv", "título,descrição\nXícara,De café\n".encode("cp1252"))
    records = read_products(path, "título", "descrição")
    assert list(records) == [Product("Xícara", "De café")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.tsv"])
def test_other_kinds_of_text_are_read_alike(tmp_path: Path, name: str):
    text = {
        "a.jsonl": '{"title": "Xícara de café"}\n',
        "a.txt": "Xícara de café\n",
        "a.tsv": "title\tx\nXícara de café\t1\n",
    }[name]
    meter = Meter()
    path = written(tmp_path, name, text.encode("cp1252"))
    titles = [record.title for record in read_title_records(path, meter=meter)]
    assert titles == ["Xícara de café"]
    assert meter.remarks[0].startswith(f"{name} is read as Windows-1252")


def test_bytes_that_it_does_not_have_are_bad_records(tmp_path: Path, monkeypatch):
    """Behind what is looked at; within, the file is not taken for Windows-1252."""
    rows = "Xícara,De café\n" * 30_000
    data = (HEADER + rows).encode("cp1252") + b"M\x81g,A mug\nCup,A cup\n"
    found, _ = read(written(tmp_path, "a.csv", data))
    assert found[-2:] == [Fault("a.csv, line 30002", "not valid UTF-8"), ("Cup", "A cup")]


def test_windows_1252_that_goes_on_as_utf8_is_refused(tmp_path: Path):
    """Otherwise each of its letters would be read as two signs: cafÃ©."""
    rows = "Mug,A mug\n" * 60_000
    data = (HEADER + "Xícara,De café\n" + rows).encode("cp1252") + "Xícara,De café\n".encode()
    path = written(tmp_path, "a.csv", data)
    assert "its beginning is Windows-1252 and what follows is UTF-8" in refusal(path)
    found, _ = read(path, "utf-8")
    assert found[0] == Fault("a.csv, line 2", "not valid UTF-8")
    assert found[-1] == ("Xícara", "De café")


def test_ascii_that_goes_on_as_windows_1252_loses_rows_that_are_counted(tmp_path: Path):
    data = (HEADER + "Mug,A mug\n" * 60_000 + "Xícara,De café\n" * 3).encode("cp1252")
    path = written(tmp_path, "a.csv", data)
    found, remarks = read(path)
    assert found[-1] == Fault("a.csv, line 60004", "not valid UTF-8")
    assert (len(found), remarks) == (60_003, [])
    bad, faults = BadRecords(2), [fault for fault in found if isinstance(fault, Fault)]
    bad.add(faults[0])
    bad.add(faults[1])
    with pytest.raises(DataError) as error:
        bad.add(faults[2])
    assert str(error.value).endswith(
        "Their file is likely in another encoding: name it, as in --data.encoding cp1252 for what "
        "Windows writes; or save it as UTF-8."
    )
    assert read(path, "cp1252")[0][-1] == ("Xícara", "De café")


def test_of_many_files_the_first_are_said(tmp_path: Path):
    meter = Meter()
    for number in range(9):
        path = written(tmp_path, f"{number}.csv", (HEADER + PORTUGUESE).encode("cp1252"))
        assert len(list(read_products(path, meter=meter))) == 2
    assert [remark[:5] for remark in meter.remarks] == ["0.csv", "1.csv", "2.csv"]


def test_one_damaged_byte_is_no_sign_of_an_encoding():
    bad = BadRecords(0)
    with pytest.raises(DataError, match=r"Mend the file, or raise the limit\.$"):
        bad.add(Fault("a.csv, line 3", "not valid UTF-8"))


# Other encodings


@pytest.mark.parametrize("encoding", list(OTHERS))
@pytest.mark.parametrize("repeats", [1, 2_000], ids=["few", "many"])
def test_other_encodings_are_refused_by_name_with_the_option(
    tmp_path: Path, encoding: str, repeats: int
):
    text = OTHERS[encoding] * repeats
    path = written(tmp_path, "a.csv", (HEADER + text).encode(encoding))
    message = refusal(path)
    assert message.startswith("a.csv: wanted text in UTF-8 (or Windows-1252), found another ")
    assert f"If that is right, add --data.encoding {encoding}; if not" in message
    word = message.partition("“")[2].partition("”")[0]
    assert word in text
    assert read(path, encoding) == (pairs(text), [])


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1250", "Hrnek,Krásný hrnek s uchem. Lze mýt v myčce\nŽidle,Dřevěná židle pro rodinu\n"),
        ("cp1250", "Bögre,Gyönyörű bögre: űrtartalma 300 ml. Erős\nSzék,Kényelmes: időtálló\n"),
        ("cp1250", "Cană,Cană frumoasă cu mâner: potrivită pentru maşina de spălat\n"),
        ("cp1250", "Šalica,Lijepa šalica s ručkom: može u perilicu. Udobna kuća\n"),
        ("cp850", "Calça,Calça confortável para o verão com botões: não desbota\n"),
        ("euc_jp", "マグカップ,美しい陶器のマグカップです。食器洗い機で洗えます。\n"),
        ("euc_jp", "あああ,いいい\n"),
        ("gb18030", "杯子,漂亮的陶瓷杯子: 容量300毫升\n"),
        ("mac_roman", "Théière,Une théière élégante à l’ancienne: très légère\n"),
    ],
    ids=["Czech", "Hungarian", "Romanian", "Croatian", "DOS", "Japanese", "kana", "Chinese", "Mac"],
)
def test_what_has_most_letters_in_common_with_windows_1252_is_not_taken_for_it(
    tmp_path: Path, encoding: str, text: str
):
    path = written(tmp_path, "a.csv", (HEADER + text).encode(encoding))
    assert refusal(path).startswith("a.csv: wanted text in UTF-8 (or Windows-1252), found another")
    assert read(path, encoding)[0] == pairs(text)


@pytest.mark.real
@pytest.mark.parametrize("num_rows", [5, 200, 2_000])
def test_real_rows_in_windows_1252_are_taken_for_it(real_dir: Path, num_rows: int):
    """Some of them were damaged by other programs, so of few rows some are refused."""
    products = [row for row in read_products(real_dir / "trn.json.gz") if isinstance(row, Product)]
    lines = [f"{p.title} {p.description}".encode("cp1252", "ignore") for p in products]
    parts = [b"\n".join(lines[at : at + num_rows]) for at in range(0, len(lines), num_rows)]
    found = [
        reading_of("a.txt", part[: 1 << 18], None).encoding for part in parts if not part.isascii()
    ]
    assert len(found) >= 5
    assert found.count("cp1252") >= 0.99 * len(found)


def test_an_encoding_that_is_named_is_taken(tmp_path: Path):
    path = written(tmp_path, "a.csv", (HEADER + "Žlutý,Šálek\n").encode("cp1250"))
    assert read(path, "windows-1250")[0] == [("Žlutý", "Šálek")]
    titles = [r.title for r in read_title_records(path, form=Form(encoding="cp1250"))]
    assert titles == ["Žlutý"]
    written(tmp_path, "a.txt", "Žlutý\n".encode("cp1250"))
    records = read_title_records(tmp_path / "a.txt", form=Form(encoding="cp1250"))
    assert [record.title for record in records] == ["Žlutý"]


def test_an_encoding_of_no_name_is_refused_with_near_ones(tmp_path: Path):
    path = written(tmp_path, "a.csv", b"title,content\n")
    assert refusal(path, "uft8") == (
        "--data.encoding uft8: wanted an encoding of text that Python knows, found none of that "
        "name. Near to it: utf-8."
    )
    assert "cp1252" in refusal(path, "cp1262")
    assert refusal(path, "?").endswith("Near to it: utf-8, cp1252, utf-16.")
    for name in ("base64", "rot13", "idna", "unicode_escape", "utf\0", "", "x" * 500):
        assert "found none of that name" in refusal(path, name)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("Windows-1252", "cp1252"), ("latin1", "iso8859-1"), ("UTF8", "utf-8"), ("utf-16", "utf-16")],
)
def test_names_of_encodings_are_those_of_python(name: str, codec: str):
    assert codec_of(name) == codec


# UTF-16


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt"])
def test_utf16_is_read_with_a_mark_or_without(tmp_path: Path, name: str, encoding: str):
    text = {
        "a.csv": "title,x\r\nXícara – 2,1\r\nMug,2\r\n",
        "a.tsv": "title\tx\r\nXícara – 2\t1\r\nMug\t2\r\n",
        "a.jsonl": '{"title": "Xícara – 2"}\n{"title": "Mug"}\n',
        "a.json": '[{"title": "Xícara – 2"}, {"title": "Mug"}]',
        "a.txt": "Xícara – 2\r\nMug\r\n",
    }[name]
    meter = Meter()
    path = written(tmp_path, name, text.encode(encoding))
    titles = [record.title for record in read_title_records(path, meter=meter)]
    assert titles == ["Xícara – 2", "Mug"]
    said = f"{name} is read as {encoding.upper()}, as its bytes show (--data.encoding {encoding})."
    assert meter.remarks == ([said] if encoding.endswith("e") else [])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
def test_characters_may_be_cut_where_a_part_ends(tmp_path: Path, monkeypatch, size: int):
    monkeypatch.setattr(encodings, "BUFFER_BYTES", 4 * size)
    text = HEADER + "Xícara 😀,De café\n" * 20
    path = written(tmp_path, "a.csv", text.encode("utf-16"))
    assert read(path)[0] == [("Xícara 😀", "De café")] * 20


def test_what_is_no_utf16_in_utf16_is_a_bad_record(tmp_path: Path):
    lone, good = b"\x00\xd8M\x00,\x00x\x00\n\x00", "Mug,A mug\n".encode("utf-16-le")
    data = (HEADER + "Mug,A mug\n").encode("utf-16") + lone + good
    found, _ = read(written(tmp_path, "a.csv", data))
    fault = Fault("a.csv, line 3", "not valid UTF-8")
    assert found == [("Mug", "A mug"), fault, ("Mug", "A mug")]


def test_a_nul_in_text_is_no_utf16(tmp_path: Path):
    path = written(tmp_path, "a.csv", b"title,content\nMu\0g,A mug\nCup,A cup\n")
    assert read(path)[0] == [Fault("a.csv, line 2", "NUL character"), ("Cup", "A cup")]


# Ends of lines


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_lines_that_end_with_a_carriage_return_alone_are_lines(tmp_path: Path, name: str):
    text = {
        "a.csv": 'title,content\rMug,"A\rmug"\rCup,A cup\r',
        "a.jsonl": '{"title": "Mug"}\r{"title": "Cup"}\r',
        "a.txt": "Mug\rCup\r",
    }[name]
    meter = Meter()
    records = list(read_title_records(written(tmp_path, name, text.encode()), meter=meter))
    assert [record.title for record in records] == ["Mug", "Cup"]
    said = f"{name}: its lines end with a carriage return alone, as those of old Macs do."
    assert meter.remarks == [said]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_an_end_of_two_signs_is_one_wherever_a_part_ends(tmp_path: Path, monkeypatch, size: int):
    """Behind what is looked at, a file of carriage returns may have line feeds as well."""
    stream = io.BytesIO(b"a\r\r\nb\n\r\r\n\r\nc\r")
    monkeypatch.setattr(encodings, "BUFFER_BYTES", 4 * size)
    reading = encodings.Reading("utf-8", True, has_returns=True)
    assert encodings.Recoded(stream, reading).readall() == b"a\n\nb\n\n\n\nc\n"


def test_a_long_line_is_no_longer_than_it_is(tmp_path: Path):
    """What counts is UTF-8, as of every file."""
    text = f"{'é' * (LINE_BYTES // 2)}\n{'é' * (LINE_BYTES // 2)}x\nMug\n"
    path = written(tmp_path, "a.txt", text.encode("cp1252"))
    records = list(read_title_records(path, form=Form(encoding="cp1252")))
    assert [record.reason for record in records] == ["", "line too long", ""]
