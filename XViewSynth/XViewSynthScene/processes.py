"""A command of the engine in a process of its own, watched without ever waiting for it.

A crash, a lack of memory or a hanging graphics driver then takes nothing of Slicer along, and cancelling means ending
processes, which always works.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from XViewSynthLib.workers.worker import ENGINE_FOLDER, GRACE_SECONDS, Worker

# Slicer's own libraries, and a graphics library of the system that hides the one that came with PyTorch.
_FOREIGN_VARIABLES = (
    "DYLD_LIBRARY_PATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSAFEPATH",
    "PYTHONSTARTUP",
)


@dataclass(frozen=True)
class Program:
    """What a worker runs, as in ``python -m NAME``.

    Attributes:
        name: the package.
        folders: where it lies, unless beside the engine.
        grace_seconds: how long it may take to leave after it was asked to stop; then it is ended.
    """

    name: str
    folders: tuple[Path, ...] = ()
    grace_seconds: float = GRACE_SECONDS


ENGINE = Program("XViewSynthLib")


def start_worker(
    arguments: Sequence[str],
    log_path: str | os.PathLike[str],
    python: str | None = None,
    environment: Mapping[str, str] | None = None,
    program: Program = ENGINE,
) -> Worker:
    """Start ``xviewsynth ARGUMENTS`` in a process group of its own.

    The process ends with this one, however this one ends.

    Args:
        arguments: a command that takes ``--stop-with-parent``, and its arguments. Paths must be absolute.
        log_path: receives what the command says on standard error.
        python: the interpreter; Slicer's own by default, or the running one outside Slicer.
        environment: that of the process; `worker_environment(program)` by default.
        program: what knows the command, if not the engine.

    Raises:
        OSError: the log cannot be written, or the interpreter cannot be started.
    """
    environment = environment or worker_environment(program)
    return Worker(
        python or default_python(),
        program.name,
        arguments,
        environment,
        log=Path(log_path),
        grace_seconds=program.grace_seconds,
    )


def default_python() -> str:
    """The interpreter that has Slicer's packages."""
    return shutil.which("PythonSlicer") or sys.executable


def worker_environment(program: Program = ENGINE) -> dict[str, str]:
    """The environment that the user had before Slicer changed it, in which the engine of this checkout is found."""
    folders = os.pathsep.join(map(str, (ENGINE_FOLDER, *program.folders)))
    environment = {
        name: value for name, value in _environment_before_slicer().items() if name not in _FOREIGN_VARIABLES
    }
    # What a worker says must not depend on the language of the computer.
    return {**environment, "PYTHONPATH": folders, "PYTHONUTF8": "1"}


def _environment_before_slicer() -> dict[str, str]:
    # Looked up, not imported: where nobody has imported it, this is not Slicer.
    slicer = sys.modules.get("slicer")
    if hasattr(getattr(slicer, "app", None), "startupEnvironment"):
        return slicer.util.startupEnvironment()
    return dict(os.environ)
