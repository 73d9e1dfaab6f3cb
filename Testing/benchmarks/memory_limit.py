"""Whether `xviewsynth enhance --memory` keeps within its limit: peak memory of the process for a table of settings.

    python Testing/benchmarks/memory_limit.py [--size 192 192 32] [--only gap] [--headroom 1.0 1.3]

The scan is made by formula. Each setting is first refused with tiny limits, and the sentences say what it needs at
least; then it runs with that times each headroom. The peak is what the operating system reports of the process once it
has ended. Linux and macOS only. The exit code is 1 where a peak is more than 5 % above its limit.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scans import anatomy, write_dicom_series
from XViewSynthLib import Volume, write_volume

TOLERANCE = 1.05
_ENHANCE = [sys.executable, "-m", "XViewSynthLib", "enhance"]
_MAPS = ["--disagreement", "{}/disagreement.nrrd", "--expected-error", "{}/expected.nrrd"]
_MAPS += ["--error-bound", "{}/bound.nrrd", "--uncertainty", "{}/uncertainty.nrrd"]
SETTINGS = {
    "gap x2": ["--factor", "2"],
    "gap x4": ["--factor", "4"],
    "gap x8": ["--factor", "8"],
    "gap x4 NIfTI": ["--factor", "4", "{}/out.nii.gz"],
    "gap x4 MHD": ["--factor", "4", "{}/out.mhd"],
    "gap x4 flipped": ["--factor", "4", "FLIPPED"],
    "gap x4 float": ["--factor", "4", "FLOAT"],
    "gap x4 with every map": ["--factor", "4", *_MAPS],
    "gap x4 texture": ["--factor", "4", "--texture", "match"],
    "gap 1.5 mm": ["--spacing", "1.5"],
    "gap 1.5 mm texture and every map": ["--spacing", "1.5", "--texture", "match", *_MAPS],
    "gap x2 best": ["--factor", "2", "--quality", "best"],
    "gap x4 DICOM": ["--factor", "4", "--acquisition", "gap", "--dicom", "DICOM"],
    "thick x4": ["--factor", "4", "--acquisition", "thick"],
    "thick x4 with every map": ["--factor", "4", "--acquisition", "thick", *_MAPS],
    "thick x4 unsigned": ["--factor", "4", "--acquisition", "thick", "UNSIGNED"],
    "thick 1.5 mm": ["--spacing", "1.5", "--acquisition", "thick"],
    "thick x2 best": ["--factor", "2", "--acquisition", "thick", "--quality", "best"],
}


def write_scans(folder: Path, size: tuple[int, int, int]) -> dict[str, Path]:
    """The scan in the forms that settings name in capitals, and as it is under ""."""
    voxels = anatomy(tuple(reversed(size)))
    affine = np.diag([0.8, 0.8, 5.0, 1.0])
    flipped = affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
    forms = {
        "": Volume(voxels, affine),
        "FLIPPED": Volume(voxels, flipped),
        "FLOAT": Volume(voxels.astype(np.float32) + np.float32(0.25), affine),
        "UNSIGNED": Volume((voxels + 1024).astype(np.uint16), affine),
    }
    paths = {}
    for name, volume in forms.items():
        paths[name] = folder / f"scan{name}.nrrd"
        write_volume(volume, paths[name])
    paths["DICOM"] = folder / "series"
    write_dicom_series(paths["DICOM"], Volume(voxels, affine), StudyInstanceUID="1.2.3", FrameOfReferenceUID="1.2.4")
    return paths


def command(settings: list[str], scans: dict[str, Path], folder: Path, memory_gb: float) -> list[str]:
    """The command line of a setting."""
    scan = next((scans[word] for word in settings if word in scans), scans[""])
    words = [word.format(folder) for word in settings if word not in scans]
    named = [word for word in words if re.search(r"/out\.\w+", word)]
    output = named[0] if named else str(folder / ("out" if "--dicom" in words else "out.nrrd"))
    words = [word for word in words if word not in named]
    return [*_ENHANCE, str(scan), output, *words, "--memory", str(memory_gb), "--progress", "none"]


def run(arguments: list[str]) -> tuple[int, int, str]:
    """Exit code, peak of resident memory in bytes, and what was printed as an error."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        errors.seek(0)
        unit = 1 if sys.platform == "darwin" else 1024
        return os.waitstatus_to_exitcode(status), usage.ru_maxrss * unit, errors.read()


def least_gb(settings: list[str], scans: dict[str, Path], folder: Path) -> float:
    """What the program says that a setting takes at least."""
    limit = 0.001
    for _ in range(2):  # the scan has to be read, and then enhanced
        code, _, said = run(command(settings, scans, folder, limit))
        found = re.search(r"at least ([\d.]+) GB", said)
        if code != 2 or not found:
            sys.exit(f"{settings} with {limit} GB ended with {code}: {said}")
        limit = float(found[1])
    return limit


def main() -> int:
    """Print a line for each setting and limit."""
    parser = argparse.ArgumentParser(description="Whether enhance keeps within --memory.")
    parser.add_argument("--size", type=int, nargs=3, default=(192, 192, 32), metavar=("I", "J", "K"))
    parser.add_argument("--headroom", type=float, nargs="+", default=(1.0, 1.3))
    parser.add_argument(
        "--model", nargs=2, default=(), metavar=("GAP", "THICK"), help="models in place of those that ship"
    )
    parser.add_argument("--only", default="", metavar="WORDS", help="settings whose name holds these words")
    arguments = parser.parse_args()
    over = 0
    with tempfile.TemporaryDirectory() as place:
        scans = write_scans(Path(place), arguments.size)
        print(f"{'setting':36} {'limit GB':>9} {'peak GB':>9} {'ratio':>6}", flush=True)
        for name, settings in SETTINGS.items():
            if arguments.only not in name:
                continue
            if arguments.model:
                settings = [*settings, "--model", arguments.model["thick" in settings]]
            least = least_gb(settings, scans, Path(place))
            for headroom in arguments.headroom:
                folder = Path(place) / "outputs"
                folder.mkdir()
                limit = round(headroom * least, 2)
                code, peak, said = run(command(settings, scans, folder, limit))
                shutil.rmtree(folder)
                if code:
                    sys.exit(f"{name} with {limit} GB ended with {code}: {said}")
                ratio = peak / (limit * 1e9)
                over += ratio > TOLERANCE
                print(f"{name:36} {limit:9.2f} {peak / 1e9:9.2f} {ratio:6.2f}", flush=True)
    return int(over > 0)


if __name__ == "__main__":
    sys.exit(main())
