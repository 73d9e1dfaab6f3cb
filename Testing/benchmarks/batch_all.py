"""Enhance every scan below a folder in one batch, among twelve inputs that are broken, each in its own way.

    python Testing/benchmarks/batch_all.py FOLDER [--crop 64] [--slices 12] [--jobs 1] [--factor 2] [--model standard]

Prints what became of each, and exits with 1 unless every scan of FOLDER was enhanced and each broken one is named with
its reason. With --crop, only the middle of each scan is enhanced, --crop pixels wide and --slices slices tall.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "Testing")]

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402

from scans import affine_from, anatomy, shearing, write_dicom_series  # noqa: E402
from XViewSynthLib import Volume, read_volume, write_volume  # noqa: E402
from XViewSynthLib.io.finding import scan_paths  # noqa: E402

SHAPE = (8, 20, 18)
# Of each broken input, what the reason must say.
REASONS = {
    "colour.nrrd": "colour",
    "constant.mha": "everywhere",
    "labels.nrrd": "segmentation",
    "missing-slice": "1 slice is missing",
    "nan.nrrd": "NaN",
    "one-slice.nrrd": "2-D",
    "series-of-four.nrrd": "4-D",
    "text.nii.gz": "damaged",
    "tilted-gantry": "tilt",
    "truncated.nrrd": "damaged",
    "two-series": "holds 2 CT series",
    "zero-bytes.mha": "damaged",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crop", type=int, metavar="PIXELS")
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--factor", default="2")
    parser.add_argument("--model", default="standard")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        scans, output = Path(place) / "scans", Path(place) / "out"
        write_broken(scans / "broken")
        good = add_good(arguments.folder, scans / "good", arguments.crop, arguments.slices)
        began = time.monotonic()
        # The scans are linked to, unless they are cut.
        options = ["--factor", arguments.factor, "--model", arguments.model, "--jobs", arguments.jobs, "--follow-links"]
        command = [sys.executable, "-m", "XViewSynthLib", "batch", str(scans), str(output), *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "XViewSynth")}
        code = subprocess.run([*command, "--progress", "none"], env=environment, stdout=subprocess.DEVNULL).returncode
        seconds = time.monotonic() - began
        with open(output / "summary.csv", newline="", encoding="utf-8") as file:
            rows = {row["scan"]: row for row in csv.DictReader(file)}
    wrong = faults(rows, good)
    for name, row in rows.items():
        print(f"{'WRONG' if name in wrong else 'ok':6}{name:48}{row['status']:10}{row['message']}")
    for name in sorted(wrong - set(rows)):
        print(f"WRONG {name:48}not in the summary")
    print(f"{good} scans, {len(REASONS)} broken inputs, exit code {code}, {seconds:.0f} s.")
    return 1 if wrong or code else 0


def write_broken(folder: Path) -> None:
    """Inputs that look like scans and are none that can be enhanced, one for each of `REASONS`."""
    folder.mkdir(parents=True)
    scan = Volume(anatomy(SHAPE), affine_from())
    write_volume(scan, folder / "truncated.nrrd")
    whole = (folder / "truncated.nrrd").read_bytes()
    (folder / "truncated.nrrd").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nii.gz").write_text("These are my notes on the scan.\n")
    (folder / "zero-bytes.mha").touch()
    write_volume(Volume((scan.voxels > 0).astype(np.uint8), scan.affine), folder / "labels.nrrd")
    write_volume(Volume(np.full(SHAPE, -1000, np.int16), scan.affine), folder / "constant.mha")
    holed = scan.voxels.astype(np.float32)
    holed[2, 3, 4] = np.nan
    write_volume(Volume(holed, scan.affine), folder / "nan.nrrd")
    sitk.WriteImage(sitk.GetImageFromArray(scan.voxels[0]), str(folder / "one-slice.nrrd"))
    colours = sitk.GetImageFromArray(np.zeros((*SHAPE, 3), np.uint8), isVector=True)
    sitk.WriteImage(colours, str(folder / "colour.nrrd"))
    moving = sitk.JoinSeries([sitk.GetImageFromArray(scan.voxels)] * 2)
    sitk.WriteImage(moving, str(folder / "series-of-four.nrrd"))
    write_dicom_series(folder / "tilted-gantry", Volume(scan.voxels, affine_from(directions=shearing(15))))
    write_dicom_series(folder / "missing-slice", scan, keep=[0, 1, 2, 4, 5, 6, 7])
    write_dicom_series(folder / "two-series", scan)
    others = [f"other{number}.dcm" for number in range(SHAPE[0])]
    write_dicom_series(folder / "two-series", scan, names=others, series="1.2.826.0.1.3680043.8.498.2")


def add_good(folder: Path, place: Path, pixels: int | None, slices: int) -> int:
    """Put the scans of a folder, or the middle of each, where the batch will find them; how many there are."""
    found = [path for path, _ in scan_paths(folder, follow_links=True)]
    if not found:
        raise SystemExit(f"error: {folder} holds no scan.")
    if pixels is None:
        place.symlink_to(folder.resolve(), target_is_directory=True)
        return len(found)
    place.mkdir()
    for number, path in enumerate(found):
        write_volume(middle(read_volume(path), pixels, slices), place / f"{number} {path.name.split('.')[0]}.nrrd")
    return len(found)


def middle(scan: Volume, pixels: int, slices: int) -> Volume:
    """The middle of a scan; (slices, pixels, pixels) voxels where it has as many."""
    wanted = dict.fromkeys("KJI", pixels) | {scan.resolve_axis("auto"): slices}
    first = {axis: max(0, (scan.slices(axis) - wanted[axis]) // 2) for axis in "KJI"}
    voxels = scan.voxels[tuple(slice(first[axis], first[axis] + wanted[axis]) for axis in "KJI")]
    affine = scan.affine.copy()
    affine[:3, 3] = (scan.affine @ [first["I"], first["J"], first["K"], 1])[:3]
    return Volume(voxels, affine, scan.slice_thickness)


def faults(rows: dict[str, dict[str, str]], good: int) -> set[str]:
    """Names of those of which something else became than should have."""
    broken = {f"broken/{name}": reason for name, reason in REASONS.items()}
    wrong = {
        name
        for name, reason in broken.items()
        if name not in rows or rows[name]["status"] != "refused" or reason not in rows[name]["message"]
    }
    others = {name: row for name, row in rows.items() if name not in broken}
    wrong |= {name for name, row in others.items() if row["status"] != "enhanced"}
    return wrong if len(others) == good else wrong | {f"{good - len(others)} of the good scans"}


if __name__ == "__main__":
    sys.exit(main())
