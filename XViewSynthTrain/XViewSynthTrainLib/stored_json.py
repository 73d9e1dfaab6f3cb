"""Reads JSON files that may be damaged. Imports no PyTorch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from XViewSynthLib.errors import InputError
from XViewSynthLib.system.regular_files import open_regular

_MOST_BYTES = 1024**2


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: the file holds another value, or more than 1 MB; an `InputError` if it is no regular file.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError("larger than 1 MB")
    value = parse(content)
    if not isinstance(value, dict):
        raise ValueError("no object with named values")
    return value


def parse(content: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no valid JSON, or nested too deeply.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def reason(problem: Exception) -> str:
    """The reason why a file could not be read, in one line."""
    text = getattr(problem, "strerror", None) or str(problem)
    return text.rstrip(".") if isinstance(problem, InputError) else text


def parse_entry(line: str) -> dict[str, Any] | None:
    """A line of a run's log, or None if it is damaged."""
    try:
        entry = parse(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or not is_whole(entry.get("step")) or not isinstance(entry.get("kind"), str):
        return None
    kind = entry["kind"]
    if kind == "loss" and not (_are_numbers(entry.get("loss")) and is_number(entry.get("learning_rate"))):
        return None
    if kind == "gain" and not _are_gains(entry.get("gain")):
        return None
    if kind == "note" and not isinstance(entry.get("message"), str):
        return None
    return entry


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_whole(value: object, low: int = 0, high: int = 2**63 - 1) -> bool:
    """Whether a value is a whole number in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _are_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(number is None or is_number(number) for number in value.values())


def _are_gains(value: object) -> bool:
    return isinstance(value, dict) and all(factor.isdecimal() and _are_numbers(gain) for factor, gain in value.items())
