"""Kill a batch at random moments, change outputs between, resume it every time, and compare with one left alone.

    python Testing/benchmarks/kill_batch.py [FOLDER] [--scans 180] [--kills 10] [--jobs 2] [--seed 0] [--factor 2]
                                            [--model NAME]

Enhances the scans below FOLDER; without it, small scans in every format among 20 bad ones, each bad in its own way:
damaged files, scans that do not qualify, odd names, processes that crash or write nonsense. Without --model, a small
model with random weights. After each kill, one byte of one output that is done is changed.

Prints, as JSON, when the batch was killed and how many scans were done by then; whether in the end all files are the
same, byte for byte but for times and memory in records and summaries; whether a scan was done twice without need, or a
changed output was not done again; and what was left behind. Exits with 1 where one of these is not as it should be.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "XViewSynth"
sys.path[:0] = [str(LIBRARY), str(ROOT / "Testing"), str(Path(__file__).parent)]

from batch_all import write_broken  # noqa: E402

from scans import affine_from, anatomy, write_dicom_series  # noqa: E402
from XViewSynthLib import Volume, write_volume  # noqa: E402

SHAPE = (5, 16, 16)
# Of an undisturbed batch: long enough to get some scans done, too short for ten attempts to do them all.
LATEST_KILL = 0.15
DONE, SOME_FAILED = 0, 4
ORPHAN_SECONDS = 10.0
# What differs between two runs that do the same.
MEASURED = {"seconds", "peak_memory_bytes", "expected_seconds", "expected_peak_bytes"}
# Read first by each process that enhances a scan; the name of the scan decides what goes wrong.
SITE = """
import json, os, signal, sys
from pathlib import Path
if "XViewSynthLib.cli.worker" in sys.orig_argv:
    task = Path(next(word for word in sys.orig_argv if word.endswith("task.json")))
    name = json.loads(task.read_text())["name"].split("/")[-1]
    if name.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("crashed"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if name.startswith("nonsense"):
        os.write(2, bytes(range(256)) * 4096)
        (task.parent / "result.json").write_text('{"status": "enhanced", "report": NaN}')
        os._exit(0)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--scans", type=int, default=180)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--factor", type=int, default=2)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(SITE)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(LIBRARY), str(folder / "site")])
        scans = arguments.folder or make_scans(folder / "scans", arguments.scans)
        command = [str(scans), "--factor", str(arguments.factor), "--model", arguments.model or make_model(folder)]
        command += ["--jobs", str(arguments.jobs), "--device", "cpu", "--progress", "none"]
        began = time.monotonic()
        if start(folder / "whole", command).wait() not in (DONE, SOME_FAILED):
            raise SystemExit("error: The undisturbed batch did not come to its end.")
        seconds = time.monotonic() - began
        result = kill_and_resume(folder / "killed", command, arguments.kills, seconds, random.Random(arguments.seed))
        result |= compare(folder / "whole", folder / "killed")
    print(json.dumps({"undisturbed_seconds": round(seconds, 1), **result}, indent=2))
    amiss = ("differ", "done_twice", "not_done_again", "orphans", "left_behind")
    return 1 if any(result[name] for name in amiss) else 0


def make_model(folder: Path) -> str:
    """A small model with random weights."""
    from tiny import make_card, make_network
    from XViewSynthLib.model.catalogue import save_model

    return str(save_model(folder / "small", make_network(), make_card()).folder)


def make_scans(folder: Path, count: int) -> Path:
    """Small scans in every format, and 20 that are bad."""
    formats = (".nrrd", ".nii.gz", ".nii", ".mha", ".mhd", "")
    for number in range(count):
        scan = Volume(anatomy(SHAPE, number), affine_from())
        suffix = formats[number % len(formats)]
        place = folder / f"patient {number // 10}" / f"scan {number}{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        write_volume(scan, place) if suffix else write_dicom_series(place, scan)
    bad = folder / "bad"
    write_broken(bad)
    for name in ("killed", "crashed", "nonsense"):
        write_volume(Volume(anatomy(SHAPE), affine_from()), bad / f"{name}.nrrd")
    (bad / "no-data.nhdr").write_text("NRRD0004\ntype: short\ndimension: 3\nsizes: 9 9 9\ndata file: /etc/hostname\n")
    (bad / "elsewhere.mhd").write_text("NDims = 3\nDimSize = 9 9 9\nElementDataFile = ../scan.raw\n")
    for name in ("\x1b[2J\n.nrrd", "=1+1.mha", os.fsdecode(b"Kn\xf6chel.nii")):
        (bad / name).write_bytes(b"no scan")
    return folder


def kill_and_resume(output: Path, command: list[str], count: int, seconds: float, draw: random.Random) -> dict:
    """Kill a batch `count` times and let the last attempt come to its end; what was seen meanwhile."""
    kills, changed, twice, not_again, orphans = [], {}, [], [], 0
    written: dict[Path, int] = {}
    while True:
        process = start(output, [*command, "--resume"])
        moment = draw.uniform(0, LATEST_KILL * seconds)
        try:
            process.wait(moment if len(kills) < count else None)
            killed = False
        except subprocess.TimeoutExpired:
            orphans += kill(process)
            killed = True
        # What lies in a hidden folder is not done yet.
        done = [path for path in output.rglob("*.enhanced.nrrd") if not re.search(r"[/\\]\.xviewsynth", str(path))]
        now = {path: path.stat().st_mtime_ns for path in done}
        twice += [str(path) for path, when in written.items() if now.get(path) != when and path not in changed]
        if len(kills) == count:
            not_again = [str(path) for path, content in changed.items() if path.read_bytes() == content]
            return {
                "kills": kills,
                "changed": len(changed),
                "done_twice": twice,
                "not_done_again": not_again,
                "orphans": orphans,
            }
        # One whose record is there, and not its volume, is not done.
        written = {path: when for path, when in now.items() if path.with_suffix(".json").exists()}
        # An attempt that had come to its end by then was not killed; the next one may be.
        if killed:
            kills.append({"after_seconds": round(moment, 2), "scans_done": len(written)})
            whole = sorted(path for path in written if path not in changed)
            if whole:
                path = draw.choice(whole)
                changed[path] = change_byte(path, draw)


def kill(process: subprocess.Popen) -> int:
    """Kill a batch, and give the number of its processes that outlive it."""
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    return len(psutil.wait_procs(workers, ORPHAN_SECONDS)[1])


def change_byte(path: Path, draw: random.Random) -> bytes:
    """Change one byte of a file, and give its content."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return bytes(content)


def compare(whole: Path, killed: Path) -> dict:
    """Which files differ, or are there once only; and what is left behind."""
    first, second = (contents(folder) for folder in (whole, killed))
    return {
        "files": len(first),
        "differ": sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name)),
        "left_behind": [str(path.relative_to(killed)) for path in killed.rglob(".*")],
    }


def contents(folder: Path) -> dict[str, object]:
    """Every file below a folder; of records and summaries what does not depend on when the work was done."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = content_of(path)
    return found


def content_of(path: Path) -> object:
    if path.suffix == ".json":
        return without_measured(json.loads(path.read_text(encoding="utf-8")))
    if path.name == "summary.csv":
        with open(path, newline="", encoding="utf-8") as file:
            return [without_measured(row | {"status": plain(row["status"])}) for row in csv.DictReader(file)]
    if path.name == "summary.html":
        # Above the table it tells how many were done by this batch, and in how long.
        table = plain(path.read_text(encoding="utf-8").partition("<table>")[2])
        return re.sub(r'(<td class="number">)\d+(</td><td>)', r"\1\2", table)
    return path.read_bytes()


def plain(text: str) -> str:
    """The same whichever attempt enhanced a scan."""
    return text.replace("enhanced before", "enhanced")


def without_measured(value: object) -> object:
    if isinstance(value, dict):
        return {name: without_measured(inner) for name, inner in value.items() if name not in MEASURED}
    return value


def start(output: Path, command: list[str]) -> subprocess.Popen:
    """Start or resume a batch."""
    return subprocess.Popen(
        [sys.executable, "-m", "XViewSynthLib", "batch", command[0], str(output), *command[1:]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    sys.exit(main())
