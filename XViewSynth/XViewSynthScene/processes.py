"""A command of the engine in a process of its own, watched without ever waiting for it.

A crash, a lack of memory or a hanging graphics driver then takes nothing of Slicer along, and cancelling means ending
processes, which always works.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where the engine of this very checkout lies, whatever else is installed.
ENGINE_FOLDER = Path(__file__).resolve().parents[1]

# A process that is asked to stop tidies up and leaves within a second; after this long it is ended.
GRACE_SECONDS = 1.5

_LOG_TAIL_BYTES = 16_384
_LOG_TAIL_LINES = 30

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
    return Worker(arguments, Path(log_path), python or default_python(), environment, program)


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


class Worker:
    """A running command. Nothing here waits: call `poll` again and again until `finished`.

    Make one with `start_worker`. One thread at a time may use it.
    """

    def __init__(
        self, arguments: Sequence[str], log_path: Path, python: str, environment: Mapping[str, str], program: Program
    ):
        self._log_path = log_path
        self._grace_seconds = program.grace_seconds
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._stop_by: float | None = None
        self._killed = False
        command = [python, "-m", program.name, *arguments, "--stop-with-parent", str(os.getpid())]
        with open(log_path, "wb") as log:
            self._process = subprocess.Popen(
                command,
                # Python looks here first for the engine.
                cwd=ENGINE_FOLDER,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                **_own_group(),
            )
        self._reader = threading.Thread(target=self._read_messages, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Number of the process, and on POSIX of its group."""
        return self._process.pid

    @property
    def finished(self) -> bool:
        """Whether the process and all it has started have ended, as far as `poll` has seen."""
        return self.exit_code is not None and not self._reader.is_alive() and not self._group_is_alive()

    @property
    def exit_code(self) -> int | None:
        """As `subprocess.Popen.returncode`: None while running, -N where signal N ended it (POSIX)."""
        return self._process.returncode

    def poll(self) -> list[dict[str, Any]]:
        """The JSON objects that the command has printed since the last call; also carries a stop request on."""
        exited = self._process.poll() is not None
        overdue = self._stop_by is not None and time.monotonic() > self._stop_by
        # What a command leaves running when it ends by itself belongs to nobody.
        if overdue or (exited and self._stop_by is None):
            self._kill()
        if exited:
            self._close_input()
        return self._take_messages()

    def request_stop(self) -> None:
        """Ask the command to tidy up and end; `poll` ends it by force once its grace is over."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + self._grace_seconds
            # This is heard on every system, and the signal even before the command listens to its input.
            self._close_input()
            if os.name == "posix":
                self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and all that it has started, at once."""
        self._stop_by = time.monotonic()
        # First: a command may take the end of its input for a request to leave by itself.
        self._kill()
        self._close_input()

    def log_tail(self) -> str:
        """The last lines that the command wrote to its log."""
        try:
            with open(self._log_path, "rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - _LOG_TAIL_BYTES))
                text = log.read().decode("utf-8", errors="replace")
        except OSError:  # removed already
            return ""
        return "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])

    def _read_messages(self) -> None:
        with self._process.stdout as lines:
            for line in lines:
                # Libraries print what they like.
                with suppress(ValueError):
                    message = json.loads(line)
                    if isinstance(message, dict):
                        self._messages.put(message)

    def _take_messages(self) -> list[dict[str, Any]]:
        taken = []
        with suppress(queue.Empty):
            while True:
                taken.append(self._messages.get_nowait())
        return taken

    def _close_input(self) -> None:
        with suppress(OSError):
            self._process.stdin.close()

    def _group_is_alive(self) -> bool:
        # Nothing outlives a SIGKILL, but a dead process whose parent does not collect it still counts as a member.
        return not self._killed and os.name == "posix" and self._signal_group(0)

    def _signal_group(self, number: int) -> bool:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS: a group of dead processes
            return False
        return True

    def _kill(self) -> None:
        if self._killed:
            return
        self._killed = True
        if os.name == "posix":
            self._signal_group(signal.SIGKILL)
        else:
            _kill_tree_on_windows(self.pid)


def _own_group() -> dict[str, Any]:
    if os.name == "posix":
        return {"start_new_session": True}
    return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}


def _kill_tree_on_windows(pid: int) -> None:
    # In a thread, since ending a tree takes Windows up to a second.
    command = ["taskkill", "/F", "/T", "/PID", str(pid)]
    settings = {"creationflags": subprocess.CREATE_NO_WINDOW, "capture_output": True, "check": False}
    threading.Thread(target=subprocess.run, args=(command,), kwargs=settings, daemon=True).start()
