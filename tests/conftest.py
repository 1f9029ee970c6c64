"""What several tests share: one thread, no hub, a tokenizer to check by eye, and the real rows."""
# ruff: noqa: E402 (torch must find the environment as it is set here)

import os

for name, value in (
    ("HF_HUB_OFFLINE", "1"),
    ("OMP_NUM_THREADS", "1"),
    ("TOKENIZERS_PARALLELISM", "false"),
):
    os.environ.setdefault(name, value)

import gc
import importlib.util
import runpy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch

from tests.browser import Browser, found_chromium, running_browser
from tests.processes import pytest_cmdline_main  # noqa: F401 (pytest calls it)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from amazon_desc.data.reading.records import Product
    from tests.hub_stand_in import StandInHub

torch.set_num_threads(1)
# To look for garbage among all that is imported took 8 % of the time.
gc.set_threshold(20_000, 50, 20)
if not torch.cuda.is_available():  # kernels run all the same; to be known before Triton is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def load_script(name: str) -> ModuleType:
    """Returns a script as a module, which can import its neighbours as a script that is run can."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def exit_code(arguments: list[str]) -> int:
    """Runs a command of the CLI where the project is; returns the code that it leaves with."""
    from amazon_desc.cli import main

    with chdir(SCRIPTS.parent):
        try:
            main(arguments)
        except SystemExit as exit_:
            return int(exit_.code or 0)
    return 0


def commands_in(place: Path, small: Sequence[str]) -> Callable[..., int]:
    """Returns a function that runs a command of the CLI, small, in a run folder of `place`.

    It takes the command, the run's name and further options, and returns the exit code; predict
    writes for `titles.txt` of `place`.
    """

    def call(command: str, name: str, *options: str) -> int:
        titles = ["--data.titles", str(place / "titles.txt")] if command == "predict" else []
        where = ["--trainer.default_root_dir", str(place / name)]
        return exit_code([command, *small, *where, *titles, *options])

    return call


def slow_case(*values: Any) -> Any:
    """Returns parameters of a test that only the slow speed runs: `not slow` has others of it."""
    return pytest.param(*values, marks=pytest.mark.slow)


def leave_out_drawings() -> dict[str, Any]:
    """Has reports of runs hold no drawings, which take a sixth of the time of a small fit.

    Returns what draws, by name.
    """
    from amazon_desc.run.report import drawing

    drawn = {name: getattr(drawing, name) for name in ("chart", "stairs", "whiskers")}
    for name in drawn:
        setattr(drawing, name, lambda *_, **__: "<svg></svg>")
    return drawn


@pytest.fixture(scope="session", autouse=True)
def left_out() -> dict[str, Any]:
    return leave_out_drawings()


@pytest.fixture(scope="module")
def drawn(left_out: dict[str, Any]) -> Iterator[None]:
    """For tests that look at what is drawn."""
    from amazon_desc.run.report import drawing

    with pytest.MonkeyPatch.context() as patch:
        for name, draws in left_out.items():
            patch.setattr(drawing, name, draws)
        yield


class Ended(NamedTuple):
    """How a program ended, named as in subprocess.CompletedProcess."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def imported_cli() -> None:
    """Lightning logs to the stderr of its import: not to that of a test, which is closed then."""
    import amazon_desc.cli  # noqa: F401


@pytest.fixture
def run_program(
    imported_cli: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Returns a function that runs what `python ARGUMENTS` runs, without a process of its own.

    A process takes 3 s to import torch and Lightning. The program is a script's path, or `-m` and a
    module. What it raises is raised here.
    """

    def run(*arguments: str, cwd: Path) -> Ended:
        capfd.readouterr()
        start = 1 if arguments[0] == "-m" else 0
        code = 0
        with monkeypatch.context() as patch, chdir(cwd):
            patch.setattr(sys, "argv", list(arguments[start:]))
            try:
                if arguments[0] == "-m":
                    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
                else:
                    runpy.run_path(arguments[0], run_name="__main__")
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return Ended(code, *capfd.readouterr())

    return run


# "▁" begins a word, as in TinyLlama's pieces: "a mug. w7" is ▁a ▁mug . ▁w7, the ids 20 13 21 107.
TOY_PIECES = {
    **{"<unk>": 0, "<s>": 1, "</s>": 2, "<|user|>": 3, "<|assistant|>": 4, "<|end|>": 5},
    **{"\n": 6, "▁": 7, "▁describe": 10, ":": 11, "▁red": 12, "▁mug": 13, "▁A": 19, "▁a": 20},
    **{".": 21, "▁It": 22, "▁holds": 23, "▁3": 24, "5": 25, "!": 26, '"': 27, ")": 28, "…": 29},
    **{"a": 30, "A": 31, "describe": 32, "red": 33, "mug": 34, "b": 35},
    **{character: 40 + index for index, character in enumerate("</s>|unk")},
    **{f"▁w{number}": 100 + number for number in range(100)},
}
TOY_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def make_toy_tokenizer(chat: bool = False) -> "PreTrainedTokenizerBase":
    """Returns a tokenizer of TOY_PIECES that puts BOS (1) in front, as TinyLlama's does."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(TOY_PIECES, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first"),
            pre_tokenizers.Split(Regex(r"[^▁\w]"), behavior="isolated"),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
    toy = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|end|>"] if chat else None,
    )
    toy.chat_template = TOY_CHAT_TEMPLATE if chat else None
    return toy


def config_of(shape: str) -> Any:
    """Returns the configuration of a published shape by its name in scripts/random_base.py."""
    from transformers import AutoConfig

    kind, settings = load_script("random_base").SHAPES[shape]
    return AutoConfig.for_model(kind, **settings)


tinyllama_config = partial(config_of, "tinyllama")
gemma_config = partial(config_of, "gemma3-4b")


@pytest.fixture(scope="session")
def toy_tokenizer() -> "PreTrainedTokenizerBase":
    return make_toy_tokenizer()


@pytest.fixture(scope="session")
def toy_chat_tokenizer() -> "PreTrainedTokenizerBase":
    """The same with a chat template, whose turns end with `<|end|>` (5) and not with EOS (2)."""
    return make_toy_tokenizer(chat=True)


@pytest.fixture(scope="session")
def toy_tokenizer_folder(
    tmp_path_factory: pytest.TempPathFactory, toy_tokenizer: "PreTrainedTokenizerBase"
) -> Path:
    """The toy tokenizer as a base's folder: what else a base has is there, but empty."""
    folder = tmp_path_factory.mktemp("toy_base")
    toy_tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    return folder


@pytest.fixture
def stand_in_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[StandInHub]":
    """A hub on this machine, from which this process downloads, into an empty cache."""
    from huggingface_hub import close_session

    from tests.hub_stand_in import StandInHub

    with StandInHub(tmp_path / "hf_home") as stand_in:
        talk_to(stand_in, monkeypatch)
        forget_downloads()
        close_session()
        yield stand_in
        close_session()
        forget_downloads()


def forget_downloads() -> None:
    """What one test looks up on the hub is not remembered for the next."""
    from amazon_desc.support import hub

    for remembered in (hub.download_base, hub.download_adapter, hub.repository):
        remembered.cache_clear()


def talk_to(stand_in: "StandInHub", monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets what huggingface_hub and we read once from the environment; waits are short."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    url = stand_in.endpoint
    short = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: time.sleep(seconds / 100)})
    for name, value in (
        ("constants.ENDPOINT", url),
        ("constants.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"),
        ("hf_api.api.endpoint", url),  # of the functions, such as huggingface_hub.model_info
        ("constants.HF_HUB_OFFLINE", False),
        ("constants.HF_HUB_CACHE", str(stand_in.home / "hub")),
        ("constants.HF_TOKEN_PATH", str(stand_in.home / "token")),
        ("constants.HF_HUB_DISABLE_XET", True),
        ("constants.HF_HUB_DISABLE_TELEMETRY", True),
        ("constants.HF_HUB_DOWNLOAD_TIMEOUT", 1),
        ("file_download._ETAG_RETRY_TIMEOUT", 1),  # of a HEAD's second try, else 60 s
        ("file_download.time", short),
        ("utils._http.time", short),
    ):
        monkeypatch.setattr(f"huggingface_hub.{name}", value)
    monkeypatch.setattr("amazon_desc.support.hub.HUB_SECONDS", 1)


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """The folder of real rows and tokenizers; one that is named but missing is a failure."""
    named = os.environ.get("AMAZON_DESC_REAL_DIR")
    if not named:
        pytest.skip("needs real rows and tokenizers: set AMAZON_DESC_REAL_DIR to their folder")
    folder = Path(named)
    if not folder.is_dir():
        pytest.fail(f"AMAZON_DESC_REAL_DIR={named}: no such folder")
    return folder


@pytest.fixture(scope="session")
def tinyllama(real_dir: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of TinyLlama-Chat; its 32,000 pieces are those of TinyLlama v1.1."""
    from amazon_desc.data.encoding.tokenizer import load_tokenizer

    return load_tokenizer(real_dir / "tinyllama")


@pytest.fixture(scope="session")
def real_products(real_dir: Path) -> "list[Product]":
    """The real rows that cleaning keeps."""
    from amazon_desc.data.cleaning.cleaner import Cleaner
    from amazon_desc.data.reading.records import Product, read_products

    records = read_products(real_dir / "trn.json.gz")
    clean = Cleaner()
    cleaned = [clean(record) for record in records if isinstance(record, Product)]
    products = [product for product in cleaned if isinstance(product, Product)]
    assert len(products) > 8_000
    return products


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    program = found_chromium()
    if program is None:
        pytest.skip("needs Chromium, and there is none here")
    with running_browser(program) as browser:
        yield browser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = {}
    if not torch.cuda.is_available():
        lacking["gpu"] = "needs a CUDA device, and there is none here"
    if importlib.util.find_spec("triton") is None:
        lacking["triton"] = "needs Triton, and it is not installed: it has packages for Linux only"
    for item in items:
        for name, reason in lacking.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))
