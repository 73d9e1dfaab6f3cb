"""Sequences of volumes (a heart over its cycle): enhanced frame by frame and shown with the original."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import slicer

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.volume import Volume

from .provenance import (
    INPUT_REFERENCE,
    ROLE_ATTRIBUTE,
    UNCERTAINTY_REFERENCE,
    UNCERTAINTY_ROLE,
    Provenance,
    write_provenance,
)
from .results import UNCERTAINTY_LOOK, place, remove_volume, set_look, show_like, snapshot, unique_name
from .volumes import check_volume_node, set_image_and_geometry, shared_image

BROWSER = "vtkMRMLSequenceBrowserNode"
SEQUENCE = "vtkMRMLSequenceNode"


@dataclass(frozen=True)
class Frame:
    """One volume of a sequence.

    Attributes:
        index_value: its value on the sequence's index ("125"); the sequence holds name and unit of the index ("time",
            "ms").
        node: the volume; it is in the sequence's own scene.
    """

    index_value: str
    node: slicer.vtkMRMLScalarVolumeNode


@dataclass(frozen=True)
class EnhancedFrame:
    """The result of one frame; the uncertainty map (HU) has the grid of the enhanced volume."""

    enhanced: Volume
    uncertainty: Volume | None
    provenance: Provenance


@dataclass(frozen=True)
class SequenceOutput:
    """The nodes of an enhanced sequence in the scene.

    Attributes:
        browser: shows original and enhanced volume at the same frame.
        sequence: the enhanced frames.
        node: the volume that shows the current enhanced frame.
        uncertainty_sequence: the uncertainty maps; None unless every frame has one.
        uncertainty_node: the volume that shows the current uncertainty map; None without one.
    """

    browser: slicer.vtkMRMLNode
    sequence: slicer.vtkMRMLSequenceNode
    node: slicer.vtkMRMLScalarVolumeNode
    uncertainty_sequence: slicer.vtkMRMLSequenceNode | None
    uncertainty_node: slicer.vtkMRMLScalarVolumeNode | None


def browser_of(node: slicer.vtkMRMLNode) -> slicer.vtkMRMLNode | None:
    """The sequence browser that shows its current frame in `node` (Slicer: its proxy node); None for any other node."""
    scene = node.GetScene()
    browsers = [] if scene is None else _browsers(scene)
    return next((browser for browser in browsers if browser.IsProxyNode(node.GetID())), None)


def sequence_of(node: slicer.vtkMRMLNode) -> slicer.vtkMRMLSequenceNode | None:
    """The sequence of which `node` shows the current frame; None for any other node."""
    browser = browser_of(node)
    return None if browser is None else browser.GetSequenceNode(node)


def frames(sequence_node: slicer.vtkMRMLSequenceNode) -> list[Frame]:
    """The volumes of a sequence, in its order.

    Raises:
        InputError: not a sequence, an empty one, or a frame that cannot be enhanced.
    """
    _check_sequence(sequence_node)
    found = [
        Frame(sequence_node.GetNthIndexValue(index), sequence_node.GetNthDataNode(index))
        for index in range(sequence_node.GetNumberOfDataNodes())
    ]
    for number, frame in enumerate(found, start=1):
        try:
            check_volume_node(frame.node)
        except InputError as error:
            raise InputError(
                f"Frame {number} of {len(found)} of the sequence {sequence_node.GetName()!r}: {error}"
            ) from error
    return found


def create_sequence_output(
    sequence_node: slicer.vtkMRMLSequenceNode, results: Sequence[EnhancedFrame], name: str | None = None
) -> SequenceOutput:
    """Add the results of all frames of a sequence to the scene, as a sequence with the same index.

    It is added to the browser of the input, so that both show the same frame; without one, a browser is created. If
    this fails, the scene is restored.

    Args:
        sequence_node: the sequence that was enhanced.
        results: one per frame, in order; the frames take over the memory of the volumes.
        name: of the new sequence, by default "<input> enhanced x<factor>". A number is added if the name exists.

    Raises:
        InputError: not a sequence, or the numbers of results and frames differ.
    """
    _check_sequence(sequence_node)
    if len(results) != sequence_node.GetNumberOfDataNodes():
        raise InputError(
            f"The sequence {sequence_node.GetName()!r} has {sequence_node.GetNumberOfDataNodes()} frames, but there "
            f"are results for {len(results)}: it was changed during the enhancement, so start again."
        )
    name = name or f"{sequence_node.GetName()} enhanced x{results[0].provenance.factor}"
    with ExitStack() as undo:
        enhanced = _sequence_like(sequence_node, name, undo)
        _fill(enhanced, sequence_node, [result.enhanced for result in results], results)
        write_provenance(enhanced, results[0].provenance)
        enhanced.SetNodeReferenceID(INPUT_REFERENCE, sequence_node.GetID())
        uncertainty = None
        if all(result.uncertainty is not None for result in results):
            uncertainty = _sequence_like(sequence_node, f"{sequence_node.GetName()} uncertainty", undo)
            _fill(uncertainty, sequence_node, [result.uncertainty for result in results])
            for index in range(uncertainty.GetNumberOfDataNodes()):
                uncertainty.GetNthDataNode(index).SetAttribute(ROLE_ATTRIBUTE, UNCERTAINTY_ROLE)
            enhanced.SetNodeReferenceID(UNCERTAINTY_REFERENCE, uncertainty.GetID())
        browser = _browser_for(sequence_node, enhanced, undo)
        for sequence in (enhanced, uncertainty):
            if sequence is not None:
                undo.callback(_leave, browser, sequence)
                browser.AddSynchronizedSequenceNode(sequence)
        _sequences_logic().UpdateProxyNodesFromSequences(browser)
        output = SequenceOutput(
            browser=browser,
            sequence=enhanced,
            node=browser.GetProxyNode(enhanced),
            uncertainty_sequence=uncertainty,
            uncertainty_node=browser.GetProxyNode(uncertainty) if uncertainty else None,
        )
        _present(output, browser.GetProxyNode(sequence_node))
        undo.pop_all()
    return output


def _browsers(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLNode]:
    return [scene.GetNthNodeByClass(index, BROWSER) for index in range(scene.GetNumberOfNodesByClass(BROWSER))]


def _check_sequence(node: slicer.vtkMRMLNode | None) -> None:
    if node is None or node.GetScene() is None:
        raise InputError("The sequence is no longer in the scene: choose another one.")
    if not node.IsA(SEQUENCE):
        raise InputError(f"{node.GetName()!r} is not a sequence: choose a sequence of CT volumes.")
    if node.GetNumberOfDataNodes() == 0:
        raise InputError(f"The sequence {node.GetName()!r} is empty: choose another one.")
    if not node.GetScene().IsNodeClassRegistered(BROWSER):
        raise InputError("Slicer's Sequences module is switched off: switch it on in the settings, under Modules.")


def _sequence_like(sequence_node: slicer.vtkMRMLSequenceNode, name: str, undo: ExitStack) -> slicer.vtkMRMLSequenceNode:
    scene = sequence_node.GetScene()
    sequence = scene.AddNewNodeByClass(SEQUENCE, unique_name(scene, name))
    undo.callback(scene.RemoveNode, sequence)
    sequence.SetIndexName(sequence_node.GetIndexName())
    sequence.SetIndexUnit(sequence_node.GetIndexUnit())
    sequence.SetIndexType(sequence_node.GetIndexType())
    sequence.SetNumericIndexValueTolerance(sequence_node.GetNumericIndexValueTolerance())
    return sequence


def _fill(
    sequence: slicer.vtkMRMLSequenceNode,
    like: slicer.vtkMRMLSequenceNode,
    volumes: Sequence[Volume],
    results: Sequence[EnhancedFrame] = (),
) -> None:
    for index, volume in enumerate(volumes):
        empty = slicer.vtkMRMLScalarVolumeNode()
        empty.SetName(sequence.GetName())
        # The sequence copies its argument, so the voxels are set afterwards and not copied.
        node = sequence.SetDataNodeAtValue(empty, like.GetNthIndexValue(index))
        set_image_and_geometry(node, shared_image(volume), volume.affine)
        if results:
            write_provenance(node, results[index].provenance)


def _browser_for(
    sequence_node: slicer.vtkMRMLSequenceNode, enhanced: slicer.vtkMRMLSequenceNode, undo: ExitStack
) -> slicer.vtkMRMLNode:
    scene = sequence_node.GetScene()
    for browser in _browsers(scene):
        if browser.IsSynchronizedSequenceNode(sequence_node, True):
            return browser
    browser = scene.AddNewNodeByClass(BROWSER, unique_name(scene, f"{enhanced.GetName()} browser"))
    undo.callback(scene.RemoveNode, browser)
    browser.SetAndObserveMasterSequenceNodeID(enhanced.GetID())
    return browser


def _leave(browser: slicer.vtkMRMLNode, sequence: slicer.vtkMRMLSequenceNode) -> None:
    proxy = browser.GetProxyNode(sequence)
    browser.RemoveSynchronizedSequenceNode(sequence.GetID())
    if proxy is not None:
        remove_volume(proxy)


def _sequences_logic() -> slicer.vtkSlicerSequencesLogic:
    # Slicer's own logic if there is one; without the application, a new logic does it once.
    module = getattr(getattr(slicer, "modules", None), "sequences", None)
    return slicer.vtkSlicerSequencesLogic() if module is None else module.logic()


def _present(output: SequenceOutput, original: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Display the current enhanced frame like the original, and link the volumes by node references."""
    if original is None:
        show_like(output.node, None)
    else:
        source = snapshot(original)
        show_like(output.node, source.look)
        for node in (output.node, output.uncertainty_node):
            if node is not None:
                place(node, source)
        output.node.SetNodeReferenceID(INPUT_REFERENCE, original.GetID())
    if output.uncertainty_node is not None:
        set_look(output.uncertainty_node, UNCERTAINTY_LOOK)
        output.node.SetNodeReferenceID(UNCERTAINTY_REFERENCE, output.uncertainty_node.GetID())
