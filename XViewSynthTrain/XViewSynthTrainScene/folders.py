"""The folder of a training run for Slicer: its files, its state and its log."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from XViewSynthLib.errors import InputError
from XViewSynthLib.model.catalogue import CARD_FILE, import_model, list_models, model_card
from XViewSynthTrainLib.files import CHECKPOINT_FILE, CONFIG_FILE, LOG_FILE, MODEL_FOLDER, REPORT_FILE, REPORT_PAGE
from XViewSynthTrainLib.lock import is_locked, refuse_locked_run

#: Folder for volumes of the scene that the run trains on.
SCANS_FOLDER = "scans"

_READ_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class RunFolder:
    """A folder of a run, which may not exist yet.

    Attributes:
        path: absolute.
    """

    path: Path

    @property
    def holds_run(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / CONFIG_FILE).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether the run in the folder is finished."""
        return (self.path / REPORT_FILE).is_file()

    @property
    def is_at_work(self) -> bool:
        """Whether a process of this or another program trains in the folder now."""
        return is_locked(self.path)

    @property
    def can_resume(self) -> bool:
        """Whether the folder holds a stopped run that can be resumed."""
        return self.holds_run and not self.is_finished and (self.path / CHECKPOINT_FILE).is_file()

    @property
    def model(self) -> Path | None:
        """Folder of the best model so far; None without one."""
        folder = self.path / MODEL_FOLDER
        return folder if (folder / CARD_FILE).is_file() else None

    @property
    def report_page(self) -> Path | None:
        """The report for a browser; None without one."""
        page = self.path / REPORT_PAGE
        return page if page.is_file() else None

    def read_report(self) -> dict[str, Any]:
        """The report of the run.

        Raises:
            InputError: the run is not finished, or the report is damaged.
        """
        try:
            report = json.loads((self.path / REPORT_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise InputError(f"{self.path} holds no report of a finished training ({problem}): resume it.") from problem
        if not isinstance(report, dict):
            raise InputError(f"{self.path / REPORT_FILE} is no report of a training: train again.")
        return report

    @property
    def gained_nothing(self) -> bool:
        """Whether the run is finished and delivered its starting model."""
        try:
            return self.read_report().get("beats_start") is False
        except InputError:
            return False

    def check_new(self) -> None:
        """Raise unless a new run can start in the folder.

        Raises:
            InputError: the folder holds a run, a process trains in it, or the path is not valid.
        """
        if not self.path.name or not self.path.is_absolute():
            raise InputError("Choose a folder for the run, by its full path.")
        refuse_locked_run(self.path)
        if self.holds_run:
            how = "resume the run in it, or choose another one" if self.can_resume else "choose another one"
            raise InputError(f"The folder {self.path.name!r} holds a run already: {how}.")
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: choose a folder for the run.")

    def check_resumable(self) -> None:
        """Raise unless a run can be resumed in the folder.

        Raises:
            InputError: the folder holds no stopped run, or a process trains in it.
        """
        refuse_locked_run(self.path)
        if self.is_finished:
            raise InputError(f"The run in {self.path.name!r} is finished: choose the folder of a stopped run.")
        if not self.can_resume:
            raise InputError("Choose the folder of a run that was stopped.")


def new_run_folder(parent: Path, now: datetime) -> Path:
    """A path that does not exist yet, named by date and time.

    >>> new_run_folder(Path("/nowhere"), datetime(2026, 8, 5, 14, 30)).as_posix()
    '/nowhere/2026-08-05 14.30'
    """
    name = f"{now:%Y-%m-%d %H.%M}"
    number, folder = 1, parent / name
    while folder.exists():
        number += 1
        folder = parent / f"{name} ({number})"
    return folder


class RunLog:
    """A log that grows during a run; call `read` repeatedly.

    A resumed run repeats the steps after its checkpoint, so their earlier entries are dropped.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self._path = folder / LOG_FILE
        self._place, self._file = 0, None
        self.entries: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """The entries since the last call, oldest first; all entries if the log was replaced."""
        try:
            with open(self._path, "rb") as log:
                status = os.fstat(log.fileno())
                # A replaced log is another file, or shorter.
                if (status.st_dev, status.st_ino) != self._file or status.st_size < self._place:
                    self._file, self._place = (status.st_dev, status.st_ino), 0
                    self.entries = []
                log.seek(self._place)
                text = log.read(_READ_BYTES)
        except OSError:  # not there yet, or being replaced
            return []
        # The last line may be half written.
        complete = text[: text.rfind(b"\n") + 1]
        self._place += len(complete)
        new = [entry for line in complete.splitlines() if (entry := _entry(line)) is not None]
        for entry in new:
            self._take(entry)
        return new

    def _take(self, entry: dict[str, Any]) -> None:
        last = self.entries[-1]["step"] if self.entries else entry["step"]
        if entry["step"] < last:
            self.entries = [kept for kept in self.entries if kept["step"] < entry["step"]]
        self.entries.append(entry)


def _entry(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry.get("step"), int) and "kind" in entry:
            return entry
    return None


def take_model(run: RunFolder) -> str:
    """Install the model of a run, unless it is installed already, and return its name.

    A run without improvement holds its starting model, which is not installed twice.

    Raises:
        InputError: the run has no model yet, the model is damaged, or another model has its name.
    """
    folder = run.model
    if folder is None:
        raise InputError("The run has no model yet: train first, or choose the folder of another run.")
    checksum = model_card(folder)["weights_sha256"]
    for entry in list_models():
        if entry.card is not None and entry.card["weights_sha256"] == checksum:
            return entry.name
    return import_model(folder).name
