"""The uncertainty above which a map is coloured: what noise does not explain, where the map is worst."""

from __future__ import annotations

import math

import numpy as np
import slicer
from numpy.lib.stride_tricks import sliding_window_view

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.volume import Volume, array_axis

from .volumes import volume_from_node

#: HU up to which nothing is ever coloured: about the noise of a CT.
FAINT_HU = 20.0

_PATCH, _STEP = 7, 4  # pixels
_PLANES = 3
_SOFT_TISSUE_HU = (-150, 250)
_FEWEST_PATCHES = 50
# Noise alone explains differences between slices up to this many of its standard deviations.
_NOISE_DEVIATIONS = 2.0
_ROUNDED_UP_HU = 5.0  # for legible numbers beside the colours
# Largest share of the body, lungs included, that is coloured, unless more than noise and this error are expected there.
_LARGEST_SHARE, _ALWAYS_HU = 0.2, 50.0
# Air around the body is darker. Rows and columns are sampled at this step.
_AIR_HU, _SAMPLE_STEP = -950, 8


def faint_hu(
    original_node: slicer.vtkMRMLScalarVolumeNode,
    enhanced_node: slicer.vtkMRMLScalarVolumeNode,
    uncertainty_node: slicer.vtkMRMLScalarVolumeNode,
) -> float:
    """HU up to which a map is not coloured.

    The largest of 20, twice the noise of the scan, and what four fifths of the body do not exceed, the last up to 50;
    rounded up to 5 HU.
    """
    try:
        scan, enhanced, uncertainty = map(volume_from_node, (original_node, enhanced_node, uncertainty_node))
    except InputError:  # under a non-linear transform, or without voxels
        return FAINT_HU
    noise = noise_hu(scan) or 0.0
    usual = min(_of_most_of_the_body(enhanced, uncertainty), _ALWAYS_HU)
    largest = max(FAINT_HU, _NOISE_DEVIATIONS * noise, usual)
    return _ROUNDED_UP_HU * math.ceil(largest / _ROUNDED_UP_HU)


def _of_most_of_the_body(enhanced: Volume, uncertainty: Volume) -> float:
    """HU that all but the worst fifth of the synthetic voxels of the body do not exceed; 0 without such voxels."""
    if enhanced.voxels.shape != uncertainty.voxels.shape:
        return 0.0
    sample = tuple(
        slice(None) if axis == enhanced.through_plane_axis else slice(None, None, _SAMPLE_STEP) for axis in "KJI"
    )
    hu = uncertainty.voxels[sample]
    in_body = hu[(hu > 0) & (enhanced.voxels[sample] > _AIR_HU)]
    return float(np.percentile(in_body, 100 * (1 - _LARGEST_SHARE))) if in_body.size else 0.0


def noise_hu(volume: Volume) -> float | None:
    """Standard deviation of the noise in soft tissue, HU; None if the scan has too little soft tissue.

    The lower quartile of the standard deviations of small patches in the slices, because edges raise the deviation.
    Correlated noise counts fully, unlike with a high-pass filter.
    """
    planes = np.moveaxis(volume.voxels, array_axis(volume.through_plane_axis), 0)
    chosen = np.unique(np.linspace(0, len(planes) - 1, _PLANES + 2).round().astype(int)[1:-1])
    deviations = np.concatenate([_deviations(planes[index]) for index in chosen])
    return float(np.percentile(deviations, 25)) if len(deviations) >= _FEWEST_PATCHES else None


def _deviations(plane: np.ndarray) -> np.ndarray:
    """Standard deviation of each patch that holds only soft tissue."""
    if min(plane.shape) < _PATCH:
        return np.empty(0)
    patches = sliding_window_view(plane, (_PATCH, _PATCH))[::_STEP, ::_STEP].reshape(-1, _PATCH * _PATCH)
    lowest, highest = _SOFT_TISSUE_HU
    soft = patches[(patches.min(axis=1) > lowest) & (patches.max(axis=1) < highest)]
    deviations = soft.astype(np.float32).std(axis=1)
    # Masked voxels have one value.
    return deviations[deviations > 0]
