"""Helpers for the panels and logics of all modules. Callers pass widgets and Qt: nothing here imports them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import slicer

from XViewSynthLib.progress import describe_stage, describe_time_left

T = TypeVar("T")

_POLL_SECONDS = 0.02


def allow(widget: Any, refusal: str | None, tool_tip: str) -> None:
    """Enable a widget, or disable it and show the reason as its tool tip."""
    widget.enabled = refusal is None
    widget.toolTip = tool_tip if refusal is None else refusal


def show_progress(bar: Any, label: Any, state: Any | None) -> None:
    """Show progress and time left in a progress bar and a label; None hides both.

    Args:
        bar: a QProgressBar.
        label: a QLabel.
        state: returned by `poll` of a job or run.
    """
    bar.visible = label.visible = state is not None
    if state is None:
        return
    # A stage without known progress shows a busy indicator.
    known = state.total > 1
    bar.setRange(0, state.total if known else 0)
    bar.setValue(state.done if known else 0)
    label.text = ", ".join(filter(None, (describe_stage(state.stage), describe_time_left(state.seconds_left))))


@contextmanager
def signals_blocked(widget: Any) -> Iterator[None]:
    """Change a widget without its signals, as the program and not the user changes it."""
    former = widget.blockSignals(True)
    try:
        yield
    finally:
        widget.blockSignals(former)


def make_timer(qt: Any, milliseconds: int, slot: Callable[[], None], single_shot: bool = False) -> Any:
    """A QTimer that is not started yet. The caller must keep it: a timer without a reference never fires."""
    timer = qt.QTimer()
    timer.setInterval(milliseconds)
    timer.setSingleShot(single_shot)
    timer.connect("timeout()", slot)
    return timer


def process_events(qt: Any) -> None:
    """Process waiting events of the application, except for input of the user."""
    slicer.app.processEvents(qt.QEventLoop.ExcludeUserInputEvents)


def wait_for(run: Any, end: Callable[[], None]) -> Any:
    """Wait for a run and return its last state; Slicer's events are processed meanwhile.

    Args:
        run: an object with `poll`.
        end: ends the run, also when the script is interrupted; harmless after the run has ended.
    """
    try:
        while not (state := run.poll()).ended:
            if hasattr(slicer, "app"):
                slicer.app.processEvents()
            time.sleep(_POLL_SECONDS)
    finally:
        end()
    return state


def work_aside(work: Callable[[], T], meanwhile: Callable[[], None]) -> T:
    """The result of work that is done in another thread, so that events can be processed. It must not touch the scene.

    Args:
        work: the work; its exception is raised here.
        meanwhile: called about 50 times a second until the work has ended.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(work)
        while not wait([future], _POLL_SECONDS).done:
            meanwhile()
    return future.result()


def is_shown(layout_id: int) -> bool:
    """Whether the main window shows a layout; False without a window."""
    layout_manager = slicer.app.layoutManager()
    return layout_manager is not None and layout_manager.layout == layout_id


def schedule_render(view_names: Iterable[str]) -> None:
    """Draw views anew, by their layout names, once the application is idle; views that are not drawn are left out."""
    layout_manager = slicer.app.layoutManager()
    for name in view_names if layout_manager else ():
        slice_widget = layout_manager.sliceWidget(name)
        if slice_widget:
            slice_widget.sliceView().scheduleRender()


def renderer_of(view_name: str) -> Any | None:
    """The renderer of a slice view by its layout name; None where it is not drawn."""
    layout_manager = slicer.app.layoutManager()
    slice_widget = layout_manager.sliceWidget(view_name) if layout_manager else None
    return slice_widget.sliceView().renderWindow().GetRenderers().GetFirstRenderer() if slice_widget else None
