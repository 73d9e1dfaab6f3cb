"""A small `xviewsynth enhance` with three outputs, for benchmarks that stop or kill it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "Testing")]

SCAN = "scan.nrrd"
OUTPUTS = ["doubt.nii.gz", "out.nrrd", "report.json"]


def prepare(folder: Path) -> Path:
    """Write a scan and a model, and give the folder to enhance in."""
    from scans import affine_from, anatomy
    from tiny import make_card, make_network
    from XViewSynthLib import Volume, write_volume
    from XViewSynthLib.models import save_model

    save_model(folder / "model", make_network(), make_card())
    work = folder / "work"
    work.mkdir()
    write_volume(Volume(anatomy((12, 64, 64)), affine_from()), work / SCAN)
    return work


def start(work: Path, *options: str) -> subprocess.Popen:
    """Begin to enhance the scan, with progress as JSON on standard output."""
    given = f"{SCAN} out.nrrd --factor 4 --model ../model --disagreement doubt.nii.gz --report report.json"
    return subprocess.Popen(
        [sys.executable, "-m", "XViewSynthLib", "enhance", *given.split(), "--progress", "json", *options],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT / "XViewSynth")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def remaining(work: Path) -> list[str]:
    """What lies beside the scan, hidden files too."""
    return sorted(set(os.listdir(work)) - {SCAN})


def remove_outputs(work: Path) -> None:
    """Make room for the next attempt."""
    for name in OUTPUTS:
        (work / name).unlink(missing_ok=True)
