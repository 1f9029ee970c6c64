"""What is asked of reckon.py, and what its jobs are made of, with where each default is from.

In come options, out go the jobs of reckoned_times.py. No time is reckoned here.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple, get_args

from card_speeds import CARDS
from estimated_rows import EXAMPLE_TOKENS, FILL
from fitted_speeds import MEASURED, Fitted, gradient_bytes
from random_base import SHAPES
from reckoned_times import Describing, Links, Stops, Training
from simulated_times import Stragglers

from amazon_desc.model.plan import Task
from amazon_desc.support.errors import UserError

ROW_TOKENS = 2048


class Network(NamedTuple):
    """What connects hosts."""

    gigabits: float
    """a second, of a NIC"""
    num_nics: int
    """of a host"""
    microseconds: float
    """until a message arrives that has no length"""


# A DGX H100 has 8 NICs of 400 Gbit/s; 14 us is what NCCL reckons a message through a network with
# (src/graph/tuning.cc). One NIC of 100 Gbit/s, and 30 us through TCP, are assumed.
NETWORKS = {"ethernet": Network(100, 1, 30), "infiniband": Network(400, 8, 14)}
NETWORK_SHARE = 0.8  # of the bits, what is of use: assumed; of NVLink's it is 370 of 450 GB/s
GIGA, MICRO = 1e9, 1e-6

# What NCCL reaches in a ring of 8 H100 (NVIDIA/nccl-tests, issue 212), and what it reckons a
# message over NVLink with (src/graph/tuning.cc).
NVLINK_GB, NVLINK_US = 370.0, 3.4
# 419 unexpected interruptions in 54 days of 16,384 H100 (Llama 3, arXiv 2407.21783, table 5).
FAILURE_HOURS = 50_700.0
# Measured, see README.md: 11 to 28 s of a fit on one card, 21 to 24 s of predict, 0.16 s on two
# cores for a checkpoint, and pairs a second on two cores.
STARTING_SECONDS, FIRST_TEXT_SECONDS, CHECKPOINT_SECONDS = 20.0, 24.0, 0.2
PAIRS_A_SECOND = 12_430.0

MAY_BE_ZERO = {
    *("dropout", "seed", "all_tokens", "steps_between", "price", "replacing_seconds"),
    *("joint_ms", "spread"),
}


def build_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def add(name: str, default: Any, what: str, **more: Any) -> None:
        kind = {} if isinstance(default, bool) or "choices" in more else {"type": type(default)}
        parser.add_argument(f"--{name}", default=default, help=what, **{**kind, **more})

    add("products", 100_000_000, "usable products to train on, and titles to describe")
    add("cards", [1, 8, 64, 512], "cards: a column each", type=int, nargs="+", metavar="N")
    add("base", "tinyllama", "published shape", choices=list(SHAPES))
    fused = sorted(name for name, card in CARDS.items() if not card.is_old)
    add("card", "h100", "kind of card", choices=fused)
    add("rank", 16, "of LoRA")
    add("dropout", 0.05, "of LoRA")
    add("tokens", float(EXAMPLE_TOKENS), "of a product's prompt and description")
    add("rank-tokens", 16_384, "of an optimizer step on each card: steps grow with the cards")
    add("all-tokens", 0, "of an optimizer step on all cards together, instead; 0: see above")
    add("new-tokens", 128.0, "that are written for a title")
    add("block-titles", 10_000, "that a card takes from the queue at a time")
    given = {"type": float, "metavar": "NUMBER"}
    add("network", "ethernet", "between hosts", choices=list(NETWORKS))
    add("network-gbit", None, "gigabits a second of a NIC, instead of the network's", **given)
    add("network-us", None, "microseconds of a message, instead of the network's", **given)
    add("nics", None, "NICs of a host, instead of the network's", type=int)
    add("joint-ms", None, "that a step takes longer on several cards, instead of fitted", **given)
    add("spread", None, "deviation of cards' times as a share, instead of fitted", **given)
    add("cards-a-host", 8, "that NVLink connects")
    add("nvlink-gb", NVLINK_GB, "gigabytes a second that a card sends in a ring, unless fitted")
    add("nvlink-us", NVLINK_US, "microseconds of a message over NVLink")
    add("card-hours-a-failure", FAILURE_HOURS, "of a card's work to a failure; inf: none")
    add("replacing-seconds", 300.0, "until a failed machine has a successor: assumed")
    add("starting-seconds", STARTING_SECONDS, "of a fit, until it is at full speed")
    add("first-text-seconds", FIRST_TEXT_SECONDS, "of predict, until its first texts are there")
    add("checkpoint-seconds", CHECKPOINT_SECONDS, "that all cards wait for a checkpoint")
    add("steps-between", 0, "two checkpoints; 0: as many as lose least time")
    add("pairs-a-second", PAIRS_A_SECOND, "that are prepared while all cards wait")
    add("prepared", False, "the data is prepared already, elsewhere", action="store_true")
    add("price", 3.0, "of a card for an hour: an assumption, not an offer")
    add("stragglers", "normal", "how cards differ, simulated", choices=get_args(Stragglers))
    add("measured", MEASURED, "JSON of measured speeds")
    add("seed", 0, "of the simulation")
    add("json", None, "writes the numbers there too", type=Path, metavar="FILE")
    return parser


def refuse_what_is_not(options: argparse.Namespace) -> None:
    """Raises where nothing can be reckoned with a number.

    Raises:
        UserError: a number is below 0, or 0, or a card would have less than a row of a step.
    """
    for name, value in vars(options).items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if not (number >= 0 if name in MAY_BE_ZERO else number > 0):
                wanted = "of at least 0" if name in MAY_BE_ZERO else "above 0"
                option = name.replace("_", "-")
                raise UserError(f"--{option} {number}: wanted a number {wanted}")
    for num in options.cards:
        if options.all_tokens and options.all_tokens < num * ROW_TOKENS:
            raise UserError(
                f"--all-tokens {options.all_tokens}: {num} cards train at least a row of "
                f"{ROW_TOKENS} tokens each, {num * ROW_TOKENS} together. Give at least these, or "
                "fewer --cards."
            )


def links_of(options: argparse.Namespace) -> Links:
    network = NETWORKS[options.network]
    gigabits = options.network_gbit or network.gigabits
    microseconds = options.network_us or network.microseconds
    return Links(
        options.cards_a_host,
        options.nvlink_gb * GIGA,
        options.nvlink_us * MICRO,
        options.nics or network.num_nics,
        NETWORK_SHARE * gigabits * GIGA / 8,
        microseconds * MICRO,
    )


def stops_of(options: argparse.Namespace, starting: float, saving: float) -> Stops:
    failures = 1 / (3600 * options.card_hours_a_failure)
    return Stops(failures, options.replacing_seconds, starting, saving)


def as_given(options: argparse.Namespace, fitted: Fitted) -> Fitted:
    """Returns the speed with what options say in place of what was fitted."""
    given = {"spread": options.spread}
    if options.joint_ms is not None:
        given["joint_seconds"] = options.joint_ms / 1e3
    given = {name: value for name, value in given.items() if value is not None}
    sources = fitted.sources | dict.fromkeys(given, "as given")
    return fitted._replace(speed=fitted.speed._replace(**given), sources=sources)


def training_of(options: argparse.Namespace, task: Task, fitted: Fitted) -> Training:
    preparing = 0.0 if options.prepared else options.products / options.pairs_a_second
    return Training(
        num_tokens=options.products * options.tokens / FILL,
        rank_tokens=None if options.all_tokens else options.rank_tokens,
        all_tokens=options.all_tokens or None,
        gradient_bytes=gradient_bytes(task),
        speed=fitted.speed,
        links=fitted.links,
        stops=stops_of(options, options.starting_seconds, options.checkpoint_seconds),
        steps_between=options.steps_between or None,
        preparing_seconds=preparing,
    )


def describing_of(options: argparse.Namespace, seconds: float, spread: float) -> Describing:
    stops = stops_of(options, options.first_text_seconds, 0.0)
    return Describing(options.products, options.block_titles, seconds, spread, stops)
