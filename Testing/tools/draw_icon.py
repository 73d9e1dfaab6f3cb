"""Draw the icon of the extension and its module: three planes that cross, a synthetic slice between observed ones.

The module that trains has the same with a falling curve, as its loss does.

python Testing/tools/draw_icon.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

ROOT = Path(__file__).resolve().parents[2]
ICONS = [folder / "Resources" / "Icons" / "XViewSynth.png" for folder in (ROOT, ROOT / "XViewSynth")]
TRAINING_ICON = ROOT / "XViewSynthTrain" / "Resources" / "Icons" / "XViewSynthTrain.png"
PIXELS = 128
OBSERVED, SYNTHETIC, CORONAL, SAGITTAL = "#3b6ea5", "#f28e2b", "#59a14f", "#b07aa1"
CURVE = "#222222"


def main() -> None:
    figure = Figure(figsize=(1, 1), dpi=PIXELS)
    FigureCanvasAgg(figure)
    plot = figure.add_axes((0, 0, 1, 1))
    plot.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
    plot.axis("off")
    _slice(plot, -0.56, OBSERVED)
    _upright(plot, 0.2, CORONAL)
    _slice(plot, 0.0, SYNTHETIC)
    _upright(plot, -0.2, SAGITTAL)
    _slice(plot, 0.56, OBSERVED)
    for icon in ICONS:
        figure.savefig(icon, dpi=PIXELS, transparent=True)
    _curve(plot)
    TRAINING_ICON.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(TRAINING_ICON, dpi=PIXELS, transparent=True)


def _slice(plot: Axes, height: float, color: str) -> None:
    corners = [(-0.94, height), (0, height - 0.4), (0.94, height), (0, height + 0.4)]
    plot.add_patch(Polygon(corners, facecolor=color, edgecolor="white", alpha=0.9, linewidth=1))


def _upright(plot: Axes, slant: float, color: str) -> None:
    """A plane through the slices, seen from the same place as they are."""
    corners = [(-0.47, -0.56 - slant), (0.47, -0.56 + slant), (0.47, 0.56 + slant), (-0.47, 0.56 - slant)]
    plot.add_patch(Polygon(corners, facecolor=color, edgecolor="white", alpha=0.75, linewidth=1))


def _curve(plot: Axes) -> None:
    """A loss that falls, over everything else."""
    right = np.linspace(-0.85, 0.85, 50)
    height = 1.5 * np.exp(-2.6 * (right + 0.85)) - 0.75
    for color, width in (("white", 9), (CURVE, 5)):
        plot.plot(right, height, color=color, linewidth=width, solid_capstyle="round")


if __name__ == "__main__":
    main()
