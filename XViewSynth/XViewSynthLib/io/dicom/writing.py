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
from .files import is_explicit_little, read_header
from .header import Header, number_in, printable
from .pixels import read_voxels
from .series import is_dicom, read_series, without_warnings
from .slices import thickness_in
from .stack import Stack

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
# A stored value this close to a whole number is that number, apart from rounding to 32-bit floats.
_WHOLE = 0.01
# Programs round positions differently, which moves a scan by much less than this share of a voxel.
_SAME_PLACE = 0.25
# Directions of columns, rows, and rows of sagittal and coronal planes: left, posterior and feet, as in radiology.
_READING_SIGNS = (1, 1, -1)

_CODES = {
    "Spatial resampling": "113085",
    "Source image for image processing operation": "121322",
    "Processing Equipment": "109102",
}
# Valid for one image or file only, or for its pixels and neighbours.
_NOT_COPIED = (
    "InstanceCreatorUID",
    "MACParametersSequence",
    "IconImageSequence",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "SmallestImagePixelValueInPlane",
    "LargestImagePixelValueInPlane",
    "ModalityLUTSequence",
    "ImagesInAcquisition",
    "NumberOfSeriesRelatedInstances",
    "NumberOfStudyRelatedInstances",
    "PixelData",
)
# Groups of commands and file meta information, which no data set contains; overlays, curves, signatures, padding.
_GROUPS_NOT_COPIED = (*range(8), *range(0x5000, 0x5100), *range(0x6000, 0x6100), 0xFFFA, 0xFFFC)
# Storage of pixels; these elements belong together.
_ENCODING = (
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
)
# Elements used in computations.
_NUMBERS = (
    "InstanceNumber",
    "SeriesNumber",
    "SliceLocation",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
)
# Copied from the nearest image if images differ: a slice needs a window, and texts need their character set.
_FROM_NEAREST = (
    "SpecificCharacterSet",
    "WindowCenter",
    "WindowWidth",
    "WindowCenterWidthExplanation",
    "VOILUTFunction",
    "VOILUTSequence",
    *_ENCODING,
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


@dataclass(frozen=True)
class Source:
    """The series that was enhanced.

    Attributes:
        path: where it was read from.
        grid: its geometry; every voxel is 0.
        headers: of each slice along K, without elements that are not copied.
        stack: its slices.
    """

    path: Path
    grid: Volume
    headers: tuple[Dataset, ...]
    stack: Stack


def write_series(
    enhanced: Result,
    source: str | Path | Source,
    folder: str | Path,
    overwrite: bool = False,
    stop_if_requested: Callable[[], None] | None = None,
) -> None:
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

    Raises:
        InputError: the source is no DICOM series, no CT, or not the enhanced scan; or the folder cannot be written.

    >>> scan = read_volume("series")  # doctest: +SKIP
    >>> write_series(enhance(scan), "series", "enhanced")  # doctest: +SKIP
    """
    place = source.path if isinstance(source, Source) else source
    with Outputs(overwrite, [place]) as outputs:
        staged = outputs.add_folder(folder, FILE_PATTERN)
        opened = source if isinstance(source, Source) else open_source(source)
        write_files(enhanced, opened, staged, stop_if_requested)
        outputs.commit()


def open_source(path: str | Path, files: Sequence[Path] | None = None) -> Source:
    """The headers of the series that is enhanced.

    Args:
        path: its folder or DICOMDIR, or one of its files.
        files: all its files, if they are known; `path` is one of them. By default those in the folder.

    Raises:
        InputError: no DICOM series, no CT, or one without the elements that a study needs.
    """
    path = Path(path)
    place = path.parent if path.name.upper() == "DICOMDIR" and path.is_file() else path
    with without_warnings():
        try:
            _check_is_series(place)
            grid, stack = read_series(place, files)
            headers = tuple(_read_header(image.file) for image in stack.slices)
            _check_source(headers, printable(path))
        except InputError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{printable(path)} cannot be read ({reason}): check the folder.") from error
        except Exception as error:  # pydicom lets through whatever a broken header provokes
            raise InputError(f"{printable(path)} has damaged DICOM headers: export the series again.") from error
    return Source(path, grid, headers, stack)


def _check_is_series(path: Path) -> None:
    if path.is_file() and not is_dicom(path):
        raise InputError(
            f"{path} is no DICOM series, so there is no study to add slices to: give the folder of a series, or write "
            "NRRD, NIfTI or MHA."
        )


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
        if np.abs(enhanced.volume.voxels.take(index, axis) - acquired).max() > _WHOLE:
            raise InputError(
                f"Slice {index + 1} counts as observed, but does not hold the values of {printable(source.path)}: the "
                "scan or the result was changed. Enhance the series as it was loaded."
            )


def write_files(
    enhanced: Result, source: Source, folder: Path, stop_if_requested: Callable[[], None] | None = None
) -> None:
    """Write the files of a series into a folder that exists.

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
    encoder = _Encoder(source)
    tags = _series_tags(enhanced, source)
    # Slices between the same two images share most elements.
    header_from = lru_cache(maxsize=1)(lambda sources: _header_from([source.headers[n] for n in sources]))
    backwards = enhanced.axis == "K" and _numbered_backwards(source)
    with without_warnings():
        for index, slice_ in enumerate(slices):
            if stop_if_requested is not None:
                stop_if_requested()
            header, comment = header_from(slice_.sources)
            for keyword, value in tags.items():
                setattr(header, keyword, value)
            header.SOPInstanceUID = generate_uid(prefix=None)
            header.InstanceNumber = len(slices) - index if backwards else index + 1
            _set_kind(header, slice_.kind, comment, enhanced)
            _place(header, stack, index, slice_, source, enhanced.axis, enhanced.acquisition)
            encoder.store(header, stack.voxels[index], slice_)
            _save(header, folder / f"XV{header.InstanceNumber:05d}.dcm")


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
    is_inside = (volume.slices(axis) - 1) * ratio <= grid.slices(axis) - 1 + _WHOLE
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


def _read_header(file: Path) -> Dataset:
    """The elements of a file that are copied.

    Their bytes stay unchanged if possible, even if a value is invalid.
    """
    import pydicom
    from pydicom.filewriter import correct_ambiguous_vr
    from pydicom.valuerep import VR

    read = read_header(file)
    header, is_copied = read.dataset, is_explicit_little(read.dataset)
    _correct_numbers(read)
    for tag in list(header.keys()):
        if tag.is_private or tag.group in _GROUPS_NOT_COPIED:
            del header[tag]
    for keyword in _NOT_COPIED:
        if keyword in header:
            del header[keyword]
    for tag in list(header.keys()):
        if header.get_item(tag).VR not in (*VR, None):
            raise ValueError(f"{tag} is of a kind that does not exist.")
        if header.get_item(tag).VR in ("SQ", "UN", None) and header[tag].VR == "SQ":
            for item in header[tag].value:
                item.remove_private_tags()
    if is_copied:
        return header
    header.decode()
    correct_ambiguous_vr(header, True)
    # pydicom remembers the encoding of the file and would refuse to write another one.
    decoded = pydicom.Dataset()
    decoded.update(header)
    return decoded


def _correct_numbers(read: Header) -> None:
    """Correct the format of numbers that are used here, such as a comma for a point.

    Raises:
        ValueError: a value is not a number.
    """
    header = read.dataset
    for keyword in _NUMBERS:
        text = read.text(keyword)
        if text and number_in(text) is None:
            raise ValueError(f"{keyword} is no number.")
        if "," in text:
            setattr(header, keyword, text.replace(",", "."))
    thickness = read.text("SliceThickness")
    if thickness and ("," in thickness or number_in(thickness) is None):
        value = thickness_in(thickness)
        header.SliceThickness = None if value is None else _decimals([value])


def _check_source(headers: Sequence[Dataset], folder: str) -> None:
    from pydicom.uid import CTImageStorage

    if any(header.get("SOPClassUID") != CTImageStorage for header in headers):
        raise InputError(f"{folder} holds images that are not CT images, which cannot be written as DICOM: write NRRD.")
    if any(header.get("BitsAllocated") != 16 for header in headers):
        raise InputError(f"{folder} has pixels that are not of 16 bits, which a CT image must have: write NRRD.")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        if len({header.get(keyword) for header in headers}) > 1:
            raise InputError(f"The images in {folder} differ in their {keyword}: export the series again.")
        if not headers[0].get(keyword):
            raise InputError(
                f"The images in {folder} have no {keyword}, so an archive could not file the new images: export the "
                "series from the archive, or write NRRD."
            )
    if any(not header.get("SOPInstanceUID") for header in headers):
        raise InputError(f"Images in {folder} have no SOPInstanceUID, so none can be referred to: write NRRD.")


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
    header.ImagePositionPatient = _decimals(position)
    header.ImageOrientationPatient = _decimals([*(lps[:3, 0] / columns), *(lps[:3, 1] / rows)])
    header.PixelSpacing = _decimals([rows, columns])
    header.SpacingBetweenSlices = _decimals([between])
    if acquisition == "thick" and stack.slice_thickness is not None:
        header.SliceThickness = _decimals([stack.slice_thickness])
    elif axis != "K":
        header.SliceThickness = _decimals([source.grid.spacing_along(axis)])
    elif header.SliceThickness is None and source.grid.slice_thickness is not None:
        header.SliceThickness = _decimals([source.grid.slice_thickness])
    locations = [image.get("SliceLocation") for image in source.headers]
    if axis == "K" and None not in locations:
        location = np.interp(slice_.position, range(len(locations)), [float(value) for value in locations])
    else:
        location = position @ lps[:3, 2] / between
    header.SliceLocation = _decimals([location])


def _decimals(values: Sequence[float] | np.ndarray) -> str | list[str]:
    """Numbers as DICOM's decimal strings of at most 16 letters."""
    from pydicom.valuerep import format_number_as_ds

    # A zero has no sign.
    texts = [format_number_as_ds(float(value) + 0.0) for value in values]
    return texts if len(texts) > 1 else texts[0]


def _numbered_backwards(source: Source) -> bool:
    """Whether the images were numbered against the order of the slices along K."""
    first, last = (source.headers[n].get("InstanceNumber") for n in (0, -1))
    return first is not None and last is not None and int(first) > int(last)


@dataclass(frozen=True)
class _Encoding:
    slope: float
    intercept: float
    bits: int
    signed: bool

    def encode(self, hu: np.ndarray, exactly: bool) -> np.ndarray | None:
        """Stored values, little endian; None if they cannot hold these HU (exactly, if requested)."""
        exact = (hu.astype(np.float64) - self.intercept) / self.slope
        stored = np.rint(exact)
        lowest, highest = self._range()
        if stored.min() < lowest or stored.max() > highest:
            return None
        if exactly and np.abs(stored - exact).max() > _WHOLE:
            return None
        return stored.astype(self._scalar_type())

    def encode_clipped(self, hu: np.ndarray) -> np.ndarray:
        """Stored values, little endian; HU out of their range become the lowest or highest."""
        stored = np.rint((hu.astype(np.float64) - self.intercept) / self.slope)
        return stored.clip(*self._range()).astype(self._scalar_type())

    def _range(self) -> tuple[int, int]:
        lowest = -(2 ** (self.bits - 1)) if self.signed else 0
        return lowest, lowest + 2**self.bits - 1

    def _scalar_type(self) -> str:
        return "<i2" if self.signed else "<u2"


class _Encoder:
    """Stores HU as the source's images do, each slice as the nearest image that can.

    Predicted HU out of the range of all images are clipped to the range of the nearest.
    """

    def __init__(self, source: Source):
        self._source = source
        self._encodings = [_encoding(header) for header in source.headers]
        self._first_with = {encoding: n for n, encoding in reversed(list(enumerate(self._encodings)))}

    def store(self, header: Dataset, hu: np.ndarray, slice_: _Slice) -> None:
        """Put the pixels of a slice into its header, and how they are stored."""
        images = {self._encodings[n]: n for n in reversed(slice_.sources)}
        nearest_first = dict.fromkeys([*(self._encodings[n] for n in slice_.sources), *self._first_with])
        exactly = slice_.kind == OBSERVED
        encoded = ((encoding, encoding.encode(hu, exactly)) for encoding in nearest_first)
        encoding, stored = next((found for found in encoded if found[1] is not None), (next(iter(nearest_first)), None))
        if stored is None and exactly:
            raise InputError(
                f"The images in {self._source.path} store their values in different ways, of which none can hold all "
                "that their slices hold together: write NRRD."
            )
        if stored is None:
            stored = encoding.encode_clipped(hu)
        _copy_encoding(header, self._source.headers[images.get(encoding, self._first_with[encoding])])
        header.add_new(0x7FE00010, "OW", stored.tobytes())
        header.Rows, header.Columns = stored.shape


def _encoding(header: Dataset) -> _Encoding:
    return _Encoding(
        slope=float(header.get("RescaleSlope") or 1),
        intercept=float(header.get("RescaleIntercept") or 0),
        bits=int(header.BitsStored),
        signed=bool(header.PixelRepresentation),
    )


def _copy_encoding(header: Dataset, image: Dataset) -> None:
    encoding = _encoding(image)
    for keyword in _ENCODING:
        if keyword in image:
            header[keyword] = deepcopy(image[keyword])
        elif keyword in header:
            del header[keyword]
    # Required in a CT image.
    header.HighBit = encoding.bits - 1
    header.RescaleSlope = image.get("RescaleSlope") or "1"
    header.RescaleIntercept = image.get("RescaleIntercept") or "0"
    header.RescaleType = image.get("RescaleType") or "HU"


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
