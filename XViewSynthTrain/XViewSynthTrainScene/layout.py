"""The views of a run: observed and before, now and truth in four linked views, loss and gain in plots below."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import slicer
import vtk

from XViewSynthScene.marks import SliceMark
from XViewSynthScene.orientation import turn_to_plane

from .plots import TrainingPlots
from .preview import ROLES

#: ID of the layout; Slicer's own layouts are below 100.
LAYOUT_ID = 70614
#: Slicer links the views of a group; no other views are in this group.
VIEW_GROUP = 70614
#: A plane across the slices of an axial scan, where synthetic slices are visible.
PLANE = "Coronal"

# A held-out region has few slices: fitted to its width it would be a line, so its sides may be cut off.
_LEAST_HEIGHT, _MOST_ZOOM = 0.7, 4.0

LOSS_VIEW, GAIN_VIEW = "XVSTrainLoss", "XVSTrainGain"

# The colour bar of a slice view identifies the view.
_COLORS = {"observed": "#56B4E9", "before": "#E69F00", "now": "#009E73", "truth": "#CC79A7"}

RendererOf = Callable[[str], "vtk.vtkRenderer | None"]


def view_name(role: str) -> str:
    """Layout name of the slice view of a preview volume.

    >>> view_name("now")
    'XVSTrainNow'
    """
    return f"XVSTrain{role.capitalize()}"


def layout_description() -> str:
    """XML of the layout for a `vtkMRMLLayoutNode`: two columns, so that 1280 x 800 pixels are enough for all."""
    slices = [_slice_description(role) for role in ROLES]
    plots = [
        f'<item><view class="vtkMRMLPlotViewNode" singletontag="{name}">'
        f'<property name="viewlabel" action="default">{label}</property></view></item>'
        for name, label in ((LOSS_VIEW, "L"), (GAIN_VIEW, "G"))
    ]
    rows = (slices[:2], slices[2:], plots)
    items = (f'<item><layout type="horizontal" split="true">{"".join(row)}</layout></item>' for row in rows)
    return f'<layout type="vertical" split="true">{"".join(items)}</layout>'


def register_layout(layout_node: slicer.vtkMRMLLayoutNode) -> None:
    """Register the layout, so that a scene saved with it can be loaded; harmless to repeat."""
    if not layout_node.IsLayoutDescription(LAYOUT_ID):
        layout_node.AddLayoutDescription(LAYOUT_ID, layout_description())


def _slice_description(role: str) -> str:
    properties = {
        "orientation": PLANE,
        "viewlabel": role[0].upper(),
        "viewcolor": _COLORS[role],
        "viewgroup": VIEW_GROUP,
    }
    elements = "".join(
        f'<property name="{name}" action="default">{value}</property>' for name, value in properties.items()
    )
    return f'<item><view class="vtkMRMLSliceNode" singletontag="{view_name(role)}">{elements}</view></item>'


class TrainingViews:
    """The layout of a run in Slicer's window.

    Args:
        scene: scene of the nodes.
        layout_node: node of Slicer's layout manager.
        application_logic: holds the slice logics (`slicer.app.applicationLogic()`).
        renderer_of: returns the renderer of a view by its layout name, or None; the corner text is drawn in it.
    """

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        layout_node: slicer.vtkMRMLLayoutNode,
        application_logic: slicer.vtkMRMLApplicationLogic,
        renderer_of: RendererOf | None = None,
    ):
        self._scene, self._layout_node, self._application_logic = scene, layout_node, application_logic
        self._renderer_of = renderer_of or (lambda name: None)
        self._former_layout: int | None = None
        self._marks: dict[str, SliceMark] = {}

    def show(self, plots: TrainingPlots) -> None:
        """Switch to the layout and show the charts in their views."""
        register_layout(self._layout_node)
        if self._layout_node.GetViewArrangement() != LAYOUT_ID:
            self._former_layout = self._layout_node.GetViewArrangement()
            self._layout_node.SetViewArrangement(LAYOUT_ID)
        for name, chart in ((LOSS_VIEW, plots.loss_chart), (GAIN_VIEW, plots.gain_chart)):
            view = self._scene.GetSingletonNode(name, "vtkMRMLPlotViewNode")
            if view is not None:
                # Without this, plots of other modules would replace these.
                view.SetDoPropagatePlotChartSelection(False)
                view.SetPlotChartNodeID(chart.GetID())

    def put_volumes(self, nodes: Mapping[str, slicer.vtkMRMLScalarVolumeNode]) -> None:
        """Show the preview volumes in their views, at the middle of the region.

        Args:
            nodes: volumes by role.
        """
        for role, node in nodes.items():
            slice_node = self._scene.GetSingletonNode(view_name(role), "vtkMRMLSliceNode")
            logic = slice_node and self._application_logic.GetSliceLogic(slice_node)
            if logic:
                self._put(role, node, logic)

    def close(self) -> None:
        """Clear the views and restore the previous layout, unless the user has left it; harmless to repeat."""
        for mark in self._marks.values():
            mark.remove()
        self._marks.clear()
        for role in ROLES:
            composite = self._scene.GetSingletonNode(view_name(role), "vtkMRMLSliceCompositeNode")
            if composite is not None:
                composite.SetBackgroundVolumeID(None)
        for name in (LOSS_VIEW, GAIN_VIEW):
            view = self._scene.GetSingletonNode(name, "vtkMRMLPlotViewNode")
            if view is not None:
                view.SetPlotChartNodeID(None)
        if self._layout_node.GetViewArrangement() == LAYOUT_ID:
            # A scene saved with this layout does not hold the previous one.
            former = self._former_layout
            standard = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
            self._layout_node.SetViewArrangement(standard if former is None else former)
        self._former_layout = None

    def _put(self, role: str, node: slicer.vtkMRMLScalarVolumeNode, logic: slicer.vtkMRMLSliceLogic) -> None:
        slice_node, composite = logic.GetSliceNode(), logic.GetSliceCompositeNode()
        slice_node.SetViewGroup(VIEW_GROUP)
        turn_to_plane(self._scene, slice_node, PLANE, node)
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)
        # Without this, Slicer shows every newly loaded volume in these views.
        composite.SetDoPropagateVolumeSelection(False)
        composite.SetBackgroundVolumeID(node.GetID())
        composite.SetForegroundVolumeID(None)
        composite.SetLabelVolumeID(None)
        width, height, _ = slice_node.GetDimensions()
        logic.FitSliceToVolume(node, width, height)
        bounds = [0.0] * 6
        node.GetRASBounds(bounds)
        _enlarge(slice_node, bounds[5] - bounds[4])
        across = ("Sagittal", "Coronal", "Axial").index(PLANE)
        logic.SetSliceOffset((bounds[2 * across] + bounds[2 * across + 1]) / 2)
        if role not in self._marks:
            self._marks[role] = SliceMark(self._renderer_of(view_name(role)), slice_node)
        self._marks[role].show(node, None, role)


def _enlarge(slice_node: slicer.vtkMRMLSliceNode, height_mm: float) -> None:
    """Zoom in until an object of a height (mm) fills most of the view, up to a maximum zoom."""
    width, height, depth = slice_node.GetFieldOfView()
    zoom = min(_LEAST_HEIGHT * height / height_mm, _MOST_ZOOM) if height_mm else 1.0
    if zoom > 1:
        slice_node.SetFieldOfView(width / zoom, height / zoom, depth)
