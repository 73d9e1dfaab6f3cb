"""Voxels of a scan and their place in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ..errors import InputError

#: From the patient coordinates of DICOM and ITK (LPS) to ours (RAS), and back: it is its own inverse.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
Axis = Literal["I", "J", "K"]
AXES: tuple[Axis, ...] = ("I", "J", "K")

# Scanners write spacings with three to six digits; a smaller relative difference is rounding.
SPACING_TOLERANCE = 1e-3

# Cosine between two axes above which a grid counts as sheared: over a stack of 300 mm it is a shift of 0.3 mm.
SHEAR_TOLERANCE = 1e-3


def affine_column(axis: Axis) -> int:
    """Column of an IJK -> RAS affine that steps along `axis`.

    >>> affine_column("K")
    2
    """
    return AXES.index(axis)


def array_axis(axis: Axis) -> int:
    """Dimension of a (K, J, I) array that runs along `axis`.

    >>> array_axis("K")
    0
    """
    return 2 - AXES.index(axis)


def blank_voxels(shape: Sequence[int], scalar_type: DTypeLike) -> np.ndarray:
    """Voxels (K, J, I) that are all 0 and share the memory of one, for a scan without voxel data.

    >>> blank_voxels((2000, 512, 512), np.int16).strides
    (0, 0, 0)
    """
    return np.broadcast_to(np.zeros((), scalar_type), shape)


def largest_cosine(affine: np.ndarray) -> float:
    """Largest absolute cosine between two axes of a (4, 4) affine; 0 if all are at right angles.

    >>> largest_cosine(np.eye(4))
    0.0
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(np.triu(directions.T @ directions, 1)).max())


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan: voxels and their place in the patient.

    Attributes:
        voxels: (K, J, I) array of a real scalar type, HU for CT. Read-only; it shares memory with the array given.
        affine: (4, 4) float64, voxel indices (I, J, K) to patient RAS in mm; an index is the *centre* of its voxel.
        slice_thickness: mm over which a slice was averaged (DICOM (0018,0050)), or None if it is unknown.
        slice_axis: the axis along which the slices were acquired if the source states it (DICOM: K), else None.
            The slice thickness belongs to this axis.
        synthetic: whether some slices were predicted by this program.
        notes: of the reader for the user, each a sentence.

    Raises:
        TypeError: voxels are not a NumPy array of integers or floats.
        InputError: not three-dimensional, empty, or an affine that maps no grid into space.

    >>> scan = Volume(np.zeros((5, 8, 9), np.int16), np.diag([0.8, 0.8, 4.0, 1.0]))
    >>> scan.shape_ijk, scan.through_plane_axis, scan.slices("K")
    ((9, 8, 5), 'K', 5)
    """

    voxels: np.ndarray
    affine: np.ndarray
    slice_thickness: float | None = None
    slice_axis: Axis | None = None
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "voxels", _read_only_voxels(self.voxels))
        object.__setattr__(self, "affine", _read_only_affine(self.affine))
        thickness = self.slice_thickness
        if thickness is not None:
            if not (np.isfinite(thickness) and thickness > 0):
                raise InputError(f"The slice thickness must be a positive number of millimetres, not {thickness}.")
            object.__setattr__(self, "slice_thickness", float(thickness))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (I, J, K), mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    def spacing_along(self, axis: Axis) -> float:
        """Distance between neighbouring voxel centres along `axis`, mm."""
        return self.spacing[affine_column(axis)]

    def pixel_spacing(self, axis: Axis) -> float:
        """Mean distance in mm between neighbouring pixels of the slices along `axis`."""
        return float(np.mean([self.spacing_along(other) for other in AXES if other != axis]))

    @property
    def origin(self) -> np.ndarray:
        """(3,) RAS position in mm of the centre of voxel (0, 0, 0)."""
        return self.affine[:3, 3].copy()

    @property
    def directions(self) -> np.ndarray:
        """(3, 3) unit columns: the RAS directions in which I, J and K grow."""
        return self.affine[:3, :3] / np.asarray(self.spacing)

    @property
    def shear_degrees(self) -> float:
        """Largest deviation of two axes from the right angle; 0 if it is within `SHEAR_TOLERANCE`."""
        largest = largest_cosine(self.affine)
        return float(np.degrees(np.arcsin(largest))) if largest > SHEAR_TOLERANCE else 0.0

    @property
    def shape_ijk(self) -> tuple[int, int, int]:
        """Number of voxels along (I, J, K): the reverse of `voxels.shape`."""
        k, j, i = self.voxels.shape
        return i, j, k

    @property
    def through_plane_axis(self) -> Axis:
        """The axis of the slices: `slice_axis` if it is known, else derived from the spacing.

        Pixels are nearly always square, so the one spacing that differs from two equal ones belongs to the slices, even
        if it is the smallest. Without two equal ones it is the largest; among equals K, then J, then I.

        >>> Volume(np.zeros((5, 8, 9)), np.diag([0.9, 0.9, 0.6, 1.0])).through_plane_axis
        'K'
        """
        return self.slice_axis or _axis_by_spacing(self.spacing)

    def resolve_axis(self, requested: str = "auto") -> Axis:
        """The axis meant by `requested`: "auto" is the axis of the slices (`through_plane_axis`).

        Raises:
            InputError: neither "auto" nor "I", "J", "K".
        """
        if requested == "auto":
            return self.through_plane_axis
        if requested not in AXES:
            raise InputError(f"Axis {requested!r} does not exist: choose auto, I, J or K.")
        return requested

    def thickness_along(self, axis: Axis) -> float | None:
        """mm over which the slices along `axis` were averaged; None for other axes than that of the slices."""
        return self.slice_thickness if axis == self.through_plane_axis else None

    def slices(self, axis: Axis) -> int:
        """Number of slices along `axis`."""
        return self.voxels.shape[array_axis(axis)]

    def upsampled_affine(self, axis: Axis, factor: int) -> np.ndarray:
        """(4, 4) affine after up-sampling: the step along `axis` is `factor` times shorter, the origin stays."""
        affine = self.affine.copy()
        affine[:3, affine_column(axis)] /= factor
        return affine

    def upsampled_shape(self, axis: Axis, factor: int) -> tuple[int, int, int]:
        """(K, J, I) array shape after up-sampling: `factor * (slices - 1) + 1` slices along `axis`.

        >>> Volume(np.zeros((5, 8, 9)), np.eye(4)).upsampled_shape("K", 4)
        (17, 8, 9)
        """
        shape = list(self.voxels.shape)
        shape[array_axis(axis)] = factor * (self.slices(axis) - 1) + 1
        return tuple(shape)

    def ijk_to_ras(self, points: ArrayLike) -> np.ndarray:
        """(..., 3) voxel indices (I, J, K), fractions allowed, to (..., 3) RAS positions in mm."""
        return np.asarray(points, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def ras_to_ijk(self, points: ArrayLike) -> np.ndarray:
        """(..., 3) RAS positions in mm to (..., 3) voxel indices (I, J, K) with fractions."""
        offsets = np.asarray(points, dtype=np.float64) - self.affine[:3, 3]
        return offsets @ np.linalg.inv(self.affine[:3, :3]).T

    def with_thickness(self, thickness: float, axis: Axis) -> Volume:
        """The same scan with another slice thickness in mm, of the slices along `axis`."""
        return replace(self, slice_thickness=thickness, slice_axis=axis)

    def with_voxels(self, voxels: np.ndarray) -> Volume:
        """The same affine and slice thickness with other voxels (K, J, I)."""
        return replace(self, voxels=voxels)


def _axis_by_spacing(spacing: tuple[float, float, float]) -> Axis:
    along = dict(zip(AXES, spacing, strict=True))
    for axis in reversed(AXES):
        first, second = (along[other] for other in AXES if other != axis)
        if _equal(first, second) and not (_equal(along[axis], first) or _equal(along[axis], second)):
            return axis
    chosen: Axis = "K"
    for axis in ("J", "I"):
        if along[axis] > along[chosen] * (1 + SPACING_TOLERANCE):
            chosen = axis
    return chosen


def _equal(first: float, second: float) -> bool:
    return abs(first - second) <= SPACING_TOLERANCE * max(first, second)


def _read_only_voxels(voxels: np.ndarray) -> np.ndarray:
    if not isinstance(voxels, np.ndarray):
        raise TypeError(f"Voxels must be a NumPy array, not {type(voxels).__name__}.")
    if voxels.dtype.kind not in "iuf" or voxels.dtype.itemsize > 8:
        raise TypeError(f"Voxels must be integers or floats of at most 64 bits, not {voxels.dtype}.")
    if voxels.ndim != 3:
        raise InputError(f"A volume has three dimensions (K, J, I), but these voxels have shape {voxels.shape}.")
    if voxels.size == 0:
        raise InputError(f"The volume is empty: its shape (K, J, I) is {voxels.shape}.")
    # torch supports the machine's own byte order only.
    view = voxels.astype(voxels.dtype.newbyteorder("="), copy=False).view()
    view.flags.writeable = False
    return view


def _read_only_affine(affine: ArrayLike) -> np.ndarray:
    affine = np.array(affine, dtype=np.float64)
    if affine.shape != (4, 4):
        raise InputError(f"The affine must have shape (4, 4), not {affine.shape}.")
    if not np.isfinite(affine).all():
        raise InputError("The affine holds NaN or infinite numbers, so the voxels have no place in the patient.")
    if not np.array_equal(affine[3], [0.0, 0.0, 0.0, 1.0]):
        raise InputError(f"The last row of the affine must be 0 0 0 1, not {affine[3].tolist()}.")
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not steps.all() or abs(np.linalg.det(affine[:3, :3] / steps)) < 1e-6:
        raise InputError("The affine flattens the volume: its axes must have a length and must not lie in one plane.")
    affine.flags.writeable = False
    return affine
