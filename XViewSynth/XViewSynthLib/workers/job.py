"""Runs a command in a thread: callbacks, stop requests and exit codes.

The work runs in a thread, and the main thread waits. So a stop signal is noticed at any moment, even while a library
reads, writes or is being imported. The program exits in time even if the work does not stop.
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
from ..system.staging import remove_staging_folders
from ..system.stop import LastStep, StopRequest, at_once
from ..system.streams import print_line

DONE, INTERNAL_ERROR, WRONG_INPUT, CANCELLED = 0, 1, 2, 3

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Job:
    """Callbacks of a running command.

    Attributes:
        say: prints text for the user, on standard output unless that carries progress as JSON.
        progress: shows a `Progress`.
        should_cancel: whether the user has requested a stop.
        last_step: runs the step that completes the work; see `StopRequest.last_step`.
    """

    say: Callable[[str], None]
    progress: Report
    should_cancel: Callable[[], bool]
    last_step: LastStep = at_once

    def stop_if_requested(self) -> None:
        """Raise `Cancelled` once the user has requested a stop."""
        if self.should_cancel():
            raise Cancelled


def run(work: Callable[[], int | None], request: StopRequest) -> int:
    """Run the work in a thread and return the program's exit code. Print the reason in one line if it is not 0.

    If the work does not end in time after a stop request, this function ends the process.
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
        return report_error(error)
    while worker.is_alive() and not request.requested:
        worker.join(_POLL_SECONDS)
    worker.join(request.grace_seconds)
    if worker.is_alive():
        _give_up(worker, outcome, request)
    return outcome[0] if isinstance(outcome[0], int) else report_error(outcome[0])


def _give_up(worker: threading.Thread, outcome: list[int | BaseException], request: StopRequest) -> None:
    """End the process while the work runs, with all outputs or none. Return only if the work has ended meanwhile."""
    # The usual exit waits for threads and libraries, and these did not end: hence `os._exit`.
    with request.deciding:
        if not (outcome or request.done):
            remove_staging_folders()
            _report_without_waiting(Cancelled())
            os._exit(CANCELLED)
    # The work is done; the thread may still print its result.
    worker.join(request.grace_seconds)
    if worker.is_alive():
        os._exit(DONE)


def report_error(error: BaseException) -> int:
    """Print in one line why the program ends, and return its exit code."""
    if isinstance(error, SystemExit):  # argparse, after --help and --version
        return error.code if isinstance(error.code, int) else DONE
    if isinstance(error, Cancelled):
        _print_error(f"Cancelled. {error}".rstrip())
        return CANCELLED
    if is_out_of_memory(error):
        # Also errors with another message, such as that of a damaged file.
        error = InputError(shortage())
    if isinstance(error, InputError):
        _print_error(f"error: {_in_one_line(error)}")
        return WRONG_INPUT
    name = type(error).__name__
    _print_error(
        f"error: This is an internal error, please report it with the lines below: {name}: {_in_one_line(error)}"
    )
    _print_error("".join(traceback.format_exception(error)).rstrip())
    return INTERNAL_ERROR


def _report_without_waiting(error: BaseException) -> None:
    # A full pipe that no process reads blocks printing.
    printer = threading.Thread(target=report_error, args=(error,), daemon=True)
    printer.start()
    printer.join(0.2)


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).splitlines())


def _print_error(text: str) -> None:
    with suppress(InputError):  # standard error is not writable either
        print_line(text, to_errors=True)
