"""How a process is asked to stop. Imports next to nothing, so that a program can listen from its first moment."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopRequest:
    """Whether a stop signal has arrived.

    A plain attribute: a handler that takes a lock, as `threading.Event` does, could wait for the very code that it
    interrupts.
    """

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, *_: object) -> None:
        self.asked = True


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
