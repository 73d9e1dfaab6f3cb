"""Write the table of measured times and memory into the documents, from what benchmarks have recorded.

    python Testing/tools/write_speed_table.py

Reads Testing/benchmarks/results/speed.jsonl, to which `enhance_speed.py --record` adds, and rewrites the lines between
the two comments "speed table" in Resources/Docs/reference/hardware.md. The table contains measurements only.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "Testing" / "benchmarks" / "results" / "speed.jsonl"
PAGE = ROOT / "Resources" / "Docs" / "reference" / "hardware.md"
BEGIN, END = "<!-- speed table: written by Testing/tools/write_speed_table.py -->", "<!-- end of speed table -->"
HEAD = (
    "| voxels of the scan | factor | machine | seconds | memory | version | measured by |",
    "|---|---|---|---:|---|---|---|",
)


def main() -> None:
    """Rewrite the table."""
    argparse.ArgumentParser(description="Write the table of measured times and memory into the documents.").parse_args()
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), read_records()), encoding="utf-8")


def read_records() -> list[dict[str, Any]]:
    """All measurements, in the order in which they were made."""
    return [json.loads(line) for line in RECORDS.read_text(encoding="utf-8").splitlines()]


def with_table(page: str, records: Iterable[Mapping[str, Any]]) -> str:
    """The page with the table of these measurements in the place of the former one."""
    table = "\n".join([BEGIN, "", *HEAD, *(row(record) for record in sorted(records, key=_order)), "", END])
    return re.sub(rf"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: table, page, flags=re.S)


def row(record: Mapping[str, Any]) -> str:
    """One line of the table.

    >>> row({"size": [512, 512, 48], "factor": 2, "seconds": 57, "memory_bytes": 8e8, "memory_of": "in all",
    ...      "machine": "2 CPU cores", "version": "0.2.0", "command": "measure"})
    '| 512 x 512 x 48 | x2 | 2 CPU cores | 57 | 0.8 GB in all | 0.2.0 | `measure` |'
    """
    memory = f"{record['memory_bytes'] / 1e9:.1f} GB {record['memory_of']}"
    if "gpu_bytes" in record:
        memory += f"; {record['gpu_bytes'] / 1e9:.1f} GB on the GPU"
    cells = (
        " x ".join(map(str, record["size"])),
        f"x{record['factor']}",
        record["machine"],
        f"{record['seconds']:g}",
        memory,
        record["version"],
        f"`{record['command']}`",
    )
    return f"| {' | '.join(cells)} |"


def _order(record: Mapping[str, Any]) -> tuple:
    i, j, k = record["size"]
    return record["machine"], record["factor"], i * j * k


if __name__ == "__main__":
    main()
