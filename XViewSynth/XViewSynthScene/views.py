"""Six linked views: the original above, the enhanced volume below, in axial, coronal and sagittal.

They scroll, pan and zoom together and share window/level. In the enhanced views the original can be faded in, and the
uncertainty map is a coloured overlay.

The views are named after the patient's planes and rotated to the nearest axes of the volume, so that they show the
voxels without resampling. The views in the plane of the slices mark the synthetic slices: for example the sagittal
views of a scan that was acquired sagittally.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import slicer
import vtk
from slicer.util import VTKObservationMixin

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.volume import affine_column

from .bridging import BridgedMap
from .crosshair import Crosshair, show_position
from .curtain import Curtain
from .layout import (
    ENHANCED,
    LAYOUT_ID,
    ORIGINAL,
    PLANES,
    ROWS,
    VIEW_GROUP,
    register_layout,
    view_label,
    view_name,
    view_names,
)
from .marks import SliceMark, ijk_to_world
from .noise import faint_hu
from .orientation import axis_across, turn_to_plane
from .overlay import DEFAULT_OPACITY, UncertaintyOverlay
from .provenance import Provenance, read_provenance
from .volumes import array_from_matrix

RendererOf = Callable[[str], "vtk.vtkRenderer | None"]


@dataclass(frozen=True)
class _View:
    slice_node: slicer.vtkMRMLSliceNode
    composite_node: slicer.vtkMRMLSliceCompositeNode
    logic: slicer.vtkMRMLSliceLogic


class LinkedViews(VTKObservationMixin):
    """The linked views of one scene.

    In Slicer's window they form their own layout. Without a layout node the slice nodes are created here, for programs
    that draw views of these names, or no views.

    Args:
        scene: the scene with the volumes.
        layout_node: node of Slicer's layout manager; None without a window.
        application_logic: holds the slice logics of the drawn views (`slicer.app.applicationLogic()`).
        renderer_of: returns the renderer of a view by its layout name, or None; the corner marks are drawn in it.
        process_events: processes the events of the window once; before, new views have no size.
    """

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        layout_node: slicer.vtkMRMLLayoutNode | None = None,
        application_logic: slicer.vtkMRMLApplicationLogic | None = None,
        renderer_of: RendererOf | None = None,
        process_events: Callable[[], None] | None = None,
    ):
        super().__init__()
        self._scene = scene
        self._layout_node = layout_node
        self._application_logic = application_logic
        self._renderer_of = renderer_of or (lambda name: None)
        self._process_events = process_events or (lambda: None)
        self._former_layout: int | None = None
        self._own_logics: list[slicer.vtkMRMLSliceLogic] = []
        self._own_nodes: set[tuple[str, str]] = set()  # class and layout name
        self._views: dict[str, _View] = {}
        self._original: slicer.vtkMRMLScalarVolumeNode | None = None
        self._enhanced: slicer.vtkMRMLScalarVolumeNode | None = None
        self._provenance: Provenance | None = None
        self._overlay: UncertaintyOverlay | None = None
        self._marks: dict[str, SliceMark] = {}
        self._fade = 0.0
        self._following = False
        self._crosshair = Crosshair(scene)
        self._curtains: list[Curtain] = []
        # Whether Slicer interpolated the original before it was shown as acquired; None while it is shown as before.
        self._interpolated_before: bool | None = None

    @property
    def shown(self) -> bool:
        """Whether the views show a pair of volumes."""
        return self._enhanced is not None

    @property
    def fade(self) -> float:
        """Opacity of the original over the enhanced volume: 0 to 1."""
        return self._fade

    @property
    def overlay(self) -> UncertaintyOverlay | None:
        """The uncertainty map over the enhanced views; None without one."""
        return self._overlay

    @property
    def provenance(self) -> Provenance | None:
        """How the enhanced volume was made; None if that is unknown, or nothing is shown."""
        return self._provenance

    @property
    def marks(self) -> dict[str, SliceMark]:
        """The line in the corner of each view, by layout name."""
        return dict(self._marks)

    def slice_node(self, row: str, plane: str) -> slicer.vtkMRMLSliceNode:
        """Slice node of a view while a pair is shown; `row` is "Original" or "Enhanced"."""
        return self._views[view_name(row, plane)].slice_node

    def composite_node(self, row: str, plane: str) -> slicer.vtkMRMLSliceCompositeNode:
        """Composite node of a view while a pair is shown: it names the volumes of the view."""
        return self._views[view_name(row, plane)].composite_node

    def show(
        self,
        original_node: slicer.vtkMRMLScalarVolumeNode,
        enhanced_node: slicer.vtkMRMLScalarVolumeNode,
        uncertainty_node: slicer.vtkMRMLScalarVolumeNode | None = None,
        provenance: Provenance | None = None,
        opacity: float = DEFAULT_OPACITY,
    ) -> None:
        """Show a pair of volumes instead of the previous pair, and switch to the layout.

        Args:
            original_node: the scan.
            enhanced_node: the enhanced volume.
            uncertainty_node: its uncertainty map, HU, for the overlay.
            provenance: of the enhanced volume; by default read from its node.
            opacity: of the map, 0 (invisible) to 1.

        Raises:
            InputError: a volume is missing, not in this scene, or has no voxels.
        """
        given = {"original": original_node, "enhanced": enhanced_node}
        if uncertainty_node is not None:
            given["uncertainty"] = uncertainty_node
        self._check(given)
        self._forget()
        self._switch_layout()
        # Fitting or moving a view without a size has no effect.
        self._process_events()
        # Event handlers may have removed a volume, or shown another pair.
        self._check(given)
        self._forget()
        self._views = {name: self._view(name) for name in view_names()}
        self._original, self._enhanced = original_node, enhanced_node
        self._provenance = provenance or read_provenance(enhanced_node)
        self._fade = 0.0
        for name, view in self._views.items():
            self._prepare(name, view)
        if uncertainty_node is not None:
            self._overlay = self._make_overlay(uncertainty_node, opacity)
        self._share_window_level(original_node, enhanced_node)
        self.fit()
        self._mark_views()
        self._observe()

    def jump_to(self, position: tuple[float, float, float]) -> None:
        """Show a place in every view, and mark it with Slicer's crosshair.

        Args:
            position: RAS of the world, mm.
        """
        for view in self._views.values():
            show_position(view.slice_node, position)
        self._crosshair.show(position)

    def fit(self) -> None:
        """Fit every view to its whole plane, at the middle slice of the enhanced volume."""
        for plane in PLANES if self.shown else ():
            upper, lower = (self._views[view_name(row, plane)] for row in ROWS)
            width, height, _ = lower.slice_node.GetDimensions()
            # The original extends half a thick slice further, so the views fit it.
            lower.logic.FitSliceToVolume(self._original, width, height)
            self._move_together(lower.slice_node, upper.slice_node)

    def set_fade(self, fraction: float) -> None:
        """Set the opacity of the original in the enhanced views: 0 hides it, 1 hides the enhanced volume.

        Raises:
            ValueError: outside 0 to 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"The original can be faded in from 0 to 1, not to {fraction:g}.")
        self._fade = float(fraction)
        for plane in PLANES if self.shown else ():
            self.composite_node(ENHANCED, plane).SetForegroundOpacity(self._fade)
            self._mark(ENHANCED, plane)

    def set_divider(self, position: float) -> None:
        """Show the original to the left of a divider in the enhanced views, where they are drawn.

        Args:
            position: of the divider, 0 (left edge: no divider) to 1 (right edge).

        Raises:
            ValueError: outside 0 to 1.
        """
        if not 0 <= position <= 1:
            raise ValueError(f"The divider can be placed from 0 to 1, not at {position:g}.")
        if position > 0 and not self._curtains:
            views = [self._views[view_name(ENHANCED, plane)] for plane in PLANES] if self.shown else []
            drawn = [(self._renderer_of(view.slice_node.GetLayoutName()), view.logic) for view in views]
            self._curtains = [Curtain(renderer, logic) for renderer, logic in drawn if renderer is not None]
        for curtain in self._curtains:
            curtain.move(float(position))

    def set_as_acquired(self, enabled: bool) -> None:
        """Show the voxels of the original as they were acquired, without interpolation, or as before."""
        display = self._original.GetScalarVolumeDisplayNode() if self.shown else None
        if display is None or enabled == (self._interpolated_before is not None):
            return
        if enabled:
            self._interpolated_before = bool(display.GetInterpolate())
            display.SetInterpolate(False)
        else:
            display.SetInterpolate(self._interpolated_before)
            self._interpolated_before = None

    def swap(self) -> None:
        """Switch the enhanced views between original and enhanced volume."""
        self.set_fade(0.0 if self._fade >= 0.5 else 1.0)

    #: One step of blinking between original and enhanced; the caller owns the timer.
    toggle = swap

    def restore_former_layout(self) -> None:
        """Restore the previous layout, unless the user has already left the linked views."""
        node, former = self._layout_node, self._former_layout
        if node is not None and node.GetViewArrangement() == LAYOUT_ID:
            # A scene saved with the linked views does not hold the previous layout.
            node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView if former is None else former)
        self._former_layout = None

    def close(self) -> None:
        """Restore the previous layout and remove everything that was created here; harmless to repeat.

        Views of Slicer's layout manager stay and are empty, like all its views.
        """
        self._forget()
        self.restore_former_layout()
        self._release_logics()
        for class_name, name in self._own_nodes:
            node = self._scene.GetSingletonNode(name, class_name)
            if node is not None:
                self._scene.RemoveNode(node)
        self._own_nodes.clear()

    def _check(self, given: Mapping[str, slicer.vtkMRMLScalarVolumeNode | None]) -> None:
        for role, node in given.items():
            if node is None or node.GetScene() is not self._scene:
                raise InputError(f"The linked views need the {role} volume: choose one of this scene.")
            if node.GetImageData() is None:
                raise InputError(f"The {role} volume {node.GetName()!r} has no voxels: choose another one.")

    def _switch_layout(self) -> None:
        node = self._layout_node
        if node is not None:
            register_layout(node)
            if node.GetViewArrangement() != LAYOUT_ID:
                self._former_layout = node.GetViewArrangement()
                node.SetViewArrangement(LAYOUT_ID)

    def _view(self, name: str) -> _View:
        slice_node = self._scene.GetSingletonNode(name, "vtkMRMLSliceNode")
        logic = self._logic_of(slice_node)
        if logic is None:
            logic = self._own_logic(slice_node, name)
        return _View(logic.GetSliceNode(), logic.GetSliceCompositeNode(), logic)

    def _logic_of(self, slice_node: slicer.vtkMRMLSliceNode | None) -> slicer.vtkMRMLSliceLogic | None:
        known = self._application_logic.GetSliceLogics() if self._application_logic is not None else None
        if slice_node is None or known is None:
            return next((logic for logic in self._own_logics if logic.GetSliceNode() is slice_node is not None), None)
        return self._application_logic.GetSliceLogic(slice_node)

    def _own_logic(self, slice_node: slicer.vtkMRMLSliceNode | None, name: str) -> slicer.vtkMRMLSliceLogic:
        logic = slicer.vtkMRMLSliceLogic()
        if self._application_logic is not None:
            logic.SetMRMLApplicationLogic(self._application_logic)
            if self._application_logic.GetSliceLogics() is not None:
                self._application_logic.GetSliceLogics().AddItem(logic)
        logic.SetMRMLScene(self._scene)
        for class_name in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode"):
            if self._scene.GetSingletonNode(name, class_name) is None:
                self._own_nodes.add((class_name, name))
        # Both calls create the composite node if there is none.
        if slice_node is None:
            logic.AddSliceNode(name)
        else:
            logic.SetSliceNode(slice_node)
        self._own_logics.append(logic)
        return logic

    def _release_logics(self) -> None:
        for logic in self._own_logics:
            if self._application_logic is not None and self._application_logic.GetSliceLogics() is not None:
                self._application_logic.GetSliceLogics().RemoveItem(logic)
            # A logic without a scene would leave its slice models (planes in 3D views) in the scene.
            logic.DeleteSliceModel()
            logic.SetMRMLScene(None)
        self._own_logics.clear()

    def _prepare(self, name: str, view: _View) -> None:
        row, plane = next((row, plane) for row in ROWS for plane in PLANES if view_name(row, plane) == name)
        node, composite = view.slice_node, view.composite_node
        node.SetViewGroup(VIEW_GROUP)
        node.SetLayoutLabel(view_label(row, plane))
        turn_to_plane(self._scene, node, plane, self._enhanced)
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)
        # Without this, Slicer shows every newly loaded volume in these views.
        composite.SetDoPropagateVolumeSelection(False)
        background, faded_in = (self._original, None) if row == ORIGINAL else (self._enhanced, self._original)
        composite.SetBackgroundVolumeID(background.GetID())
        composite.SetForegroundVolumeID(faded_in and faded_in.GetID())
        composite.SetForegroundOpacity(self._fade)
        composite.SetLabelVolumeID(None)

    def _make_overlay(self, node: slicer.vtkMRMLScalarVolumeNode, opacity: float) -> UncertaintyOverlay:
        """The map in the view along the slices, and where slices were observed, its copy in the views across them."""
        along = {plane: self.composite_node(ENHANCED, plane) for plane in PLANES}
        across = []
        to_world = ijk_to_world(self._enhanced)
        if self._provenance is not None and self._provenance.observed_slices > 0 and to_world is not None:
            axis = affine_column(self._provenance.axis)
            planes = [plane for plane in PLANES if axis_across(to_world, PLANES[plane].normal) != axis]
            across = [along.pop(plane) for plane in planes]
        faint = faint_hu(self._original, self._enhanced, node)
        overlay = UncertaintyOverlay(node, along.values(), faint, opacity)
        if across:
            overlay.show_copy(BridgedMap(node, self._provenance), across)
        return overlay

    def _mark_views(self) -> None:
        for row in ROWS:
            for plane in PLANES:
                name = view_name(row, plane)
                self._marks[name] = SliceMark(self._renderer_of(name), self.slice_node(row, plane))
                self._mark(row, plane)

    def _mark(self, row: str, plane: str) -> None:
        mark = self._marks.get(view_name(row, plane))
        if mark is None:
            return
        provenance = self._provenance
        if row == ORIGINAL or self._fade >= 0.5:
            mark.show(self._original, provenance and _all_observed(provenance, self._original), "original")
        else:
            factor = f" x{provenance.factor}" if provenance else ""
            mark.show(self._enhanced, provenance, f"enhanced{factor}")

    def _observe(self) -> None:
        for view in self._views.values():
            self.addObserver(view.slice_node, vtk.vtkCommand.ModifiedEvent, self._on_slice_modified)
        for plane in PLANES:
            self.addObserver(self.composite_node(ENHANCED, plane), vtk.vtkCommand.ModifiedEvent, self._on_faded)
        for display in {node.GetScalarVolumeDisplayNode() for node in (self._original, self._enhanced)}:
            if display is not None:
                self.addObserver(display, vtk.vtkCommand.ModifiedEvent, self._on_display_modified)
        self.addObserver(self._scene, slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._on_node_removed)
        self.addObserver(self._scene, slicer.vtkMRMLScene.StartCloseEvent, self._on_scene_close)

    def _forget(self) -> None:
        """Clear the views and stop observing them."""
        self.removeObservers()
        self.set_as_acquired(False)
        for part in (*self._marks.values(), *self._curtains):
            part.remove()
        self._curtains = []
        self._marks = {}
        if self._overlay is not None:
            self._overlay.remove()
            self._overlay = None
        for view in self._views.values():
            composite = view.composite_node
            composite.SetBackgroundVolumeID(None)
            composite.SetForegroundVolumeID(None)
        self._crosshair.remove()
        self._views = {}
        self._original = self._enhanced = self._provenance = None

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_node_removed(self, _scene: object, _event: str, node: slicer.vtkMRMLNode) -> None:
        if node is self._original or node is self._enhanced:
            self._forget()
        elif self._overlay is not None and node is self._overlay.uncertainty_node:
            self._overlay.remove()
            self._overlay = None

    def _on_scene_close(self, *_: object) -> None:
        self._forget()
        # A closing scene removes the nodes from their logics; the next `show` creates new ones.
        self._release_logics()

    def _on_slice_modified(self, node: slicer.vtkMRMLSliceNode, _event: str) -> None:
        # Slicer links mouse actions only; this links the two views of a plane for every change.
        with self._exclusively() as exclusive:
            if exclusive:
                for plane in PLANES:
                    pair = [self.slice_node(row, plane) for row in ROWS]
                    if node in pair:
                        self._move_together(node, pair[1 - pair.index(node)])

    def _on_faded(self, composite: slicer.vtkMRMLSliceCompositeNode, _event: str) -> None:
        # Slicer's own slider also fades, in all linked views or in one.
        faded = composite.GetForegroundOpacity() if composite.GetForegroundVolumeID() else 0.0
        if faded != self._fade:
            self.set_fade(faded)

    def _on_display_modified(self, display: slicer.vtkMRMLScalarVolumeDisplayNode, _event: str) -> None:
        with self._exclusively() as exclusive:
            if exclusive:
                for node in (self._original, self._enhanced):
                    if node.GetScalarVolumeDisplayNode() is not display:
                        share_window_level(display, node.GetScalarVolumeDisplayNode())

    def _share_window_level(
        self, source: slicer.vtkMRMLScalarVolumeNode, target: slicer.vtkMRMLScalarVolumeNode
    ) -> None:
        share_window_level(source.GetScalarVolumeDisplayNode(), target.GetScalarVolumeDisplayNode())

    @contextmanager
    def _exclusively(self) -> Iterator[bool]:
        """Yield False while a change is being passed to other views, so that it does not return."""
        before, self._following = self._following, True
        try:
            yield not before
        finally:
            self._following = before

    @staticmethod
    def _move_together(source: slicer.vtkMRMLSliceNode, target: slicer.vtkMRMLSliceNode) -> None:
        """Copy plane, pan and zoom from one view to another."""
        place = array_from_matrix(source.GetSliceToRAS())
        # Slicer keeps the height in mm when a view is resized, so heights are compared.
        height = source.GetFieldOfView()[1]
        same = (
            np.allclose(place, array_from_matrix(target.GetSliceToRAS()), rtol=0, atol=1e-6)
            and np.allclose(source.GetXYZOrigin(), target.GetXYZOrigin(), rtol=0, atol=1e-6)
            and np.isclose(height, target.GetFieldOfView()[1], rtol=1e-6, atol=0)
        )
        if same:
            return
        was_modifying = target.StartModify()
        try:
            target.GetSliceToRAS().DeepCopy(source.GetSliceToRAS())
            target.SetXYZOrigin(*source.GetXYZOrigin())
            columns, rows, _ = target.GetDimensions()
            target.SetFieldOfView(height * columns / rows, height, target.GetFieldOfView()[2])
            target.UpdateMatrices()
        finally:
            target.EndModify(was_modifying)


def _all_observed(provenance: Provenance, node: slicer.vtkMRMLScalarVolumeNode) -> Provenance:
    slices = node.GetImageData().GetDimensions()["IJK".index(provenance.axis)]
    return replace(provenance, synthetic_slices=(), observed_slices=slices)


def share_window_level(
    source: slicer.vtkMRMLScalarVolumeDisplayNode | None, target: slicer.vtkMRMLScalarVolumeDisplayNode | None
) -> None:
    """Copy window and level from one display to another; harmless if a volume is not displayed."""
    if source is None or target is None:
        return
    window_level = (source.GetWindow(), source.GetLevel())
    # An automatic window would follow the range of the other volume.
    if (target.GetWindow(), target.GetLevel()) != window_level or target.GetAutoWindowLevel():
        was_modifying = target.StartModify()
        target.SetAutoWindowLevel(False)
        target.SetWindowLevel(*window_level)
        target.EndModify(was_modifying)
