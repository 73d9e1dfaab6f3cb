"""Noise of a scan, which sets the threshold above which uncertainty is coloured."""

from __future__ import annotations

import numpy as np
import slicer
from numpy.lib.stride_tricks import sliding_window_view

from XViewSynthLib.geometry.volume import array_axis

from .volumes import volume_from_node

_PATCH, _STEP = 7, 4  # pixels
_PLANES = 3
_SOFT_TISSUE_HU = (-150, 250)
_FEWEST_PATCHES = 50


def noise_hu(node: slicer.vtkMRMLScalarVolumeNode) -> float | None:
    """Standard deviation of the noise in soft tissue, HU; None if the scan has too little soft tissue.

    The lower quartile of the standard deviations of small patches in the slices, because edges raise the deviation.
    Correlated noise counts fully, unlike with a high-pass filter.
    """
    volume = volume_from_node(node)
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
    return soft.astype(np.float32).std(axis=1)
