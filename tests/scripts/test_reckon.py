"""scripts/reckon.py: formulas by hand, the same played out, and numbers that a fit finds again."""

import json
from itertools import chain, pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.conftest import load_script

times: Any = load_script("reckoned_times")
simulated: Any = load_script("simulated_times")
fitted: Any = load_script("fitted_speeds")
script: ModuleType = load_script("reckon")

# Per card 100 GB/s and 2 us in a host of 8, one NIC of 10 GB/s and 30 us a host.
LINKS = times.Links(8, 100e9, 2e-6, 1, 10e9, 30e-6)
FREE = times.Links(8, 1e30, 0.0, 1, 1e30, 0.0)
NO_STOPS = times.Stops(0.0, 300.0, 20.0, 0.2)
# A failure in 10 hours of a card: far more often than cards fail.
MANY_STOPS = times.Stops(1 / 36_000, 300.0, 20.0, 0.2)
SPEED = times.Speed(2e-3, 10e-6, 3e-4, 0.01)
GRADIENT_BYTES = 50_462_720


def training(**changes: Any) -> Any:
    """A fit of 20,000 steps of 2,048 tokens on one card."""
    job = times.Training(
        *(20_000 * 2048, 2048, None, GRADIENT_BYTES, SPEED, LINKS, NO_STOPS, None, 0.0)
    )
    return job._replace(**changes)


def describing(**changes: Any) -> Any:
    """1,000 blocks of 8 s each."""
    job = times.Describing(10_000_000, 10_000, 8e-4, 0.01, NO_STOPS)
    return job._replace(**changes)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# Formulas, by hand


@pytest.mark.parametrize(
    ("num", "mean"),
    # H. L. Harter, Expected values of normal order statistics (1961), table 1
    [(1, 0.0), (2, 0.56419), (3, 0.84628), (8, 1.42360), (64, 2.34373), (100, 2.50759)],
)
def test_the_slowest_of_many_is_as_far_off_as_in_the_tables(num: int, mean: float) -> None:
    assert times.expected_slowest(num) == pytest.approx(mean, abs=2e-5)


def test_a_ring_takes_two_rounds_for_each_neighbour() -> None:
    # 56 MB on 8 cards: 14 rounds of 7 MB at 350 GB/s, 20 us, and 3 us until they arrive.
    links = LINKS._replace(inside_bytes=350e9, inside_seconds=3e-6)
    assert times.all_reduce_seconds(56e6, 8, links) == pytest.approx(14 * 23e-6)
    # Two cards: 2 rounds of 28 MB.
    assert times.all_reduce_seconds(56e6, 2, links) == pytest.approx(2 * 83e-6)


def test_rings_between_hosts_share_the_nics() -> None:
    # 80 MB on 2 hosts of 8: in a host 14 rounds of 10 MB at 100 GB/s, 100 us, and 2 us.
    inside = 14 * 102e-6
    # Between hosts 2 rounds of 5 MB a card. 8 of them through a NIC of 10 GB/s take 4 ms.
    assert times.all_reduce_seconds(80e6, 16, LINKS) == pytest.approx(inside + 8e-3 + 30e-6)
    # With 8 NICs each has one of 0.5 ms a round, and waits 30 us for it.
    apart = LINKS._replace(num_nics=8)
    assert times.all_reduce_seconds(80e6, 16, apart) == pytest.approx(inside + 2 * 530e-6)


def test_hosts_have_to_be_full() -> None:
    assert [times.hosts_of(num, LINKS) for num in (1, 4, 8, 64)] == [(1, 1), (1, 4), (1, 8), (8, 8)]
    with pytest.raises(times.UserError, match=r"--cards 12: .* Give a multiple of 8"):
        times.hosts_of(12, LINKS)


@pytest.mark.parametrize(("between", "best"), [(24 * 60, "117"), (6 * 60, "57"), (15, "9.1")])
def test_the_best_interval_is_the_published_one(between: float, best: str) -> None:
    """J. T. Daly's figures 3, 4 and 5, in minutes: 5 to save a checkpoint."""
    num_digits = len(best.partition(".")[2])
    assert f"{times.best_interval(5, between):.{num_digits}f}" == best


def test_no_other_interval_loses_less_time() -> None:
    def lost(interval: float) -> float:
        return times.with_failures(interval + 0.2, 1e-4, NO_STOPS) / interval

    best = times.best_interval(0.2, 1e4)
    assert best == pytest.approx(63.2, abs=0.1)
    assert lost(best) < min(lost(best / 1.2), lost(best * 1.2))


def test_work_that_fails_begins_again() -> None:
    # 1 h, a failure in 2 h: 2 h (exp(1 / 2) - 1).
    at_once = times.Stops(0.0, 0.0, 0.0, 0.0)
    assert times.with_failures(3600, 1 / 7200, at_once) == pytest.approx(7200 * 0.6487213)
    # Replaced in 360 s, and 720 s until it works: (7200 + 360) exp(0.1) (exp(1 / 2) - 1).
    slow = times.Stops(0.0, 360.0, 720.0, 0.0)
    assert times.with_failures(3600, 1 / 7200, slow) == pytest.approx(7560 * 1.1051709 * 0.6487213)
    assert times.with_failures(3600, 0.0, slow) == 3600


def test_the_last_steps_have_a_checkpoint_of_their_own() -> None:
    job = training(num_tokens=7 * 2048, steps_between=3)
    assert times.segments_of(job, 1, 0.02) == [3, 3, 1]
    assert times.segments_of(training(), 1, 0.02) == [20_000]  # none is lost without failures


def test_a_fit_is_the_sum_of_its_parts() -> None:
    job = training(steps_between=5000, preparing_seconds=100.0)
    found = times.training_times(job, 8)
    # 2,500 steps: 2 + 2,048 * 0.01 = 22.48 ms, of which the slowest of 8 takes 1.4236 % more;
    # 14 rounds of 6.30784 MB at 100 GB/s and of 2 us; 0.3 ms.
    assert found.computing == pytest.approx(2500 * 22.48e-3)
    assert found.straggling == pytest.approx(2500 * 22.48e-3 * 0.014236, rel=1e-4)
    assert found.exchanging == pytest.approx(2500 * 14 * 65.0784e-6)
    assert found.joint == pytest.approx(2500 * 0.3e-3)
    assert found[:2] == (20.0, 100.0)
    assert (found.saving, found.failing) == (0.2, pytest.approx(0.0))
    assert found.total == pytest.approx(20 + 100 + 0.2 + 56.2 + 0.80006 + 2.27774 + 0.75, rel=1e-4)


def test_steps_grow_with_the_cards_or_are_divided_among_them() -> None:
    assert [times.num_steps_of(training(), num) for num in (1, 8, 64)] == [20_000, 2500, 313]
    divided = training(rank_tokens=None, all_tokens=16_384)
    assert [times.num_steps_of(divided, num) for num in (1, 8)] == [2500, 2500]
    assert [times.tokens_of_rank(divided, num) for num in (1, 8)] == [16_384, 2048]


def test_texts_are_divided_and_the_last_block_is_waited_for() -> None:
    found = times.describing_times(describing(), 4)
    # 8,000 s on 4 cards, and 3 / 5 of half a block of 8 s.
    assert found[:4] == pytest.approx((20.0, 0.0, 2000.0, 2.4))
    assert found.failing == 0
    # Five blocks on eight cards: one each, until the slowest of five has written its own.
    few = times.describing_times(describing(num_titles=50_000), 8)
    assert few.total == pytest.approx(20 + 8 * (1 + 0.01 * 1.16296), rel=1e-5)


# Limits


def test_a_card_alone_exchanges_nothing() -> None:
    assert times.all_reduce_seconds(GRADIENT_BYTES, 1, LINKS) == 0
    assert times.step_times(training(), 1) == times.Times(computing=pytest.approx(22.48e-3))


@pytest.mark.parametrize("num_cards", [8, 64, 512])
def test_without_losses_many_cards_are_as_many_times_as_fast(
    num_cards: int, rng: np.random.Generator
) -> None:
    job = training(
        num_tokens=512 * 50 * 2048,
        links=FREE,
        speed=SPEED._replace(joint_seconds=0, spread=0),
        stops=NO_STOPS._replace(starting_seconds=0, saving_seconds=0),
    )
    perfect = times.training_times(job, 1).total / num_cards
    assert times.training_times(job, num_cards).total == pytest.approx(perfect)
    steps = simulated.simulated_steps(job, num_cards, 5, "normal", rng)
    assert steps.mean * 512 * 50 / num_cards == pytest.approx(perfect)


def test_cards_that_never_fail_lose_nothing(rng: np.random.Generator) -> None:
    assert times.training_times(training(), 8).failing == pytest.approx(0, abs=1e-9)
    cards = simulated.Cards(8, NO_STOPS, rng)
    assert cards.done(5.0, 1000.0) == 1005.0


# Played out


@pytest.mark.parametrize("num_nics", [1, 2, 8])
@pytest.mark.parametrize("num_cards", [2, 8, 16, 64, 512])
def test_messages_that_are_played_out_take_what_the_formula_says(
    num_cards: int, num_nics: int
) -> None:
    for num_bytes in (1e3, 1e6, GRADIENT_BYTES, 5e9):
        links = LINKS._replace(num_nics=num_nics)
        done = simulated.simulated_all_reduce(np.zeros(num_cards), num_bytes, links)
        reckoned = times.all_reduce_seconds(num_bytes, num_cards, links)
        assert done.max() == pytest.approx(reckoned, rel=0.01)


def test_nobody_has_the_sum_before_the_last_card_has_its_gradients() -> None:
    ready = np.zeros(64)
    ready[37] = 1.0
    done = simulated.simulated_all_reduce(ready, GRADIENT_BYTES, LINKS)
    assert done.min() > 1.0
    assert done.max() <= 1 + times.all_reduce_seconds(GRADIENT_BYTES, 64, LINKS) + 1e-12


@pytest.mark.parametrize("num_cards", [1, 8, 64, 512])
def test_steps_that_are_played_out_take_what_the_formula_says(
    num_cards: int, rng: np.random.Generator
) -> None:
    job = training(speed=SPEED._replace(spread=0.03))
    steps = simulated.simulated_steps(job, num_cards, 60, "normal", rng)
    assert steps.mean == pytest.approx(times.step_times(job, num_cards).total, rel=0.02)


def test_rare_long_steps_cost_more_than_the_formula_says(rng: np.random.Generator) -> None:
    """Of 64 exponential numbers the largest is 4.74 above zero, of normal ones 2.34 above their
    mean: so the formula is too low by 0.03 * (4.744 - 1 - 2.344) of the step's own time."""
    job = training(links=FREE, speed=SPEED._replace(spread=0.03, joint_seconds=0))
    steps = simulated.simulated_steps(job, 64, 400, "exponential", rng)
    more = steps.mean / times.step_times(job, 64).computing - 1
    assert more == pytest.approx(0.03 * 3.744, rel=0.05)
    assert times.step_times(job, 64).total / times.step_times(job, 64).computing - 1 == (
        pytest.approx(0.03 * 2.34373, rel=1e-4)
    )


@pytest.mark.parametrize("steps_between", [None, 50, 1000])
def test_failing_fits_that_are_played_out_take_what_the_formula_says(
    steps_between: int | None, rng: np.random.Generator
) -> None:
    job = training(num_tokens=64 * 30_000 * 2048, steps_between=steps_between, stops=MANY_STOPS)
    step = times.step_times(job, 64).total
    segments = times.segments_of(job, 64, step)
    steps = simulated.Steps(step, 0.0)
    runs = [simulated.simulated_training(job, 64, segments, steps, rng) for _ in range(300)]
    reckoned = times.training_times(job, 64)
    assert reckoned.failing > 0.2 * reckoned.computing
    assert np.mean(runs) == pytest.approx(reckoned.total, rel=0.03)


@pytest.mark.parametrize("stops", [NO_STOPS, MANY_STOPS], ids=["never", "often"])
@pytest.mark.parametrize("num_cards", [1, 8, 50])
def test_texts_that_are_played_out_take_what_the_formula_says(
    num_cards: int, stops: Any, rng: np.random.Generator
) -> None:
    job = describing(num_titles=20_000_000, stops=stops)
    runs = [simulated.simulated_describing(job, num_cards, "lasting", rng) for _ in range(20)]
    reckoned = times.describing_times(job, num_cards).total
    # A machine that is being replaced in the end is not waited for: others take its block.
    assert np.mean(runs) == pytest.approx(reckoned, rel=0.02)


def test_few_blocks_a_card_take_whole_blocks(rng: np.random.Generator) -> None:
    """Nine equal blocks on eight cards are two rounds, where the formula has 9 / 8 and some."""
    job = describing(num_titles=90_000, spread=0.0)
    assert simulated.simulated_describing(job, 8, "normal", rng) == pytest.approx(20 + 16)
    assert times.describing_times(job, 8).total == pytest.approx(20 + 9 + 8 * 7 / 18)


def test_each_block_is_written_whatever_fails(rng: np.random.Generator) -> None:
    """By hand: card 0 fails at 24 s, in its block; card 1, which is idle then, writes it."""
    job = describing(num_titles=15_000, spread=0.0, stops=MANY_STOPS)
    queue = simulated.Queue(job, 2, "normal", rng)
    queue.cards.clocks[:] = 24.0, 1e9
    # Card 0 takes the rest of 5,000 titles, until 24 s; card 1 takes 10,000 until 28 s.
    queue.events.clear()
    queue.blocks = [10_000]
    queue.begin(0, 20.0)
    assert queue.events == [(24.0, "failed", 0, 10_000)]
    queue.begin(1, 20.0)
    assert queue.idle == [1]
    queue.events.clear()
    queue.give_back(0, 10_000, 24.0)
    assert sorted(queue.events) == [(32.0, "wrote", 1, 10_000), (344.0, "started", 0, 0)]


# Fitting


def rows_of(speed: Any, links: Any, counts: list[int], lengths: list[int]) -> list[Any]:
    """Rows that a benchmark would measure, were the formula right."""
    found = []
    for num in counts:
        for tokens in lengths:
            job = training(rank_tokens=tokens, speed=speed, links=links)
            rate = num * tokens * fitted.FILL / times.step_times(job, num).total
            found.append(
                fitted.Row("training", "tinyllama", "h200", num, rate, "c", "x", tokens, 0.05)
            )
    return found


KNOWN = times.Speed(2.1e-3, 9.3e-6, 1.2e-3, 0.025)
KNOWN_LINKS = LINKS._replace(inside_bytes=120e9)


def fit(rows: list[Any], **changes: Any) -> Any:
    task = fitted.task_of("tinyllama", 0.05, 16)
    return fitted.fit(rows, "tinyllama", task, "h200", KNOWN_LINKS._replace(**changes))


def test_a_fit_finds_all_numbers_again() -> None:
    rows = rows_of(KNOWN, KNOWN_LINKS, [1, 2, 4, 8], [1024, 2048, 8192, 16_384])
    found = fit(rows, inside_bytes=300e9)
    assert found.speed == pytest.approx(KNOWN, rel=1e-6)
    assert found.links.inside_bytes == pytest.approx(120e9, rel=1e-6)
    for name in ("joint_seconds", "spread", "inside_bytes"):
        assert found.sources[name] == "fitted at 2, 4, 8 cards"
    assert len(found.checked) == 12
    assert all(line.endswith("(+0.0%)") or line.endswith("(-0.0%)") for line in found.checked)


def test_noise_moves_them_little() -> None:
    """0.2 % of noise in what was measured, 3 % in what a step takes on many cards."""
    rows = rows_of(KNOWN, KNOWN_LINKS, [1, 2, 4], [2048, 16_384])
    rng = np.random.default_rng(1)
    noisy = [
        row._replace(tokens_per_second=row.tokens_per_second * (1 + 0.002 * rng.standard_normal()))
        for row in rows
    ]
    found = fit(noisy)
    for num in (8, 512):
        job = training(rank_tokens=16_384, speed=found.speed, links=found.links)
        truth = training(rank_tokens=16_384, speed=KNOWN, links=KNOWN_LINKS)
        expected = times.step_times(truth, num).total
        assert times.step_times(job, num).total == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("counts", "lengths", "told"),
    [
        ([1], [2048], []),
        ([1], [2048, 16_384], []),
        ([1, 2], [2048], ["joint_seconds"]),
        ([1, 2, 4], [2048], ["joint_seconds", "spread"]),
    ],
)
def test_what_rows_do_not_tell_is_assumed_and_said(
    counts: list[int], lengths: list[int], told: list[str]
) -> None:
    """Where what is assumed is right, what is fitted is right as well."""
    speed = KNOWN if "spread" in told else KNOWN._replace(spread=fitted.SPREAD)
    if not told:
        speed = speed._replace(joint_seconds=fitted.JOINT_SECONDS)
    links = LINKS._replace(inside_bytes=370e9)
    found = fit(rows_of(speed, links, counts, lengths), inside_bytes=370e9)
    names = ("joint_seconds", "spread", "inside_bytes")
    assert [name for name in names if found.sources[name] != "assumed"] == told
    assert (found.speed.joint_seconds, found.speed.spread) == pytest.approx(speed[2:], rel=0.05)
    assert found.links.inside_bytes == 370e9
    measured = " and ".join(f"{num:,}" for num in lengths)
    assert found.sources["card"].startswith(f"measured at {measured} tokens a step")
    assert found.speed.computing(2048) == pytest.approx(speed.computing(2048), rel=1e-6)


def test_cards_that_lose_nothing_have_no_negative_loss() -> None:
    fast = KNOWN._replace(joint_seconds=-2e-3, spread=0.0)
    found = fit(rows_of(fast, KNOWN_LINKS, [1, 2, 4], [2048]))
    assert found.speed.joint_seconds == 0
    assert found.speed.spread == 0
    assert found.sources["spread"] == "fitted at 2, 4 cards, at its bound"


def test_what_cards_lose_together_may_be_measured_on_another_base() -> None:
    rows = rows_of(KNOWN, KNOWN_LINKS, [1, 2, 4], [2048])
    task = fitted.task_of("gemma3-4b", 0.0, 16)
    found = fitted.fit(rows, "gemma3-4b", task, "h200", KNOWN_LINKS)
    assert found.sources["card"] == "reckoned by card_speeds.py, not measured"
    # Measured on an H100, where more of the tokens were targets, which takes longer.
    assert 2048 / found.speed.computing(2048) == pytest.approx(31_200, rel=0.08)
    assert found.speed.joint_seconds == pytest.approx(1.2e-3, rel=0.1)


def test_the_gradients_are_as_large_as_their_matrices() -> None:
    """TinyLlama's 12,615,680 and Gemma 3 4B's 29,802,496 numbers of rank 16, in float32."""
    sizes = {base: fitted.gradient_bytes(fitted.task_of(base, 0.05, 16)) for base in fitted.SHAPES}
    assert sizes == {"tinyllama": 4 * 12_615_680, "gemma3-4b": 4 * 29_802_496}


# What was measured


def test_each_measured_speed_says_where_it_is_from() -> None:
    rows = fitted.read_rows()
    assert len(rows) >= 7
    for row in rows:
        assert row.work in ("training", "describing")
        assert row.card in ("h100", "h200")
        assert len(row.commit) >= 7
        assert row.command.startswith("python ")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"base": "tinyllama"}, "row 1: wanted work, base, card"),
        ({"num_cards": 0}, "numbers above 0"),
        ({"base": "another"}, "wanted a base of tinyllama, gemma3-4b"),
    ],
)
def test_a_row_that_is_none_is_a_sentence(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    whole = fitted.read_rows()[0]._asdict() | row
    file = tmp_path / "measured.json"
    file.write_text(json.dumps([row if len(row) == 1 and "wanted work" in reason else whole]))
    with pytest.raises(times.UserError, match=reason):
        fitted.read_rows(file)


def test_texts_are_as_fast_as_on_most_cards() -> None:
    task = fitted.task_of("tinyllama", 0.0, 16)
    row = fitted.Row("describing", "tinyllama", "h200", 1, 128_000, "c", "x", new_tokens=128)
    rows = [row, row._replace(num_cards=4, tokens_per_second=4 * 64_000)]
    assert fitted.title_seconds(rows, task, "tinyllama", "h200", 128) == (
        0.002,
        "measured on 4 of h200",
    )
    assert fitted.title_seconds(rows, task, "tinyllama", "h100", 64) == (
        0.001,
        "measured on 4 of h200, not on h100",
    )
    seconds, source = fitted.title_seconds([], task, "tinyllama", "h100", 128)
    assert seconds == pytest.approx(128 * 22 * 0.0002 / 1024)
    assert source == "reckoned by card_speeds.py, not measured"


# The command


SMALL = ("--products", "1000000", "--block-titles", "1000", "--cards", "1", "8", "16")


def test_the_table_has_a_column_for_each_number_of_cards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    script.main([*SMALL, "--prepared", "--json", str(file)])
    shown = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert [column["num_cards"] for column in found["training"]] == [1, 8, 16]
    assert [column["num_cards"] for column in found["describing"]] == [1, 8, 16]
    # 171 tokens each, in rows that are 99.4 % full, 16,384 a step on each card.
    assert [column["num_steps"] for column in found["training"]] == [10_501, 1313, 657]
    for column in (*found["training"], *found["describing"]):
        assert column["simulated"] == pytest.approx(column["total"], rel=0.03)
        assert column["total"] == pytest.approx(sum(column["times"].values()))
        assert column["card_hours"] == pytest.approx(column["num_cards"] * column["total"] / 3600)
    assert [column["times"]["preparing"] for column in found["training"]] == [0, 0, 0]
    assert "50.5 MB of gradients, 370 GB/s in a host (assumed)" in shown
    assert "measured at 2,048 and 16,384 tokens a step" in shown
    widths = {len(line) for line in shown.splitlines() if line.startswith(("  comp", "cards "))}
    assert widths == {28 + 3 * 14}


def test_a_price_is_that_of_all_hours(capsys: pytest.CaptureFixture[str]) -> None:
    script.main([*SMALL, "--price", "2.5", "--prepared"])
    lines = capsys.readouterr().out.splitlines()
    hours = [line.split()[-3:] for line in lines if line.startswith("hours of all cards")]
    prices = [line.split()[-3:] for line in lines if line.startswith("price, at 2.5 an hour")]
    assert len(hours) == len(prices) == 2
    for one, other in zip(chain(*hours), chain(*prices), strict=True):
        assert float(other) == pytest.approx(2.5 * float(one), abs=0.7)


def test_more_of_a_thing_never_makes_it_faster(tmp_path: Path) -> None:
    def total(*arguments: str) -> float:
        file = tmp_path / "found.json"
        script.main([*SMALL[:5], "64", *arguments, "--json", str(file)])
        return json.loads(file.read_text())["training"][0]["total"]

    assert total("--prepared") < total()
    for option, values in {
        "--network-gbit": ("400", "100", "10"),
        "--card-hours-a-failure": ("inf", "1000", "50"),
        "--checkpoint-seconds": ("0.1", "1", "10"),
        "--joint-ms": ("0", "1", "10"),
        "--spread": ("0", "0.01", "0.1"),
    }.items():
        found = [total("--prepared", option, value) for value in values]
        assert all(less < more for less, more in pairwise(found)), option


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--price", "-1"], "--price -1.0: wanted a number of at least 0"),
        (["--products", "0"], "--products 0: wanted a number above 0"),
        (["--cards", "1", "0"], "--cards 0: wanted a number above 0"),
        (["--cards", "12"], "--cards 12: full hosts are reckoned"),
        (["--all-tokens", "16384", "--cards", "64"], "64 cards train at least a row of 2048"),
        (["--measured", "none.json"], "none.json: a JSON list of measured speeds was wanted"),
    ],
)
def test_what_cannot_be_reckoned_is_a_sentence(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        script.main(arguments)
    assert left.value.code == 2
    assert reason in capsys.readouterr().err
