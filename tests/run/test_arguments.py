"""The order in which options and configs are typed does not matter."""

import pytest

from amazon_desc.run.options.arguments import in_order, with_titles_joined


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (
            "--model.lora.r 8 --config a.yaml fit --config=b.yaml",  # the worked example
            "fit --config a.yaml --config=b.yaml --model.lora.r 8",
        ),
        ("--config a.yaml fit", "fit --config a.yaml"),
        ("-c a.yaml fit --print_config", "fit -c a.yaml --print_config"),
        ("--print_config fit --config a.yaml", "fit --config a.yaml --print_config"),
        ("--trainer.max_steps -1 fit", "fit --trainer.max_steps -1"),
        ("--trainer.max_steps=-1 fit", "fit --trainer.max_steps=-1"),
        # a value that is called as a command is none
        ("--data.titles test predict", "predict --data.titles test"),
        (
            "fit --data.prompt.template test --config a",
            "fit --config a --data.prompt.template test",
        ),
        ("--data.prompt.chat true --data d.yaml fit", "fit --data d.yaml --data.prompt.chat true"),
        ("fit --model.lora l --model m --config c", "fit --config c --model m --model.lora l"),
        # a list grows in its order
        ("fit --x=A --x.a 1 --x+=B --x.a 2", "fit --x=A --x.a 1 --x+=B --x.a 2"),
        # for the parser to refuse
        ("", ""),
        ("fit --config", "fit --config"),
        ("fit --data.titles --config a", "fit --config a --data.titles"),
        ("fit a b --config c", "fit --config c a b"),
        ("serve --config c", "serve --config c"),
        ("--config c --help", "--config c --help"),
    ],
)
def test_the_command_comes_first_then_configs_then_the_rest(typed: str, meant: str):
    assert in_order(typed.split()) == meant.split()
    assert in_order(meant.split()) == meant.split()


@pytest.mark.parametrize(
    ("typed", "joined"),
    [
        (["predict"], ["predict"]),
        (["predict", "--data.title", "Red Mug"], ["predict", '--data.title=["Red Mug"]']),
        (
            ["predict", "--data.title", "1984", "--seed_everything", "1", "--data.title=[a]: -1"],
            ["predict", "--seed_everything", "1", '--data.title=["1984", "[a]: -1"]'],
        ),
        (["predict", "--data.title=-5 Mug"], ["predict", '--data.title=["-5 Mug"]']),
        (["predict", "--data.titles", "a.txt"], ["predict", "--data.titles", "a.txt"]),
    ],
)
def test_titles_that_are_typed_are_one_list(typed: list[str], joined: list[str]):
    assert with_titles_joined(typed) == joined
