"""DICOM files: which files are some, and the header of one, without its pixel data."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import BaseTag

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

# More than the file meta information and the first elements take.
_START_BYTES = 4096
# Elements in a row that make a file without the DICM prefix a DICOM file.
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
_BINARY_VRS = {"FD", "FL", "OB", "OD", "OF", "OL", "OV", "OW", "SL", "SQ", "SS", "SV", "UL", "US", "UV"}

# A deflated header or slice of one value shrinks to a thousandth; a whole series does not.
_LARGEST_RATIO = 200
_ALWAYS_INFLATED = 16 * 2**20

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", re.ASCII)
# Positions in mm and rescaled values of a scan are far below.
_LARGEST_NUMBER = 1e9


@dataclass(frozen=True)
class PixelData:
    """Where the pixel data of a file lies.

    Attributes:
        offset: of its first byte; in a deflated file, of the inflated data set.
        length: bytes, or None where it is encapsulated in fragments.
        as_words: whether it is stored as 16-bit words (OW).
        little_endian: the byte order of words and of larger values.
    """

    offset: int
    length: int | None
    as_words: bool
    little_endian: bool


@dataclass(frozen=True, eq=False)
class Header:
    """Elements of one DICOM file, read without its pixel data.

    Attributes:
        path: the file.
        dataset: the elements.
        syntax: UID of the transfer syntax, as stated or, where it is not stated, as found.
        media_class: SOP class UID of the file meta information; empty where there is none.
        pixels: where the pixel data lies; None where there is none.
        is_whole: false where the file ends within an element.
    """

    path: Path
    dataset: Dataset
    syntax: str
    media_class: str
    pixels: PixelData | None
    is_whole: bool
    _texts: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def texts(self, keyword: str) -> list[str]:
        """The values of an element as text, stripped; empty where it is missing or has no value."""
        if keyword not in self._texts:
            try:
                texts = [text.strip(" \0\t\r\n") for text in self._values(keyword)]
            except Exception as error:  # pydicom lets through whatever a broken value provokes
                raise damaged(self.path) from error
            self._texts[keyword] = texts if any(texts) else []
        return self._texts[keyword]

    def _values(self, keyword: str) -> list[str]:
        tag = _tag(keyword)
        if tag not in self.dataset:
            return []
        element = self.dataset.get_item(tag)
        raw, vr = element.value, _vr(element)
        if isinstance(raw, bytes) and vr == "US" and len(raw) % 2 == 0:
            return [str(number) for number in struct.unpack(f"{'><'[element.is_little_endian]}{len(raw) // 2}H", raw)]
        if isinstance(raw, bytes) and vr not in _BINARY_VRS:
            return raw.decode("latin-1").split("\\")
        value = self.dataset[tag].value
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return ["" if each is None else str(each) for each in several]

    def text(self, keyword: str) -> str:
        """The value of an element as text, several values as DICOM separates them; empty where there is none."""
        return "\\".join(self.texts(keyword))

    def described(self, keyword: str) -> str:
        """A text for people, decoded by the character set of the file, without control characters."""
        try:
            return printable(str(self.dataset.get(keyword) or "").strip(" \0"))
        except Exception:  # pydicom lets through whatever a broken text provokes
            return printable(self.text(keyword))

    def items(self, keyword: str) -> Sequence[Dataset]:
        """The items of a sequence; none where it is missing.

        Raises:
            InputError: the sequence is damaged.
        """
        try:
            return list(self.dataset.get(keyword) or [])
        except Exception as error:  # pydicom lets through whatever a broken sequence provokes
            raise damaged(self.path) from error

    def numbers(self, keyword: str, count: int) -> tuple[float, ...]:
        """Decimal numbers. A decimal comma is read as a point.

        Raises:
            InputError: another count of them, or one that is no finite number.
        """
        values = [number_in(text) for text in self.texts(keyword)]
        if len(values) != count or any(value is None for value in values):
            raise self.refusal(keyword, "a finite number" if count == 1 else f"{count} finite numbers")
        return tuple(value for value in values if value is not None)

    def integer(self, keyword: str) -> int:
        """A whole number.

        Raises:
            InputError: it is missing, several, or no whole number.
        """
        texts = self.texts(keyword)
        if not texts:
            raise InputError(f"{printable(self.path)} has no {keyword}, so it is incomplete: export the series again.")
        if len(texts) != 1 or not re.fullmatch(r"-?\d{1,12}", texts[0]):
            raise self.refusal(keyword, "a whole number")
        return int(texts[0])

    def refusal(self, keyword: str, expected: str) -> InputError:
        """What to raise for the value of an element."""
        value = printable(self.text(keyword))[:80]
        return InputError(
            f"{printable(self.path)} has {keyword} {value!r}, which is not {expected}: correct it or export the series "
            "again."
        )


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: it has the DICM prefix, or begins with elements of a data set.

    At most 4 kB are read.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    return start[128:132] == b"DICM" or _begins_a_data_set(start)


def read_header(path: Path, keywords: Sequence[str] | None = None) -> Header:
    """The elements of a DICOM file but for its pixel data.

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
            tags = keywords and [_tag(keyword) for keyword in keywords]
            dataset = pydicom.dcmread(source, stop_before_pixels=True, force=True, specific_tags=tags)
            pixels = _pixel_data(source, dataset)
            is_whole = _is_whole(source, dataset, pixels)
        return Header(path, dataset, syntax or _found_syntax(dataset), media_class, pixels, is_whole)
    except OSError:
        raise
    except Exception as error:  # pydicom lets through whatever a broken header provokes
        raise damaged(path) from error


def read_data_set(path: Path) -> BinaryIO:
    """The bytes that `PixelData.offset` counts: an open file, or the inflated data set of a deflated one.

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
    """Whether the elements were read as explicit little endian, whatever the file states."""
    return _encoding(dataset) == (False, True)


def damaged(path: Path) -> InputError:
    """What to raise for a file that cannot be read."""
    return InputError(f"{printable(path)} is a damaged DICOM file: export the series again.")


def printable(text: object) -> str:
    r"""Text without characters that a terminal obeys or cannot show; these are written as escapes.

    >>> print(printable("Chest\x1b[2J"))
    Chest\x1b[2J
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def number_in(text: str) -> float | None:
    """The finite number that a text is, with a point or a comma; None where it is none.

    >>> number_in("0,8"), number_in("1e-3"), number_in("nan"), number_in("5 mm")
    (0.8, 0.001, None, None)
    """
    text = text.strip().replace(",", ".")
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if abs(value) <= _LARGEST_NUMBER else None


@cache
def _tag(keyword: str) -> BaseTag:
    from pydicom.tag import Tag

    return Tag(keyword)


def _vr(element: RawDataElement) -> str:
    from pydicom.datadict import dictionary_VR

    return dictionary_VR(element.tag) if element.VR in (None, "UN") else str(element.VR)


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
    """Tag, VR (None where implicit), place and length of the values of a data set, up to the first of no known end."""
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
    return PixelData(source.tell(), None if length == _UNDEFINED else length, vr == b"OW", little)


def _encoding(dataset: Dataset) -> tuple[bool, bool]:
    """Whether the elements were implicit, and little endian; files do not always hold what they state."""
    for element in dataset.values():
        if element.is_raw:
            return element.is_implicit_VR, element.is_little_endian
    implicit, little = dataset.original_encoding
    return bool(implicit), bool(little)


def _found_syntax(dataset: Dataset) -> str:
    implicit, little = _encoding(dataset)
    if implicit:
        return IMPLICIT_LITTLE
    return EXPLICIT_LITTLE if little else EXPLICIT_BIG


def _is_whole(source: BinaryIO, dataset: Dataset, pixels: PixelData | None) -> bool:
    """Whether the elements do not end with the file before they are complete."""
    for element in dataset.values():
        if element.is_raw and element.value is not None and element.length not in (_UNDEFINED, len(element.value)):
            return False
    end = source.tell()
    return pixels is not None or end <= source.seek(0, os.SEEK_END)
