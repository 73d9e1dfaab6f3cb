"""A small `xviewsynth enhance` with three outputs, for benchmarks that stop or kill it.

Most of a process's time goes into importing libraries. `Warm` begins processes that have imported them already: copies
of one that waits. They run the program from its first line to the end of Python, in a tenth of the time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "Testing")]

SCAN = "scan.nrrd"
OUTPUTS = ["out.nrrd", "report.json", "uncertainty.nii.gz"]
OPTIONS = f"enhance {SCAN} out.nrrd --factor 4 --model ../model --uncertainty uncertainty.nii.gz --report report.json"
TIMEOUT_SECONDS = 1800
LOOK_SECONDS = 0.0005
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "XViewSynth"), "OMP_NUM_THREADS": "1"}

# A copy leaves the loop, and goes on like a program of its own.
_WAITING = """
import os, sys
import importlib, pkgutil
import XViewSynthLib
for module in pkgutil.walk_packages(XViewSynthLib.__path__, "XViewSynthLib."):
    if not module.name.endswith((".__main__", ".cluster")):
        importlib.import_module(module.name)
print("ready", flush=True)
for line in sys.stdin:
    copy = os.fork()
    if not copy:
        break
    print(copy, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]), flush=True)
else:
    os._exit(0)
for descriptor, name in ((0, os.devnull), (1, "../out.txt"), (2, "../errors.txt")):
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(file, descriptor)
    os.close(file)
sys.argv = ["xviewsynth", *line.split()]
from XViewSynthLib.__main__ import main
sys.exit(main())
"""


def prepare(folder: Path) -> Path:
    """Write a scan and a model, and give the folder to enhance in."""
    from scans import affine_from, anatomy
    from tiny import make_card, make_network
    from XViewSynthLib import Volume, write_volume
    from XViewSynthLib.model.catalogue import save_model

    save_model(folder / "model", make_network(), make_card())
    work = folder / "work"
    work.mkdir()
    write_volume(Volume(anatomy((12, 64, 64)), affine_from()), work / SCAN)
    return work


def remaining(work: Path) -> list[str]:
    """What lies beside the scan, hidden files too."""
    return sorted(set(os.listdir(work)) - {SCAN})


class Attempt:
    """A process that enhances the scan, with progress as JSON on standard output.

    Attributes:
        pid: its number.
    """

    def __init__(self, work: Path, *options: str):
        self._work = work
        command = [sys.executable, "-m", "XViewSynthLib", *OPTIONS.split(), "--progress", "json", *options]
        with open(work.parent / "out.txt", "w") as out, open(work.parent / "errors.txt", "w") as errors:
            self._process = subprocess.Popen(
                command, cwd=work, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=out, stderr=errors
            )
        self.pid = self._process.pid

    def ended(self) -> bool:
        """Whether it has come to an end."""
        return self._process.poll() is not None

    def wait(self) -> int:
        """Its exit code, below 0 for the signal that ended it."""
        return self._process.wait(TIMEOUT_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has come to an end."""
        if not self.ended():
            os.kill(self.pid, number)

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a text, or has come to an end."""
        while text not in self.said() and not self.ended():
            time.sleep(LOOK_SECONDS)

    def said(self) -> str:
        """What it has printed on standard output."""
        return (self._work.parent / "out.txt").read_text()

    def complained(self) -> str:
        """What it has printed on standard error."""
        return (self._work.parent / "errors.txt").read_text()


class Warm:
    """Begins attempts without their imports; use it as a context manager. For Linux and macOS."""

    def __init__(self, work: Path):
        self._work = work

    def __enter__(self) -> Warm:
        command = [sys.executable, "-c", _WAITING]
        self._waiting = subprocess.Popen(
            command, cwd=self._work, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._waiting.stdout.readline() != "ready\n":
            raise SystemExit("error: The libraries cannot be imported.")
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.stdin.close()
        self._waiting.wait()

    def begin(self, *options: str) -> Attempt:
        """Begin an attempt; the one before has come to an end."""
        return _WarmAttempt(self._work, self._waiting, options)


class _WarmAttempt(Attempt):
    def __init__(self, work: Path, waiting: subprocess.Popen, options: tuple[str, ...]):
        self._work, self._waiting, self._code = work, waiting, None
        for name in ("out.txt", "errors.txt"):
            (work.parent / name).write_text("")
        waiting.stdin.write(f"{OPTIONS} --progress json {' '.join(options)}\n")
        waiting.stdin.flush()
        self.pid = int(waiting.stdout.readline())

    def ended(self) -> bool:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    def wait(self) -> int:
        return int(self._waiting.stdout.readline())
