"""Progress, stop requests and notes of one enhancement."""

from __future__ import annotations

import time

from ..progress import Monitor
from .plan import Plan


class Reporter:
    """Reports progress with the time left, handles stop requests, and collects notes."""

    def __init__(self, plan: Plan, monitor: Monitor):
        self._notes: dict[str, None] = {}
        self._step, self.check = monitor.step, monitor.check
        self._began, self._expected = time.perf_counter(), plan.expected_seconds

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes, each sentence once."""
        return tuple(self._notes)

    def note(self, sentence: str) -> None:
        """Add a note for the user."""
        self._notes[sentence] = None

    def step(self, stage: str, done: int, total: int, fraction: float) -> None:
        """Report `done` of `total` steps of a stage, and that `fraction` of the whole work is done."""
        self.check()
        elapsed = time.perf_counter() - self._began
        # The plan's estimate is gradually replaced by the measured speed.
        trust = min(1.0, 5 * fraction)
        whole = trust * elapsed / fraction + (1 - trust) * self._expected if fraction else self._expected
        self._step(stage, done, total, max(0.0, whole - elapsed))
