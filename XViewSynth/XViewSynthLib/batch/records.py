"""Reads JSON of other processes, which may be damaged or forged: records of scans, results of workers.

Reading takes little memory and never blocks. Values of unexpected types are refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..evaluation.selfcheck import GAINS
from ..geometry.volume import AXES
from ..system.regular_files import open_regular

# Usual are some tens of kilobytes. A megabyte suffices for the longest scan.
_MOST_BYTES = 4 * 1024**2
_LARGEST = 2**53


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        OSError: the file is missing, or cannot be read.
        ValueError: it is no regular file, too large, or no valid JSON. NaN, infinity and deep nesting are refused.
    """
    with open_regular(path) as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{path} is larger than {_MOST_BYTES} bytes")
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error


def read_record(path: Path, outputs: Collection[str]) -> dict[str, Any] | None:
    """The record of a scan, or None if it is missing or invalid.

    Args:
        path: the record.
        outputs: valid names of the output.
    """
    try:
        record = read_json(path)
        output = record["output"]
        whole = (
            output["file"] in outputs
            and isinstance(output["bytes"], int)
            and isinstance(output["sha256"], str)
            and isinstance(record["fingerprint"], str)
        )
        facts_of(record["report"], record.get("selfcheck"), record["seconds"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None
    return record if whole else None


def facts_of(report: dict[str, Any], selfcheck: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
    """Fields of `Row` for an enhanced scan.

    Args:
        report: as of ``enhance --report``.
        selfcheck: as of ``selfcheck --report``, or its "problem", or None.
        seconds: duration of the work.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: a value is missing or of another type.
    """
    check = selfcheck or {}
    along = AXES.index(report["axis"])
    gains = check.get("methods", {}).get("enhanced", {})
    problem = [f"Self-check: {check['problem']}"] if "problem" in check else []
    return {
        "factor": _whole(report["factor"]),
        "axis": AXES[along],
        "slices": _whole(report["output"]["shape_ijk"][along]),
        "spacing_before_mm": _number(report["input"]["spacing_mm"][along]),
        "spacing_after_mm": _number(report["output"]["spacing_mm"][along]),
        **{name: None if gains.get(name) is None else _number(gains[name]) for name in GAINS},
        "seconds": _number(seconds),
        "message": " ".join([*report["notes"], *problem]),
    }


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    if abs(value) > _LARGEST:
        raise ValueError("no scan has so many slices")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    # A number in JSON such as 1e999 becomes infinity, and whole numbers have any length.
    if not abs(value) <= _LARGEST:
        raise ValueError("no scan has such a number")
    return float(value)
