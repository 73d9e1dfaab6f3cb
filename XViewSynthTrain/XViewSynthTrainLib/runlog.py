"""Log of a run: `log.jsonl`, one object a line, and the same as events for TensorBoard.

Lines are of three kinds: "loss" (step, seconds, learning_rate, loss by term), "gain" (step, seconds, gain by factor,
mean_gain_db) and "note" (step, message).
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from XViewSynthLib.errors import InputError
from XViewSynthLib.evaluation.metrics import finite_or_none
from XViewSynthLib.system.regular_files import open_regular

from .files import LOG_FILE
from .heldout import Gain, mean_gain
from .stored_json import parse_entry
from .whole import write_whole_text


class RunLog:
    """The log of one run.

    Args:
        folder: the run's, which exists.
        step: current step of the run. Later entries of an interrupted run are removed, since they are repeated.

    Raises:
        InputError: the folder cannot be written to (raised by every method).
    """

    def __init__(self, folder: Path, step: int):
        self._path = folder / LOG_FILE
        self._folder = folder
        self._events: _Events | None = None
        self._known_step = step
        self.forget_after(step)

    def add_loss(self, step: int, seconds: float, rate: float, loss: dict[str, float]) -> None:
        """Log the mean of every weighted term since the last such entry, and the learning rate."""
        self._add_scalars(step, {f"loss/{name}": value for name, value in loss.items()} | {"learning_rate": rate})
        self._add("loss", step, seconds=round(seconds, 1), learning_rate=rate, loss=loss)

    def add_gain(self, step: int, seconds: float, gains: dict[int, Gain]) -> None:
        """Log the gain of the averaged network on held-out scans, dB by factor."""
        self._forget_gain(step)
        scalars = {f"gain/x{factor}_{name}": v for factor, gain in gains.items() for name, v in asdict(gain).items()}
        self._add_scalars(step, scalars | {"gain/mean": mean_gain(gains)})
        mean = finite_or_none(mean_gain(gains))
        self._add("gain", step, seconds=round(seconds, 1), gain=gains_to_json(gains), mean_gain_db=mean)

    def add_note(self, step: int, message: str) -> None:
        """Log a message to the user."""
        self._add("note", step, message=message)

    def forget_after(self, step: int) -> None:
        """Remove the entries after a step."""
        self._keep([entry for entry in read_log(self._folder) if entry["step"] <= step])
        self.close()
        self._known_step = step

    def close(self) -> None:
        """Close the file of events. Later events go to another one."""
        events, self._events = self._events, None
        if events is not None:
            # Closing writes the remaining events, and fails again if the disk is still full.
            with _refusing_full_disk(self._folder):
                events.close()

    def _forget_gain(self, step: int) -> None:
        # If a process was killed between the log entry of a gain and the next checkpoint, the next process evaluates
        # again.
        entries = read_log(self._folder)
        kept = [entry for entry in entries if (entry["kind"], entry["step"]) != ("gain", step)]
        if kept != entries:
            self._keep(kept)

    def _keep(self, entries: list[dict[str, Any]]) -> None:
        write_whole_text(self._path, "".join(json.dumps(entry) + "\n" for entry in entries))

    def _add(self, kind: str, step: int, **facts: Any) -> None:
        with _refusing_full_disk(self._folder), open(self._path, "a", encoding="utf-8") as log:
            log.write(json.dumps({"kind": kind, "step": step, **facts}) + "\n")
        self._known_step = step

    def _add_scalars(self, step: int, scalars: dict[str, float]) -> None:
        with _refusing_full_disk(self._folder):
            if self._events is None:
                self._events = _Events(self._folder, self._known_step)
            self._events.add(step, scalars)


class _Events:
    """A file of events, written at once. (tensorboardX's own writer has a queue and a thread, and hides errors.)"""

    def __init__(self, folder: Path, step: int):
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        self._new_event = event_pb2.Event
        # Viewers expect such names, and read them in alphabetical order.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{time.time_ns()}"
        self._file = RecordWriter(str(folder / name))
        self._write(file_version="brain.Event:2")
        # Viewers then ignore events of former files after the step.
        self._write(step=step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def add(self, step: int, scalars: dict[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in scalars.items():
            self._write(step=step, summary=scalar(name, value))
        self._file.flush()

    def close(self) -> None:
        # Closes the file even if the disk is full.
        self._file.close()

    def _write(self, **facts: Any) -> None:
        self._file.write(self._new_event(wall_time=time.time(), **facts).SerializeToString())


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's log, oldest first; empty if there is no log. Damaged lines are skipped.

    Raises:
        InputError: the log cannot be read.
    """
    try:
        with open_regular(folder / LOG_FILE) as log:
            lines = log.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise InputError(
            f"Allow reading {folder / LOG_FILE}, or move it away: it cannot be read ({problem.strerror})."
        ) from problem
    return [entry for line in lines if (entry := parse_entry(line)) is not None]


def gains_to_json(gains: dict[int, Gain]) -> dict[str, dict[str, float | None]]:
    """Gains by factor for JSON. None stands for NaN and infinity."""
    return {
        str(factor): {name: finite_or_none(value) for name, value in asdict(gain).items()}
        for factor, gain in gains.items()
    }


@contextmanager
def _refusing_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        reason = problem.strerror or problem
        raise InputError(
            f"Make room or choose another folder: the log in {folder} cannot be written ({reason})."
        ) from problem
