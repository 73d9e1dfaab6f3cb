"""How long enhancing takes on this computer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt

from XViewSynthLib.request import Request
from XViewSynthScene.desk import make_timer

from .progress import TICK_MILLISECONDS


class SpeedMeasurement:
    """Knows the speed of settings: from results on this computer, or measured in the background when the user wants it.

    Args:
        changed: called after each measurement.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        # Seconds for a voxel, and to begin and end, by what they depend on; None where they could not be measured.
        self._speeds: dict[tuple, tuple[float, float] | None] = {}
        self._job: Any | None = None
        self._began = 0.0
        self._pollTimer = make_timer(qt, TICK_MILLISECONDS, self._poll)

    def expectedSeconds(self, outlook: Any, request: Any) -> float | None:
        """How long enhancing takes, s; None while that is not known.

        Args:
            outlook: XViewSynthScene.runs.Outlook.
            request: XViewSynthLib.request.Request.
        """
        speed = self._speeds.get(_key(request, outlook.grid.factor))
        return None if speed is None else speed[0] * outlook.timed_voxels + speed[1]

    def missing(self, outlook: Any, request: Any) -> Any | None:
        """What to measure before the time is known (Request); None where nothing more can be learned."""
        from XViewSynthScene.packages import missing_packages

        key = _key(request, outlook.grid.factor)
        if key in self._speeds or missing_packages():
            return None
        model, device, precision, quality, factor = key
        return Request(factor=factor, model=model, device=device, precision=precision, quality=quality)

    @property
    def isMeasuring(self) -> bool:
        """Whether a measurement goes on."""
        return self._job is not None

    def learn(self, outlook: Any, request: Any, seconds: float, computeSeconds: float) -> None:
        """Keep how long an enhancement has taken; its speed counts more than a measured one.

        Args:
            outlook: of the enhancement, as it began.
            request: its XViewSynthLib.request.Request.
            seconds: from the click until the result was there.
            computeSeconds: the part of it in which slices were computed.
        """
        speed = computeSeconds / outlook.timed_voxels, seconds - computeSeconds
        self._speeds[_key(request, outlook.grid.factor)] = speed

    def measure(self, request: Any) -> None:
        """Measure the speed of this (Request)."""
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
            # It started a worker and read the model, as an enhancement does.
            speed = job.result["seconds_per_voxel"], time.monotonic() - self._began
        self._speeds[_key(job.request, job.request.factor)] = speed


def _key(request: Any, factor: int) -> tuple:
    return request.model, request.device, request.precision, request.quality, factor
