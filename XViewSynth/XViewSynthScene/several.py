"""Enhance several scans of the scene, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import slicer

from XViewSynthLib.errors import InputError
from XViewSynthLib.request import Request

from .jobs import CANCELLED, DONE, FAILED, RUNNING, JobState
from .provenance import role_of
from .runs import EnhanceRun, Outlook, look_ahead

WAITING = "waiting"


@dataclass(frozen=True)
class Candidate:
    """A volume of the scene that may be enhanced.

    Attributes:
        node: the volume.
        outlook: size of the result; None if the volume cannot be enhanced.
        problem: why it cannot be enhanced; else None.
    """

    node: slicer.vtkMRMLScalarVolumeNode
    outlook: Outlook | None
    problem: str | None


def candidates(scene: slicer.vtkMRMLScene, request: Request) -> list[Candidate]:
    """The volumes of a scene, in its order, without those that XViewSynth made."""
    found = []
    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene):
        if role_of(node) is None:
            try:
                found.append(Candidate(node, look_ahead(node, request), None))
            except InputError as error:
                found.append(Candidate(node, None, str(error)))
    return found


@dataclass(frozen=True)
class Item:
    """One scan of a `SeveralRun`.

    Attributes:
        node: the scan.
        name: of the scan, also after it has left the scene.
        status: "waiting", "running", "done", "failed" or "cancelled".
        message: why it failed; else None.
        output_node: the enhanced volume; None before the scan is done.
        seconds: time taken, s.
    """

    node: slicer.vtkMRMLScalarVolumeNode
    name: str
    status: str = WAITING
    message: str | None = None
    output_node: slicer.vtkMRMLScalarVolumeNode | None = None
    seconds: float = 0.0


class SeveralRun:
    """Enhance several volumes, one after another. The run continues after a scan that fails.

    Call `start`, then `poll` until the state has `ended`; no call here waits.

    Args:
        nodes: the volumes; they are not changed.
        request: target and settings for all of them.
        changed: called with the run whenever the status of a scan has changed.
        job_options: as in `EnhanceRun`.

    Raises:
        InputError: `nodes` is empty.
    """

    def __init__(
        self,
        nodes: Sequence[slicer.vtkMRMLScalarVolumeNode],
        request: Request,
        changed: Callable[[SeveralRun], None] = lambda run: None,
        **job_options: Any,
    ):
        if not nodes:
            raise InputError("Tick at least one scan.")
        self._request, self._job_options, self._changed = request, job_options, changed
        self._items = [Item(node, node.GetName()) for node in nodes]
        self._voxels, self._voxels_done = [_timed_voxels(node, request) for node in nodes], 0
        self._run: EnhanceRun | None = None
        self._index, self._began = 0, monotonic()
        self._is_cancelled, self._reason = False, None
        self._logs: list[str] = []

    @property
    def items(self) -> tuple[Item, ...]:
        """All scans, in order."""
        return tuple(self._items)

    @property
    def done(self) -> list[Item]:
        """The scans that are enhanced."""
        return [item for item in self._items if item.status == DONE]

    @property
    def log(self) -> str:
        """The last lines of the workers that failed."""
        return "\n".join(self._logs)

    def start(self) -> None:
        """Start the first scan and return at once."""
        self._start_next()

    def poll(self) -> JobState:
        """Current state of the whole run. This call adds results to the scene."""
        if self._run is not None:
            state = self._run.poll()
            if not state.ended:
                return self._of_all(state)
            self._finish(state)
            self._start_next()
        if self._run is not None:
            return self._of_all(self._run.poll())
        return self._last_state()

    def cancel(self) -> None:
        """End the current scan and start no other. Results stay."""
        self._is_cancelled = True
        if self._run is not None:
            self._run.cancel()

    def close(self) -> None:
        """Cancel the run and release its data."""
        self.cancel()
        if self._run is not None:
            self._run.close()

    def _start_next(self) -> None:
        """Start the next scan that can be enhanced."""
        while self._run is None and self._index < len(self._items):
            try:
                self._start(self._items[self._index])
            except InputError as error:
                self._end_item(FAILED, message=str(error))

    def _start(self, item: Item) -> None:
        if self._is_cancelled:
            self._end_item(CANCELLED)
            return
        if item.node.GetScene() is None:
            raise InputError(f"{item.name!r} is no longer in the scene.")
        run = EnhanceRun(item.node, self._request, **self._job_options)
        run.start()
        self._run = run
        self._update_item(status=RUNNING)

    def _finish(self, state: JobState) -> None:
        """Record the end of the current run."""
        run, self._run = self._run, None
        if state.status == DONE:
            self._voxels_done += run.outlook.timed_voxels
            self._end_item(DONE, output_node=run.output_node, seconds=run.seconds)
        else:
            # Also when the scene was closed.
            self._is_cancelled = self._is_cancelled or state.status == CANCELLED
            self._reason = self._reason or state.message
            self._logs += [run.log] if state.status == FAILED else []
            self._end_item(state.status, message=state.message)
        run.close()

    def _end_item(self, status: str, **changes: Any) -> None:
        """Record the end of the current scan and advance to the next."""
        self._update_item(status=status, **changes)
        self._index += 1

    def _update_item(self, **changes: Any) -> None:
        """Change fields of the current scan."""
        self._items[self._index] = replace(self._items[self._index], **changes)
        self._changed(self)

    def _of_all(self, state: JobState) -> JobState:
        """The state of the whole run, from the state of the current scan."""
        item = self._items[self._index]
        return replace(
            state,
            stage=f"scan {self._index + 1} of {len(self._items)} ({item.name}): {state.stage}",
            seconds_left=self._seconds_left(state.seconds_left),
        )

    def _seconds_left(self, current_left: float | None) -> float | None:
        """Seconds until the end, at the time per voxel so far."""
        if current_left is None:
            return None
        elapsed_voxels = self._voxels_done + self._run.outlook.timed_voxels
        remaining_voxels = sum(self._voxels[self._index + 1 :])
        return current_left + (monotonic() - self._began + current_left) / elapsed_voxels * remaining_voxels

    def _last_state(self) -> JobState:
        done, count = len(self.done), len(self._items)
        if self._is_cancelled:
            kept = f"{done} of {count} scans are enhanced and stay in the scene" if done else "nothing was changed"
            return JobState(CANCELLED, "cancelled", message=self._reason or f"Cancelled; {kept}.")
        if not done:
            return JobState(FAILED, "failed", message="No scan could be enhanced: the table says why.")
        return JobState(DONE, "done", 1, 1, 0.0)


def _timed_voxels(node: slicer.vtkMRMLScalarVolumeNode, request: Request) -> int:
    """`Outlook.timed_voxels`; 0 if the volume cannot be enhanced."""
    try:
        return look_ahead(node, request).timed_voxels
    except InputError:
        return 0
