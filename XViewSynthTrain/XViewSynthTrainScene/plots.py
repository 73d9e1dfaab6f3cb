"""Loss and held-out gain as plots in Slicer, updated during a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from .study import ROLE_ATTRIBUTE

STEP = "step"
LEARNING_RATE = "learning rate"

# RGB, 0 to 1, which colour-blind people can distinguish (Okabe and Ito).
_COLORS = (
    (0.0, 0.45, 0.70),
    (0.90, 0.62, 0.0),
    (0.0, 0.62, 0.45),
    (0.80, 0.47, 0.65),
    (0.34, 0.71, 0.91),
    (0.84, 0.37, 0.0),
)
# Space on the right for the legend, which would hide the newest points.
_LEGEND_SHARE = 0.4

# Curves with fewer points get markers, because a single point draws no line.
_FEW_POINTS = 10

_BASELINES = {"over_linear_db": "linear", "over_cubic_db": "cubic"}


class TrainingPlots:
    """Two charts of one run and their tables in a scene.

    Args:
        scene: receives the nodes. They are not saved with the scene, because the run folder holds the data.
    """

    def __init__(self, scene: slicer.vtkMRMLScene):
        self._loss = _Chart(scene, "Training loss", "loss", logarithmic=True, unplotted=(LEARNING_RATE,))
        self._gain = _Chart(scene, "Held-out gain", "gain over interpolation, dB", markers=True)

    @property
    def loss_chart(self) -> slicer.vtkMRMLPlotChartNode:
        """Terms of the loss over the steps."""
        return self._loss.chart_node

    @property
    def gain_chart(self) -> slicer.vtkMRMLPlotChartNode:
        """Gain on held-out scans over linear and cubic interpolation, for every factor."""
        return self._gain.chart_node

    def show(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Show these entries of a log only."""
        entries = list(entries)
        self._loss.show({entry["step"]: _loss_row(entry) for entry in entries if entry["kind"] == "loss"})
        self._gain.show({entry["step"]: _gain_row(entry) for entry in entries if entry["kind"] == "gain"})

    def remove(self) -> None:
        """Remove all nodes from the scene; harmless to repeat, or if some were removed already."""
        self._loss.remove()
        self._gain.remove()


def _loss_row(entry: Mapping[str, Any]) -> dict[str, float]:
    return {**entry.get("loss", {}), LEARNING_RATE: entry.get("learning_rate", math.nan)}


def _gain_row(entry: Mapping[str, Any]) -> dict[str, float]:
    row = {}
    for factor, gain in sorted(entry.get("gain", {}).items(), key=lambda item: int(item[0])):
        for key, baseline in _BASELINES.items():
            row[f"x{factor} over {baseline}"] = gain.get(key)
    return row


class _Chart:
    """A chart with a table and a series for each of its columns."""

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        name: str,
        y_title: str,
        logarithmic: bool = False,
        markers: bool = False,
        unplotted: Sequence[str] = (),
    ):
        self._scene, self._name = scene, name
        self._logarithmic, self._markers, self._unplotted = logarithmic, markers, unplotted
        self._series: dict[str, slicer.vtkMRMLPlotSeriesNode] = {}
        self._table_node = self._add("vtkMRMLTableNode", name, "table")
        self.chart_node = self._add("vtkMRMLPlotChartNode", name, "chart")
        self.chart_node.SetTitle(name)
        self.chart_node.SetXAxisTitle("training step")
        self.chart_node.SetYAxisTitle(y_title)
        self.chart_node.SetYAxisLogScale(logarithmic)
        self.chart_node.SetLegendVisibility(True)
        self.chart_node.SetXAxisRangeAuto(False)

    def show(self, rows: Mapping[int, Mapping[str, float | None]]) -> None:
        if self.chart_node.GetScene() is None or self._table_node.GetScene() is None:
            return
        steps = sorted(rows)
        names = list(dict.fromkeys(name for step in steps for name in rows[step]))
        columns = {name: np.array([self._number(rows[step].get(name)) for step in steps]) for name in names}
        table = vtk.vtkTable()
        for name, values in {STEP: np.array(steps, dtype=float), **columns}.items():
            column = numpy_to_vtk(values, deep=True)
            column.SetName(name)
            table.AddColumn(column)
        self._table_node.SetAndObserveTable(table)
        self.chart_node.SetXAxisRange(0, max(steps, default=0) * (1 + _LEGEND_SHARE) or 1)
        for name in names:
            # A series without any value would have no range.
            if name not in self._series and name not in self._unplotted and np.isfinite(columns[name]).any():
                self._add_series(name)
        for name in [name for name in self._series if name not in names]:
            self._remove_node(self._series.pop(name))
        marked = self._markers or len(steps) < _FEW_POINTS
        for node in self._series.values():
            node.SetMarkerStyle(node.MarkerStyleCircle if marked else node.MarkerStyleNone)

    def remove(self) -> None:
        for node in (self.chart_node, *self._series.values(), self._table_node):
            self._remove_node(node)
        self._series.clear()

    def _number(self, value: float | None) -> float:
        """The value; NaN, which leaves a gap, if it is missing or not on the axis."""
        if value is None or not math.isfinite(value) or (self._logarithmic and value <= 0):
            return math.nan
        return float(value)

    def _add_series(self, name: str) -> None:
        number = len(self._series)
        node = self._add("vtkMRMLPlotSeriesNode", name, "series")
        node.SetAndObserveTableNodeID(self._table_node.GetID())
        node.SetXColumnName(STEP)
        node.SetYColumnName(name)
        node.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
        # The two baselines of a factor have one colour: one line is solid, the other dashed.
        pair, second = divmod(number, len(_BASELINES)) if self._markers else (number, 0)
        node.SetColor(*_COLORS[pair % len(_COLORS)])
        style = node.LineStyleDash if second else node.LineStyleSolid
        node.SetLineStyle(style)
        self._series[name] = node
        self.chart_node.AddAndObservePlotSeriesNodeID(node.GetID())

    def _add(self, kind: str, name: str, role: str) -> slicer.vtkMRMLNode:
        node = self._scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetName(name)
        node.SetAttribute(ROLE_ATTRIBUTE, role)
        node.SetSaveWithScene(False)
        return self._scene.AddNode(node)

    def _remove_node(self, node: slicer.vtkMRMLNode) -> None:
        if node.GetScene() is not None:
            node.GetScene().RemoveNode(node)
