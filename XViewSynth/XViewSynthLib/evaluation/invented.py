"""Invented and missed structure: blobs of a result without counterpart in the truth, and the reverse.

Both images are band-passed, so that blobs of a few millimetres remain. A blob is a connected component that exceeds
three standard deviations of the noise of the truth, bright and dark ones apart. It has a counterpart if the other image
has at least half of its strength there, on average over the component.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ..geometry.volume import Volume
from .metrics import Reference, candidate_slices, clip_hu

# Gaussians whose difference is the band-pass: blobs of about 2 to 6 mm.
_FINE_MM, _COARSE_MM = 0.8, 2.4
#: A blob exceeds this many standard deviations of noise.
DEVIATIONS = 3.0
# Least share of a blob's mean that its counterpart has.
_COUNTERPART = 0.5
# A band-pass draws a rim of the other sign around strong structure. Blobs within this distance of a structure, weaker
# than this share of it, are no blobs of their own.
_RIM_MM, _RIM_SHARE = 5.0, 0.3
_NORMAL = 1.4826
# Noise is measured in squares of this many pixels, since it differs between lung, heart and shoulders.
_SQUARE = 48
_FEWEST_PIXELS = 100
_WORST_PERCENT = 5


@dataclass(frozen=True)
class Blobs:
    """Blobs of one result, inside the body on new slices.

    Attributes:
        invented_per_litre: blobs of the result without counterpart in the truth.
        missed_per_litre: blobs of the truth without counterpart in the result.
        found_per_litre: blobs of the truth with a counterpart.
        invented_in_worst_percent: share in percent of the invented ones whose peak lies in the worst 5 % of the
            uncertainty map; None without such a map, or without an invented blob.
    """

    invented_per_litre: float
    missed_per_litre: float
    found_per_litre: float
    invented_in_worst_percent: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return asdict(self)


class BlobFinder:
    """Blobs of the truth, to compare those of results with.

    Attributes:
        litres: tissue inside the body on new slices.
        noise_hu: median standard deviation of the noise of the band-passed truth, HU.
    """

    def __init__(self, reference: Reference, check: Callable[[], None] = lambda: None):
        self._reference, self._check = reference, check
        self._counted = reference.body & reference.in_view & reference.is_new[:, None, None]
        self.litres = float(np.count_nonzero(self._counted) * np.prod(reference.spacing) / 1e6)
        self._truth = self._band_passed(reference.slices)
        self._noise = _noise_map(self._truth, reference.body & reference.in_view)
        self._truth /= self._noise
        self.noise_hu = float(np.median(self._noise))

    def compare(self, candidate: Volume, uncertainty: Volume | None = None) -> Blobs | None:
        """The blobs of a volume on the grid of the truth; None if the truth has no body.

        Args:
            candidate: a result.
            uncertainty: its uncertainty map, on the same grid.
        """
        if not self.litres:
            return None
        result = self._band_passed(candidate_slices(self._reference, candidate)) / self._noise
        invented, _ = self._peaks(result, self._truth)
        missed, found = self._peaks(self._truth, result)
        return Blobs(
            invented_per_litre=len(invented) / self.litres,
            missed_per_litre=len(missed) / self.litres,
            found_per_litre=len(found) / self.litres,
            invented_in_worst_percent=None if uncertainty is None else self._in_worst(invented, uncertainty),
        )

    def _peaks(self, image: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Peaks (blobs, 3) of the blobs of an image, without and with a counterpart in the other.

        Both images are in standard deviations of noise. A blob counts if its peak does.
        """
        size = [2 * round(_RIM_MM / mm) + 1 for mm in self._reference.spacing]
        counted = self._counted & (np.abs(image) >= _RIM_SHARE * ndimage.maximum_filter(np.abs(image), size))
        both = [_peaks(sign * image, sign * other, counted) for sign in (1, -1)]
        without, matched = (np.concatenate(peaks) for peaks in zip(*both, strict=True))
        return without, matched

    def _in_worst(self, peaks: np.ndarray, uncertainty: Volume) -> float | None:
        if not len(peaks):
            return None
        values = candidate_slices(self._reference, uncertainty)
        worst = np.percentile(values[self._counted], 100 - _WORST_PERCENT)
        return float(100 * np.mean(values[tuple(peaks.T)] > worst))

    def _band_passed(self, slices: np.ndarray) -> np.ndarray:
        hu = clip_hu(slices)
        self._check()
        fine, coarse = (
            ndimage.gaussian_filter(hu, [sigma / mm for mm in self._reference.spacing], truncate=3)
            for sigma in (_FINE_MM, _COARSE_MM)
        )
        self._check()
        return fine - coarse


def _peaks(image: np.ndarray, other: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Peaks (blobs, 3) of bright blobs with their peak in a mask, without and with a counterpart in the other image."""
    labels, blobs = ndimage.label(image > DEVIATIONS)
    if not blobs:
        return np.zeros((0, 3), int), np.zeros((0, 3), int)
    numbers = np.arange(1, blobs + 1)
    peaks = np.array(ndimage.maximum_position(image, labels, numbers))
    strengths, counterparts = (ndimage.mean(each, labels, numbers) for each in (image, other))
    matched = counterparts > _COUNTERPART * strengths
    inside = counted[tuple(peaks.T)]
    return peaks[inside & ~matched], peaks[inside & matched]


def _noise_map(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Standard deviation of the noise around each voxel, broadcast to the shape (slices, rows, columns).

    From the median size in columns of squares through all slices, which structure hardly changes.
    """
    _, rows, columns = image.shape
    everywhere = _deviation(image, inside) or 1.0
    noise = np.full((rows, columns), everywhere, np.float32)
    for top in range(0, rows, _SQUARE):
        for left in range(0, columns, _SQUARE):
            square = np.s_[:, top : top + _SQUARE, left : left + _SQUARE]
            noise[square[1:]] = _deviation(image[square], inside[square]) or everywhere
    return np.broadcast_to(noise, image.shape)


def _deviation(image: np.ndarray, inside: np.ndarray) -> float:
    """Robust standard deviation of the voxels inside; 0 if there are too few."""
    values = image[inside]
    return _NORMAL * float(np.median(np.abs(values))) if values.size >= _FEWEST_PIXELS else 0.0
