"""Promises of scripts/demo.py: both texts as predict writes them, in a browser of any width."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from amazon_desc import Describer
from amazon_desc.generation.decoding import DecodingSettings
from amazon_desc.generation.texts import Description
from amazon_desc.support.errors import UserError
from tests.browser import Browser, Tab
from tests.conftest import SCRIPTS, exit_code, load_script

SMALL = [
    *("--config", "quickstart.yaml", "--trainer.enable_progress_bar", "false"),
    *("--data.num_products", "60", "--data.num_scored", "2", "--trainer.max_steps", "2"),
    *("--data.validation_fraction", "0.1", "--model.lora.r", "4", "--trainer.accelerator", "cpu"),
    *("--model.decoding.max_new_tokens", "24", "--model.optimizer.init_args.lr", "0.03"),
]
TITLE = "Wooden <script>alert('sold')</script> Lamp & Shade"
SECONDS = 300  # far more than a page takes to be there


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return load_script("demo_page")


# Without a browser


def values_of(page: ModuleType, **given: Any) -> list[Any]:
    return [given.get(name, getattr(DecodingSettings(), name)) for name in page.INFOS]


def test_every_setting_that_changes_a_text_has_a_field_that_says_what_it_means(page: ModuleType):
    names = set(DecodingSettings.__dataclass_fields__) - {"num_candidates"}
    assert set(page.INFOS) == names
    assert all(info.endswith(".") for info in page.INFOS.values())
    assert page.settings_of(values_of(page)).keys() == names


def test_settings_are_what_stands_in_the_fields(page: ModuleType):
    found = page.settings_of(values_of(page, temperature=1, top_k=20.0, trim=True))
    assert (found["temperature"], found["top_k"], found["trim"]) == (1.0, 20, True)
    assert [type(found[name]) for name in ("temperature", "top_k")] == [float, int]
    for value, said in ((None, "found an empty field"), (2.5, "2.5: wanted a whole number")):
        with pytest.raises(UserError, match=said):
            page.settings_of(values_of(page, max_new_tokens=value))


@pytest.mark.parametrize(
    ("description", "note"),
    [
        (("A", None, 1), "1 token, 2 tokens/s. Writing…"),
        (("A mug.", "stop", 3), "3 tokens, 6 tokens/s. It ended by itself (stop)."),
        (("A", "length", 9), "9 tokens, 18 tokens/s. It was ended by max_new_tokens (length)."),
    ],
)
def test_a_text_has_its_length_its_speed_and_why_it_ended(page: ModuleType, description, note):
    assert page.note_on(Description(*description), 0.5, False) == note
    lost = page.note_on(Description(*description), 0.5, True)
    assert lost == f"{note} The title was too long: its end was not read."


def test_what_was_stopped_says_so(page: ModuleType):
    note = page.note_on(Description("A", None, 1), 0.5, False)
    assert page.note_when_stopped(note) == "1 token, 2 tokens/s. Stopped."
    whole = page.note_on(Description("A", "stop", 1), 0.5, False)
    assert page.note_when_stopped(whole) == whole


class Failing(SimpleNamespace):
    """A run that fails when it is to write."""

    data = SimpleNamespace(clean_title=str.strip)

    def stream(self, title: str, **settings: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("--model.decoding.top_p 2: wrong."), "top_p 2: wrong."),
        (torch.OutOfMemoryError("CUDA out of memory"), "There is too little memory for this."),
        (KeyError("ours"), "Something went wrong. The terminal"),
    ],
)
def test_whatever_fails_is_a_sentence(page: ModuleType, capsys, error: Exception, said: str):
    *_, shown = page.Page(Failing(error=error)).write("A", "Mug", *values_of(page))
    assert shown.problem.startswith(said)
    assert ("KeyError: 'ours'" in capsys.readouterr().err) == isinstance(error, KeyError)
    *_, shown = page.Page(Failing(error=error)).write("A", "  ", *values_of(page))
    assert shown.problem == "Write the title of a product first."


def test_a_port_that_is_taken_is_refused_before_a_base_is_loaded(tmp_path: Path, capsys):
    demo = load_script("demo")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as exit_:
            demo.main([str(tmp_path), "--port", str(port)])
    assert exit_.value.code == 2
    assert f"--port {port}: wanted a free port of 127.0.0.1" in capsys.readouterr().err


def test_without_gradio_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as exit_:
        load_script("demo").main([str(tmp_path)])
    assert exit_.value.code == 2
    assert "pip install -e '.[demo]'" in capsys.readouterr().err


# In a browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert exit_code(["fit", *SMALL, "--trainer.default_root_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def describer(run: Path) -> Describer:
    return Describer.from_run(run, accelerator="cpu")


# Runs the script, and writes down every host that the process asks for.
WATCHED = """
import runpy, sys
def heard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[1][0] if event == "socket.connect" else arguments[0]
        print("asked for", host, file=sys.stderr, flush=True)
sys.addaudithook(heard)
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Served:
    """A page that is served by a process of its own."""

    def __init__(self, run: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.files = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
        self.log = run.parent / f"{self.port}.txt"
        script = [str(SCRIPTS / "demo.py"), str(run), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCHED, *script, "--accelerator", "cpu"],
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent), "GRADIO_SHARE": "True"},
        )

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def wait(self) -> None:
        for _ in range(SECONDS * 10):
            if f"Open {self.address} in a browser" in self.said():
                return
            assert self.process.poll() is None, self.said()
            with pytest.raises(subprocess.TimeoutExpired):
                self.process.wait(0.1)
        raise AssertionError(self.said())


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[Served]:
    pytest.importorskip("gradio", reason="needs Gradio: install '.[demo]'")
    served = Served(run)
    try:
        served.wait()
        yield served
    finally:
        served.process.kill()
        served.process.wait()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def tab(request: pytest.FixtureRequest, browser: Browser, served: Served) -> Iterator[Tab]:
    tab = opened(browser, served, *request.param)
    yield tab
    elsewhere = [to for to in tab.requests if not to.startswith((served.address, "data:"))]
    assert elsewhere == []
    assert len(tab.requests) > 5
    assert tab.complaints == []
    tab.close()


def opened(browser: Browser, served: Served, width: int = 1280, height: int = 900) -> Tab:
    tab = browser.tab(width, height)
    tab.open(served.address)
    tab.wait_for(f"!!{button('Write')} && !{button('Write')}.disabled")
    return tab


def button(text: str) -> str:
    found = f"b.innerText.trim().startsWith({json.dumps(text)})"
    return f"[...document.querySelectorAll('button')].find(b => {found})"


def field(label: str) -> str:
    found = f"l.innerText.trim().startsWith({json.dumps(label)})"
    labels = f"[...document.querySelectorAll('label')].find(l => {found})"
    return f"{labels}.querySelector('input,textarea')"


TUNED, BASE = field("Tuned"), field("Base")
NOTES = "[...document.querySelectorAll('.note .prose')].map(n => n.innerText.trim())"
PROBLEM = "document.querySelector('.problem')?.innerText.trim()"
IS_DONE = f"!{button('Write')}.disabled && {button('Stop')}.disabled"


def write(tab: Tab, title: str, **settings: object) -> None:
    tab.fill(field("Title of a product"), title)
    for name, value in settings.items():
        tab.fill(field(name), str(value))
    tab.click(button("Write"))


def more_settings(tab: Tab) -> None:
    tab.click(button("More settings"))
    tab.wait_for(f"{field('seed')}.offsetParent != null")


@pytest.mark.slow
def test_both_texts_are_those_of_predict_and_grow_on_the_page(describer: Describer, tab: Tab):
    more_settings(tab)
    drawn = {"temperature": 1.5, "seed": 7, "max_new_tokens": 150, "min_new_tokens": 140}
    write(tab, TITLE, **drawn)
    seen: dict[str, list[str]] = {TUNED: [], BASE: []}
    tab.wait_for(f"{button('Write')}.disabled")
    while not tab.value(IS_DONE):
        for side, texts in seen.items():
            texts.append(tab.value(f"{side}.value"))
    notes = tab.value(NOTES)
    for (side, texts), has_lora, note in zip(seen.items(), (True, False), notes, strict=True):
        *_, whole = describer.stream(TITLE, has_lora=has_lora, **drawn)
        assert tab.value(f"{side}.value") == whole.description.text != ""
        growing = sorted(set(texts), key=len)
        assert len(growing) > 3
        assert all(whole.description.text.startswith(text) for text in growing)
        assert note.startswith(f"{whole.description.num_tokens} tokens, ")
        assert "tokens/s." in note
        assert f"({whole.description.finish_reason})" in note
    assert (
        tab.value(f"{TUNED}.value") == describer.predictions([TITLE], **drawn)[0].description.text
    )
    assert tab.value(f"{TUNED}.value") != tab.value(f"{BASE}.value")


@pytest.mark.slow
def test_the_fields_have_the_runs_own_settings_and_can_have_them_again(
    describer: Describer, tab: Tab
):
    assert tab.value(f"{field('max_new_tokens')}.value") == "24"
    assert tab.value(f"{field('frequency_penalty')}.value") == "0.6"
    write(tab, "Red Mug", max_new_tokens=3)
    tab.wait_for(f"{NOTES}[1].startsWith('3 tokens') && {IS_DONE}")
    tab.click(button("Back to the run"))
    tab.wait_for(f"{field('max_new_tokens')}.value == '24'")
    tab.click(button("Girls Ballet Tutu Neon Pink"))
    tab.wait_for(f"{field('Title of a product')}.value == 'Girls Ballet Tutu Neon Pink'")
    tab.click(field("Title of a product"))
    tab.press("Enter", 13, "\r")
    (text,) = describer(["Girls Ballet Tutu Neon Pink"])
    tab.wait_for(f"{TUNED}.value == {json.dumps(text)} && {IS_DONE}")


@pytest.mark.slow
def test_a_wrong_value_is_a_sentence_on_the_page(served: Served, tab: Tab):
    more_settings(tab)
    for settings, said in (
        ({"temperature": -1}, "temperature -1.0: wanted 0 or a positive number. Set it to such a"),
        ({"temperature": 0, "top_p": 0.5}, "top_p 0.5: it limits what is drawn"),
        ({"top_p": 1, "max_new_tokens": ""}, "max_new_tokens: wanted a number, found an empty"),
        ({"max_new_tokens": 2.5}, "max_new_tokens 2.5: wanted a whole number"),
    ):
        write(tab, "Red Mug", **settings)
        tab.wait_for(f"{PROBLEM}.startsWith({json.dumps(said)}) && {IS_DONE}")
        assert tab.value(f"{TUNED}.value + {BASE}.value") == ""
    write(tab, " ", max_new_tokens=3)
    tab.wait_for(f"{PROBLEM} == 'Write the title of a product first.' && {IS_DONE}")
    write(tab, "Red Mug")
    tab.wait_for(f"{NOTES}[1].startsWith('3 tokens') && {IS_DONE}")
    assert not tab.value(PROBLEM)
    assert "Traceback" not in served.said()


@pytest.mark.slow
def test_markup_in_a_title_is_text(tab: Tab):
    write(tab, "<img src=x onerror='document.title=1'><script>document.title=2</script>Mug")
    tab.wait_for(f"{NOTES}[1].includes('(') && {IS_DONE}")
    assert tab.value("document.title") == "amazon_desc"
    assert tab.value("[...document.images].filter(i => i.src.endsWith('/x')).length") == 0


@pytest.mark.slow
def test_nothing_lies_beyond_the_width_and_everything_can_be_reached(tab: Tab):
    more_settings(tab)
    assert tab.value("document.documentElement.scrollWidth <= window.innerWidth")
    names = [*("Write", "Stop", "Back to the run"), "Girls Ballet Tutu Neon Pink"]
    elements = [*map(button, names), *map(field, load_script("demo_page").INFOS), TUNED, BASE]
    for element in elements:
        tab.value(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = tab.value(f"{element}.getBoundingClientRect().toJSON()")
        assert box["width"] > 10, element
        assert 0 <= box["left"] < box["right"] <= tab.value("window.innerWidth"), element
        where = f"{box['left'] + box['width'] / 2}, {box['top'] + box['height'] / 2}"
        # nothing else lies over it
        assert tab.value(f"{element}.contains(document.elementFromPoint({where}))"), element


@pytest.mark.slow
def test_what_is_stopped_stays_as_far_as_it_is_written(tab: Tab):
    more_settings(tab)
    write(tab, "Red Mug", max_new_tokens=1500, min_new_tokens=1500)
    tab.wait_for(f"{TUNED}.value.length > 20")
    tab.click(button("Stop"))
    tab.wait_for(f"{NOTES}[0].endsWith('tokens/s. Stopped.') && {IS_DONE}")
    tab.wait_for(f"{NOTES}[1] == 'Stopped.'")
    write(tab, "Red Mug", max_new_tokens=5, min_new_tokens=0)
    tab.wait_for(f"{NOTES}[1].startsWith('5 tokens') && {IS_DONE}")


@pytest.mark.slow
def test_visitors_are_served_one_after_another_also_after_one_who_left(
    describer: Describer, served: Served, browser: Browser
):
    first, second, third = (opened(browser, served) for _ in range(3))
    more_settings(first)
    write(first, "Red Mug", max_new_tokens=1500, min_new_tokens=1500)
    first.wait_for(f"{TUNED}.value.length > 20")
    titles = ["Blue Lamp", "Oak Table"]
    for tab, title in zip((second, third), titles, strict=True):
        write(tab, title)
    first.close()
    for tab, title in zip((second, third), titles, strict=True):
        (text,) = describer([title])
        tab.wait_for(f"{TUNED}.value == {json.dumps(text)} && {IS_DONE}")
        assert tab.complaints == []
        tab.close()


@pytest.mark.slow
def test_ctrl_c_ends_it_and_nothing_was_asked_of_another_host_or_written_to_the_run(
    run: Path, served: Served, browser: Browser
):
    """After all that was asked of it before: this is the last test of the page."""
    tab = opened(browser, served)
    more_settings(tab)
    write(tab, "Red Mug", max_new_tokens=1500, min_new_tokens=1500)
    tab.wait_for(f"{TUNED}.value.length > 20")
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(SECONDS) == 0
    tab.close()
    said = served.said()
    asked = {line.split()[-1] for line in said.splitlines() if "asked for" in line}
    assert asked <= {"127.0.0.1", "localhost", "None"}
    assert "127.0.0.1" in asked
    assert "Traceback" not in said
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == served.files
