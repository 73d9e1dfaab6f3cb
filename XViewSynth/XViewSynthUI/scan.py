"""The chosen scan: why it cannot be worked on, and how to straighten one with irregular slices."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _


def scanRefusal(node: Any | None) -> str | None:
    """Why a volume cannot be worked on; None where it can, if need be after straightening."""
    problem = _problemOf(node)
    return None if problem is None or canHarden(node) else str(problem)


def canHarden(node: Any | None) -> bool:
    """Whether a non-linear transform is all that keeps a volume from being worked on."""
    from XViewSynthScene.volumes import NonLinearTransformError

    return isinstance(_problemOf(node), NonLinearTransformError)


def _problemOf(node: Any | None) -> ValueError | None:
    from XViewSynthScene.scans import check_scan

    try:
        check_scan(node)
    except ValueError as problem:
        return problem
    return None


def hardenAfterQuestion(node: Any) -> bool:
    """Ask whether to resample a scan through its non-linear transform; return whether that was done.

    Raises:
        ValueError: Slicer cannot.
    """
    from XViewSynthScene.volumes import harden_transform

    question = _(
        "The slices of '{name}' form no regular grid (irregular spacing or a tilted gantry): Slicer straightens "
        "them by a non-linear transform. To be enhanced, the volume must be resampled through it, which changes "
        "the volume. Do that now?"
    ).format(name=node.GetName())
    if not slicer.util.confirmYesNoDisplay(question):
        return False
    harden_transform(node)
    return True
