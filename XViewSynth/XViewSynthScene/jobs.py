"""Jobs that enhance or check a scan in the background: start, poll, cancel, read the result.

    job = EnhanceJob(volume, Request(factor=4))
    job.start()
    while not (state := job.poll()).ended: ...     # from a timer, every 100 ms
    job.result.enhanced

A thread of the job does the slow work: it writes the scan into a temporary folder, watches the worker process,
reads the result and removes the folder. So no call here waits, and a job ends even if it is no longer polled.
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
# Reading or writing a file cannot be interrupted: after a cancel the job waits this long for it.
_PATIENCE_SECONDS = 1.0
# Windows keeps a file for a moment after the process that used it has ended.
_REMOVE_ATTEMPTS, _REMOVE_PAUSE_SECONDS = 5, 0.1

Result = TypeVar("Result")


@dataclass(frozen=True)
class JobState:
    """State of a job.

    Attributes:
        status: "preparing", "running", "reading", and in the end "done", "failed" or "cancelled".
        stage: the current step, in a few plain words.
        done: finished steps of this stage, 0 to `total`.
        total: steps of this stage, at least 1.
        seconds_left: time until the job is done, s; None while unknown.
        message: one sentence on why the job failed or another program cancelled it; else None.
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
    """Result of an enhancement.

    Attributes:
        enhanced: the scan with its synthetic slices, in the input's scalar type.
        uncertainty: float32, HU, on the same grid: the expected absolute error; for a model without calibration, the
            disagreement of the three views. The report names which.
        report: as ``xviewsynth enhance --report`` writes it.
    """

    enhanced: Volume
    uncertainty: Volume
    report: dict[str, Any]


class _Job(ABC, Generic[Result]):
    """One command of the engine with its input and its result.

    Create and start it in the main thread. Close a job that is no longer needed.

    Args:
        folder: parent of the job's temporary folder, which is removed when the job ends; by default the folder for
            temporary files of Slicer, or of the system.
        python: the interpreter, as in `start_worker`.
    """

    name: str
    """Name of the job for the user, at the start of a sentence."""

    def __init__(self, folder: str | os.PathLike[str] | None = None, python: str | None = None):
        self._parent = folder or temporary_folder()
        self._python = python
        self._state = JobState(PREPARING, "preparing")
        self._result: Result | None = None
        self._log = ""
        self._stop_requested = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def result(self) -> Result:
        """Result of the job.

        Raises:
            RuntimeError: the job is not done, or closed.
        """
        if self._result is None:
            raise RuntimeError(f"{self.name} has no result: it is {self._state.status}.")
        return self._result

    @property
    def log(self) -> str:
        """The last lines that the worker wrote; "" before it has ended."""
        return self._log

    def start(self) -> None:
        """Start the job and return at once.

        Raises:
            RuntimeError: the job was started or cancelled before.
        """
        if self._thread is not None or self._state.ended:
            raise RuntimeError(f"{self.name} was started or cancelled before: make a new job.")
        # The environment comes from Slicer's application, which only the main thread may use.
        self._thread = threading.Thread(target=self._run, args=(worker_environment(),), daemon=True)
        self._thread.start()

    def poll(self) -> JobState:
        """Current state of the job."""
        return self._state

    def cancel(self) -> None:
        """Request the end of the job; harmless after it has ended.

        Within two seconds the state is "cancelled", its processes have ended and its folder is empty.
        """
        self._stop_requested.set()
        if self._thread is None:
            self._state = JobState(CANCELLED, "cancelled")

    def close(self) -> None:
        """Cancel the job and drop its result."""
        self.cancel()
        self._result = None

    @abstractmethod
    def _prepare(self, folder: Path) -> list[str]:
        """Write the input of the worker into `folder` and return the arguments of the worker."""

    @abstractmethod
    def _read(self, folder: Path, printed: dict[str, Any]) -> Result:
        """Read the result from `folder` and from the last object that the worker printed."""

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
        arguments = self._cancellable(lambda: self._prepare(folder), folder)
        worker = self._start_worker(arguments, folder / "log.txt", environment)
        # This program may end before the worker, and a folder in use cannot be removed.
        kill_at_exit = weakref.finalize(self, worker.kill)
        self._state = JobState(RUNNING, "starting")
        printed = self._watch(worker)
        kill_at_exit.detach()
        self._log = worker.log_tail()
        self._raise_if_cancelled()
        self._check_exit(worker.exit_code)
        self._state = JobState(READING, "reading the result")
        return self._cancellable(lambda: self._read(folder, printed), folder)

    def _start_worker(self, arguments: list[str], log_path: Path, environment: dict[str, str]) -> Worker:
        try:
            return start_worker(arguments, log_path, self._python, environment)
        except OSError as error:
            raise InputError(
                f"{self.name} could not be started ({error.strerror}): free some space and memory, and restart Slicer."
            ) from error

    def _watch(self, worker: Worker) -> dict[str, Any]:
        """Watch the worker until it has ended; return the last object that it printed."""
        printed: dict[str, Any] = {}
        finished = False
        while not finished:
            finished = worker.finished
            for printed in worker.poll():
                if "stage" in printed:
                    self._state = JobState(RUNNING, **printed)
            if self._stop_requested.is_set():
                worker.request_stop()
                self._state = JobState(RUNNING, "cancelling")
            time.sleep(_POLL_SECONDS)
        return printed

    def _raise_if_cancelled(self) -> None:
        # At its end the program waits for reads and writes in progress, and no new ones may begin.
        if self._stop_requested.is_set() or not threading.main_thread().is_alive():
            raise Cancelled

    def _cancellable(self, work: Callable[[], Any], folder: Path) -> Any:
        """Return the result of `work`, or raise Cancelled as soon as the user cancels."""
        outcome: list[Any] = []

        def work_and_report() -> None:
            try:
                self._raise_if_cancelled()
                outcome.append(work())
            except BaseException as error:
                outcome.append(error)
            if self._stop_requested.is_set():
                _remove(folder)

        # No daemon thread: a program that ends during a read or write may crash, so it waits for this thread.
        thread = threading.Thread(target=work_and_report, daemon=False)
        thread.start()
        while thread.is_alive() and not self._stop_requested.is_set():
            thread.join(_POLL_SECONDS)
        thread.join(_PATIENCE_SECONDS)
        self._raise_if_cancelled()
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
        # This import takes a second, so it is not at the top of the module.
        from XViewSynthLib.io.writing import write_volume

        if self.volume.shear_degrees:
            raise InputError(
                f"The scan is sheared by {self.volume.shear_degrees:.1f} degrees, as by a tilted gantry: resample it "
                "to a grid with right angles first."
            )
        # Not compressed: compression would take longer than everything but the enhancement itself.
        path = folder / _SCAN
        write_volume(self.volume, path)
        self._scan_file = str(path)
        return path

    def _check_exit(self, code: int) -> None:
        try:
            super()._check_exit(code)
        except InputError as error:
            # The user does not know this file.
            raise InputError(str(error).replace(self._scan_file, "The scan")) from None


class EnhanceJob(_ScanJob[EnhanceResult]):
    """Add the missing slices to a scan with ``xviewsynth enhance``."""

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
    """Measure how well slices of a scan are restored. The result is the report of ``xviewsynth selfcheck``."""

    name = "The self-check"

    def _prepare(self, folder: Path) -> list[str]:
        scan, report = self._write_scan(folder), folder / _REPORT
        return ["selfcheck", str(scan), "--report", str(report), *_options(self.request), "--progress", "json"]

    def _read(self, folder: Path, printed: dict[str, Any]) -> dict[str, Any]:
        return _read_json(folder / _REPORT)


class SpeedJob(_Job[dict[str, Any]]):
    """Measure the speed of this computer. The result is the output of ``xviewsynth speed``."""

    name = "The measurement"

    def __init__(self, request: Request, folder: str | os.PathLike[str] | None = None, python: str | None = None):
        super().__init__(folder, python)
        self.request = request

    def _prepare(self, folder: Path) -> list[str]:
        return ["speed", *_options(self.request)]

    def _read(self, folder: Path, printed: dict[str, Any]) -> dict[str, Any]:
        return printed


def check_exit(name: str, code: int, log: str) -> None:
    """Raise unless a worker has succeeded.

    Args:
        name: name of the work for the user, at the start of a sentence.
        code: exit code of the worker.
        log: the last lines that it wrote.

    Raises:
        Cancelled: another program stopped the worker.
        InputError: the worker refused its input, or ended unexpectedly.
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
        how += ", perhaps for lack of memory: close other programs, or choose less memory"
    raise InputError(f"{name} stopped unexpectedly ({how}). The log says more.")


def temporary_folder() -> str:
    """Folder for temporary files: that of Slicer's settings, or else of the system."""
    slicer = sys.modules.get("slicer")  # not imported: this is not Slicer
    return getattr(getattr(slicer, "app", None), "temporaryPath", None) or tempfile.gettempdir()


def _options(request: Request) -> list[str]:
    """Command-line options for a worker, which has another working folder.

    Raises:
        InputError: the model does not exist.
    """
    if request.model == AUTOMATIC:
        return request.to_argv()
    return replace(request, model=str(model_folder(request.model).absolute())).to_argv()


@contextmanager
def _temporary_folder(owner: object, parent: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder in `parent`, removed at the end, also if the program ends first."""
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
        # If the program ends during this removal, `remove_at_exit` removes the rest.
        _remove(folder)
        remove_at_exit.detach()


def _remove(folder: Path) -> None:
    for _ in range(_REMOVE_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_REMOVE_PAUSE_SECONDS)


def _exact_affine(volume: Volume, report: dict[str, Any]) -> np.ndarray:
    """The affine of the result, computed from the scan's own: the file has rounded it."""
    axis = report["axis"]
    step = report["plan"]["resample_to"] or volume.spacing_along(axis) / report["factor"]
    affine = volume.affine.copy()
    affine[:3, affine_column(axis)] *= step / volume.spacing_along(axis)
    return affine


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
