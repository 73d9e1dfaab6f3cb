"""Draw a gallery: anatomy between thin slices as observed, interpolated, enhanced, true, and with its uncertainty.

    python Testing/tools/draw_gallery.py FOLDER [--output Resources/Screenshots/gallery.png]

FOLDER holds the scans that `EXAMPLES` names; Resources/Docs/explanation/evidence.md says where they come from. Of each,
every fourth slice is kept. The last row is the slice of the first example with the largest error: a failure.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from XViewSynthLib import enhance, read_volume
from XViewSynthLib.evaluation.metrics import candidate_slices
from XViewSynthLib.evaluation.selfcheck import drop_slices
from XViewSynthLib.geometry.interpolation import upsample
from XViewSynthTrainLib.regions import part_of

ROOT = Path(__file__).resolve().parents[2]
FACTOR = 4
LUNG, HEART, BONE = (-1150, 350), (-160, 440), (-300, 900)
TITLES = ("observed", "cubic spline", "XViewSynth", "truth", "expected error")
#: Expected error of full colour, HU, and below which there is none.
FULL, FAINT = 100.0, 30.0
#: HU, smoothed.
LARGEST_OF_LUNG = -500
# Pixels around the region that the networks see too.
_MARGIN = 24


@dataclass(frozen=True)
class Example:
    """A part of a scan; indices of rows and columns are those of `to_slices`.

    Attributes:
        title: of the row.
        scan: file name in the folder, without its ending.
        rows, columns: of the part; the picture shows the middle row.
        window: HU of black and of white.
    """

    title: str
    scan: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    window: tuple[int, int]


EXAMPLES = (
    Example("lung vessels", "chest_lungfcp010001_fuzun45", (186, 286), (280, 390), LUNG),
    Example("airway", "chest_lungfcp010001_fuzun45", (236, 276), (190, 300), LUNG),
    Example("rib", "chest_lungfcp010001_fuzun45", (180, 220), (340, 450), BONE),
    Example("heart and great vessels", "heartaorta_totalsegmentator", (40, 80), (24, 96), HEART),
)


@dataclass(frozen=True)
class Restored:
    """(slices, rows, columns) HU of an example; `observed` has every fourth slice, repeated up to the next."""

    planes: dict[str, np.ndarray]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, example: Example, folder: Path) -> Restored:
        """Thin and restore the part of a scan."""
        scan = read_volume(folder / f"{example.scan}.nrrd")
        rows, columns = (slice(first - _MARGIN, last + _MARGIN) for first, last in (example.rows, example.columns))
        part = part_of(scan, scan.through_plane_axis, slice(None), rows, columns)
        trial = drop_slices(part, FACTOR)
        enhanced = enhance(trial.observed, FACTOR, axis=trial.axis)
        cubic = upsample(trial.observed, FACTOR, trial.axis, "cubic")
        truth = trial.reference.slices
        nearest = truth[np.rint(np.arange(len(truth)) / FACTOR).astype(int) * FACTOR]
        restored = {"cubic spline": cubic, "XViewSynth": enhanced.volume, "expected error": enhanced.expected_error}
        volumes = {title: candidate_slices(trial.reference, volume) for title, volume in restored.items()}
        # Observed slices have no error to expect, which would make stripes.
        error = volumes["expected error"].copy()
        error[FACTOR:-1:FACTOR] = (error[FACTOR - 1 : -2 : FACTOR] + error[FACTOR + 1 :: FACTOR]) / 2
        volumes |= {"observed": nearest, "truth": truth, "expected error": error}
        inside = (slice(None), slice(_MARGIN, -_MARGIN), slice(_MARGIN, -_MARGIN))
        planes = {title: volume[inside] for title, volume in volumes.items()}
        return cls(planes, trial.reference.spacing)

    def coronal(self) -> tuple[dict[str, np.ndarray], float]:
        """The middle row, superior up and the patient's right on the left, and height over width of a pixel."""
        middle = self.planes["truth"].shape[1] // 2
        planes = {title: plane[::-1, middle, ::-1] for title, plane in self.planes.items()}
        return planes, self.spacing[0] / self.spacing[2]

    def worst_slice(self) -> tuple[dict[str, np.ndarray], float]:
        """The axial slice with the largest error of XViewSynth over a few pixels of lung, anterior up."""
        error = np.abs(self.planes["XViewSynth"] - self.planes["truth"])
        smooth, level = (ndimage.gaussian_filter(plane, (0, 1.5, 1.5)) for plane in (error, self.planes["truth"]))
        worst = int(np.where(level < LARGEST_OF_LUNG, smooth, 0).max(axis=(1, 2)).argmax())
        return {title: plane[worst, ::-1, ::-1] for title, plane in self.planes.items()}, self.spacing[
            1
        ] / self.spacing[2]


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description="Draw anatomy between thin slices, restored and true.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "Resources" / "Screenshots" / "gallery.png")
    arguments = parser.parse_args()
    restored = [Restored.of(example, arguments.folder) for example in EXAMPLES]
    rows = [(example.title, example.window, *part.coronal()) for example, part in zip(EXAMPLES, restored, strict=True)]
    rows.append(("a failure", LUNG, *restored[0].worst_slice()))
    heights = [planes["truth"].shape[0] / planes["truth"].shape[1] * aspect for _, _, planes, aspect in rows]
    figure = Figure(figsize=(14, 0.3 + 2.8 * sum(heights)), layout="constrained", facecolor="black")
    plots = figure.subplots(len(rows), len(TITLES), height_ratios=heights)
    for line, (title, window, planes, aspect) in zip(plots, rows, strict=True):
        for plot, name in zip(line, TITLES, strict=True):
            draw(plot, planes, name, window, aspect)
        line[0].set_ylabel(title, color="white")
    for plot, name in zip(plots[0], TITLES, strict=True):
        plot.set_title(name, color="white")
    figure.savefig(arguments.output, dpi=80)


def draw(plot: Axes, planes: dict[str, np.ndarray], name: str, window: tuple[int, int], aspect: float) -> None:
    """One plane; the expected error is drawn over the result."""
    shown = planes["XViewSynth" if name == "expected error" else name]
    plot.imshow(shown, cmap="gray", vmin=window[0], vmax=window[1], aspect=aspect)
    if name == "expected error":
        error = np.ma.masked_less(planes[name], FAINT)
        plot.imshow(error, cmap="autumn_r", vmin=FAINT, vmax=FULL, aspect=aspect, alpha=0.6)
    plot.set_xticks([])
    plot.set_yticks([])


if __name__ == "__main__":
    main()
