"""What the model is shown: a title becomes the text of a prompt.

In comes a title, out goes text in three parts: what a chat template says before the user's words,
those words, and what it says after. The parts stay apart because only the chat template may speak
in control tokens; a title never does. Nothing is tokenised here.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from amazon_desc.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands for the user's (or the model's) words while a chat template is rendered once.
PLACEHOLDER = "\u27e6words\u27e7"


@dataclass(frozen=True)
class PromptSettings:
    """How a title is put to the model.

    Args:
        template: the prompt; {title} stands for the product's title, the description follows it
        chat: wrap it in the tokenizer's own chat template; null: exactly when it has one
    """

    template: str = "Write a description for the product:\nTitle: {title}\nDescription:"
    chat: bool | None = None

    def __post_init__(self) -> None:
        if self.template.count("{title}") != 1:
            raise UserError(
                f"--data.prompt.template: wanted {{title}} in it exactly once, got "
                f"{self.template!r}. Write for example 'Title: {{title}}\\nDescription:'."
            )


class PromptText(NamedTuple):
    """`before` and `after` are the chat template's (control tokens count), `words` are text."""

    before: str
    words: str
    after: str


class Prompter:
    """Writes prompts: `Prompter(settings, tokenizer)("Red Mug").words` is the filled template."""

    def __init__(self, settings: PromptSettings, tokenizer: "PreTrainedTokenizerBase") -> None:
        has_template = bool(tokenizer.chat_template)
        self.is_chat = has_template if settings.chat is None else settings.chat
        if self.is_chat and not has_template:
            raise UserError(
                "--data.prompt.chat true: the tokenizer of this base has no chat template. "
                "Set --data.prompt.chat false, or name a chat model with --model.backbone."
            )
        self.template = settings.template
        self.before, self.after, self.after_description = "", "", ""
        if self.is_chat:
            self.before, self.after, self.after_description = chat_frame(tokenizer)

    def __call__(self, title: str) -> PromptText:
        return PromptText(self.before, self.template.replace("{title}", title), self.after)


def chat_frame(tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str, str]:
    """Returns what the chat template writes before the user's words, between them and the
    description, and after the description.

    For TinyLlama-Chat: ("<|user|>\\n", "</s>\\n<|assistant|>\\n", "</s>\\n").
    """
    from jinja2 import TemplateError

    user = {"role": "user", "content": PLACEHOLDER}
    answer = {"role": "assistant", "content": PLACEHOLDER}
    try:
        asked = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        answered = tokenizer.apply_chat_template([user, answer], tokenize=False)
    except TemplateError as error:
        raise UserError(
            f"--data.prompt.chat: the tokenizer's chat template cannot be used ({error}). "
            f"Set --data.prompt.chat false."
        ) from error
    if str(asked).count(PLACEHOLDER) != 1 or str(answered).count(PLACEHOLDER) != 2:
        raise UserError(
            "--data.prompt.chat: the tokenizer's chat template does not show the user's and the "
            "assistant's words exactly once. Set --data.prompt.chat false."
        )
    before, after = str(asked).split(PLACEHOLDER)
    return before, after, str(answered).rsplit(PLACEHOLDER, 1)[1]
