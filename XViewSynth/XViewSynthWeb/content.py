"""Reads the files of the viewer and checks that they belong together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from XViewSynthLib import __version__
from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.volume import AXES, Axis, Volume, affine_column, array_axis
from XViewSynthLib.io.reading import read_volume
from XViewSynthScene.provenance import Provenance, now, provenance_from_report

UNKNOWN = "unknown"

# Headers round lengths and directions, so a difference of this share of a voxel is not another place.
_TOLERANCE = 0.02

# Far above a real report: one of a thousand slices has a few thousand bytes.
_MOST_REPORT_BYTES = 2**24


@dataclass(frozen=True)
class Content:
    """A scan and its enhanced volume.

    Attributes:
        name: of the scan's file or folder.
        scan: as observed.
        enhanced: the scan with its synthetic slices; None before it is made.
        uncertainty: uncertainty map, HU, on the grid of `enhanced`; None without one.
        provenance: of `enhanced`, with its synthetic slices; None if unknown.
    """

    name: str
    scan: Volume
    enhanced: Volume | None = None
    uncertainty: Volume | None = None
    provenance: Provenance | None = None


def read_content(
    scan: Path, enhanced: Path | None = None, uncertainty: Path | None = None, report: Path | None = None
) -> Content:
    """Read the files. Without a report, a comparison of the two volumes finds the synthetic slices.

    Raises:
        InputError: a file cannot be read, or does not match the others.
    """
    if enhanced is None:
        for option, path in (("--uncertainty", uncertainty), ("--report", report)):
            if path is not None:
                raise InputError(f"{option} needs an enhanced volume: name it after the scan.")
        return Content(scan.stem, read_volume(scan))
    observed, result = read_volume(scan), read_volume(enhanced)
    if not _share_space(observed, result):
        raise InputError(f"{enhanced} lies elsewhere in space than {scan}: name its scan.")
    uncertainty_map = None if uncertainty is None else read_volume(uncertainty)
    if uncertainty_map is not None and not _same_grid(uncertainty_map, result):
        raise InputError(f"{uncertainty} has other voxels than {enhanced}: name the map that was written with it.")
    provenance = (
        derive_provenance(observed, result, scan.stem) if report is None else _read_report(report, scan, result)
    )
    return Content(scan.stem, observed, result, uncertainty_map, provenance)


def derive_provenance(scan: Volume, enhanced: Volume, name: str) -> Provenance | None:
    """Provenance of an enhanced volume, derived from a comparison of the two volumes.

    A slice is observed if it equals a slice of the scan at the same place. None if the grids do not differ by a whole
    factor along one axis, as after resampling to a spacing.
    """
    for axis in AXES:
        factor = _factor(scan, enhanced, axis)
        if factor is None:
            continue
        dimension = array_axis(axis)
        before, after = (np.moveaxis(volume.voxels, dimension, 0) for volume in (scan, enhanced))
        observed = {
            index * factor for index in range(len(before)) if np.array_equal(before[index], after[index * factor])
        }
        return Provenance(
            model=UNKNOWN,
            model_sha256="0" * 64,
            factor=factor,
            axis=axis,
            acquisition=UNKNOWN,
            synthetic_slices=tuple(index for index in range(len(after)) if index not in observed),
            observed_slices=len(observed),
            input_node_id="",
            input_name=name,
            software_version=__version__,
            created=now(),
        )
    return None


def _factor(scan: Volume, enhanced: Volume, axis: Axis) -> int | None:
    """The up-sampling factor from `scan` to `enhanced` along `axis`; None if it is not a whole number above 1."""
    column = affine_column(axis)
    factor = round(scan.spacing[column] / enhanced.spacing[column])
    if factor < 2 or enhanced.voxels.shape != scan.upsampled_shape(axis, factor):
        return None
    return factor if _same_place(scan.upsampled_affine(axis, factor), enhanced) else None


def _same_grid(first: Volume, second: Volume) -> bool:
    return first.voxels.shape == second.voxels.shape and _same_place(first.affine, second)


def _same_place(affine: np.ndarray, volume: Volume) -> bool:
    """Whether an affine and that of a volume map its corners to the same places."""
    corners = _corners(volume)
    apart = corners @ affine[:3, :3].T + affine[:3, 3] - volume.ijk_to_ras(corners)
    return bool(np.abs(apart).max() <= _TOLERANCE * max(volume.spacing))


def _share_space(first: Volume, second: Volume) -> bool:
    boxes = [volume.ijk_to_ras(_corners(volume)) for volume in (first, second)]
    lowest, highest = (extreme([extreme(box, axis=0) for box in boxes], axis=0) for extreme in (np.min, np.max))
    sizes = sum(np.ptp(box, axis=0) for box in boxes)
    return bool((highest - lowest <= sizes).all())


def _corners(volume: Volume) -> np.ndarray:
    return np.array(np.meshgrid(*((0, count - 1) for count in volume.shape_ijk))).reshape(3, -1).T.astype(float)


def _read_report(path: Path, scan: Path, enhanced: Volume) -> Provenance:
    try:
        provenance = provenance_from_report(_load(path), input_node_id="", input_name=scan.stem)
        _check_types(provenance)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name the report of the enhancement.") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(f"{path} is not a report of xviewsynth enhance: name the file that --report wrote.") from error
    if provenance.slices != enhanced.slices(provenance.axis):
        raise InputError(
            f"{path} is the report of a volume of {provenance.slices} slices, not of this one: name the report of this "
            "volume."
        )
    return provenance


def _load(path: Path) -> Any:
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    with path.open("rb") as file:
        data = file.read(_MOST_REPORT_BYTES + 1)
    if len(data) > _MOST_REPORT_BYTES:
        raise ValueError("too large")
    return json.loads(data)


def _check_types(provenance: Provenance) -> None:
    numbers = (provenance.factor, *provenance.synthetic_slices)
    if not isinstance(provenance.model, str) or any(type(number) is not int for number in numbers):
        raise TypeError("not the types of a report")
