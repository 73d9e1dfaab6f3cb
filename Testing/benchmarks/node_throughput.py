"""Images a second that a node receives, beside Orthanc on the same machine.

    python Testing/benchmarks/node_throughput.py [--images 300] [--pixels 512] [--runs 3]

dcmtk's storescu sends one series to each of them in turn, as one association. A node acknowledges an image when it is
on disk and in the queue. Prints a table in Markdown: the best run of each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "Testing")]

from archive import Archive  # noqa: E402
from nodes import NodeProcess  # noqa: E402
from scans import affine_from, write_dicom_series  # noqa: E402
from XViewSynthLib import Volume  # noqa: E402


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {"node": [], "Orthanc": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "orthanc").mkdir()
        with (
            Archive(folder / "orthanc") as archive,
            NodeProcess(folder / "node", "NOBODY@127.0.0.1:1", "--quiet-seconds", "100000") as node,
        ):
            receivers = (("node", "XVIEWSYNTH", node.port), ("Orthanc", "ANY", archive.dicom_port))
            for run in range(arguments.runs):
                files = write_images(folder / str(run), run, arguments)
                for name, title, port in receivers:
                    rates[name].append(len(files) / seconds_of(files, title, port))
    print(f"{arguments.images} images of {arguments.pixels} x {arguments.pixels}, {arguments.runs} runs\n")
    print("| receiver | images a second |\n|---|---:|")
    for name, measured in rates.items():
        print(f"| {name} | {max(measured):.0f} |")


def write_images(folder: Path, run: int, arguments: argparse.Namespace) -> list[Path]:
    """A series of noise."""
    shape = (arguments.images, arguments.pixels, arguments.pixels)
    voxels = np.random.default_rng(run).integers(-1000, 1000, shape, dtype=np.int16)
    uid = "1.2.826.0.1.3680043.8.498.80"
    tags = {"series": f"{uid}.{run + 1}", "StudyInstanceUID": uid, "PatientID": "1"}
    return write_dicom_series(folder, Volume(voxels, affine_from()), **tags)


def seconds_of(files: list[Path], title: str, port: int) -> float:
    """Seconds for sending files."""
    began = time.perf_counter()
    command = ["storescu", "-aec", title, "+sd", "127.0.0.1", str(port), str(files[0].parent)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
