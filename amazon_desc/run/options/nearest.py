"""A name that there is not -> the few that it may have been meant for.

In come a name and all that there are, out go at most three, the likeliest first, and none where
nothing is near. What is done with them is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

MOST = 3
NEAR = 0.75  # likeness above which a name is taken for a misspelt one


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Returns the names that one that there is not may have been meant for.

    max_seq_length     -> data.max_seq_length     the right name, its beginning forgotten
    data.max_seq_len   -> data.max_seq_length     not written to its end
    model.lora.rank    -> model.lora.r            written beyond its end
    lora_alpha         -> model.lora.alpha        other joints
    trainer.max_stesp  -> trainer.max_steps       a few letters
    """
    names = list(names)
    meant = [known for known in names if has_its_ends(name, known)]
    if not meant:
        meant = [known for known in names if likeness(name, known) >= NEAR]
    return sorted(meant, key=lambda known: (-likeness(name, known), known))[:MOST]


def has_its_ends(name: str, known: str) -> bool:
    """Whether two names begin or end alike, as far as both are written."""
    (group, _, last), (known_group, _, known_last) = name.rpartition("."), known.rpartition(".")
    if not last:
        return False
    is_begun = known.startswith(name) or (group == known_group and last.startswith(known_last))
    return is_begun or last == known_last or joined(known).endswith(f"_{joined(name)}")


def joined(name: str) -> str:
    return name.replace(".", "_").replace("-", "_")


def likeness(name: str, known: str) -> float:
    """Returns how much two names have in common, from 0 to 1; most of it is in their last part."""
    (group, _, last), (known_group, _, known_last) = name.rpartition("."), known.rpartition(".")
    of_groups = SequenceMatcher(None, group, known_group).ratio()
    return SequenceMatcher(None, last, known_last).ratio() * (0.8 + 0.2 * of_groups)
