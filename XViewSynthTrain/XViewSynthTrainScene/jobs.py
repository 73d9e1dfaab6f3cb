"""A training run in the background: start, poll, stop, resume.

    run = TrainingRun([TrainingScan("Chest", volume)], folder, TrainSettings(minutes=10))
    run.start()
    while not (state := run.poll()).ended: ...     # from a timer, every 100 ms
    run.report

Unlike an enhancement, a stopped run is not lost: the worker finishes its step and writes a checkpoint, also if Slicer
closes meanwhile, and `TrainingRun.resumed(folder)` continues from there.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import slicer

from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.model.catalogue import model_folder, shipped_for
from XViewSynthLib.request import AUTOMATIC
from XViewSynthScene.jobs import CANCELLED, DONE, FAILED, PREPARING, RUNNING, JobState, check_exit, temporary_folder
from XViewSynthScene.processes import Program, Worker, start_worker, worker_environment
from XViewSynthTrainLib.files import LOCK_FILE, SCANS_FILE

from .folders import SCANS_FOLDER, RunFolder

NAME = "The training"
GAP, THICK = ACQUISITIONS = "gap", "thick"

# A step of large blocks may take a minute on a slow processor, and the checkpoint after it a moment.
TRAINING = Program("XViewSynthTrainLib", (Path(__file__).resolve().parents[1],), grace_seconds=90.0)

_POLL_SECONDS = 0.05

# Texts for the stages of the worker in which it does not train.
_STAGES = {
    "measuring": "measuring how many steps fit into the time",
    "evaluating": "measuring the gain on held-out slices",
}

SETTINGS_FILE = "settings.json"

# The output of a worker may name files and so patients, so it does not belong in a run folder.
_LOG_PREFIX = "XViewSynthTrain-"


@dataclass(frozen=True)
class TrainingScan:
    """A scan to train on or to hold out.

    Attributes:
        name: name for the user.
        source: a volume of the scene, or the path of a file or DICOM folder.
    """

    name: str
    source: Volume | Path


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a run; every field as the option of ``xviewsynth train`` of that name.

    Attributes:
        start: model to start from, "auto" for the shipped model of the acquisition; None to start from scratch.
        name: of the new model.
        minutes, steps: length of the run; at most one of them.
        hold_out_share: share of the slices or scans to hold out if no scan is chosen for that, 0 to below 1.
        factors: to train and evaluate at; None for those that suit the scans.
        device: where to compute.
        acquisition: acquisition of the scans: thin slices with gaps ("gap"), or thick slices ("thick").
        gamma, distillation, wavelet, seed: as in the library's settings; None for its defaults.
        cross_view: whether the views are distilled into each other.
        incremental: whether predictions are input to a further doubling.
        further: any other setting of the library.

    Raises:
        InputError: a value is out of range.
    """

    start: str | None = AUTOMATIC
    name: str = "fine-tuned"
    minutes: float | None = None
    steps: int | None = None
    hold_out_share: float = 0.25
    factors: Sequence[int] | None = None
    device: str = "auto"
    acquisition: str = GAP
    gamma: float | None = None
    distillation: float | None = None
    wavelet: float | None = None
    cross_view: bool = True
    incremental: bool = True
    seed: int | None = None
    further: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.acquisition not in ACQUISITIONS:
            raise InputError(f"The acquisition is {GAP!r} or {THICK!r}, not {self.acquisition!r}.")
        if self.minutes is not None and self.steps is not None:
            raise InputError("Choose the length of the run in minutes or in steps, not in both.")
        if self.factors is not None and not self.factors:
            raise InputError("Choose at least one factor: the lowest must not be above the highest.")
        if not 0 <= self.hold_out_share < 1:
            raise InputError(f"The share to hold out must be from 0 to below 1, not {self.hold_out_share:g}.")

    def arguments(self) -> list[str]:
        """The options of the command line, without `further`.

        Raises:
            InputError: no model has that name.
        """
        options = ["--name", self.name, "--device", self.device, "--hold-out-share", repr(float(self.hold_out_share))]
        options += ["--acquisition", self.acquisition]
        if self.start is not None:
            # The worker has another working folder.
            start = shipped_for(self.acquisition) if self.start == AUTOMATIC else self.start
            options += ["--from", str(model_folder(start).absolute())]
        for name in ("minutes", "steps", "gamma", "distillation", "wavelet", "seed"):
            value = getattr(self, name)
            if value is not None:
                options += [f"--{name}", repr(value)]
        for factor in self.factors or ():
            options += ["--factor", str(factor)]
        options += [] if self.cross_view else ["--no-cross-view"]
        return options if self.incremental else [*options, "--no-incremental"]


class TrainingRun:
    """One run in its folder. Call `start`, then `poll` until the state has `ended`; no call waits.

    Use it in the main thread. The worker continues without polling. It ends with a checkpoint when the run is stopped,
    closed or deleted, when the scene is closed, or when this program ends.

    Args:
        training: scans to train on.
        folder: run folder, by its full path; created if missing.
        settings: settings of the run.
        held_out: scans to evaluate the model on; without any, a share of the others is held out.
        scene: closing it stops the run.
        python: the interpreter, as in `start_worker`.

    Raises:
        InputError: no scan to train on, a folder that holds another run, or an unknown model.
    """

    def __init__(
        self,
        training: Sequence[TrainingScan],
        folder: str | os.PathLike[str],
        settings: TrainSettings,
        held_out: Sequence[TrainingScan] = (),
        *,
        scene: slicer.vtkMRMLScene | None = None,
        python: str | None = None,
    ):
        self._set_up(folder, scene, python)
        if not training:
            raise InputError("Choose at least one scan to train on.")
        for scan in (*training, *held_out):
            _check_source(scan)
        self.folder.check_new()
        self._options = settings.arguments()
        self._training, self._held_out, self._further = tuple(training), tuple(held_out), dict(settings.further)

    @classmethod
    def resumed(
        cls,
        folder: str | os.PathLike[str],
        device: str = "auto",
        *,
        scene: slicer.vtkMRMLScene | None = None,
        python: str | None = None,
    ) -> TrainingRun:
        """The stopped run of a folder, to resume with its own settings.

        Raises:
            InputError: the folder holds no stopped run.
        """
        run = cls.__new__(cls)
        run._set_up(folder, scene, python)
        run.folder.check_resumable()
        run._options = ["--resume", "--device", device]
        run._training, run._held_out, run._further = (), (), {}
        return run

    def _set_up(self, folder: str | os.PathLike[str], scene: slicer.vtkMRMLScene | None, python: str | None) -> None:
        self.folder = RunFolder(Path(folder))
        self._python = python
        self._state = JobState(PREPARING, "preparing")
        self._worker: Worker | None = None
        self._release_worker = weakref.finalize(self, lambda: None)
        self._preparation: threading.Thread | None = None
        self._prepared: list[list[str] | Exception] = []
        self._names: dict[str, str] = {}
        self._written: list[Path] = []
        self._worker_log: Path | None = None
        self._stop_requested = threading.Event()
        self._reason: str | None = None
        self._log = ""
        self._report: dict[str, Any] | None = None
        self._scene, self._observer = scene, None

    @property
    def report(self) -> dict[str, Any]:
        """The report of the run.

        Raises:
            RuntimeError: the run is not finished.
        """
        if self._report is None:
            raise RuntimeError(f"{NAME} has no report: it is {self._state.status}.")
        return self._report

    @property
    def log(self) -> str:
        """The last lines that the worker wrote; "" before it has ended."""
        return self._log

    @property
    def stopping(self) -> bool:
        """Whether a stop was requested."""
        return self._stop_requested.is_set()

    def start(self) -> None:
        """Start the run and return at once.

        Raises:
            RuntimeError: the run was started before.
        """
        if self._preparation is not None:
            raise RuntimeError(f"{NAME} was started before: make a new run.")
        if self._scene is not None:
            # The scene lives longer than a run and must not hold a reference to it.
            me = weakref.ref(self)
            event = slicer.vtkMRMLScene.StartCloseEvent
            self._observer = self._scene.AddObserver(event, lambda *_: me() and me()._on_scene_close())
        # No daemon thread: a program that ends during a write may crash. It waits until the next scan at most.
        self._preparation = threading.Thread(target=self._prepare)
        self._preparation.start()

    def poll(self) -> JobState:
        """Current state of the run."""
        if not self._state.ended and self._preparation is not None:
            self._state = self._look()
            if self._state.ended:
                self._stop_observing()
        return self._state

    def stop(self, reason: str | None = None) -> None:
        """Request the run to finish its step and write a checkpoint; harmless after its end.

        Args:
            reason: for the last message, if the user did not stop the run.
        """
        if not self.stopping:
            self._reason = reason
            self._stop_requested.set()
            if self._worker is not None:
                self._worker.request_stop()

    def close(self) -> None:
        """Stop the run without waiting: the worker ends by itself."""
        self.stop()
        self._stop_observing()
        if not self._state.ended:
            self._state = JobState(CANCELLED, "stopped", message=self._stop_sentence())
        self._release_worker()

    # Preparing, in a thread

    def _prepare(self) -> None:
        try:
            self._prepared.append(self._arguments())
        except Exception as problem:
            self._prepared.append(problem)

    def _arguments(self) -> list[str]:
        folder = self.folder.path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            scans = [str(self._file_of(scan, number)) for number, scan in enumerate(self._training, 1)]
            options = list(self._options)
            for number, scan in enumerate(self._held_out, len(scans) + 1):
                options += ["--hold-out", str(self._file_of(scan, number))]
            if self._further:
                file = self._new_file(folder / SETTINGS_FILE)
                file.write_text(json.dumps(self._further, indent=2) + "\n", encoding="utf-8")
                options += ["--settings", str(file)]
        except OSError as problem:
            raise InputError(
                f"The folder {folder} cannot be written to ({problem.strerror}): free some space, or choose another "
                "folder for the run."
            ) from problem
        return ["train", *scans, "--output", str(folder), *options, "--progress", "json"]

    def _file_of(self, scan: TrainingScan, number: int) -> Path:
        """The file of a scan. A volume of the scene is written with voxels and geometry only, without patient data."""
        if isinstance(scan.source, Path):
            return scan.source
        if self.stopping or not threading.main_thread().is_alive():
            raise Cancelled
        # This import takes a second, so it is not at the top of the module.
        from XViewSynthLib.io.writing import write_volume

        place = self.folder.path / SCANS_FOLDER
        place.mkdir(exist_ok=True)
        # Numbered, because the name of the volume may be the patient's.
        path = self._new_file(place / f"volume-{number}.nrrd")
        self._names[str(path)] = f"The scan {scan.name!r}"
        write_volume(scan.source, path, overwrite=True)
        return path

    def _new_file(self, path: Path) -> Path:
        """A new empty file of that name, with a number if another run in preparation has taken the name."""
        name, number = path, 1
        while True:
            with suppress(FileExistsError):
                name.touch(exist_ok=False)
                self._written.append(name)
                return name
            number += 1
            name = path.with_name(f"{path.stem} ({number}){path.suffix}")

    # Polling

    def _look(self) -> JobState:
        if self._worker is None:
            if self._preparation.is_alive():
                return JobState(PREPARING, "preparing")
            return self._begin()
        finished = self._worker.finished
        state = self._state
        for printed in self._worker.poll():
            if "stage" in printed:
                state = JobState(RUNNING, **{**printed, "stage": _STAGES.get(printed["stage"], printed["stage"])})
        if finished:
            return self._settle(self._end)
        return JobState(RUNNING, "stopping and saving") if self.stopping else state

    def _begin(self) -> JobState:
        prepared = self._prepared[0]
        if self.stopping:
            prepared = Cancelled()
        return self._settle(lambda: self._start_worker(prepared))

    def _start_worker(self, prepared: list[str] | Exception) -> JobState:
        if isinstance(prepared, Exception):
            raise prepared
        try:
            file, name = tempfile.mkstemp(".txt", _LOG_PREFIX, temporary_folder())
            os.close(file)
            self._worker_log = Path(name)
            self._worker = start_worker(
                prepared, self._worker_log, self._python, worker_environment(TRAINING), TRAINING
            )
        except OSError as error:
            raise InputError(
                f"{NAME} could not be started ({error.strerror}): free some space and memory, and restart Slicer."
            ) from error
        # Not killed, unlike an enhancement: the worker must save a checkpoint.
        self._release_worker = weakref.finalize(self, _release_worker, self._worker, self._worker_log)
        self._training = self._held_out = ()
        return JobState(RUNNING, "starting")

    def _end(self) -> JobState:
        # The process ID may be reused soon.
        self._release_worker.detach()
        self._log = self._worker.log_tail()
        _remove(self._worker_log)
        check_exit(NAME, self._worker.exit_code, self._log)
        self._report = self.folder.read_report()
        return JobState(DONE, "done", 1, 1, 0.0)

    def _settle(self, step: Callable[[], JobState]) -> JobState:
        """The state after `step`, which may end the run."""
        try:
            return step()
        except Cancelled:
            state = JobState(CANCELLED, "stopped", message=self._stop_sentence())
        except InputError as problem:
            state = JobState(FAILED, "failed", message=self._with_scan_names(str(problem)))
        except Exception as problem:
            state = JobState(FAILED, "failed", message=f"{NAME} failed ({problem}): please report it with the log.")
        _remove(self._worker_log)
        if not self.folder.holds_run:
            self._tidy_up()
        return state

    def _stop_sentence(self) -> str:
        parts = [self._reason] if self._reason else []
        if self.folder.can_resume:
            parts.append(f"{NAME} was stopped and saved: you can resume it.")
        else:
            parts.append(f"{NAME} was stopped before it began.")
        return " ".join(parts)

    def _with_scan_names(self, sentence: str) -> str:
        for path, name in self._names.items():
            sentence = sentence.replace(path, name)
        return sentence

    def _tidy_up(self) -> None:
        """Remove the files of a run that did not start, but not those of another run that starts in the folder."""
        folder = self.folder.path
        for path in self._written:
            _remove(path)
        if not self.folder.is_at_work:
            # A killed worker leaves these files.
            for name in (SCANS_FILE, LOCK_FILE):
                _remove(folder / name)
        for place in (folder / SCANS_FOLDER, folder):
            # Removes only empty folders.
            with suppress(OSError):
                place.rmdir()

    def _on_scene_close(self) -> None:
        self.stop("The scene was closed.")

    def _stop_observing(self) -> None:
        if self._observer is not None:
            self._scene.RemoveObserver(self._observer)
            self._observer = None


def settings_from(given: Mapping[str, Any]) -> TrainSettings:
    """Settings from the keyword arguments of a script.

    Raises:
        InputError: an unknown setting, or a value out of range.
    """
    known = [entry.name for entry in fields(TrainSettings)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"There is no setting {', '.join(unknown)}: the settings are {', '.join(known)}.")
    return TrainSettings(**given)


def _release_worker(worker: Worker, log: Path) -> None:
    """Stop a worker that is no longer polled; it saves a checkpoint."""
    worker.request_stop()
    # The log is no longer needed. Windows keeps the file until the worker has ended.
    _remove(log)
    # A program that ends starts no new threads; the worker ends anyway.
    with suppress(RuntimeError):
        threading.Thread(target=_wait_for_end, args=(worker, log), daemon=True).start()


def _wait_for_end(worker: Worker, log: Path) -> None:
    finished = False
    while not finished:
        finished = worker.finished
        worker.poll()
        time.sleep(_POLL_SECONDS)
    _remove(log)


def _remove(path: Path | None) -> None:
    if path is not None:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _check_source(scan: TrainingScan) -> None:
    if isinstance(scan.source, Volume) and scan.source.shear_degrees:
        raise InputError(
            f"The scan {scan.name!r} is sheared by {scan.source.shear_degrees:.1f} degrees, as by a tilted gantry: "
            "resample it to a grid with right angles first."
        )
    if isinstance(scan.source, Path) and not scan.source.is_absolute():
        raise InputError(f"The scan {scan.name!r} must be given by its full path.")
