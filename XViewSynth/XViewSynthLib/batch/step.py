"""One scan of a batch, as any computer that sees its files can take it: recognise it as done, or enhance it.

What was made waits in the batch's hidden folder. The batch alone gives it its final name, so it makes no difference
that a computer which seemed lost, and whose scan another has taken over, comes to its end after all.
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
from ..system.outputs import STAGING_PREFIX
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

# What `take_step` tells, and where crews put that, with the number of the step.
Outcome = dict[str, Any]
Outcomes = queue.SimpleQueue


@dataclass(frozen=True)
class Study:
    """A scan, and where what becomes of it goes.

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
        """Of what was done, and to what."""
        return self.file("json")


@dataclass(frozen=True)
class Step:
    """A scan, and what is to be done to it, in plain values that JSON can hold.

    Attributes:
        name, source, place: of the `Study`.
        root: the input folder, which no message names.
        staging: the batch's hidden folder.
        settings: for the record: all that decides on the result, with the weights' checksum as "model".
        request: as `Request.to_json` gives it, for this computer: folder of the model, device, memory.
        threads: CPU threads that it may use unless the environment says so, or None for all.
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
    def study(self) -> Study:
        """The scan and its outputs."""
        return Study(self.name, Path(self.source), Path(self.place))


def take_step(step: Step, stop_if_requested: Callable[[], None], lock: int | None = None) -> Outcome:
    """Enhance a scan unless that has been done, in a process of its own.

    Args:
        step: what to do.
        stop_if_requested: called many times a second; raises `Cancelled` to end the work.
        lock: a descriptor that the process holds open to its end.

    Returns:
        "status": "enhanced before", "enhanced", "refused" or "failed"; with the first two "record"; with the second
        "folder", where output, thumbnail and record wait; with the last two "message".

    Raises:
        Cancelled: `stop_if_requested` said so.
    """
    study = step.study
    try:
        checksum = fingerprint_of_scan(study.source, stop_if_requested)
    except OSError as error:
        reason = error.strerror or error
        return _told(REFUSED, f"{study.name} cannot be read ({reason}): check the file and its permissions.")
    what = {"input_sha256": checksum, "settings": step.settings}
    record = read_record(study)
    if is_done(study, record, what, stop_if_requested):
        return {"status": ENHANCED_BEFORE, "record": record}
    output = study.file(step.settings["format"])
    if (record is None or record["output"]["file"] != output.name) and os.path.lexists(output):
        return _told(FAILED, f"{output.name} exists already and is not of a batch: move it away.")
    try:
        folder = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=step.staging))
    except OSError as error:
        return _unwritable(error)
    finished = False
    try:
        told = _enhance(step, folder, what, stop_if_requested, lock)
        finished = told["status"] == ENHANCED
        return told
    except OSError as error:
        return _unwritable(error)
    finally:
        if not finished:
            shutil.rmtree(folder, ignore_errors=True)


def read_record(study: Study) -> dict[str, Any] | None:
    """The record of a study, or None where there is none, or a damaged one."""
    return read_record_file(study.record, {study.file(ending).name for ending in FORMATS})


def is_done(
    study: Study,
    record: dict[str, Any] | None,
    what: dict[str, Any],
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Whether the output is there byte for byte, and comes from this very scan and these very settings.

    Args:
        study: the scan.
        record: of what was done.
        what: what is to be done, as on record.
        check: called while the output is read; what it raises ends the work.
    """
    if record is None or record["fingerprint"] != fingerprint_of(what):
        return False
    output = study.record.with_name(record["output"]["file"])
    try:
        # A size is known at once, and a checksum only after reading all of it.
        return _size(output) == record["output"]["bytes"] and _checksum(output, check) == record["output"]["sha256"]
    except OSError:
        return False


def defect(error: BaseException) -> Outcome:
    """What to tell of a scan that a defect of ours has stopped."""
    what = f"{type(error).__name__}: {error}"
    return _told(FAILED, f"This is a defect of XViewSynth, please report it: {what}")


def unwritable_message(error: OSError) -> str:
    """What to say of a scan whose output cannot be written."""
    advice = _ADVICE.get(error.errno or 0, "check the output folder, then add --resume")
    return f"Its output cannot be written ({error.strerror or error}): {advice}."


def _told(status: str, message: str) -> Outcome:
    return {"status": status, "message": message}


def _unwritable(error: OSError) -> Outcome:
    return _told(FAILED, unwritable_message(error))


def _enhance(
    step: Step, folder: Path, what: dict[str, Any], stop_if_requested: Callable[[], None], lock: int | None
) -> dict[str, Any]:
    began = time.monotonic()
    study = step.study
    _write_task(step, folder)
    result = run_worker(folder, step.threads, stop_if_requested, lock)
    if result["status"] != ENHANCED:
        return _told(result["status"], _without_folders(result["message"], folder, step.root))
    stop_if_requested()
    output = folder / study.file(step.settings["format"]).name
    record = {
        "program": f"xviewsynth {__version__}",
        "scan": study.name,
        "fingerprint": fingerprint_of(what),
        **what,
        "output": {"file": output.name, "bytes": _size(output), "sha256": _checksum(output, stop_if_requested)},
        "seconds": round(time.monotonic() - began, 2),
        "report": result["report"],
        "selfcheck": result["selfcheck"],
    }
    written = folder / study.record.name
    written.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    for file in (written, *_files(output)):
        stop_if_requested()
        _to_disk(file)
    return {"status": ENHANCED, "record": record, "folder": str(folder)}


def _write_task(step: Step, folder: Path) -> None:
    settings, study = step.settings, step.study
    task = Task(
        name=study.name,
        source=step.source,
        output=study.file(settings["format"]).name,
        dicom=settings["format"] == DICOM,
        thumbnail=study.file("png").name,
        request=step.request,
        selfcheck=settings["selfcheck"],
    )
    (folder / TASK).write_text(json.dumps(asdict(task)), encoding="utf-8")


def _without_folders(message: str, folder: Path, root: str) -> str:
    """The sentence, naming files as the summary does: below the input folder, and nothing of this computer."""
    for place, name in ((str(folder), ""), (root, ".")):
        # What was printed is escaped.
        for text in (place, visible(place)):
            message = message.replace(f"{text}{os.sep}", "").replace(text, name)
    return message


def _files(output: Path) -> list[Path]:
    return sorted(output.iterdir()) if output.is_dir() else [output]


def _size(output: Path) -> int:
    return sum(file.stat().st_size for file in _files(output))


def _checksum(output: Path, check: Callable[[], None]) -> str:
    return (fingerprint_of_scan if output.is_dir() else fingerprint_of_file)(output, check)


def _to_disk(file: Path) -> None:
    # A power cut must not leave a name without its content.
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())
