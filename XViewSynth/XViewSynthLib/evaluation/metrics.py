"""Metrics of an enhanced scan against the truth. All figures of this project are measured with them.

HU are clipped to [-1024, 3071] and compared on the new slices alone, inside the scanner's field of view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..errors import InputError
from ..geometry.constants import HIGHEST_HU, LOWEST_HU, PADDING_BELOW
from ..geometry.orientation import SliceOrder, to_slices
from ..geometry.volume import Axis, Volume

HU_RANGE = 4096.0

_BODY_ABOVE_HU = -400.0
_BODY_GRID_MM = 2.0
# Wide enough to separate the body from table and blankets, about 10 mm on the body grid.
_BODY_OPENING = 2

_SSIM_SIGMA, _SSIM_RADIUS = 1.5, 5
_SSIM_C1, _SSIM_C2 = (0.01 * HU_RANGE) ** 2, (0.03 * HU_RANGE) ** 2
_PIXELS_AT_ONCE = 1 << 18
_DRAWN_VOXELS = 3_000_000


@dataclass(frozen=True)
class Scores:
    """Quality of one candidate on the new slices.

    Attributes:
        psnr_db: for a range of 4096 HU; infinite without any difference.
        mae_hu: mean absolute error inside the body, HU.
        ssim: structural similarity, mean of the axial, coronal and sagittal planes.
        noise_ratio: noise of the new slices over noise of the observed ones; 1 means no flicker when scrolling.
        whole_volume_psnr_db: by the method's authors' own protocol, observed slices and padding included.
    """

    psnr_db: float
    mae_hu: float
    ssim: float
    noise_ratio: float
    whole_volume_psnr_db: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain numbers for JSON. None stands for NaN and infinity, which JSON lacks."""
        return {name: finite_or_none(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class Reference:
    """The truth, and masks of the voxels that count for all candidates.

    All arrays are (slices, rows, columns) in canonical order (`orientation.to_slices`).

    Attributes:
        volume: the scan to restore.
        slices: its voxels.
        in_view: bool, inside the field of view.
        body: bool, inside the body.
        is_new: (slices,) bool, not observed: index along the slices not divisible by the factor; for candidates from
            thick slices, all.
        spacing: mm along slices, rows and columns.
        axis: axis of the slices.
        order: permutation and flips from the voxels to `slices`.
    """

    volume: Volume
    slices: np.ndarray
    in_view: np.ndarray
    body: np.ndarray
    is_new: np.ndarray
    spacing: tuple[float, float, float]
    axis: Axis
    order: SliceOrder


def make_reference(truth: Volume, factor: int, axis: Axis, acquisition: str = "gap") -> Reference:
    """Prepare the truth for any number of calls of `score`.

    Args:
        truth: the scan before thinning.
        factor: of the thinning.
        axis: of the slices.
        acquisition: "gap" if slices were dropped, "thick" if they were averaged.

    Raises:
        InputError: the slices do not begin and end with an observed one (see `acquisition.cut_to_factor`).
    """
    slices, order = to_slices(truth, axis)
    if factor < 2 or len(slices) < 2 or (len(slices) - 1) % factor:
        raise InputError(
            f"{len(slices)} slices along {axis} do not come from an up-sampling by {factor}: cut them first."
        )
    spacing = order.spacing(truth)
    return Reference(
        volume=truth,
        slices=slices,
        in_view=field_of_view(slices),
        body=body_mask(slices, spacing),
        is_new=(np.arange(len(slices)) % factor != 0) | (acquisition == "thick"),
        spacing=spacing,
        axis=axis,
        order=order,
    )


def score(reference: Reference, candidate: Volume, check: Callable[[], None] = lambda: None) -> Scores:
    """Measure `candidate`, a volume on the grid of the truth.

    Args:
        check: called every few hundred milliseconds; an exception of it ends the measurement.

    Raises:
        InputError: the candidate lies on another grid than the truth.
    """
    slices = candidate_slices(reference, candidate)
    truth, new = reference.slices, reference.is_new
    counted = reference.in_view & new[:, None, None]
    return Scores(
        psnr_db=psnr_db(truth, slices, counted),
        mae_hu=mae_hu(truth, slices, reference.body & counted),
        ssim=ssim(truth, slices, counted, check),
        noise_ratio=noise_ratio(slices, reference.body & reference.in_view, new),
        whole_volume_psnr_db=score_whole_volume(truth, slices),
    )


def candidate_slices(reference: Reference, candidate: Volume) -> np.ndarray:
    """The voxels of `candidate` as (slices, rows, columns) in the order of the reference: a view.

    Raises:
        InputError: the candidate lies on another grid than the truth.
    """
    same_shape = candidate.voxels.shape == reference.volume.voxels.shape
    if not (same_shape and np.allclose(candidate.affine, reference.volume.affine, rtol=0, atol=1e-3)):
        raise InputError("The volume to be measured does not lie on the grid of the truth.")
    return reference.order.apply(candidate.voxels)


def score_whole_volume(truth: np.ndarray, candidate: np.ndarray) -> float:
    """PSNR in dB by the authors' own protocol: every voxel, those of observed slices and padding included.

    Observed slices have no error, so against the new slices alone this adds 3.0 dB at a factor of 2, 1.25 dB at 4,
    and more where there is padding.
    """
    return psnr_db(truth, candidate, np.broadcast_to(True, truth.shape))


def psnr_db(truth: np.ndarray, candidate: np.ndarray, counted: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB for a range of 4096 HU, over the voxels where `counted` (bool) is true.

    Infinite without any difference, NaN if no voxel is counted.

    >>> psnr_db(np.zeros((1, 2, 2)), np.full((1, 2, 2), 64), np.full((1, 2, 2), True)).__round__(2)
    36.12
    """
    squares, voxels = 0.0, 0
    for difference in _differences(truth, candidate, counted):
        squares += float(np.sum(difference * difference, dtype=np.float64))
        voxels += difference.size
    if voxels == 0:
        return math.nan
    return 10 * math.log10(HU_RANGE**2 * voxels / squares) if squares else math.inf


def mae_hu(truth: np.ndarray, candidate: np.ndarray, counted: np.ndarray) -> float:
    """Mean absolute error in HU over the voxels where `counted` (bool) is true; NaN if there is none."""
    total, voxels = 0.0, 0
    for difference in _differences(truth, candidate, counted):
        total += float(np.sum(np.abs(difference), dtype=np.float64))
        voxels += difference.size
    return total / voxels if voxels else math.nan


def ssim(
    truth: np.ndarray, candidate: np.ndarray, counted: np.ndarray, check: Callable[[], None] = lambda: None
) -> float:
    """Structural similarity for a range of 4096 HU, averaged over the three families of planes.

    In every plane through the (slices, rows, columns) arrays the local statistics come from a Gaussian window of
    11 x 11 pixels, sigma 1.5, mirrored at the borders; the similarity is averaged over the `counted` (bool) pixels.
    """
    return float(np.mean([_ssim_of_planes(truth, candidate, counted, dimension, check) for dimension in range(3)]))


def noise_ratio(slices: np.ndarray, counted: np.ndarray, is_new: np.ndarray) -> float:
    """Noise of the new slices divided by noise of the observed ones; NaN if it cannot be measured.

    A slice's noise is the median magnitude, over its `counted` (bool) pixels, of the difference of two Laplacians
    (Immerkaer 1996), which is insensitive to edges and slow changes.
    """
    new: list[float] = []
    observed: list[float] = []
    for plane, inside, synthetic in zip(slices, counted, is_new, strict=True):
        noise = _noise(plane, inside)
        if noise is not None:
            (new if synthetic else observed).append(noise)
    if not new or not observed or np.mean(observed) == 0:
        return math.nan
    return float(np.mean(new) / np.mean(observed))


def disagreement_correlation(reference: Reference, candidate: Volume, disagreement: Volume) -> float:
    """Rank correlation of the disagreement with the candidate's absolute error.

    Measured on the counted voxels, or on a fixed sample of about two million of them.
    """
    positions = _draw_counted(reference.in_view & reference.is_new[:, None, None])
    truth, found = (clip_hu(array[positions]) for array in (reference.slices, candidate_slices(reference, candidate)))
    return rank_correlation(candidate_slices(reference, disagreement)[positions], np.abs(found - truth))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation of two lists of equal length; NaN if one of them is constant.

    >>> rank_correlation(np.array([1, 2, 3, 4]), np.array([10, 20, 40, 30])).__round__(6)
    0.8
    """
    # Loading scipy.stats takes seconds on a slow disk, and most commands do not need it.
    from scipy.stats import rankdata

    if any(values.size == 0 or np.ptp(values) == 0 for values in (first, second)):
        return math.nan
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def field_of_view(slices: np.ndarray) -> np.ndarray:
    """Bool mask, the shape of `slices` (HU): true inside the field of view, false in padding."""
    return slices >= PADDING_BELOW


def body_mask(slices: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Bool, the shape of `slices` (HU): the patient with lungs and bowel gas, without table and air.

    Computed on pixels of about 2 mm, so the border is as coarse. If no body is found, as in a test pattern, the whole
    field of view counts as body.

    Args:
        slices: (slices, rows, columns) HU.
        spacing: mm along slices, rows and columns.
    """
    stride = [max(1, round(_BODY_GRID_MM / mm)) for mm in spacing[1:]]
    coarse = sitk.GetImageFromArray((slices[:, :: stride[0], :: stride[1]] > _BODY_ABOVE_HU).astype(np.uint8))
    opened = sitk.BinaryMorphologicalOpening(coarse, [_BODY_OPENING, _BODY_OPENING, 0])
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(opened))
    largest = sitk.GetArrayFromImage(parts == 1)
    if not largest.any():
        return field_of_view(slices)
    filled = np.stack([sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(plane))) for plane in largest])
    rows, columns = slices.shape[1:]
    return filled.astype(bool).repeat(stride[0], axis=1)[:, :rows].repeat(stride[1], axis=2)[:, :, :columns]


def finite_or_none(value: float) -> float | None:
    """The value, or None for NaN and infinity."""
    return value if math.isfinite(value) else None


def clip_hu(values: np.ndarray) -> np.ndarray:
    """float32 HU within [-1024, 3071]."""
    return np.clip(values.astype(np.float32), LOWEST_HU, HIGHEST_HU)


def _differences(truth: np.ndarray, candidate: np.ndarray, counted: np.ndarray) -> Iterator[np.ndarray]:
    """Clipped HU differences of the counted voxels, float32, slice by slice."""
    for expected, found, inside in zip(truth, candidate, counted, strict=True):
        if inside.any():
            yield clip_hu(found[inside]) - clip_hu(expected[inside])


def _ssim_of_planes(
    truth: np.ndarray, candidate: np.ndarray, counted: np.ndarray, dimension: int, check: Callable[[], None]
) -> float:
    """Mean SSIM of the planes across `dimension`, over the counted pixels."""
    truth, candidate, counted = (np.moveaxis(array, dimension, 0) for array in (truth, candidate, counted))
    total, pixels = 0.0, 0
    at_once = max(1, _PIXELS_AT_ONCE // truth[0].size)
    for start in range(0, len(truth), at_once):
        planes = slice(start, start + at_once)
        inside = np.ascontiguousarray(counted[planes])
        check()
        if not inside.any():
            continue
        similarity = _similarity(clip_hu(truth[planes]), clip_hu(candidate[planes]))
        total += float(similarity[inside].sum(dtype=np.float64))
        pixels += int(np.count_nonzero(inside))
    return total / pixels if pixels else math.nan


def _similarity(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM at every pixel of (planes, height, width) arrays of clipped HU.

    Written in the sum a and the difference b of the two images, four blurs do where the textbook has five: with
    E a blur, 4 E[x]E[y] = E[a]^2 - E[b]^2, and likewise for the squares and the products.
    """
    a, b = x + y, x - y
    a -= 2 * LOWEST_HU
    mean_a, mean_b = _blur(a), _blur(b)
    np.square(a, out=a)
    np.square(b, out=b)
    square_a, square_b = _blur(a), _blur(b)
    np.square(mean_a, out=mean_a)
    np.square(mean_b, out=mean_b)
    square_a -= mean_a
    square_b -= mean_b
    luminance = (mean_a - mean_b + 2 * _SSIM_C1) / (mean_a + mean_b + 2 * _SSIM_C1)
    structure = (square_a - square_b + 2 * _SSIM_C2) / (square_a + square_b + 2 * _SSIM_C2)
    return luminance * structure


def _blur(planes: np.ndarray) -> np.ndarray:
    """(planes, height, width) under a Gaussian of 11 x 11 pixels, mirrored at the borders, border pixels repeated."""
    return ndimage.gaussian_filter(planes, (0, _SSIM_SIGMA, _SSIM_SIGMA), mode="reflect", radius=_SSIM_RADIUS)


def _noise(plane: np.ndarray, inside: np.ndarray) -> float | None:
    """Median magnitude of the difference of two Laplacians over the counted pixels of one slice."""
    counted = inside[1:-1, 1:-1]
    if not counted.any():
        return None
    curvature = np.diff(np.diff(clip_hu(plane), 2, axis=0), 2, axis=1)
    return float(np.median(np.abs(curvature[counted])))


def _draw_counted(counted: np.ndarray) -> tuple[np.ndarray, ...]:
    """Indices of the counted voxels; for a large volume only those among three million random voxels."""
    if counted.size <= _DRAWN_VOXELS:
        return np.nonzero(counted)
    drawn = np.random.default_rng(0).integers(counted.size, size=_DRAWN_VOXELS)
    index = np.unravel_index(drawn, counted.shape)
    chosen = counted[index]
    return tuple(i[chosen] for i in index)
