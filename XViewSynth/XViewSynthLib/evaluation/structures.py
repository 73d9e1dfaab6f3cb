"""Anatomical structures, segmented by the same fixed rule in the truth and in each result, and their agreement.

Overlap and volume are measured on new slices. Surfaces are three-dimensional: distances are measured from surface
voxels in new slices to the nearest surface voxel of any slice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..geometry.volume import Volume
from .metrics import Reference, candidate_slices, clip_hu

BODY, BONE, LUNGS, AIRWAYS, VESSELS = "body", "bone", "lungs", "airways", "lung vessels"
#: The fixed rule of each structure, for tables.
RULES = {
    BODY: "above -400 HU near the body, holes in slices filled, largest piece",
    BONE: "above 200 HU in the body, pieces of at least 0.1 ml (contrast agent included)",
    LUNGS: "below -500 HU in the body, pieces of at least 10 ml",
    AIRWAYS: "below -930 HU in the lungs after a Gaussian of 1 mm, pieces of at least 1 ml",
    VESSELS: "above -300 HU in the closed lungs of the truth, 2 mm from their border",
}

_BODY_ABOVE, _BONE_ABOVE, _LUNGS_BELOW, _AIRWAYS_BELOW, _VESSELS_ABOVE = -400.0, 200.0, -500.0, -930.0, -300.0
_NEAR_BODY_MM = 3.0
_SMALLEST_ML = {BONE: 0.1, LUNGS: 10.0, AIRWAYS: 1.0}
_AIRWAY_SIGMA_MM = 1.0
# Closing of the lungs, so that vessels lie within them, on a grid of about 2 mm.
_COARSE_MM, _CLOSING_MM, _RIM_MM = 2.0, 5.0, 2.0
#: Smallest piece of vessels that is counted, mm^3.
SMALLEST_PIECE_MM3 = 10.0
# Smallest volume in new slices of a structure that can be measured.
_FEWEST_ML = {BODY: 10.0, BONE: 1.0, LUNGS: 10.0, AIRWAYS: 1.0, VESSELS: 1.0}
_ALL_NEIGHBOURS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Agreement:
    """Agreement of a structure in a result with that in the truth.

    Attributes:
        dice: overlap on new slices, 0 to 1.
        mean_distance_mm: mean distance of the surfaces, both directions pooled; None for an empty structure.
        distance_95_mm: 95th percentile of the distance, of the worse direction; None for an empty structure.
        volume_error_percent: volume on new slices minus that of the truth, in percent of the latter.
        pieces: connected pieces (26 neighbours) of at least `SMALLEST_PIECE_MM3`, all slices; vessels only.
    """

    dice: float
    mean_distance_mm: float | None
    distance_95_mm: float | None
    volume_error_percent: float
    pieces: int | None


class Anatomy:
    """The structures of the truth.

    Attributes:
        missing: for each structure that the scan does not contain, the reason.
        volumes_ml: volume in new slices of each structure that it contains.
        pieces: connected pieces of the vessels, as in `Agreement`; None without vessels.
    """

    def __init__(self, reference: Reference):
        self._reference = reference
        self._box = _bounding_box(reference.body, [round(_NEAR_BODY_MM / mm) + 1 for mm in reference.spacing])
        self._near_body = _dilated(self._cropped(reference.body), _NEAR_BODY_MM, reference.spacing)
        self._vessel_region: np.ndarray | None = None
        self._voxel_ml = float(np.prod(reference.spacing)) / 1000
        found = self._segment(reference.slices)
        volumes = {name: self._new_ml(mask) for name, mask in found.items()}
        self.missing = {name: reason for name in RULES if (reason := self._reason(name, volumes))}
        self._truth = {name: mask for name, mask in found.items() if name not in self.missing}
        self._surfaces = {name: _Surface(mask, reference) for name, mask in self._truth.items()}
        self.volumes_ml = {name: volumes[name] for name in self._truth}
        self.pieces = self._pieces(self._truth[VESSELS]) if VESSELS in self._truth else None

    def compare(self, candidate: Volume) -> dict[str, Agreement]:
        """The agreement of each structure in `candidate`, a volume on the grid of the truth."""
        found = self._segment(candidate_slices(self._reference, candidate))
        return {name: self._agreement(name, found[name]) for name in self._truth}

    def to_dict(self) -> dict[str, Any]:
        """Rules, reasons, volumes and pieces of the truth, for JSON."""
        return {
            "rules": RULES,
            "missing": self.missing,
            "truth_ml": self.volumes_ml,
            "truth_pieces": self.pieces,
            "smallest_piece_mm3": SMALLEST_PIECE_MM3,
        }

    def _segment(self, slices: np.ndarray) -> dict[str, np.ndarray]:
        """A mask of each structure in slices (HU), within the box around the body."""
        hu = clip_hu(self._cropped(slices))
        body = _filled(_largest((hu > _BODY_ABOVE) & self._near_body))
        lungs = self._large_pieces(LUNGS, (hu < _LUNGS_BELOW) & body)
        smooth = ndimage.gaussian_filter(hu, [_AIRWAY_SIGMA_MM / mm for mm in self._reference.spacing])
        if self._vessel_region is None:
            self._vessel_region = self._closed(lungs)
        return {
            BODY: body,
            BONE: self._large_pieces(BONE, (hu > _BONE_ABOVE) & body),
            LUNGS: lungs,
            AIRWAYS: self._large_pieces(AIRWAYS, (smooth < _AIRWAYS_BELOW) & lungs),
            VESSELS: (hu > _VESSELS_ABOVE) & self._vessel_region,
        }

    def _agreement(self, name: str, found: np.ndarray) -> Agreement:
        truth, new = self._truth[name], self._reference.is_new
        both = np.count_nonzero((truth & found)[new])
        in_truth, in_found = np.count_nonzero(truth[new]), np.count_nonzero(found[new])
        mean, worst = self._surfaces[name].distances(_Surface(found, self._reference))
        return Agreement(
            dice=float(2 * both / (in_truth + in_found)),
            mean_distance_mm=mean,
            distance_95_mm=worst,
            volume_error_percent=float(100 * (in_found - in_truth) / in_truth),
            pieces=self._pieces(found) if name == VESSELS else None,
        )

    def _reason(self, name: str, volumes: dict[str, float]) -> str | None:
        if name == BODY and self._reference.body.mean() > 0.999:
            return "the body fills the field of view, so that it has no surface"
        if volumes[name] < _FEWEST_ML[name]:
            return f"the new slices of the truth hold {volumes[name]:.2g} ml, and {_FEWEST_ML[name]:g} ml are needed"
        return None

    def _cropped(self, slices: np.ndarray) -> np.ndarray:
        return slices[self._box]

    def _new_ml(self, mask: np.ndarray) -> float:
        return float(np.count_nonzero(mask[self._reference.is_new])) * self._voxel_ml

    def _large_pieces(self, name: str, mask: np.ndarray) -> np.ndarray:
        """The connected pieces (6 neighbours) that are large enough."""
        labels, _ = ndimage.label(mask)
        large = np.bincount(labels.ravel()) * self._voxel_ml >= _SMALLEST_ML[name]
        large[0] = False
        return large[labels]

    def _pieces(self, vessels: np.ndarray) -> int:
        labels, _ = ndimage.label(vessels, _ALL_NEIGHBOURS)
        sizes = np.bincount(labels.ravel())[1:]
        return int(np.count_nonzero(sizes * self._voxel_ml * 1000 >= SMALLEST_PIECE_MM3))

    def _closed(self, lungs: np.ndarray) -> np.ndarray:
        """The lungs with their vessels, without a rim."""
        spacing = self._reference.spacing
        steps = [max(1, round(_COARSE_MM / mm)) for mm in spacing]
        coarse = lungs[:: steps[0], :: steps[1], :: steps[2]]
        if not coarse.any():
            return np.zeros_like(lungs)
        grid = [mm * step for mm, step in zip(spacing, steps, strict=True)]
        # The scan ends at its first and last slice, the lungs do not: the border must not erode them.
        margin = round(_CLOSING_MM / grid[0]) + 1
        padded = np.pad(coarse, [(margin, margin), (0, 0), (0, 0)], mode="edge")
        dilated = ndimage.distance_transform_edt(~padded, grid) <= _CLOSING_MM
        closed = ndimage.distance_transform_edt(dilated, grid) > _CLOSING_MM + _RIM_MM
        closed = closed[margin:-margin]
        for axis, step in enumerate(steps):
            closed = closed.repeat(step, axis)
        depth, rows, columns = lungs.shape
        return closed[:depth, :rows, :columns]


def agreement_to_dict(agreements: dict[str, Agreement]) -> dict[str, dict[str, Any]]:
    """The agreement of each structure, for JSON."""
    return {name: asdict(agreement) for name, agreement in agreements.items()}


class _Surface:
    """Surface voxels of a mask, as points in mm."""

    def __init__(self, mask: np.ndarray, reference: Reference):
        # Where the scan ends, there is no surface.
        surface = mask & ~ndimage.binary_erosion(mask, border_value=1)
        self._points = np.argwhere(surface) * np.asarray(reference.spacing)
        self._is_new = reference.is_new[np.nonzero(surface)[0]]

    def distances(self, other: _Surface) -> tuple[float | None, float | None]:
        """Mean distance, and the larger of both 95th percentiles, in mm; None if a surface is empty."""
        there, back = self._distances_to(other), other._distances_to(self)
        if not (there.size and back.size):
            return None, None
        mean = float(np.concatenate([there, back]).mean())
        return mean, float(max(np.percentile(there, 95), np.percentile(back, 95)))

    def _distances_to(self, other: _Surface) -> np.ndarray:
        # Loading scipy.spatial takes a moment, and most commands do not need it.
        from scipy.spatial import KDTree

        if not len(other._points):
            return np.zeros(0)
        return KDTree(other._points).query(self._points[self._is_new])[0]


def _bounding_box(mask: np.ndarray, margins: list[int]) -> tuple[slice, ...]:
    """The rows and columns that a mask spans, with margins; all slices."""
    box = [slice(None)]
    for axis in (1, 2):
        hit = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(max(0, hit[0] - margins[axis]), hit[-1] + margins[axis] + 1) if hit.size else slice(None))
    return tuple(box)


def _dilated(mask: np.ndarray, millimetres: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """The mask, dilated in plane."""
    radius = [round(millimetres / mm) for mm in spacing[:0:-1]]
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    return sitk.GetArrayFromImage(sitk.BinaryDilate(image, [*radius, 0], sitk.sitkBox)).astype(bool)


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (labels == sizes.argmax()) & mask


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask with the holes of each slice filled."""
    planes = (sitk.GetImageFromArray(plane.astype(np.uint8)) for plane in mask)
    return np.stack([sitk.GetArrayFromImage(sitk.BinaryFillhole(plane)) for plane in planes]).astype(bool)
