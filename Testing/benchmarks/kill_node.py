"""Kill a node, its worker and the archive at random moments, and count what the archive has in the end.

    python Testing/benchmarks/kill_node.py [--kills 30] [--seed 0]

An Orthanc of its own is the archive. A sender sends 20 small series, of which 14 qualify, and sends again what was not
acknowledged. Each kill (SIGKILL) hits the node, the process that enhances, or Orthanc; what was killed starts again.
Prints, as JSON, what was killed and how many results each qualifying series has in the archive. Exits with 1 unless
that is one for each, whole, with the observed slices bit for bit, and none for any other series.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pydicom

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "Testing")]

from archive import Archive, free_port  # noqa: E402
from nodes import NodeProcess, send  # noqa: E402
from scans import affine_from, anatomy, write_dicom_series  # noqa: E402
from tiny import make_card, make_network  # noqa: E402
from XViewSynthLib import Volume  # noqa: E402
from XViewSynthLib.model.catalogue import save_model  # noqa: E402
from XViewSynthLib.node.queue import read_summary  # noqa: E402

STUDY, SERIES, FRAME = (f"1.2.826.0.1.3680043.8.498.9{number}" for number in range(3))
QUALIFYING, SLICES = 14, 6
#: Names and tags of series that do not qualify; "broken" also lacks a slice.
OTHERS = {
    "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "synthetic": {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "SYNTHETIC"], "Manufacturer": "XViewSynth"},
    "thin": {"spacing": 1.0},
    "thinner": {"spacing": 0.5},
    "broken": {},
    "broken too": {},
}
LONGEST_WAIT, PATIENCE_SECONDS = 4.0, 600.0


class Sender(threading.Thread):
    """Sends files until each of them is acknowledged."""

    def __init__(self, series: dict[str, list[Path]], port: int):
        super().__init__(daemon=True)
        self._series, self._port = series, port

    def run(self) -> None:
        """Send one series after another, again and again where the node is away."""
        for files in self._series.values():
            left = list(files)
            while left:
                with suppress(OSError):
                    statuses = send(left, self._port) or [-1] * len(left)
                    left = [file for file, status in zip(left, statuses, strict=True) if status != 0]
                time.sleep(0.2)


def main() -> int:
    """Kill, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, killed = random.Random(arguments.seed), Counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        series = write_series(folder)
        (folder / "orthanc").mkdir()
        archive, port = Archive(folder / "orthanc"), free_port()
        with archive:
            options = (
                "--quiet-seconds",
                "3",
                "--listen",
                f"127.0.0.1:{port}",
                "--model",
                str(write_model(folder)),
                "--device",
                "cpu",
            )
            new_node = lambda: NodeProcess(  # noqa: E731
                folder / "node", f"ORTHANC@127.0.0.1:{archive.dicom_port}", "--factor", "2", *options
            )
            node = new_node().__enter__()
            logs = [node]
            Sender(series, port).start()
            for _ in range(arguments.kills):
                time.sleep(draw.uniform(0, LONGEST_WAIT))
                what = draw.choice(("node", "worker", "archive"))
                killed[what] += kill(what, node, archive)
                if node.process.poll() is not None:
                    node = new_node().__enter__()
                    logs.append(node)
            ended = wait(folder / "node")
            node.__exit__()
            results = delivered(archive)
            sizes = [len(series["Instances"]) for series in archive.ask("/series?expand")]
            states = read_summary(folder / "node")["series"]
        truth = {name: observed(files) for name, files in series.items() if name.isdigit()}
        counts = {name: sum(np.array_equal(voxels, result) for result in results) for name, voxels in truth.items()}
    good = ended and len(results) == QUALIFYING and set(counts.values()) == {1}
    if not good:
        print("\n".join(node.log for node in logs), file=sys.stderr)
    print(
        json.dumps(
            {"killed": killed, "states": states, "results": len(results), "images": sizes, "of_each": counts}, indent=2
        )
    )
    return 0 if good else 1


def kill(what: str, node: NodeProcess, archive: Archive) -> int:
    """Kill something, and start the archive again. Returns whether there was something to kill."""
    if what == "node":
        node.process.kill()
        node.process.wait()
        return 1
    if what == "archive":
        archive.restart()
        return 1
    for child in psutil.Process(node.process.pid).children():
        with suppress(psutil.Error):
            child.kill()
            return 1
    return 0


def wait(folder: Path) -> bool:
    """Wait until all series have ended."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        counts = read_summary(folder)["series"]
        if counts["done"] + counts["skipped"] + counts["failed"] == QUALIFYING + len(OTHERS):
            return True
        time.sleep(0.5)
    return False


def write_series(folder: Path) -> dict[str, list[Path]]:
    """The files of all series, by their names; those that qualify have numbers."""
    series = {}
    kinds = {str(number): {} for number in range(QUALIFYING)} | OTHERS
    for number, (name, tags) in enumerate(kinds.items()):
        spacing = tags.get("spacing", 4.0)
        scan = Volume(anatomy((SLICES, 24, 24), seed=number), affine_from((0.8, 0.8, spacing)), slice_thickness=spacing)
        series[name] = write_dicom_series(
            folder / "series" / name,
            scan,
            series=f"{SERIES}.{number + 1}",
            StudyInstanceUID=STUDY,
            FrameOfReferenceUID=FRAME,
            PatientName="Test",
            **{tag: value for tag, value in tags.items() if tag != "spacing"},
        )
        if name.startswith("broken"):
            series[name].pop(3)
    return series


def write_model(folder: Path) -> Path:
    """A model with random weights."""
    return save_model(folder / "model", make_network(), make_card()).folder


def delivered(archive: Archive) -> list[np.ndarray]:
    """Observed slices of every whole result in the archive."""
    found = []
    for series in archive.ask("/series?expand"):
        contents = [archive.get(f"/instances/{name}/file") for name in series["Instances"]]
        images = [pydicom.dcmread(io.BytesIO(content)) for content in contents]
        if len(images) == 2 * SLICES - 1:
            found.append(stacked(images)[::2])
    return found


def observed(files: list[Path]) -> np.ndarray:
    """The slices of a series in order."""
    return stacked([pydicom.dcmread(file) for file in files])


def stacked(images: list[pydicom.Dataset]) -> np.ndarray:
    """The pixels of images in the order of their places."""
    return np.stack([image.pixel_array for image in sorted(images, key=lambda image: image.ImagePositionPatient[2])])


if __name__ == "__main__":
    sys.exit(main())
