"""Commands of the engine in separate processes, polled without waiting.

A crash, a lack of memory or a hanging graphics driver then leaves Slicer intact, and cancelling means ending processes,
which always works.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from XViewSynthLib.workers.worker import ENGINE_FOLDER, GRACE_SECONDS, Worker

# These variables would load Slicer's libraries, or a graphics library that hides the one of PyTorch.
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
    """The program of a worker, as in ``python -m NAME``.

    Attributes:
        name: the package.
        folders: folders that hold it, if not beside the engine.
        grace_seconds: time to exit after a stop request; then it is killed.
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
    """Start ``xviewsynth ARGUMENTS`` in its own process group.

    The process ends whenever this one ends.

    Args:
        arguments: a command that takes ``--stop-with-parent``, and its arguments. Paths must be absolute.
        log_path: file for the standard error of the command.
        python: the interpreter; Slicer's own by default, or the running one outside Slicer.
        environment: of the process; `worker_environment(program)` by default.
        program: the program with the command, if not the engine.

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
    """The environment before Slicer changed it, with the path of this engine."""
    folders = os.pathsep.join(map(str, (ENGINE_FOLDER, *program.folders)))
    environment = {
        name: value for name, value in _environment_before_slicer().items() if name not in _FOREIGN_VARIABLES
    }
    # UTF-8 mode: the encoding of messages must not depend on the locale.
    return {**environment, "PYTHONPATH": folders, "PYTHONUTF8": "1"}


def _environment_before_slicer() -> dict[str, str]:
    # Looked up, not imported: if it is not imported, this is not Slicer.
    slicer = sys.modules.get("slicer")
    if hasattr(getattr(slicer, "app", None), "startupEnvironment"):
        return slicer.util.startupEnvironment()
    return dict(os.environ)
