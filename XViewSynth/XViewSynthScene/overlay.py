"""The uncertainty map as a coloured overlay: the expected error of the enhanced volume in HU."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import slicer

from .bridging import BridgedMap
from .noise import FAINT_HU
from .results import UNCERTAINTY_LOOK, look_of, set_look

COLOR_NODE_NAME = "XViewSynth uncertainty"
LEGEND_TITLE = "± HU"
DEFAULT_OPACITY = 0.5

# Width and height as shares of the view; the width sets the size of the letters.
_LEGEND_SIZE = (0.085, 0.4)

_COLOR_CLASS, _LEGEND_CLASS = "vtkMRMLColorTableNode", "vtkMRMLColorLegendDisplayNode"
_SINGLETON = "XViewSynthDisagreement"

#: HU from which the colour is full red, unless faint uncertainty already exceeds half of it.
FULL_HU = UNCERTAINTY_LOOK.window

# From low to high uncertainty: yellow, orange, red, which also differ in lightness.
_RAMP = ((0.0, (1.0, 0.93, 0.45)), (0.5, (1.0, 0.55, 0.1)), (1.0, (0.75, 0.0, 0.15)))
_SHADES = 256


class UncertaintyOverlay:
    """An uncertainty map over some views, with a colour legend in HU.

    Faint uncertainty is not coloured; above, it is yellow, then orange, and from 100 HU red, or from twice the faint
    one. No range begins below 20 HU, so a scan without uncertainty stays grey. The map is in the label layer of the
    views: in the foreground layer, Slicer's window/level tool would change the meaning of the colours, and without
    a volume layer Slicer would draw no legend.

    Args:
        uncertainty_node: the map, HU; its display is restored by `remove`.
        composite_nodes: of the views.
        faint_hu: HU up to which nothing is drawn.
        opacity: of the map, 0 (invisible) to 1.

    Raises:
        ValueError: `faint_hu` is negative or not finite, or the opacity is outside 0 to 1.
    """

    def __init__(
        self,
        uncertainty_node: slicer.vtkMRMLScalarVolumeNode,
        composite_nodes: Iterable[slicer.vtkMRMLSliceCompositeNode],
        faint_hu: float = FAINT_HU,
        opacity: float = DEFAULT_OPACITY,
    ):
        if not 0 <= faint_hu < math.inf:
            raise ValueError(f"Uncertainty cannot be shown from {faint_hu:g} HU: give 0 or more.")
        self._node = uncertainty_node
        self._composites = list(composite_nodes)
        self._look_before = look_of(uncertainty_node)
        scene = uncertainty_node.GetScene()
        self._colors = scene.GetSingletonNode(_SINGLETON, _COLOR_CLASS) or _add_colors(scene)
        full_hu = max(FULL_HU, 2 * faint_hu)
        self._limits = faint_hu, full_hu
        window, level = full_hu - faint_hu, (full_hu + faint_hu) / 2
        colors = self._colors.GetID()
        set_look(uncertainty_node, replace(UNCERTAINTY_LOOK, window=window, level=level, color_node_id=colors))
        for composite in self._composites:
            composite.SetLabelVolumeID(uncertainty_node.GetID())
        # A view draws a legend only for a volume that it already shows.
        self._legend = _add_legend(uncertainty_node)
        self._copies: list[BridgedMap] = []
        self._copy_legends: list[slicer.vtkMRMLColorLegendDisplayNode] = []
        self.set_opacity(opacity)

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
    def limits_hu(self) -> tuple[float, float]:
        """HU up to which nothing is drawn, and HU from which the colour is full red."""
        return self._limits

    @property
    def opacity(self) -> float:
        """Opacity of the map, 0 (invisible) to 1."""
        return self._opacity

    @property
    def legend_node(self) -> slicer.vtkMRMLColorLegendDisplayNode:
        """The colour legend in HU."""
        return self._legend

    @property
    def legend_nodes(self) -> list[slicer.vtkMRMLColorLegendDisplayNode]:
        """The legend, and that of the views with a copy of the map."""
        return [self._legend, *self._copy_legends]

    def set_opacity(self, opacity: float) -> None:
        """Set the opacity of the map, 0 to 1; at 0 the legend is hidden too.

        Raises:
            ValueError: outside 0 to 1.
        """
        if not 0 <= opacity <= 1:
            raise ValueError(f"The opacity of the overlay must lie between 0 and 1, not at {opacity:g}.")
        self._opacity = float(opacity)
        for copy in self._copies if opacity > 0 else ():
            copy.fill()
        for composite in self._composites:
            composite.SetLabelOpacity(self._opacity)
        for legend in self.legend_nodes:
            legend.SetVisibility(self._opacity > 0)

    def remove(self) -> None:
        """Remove the map from the views and restore its display; harmless to repeat, or without a scene."""
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


def uncertainty_color(share: float) -> tuple[float, float, float]:
    """RGB, 0 to 1, at this share (0 to 1) of the displayed range."""
    stops, colors = zip(*_RAMP, strict=True)
    return tuple(float(np.interp(share, stops, channel)) for channel in zip(*colors, strict=True))


def _add_colors(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorTableNode:
    node = scene.CreateNodeByClass(_COLOR_CLASS)
    node.UnRegister(None)  # CreateNodeByClass returns an owned reference
    node.SetName(COLOR_NODE_NAME)
    # A singleton stays one node for all overlays, also after a scene with it is loaded into another.
    node.SetSingletonTag(_SINGLETON)
    node.SetTypeToUser()
    node.SetNumberOfColors(_SHADES)
    for index in range(_SHADES):
        # Slicer treats every opacity above 0 as full, so the colours cannot fade in.
        node.SetColor(
            index, f"{index / (_SHADES - 1):.0%}", *uncertainty_color(index / (_SHADES - 1)), float(index > 0)
        )
    return scene.AddNode(node)


def _add_legend(node: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLColorLegendDisplayNode:
    if not node.GetScene().IsNodeClassRegistered(_LEGEND_CLASS):
        # Slicer's Colors module registers the class; a program without that module must do it here.
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
