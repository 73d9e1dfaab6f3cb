"""Figures of a run for its report: curves of its log, and the preview before and after. Each is a `data:` address."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from XViewSynthLib.evaluation import figures, metrics
from XViewSynthLib.io.reading import read_volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Files of a preview in their order, and their titles.
PREVIEW = {"observed": "observed slices only", "before": "before training", "now": "delivered", "truth": "truth"}

_CURVE_INCHES = (7.2, 3.2)
_COLUMN_INCHES = 2.7
_SMALLEST_ERROR_SCALE_HU = 20.0


def loss_curves(entries: Sequence[dict[str, Any]]) -> str | None:
    """Every term of the loss over the steps, logarithmic; None if none was logged.

    Args:
        entries: of the log; those of kind "loss" count.
    """
    losses = [entry for entry in entries if entry["kind"] == "loss"]
    if not losses:
        return None
    figure, plot = _figure()
    for term in sorted({term for entry in losses for term in entry["loss"]}):
        points = [(entry["step"], entry["loss"][term]) for entry in losses if _drawable(entry["loss"].get(term))]
        # A term is 0 while it is switched off, which has no logarithm.
        points = [(step, value) for step, value in points if value > 0]
        if points:
            plot.plot(*zip(*points, strict=True), label=term, linewidth=1.3, marker=_marker(points))
    plot.set_yscale("log")
    plot.set_ylabel("weighted loss")
    _finish(plot)
    return _svg(figure)


def rate_curve(entries: Sequence[dict[str, Any]]) -> str | None:
    """The learning rate over the steps; None if none was logged."""
    points = [(entry["step"], entry["learning_rate"]) for entry in entries if entry["kind"] == "loss"]
    if not points:
        return None
    figure, plot = _figure(height=2.2)
    plot.plot(*zip(*points, strict=True), color="tab:gray", marker=_marker(points))
    plot.set_ylabel("learning rate")
    plot.set_ylim(bottom=0)
    _finish(plot, legend=False)
    return _svg(figure)


def gain_curves(entries: Sequence[dict[str, Any]], best_step: int | None) -> str | None:
    """Held-out gain over linear and cubic at every factor, with the best step marked; None if none was measured.

    Args:
        entries: of the log; those of kind "gain" count.
        best_step: the step with the largest gain.
    """
    gains = [entry for entry in entries if entry["kind"] == "gain"]
    factors = sorted({factor for entry in gains for factor in entry["gain"]}, key=int)
    if not factors:
        return None
    figure, plot = _figure()
    for number, factor in enumerate(factors):
        for rival, style in (("linear", "--"), ("cubic", "-")):
            points = [
                (entry["step"], gain)
                for entry in gains
                if _drawable(gain := entry["gain"].get(factor, {}).get(f"over_{rival}_db"))
            ]
            if points:
                steps, values = zip(*points, strict=True)
                plot.plot(
                    steps, values, style, color=f"C{number}", label=f"x{factor} over {rival}", marker="o", markersize=3
                )
    if best_step is not None:
        plot.axvline(best_step, color="black", linewidth=0.8, linestyle=":", label=f"best: step {best_step}")
    plot.axhline(0, color="black", linewidth=0.6)
    plot.set_ylabel("gain in dB")
    _finish(plot)
    return _svg(figure)


def before_and_after(folder: Path, factor: int) -> str | None:
    """The preview: a plane through the slices, a part of it enlarged, and its absolute error; None without a truth.

    Plane and part have the largest differences between neighbouring slices of the truth, which favours no column.

    Args:
        folder: with NRRD files on one grid, named by the keys of `PREVIEW`; only the truth is required.
        factor: of the thinning: every `factor`-th slice of the truth was kept.

    Raises:
        InputError: a file is damaged, or they do not lie on one grid.
    """
    volumes = {name: read_volume(folder / f"{name}.nrrd") for name in PREVIEW if (folder / f"{name}.nrrd").is_file()}
    if "truth" not in volumes or len(volumes) < 2:
        return None
    truth = volumes["truth"]
    best = metrics.make_reference(truth, factor, truth.through_plane_axis)
    slices = {name: metrics.candidate_slices(best, volume) for name, volume in volumes.items()}
    window = figures.display_window(best.slices, best.body)
    plane, _ = figures.richest_planes(best, window)
    detail = figures.richest_part(best, plane, window)
    errors = {
        name: np.abs(metrics.clip_hu(values) - metrics.clip_hu(best.slices))
        for name, values in slices.items()
        if name != "truth"
    }
    return _png(_draw_preview(best, slices, errors, window, plane, detail))


def _draw_preview(
    best: metrics.Reference,
    slices: dict[str, np.ndarray],
    errors: dict[str, np.ndarray],
    window: tuple[float, float],
    plane: figures.Cut,
    detail: figures.Cut,
) -> Figure:
    cuts = (plane, detail, detail)
    heights = [figures.height_over_width(best, cut) for cut in cuts]
    size = (_COLUMN_INCHES * len(slices) + 0.5, _COLUMN_INCHES * sum(heights) + 1.0)
    figure = _empty_figure(size)
    axes = figure.subplots(3, len(slices), squeeze=False, height_ratios=heights)
    names = figures.patient_axes(best)
    error_window = (0.0, _error_scale(errors))
    for column, (name, values) in enumerate(slices.items()):
        shown = figures.Column(values, best.spacing[0], PREVIEW[name])
        axes[0, column].set_title(_title(best, name, values), fontsize=9)
        for row, cut in enumerate((plane, detail)):
            figures.draw(axes[row, column], shown, cut, best.spacing, window, names)
        figures.frame(axes[0, column], detail)
        if name in errors:
            error = figures.Column(errors[name], best.spacing[0], "")
            image = figures.draw(axes[2, column], error, detail, best.spacing, error_window, names, "inferno")
        else:
            axes[2, column].axis("off")
    of_errors = [axes[2, column] for column, name in enumerate(slices) if name in errors]
    figure.colorbar(image, ax=of_errors, location="bottom", label="absolute error in HU", fraction=0.08, aspect=50)
    rows = (figures.plane_name(plane, names), "detail", "error of the detail")
    for row, title in enumerate(rows):
        axes[row, 0].set_ylabel(title, fontsize=9)
    return figure


def _title(best: metrics.Reference, name: str, values: np.ndarray) -> str:
    if name == "truth":
        return f"{PREVIEW[name]}\nslices {best.spacing[0]:.3g} mm apart"
    counted = best.body & best.is_new[:, None, None]
    error = metrics.mae_hu(best.slices, values, counted)
    return PREVIEW[name] + (f"\nmean error {error:.1f} HU" if math.isfinite(error) else "")


def _error_scale(errors: dict[str, np.ndarray]) -> float:
    """A high quantile of the predictions' errors, HU. Errors of the repeated observed slices would be too large."""
    predicted = [values for name, values in errors.items() if name != "observed"] or list(errors.values())
    largest = max(float(np.percentile(values, 99.5)) for values in predicted)
    return max(_SMALLEST_ERROR_SCALE_HU, 10 * math.ceil(largest / 10))


def _drawable(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _marker(points: Sequence[tuple[float, float]]) -> str:
    """The marker for a curve: a single point is not visible as a line."""
    return "o" if len(points) == 1 else ""


def _figure(height: float = _CURVE_INCHES[1]) -> tuple[Figure, Axes]:
    figure = _empty_figure((_CURVE_INCHES[0], height))
    return figure, figure.subplots()


def _empty_figure(size: tuple[float, float]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(plot: Axes, legend: bool = True) -> None:
    from matplotlib.ticker import MaxNLocator

    plot.set_xlabel("step")
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    plot.grid(alpha=0.3)
    plot.spines[["top", "right"]].set_visible(False)
    if legend and plot.get_legend_handles_labels()[0]:
        plot.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _svg(figure: Figure) -> str:
    file = io.BytesIO()
    # The page must not contain the time or the program of the drawing.
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _address("svg+xml", file.getvalue())


def _png(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return _address("png", file.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
