"""Promises of run/report/page.py: what is there is shown, what is not is said, nothing runs."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from amazon_desc.run.folder import RunFolder
from amazon_desc.run.report.page import harmless, write_report
from amazon_desc.support.errors import StorageError, UserError
from tests.run.report.made_run import TUNED, entry, line, make_run

pytestmark = pytest.mark.usefixtures("drawn")

HOSTILE = [
    "<script>alert(1)</script>",
    "]]></style></svg><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "{{ 7 * 7 }} {% raw %} $x^2$",
    "\x00\x1b[2J\x85\u202e\u2028\ud800",
]


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page_of(*runs: RunFolder) -> str:
    output = runs[0].path.parent / "page.html"
    write_report(runs, output)
    return output.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return " ".join(" ".join(Elements(page).texts).split())


def test_the_page_has_verdict_scores_texts_curves_and_commands(tmp_path: Path):
    text = text_of(page_of(make_run(tmp_path / "shop")))
    for said in (
        "Report of shop",
        "The tuned weights are better than the base on loss: 3.010 [2.950, 3.070] against 3.770",
        "loss lower is better 3.770 [3.710, 3.830] 3.010 [2.950, 3.070] −0.760 better, p < 0.001",
        "Lowest validation loss: 3.200 at step 200, higher after it",
        "Red Mug 39 one of the best real text A real text of the red mug 39. base ROUGE-L 0.05",
        "data trn.json.gz (sha256 abababababab…)",
        "base shop-base (sha256 cdcdcdcdcdcd…)",
        "a step 4 rows of 512 tokens",
        "took 1 h 2 min 5 s, pauses included",
        "python -m amazon_desc fit --config runs/shop/config.yaml --trainer.default_root_dir "
        "runs/shop-again",
        "python scripts/report.py runs/shop",
        "10 usable pairs of title and description, held-out ones too",
        "records read 1,240 trn.csv: fields are separated by ';' (--data.separator) for train",
        "left out: empty content 50 trn.csv, line 7: 'Red Mug': ''",
        "cannot be read: not valid UTF-8 10 trn.csv, line 9: not valid UTF-8 trn.csv, line 12",
    ):
        assert said in text
    assert "What is missing" not in text
    assert "/home/me" not in text


def test_two_runs_stand_side_by_side_with_what_differs(tmp_path: Path):
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "other", **{"model.lora.r": 8})]
    text = text_of(page_of(*runs))
    assert "one and other" in text
    assert "What differs option run 1 run 2 model.lora.r 16 8 All options" in text
    assert "score base tuned, run 1 tuned, run 2" in text
    assert "LoRA r 16, alpha 32, dropout none r 8, alpha 32, dropout none" in text
    assert "python scripts/report.py runs/other" in text


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The elements that a page of two runs without anything odd is made of."""
    place = tmp_path_factory.mktemp("ordinary")
    page = page_of(make_run(place / "one"), make_run(place / "other", **{"model.lora.r": 8}))
    found = {tag for tag, _ in Elements(page).found}
    assert {"svg", "article", "table", "pre", "details"} <= found
    return found


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_text_of_a_run_becomes_markup_or_steers_anything(
    tmp_path: Path, hostile: str, ordinary: set[str]
):
    metrics = {"validate": entry()}
    metrics["validate"]["measured_on"]["files"][0]["name"] = hostile
    metrics["validate"]["signatures"] = {hostile: hostile}
    metrics["validate"]["decoding"] = {hostile: hostile}
    tuned = {"description": hostile, "finish_reason": hostile}
    lines = [line(1, hostile, reference=hostile, tuned=tuned), line(2)]
    settings = {"model.schedule": hostile, hostile: hostile}
    run = make_run(tmp_path / "shop <b>&amp;", metrics, lines, **settings)
    run.config.write_text(f"trainer: {json.dumps({'default_root_dir': hostile})}\n# {hostile!r}\n")
    page = page_of(run, make_run(tmp_path / "plain", lines=lines[1:]))
    elements = Elements(page).found
    assert {tag for tag, _ in elements} <= ordinary
    assert not [name for _, attrs in elements for name in attrs if name.startswith("on")]
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", page) is None
    assert "script" not in {tag for tag, _ in elements}
    assert harmless(hostile) in "".join(Elements(page).texts)


def test_what_is_not_printable_is_spelled_out_and_what_languages_need_stays():
    assert harmless("Mug\x1b[2J\u202e\x00") == "Mug\\x1b[2J\\u202e\\x00"
    assert harmless("می\u200cخواهم 👩\u200d🔬 Größe\n½") == "می\u200cخواهم 👩\u200d🔬 Größe ½"


def test_tokens_and_keys_are_masked(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SHOP_API_KEY", "canary-of-a-key")
    run = make_run(tmp_path / "shop", lines=[line(1, "canary-of-a-key hf_abcdefghijklmnopqrst")])
    run.config.write_text("key: canary-of-a-key\n")
    page = page_of(run)
    assert "canary" not in page
    assert "hf_abc" not in page


def test_a_browser_is_told_to_run_and_load_nothing(tmp_path: Path):
    elements = Elements(page_of(make_run(tmp_path / "shop"))).found
    (policy,) = (a["content"] for tag, a in elements if a.get("http-equiv"))
    assert policy == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    loads = [a[k] for _, a in elements for k in ("src", "href", "action", "data") if k in a]
    assert loads
    assert [to for to in loads if not str(to).startswith(("#", "data:,"))] == []
    assert not {tag for tag, _ in elements} & {"script", "iframe", "object", "img", "base", "form"}


def test_ids_are_there_once_and_what_refers_to_them_finds_them(tmp_path: Path):
    page = page_of(make_run(tmp_path / "shop", metrics={"validate": entry(), "test": entry()}))
    elements = Elements(page).found
    ids = [attrs["id"] for _, attrs in elements if "id" in attrs]
    assert len(ids) == len(set(ids)) > 20
    used = {str(a["href"])[1:] for _, a in elements if str(a.get("href", "")).startswith("#")}
    used |= set(re.findall(r"url\(#([^)]+)\)", page))
    used |= {str(a["aria-labelledby"]) for _, a in elements if "aria-labelledby" in a}
    assert used <= set(ids)


def test_figures_say_what_is_on_them_to_those_who_do_not_see_them(tmp_path: Path):
    elements = Elements(page_of(make_run(tmp_path / "shop"))).found
    labels = [str(a["aria-label"]) for _, a in elements if a.get("role") == "img"]
    assert len(labels) == 6
    assert "Loss: training from 3.970 to 3.003; validation from 3.500 to 3.300." in labels
    assert any(label.startswith("Against the real texts, validation titles: loss base 3.77,")
               for label in labels)  # fmt: skip
    assert len([tag for tag, _ in elements if tag == "svg"]) == 6
    assert ("html", {"lang": "en"}) in elements


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("metrics.json", "metrics.json is missing or empty: scores are left out."),
        ("run.json", "run.json is missing or empty: what decided the run"),
        ("data_report.json", "data_report.json is missing or empty: what became of the data's"),
        ("config.yaml", "config.yaml is missing: the options are not shown."),
        ("tensorboard", "tensorboard/ holds no curves that can be read"),
        ("scored", "scored/ holds no titles: no texts are shown."),
    ],
)
def test_what_is_missing_or_damaged_is_left_out_and_said(tmp_path: Path, gone: str, said: str):
    run = make_run(tmp_path / "shop")
    path = run.path / gone
    path.rename(tmp_path / "elsewhere")
    assert said in text_of(page_of(run))
    if path.suffix:
        path.write_bytes(b"\xff{[ &a *a \x00")
        assert f"{gone} is damaged" in text_of(page_of(run))
    else:
        path.write_bytes(b"a file")
        assert said in text_of(page_of(run))


def test_the_older_metrics_and_an_unfinished_run_are_said_to_be_that(tmp_path: Path):
    metrics = {"validate": {"base": {"loss": 3.1}, "tuned": {"loss": 2.6}}}
    run = make_run(tmp_path / "shop", metrics=metrics)
    record = json.loads(run.record.read_text())
    del record["finished"]
    run.record.write_text(json.dumps(record))
    text = text_of(page_of(run))
    assert "loss lower is better 3.100 2.600 −0.500" in text
    assert "metrics.json has no intervals of validate: an older version wrote it." in text
    assert "This run has not finished" in text
    assert "finished not finished" in text


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, 0.0])
def test_a_number_of_any_size_stands_in_the_table(tmp_path: Path, value: float):
    metrics = {"validate": entry(tuned=TUNED | {"loss": value}, half=0.0)}
    text = text_of(page_of(make_run(tmp_path / "shop", metrics=metrics, num_points=1)))
    shown = {1e308: "1.0e+308", -1e308: "−1.0e+308"}.get(value, "0.000")
    assert f"loss lower is better 3.770 [3.770, 3.770] {shown} [{shown}, {shown}]" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is no run: wanted a folder in which fit"):
        write_report([RunFolder(tmp_path)], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_the_same_run_gives_the_same_bytes_whatever_a_user_set(tmp_path: Path):
    import matplotlib

    run = make_run(tmp_path / "shop")
    first = page_of(run)
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.fonttype": "path", "font.size": 30}):
        assert page_of(run) == first
        assert matplotlib.rcParams["lines.linewidth"] == 9


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch):
    run = make_run(tmp_path / "shop")
    run.report.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_report([run], run.report)
    assert run.report.read_text() == "before"
    assert list(run.path.glob(".tmp-*")) == []


def test_two_runs_with_the_longest_texts_and_curves_are_at_most_a_megabyte(tmp_path: Path):
    lines = []
    for number in range(40):
        sides = {
            side: {"description": f"{side} " + "&<漢" * 9_000, "rougeL": number / 100}
            for side in ("base", "tuned")
        }
        lines.append(line(number, f"{number} " + "&" * 9_000, reference="<" * 9_000, **sides))
    metrics = {"validate": entry(), "test": entry()}
    runs = [
        make_run(tmp_path / name, metrics, lines, num_points=3_000, **{"data.seed": name * 9_000})
        for name in ("a", "b")
    ]
    for run in runs:
        run.config.write_text("# " + "&" * 90_000)
    output = tmp_path / "page.html"
    write_report(runs, output)
    assert 300_000 < output.stat().st_size < 1_000_000
