"""JPEG, JPEG-LS and JPEG 2000 pixel data: checked here, decoded by SimpleITK's GDCM in a separate process.

A crash of that library costs one file, not the program. The library gets a file with the stream, its size and nothing
else of the original, so it returns the numbers as they are stored.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import InputError
from ...system.staging import staging_folder
from .header import printable
from .slices import JPEG_2000, Pixels

#: Name of the file that the process reads, in its working folder.
FRAME = "frame.dcm"

_ITEM, _SEQUENCE_END, _UNDEFINED = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD), 0xFFFFFFFF
# Markers that begin the header of a JPEG or JPEG-LS frame.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_LIBRARY = Path(__file__).resolve().parents[3]
# Time limit for one slice; the slowest takes a second or two.
_PATIENCE_SECONDS = 300.0
# libjpeg's message if it continues after an error.
_WARNING = b"Corrupt JPEG data"


def read_fragments(pixels: Pixels) -> list[bytes]:
    """The fragments of encapsulated pixel data, without the basic offset table.

    Raises:
        InputError: the file is cut short, or its pixel data is not stored in fragments.
        OSError: the file cannot be read.
    """
    fragments: list[bytes] = []
    with pixels.file.open("rb") as file:
        left = file.seek(0, os.SEEK_END) - file.seek(pixels.data.offset)
        while left:
            head = file.read(8)
            if len(head) < 8:
                raise _damaged(pixels)
            *tag, length = struct.unpack("<HHL", head)
            left -= 8
            if tuple(tag) == _SEQUENCE_END:
                break
            if tuple(tag) != _ITEM or length > left:
                raise _damaged(pixels)
            fragments.append(file.read(length))
            left -= length
    if not any(fragments[1:]):
        raise InputError(f"{printable(pixels.file)} has no pixel data, so it is incomplete: export the series again.")
    return fragments[1:]


class JpegDecoder(AbstractContextManager):
    """A process that decodes images one after the other. It starts with the first image and ends with the context."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def decode(self, pixels: Pixels) -> np.ndarray:
        """(rows, columns) numbers as an image stores them.

        Raises:
            InputError: the stream is cut short, has another size than the header states, or cannot be decoded.
            OSError: the file cannot be read, or there is no space for a copy of its stream.
        """
        fragments = read_fragments(pixels)
        _check_stream(b"".join(fragments), pixels)
        if self._process is None:
            self._process = self._start()
        _write_frame(self._folder / FRAME, fragments, pixels)
        data = self._decoded(self._process, pixels.size)
        if data is None or _WARNING in (self._folder / "log").read_bytes():
            raise _damaged(pixels)
        return np.frombuffer(data, pixels.scalar_type).reshape(pixels.shape)

    def _start(self) -> subprocess.Popen[bytes]:
        self._folder = self._stack.enter_context(staging_folder(Path(tempfile.gettempdir())))
        with open(self._folder / "log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.decoder"],
                cwd=self._folder,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                **_apart(),
            )
        self._stack.callback(_end, process)
        return process

    @staticmethod
    def _decoded(process: subprocess.Popen[bytes], size: int) -> bytes | None:
        """The decoded bytes of the frame; None if the process has crashed or failed."""
        timer = threading.Timer(_PATIENCE_SECONDS, process.kill)
        timer.start()
        requests, results = _pipes(process)
        try:
            requests.write(b"\n")
            requests.flush()
            stated = results.readline().strip()
            data = results.read(size) if stated == str(size).encode("ascii") else b""
        except OSError:  # it has crashed
            return None
        finally:
            timer.cancel()
        return data if len(data) == size else None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in _pipes(process):
        with suppress(OSError):  # unread input
            stream.close()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output of a process that was started with pipes for both."""
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _environment() -> dict[str, str]:
    folders = [str(_LIBRARY), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(folders), "PYTHONUTF8": "1"}


def _apart() -> dict[str, Any]:
    """Settings that keep signals of the terminal (Ctrl-C) away from the process."""
    if sys.platform != "win32":
        return {"start_new_session": True}
    return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}


def _write_frame(path: Path, fragments: list[bytes], pixels: Pixels) -> None:
    """Write a DICOM file with a compressed image and only the elements that decoding needs."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, CTImageStorage

    image = pydicom.Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = UID(pixels.syntax)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated, image.BitsStored, image.HighBit = (
        pixels.bits_allocated,
        pixels.bits_stored,
        pixels.bits_stored - 1,
    )
    image.PixelRepresentation = int(pixels.signed)
    # One fragment, of even length, after an empty table of offsets.
    stream = b"".join(fragments)
    stream += b"\0" * (len(stream) % 2)
    items = struct.pack("<HHLHHL", *_ITEM, 0, *_ITEM, len(stream)) + stream
    image.add_new(0x7FE00010, "OB", items)
    image["PixelData"].is_undefined_length = True
    image.save_as(path, enforce_file_format=True)


def _check_stream(stream: bytes, pixels: Pixels) -> None:
    """Refuse a stream that is cut short, or whose header contradicts the DICOM header.

    Raises:
        InputError: the stream is cut short or of another size.
    """
    # Padding to an even length is 0, or 255 from some encoders.
    stream = stream.rstrip(b"\0\xff")
    begin = b"\xff\x4f\xff\x51" if pixels.syntax in JPEG_2000 else b"\xff\xd8\xff"
    if not (stream.startswith(begin) and stream.endswith(b"\xff\xd9")):
        raise _damaged(pixels)
    try:
        size = _size_in_jpeg_2000(stream) if pixels.syntax in JPEG_2000 else _size_in_jpeg(stream)
    except (struct.error, IndexError) as error:
        raise _damaged(pixels) from error
    if size is None:
        raise _damaged(pixels)
    rows, columns, bits, components = size
    allocated = 8 if bits <= 8 else 16
    fits = (rows, columns, components) == (*pixels.shape, 1) and pixels.bits_stored <= bits <= 16
    if not fits or allocated != pixels.bits_allocated:
        raise InputError(
            f"{printable(pixels.file)} has {rows} x {columns} pixels of {components} x {bits} bits in its compressed "
            f"stream, but {pixels.shape[0]} x {pixels.shape[1]} (Rows x Columns) of {pixels.bits_stored} bits "
            f"(BitsStored) in {pixels.bits_allocated} (BitsAllocated) in its header: export the series again."
        )


def _size_in_jpeg(stream: bytes) -> tuple[int, int, int, int] | None:
    """Rows, columns, bits and components by the frame header of a JPEG or JPEG-LS stream; None without one."""
    place = 2
    while stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker in _FRAME_MARKERS:
            bits, rows, columns, components = struct.unpack_from(">BHHB", stream, place + 4)
            return rows, columns, bits, components
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        (length,) = struct.unpack_from(">H", stream, place + 2)
        place += 2 + length
    return None


def _size_in_jpeg_2000(stream: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, bits and components by the SIZ segment of a JPEG 2000 codestream."""
    right, bottom, left, top = struct.unpack_from(">4L", stream, 8)
    components, depth = struct.unpack_from(">HB", stream, 40)
    return bottom - top, right - left, (depth & 0x7F) + 1, components


def _damaged(pixels: Pixels) -> InputError:
    return InputError(
        f"{printable(pixels.file)} has compressed pixel data that is damaged or cut short: export the series again, "
        "uncompressed if possible."
    )
