"""Settings of a node, a series that qualifies, and an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nodes import Inbox
from scans import affine_from, anatomy, write_dicom_series
from XViewSynthLib import Volume
from XViewSynthLib.node.settings import Peer, Settings
from XViewSynthLib.request import Request

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.70", "1.2.826.0.1.3680043.8.498.71"
PATIENT = {
    "PatientName": "Secret^Name",
    "PatientID": "4711",
    "StudyInstanceUID": STUDY,
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.72",
    "PositionReferenceIndicator": "",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "BodyPartExamined": "CHEST",
    "PatientPosition": "HFS",
    "KVP": 120,
}


@pytest.fixture
def archive() -> Iterator[Inbox]:
    with Inbox() as archive:
        yield archive


@pytest.fixture
def settings(tmp_path, archive, tiny_model) -> Settings:
    """A node on a free port that sends to the archive, with a model that takes no time."""
    return Settings(
        folder=tmp_path / "node",
        title="XVIEWSYNTH",
        host="127.0.0.1",
        port=0,
        callers=(),
        destination=Peer("ARCHIVE", "127.0.0.1", archive.port),
        quiet_seconds=0.3,
        request=Request(model=str(tiny_model), device="cpu", factor=2),
    )


@pytest.fixture
def series(tmp_path) -> Callable[..., list[Path]]:
    """Write a thick series of six slices 4 mm apart, with other tags, another spacing or another size."""

    def write(
        name: str = "series", spacing: float = 4.0, slices: int = 6, pixels: int = 14, **tags: object
    ) -> list[Path]:
        scan = Volume(anatomy((slices, pixels, 12)), affine_from((0.8, 0.8, spacing)), slice_thickness=spacing)
        scan = scan.with_voxels(np.pad(scan.voxels, [(0, 0), (0, 0), (0, max(0, pixels - 14))]))
        uid = {"series": f"{SERIES}.{sum(map(ord, name))}"}
        return write_dicom_series(tmp_path / name, scan, **{**uid, **PATIENT, **tags})

    return write
