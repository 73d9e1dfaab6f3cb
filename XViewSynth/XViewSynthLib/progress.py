"""Progress and cancellation of long work, and reporters that show progress on a terminal or print it for a program.

Long functions take ``progress``, a callable that receives one `Progress` per step and returns nothing. They may
call it from any thread. The reporters of this module are such callables for the command line. Inside, a `Monitor`
carries ``progress`` and ``should_cancel`` together.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TextIO

from .errors import Cancelled
from .system.streams import mute, visible

KINDS = ("bar", "json", "none")


@dataclass(frozen=True)
class Progress:
    """One step of a longer piece of work.

    Attributes:
        stage: name of the current stage, for a user ("coronal view").
        done: steps of this stage that are finished, 0 to ``total``.
        total: steps of this stage, at least 1.
        seconds_left: expected seconds until the *whole* work is done; None while there is no estimate.
    """

    stage: str
    done: int
    total: int
    seconds_left: float | None = None

    def to_json(self) -> str:
        """One line of JSON with the keys stage, done, total and seconds_left.

        >>> Progress("axial view", 3, 8, 12.34).to_json()
        '{"stage": "axial view", "done": 3, "total": 8, "seconds_left": 12.3}'
        """
        seconds = None if self.seconds_left is None else round(self.seconds_left, 1)
        return json.dumps({**asdict(self), "seconds_left": seconds})


Report = Callable[[Progress], None]


class Monitor:
    """Progress and cancellation of long work.

    Args:
        progress: receives a `Progress` per step.
        should_cancel: called several times a second; true ends the work.
    """

    def __init__(self, progress: Report | None = None, should_cancel: Callable[[], bool] | None = None):
        self._progress, self._should_cancel = progress, should_cancel

    def step(self, stage: str, done: int, total: int, seconds_left: float | None = None) -> None:
        """Report `done` of `total` steps of a stage; see `Progress`."""
        if self._progress is not None:
            self._progress(Progress(stage, done, total, seconds_left))

    @property
    def cancelled(self) -> bool:
        """Whether a stop was requested."""
        return self._should_cancel is not None and self._should_cancel()

    def check(self) -> None:
        """Raise `Cancelled` if a stop was requested."""
        if self.cancelled:
            raise Cancelled("Stopped; nothing was written.")

    def silent(self) -> Monitor:
        """A monitor for a part of the work whose steps are not reported."""
        return Monitor(None, self._should_cancel)

    def changed(self, change: Callable[[Progress], Progress]) -> Monitor:
        """A monitor for a part of the work, whose steps are reported as `change` returns them."""
        progress = self._progress
        return Monitor(None if progress is None else lambda step: progress(change(step)), self._should_cancel)


#: Of work whose progress is not shown, and that nothing stops.
UNWATCHED = Monitor()


@contextmanager
def reporter(kind: str, output: TextIO | None = None, messages: TextIO | None = None) -> Iterator[Report]:
    """Provide a callable that shows `Progress` in the requested way.

    Args:
        kind: "bar" draws on ``messages``: a moving bar on a terminal, one line per stage elsewhere, so that log
            files stay readable. "json" prints one JSON object a line on ``output``. "none" shows nothing.
        output: a text stream, standard output by default.
        messages: a text stream, standard error by default.

    A closed pipe silences the reporter. The work goes on, since its result is a file.

    Raises:
        ValueError: the kind is unknown.
    """
    output = sys.stdout if output is None else output
    messages = sys.stderr if messages is None else messages
    if kind == "json":
        yield _quiet_when_closed(lambda step: print(step.to_json(), file=output, flush=True), output)
    elif kind == "bar" and messages.isatty():
        with _bar(messages) as draw:
            yield _quiet_when_closed(draw, messages)
    elif kind == "bar":
        yield _quiet_when_closed(_once_per_stage(messages), messages)
    elif kind == "none":
        yield lambda step: None
    else:
        raise ValueError(f"unknown progress {kind!r}: choose one of {', '.join(KINDS)}")


def describe_seconds(seconds: float) -> str:
    """Seconds as text with at most two units.

    >>> describe_seconds(7.4), describe_seconds(100), describe_seconds(4000)
    ('7 s', '1 min 40 s', '1 h 7 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def describe_time_left(seconds: float | None) -> str:
    """The time left as text; "" if it is unknown.

    >>> describe_time_left(7.4), describe_time_left(None)
    ('7 s left', '')
    """
    return "" if seconds is None else f"{describe_seconds(seconds)} left"


def describe_stage(stage: str) -> str:
    """A stage as the beginning of a line.

    >>> describe_stage("coronal view")
    'Coronal view'
    """
    return stage[:1].upper() + stage[1:]


def _quiet_when_closed(show: Report, stream: TextIO) -> Report:
    """Serialise calls from several threads, and show nothing once the stream is closed."""
    lock = threading.Lock()
    closed = False

    def report(step: Progress) -> None:
        nonlocal closed
        with lock:
            if not closed:
                try:
                    show(step)
                except OSError:
                    closed = True
                    mute(stream)

    return report


def _once_per_stage(messages: TextIO) -> Report:
    shown: set[str] = set()

    def show(step: Progress) -> None:
        if step.stage not in shown:
            shown.add(step.stage)
            left = describe_time_left(step.seconds_left)
            stage = visible(step.stage)
            print(f"{stage} ({left})" if left else stage, file=messages, flush=True)

    return show


@contextmanager
def _bar(messages: TextIO) -> Iterator[Report]:
    from tqdm import tqdm

    bar: tqdm | None = None

    def show(step: Progress) -> None:
        nonlocal bar
        stage = visible(step.stage)
        if bar is None or bar.desc != stage:
            if bar is not None:
                bar.close()
            bar = tqdm(
                desc=stage,
                total=step.total,
                file=messages,
                dynamic_ncols=True,
                # tqdm estimates the time of one stage; ours covers the whole work.
                bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
            )
        bar.n = step.done
        if step.seconds_left is not None:
            bar.postfix = describe_time_left(step.seconds_left)
        bar.refresh()

    try:
        yield show
    finally:
        if bar is not None:
            with suppress(OSError):
                bar.close()
