"""Draw the thumbnails of the sample scans, XViewSynth/Resources/Icons/<sample>.png: a coronal plane through the middle.

python Testing/tools/draw_thumbnails.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from XViewSynthLib import Volume, read_volume

ROOT = Path(__file__).resolve().parents[2]
ICONS = ROOT / "XViewSynth" / "Resources" / "Icons"
SAMPLES = {"ChestCTThick": "ChestCTThick.nrrd", "ChestCTThin": "ChestCT.nrrd"}
WIDTH, HEIGHT = 260, 280
LOWEST_HU, HIGHEST_HU = -160, 240


def main() -> None:
    for name, file in SAMPLES.items():
        draw(read_volume(ROOT / "Resources" / "SampleData" / file), ICONS / f"{name}.png")


def draw(volume: Volume, path: Path) -> None:
    """An axial plane above a coronal one, in a soft tissue window."""
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    slices, rows, _ = volume.voxels.shape
    across, down, along = volume.spacing
    planes = ((volume.voxels[slices // 2], down / across, 0.27), (volume.voxels[::-1, rows // 2], along / across, 0.02))
    for plane, aspect, bottom in planes:
        plot = figure.add_axes((0.02, bottom, 0.96, 0.71 if bottom > 0.1 else 0.23))
        plot.imshow(
            np.clip(plane, LOWEST_HU, HIGHEST_HU), cmap="gray", aspect=aspect, interpolation="nearest", vmin=LOWEST_HU
        )
        plot.axis("off")
    figure.savefig(path, dpi=100, facecolor="black")


if __name__ == "__main__":
    main()
