"""Inputs and outputs of commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..progress import Progress
from ..system.outputs import Outputs
from ..system.streams import quiet_libraries

if TYPE_CHECKING:
    from ..geometry.volume import Volume
    from ..workers.job import Job


def read_scan(path: Path, job: Job, again: bool, memory: int | None) -> Volume:
    """The scan of a file or folder. `again` accepts one that was made by this program."""
    from ..io.reading import read_volume

    job.progress(Progress("reading", 0, 1))
    with quiet_libraries():
        scan = read_volume(path, memory=memory)
    job.progress(Progress("reading", 1, 1))
    job.stop_if_requested()
    return replace(scan, synthetic=False) if again else scan


def add_volume_output(outputs: Outputs, path: Path) -> Path:
    from ..io.writing import check_writable_name

    check_writable_name(path)
    return outputs.add(path)


def add_report_output(outputs: Outputs, path: Path) -> Path:
    if path.suffix.lower() != ".json":
        raise InputError(f"{path} must end in .json: a report is a JSON file.")
    return outputs.add(path)


def write_json(path: Path, content: object) -> None:
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}. Choose another place for the report.") from error
