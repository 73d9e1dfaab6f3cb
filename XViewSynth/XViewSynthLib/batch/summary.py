"""What became of every scan of a batch: a table for programs, and a page for people."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from pathlib import Path
from urllib.parse import quote

from .. import __version__
from ..progress import describe_seconds
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
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } .small { color: #5a6672; font-size: .9rem; }
table { border-collapse: collapse; width: 100%; } thead { position: sticky; top: 0; background: #fff; }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #dde2e7; }
td.name { overflow-wrap: anywhere; } td img { display: block; max-height: 11rem; background: #000; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.refused { color: #7a5a00; } .failed { color: #a3182b; font-weight: 600; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Row:
    """What became of one scan; None where that is not known, or does not apply.

    Attributes:
        scan: path below the folder that was searched; "." for that folder itself.
        status: "enhanced", "enhanced before", "refused" (the scan does not qualify) or "failed" (it does).
        output, thumbnail: files below the output folder.
        factor, axis, slices: how many times closer the slices got, along which axis, and how many there are now.
        spacing_before_mm, spacing_after_mm: distance of slices.
        gain_over_linear_db, gain_over_cubic_db, gain_over_better_db: of the self-check, where asked for.
        seconds: that it took.
        message: why not, or what to know.
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
    """Write `TABLE` and `PAGE`, each whole at any moment.

    Args:
        folder: where they go.
        staging: a folder on the same file system, in which they are written first.
        rows: in the order in which they are to stand.
        total: how many scans there are, done or not.

    Raises:
        OSError: the disk is full, or somebody else holds a file open (Windows).
    """
    with open(staging / TABLE, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Row)])
        table.writeheader()
        table.writerows({name: cell(value) for name, value in asdict(row).items()} for row in rows)
    (staging / PAGE).write_text(_page(rows, total), encoding="utf-8")
    for name in (TABLE, PAGE):
        os.replace(staging / name, folder / name)


def counts(rows: Sequence[Row], total: int) -> str:
    """One sentence on how many became what.

    >>> counts([Row("a.nrrd", "enhanced"), Row("b.nrrd", "refused")], 3)
    '1 enhanced, 1 refused, 1 not reached, of 3 scans.'
    """
    found = Counter(row.status for row in rows)
    kinds = {**found, "not reached": total - len(rows)}
    told = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    return f"{told}, of {total} scan{'' if total == 1 else 's'}."


def cell(value: object) -> object:
    """A value as a table keeps it: numbers with four digits, and text that no spreadsheet takes for a formula.

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
    heads = "".join(f'<th class="number">{escape(title)}</th>' for title in _COLUMNS.values())
    body = "\n".join(_line(row) for row in rows)
    seconds = sum(row.seconds or 0 for row in rows)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src 'self' file:; "
        "style-src 'unsafe-inline'\">\n"
        f"<title>Enhanced scans</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>Enhanced scans</h1>\n<p>{escape(counts(rows, total))}</p>\n"
        f'<p class="small">xviewsynth {__version__}, {escape(describe_seconds(seconds))} of computing. Pictures: the '
        "middle plane across the slices, observed on the left, enhanced on the right. Gains: on slices of the same "
        "scan that were left out and restored. Synthetic slices are predictions, not for diagnosis.</p>\n"
        f"<table>\n<thead><tr><th>picture</th><th>scan</th><th>result</th>{heads}<th>notes</th></tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n</body>\n</html>\n"
    )


def _line(row: Row) -> str:
    picture = ""
    if row.thumbnail:
        # A name is bytes, and need not be text.
        picture = f'<img loading="lazy" alt="before and after" src="{escape(quote(os.fsencode(row.thumbnail)))}">'
    numbers = "".join(f'<td class="number">{_shown(name, getattr(row, name))}</td>' for name in _COLUMNS)
    kind = row.status.split()[0]
    return (
        f'<tr><td>{picture}</td><td class="name">{escape(visible(row.scan))}</td><td class="{escape(kind)}">'
        f"{escape(row.status)}</td>{numbers}<td>{escape(visible(row.message))}</td></tr>"
    )


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name.startswith("gain"):
        return f"{value:+.2f}"
    return f"{value:.0f}" if name == "seconds" else f"{value:.4g}"
