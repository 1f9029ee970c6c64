"""Records of conversations -> the same records with a title and a description.

In come records in which a user asks and an assistant answers: `messages`, ShareGPT's
`conversations`, or Alpaca's `instruction` and `output`. What all users say around the title is the
frame; what is in it is the title, and the answer is the description. Where no frame shows, the file
is refused by name. Other records go through as they are.
"""

import marshal
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from amazon_desc.data.reading.files.sources import Fault, Meter, RawRecord
from amazon_desc.support.errors import DataError

NOT_AS_THE_FIRST = "conversation is not like the first ones"
NOT_A_TURN = "not one question and one answer"

_LOOK_AHEAD = 100
_HELD_BYTES = 1 << 22
_TITLE_CHARACTERS = 1000
_FEW = 3  # different questions that show a frame with a mark: "Title: ", line ends, quotes
_MANY = 10  # that show one of words alone

_ALPACA = {"instruction", "output"}
_SENTENCE_ENDS = ".?!"
_OPENERS = dict(zip("\"'`“„«‘<[(*", "\"'`”“»’>])*", strict=True))
# The last mark that a title may stand behind.
_MARK = re.compile(rf"(?s).*(?:[:\n>{re.escape(''.join(_OPENERS))}]|\s[-–—])\s*")


class _Turn(NamedTuple):
    """What was asked, and what was answered; None: nothing."""

    question: str
    answer: str | None


class Frame(NamedTuple):
    """What stands around the title in every question."""

    before: str
    behind: str

    def title(self, question: str) -> str | None:
        """Returns what is in the frame: "Describe: Mug." -> "Mug"; None: it is another frame."""
        end = len(question) - len(self.behind)
        is_framed = question.startswith(self.before) and question.endswith(self.behind)
        title = question[len(self.before) : end].strip() if is_framed else ""
        is_title = 0 < len(title) <= _TITLE_CHARACTERS and "\n" not in title
        return title if is_title else None


def conversation_rows(
    rows: Iterator[RawRecord | Fault], name: str, columns: Sequence[str], meter: Meter
) -> Iterator[RawRecord | Fault]:
    """Returns the records, those of a file of conversations with the columns asked for.

        {"messages": [{"role": "user", "content": "Describe: Mug"}, {"role": "assistant", ...
            -> {"messages": ..., "title": "Mug", "content": "It holds tea."}

    Args:
        columns: for the title, and of products for the description
    Raises:
        DataError: they are conversations, and what of them is the title cannot be told.
    """
    first: list[bytes | Fault] = []
    turns: list[_Turn | None] = []
    num_bytes = 0
    for row in rows:
        if isinstance(row, RawRecord) and not _is_conversation(row.values, columns):
            return chain(_unpacked(first), [row], rows)
        if isinstance(row, Fault):
            first.append(row)
        else:
            packed = marshal.dumps(tuple(row))  # of one line a million values may come
            first.append(packed)
            turns.append(_turn(row.values))
            num_bytes += len(packed)
        if len(first) == _LOOK_AHEAD or num_bytes > _HELD_BYTES:
            break
    records = chain(_unpacked(first), rows)
    if not turns:
        return records
    questions = [turn.question for turn in turns if turn is not None]
    frame = frame_of(questions) if len(questions) > len(turns) / 2 else None
    if frame is None:
        if any(isinstance(row, RawRecord) and _chat(row.values) for row in _unpacked(first)):
            _refuse(name, turns, questions)
        return records  # of Alpaca: its columns are told by name
    meter.remarks.append(
        f"{name}: these are conversations; the title is what stands between "
        f"{_shown(frame.before)} and {_shown(frame.behind)} in each question, as in "
        f"{_shown(frame.title(questions[0]))}, and the answer is the description"
    )
    return (_titled(row, frame, columns) for row in records)


def _unpacked(first: list[bytes | Fault]) -> Iterator[RawRecord | Fault]:
    return (row if isinstance(row, Fault) else RawRecord(*marshal.loads(row)) for row in first)


def _is_conversation(values: dict[str, Any], columns: Sequence[str]) -> bool:
    if any(column in values for column in columns):
        return False
    return bool(_chat(values)) or (values.keys() >= _ALPACA and not values.get("input"))


def _chat(values: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Returns (who, what) of every message; nothing of what is no chat."""
    for column, who, what in (("messages", "role", "content"), ("conversations", "from", "value")):
        messages = values.get(column)
        if isinstance(messages, list) and messages:
            if not all(isinstance(message, dict) and who in message for message in messages):
                return []
            return [(message[who], message.get(what)) for message in messages]
    return []


def _turn(values: dict[str, Any]) -> _Turn | None:
    """The one question with its answer; None: there are more, or other messages."""
    if not (messages := _chat(values)):
        messages = [("user", values.get("instruction")), ("assistant", values.get("output"))]
    told = [(who, what) for who, what in messages if who != "system"]
    who = ["user" if who == "human" else who for who, _ in told]
    if who not in (["user"], ["user", "assistant"], ["user", "gpt"], ["user", "model"]):
        return None
    texts = [_text(what) for _, what in told]
    question, answer = texts[0], texts[1] if len(texts) > 1 else None
    return _Turn(question.strip(), answer) if question is not None else None


def _text(content: Any) -> str | None:
    """The text of a message, which may be the one part of a list."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content = content[0].get("text")
    return content if isinstance(content, str) else None


def _titled(row: RawRecord | Fault, frame: Frame, columns: Sequence[str]) -> RawRecord | Fault:
    if isinstance(row, Fault) or not _is_conversation(row.values, columns):
        return row
    turn = _turn(row.values)
    if turn is None:
        return Fault(row.place, NOT_A_TURN)
    if (title := frame.title(turn.question)) is None:
        return Fault(row.place, NOT_AS_THE_FIRST)
    answers = {columns[1]: turn.answer} if len(columns) > 1 else {}
    return RawRecord(row.place, {**row.values, columns[0]: title, **answers})


def frame_of(questions: Sequence[str]) -> Frame | None:
    """Returns what all questions share around something that differs; None: it is not clear.

    "Describe: Red Mug", "Describe: Red Cup", "Describe: Hat" -> Frame("Describe: ", "")
    'Write about "Mug".', 'Write about "Cup".', ..            -> Frame('Write about "', '".')
    "Where is Rome?", "Who was Caesar?", ..                   -> None
    """
    different = sorted(set(questions))
    if len(different) < _FEW:
        return None
    is_sure = len(different) >= _MANY
    before = _common_start(different)
    mark = _MARK.match(before)
    start = mark[0] if mark else ""
    words = before[len(start) : before.rfind(" ") + 1]  # behind the mark: the title's, or not?
    if len(words.split()) > 2 or (words and not mark):
        if not is_sure or len(before.split()) < 2:
            return None
        start, mark = start + words, None
    rest = [question[len(start) :] for question in different]
    behind = _common_start([text[::-1] for text in rest])[::-1]
    end = _frame_end(start, behind, has_mark=mark is not None, is_sure=is_sure)
    if end is None or not (start or "\n" in end):
        return None
    frame = Frame(start, end)
    return frame if all(map(frame.title, different)) else None


def _common_start(texts: Sequence[str]) -> str:
    one, other = min(texts), max(texts)  # all others stand between these
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((n for n, (sign, its) in pairs if sign != its), min(len(one), len(other)))]


def _frame_end(start: str, behind: str, has_mark: bool, is_sure: bool) -> str | None:
    """The part of what all questions end with that is no part of a title."""
    if has_mark and (closer := _OPENERS.get(start.rstrip()[-1:])):
        return behind[behind.index(closer) :] if closer in behind else None
    if "\n" in behind:
        return behind[behind.index("\n") :]
    words = behind[behind.index(" ") :] if " " in behind else ""
    if len(words.split()) > (2 if has_mark else 1):
        return words if is_sure else None
    return behind[-1:] if behind[-1:] in _SENTENCE_ENDS else ""


def _refuse(name: str, turns: Sequence[_Turn | None], questions: Sequence[str]) -> None:
    found = f"questions as {_shown(questions[0])}" if questions else ""
    if len(questions) <= len(turns) / 2:
        found = "other numbers of them in most of the first"
    raise DataError(
        f"{name} holds conversations: wanted one question and one answer in each, with the same "
        f"words around the title in all ({_FEW} different ones at least), found {found}. Write "
        'an object a line with title and description: {"title": "Mug", "content": "Holds tea."}'
    )


def _shown(text: str | None) -> str:
    return repr((text or "")[:100])
