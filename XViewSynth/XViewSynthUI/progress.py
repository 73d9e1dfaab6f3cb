"""Progress of background runs, for the panels of both modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

from XViewSynthScene.desk import make_timer, show_progress

# Interval between polls: short enough for a smooth progress bar, long enough to cost nothing.
TICK_MILLISECONDS = 100


class RunProgress:
    """Polls a run from a timer and shows its progress.

    Args:
        bar: a QProgressBar.
        label: a QLabel for the stage and the time left.
        ended: called with the run and its last state; it must close the run.
    """

    def __init__(self, bar: Any, label: Any, ended: Callable[[Any, Any], None]) -> None:
        self._bar, self._label, self._ended = bar, label, ended
        self._timer = make_timer(qt, TICK_MILLISECONDS, self._poll)
        self.run: Any | None = None

    def watch(self, run: Any) -> None:
        """Show the progress of a started run until it ends."""
        self.run = run
        self._show(run.poll())
        self._timer.start()

    def close(self) -> None:
        """End the run without calling `ended`."""
        if self.run:
            self._forget().close()

    def _poll(self) -> None:
        state = self.run.poll()
        if state.ended:
            self._ended(self._forget(), state)
        else:
            self._show(state)

    def _forget(self) -> Any:
        run, self.run = self.run, None
        self._timer.stop()
        self._show(None)
        return run

    def _show(self, state: Any | None) -> None:
        show_progress(self._bar, self._label, state)
