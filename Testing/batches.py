"""Batches as their tests start, watch and read them."""

from __future__ import annotations

import csv
import os
import time
from pathlib import Path

from XViewSynthLib.cli.main import main

LIMIT_SECONDS = 2.0


# Every process of a batch reads this first. A scan's name says what befalls its process: it crashes, or it comes to
# wait for a library for a minute.
SITE = """
import json, os, sys, time
from pathlib import Path
if "XViewSynthLib.cli.worker" in sys.orig_argv:
    file = Path(next(word for word in sys.orig_argv if word.endswith("task.json")))
    name = json.loads(file.read_text())["name"]
    if name.startswith("crash"):
        os.kill(os.getpid(), 9)
    if name.startswith("slow"):
        class Slow:
            def find_spec(self, module, path=None, target=None):
                if module == "numpy":
                    (file.parent / "waiting").touch()
                    time.sleep(60)
        sys.meta_path.insert(0, Slow())
"""


def enhance_all(source: Path, target: Path, model: Path, *options: str) -> int:
    words = ["batch", str(source), str(target), "--factor", "2", "--model", str(model), "--device", "cpu"]
    return main([*words, "--progress", "none", *options])


def table(target: Path) -> dict[str, dict[str, str]]:
    with open(target / "summary.csv", newline="", encoding="utf-8") as file:
        return {row["scan"]: row for row in csv.DictReader(file)}


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


def waiting(folder: Path) -> list[Path]:
    """The files by which tasks tell that they wait; folders of other tasks may go meanwhile, which `rglob` minds."""
    return [Path(place) / "waiting" for place, _, files in os.walk(folder) if "waiting" in files]


def wait_until(happened, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)
