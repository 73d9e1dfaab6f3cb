"""Draw a truly thick scan as observed, as splined, and as either shipped model restores it.

    python Testing/tools/draw_thick.py SCAN PICTURE.png [--factor N] [--pixels 320] [--row 0.5]

A coronal plane of the middle of the scan, in a lung window, and a part of it enlarged. No truth is known: look for
steps, ringing, and details that no observed slice shows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from XViewSynthLib import Volume, enhance, read_volume
from XViewSynthLib.geometry.grid import settle_grid
from XViewSynthLib.geometry.interpolation import upsample
from XViewSynthLib.geometry.orientation import to_slices
from XViewSynthLib.geometry.volume import Axis
from XViewSynthTrainLib.regions import middle_of

#: HU: lungs and the soft tissue around them.
WINDOW = (-1150, 350)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description="Draw a thick scan beside what is made of it.")
    parser.add_argument("scan", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--factor", type=int, help="default: as for xviewsynth enhance")
    parser.add_argument("--pixels", type=int, default=320, help="the middle of each slice")
    parser.add_argument(
        "--row", type=float, default=0.5, help="where to cut, 0 the first row of the middle, 1 the last"
    )
    arguments = parser.parse_args()
    scan = read_volume(arguments.scan)
    axis = scan.through_plane_axis
    scan = middle_of(scan, axis, arguments.pixels)
    factor = arguments.factor or settle_grid(scan).factor
    step, pixel = scan.spacing_along(axis), scan.pixel_spacing(axis)
    planes = {
        f"observed, {step:g} mm": (scan, step),
        "cubic spline": (upsample(scan, factor, axis, "cubic"), step / factor),
    }
    for model in ("standard", "standard-thick"):
        planes[model] = (enhance(scan, factor, axis=axis, model=model).volume, step / factor)
    figure = Figure(figsize=(3.6 * len(planes), 9), layout="constrained")
    rows = figure.subplots(2, len(planes))
    for column, (title, (volume, distance)) in enumerate(planes.items()):
        plane = coronal(volume, axis, arguments.row)
        height, width = len(plane) * distance, plane.shape[1] * pixel
        # Slices that are thick reach half their distance further than their centres.
        extent = (0, width, -distance / 2, height - distance / 2)
        for plot in rows[:, column]:
            plot.imshow(plane, cmap="gray", vmin=WINDOW[0], vmax=WINDOW[1], extent=extent, interpolation="nearest")
            plot.set_axis_off()
        rows[0, column].set_title(title)
        rows[0, column].set_ylim(-step / 2, (scan.slices(axis) - 0.5) * step)
        rows[1, column].set_xlim(0.05 * width, 0.45 * width)
        rows[1, column].set_ylim(0.3 * height, 0.7 * height)
    figure.savefig(arguments.picture, dpi=80)


def coronal(volume: Volume, axis: Axis, row: float) -> np.ndarray:
    """(slices, columns) of one plane, the head up."""
    slices, _ = to_slices(volume, axis)
    return slices[::-1, round(row * (slices.shape[1] - 1))]


if __name__ == "__main__":
    main()
