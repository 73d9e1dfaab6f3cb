"""Volumes that show one frame of a sequence: Slicer calls them proxy nodes."""

from __future__ import annotations

import slicer

BROWSER = "vtkMRMLSequenceBrowserNode"


def browser_of(node: slicer.vtkMRMLNode) -> slicer.vtkMRMLNode | None:
    """The sequence browser that shows its current frame in `node`; None for any other node."""
    scene = node.GetScene()
    if scene is None:
        return None
    for index in range(scene.GetNumberOfNodesByClass(BROWSER)):
        browser = scene.GetNthNodeByClass(index, BROWSER)
        if browser.IsProxyNode(node.GetID()):
            return browser
    return None


def sequence_of(node: slicer.vtkMRMLNode) -> slicer.vtkMRMLNode | None:
    """The sequence of which `node` shows the current frame; None for any other node."""
    browser = browser_of(node)
    return None if browser is None else browser.GetSequenceNode(node)
