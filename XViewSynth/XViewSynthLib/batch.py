"""Every scan below a folder, enhanced one after the other or several at once, each in a process of its own.

A scan that cannot be enhanced, or whose process crashes, stops no other. The process works in a hidden folder of the
batch; what it made is moved to its place when it is whole. A record beside each output holds the checksum of the scan
and of the settings, by which a batch that is started again knows what is done.
"""

from __future__ import annotations

import json
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from . import __version__
from .batch_worker import COMMAND, ENHANCED, FAILED, FORMATS, REFUSED, RESULT, Task
from .errors import Cancelled, InputError
from .finding import scan_paths
from .fingerprints import fingerprint_of, fingerprint_of_file, fingerprint_of_scan
from .models import model_card, model_folder
from .outputs import STAGING_PREFIX, staging_folder
from .progress import Progress, Report
from .selfcheck import GAINS
from .summary import PAGE, TABLE, Row, write_summary

ENHANCED_BEFORE = "enhanced before"
# Of all that may lie beside each other for one scan.
_ENDINGS = (*(f".{ending}" for ending in FORMATS), ".json", ".png")
# The exit code where scans that qualify are not enhanced.
SOME_FAILED = 4

_STAGING = f"{STAGING_PREFIX}batch"
_LOCK_FILE = f"{STAGING_PREFIX}lock"
_WORKER = f"{__package__}.batch_worker"
_LIBRARY = Path(__file__).resolve().parents[1]
_POLL_SECONDS = 0.05
# A process that was killed does nothing more; only its memory takes a while to be given back.
_DYING_SECONDS = 0.5
# What a batch that was killed has left running ends within a second, or a few on a busy machine.
_LOCK_SECONDS = 20.0
# Of the time between two writings of the summary, the share that writing may take.
_SUMMARY_SHARE = 0.05
_MEMORY_SHARE = 0.8
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


@dataclass(frozen=True)
class Settings:
    """What is done to every scan.

    Attributes:
        factor, spacing, isotropic, axis, model, acquisition, device, precision: as for `enhance`; "auto" as device
            shares the scans out among all GPUs.
        selfcheck: whether to measure on each scan how well slices of it are restored.
        format: ending of the outputs, one of `FORMATS`.
    """

    factor: int | None = None
    spacing: float | None = None
    isotropic: bool = False
    axis: str = "auto"
    model: str = "standard"
    acquisition: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    selfcheck: bool = False
    format: str = "nrrd"


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


def run_batch(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    settings: Settings,
    *,
    jobs: int | None = None,
    memory: int | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda text: None,
    progress: Report | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> list[Row]:
    """Enhance every scan below a folder that can be enhanced, and write a summary after each.

    The output of ``a/chest.nrrd`` is ``a/chest.nrrd.enhanced.nrrd``; beside it lie a thumbnail (.png) and a record
    (.json). What is in the output folder is no scan to enhance.

    Args:
        source: folder with scans, at any depth.
        target: folder for the outputs; made where missing.
        settings: what to do.
        jobs: how many scans at once; one a device by default.
        memory: bytes that all may take together; default is most of what is free.
        resume: pass over the scans that an earlier batch has done with the same settings, and replace the outputs of
            those that have changed, or were done with others.
        say: told one sentence a scan.
        progress: told after every scan.
        should_cancel: asked many times a second.

    Returns:
        What became of each scan, in the order of their names.

    Raises:
        InputError: the settings, the folders or the model cannot be used, nothing was found, there are outputs
            already (unless resuming), another batch works there, or the summary cannot be written.
        Cancelled: `should_cancel` said so. What was finished is kept.
    """
    tell = progress or (lambda step: None)
    tell(Progress("searching", 0, 1))
    model = model_folder(settings.model).resolve()
    card = model_card(model)
    if settings.factor is not None and settings.factor not in card["factors"]:
        known = ", ".join(str(factor) for factor in card["factors"])
        raise InputError(f"{card['name']} was trained for factors {known}: choose one of these or another model.")
    source, target = Path(os.path.abspath(source)), Path(os.path.abspath(target))
    studies = find_studies(source, target, should_cancel)
    with _output_folder(target) as (staging, lock):
        _check_outputs(studies, target, settings, resume)
        devices = _devices(settings.device)
        batch = _Batch(
            settings=replace(settings, model=str(model)),
            model_sha256=card["weights_sha256"],
            source=source,
            target=target,
            staging=staging,
            lock=lock,
            devices=devices,
            jobs=jobs or len(devices),
            memory=_share(memory, jobs or len(devices)),
        )
        return batch.run(studies, say, tell, should_cancel or (lambda: False))


def find_studies(source: Path, target: Path, should_cancel: Callable[[], bool] | None = None) -> list[Study]:
    """All that looks like a scan below a folder, and a place of its own for what becomes of each.

    Raises:
        InputError: there is no such folder, no scan in it, or the outputs would lie among the scans.
        Cancelled: the user asked to stop.
    """
    if not source.is_dir():
        raise InputError(f"{source} is no folder: name the folder that holds the scans.")
    resolved = target.resolve()
    if resolved == source.resolve():
        raise InputError(f"{target} holds the scans: choose another folder for the outputs.")
    inside = source.resolve() in resolved.parents
    found = [
        path
        for path, _ in scan_paths(source, should_cancel)
        if not (inside and (path.resolve() == resolved or resolved in path.resolve().parents))
    ]
    if not found:
        raise InputError(
            f"{source} holds no scan: name a folder with DICOM, NRRD, NIfTI, MHA or MHD files in or below it."
        )
    names = sorted(path.relative_to(source).as_posix() for path in found)
    taken = {parent.as_posix().casefold() for name in names for parent in Path(name).parents}
    studies = []
    for name in names:
        place = _free_place("enhanced" if name == "." else f"{name}.enhanced", taken)
        taken.add(place.casefold())
        studies.append(Study(name, source / name, target / place))
    return studies


def _free_place(wanted: str, taken: set[str]) -> str:
    # Only names that differ by case alone, and folders that are named like outputs, ever meet.
    place, number = wanted, 1
    while taken & {f"{place}{ending}".casefold() for ending in ("", *_ENDINGS)}:
        number += 1
        place = f"{wanted}~{number}"
    return place


def _check_outputs(studies: Sequence[Study], target: Path, settings: Settings, resume: bool) -> None:
    if resume:
        return
    ours = [file for study in studies for file in (study.file(settings.format), study.file("png"), study.record)]
    for file in (target / TABLE, target / PAGE, *ours):
        if os.path.lexists(file):
            raise InputError(f"{file} exists already: add --resume to go on there, or choose another folder.")


def _devices(requested: str) -> list[str]:
    if requested == "cpu":
        return [requested]
    import torch

    from .hardware import resolve_device

    device = resolve_device(requested)
    if requested == "auto" and device.type == "cuda":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(device)]


def _share(memory: int | None, jobs: int) -> int | None:
    """Bytes that each of several processes may take; one alone sees for itself what is free."""
    if jobs == 1:
        return memory
    if memory is None:
        import psutil

        memory = int(_MEMORY_SHARE * psutil.virtual_memory().available)
    return memory // jobs


@dataclass
class _Batch:
    """A batch at work: as many threads as scans are enhanced at once, each waiting for a process."""

    settings: Settings
    model_sha256: str
    source: Path
    target: Path
    staging: Path
    lock: int | None
    devices: list[str]
    jobs: int
    memory: int | None  # for each
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(
        self,
        studies: Sequence[Study],
        say: Callable[[str], None],
        tell: Report,
        should_cancel: Callable[[], bool],
    ) -> list[Row]:
        waiting: queue.SimpleQueue[Study] = queue.SimpleQueue()
        done: queue.SimpleQueue[Row] = queue.SimpleQueue()
        for study in studies:
            waiting.put(study)
        threads = [
            threading.Thread(target=self._work, args=(waiting, done, self.devices[n % len(self.devices)]), daemon=True)
            for n in range(min(self.jobs, len(studies)))
        ]
        order = {study.name: number for number, study in enumerate(studies)}
        summary = _Summary(self.target, self.staging, len(studies))
        try:
            for thread in threads:
                thread.start()
            tell(Progress("enhancing", 0, len(studies)))
            while len(summary.rows) < len(studies):
                row = _next(done, should_cancel)
                summary.add(row, order)
                say(_sentence(row, len(summary.rows), len(studies)))
                tell(Progress("enhancing", len(summary.rows), len(studies), summary.seconds_left()))
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join()
            # What was finished while somebody asked to stop.
            with suppress(queue.Empty):
                while True:
                    summary.add(done.get_nowait(), order)
            summary.write()
        return summary.rows

    def _work(self, waiting: queue.SimpleQueue, done: queue.SimpleQueue, device: str) -> None:
        with suppress(queue.Empty, Cancelled):
            while not self.stopping.is_set():
                study = waiting.get_nowait()
                try:
                    done.put(self._do(study, device))
                except Cancelled:
                    raise
                except Exception as error:  # not even a defect of ours may stop the others
                    what = f"{type(error).__name__}: {error}"
                    message = f"This is a defect of XViewSynth, please report it: {what}"
                    done.put(Row(study.name, FAILED, message=message))

    def _do(self, study: Study, device: str) -> Row:
        try:
            checksum = fingerprint_of_scan(study.source, self._stop_if_asked)
        except OSError as error:
            message = f"{study.name} cannot be read ({error.strerror or error}): check the file and its permissions."
            return Row(study.name, REFUSED, message=message)
        what = {"input_sha256": checksum, "settings": self._settings_on_record()}
        record = read_record(study)
        if is_done(study, record, what):
            return _row(study, record, self.target, ENHANCED_BEFORE)
        output = study.file(self.settings.format)
        if record is None and os.path.lexists(output):
            message = f"{output.name} exists already and is not of a batch: move it away."
            return Row(study.name, FAILED, message=message)
        try:
            return self._enhance(study, device, what, record)
        except OSError as error:
            reason = error.strerror or error
            return Row(study.name, FAILED, message=f"Its output cannot be written ({reason}): make room for it.")

    def _enhance(self, study: Study, device: str, what: dict[str, Any], former: dict[str, Any] | None) -> Row:
        with staging_folder(self.staging) as folder:
            began = time.monotonic()
            result = self._run_process(study, device, folder)
            if result["status"] != ENHANCED:
                return Row(study.name, result["status"], message=self._without_folders(result["message"], folder))
            self._stop_if_asked()
            volume = folder / study.file(self.settings.format).name
            record = {
                "program": f"xviewsynth {__version__}",
                "scan": study.name,
                "fingerprint": fingerprint_of(what),
                **what,
                "output": {
                    "file": volume.name,
                    "bytes": volume.stat().st_size,
                    "sha256": fingerprint_of_file(volume, self._stop_if_asked),
                },
                "seconds": round(time.monotonic() - began, 2),
                "report": result["report"],
                "selfcheck": result["selfcheck"],
            }
            _put_in_place(study, folder, volume, record, former)
        return _row(study, record, self.target, ENHANCED)

    def _run_process(self, study: Study, device: str, folder: Path) -> dict[str, Any]:
        """What the process tells of one scan; where it cannot, why not."""
        self._write_task(study, device, folder)
        log, own_number = folder / "log.txt", str(os.getpid())
        with open(log, "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", _WORKER, COMMAND, str(folder / "task.json"), "--stop-with-parent", own_number],
                cwd=_LIBRARY,  # Python looks here first for the engine
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                **self._apart(),
            )
        try:
            while process.poll() is None:
                # It writes nowhere but in our folder, so that there is nothing that it would have to tidy up.
                self._stop_if_asked()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
        finally:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_DYING_SECONDS)
            with suppress(OSError):
                process.stdin.close()
        with suppress(OSError, ValueError):
            if process.returncode == 0:
                return json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return {"status": FAILED, "message": _last_words(process.returncode, log)}

    def _write_task(self, study: Study, device: str, folder: Path) -> None:
        settings = self.settings
        task = Task(
            name=study.name,
            source=str(study.source),
            volume=study.file(settings.format).name,
            thumbnail=study.file("png").name,
            model=settings.model,
            goal={"factor": settings.factor, "spacing": settings.spacing, "isotropic": settings.isotropic},
            axis=settings.axis,
            acquisition=settings.acquisition,
            device=device,
            precision=settings.precision,
            memory=self.memory,
            selfcheck=settings.selfcheck,
        )
        (folder / "task.json").write_text(json.dumps(asdict(task)), encoding="utf-8")

    def _environment(self) -> dict[str, str]:
        folders = [str(_LIBRARY), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "PYTHONUTF8": "1"}
        if self.jobs > 1:
            threads = str(max(1, _cores() // self.jobs))
            environment = {**dict.fromkeys(_THREAD_VARIABLES, threads), **environment}
        return environment

    def _apart(self) -> dict[str, Any]:
        """Keys pressed in the terminal reach this process only; the lock is held until the last process has ended."""
        if os.name == "posix":
            return {"start_new_session": True, "pass_fds": () if self.lock is None else (self.lock,)}
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}

    def _settings_on_record(self) -> dict[str, Any]:
        # Where the model lies, and whose computer that is, does not change the result; its weights do.
        settings = {**asdict(self.settings), "model": self.model_sha256}
        return {**settings, "program": __version__}

    def _without_folders(self, message: str, folder: Path) -> str:
        """The sentence, naming files as the summary does: below the input folder, and nothing of this computer."""
        for place, name in ((folder, ""), (self.source, ".")):
            message = message.replace(f"{place}{os.sep}", "").replace(str(place), name)
        return message

    def _stop_if_asked(self) -> None:
        if self.stopping.is_set():
            raise Cancelled


@dataclass
class _Summary:
    """The rows so far; written after each, unless writing would then be most of the work."""

    target: Path
    staging: Path
    total: int
    rows: list[Row] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    due: float = -math.inf

    def add(self, row: Row, order: dict[str, int]) -> None:
        self.rows.append(row)
        self.rows.sort(key=lambda row: order[row.scan])
        if time.monotonic() >= self.due:
            self.write()

    def write(self) -> None:
        began = time.monotonic()
        try:
            write_summary(self.target, self.staging, self.rows, self.total)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"Cannot write {self.target / TABLE} ({reason}): make room, close it elsewhere, then add --resume."
            ) from error
        now = time.monotonic()
        self.due = now + (now - began) / _SUMMARY_SHARE

    def seconds_left(self) -> float | None:
        worked = sum(row.status != ENHANCED_BEFORE for row in self.rows)
        if not worked:
            return None
        return (time.monotonic() - self.began) / worked * (self.total - len(self.rows))


def read_record(study: Study) -> dict[str, Any] | None:
    """The record of a study, or None where there is none that can be read."""
    with suppress(OSError, ValueError):
        record = json.loads(study.record.read_text(encoding="utf-8"))
        if isinstance(record, dict) and {"fingerprint", "output", "report", "seconds"} <= set(record):
            return record
    return None


def is_done(study: Study, record: dict[str, Any] | None, what: dict[str, Any]) -> bool:
    """Whether the output is there, and comes from this very scan and these very settings."""
    if record is None or record["fingerprint"] != fingerprint_of(what):
        return False
    output = study.record.with_name(record["output"]["file"])
    return output.is_file() and output.stat().st_size == record["output"]["bytes"]


def _put_in_place(
    study: Study, folder: Path, volume: Path, record: dict[str, Any], former: dict[str, Any] | None
) -> None:
    """Give a finished scan its final names, so that at no moment a record stands beside a volume that is not its own.

    A record whose volume is missing counts for nothing, so the former volume goes first and the new one comes last.
    """
    written = folder / study.record.name
    written.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for file in (written, volume):
        _to_disk(file)
    study.place.parent.mkdir(parents=True, exist_ok=True)
    if former is not None:
        # A name in a file is not to be trusted with more than the files of this study.
        name = Path(str(former["output"]["file"])).name
        if name in {study.file(ending).name for ending in FORMATS}:
            study.record.with_name(name).unlink(missing_ok=True)
    thumbnail = study.file("png")
    os.replace(folder / thumbnail.name, thumbnail)
    os.replace(written, study.record)
    os.replace(volume, study.place.with_name(volume.name))


def _to_disk(file: Path) -> None:
    # A power cut must not leave a name without its content.
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


def _row(study: Study, record: dict[str, Any], target: Path, status: str) -> Row:
    report, check = record["report"], record.get("selfcheck") or {}
    along = "IJK".index(report["axis"])
    gains = check.get("methods", {}).get("enhanced", {})
    notes = [*report["notes"], *([f"Self-check: {check['problem']}"] if "problem" in check else [])]
    output = study.record.with_name(record["output"]["file"])
    thumbnail = study.file("png")
    return Row(
        scan=study.name,
        status=status,
        output=output.relative_to(target).as_posix(),
        thumbnail=thumbnail.relative_to(target).as_posix() if thumbnail.exists() else None,
        factor=report["factor"],
        axis=report["axis"],
        slices=report["output"]["shape_ijk"][along],
        spacing_before_mm=report["input"]["spacing_mm"][along],
        spacing_after_mm=report["output"]["spacing_mm"][along],
        **{name: gains.get(name) for name in GAINS},
        seconds=record["seconds"],
        message=" ".join(notes),
    )


def _sentence(row: Row, number: int, total: int) -> str:
    seconds = f" in {row.seconds:.0f} s" if row.status == ENHANCED else ""
    return f"{number} of {total}: {row.scan}: {row.status}{seconds}{': ' if row.message else ''}{row.message}"


def _next(done: queue.SimpleQueue, should_cancel: Callable[[], bool]) -> Row:
    while True:
        if should_cancel():
            raise Cancelled("What was finished is kept: add --resume to go on.")
        with suppress(queue.Empty):
            return done.get(timeout=_POLL_SECONDS)


def _last_words(code: int, log: Path) -> str:
    told = [
        line.removeprefix("error: ")
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("error: ")
    ]
    if told:
        return told[-1]
    if code < 0:
        name = signal.Signals(-code).name if -code in {number.value for number in signal.Signals} else str(-code)
        return f"Its process was ended by {name}, perhaps for lack of memory: use fewer --jobs or less --memory."
    return f"Its process ended with {code} and said nothing: try it again by itself with xviewsynth enhance."


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _output_folder(target: Path) -> Iterator[tuple[Path, int | None]]:
    """Make the output folder where missing, and hold it for this batch alone.

    Gives a hidden folder in it, empty whatever a batch that was killed has left there, and what holds the lock.
    """
    staging = target / _STAGING
    try:
        target.mkdir(parents=True, exist_ok=True)
        lock = _lock(target)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{target} cannot be used ({reason}): choose another folder for the outputs.") from error
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(exist_ok=True)
        yield staging, lock
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(target: Path) -> int | None:
    """Hold a folder until this process and those it has started have ended; None where that cannot be had."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return _try_lock(target)
        except (BlockingIOError, FileExistsError) as error:
            if time.monotonic() > until:
                raise InputError(
                    f"Another batch works in {target}: wait for its end, or choose another folder."
                ) from error
        time.sleep(_POLL_SECONDS)


def _try_lock(target: Path) -> int | None:
    if sys.platform == "win32":
        # Windows removes the file with the last process that has it open, however that ends.
        return os.open(target / _LOCK_FILE, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_TEMPORARY | os.O_NOINHERIT)
    import fcntl

    descriptor = os.open(target, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a network drive that knows no locks
        os.close(descriptor)
        return None
    return descriptor
