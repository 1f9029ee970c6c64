"""The data module: what the trainer is served, and that a stopped run goes on at its row."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
from torch.utils.data import DataLoader

from amazon_desc.data.cleaning.cleaner import CleaningSettings
from amazon_desc.data.datamodule import DescriptionData
from amazon_desc.data.encoding.prompts import PromptSettings
from amazon_desc.data.loading.batches import RowBatch
from amazon_desc.data.loading.order import Share
from amazon_desc.data.loading.titles import TitleTable
from amazon_desc.support.errors import UserError


@pytest.fixture
def options(tmp_path: Path, toy_tokenizer_folder: Path) -> dict[str, Any]:
    """Options of a data set of 400 mugs, a quarter of them for validation and for test."""
    rows = [
        {"title": f"mug w{n % 100} w{n // 100}", "content": " ".join(["A mug."] * (2 + n % 7))}
        for n in range(400)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "train_file": str(file),
        "validation_fraction": 0.25,
        "test_fraction": 0.25,
        "num_scored": 20,
        "prompt": PromptSettings(template="describe: {title}"),
        "max_seq_length": 40,
        "row_tokens": 128,
        "generation_batch_size": 8,
        "corpora": str(tmp_path / "corpora"),
        "backbone": str(toy_tokenizer_folder),
        "seed": 3,
    }


def opened(options: dict[str, Any], stage: str = "fit", **changes: Any) -> DescriptionData:
    data = DescriptionData(**{**options, **changes})
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        state=SimpleNamespace(fn=stage), default_root_dir="unused"
    )
    data.setup(stage)
    return data


def row_ids(data: DescriptionData) -> list[list[int]]:
    """Returns the ids of the rows that are trained on from here, in their order."""
    return [row for batch in data.train_dataloader() for row in batch.input_ids.tolist()]


def test_training_sees_every_row_once_an_epoch(options: dict[str, Any]):
    data = opened(options, num_epochs=2, batch_size=3)
    batches = list(data.train_dataloader())
    assert all(isinstance(batch, RowBatch) for batch in batches)
    rows = [row for batch in batches for row in batch.input_ids.tolist()]
    table = data.opened.rows()
    packed = [table[index]["input_ids"].tolist() for index in range(len(table))]
    stored = [ids + [2] * (128 - len(ids)) for ids in packed]
    assert len(stored) >= 20
    assert sorted(rows[: len(stored)]) == sorted(rows[len(stored) :]) == sorted(stored)
    assert rows[: len(stored)] != rows[len(stored) :]
    assert len(data.train_dataloader()) == -(-2 * len(stored) // 3)


def test_a_run_goes_on_at_the_row_where_it_stopped(options: dict[str, Any]):
    whole = row_ids(opened(options, num_epochs=2))
    for num_rows in (0, 1, 7, len(whole) - 1, len(whole)):
        stopped = opened(options, num_epochs=2)
        stopped.num_trained_rows = num_rows
        state = json.loads(json.dumps(stopped.state_dict()))
        resumed = opened(options, num_epochs=2)
        resumed.load_state_dict(state)
        assert row_ids(resumed) == whole[num_rows:]
        assert resumed.state_dict() == state


def test_another_batch_size_or_worker_goes_on_in_the_same_order(options: dict[str, Any]):
    whole = row_ids(opened(options))
    state = {**opened(options).state_dict(), "num_trained_rows": 5}
    resumed = opened(options, batch_size=4, num_workers=1)
    resumed.load_state_dict(state)
    assert row_ids(resumed) == whole[5:]


def test_the_state_of_other_data_is_refused_with_both_values(options: dict[str, Any]):
    state = opened(options).state_dict()
    other = opened(options, num_products=300)
    assert other.opened.fingerprint != state["corpus"]
    with pytest.raises(UserError, match="data files or --data options have changed") as error:
        other.load_state_dict(state)
    assert state["corpus"] in str(error.value)
    assert other.opened.fingerprint in str(error.value)
    assert other.num_trained_rows == 0


def scored(data: DescriptionData, loader: str = "val_dataloader") -> tuple[list[str], list[Any]]:
    rows, *of_titles = getattr(data, loader)()
    titles = [prompt.title for prompt in data.prompts()]
    assert len(of_titles) == (1 if data.stage == "fit" else 2), "one for each side"
    for loader_of_titles in of_titles:
        assert [n for batch in loader_of_titles for n in batch] == list(range(len(titles)))
    return titles, [batch.input_ids.tolist() for batch in rows]


def test_the_scored_examples_are_always_the_same(options: dict[str, Any]):
    titles, rows = scored(opened(options, "validate"))
    assert len(titles) == len(set(titles)) == 20
    again = scored(opened(options, "validate", seed=99, num_epochs=5, num_workers=1))
    assert again == (titles, rows)
    assert scored(opened(options, "validate", num_scored=7))[0] == titles[:7]
    tested = scored(opened(options, "test"), "test_dataloader")[0]
    assert len(tested) == 20
    assert not set(tested) & set(titles)


def test_training_data_beyond_the_held_out_does_not_change_what_is_scored(
    options: dict[str, Any],
):
    """With another share for test, validation keeps its titles and their order."""
    titles = scored(opened(options, "validate"))[0]
    assert scored(opened(options, "validate", test_fraction=0.1))[0] == titles


def test_loss_and_texts_are_measured_on_the_same_examples(options: dict[str, Any]):
    data = opened(options, "validate")
    rows, *_ = data.val_dataloader()
    num_examples = sum(int((batch.input_ids == 1).sum()) for batch in rows)  # <s> begins each
    assert num_examples == 20
    prompts = list(data.prompts())
    table = data.opened.held_out("validation").select(range(20)).to_list()
    assert [prompt.row for prompt in prompts] == list(range(20))
    for prompt, example in zip(prompts, table, strict=True):
        assert prompt.title == example["title"]
        assert prompt.reference == example["description"]
        assert prompt.reference.startswith("A mug. A mug.")
        assert prompt.ids == example["input_ids"][: example["num_prompt_tokens"]]


def test_while_training_only_a_few_texts_are_written(options: dict[str, Any]):
    titles, rows = scored(opened(options, "fit", num_sampled=2))
    all_titles, all_rows = scored(opened(options, "validate", num_sampled=2))
    assert titles == all_titles[:2]
    assert len(all_titles) > 2
    assert rows == all_rows
    assert opened(options, "fit", num_sampled=0).num_titles == 0


@pytest.mark.parametrize(
    ("loss_on", "first_target"), [("completion", 6), ("all", 1)], ids=["completion", "all"]
)
def test_loss_on_decides_what_is_learnt(options: dict[str, Any], loss_on: str, first_target: int):
    """A prompt is <s> ▁describe : ▁mug ▁w7 ▁w0, of 6 tokens."""
    batch = next(iter(opened(options, loss_on=loss_on).train_dataloader()))
    is_example = batch.input_ids.cumsum(dim=1) > 0
    is_padding = ~is_example | (batch.input_ids == 2) & ~batch.is_target
    wanted = (batch.position_ids >= first_target) & ~is_padding
    assert int(batch.is_target.sum()) > 20
    assert (batch.is_target == wanted).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_seq_length": 129},
            "--data.max_seq_length 129: an example must fit into a packed row, and "
            "--data.row_tokens is 128. ",
        ),
        (
            {"validation_fraction": 0.75},
            "--data.validation_fraction 0.75 and --data.test_fraction 0.25 leave nothing to "
            "train on; wanted a sum below 1.",
        ),
    ],
    ids=["lengths", "fractions"],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], change: dict[str, Any], message: str
):
    with pytest.raises(UserError) as error:
        DescriptionData(**{**options, **change})
    assert message in str(error.value)
    assert error.value.exit_code == 2


def predicting(
    options: dict[str, Any], data: bytes, name: str = "titles.txt", **changes: Any
) -> DescriptionData:
    """Returns the module of a command that predicts for a file of titles, which it has read."""
    path = Path(options["train_file"]).with_name(name)
    path.write_bytes(data)
    module = opened(options, "predict", **changes)
    table = path.with_name("table")
    module.table = TitleTable.read(path, "title", "none", table, module.clean_title)
    return module


def predicted(data: DescriptionData) -> tuple[list[str], list[list[int]]]:
    prompts = list(data.prompts())
    assert {prompt.reference for prompt in prompts} == {""}
    return [prompt.title for prompt in prompts], [prompt.ids for prompt in prompts]


def test_a_title_keeps_its_row_where_prediction_is_resumed(options: dict[str, Any]):
    """Titles are counted without the records that are skipped, or repeat one; rows with them."""
    data = predicting(options, b"a\n\nb\na\nc\nd\n\xff\ne\n")
    data.titles_at_a_time = 2
    assert data.num_titles == 5
    assert list(data.predict_dataloader()) == [[0, 1], [2, 3], [4]]
    data.left = [(3, 5)]
    assert list(data.predict_dataloader()) == [[3, 4]]
    assert [(p.row, p.title) for p in data.prompts()] == [(5, "d"), (7, "e")]
    assert [(p.row, p.title) for p in data.prompts([range(1, 3)])] == [(2, "b"), (4, "c")]
    data.left = []
    assert list(data.predict_dataloader()) == list(data.prompts()) == []


def test_several_processes_write_for_blocks_of_what_is_left_in_turn(options: dict[str, Any]):
    data = predicting(options, b"a\n\nb\na\nc\nd\n\xff\ne\nf\n")
    data.titles_at_a_time, data.left = 2, [(0, 3), (4, 6)]
    found = []
    for rank in range(2):
        data.share = Share(rank, 2)
        prompts = [(prompt.row, prompt.title) for prompt in data.prompts()]
        found.append((list(data.predict_dataloader()), prompts))
    assert found == [
        ([[0, 1], [4, 5]], [(0, "a"), (2, "b"), (7, "e"), (8, "f")]),
        ([[2]], [(4, "c")]),
    ]


def test_a_file_without_a_title_to_write_for_gives_no_prompts(options: dict[str, Any]):
    data = predicting(options, b"\n \n\xff\n")
    assert data.num_titles == 0
    assert list(data.predict_dataloader()) == list(data.prompts()) == []


class Writer(L.LightningModule):
    """Takes the numbers of titles, and writes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[list[int]] = []

    def predict_step(self, batch: list[int]) -> list[int]:
        self.taken.append(batch)
        return batch


def test_prediction_keeps_none_of_the_numbers_that_it_was_served(options: dict[str, Any]):
    """Of a loader that makes batches, Lightning notes the numbers that each is made of."""
    data = predicting(options, b"".join(b"mug %d\n" % number for number in range(20)))
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.predict(writer := Writer(), data.predict_dataloader(), return_predictions=False)
    assert writer.taken == [[*range(8)], [*range(8, 16)], [*range(16, 20)]]
    served = trainer.predict_dataloaders
    assert isinstance(served, DataLoader)
    assert getattr(served.batch_sampler, "seen_batch_indices", []) == []


def test_titles_are_served_as_written_and_encoded_as_cleaned(options: dict[str, Any]):
    lines = b"<b>red</b> &#109;ug\nmug w7\nred mug\n"
    titles, prompts = predicted(predicting(options, lines))
    assert titles == ["<b>red</b> &#109;ug", "mug w7"]
    assert prompts == [[1, 10, 11, 12, 13], [1, 10, 11, 13, 107]]
    assert not Path(options["corpora"]).exists()
    data = predicting(options, lines, cleaning=CleaningSettings(entities=False))
    titles, (uncleaned, *others) = predicted(data)
    assert titles == ["<b>red</b> &#109;ug", "mug w7", "red mug"]
    assert others == [prompts[1], prompts[0]]
    assert uncleaned != prompts[0]


def test_a_title_is_prompted_as_it_was_trained_on(options: dict[str, Any]):
    table = opened(options, "validate").opened.held_out("validation")
    lines = "".join(json.dumps({"title": title}) + "\n" for title in table["title"])
    titles, prompts = predicted(predicting(options, lines.encode(), "titles.jsonl"))
    assert titles == list(table["title"])
    assert len(prompts) > 50
    assert prompts == [row["input_ids"][: row["num_prompt_tokens"]] for row in table]


def test_a_title_that_reads_like_markup_is_scored_as_it_was_trained_on(
    options: dict[str, Any], tmp_path: Path
):
    """Its cleaned title is `The <b> mug w7`: cleaned once more, it would lose the word."""
    rows = [{"title": f"The &lt;b&gt; mug w{n}", "content": "A mug. A mug."} for n in range(40)]
    file = tmp_path / "books.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = opened(options, "validate", train_file=str(file))
    table = data.opened.held_out("validation").select(range(5)).to_list()
    assert all("<b>" in row["title"] for row in table)
    prompts = [prompt.ids for prompt in data.prompts()]
    assert prompts[:5] == [row["input_ids"][: row["num_prompt_tokens"]] for row in table]


def test_several_files_make_one_data_set(options: dict[str, Any], tmp_path: Path):
    lines = Path(options["train_file"]).read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text("".join(lines[:150]))
    (tmp_path / "b.jsonl").write_text("".join(lines[150:]))
    halves = opened(options, train_file=[str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    assert sorted(row_ids(halves)) == sorted(row_ids(opened(options)))


def test_the_corpus_is_opened_once(options: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    data = opened(options)
    corpus = data.corpus
    data.prepare_data()
    data.setup("fit")
    assert data.corpus is corpus
    assert capsys.readouterr().out.count("Data: 400 records") == 1
