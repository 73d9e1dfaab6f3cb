"""Expected time of an enhancement on this computer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt

from XViewSynthLib.request import Request
from XViewSynthScene.desk import make_timer

from .progress import TICK_MILLISECONDS


class SpeedMeasurement:
    """The speed of settings, from results on this computer or from a measurement in the background.

    Args:
        changed: called after each measurement.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        # Seconds per voxel and seconds for start and end, by settings; None if the measurement failed.
        self._speeds: dict[tuple, tuple[float, float] | None] = {}
        self._job: Any | None = None
        self._began = 0.0
        self._pollTimer = make_timer(qt, TICK_MILLISECONDS, self._poll)

    def expectedSeconds(self, outlook: Any, request: Any) -> float | None:
        """Expected time of an enhancement, s; None while unknown.

        Args:
            outlook: XViewSynthScene.runs.Outlook.
            request: XViewSynthLib.request.Request.
        """
        speed = self._speeds.get(_key(request, outlook.grid.factor))
        return None if speed is None else speed[0] * outlook.timed_voxels + speed[1]

    def missing(self, outlook: Any, request: Any) -> Any | None:
        """The request to measure; None if its speed is known or cannot be measured."""
        from XViewSynthScene.packages import missing_packages

        key = _key(request, outlook.grid.factor)
        if key in self._speeds or missing_packages():
            return None
        model, device, precision, quality, factor = key
        return Request(factor=factor, model=model, device=device, precision=precision, quality=quality)

    @property
    def isMeasuring(self) -> bool:
        """Whether a measurement is running."""
        return self._job is not None

    def record(self, outlook: Any, request: Any, seconds: float, computeSeconds: float) -> None:
        """Record the time of an enhancement, which replaces a measured speed.

        Args:
            outlook: of the enhancement, from its start.
            request: XViewSynthLib.request.Request.
            seconds: from the click to the result, s.
            computeSeconds: time that the engine computed, s.
        """
        speed = computeSeconds / outlook.timed_voxels, seconds - computeSeconds
        self._speeds[_key(request, outlook.grid.factor)] = speed

    def measure(self, request: Any) -> None:
        """Measure the speed of a request."""
        from XViewSynthScene.jobs import SpeedJob

        self.stop()
        self._began = time.monotonic()
        self._job = SpeedJob(request)
        self._job.start()
        self._pollTimer.start()
        self._changed()

    def stop(self) -> None:
        """End a measurement."""
        self._pollTimer.stop()
        if self._job:
            self._job.close()
            self._job = None

    def _poll(self) -> None:
        state = self._job.poll()
        if state.ended:
            job, self._job = self._job, None
            self._pollTimer.stop()
            self._keep(job, state)
            self._changed()

    def _keep(self, job: Any, state: Any) -> None:
        speed = None
        if state.status == "done":
            # Like an enhancement, the measurement starts a worker and reads the model.
            speed = job.result["seconds_per_voxel"], time.monotonic() - self._began
        self._speeds[_key(job.request, job.request.factor)] = speed


def _key(request: Any, factor: int) -> tuple:
    return request.model, request.device, request.precision, request.quality, factor
