"""SHA-256 of enhanced voxels, to see whether a change of the code has changed any of them.

    python Testing/benchmarks/voxel_checksums.py [--checkout FOLDER] [--pixels 96] > before.txt

Enhances the middle of the two sample scans by every factor of the list, as gap and as thick, at standard and at best
quality, with the program of a checkout (this one by default), on one thread in fp32, and prints a line for each. Run it
for two checkouts on one machine, and compare the lines.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[2]
SCANS = ("ChestCT", "ChestCTThick")
FACTORS, ACQUISITIONS, QUALITIES = (2, 4, 5, 8), ("gap", "thick"), ("standard", "best")
MOST_SLICES = 24


def main() -> int:
    """Print a line for each combination."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", type=Path, default=ROOT, metavar="FOLDER")
    parser.add_argument("--pixels", type=int, default=96, help="side of the square in each slice")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in SCANS:
            write_middle(ROOT / "Resources" / "SampleData" / f"{name}.nrrd", folder / f"{name}.nrrd", arguments.pixels)
        for name, factor, acquisition, quality in product(SCANS, FACTORS, ACQUISITIONS, QUALITIES):
            options = ["--factor", str(factor), "--acquisition", acquisition, "--quality", quality, "--overwrite"]
            checksum = enhanced(arguments.checkout, folder, name, options)
            print(f"{name} x{factor} {acquisition} {quality} {checksum}", flush=True)
    return 0


def write_middle(scan: Path, target: Path, pixels: int) -> None:
    """Write the middle of a scan."""
    image = sitk.ReadImage(str(scan))
    size = [min(pixels, image.GetWidth()), min(pixels, image.GetHeight()), min(MOST_SLICES, image.GetDepth())]
    start = [(whole - part) // 2 for whole, part in zip(image.GetSize(), size)]
    sitk.WriteImage(sitk.RegionOfInterest(image, size, start), str(target))


def enhanced(checkout: Path, folder: Path, name: str, options: list[str]) -> str:
    """SHA-256 of the voxels that a checkout makes of a scan, or how it ended."""
    output = folder / "out.nrrd"
    command = [sys.executable, "-m", "XViewSynthLib", "enhance", str(folder / f"{name}.nrrd"), str(output)]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "XViewSynth"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *options, "--device", "cpu", "--precision", "fp32", "--progress", "none"],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return f"ended with {done.returncode}: {done.stderr.strip()}"
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(output)))
    return hashlib.sha256(voxels.tobytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
