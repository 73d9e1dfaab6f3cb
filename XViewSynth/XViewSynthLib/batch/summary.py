"""Summary of a batch: a table for programs, and a page for users."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from urllib.parse import quote

from .. import __version__
from ..progress import describe_seconds
from ..system.pages import render
from ..system.streams import visible

TABLE, PAGE = "summary.csv", "summary.html"

_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_COLUMNS = {
    "slices": "slices",
    "spacing_after_mm": "mm apart",
    "gain_over_linear_db": "dB over linear",
    "gain_over_cubic_db": "dB over cubic",
    "seconds": "seconds",
}
_TEMPLATE = Path(__file__).with_name("summary.html.j2")


@dataclass(frozen=True)
class Row:
    """The result of one scan. Values are None if they are unknown, or do not apply.

    Attributes:
        scan: path below the searched folder; "." for that folder itself.
        status: "enhanced", "enhanced before", "refused" (the scan does not qualify) or "failed" (it does).
        output, thumbnail: files below the output folder.
        factor, axis, slices: factor and axis of the enhancement, and number of slices of the result.
        spacing_before_mm, spacing_after_mm: distance of slices.
        gain_over_linear_db, gain_over_cubic_db, gain_over_better_db: of the self-check, if requested.
        seconds: duration of the work.
        message: reason of a failure, or notes.
    """

    scan: str
    status: str
    output: str | None = None
    thumbnail: str | None = None
    factor: int | None = None
    axis: str | None = None
    slices: int | None = None
    spacing_before_mm: float | None = None
    spacing_after_mm: float | None = None
    gain_over_linear_db: float | None = None
    gain_over_cubic_db: float | None = None
    gain_over_better_db: float | None = None
    seconds: float | None = None
    message: str = ""


def write_summary(folder: Path, staging: Path, rows: Sequence[Row], total: int) -> None:
    """Write `TABLE` and `PAGE`, each atomically.

    Args:
        folder: where they go.
        staging: a folder on the same file system, in which they are written first.
        rows: in their final order.
        total: number of scans, done or not.

    Raises:
        OSError: the disk is full, or another program holds a file open (Windows).
    """
    with open(staging / TABLE, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)])
        table.writeheader()
        table.writerows({name: cell(value) for name, value in asdict(row).items()} for row in rows)
    (staging / PAGE).write_text(_page(rows, total), encoding="utf-8")
    for name in (TABLE, PAGE):
        os.replace(staging / name, folder / name)


def counts(rows: Sequence[Row], total: int) -> str:
    """The number of scans of each status, as one sentence.

    >>> counts([Row("a.nrrd", "enhanced"), Row("b.nrrd", "refused")], 3)
    '1 enhanced, 1 refused, 1 not reached, of 3 scans.'
    """
    found = Counter(row.status for row in rows)
    kinds = {**found, "not reached": total - len(rows)}
    listed = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    return f"{listed}, of {total} scan{'' if total == 1 else 's'}."


def cell(value: object) -> object:
    """A value for a cell of the table: numbers with four digits, and text that spreadsheets do not read as a formula.

    >>> cell(0.123456), cell(-3), cell("chest.nrrd"), cell("=1+1.nrrd")
    ('0.1235', -3, 'chest.nrrd', "'=1+1.nrrd")
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    if not isinstance(value, str):
        return value
    # https://owasp.org/www-community/attacks/CSV_Injection, with the full-width signs that some spreadsheets accept.
    return ("'" if value.startswith(_FORMULA_SIGNS) else "") + visible(value)


def _page(rows: Sequence[Row], total: int) -> str:
    return render(
        _TEMPLATE,
        version=__version__,
        counts=counts(rows, total),
        seconds=describe_seconds(sum(row.seconds or 0 for row in rows)),
        titles=list(_COLUMNS.values()),
        rows=[_line(row) for row in rows],
    )


def _line(row: Row) -> dict[str, object]:
    return {
        # File names are bytes, and not always valid text.
        "picture": quote(os.fsencode(row.thumbnail)) if row.thumbnail else None,
        "scan": visible(row.scan),
        "status": row.status,
        "numbers": [_shown(name, getattr(row, name)) for name in _COLUMNS],
        "message": visible(row.message),
    }


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name.startswith("gain"):
        return f"{value:+.2f}"
    return f"{value:.0f}" if name == "seconds" else f"{value:.4g}"
