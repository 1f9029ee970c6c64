"""Promises of a report in a browser: whole on a phone, a desk and paper, and asking for nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from amazon_desc.run.report.page import write_report
from tests.browser import Browser, Tab
from tests.run.report.made_run import entry, line, make_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("drawn")]

LONG = "Supercalifragilisticexpialidocious" * 8
HOSTILE = "<script>document.title = 'ran'</script><img src='http://example.org/x.png'>"
# What is wider than the page and cannot be scrolled in a part of its own.
TOO_WIDE = """[...document.querySelectorAll('main *')].filter(
    e => !e.closest('.scores') && e.getBoundingClientRect().right > innerWidth + 1
).map(e => e.tagName + ' ' + e.className)"""
FIGURES = """[...document.querySelectorAll('figure svg')].map(e => {
    const box = e.getBoundingClientRect()
    return [box.width > 200, box.height > 40, e.getElementsByTagName('path').length > 3]
}).flat()"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of one run, and one of two whose texts would run and break it."""
    place = tmp_path_factory.mktemp("runs")
    metrics = {"validate": entry(), "test": entry()}
    lines = [line(1, HOSTILE, reference=HOSTILE), line(2, LONG, reference=LONG), line(3)]
    one = make_run(place / "one", metrics=metrics)
    hostile = make_run(place / LONG[:200], metrics, lines, **{"model.schedule": LONG})
    write_report([one], one.report)
    both = place / "report.html"
    write_report([hostile, one], both)
    return {"one": one.report, "both": both}


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(params=["one", "both"])
def tab(
    request: pytest.FixtureRequest, browser: Browser, pages: dict[str, Path], size: tuple[int, int]
) -> Iterator[Tab]:
    tab = browser.tab(*size)
    address = pages[request.param].as_uri()
    tab.open(address)
    tab.wait_for("document.readyState == 'complete' && location.protocol == 'file:'")
    yield tab
    assert tab.requests == [address]
    assert tab.complaints == []
    tab.close()


def test_all_of_it_is_there_without_scrolling_sideways(tab: Tab, size: tuple[int, int]):
    assert tab.value("document.documentElement.scrollWidth") <= size[0]
    assert tab.value(TOO_WIDE) == []
    figures = tab.value(FIGURES)
    assert len(figures) >= 3 * 8
    assert set(figures) == {True}
    assert tab.text().startswith(("Report of a run\n\none\n", "Runs side by side\n"))


def test_nothing_that_a_run_holds_is_run_or_loaded(tab: Tab):
    assert tab.value("document.title").startswith("Report of ")
    assert tab.value("document.querySelectorAll('script, img, iframe, object').length") == 0


def test_the_links_at_the_top_lead_to_their_sections(tab: Tab):
    links = tab.value("[...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))")
    assert links == ["scores", "texts", "curves", "about", "again"]
    assert tab.value(f"{links}.every(id => document.getElementById(id))")


def test_the_details_that_open_hold_what_they_name(tab: Tab, size: tuple[int, int]):
    tab.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert "case:mixed" in tab.text()
    assert "default_root_dir: runs/one" in tab.text()
    assert tab.value("document.documentElement.scrollWidth") <= size[0]
    assert tab.value(TOO_WIDE) == []


def test_letters_are_dark_enough_to_be_read(tab: Tab):
    """Contrast by WCAG 2.1, 1.4.3: at least 4.5 between letters and what is behind them."""
    assert tab.value(CONTRAST) == []


CONTRAST = """(() => {
    const light = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(of => {
            const part = of / 255
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
        })
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const behind = e => {
        for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor
            if (!colour.endsWith(', 0)')) return colour
        }
        return 'rgb(255, 255, 255)'
    }
    const found = []
    for (const e of document.querySelectorAll('body *:not(svg *)')) {
        if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())) continue
        const [a, b] = [light(getComputedStyle(e).color), light(behind(e))]
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
        if (contrast < 4.5) found.push(e.tagName + ' ' + e.className + ' ' + contrast)
    }
    return found
})()"""
