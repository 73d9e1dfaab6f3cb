"""Decodes compressed DICOM images for `jpeg`, in a process of its own: ``python -m XViewSynthLib.io.dicom.decoder``.

For each line on standard input, the image in the working folder is decoded, and its size in bytes written on standard
output as a line of text, followed by the bytes: little endian on such a machine. What cannot be decoded has the size 0.
"""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

import SimpleITK as sitk

from .jpeg import FRAME


def main() -> None:
    """Decode until standard input ends."""
    # What libraries print must not get between the bytes.
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
