"""Numbers -> figures as SVG that stands in a page: curves, histograms, dots with whiskers.

In come lines and labels of ours, out goes SVG without ids of others, metadata or a date: the same
numbers give the same text. Nothing that a user wrote is drawn: matplotlib would take a `$` for a
formula. matplotlib is imported when the first figure is drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 3.7, 2.4  # inches: as wide as a phone, so that its letters need no glasses
ROW = 0.46
GREY = "#5a5f66"
COLOURS = ("#14589c", "#b0480b", "#1d7044", "#7a3a94")
"""Of the runs; each is dark enough on white to be read."""
DASHES = ("-", "--", "-.", ":")

STYLE = {
    "svg.fonttype": "none",  # letters stay letters: small, and found by a search
    "svg.hashsalt": "amazon_desc",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same widths everywhere
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "figure.dpi": 100,
}
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


MOST = 1e100  # beyond it the numbers of an axis overflow


class Line(NamedTuple):
    """A line of a chart."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashes: str = "-"
    marker: str = ""


class Dot(NamedTuple):
    """A score of one side; without bounds it has no whisker."""

    label: str
    value: float
    low: float | None
    high: float | None
    colour: str


class Row(NamedTuple):
    """A score of all sides."""

    label: str
    dots: Sequence[Dot]


def can_be_drawn(*values: float | None) -> bool:
    """Whether there is an axis for these numbers; none for a bound that is not there."""
    return all(value is None or -MOST < value < MOST for value in values)


@contextmanager
def figure(height: float, **named: Any) -> Iterator[Figure]:
    """Yields an empty figure; a user's own settings of matplotlib change nothing in it."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)  # pyright: ignore (it wants keys as literals)
        yield Figure(figsize=(WIDTH, height), layout="constrained", **named)


def chart(
    name: str, lines: Sequence[Line], x_label: str, y_label: str, is_log: bool = False
) -> str:
    """Returns lines over optimizer steps, or whatever `x_label` says."""
    with figure(HEIGHT) as drawn:
        axes = drawn.add_subplot()
        for line in lines:
            is_point = len(line.x) == 1
            axes.plot(
                *(line.x, line.y, line.dashes),
                color=line.colour,
                label=line.label,
                marker="o" if is_point else line.marker,
                markersize=4,
            )
        if is_log:
            axes.set_yscale("log")
        labelled(axes, x_label, y_label, with_legend=len(lines) > 1)
        return svg_of(drawn, name)


def stairs(name: str, lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """Returns histograms as outlines over each other: x are the edges, one more than bins in y."""
    with figure(HEIGHT) as drawn:
        axes = drawn.add_subplot()
        for line in lines:
            axes.stairs(
                *(line.y, line.x),
                color=line.colour,
                linestyle=line.dashes,
                linewidth=1.5,
                label=line.label,
            )
        axes.set_ylim(bottom=0)
        labelled(axes, x_label, y_label, with_legend=len(lines) > 1)
        return svg_of(drawn, name)


def whiskers(name: str, rows: Sequence[Row], is_share: bool = False) -> str:
    """Returns a row a score, each on a scale of its own, or all of them from 0 to 1."""
    with figure(ROW * len(rows) + 0.5) as drawn:
        all_axes = drawn.subplots(len(rows), 1, squeeze=False, sharex=is_share)[:, 0]
        for axes, row in zip(all_axes, rows, strict=True):
            for place, dot in enumerate(reversed(row.dots)):
                axes.plot([dot.value], [place], "o", color=dot.colour, markersize=5)
                if dot.low is not None and dot.high is not None:
                    axes.plot([dot.low, dot.high], [place, place], color=dot.colour, linewidth=1.5)
            axes.set_ylim(-0.7, len(row.dots) - 0.3)
            axes.set_yticks([])
            axes.set_ylabel(row.label, rotation=0, ha="right", va="center")
            axes.spines["left"].set_visible(False)
            axes.margins(x=0.08)
            if is_share:
                axes.set_xlim(-0.02, 1.02)
            else:
                axes.locator_params(axis="x", nbins=4)
                axes.tick_params(labelsize=7, pad=1, length=2)
        return svg_of(drawn, name)


def labelled(axes: Axes, x_label: str, y_label: str, *, with_legend: bool) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.locator_params(axis="x", nbins=6, integer=True)
    axes.margins(x=0.02)
    if with_legend:
        axes.legend()


def svg_of(drawn: Figure, name: str) -> str:
    """Returns a figure as an element of a page; its ids begin with a name of its own."""
    written = io.BytesIO()
    drawn.savefig(written, format="svg", metadata=NO_METADATA)
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):  # a style would be one of the whole page
            if local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = local(element.tag)
        element.attrib = {local(key): value for key, value in element.attrib.items()}
    root.attrib = {"viewBox": root.attrib["viewBox"], "aria-hidden": "true", "focusable": "false"}
    text = ElementTree.tostring(root, encoding="unicode")
    return with_own_ids(text, name)


def local(tag: str) -> str:
    """{http://www.w3.org/2000/svg}path -> path"""
    return tag.rpartition("}")[2]


def with_own_ids(text: str, name: str) -> str:
    """Returns SVG in which ids that something refers to begin with a name, without the others."""
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', text))
    text = re.sub(r' id="([\w.-]+)"', lambda of: of[0] if of[1] in used else "", text)
    return re.sub(r'( id="|url\(#|href="#)([\w.-]+)', rf"\g<1>{name}-\g<2>", text)
