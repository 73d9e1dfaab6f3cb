"""JSON that another process has written, which may be damaged or forged: the record of a scan, the result of a worker.

Whatever lies there, reading it takes little memory, never waits, and gives either values of the expected types or
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..evaluation.selfcheck import GAINS
from ..geometry.volume import AXES
from ..system.regular_files import open_regular

# Some tens of kilobytes are usual; a megabyte holds the slices of the longest scan.
_MOST_BYTES = 4 * 1024**2
_LARGEST = 2**53


def read_json(path: Path) -> Any:
    """The value that a file of JSON holds.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no regular file, larger than any of ours, or not JSON: NaN, infinity and deep nesting are not.
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
    """The record of a scan, or None where there is none that can be trusted to be whole.

    Args:
        path: the record.
        outputs: what the output may be called; a record that names another file is none.
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
    """What the summary shows of an enhanced scan: fields of `Row`.

    Args:
        report: as of ``enhance --report``.
        selfcheck: as of ``selfcheck --report``, or its "problem", or None.
        seconds: that it took.

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
    # Text of JSON such as 1e999 becomes infinity, and whole numbers have any length.
    if not abs(value) <= _LARGEST:
        raise ValueError("no scan has such a number")
    return float(value)
