"""Kill a batch at random moments, resume it every time, and compare its outputs with those of one that was left alone.

    python Testing/benchmarks/kill_batch.py [FOLDER] [--kills 10] [--jobs 2] [--seed 0] [--factor 2] [--model standard]

Enhances the scans below FOLDER; without it, pieces of the bundled scan and files that are no scans. Prints, as
JSON, when the batch was killed, how many scans were done by then, whether the outputs are the same byte for byte,
whether any scan was enhanced twice, and what was left behind. Exits with 1 where one of these is not as it should be.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "XViewSynth"
SCAN = ROOT / "Resources" / "SampleData" / "ChestCT.nrrd"
PIECES, SLICES, PIXELS = 12, 5, 32
# Of an undisturbed batch: long enough to get some scans done, too short for ten attempts to do them all.
LATEST_KILL = 0.25
DONE, SOME_FAILED = 0, 4
ORPHAN_SECONDS = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--factor", type=int, default=2)
    parser.add_argument("--model", default="standard")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scans = arguments.folder or make_scans(folder / "scans")
        command = [str(scans), "--factor", str(arguments.factor), "--model", arguments.model]
        command += ["--jobs", str(arguments.jobs), "--device", "cpu", "--progress", "none"]
        began = time.monotonic()
        if start(folder / "whole", command).wait() not in (DONE, SOME_FAILED):
            raise SystemExit("error: The undisturbed batch did not come to its end.")
        seconds = time.monotonic() - began
        result = kill_and_resume(folder / "killed", command, arguments.kills, seconds, random.Random(arguments.seed))
        result |= compare(folder / "whole", folder / "killed")
    print(json.dumps({"undisturbed_seconds": round(seconds, 1), **result}, indent=2))
    sound = result["identical"] and not (result["done_twice"] or result["orphans"] or result["left_behind"])
    return 0 if sound else 1


def make_scans(folder: Path) -> Path:
    """Pieces of the bundled scan, and files that are none."""
    sys.path.insert(0, str(LIBRARY))
    from XViewSynthLib import Volume, read_volume, write_volume

    (folder / "below").mkdir(parents=True)
    scan = read_volume(SCAN)
    for number in range(PIECES):
        first = number * SLICES
        voxels = scan.voxels[first : first + SLICES, 100 : 100 + PIXELS, 100 : 100 + PIXELS]
        write_volume(Volume(voxels, scan.affine), folder / "below" / f"{number}.nii.gz")
    (folder / "broken.nrrd").write_bytes(b"NRRD0004\nnothing")
    write_volume(Volume(scan.voxels[:2], scan.affine), folder / "short.nrrd")
    return folder


def kill_and_resume(output: Path, command: list[str], count: int, seconds: float, draw: random.Random) -> dict:
    """Kill a batch `count` times and let the last attempt come to its end; what was seen meanwhile."""
    kills, written, twice, orphans = [], {}, [], 0
    while True:
        process = start(output, [*command, "--resume"])
        if len(kills) == count:
            process.wait()
        else:
            moment = draw.uniform(0, LATEST_KILL * seconds)
            killed = False
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                workers = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                process.wait()
                killed = True
                _, alive = psutil.wait_procs(workers, ORPHAN_SECONDS)
                orphans += len(alive)
        now = {path.name: path.stat().st_mtime_ns for path in output.rglob("*.enhanced.nrrd")}
        done = {path.name for path in output.rglob("*.enhanced.json")} & {f"{name[:-5]}.json" for name in now}
        twice += [name for name, when in written.items() if now.get(name) != when]
        # One whose record was there, and not its volume, was not done.
        written = {name: when for name, when in now.items() if f"{name[:-5]}.json" in done}
        if len(kills) == count:
            return {"kills": kills, "done_twice": twice, "orphans": orphans}
        # An attempt that had come to its end by then was not killed; the next one may be.
        if killed:
            kills.append({"after_seconds": round(moment, 2), "scans_done": len(written)})


def compare(whole: Path, killed: Path) -> dict:
    """Whether volumes and thumbnails are the same, and the summaries but for the seconds; what is left behind."""
    first, second = (contents(folder) for folder in (whole, killed))
    return {
        "outputs": len(first),
        "identical": first == second,
        "left_behind": [str(path.relative_to(killed)) for path in killed.rglob(".*")],
    }


def contents(folder: Path) -> dict[str, object]:
    """Bytes of volumes and thumbnails, and what the summary says of each scan, whenever it was done."""
    found: dict[str, object] = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".nrrd", ".png")
    }
    with open(folder / "summary.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            row["status"] = row["status"].removesuffix(" before")
            found[f"scan {row['scan']}"] = {key: value for key, value in row.items() if key != "seconds"}
    return found


def start(output: Path, command: list[str]) -> subprocess.Popen:
    """Start or resume a batch."""
    return subprocess.Popen(
        [sys.executable, "-m", "XViewSynthLib", "batch", command[0], str(output), *command[1:]],
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    sys.exit(main())
