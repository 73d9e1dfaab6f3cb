"""The places of an enhanced volume where its uncertainty map is worst."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from XViewSynthLib.geometry.volume import AXES, array_axis

from .marks import ijk_to_world
from .provenance import Provenance
from .volumes import volume_from_node

# Rows and columns of the blocks that are compared: a single voxel is mostly noise.
_BLOCK = 4
# Slices of a block where none was observed and the factor is unknown.
_BLOCK_SLICES = 4
# A long region has several places, at least this far apart.
_APART_MM = 25.0
_MOST_PLACES = 100


@dataclass(frozen=True)
class Place:
    """A place in a region of high uncertainty.

    Attributes:
        position: of its worst voxel, RAS of the world, mm.
        uncertainty_hu: mean of the worst block of 4 x 4 pixels there, HU.
    """

    position: tuple[float, float, float]
    uncertainty_hu: float


def find_places(
    uncertainty_node: slicer.vtkMRMLScalarVolumeNode, provenance: Provenance | None, faint_hu: float
) -> list[Place]:
    """The worst place of each connected region of uncertainty, the worst first; at most 100.

    A region is made of blocks of 4 x 4 pixels between two observed slices, each with a mean above `faint_hu` in some
    slice. Blocks with a common face are connected. A region gets further places 25 mm or more from the
    others.

    Args:
        uncertainty_node: the map, HU.
        provenance: of the enhanced volume; without it, every slice along the axis of the slices is synthetic.
        faint_hu: HU up to which uncertainty does not count.

    Raises:
        InputError: the map has no voxels, or lies under a non-linear transform.
    """
    volume = volume_from_node(uncertainty_node)
    axis = provenance.axis if provenance else volume.through_plane_axis
    slices = np.moveaxis(volume.voxels, array_axis(axis), 0)
    groups = list(_groups(len(slices), provenance))
    if not groups or min(slices.shape[1:]) < _BLOCK:
        return []
    blocks = np.stack([_worst_means(slices[group]) for group in groups])
    regions = _regions(blocks > faint_hu)
    rows, columns = (volume.spacing_along(other) for other in reversed(AXES) if other != axis)
    steps = np.array([volume.spacing_along(axis), rows * _BLOCK, columns * _BLOCK])
    heights = np.array([(group.start + group.stop - 1) / 2 for group in groups])
    to_world = ijk_to_world(uncertainty_node)
    places = []
    # The node's geometry counts from the start of the image's extent.
    first = np.array(uncertainty_node.GetImageData().GetExtent()[::2])
    for block in _worst(blocks, regions, heights, steps):
        along, *across = _worst_voxel(slices, groups[block[0]], block[1:])
        kji = np.insert(across, array_axis(axis), along)
        position = to_world @ [*(kji[::-1] + first), 1]
        places.append(Place(tuple(float(value) for value in position[:3]), float(blocks[block])))
    return places


def _groups(count: int, provenance: Provenance | None) -> Iterator[slice]:
    """Runs of synthetic slices; where no slice was observed, runs of as many slices as the factor."""
    if provenance is None or provenance.observed_slices == 0:
        step = provenance.factor if provenance else _BLOCK_SLICES
        yield from (slice(start, min(start + step, count)) for start in range(0, count, step))
        return
    start = None
    for index in range(count + 1):
        is_synthetic = index < count and provenance.is_synthetic(index)
        if is_synthetic and start is None:
            start = index
        elif not is_synthetic and start is not None:
            yield slice(start, index)
            start = None


def _worst_means(slices: np.ndarray) -> np.ndarray:
    """(rows // 4, columns // 4) largest means of blocks in any slice; rows and columns left over do not count."""
    rows, columns = (size - size % _BLOCK for size in slices.shape[1:])
    worst = np.zeros((rows // _BLOCK, columns // _BLOCK), np.float32)
    for plane in slices:
        # Strided sums are several times quicker than the mean of a reshaped plane.
        lines = sum(plane[first:rows:_BLOCK, :columns] for first in range(_BLOCK))
        sums = sum(lines[:, first::_BLOCK] for first in range(_BLOCK))
        np.maximum(worst, sums / _BLOCK**2, out=worst, casting="unsafe")
    return worst


def _regions(mask: np.ndarray) -> np.ndarray:
    """The number of the region of each block, from 1; 0 outside the mask."""
    image = vtk.vtkImageData()
    image.SetDimensions(mask.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(mask.ravel().astype(np.uint8), deep=True))
    connectivity = vtk.vtkImageConnectivityFilter()
    connectivity.SetInputData(image)
    connectivity.SetScalarRange(1, 1)
    connectivity.SetExtractionModeToAllRegions()
    connectivity.SetLabelModeToSizeRank()
    connectivity.SetLabelScalarTypeToInt()
    connectivity.Update()
    return vtk_to_numpy(connectivity.GetOutput().GetPointData().GetScalars()).reshape(mask.shape)


def _worst(
    blocks: np.ndarray, regions: np.ndarray, heights: np.ndarray, steps: np.ndarray
) -> Iterator[tuple[int, int, int]]:
    """Indices of the worst blocks, the worst first; those of one region are apart from each other.

    Args:
        blocks: (groups, rows, columns), HU.
        regions: number of the region of each block; 0 for none.
        heights: of the middle of each group of slices, in slices.
        steps: mm between slices, and between blocks in rows and columns.
    """
    left = np.where(regions > 0, blocks, -np.inf)
    places = [heights * steps[0], *(np.arange(size) * step for size, step in zip(left.shape[1:], steps[1:]))]
    for _ in range(_MOST_PLACES):
        worst = tuple(int(index) for index in np.unravel_index(left.argmax(), left.shape))
        if left[worst] == -np.inf:
            return
        yield worst
        offsets = [place - place[index] for place, index in zip(places, worst)]
        # A region may be the whole scan, of which only what is near matters.
        box = tuple(slice(*(np.flatnonzero(abs(offset) < _APART_MM)[[0, -1]] + [0, 1])) for offset in offsets)
        distances = sum(np.ix_(*(offset[part] ** 2 for offset, part in zip(offsets, box))))
        left[box][(distances < _APART_MM**2) & (regions[box] == regions[worst])] = -np.inf


def _worst_voxel(slices: np.ndarray, group: slice, block: tuple[int, int]) -> np.ndarray:
    """(slice, row, column) of the worst voxel of a block."""
    row, column = (index * _BLOCK for index in block)
    voxels = slices[group, row : row + _BLOCK, column : column + _BLOCK]
    return np.add(np.unravel_index(voxels.argmax(), voxels.shape), (group.start, row, column))
