"""Provenance of an enhanced volume: its input, its model, and which of its slices are synthetic.

Attributes of the node and of its storage node hold it, so it is saved and loaded with the scene.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cached_property

import slicer

from XViewSynthLib.geometry.volume import AXES, Axis, affine_column

PREFIX = "XViewSynth."
INPUT_REFERENCE = f"{PREFIX}Input"
# The name in scenes saved by versions that called the uncertainty map a disagreement map.
UNCERTAINTY_REFERENCE = f"{PREFIX}Disagreement"

#: Attribute of nodes that XViewSynth made: the purpose of the volume. Scans have none.
ROLE_ATTRIBUTE = f"{PREFIX}Role"
ENHANCED_ROLE, UNCERTAINTY_ROLE, PREVIEW_ROLE = "enhanced", "uncertainty", "preview"

_ATTRIBUTES = {
    "model": "Model",
    "model_sha256": "ModelSHA256",
    "factor": "Factor",
    "axis": "Axis",
    "acquisition": "Acquisition",
    "synthetic_slices": "SyntheticSlices",
    "observed_slices": "ObservedSlices",
    "input_node_id": "InputNodeID",
    "input_name": "InputName",
    "software_version": "SoftwareVersion",
    "created": "Created",
    "quality": "Quality",
    "texture": "Texture",
    "slice_thickness": "SliceThickness",
    "model_version": "ModelVersion",
}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Provenance:
    """How an enhanced volume was made.

    Attributes:
        model: name of the model that predicted the synthetic slices.
        model_sha256: checksum of its weights, 64 hexadecimal digits.
        factor: up-sampling factor.
        axis: the volume axis that got more slices.
        acquisition: assumed acquisition of the input, "gap" or "thick".
        synthetic_slices: indices along `axis` of the synthetic slices, ascending.
        observed_slices: number of observed slices.
        input_node_id: node of the input; "" if it left the scene before the result came.
        input_name: name of the input at that time.
        software_version: of XViewSynth.
        created: ISO 8601, UTC.
        quality: "standard" or "best"; None if unknown (scenes of older versions).
        texture: "match" if synthetic slices got the noise of observed ones, else "keep"; None if unknown.
        slice_thickness: of the volume's slices, mm; None if unknown.
        model_version: of the model; None if unknown.

    Raises:
        ValueError: a value is invalid.
    """

    model: str
    model_sha256: str
    factor: int
    axis: Axis
    acquisition: str
    synthetic_slices: tuple[int, ...]
    observed_slices: int
    input_node_id: str
    input_name: str
    software_version: str
    created: str
    quality: str | None = None
    texture: str | None = None
    slice_thickness: float | None = None
    model_version: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "synthetic_slices", tuple(self.synthetic_slices))
        _require(bool(self.model), "the model has no name")
        _require(_SHA256.fullmatch(self.model_sha256) is not None, "the checksum is no SHA-256")
        _require(self.factor >= 1, "the factor is below 1")
        _require(self.axis in AXES, "the axis is not I, J or K")
        _require(bool(self.acquisition), "the acquisition is missing")
        _require(self.observed_slices >= 0, "a negative number of slices was observed")
        _require(bool(self.software_version), "the software version is missing")
        _require(datetime.fromisoformat(self.created).utcoffset() == timedelta(0), "the time is not in UTC")
        _require(self.quality != "", "the quality is missing")
        _require(self.texture != "", "the texture is missing")
        thickness = self.slice_thickness
        _require(thickness is None or (math.isfinite(thickness) and thickness > 0), "slices have no thickness")
        indices = self.synthetic_slices
        _require(list(indices) == sorted(set(indices)), "the synthetic slices are not in order")
        _require(not indices or (indices[0] >= 0 and indices[-1] < self.slices), "a synthetic slice does not exist")

    @property
    def slices(self) -> int:
        """Number of slices along `axis`, synthetic and observed."""
        return len(self.synthetic_slices) + self.observed_slices

    def is_synthetic(self, index: int) -> bool:
        """Whether slice `index` along `axis` was not observed."""
        return index in self._synthetic

    @cached_property
    def _synthetic(self) -> frozenset[int]:
        return frozenset(self.synthetic_slices)  # used at every step of scrolling


def now() -> str:
    """The time as `Provenance.created` holds it: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance_from_report(report: Mapping, *, input_node_id: str, input_name: str) -> Provenance:
    """Provenance of a volume that `xviewsynth enhance --report` has just described.

    Args:
        report: the content of the report file.
        input_node_id: node whose volume was enhanced.
        input_name: its name.

    Raises:
        KeyError, ValueError: the mapping is not such a report.
    """
    synthetic = tuple(report["synthetic_slices"])
    slices = report["output"]["shape_ijk"][affine_column(report["axis"])]
    return Provenance(
        model=report["model"],
        model_sha256=report["model_sha256"],
        factor=report["factor"],
        axis=report["axis"],
        acquisition=report["acquisition"],
        synthetic_slices=synthetic,
        observed_slices=slices - len(synthetic),
        input_node_id=input_node_id,
        input_name=input_name,
        software_version=report["program"].split()[-1],
        created=now(),
        quality=report.get("quality"),
        texture=report.get("texture"),
        slice_thickness=report["output"].get("slice_thickness_mm"),
        model_version=report.get("model_version"),
    )


def write_provenance(node: slicer.vtkMRMLNode, provenance: Provenance) -> None:
    """Write provenance to a node and to its storage node, also to one that is added later."""
    was_modifying = node.StartModify()
    try:
        for field, attribute in _ATTRIBUTES.items():
            node.SetAttribute(PREFIX + attribute, _encode(getattr(provenance, field)))
    finally:
        node.EndModify(was_modifying)
    copy_to_storage(node)
    _follow_storage(node)


def read_provenance(node: slicer.vtkMRMLNode | None) -> Provenance | None:
    """Provenance of an enhanced volume; None for other nodes, or if it is damaged or no longer fits the volume.

    Node IDs can change when a scene is added to another one: `input_node_id` is the current ID while the input exists.
    """
    if node is None:
        return None
    provenance = _read(node)
    return provenance if provenance is not None and _fits(provenance, node) else None


def input_node(node: slicer.vtkMRMLNode) -> slicer.vtkMRMLNode | None:
    """The volume that `node` was made from; None if it is no longer in the scene."""
    return node.GetNodeReference(INPUT_REFERENCE)


def uncertainty_node(node: slicer.vtkMRMLNode) -> slicer.vtkMRMLNode | None:
    """The uncertainty map (HU) of the enhanced volume `node`; None if it is no longer in the scene."""
    return node.GetNodeReference(UNCERTAINTY_REFERENCE)


def input_name(node: slicer.vtkMRMLNode) -> str:
    """Name of the volume that `node` was made from, also after that volume has left the scene."""
    origin = input_node(node)
    return (node.GetAttribute(PREFIX + _ATTRIBUTES["input_name"]) or "") if origin is None else origin.GetName()


def role_of(node: slicer.vtkMRMLNode) -> str | None:
    """Role of a volume that XViewSynth made: "enhanced", "uncertainty" or "preview" (of a training).

    None for other volumes. A cropped volume stays "enhanced" although its provenance no longer fits.
    """
    role = node.GetAttribute(ROLE_ATTRIBUTE)
    if role is not None:
        return role
    # Scenes saved before 0.19.0 have no role attribute.
    if provenance_attributes(node):
        return ENHANCED_ROLE
    return UNCERTAINTY_ROLE if _is_uncertainty_of_any(node) else None


def _is_uncertainty_of_any(node: slicer.vtkMRMLNode) -> bool:
    scene = node.GetScene()
    count = scene.GetNumberOfNodesByClass(node.GetClassName()) if scene is not None else 0
    volumes = (scene.GetNthNodeByClass(index, node.GetClassName()) for index in range(count))
    return any(uncertainty_node(volume) is node for volume in volumes)


def provenance_attributes(node: slicer.vtkMRMLNode) -> dict[str, str]:
    """The attributes of a node that hold provenance, by full name."""
    names = [PREFIX + attribute for attribute in _ATTRIBUTES.values()]
    return {name: node.GetAttribute(name) for name in names if node.GetAttribute(name) is not None}


def restore_attributes(node: slicer.vtkMRMLNode, attributes: Mapping[str, str]) -> None:
    """Replace the provenance of a node and of its storage node by `attributes` (of `provenance_attributes`)."""
    for attribute in _ATTRIBUTES.values():
        node.SetAttribute(PREFIX + attribute, attributes.get(PREFIX + attribute))
    copy_to_storage(node)


def copy_to_storage(node: slicer.vtkMRMLNode) -> None:
    """Copy the provenance of a node to its storage node; harmless without one."""
    storage = node.GetStorageNode() if node.IsA("vtkMRMLStorableNode") else None
    if storage is not None:
        attributes = provenance_attributes(node)
        for attribute in _ATTRIBUTES.values():
            storage.SetAttribute(PREFIX + attribute, attributes.get(PREFIX + attribute))


def copy_all_to_storage(scene: slicer.vtkMRMLScene) -> None:
    """Call `copy_to_storage` for every node with provenance, before a scene is saved."""
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLStorableNode")):
        node = scene.GetNthNodeByClass(index, "vtkMRMLStorableNode")
        if provenance_attributes(node):
            copy_to_storage(node)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(f"This provenance is damaged: {problem}.")


def _follow_storage(node: slicer.vtkMRMLNode) -> None:
    # Python attributes live as long as the VTK object and are not saved with the scene.
    if node.IsA("vtkMRMLStorableNode") and not getattr(node, "_xviewsynth_follows_storage", False):
        for event in (slicer.vtkMRMLNode.ReferenceAddedEvent, slicer.vtkMRMLNode.ReferenceModifiedEvent):
            node.AddObserver(event, lambda caller, _event: copy_to_storage(caller))
        node._xviewsynth_follows_storage = True


def _read(node: slicer.vtkMRMLNode) -> Provenance | None:
    texts = {field: node.GetAttribute(PREFIX + attribute) for field, attribute in _ATTRIBUTES.items()}
    texts = {field: text for field, text in texts.items() if text is not None}
    # Scenes saved before 0.16.0 lack the fields that have a default.
    if any(field.default is MISSING and field.name not in texts for field in fields(Provenance)):
        return None
    texts["input_node_id"] = node.GetNodeReferenceID(INPUT_REFERENCE) or texts["input_node_id"]
    try:
        return Provenance(**{field: _decode(field, text) for field, text in texts.items()})
    except ValueError:
        return None


def _fits(provenance: Provenance, node: slicer.vtkMRMLNode) -> bool:
    """False if the volume was cropped or resampled, so that its number of slices has changed."""
    image = node.GetImageData() if node.IsA("vtkMRMLVolumeNode") else None
    return image is None or image.GetDimensions()[affine_column(provenance.axis)] == provenance.slices


def _encode(value: str | float | tuple[int, ...] | None) -> str | None:
    if value is None:
        return None
    return _as_ranges(value) if isinstance(value, tuple) else str(value)


def _decode(field: str, text: str) -> str | float | tuple[int, ...]:
    if field == "synthetic_slices":
        return _from_ranges(text)
    if field == "slice_thickness":
        return float(text)
    return int(text) if field in ("factor", "observed_slices") else text


def _as_ranges(indices: Iterable[int]) -> str:
    """Ascending indices as "1-3,5-7,9"."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and ranges[-1][1] + 1 == index:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _from_ranges(text: str) -> tuple[int, ...]:
    indices: list[int] = []
    for part in text.split(",") if text else ():
        match = _RANGE.fullmatch(part)
        _require(match is not None, "the synthetic slices are no list of numbers")
        first, last = int(match[1]), int(match[2] or match[1])
        # Damaged digits must not exhaust the memory.
        _require(last < 1_000_000, "there are more synthetic slices than any volume has")
        indices.extend(range(first, last + 1))
    return tuple(indices)
