"""Check the chosen scan, and straighten scans with irregular slices."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _


def scanRefusal(node: Any | None) -> str | None:
    """The reason why a volume cannot be used; None if it can, also after straightening."""
    problem = _problemOf(node)
    return None if problem is None or canHarden(node) else str(problem)


def canHarden(node: Any | None) -> bool:
    """Whether a non-linear transform is the only problem of a volume."""
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
    """Ask the user, then resample a scan through its non-linear transform; return whether it was resampled.

    Raises:
        ValueError: Slicer cannot resample it.
    """
    from XViewSynthScene.volumes import harden_transform

    question = _(
        "The slices of '{name}' form no regular grid (irregular spacing or a tilted gantry), so Slicer has added "
        "a non-linear transform. XViewSynth needs the volume resampled through this transform, which changes the "
        "volume. Resample it now?"
    ).format(name=node.GetName())
    if not slicer.util.confirmYesNoDisplay(question):
        return False
    harden_transform(node)
    return True
