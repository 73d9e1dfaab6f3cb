"""The program that enhances one scan of a batch: ``python -m XViewSynthLib.cli.worker one TASK.json``.

It writes everything, and `RESULT`, into the folder of the task.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..batch.task import COMMAND, RESULT, Task
from ..errors import InputError
from .options import add_stop_option

if TYPE_CHECKING:
    from ..workers.job import Job


def register(commands: argparse._SubParsersAction) -> None:
    """Add the command to the program's own."""
    parser = commands.add_parser(COMMAND)
    parser.add_argument("task", type=Path)
    add_stop_option(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, job: Job) -> None:
    from ..batch.worker import enhance_one

    task = Task(**json.loads(arguments.task.read_text(encoding="utf-8")))
    folder = arguments.task.parent
    result = enhance_one(task, folder, job.should_cancel)
    try:
        (folder / RESULT).write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
    except OSError as error:
        raise InputError(f"Its result cannot be written ({error.strerror or error}): make room for it.") from error


if __name__ == "__main__":
    from XViewSynthLib.__main__ import main

    sys.exit(main(register))
