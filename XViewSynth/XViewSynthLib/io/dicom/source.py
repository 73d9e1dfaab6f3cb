"""Headers of the series that an enhanced scan is written for, without elements that are not copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from ...geometry.volume import Volume
from .files import is_explicit_little, read_header
from .header import Header, decimals, number_in, printable
from .series import is_dicom, read_series, without_warnings
from .slices import thickness_in

if TYPE_CHECKING:
    from pydicom import Dataset

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


@dataclass(frozen=True)
class Source:
    """The series that was enhanced.

    Attributes:
        path: where it was read from.
        grid: its geometry; every voxel is 0.
        headers: of each slice along K, without elements that are not copied.
    """

    path: Path
    grid: Volume
    headers: tuple[Dataset, ...]


def open_source(path: str | Path) -> Source:
    """The headers of the series that is enhanced.

    Args:
        path: its folder or DICOMDIR, or one of its files.

    Raises:
        InputError: no DICOM series, no CT, or one without the elements that a study needs.
    """
    path = Path(path)
    place = path.parent if path.name.upper() == "DICOMDIR" and path.is_file() else path
    with without_warnings():
        try:
            _check_is_series(place)
            grid, stack = read_series(place)
            headers = tuple(_read_header(image.file) for image in stack.slices)
            _check_source(headers, printable(path))
        except InputError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{printable(path)} cannot be read ({reason}): check the folder.") from error
        except Exception as error:  # pydicom lets through whatever a broken header provokes
            raise InputError(f"{printable(path)} has damaged DICOM headers: export the series again.") from error
    return Source(path, grid, headers)


def _check_is_series(path: Path) -> None:
    if path.is_file() and not is_dicom(path):
        raise InputError(
            f"{path} is no DICOM series, so there is no study to add slices to: give the folder of a series, or write "
            "NRRD, NIfTI or MHA."
        )


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
        header.SliceThickness = None if value is None else decimals([value])


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
