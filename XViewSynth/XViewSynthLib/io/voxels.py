"""Reads the voxels of an image file with a valid header: all of them, checked to the last byte, or none."""

from __future__ import annotations

import bz2
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil

from ..errors import InputError
from .header import ImageHeader, damaged

_CHUNK_BYTES = 1 << 20
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
# Largest ratio of compression. A block of bzip2 holds 46 MB of equal bytes in 40 bytes.
_LARGEST_RATIO = {"gzip": 1032, "zlib": 1032, "bzip2": 1_200_000}
# Text is split into words, which needs many times its size.
_MOST_TEXT_BYTES = 64 * 1024**2
# Share of the free memory that reading may use by default.
_FREE_SHARE = 0.9


def check_stored_size(header: ImageHeader) -> None:
    """Refuse a file whose size contradicts its header.

    Raises:
        InputError: it has too few bytes, or too many of uncompressed voxels.
        OSError: the size of a file cannot be read.
    """
    source = header.source
    outside = 0 if source.with_header else max(source.offset, 0)
    present = sum(file.stat().st_size - outside for file in source.files)
    stated = header.stored_bytes
    if source.encoding == "raw":
        if len(source.files) > 1 and stated % len(source.files):
            raise damaged(header.path, f"its {len(source.files)} data files cannot share {stated} bytes evenly")
        _check_raw(header, present, stated)
    elif source.encoding in ("text", "hex"):
        if present > _MOST_TEXT_BYTES:
            raise InputError(f"{header.path} stores {present / 1e6:.0f} MB of text: save it compressed or raw.")
        least = 2 * stated if source.encoding == "hex" else 2 * (stated // header.stored_type.itemsize) - 1
        if present < least:
            raise _too_few(header, present, least)
    else:
        if source.stored_bytes is not None and source.stored_bytes != present:
            raise damaged(header.path, f"its header states {source.stored_bytes} compressed bytes, it has {present}")
        if stated > max(present, 1) * _LARGEST_RATIO[source.encoding]:
            raise _too_few(header, present, stated // _LARGEST_RATIO[source.encoding])


def check_memory(path: Path, needed: int, memory: int | None = None) -> None:
    """Refuse a scan that needs more memory than there is, before any is allocated.

    Args:
        path: of the scan.
        needed: memory for its voxels, bytes.
        memory: limit of the whole process, bytes; None for most of the free memory.

    Raises:
        InputError: it needs more.
    """
    if memory is None:
        free = int(_FREE_SHARE * psutil.virtual_memory().available)
        if needed > free:
            raise InputError(
                f"Use a computer with more memory, or close other programs: {path} takes {needed / 1e9:.2f} GB, and "
                f"{free / 1e9:.2f} GB is free."
            )
        return
    needed += psutil.Process().memory_info().rss
    if needed > memory:
        gigabytes = math.ceil(needed / 1e8) / 10  # rounded up, so that this value suffices
        raise InputError(f"Allow more memory: {path} takes at least {gigabytes:.1f} GB to read.")


def read_voxels(header: ImageHeader) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read all voxels of an image after `check_stored_size`.

    Returns:
        (K, J, I) array in the machine's byte order, rescaled, of `ImageHeader.scalar_type`; and notes.

    Raises:
        InputError: the file ends early, has more voxels than its header states, or has a wrong checksum.
        OSError: a file cannot be read.
    """
    stored = np.empty(header.shape, header.stored_type)
    notes: tuple[str, ...] = ()
    if header.source.encoding == "raw":
        _fill_raw(header, stored.data.cast("B"))
    elif header.source.encoding in ("text", "hex"):
        _fill_text(header, stored)
    else:
        notes = _fill_unpacked(header, stored.data.cast("B"))
    if not stored.dtype.isnative:
        stored = stored.byteswap(inplace=True).view(stored.dtype.newbyteorder("="))
    return _rescaled(header, stored), notes


def _check_raw(header: ImageHeader, present: int, stated: int) -> None:
    if present < stated:
        raise _too_few(header, present, stated)
    if present > stated and header.source.offset != -1:
        raise InputError(
            f"{header.path} holds {present - stated} bytes more than the {stated} that its header states: correct the "
            "header, or export the scan again."
        )


def _too_few(header: ImageHeader, present: int, needed: int) -> InputError:
    return damaged(header.path, f"truncated: it holds {present} bytes of voxels, its header states at least {needed}")


def _fill_raw(header: ImageHeader, target: memoryview) -> None:
    source = header.source
    share = len(target) // len(source.files)
    for index, file in enumerate(source.files):
        with file.open("rb") as stream:
            if source.offset == -1:
                stream.seek(-share, os.SEEK_END)
            else:
                stream.seek(source.offset)
            _fill(header, iter(lambda: stream.read(_CHUNK_BYTES), b""), target[index * share : (index + 1) * share])


def _fill(header: ImageHeader, pieces: Iterator[bytes], target: memoryview) -> None:
    """Copy the pieces into `target`, which they must fill exactly."""
    filled = 0
    for piece in pieces:
        if filled + len(piece) > len(target):
            raise damaged(header.path, f"it holds more than the {len(target)} bytes of voxels that its header states")
        target[filled : filled + len(piece)] = piece
        filled += len(piece)
    if filled < len(target):
        raise _too_few(header, filled, len(target))


def _fill_unpacked(header: ImageHeader, target: memoryview) -> tuple[str, ...]:
    (file,) = header.source.files
    with file.open("rb") as stream:
        unpacker = _Unpacker(stream, header)
        _fill(header, unpacker.pieces(), target)
    if not unpacker.trailing:
        return ()
    return (f"{unpacker.trailing} bytes after the end of the compressed voxels were ignored.",)


class _Unpacker:
    """Unpacks the compressed voxels of a stream.

    Attributes:
        trailing: bytes after the compressed data that are no padding; valid after the last piece.
    """

    def __init__(self, stream: BinaryIO, header: ImageHeader):
        self._stream, self._path, self._encoding = stream, header.path, header.source.encoding
        self._skip = header.source.offset if header.source.with_header else 0
        if not header.source.with_header:
            stream.seek(header.source.offset)
        self.trailing = 0

    def pieces(self) -> Iterator[bytes]:
        """The unpacked voxels, without a header that is compressed together with them."""
        try:
            for piece in self._unpacked():
                skipped = min(self._skip, len(piece))
                self._skip -= skipped
                if skipped < len(piece):
                    yield piece[skipped:]
        except (zlib.error, OSError) as error:
            # bz2 raises OSError without a number for damaged data.
            if isinstance(error, OSError) and error.errno:
                raise
            raise damaged(self._path, "its compressed voxels are damaged") from error

    def _unpacked(self) -> Iterator[bytes]:
        waiting = self._stream.read(_CHUNK_BYTES)
        while True:
            decoder = self._decoder()
            while not decoder.eof:
                if not waiting and getattr(decoder, "needs_input", True):
                    waiting = self._stream.read(_CHUNK_BYTES)
                    if not waiting:
                        raise damaged(self._path, "truncated: its compressed voxels end early")
                piece = decoder.decompress(waiting, _CHUNK_BYTES)
                waiting = getattr(decoder, "unconsumed_tail", b"")
                yield piece
            waiting = decoder.unused_data or self._stream.read(_CHUNK_BYTES)
            if not self._begins_anew(waiting):
                self.trailing = self._count_trailing(waiting)
                return

    def _decoder(self) -> Any:
        return bz2.BZ2Decompressor() if self._encoding == "bzip2" else zlib.decompressobj(_GZIP_OR_ZLIB)

    def _begins_anew(self, rest: bytes) -> bool:
        """Whether another member of the archive follows, as in files of programs that compress in parallel."""
        magic = {"gzip": b"\x1f\x8b\x08", "bzip2": b"BZh"}.get(self._encoding)
        return magic is not None and rest.startswith(magic)

    def _count_trailing(self, rest: bytes) -> int:
        """Number of bytes that follow; 0 if all of them are padding."""
        count, is_padding = 0, True
        while rest:
            count, is_padding = count + len(rest), is_padding and not rest.strip(b"\0")
            rest = self._stream.read(_CHUNK_BYTES)
        return 0 if is_padding else count


def _fill_text(header: ImageHeader, target: np.ndarray) -> None:
    (file,) = header.source.files
    with file.open("rb") as stream:
        stream.seek(max(header.source.offset, 0))
        text = stream.read()
    try:
        if header.source.encoding == "hex":
            values = np.frombuffer(bytes.fromhex(text.decode("ascii")), target.dtype)
        else:
            wide = {"f": np.float64, "i": np.int64, "u": np.uint64}[target.dtype.kind]
            exact = np.array(text.split(), dtype=bytes).astype(wide)
            values = exact.astype(target.dtype)
            if target.dtype.kind != "f" and not np.array_equal(values, exact):
                raise ValueError("a value exceeds its type")
    except (ValueError, OverflowError) as error:
        raise damaged(header.path, "its text has words that are not numbers of the voxels' type") from error
    if values.size != target.size:
        raise damaged(header.path, f"it holds {values.size} voxels, its header states {target.size}")
    target[...] = values.reshape(target.shape)


def _rescaled(header: ImageHeader, stored: np.ndarray) -> np.ndarray:
    if not header.is_rescaled:
        return stored
    values = stored.astype(header.scalar_type)
    with np.errstate(over="ignore"):  # `check_values` refuses values that are not finite
        values *= values.dtype.type(header.slope)
        values += values.dtype.type(header.intercept)
    return values
