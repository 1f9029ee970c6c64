"""What the model is shown: a title becomes the text of a prompt.

In comes a title, out goes text in three parts: what a chat template says before the user's words,
those words, and what it says after. The parts stay apart because only the chat template may speak
in control tokens; a title never does, and neither does a system message. Nothing is tokenised here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from amazon_desc.data.encoding.tokenizer import control_strings
from amazon_desc.support.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TITLE = "{title}"

# Stand for the user's (or the model's) words, and for the system's, while a chat template is
# rendered once.
PLACEHOLDER = "\u27e6words\u27e7"
SYSTEM_PLACEHOLDER = "\u27e6system\u27e7"

# Braces around words, as Python, Jinja and people write a place to fill: {content}, {0}, { title },
# {brand name}, {row['title']}, {title!r}, {title:>20}, {}. JSON has quotes first, or commas, or a
# space after its colons.
FIELD = re.compile(
    r"""\{ [ \t]*
    (?: WORD (?: [ \t]+ WORD )* [ \t]* )?
    (?: ! \w )? (?: : [^\s{}"']* )?
    [ \t]* \}""".replace("WORD", r"\w [\w.-]* (?: \[ [^\[\]{}]* \] [\w.]* )*"),
    re.VERBOSE,
)


@dataclass(frozen=True)
class PromptSettings:
    """How a title is put to the model.

    Args:
        template: the prompt; {title} stands for the product's title, the description follows it;
            a backslash and an n are a line end
        chat: wrap it in the tokenizer's own chat template; null: exactly when it has one
        system: what the chat template is given as the system message; null: none
    """

    template: str = "Write a description for the product:\nTitle: {title}\nDescription:"
    chat: bool | None = None
    system: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "template", with_line_ends(self.template))
        refuse_other_fields(self.template)
        if TITLE not in self.template:
            raise UserError(
                f"--data.prompt.template: wanted {TITLE} in it at least once, found none in "
                f"{self.template!r}. Write for example 'Title: {TITLE}\\nDescription:'."
            )
        if self.system is not None:
            object.__setattr__(self, "system", system_text(self.system))


def with_line_ends(text: str) -> str:
    r"""Returns a text in which backslash and n, all that a shell can easily pass, are a line end.

    "Title: {title}\\nDescription:" -> "Title: {title}\nDescription:"
    """
    return text.replace("\\n", "\n")


def system_text(text: str) -> str:
    """Returns a system message in the form that is shown and stored.

    White space around it goes: some chat templates strip it, some do not.

    Raises:
        UserError: there is nothing in it, or a place to fill.
    """
    text = with_line_ends(text).strip()
    if not text:
        raise UserError(
            "--data.prompt.system: wanted a text, found none. Leave the option away for a prompt "
            "without a system message of your own."
        )
    for field in fields(text):
        raise UserError(
            f"--data.prompt.system: wanted a text that is the same for every product, found "
            f"{field} in {text!r}. Put the title into --data.prompt.template, and write other "
            f"brackets where braces are meant as text."
        )
    return text


def refuse_other_fields(template: str) -> None:
    """Refuses places to fill that nothing is put into: they would be learnt as they stand.

    Raises:
        UserError: the first of them as it is written, and what to do.
    """
    for field in fields(template):
        if field == TITLE:
            continue
        remedy = "Leave it out, the description follows the prompt by itself; and write other "
        remedy += "brackets where braces are meant as text."
        if re.match(r"[{\s]*title\b", field, re.IGNORECASE):
            remedy = f"Write {TITLE}."
        raise UserError(
            f"--data.prompt.template: wanted no place to fill but {TITLE}, found {field} in "
            f"{template!r}. {remedy}"
        )


def fields(text: str) -> Iterator[str]:
    """Yields the places to fill of a text, as they are written.

    'Title: {title} {{ name }} {"a": {title}}' -> "{title}", "{{ name }}", "{title}"
    """
    for field in FIELD.finditer(text):
        start, stop = field.span()
        is_doubled = text[start - 1 : start] == "{" and text[stop : stop + 1] == "}"
        yield text[start - 1 : stop + 1] if is_doubled else field[0]


class PromptText(NamedTuple):
    """`before` and `after` are the chat template's (control tokens count), `words` are text."""

    before: str
    words: str
    after: str


class Frame(NamedTuple):
    """What a chat template writes around the user's words and after a description."""

    before: str
    after: str
    after_description: str


NO_FRAME = Frame("", "", "")


class Prompter:
    """Writes prompts: `Prompter(settings, tokenizer)("Red Mug").words` is the filled template.

    Args:
        frame: what the chat template wrote when a run began, which may be the date of that day;
            None: what it writes now
    """

    def __init__(
        self,
        settings: PromptSettings,
        tokenizer: "PreTrainedTokenizerBase",
        frame: Frame | None = None,
    ) -> None:
        has_template = bool(tokenizer.chat_template)
        self.is_chat = has_template if settings.chat is None else settings.chat
        if self.is_chat and not has_template:
            raise UserError(
                "--data.prompt.chat true: the tokenizer of this base has no chat template. "
                "Set --data.prompt.chat false, or name a chat model with --model.backbone."
            )
        if settings.system is not None:
            refuse_system(settings.system, self.is_chat, tokenizer)
        self.template, self.system = settings.template, settings.system
        self.frame = NO_FRAME
        if self.is_chat:
            self.frame = chat_frame(tokenizer, self.system) if frame is None else frame
        # the frame, where the tokenizer's files do not say it for every day
        self.dated_frame = self.frame if self.is_chat and is_dated(tokenizer) else None

    def __call__(self, title: str) -> PromptText:
        return PromptText(self.frame.before, self.template.replace(TITLE, title), self.frame.after)


def refuse_system(system: str, is_chat: bool, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Refuses a system message that nothing would show, or that speaks in control tokens."""
    if not is_chat:
        why, remedy = "--data.prompt.chat is false", "set --data.prompt.chat true"
        if not tokenizer.chat_template:
            why, remedy = "this base has none", "name a chat model with --model.backbone"
        raise UserError(
            f"--data.prompt.system: only a chat template can show a system message, and {why}. "
            f"Put the text into --data.prompt.template, or {remedy}."
        )
    for control in sorted(control_strings(tokenizer)):
        if control in system:
            raise UserError(
                f"--data.prompt.system: wanted plain text, found {control}, a control token of "
                f"this base, in {system!r}. Leave it out: the chat template writes its own."
            )


def is_dated(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template can write the date, as Llama 3.2's does: tomorrow another one."""
    return "strftime_now" in str(tokenizer.chat_template)


def chat_frame(tokenizer: "PreTrainedTokenizerBase", system: str | None = None) -> Frame:
    """Returns what the chat template writes before the user's words, between them and the
    description, and after the description.

    For TinyLlama-Chat: ("<|user|>\\n", "</s>\\n<|assistant|>\\n", "</s>\\n"); with the system
    message "Be brief." the first is "<|system|>\\nBe brief.</s>\\n<|user|>\\n".

    Raises:
        UserError: the template cannot be used, or does not show what it is given exactly once.
    """
    from jinja2 import TemplateError

    user = {"role": "user", "content": PLACEHOLDER}
    answer = {"role": "assistant", "content": PLACEHOLDER}
    messages: list[Any] = [user]
    option, remedy = "--data.prompt.chat", "Set --data.prompt.chat false."
    if system is not None:
        messages = [{"role": "system", "content": SYSTEM_PLACEHOLDER}, user]
        option, remedy = "--data.prompt.system", "Put the text into --data.prompt.template instead."
    try:
        asked = str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
        answered = str(tokenizer.apply_chat_template([*messages, answer], tokenize=False))
    except TemplateError as error:
        raise UserError(
            f"{option}: the tokenizer's chat template cannot be used"
            f"{'' if system is None else ' with a system message'} ({error}). {remedy}"
        ) from error
    if asked.count(PLACEHOLDER) != 1 or answered.count(PLACEHOLDER) != 2:
        raise UserError(
            f"{option}: the tokenizer's chat template does not show the user's and the "
            f"assistant's words exactly once. {remedy}"
        )
    before, after = asked.split(PLACEHOLDER)
    num_shown = before.count(SYSTEM_PLACEHOLDER), after.count(SYSTEM_PLACEHOLDER)
    if system is not None and num_shown != (1, 0):
        raise UserError(
            f"{option}: the tokenizer's chat template does not show a system message exactly "
            f"once, before the user's words. {remedy}"
        )
    before = before.replace(SYSTEM_PLACEHOLDER, system or "")
    return Frame(before, after, answered.rsplit(PLACEHOLDER, 1)[1])
