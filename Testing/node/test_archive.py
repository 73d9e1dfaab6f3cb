"""The node beside a real archive, and with programs of others as clients."""

from __future__ import annotations

import io
import json
import subprocess
import urllib.error
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import MRImageStorage

from archive import WEB_PLUGIN, Archive, needs
from nodes import NodeThread, send, wait_for
from XViewSynthLib.node import service
from XViewSynthLib.node.queue import read_summary
from XViewSynthLib.node.settings import Peer

pytestmark = pytest.mark.archive


@needs("Orthanc")
@needs("dcmcjpeg")
@needs("dciodvfy")
class TestArchive:
    """An archive sends everything, and gets the right series back."""

    @pytest.fixture
    def orthanc(self, tmp_path) -> Iterator[Archive]:
        (tmp_path / "orthanc").mkdir()
        with Archive(tmp_path / "orthanc") as archive:
            yield archive

    @pytest.fixture
    def sent(self, orthanc, series) -> dict[str, list[Path]]:
        """Series of every kind, by kind, in the archive."""
        made = {
            "plain": series("plain"),
            "lossless": _transcoded("dcmcjpeg", series("lossless")),
            "runs": _transcoded("dcmcrle", series("runs")),
            "thin": series("thin", spacing=1.0),
            "broken": series("broken", slices=7),
            "localizer": series("localizer", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
            "synthetic": series("synthetic", ImageType=["DERIVED", "SECONDARY", "AXIAL", "SYNTHETIC"], **_OURS),
            "mr": series("mr", Modality="MR"),
        }
        made["broken"].pop(3)
        for file in made["mr"]:
            image = pydicom.dcmread(file)
            image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = MRImageStorage
            image.save_as(file)
        for files in made.values():
            for file in files:
                orthanc.add(file)
        return made

    def test_gets_the_right_series_back(self, orthanc, sent, settings, tmp_path):
        before = set(orthanc.ask("/series"))
        there = replace(settings, destination=Peer("ORTHANC", "127.0.0.1", orthanc.dicom_port), quiet_seconds=1.0)
        with NodeThread(there) as node:
            peer = json.dumps(["XVIEWSYNTH", "127.0.0.1", node.port]).encode()
            orthanc.get("/modalities/node", peer, "PUT")
            refused = [name for name in sorted(before) if not _stores(orthanc, name)]
            wait_for(lambda: _ended(settings.folder) == 7, lambda: node.log)
        assert [orthanc.ask(f"/series/{name}")["MainDicomTags"]["Modality"] for name in refused] == ["MR"]
        new = [orthanc.ask(f"/series/{name}") for name in set(orthanc.ask("/series")) - before]
        assert [len(series["Instances"]) for series in new] == [11, 11, 11]
        assert len({series["ParentStudy"] for series in new}) == 1
        assert len(orthanc.ask("/studies")) == 1
        self._check_images(orthanc, new, sent, tmp_path)

    @staticmethod
    def _check_images(orthanc: Archive, new: list[dict], sent: dict[str, list[Path]], tmp_path: Path) -> None:
        """Observed slices are bit-identical, and a validator finds no error."""
        truth = _voxels(pydicom.dcmread(file) for file in sent["plain"])
        for series in new:
            contents = [orthanc.get(f"/instances/{name}/file") for name in series["Instances"]]
            images = sorted(
                (pydicom.dcmread(io.BytesIO(content)) for content in contents),
                key=lambda image: image.ImagePositionPatient[2],
            )
            assert np.array_equal(_voxels(images)[::2], truth)
            (tmp_path / "image.dcm").write_bytes(contents[0])
            said = subprocess.run(["dciodvfy", str(tmp_path / "image.dcm")], capture_output=True, text=True).stderr
            assert [line for line in said.splitlines() if line.startswith(("Error", "Abort"))] == []


@needs("Orthanc")
@pytest.mark.skipif(not WEB_PLUGIN.exists(), reason="needs Orthanc's plugin for DICOMweb (Debian: orthanc-dicomweb)")
class TestWebArchive:
    """An archive that speaks DICOMweb only."""

    @pytest.fixture
    def orthanc(self, tmp_path) -> Iterator[Archive]:
        (tmp_path / "orthanc").mkdir()
        with Archive(tmp_path / "orthanc", web=True) as archive:
            yield archive

    def test_has_its_series_fetched_and_gets_the_result(self, orthanc, settings, series, monkeypatch):
        monkeypatch.setattr(service, "_FETCH_SECONDS", 0.5)
        today = f"{date.today():%Y%m%d}"
        old = series("old", StudyDate="20200101", StudyInstanceUID=f"{STUDY}.2")
        plain, packed = series("plain", StudyDate=today), _transcoded("dcmcjpeg", series("packed", StudyDate=today))
        for file in [*plain, *packed, *series("thin", 1.0, StudyDate=today), *old]:
            orthanc.add(file)
        web = replace(settings, destination=orthanc.web_url, source=orthanc.web_url, quiet_seconds=1.0)
        with NodeThread(web) as node:
            node.prints("delivered as 11 images", 2)
            node.prints("Its slices are 1 mm apart.")
            # The results themselves are fetched, recognised and left alone.
            node.prints("It was made by XViewSynth.", 2)
        assert sorted(len(one["Instances"]) for one in orthanc.ask("/series?expand")) == [6, 6, 6, 6, 11, 11]

    def test_that_fails_gets_the_result_later(self, orthanc, settings, series, monkeypatch):
        monkeypatch.setattr(service, "_FIRST_WAIT", 0.2)
        with NodeThread(replace(settings, destination=f"{orthanc.web_url}/nowhere")) as node:
            send(series(), node.port)
            node.prints("The DICOMweb service does not take images (status 404).")
        with NodeThread(replace(settings, destination=orthanc.web_url)) as node:
            node.prints("delivered as 11 images")

    def test_that_is_away_is_noted_without_uids(self, settings, monkeypatch):
        monkeypatch.setattr(service, "_RETRY_SECONDS", 0.2)
        with NodeThread(replace(settings, source="http://127.0.0.1:1/dicom-web")) as node:
            node.prints("the DICOMweb service fails: ConnectionError", 2)


class TestForeignClients:
    @needs("echoscu")
    def test_echo(self, settings):
        with NodeThread(settings) as node:
            for title, answered in (("XVIEWSYNTH", True), ("OTHER", False)):
                command = ["echoscu", "-aec", title, "127.0.0.1", str(node.port)]
                assert (subprocess.run(command, capture_output=True).returncode == 0) == answered

    @needs("storescu")
    @pytest.mark.parametrize(("codec", "options"), [(None, []), ("dcmcjpeg", ["-xs"]), ("dcmcrle", ["-xr"])])
    def test_store(self, settings, series, codec, options):
        files = series() if codec is None else _transcoded(codec, series())
        with NodeThread(replace(settings, quiet_seconds=1000.0)) as node:
            command = ["storescu", *options, "-aec", "XVIEWSYNTH", "127.0.0.1", str(node.port), *map(str, files)]
            subprocess.run(command, check=True, timeout=60)
            assert read_summary(settings.folder)["instances"] == 6


STUDY = "1.2.826.0.1.3680043.8.498.70"
_OURS = {"Manufacturer": "XViewSynth"}


def _transcoded(program: str, files: list[Path]) -> list[Path]:
    for file in files:
        subprocess.run([program, str(file), str(file)], check=True)
    return files


def _stores(orthanc: Archive, series: str) -> bool:
    """Whether the archive can send a series to the node."""
    try:
        orthanc.get("/modalities/node/store", series.encode())
    except urllib.error.HTTPError as error:
        error.close()
        return False
    return True


def _ended(folder: Path) -> int:
    counts = read_summary(folder)["series"]
    return counts["done"] + counts["skipped"] + counts["failed"]


def _voxels(images: Iterable[pydicom.Dataset]) -> np.ndarray:
    ordered = sorted(images, key=lambda image: image.ImagePositionPatient[2])
    return np.stack([image.pixel_array * int(image.RescaleSlope) + int(image.RescaleIntercept) for image in ordered])
