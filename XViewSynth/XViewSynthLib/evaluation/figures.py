"""Figures: observed, cubic, enhanced and, if known, the truth, side by side; and gains of a benchmark as bars."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..geometry import interpolation
from ..geometry.volume import Axis, Volume
from . import metrics
from .selfcheck import ENHANCED
from .tables import SINGLE_VIEWS, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

LUNG_WINDOW = (-1350.0, 150.0)
SOFT_TISSUE_WINDOW = (-160.0, 240.0)

# Patient axes R, A, S: names of their ends, towards the lower and the higher coordinate.
_ENDS = (("L", "R"), ("P", "A"), ("I", "S"))
_PLANES = ("sagittal", "coronal", "axial")
_COLUMN_INCHES = 3.6
_DETAIL_WIDTH_MM = 70.0
_DETAIL_HEIGHT_MM = 50.0
_AERATED_HU = -500.0
_AERATED_SHARE = 0.15


@dataclass(frozen=True, eq=False)
class Column:
    """One candidate: (slices, rows, columns) in canonical order, the distance of its slices in mm, and its title."""

    slices: np.ndarray
    step: float
    title: str


@dataclass(frozen=True)
class Cut:
    """A plane through the slices: across `dimension` (1 rows, 2 columns), at `index`, limited to `extent`.

    Attributes:
        extent: left, right, bottom, top in mm from the first pixel's centre; None for all of it.
    """

    dimension: int
    index: int
    extent: tuple[float, float, float, float] | None = None


def comparison_png(
    path: str | os.PathLike[str],
    observed: Volume,
    enhanced: Volume,
    factor: int,
    axis: Axis,
    truth: Volume | None = None,
) -> None:
    """Write a PNG with a column each for observed, cubic, enhanced and (if given) truth.

    The upper two rows are planes across the slices, such as coronal and sagittal. The lower two enlarge a part of each.
    Planes and parts are those with the largest differences between neighbouring slices of the truth (or else of the
    result), so that the choice favours no method. Slices are horizontal, superior is up (for slices that are not axial:
    anterior or right), and pixels are square. With a truth, the column titles show the PSNR on the new slices, and the
    gain over cubic.

    Args:
        path: the file to write, in PNG format.
        observed: the scan, HU.
        enhanced: the result, on the grid of `observed` up-sampled by `factor` along `axis`.
        truth: the scan that `observed` was thinned from, cut to the grid of `enhanced`.

    Raises:
        InputError: the volumes do not lie on one grid.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    best = metrics.make_reference(enhanced if truth is None else truth, factor, axis)
    columns = _columns(observed, enhanced, best, factor, has_truth=truth is not None)
    window = display_window(best.slices, best.body)
    planes = richest_planes(best, window)
    details = [richest_part(best, cut, window) for cut in planes]
    heights = [height_over_width(best, cut) for cut in (*planes, *details)]
    figure = Figure(
        figsize=(_COLUMN_INCHES * len(columns) + 0.5, _COLUMN_INCHES * sum(heights) + 0.9), layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), len(columns), squeeze=False, height_ratios=heights)
    names = patient_axes(best)
    for row, cut in enumerate((*planes, *details)):
        for plot, column in zip(axes[row], columns, strict=True):
            draw(plot, column, cut, best.spacing, window, names)
        axes[row, 0].set_ylabel(plane_name(cut, names) + (" (detail)" if cut.extent else ""))
    for row, detail in enumerate(details):
        for plot in axes[row]:
            frame(plot, detail)
    for plot, column in zip(axes[0], columns, strict=True):
        plot.set_title(column.title, fontsize=10)
    low, high = window
    figure.supxlabel(f"window {low:g} to {high:g} HU", fontsize=9)
    figure.savefig(path, format="png", dpi=110)


def _columns(observed: Volume, enhanced: Volume, best: metrics.Reference, factor: int, has_truth: bool) -> list[Column]:
    cubic = interpolation.upsample(observed, factor, best.axis, "cubic")
    cubic_slices, enhanced_slices = (metrics.candidate_slices(best, volume) for volume in (cubic, enhanced))
    thin, thick = best.spacing[0], best.spacing[0] * factor
    cubic_title, enhanced_title = "cubic spline", "enhanced"
    if has_truth:
        counted = best.in_view & best.is_new[:, None, None]
        reached = [metrics.psnr_db(best.slices, slices, counted) for slices in (cubic_slices, enhanced_slices)]
        cubic_title += f"\n{reached[0]:.2f} dB"
        enhanced_title += f"\n{reached[1]:.2f} dB ({reached[1] - reached[0]:+.2f} dB over cubic)"
    columns = [
        Column(best.order.apply(observed.voxels), thick, f"observed\nslices {thick:.3g} mm apart"),
        Column(cubic_slices, thin, cubic_title),
        Column(enhanced_slices, thin, enhanced_title),
    ]
    if has_truth:
        columns.append(Column(best.slices, thin, f"truth\nslices {thin:.3g} mm apart"))
    return columns


def patient_axes(best: metrics.Reference) -> tuple[int, int, int]:
    """Nearest patient axis (0 R, 1 A, 2 S) of slices, rows and columns, for names of planes."""
    directions = np.abs(best.volume.directions)
    slices, rows, columns = (int(np.argmax(directions[:, 2 - dimension])) for dimension in best.order.dimensions)
    return slices, rows, columns


def plane_name(cut: Cut, names: tuple[int, int, int]) -> str:
    """Sagittal, coronal or axial, whichever is nearest."""
    return _PLANES[names[cut.dimension]]


def display_window(slices: np.ndarray, body: np.ndarray) -> tuple[float, float]:
    """The lung window if the share of lung is large enough, else the soft tissue window; lowest and highest HU."""
    inside = slices[body]
    aerated = float(np.mean(inside < _AERATED_HU)) if inside.size else 0.0
    return LUNG_WINDOW if aerated > _AERATED_SHARE else SOFT_TISSUE_WINDOW


def richest_planes(best: metrics.Reference, window: tuple[float, float]) -> tuple[Cut, Cut]:
    """The plane across the rows, and the one across the columns, where neighbouring slices differ most."""
    by_row, by_column = np.zeros(best.slices.shape[1]), np.zeros(best.slices.shape[2])
    for upper, lower, inside in zip(best.slices[1:], best.slices[:-1], best.body[1:], strict=True):
        change = _change(upper, lower, inside, window)
        by_row += change.sum(axis=1)
        by_column += change.sum(axis=0)
    return Cut(1, int(np.argmax(by_row))), Cut(2, int(np.argmax(by_column)))


def _change(upper: np.ndarray, lower: np.ndarray, inside: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Visible difference in HU, where `inside` (bool)."""
    upper, lower = (np.clip(plane.astype(np.float32), *window) for plane in (upper, lower))
    return np.abs(upper - lower) * inside


def _plane(slices: np.ndarray, cut: Cut) -> np.ndarray:
    """(slices, pixels) of one plane."""
    return slices[:, cut.index] if cut.dimension == 1 else slices[:, :, cut.index]


def _pixel(cut: Cut, spacing: tuple[float, float, float]) -> float:
    """Distance in mm of the pixels along a slice of the plane."""
    return spacing[2] if cut.dimension == 1 else spacing[1]


def richest_part(best: metrics.Reference, cut: Cut, window: tuple[float, float]) -> Cut:
    """The part of a plane where neighbouring slices differ most, inside the body."""
    plane, inside = _plane(best.slices, cut), _plane(best.body, cut)
    change = _change(plane[1:], plane[:-1], inside[1:], window)
    steps = best.spacing[0], _pixel(cut, best.spacing)
    size = [
        max(1, min(length, round(mm / step)))
        for length, mm, step in zip(change.shape, (_DETAIL_HEIGHT_MM, _DETAIL_WIDTH_MM), steps, strict=True)
    ]
    total = np.pad(change, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    height, width = size
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    bottom, left = (int(index) for index in np.unravel_index(int(np.argmax(sums)), sums.shape))
    extent = (left * steps[1], (left + width) * steps[1], bottom * steps[0], (bottom + height) * steps[0])
    return Cut(cut.dimension, cut.index, extent)


def height_over_width(best: metrics.Reference, cut: Cut) -> float:
    """Height over width of a plane, or its part, in the patient."""
    if cut.extent is not None:
        left, right, bottom, top = cut.extent
        return (top - bottom) / (right - left)
    count, pixels = _plane(best.slices, cut).shape
    return count * best.spacing[0] / (pixels * _pixel(cut, best.spacing))


def draw(
    plot: Axes,
    column: Column,
    cut: Cut,
    spacing: tuple[float, float, float],
    window: tuple[float, float],
    names: tuple[int, int, int],
    colours: str = "gray",
) -> AxesImage:
    """Draw one plane of a candidate, or the part of it within the cut's extent.

    Args:
        plot: the axes to draw in.
        column: the candidate.
        cut: the plane.
        spacing: mm along slices, rows and columns of the thin slices.
        window: lowest and highest value that differ from black and white, HU.
        names: nearest patient axis of slices, rows and columns (`patient_axes`).
        colours: matplotlib's name of a colour map.
    """
    from matplotlib.patheffects import withStroke

    plane, pixel = _plane(column.slices, cut), _pixel(cut, spacing)
    # Pixel centres lie at multiples of the spacing, so that thick and thin slices are aligned.
    extent = (-pixel / 2, (plane.shape[1] - 0.5) * pixel, -column.step / 2, (plane.shape[0] - 0.5) * column.step)
    image = plot.imshow(
        np.clip(plane.astype(np.float32), *window),
        cmap=colours,
        vmin=window[0],
        vmax=window[1],
        origin="lower",
        extent=extent,
        interpolation="nearest",
    )
    plot.set_facecolor("black")
    left, right, bottom, top = cut.extent or _extent_of_thin_slices(extent, column, spacing)
    # Radiological convention: right and anterior are on the left of the picture.
    plot.set_xlim(right, left)
    plot.set_ylim(bottom, top)
    plot.set_xticks([])
    plot.set_yticks([])
    if cut.extent is None:
        across, along = _ENDS[names[0]], _ENDS[names[3 - cut.dimension]]
        marks = ((0.02, 0.5, along[1]), (0.98, 0.5, along[0]), (0.5, 0.95, across[1]), (0.5, 0.05, across[0]))
        outline = withStroke(linewidth=2, foreground="black")
        for x, y, letter in marks:
            mark = plot.text(x, y, letter, transform=plot.transAxes, color="gold", fontsize=8, ha="center", va="center")
            mark.set_path_effects([outline])
    return image


def _extent_of_thin_slices(
    extent: tuple[float, float, float, float], column: Column, spacing: tuple[float, float, float]
) -> tuple[float, float, float, float]:
    """The same part for all columns: thick slices reach half their distance further than thin ones."""
    left, right, bottom, top = extent
    surplus = (column.step - spacing[0]) / 2
    return left, right, bottom + surplus, top - surplus


def frame(plot: Axes, detail: Cut) -> None:
    """Mark on a whole plane which part of it is enlarged; `detail` has an extent."""
    from matplotlib.patches import Rectangle

    if detail.extent is None:
        return
    left, right, bottom, top = detail.extent
    plot.add_patch(Rectangle((left, bottom), right - left, top - bottom, fill=False, edgecolor="gold", linewidth=0.8))


def draw_gains(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw bars of the gain over the better baseline: a group for each scan, factor and model, a bar for each view."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = [
        (f"{run['scan'].split('.')[0]}\nx{run['factor']} {name}", {**run["peers"], **result["methods"]})
        for run in runs
        for name, result in run["models"].items()
    ]
    peers = list(runs[0]["peers"])
    methods = (*peers, *SINGLE_VIEWS, ENHANCED)
    figure = Figure(figsize=(9, 1.2 + 0.9 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.subplots()
    height = 0.8 / len(methods)
    for number, method in enumerate(methods):
        rows = [group + (number - (len(methods) - 1) / 2) * height for group in range(len(groups))]
        # A bar of unknown length is not drawn.
        gains = np.array([result[method]["gain_over_better_db"] for _, result in groups], dtype=np.float64)
        color = "#c44e52" if method == ENHANCED else "#4c72b0" if method in peers else str(0.45 + 0.15 * (number % 3))
        bars = plot.barh(rows, gains, height, label=title_of(method).strip("*"), color=color)
        plot.bar_label(bars, fmt="%+.2f", fontsize=7, padding=2)
    # A dollar sign in a name must not begin a formula.
    plot.set_yticks(range(len(groups)), [label for label, _ in groups], fontsize=8, parse_math=False)
    plot.invert_yaxis()
    plot.axvline(0, color="black", linewidth=0.8)
    plot.margins(x=0.12)
    plot.set_xlabel("PSNR gain over the better of linear and cubic, dB (new slices, field of view)")
    figure.legend(loc="outside upper center", ncols=len(methods), fontsize=8)
    with warnings.catch_warnings():
        # matplotlib warns of characters that its font lacks, and draws boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(path, format="png", dpi=110)
