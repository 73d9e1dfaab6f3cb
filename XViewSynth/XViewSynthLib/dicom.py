"""One DICOM series from a folder: which files belong to it, in which order, and where they lie in the patient."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .volume import Volume, blank_voxels

# Positions in DICOM are decimal text, often rounded to 0.01 mm; a gap may miss the common one by a hundredth of it,
# or by twice that rounding where slices are very thin.
GAP_TOLERANCE = 0.01
ROUNDING_MM = 0.02

_TAGS = [
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
]
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class _Slice:
    """Header of one image. Position and orientation are LPS; spacing is (between rows, between columns) in mm."""

    file: Path
    series: str
    instance: str
    shape: tuple[int, int]
    colours: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float | None
    rescale: tuple[float, float]


def is_dicom(path: Path) -> bool:
    """Whether a file carries the DICM prefix.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def open_series(folder: Path) -> tuple[Volume, Callable[[], np.ndarray]]:
    """The one series in a folder; files that are not DICOM images are passed over.

    Where the folder holds a DICOMDIR and no image itself, the folders below it are searched as well.

    Returns:
        The scan with all voxels 0 (int16), and a function that reads its voxels (K, J, I), rescaled to HU.

    Raises:
        InputError: no image, more than one series, or slices that do not make up one evenly spaced, upright stack.
        OSError: a file cannot be read.
    """
    slices = _stack(folder)
    blank = blank_voxels((len(slices), *slices[0].shape), np.int16)
    return Volume(blank, _affine(slices), _common_thickness(slices), "K"), lambda: _rescaled_voxels(slices)


def series_files(folder: Path) -> list[Path]:
    """The file of each slice of the scan that `open_series` gives, in the order of its slices along K.

    Raises:
        InputError: as `open_series`.
        OSError: a file cannot be read.
    """
    return [image.file for image in _stack(folder)]


def _stack(folder: Path) -> list[_Slice]:
    """The slices of the one series in a folder, in order and checked."""
    slices = list(_images(folder))
    _check_one_series(slices, folder)
    _check_alike(slices, folder)
    slices = _sorted_along_normal(slices)
    _check_evenly_spaced(slices, folder)
    return slices


def _images(folder: Path) -> Iterator[_Slice]:
    found = list(_images_among(sorted(path for path in folder.iterdir() if path.is_file())))
    if not found and any(path.name.upper() == "DICOMDIR" for path in folder.iterdir()):
        below = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
        found = list(_images_among(sorted(below)))
    if not found:
        raise InputError(f"The folder {folder} holds no DICOM images: choose the folder with the slices of one series.")
    seen = set()
    for image in found:
        # Copies of one file (such as "IM1 (1).dcm") are the same instance, not another slice.
        if image.instance not in seen:
            seen.add(image.instance)
            yield image


def _images_among(paths: Sequence[Path]) -> Iterator[_Slice]:
    import pydicom

    for path in paths:
        try:
            if not is_dicom(path):
                continue
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            if "Rows" in header or not _is_object_without_image(header):
                yield _slice(path, header)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror or error}): check the file.") from error
        except InputError:
            raise
        except Exception as error:  # pydicom lets through whatever a broken header provokes
            raise InputError(f"{path} is a damaged DICOM file: export the series again.") from error


def _is_object_without_image(header: Any) -> bool:
    """Whether the file says that it is a report, a DICOMDIR or the like; a truncated image has lost its Rows, too."""
    kind = header.file_meta["MediaStorageSOPClassUID"].value
    return "Image Storage" not in kind.name


def _slice(path: Path, header: Any) -> _Slice:
    def numbers(tag: str, count: int) -> tuple[float, ...]:
        values = header.get(tag)
        if values is None or isinstance(values, str) or len(values) != count:
            raise InputError(f"{path} has no {tag}, so its place is unknown: choose a series of slices of a scan.")
        return tuple(float(value) for value in values)

    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        raise InputError(
            f"{path} is a DICOM file of {frames} frames, which is not supported: convert it to one file a slice or to "
            "NRRD first."
        )
    return _Slice(
        file=path,
        series=str(header.get("SeriesInstanceUID", "")),
        instance=str(header.get("SOPInstanceUID", path)),
        shape=(int(header.Rows), int(header.Columns)),
        colours=int(header.get("SamplesPerPixel") or 1),
        position=numbers("ImagePositionPatient", 3),
        orientation=numbers("ImageOrientationPatient", 6),
        spacing=numbers("PixelSpacing", 2),
        thickness=float(header.get("SliceThickness") or 0) or None,
        rescale=(float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)),
    )


def _check_one_series(slices: Sequence[_Slice], folder: Path) -> None:
    series = Counter(image.series for image in slices)
    if len(series) > 1:
        counts = ", ".join(str(count) for count in series.values())
        raise InputError(
            f"The folder {folder} holds {len(series)} series (of {counts} images): give each series its own folder."
        )
    if len(slices) == 1:
        raise InputError(f"The folder {folder} holds one slice only: choose the folder with all slices of the series.")


def _check_alike(slices: Sequence[_Slice], folder: Path) -> None:
    if any(image.colours != 1 for image in slices):
        raise InputError(f"The images in {folder} are in colour: choose a CT series with one grey value a pixel.")
    first = slices[0]
    for image in slices:
        if image.shape != first.shape or not np.allclose(image.spacing, first.spacing, rtol=1e-4):
            raise InputError(
                f"{first.file.name} and {image.file.name} in {folder} differ in size or pixel spacing: choose a folder "
                "with the slices of one scan."
            )
        if not np.allclose(image.orientation, first.orientation, atol=1e-3):
            raise InputError(
                f"{first.file.name} and {image.file.name} in {folder} lie in different planes: choose a folder with "
                "the parallel slices of one scan, without localizers."
            )


def _in_plane(image: _Slice) -> tuple[np.ndarray, np.ndarray]:
    """Unit LPS directions along a row (columns grow, I) and down a column (rows grow, J)."""
    along_row, down_column = np.reshape(image.orientation, (2, 3))
    return along_row / np.linalg.norm(along_row), down_column / np.linalg.norm(down_column)


def _sorted_along_normal(slices: Sequence[_Slice]) -> list[_Slice]:
    normal = np.cross(*_in_plane(slices[0]))
    return sorted(slices, key=lambda image: float(normal @ image.position))


def _check_evenly_spaced(slices: Sequence[_Slice], folder: Path) -> None:
    normal = np.cross(*_in_plane(slices[0]))
    positions = np.array([image.position for image in slices])
    gaps = np.diff(positions @ normal)
    if gaps.min() < ROUNDING_MM:
        first, second = slices[gaps.argmin()], slices[gaps.argmin() + 1]
        raise InputError(
            f"{first.file.name} and {second.file.name} in {folder} lie at the same place: choose a folder with one "
            "image for each slice."
        )
    # The lower of the two middle gaps: where every second slice is missing at one end, it is still the true one.
    gap = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    tolerance = max(GAP_TOLERANCE * gap, ROUNDING_MM)
    uneven = np.abs(gaps - gap) > tolerance
    if uneven.any():
        raise InputError(_uneven_sentence(slices, gaps, gap, uneven, tolerance, folder))
    offsets = positions - np.linspace(positions[0], positions[-1], len(positions))
    sideways = offsets - np.outer(offsets @ normal, normal)
    if np.linalg.norm(sideways, axis=1).max() > tolerance:
        raise InputError(f"The slices in {folder} are shifted sideways: choose a series that is one straight stack.")


def _uneven_sentence(
    slices: Sequence[_Slice], gaps: np.ndarray, gap: float, uneven: np.ndarray, tolerance: float, folder: Path
) -> str:
    steps = np.rint(gaps / gap)
    if (np.abs(gaps - steps * gap) <= tolerance * steps).all():
        missing = int((steps - 1).sum())
        where = int(uneven.argmax())
        count = "1 slice is" if missing == 1 else f"{missing} slices are"
        return (
            f"{count} missing in {folder}, between {slices[where].file.name} and {slices[where + 1].file.name}: export "
            "the complete series."
        )
    return (
        f"The slices in {folder} are unevenly spaced, {gaps.min():.2f} to {gaps.max():.2f} mm apart: choose a series "
        "with one spacing."
    )


def _affine(slices: Sequence[_Slice]) -> np.ndarray:
    along_row, down_column = _in_plane(slices[0])
    between_rows, between_columns = slices[0].spacing
    first, last = np.array(slices[0].position), np.array(slices[-1].position)
    affine = np.eye(4)
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = down_column * between_rows
    affine[:3, 2] = (last - first) / (len(slices) - 1)
    affine[:3, 3] = first
    return _LPS_TO_RAS @ affine


def _rescaled_voxels(slices: Sequence[_Slice]) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(image.file) for image in slices])
    if len({image.rescale for image in slices}) > 1:
        # The reader takes the scalar type from the first slice, where another slice may need fractions.
        reader.SetOutputPixelType(sitk.sitkFloat32)
    return sitk.GetArrayFromImage(reader.Execute())


def _common_thickness(slices: Sequence[_Slice]) -> float | None:
    thicknesses = {image.thickness for image in slices}
    return thicknesses.pop() if len(thicknesses) == 1 else None
