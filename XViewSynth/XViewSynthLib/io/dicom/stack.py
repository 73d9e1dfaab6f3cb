"""Slices of one DICOM series as a stack: without copies, sorted, and checked for even spacing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...geometry.volume import LPS_TO_RAS, SHEAR_TOLERANCE
from .header import printable
from .slices import Slice

# Positions in DICOM are decimal text, often rounded to 0.01 mm; a gap may miss the common one by a hundredth of it,
# or by twice that rounding where slices are very thin.
GAP_TOLERANCE = 0.01
ROUNDING_MM = 0.02
# Some exporters round positions to 0.1 mm. A slice may lie that half off an even grid, but never nearly half a gap.
COARSE_ROUNDING_MM = 0.05
_SHARE_OF_GAP = 0.2
# Largest effects of rounding three coordinates, within the plane of the slices, in halves of the last digit: distance
# of one slice from the line through the others, and drift of a line through all from the first to the last.
_SIDEWAYS, _DRIFT = 2.5, 5.0

# Largest ratio of decoded to compressed size. An empty slice exceeds it, but not all slices are empty.
_LARGEST_RATIO = 200
# Slice thicknesses that differ by less are one.
_THICKNESS_TOLERANCE = 0.01


@dataclass(frozen=True)
class Stack:
    """Slices in the order of their places.

    Attributes:
        slices: along K.
        affine: (4, 4), voxel indices (I, J, K) to patient RAS in mm.
        thickness: of the slices, mm; None if they do not state one.
        notes: for the user, each a sentence.
    """

    slices: tuple[Slice, ...]
    affine: np.ndarray
    thickness: float | None
    notes: tuple[str, ...]


def stack_slices(images: Iterable[Slice], place: Path) -> Stack:
    """Sort and check the slices of one series.

    Args:
        images: in any order, copies included.
        place: the folder or file that was given, for messages.

    Raises:
        InputError: there is only one slice, or the slices are not one evenly spaced, straight stack.
    """
    slices = _without_copies(images)
    if len(slices) == 1:
        raise InputError(f"{_series_at(place)} holds one slice only: choose the folder with all slices of the series.")
    _check_alike(slices, place)
    _check_sizes(slices)
    normal = _normal(slices[0])
    slices.sort(key=lambda image: float(normal @ image.position))
    step, origin, notes = _fit(slices, normal, place)
    notes = (*notes, *dict.fromkeys(note for image in slices for note in image.notes))
    return Stack(tuple(slices), _affine(slices[0], step, origin), _common_thickness(slices), notes)


def same_place(first: Slice, second: Slice, place: Path) -> InputError:
    """The exception for two different images at one place."""
    return InputError(
        f"{_name(first)} and {_name(second)} in {_folder(place)} lie at the same place: choose a folder with one image "
        "for each slice."
    )


def _series_at(place: Path) -> str:
    return f"The folder {printable(place)}" if place.is_dir() else f"The series of {printable(place)}"


def _folder(place: Path) -> str:
    return printable(place if place.is_dir() else place.parent)


def _name(image: Slice) -> str:
    return printable(image.file.name)


def _without_copies(images: Iterable[Slice]) -> list[Slice]:
    """One slice for each instance at each place. Possible copies, such as "IM1 (1).dcm", go to its `copies`."""
    alike: dict[tuple, list[Slice]] = {}
    for image in images:
        alike.setdefault((image.instance, image.position, image.orientation), []).append(image)
    return [first.with_copies(tuple(copies)) for first, *copies in alike.values()]


def _check_alike(slices: Sequence[Slice], place: Path) -> None:
    first = slices[0]
    for image in slices:
        alike = image.pixels.shape == first.pixels.shape and np.allclose(image.spacing, first.spacing, rtol=1e-4)
        if not alike:
            raise InputError(
                f"{_name(first)} and {_name(image)} in {_folder(place)} differ in size or pixel spacing: choose a "
                "folder with the slices of one scan."
            )
        if not np.allclose(image.orientation, first.orientation, atol=1e-3):
            raise InputError(
                f"{_name(first)} and {_name(image)} in {_folder(place)} lie in different planes: choose a folder with "
                "the parallel slices of one scan, without localizers."
            )


def _check_sizes(slices: Sequence[Slice]) -> None:
    """Refuse sizes that compressed pixel data cannot have. (The size of uncompressed data is already checked.)"""
    compressed = [image.pixels for image in slices if image.pixels.data.length is None]
    if sum(pixels.size for pixels in compressed) > _LARGEST_RATIO * sum(pixels.data.held for pixels in compressed):
        rows, columns = compressed[0].shape
        raise InputError(
            f"{printable(compressed[0].file)} has {rows} x {columns} pixels (Rows x Columns), too many for files of "
            "that size: export the series again."
        )


def _normal(image: Slice) -> np.ndarray:
    return np.cross(*np.reshape(image.orientation, (2, 3)))


def _fit(slices: Sequence[Slice], normal: np.ndarray, place: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(3,) step from slice to slice and (3,) place of the first in LPS, mm, and notes.

    Raises:
        InputError: slices lie at one place, are missing, uneven, or shifted.
    """
    positions = np.array([image.position for image in slices])
    along = positions @ normal
    gaps = np.diff(along)
    if gaps.min() < ROUNDING_MM:
        raise same_place(slices[gaps.argmin()], slices[gaps.argmin() + 1], place)
    # The lower of the two middle gaps is right even if every second slice is missing at one end.
    gap = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    tolerance = max(GAP_TOLERANCE * gap, ROUNDING_MM)
    # Each coordinate is rounded by itself.
    coarse = COARSE_ROUNDING_MM * float(np.abs(normal).sum())
    if _furthest_from_even(along) > min(max(coarse, GAP_TOLERANCE * gap), _SHARE_OF_GAP * gap) + 1e-6:
        raise _uneven(slices, gaps, gap, tolerance, place)
    step, origin = (positions[-1] - positions[0]) / (len(positions) - 1), positions[0]
    is_straight = np.linalg.norm(_sideways(step, normal)) <= SHEAR_TOLERANCE * np.linalg.norm(step)
    is_even = bool((np.abs(gaps - gap) <= tolerance).all())
    if is_straight and is_even and _furthest_sideways(positions, step, origin, normal) <= tolerance:
        return step, origin, ()
    step, origin = _least_squares(positions, normal)
    if _furthest_sideways(positions, step, origin, normal) > _SIDEWAYS * COARSE_ROUNDING_MM:
        raise InputError(
            f"The slices in {_folder(place)} are shifted sideways: choose a series that is one straight stack."
        )
    apart = np.linalg.norm(step)
    return step, origin, (f"Slice positions are rounded; slices taken as {apart:.4g} mm apart.",)


def _sideways(vectors: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The parts of (..., 3) vectors that lie in the plane of the slices."""
    return vectors - (vectors @ normal)[..., None] * normal


def _furthest_from_even(along: np.ndarray) -> float:
    """Largest distance of a slice from the best evenly spaced grid, mm.

    The best step is that with the smallest range of residuals, which is convex in the step.
    """
    numbers = np.arange(len(along))

    def spread(step: float) -> float:
        return float(np.ptp(along - step * numbers))

    low, high = float(np.diff(along).min()), float(np.diff(along).max())
    for _ in range(80):
        first, second = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, second) if spread(first) <= spread(second) else (first, high)
    return spread((low + high) / 2) / 2


def _furthest_sideways(positions: np.ndarray, step: np.ndarray, origin: np.ndarray, normal: np.ndarray) -> float:
    """Largest sideways distance of a slice from the line from `origin` in steps, mm."""
    offsets = positions - origin - np.outer(np.arange(len(positions)), step)
    return float(np.linalg.norm(_sideways(offsets, normal), axis=1).max())


def _least_squares(positions: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Step and place of the first slice. The step is along the normal if rounding can explain its tilt."""
    numbers = np.arange(len(positions)) - (len(positions) - 1) / 2
    step = numbers @ positions / (numbers @ numbers)
    if np.linalg.norm(_sideways(step, normal)) * (len(positions) - 1) <= _DRIFT * COARSE_ROUNDING_MM:
        step = (step @ normal) * normal
    return step, positions.mean(axis=0) + numbers[0] * step


def _uneven(slices: Sequence[Slice], gaps: np.ndarray, gap: float, tolerance: float, place: Path) -> InputError:
    steps = np.rint(gaps / gap)
    wide = steps > 1
    isolated = not (wide[1:] & wide[:-1]).any()
    if wide.any() and isolated and (np.abs(gaps - steps * gap) <= tolerance * steps).all():
        missing = int((steps - 1).sum())
        where = int(wide.argmax())
        count = "1 slice is" if missing == 1 else f"{missing} slices are"
        return InputError(
            f"{count} missing in {_folder(place)}, between {_name(slices[where])} and {_name(slices[where + 1])}: "
            "export the complete series."
        )
    return InputError(
        f"The slices in {_folder(place)} are unevenly spaced, {gaps.min():.2f} to {gaps.max():.2f} mm apart: choose a "
        "series with one spacing."
    )


def _affine(first: Slice, step: np.ndarray, origin: np.ndarray) -> np.ndarray:
    along_row, down_column = np.reshape(first.orientation, (2, 3))
    between_rows, between_columns = first.spacing
    affine = np.eye(4)
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = down_column * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return LPS_TO_RAS @ affine


def _common_thickness(slices: Sequence[Slice]) -> float | None:
    stated = [image.thickness for image in slices if image.thickness is not None]
    if len(stated) < len(slices):
        return None
    middle = float(np.median(stated))
    return middle if max(stated) - min(stated) <= _THICKNESS_TOLERANCE * middle else None
