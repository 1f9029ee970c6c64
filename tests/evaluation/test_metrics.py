"""Promises of the scores: the libraries' own numbers, however the texts are cut into batches."""

import math
import os
import random
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics.utilities import dim_zero_cat

from amazon_desc.evaluation.metrics import DESCRIPTION_SCORES, TargetLoss, TextScores, score_texts
from amazon_desc.support.errors import UserError

WORDS = [
    *("a", "the", "warm", "hats", "hat", "running", "runs,", "don't", "12.5", "(new)", "soft."),
    *("$3,000.00", "ballet-tutu", "R&amp;B", "ü", "書", "x\ty", "<b>", '"quoted"', ".", "!", " "),
]


def _random_texts(seed: int, num_texts: int, max_words: int = 14) -> tuple[list[str], list[str]]:
    """Pairs that share words; some predictions or references are empty, blank or equal."""
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randrange(max_words)))

    references = [text() for _ in range(num_texts)]
    predictions = []
    for reference in references:
        kind = draw.randrange(6)
        predictions.append({0: "", 1: " \n", 2: reference, 3: reference[:20]}.get(kind, text()))
    return predictions, references


def _in_batches(predictions: list[str], references: list[str], sizes: list[int]) -> TextScores:
    scores, start = TextScores(), 0
    for size in sizes:
        part = slice(start, start + size)
        scores.update(None, predictions[part], references[part], None)
        start += size
    assert start == len(predictions)
    return scores


def test_scores_by_hand() -> None:
    """warm, hat of 2 and 4 words: precision 1, recall 1/2, F1 2/3; the order is kept.

    BLEU has 3 and 5 tokens (13a parts the full stop): 3/3, 1/2 ("hat ."), 0/1 smoothed to 1/2,
    and no 4-gram at all, which makes the whole 0.
    """
    scores = score_texts(["warm hat."], ["a warm winter hat."])
    assert scores["rouge1"] == scores["rougeL"] == pytest.approx(2 / 3)
    assert scores["rouge2"] == 0.0
    assert scores["bleu"] == 0.0
    assert scores["length_ratio"] == 2 / 4


def test_bleu_by_hand_with_smoothing_and_brevity() -> None:
    """5 tokens against 6: 5/5, 3/4, 1/3, 0/2 smoothed to 1/4; brevity exp(1 - 6/5)."""
    bleu = score_texts(["a warm winter hat."], ["a warm nice winter hat."])["bleu"]
    assert bleu == pytest.approx(
        100 * math.exp(1 - 6 / 5) * (5 / 5 * 3 / 4 * 1 / 3 * 1 / 4) ** (1 / 4)
    )


def test_word_order_moves_rouge_l_but_not_rouge_1() -> None:
    scores = score_texts(["hat warm"], ["warm hat"])
    assert scores["rouge1"] == 1.0
    assert scores["rougeL"] == 0.5


def test_perfect_texts_score_full_marks() -> None:
    text = "a soft tutu of three layers"
    assert score_texts([text], [text], ["A Soft Tutu, 2"], [True]) == {
        "rouge1": 1.0,
        "rouge2": 1.0,
        "rougeL": 1.0,
        "bleu": pytest.approx(100.0),
        "chrf": pytest.approx(100.0),
        "loops": 0.0,
        "ended": 1.0,
        "length_ratio": 1.0,
        "invented": 0.0,
        "title_words": 2 / 3,
        "distinct1": 1.0,
        "distinct2": 1.0,
    }


def test_words_are_stemmed() -> None:
    assert score_texts(["running hats"], ["runs hat"])["rouge1"] == 1.0


@pytest.mark.parametrize("seed", range(60))
def test_bleu_is_sacrebleus_to_the_last_bit(seed: int) -> None:
    num_texts = 1 + seed % 30
    predictions, references = _random_texts(seed, num_texts)
    sizes = [1] * num_texts if seed % 2 else [num_texts]
    expected = sacrebleu.corpus_bleu(predictions, [references]).score
    assert _in_batches(predictions, references, sizes).compute()["bleu"] == expected


@pytest.mark.parametrize("seed", range(20))
def test_chrf_is_sacrebleus_to_the_last_bit(seed: int) -> None:
    predictions, references = _random_texts(seed, 1 + seed)
    expected = sacrebleu.corpus_chrf(predictions, [references]).score
    assert score_texts(predictions, references)["chrf"] == expected


def test_random_texts_reach_every_kind_of_bleu() -> None:
    """Else the equality above could hold for zeros only."""
    scores = [score_texts(*_random_texts(seed, 1 + seed % 30))["bleu"] for seed in range(60)]
    assert 0.0 in scores
    assert len({score for score in scores if 0 < score < 100}) > 40
    assert all("" in _random_texts(seed, 30)[0] for seed in range(60))


@pytest.mark.parametrize("seed", range(20))
def test_rouge_is_the_mean_f1_of_rouge_score(seed: int) -> None:
    predictions, references = _random_texts(seed, 25)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    found = score_texts(predictions, references)
    for key in ("rouge1", "rouge2", "rougeL"):
        pairs = zip(references, predictions, strict=True)
        each = [
            scorer.score(reference, prediction)[key].fmeasure for reference, prediction in pairs
        ]
        assert 0 < found[key] < 1
        assert found[key] == pytest.approx(sum(each) / 25, abs=1e-14)


@pytest.mark.real
def test_scores_of_real_texts_are_the_libraries(real_products) -> None:
    """Each description beside that of the next product, with words of its own."""
    references = [product.description[:400] for product in real_products[:60]]
    predictions = [f"{own[:150]} {other[:250]}" for own, other in pairwise(references)]
    references.pop()
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    pairs = zip(references, predictions, strict=True)
    each = [scorer.score(*pair) for pair in pairs]
    expected = {key: sum(of[key].fmeasure for of in each) / 59 for key in each[0]}
    expected["bleu"] = sacrebleu.corpus_bleu(predictions, [references]).score
    expected["chrf"] = sacrebleu.corpus_chrf(predictions, [references]).score
    found = score_texts(predictions, references)
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-9)
    assert 0.1 < found["rouge2"] < 0.9


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [7, 0, 13, 20], [39, 1]])
def test_batches_add_up(sizes: list[int]) -> None:
    predictions, references = _random_texts(3, 40)
    whole = score_texts(predictions, references)
    assert whole["bleu"] > 1
    parts = _in_batches(predictions, references, sizes).compute()
    assert parts["bleu"] == whole["bleu"]
    assert parts == pytest.approx(whole, abs=1e-14)


def test_ranks_add_up() -> None:
    """What joining makes of the states of two ranks is what one rank would have."""
    predictions, references = _random_texts(5, 30)
    ranks = [TextScores(), TextScores()]
    ranks[0].update(None, predictions[:11], references[:11], None)
    ranks[1].update(None, predictions[11:], references[11:], None)
    merged = TextScores()
    for name, reduction in merged._reductions.items():
        assert reduction is dim_zero_cat
        parts = [part for rank in ranks for part in getattr(rank, name)]
        setattr(merged, name, dim_zero_cat(parts))
    merged._update_count = 1
    assert merged.compute() == pytest.approx(score_texts(predictions, references), abs=1e-14)


def test_score_texts_waits_for_no_other_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a rank that writes a report alone would wait for ever."""

    def wait(*args: object, **kwargs: object) -> None:
        raise TimeoutError

    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    monkeypatch.setattr("torchmetrics.Metric._sync_dist", wait)
    together = TextScores()
    together.update(None, ["hat"], ["hat"], None)
    with pytest.raises(TimeoutError):
        together.compute()
    assert score_texts(["hat"], ["hat"])["rouge1"] == 1.0


def test_reset_forgets_and_no_state_reaches_a_checkpoint() -> None:
    scores = TextScores()
    scores.update(None, ["wrong"], ["right"], None)
    scores.reset()
    scores.update(None, ["right"], ["right"], None)
    assert scores.compute()["rouge1"] == 1.0
    assert scores.state_dict() == {}
    assert TargetLoss().state_dict() == {}


def test_unequal_numbers_of_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 predictions but 1 references"):
        TextScores().update(None, ["a", "b"], ["a"], None)
    with pytest.raises(ValueError, match="0 predictions but 1 references"):
        score_texts([], ["a"])
    with pytest.raises(ValueError, match="1 predictions but 2 titles"):
        score_texts(["a"], ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="1 texts but 2 of has_ended"):
        score_texts(["a"], ["a"], ["a"], [True, True])


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_texts_have_no_score() -> None:
    with pytest.raises(UserError, match="at least one prediction"):
        TextScores().compute()
    with pytest.raises(UserError, match="at least one prediction"):
        score_texts([], [])


def test_loss_is_weighted_by_targets_not_by_batches() -> None:
    """8 nats over 8 targets; the mean of the two means would be (3 + 1/3) / 2."""
    loss = TargetLoss()
    loss.update(torch.tensor(6.0), 2)
    loss.update(torch.tensor(2.0), torch.tensor(6))
    assert loss.compute() == {"loss": 1.0, "perplexity": pytest.approx(math.e)}


def test_losses_of_examples_and_of_batches_add_up() -> None:
    """Two examples and one batch: 8 nats over 8 targets, 6 of which are the first choice."""
    loss = TargetLoss()
    loss.update(torch.tensor([5.0, 1.0]), torch.tensor([1, 1]), torch.tensor([0, 1]))
    loss.update(torch.tensor(2.0), 6, 5)
    assert loss.compute() == {"loss": 1.0, "perplexity": pytest.approx(math.e), "accuracy": 0.75}
    assert loss.total_targets == 8
    assert loss.counted().rows.tolist() == [[5, 1, 0], [1, 1, 1], [2, 6, 5]]
    loss.update(torch.tensor(2.0), 2)
    assert "accuracy" not in loss.compute()


def test_loss_keeps_no_graph_and_survives_inference_mode() -> None:
    loss = TargetLoss()
    with torch.inference_mode():
        loss.reset()
        loss.update(torch.tensor(1.0), 1)
    loss.update(torch.tensor(3.0, requires_grad=True) * 1.0, 1)
    assert not any(part.requires_grad for part in loss.loss_sums)
    assert loss.compute()["loss"] == 2.0


def test_sums_stay_exact_in_a_module_cast_to_bf16() -> None:
    loss, scores = TargetLoss().to(torch.bfloat16), TextScores().to(torch.bfloat16)
    for _ in range(1000):
        loss.update(torch.tensor(1.0), 1)
        scores.update(None, ["hat"], ["hat"], None)
    assert loss.compute()["loss"] == 1.0
    assert scores.compute()["rouge1"] == 1.0


def test_perplexity_of_a_huge_loss_is_infinite_and_nan_stays_nan() -> None:
    huge, broken = TargetLoss(), TargetLoss()
    huge.update(torch.tensor(1e6), 1)
    broken.update(torch.tensor(math.nan), 1)
    assert huge.compute() == {"loss": 1e6, "perplexity": math.inf}
    assert all(math.isnan(value) for value in broken.compute().values())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_targets_have_no_loss() -> None:
    loss = TargetLoss()
    loss.update(torch.tensor(0.0), 0)
    with pytest.raises(UserError, match="at least one target"):
        loss.compute()


@pytest.mark.slow
def test_importing_the_module_imports_no_scoring_library() -> None:
    late = ["sacrebleu", "rouge_score", "nltk", "evaluate", "datasets"]
    code = (
        "import sys, torchmetrics; before = set(sys.modules)\n"
        "import amazon_desc.evaluation.metrics\n"
        f"print('late', sorted((set(sys.modules) - before) & set({late})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "late []"


def _evaluate_in_fresh_cache(folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Loads `folder` where every connection fails and the cache is `home`; prints the scores."""
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "import evaluate\n"
        "scores = evaluate.load(sys.argv[1])\n"
        "print(type(scores).__name__)\n"
        "print(scores.compute(predictions=['a warm winter hat.', ''],"
        " references=['a warm nice winter hat.', 'a tutu']))\n"
    )
    hub = ("HF_", "HUGGINGFACE_", "XDG_CACHE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hub)}
    environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_evaluate_loads_a_copy_offline_with_a_fresh_cache(tmp_path: Path) -> None:
    folder = tmp_path / "site-packages" / "amazon_desc" / "evaluation" / "description_scores"
    shutil.copytree(DESCRIPTION_SCORES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    done = _evaluate_in_fresh_cache(folder, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    name, scores = done.stdout.strip().split("\n")[-2:]
    expected = score_texts(["a warm winter hat.", ""], ["a warm nice winter hat.", "a tutu"])
    assert expected["rouge1"] > 0.4
    assert (name, scores) == ("DescriptionScores", str(expected))


@pytest.fixture
def evaluate_scores(tmp_path: Path):
    evaluate = pytest.importorskip("evaluate")
    return evaluate.load(str(DESCRIPTION_SCORES), cache_dir=str(tmp_path))


@pytest.mark.parametrize("seed", range(5))
def test_evaluate_returns_what_score_texts_returns(evaluate_scores, seed: int) -> None:
    predictions, references = _random_texts(seed, 20)
    found = evaluate_scores.compute(predictions=predictions, references=references)
    assert found == score_texts(predictions, references)
    assert found["bleu"] > 0


def test_evaluate_adds_up_batches(evaluate_scores) -> None:
    predictions, references = _random_texts(9, 20)
    evaluate_scores.add_batch(predictions=predictions[:6], references=references[:6])
    evaluate_scores.add_batch(predictions=predictions[6:], references=references[6:])
    assert evaluate_scores.compute() == score_texts(predictions, references)


def test_evaluate_refuses_an_option_it_does_not_have(evaluate_scores) -> None:
    with pytest.raises(TypeError, match="use_stemmer"):
        evaluate_scores.compute(predictions=["a"], references=["a"], use_stemmer=False)


def test_every_import_of_the_evaluate_module_is_a_line_of_its_own() -> None:
    """`evaluate` finds imports by matching single lines; a wrapped one would be missed."""
    lines = (DESCRIPTION_SCORES / "description_scores.py").read_text("utf-8").split("\n")
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports == [
        "from typing import Any",
        "import datasets",
        "import evaluate",
        "from amazon_desc.evaluation.metrics import score_texts",
    ]


def test_the_readme_shows_true_numbers() -> None:
    readme = (DESCRIPTION_SCORES / "README.md").read_text("utf-8")
    assert 'predictions=["A warm hat."], references=["A warm winter hat."]' in readme
    found = score_texts(["A warm hat."], ["A warm winter hat."])
    for name, shown in {"rouge1": "0.857", "rougeL": "0.857", "bleu": "35.18"}.items():
        assert f"'{name}': {shown}..." in readme
        assert str(found[name]).startswith(shown)
