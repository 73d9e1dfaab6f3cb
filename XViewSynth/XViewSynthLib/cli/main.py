"""The command line ``xviewsynth``.

Each command is a function that takes the parsed arguments and a `Job`, in that order, and returns nothing or an exit
code. Other packages add commands through the entry point group ``xviewsynth.commands``: each entry point is a
function ``register(subparsers)`` that adds a parser of the entry point's name and sets its default ``run`` to such a
function. Their modules should import quickly, like this one. Slow imports belong into the functions that need them.
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Any, NoReturn

from .. import __version__
from ..errors import InputError
from ..progress import reporter
from ..report import PROGRAM
from ..system.stop import StopRequest, stop_signals, stop_with_parent
from ..system.streams import finish_printing, prepare_streams, print_line
from ..workers.job import CANCELLED, Job, run
from . import batch, bench, compare, enhance, models, node, scans, selfcheck, speed

COMMAND_GROUP = "xviewsynth.commands"

Register = Callable[["argparse._SubParsersAction"], None]


def main(argv: Sequence[str]) -> int:
    """Run one command inside another program. Exit code: 0 done, 1 internal error, 2 wrong input, 3 cancelled.

    SIGINT and SIGTERM cancel the command. If it does not stop in time, the process ends.
    """
    prepare_streams(is_program=False)
    with stop_signals(restore=True) as request:
        return _run(argv, request)


def run_program(request: StopRequest, *registers: Register) -> int:
    """Run the command of this process and return its exit code, as `main` does.

    Args:
        request: whether a stop signal has arrived, since before this module was imported.
        registers: functions that add commands without an entry point.
    """
    prepare_streams(is_program=True)
    codes: list[int] = []
    # Registered first, so it runs after the exit handlers of libraries.
    atexit.register(_leave_with, codes)
    code = _run(sys.argv[1:], request, registers)
    if code == CANCELLED:
        # All output is written. Python would need another second on a busy machine to finalise the libraries.
        os._exit(code)
    codes.append(code)
    return code


def _leave_with(codes: Sequence[int]) -> None:
    """End the process before Python restores the default handlers of stop signals, which would change the exit code."""
    if codes:
        with suppress(InputError):
            finish_printing()
        os._exit(codes[0])


def _run(argv: Sequence[str], request: StopRequest, registers: Sequence[Register] = ()) -> int:
    def work() -> int | None:
        try:
            return _run_command(_parser(argv, registers).parse_args(argv), request)
        finally:
            finish_printing()

    return run(work, request)


def _run_command(arguments: argparse.Namespace, request: StopRequest) -> int | None:
    request.grace_seconds = getattr(arguments, "grace_seconds", request.grace_seconds)
    kind = getattr(arguments, "progress", "none")
    parent = getattr(arguments, "stop_with_parent", None)
    if parent is not None:
        stop_with_parent(request, parent)

    def say(text: str) -> None:
        print_line(text, to_errors=kind == "json")

    with reporter(kind) as progress:
        job = Job(say, progress, lambda: request.requested, request.last_step)
        job.stop_if_requested()
        return arguments.run(arguments, job)


class _Parser(argparse.ArgumentParser):
    """Reports errors as one sentence, and refuses abbreviated options, whose meaning could change with new options."""

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}: see {self.prog} --help.")

    def _print_message(self, message: str, file: Any = None) -> None:
        # The original method ignores failures of printing.
        print_line(message.removesuffix("\n"), to_errors=file is sys.stderr)


def _parser(argv: Sequence[str], registers: Sequence[Register] = ()) -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Thin CT slices from thick ones, by three mutually distilled views.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (enhance, batch, selfcheck, speed, scans, models, bench, compare, node):
        command.register(commands)
    for register in registers:
        register(commands)
    # Only for commands of other packages, since the search for entry points is slow.
    if not (argv and argv[0] in commands.choices):
        for entry_point in sorted(entry_points(group=COMMAND_GROUP), key=lambda found: found.name):
            if entry_point.name not in commands.choices:
                entry_point.load()(commands)
    return parser
