"""How many scans a minute a batch enhances, by one worker and by two, on this machine and on a Dask cluster of it.

    python Testing/benchmarks/batch_throughput.py [SCAN] [--scans 8] [--pixels 64] [--slices 9] [--threads 1]
                                                  [--factor 2] [--model standard] [--rates-only]

Enhances pieces of SCAN (without it, of the bundled scan), each process with as many CPU threads as asked for, and
prints JSON: scans a minute and their ratio; and what one core does besides the model: reading, checking and writing,
in megabytes of voxels for each second of CPU time. The cluster is up before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "Testing")]

from dask_cluster import local_cluster  # noqa: E402
from XViewSynthLib import Volume, read_volume, write_volume  # noqa: E402
from XViewSynthLib.io.fingerprints import fingerprint_of_file  # noqa: E402

SCAN = ROOT / "Resources" / "SampleData" / "ChestCT.nrrd"
WORKERS = (1, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", nargs="?", type=Path, default=SCAN)
    parser.add_argument("--scans", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--slices", type=int, default=9)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--factor", default="2")
    parser.add_argument("--model", default="standard")
    parser.add_argument("--rates-only", action="store_true", help="measure no batch")
    arguments = parser.parse_args()
    result = {"cpu_cores": os.cpu_count(), **rates(arguments.scan)}
    if not arguments.rates_only:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            cut(arguments.scan, folder / "scans", arguments.scans, arguments.slices, arguments.pixels)
            options = ["--factor", arguments.factor, "--model", arguments.model, "--device", "cpu"]
            threads = {"OMP_NUM_THREADS": arguments.threads, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": arguments.threads}
            result |= throughput(folder, options, arguments.scans, threads)
    print(json.dumps(result, indent=2))
    return 0


def cut(scan: Path, folder: Path, count: int, slices: int, pixels: int) -> None:
    """Pieces of a scan, side by side along its slices and starting anew where these end."""
    folder.mkdir()
    whole = read_volume(scan)
    k, j, i = whole.voxels.shape
    for number in range(count):
        first = number * slices % max(1, k - slices + 1)
        box = slice(first, first + slices), middle(j, pixels), middle(i, pixels)
        write_volume(Volume(whole.voxels[box], whole.affine), folder / f"{number:03d}.nrrd")


def middle(length: int, wanted: int) -> slice:
    first = max(0, (length - wanted) // 2)
    return slice(first, first + wanted)


def throughput(folder: Path, options: list[str], scans: int, threads: dict[str, str]) -> dict[str, float]:
    """Scans a minute by one worker and by two, on this machine and on a cluster, and the ratios."""
    found = {}
    for workers in WORKERS:
        seconds = timed_batch(folder, f"jobs{workers}", [*options, "--jobs", str(workers)], threads)
        found[f"jobs_{workers}_scans_per_minute"] = 60 * scans / seconds
    for workers in WORKERS:
        with local_cluster(workers, threads) as cluster:
            seconds = timed_batch(folder, f"dask{workers}", [*options, "--dask", cluster.address], threads)
        found[f"dask_{workers}_scans_per_minute"] = 60 * scans / seconds
    for kind in ("jobs", "dask"):
        one, two = (found[f"{kind}_{workers}_scans_per_minute"] for workers in WORKERS)
        found[f"{kind}_ratio"] = two / one
    return {name: round(value, 2) for name, value in found.items()}


def timed_batch(folder: Path, name: str, options: list[str], threads: dict[str, str]) -> float:
    command = [sys.executable, "-m", "XViewSynthLib", "batch", str(folder / "scans"), str(folder / name), *options]
    environment = {**os.environ, **threads, "PYTHONPATH": str(ROOT / "XViewSynth")}
    began = time.monotonic()
    subprocess.run([*command, "--progress", "none"], env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began


def rates(scan: Path) -> dict[str, float]:
    """What surrounds the model, in MB of voxels for each CPU second of one core."""
    volume = read_volume(scan)
    megabytes = volume.voxels.nbytes / 1e6
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "scan.nrrd"
        seconds = {
            "write_nrrd": cpu_seconds(lambda: write_volume(volume, file)),
            "read_nrrd": cpu_seconds(lambda: read_volume(file)),
            "checksum": cpu_seconds(lambda: fingerprint_of_file(file)),
        }
        stored = file.stat().st_size / 1e6
    found = {f"{name}_mb_per_cpu_second": megabytes / taken for name, taken in seconds.items()}
    found |= {"voxels_mb": megabytes, "file_mb": stored}
    return {name: round(value, 1) for name, value in found.items()}


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
