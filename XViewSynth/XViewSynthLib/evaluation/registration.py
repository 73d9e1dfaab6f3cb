"""Registration-based interpolation: motion-compensated slices are blended (Penney et al., "Registration-based
interpolation", IEEE TMI 2004).

Two neighbouring slices are registered in plane by symmetric demons (Vercauteren et al., "Diffeomorphic demons",
NeuroImage 2009), as SimpleITK implements them. Both are warped to the position in between and blended by distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from ..errors import InputError
from ..geometry.orientation import to_slices
from ..geometry.volume import Axis, Volume
from .metrics import HIGHEST_HU, LOWEST_HU, PADDING_BELOW

# Chosen on thin chest scans of the training data, thinned by 4. All lengths are in pixels.
#: Range of HU for the registration, from air to contrast agent. Outside of it, bone would dominate.
_ALIGNED_HU = (-1000.0, 400.0)
#: Shrink factors of the levels, from coarse to fine.
_SHRINK_FACTORS = (4, 2, 1)
_ITERATIONS = 20
#: Gaussian regularisation of the displacement, in pixels of the level. It suppresses noise too: smoothing the images
#: makes the alignment worse.
_FIELD_SIGMA = 2.0
_FEWEST_PIXELS = 16


def upsample_by_registration(
    volume: Volume, factor: int, axis: Axis, check: Callable[[], None] = lambda: None
) -> Volume:
    """`volume` with `factor` times the slices along `axis`; float32 voxels.

    Observed slices do not change. A voxel between two padded ones is padded with the value of the nearer. Gaps are
    computed one at a time by one thread, so that the numbers do not depend on the machine's cores.

    Args:
        check: called before every gap; an exception of it ends the work.

    Raises:
        InputError: a factor below 2, one slice, or slices of less than 16 x 16 pixels.
    """
    slices, order = to_slices(volume, axis)
    if factor < 2 or len(slices) < 2 or min(slices.shape[1:]) < _FEWEST_PIXELS:
        rows, columns = slices.shape[1:]
        raise InputError(
            f"Registration needs a factor of at least 2, and at least 2 slices of {_FEWEST_PIXELS} x {_FEWEST_PIXELS} "
            f"pixels: the factor is {factor}, and there are {len(slices)} slices of {columns} x {rows}."
        )
    dense = np.empty((factor * (len(slices) - 1) + 1, *slices.shape[1:]), np.float32)
    dense[::factor] = slices
    for gap in range(len(slices) - 1):
        check()
        between = slice(gap * factor + 1, (gap + 1) * factor)
        dense[between] = _between(slices[gap], slices[gap + 1], factor)
    return replace(volume, voxels=order.restore(dense), affine=volume.upsampled_affine(axis, factor))


def _between(below: np.ndarray, above: np.ndarray, factor: int) -> np.ndarray:
    """(s - 1, rows, columns) float32 between two slices (rows, columns), HU."""
    first, second = (np.clip(plane.astype(np.float32), LOWEST_HU, HIGHEST_HU) for plane in (below, above))
    # The mean of both directions reduces their errors.
    displacement = (_displacement(first, second) - _displacement(second, first)) / 2
    padded = (below < PADDING_BELOW) & (above < PADDING_BELOW)
    slices = []
    for step in range(1, factor):
        position = step / factor
        mixed = (1 - position) * _moved(first, -position * displacement)
        mixed += position * _moved(second, (1 - position) * displacement)
        slices.append(np.where(padded, below if position <= 0.5 else above, mixed))
    return np.stack(slices)


def _displacement(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """(rows, columns, 2) float64 displacement d in pixels, columns first: `fixed` at x matches `moving` at x + d."""
    whole = [sitk.GetImageFromArray(np.clip(plane, *_ALIGNED_HU)) for plane in (fixed, moving)]
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfThreads(1)
    demons.SetNumberOfIterations(_ITERATIONS)
    demons.SetStandardDeviations(_FIELD_SIGMA)
    field = demons.Execute(*_shrunk(whole, _SHRINK_FACTORS[0]))
    for shrink in _SHRINK_FACTORS[1:]:
        images = _shrunk(whole, shrink)
        finer = sitk.Resample(field, images[0], sitk.Transform(), sitk.sitkLinear, 0.0, field.GetPixelID(), True)
        field = demons.Execute(*images, finer)
    return sitk.GetArrayFromImage(field)


def _shrunk(images: Sequence[sitk.Image], factor: int) -> list[sitk.Image]:
    return [sitk.Shrink(image, [factor] * 2) for image in images]


def _moved(plane: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """(rows, columns) float32: the plane's value at x + displacement, with the border value beyond the border."""
    field = sitk.GetImageFromArray(displacement, isVector=True)
    image = sitk.GetImageFromArray(plane)
    transform = sitk.DisplacementFieldTransform(field)
    return sitk.GetArrayFromImage(
        sitk.Resample(image, image, transform, sitk.sitkLinear, LOWEST_HU, sitk.sitkFloat32, True)
    )
