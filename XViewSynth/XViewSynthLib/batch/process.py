"""The process in which one scan of a batch is enhanced: started, watched, and read whatever it leaves behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..workers.worker import ENGINE_FOLDER, Worker, last_error
from .records import facts_of, read_json
from .task import COMMAND, ENHANCED, FAILED, REFUSED, RESULT

TASK = "task.json"

_WORKER = "XViewSynthLib.cli.worker"
_POLL_SECONDS = 0.05
# A process that was killed does nothing more; only its memory takes a while to be given back.
_DYING_SECONDS = 0.5
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
# One that hangs takes a 300th of a core and 3 kB/s, for listening to stop requests. One that works takes more again and
# again, even where a device computes and a slow drive delivers.
_IDLE_SECONDS = 1800.0
_IDLE_CORES = 0.03
_IDLE_BYTES_PER_SECOND = 64 * 1024
_LOOKING_SECONDS = 1.0
_LONGEST_MESSAGE = 1000
# Exit codes from here on stand on Windows for what are signals elsewhere.
_WINDOWS_CRASH = 0xC0000000
_OUT_OF_MEMORY = {"SIGKILL", "0xc0000017", "0xc000012d"}
_LIMITS = {"SIGXCPU", "SIGXFSZ"}
_CRASHES = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS"}


def run_worker(
    folder: Path, threads: int | None, stop_if_requested: Callable[[], None], lock: int | None
) -> dict[str, Any]:
    """What the process says became of the scan that is its task; where it says nothing, why not.

    Args:
        folder: holds the task, and gets what is made.
        threads: CPU threads that it may use unless the environment says so, or None for all.
        stop_if_requested: called many times a second; an exception of it ends the process.
        lock: a descriptor that the process holds open to its end.

    Returns:
        As `worker.enhance_one`.
    """
    arguments = [COMMAND, str(folder / TASK)]
    descriptors = () if lock is None else (lock,)
    try:
        worker = Worker(sys.executable, _WORKER, arguments, _environment(threads), descriptors=descriptors)
    except OSError as error:
        return _failed(f"Its process cannot be started ({error.strerror or error}): use fewer --jobs.")
    watch = _Watch(worker.pid)
    try:
        while not worker.finished:
            worker.poll(_POLL_SECONDS)
            # It writes only into our folder, so it has nothing to clean up.
            stop_if_requested()
            if watch.is_idle():
                return _failed(
                    f"Its process did nothing for {_IDLE_SECONDS / 60:.0f} minutes and was ended: check that the drive "
                    "and the device answer, then add --resume."
                )
    finally:
        worker.kill()
        worker.poll(_DYING_SECONDS)
    code = worker.exit_code
    assert code is not None
    if code == 0:
        with suppress(OSError, ValueError, TypeError, LookupError, AttributeError):
            return _checked(read_json(folder / RESULT))
    return _failed(_last_words(code, worker.log_tail()))


def _failed(message: str) -> dict[str, Any]:
    return {"status": FAILED, "message": message}


def _environment(threads: int | None) -> dict[str, str]:
    folders = [str(ENGINE_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folders),
        # The task names files as they are decoded here.
        "PYTHONUTF8": "1" if sys.getfilesystemencoding() == "utf-8" else "0",
        "PYTHONIOENCODING": "utf-8",
    }
    if threads is not None:
        environment = {**dict.fromkeys(_THREAD_VARIABLES, str(threads)), **environment}
    return environment


class _Watch:
    """Whether a process has neither computed nor read or written for long.

    Time in which this computer sleeps, or in which this process is stopped too, does not count.
    """

    def __init__(self, pid: int):
        self._pid = pid
        self._idle_seconds = 0.0
        self._looked = time.monotonic()
        self._seconds, self._bytes = _work_of(pid)

    def is_idle(self) -> bool:
        """Whether it has been so for `_IDLE_SECONDS`; to be called again and again."""
        passed = time.monotonic() - self._looked
        if passed < _LOOKING_SECONDS:
            return False
        seconds, moved = _work_of(self._pid)
        computed = seconds - self._seconds > _IDLE_CORES * passed
        read = moved - self._bytes > _IDLE_BYTES_PER_SECOND * passed
        self._looked, self._seconds, self._bytes = self._looked + passed, seconds, moved
        self._idle_seconds = 0.0 if computed or read else self._idle_seconds + min(passed, 2 * _LOOKING_SECONDS)
        return self._idle_seconds >= _IDLE_SECONDS


def _work_of(pid: int) -> tuple[float, int]:
    """CPU seconds that a process has taken, and bytes that it has read and written; 0 where that is not known."""
    import psutil

    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        # macOS does not count bytes; Linux counts those of caches and network drives apart.
        counters = process.io_counters()._asdict() if hasattr(process, "io_counters") else {}
    except (psutil.Error, OSError):
        return 0.0, 0
    return times.user + times.system, sum(number for name, number in counters.items() if not name.endswith("count"))


def _checked(result: Any) -> dict[str, Any]:
    """The result, if it is one.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is none.
    """
    if result["status"] == ENHANCED:
        facts_of(result["report"], result["selfcheck"], 0.0)
    elif result["status"] not in (REFUSED, FAILED) or not isinstance(result["message"], str):
        raise ValueError(result["status"])
    return result


def _last_words(code: int, errors: str) -> str:
    sentence = last_error(errors)
    if sentence:
        return sentence[:_LONGEST_MESSAGE]
    cause = _cause(code)
    if cause:
        return _death(cause)
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    why = f"said: {lines[-1][:_LONGEST_MESSAGE]}" if lines else "said nothing"
    return f"Its process ended with {code} and gave no result ({why}): try it by itself with xviewsynth enhance."


def _cause(code: int) -> str | None:
    """The signal, or what Windows has in its place, that ended a process; None where it ended by itself."""
    if code >= _WINDOWS_CRASH:
        return f"{code:#x}"
    # A program that wraps Python adds 128.
    number = -code if code < 0 else code - 128
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}" if code < 0 else None


def _death(cause: str) -> str:
    if cause in _OUT_OF_MEMORY:
        return f"Its process was ended by {cause}, perhaps for lack of memory: use fewer --jobs or less --memory."
    if cause in _CRASHES or cause.startswith("0x"):
        return (
            f"Its process was ended by {cause}, a crash in a library: check with another program whether the scan is "
            "damaged."
        )
    if cause in _LIMITS:
        return f"Its process was ended by {cause}, a limit of this computer: raise it, then add --resume."
    return f"Its process was ended by {cause}, from outside: add --resume to do it again."
