"""A command at work: what it may call, how it is stopped, and how the program leaves.

The work runs in a thread, and the main thread waits. So a stop signal is noticed at any moment, even while a library
reads, writes or is being imported, and the program leaves in time whether or not the work listens.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ..errors import Cancelled, InputError
from ..progress import Report
from ..system.memory import is_out_of_memory, shortage
from ..system.outputs import remove_staging_folders
from ..system.stop import LastStep, StopRequest, at_once
from ..system.streams import print_line

DONE, DEFECT, WRONG_INPUT, CANCELLED = 0, 1, 2, 3

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Job:
    """What a command may call while it works.

    Attributes:
        say: prints text for the user, on standard output unless that carries progress as JSON.
        progress: shows a `Progress`.
        should_cancel: whether the user has asked to stop.
        last_step: takes the step that completes the work; see `StopRequest.last_step`.
    """

    say: Callable[[str], None]
    progress: Report
    should_cancel: Callable[[], bool]
    last_step: LastStep = at_once

    def stop_if_asked(self) -> None:
        """Raise `Cancelled` once the user has asked to stop."""
        if self.should_cancel():
            raise Cancelled


def run(work: Callable[[], int | None], request: StopRequest) -> int:
    """Do the work in a thread and give the program's exit code; say in one line why it is not 0.

    Work that does not end in time after a stop request ends with the process, here.
    """
    outcome: list[int | BaseException] = []

    def work_and_keep_outcome() -> None:
        result: int | BaseException
        try:
            result = work() or DONE
        except BaseException as error:
            result = error
        with request.deciding:
            outcome.append(result)

    worker = threading.Thread(target=work_and_keep_outcome, daemon=True)
    try:
        worker.start()
    except RuntimeError as error:  # there is no memory for it
        return tell(error)
    while worker.is_alive() and not request.asked:
        worker.join(_POLL_SECONDS)
    worker.join(request.grace_seconds)
    if worker.is_alive():
        _give_up(worker, outcome, request)
    return outcome[0] if isinstance(outcome[0], int) else tell(outcome[0])


def _give_up(worker: threading.Thread, outcome: list[int | BaseException], request: StopRequest) -> None:
    """End the process while the work goes on, with all outputs or none; return only if the work has ended after all."""
    # The usual way out waits for threads and libraries, which is what did not end: hence `os._exit`.
    with request.deciding:
        if not (outcome or request.done):
            remove_staging_folders()
            _tell_without_waiting(Cancelled())
            os._exit(CANCELLED)
    # Only the end of the thread is left, or saying what was done.
    worker.join(request.grace_seconds)
    if worker.is_alive():
        os._exit(DONE)


def tell(error: BaseException) -> int:
    """Print why the program ends, in one line, and give its exit code."""
    if isinstance(error, SystemExit):  # argparse, after --help and --version
        return error.code if isinstance(error.code, int) else DONE
    if isinstance(error, Cancelled):
        _print_error(f"Cancelled. {error}".rstrip())
        return CANCELLED
    if is_out_of_memory(error):
        # Also what was taken for another problem, such as a damaged file.
        error = InputError(shortage())
    if isinstance(error, InputError):
        _print_error(f"error: {_in_one_line(error)}")
        return WRONG_INPUT
    name = type(error).__name__
    _print_error(
        f"error: This is a defect of XViewSynth, please report it with the lines below: {name}: {_in_one_line(error)}"
    )
    _print_error("".join(traceback.format_exception(error)).rstrip())
    return DEFECT


def _tell_without_waiting(error: BaseException) -> None:
    # A reader that does not read blocks whoever prints.
    teller = threading.Thread(target=tell, args=(error,), daemon=True)
    teller.start()
    teller.join(0.2)


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).splitlines())


def _print_error(text: str) -> None:
    with suppress(InputError):  # there is nowhere left to say it
        print_line(text, to_errors=True)
