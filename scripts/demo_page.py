"""The page of demo.py: its fields, what a visitor is told, and what is written for whom.

In come a loaded run and what stands in the fields, out go texts while they grow, and what is said
of them. Who serves the page, and where, is not known here.
"""

import html
import re
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from amazon_desc.describer import Describer
from amazon_desc.generation.decoding import OPTION, DecodingSettings
from amazon_desc.generation.texts import Description
from amazon_desc.run.failures import is_out_of_memory
from amazon_desc.support.errors import UserError

EXAMPLES = (
    "Girls Ballet Tutu Neon Pink",
    "Stainless Steel Water Bottle, 750 ml, Navy",
    "Wooden Puzzle for Toddlers, 24 Pieces",
    "The Little Book of Bread: Baking at Home",
)
# More often than this nobody sees it, and a small model would wait for the page.
SECONDS_BETWEEN = 0.05

MAIN = {
    "max_new_tokens": "Most tokens of a text.",
    "temperature": "0: always the likeliest token. Above 0: tokens are drawn, the more freely the "
    "higher it is. 0.7 is usual.",
    "frequency_penalty": "Taken from a token for each time that the text has it already. 0: off.",
    "no_repeat_ngram_size": "No run of so many tokens is written twice. 0: off.",
}
MORE = {
    "top_p": "With a temperature: draw only from the likeliest tokens that have this probability "
    "together. 1: from all.",
    "top_k": "With a temperature: draw only from so many likeliest tokens. 0: from all.",
    "min_p": "With a temperature: draw only from tokens with this share of the likeliest one's "
    "probability. 0: from all.",
    "seed": "With a temperature: another number draws another text.",
    "repetition_penalty": "Above 1: what the text has already becomes less likely. 1: off.",
    "presence_penalty": "Taken once from each token that the text has already. 0: off.",
    "min_new_tokens": "Least tokens of a text.",
    "num_beams": "Above 1: beam search. The text then appears only when it is whole.",
    "trim": "A text that reaches max_new_tokens ends at its last whole sentence.",
}
INFOS = MAIN | MORE

GETTING_READY, WRITING, COMES_NEXT = "Getting ready…", "Writing…", "Comes after the tuned text."

CSS = """
.note { min-height: 1.5em; }
.problem { color: #b91c1c; font-weight: 600; }
.dark .problem { color: #fca5a5; }
"""

SIDES = {
    "tuned": (True, "Tuned, as trained in this run"),
    "base": (False, "Base, without that training"),
}


class Shown(NamedTuple):
    """What the page shows."""

    tuned: str = ""
    tuned_note: str = ""
    base: str = ""
    base_note: str = ""
    problem: str = ""

    def when_stopped(self) -> "Shown":
        notes = map(note_when_stopped, (self.tuned_note, self.base_note))
        return self._replace(**dict(zip(("tuned_note", "base_note"), notes, strict=True)))


# Settings


def settings_of(values: Sequence[Any]) -> dict[str, Any]:
    """Returns settings by name, of what stands in the fields of the page in the order of INFOS.

    Raises:
        UserError: a number is missing, or not whole where it has to be.
    """
    found: dict[str, Any] = {}
    for name, value in zip(INFOS, values, strict=True):
        kind = type(getattr(DecodingSettings(), name))
        if value is None:
            raise UserError(f"{name}: wanted a number, found an empty field. Write one.")
        if kind is int and value != int(value):
            raise UserError(f"{name} {value}: wanted a whole number. Write {round(value)}, say.")
        found[name] = kind(value)
    return found


# Writing


class Page:
    """What is written for a visitor: one at a time, the others wait in Gradio's queue."""

    def __init__(self, describer: Describer) -> None:
        self.describer = describer
        self.lock = threading.Lock()  # a visitor who leaves may leave a token half done
        self.stopped: set[str] = set()  # visitors who want no more of what is written for them

    def write(self, visitor: str, title: str, *values: Any) -> Iterator[Shown]:
        """Yields what the page shows for a title, and the values of its settings."""
        self.stopped.discard(visitor)
        shown = Shown()
        yield shown
        try:
            settings = settings_of(values)
            if not self.describer.data.clean_title(title or ""):
                raise UserError("Write the title of a product first.")
            shown = Shown(base_note=COMES_NEXT)
            for side, (has_lora, _) in SIDES.items():
                for text, note in self.side(title, has_lora, settings):
                    shown = shown._replace(**{side: text, f"{side}_note": note})
                    if visitor in self.stopped:
                        yield shown.when_stopped()
                        return
                    yield shown
        except Exception as error:
            yield Shown(problem=self.sentence(error))

    def side(
        self, title: str, has_lora: bool, settings: dict[str, Any]
    ) -> Iterator[tuple[str, str]]:
        """Yields a text and what is said of it, as often as it is worth to be shown.

        The speed is that of writing alone, without merging weights and without the page.
        """
        yield "", GETTING_READY
        with self.lock:
            growing = self.describer.stream(title, has_lora=has_lora, **settings)
        seconds, shown_at = 0.0, 0.0
        while True:
            with self.lock:
                start = time.perf_counter()
                found = next(growing, None)
                seconds += time.perf_counter() - start
            if found is None:
                return
            is_whole = found.description.finish_reason is not None
            if is_whole or time.perf_counter() - shown_at > SECONDS_BETWEEN:
                yield (
                    found.description.text,
                    note_on(found.description, seconds, found.is_shortened),
                )
                shown_at = time.perf_counter()

    def sentence(self, error: Exception) -> str:
        """Returns what a visitor is told; what is our own mistake stands on the terminal too."""
        if isinstance(error, UserError):  # without what only the command line has
            said = re.sub(", or leave it away for its default, .*$", ".", str(error))
            return said.replace(OPTION, "")
        if is_out_of_memory(error):
            return "There is too little memory for this. Lower max_new_tokens or num_beams."
        traceback.print_exception(error)
        return "Something went wrong. The terminal where the page was started says what."


def note_on(description: Description, seconds: float, is_shortened: bool) -> str:
    """Returns what is said of a text: "20 tokens, 40 tokens/s. It ended by itself (stop)." """
    _, reason, num_tokens = description
    count = f"{num_tokens} token{'s' * (num_tokens != 1)}, {num_tokens / seconds:.0f} tokens/s."
    how = {
        None: WRITING,
        "stop": "It ended by itself (stop).",
        "length": "It was ended by max_new_tokens (length).",
    }
    lost = " The title was too long: its end was not read." if is_shortened else ""
    return f"{count} {how[reason]}{lost}"


def note_when_stopped(note: str) -> str:
    """ "9 tokens, 40 tokens/s. Writing…" -> "9 tokens, 40 tokens/s. Stopped." """
    for waiting in (WRITING, GETTING_READY, COMES_NEXT):
        note = note.replace(waiting, "Stopped.")
    return note


# The page


def look() -> dict[str, Any]:
    """Returns theme and style, as a launch takes them: of fonts that come with Gradio."""
    import gradio as gr

    # what a field means is in a grey that is hard to read
    readable = {"block_info_text_color": "*body_text_color"}
    dark = {f"{name}_dark": color for name, color in readable.items()}
    return {"theme": gr.themes.Default().set(**readable, **dark), "css": CSS}


def build(page: Page, run: Path) -> Any:
    """Returns the page, as Blocks of Gradio."""
    import gradio as gr

    own = asdict(page.describer.decoding)
    with gr.Blocks(title="amazon_desc", analytics_enabled=False) as blocks:
        base = html.escape(str(page.describer.model.backbone))
        gr.HTML(
            f"<h1>Product descriptions</h1><p>Run <code>{html.escape(str(run))}</code>, trained on "
            f"the base <code>{base}</code>. Check every text before a customer reads it: sizes, "
            f"materials and authors may be invented.</p>"
        )
        title = gr.Textbox(
            label="Title of a product", max_lines=1, placeholder=EXAMPLES[0], autofocus=True
        )
        gr.Examples([[example] for example in EXAMPLES], title, label="Titles to try")
        with gr.Row():
            begin = gr.Button("Write", variant="primary", min_width=120)
            stop = gr.Button("Stop", interactive=False, min_width=120)
        problem = gr.HTML(elem_classes="problem", padding=False)
        with gr.Row():
            sides = []
            for _, label in SIDES.values():
                with gr.Column(min_width=280):
                    sides.append(text_field(gr, label))
                    sides.append(gr.HTML(elem_classes="note", padding=False))
        with gr.Accordion("How texts are written"):
            fields = settings_fields(gr, MAIN, own)
            with gr.Accordion("More settings", open=False):
                fields += settings_fields(gr, MORE, own)
            reset = gr.Button("Back to the run's own settings", size="sm")

        def buttons(is_writing: bool) -> list[Any]:
            return [gr.Button(interactive=not is_writing), gr.Button(interactive=is_writing)]

        def shown(request: gr.Request, title: str, *values: Any) -> Iterator[list[Any]]:
            row: list[Any] = []
            for found in page.write(str(request.session_hash), title, *values):
                # a field shows text as text, HTML does not
                notes = (found.tuned_note, found.base_note, found.problem)
                tuned_note, base_note, problem = map(html.escape, notes)
                row = [found.tuned, tuned_note, found.base, base_note, problem]
                yield [*row, *buttons(True)]
            yield [*row, *buttons(False)]

        def stopped(request: gr.Request) -> None:  # Gradio's `cancels` ends it anywhere, half shown
            page.stopped.add(str(request.session_hash))

        private: Any = {"api_visibility": "private", "show_progress": "hidden"}
        outputs = [*sides, problem, begin, stop]
        how = private | {"show_progress": "minimal", "show_progress_on": sides[0]}
        events = [begin.click, title.submit]
        gr.on(events, shown, [title, *fields], outputs, concurrency_limit=1, **how)
        stop.click(stopped, queue=False, **private)
        reset.click(lambda: [own[name] for name in INFOS], None, fields, queue=False, **private)
    return blocks.queue(max_size=20)


def text_field(gr: Any, label: str) -> Any:
    return gr.Textbox(label=label, lines=8, max_lines=16, interactive=False, buttons=["copy"])


def settings_fields(gr: Any, infos: dict[str, str], own: dict[str, Any]) -> list[Any]:
    """Returns a field for each setting, with the run's own value in it; numbers come first."""
    is_switch = {name: isinstance(own[name], bool) for name in infos}
    with gr.Row():
        fields = [
            gr.Number(own[name], label=name, info=info, min_width=240)
            for name, info in infos.items()
            if not is_switch[name]
        ]
    switches = [name for name in infos if is_switch[name]]
    return fields + [gr.Checkbox(own[name], label=name, info=infos[name]) for name in switches]
