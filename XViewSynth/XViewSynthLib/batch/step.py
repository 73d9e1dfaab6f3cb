"""One scan of a batch: recognises it as done, or enhances it, on any computer that sees its files.

The outputs stay in the batch's hidden folder until the batch gives them their final names. So a lost computer that
finishes a reassigned scan does no harm.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..io.fingerprints import fingerprint_of, fingerprint_of_file, fingerprint_of_scan
from ..system.durable import to_disk
from ..system.staging import STAGING_PREFIX
from ..system.streams import visible
from .process import TASK, run_worker
from .records import read_record as read_record_file
from .task import DICOM, ENHANCED, FAILED, FORMATS, REFUSED, Task

ENHANCED_BEFORE = "enhanced before"
_ADVICE = {
    errno.ENOSPC: "make room for it, then add --resume",
    errno.EDQUOT: "make room for it, then add --resume",
    errno.ENAMETOOLONG: "choose an output folder with a shorter path",
    errno.EACCES: "check the permissions of the output folder, then add --resume",
    errno.EPERM: "check the permissions of the output folder, then add --resume",
    errno.EROFS: "choose another output folder",
    errno.ENOENT: "bring the output folder back, then add --resume",
    errno.EXDEV: "keep the whole output folder on one drive",
}

# Result of `run_step`, and queue of an executor: number of the step and result.
Outcome = dict[str, Any]
Outcomes = queue.SimpleQueue


@dataclass(frozen=True)
class BatchItem:
    """A scan, and the place of its output.

    Attributes:
        name: path below the input folder; "." for that folder itself.
        source: file, or folder of a DICOM series.
        place: the output without its ending.
    """

    name: str
    source: Path
    place: Path

    def file(self, ending: str) -> Path:
        """The output, thumbnail or record."""
        return self.place.with_name(f"{self.place.name}.{ending}")

    @property
    def record(self) -> Path:
        """The record: settings and checksums."""
        return self.file("json")


@dataclass(frozen=True)
class Step:
    """A scan and the settings of its enhancement, as plain values that JSON can hold.

    Attributes:
        name, source, place: of the `BatchItem`.
        root: the input folder, which no message names.
        staging: the batch's hidden folder.
        settings: for the record: all that determines the result, with the weights' checksum as "model".
        request: as of `Request.to_json`, for this computer: folder of the model, device, memory.
        threads: limit of CPU threads, or None for all. The environment has precedence.
    """

    name: str
    source: str
    place: str
    root: str
    staging: str
    settings: dict[str, Any]
    request: dict[str, Any]
    threads: int | None

    @property
    def item(self) -> BatchItem:
        """The scan and its outputs."""
        return BatchItem(self.name, Path(self.source), Path(self.place))


def run_step(step: Step, stop_if_requested: Callable[[], None], lock: int | None = None) -> Outcome:
    """Enhance a scan in a separate process, unless that has been done.

    Args:
        step: the scan and its settings.
        stop_if_requested: called many times a second; raises `Cancelled` to end the work.
        lock: a descriptor that the process holds open to its end.

    Returns:
        "status": "enhanced before", "enhanced", "refused" or "failed". The first two have "record". "enhanced" has
        "folder" with output, thumbnail and record. The last two have "message".

    Raises:
        Cancelled: `stop_if_requested` raised it.
    """
    item = step.item
    try:
        checksum = fingerprint_of_scan(item.source, stop_if_requested)
    except OSError as error:
        reason = error.strerror or error
        return _unfinished(REFUSED, f"{item.name} cannot be read ({reason}): check the file and its permissions.")
    what = {"input_sha256": checksum, "settings": step.settings}
    record = read_record(item)
    if is_done(item, record, what, stop_if_requested):
        return {"status": ENHANCED_BEFORE, "record": record}
    output = item.file(step.settings["format"])
    if (record is None or record["output"]["file"] != output.name) and os.path.lexists(output):
        return _unfinished(FAILED, f"{output.name} exists already and is not of a batch: move it away.")
    try:
        folder = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=step.staging))
    except OSError as error:
        return _unwritable(error)
    finished = False
    try:
        outcome = _enhance(step, folder, what, stop_if_requested, lock)
        finished = outcome["status"] == ENHANCED
        return outcome
    except OSError as error:
        return _unwritable(error)
    finally:
        if not finished:
            shutil.rmtree(folder, ignore_errors=True)


def read_record(item: BatchItem) -> dict[str, Any] | None:
    """The record of an item, or None if it is missing or damaged."""
    return read_record_file(item.record, {item.file(ending).name for ending in FORMATS})


def is_done(
    item: BatchItem, record: dict[str, Any] | None, what: dict[str, Any], check: Callable[[], None] = lambda: None
) -> bool:
    """Whether the output is unchanged byte for byte, and comes from this scan and these settings.

    Args:
        item: the scan.
        record: of the earlier enhancement.
        what: the requested settings, in the form of the record.
        check: called while the output is read; an exception of it ends the work.
    """
    if record is None or record["fingerprint"] != fingerprint_of(what):
        return False
    output = item.record.with_name(record["output"]["file"])
    try:
        # The size is known at once, the checksum only after reading the whole file.
        return _size(output) == record["output"]["bytes"] and _checksum(output, check) == record["output"]["sha256"]
    except OSError:
        return False


def internal_error(error: BaseException) -> Outcome:
    """The outcome of a scan that was stopped by an internal error."""
    what = f"{type(error).__name__}: {error}"
    return _unfinished(FAILED, f"This is an internal error, please report it: {what}")


def unwritable_message(error: OSError) -> str:
    """The message for a scan whose output cannot be written."""
    advice = _ADVICE.get(error.errno or 0, "check the output folder, then add --resume")
    return f"Its output cannot be written ({error.strerror or error}): {advice}."


def _unfinished(status: str, message: str) -> Outcome:
    return {"status": status, "message": message}


def _unwritable(error: OSError) -> Outcome:
    return _unfinished(FAILED, unwritable_message(error))


def _enhance(
    step: Step, folder: Path, what: dict[str, Any], stop_if_requested: Callable[[], None], lock: int | None
) -> dict[str, Any]:
    began = time.monotonic()
    item = step.item
    _write_task(step, folder)
    result = run_worker(folder, step.threads, stop_if_requested, lock)
    if result["status"] != ENHANCED:
        return _unfinished(result["status"], _without_folders(result["message"], folder, step.root))
    stop_if_requested()
    output = folder / item.file(step.settings["format"]).name
    record = {
        "program": f"xviewsynth {__version__}",
        "scan": item.name,
        "fingerprint": fingerprint_of(what),
        **what,
        "output": {"file": output.name, "bytes": _size(output), "sha256": _checksum(output, stop_if_requested)},
        "seconds": round(time.monotonic() - began, 2),
        "report": result["report"],
        "selfcheck": result["selfcheck"],
    }
    written = folder / item.record.name
    written.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    for file in (written, *_files(output)):
        stop_if_requested()
        to_disk(file)
    return {"status": ENHANCED, "record": record, "folder": str(folder)}


def _write_task(step: Step, folder: Path) -> None:
    settings, item = step.settings, step.item
    task = Task(
        name=item.name,
        source=step.source,
        output=item.file(settings["format"]).name,
        dicom=settings["format"] == DICOM,
        thumbnail=item.file("png").name,
        request=step.request,
        selfcheck=settings["selfcheck"],
    )
    (folder / TASK).write_text(json.dumps(asdict(task)), encoding="utf-8")


def _without_folders(message: str, folder: Path, root: str) -> str:
    """The message with paths relative to the input folder, as in the summary, without folders of this computer."""
    for place, name in ((str(folder), ""), (root, ".")):
        # Printed text is escaped.
        for text in (place, visible(place)):
            message = message.replace(f"{text}{os.sep}", "").replace(text, name)
    return message


def _files(output: Path) -> list[Path]:
    return sorted(output.iterdir()) if output.is_dir() else [output]


def _size(output: Path) -> int:
    return sum(file.stat().st_size for file in _files(output))


def _checksum(output: Path, check: Callable[[], None]) -> str:
    return (fingerprint_of_scan if output.is_dir() else fingerprint_of_file)(output, check)
