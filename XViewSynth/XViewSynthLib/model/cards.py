"""Model cards: required fields and their checks. The vocabulary is that of MONAI bundles."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unicodedata import category

from ..errors import InputError
from ..geometry.constants import INTENSITY_RANGE
from ..request import AUTOMATIC

#: In place of a name: the shipped model for the acquisition of the scan.
SCHEMA_VERSION = "1"
SPECIALISTS, BEST_SPECIALISTS = "specialists", "best_specialists"

_MAX_NETWORK_NUMBER = 4096
_FACTORS = range(2, 9)
_MOST_CURVE_POINTS = 64
# Limits of a calibration. Those of shipped models stay below 10 and 800 HU. Errors end with the scale of CT numbers.
_LARGEST_WEIGHT, _CURVE_HU = 1000, (0.01, 10_000)

# Windows reserves some names, with any ending, and drops a dot at the end.
NAME_PATTERN = re.compile(
    r"(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$))[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9_-])?",
    re.IGNORECASE | re.ASCII,
)
NAME_RULE = (
    "1 to 64 letters, digits, dots, dashes or underscores, the first a letter or digit, the last no dot, and neither a "
    f"name that Windows reserves, such as nul, nor {AUTOMATIC}"
)


def is_name(value: object) -> bool:
    """Whether a value is a valid name of a model."""
    return isinstance(value, str) and bool(NAME_PATTERN.fullmatch(value)) and value.lower() != AUTOMATIC


def parse_card(content: bytes, place: Path) -> dict[str, Any]:
    """Read and check a card.

    Args:
        content: JSON.
        place: of the model, for messages.

    Raises:
        InputError: it is no JSON, or not valid.
    """
    try:
        card = json.loads(content)
        # Valid JSON may hold infinity, or be nested too deeply to be printed.
        json.dumps(card, indent=2, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The card of the model in {place} is damaged: copy or import the model again.") from error
    fault = card_fault(card)
    if fault:
        raise InputError(f"The card of the model in {place} cannot be used: {fault}.")
    return card


def card_fault(card: object) -> str | None:
    """The first fault of a model card, as the end of a sentence; None for a valid card. Unknown fields are allowed."""
    if not isinstance(card, dict):
        return "it is not an object with named fields"
    for field, (sound, expected) in CARD_FIELDS.items():
        if field not in card:
            return f'"{field}" is missing'
        if not sound(card[field]):
            return f'"{field}" must be {expected}'
    for field, (sound, expected) in OPTIONAL_CARD_FIELDS.items():
        if field in card and not sound(card[field]):
            return f'"{field}" must be {expected}'
    if (card["acquisition"] == "thick") != bool(card["network"].get("thick")):
        return '"acquisition" must be "thick" where "network" has "thick", and "gap" elsewhere'
    return None


def _is_text(value: object) -> bool:
    # Control characters would change a terminal.
    return (
        isinstance(value, str)
        and bool(value.strip())
        and not any(category(letter) in ("Cc", "Cs") for letter in value if letter not in "\n\t")
    )


def _is_between(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _are_factors(value: object) -> bool:
    return (
        isinstance(value, list)
        and all(_is_whole(factor, min(_FACTORS), max(_FACTORS)) for factor in value)
        and 1 <= len(value) == len(set(value))
    )


def _is_network(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    own = (SPECIALISTS, BEST_SPECIALISTS)
    sizes = {name: number for name, number in value.items() if name not in own}
    return _are_sizes(sizes) and all(_are_specialists(value.get(name, {})) for name in own)


def _are_specialists(value: object) -> bool:
    return (
        isinstance(value, dict)
        # Keys in JSON are strings.
        and all(factor in map(str, _FACTORS) for factor in value)
        and all(map(_are_sizes, value.values()))
    )


def _are_sizes(value: object) -> bool:
    # Bounded, so that a card cannot keep the program busy building layers.
    return isinstance(value, dict) and all(_is_whole(number, 1, _MAX_NETWORK_NUMBER) for number in value.values())


def _is_training_data(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, dict) and _is_text(entry.get("name")) and _is_text(entry.get("license")) for entry in value
    )


def _is_uncertainty(value: object) -> bool:
    if not isinstance(value, dict) or "factors" not in value:
        return False
    parts = [value[name] for name in ("factors", "read_off_factors") if name in value]
    return all(isinstance(part, dict) for part in parts) and all(
        factor in map(str, range(2, 9)) and _is_calibration(entry) for part in parts for factor, entry in part.items()
    )


def _is_calibration(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    weights: Any = entry.get("weights")
    curves: list[Any] = [entry.get(name) for name in ("scale_hu", "expected_error_hu", "error_bound_hu")]
    if not _are_numbers(weights, 0, _LARGEST_WEIGHT) or not all(_are_numbers(curve, *_CURVE_HU) for curve in curves):
        return False
    return (
        len(weights) == 3
        and 1 <= len(curves[0]) == len(curves[1]) == len(curves[2]) <= _MOST_CURVE_POINTS
        and all(lower < higher for curve in curves for lower, higher in pairwise(curve))
    )


def _are_numbers(values: object, low: float, high: float) -> bool:
    return isinstance(values, list) and all(_is_between(value, low, high) for value in values)


#: Required fields of a card: the check of the value, and the expected values in words.
CARD_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "schema_version": (lambda value: value == SCHEMA_VERSION, f'"{SCHEMA_VERSION}": use another version of the model'),
    "name": (is_name, NAME_RULE),
    "version": (_is_text, "text"),
    "description": (_is_text, "text"),
    "modality": (lambda value: value == "CT", '"CT"'),
    "intensity_range_hu": (
        lambda value: value == list(INTENSITY_RANGE),
        f"{[round(limit) for limit in INTENSITY_RANGE]}, the range that this program uses",
    ),
    "factors": (_are_factors, "a list of different whole numbers from 2 to 8"),
    "acquisition": (lambda value: value in ("gap", "thick"), '"gap" or "thick"'),
    "network": (
        _is_network,
        f'named whole numbers from 1 to {_MAX_NETWORK_NUMBER}, and "{SPECIALISTS}" and "{BEST_SPECIALISTS}" of '
        "factors, each the same",
    ),
    "training_data": (_is_training_data, 'a list of scans, each with "name" and "license"'),
    "measured_gains": (lambda value: isinstance(value, dict), "named gains over the baselines, or empty"),
    "weights_sha256": (
        lambda value: isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]{64}", value)),
        "64 hexadecimal digits",
    ),
    "intended_use": (_is_text, "text"),
    "limitations": (_is_text, "text"),
    "license": (_is_text, "text"),
}

#: Optional fields of a card. Without "doubt", a model gives the disagreement of its views, and no error in HU.
OPTIONAL_CARD_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "doubt": (
        _is_uncertainty,
        f'an object whose "factors" hold, for each factor, three weights from 0 to {_LARGEST_WEIGHT} and three rising '
        f"curves of equal length from {_CURVE_HU[0]} to {_CURVE_HU[1]} HU",
    )
}
