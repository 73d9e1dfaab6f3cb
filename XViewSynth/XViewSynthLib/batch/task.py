"""Task of a process of a batch (one scan), and its possible results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COMMAND = "one"
RESULT = "result.json"
ENHANCED, REFUSED, FAILED = "enhanced", "refused", "failed"
# A folder with a series; its name ends so.
DICOM = "dicom"
# Endings of writable formats; not .mhd, which has two files.
FORMATS = ("nrrd", "nii.gz", "nii", "mha", DICOM)


@dataclass(frozen=True)
class Task:
    """Input of a process, as plain values that JSON can hold.

    Attributes:
        name: of the scan, relative to the searched folder; the only name that reports contain.
        source: the scan.
        output: name of the file, or of the DICOM folder, to write.
        dicom: whether to write a DICOM series; then the scan must be one.
        thumbnail: file name of the thumbnail.
        request: a `Request`, as of `Request.to_json`.
        selfcheck: whether to measure on this scan how well slices are restored.
    """

    name: str
    source: str
    output: str
    dicom: bool
    thumbnail: str
    request: dict[str, Any]
    selfcheck: bool
