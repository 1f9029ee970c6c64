"""A name that there is not is taken for the few that it may have been meant for."""

import pytest

from amazon_desc.run.options.nearest import nearest

NAMES = [
    *("config", "seed_everything", "ckpt_path", "trainer.max_epochs", "trainer.max_steps"),
    *("trainer.min_epochs", "trainer.max_time", "trainer.precision", "model.backbone"),
    *("model.lora.r", "model.lora.alpha", "model.lora.dropout", "model.decoding.top_k"),
    *("model.decoding.top_p", "model.decoding.seed", "model.optimizer.init_args.lr"),
    *("data.train_file", "data.title", "data.titles", "data.title_column", "data.batch_size"),
    *("data.generation_batch_size", "data.max_seq_length", "data.max_bad_records"),
    *("data.cleaning.entities", "data.test_file", "data.test_fraction"),
]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        # the worked examples
        ("max_seq_length", ["data.max_seq_length"]),
        ("data.max_seq_len", ["data.max_seq_length"]),
        ("model.lora.rank", ["model.lora.r"]),
        ("lora_alpha", ["model.lora.alpha"]),
        ("trainer.max_stesp", ["trainer.max_steps"]),
        # of a group that there is not, or another one
        ("dat.train_file", ["data.train_file"]),
        ("model.lr", ["model.optimizer.init_args.lr"]),
        ("modle.lora.r", ["model.lora.r"]),
        ("fit.trainer.max_epochs", ["trainer.max_epochs"]),
        ("model.max_seq_lenght", ["data.max_seq_length"]),
        ("data.cleaning.entitie", ["data.cleaning.entities"]),
        # several, the likeliest first, and never more than three
        ("epochs", ["trainer.max_epochs", "trainer.min_epochs"]),
        ("batch_size", ["data.batch_size", "data.generation_batch_size"]),
        ("data.titl", ["data.title", "data.titles", "data.title_column"]),
        ("data.t", ["data.title", "data.titles", "data.test_file"]),
        # nothing is near
        ("model.lora.zzz", []),
        ("learning_rate", []),
        ("verbose", []),
        ("q", []),
        ("data.", []),
        ("", []),
    ],
)
def test_what_a_name_may_have_been_meant_for(name: str, meant: list[str]):
    assert nearest(name, NAMES) == meant
    assert nearest(name, reversed(NAMES)) == meant


def test_a_name_that_there_is_is_its_own_nearest():
    assert [nearest(name, NAMES)[0] for name in NAMES] == NAMES
