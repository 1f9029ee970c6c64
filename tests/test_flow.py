"""The house's one rule: imports run one way, and a list of all files says which."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import amazon_desc

PACKAGE = Path(amazon_desc.__file__).parent

# A file may import only from files that stand before it.
ORDER = """
    support.errors support.ranks support.signals support.parents support.secrets
    support.printing support.files support.background
    support.locks
    support.mounts
    support.resources support.options support.allocator
    support.layouts support.digests support.hub_access support.hub
    data.reading.files.packing data.reading.files.kinds data.reading.files.encodings
    data.reading.files.sources data.reading.files.remote data.reading.files.places
    data.reading.files.standard_input data.reading.columns
    data.reading.values data.reading.tables.cells data.reading.tables.dialects
    data.reading.tables.delimited
    data.reading.json.mending data.reading.json.shapes data.reading.json.elements
    data.reading.json.columns data.reading.json.looks data.reading.json.start
    data.reading.json.records data.reading.json.conversations data.reading.tables.parquet_records
    data.reading.tables.arrow_records data.reading.tables.sheet_sizes data.reading.tables.sheets
    data.reading.formats data.reading.kept
    data.reading.first_records data.reading.records
    data.cleaning.markup data.cleaning.rules data.cleaning.language data.cleaning.content
    data.cleaning.cleaner
    data.encoding.tokenizer data.encoding.prompts data.encoding.vocabulary data.encoding.words
    data.encoding.encoder data.encoding.markers
    data.corpus.splits data.corpus.near_repeats data.corpus.pairs data.corpus.workers
    data.corpus.packing
    data.corpus.selection data.corpus.product_files data.corpus.tables data.corpus.report
    data.corpus.preparing data.corpus.corpus
    data.loading.batches data.loading.order data.loading.blocks data.loading.loaders
    data.loading.prompts
    data.loading.repeats data.loading.building data.loading.titles data.loading.position
    data.datamodule
    model.attention model.families model.overflow model.published model.adapter_folder
    model.adapter model.identity model.recomputation
    model.cost.shape model.cost.arithmetic model.cost.memory model.cost.writing model.cost.mfu
    model.loss model.suitability model.probe model.conversion model.backbone
    model.kernels.supported model.kernels.compiling model.kernels.copying
    model.kernels.cross_entropy model.kernels.dropout model.kernels.gate model.kernels.nf4
    model.kernels.norm model.kernels.rotary model.kernels.attention_tiles
    model.kernels.attention model.kernels.side_stream
    model.kernels.linear model.kernels.layer model.kernels.decoder model.kernels.from_peft
    model.kernels.head model.kernels.step
    model.machine model.skeleton model.plan model.writing_plan model.execution
    model.merging
    generation.decoding generation.choosing generation.texts generation.rounding
    generation.plain.merged generation.plain.attention generation.plain.cache
    generation.plain.generating generation.plain.batch generation.plain.stretching
    generation.plain.writer
    generation.engine.merged generation.engine.cache generation.engine.passes
    generation.engine.ngrams generation.engine.drawing generation.engine.slots
    generation.engine.queue
    generation.writing
    evaluation.repetition evaluation.facts evaluation.variety evaluation.counts evaluation.scores
    evaluation.intervals evaluation.counted evaluation.metrics evaluation.copied
    evaluation.summary
    evaluation.description_scores.description_scores
    training.exchange training.accumulation training.finite training.gradients training.schedule
    training.random_states training.lightning_internals training.guard training.scoring
    training.strategy training.stepping training.writing training.validating training.module
    export.weights export.decoding_options export.usage export.facts export.card export.folders
    export.shards export.merged export.adapter export.hub
    export.gguf.package export.gguf.quantizing export.gguf.families export.gguf.places
    export.gguf.metadata export.gguf.pretokenizers export.gguf.tokenizer export.gguf.writer
    export.gguf.adapter export.gguf.modelfile export.llama_cpp
    run.folder run.logger run.scored run.checkpoints run.model_card
    run.report.score_names run.report.values run.report.scores run.report.curves run.report.texts
    run.report.facts run.report.verdict run.report.drawing run.report.figures run.report.tables
    run.report.cards run.report.commands run.report.page
    run.options.arguments run.options.help run.options.trainer_options run.options.devices
    run.options.refusals run.options.linked
    run.options.former_names run.options.settings run.options.paths run.options.configs
    run.options.checks run.options.micro_batch
    run.options.given run.options.nearest run.options.wanted run.options.described
    run.options.explained
    run.launching
    run.callbacks.run_files run.callbacks.resuming run.callbacks.best_adapter
    run.callbacks.monitoring run.callbacks.progress
    run.callbacks.score_report run.callbacks.signals run.callbacks.reporting
    run.predicting.records run.predicting.forms run.predicting.lines run.predicting.summary
    run.predicting.source run.predicting.provenance run.predicting.output run.predicting.parts
    run.predicting.callback run.predicting.command
    run.failures run.terminal
    cli
    describer
    __main__
"""
FLOW = ORDER.split()

KNOW_LIGHTNING = (
    *("data.datamodule", "training.lightning_internals"),
    *("training.strategy", "training.stepping", "training.writing", "training.validating"),
    *("training.module", "run.", "cli"),
)
HEAVY = ("torch", "lightning", "transformers", "peft", "bitsandbytes", "datasets", "jsonargparse")


def path_of(name: str) -> Path:
    return PACKAGE.joinpath(*name.split(".")).with_suffix(".py")


def imported(source: str) -> Iterator[str]:
    """Yields every dotted name that a source imports, in functions and TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_imported(source: str) -> set[str]:
    """Returns the files of the package that a source imports, as names of FLOW."""
    found = set()
    for name in imported(source):
        if name == "amazon_desc" or name.startswith("amazon_desc."):
            parts = name.split(".")[1:]
            while parts and not path_of(".".join(parts)).is_file():
                parts.pop()
            # what is no file is a package or an attribute of one, and those are empty
            found.add(".".join(parts))
    return found - {""}


def test_an_import_is_found_wherever_it_stands():
    source = """
from typing import TYPE_CHECKING
import amazon_desc.support.hub as h
from amazon_desc import __version__
from amazon_desc.support import files
from amazon_desc.model import adapter as adapters
if TYPE_CHECKING:
    from amazon_desc.data.encoding.encoder import Encoder
def late():
    class Inner:
        import amazon_desc.cli
"""
    assert files_imported(source) == {
        "support.hub",
        "support.files",
        "model.adapter",
        "data.encoding.encoder",
        "cli",
    }
    assert "typing.TYPE_CHECKING" in set(imported(source))


def test_the_list_names_every_file():
    files = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert len(FLOW) == len(set(FLOW)) > 30
    assert files == set(FLOW)


@pytest.mark.parametrize("name", FLOW)
def test_imports_run_one_way(name: str):
    before = FLOW[: FLOW.index(name)]
    against = files_imported(path_of(name).read_text(encoding="utf-8")) - set(before)
    assert not against, f"{name} imports {sorted(against)}, which does not stand before it"


def test_the_stages_are_joined():
    """The check above would also pass on files that import nothing at all."""
    imports = {name: files_imported(path_of(name).read_text(encoding="utf-8")) for name in FLOW}
    assert sum(map(len, imports.values())) > 70
    assert "data.corpus.corpus" in imports["data.datamodule"]
    assert {"data.loading.batches", "model.loss"} <= imports["training.module"]
    assert "generation.writing" in imports["training.writing"]
    assert {"training.module", "data.datamodule", "run.folder"} <= imports["cli"]
    assert imports["__main__"] == {
        *("cli", "run.options.help", "support.parents", "support.printing", "support.ranks"),
        "support.signals",
    }


@pytest.mark.parametrize("name", FLOW)
def test_only_what_must_knows_lightning(name: str):
    roots = {found.split(".")[0] for found in imported(path_of(name).read_text(encoding="utf-8"))}
    if not name.startswith(KNOW_LIGHTNING):
        assert not roots & {"lightning", "lightning_fabric", "pytorch_lightning"}
    if name in ("data.datamodule", "training.module", "cli"):
        assert "lightning" in roots


def test_a_package_imports_nothing_by_itself():
    """But for what is asked of it by name, in a function, and for what only types need."""
    inits = sorted(PACKAGE.rglob("__init__.py"))
    assert len(inits) >= 6
    for path in inits:
        names = {name.partition(".")[0] for name in imported(path.read_text(encoding="utf-8"))}
        assert names <= ({"typing", "amazon_desc"} if path.parent == PACKAGE else set()), path
    program = f"import amazon_desc, sys; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=PACKAGE.parent)
    assert done.stdout == b"[]\n"


@pytest.mark.parametrize(
    ("arguments", "code", "beginning"),
    [
        (["--help"], 0, "usage: python -m amazon_desc {fit,validate,test,predict}"),
        (["-h"], 0, "usage: python -m amazon_desc"),
        (["--version"], 0, f"amazon_desc {amazon_desc.__version__}\n"),
        ([], 2, "usage: python -m amazon_desc"),
        (["fit", "--help"], 0, "usage: python -m amazon_desc fit [--config FILE]"),
        (["--config", "a.yaml", "predict", "-h"], 0, "usage: python -m amazon_desc predict"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_help_and_version_wait_for_no_heavy_import(arguments: list[str], code: int, beginning: str):
    program = f"""
import runpy, sys
sys.argv = ["amazon_desc", *{arguments!r}]
code = 0
try:
    runpy.run_module("amazon_desc", run_name="__main__")
except SystemExit as exit:
    code = exit.code
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith(beginning)
    assert (done.returncode, done.stderr) == (code, "[]\n")
