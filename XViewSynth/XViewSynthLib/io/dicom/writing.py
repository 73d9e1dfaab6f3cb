"""Writes an enhanced scan as a new DICOM series of its source's study.

Elements of patient, study and acquisition are copied unchanged from the source. Elements of a single image (a tube
current, an acquisition time) are copied to that image's own slice. A synthetic slice gets those elements that are equal
in the images around it. The fourth value of Image Type marks a slice as "OBSERVED" or "SYNTHETIC". So do the first
sentence of Image Comments and the Derivation Description. Only synthetic slices have a Derivation Code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ... import __version__
from ...errors import InputError
from ...geometry.volume import AXES, LPS_TO_RAS, Axis, Volume, affine_column, array_axis
from ...request import Texture
from ...system.outputs import Outputs
from .choice import OBSERVED, PROGRAM, SYNTHETIC
from .encoding import ENCODING, WHOLE, Encoder
from .header import decimals, printable
from .pixels import read_voxels
from .series import without_warnings
from .source import Source, open_source

if TYPE_CHECKING:
    from pydicom import Dataset

# Pattern of file names. A folder with other files is never replaced.
FILE_PATTERN = "XV?????.dcm"
COMMENTS = {
    OBSERVED: "Observed slice: pixel values as acquired.",
    SYNTHETIC: "Synthetic slice: predicted, not observed. Not for diagnosis.",
}

# Implementation class UID of every file; made once, at random.
_IMPLEMENTATION_UID = "2.25.129068594568566579757230840676294736874"
_LONGEST_DESCRIPTION = 64  # characters of a DICOM long string (LO)
_LARGEST_NUMBER = 2**31 - 1  # of a DICOM integer string (IS)
# Programs round positions differently, which moves a scan by much less than this share of a voxel.
_SAME_PLACE = 0.25
# Directions of columns, rows, and rows of sagittal and coronal planes: left, posterior and feet, as in radiology.
_READING_SIGNS = (1, 1, -1)

_CODES = {
    "Spatial resampling": "113085",
    "Source image for image processing operation": "121322",
    "Processing Equipment": "109102",
}
# Copied from the nearest image if images differ: a slice needs a window, and texts need their character set.
_FROM_NEAREST = (
    "SpecificCharacterSet",
    "WindowCenter",
    "WindowWidth",
    "WindowCenterWidthExplanation",
    "VOILUTFunction",
    "VOILUTSequence",
    *ENCODING,
)
# Elements of the new series.
_DATED = ("Series", "Content", "InstanceCreation")
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
# Elements that a CT image must have, possibly empty.
_NEVER_MISSING = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "Manufacturer",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "SliceThickness",
    "KVP",
    "StudyID",
    "AcquisitionNumber",
    "PositionReferenceIndicator",
)


class Result(Protocol):
    """What is written: an enhanced scan, and how it was made."""

    @property
    def volume(self) -> Volume:
        """The scan with its synthetic slices, HU."""

    @property
    def axis(self) -> Axis:
        """The axis that got more slices."""

    @property
    def factor(self) -> int:
        """How many times more."""

    @property
    def synthetic_slices(self) -> Sequence[int]:
        """Indices along `axis` of the slices that were not observed."""

    @property
    def acquisition(self) -> str:
        """Acquisition of the source's slices: "gap" or "thick"."""

    @property
    def texture(self) -> Texture:
        """Whether synthetic slices have the noise of observed slices."""

    @property
    def model_label(self) -> str:
        """Name and version of the model."""

    @property
    def model_sha256(self) -> str:
        """Checksum of its weights."""


def write_series(
    enhanced: Result,
    source: str | Path | Source,
    folder: str | Path,
    overwrite: bool = False,
    stop_if_requested: Callable[[], None] = lambda: None,
) -> str:
    """Write an enhanced scan as a DICOM series of the study it came from; the folder appears whole or not at all.

    Each slice becomes a CT image, a file "XV00001.dcm" and so on. The series and its images get new UIDs; study,
    frame of reference, window and the way that pixels are stored are those of the source. Observed slices keep their
    stored values bit for bit. Slices follow the axis that was enhanced.

    Args:
        enhanced: the result of `enhance` for the source.
        source: folder of the DICOM series or one of its files, as it was given to `read_volume`; or the opened source.
        folder: the folder to make.
        overwrite: whether a folder that was written by this function may be replaced.
        stop_if_requested: called before every slice; may raise.

    Returns:
        The UID of the new series.

    Raises:
        InputError: the source is no DICOM series, no CT, or not the enhanced scan; or the folder cannot be written.

    >>> scan = read_volume("series")  # doctest: +SKIP
    >>> uid = write_series(enhance(scan), "series", "enhanced")  # doctest: +SKIP
    """
    place = source.path if isinstance(source, Source) else source
    with Outputs(overwrite, [place]) as outputs:
        staged = outputs.add_folder(folder, FILE_PATTERN)
        opened = source if isinstance(source, Source) else open_source(source)
        uid = write_files(enhanced, opened, staged, stop_if_requested)
        outputs.commit()
    return uid


def check_observed(enhanced: Result, source: Source) -> None:
    """Make sure that the observed slices of a result hold the HU of the source's files.

    A result of `enhance` does. One that a user could edit may not.

    Raises:
        InputError: they do not, or the source is not the enhanced scan.
    """
    _check_is_source(enhanced, source)
    observed = sorted(set(range(enhanced.volume.slices(enhanced.axis))) - set(enhanced.synthetic_slices))
    if not observed:
        return
    axis = array_axis(enhanced.axis)
    step = enhanced.volume.spacing_along(enhanced.axis) / source.grid.spacing_along(enhanced.axis)
    with without_warnings():
        voxels = read_voxels(source.stack, source.path)
    for index in observed:
        acquired = voxels.take(round(index * step), axis).astype(np.float64)
        if np.abs(enhanced.volume.voxels.take(index, axis) - acquired).max() > WHOLE:
            raise InputError(
                f"Slice {index + 1} counts as observed, but does not hold the values of {printable(source.path)}: the "
                "scan or the result was changed. Enhance the series as it was loaded."
            )


def write_files(
    enhanced: Result, source: Source, folder: Path, stop_if_requested: Callable[[], None] = lambda: None
) -> str:
    """Write the files of a series into a folder that exists, and return the UID of the series.

    Args:
        enhanced: the result for the source.
        source: the series that was enhanced.
        folder: an empty folder.
        stop_if_requested: called before every slice; may raise.

    Raises:
        InputError: the source is not the enhanced scan, or the disk is full.
    """
    from pydicom.uid import generate_uid

    stack = _stacked(enhanced.volume, enhanced.axis)
    slices = _slices(enhanced, stack, source)
    encoder = Encoder(source)
    tags = _series_tags(enhanced, source)
    # Slices between the same two images share most elements.
    header_from = lru_cache(maxsize=1)(lambda sources: _header_from([source.headers[n] for n in sources]))
    backwards = enhanced.axis == "K" and _numbered_backwards(source)
    with without_warnings():
        for index, slice_ in enumerate(slices):
            stop_if_requested()
            header, comment = header_from(slice_.sources)
            for keyword, value in tags.items():
                setattr(header, keyword, value)
            header.SOPInstanceUID = generate_uid(prefix=None)
            header.InstanceNumber = len(slices) - index if backwards else index + 1
            _set_kind(header, slice_.kind, comment, enhanced)
            _place(header, stack, index, slice_, source, enhanced.axis, enhanced.acquisition)
            encoder.store(header, stack.voxels[index], slice_.sources, slice_.kind == OBSERVED)
            _save(header, folder / f"XV{header.InstanceNumber:05d}.dcm")
    return str(tags["SeriesInstanceUID"])


@dataclass(frozen=True)
class _Slice:
    """A slice to write: its kind, its place among the source's slices, and its source images, the nearest first."""

    kind: str
    position: float
    sources: tuple[int, ...]


def _slices(enhanced: Result, stack: Volume, source: Source) -> list[_Slice]:
    _check_is_source(enhanced, source)
    axis, synthetic, last = enhanced.axis, set(enhanced.synthetic_slices), source.grid.slices(enhanced.axis) - 1
    positions = np.arange(stack.slices("K")) * stack.spacing_along("K") / source.grid.spacing_along(axis)
    kinds = [SYNTHETIC if index in synthetic else OBSERVED for index in range(len(positions))]
    if axis != "K":
        # Each slice cuts through every image, so the middle one represents them.
        count = len(source.headers)
        images = tuple(sorted(range(count), key=lambda n: abs(n - count // 2)))
        return [_Slice(kind, float(position), images) for kind, position in zip(kinds, positions)]
    return [_Slice(kind, float(p), _images_at(p, kind, last)) for kind, p in zip(kinds, positions)]


def _check_is_source(enhanced: Result, source: Source) -> None:
    volume, grid, axis = enhanced.volume, source.grid, enhanced.axis
    ratio = volume.spacing_along(axis) / grid.spacing_along(axis)
    same_planes = all(volume.slices(other) == grid.slices(other) for other in AXES if other != axis)
    is_inside = (volume.slices(axis) - 1) * ratio <= grid.slices(axis) - 1 + WHOLE
    corners = np.array(list(product(*((0, count - 1) for count in volume.shape_ijk))), np.float64)
    found = grid.ras_to_ijk(volume.ijk_to_ras(corners))
    corners[:, affine_column(axis)] *= ratio
    if not (same_planes and is_inside and np.abs(found - corners).max() <= _SAME_PLACE):
        raise InputError(f"{source.path} is not the scan that was enhanced: name the folder that it was read from.")


def _images_at(position: float, kind: str, last: int) -> tuple[int, ...]:
    if kind == OBSERVED:
        return (min(round(position), last),)
    below = min(int(position), last - 1)
    return (below, below + 1) if position - below <= 0.5 else (below + 1, below)


def _stacked(volume: Volume, axis: Axis) -> Volume:
    """The same voxels in the same places, with slices along `axis` as K and planes in radiological orientation."""
    if axis == "K":
        return volume
    towards_lps = (LPS_TO_RAS @ volume.affine)[:3, :3] / volume.spacing
    strengths = {other: np.abs(towards_lps[:, affine_column(other)]) for other in AXES if other != axis}
    columns, rows = sorted(strengths, key=lambda other: float(strengths[other] @ [0, 1, 2]))
    voxels = volume.voxels.transpose([array_axis(a) for a in (axis, rows, columns)])
    affine = volume.affine.copy()
    for column, a in enumerate((columns, rows, axis)):
        affine[:3, column] = volume.affine[:3, affine_column(a)]
    for column, a in enumerate((columns, rows)):
        patient_axis = int(strengths[a].argmax())
        if towards_lps[patient_axis, affine_column(a)] * _READING_SIGNS[patient_axis] < 0:
            voxels = np.flip(voxels, 2 - column)
            affine[:3, 3] += affine[:3, column] * (volume.slices(a) - 1)
            affine[:3, column] *= -1
    return Volume(voxels, affine, volume.slice_thickness)


def _header_from(images: Sequence[Dataset]) -> tuple[Dataset, str]:
    """Elements that a slice copies from its source images (nearest first), and their former comments."""
    from pydicom.datadict import tag_for_keyword

    nearest, *others = images
    header = deepcopy(nearest)
    from_nearest = {tag_for_keyword(keyword) for keyword in _FROM_NEAREST}
    for tag in list(nearest.keys()):
        if tag not in from_nearest and not all(_agree(nearest, other, tag) for other in others):
            del header[tag]
    for keyword in _NEVER_MISSING:
        if keyword not in header:
            setattr(header, keyword, None)
    lossy = [image for image in images if image.get("LossyImageCompression") == "01"]
    for keyword in _LOSSY:
        # One lossy source image makes the slice lossy.
        if lossy and keyword in lossy[0]:
            header[keyword] = deepcopy(lossy[0][keyword])
    _refer_to(header, images)
    return header, str(header.get("ImageComments") or "")


def _agree(image: Dataset, other: Dataset, tag: int) -> bool:
    if tag not in other:
        return False
    first, second = image.get_item(tag), other.get_item(tag)
    if first.is_raw and second.is_raw:
        return first.value == second.value
    return image[tag].value == other[tag].value


def _refer_to(header: Dataset, images: Sequence[Dataset]) -> None:
    from pydicom import Dataset

    references = []
    for image in images:
        reference = Dataset()
        reference.ReferencedSOPClassUID = image.SOPClassUID
        reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
        references.append(reference)
    series = Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = references
    header.ReferencedSeriesSequence = [series]
    header.SourceImageSequence = deepcopy(references)
    for reference in header.SourceImageSequence:
        reference.SpatialLocationsPreserved = "YES" if len(images) == 1 else "NO"
        reference.PurposeOfReferenceCodeSequence = [_code("Source image for image processing operation")]


def _series_tags(enhanced: Result, source: Source) -> dict[str, object]:
    """Elements that are equal in all images of the new series."""
    from pydicom.uid import generate_uid

    first = source.headers[0]
    now = _now(first)
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S.%f")
    about = f" (x{enhanced.factor}, synthetic slices)"
    described = str(first.get("SeriesDescription") or "CT")
    number = int(first.get("SeriesNumber") or 0)
    tags = {
        "Modality": "CT",
        "SeriesInstanceUID": generate_uid(prefix=None),
        "SeriesDescription": described[: _LONGEST_DESCRIPTION - len(about)] + about,
        # Sorted beside its source, and unlikely to be used by another series.
        "SeriesNumber": number * 1000 + enhanced.factor if 0 <= number < _LARGEST_NUMBER // 1000 else number,
        "ContributingEquipmentSequence": [*first.get("ContributingEquipmentSequence", []), _equipment(enhanced, now)],
    }
    return tags | {f"{what}Date": date for what in _DATED} | {f"{what}Time": time for what in _DATED}


def _now(header: Dataset) -> datetime:
    """The current time in the time zone of the header."""
    offset = re.fullmatch(r"([+-])(\d\d)(\d\d)", str(header.get("TimezoneOffsetFromUTC") or ""))
    if not offset:
        return datetime.now()
    sign, hours, minutes = offset.groups()
    east = timedelta(hours=int(hours), minutes=int(minutes))
    return datetime.now(timezone(-east if sign == "-" else east))


def _equipment(enhanced: Result, now: datetime) -> Dataset:
    from pydicom import Dataset

    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code("Processing Equipment")]
    equipment.Manufacturer = PROGRAM
    equipment.ManufacturerModelName = PROGRAM
    equipment.SoftwareVersions = __version__
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S.%f")
    equipment.ContributionDescription = f"Synthesis of slices by {_named(enhanced)}"
    return equipment


def _named(enhanced: Result) -> str:
    """The model, in ASCII characters, which every character set contains."""
    name = enhanced.model_label.encode("ascii", "replace").decode()
    return f"model {name}, SHA-256 {enhanced.model_sha256}"


def _code(meaning: str) -> Dataset:
    from pydicom import Dataset

    code = Dataset()
    code.CodeValue = _CODES[meaning]
    code.CodingSchemeDesignator = "DCM"
    code.CodeMeaning = meaning
    return code


def _set_kind(header: Dataset, kind: str, comment: str, enhanced: Result) -> None:
    header.ImageType = ["DERIVED", "SECONDARY", "AXIAL", kind]
    header.ImageComments = f"{COMMENTS[kind]} {comment}".strip()
    by = f"{PROGRAM} {__version__} ({_named(enhanced)})"
    if kind == SYNTHETIC:
        noise = " and given noise like its neighbours'" if enhanced.texture is Texture.MATCH else ""
        header.DerivationDescription = f"Synthetic slice, predicted from the source series{noise} by {by}."
        header.DerivationCodeSequence = [_code("Spatial resampling")]
    else:
        header.DerivationDescription = f"Slice of the source series, unchanged; {by} added slices between."
        if "DerivationCodeSequence" in header:
            del header.DerivationCodeSequence


def _place(
    header: Dataset, stack: Volume, index: int, slice_: _Slice, source: Source, axis: Axis, acquisition: str
) -> None:
    """Set place and thickness of the slice: the source's thickness, unless new slices have another."""
    lps = LPS_TO_RAS @ stack.affine
    columns, rows, between = stack.spacing
    position = lps[:3, 3] + index * lps[:3, 2]
    header.ImagePositionPatient = decimals(position)
    header.ImageOrientationPatient = decimals([*(lps[:3, 0] / columns), *(lps[:3, 1] / rows)])
    header.PixelSpacing = decimals([rows, columns])
    header.SpacingBetweenSlices = decimals([between])
    if acquisition == "thick" and stack.slice_thickness is not None:
        header.SliceThickness = decimals([stack.slice_thickness])
    elif axis != "K":
        header.SliceThickness = decimals([source.grid.spacing_along(axis)])
    elif header.SliceThickness is None and source.grid.slice_thickness is not None:
        header.SliceThickness = decimals([source.grid.slice_thickness])
    locations = [image.get("SliceLocation") for image in source.headers]
    if axis == "K" and None not in locations:
        location = np.interp(slice_.position, range(len(locations)), [float(value) for value in locations])
    else:
        location = position @ lps[:3, 2] / between
    header.SliceLocation = decimals([location])


def _numbered_backwards(source: Source) -> bool:
    """Whether the images were numbered against the order of the slices along K."""
    first, last = (source.headers[n].get("InstanceNumber") for n in (0, -1))
    return first is not None and last is not None and int(first) > int(last)


def _save(header: Dataset, path: Path) -> None:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(_IMPLEMENTATION_UID)
    meta.ImplementationVersionName = f"{PROGRAM} {__version__}"[:16]
    header.file_meta = meta
    header.preamble = bytes(128)
    try:
        header.save_as(path, enforce_file_format=True)
    except OSError as error:
        raise InputError(
            f"Cannot write {path.parent} completely, the disk may be full: free some space or choose another place."
        ) from error
