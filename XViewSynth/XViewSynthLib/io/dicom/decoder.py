"""Decodes compressed DICOM images for `jpeg`, in a separate process: ``python -m XViewSynthLib.io.dicom.decoder``.

For each line on standard input, the program decodes the image in the working folder. It writes the size in bytes to
standard output as a line of text, then the bytes in the byte order of the machine. The size is 0 if decoding fails.
"""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

import SimpleITK as sitk

from .jpeg import FRAME


def main() -> None:
    """Decode until standard input ends."""
    # Text that libraries print must not mix with the bytes.
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        for _ in sys.stdin.buffer:
            _decode(output)


def _decode(output: BinaryIO) -> None:
    try:
        image = sitk.ReadImage(FRAME, imageIO="GDCMImageIO")
        data = sitk.GetArrayViewFromImage(image).tobytes()
    except (RuntimeError, MemoryError):
        data = b""
    output.write(b"%d\n" % len(data))
    output.write(data)
    output.flush()


if __name__ == "__main__":
    main()
