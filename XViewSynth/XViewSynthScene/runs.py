"""Runs that enhance or check a volume of the scene in the background.

    run = EnhanceRun(input_node, Request(factor=4))
    run.start()
    while not run.poll().ended: ...     # from a timer, every 100 ms
    run.output_node

If the volume shows a frame of a sequence, all frames are enhanced, one after the other. A run continues without its
nodes: if its input is deleted it still delivers, if its output is deleted it creates a new one. Closing the scene
ends it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import slicer

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.grid import Grid, settle_grid
from XViewSynthLib.geometry.volume import Volume, array_axis
from XViewSynthLib.report import describe_enhanced
from XViewSynthLib.request import Request

from .jobs import (
    CANCELLED,
    DONE,
    FAILED,
    EnhanceJob,
    EnhanceResult,
    JobState,
    SelfCheckJob,
)
from .provenance import Provenance, provenance_from_report
from .results import check_output_node, create_output, snapshot
from .scans import scan_from_node
from .sequences import EnhancedFrame, create_sequence_output, frames, sequence_of
from .volumes import volume_from_node


@dataclass(frozen=True)
class Outlook:
    """Size of the result of an enhancement, known without any computation.

    Attributes:
        grid: grid of one volume of the result.
        slices: number of slices of the input along the grid's axis.
        slice_spacing: of the input, mm.
        frames: number of volumes: 1, or the length of the sequence.
        output_bytes: bytes of the voxels of all volumes of the result.
        timed_voxels: voxels of all observed slices but the last, over all volumes; the time is proportional to it.
    """

    grid: Grid
    slices: int
    slice_spacing: float
    frames: int
    output_bytes: int
    timed_voxels: int


def look_ahead(node: slicer.vtkMRMLScalarVolumeNode | None, request: Request) -> Outlook:
    """Return the size of the result of enhancing `node`.

    Raises:
        InputError: the node cannot be enhanced with this request.
    """
    volume = scan_from_node(node)
    grid = settle_grid(volume, axis=request.axis, **request.target)
    sequence = sequence_of(node)
    count = 1 if sequence is None else sequence.GetNumberOfDataNodes()
    k, j, i = grid.shape
    slices = volume.slices(grid.axis)
    return Outlook(
        grid=grid,
        slices=slices,
        slice_spacing=volume.spacing_along(grid.axis),
        frames=count,
        output_bytes=count * k * j * i * volume.voxels.itemsize,
        timed_voxels=count * (volume.voxels.size // volume.voxels.shape[array_axis(grid.axis)]) * (slices - 1),
    )


class _Run(ABC):
    """Work on one node. Call `start`, then `poll` until the state has `ended`; no call here waits."""

    def __init__(self, node: slicer.vtkMRMLScalarVolumeNode):
        self._scene = node.GetScene()
        self._state: JobState | None = None
        self._job: EnhanceJob | SelfCheckJob | None = None
        self._stopped = False
        self._reason: str | None = None
        self._observer = self._scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._on_scene_close)

    @property
    def log(self) -> str:
        """The last lines that the worker wrote; "" before it has ended."""
        return "" if self._job is None else self._job.log

    def poll(self) -> JobState:
        """Current state of the run. When the worker is done, this call adds the result to the scene."""
        if self._state is None or not self._state.ended:
            self._state = self._look()
            # A job may finish before the stop request reaches it. Its result is dropped: the scene may have changed.
            if self._state.status in (DONE, CANCELLED) and self._stopped:
                self._state = JobState(CANCELLED, "cancelled", message=self._reason)
            if self._state.ended:
                self._stop_observing()
        return self._state

    def cancel(self) -> None:
        """Request the end of the run. Within two seconds it is "cancelled", without leftovers. Harmless later."""
        self._stopped = True
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """Cancel the run and release its data."""
        self._stop_observing()
        self._stopped = True
        if self._job is not None:
            self._job.close()

    @abstractmethod
    def start(self) -> None:
        """Start the run and return at once."""

    @abstractmethod
    def _look(self) -> JobState:
        """The state after all steps that need no waiting."""

    def _on_scene_close(self, _caller: object, _event: object) -> None:
        self._reason = "The scene was closed, so the work on it has ended."
        self.cancel()

    def _stop_observing(self) -> None:
        if self._observer is not None:
            self._scene.RemoveObserver(self._observer)
            self._observer = None


class EnhanceRun(_Run):
    """Enhance a volume, or every frame of the sequence that it shows.

    Args:
        input_node: the volume; it is not changed.
        request: target and settings.
        output_node: receives the result of a single volume; by default a new node.
        folder, python: as in `EnhanceJob`.

    Attributes:
        outlook: size of the result.
        request: target and settings.

    Raises:
        InputError: the input cannot be enhanced, or the output cannot receive the result.
    """

    def __init__(
        self,
        input_node: slicer.vtkMRMLScalarVolumeNode | None,
        request: Request,
        output_node: slicer.vtkMRMLScalarVolumeNode | None = None,
        **job_options: Any,
    ):
        self.outlook, self.request = look_ahead(input_node, request), request
        check_output_node(output_node, input_node)
        self._sequence = sequence_of(input_node)
        if self._sequence is not None and output_node is not None:
            raise InputError(
                f"{input_node.GetName()!r} shows a sequence, and all its frames are enhanced into a new one: choose no "
                "output volume."
            )
        super().__init__(input_node)
        self._input_node, self._output_node = input_node, output_node
        self._snapshot = snapshot(input_node)
        self._volumes: Sequence[Volume] = (
            [volume_from_node(input_node)]
            if self._sequence is None
            else [volume_from_node(frame.node) for frame in frames(self._sequence)]
        )
        self._job_options = job_options
        self._results: Sequence[EnhanceResult] = []
        self._reports: list[dict[str, Any]] = []
        self._began, self._seconds = monotonic(), 0.0
        self._uncertainty_node: slicer.vtkMRMLScalarVolumeNode | None = None

    @property
    def output_node(self) -> slicer.vtkMRMLScalarVolumeNode:
        """The enhanced volume (of a sequence: the one that shows its frames); available when the run is done."""
        return self._output_node

    @property
    def uncertainty_node(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The uncertainty map in HU (of a sequence: the one that shows its frames); available when the run is done."""
        return self._uncertainty_node

    @property
    def report(self) -> dict[str, Any]:
        """Report as ``xviewsynth enhance --report`` writes it; of a sequence, that of its first frame."""
        return self._reports[0]

    @property
    def seconds(self) -> float:
        """Time from `start` until the result was in the scene, s; available when the run is done."""
        return self._seconds

    @property
    def compute_seconds(self) -> float:
        """Time that the engine computed, s, without its start and without reading and writing files."""
        return sum(report["seconds"] for report in self._reports)

    def start(self) -> None:
        """Start the run and return at once."""
        self._began = monotonic()
        self._start_next()

    def _start_next(self) -> None:
        self._job = EnhanceJob(self._volumes[len(self._results)], self.request, **self._job_options)
        self._job.start()

    def _look(self) -> JobState:
        state = self._job.poll()
        if state.status != DONE or self._stopped:
            return self._of_all_frames(state)
        self._results = [*self._results, self._job.result]
        if len(self._results) < len(self._volumes):
            self._start_next()
            return self._of_all_frames(self._job.poll())
        return self._deliver()

    def _of_all_frames(self, state: JobState) -> JobState:
        """The state of the whole run, from the state of the current job."""
        count, done = len(self._volumes), len(self._results)
        if count == 1 or state.ended:
            return state
        left = None
        if done:
            left = (monotonic() - self._began) / done * (count - done)
        elif state.seconds_left is not None:
            left = state.seconds_left + (monotonic() - self._began + state.seconds_left) * (count - 1)
        return replace(state, stage=f"frame {done + 1} of {count}: {state.stage}", seconds_left=left)

    def _deliver(self) -> JobState:
        try:
            if self._sequence is None:
                self._deliver_volume()
            else:
                self._deliver_sequence()
        except InputError as error:
            return JobState(FAILED, "failed", message=str(error))
        except MemoryError:
            return JobState(
                FAILED, "failed", message="There is not enough memory for the result: close other volumes, then repeat."
            )
        finally:
            self._reports = [result.report for result in self._results]
            # The nodes own the voxels now.
            self._volumes = self._results = ()
        self._seconds = monotonic() - self._began
        return JobState(DONE, "done", 1, 1, 0.0)

    def _deliver_volume(self) -> None:
        result = self._results[0]
        self._output_node, self._uncertainty_node = create_output(
            _if_in_scene(self._input_node),
            result.enhanced,
            result.uncertainty,
            self._provenance(result),
            _if_in_scene(self._output_node),
            snapshot=self._snapshot,
        )

    def _deliver_sequence(self) -> None:
        output = create_sequence_output(
            self._sequence,
            [EnhancedFrame(result.enhanced, result.uncertainty, self._provenance(result)) for result in self._results],
        )
        self._output_node, self._uncertainty_node = output.node, output.uncertainty_node

    def _provenance(self, result: EnhanceResult) -> Provenance:
        return provenance_from_report(
            result.report, input_node_id=self._snapshot.node_id, input_name=self._snapshot.name
        )


class SelfCheckRun(_Run):
    """Check how well slices of a volume are restored; of a sequence, the frame that is shown.

    Args:
        node: the volume; it is not changed.
        request: settings of the check.
        folder, python: as in `SelfCheckJob`.

    Raises:
        InputError: the volume cannot be checked.
    """

    def __init__(self, node: slicer.vtkMRMLScalarVolumeNode | None, request: Request, **job_options: Any):
        volume = scan_from_node(node)
        super().__init__(node)
        self._job = SelfCheckJob(volume, request, **job_options)

    @property
    def result(self) -> dict[str, Any]:
        """The report of the self-check; available when the run is done."""
        return self._job.result

    def start(self) -> None:
        """Start the run and return at once."""
        self._job.start()

    def _look(self) -> JobState:
        return self._job.poll()


def enhance_in_process(
    input_node: slicer.vtkMRMLScalarVolumeNode | None,
    request: Request,
    output_node: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> slicer.vtkMRMLScalarVolumeNode:
    """Enhance a single volume in this process and wait for it.

    Raises:
        InputError: as in `EnhanceRun`, or the volume shows a sequence.
    """
    from XViewSynthLib import enhance

    check_output_node(output_node, input_node)
    volume = scan_from_node(input_node)
    if sequence_of(input_node) is not None:
        raise InputError(f"{input_node.GetName()!r} shows a sequence: enhance it without inProcess.")
    before = snapshot(input_node)
    enhanced = enhance(volume, request=request)
    report = describe_enhanced(before.name, "", volume, enhanced)
    provenance = provenance_from_report(report, input_node_id=before.node_id, input_name=before.name)
    output, _ = create_output(input_node, enhanced.volume, enhanced.uncertainty, provenance, output_node)
    return output


def selfcheck_in_process(node: slicer.vtkMRMLScalarVolumeNode | None, request: Request) -> dict[str, Any]:
    """Check a volume in this process and wait for it.

    Raises:
        InputError: as in `SelfCheckRun`.
    """
    from XViewSynthLib import selfcheck

    return selfcheck(scan_from_node(node), request=request)


def _if_in_scene(node: slicer.vtkMRMLNode | None) -> slicer.vtkMRMLNode | None:
    return node if node is not None and node.GetScene() is not None else None
