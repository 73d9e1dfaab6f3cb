"""A command of the program in a process of its own, watched without waiting for it.

A crash, a lack of memory or a hanging driver ends that process only. Cancelling means ending processes, which always
works. The process prints JSON objects on standard output, one per line, such as its progress and its result, and
``error: SENTENCE`` on standard error; its exit code states the outcome.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

#: Folder of the engine of this checkout, whatever else is installed.
ENGINE_FOLDER = Path(__file__).resolve().parents[2]
#: A process that was requested to stop gets this many seconds; then it is killed.
GRACE_SECONDS = 1.5

_LOG_BYTES, _LOG_LINES = 64 * 1024, 30
_LONGEST_LINE_BYTES = 2**20
_READING_SECONDS = 5.0
ERROR = "error: "


class Worker:
    """A running process, which ends with this one. `poll` it again and again until it is `finished`.

    One thread at a time may use it.

    Args:
        python: the interpreter.
        module: what it runs, as in ``python -m MODULE``; a command that takes ``--stop-with-parent``.
        arguments: further words of the command. Paths are absolute.
        environment: that of the process.
        log: file for standard error; without one, only its end is kept, in memory.
        grace_seconds: time to end by itself after `request_stop`.
        descriptors: open files that the process inherits (POSIX).

    Raises:
        OSError: the log cannot be written, or the interpreter cannot be started.
    """

    def __init__(
        self,
        python: str,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: Path | None = None,
        grace_seconds: float = GRACE_SECONDS,
        descriptors: Sequence[int] = (),
    ):
        self._log_path = log
        self._grace_seconds = grace_seconds
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._stop_by: float | None = None
        self._killed = False
        self._process = _start(
            [python, "-m", module, *arguments, "--stop-with-parent", str(os.getpid())], environment, log, descriptors
        )
        self._reader = threading.Thread(target=self._read_messages, daemon=True)
        self._reader.start()
        self._errors = None if self._process.stderr is None else _Tail(self._process.stderr)

    @property
    def pid(self) -> int:
        """Number of the process, and on POSIX of its group."""
        return self._process.pid

    @property
    def finished(self) -> bool:
        """Whether the process and all it has started have ended, as of the last `poll`."""
        return self.exit_code is not None and not self._reader.is_alive() and not self._group_is_alive()

    @property
    def exit_code(self) -> int | None:
        """As `subprocess.Popen.returncode`: None while running, -N if signal N ended it (POSIX)."""
        return self._process.returncode

    def poll(self, wait_seconds: float = 0.0) -> list[dict[str, Any]]:
        """The JSON objects printed since the last call; kills a process that does not stop in time.

        Args:
            wait_seconds: longest time to wait for the end of the process.
        """
        if wait_seconds:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(wait_seconds)
        exited = self._process.poll() is not None
        overdue = self._stop_by is not None and time.monotonic() > self._stop_by
        # Processes that a command leaves running are of no use to anybody.
        if overdue or (exited and self._stop_by is None):
            self._kill()
        if exited:
            self._close_input()
        return self._take_messages()

    def request_stop(self) -> None:
        """Request the command to clean up and end; `poll` kills it after its grace period."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + self._grace_seconds
            # Works on every system. The signal works even before the command watches its input.
            self._close_input()
            if sys.platform != "win32":
                self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process and all that it has started."""
        self._stop_by = time.monotonic()
        # First: the end of its input requests a command to end by itself.
        self._kill()
        self._close_input()

    def log_tail(self) -> str:
        """The last lines that the command wrote on standard error."""
        return "\n".join(self._log_end().decode("utf-8", errors="replace").splitlines()[-_LOG_LINES:])

    def _log_end(self) -> bytes:
        if self._errors is not None:
            return self._errors.content()
        assert self._log_path is not None
        try:
            with open(self._log_path, "rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
                return log.read()
        except OSError:  # removed already
            return b""

    def _read_messages(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines, suppress(OSError, ValueError):
            while line := lines.readline(_LONGEST_LINE_BYTES):
                # Libraries print anything.
                with suppress(ValueError, RecursionError):
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
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def _group_is_alive(self) -> bool:
        # Nothing survives a SIGKILL, but a dead process that its parent has not collected counts as a member.
        return not self._killed and sys.platform != "win32" and self._signal_group(0)

    def _signal_group(self, number: int) -> bool:
        if sys.platform == "win32":
            return False
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS: a group of dead processes
            return False
        return True

    def _kill(self) -> None:
        if self._killed:
            return
        self._killed = True
        if sys.platform == "win32":
            _kill_tree_on_windows(self.pid)
        else:
            self._signal_group(signal.SIGKILL)


def last_error(log: str) -> str | None:
    """The last sentence that a command printed as its error, or None."""
    sentences = [line.strip().removeprefix(ERROR) for line in log.splitlines() if line.strip().startswith(ERROR)]
    return sentences[-1] if sentences else None


class _Tail:
    """The end of what a process writes to a stream, however much that is."""

    def __init__(self, stream: IO[bytes]):
        self._kept = b""
        self._stream = stream
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def content(self) -> bytes:
        """The last bytes, once the process has ended."""
        # A process that was left running may keep the stream open.
        self._reader.join(_READING_SECONDS)
        return self._kept

    def _read(self) -> None:
        with self._stream, suppress(OSError, ValueError):
            while data := os.read(self._stream.fileno(), _LOG_BYTES):
                self._kept = (self._kept + data)[-_LOG_BYTES:]


def _start(
    command: Sequence[str], environment: Mapping[str, str], log: Path | None, descriptors: Sequence[int]
) -> subprocess.Popen[bytes]:
    errors = None if log is None else open(log, "wb")  # noqa: SIM115
    try:
        return subprocess.Popen(
            command,
            # Python looks here first for the engine.
            cwd=ENGINE_FOLDER,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors or subprocess.PIPE,
            **_own_group(descriptors),
        )
    finally:
        if errors is not None:
            errors.close()


def _own_group(descriptors: Sequence[int]) -> dict[str, Any]:
    """Keys pressed in the terminal reach this process only."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True, "pass_fds": tuple(descriptors)}


def _kill_tree_on_windows(pid: int) -> None:
    if sys.platform != "win32":
        return
    # In a thread, since Windows takes up to a second.
    command = ["taskkill", "/F", "/T", "/PID", str(pid)]
    settings: dict[str, Any] = {"creationflags": subprocess.CREATE_NO_WINDOW, "capture_output": True, "check": False}
    threading.Thread(target=subprocess.run, args=(command,), kwargs=settings, daemon=True).start()
