"""Stop requests to a process. Imports almost nothing, so that a program can catch signals from its start."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..errors import Cancelled

_INPUT = 0
_POLL_SECONDS = 0.25


#: A function that runs the step that completes some work; see `StopRequest.last_step`.
LastStep = Callable[[Callable[[], None]], None]


def at_once(step: Callable[[], None]) -> None:
    """Run the last step of work that cannot be stopped."""
    step()


class StopRequest:
    """Whether a stop was requested, and whether the request came in time.

    `requested` is a plain attribute. A signal handler that takes a lock, as `threading.Event` does, could wait for the
    code that it interrupts.

    Attributes:
        requested: whether a stop was requested.
        done: whether `last_step` is done: a stop no longer changes the outcome.
        deciding: held during the last step, and by a program that abandons its work, until the program ends.
        grace_seconds: time that work gets to end by itself. Cancelling takes at most 2 s: the default of this value,
            and the rest for removing files and freeing memory.
    """

    def __init__(self) -> None:
        self.requested = False
        self.done = False
        self.deciding = threading.Lock()
        self.grace_seconds = 0.5

    def __call__(self, *_: object) -> None:
        self.requested = True

    def last_step(self, step: Callable[[], None]) -> None:
        """Run the step that completes the work, such as giving all outputs their names.

        An earlier stop request prevents it. A later one has no effect.

        Raises:
            Cancelled: a stop was requested before.
        """
        with self.deciding:
            if self.requested:
                raise Cancelled
            step()
            self.done = True


@contextmanager
def stop_signals(restore: bool) -> Iterator[StopRequest]:
    """Catch the signals that request a stop.

    Args:
        restore: whether to restore their former handlers at the end.
    """
    request = StopRequest()
    former = {}
    # Python allows handlers in the main thread only.
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            # Programs started by nohup must outlive their terminal.
            if number is None or (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                continue
            former[number] = signal.signal(number, request)
    try:
        yield request
    finally:
        if restore:
            for number, handler in former.items():
                signal.signal(number, handler or signal.SIG_DFL)


def stop_with_parent(request: StopRequest, pid: int) -> None:
    """Request a stop once standard input closes, or once the process `pid` has ended.

    The program that started this one holds the other end of standard input, which closes when that program ends. A
    launcher between the two may hold an input open, so the process is watched as well.
    """
    for wait in (_wait_for_end_of_input, lambda: _wait_for_end_of_process(pid)):
        threading.Thread(target=_request_after, args=(request, wait), daemon=True).start()


def _request_after(request: StopRequest, wait: Callable[[], None]) -> None:
    wait()
    request()


def _wait_for_end_of_input() -> None:
    with suppress(OSError):  # closed from the start, or broken
        if sys.platform == "win32":
            _wait_for_broken_pipe()
        # Not through sys.stdin: a thread must not hold its lock when Python ends.
        while os.read(_INPUT, 4096):
            pass


if sys.platform == "win32":

    def _wait_for_broken_pipe() -> None:
        # A waiting read would block libraries that query the type of standard input on import.
        import _winapi
        import msvcrt

        handle = msvcrt.get_osfhandle(_INPUT)
        while True:
            _winapi.PeekNamedPipe(handle, 0)
            time.sleep(_POLL_SECONDS)


def _wait_for_end_of_process(pid: int) -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_POLL_SECONDS)
