"""A Dask cluster of one scheduler and a few workers, each a process on this machine that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[1] / "XViewSynth"
_STARTING_SECONDS = 600.0


@dataclass(frozen=True)
class Cluster:
    """Processes of a cluster.

    Attributes:
        address: of the scheduler.
        scheduler: its process.
        workers: theirs; each takes one scan at a time.
    """

    address: str
    scheduler: subprocess.Popen
    workers: list[subprocess.Popen]


@contextmanager
def local_cluster(workers: int, environment: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Start a cluster on loopback, and end all of it.

    Args:
        workers: how many.
        environment: variables that all of it gets besides those of this process; PYTHONPATH leads to the engine unless
            named here.
    """
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        told = Path(place) / "scheduler.json"
        common = ["--host", "127.0.0.1", "--no-dashboard"]
        variables = {**os.environ, "PYTHONPATH": str(LIBRARY), **(environment or {})}
        scheduler = stack.enter_context(
            _process(["scheduler", *common, "--port", "0", "--scheduler-file", str(told)], place, variables)
        )
        address = _address(told, scheduler)
        single = [*common, "--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--local-directory", place]
        started = [
            stack.enter_context(_process(["worker", address, *single], place, variables)) for _ in range(workers)
        ]
        yield Cluster(address, scheduler, started)


@contextmanager
def _process(words: list[str], place: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "dask", *words]
    with open(Path(place) / "log.txt", "ab") as log:
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _address(told: Path, scheduler: subprocess.Popen) -> str:
    until = time.monotonic() + _STARTING_SECONDS
    while time.monotonic() < until and scheduler.poll() is None:
        try:
            return json.loads(told.read_text(encoding="utf-8"))["address"]
        except (OSError, ValueError):  # not there yet, or half written
            time.sleep(0.1)
    raise RuntimeError("The Dask scheduler did not start.")
