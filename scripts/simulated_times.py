"""How long many cards take, played out event by event: each card, message, failure and block.

In come the jobs of reckoned_times.py, out go seconds. None of its formulas is used: cards draw
their own times, messages wait for those before them, each card fails by a clock of its own. That is
what the formulas are checked with.
"""

import heapq
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from reckoned_times import Describing, Links, Stops, Training, hosts_of, tokens_of_rank

Stragglers = Literal["normal", "exponential", "lasting"]
"""How cards differ: normally or rarely but much, anew in each step; or normally and for good."""

Array = NDArray[np.float64]
Event = tuple[float, str, int, int]


class Steps(NamedTuple):
    """What steps took."""

    mean: float
    deviation: float


# Steps


def simulated_steps(
    job: Training, num_cards: int, num_steps: int, stragglers: Stragglers, rng: np.random.Generator
) -> Steps:
    """Returns what a step takes of many in a row, each card beginning when it is done itself."""
    computing = job.speed.computing(tokens_of_rank(job, num_cards))
    done, ends = np.zeros(num_cards), np.zeros(num_steps)
    draw = drawing(stragglers, num_cards, rng)
    for step in range(num_steps):
        done = done + computing * np.maximum(1 + job.speed.spread * draw(), 0)
        if num_cards > 1:
            done = simulated_all_reduce(done, job.gradient_bytes, job.links)
            done = done + job.speed.joint_seconds
        ends[step] = done.max()
    taken = np.diff(ends, prepend=0.0)
    return Steps(float(ends[-1] / num_steps), float(taken.std()))


def drawing(
    stragglers: Stragglers, num_cards: int, rng: np.random.Generator
) -> Callable[[], Array]:
    """Returns what draws how far each card is from the mean, in standard deviations."""
    if stragglers == "exponential":
        return lambda: rng.standard_exponential(num_cards) - 1
    if stragglers == "lasting":
        for_good = rng.standard_normal(num_cards)
        return lambda: for_good
    return lambda: rng.standard_normal(num_cards)


def simulated_all_reduce(ready: Array, num_bytes: float, links: Links) -> Array:
    """Returns when each card has the sum, given when each has its gradients."""
    num_hosts, inside = hosts_of(len(ready), links)
    done = ready.reshape(num_hosts, inside)
    chunk = num_bytes / inside
    done = around_hosts(done, chunk, links)
    if num_hosts > 1:
        done = between(done, chunk / num_hosts, links)
    return around_hosts(done, chunk, links).reshape(-1)


def around_hosts(done: Array, num_bytes: float, links: Links) -> Array:
    """Passes messages once around each host: a card goes on when its own has left and one came."""
    for _ in range(done.shape[1] - 1):
        left = done + num_bytes / links.inside_bytes
        done = np.maximum(left, np.roll(left, 1, axis=1) + links.inside_seconds)
    return done


def between(done: Array, num_bytes: float, links: Links) -> Array:
    """Passes messages twice around the hosts, in a ring for each place of a host.

    A NIC sends one message after the other, in the order in which they come; those of an earlier
    round are first.
    """
    num_hosts, inside = done.shape
    sharing = math.ceil(inside / links.num_nics)
    num_nics = math.ceil(inside / sharing)
    seconds = num_bytes / links.outside_bytes
    free = np.full((num_hosts, num_nics, 1), -np.inf)
    waiting = np.arange(sharing) * seconds
    for _ in range(2 * (num_hosts - 1)):
        # A place that no card has asks never; all that a NIC has sent before it is sent.
        asked = np.full((num_hosts, num_nics * sharing), np.inf)
        asked[:, :inside] = done
        asked = asked.reshape(num_hosts, num_nics, sharing)
        order = np.argsort(asked, axis=2, kind="stable")
        in_order = np.maximum(np.take_along_axis(asked, order, axis=2), free)
        # A message leaves when it came, or when the one before has left: whichever is later.
        sent = np.maximum.accumulate(in_order - waiting, axis=2) + waiting + seconds
        free = np.where(np.isfinite(sent), sent, -np.inf).max(axis=2, keepdims=True)
        left = np.empty_like(sent)
        np.put_along_axis(left, order, sent, axis=2)
        left = left.reshape(num_hosts, -1)[:, :inside]
        done = np.maximum(left, np.roll(left, 1, axis=0) + links.outside_seconds)
    return done


# Runs


class Cards:
    """Cards that fail, each by its own clock.

    Args:
        clocks: when each fails next
    """

    def __init__(self, num_cards: int, stops: Stops, rng: np.random.Generator) -> None:
        self.stops, self.rng = stops, rng
        self.clocks = self.lives(num_cards)

    def lives(self, num: int) -> Array:
        if self.stops.failures == 0:
            return np.full(num, np.inf)
        return self.rng.exponential(1 / self.stops.failures, num)

    def done(self, now: float, seconds: float, is_started: bool = True) -> float:
        """Returns when work is done that all do together, and that begins again when one fails."""
        needed = seconds if is_started else self.stops.starting_seconds + seconds
        while (failed := float(self.clocks.min())) < now + needed:
            now = failed + self.stops.replacing_seconds
            self.replace(self.clocks < now, now)
            needed = self.stops.starting_seconds + seconds
        return now + needed

    def replace(self, which: NDArray[np.bool_], now: float) -> None:
        """Puts others in the place of cards that have failed by now."""
        self.clocks[which] = now + self.lives(int(which.sum()))


def simulated_training(
    job: Training, num_cards: int, segments: list[int], steps: Steps, rng: np.random.Generator
) -> float:
    """Returns the seconds of one fit whose checkpoints come after so many steps each."""
    cards = Cards(num_cards, job.stops, rng)
    now = cards.done(0.0, job.preparing_seconds, is_started=False)
    for num in segments:
        drawn = num * steps.mean + math.sqrt(num) * steps.deviation * rng.standard_normal()
        now = cards.done(now, max(drawn, 0.0) + job.stops.saving_seconds)
    return now


class Queue:
    """Blocks of titles, and the cards that write them.

    Args:
        events: when, what happens to which card, and with how many titles
    """

    def __init__(
        self, job: Describing, num_cards: int, stragglers: Stragglers, rng: np.random.Generator
    ) -> None:
        self.job, self.cards = job, Cards(num_cards, job.stops, rng)
        self.draw = drawing(stragglers, num_cards, rng)
        whole, left = divmod(job.num_titles, job.block_titles)
        self.blocks = [job.block_titles] * whole + [left] * (left > 0)
        self.idle: list[int] = []
        starting = job.stops.starting_seconds
        self.events: list[Event] = [(starting, "started", card, 0) for card in range(num_cards)]

    def begin(self, card: int, now: float) -> None:
        """Has a free card take a block, if there is one, and says what becomes of it."""
        if not self.blocks:
            self.idle.append(card)
            return
        titles = self.blocks.pop()
        pace = max(1 + self.job.spread * self.draw()[card], 0.0)
        ends = now + titles * self.job.title_seconds * pace
        fails = max(now, float(self.cards.clocks[card]))
        when, what = (fails, "failed") if fails < ends else (ends, "wrote")
        heapq.heappush(self.events, (when, what, card, titles))

    def give_back(self, card: int, titles: int, now: float) -> None:
        """Hands a lost block to a card that has none, and replaces the card that lost it."""
        self.blocks.append(titles)
        stops = self.job.stops
        again = now + stops.replacing_seconds + stops.starting_seconds
        self.cards.replace(np.arange(len(self.cards.clocks)) == card, again)
        heapq.heappush(self.events, (again, "started", card, 0))
        if self.idle:
            self.begin(self.idle.pop(), now)


def simulated_describing(
    job: Describing, num_cards: int, stragglers: Stragglers, rng: np.random.Generator
) -> float:
    """Returns the seconds until the last text is there; a free card takes the next block."""
    queue = Queue(job, num_cards, stragglers, rng)
    num_left, now = len(queue.blocks), 0.0
    while num_left:
        now, what, card, titles = heapq.heappop(queue.events)
        if what == "failed":
            queue.give_back(card, titles, now)
            continue
        num_left -= what == "wrote"
        queue.begin(card, now)
    return now
