"""How long many cards take, in closed formulas: training together, and describing apart.

In come a job, how fast a card is, what connects cards and how often one fails; out go seconds by
part. Nothing is drawn here: simulated_times.py plays the same out, event by event, and shares no
formula with this file. How fast cards are is fitted in fitted_speeds.py; reckon.py makes the table.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from amazon_desc.support.errors import UserError


class Links(NamedTuple):
    """What connects cards: a ring within a host, rings of equal places between hosts."""

    cards_a_host: int
    inside_bytes: float
    """a second, from a card to its neighbour"""
    inside_seconds: float
    """until a message arrives that has no length"""
    num_nics: int
    """of a host; its cards share them"""
    outside_bytes: float
    """a second, out of one of them"""
    outside_seconds: float


class Speed(NamedTuple):
    """What a step takes on a card, and what it takes more on several."""

    step_seconds: float
    """whatever the number of tokens"""
    token_seconds: float
    joint_seconds: float
    """where cards are several, whatever their number: launches, small sums, waiting for them"""
    spread: float
    """standard deviation of a card's time for a step, as a share of it"""

    def computing(self, num_tokens: float) -> float:
        return self.step_seconds + self.token_seconds * num_tokens


class Stops(NamedTuple):
    """What interrupts the work, and what it takes to go on."""

    failures: float
    """of a card, a second"""
    replacing_seconds: float
    """until another machine is there"""
    starting_seconds: float
    """of a process until it is at full speed"""
    saving_seconds: float
    """that all cards wait for a checkpoint"""


class Training(NamedTuple):
    """A fit on many cards."""

    num_tokens: float
    """all that are trained on, with padding"""
    rank_tokens: int | None
    """of a step on each card, so that a step grows with the cards; None: see `all_tokens`"""
    all_tokens: int | None
    """of a step on all cards together"""
    gradient_bytes: float
    speed: Speed
    links: Links
    stops: Stops
    steps_between: int | None
    """two checkpoints; None: the optimum"""
    preparing_seconds: float
    """of the data, on one card's host, while the others wait"""


class Describing(NamedTuple):
    """Texts for many titles, in blocks that cards take from one queue."""

    num_titles: int
    block_titles: int
    """are written whole, or again"""
    title_seconds: float
    spread: float
    """standard deviation of a card's time for a block, as a share of it"""
    stops: Stops


class Times(NamedTuple):
    """Seconds of a job, by what they are spent on."""

    starting: float = 0.0
    preparing: float = 0.0
    computing: float = 0.0
    straggling: float = 0.0
    """waiting for the slowest card"""
    exchanging: float = 0.0
    """of gradients"""
    joint: float = 0.0
    saving: float = 0.0
    failing: float = 0.0
    """work that was lost, and beginning again"""

    @property
    def total(self) -> float:
        return sum(self)


# What cards wait for


def expected_slowest(num_cards: int) -> float:
    """Returns the mean of the largest of so many standard normal numbers.

    The integral of x over the distribution of the largest, which is the normal one to the power
    of their number (H. A. David, Order Statistics, 1970, section 3.1).

    1 -> 0, 2 -> 1 / sqrt(pi) = 0.564, 8 -> 1.424, 64 -> 2.344
    """
    x = np.linspace(-9.0, 9.0, 3601)
    normal = NormalDist()
    largest = np.array([normal.cdf(value) for value in x]) ** num_cards
    return float(abs((x[:-1] + x[1:]) @ np.diff(largest) / 2))


def hosts_of(num_cards: int, links: Links) -> tuple[int, int]:
    """Returns hosts, and cards of each. 64 cards, 8 a host -> (8, 8); 4 cards -> (1, 4).

    Raises:
        UserError: hosts would not be full.
    """
    inside = min(num_cards, links.cards_a_host)
    num_hosts, left = divmod(num_cards, inside)
    if left:
        raise UserError(
            f"--cards {num_cards}: full hosts are reckoned, and these do not fill hosts of "
            f"{inside}. Give a multiple of {inside}, or another --cards-a-host."
        )
    return num_hosts, inside


def all_reduce_seconds(num_bytes: float, num_cards: int, links: Links) -> float:
    """Returns the time until each card has the sum of all gradients.

    Each card of a host sums its share over the host, then over all hosts, then hands it to its
    host. A ring of n takes 2 (n - 1) rounds with an n-th of the bytes each (P. Patarasuk and
    X. Yuan, Bandwidth optimal all-reduce algorithms, 2009; nccl-tests, doc/PERFORMANCE.md).

    8 cards of one host, 56 MB, 350 GB/s, 3 us: 14 rounds of 20 + 3 us = 0.322 ms
    """
    num_hosts, inside = hosts_of(num_cards, links)
    chunk = num_bytes / inside
    seconds = 2 * (inside - 1) * (chunk / links.inside_bytes + links.inside_seconds)
    if num_hosts == 1:
        return seconds
    sharing = math.ceil(inside / links.num_nics)
    return seconds + between_hosts(chunk, num_hosts, sharing, links)


def between_hosts(num_bytes: float, num_hosts: int, sharing: int, links: Links) -> float:
    """Returns the time of the rings between hosts, several of which go through a NIC.

    While a message of one ring is on its way, those of the others leave: a round takes the longer
    of all messages that leave and of one that leaves and arrives.

    2 hosts, 8 rings through a NIC, a message leaves in 0.5 ms, arrives 0.03 ms later: 2 rounds of
    8 * 0.5 ms, and the last one's 0.03 ms = 8.03 ms
    """
    message = num_bytes / num_hosts / links.outside_bytes
    round_ = max(sharing * message, message + links.outside_seconds)
    return 2 * (num_hosts - 1) * round_ + min((sharing - 1) * message, links.outside_seconds)


# Failures


def best_interval(saving: float, between_failures: float) -> float:
    """Returns the seconds of work between two checkpoints that lose least time.

    J. W. Young, A first order approximation to the optimum checkpoint interval (1974), says
    sqrt(2 saving between); J. T. Daly, A higher order estimate (2006), equation 37, adds terms.

    Daly's figure 3: 5 min to save, 24 h between failures -> 117 min
    """
    if saving >= 2 * between_failures:
        return between_failures
    share = saving / (2 * between_failures)
    more = 1 + math.sqrt(share) / 3 + share / 9
    return math.sqrt(2 * saving * between_failures) * more - saving


def with_failures(seconds: float, failures: float, stops: Stops) -> float:
    """Returns the expected time of work that starts over after each failure.

    (1 / f + replacing) exp(f starting) (exp(f seconds) - 1), with f failures a second: Daly's
    equation 20 where nothing has to be replaced. While a machine is replaced nothing fails.

    1 h of work, a failure in 2 h, restarts that take no time: 2 h (exp(0.5) - 1) = 1.297 h
    """
    if failures == 0:
        return seconds
    again = (1 / failures + stops.replacing_seconds) * math.exp(failures * stops.starting_seconds)
    return again * math.expm1(failures * seconds)


# Jobs


def tokens_of_rank(job: Training, num_cards: int) -> float:
    if job.rank_tokens is not None:
        return job.rank_tokens
    assert job.all_tokens is not None
    return job.all_tokens / num_cards


def num_steps_of(job: Training, num_cards: int) -> int:
    return math.ceil(job.num_tokens / (tokens_of_rank(job, num_cards) * num_cards))


def step_times(job: Training, num_cards: int) -> Times:
    """Returns the expected time of an optimizer step, by part."""
    computing = job.speed.computing(tokens_of_rank(job, num_cards))
    if num_cards == 1:
        return Times(computing=computing)
    return Times(
        computing=computing,
        straggling=computing * job.speed.spread * expected_slowest(num_cards),
        exchanging=all_reduce_seconds(job.gradient_bytes, num_cards, job.links),
        joint=job.speed.joint_seconds,
    )


def segments_of(job: Training, num_cards: int, step_seconds: float) -> list[int]:
    """Returns the steps before each checkpoint, the last of which is the end.

    7 steps, 3 between two -> [3, 3, 1]
    """
    num_steps, between = num_steps_of(job, num_cards), job.steps_between
    if between is None:
        between = num_steps
        if job.stops.failures:
            best = best_interval(job.stops.saving_seconds, 1 / (job.stops.failures * num_cards))
            between = max(1, round(best / step_seconds))
    whole, left = divmod(num_steps, between)
    return [between] * whole + [left] * (left > 0)


def training_times(job: Training, num_cards: int) -> Times:
    """Returns the expected time of a fit, by part; data is prepared whole, or all of it again."""
    step = step_times(job, num_cards)
    segments = segments_of(job, num_cards, step.total)
    num_steps, saving = sum(segments), len(segments) * job.stops.saving_seconds
    failures = job.stops.failures * num_cards
    spent = sum(
        with_failures(num * step.total + job.stops.saving_seconds, failures, job.stops)
        for num in segments
    )
    before = job.stops.starting_seconds + job.preparing_seconds
    unstarted = job.stops._replace(starting_seconds=0.0)
    lost_before = with_failures(before, failures, unstarted) - before
    parts = Times(*(num_steps * part for part in step))
    return parts._replace(
        starting=job.stops.starting_seconds,
        preparing=job.preparing_seconds,
        saving=saving,
        failing=spent - num_steps * step.total - saving + lost_before,
    )


def describing_times(job: Describing, num_cards: int) -> Times:
    """Returns the expected time until the last text is there, by part.

    Where blocks are many, cards end evenly over the time of a block: the last of n does so
    (n - 1) / (n + 1) of half a block after the mean. Where they are fewer than cards, the slowest
    card decides.
    """
    block = job.block_titles * job.title_seconds
    num_blocks = math.ceil(job.num_titles / job.block_titles)
    computing = job.num_titles * job.title_seconds / num_cards
    if num_blocks <= num_cards:
        computing = block
        straggling = block * job.spread * expected_slowest(num_blocks)
    else:
        straggling = block * (num_cards - 1) / (2 * (num_cards + 1))
    lost = with_failures(block, job.stops.failures, job.stops) / block - 1
    return Times(
        starting=job.stops.starting_seconds,
        computing=computing,
        straggling=straggling,
        failing=lost * computing,
    )
