"""DICOM data of a scan: the files that it was loaded from, and the facts that the application's database holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer

from XViewSynthLib.io.dicom.files import is_dicom
from XViewSynthLib.io.dicom.slices import thickness_in
from XViewSynthLib.system.streams import visible

#: Attribute of a volume that Slicer's DICOM module has loaded: the UIDs of its images, separated by spaces.
INSTANCES_ATTRIBUTE = "DICOM.instanceUIDs"

_MODALITY_TAG, _THICKNESS_TAG, _KERNEL_TAG = "0008,0060", "0018,0050", "0018,1210"
# Slice thicknesses that differ by less are one, as in the engine.
_THICKNESS_TOLERANCE = 0.01


@dataclass(frozen=True)
class DicomFacts:
    """What the images of a scan state.

    Attributes:
        modality: such as "CT"; empty if unknown.
        slice_thickness: mm; None if the images do not state one, or differ.
        kernel: convolution kernel of the reconstruction, such as "B70f"; empty if unknown.
    """

    modality: str = ""
    slice_thickness: float | None = None
    kernel: str = ""


def instances_of(node: slicer.vtkMRMLNode) -> list[str]:
    """UIDs of the images of a volume from a DICOM series, whose slices Slicer puts along K; empty for other volumes."""
    return (node.GetAttribute(INSTANCES_ATTRIBUTE) or "").split()


def facts_of(node: slicer.vtkMRMLNode) -> DicomFacts:
    """The facts of a scan, from the DICOM database; the modality also from the scene, which keeps it when saved."""
    instances, database = instances_of(node), getattr(slicer, "dicomDatabase", None)
    if not instances or database is None:
        return DicomFacts(modality=_modality_in_scene(node))
    # Three images stand for all: a series can have a thousand, and every value is a query.
    first, middle, last = instances[0], instances[len(instances) // 2], instances[-1]
    stated = [thickness_in(_value(database, image, _THICKNESS_TAG)) for image in (first, middle, last)]
    return DicomFacts(
        modality=_value(database, first, _MODALITY_TAG).upper() or _modality_in_scene(node),
        slice_thickness=_common(stated),
        kernel=_value(database, first, _KERNEL_TAG).replace("\\", " "),
    )


def describe_facts(facts: DicomFacts) -> str:
    """One line on what the images state; empty if they state nothing that matters for a plan.

    >>> describe_facts(DicomFacts("CT", 5.0, "B70f"))
    'DICOM: slices 5 mm thick, kernel B70f'
    """
    thickness = f"slices {facts.slice_thickness:.3g} mm thick" if facts.slice_thickness else ""
    kernel = f"kernel {visible(facts.kernel)}" if facts.kernel else ""
    parts = ", ".join(filter(None, (thickness, kernel)))
    return parts and f"DICOM: {parts}"


def is_in_database(node: slicer.vtkMRMLNode) -> bool:
    """Whether the DICOM database that is open has the images of a scan."""
    instances, database = instances_of(node), open_database()
    return bool(instances) and database is not None and bool(database.fileForInstance(instances[0]))


def open_database() -> Any | None:
    """The application's DICOM database (ctkDICOMDatabase); None if there is none, or if it is closed."""
    database = getattr(slicer, "dicomDatabase", None)
    return database if database is not None and database.isOpen else None


def database_files(node: slicer.vtkMRMLNode) -> dict[str, Path]:
    """Files of a scan's images by their UIDs, from the DICOM database; "." for an image that it does not have."""
    database = open_database()
    return {} if database is None else {uid: Path(database.fileForInstance(uid)) for uid in instances_of(node)}


def loaded_files(node: slicer.vtkMRMLStorableNode) -> list[Path]:
    """DICOM files that a volume was loaded from without the database; empty for other volumes."""
    storage = node.GetStorageNode()
    if storage is None:
        return []
    names = [storage.GetFileName(), *map(storage.GetNthFileName, range(storage.GetNumberOfFileNames()))]
    files = [Path(name) for name in dict.fromkeys(filter(None, names))]
    return files if files and all(path.is_file() and is_dicom(path) for path in (files[0], files[-1])) else []


def _value(database: Any, instance: str, tag: str) -> str:
    return (database.instanceValue(instance, tag) or "").strip()


def _common(thicknesses: list[float | None]) -> float | None:
    stated = [value for value in thicknesses if value is not None]
    if len(stated) < len(thicknesses) or max(stated) - min(stated) > _THICKNESS_TOLERANCE * min(stated):
        return None
    return sorted(stated)[len(stated) // 2]


def _modality_in_scene(node: slicer.vtkMRMLNode) -> str:
    # GetSubjectHierarchyNode would add a hierarchy to a scene without one.
    scene = node.GetScene()
    hierarchy = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode") if scene is not None else None
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    attribute = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMSeriesModalityAttributeName()
    return (hierarchy.GetItemAttribute(item, attribute) or "").upper() if item else ""
