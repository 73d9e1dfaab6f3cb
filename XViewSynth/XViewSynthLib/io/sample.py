"""The first voxels of an image file, read without the rest."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np

from .header import VoxelSource
from .reading import read_image_header

# Enough for a few slices, and quick to read from a network drive.
_MOST_BYTES = 1 << 20
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


def first_voxels(path: Path) -> np.ndarray | None:
    """The first voxels of an image file as they are stored, (n, 1, row), at most a million bytes.

    None if they are stored in another way than raw or by zlib, or if the file is damaged.

    Raises:
        InputError: the header is not valid.
        OSError: the file cannot be read.
    """
    header = read_image_header(path)
    row = header.shape[2] * header.stored_type.itemsize
    data = _first_bytes(header.source, min(math.prod(header.shape[:2]) * row, _MOST_BYTES))
    rows = len(data) // row
    return np.frombuffer(data[: rows * row], header.stored_type).reshape(rows, 1, -1) if rows else None


def _first_bytes(source: VoxelSource, count: int) -> bytes:
    if source.offset < 0 or source.encoding not in ("raw", "gzip", "zlib"):
        return b""
    # If the header is compressed too, the offset counts unpacked bytes.
    skipped = source.offset if source.with_header else 0
    with source.files[0].open("rb") as file:
        file.seek(source.offset - skipped)
        data = file.read(skipped + count)
    if source.encoding == "raw":
        return data
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(data, skipped + count)[skipped:]
    except zlib.error:
        return b""
