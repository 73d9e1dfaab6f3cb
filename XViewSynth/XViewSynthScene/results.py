"""The results of an enhancement in the scene: the enhanced volume and its uncertainty map."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import slicer
import vtk

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.volume import Volume

from .provenance import (
    ENHANCED_ROLE,
    INPUT_REFERENCE,
    ROLE_ATTRIBUTE,
    UNCERTAINTY_REFERENCE,
    UNCERTAINTY_ROLE,
    Provenance,
    provenance_attributes,
    restore_attributes,
    uncertainty_node,
    write_provenance,
)
from .volumes import SCALAR_VOLUME, check_is_scalar_volume, ijk_to_ras, set_image_and_geometry, shared_image


@dataclass(frozen=True)
class Look:
    """Display of a volume; window, level and thresholds in HU."""

    window: float
    level: float
    auto_window_level: bool
    lower_threshold: float
    upper_threshold: float
    auto_threshold: bool
    apply_threshold: bool
    interpolate: bool
    invert: bool
    color_node_id: str | None


# Black at 0 HU, the value of all observed slices, and white from 100 HU.
UNCERTAINTY_LOOK = Look(
    window=100.0,
    level=50.0,
    auto_window_level=False,
    lower_threshold=0.0,
    upper_threshold=100.0,
    auto_threshold=False,
    apply_threshold=False,
    interpolate=True,
    invert=False,
    color_node_id=None,
)


@dataclass(frozen=True)
class DisplaySnapshot:
    """The properties of an input that its output inherits, stored in case the input is deleted during the run.

    Attributes:
        name: of the input node.
        node_id: of the input node.
        look: display of the input; None if it is not displayed.
        transform_id: node ID of the input's parent transform.
        parent_item: parent item of the input in the subject hierarchy; None if it is in no hierarchy.
    """

    name: str
    node_id: str
    look: Look | None
    transform_id: str | None
    parent_item: int | None


def snapshot(input_node: slicer.vtkMRMLScalarVolumeNode) -> DisplaySnapshot:
    """The current properties of `input_node` that an output inherits."""
    return DisplaySnapshot(
        name=input_node.GetName() or "",
        node_id=input_node.GetID(),
        look=look_of(input_node),
        transform_id=input_node.GetTransformNodeID(),
        parent_item=_parent_item(input_node),
    )


def check_output_node(
    output_node: slicer.vtkMRMLScalarVolumeNode | None, input_node: slicer.vtkMRMLNode | None
) -> None:
    """Raise unless `output_node` can receive a result; None, for a new node, always can.

    Raises:
        InputError: the node is the input itself, not a scalar volume, or no longer in a scene.
    """
    if output_node is None:
        return
    check_is_scalar_volume(output_node)
    if output_node is input_node:
        raise InputError(
            f"{output_node.GetName()!r} is both input and output, and the observed slices would be lost: choose "
            "another output."
        )


def create_output(
    input_node: slicer.vtkMRMLScalarVolumeNode | None,
    enhanced: Volume,
    uncertainty_map: Volume | None,
    provenance: Provenance,
    output_node: slicer.vtkMRMLScalarVolumeNode | None = None,
    name: str | None = None,
    *,
    snapshot: DisplaySnapshot | None = None,
) -> tuple[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLScalarVolumeNode | None]:
    """Add a result to the scene, with the input's window/level, colours, transform and place in the hierarchy.

    If this fails, the scene is restored.

    Args:
        input_node: the volume that was enhanced; None, or a node without a scene, if it was deleted.
        enhanced: the node takes over its memory, so do not use the volume afterwards.
        uncertainty_map: HU, on the same grid; the node takes over its memory too.
        provenance: written to the output and its storage node.
        output_node: receives the result and keeps its name; by default a new node.
        name: of a new node, by default "<input> enhanced x<factor>". A number is added if the name exists.
        snapshot: taken at the start of the run, used if the input was deleted.

    Returns:
        The output node and the node of the uncertainty map (None without one), linked by the node references of
        `XViewSynthScene.provenance`.

    Raises:
        InputError: the output node cannot receive the result.
    """
    check_output_node(output_node, input_node)
    source = _source(input_node, provenance, snapshot)
    is_there = input_node is not None and input_node.GetScene() is not None
    scene = input_node.GetScene() if is_there else output_node.GetScene() if output_node else slicer.mrmlScene
    name = name or f"{source.name} enhanced x{provenance.factor}"
    # Allocate memory before the scene changes.
    image = shared_image(enhanced)
    uncertainty_image = None if uncertainty_map is None else shared_image(uncertainty_map)

    with ExitStack() as undo:
        output = _node_for(scene, output_node, name, undo)
        # Slicer takes seconds to choose a window for a large volume, so the window is set before the voxels.
        show_like(output, source.look)
        set_image_and_geometry(output, image, enhanced.affine)
        uncertainty = None
        if uncertainty_map is not None:
            uncertainty = _node_for(scene, uncertainty_node(output), f"{source.name} uncertainty", undo)
            set_look(uncertainty, look_of(uncertainty) or UNCERTAINTY_LOOK)
            set_image_and_geometry(uncertainty, uncertainty_image, uncertainty_map.affine)
            uncertainty.SetAttribute(ROLE_ATTRIBUTE, UNCERTAINTY_ROLE)
        for node in (output, uncertainty):
            if node is not None:
                place(node, source)
        output.SetNodeReferenceID(UNCERTAINTY_REFERENCE, uncertainty.GetID() if uncertainty else None)
        output.SetNodeReferenceID(INPUT_REFERENCE, input_node.GetID() if is_there else None)
        write_provenance(output, provenance)
        output.SetAttribute(ROLE_ATTRIBUTE, ENHANCED_ROLE)
        undo.pop_all()
    return output, uncertainty


def look_of(node: slicer.vtkMRMLScalarVolumeNode) -> Look | None:
    """Current display of a volume; None if it is not displayed."""
    display = node.GetScalarVolumeDisplayNode()
    if display is None:
        return None
    return Look(
        window=display.GetWindow(),
        level=display.GetLevel(),
        auto_window_level=bool(display.GetAutoWindowLevel()),
        lower_threshold=display.GetLowerThreshold(),
        upper_threshold=display.GetUpperThreshold(),
        auto_threshold=bool(display.GetAutoThreshold()),
        apply_threshold=bool(display.GetApplyThreshold()),
        interpolate=bool(display.GetInterpolate()),
        invert=bool(display.GetInvertDisplayScalarRange()),
        color_node_id=display.GetColorNodeID(),
    )


def set_look(node: slicer.vtkMRMLScalarVolumeNode, look: Look) -> None:
    """Set the display of a volume; a display node is created if there is none."""
    if node.GetScalarVolumeDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    display = node.GetScalarVolumeDisplayNode()
    was_modifying = display.StartModify()
    try:
        display.SetAutoWindowLevel(look.auto_window_level)
        display.SetWindowLevel(look.window, look.level)
        display.SetAutoThreshold(look.auto_threshold)
        display.SetThreshold(look.lower_threshold, look.upper_threshold)
        display.SetApplyThreshold(look.apply_threshold)
        display.SetInterpolate(look.interpolate)
        display.SetInvertDisplayScalarRange(look.invert)
        if look.color_node_id is not None:
            display.SetAndObserveColorNodeID(look.color_node_id)
    finally:
        display.EndModify(was_modifying)


def show_like(node: slicer.vtkMRMLScalarVolumeNode, look: Look | None) -> None:
    """Display a result like its input; `look` is None if the input is not displayed.

    An automatic window/level of the input becomes fixed, because Slicer would choose another one for the output.
    """
    if look is not None:
        # A window of 0 or less means that Slicer has not computed it yet.
        choose = look.auto_window_level and look.window <= 0
        set_look(node, replace(look, auto_window_level=choose, auto_threshold=False))
    elif node.GetScalarVolumeDisplayNode() is None:
        node.CreateDefaultDisplayNodes()


def place(node: slicer.vtkMRMLScalarVolumeNode, source: DisplaySnapshot) -> None:
    """Put a volume under the transform and the subject hierarchy item of the input."""
    scene = node.GetScene()
    transform_id = source.transform_id
    exists = transform_id is not None and scene.GetNodeByID(transform_id) is not None
    node.SetAndObserveTransformNodeID(transform_id if exists else None)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if source.parent_item is not None and _exists(hierarchy, source.parent_item):
        # Slicer's application creates the item for a new node; a program without it must do so here.
        item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(source.parent_item, node)
        hierarchy.SetItemParent(item, source.parent_item)


def unique_name(scene: slicer.vtkMRMLScene, name: str) -> str:
    """`name`, with a number if a node already has that name."""
    return scene.GenerateUniqueName(name) if scene.GetFirstNodeByName(name) else name


def remove_volume(node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Remove a volume with its display and storage nodes and its subject hierarchy item."""
    scene = node.GetScene()
    if scene is None:
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.RemoveItem(item, False, False)
    displays = [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    for each in [*displays, node.GetStorageNode(), node]:
        if each is not None:
            scene.RemoveNode(each)


def _source(
    input_node: slicer.vtkMRMLScalarVolumeNode | None, provenance: Provenance, earlier: DisplaySnapshot | None
) -> DisplaySnapshot:
    if input_node is not None and input_node.GetScene() is not None:
        return snapshot(input_node)
    return earlier or DisplaySnapshot(provenance.input_name, provenance.input_node_id, None, None, None)


def _node_for(
    scene: slicer.vtkMRMLScene, existing: slicer.vtkMRMLScalarVolumeNode | None, name: str, undo: ExitStack
) -> slicer.vtkMRMLScalarVolumeNode:
    """The node to fill, existing or new; `undo` receives the call that restores it."""
    if existing is not None:
        undo.callback(_restorer(existing))
        return existing
    node = scene.AddNewNodeByClass(SCALAR_VOLUME, unique_name(scene, name))
    undo.callback(remove_volume, node)
    return node


def _restorer(node: slicer.vtkMRMLScalarVolumeNode) -> Callable[[], None]:
    before, image, affine = snapshot(node), node.GetImageData(), ijk_to_ras(node)
    attributes, role_before = provenance_attributes(node), node.GetAttribute(ROLE_ATTRIBUTE)
    references = {role: node.GetNodeReferenceID(role) for role in (INPUT_REFERENCE, UNCERTAINTY_REFERENCE)}

    def restore() -> None:
        set_image_and_geometry(node, image, affine)
        for role, node_id in references.items():
            node.SetNodeReferenceID(role, node_id)
        restore_attributes(node, attributes)
        node.SetAttribute(ROLE_ATTRIBUTE, role_before)
        place(node, before)
        if before.look is not None:
            set_look(node, before.look)
        else:
            _remove_displays(node)

    return restore


def _remove_displays(node: slicer.vtkMRMLScalarVolumeNode) -> None:
    for display in [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]:
        node.GetScene().RemoveNode(display)


def _parent_item(node: slicer.vtkMRMLNode) -> int | None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node)
    return hierarchy.GetItemParent(item) if item else None


def _exists(hierarchy: slicer.vtkMRMLSubjectHierarchyNode, item: int) -> bool:
    below = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), below, True)
    return item == hierarchy.GetSceneItemID() or below.IsId(item) >= 0
