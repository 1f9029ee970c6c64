"""Plain values of files that may be damaged or of another version.

In comes what a JSON or YAML file holds, out goes a value of the kind that is wanted, or none. A
report leaves out what it cannot read: nothing here raises on any content.
"""

import json
import math
from pathlib import Path
from typing import Any

import yaml

from amazon_desc.support.errors import UserError
from amazon_desc.support.files import read_json


def number(value: Any) -> float | None:
    """Returns a finite number, or None: of a text, a bool, NaN and an infinity too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def mapping(value: Any) -> dict[str, Any]:
    """Returns a mapping with texts as keys; nothing of what is none."""
    if not isinstance(value, dict):
        return {}
    return {key: entry for key, entry in value.items() if isinstance(key, str)}


def entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def json_of(file: Path) -> dict[str, Any] | None:
    """Returns what is in a JSON file, or None if that is no object, or damaged."""
    try:
        found = read_json(file)
    except (UserError, OSError, RecursionError):
        return None
    return mapping(found) if isinstance(found, dict) else None


def yaml_of(source: str) -> dict[str, Any] | None:
    """Returns what is in a text of YAML, or None if that is no mapping, or damaged."""
    try:
        found = yaml.safe_load(source)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return mapping(found) if isinstance(found, dict) else None


def line_of(source: str) -> dict[str, Any] | None:
    """Returns a line of JSON Lines, or None if that is no object, or damaged."""
    try:
        found = json.loads(source)
    except (ValueError, RecursionError):
        return None
    return mapping(found) if isinstance(found, dict) else None
