"""A reading kit: one page in which readers compare series of one scan without knowing which method made which.

The page needs no other file and no network. It holds voxels, letters and a code, but neither names of methods nor any
text of the scans. The key, which says what each letter is, is a file of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import secrets
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase

import numpy as np
from scipy import ndimage

from .. import __version__
from ..errors import InputError
from ..geometry.checks import check_values
from ..geometry.intensity import in_hu
from ..geometry.orientation import to_slices
from ..geometry.volume import AXES, Volume, affine_column
from ..report import PROGRAM
from ..system.pages import render
from .metrics import clip_hu

PAGE, KEY = "reading.html", "key.json"
#: Series of the kit itself: the scan as it was acquired (nearest slice), and interpolated between its slices.
ACQUIRED, LINEAR = "acquired", "linear"

_TEMPLATE = Path(__file__).with_name("reading_kit.html.j2")
_CRITERIA = ("sharpness", "artefacts", "noise", "diagnostic trust")
# Browsers unpack that much in seconds. A voxel of a CT takes about 1.5 characters, more if it is noisy.
_MOST_CHARACTERS, _MOST_VOXELS = 40_000_000, 26_000_000
_FEWEST_SLICES, _MOST_SERIES = 2, 10
# How far a point may lie outside the first and last voxel of a series, in voxels.
_OUTSIDE = 0.51


@dataclass(frozen=True)
class Settings:
    """How a kit is made.

    Attributes:
        seed: decides which letter a series gets; None draws one.
        pixels: largest number of rows and of columns of the region that is shown.
        centre: of the region, RAS mm; None is the middle of the scan.
        acquired: whether the scan as it was acquired is a series, which readers recognise.
    """

    seed: int | None = None
    pixels: int = 256
    centre: tuple[float, float, float] | None = None
    acquired: bool = True


def write_kit(
    scan: Volume,
    volumes: Mapping[str, Volume],
    folder: Path,
    settings: Settings,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write `PAGE` and `KEY` into a folder that exists.

    All series are shown at the voxels of the volume with the smallest ones, from superior to inferior, anterior to
    posterior and right to left.

    Args:
        scan: the thick scan, HU.
        volumes: by the names of their methods, HU; also the truth, if there is one.
        folder: of the kit.
        settings: of the kit.
        check: called before each slice; an exception of it ends the work.

    Raises:
        InputError: a volume is not in HU or does not cover the region, a name is taken, or there are too many.
    """
    taken = [name for name in volumes if name.lower() in (ACQUIRED, LINEAR)]
    if taken:
        raise InputError(f"A kit has a series {taken[0]!r} of its own: give the volume another name.")
    thick = _checked("scan", scan)
    series = {LINEAR: thick, **{name: _checked(name, volume) for name, volume in volumes.items()}}
    if settings.acquired:
        series[ACQUIRED] = thick
    if len(series) > _MOST_SERIES:
        raise InputError(f"A kit holds at most {_MOST_SERIES} series, and these are {len(series)}: leave some out.")
    seed = secrets.randbits(32) if settings.seed is None else settings.seed
    names = random.Random(seed).sample(sorted(series), len(series))
    region, encoded = _fitting(_region(thick, series, settings), {name: series[name] for name in names}, check)
    code = hashlib.sha256("".join(encoded).encode("ascii")).hexdigest()[:12]
    letters = ascii_uppercase[: len(names)]
    page = {
        "code": code,
        "letters": letters,
        "shape": region.shape,
        "spacing": region.spacing,
        "criteria": _CRITERIA,
    }
    text = render(_TEMPLATE, kit=page, series=dict(zip(letters, encoded, strict=True)))
    key = {"program": f"{PROGRAM} {__version__}", "kit": code, "seed": seed, "series": dict(zip(letters, names))}
    try:
        (folder / PAGE).write_text(text, encoding="utf-8")
        (folder / KEY).write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot write {folder}: {error.strerror}. Choose another place for the kit.") from error


def _checked(name: str, volume: Volume) -> Volume:
    """The volume in HU."""
    try:
        check_values(volume.voxels)
    except InputError as error:
        raise InputError(f"The volume {name!r} cannot be shown. {error}") from error
    return in_hu(volume)


def _fitting(region: _Region, series: Mapping[str, Volume], check: Callable[[], None]) -> tuple[_Region, list[str]]:
    """The region, with fewer slices if its page would be too large, and the series in it as text, in their order."""
    while True:
        encoded = [
            _encoded(region.sampled(volume, 0 if name == ACQUIRED else 1, check)) for name, volume in series.items()
        ]
        ratio = sum(map(len, encoded)) / _MOST_CHARACTERS
        if ratio <= 1 or region.shape[0] == _FEWEST_SLICES:
            return region, encoded
        region = region.with_slices(max(_FEWEST_SLICES, int(0.95 * region.shape[0] / ratio)))


def _region(scan: Volume, series: Mapping[str, Volume], settings: Settings) -> _Region:
    """The voxels to show: those of the finest volume around the centre that lie in all volumes."""
    middle = scan.ijk_to_ras((np.array(scan.shape_ijk) - 1) / 2)
    if settings.centre is not None:
        middle = np.array(settings.centre, np.float64)
        if not (np.isfinite(middle).all() and _is_inside(middle, scan)):
            raise InputError(
                f"The centre {', '.join(f'{mm:g}' for mm in settings.centre)} lies outside of the scan: give RAS "
                "coordinates within it, in mm."
            )
    region = _Region.of(min(series.values(), key=lambda volume: float(np.prod(volume.spacing))))
    for name, volume in series.items():
        if not _is_inside(middle, volume):
            raise InputError(
                f"The volume {name!r} does not hold the centre of the region: give one of the same patient in the same "
                "position, or another --centre."
            )
        region = region.within(volume, middle)
    _, rows, columns = region.shape
    height, width = min(rows, settings.pixels), min(columns, settings.pixels)
    slices = _MOST_VOXELS // max(1, len(series) * height * width)
    region = region.around(middle, (max(_FEWEST_SLICES, slices), height, width))
    # The corners of a volume that is tilted against another may lie outside of it.
    while min(region.shape) > _FEWEST_SLICES and not all(map(region.is_within, series.values())):
        region = region.without_border()
    if region.shape[0] < _FEWEST_SLICES or not all(map(region.is_within, series.values())):
        raise InputError(
            f"The volumes have fewer than {_FEWEST_SLICES} slices in common: give volumes of the same patient in the "
            "same position, or another --centre."
        )
    return region


@dataclass(frozen=True)
class _Region:
    """Voxels of a volume from superior to inferior, anterior to posterior and right to left.

    Attributes:
        volume: it.
        dimensions: the dimension of (K, J, I) of slices, rows and columns.
        indices: of the volume's voxels, for slices, rows and columns.
    """

    volume: Volume
    dimensions: tuple[int, int, int]
    indices: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(cls, volume: Volume) -> _Region:
        superior = max(AXES, key=lambda axis: abs(volume.directions[2, affine_column(axis)]))
        _, order = to_slices(volume, superior)
        # Canonical order is from inferior, posterior and left.
        first, second, third = (
            np.arange(volume.voxels.shape[dimension])[:: 1 if backwards else -1]
            for dimension, backwards in zip(order.dimensions, order.reversed, strict=True)
        )
        return cls(volume, order.dimensions, (first, second, third))

    @property
    def shape(self) -> tuple[int, int, int]:
        slices, rows, columns = map(len, self.indices)
        return slices, rows, columns

    @property
    def spacing(self) -> tuple[float, float, float]:
        slices, rows, columns = (float(self.volume.spacing[2 - dimension]) for dimension in self.dimensions)
        return slices, rows, columns

    def around(self, ras: np.ndarray, size: tuple[int, int, int]) -> _Region:
        """The part of this size around a point, RAS mm."""
        ijk = self.volume.ras_to_ijk(ras)

        def part(indices: np.ndarray, dimension: int, count: int) -> np.ndarray:
            place = int(np.argmin(np.abs(indices - ijk[2 - dimension]))) if indices.size else 0
            start = min(max(place - count // 2, 0), max(len(indices) - count, 0))
            return indices[start : start + count]

        slices, rows, columns = map(part, self.indices, self.dimensions, size)
        return replace(self, indices=(slices, rows, columns))

    def within(self, other: Volume, ras: np.ndarray) -> _Region:
        """The slices, rows and columns that lie in another volume along the three lines through a point, RAS mm."""
        ijk = self.volume.ras_to_ijk(ras)

        def part(indices: np.ndarray, dimension: int) -> np.ndarray:
            line = np.repeat(ijk[None], len(indices), axis=0)
            line[:, 2 - dimension] = indices
            return indices[_are_inside(self.volume.ijk_to_ras(line), other)]

        slices, rows, columns = map(part, self.indices, self.dimensions)
        return replace(self, indices=(slices, rows, columns))

    def with_slices(self, count: int) -> _Region:
        """The middle slices."""
        first = (self.shape[0] - count) // 2
        return replace(self, indices=(self.indices[0][first : first + count], *self.indices[1:]))

    def without_border(self) -> _Region:
        """Without the first and last slice, row and column."""
        slices, rows, columns = (indices[1:-1] for indices in self.indices)
        return replace(self, indices=(slices, rows, columns))

    def is_within(self, other: Volume) -> bool:
        """Whether another volume holds the corners of the first and of the last slice."""
        return min(self.shape) > 0 and all(_is_inside(self._corners(index), other) for index in (0, -1))

    def sampled(self, other: Volume, order: int, check: Callable[[], None]) -> np.ndarray:
        """(slices, rows, columns) int16 HU of another volume at these voxels.

        Args:
            other: the volume, HU.
            order: 0 for the nearest voxel, 1 for linear interpolation.
            check: called before each slice.
        """
        result = np.empty(self.shape, np.int16)
        to_other = np.linalg.inv(other.affine) @ self.volume.affine
        for index, plane in enumerate(result):
            check()
            ijk = self._points(self.indices[0][index], self.indices[1][:, None], self.indices[2])
            places = np.moveaxis(ijk @ to_other[:3, :3].T + to_other[:3, 3], -1, 0)
            hu = ndimage.map_coordinates(other.voxels, places[::-1], np.float32, order=order, mode="nearest")
            plane[:] = np.rint(clip_hu(hu))
        return result

    def _corners(self, slice_index: int) -> np.ndarray:
        """(4, 3) RAS mm of the corners of a slice."""
        rows, columns = self.indices[1][[0, 0, -1, -1]], self.indices[2][[0, -1, 0, -1]]
        return self.volume.ijk_to_ras(self._points(self.indices[0][slice_index], rows, columns))

    def _points(self, slices: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(..., 3) voxel indices (I, J, K) of the volume, from those of slices, rows and columns, broadcast."""
        ijk = np.empty((*np.broadcast_shapes(slices.shape, rows.shape, columns.shape), 3))
        for dimension, part in zip(self.dimensions, (slices, rows, columns), strict=True):
            ijk[..., 2 - dimension] = part
        return ijk


def _is_inside(ras: np.ndarray, volume: Volume) -> bool:
    """Whether all points, RAS mm, lie in a volume."""
    return bool(_are_inside(np.atleast_2d(ras), volume).all())


def _are_inside(ras: np.ndarray, volume: Volume) -> np.ndarray:
    ijk = volume.ras_to_ijk(ras)
    inside = (ijk >= -_OUTSIDE) & (ijk <= np.array(volume.shape_ijk) - 1 + _OUTSIDE)
    return np.asarray(inside.all(axis=1))


def _encoded(hu: np.ndarray) -> str:
    """Voxels as text: differences along each row, 16 bits little endian, compressed by zlib, in base 64."""
    differences = np.diff(hu, axis=2, prepend=np.int16(0)).astype("<i2")
    return base64.b64encode(zlib.compress(differences.tobytes(), 6)).decode("ascii")
