"""Check that a volume is a scan, and not a volume that XViewSynth made."""

from __future__ import annotations

import slicer

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.io.dicom.choice import OTHER_MODALITIES

from .dicom import facts_of
from .provenance import ENHANCED_ROLE, PREVIEW_ROLE, UNCERTAINTY_ROLE, input_name, role_of
from .volumes import check_is_scalar_volume, check_volume_node, volume_from_node

_NO_SCANS = {UNCERTAINTY_ROLE: "an uncertainty map and no CT", PREVIEW_ROLE: "the preview of a training"}


def check_scan(node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Raise unless a node is a scan that can be enhanced or checked.

    Raises:
        NonLinearTransformError: as in `check_volume_node`.
        InputError: as in `check_volume_node`, or XViewSynth made the volume, or it comes from a DICOM series of another
            modality than CT.
    """
    check_is_scalar_volume(node)
    role = role_of(node)
    if role in _NO_SCANS:
        raise InputError(f"{node.GetName()!r} is {_NO_SCANS[role]}: choose the scan itself.")
    if role == ENHANCED_ROLE:
        raise InputError(
            f"{node.GetName()!r} holds synthetic slices: choose the scan that it was made from, {input_name(node)!r}."
        )
    check_volume_node(node)
    modality = facts_of(node).modality
    if modality in OTHER_MODALITIES:
        raise InputError(f"{node.GetName()!r} is {modality}, but models are for CT: choose a CT scan.")


def scan_from_node(node: slicer.vtkMRMLScalarVolumeNode | None) -> Volume:
    """The volume of a scan, as `volume_from_node` returns it.

    Raises:
        InputError: as in `check_scan`.
    """
    check_scan(node)
    return volume_from_node(node)
