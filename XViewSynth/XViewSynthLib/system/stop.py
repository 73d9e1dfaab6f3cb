"""How a process is asked to stop. Imports next to nothing, so that a program can listen from its first moment."""

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


#: What takes the step that completes some work; see `StopRequest.last_step`.
LastStep = Callable[[Callable[[], None]], None]


def at_once(step: Callable[[], None]) -> None:
    """Take the last step of work that cannot be stopped."""
    step()


class StopRequest:
    """Whether a stop was requested, and whether that was in time.

    `asked` is a plain attribute: a signal handler that takes a lock, as `threading.Event` does, could wait for the very
    code that it interrupts.

    Attributes:
        asked: whether a stop was requested.
        done: whether `last_step` is done: a stop no longer changes the outcome.
        deciding: held during the last step, and by a program that gives its work up, from then on to its end.
        grace_seconds: time that work gets to end by itself. Cancelling takes at most 2 s: this much by default, the
            rest for removing files and giving memory back.
    """

    def __init__(self) -> None:
        self.asked = False
        self.done = False
        self.deciding = threading.Lock()
        self.grace_seconds = 0.5

    def __call__(self, *_: object) -> None:
        self.asked = True

    def last_step(self, step: Callable[[], None]) -> None:
        """Take the step that completes the work, such as giving all outputs their names.

        A stop that was requested before prevents it; a later one has no effect.

        Raises:
            Cancelled: a stop was requested before.
        """
        with self.deciding:
            if self.asked:
                raise Cancelled
            step()
            self.done = True


@contextmanager
def stop_signals(restore: bool) -> Iterator[StopRequest]:
    """Catch the signals that ask a program to stop.

    Args:
        restore: whether they get their former meaning back at the end.
    """
    request = StopRequest()
    former = {}
    # Python allows handlers in the main thread only.
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            # Programs started by nohup are to outlive their terminal.
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
    """Ask for a stop once standard input closes, or once the process `pid` has ended.

    The program that started this one keeps the other end of standard input, and its end closes that, however it ends.
    A launcher between the two may hold an input of its own open, which is why the process is watched as well.
    """
    for wait in (_wait_for_end_of_input, lambda: _wait_for_end_of_process(pid)):
        threading.Thread(target=_ask_after, args=(request, wait), daemon=True).start()


def _ask_after(request: StopRequest, wait: Callable[[], None]) -> None:
    wait()
    request()


def _wait_for_end_of_input() -> None:
    with suppress(OSError):  # closed from the start, or broken
        if sys.platform == "win32":
            _wait_for_broken_pipe()
        # Not through sys.stdin, whose lock a thread must not hold when Python ends.
        while os.read(_INPUT, 4096):
            pass


if sys.platform == "win32":

    def _wait_for_broken_pipe() -> None:
        # A read that waits would block whoever asks for the type of standard input: libraries do on import.
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
