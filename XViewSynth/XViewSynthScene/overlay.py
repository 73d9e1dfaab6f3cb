"""The uncertainty map as a coloured overlay: where the enhanced volume may be wrong, and by how many HU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import slicer

from .bridging import BridgedMap
from .results import UNCERTAINTY_LOOK, look_of, set_look

COLOR_NODE_NAME = "XViewSynth uncertainty"
LEGEND_TITLE = "± HU"
DEFAULT_OPACITY = 0.5

# Width and height as shares of the view; the width decides how large the letters are.
_LEGEND_SIZE = (0.085, 0.4)

_COLOR_CLASS, _LEGEND_CLASS = "vtkMRMLColorTableNode", "vtkMRMLColorLegendDisplayNode"
_SINGLETON = "XViewSynthDisagreement"

#: HU up to which nothing is drawn: differences as small as the noise of a CT say nothing. One shade of red is left for
#: this much uncertainty and more.
FAINT_HU, FULL_HU = 20.0, UNCERTAINTY_LOOK.window

# Expected errors below this many standard deviations of the noise are what noise alone makes of any two slices.
_NOISE_DEVIATIONS = 2.0

# From little uncertainty to much: yellow, orange, red, which differ in lightness too.
_RAMP = ((0.0, (1.0, 0.93, 0.45)), (0.5, (1.0, 0.55, 0.1)), (1.0, (0.75, 0.0, 0.15)))
_SHADES = 256


class UncertaintyOverlay:
    """An uncertainty map over what some views show, with a colour legend in HU.

    Up to 20 HU, or twice the noise of a noisy scan, the scan stays as it is; from there uncertainty is yellow, then
    orange, and from 100 HU red. So a scan without uncertainty stays grey, whatever its own range is. The map lies in
    the topmost layer of the views, that of label maps: in the foreground, Slicer's window/level tool would change the
    meaning of the colours, and above it, Slicer would draw no legend.

    Args:
        uncertainty_node: the map, HU; its display is changed until `remove`.
        composite_nodes: of the views.
        faint_hu: HU up to which nothing is drawn.
        full_hu: HU from which uncertainty has its strongest colour.

    Raises:
        ValueError: `faint_hu` is negative, or `full_hu` not above it.
    """

    def __init__(
        self,
        uncertainty_node: slicer.vtkMRMLScalarVolumeNode,
        composite_nodes: Iterable[slicer.vtkMRMLSliceCompositeNode],
        faint_hu: float = FAINT_HU,
        full_hu: float = FULL_HU,
    ):
        if not 0 <= faint_hu < full_hu:
            raise ValueError(
                f"Uncertainty cannot be shown from {faint_hu:g} to {full_hu:g} HU: give 0 or more, then more."
            )
        self._node = uncertainty_node
        self._composites = list(composite_nodes)
        self._look_before = look_of(uncertainty_node)
        scene = uncertainty_node.GetScene()
        self._colors = scene.GetSingletonNode(_SINGLETON, _COLOR_CLASS) or _add_colors(scene)
        window, level = full_hu - faint_hu, (full_hu + faint_hu) / 2
        colors = self._colors.GetID()
        set_look(uncertainty_node, replace(UNCERTAINTY_LOOK, window=window, level=level, color_node_id=colors))
        for composite in self._composites:
            composite.SetLabelVolumeID(uncertainty_node.GetID())
        # A view shows the legend of a volume that it shows already.
        self._legend = _add_legend(uncertainty_node)
        self._copies: list[BridgedMap] = []
        self._copy_legends: list[slicer.vtkMRMLColorLegendDisplayNode] = []
        self.set_opacity(DEFAULT_OPACITY)

    def show_copy(self, copy: BridgedMap, composite_nodes: Iterable[slicer.vtkMRMLSliceCompositeNode]) -> None:
        """Show a copy of the map in further views, with the same colours. It is removed with the overlay."""
        set_look(copy.node, look_of(self._node))
        for composite in composite_nodes:
            composite.SetLabelVolumeID(copy.node.GetID())
            self._composites.append(composite)
        legend = _add_legend(copy.node)
        legend.SetSaveWithScene(False)
        self._copies.append(copy)
        self._copy_legends.append(legend)
        self.set_opacity(self._opacity)

    @property
    def uncertainty_node(self) -> slicer.vtkMRMLScalarVolumeNode:
        """The map."""
        return self._node

    @property
    def opacity(self) -> float:
        """0 (nothing is seen of the map) to 1."""
        return self._opacity

    @property
    def legend_node(self) -> slicer.vtkMRMLColorLegendDisplayNode:
        """The legend: what each colour means in HU."""
        return self._legend

    @property
    def legend_nodes(self) -> list[slicer.vtkMRMLColorLegendDisplayNode]:
        """The legend, and that of the views with a copy of the map."""
        return [self._legend, *self._copy_legends]

    def set_opacity(self, opacity: float) -> None:
        """Show the map with this opacity, 0 to 1; at 0 the legend goes too.

        Raises:
            ValueError: outside 0 to 1.
        """
        if not 0 <= opacity <= 1:
            raise ValueError(f"The opacity of the overlay must lie between 0 and 1, not at {opacity:g}.")
        self._opacity = float(opacity)
        for composite in self._composites:
            composite.SetLabelOpacity(self._opacity)
        for legend in self.legend_nodes:
            legend.SetVisibility(self._opacity > 0)

    def remove(self) -> None:
        """Take the map out of the views, and give it back its own display; harmless to repeat, or without a scene."""
        shown = [node.GetID() for node in (self._node, *(copy.node for copy in self._copies))]
        for composite in self._composites:
            if composite.GetLabelVolumeID() in shown:
                composite.SetLabelVolumeID(None)
                composite.SetLabelOpacity(1)  # Slicer's default
        self._composites = []
        for legend in self.legend_nodes:
            _remove_from_scene(legend)
        for copy in self._copies:
            copy.remove()
        self._copies, self._copy_legends = [], []
        display = self._node.GetScalarVolumeDisplayNode()
        if display is not None and display.GetColorNode() is self._colors:
            display.SetAndObserveColorNodeID("")
            if self._look_before is not None:
                set_look(self._node, self._look_before)
        if not _is_in_use(self._colors):
            _remove_from_scene(self._colors)


def faint_from_noise(noise_hu: float | None) -> float:
    """HU up to which uncertainty says nothing in a scan with this noise (standard deviation, HU; None if unknown)."""
    return max(FAINT_HU, _NOISE_DEVIATIONS * (noise_hu or 0.0))


def uncertainty_color(share: float) -> tuple[float, float, float]:
    """RGB, 0 to 1, of an uncertainty that lies at this share (0 to 1) of the range shown."""
    stops, colors = zip(*_RAMP, strict=True)
    return tuple(float(np.interp(share, stops, channel)) for channel in zip(*colors, strict=True))


def _add_colors(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorTableNode:
    node = scene.CreateNodeByClass(_COLOR_CLASS)
    node.UnRegister(None)  # the reference that CreateNodeByClass hands over
    node.SetName(COLOR_NODE_NAME)
    # One for all overlays, and one still after a scene with it has been loaded into another.
    node.SetSingletonTag(_SINGLETON)
    node.SetTypeToUser()
    node.SetNumberOfColors(_SHADES)
    for index in range(_SHADES):
        # Slicer takes any opacity but 0 for full, so that uncertainty cannot fade in.
        node.SetColor(
            index, f"{index / (_SHADES - 1):.0%}", *uncertainty_color(index / (_SHADES - 1)), float(index > 0)
        )
    return scene.AddNode(node)


def _add_legend(node: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLColorLegendDisplayNode:
    if not node.GetScene().IsNodeClassRegistered(_LEGEND_CLASS):
        # Slicer's Colors module does it; a program with no more than a scene has none.
        node.GetScene().RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(node)
    legend.SetTitleText(LEGEND_TITLE)
    legend.SetLabelFormat("%.0f")
    legend.SetNumberOfLabels(5)
    legend.SetSize(*_LEGEND_SIZE)
    return legend


def _is_in_use(colors: slicer.vtkMRMLColorTableNode) -> bool:
    scene = colors.GetScene()
    displays = scene.GetNumberOfNodesByClass("vtkMRMLDisplayNode") if scene is not None else 0
    return any(
        scene.GetNthNodeByClass(index, "vtkMRMLDisplayNode").GetColorNode() is colors for index in range(displays)
    )


def _remove_from_scene(node: slicer.vtkMRMLNode) -> None:
    if node.GetScene() is not None:
        node.GetScene().RemoveNode(node)
