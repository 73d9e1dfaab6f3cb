"""Enhancing and checking a scan in the background: start, look, cancel, take the result.

    job = EnhanceJob(volume, Request(factor=4))
    job.start()
    while not (state := job.poll()).ended: ...     # from a timer, every 100 ms
    job.result.enhanced

A thread of the job does all that takes time: it writes the scan into a temporary folder, watches the worker process,
reads the result, and removes the folder. So no call here waits, and a job that nobody looks at any more ends as well.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.geometry.volume import Volume, affine_column
from XViewSynthLib.model.catalogue import model_folder
from XViewSynthLib.request import AUTOMATIC, Request
from XViewSynthLib.workers.worker import last_error

from .processes import Worker, start_worker, worker_environment

PREPARING, RUNNING, READING = "preparing", "running", "reading"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
FOLDER_PREFIX = "XViewSynth-"
_SCAN, _ENHANCED, _UNCERTAINTY, _REPORT = "scan.mhd", "enhanced.mhd", "uncertainty.mhd", "report.json"

_ENDS = (DONE, FAILED, CANCELLED)
# Exit codes of the engine.
_OK, _WRONG_INPUT, _STOPPED = 0, 2, 3
_POLL_SECONDS = 0.05
# Reading or writing a file cannot be interrupted: it may take this much longer after a cancel, then it is left alone.
_PATIENCE_SECONDS = 1.0
# Windows keeps a file for a moment after the process that used it has ended.
_REMOVE_ATTEMPTS, _REMOVE_PAUSE_SECONDS = 5, 0.1

Result = TypeVar("Result")


@dataclass(frozen=True)
class JobState:
    """Where a job stands.

    Attributes:
        status: "preparing", "running", "reading", and in the end "done", "failed" or "cancelled".
        stage: what is being done, in a few plain words.
        done: steps of this stage that are finished, 0 to `total`.
        total: steps of this stage, at least 1.
        seconds_left: until the whole job is done; None while nothing is known.
        message: one sentence on why the job failed, or was cancelled by somebody else; else None.
    """

    status: str
    stage: str
    done: int = 0
    total: int = 1
    seconds_left: float | None = None
    message: str | None = None

    @property
    def ended(self) -> bool:
        """Whether this is the last state."""
        return self.status in _ENDS


@dataclass(frozen=True)
class EnhanceResult:
    """What an enhancement gives.

    Attributes:
        enhanced: the scan with its synthetic slices, of the input's scalar type.
        uncertainty: float32 HU on the same grid: the expected absolute error, or if the model is not calibrated, how
            far the three views differ; the report says which.
        report: what was done, as ``xviewsynth enhance --report`` tells it.
    """

    enhanced: Volume
    uncertainty: Volume
    report: dict[str, Any]


class _Job(ABC, Generic[Result]):
    """One command of the engine, from what it needs to what it gives.

    Make and start it in the main thread. A job that nobody needs any more must be closed.

    Args:
        folder: where the job makes its temporary folder, which is gone when the job has ended; by default where
            Slicer, or else the system, keeps temporary files.
        python: the interpreter, as for `start_worker`.
    """

    name: str
    """What the user calls it, to begin a sentence with."""

    def __init__(self, folder: str | os.PathLike[str] | None = None, python: str | None = None):
        self._parent = folder or temporary_folder()
        self._python = python
        self._state = JobState(PREPARING, "preparing")
        self._result: Result | None = None
        self._log = ""
        self._asked_to_stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def result(self) -> Result:
        """What the job gave.

        Raises:
            RuntimeError: it is not done, or closed.
        """
        if self._result is None:
            raise RuntimeError(f"{self.name} has no result: it is {self._state.status}.")
        return self._result

    @property
    def log(self) -> str:
        """The last lines that the worker wrote, once it has ended."""
        return self._log

    def start(self) -> None:
        """Begin, and return at once.

        Raises:
            RuntimeError: it was started or cancelled before.
        """
        if self._thread is not None or self._state.ended:
            raise RuntimeError(f"{self.name} was started or cancelled before: make a new job.")
        # Slicer's application is asked here, since it is not for other threads.
        self._thread = threading.Thread(target=self._run, args=(worker_environment(),), daemon=True)
        self._thread.start()

    def poll(self) -> JobState:
        """Where the job stands now."""
        return self._state

    def cancel(self) -> None:
        """Ask the job to end, which it may have done already.

        Within two seconds it is "cancelled", no process of it is left, and nothing in its folder.
        """
        self._asked_to_stop.set()
        if self._thread is None:
            self._state = JobState(CANCELLED, "cancelled")

    def close(self) -> None:
        """Cancel, and forget the result."""
        self.cancel()
        self._result = None

    @abstractmethod
    def _prepare(self, folder: Path) -> list[str]:
        """Put what the worker needs into `folder`, and give its arguments."""

    @abstractmethod
    def _read(self, folder: Path, printed: dict[str, Any]) -> Result:
        """The result, from what the worker left in `folder` and the last object it printed."""

    def _run(self, environment: dict[str, str]) -> None:
        try:
            with _temporary_folder(self, self._parent) as folder:
                result = self._work(folder, environment)
        except Cancelled as error:
            end = JobState(CANCELLED, "cancelled", message=str(error) or None)
        except InputError as error:
            end = JobState(FAILED, "failed", message=str(error))
        except MemoryError:
            end = JobState(FAILED, "failed", message="There is not enough memory: close other volumes, then try again.")
        except Exception as error:
            self._log = "\n".join([self._log, *traceback.format_exception(error)]).strip()
            end = JobState(FAILED, "failed", message=f"{self.name} failed ({error}): please report it with the log.")
        else:
            self._result = result
            end = JobState(DONE, "done", 1, 1, 0.0)
        self._state = end

    def _work(self, folder: Path, environment: dict[str, str]) -> Result:
        arguments = self._leaving_if_asked(lambda: self._prepare(folder), folder)
        worker = self._start_worker(arguments, folder / "log.txt", environment)
        # This program may end first, and the folder cannot go while a process uses it.
        kill_at_exit = weakref.finalize(self, worker.kill)
        self._state = JobState(RUNNING, "starting")
        printed = self._watch(worker)
        kill_at_exit.detach()
        self._log = worker.log_tail()
        self._leave_if_asked()
        self._check_exit(worker.exit_code)
        self._state = JobState(READING, "reading the result")
        return self._leaving_if_asked(lambda: self._read(folder, printed), folder)

    def _start_worker(self, arguments: list[str], log_path: Path, environment: dict[str, str]) -> Worker:
        try:
            return start_worker(arguments, log_path, self._python, environment)
        except OSError as error:
            raise InputError(
                f"{self.name} could not be started ({error.strerror}): free some space and memory, and restart Slicer."
            ) from error

    def _watch(self, worker: Worker) -> dict[str, Any]:
        """Follow the worker until it has ended, and give the last object that it printed."""
        printed: dict[str, Any] = {}
        finished = False
        while not finished:
            finished = worker.finished
            for printed in worker.poll():
                if "stage" in printed:
                    self._state = JobState(RUNNING, **printed)
            if self._asked_to_stop.is_set():
                worker.request_stop()
                self._state = JobState(RUNNING, "cancelling")
            time.sleep(_POLL_SECONDS)
        return printed

    def _leave_if_asked(self) -> None:
        # A program that ends waits for what is being read or written by then, and nothing may begin after that.
        if self._asked_to_stop.is_set() or not threading.main_thread().is_alive():
            raise Cancelled

    def _leaving_if_asked(self, work: Callable[[], Any], folder: Path) -> Any:
        """What `work` gives, unless the user does not want to wait for it any more."""
        outcome: list[Any] = []

        def work_and_tell() -> None:
            try:
                self._leave_if_asked()
                outcome.append(work())
            except BaseException as error:
                outcome.append(error)
            if self._asked_to_stop.is_set():
                _remove(folder)

        # No daemon: to end a program in the middle of reading or writing is to crash. It is waited for.
        thread = threading.Thread(target=work_and_tell, daemon=False)
        thread.start()
        while thread.is_alive() and not self._asked_to_stop.is_set():
            thread.join(_POLL_SECONDS)
        thread.join(_PATIENCE_SECONDS)
        self._leave_if_asked()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    def _check_exit(self, code: int) -> None:
        check_exit(self.name, code, self._log)


class _ScanJob(_Job[Result]):
    """A job on one scan, which the worker reads from a file."""

    def __init__(
        self,
        volume: Volume,
        request: Request,
        folder: str | os.PathLike[str] | None = None,
        python: str | None = None,
    ):
        super().__init__(folder, python)
        self.volume = volume
        self._scan_file = ""
        self.request = request

    def _write_scan(self, folder: Path) -> Path:
        # Takes a second to import, and Slicer need not wait for it.
        from XViewSynthLib.io.writing import write_volume

        if self.volume.shear_degrees:
            raise InputError(
                f"The scan is sheared by {self.volume.shear_degrees:.1f} degrees, as by a tilted gantry: resample it "
                "to a grid with right angles first."
            )
        # Not compressed, which would take longer than all else but the enhancement itself.
        path = folder / _SCAN
        write_volume(self.volume, path)
        self._scan_file = str(path)
        return path

    def _check_exit(self, code: int) -> None:
        try:
            super()._check_exit(code)
        except InputError as error:
            # The user has not named this file.
            raise InputError(str(error).replace(self._scan_file, "The scan")) from None


class EnhanceJob(_ScanJob[EnhanceResult]):
    """Give a scan its missing slices; the same voxels as ``xviewsynth enhance``, which does it."""

    name = "The enhancement"

    def _prepare(self, folder: Path) -> list[str]:
        scan = self._write_scan(folder)
        outputs = [
            str(folder / _ENHANCED),
            "--uncertainty",
            str(folder / _UNCERTAINTY),
            "--report",
            str(folder / _REPORT),
        ]
        return ["enhance", str(scan), *outputs, *_options(self.request), "--progress", "json"]

    def _read(self, folder: Path, printed: dict[str, Any]) -> EnhanceResult:
        from XViewSynthLib.io.reading import read_volume

        report = _read_json(folder / _REPORT)
        affine = _exact_affine(self.volume, report)
        enhanced, uncertainty = (
            replace(read_volume(folder / name), affine=affine, slice_thickness=self.volume.slice_thickness)
            for name in (_ENHANCED, _UNCERTAINTY)
        )
        return EnhanceResult(enhanced, uncertainty, report)


class SelfCheckJob(_ScanJob[dict[str, Any]]):
    """Measure how well slices of a scan are restored; the result is the report of ``xviewsynth selfcheck``."""

    name = "The self-check"

    def _prepare(self, folder: Path) -> list[str]:
        scan, report = self._write_scan(folder), folder / _REPORT
        return ["selfcheck", str(scan), "--report", str(report), *_options(self.request), "--progress", "json"]

    def _read(self, folder: Path, printed: dict[str, Any]) -> dict[str, Any]:
        return _read_json(folder / _REPORT)


class SpeedJob(_Job[dict[str, Any]]):
    """Measure this machine; the result is what ``xviewsynth speed`` prints."""

    name = "The measurement"

    def __init__(self, request: Request, folder: str | os.PathLike[str] | None = None, python: str | None = None):
        super().__init__(folder, python)
        self.request = request

    def _prepare(self, folder: Path) -> list[str]:
        return ["speed", *_options(self.request)]

    def _read(self, folder: Path, printed: dict[str, Any]) -> dict[str, Any]:
        return printed


def check_exit(name: str, code: int, log: str) -> None:
    """Make sure that a worker has done its work.

    Args:
        name: what the user calls the work, to begin a sentence with.
        code: exit code of the worker.
        log: the last lines that it wrote.

    Raises:
        Cancelled: it was asked to stop.
        InputError: with what it said about the input, or how it ended.
    """
    if code == _OK:
        return
    if code == _STOPPED:
        raise Cancelled(f"{name} was stopped by another program.")
    sentence = last_error(log)
    if code == _WRONG_INPUT and sentence:
        raise InputError(sentence)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    if code == -9:
        how += ", perhaps for lack of memory: close other programs or allow it less memory"
    raise InputError(f"{name} stopped unexpectedly ({how}). The log says more.")


def temporary_folder() -> str:
    """Where temporary files go: the folder in Slicer's settings, or else the system's."""
    slicer = sys.modules.get("slicer")  # where nobody has imported it, this is not Slicer
    return getattr(getattr(slicer, "app", None), "temporaryPath", None) or tempfile.gettempdir()


def _options(request: Request) -> list[str]:
    """The options of the command line for a worker, which has another working folder.

    Raises:
        InputError: there is no such model.
    """
    if request.model == AUTOMATIC:
        return request.to_argv()
    return replace(request, model=str(model_folder(request.model).absolute())).to_argv()


@contextmanager
def _temporary_folder(owner: object, parent: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end, also where the program ends first."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
    except OSError as error:
        raise InputError(
            f"No temporary folder can be made in {parent} ({error.strerror}): free some space there, or choose another "
            "temporary folder in Slicer's settings."
        ) from error
    remove_at_exit = weakref.finalize(owner, _remove, folder)
    try:
        yield folder
    finally:
        # A program that ends in the middle of removing removes the rest.
        _remove(folder)
        remove_at_exit.detach()


def _remove(folder: Path) -> None:
    for _ in range(_REMOVE_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_REMOVE_PAUSE_SECONDS)


def _exact_affine(volume: Volume, report: dict[str, Any]) -> np.ndarray:
    """The affine of the result, without what writing and reading the scan has rounded away."""
    axis = report["axis"]
    step = report["plan"]["resample_to"] or volume.spacing_along(axis) / report["factor"]
    affine = volume.affine.copy()
    affine[:3, affine_column(axis)] *= step / volume.spacing_along(axis)
    return affine


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
