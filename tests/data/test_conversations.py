"""Of conversations the title is read where all questions show it, and else they are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from amazon_desc.data.reading.files.sources import Meter
from amazon_desc.data.reading.json.conversations import Frame, frame_of
from amazon_desc.data.reading.records import (
    Fault,
    Product,
    read_products,
    read_title_records,
)
from amazon_desc.support.errors import DataError

TITLES = ["Red Mug", "Blue Cup", "Tin Pot"]
PRODUCTS = [Product(title, f"A {title} it is.") for title in TITLES]
QUESTIONS = [f"Write a description for: {title}" for title in TITLES]


def chat(question: str, answer: str, *, has_system: bool = False) -> dict[str, Any]:
    turn = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": [{"role": "system", "content": "You write."}] * has_system + turn}


def chat_of_parts(question: str, answer: str) -> dict[str, Any]:
    part = [{"type": "text", "text": question}]
    return {
        "messages": [{"role": "user", "content": part}, {"role": "assistant", "content": answer}]
    }


def share_gpt(question: str, answer: str) -> dict[str, Any]:
    turn = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "7", "conversations": [{"from": "system", "value": "You write."}, *turn]}


def alpaca(question: str, answer: str) -> dict[str, Any]:
    return {"instruction": question, "input": "", "output": answer}


FORMS = [chat, chat_of_parts, share_gpt, alpaca]


def file(folder: Path, rows: list[Any], is_array: bool = False) -> Path:
    path = folder / "shop.jsonl"
    path.write_text(json.dumps(rows) if is_array else "\n".join(map(json.dumps, rows)))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as error:
        list(read_products(path))
    return str(error.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_array", [False, True])
def test_conversations_with_the_same_words_around_the_title_are_products(
    tmp_path: Path, form: Any, is_array: bool
):
    rows = [
        form(question, product.description)
        for question, product in zip(QUESTIONS, PRODUCTS, strict=True)
    ]
    path = file(tmp_path, rows, is_array)
    meter = Meter()
    assert list(read_products(path, meter=meter)) == PRODUCTS
    assert meter.remarks == [
        "shop.jsonl: these are conversations; the title is what stands between 'Write a "
        "description for: ' and '' in each question, as in 'Red Mug', and the answer is the "
        "description"
    ]
    assert [record.title for record in read_title_records(path)] == TITLES


def test_a_question_without_an_answer_is_a_title(tmp_path: Path):
    rows = [{"messages": [{"role": "user", "content": question}]} for question in QUESTIONS]
    assert [record.title for record in read_title_records(file(tmp_path, rows))] == TITLES
    assert list(read_products(file(tmp_path, rows))) == [Product(title, "") for title in TITLES]


def test_later_conversations_of_another_kind_are_faults(tmp_path: Path):
    rows = [chat(f"Describe: Mug {number}", "Red.", has_system=True) for number in range(100)]
    others = [chat("Where is Rome?", "In Italy."), {"messages": chat("a", "b")["messages"] * 2}]
    records = list(read_products(file(tmp_path, [*rows, *others, {"n": 1}])))
    assert records[:100] == [Product(f"Mug {number}", "Red.") for number in range(100)]
    assert records[100:102] == [
        Fault("shop.jsonl, line 101", "conversation is not like the first ones"),
        Fault("shop.jsonl, line 102", "not one question and one answer"),
    ]


@pytest.mark.parametrize(
    ("questions", "frame"),
    [
        (QUESTIONS, Frame("Write a description for: ", "")),
        ([f"Describe: Red {title}" for title in TITLES], Frame("Describe: ", "")),
        ([f'Write about "{title}".' for title in TITLES], Frame('Write about "', '".')),
        (
            [f"Write about «{title}», please." for title in TITLES],
            Frame("Write about «", "», please."),
        ),
        ([f"{title}\n\nDescribe this." for title in TITLES], Frame("", "\n\nDescribe this.")),
        ([f"Title: {title}\nDescription:" for title in TITLES], Frame("Title: ", "\nDescription:")),
        ([f"Sell this: {title} Mug" for title in TITLES], Frame("Sell this: ", "")),
        (
            [
                f"Write a text on the product {letter}-Desk in our shop"
                for letter in "ABCDEFGHIJKLM"
            ],
            Frame("Write a text on the product ", " in our shop"),
        ),
        (
            [f"Title: {letter} Desk" for letter in "ABCDEFGHIJKLM"],
            Frame("Title: ", ""),
        ),
        (TITLES, None),
        (QUESTIONS[:2] * 5, None),
        (["Where is Rome?", "Who was Caesar?", "What is a mug?"], None),
        ([f"Describe the {title}" for title in TITLES], None),
        ([f"Title: {title}\n{title}" for title in TITLES], None),
        ([*QUESTIONS, "Write a description for: "], None),
    ],
)
def test_the_frame_is_what_all_questions_share_but_for_words_of_titles(
    questions: list[str], frame: Frame | None
):
    assert frame_of(questions) == frame


def test_conversations_of_which_the_title_cannot_be_told_are_refused_by_name(tmp_path: Path):
    rows = [chat(question, "So.") for question in ("Hi", "Where is Rome?", "Who was Caesar?")]
    assert refusal(file(tmp_path, rows)) == (
        "shop.jsonl holds conversations: wanted one question and one answer in each, with the same "
        "words around the title in all (3 different ones at least), found questions as 'Hi'. Write "
        'an object a line with title and description: {"title": "Mug", "content": "Holds tea."}'
    )
    rows = [{"messages": chat(question, "So.")["messages"] * 2} for question in QUESTIONS]
    assert "found other numbers of them in most of the first." in refusal(file(tmp_path, rows))


def test_alpaca_rows_without_a_frame_are_told_by_their_columns(tmp_path: Path):
    rows = [alpaca(title, "So.") for title in TITLES]
    assert "use --data.title_column instruction --data.desc" in refusal(file(tmp_path, rows))
    rows = [alpaca(question, "So.") for question in QUESTIONS]
    rows[1]["input"] = "Blue Cup"
    assert "use --data.title_column input --data.desc" in refusal(file(tmp_path, rows))
    assert list(
        read_products(file(tmp_path, rows[:1]), "instruction", description_column="output")
    ) == [Product(QUESTIONS[0], "So.")]


def test_records_that_have_the_columns_are_left_alone_whatever_else_is_in_them(tmp_path: Path):
    rows = [{"title": "Mug", "content": "Red.", **chat(QUESTIONS[0], "So.")}] * 3
    meter = Meter()
    assert list(read_products(file(tmp_path, rows), meter=meter)) == [Product("Mug", "Red.")] * 3
    assert meter.remarks == []
