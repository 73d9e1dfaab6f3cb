"""Selection of one CT series among the DICOM objects of a folder."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from ...errors import InputError
from .header import Header, damaged, printable
from .slices import check_one_frame

#: Elements that `choose` reads.
KEYWORDS = (
    "SOPClassUID",
    "Modality",
    "ImageType",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Rows",
    "NumberOfFrames",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Manufacturer",
    "DerivationDescription",
    "ContributingEquipmentSequence",
)
#: Names of this program in the images that it writes.
PROGRAM = "XViewSynth"
#: The fourth value of their image type.
OBSERVED, SYNTHETIC = "OBSERVED", "SYNTHETIC"

_STORAGE = "1.2.840.10008.5.1.4.1.1"
_CT = f"{_STORAGE}.2"
_ENHANCED_CT = {f"{_STORAGE}.2.1", f"{_STORAGE}.2.2"}
_SECONDARY_CAPTURE = f"{_STORAGE}.7"
_DICOMDIR = "1.2.840.10008.1.3.10"
_OTHER_SCANS = {
    **dict.fromkeys((f"{_STORAGE}.{number}" for number in ("4", "4.1", "4.3", "4.4")), "MR"),
    **dict.fromkeys((f"{_STORAGE}.{number}" for number in ("128", "128.1", "130")), "PT"),
}
# Modalities of CT images without a class.
_MAY_BE_CT = {"", "CT", "OT"}
#: Modalities of images that models are not for.
OTHER_MODALITIES = {"MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF"}
# Smallest cosine of the angle between slices of one stack, 5 degrees.
_OTHER_PLANE = 0.9962
_MOST_LISTED = 8


@dataclass(frozen=True)
class Choice:
    """The images of one CT series.

    Attributes:
        images: their headers, in no order.
        passed_over: labels of the other objects.
        synthetic: whether this program wrote any of the images.
    """

    images: tuple[Header, ...]
    passed_over: tuple[str, ...]
    synthetic: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user, each a sentence.

        >>> Choice((), ("localizer", "RT Dose", "localizer"), False).notes
        ('Passed over: 1 RT Dose, 2 localizers.',)
        """
        return (f"Passed over: {_counted(self.passed_over)}.",) if self.passed_over else ()


def is_directory(header: Header) -> bool:
    """Whether a DICOM object is a DICOMDIR."""
    return header.media_class == _DICOMDIR


def is_image(header: Header) -> bool:
    """Whether a DICOM object is an image (and not a report, for example).

    Raises:
        InputError: the object is cut short, so this is unknown.
    """
    kind = header.text("SOPClassUID")
    has_pixels = bool(header.texts("Rows")) or kind in _ENHANCED_CT
    is_another = is_directory(header) or (kind != _CT and _known_name(kind) is not None)
    if not is_another and not (header.is_whole and (has_pixels or kind not in ("", _CT))):
        raise damaged(header.path)
    return has_pixels


def choose(headers: Sequence[Header], folder: Path, given: Path | None = None) -> Choice:
    """The one CT series among DICOM objects.

    Objects that are no CT image, localizers, and images that form no stack are passed over.

    Args:
        headers: of all objects in a folder.
        folder: its name, for messages.
        given: a file of the series to choose; None if the folder should hold one series only.

    Raises:
        InputError: no CT series, several without a given file, or a given file that is of none.
    """
    images = [header for header in headers if is_image(header)]
    chosen = None if given is None else _header_of(given, headers)
    if chosen is not None:
        headers = [header for header in headers if _series(header) == _series(chosen)]
        images = [header for header in images if _series(header) == _series(chosen)]
    slices = _ct_slices(images)
    if chosen is not None and chosen not in slices:
        raise _no_slice(chosen)
    if not slices:
        raise _no_ct(images, folder)
    series = _the_one([_stack(series) for series in _by_series(slices)], folder)
    if chosen is not None and chosen not in series:
        raise _no_slice(chosen, "a localizer")
    for header in series:
        check_one_frame(header, enhanced=_is_enhanced_ct(header))
    taken, of_ct = set(series), set(slices)
    beside = [header for header in headers if not is_directory(header)]
    passed_over = tuple(_label(header, of_ct, series[0]) for header in beside if header not in taken)
    return Choice(tuple(series), passed_over, any(_is_ours(header) for header in series))


def _header_of(file: Path, headers: Sequence[Header]) -> Header:
    equal = (header for header in headers if header.path == file)
    # A file system may accept several spellings of a file name.
    return next(equal, None) or next(header for header in headers if header.path.samefile(file))


def _ct_slices(images: Sequence[Header]) -> list[Header]:
    """CT images without localizers; if there are none, CT stored as screenshots or as multi-frame images."""
    for is_candidate in (_is_ct, _is_captured_ct, _is_enhanced_ct):
        found = [header for header in images if is_candidate(header) and not _is_localizer(header)]
        if found:
            return found
    return []


def _is_ct(header: Header) -> bool:
    # The class of a CT image counts more than a modality that does not exist.
    if _class(header) == _CT:
        return _modality(header) not in OTHER_MODALITIES
    return not _class(header) and _modality(header) in _MAY_BE_CT


def _is_captured_ct(header: Header) -> bool:
    # Some programs store every image as a secondary capture, but slices of scans with their place in the patient.
    place = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    is_capture = _class(header) == _SECONDARY_CAPTURE and _modality(header) == "CT"
    return is_capture and all(header.texts(keyword) for keyword in place)


def _is_enhanced_ct(header: Header) -> bool:
    return _class(header) in _ENHANCED_CT


def _is_localizer(header: Header) -> bool:
    return "LOCALIZER" in (value.upper() for value in header.texts("ImageType")[2:])


def _class(header: Header) -> str:
    return header.text("SOPClassUID") or header.media_class


def _modality(header: Header) -> str:
    return _OTHER_SCANS.get(_class(header), header.text("Modality").upper())


def _series(header: Header) -> str:
    return header.text("SeriesInstanceUID") or f"number {header.text('SeriesNumber')}"


def _by_series(headers: Iterable[Header]) -> list[list[Header]]:
    series: dict[str, list[Header]] = {}
    for header in headers:
        series.setdefault(_series(header), []).append(header)
    return list(series.values())


def _stack(series: list[Header]) -> list[Header]:
    """The images of a series without single images in other planes."""
    planes = _planes(series)
    counts = Counter(planes)
    if not _is_stack(series):
        return series
    return [header for header, plane in zip(series, planes) if plane is None or counts[plane] > 1]


def _is_stack(images: Sequence[Header]) -> bool:
    """Whether there are parallel slices at different places, unlike in bolus tracking images."""
    places = {(plane, image.text("ImagePositionPatient")) for plane, image in zip(_planes(images), images)}
    return any(count > 1 for plane, count in Counter(plane for plane, _ in places).items() if plane is not None)


def _planes(images: Iterable[Header]) -> list[int | None]:
    """A number for each image, the same for parallel ones; None if its place is unknown."""
    normals: list[tuple[float, ...]] = []
    planes: list[int | None] = []
    for image in images:
        normal = _normal(image)
        if normal is None:
            planes.append(None)
            continue
        parallel = (n for n, other in enumerate(normals) if abs(_dot(normal, other)) > _OTHER_PLANE)
        planes.append(next(parallel, len(normals)))
        if planes[-1] == len(normals):
            normals.append(normal)
    return planes


def _normal(header: Header) -> tuple[float, ...] | None:
    """(3,) unit normal of an image in LPS; None if its place is unknown."""
    try:
        a, b, c, d, e, f = header.numbers("ImageOrientationPatient", 6)
        header.numbers("ImagePositionPatient", 3)
    except InputError:
        return None
    normal = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.hypot(*normal)
    return tuple(value / length for value in normal) if length > 0 else None


def _dot(first: Iterable[float], second: Iterable[float]) -> float:
    return sum(map(operator.mul, first, second))


def _the_one(series: Sequence[list[Header]], folder: Path) -> list[Header]:
    stacks = [images for images in series if _is_stack(images)] or series
    if len(stacks) == 1:
        return stacks[0]
    listed = "; ".join(_described(images, folder) for images in stacks[:_MOST_LISTED])
    more = f"; and {len(stacks) - _MOST_LISTED} more" if len(stacks) > _MOST_LISTED else ""
    raise InputError(
        f"The folder {printable(folder)} holds {len(stacks)} CT series, so give one file of the series to use: "
        f"{listed}{more}."
    )


def _described(images: Sequence[Header], folder: Path) -> str:
    """Number, description, images and a file of a series, such as "series 3 'Chest', 60 images 5 mm apart, IM0001"."""
    first = min(images, key=lambda header: header.path)
    number, description = printable(first.text("SeriesNumber"))[:12], first.described("SeriesDescription")[:64]
    named = " ".join(["series", *filter(None, [number, description and f"'{description}'"])])
    gap = _usual_gap(images)
    apart = "" if gap is None else f" {gap:.4g} mm apart"
    ours = f" made by {PROGRAM}" if any(_is_ours(header) for header in images) else ""
    file = printable(first.path.relative_to(folder))
    return f"{named}{ours}, {len(images)} image{'s' * (len(images) != 1)}{apart}, {file}"


def _usual_gap(images: Sequence[Header]) -> float | None:
    """The median distance of neighbouring images, mm; None if their places are unknown."""
    normals = [_normal(header) for header in images]
    along = sorted(
        _dot(normal, header.numbers("ImagePositionPatient", 3))
        for header, normal in zip(images, normals)
        if normal is not None
    )
    gaps = [second - first for first, second in pairwise(along)]
    return median(gaps) or None if gaps else None


def _no_slice(given: Header, kind: str | None = None) -> InputError:
    """The exception for a given file that is no slice of a CT series."""
    file = printable(given.path)
    if kind is None and _modality(given) in OTHER_MODALITIES:
        return InputError(f"{file} is {_modality(given)}, but models are for CT: give a file of a CT series.")
    kind = kind or ("a localizer" if _is_localizer(given) else _class_name(given))
    return InputError(f"{file} is no slice of a CT series ({kind}): give a file of the CT series.")


def _no_ct(images: Sequence[Header], folder: Path) -> InputError:
    if not images:
        return InputError(
            f"The folder {printable(folder)} holds no DICOM images: choose the folder with the slices of one series."
        )
    modalities = sorted({_modality(header) for header in images} & OTHER_MODALITIES)
    if modalities:
        return InputError(
            f"{printable(folder)} is {' and '.join(modalities)}, but models are for CT: give a CT series."
        )
    found = _counted(_label(image) for image in images)
    return InputError(
        f"The folder {printable(folder)} holds no CT slices ({found}): choose the folder with the slices of one series."
    )


def _label(header: Header, slices: Set[Header] = frozenset(), first: Header | None = None) -> str:
    """A label of an object that was passed over; `first` is a slice of the chosen series."""
    is_slice = header in slices
    if _is_localizer(header) or (is_slice and first is not None and len(set(_planes([header, first]))) > 1):
        return "localizer"
    if is_slice:
        return "other image"
    modality = _modality(header)
    return f"{modality} image" if modality in OTHER_MODALITIES else _class_name(header)


def _class_name(header: Header) -> str:
    return _known_name(_class(header)) or "object of an unknown kind"


def _known_name(sop_class: str) -> str | None:
    """The name of a SOP class; None if it is not in the standard."""
    from pydicom.uid import UID

    name = UID(sop_class).name
    return None if name == sop_class else name.removesuffix(" Storage")


def _counted(labels: Iterable[str]) -> str:
    """Counts as text, such as "1 RT Dose, 2 localizers"."""
    counts = sorted(Counter(labels).items())
    return ", ".join(
        f"{count} {label}{'s' * (count > 1 and label.endswith(('image', 'Image', 'localizer')))}"
        for label, count in counts
    )


def _is_ours(header: Header) -> bool:
    if header.texts("ImageType")[3:4] not in ([OBSERVED], [SYNTHETIC]):
        return False
    if PROGRAM in header.text("Manufacturer") or PROGRAM in header.text("DerivationDescription"):
        return True
    return any(PROGRAM in str(item.get("Manufacturer", "")) for item in header.items("ContributingEquipmentSequence"))
