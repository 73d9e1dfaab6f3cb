"""Detection of DICOM files, and reading of their headers without pixel data."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ...system.regular_files import open_regular
from .header import Header, PixelData, damaged, tag_of

if TYPE_CHECKING:
    from pydicom import Dataset

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

# More bytes than the file meta information and the first elements need.
_START_BYTES = 4096
# Number of valid elements after which a file without the DICM prefix counts as DICOM.
_ENOUGH_ELEMENTS = 3
# More than any text in the groups 0002 and 0008.
_LONGEST_VALUE = 2**16
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = 0x7FE00010
_TRANSFER_SYNTAX = 0x00020010
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SHORT_VRS = {
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT"),
    *(b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
}

# A deflated header or slice of one value shrinks to a thousandth; a whole series does not.
_LARGEST_RATIO = 200
_ALWAYS_INFLATED = 16 * 2**20


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: it has the DICM prefix, or begins with elements of a data set.

    At most 4 kB are read.

    Raises:
        InputError: it is no regular file.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        start = file.read(_START_BYTES)
    return start[128:132] == b"DICM" or _begins_a_data_set(start)


def read_header(path: Path, keywords: Sequence[str] | None = None) -> Header:
    """The elements of a DICOM file without its pixel data.

    Args:
        path: the file.
        keywords: of the elements to read; all by default.

    Raises:
        InputError: the file is damaged.
        OSError: the file cannot be read.
    """
    import pydicom

    try:
        with path.open("rb") as file:
            source, syntax, media_class = _opened(file)
            tags = [tag_of(keyword) for keyword in keywords] if keywords else None
            dataset = pydicom.dcmread(source, stop_before_pixels=True, force=True, specific_tags=tags)
            pixels = _pixel_data(source, dataset)
            is_whole = _is_whole(source, dataset, pixels)
        return Header(path, dataset, syntax or _found_syntax(dataset), media_class, pixels, is_whole)
    except OSError:
        raise
    except Exception as error:  # pydicom raises many types of exceptions for broken headers
        raise damaged(path) from error


def read_data_set(path: Path) -> BinaryIO:
    """The bytes to which `PixelData.offset` refers: an open file, or the inflated data set of a deflated one.

    Raises:
        ValueError: the file is deflated and damaged.
        OSError: the file cannot be read.
    """
    file = path.open("rb")
    try:
        source, _, _ = _opened(file)
    except BaseException:
        file.close()
        raise
    if source is not file:
        file.close()
    return source


def is_explicit_little(dataset: Dataset) -> bool:
    """Whether the elements were read as explicit little endian. The file may state another encoding."""
    return _encoding(dataset) == (False, True)


def _begins_a_data_set(start: bytes) -> bool:
    if start[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return False
    from pydicom.datadict import dictionary_has_tag

    previous = count = 0
    for tag, vr, _, length in _elements(start):
        known = dictionary_has_tag(tag) or tag & 0xFFFF == 0
        if not known or tag <= previous or (length == _UNDEFINED and vr not in (b"SQ", None)):
            return False
        if length > _LONGEST_VALUE:
            break
        previous, count = tag, count + 1
    return count >= _ENOUGH_ELEMENTS


def _elements(data: bytes, position: int = 0) -> Iterator[tuple[int, bytes | None, int, int]]:
    """Tag, VR (None if implicit), place and length of the values of a data set, up to one of undefined length."""
    order = ">" if data[position : position + 1] == b"\0" else "<"
    explicit = data[position + 4 : position + 6] in _SHORT_VRS | _LONG_VRS
    while position + 12 <= len(data):
        group, number, vr, length = struct.unpack_from(f"{order}HH2sH", data, position)
        position += 8
        if not explicit:
            vr, (length,) = None, struct.unpack_from(f"{order}L", data, position - 4)
        elif vr in _LONG_VRS:
            (length,) = struct.unpack_from(f"{order}L", data, position)
            position += 4
        elif vr not in _SHORT_VRS:
            return
        yield group << 16 | number, vr, position, length
        if length == _UNDEFINED:
            return
        position += length


def _opened(file: BinaryIO) -> tuple[BinaryIO, str, str]:
    """A stream at its start, the transfer syntax and SOP class of the file meta information, each empty if missing."""
    start = file.read(_START_BYTES)
    begin = 132 if start[128:132] == b"DICM" else 0
    meta, end = {}, begin
    if start[begin : begin + 2] == b"\x02\x00":
        for tag, _, place, length in _elements(start, begin):
            if tag >> 16 != 2:
                break
            meta[tag] = start[place : place + length].strip(b" \0").decode("latin-1")
            end = place + length
    file.seek(0)
    syntax = meta.get(_TRANSFER_SYNTAX, "")
    return (_inflated(file, end) if syntax == DEFLATED else file), syntax, meta.get(0x00020002, "")


def _inflated(file: BinaryIO, start: int) -> BinaryIO:
    file.seek(start)
    deflated = file.read()
    limit = _ALWAYS_INFLATED + _LARGEST_RATIO * len(deflated)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(deflated, limit)
    except zlib.error as error:
        raise ValueError("The deflated data set is damaged.") from error
    if not inflater.eof:
        raise ValueError("The deflated data set is cut short, or too large.")
    return io.BytesIO(data)


def _pixel_data(source: BinaryIO, dataset: Dataset) -> PixelData | None:
    implicit, little = _encoding(dataset)
    order = "<" if little else ">"
    head = source.read(8)
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) != (_PIXEL_DATA >> 16, _PIXEL_DATA & 0xFFFF):
        return None
    vr = b"OW" if implicit else head[4:6]
    (length,) = struct.unpack(f"{order}L", head[4:] if implicit else source.read(4))
    offset = source.tell()
    held = source.seek(0, os.SEEK_END) - offset
    return PixelData(offset, None if length == _UNDEFINED else length, held, vr == b"OW", little)


def _encoding(dataset: Dataset) -> tuple[bool, bool]:
    """Whether the elements were implicit, and little endian. Files do not always use the encoding that they state."""
    from pydicom.dataelem import RawDataElement

    for element in dataset.values():
        if isinstance(element, RawDataElement):
            return element.is_implicit_VR, element.is_little_endian
    implicit, little = dataset.original_encoding
    return bool(implicit), bool(little)


def _found_syntax(dataset: Dataset) -> str:
    implicit, little = _encoding(dataset)
    if implicit:
        return IMPLICIT_LITTLE
    return EXPLICIT_LITTLE if little else EXPLICIT_BIG


def _is_whole(source: BinaryIO, dataset: Dataset, pixels: PixelData | None) -> bool:
    """Whether the file is long enough for its elements."""
    from pydicom.dataelem import RawDataElement

    for element in dataset.values():
        if not isinstance(element, RawDataElement) or element.value is None:
            continue
        if element.length not in (_UNDEFINED, len(element.value)):
            return False
    end = source.tell()
    return pixels is not None or end <= source.seek(0, os.SEEK_END)
