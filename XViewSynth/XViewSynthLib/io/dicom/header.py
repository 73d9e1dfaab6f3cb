"""The header of one DICOM file: its elements as text and numbers, with checks of each value."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError
from ...system.streams import visible

if TYPE_CHECKING:
    import numpy as np
    from pydicom import Dataset
    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.tag import BaseTag

_BINARY_VRS = {"FD", "FL", "OB", "OD", "OF", "OL", "OV", "OW", "SL", "SQ", "SS", "SV", "UL", "US", "UV"}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", re.ASCII)
# Positions in mm and rescaled values of a scan are far below.
_LARGEST_NUMBER = 1e9


@dataclass(frozen=True)
class PixelData:
    """Location of the pixel data in a file.

    Attributes:
        offset: of its first byte; in a deflated file, of the inflated data set.
        length: bytes as stated, or None if it is encapsulated in fragments.
        held: bytes from there to the end of the file.
        as_words: whether it is stored as 16-bit words (OW).
        little_endian: the byte order of words and of larger values.
    """

    offset: int
    length: int | None
    held: int
    as_words: bool
    little_endian: bool


@dataclass(frozen=True, eq=False)
class Header:
    """Elements of one DICOM file, read without its pixel data.

    Attributes:
        path: the file.
        dataset: the elements.
        syntax: UID of the transfer syntax, as stated, or else as detected.
        media_class: SOP class UID of the file meta information; empty if there is none.
        pixels: location of the pixel data; None if there is none.
        is_whole: false if the file ends within an element.
    """

    path: Path
    dataset: Dataset
    syntax: str
    media_class: str
    pixels: PixelData | None
    is_whole: bool
    _texts: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def texts(self, keyword: str) -> list[str]:
        """The values of an element as text, stripped; empty if it is missing or has no value."""
        if keyword not in self._texts:
            try:
                texts = [text.strip(" \0\t\r\n") for text in self._values(keyword)]
            except Exception as error:  # pydicom raises many types of exceptions for broken values
                raise damaged(self.path) from error
            self._texts[keyword] = texts if any(texts) else []
        return self._texts[keyword]

    def _values(self, keyword: str) -> list[str]:
        from pydicom.dataelem import RawDataElement

        tag = tag_of(keyword)
        if tag not in self.dataset:
            return []
        element = self.dataset.get_item(tag)
        raw, vr = element.value, _vr(element)
        if isinstance(element, RawDataElement) and isinstance(raw, bytes) and vr == "US" and len(raw) % 2 == 0:
            return [str(number) for number in struct.unpack(f"{'><'[element.is_little_endian]}{len(raw) // 2}H", raw)]
        if isinstance(raw, bytes) and vr not in _BINARY_VRS:
            return raw.decode("latin-1").split("\\")
        value = self.dataset[tag].value
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return ["" if each is None else str(each) for each in several]

    def text(self, keyword: str) -> str:
        """The value of an element as text, several values separated by backslashes; empty if there is none."""
        return "\\".join(self.texts(keyword))

    def described(self, keyword: str) -> str:
        """A descriptive text, decoded by the character set of the file, without control characters."""
        try:
            return printable(str(self.dataset.get(keyword) or "").strip(" \0"))
        except Exception:  # pydicom raises many types of exceptions for broken texts
            return printable(self.text(keyword))

    def items(self, keyword: str) -> Sequence[Dataset]:
        """The items of a sequence; empty if it is missing.

        Raises:
            InputError: the sequence is damaged.
        """
        try:
            return list(self.dataset.get(keyword) or [])
        except Exception as error:  # pydicom raises many types of exceptions for broken sequences
            raise damaged(self.path) from error

    def numbers(self, keyword: str, count: int) -> tuple[float, ...]:
        """Decimal numbers. A decimal comma is read as a point.

        Raises:
            InputError: the count differs, or a value is not a finite number.
        """
        values = [number_in(text) for text in self.texts(keyword)]
        if len(values) != count or any(value is None for value in values):
            raise self.refusal(keyword, "a finite number" if count == 1 else f"{count} finite numbers")
        return tuple(value for value in values if value is not None)

    def integer(self, keyword: str) -> int:
        """A whole number.

        Raises:
            InputError: the value is missing, multiple, or not a whole number.
        """
        texts = self.texts(keyword)
        if not texts:
            raise InputError(f"{printable(self.path)} has no {keyword}, so it is incomplete: export the series again.")
        if len(texts) != 1 or not re.fullmatch(r"-?\d{1,12}", texts[0]):
            raise self.refusal(keyword, "a whole number")
        return int(texts[0])

    def refusal(self, keyword: str, expected: str) -> InputError:
        """The exception for an invalid value of an element."""
        value = printable(self.text(keyword))[:80]
        return InputError(
            f"{printable(self.path)} has {keyword} {value!r}, which is not {expected}: correct it or export the series "
            "again."
        )


def damaged(path: Path) -> InputError:
    """The exception for a file that cannot be read."""
    return InputError(f"{printable(path)} is a damaged DICOM file: export the series again.")


def printable(text: object) -> str:
    """A path or a value as `visible` text, for a message."""
    return visible(str(text))


def number_in(text: str) -> float | None:
    """The finite number in a text, with a point or a comma; None for other texts.

    >>> number_in("0,8"), number_in("1e-3"), number_in("nan"), number_in("5 mm")
    (0.8, 0.001, None, None)
    """
    text = text.strip().replace(",", ".")
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if abs(value) <= _LARGEST_NUMBER else None


@cache
def tag_of(keyword: str) -> BaseTag:
    """The tag of a keyword of the standard."""
    from pydicom.tag import Tag

    return Tag(keyword)


def _vr(element: DataElement | RawDataElement) -> str:
    from pydicom.datadict import dictionary_VR

    return dictionary_VR(element.tag) if element.VR in (None, "UN") else str(element.VR)


def decimals(values: Sequence[float] | np.ndarray) -> str | list[str]:
    """Numbers as DICOM's decimal strings of at most 16 letters."""
    from pydicom.valuerep import format_number_as_ds

    # A zero has no sign.
    texts = [format_number_as_ds(float(value) + 0.0) for value in values]
    return texts if len(texts) > 1 else texts[0]
