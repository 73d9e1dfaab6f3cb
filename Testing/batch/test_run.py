"""Whole study sets: what is enhanced, what is said of the rest, and what a crash, a stop or a kill leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from batches import LIMIT_SECONDS, SITE, enhance_all, hidden, table, wait_until, waiting
from scans import affine_from, anatomy, write_dicom_series
from tiny import make_card, make_network
from XViewSynthLib import InputError, Volume, enhance, read_volume, write_volume
from XViewSynthLib.batch import run as batch
from XViewSynthLib.batch.run import find_items
from XViewSynthLib.batch.step import BatchItem, is_done, read_record
from XViewSynthLib.batch.summary import Row, counts, write_summary
from XViewSynthLib.cli.main import main
from XViewSynthLib.errors import Cancelled
from XViewSynthLib.io.fingerprints import files_of_scan, fingerprint_of, fingerprint_of_file, fingerprint_of_scan
from XViewSynthLib.model.catalogue import load_model, save_model

pytestmark = pytest.mark.slow

LIBRARY = str(Path(batch.__file__).parents[2])
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ODD_NAME = "<b>=&'ä.nrrd"


def small_scan(seed: int = 0, slices: int = 8) -> Volume:
    """A scan with slices 4 mm apart."""
    return Volume(anatomy((slices, 20, 18), seed), affine_from())


def write_broken(folder: Path) -> set[str]:
    """Files that look like scans and do not qualify, and their names."""
    voxels = small_scan().voxels
    (folder / ODD_NAME).write_bytes(b"NRRD0004\nnothing")
    write_volume(Volume(voxels[:3], affine_from()), folder / "few.nrrd")
    write_volume(Volume((voxels > 0).astype(np.uint8), affine_from()), folder / "labels.nrrd")
    write_volume(Volume(np.zeros_like(voxels), affine_from()), folder / "flat.mha")
    return {ODD_NAME, "few.nrrd", "labels.nrrd", "flat.mha"}


@pytest.fixture(scope="module")
def places(tmp_path_factory, tiny_model) -> tuple[Path, Path]:
    """The folders of a batch that has come to its end, over a good file, a good series, and what does not qualify."""
    place = tmp_path_factory.mktemp("secret-place")
    source = place / "in"
    (source / "a").mkdir(parents=True)
    write_volume(small_scan(slices=6), source / "a" / "scan.nrrd")
    write_dicom_series(source / "series", small_scan(1))
    write_broken(source)
    assert enhance_all(source, place / "out", tiny_model, "--selfcheck", "--jobs", "2") == 0
    return source, place / "out"


@pytest.fixture(scope="module")
def dicom_places(tmp_path_factory, tiny_model) -> tuple[Path, Path]:
    """The folders of a batch with DICOM output, over a series and a file."""
    place = tmp_path_factory.mktemp("dicom")
    study = {"StudyInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5"}
    write_dicom_series(place / "in" / "series", small_scan(1), **study)
    write_volume(small_scan(), place / "in" / "scan.nrrd")
    assert enhance_all(place / "in", place / "out", tiny_model, "--format", "dicom") == 0
    return place / "in", place / "out"


@pytest.fixture
def copies(places, tmp_path) -> tuple[Path, Path]:
    """The same folders to be changed, without what does not qualify."""
    source, target = tmp_path / "in", tmp_path / "out"
    shutil.copytree(places[0], source, ignore=lambda *_: ["labels.nrrd", "few.nrrd", "flat.mha", ODD_NAME])
    shutil.copytree(places[1], target)
    return source, target


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """Processes of a batch fare as their scans are called."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


class TestOptions:
    @pytest.mark.parametrize(("name", "value"), [("texture", "match"), ("quality", "best")])
    def test_are_those_of_enhance(self, tmp_path, tiny_model, name, value):
        (tmp_path / "in").mkdir()
        write_volume(small_scan(), tmp_path / "in" / "scan.nrrd")
        assert enhance_all(tmp_path / "in", tmp_path / "out", tiny_model, f"--{name}", value) == 0
        expected = enhance(small_scan(), 2, model=load_model(tiny_model), device="cpu", **{name: value}).volume
        assert np.array_equal(read_volume(tmp_path / "out" / "scan.nrrd.enhanced.nrrd").voxels, expected.voxels)


class TestThickness:
    def test_and_profile_are_those_of_enhance(self, tmp_path):
        (tmp_path / "in").mkdir()
        scan = Volume(anatomy((5, 16, 16)), affine_from((0.8, 0.8, 4.0)))
        write_volume(scan, tmp_path / "in" / "scan.nrrd")
        options = "--thickness", "5", "--profile", "gaussian", "--new-thickness", "3"
        assert enhance_all(tmp_path / "in", tmp_path / "out", "auto", *options) == 0
        expected = enhance(scan, 2, thickness=5.0, profile="gaussian", new_thickness=3.0, device="cpu")
        assert expected.acquisition == "thick"
        assert np.array_equal(read_volume(tmp_path / "out" / "scan.nrrd.enhanced.nrrd").voxels, expected.volume.voxels)

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (("--thickness", "90"), "not 90 mm: leave the thickness out"),
            (("--new-thickness", "2"), "leave the new thickness out"),
        ],
    )
    def test_that_cannot_be_is_refused(self, tmp_path, options, told):
        (tmp_path / "in").mkdir()
        write_volume(small_scan(), tmp_path / "in" / "scan.nrrd")
        enhance_all(tmp_path / "in", tmp_path / "out", "auto", *options)
        (row,) = table(tmp_path / "out").values()
        assert row["status"] == "refused"
        assert told in row["message"]


class TestOutputs:
    def test_mirror_the_folders(self, places):
        names = {path.relative_to(places[1]).as_posix() for path in places[1].rglob("*") if path.is_file()}
        stems = ("a/scan.nrrd.enhanced", "series.enhanced")
        assert names == {f"{stem}.{end}" for stem in stems for end in ("nrrd", "json", "png")} | {
            "summary.csv",
            "summary.html",
        }

    def test_are_those_of_enhance(self, places, tiny_model, tmp_path):
        options = ["--factor", "2", "--model", str(tiny_model), "--device", "cpu", "--progress", "none"]
        assert main(["enhance", str(places[0] / "a" / "scan.nrrd"), str(tmp_path / "out.nrrd"), *options]) == 0
        alone = (tmp_path / "out.nrrd").read_bytes()
        assert (places[1] / "a" / "scan.nrrd.enhanced.nrrd").read_bytes() == alone

    def test_keep_the_observed_slices_of_a_series(self, places):
        enhanced = read_volume(places[1] / "series.enhanced.nrrd")
        np.testing.assert_array_equal(enhanced.voxels[::2], read_volume(places[0] / "series").voxels)

    def test_leave_nothing_hidden(self, places):
        assert hidden(places[1]) == []

    def test_have_a_thumbnail_with_both(self, places):
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(places[1] / "series.enhanced.png")))
        before, after = pixels[:, : pixels.shape[1] // 2 - 2], pixels[:, pixels.shape[1] // 2 + 2 :]
        assert before.shape == after.shape
        assert before.std() > 0
        assert (before != after).any()

    def test_have_a_record_with_their_checksum(self, places):
        study = BatchItem("series", places[0] / "series", places[1] / "series.enhanced")
        record = read_record(study)
        assert record["output"]["sha256"] == fingerprint_of_file(study.file("nrrd"))
        assert record["input_sha256"] == fingerprint_of_scan(study.source)
        assert record["report"]["factor"] == 2


class TestDicomOutputs:
    def test_are_a_series_of_the_same_study(self, dicom_places):
        enhanced = read_volume(dicom_places[1] / "series.enhanced.dicom")
        np.testing.assert_array_equal(enhanced.voxels[::2], read_volume(dicom_places[0] / "series").voxels)
        assert len(list((dicom_places[1] / "series.enhanced.dicom").glob("XV*.dcm"))) == 15

    def test_are_refused_to_what_is_no_series(self, dicom_places):
        row = table(dicom_places[1])["scan.nrrd"]
        assert row["status"] == "refused"
        assert row["message"].startswith("scan.nrrd is no DICOM series, so there is no study to add slices to")

    def test_are_known_again_and_done_again_where_a_slice_is_missing(self, dicom_places, tiny_model):
        output = dicom_places[1] / "series.enhanced.dicom"
        study = BatchItem("series", dicom_places[0] / "series", dicom_places[1] / "series.enhanced")
        record = read_record(study)
        what = {key: record[key] for key in ("input_sha256", "settings")}
        assert is_done(study, record, what)
        whole = (output / "XV00002.dcm").read_bytes()
        (output / "XV00002.dcm").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert not is_done(study, record, what)
        (output / "XV00002.dcm").unlink()
        assert not is_done(study, record, what)
        assert enhance_all(*dicom_places, tiny_model, "--format", "dicom", "--resume") == 0
        assert len(list(output.glob("XV*.dcm"))) == 15
        assert hidden(dicom_places[1]) == []


class TestSummary:
    def test_names_every_scan(self, places):
        rows = table(places[1])
        assert {name for name, row in rows.items() if row["status"] == "enhanced"} == {"a/scan.nrrd", "series"}
        refused = {name for name, row in rows.items() if row["status"] == "refused"}
        assert refused == {ODD_NAME, "few.nrrd", "labels.nrrd", "flat.mha"}

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            (ODD_NAME, "is damaged or incomplete"),
            ("few.nrrd", "has 3 slices along K, too few"),
            ("labels.nrrd", "segmentation"),
            ("flat.mha", "has the value 0 everywhere"),
        ],
    )
    def test_says_why_one_does_not_qualify(self, places, name, reason):
        assert reason in table(places[1])[name]["message"]

    def test_reports_the_gains(self, places):
        row = table(places[1])["series"]
        assert row["slices"] == "15"
        assert (float(row["spacing_before_mm"]), float(row["spacing_after_mm"])) == (4, 2)
        gains = [float(row[f"gain_over_{rival}_db"]) for rival in ("linear", "cubic", "better")]
        assert gains[2] == min(gains[:2])
        assert float(row["seconds"]) > 0

    def test_says_where_a_scan_is_too_short_to_leave_slices_out(self, places):
        row = table(places[1])["a/scan.nrrd"]
        assert row["gain_over_better_db"] == ""
        assert "Self-check: The scan has 6 slices" in row["message"]

    def test_nothing_names_a_folder_of_this_computer(self, places):
        for path in places[1].rglob("*"):
            if path.suffix in (".csv", ".html", ".json"):
                assert "secret-place" not in path.read_text(encoding="utf-8"), path

    def test_the_page_escapes_names_and_shows_pictures_that_are_there(self, places):
        page = (places[1] / "summary.html").read_text(encoding="utf-8")
        found = Page(page)
        assert "b" not in found.tags
        assert ODD_NAME in found.text
        assert {(places[1] / picture).exists() for picture in found.pictures} == {True}
        assert len(found.pictures) == 2

    @pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
    def test_survives_a_name_that_is_no_text(self, tmp_path):
        target = tmp_path / "out"
        target.mkdir()
        name = os.fsdecode(b"bad\xff.nrrd")
        write_summary(target, tmp_path, [Row(name, "enhanced", thumbnail=f"{name}.png")], 1)
        page = (target / "summary.html").read_text(encoding="utf-8")
        assert "bad%FF.nrrd.png" in page
        assert r"bad\xff.nrrd" in Page(page).text
        assert list(table(target)) == [r"bad\xff.nrrd"]

    def test_is_no_formula_and_no_markup_whatever_scans_are_called(self, tmp_path):
        target = tmp_path / "out"
        target.mkdir()
        odd = [
            "=cmd|' /C calc'!A0",
            "+1",
            "-1",
            "@x",
            "\tx",
            "\rx",
            "<script>alert(1)</script>",
            "\x1b[2J",
            "\u202egpj",
        ]
        rows = [Row(name, "failed", gain_over_cubic_db=-1.5, message=name) for name in odd]
        write_summary(target, tmp_path, rows, len(rows))
        for row in table(target).values():
            assert not row["scan"].startswith(("=", "+", "-", "@", "\t", "\r"))
            assert not row["message"].startswith(("=", "+", "-", "@", "\t", "\r"))
            assert float(row["gain_over_cubic_db"]) == -1.5
        page = (target / "summary.html").read_text(encoding="utf-8")
        assert "script" not in Page(page).tags
        for text in (page, (target / "summary.csv").read_text(encoding="utf-8")):
            assert all(line.isprintable() for line in text.splitlines())

    def test_counts_what_was_not_reached(self):
        assert counts([Row("a", "failed")], 3) == "1 failed, 2 not reached, of 3 scans."


class Page(HTMLParser):
    """What a page shows."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.pictures, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])

    def handle_data(self, data):
        self.text += data


class TestResume:
    def test_does_nothing_twice(self, copies, tiny_model, capsys):
        before = {path: path.stat().st_mtime_ns for path in copies[1].rglob("*.enhanced.*")}
        assert enhance_all(*copies, tiny_model, "--selfcheck", "--resume") == 0
        assert {path: path.stat().st_mtime_ns for path in copies[1].rglob("*.enhanced.*")} == before
        assert "2 enhanced before, of 2 scans." in capsys.readouterr().out
        assert table(copies[1])["series"]["slices"] == "15"

    def test_without_it_nothing_that_exists_is_touched(self, copies, tiny_model, capsys):
        assert enhance_all(*copies, tiny_model) == 2
        assert "exists already: add --resume" in capsys.readouterr().err
        assert hidden(copies[1]) == []

    def test_does_again_what_has_changed(self, copies, tiny_model):
        source, target = copies
        write_volume(small_scan(7), source / "a" / "scan.nrrd", overwrite=True)
        kept = (target / "series.enhanced.nrrd").stat().st_mtime_ns
        assert enhance_all(*copies, tiny_model, "--selfcheck", "--resume") == 0
        enhanced = read_volume(target / "a" / "scan.nrrd.enhanced.nrrd")
        np.testing.assert_array_equal(enhanced.voxels[::2], small_scan(7).voxels)
        assert (target / "series.enhanced.nrrd").stat().st_mtime_ns == kept
        assert {name: row["status"] for name, row in table(target).items()} == {
            "a/scan.nrrd": "enhanced",
            "series": "enhanced before",
        }

    def test_does_again_what_was_damaged_since(self, copies, tiny_model):
        volume = copies[1] / "series.enhanced.nrrd"
        whole = volume.read_bytes()
        volume.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        kept = (copies[1] / "a" / "scan.nrrd.enhanced.nrrd").stat().st_mtime_ns
        assert enhance_all(*copies, tiny_model, "--selfcheck", "--resume") == 0
        assert volume.read_bytes() == whole
        assert (copies[1] / "a" / "scan.nrrd.enhanced.nrrd").stat().st_mtime_ns == kept

    def test_touches_nothing_that_a_forged_record_names(self, copies, tiny_model):
        other = copies[1].parent / "precious.nrrd"
        other.write_bytes(b"precious")
        study = BatchItem("series", copies[0] / "series", copies[1] / "series.enhanced")
        record = json.loads(study.record.read_text())
        size, checksum = other.stat().st_size, fingerprint_of_file(other)
        record["output"] = {"file": "../precious.nrrd", "bytes": size, "sha256": checksum}
        study.record.write_text(json.dumps(record))
        assert enhance_all(*copies, tiny_model, "--selfcheck", "--resume") == 4
        assert other.read_bytes() == b"precious"
        assert "move it away" in table(copies[1])["series"]["message"]

    @pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
    def test_clears_what_lies_in_place_of_its_own_folder(self, copies, tiny_model, kind):
        elsewhere = copies[1].parent / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "kept").touch()
        left = copies[1] / ".xviewsynth-batch"
        try:
            left.touch() if kind == "file" else left.symlink_to(elsewhere if kind == "link" else "nowhere")
        except OSError:
            pytest.skip("this user may not make links")
        assert enhance_all(*copies, tiny_model, "--selfcheck", "--resume") == 0
        assert hidden(copies[1]) == []
        assert [path.name for path in elsewhere.iterdir()] == ["kept"]

    def test_clears_what_a_killed_batch_has_left(self, copies, tiny_model):
        left = copies[1] / ".xviewsynth-batch" / ".xviewsynth-x"
        left.mkdir(parents=True)
        (left / "half.nrrd").write_text("half")
        assert enhance_all(*copies, tiny_model, "--selfcheck", "--resume") == 0
        assert hidden(copies[1]) == []

    def test_never_replaces_a_file_that_is_not_its_own(self, copies, tiny_model, capsys):
        (copies[1] / "series.enhanced.json").unlink()
        kept = (copies[1] / "series.enhanced.nrrd").read_bytes()
        assert enhance_all(*copies, tiny_model, "--selfcheck", "--resume") == 4
        assert (copies[1] / "series.enhanced.nrrd").read_bytes() == kept
        assert "series.enhanced.nrrd exists already and is not of a batch" in capsys.readouterr().out


class TestIsDone:
    @pytest.fixture
    def study(self, copies) -> BatchItem:
        return BatchItem("series", copies[0] / "series", copies[1] / "series.enhanced")

    @pytest.fixture
    def what(self, study) -> dict:
        record = read_record(study)
        return {key: record[key] for key in ("input_sha256", "settings")}

    def test_with_the_same_scan_and_settings(self, study, what):
        assert is_done(study, read_record(study), what)

    @pytest.mark.parametrize(
        "name", ["factor", "model", "axis", "quality", "texture", "selfcheck", "format", "program"]
    )
    def test_not_with_another_setting(self, study, what, name):
        assert not is_done(study, read_record(study), {**what, "settings": {**what["settings"], name: "other"}})

    def test_not_with_another_scan(self, study, what):
        assert not is_done(study, read_record(study), {**what, "input_sha256": "0" * 64})

    def test_not_without_the_volume(self, study, what):
        study.file("nrrd").unlink()
        assert not is_done(study, read_record(study), what)

    def test_not_with_half_of_the_volume(self, study, what):
        study.file("nrrd").write_bytes(study.file("nrrd").read_bytes()[:-1])
        assert not is_done(study, read_record(study), what)

    def test_not_with_another_byte(self, study, what):
        content = bytearray(study.file("nrrd").read_bytes())
        content[-100] ^= 1
        study.file("nrrd").write_bytes(content)
        assert not is_done(study, read_record(study), what)

    def test_not_with_something_else_in_place_of_the_volume(self, study, what):
        study.file("nrrd").unlink()
        study.file("nrrd").mkdir()
        assert not is_done(study, read_record(study), what)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
    def test_not_with_a_pipe_in_place_of_the_volume(self, study, what):
        study.file("nrrd").unlink()
        os.mkfifo(study.file("nrrd"))
        record = read_record(study)
        record["output"]["bytes"] = 0
        assert not is_done(study, record, what)

    def test_can_be_stopped(self, study, what):
        def stop() -> None:
            raise Cancelled

        with pytest.raises(Cancelled):
            is_done(study, read_record(study), what, stop)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"fingerprint": 1', "[" * 10_000, '{"fingerprint": NaN}'])
    def test_not_with_a_broken_record(self, study, what, content):
        study.record.write_text(content)
        assert not is_done(study, read_record(study), what)


class TestCrash:
    def test_stops_no_other(self, site, tmp_path, tiny_model):
        source, target = tmp_path / "in", tmp_path / "out"
        source.mkdir()
        write_volume(small_scan(), source / "crash.nrrd")
        broken = write_broken(source)
        assert enhance_all(source, target, tiny_model) == 4
        rows = table(target)
        assert rows["crash.nrrd"]["status"] == "failed"
        assert "ended by SIGKILL, perhaps for lack of memory" in rows["crash.nrrd"]["message"]
        assert {name for name, row in rows.items() if row["status"] == "refused"} == broken
        assert hidden(target) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids such names")
class TestOddNames:
    def test_get_outputs_that_every_program_can_open(self, tmp_path, tiny_model, capsys):
        source, target = tmp_path / "in", tmp_path / "out"
        folder = source / os.fsdecode(b"Sch\xe4del" if sys.platform == "linux" else b"Schadel")
        folder.mkdir(parents=True)
        write_volume(small_scan(), folder / "\x1b[2J\n.nrrd")
        (source / f"{'x' * 250}.nii").write_bytes(b"nothing")
        assert enhance_all(source, target, tiny_model) == 0
        printed = capsys.readouterr().out
        assert printed.replace("\n", "").isprintable()
        assert r"del/\x1b[2J\n.nrrd: enhanced" in printed
        (place,) = (path for path in target.iterdir() if path.is_dir())
        assert place.name in ("Sch%E4del", "Schadel")
        names = {f"%1B[2J%0A.nrrd.enhanced.{ending}" for ending in ("nrrd", "png", "json")}
        assert {path.name for path in place.iterdir()} == names
        enhanced = read_volume(place / "%1B[2J%0A.nrrd.enhanced.nrrd")
        np.testing.assert_array_equal(enhanced.voxels[::2], small_scan().voxels)
        assert (place / "%1B[2J%0A.nrrd.enhanced.json").read_bytes().isascii()
        assert enhance_all(source, target, tiny_model, "--resume") == 0
        assert "1 enhanced before, 1 refused, of 2 scans" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals between processes")
class TestOutputFolder:
    """What befalls it costs a sentence, and no input."""

    @pytest.fixture
    def source(self, tmp_path) -> Path:
        (tmp_path / "in").mkdir()
        write_volume(small_scan(), tmp_path / "in" / "scan.nrrd")
        return tmp_path / "in"

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
    @pytest.mark.parametrize("target", ["/proc", "/proc/out"])
    def test_that_cannot_be_written_to(self, source, tiny_model, capsys, target):
        assert enhance_all(source, Path(target), tiny_model) == 2
        assert f"{target} cannot be used" in capsys.readouterr().err

    def test_that_goes_meanwhile(self, source, tmp_path, tiny_model, monkeypatch, capsys):
        target = self.with_site(tmp_path, monkeypatch, "import shutil; shutil.rmtree(file.parents[2])")
        assert enhance_all(source, target, tiny_model) == 2
        assert "Cannot write" in capsys.readouterr().err
        assert os.listdir(source) == ["scan.nrrd"]

    @pytest.mark.parametrize("size", [100, 3000])
    def test_that_is_full(self, source, tmp_path, tiny_model, monkeypatch, size):
        # No file can be larger, so that the volume or the result fails as on a full disk.
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
        target = self.with_site(tmp_path, monkeypatch, limit)
        assert enhance_all(source, target, tiny_model) == 4
        (row,) = table(target).values()
        assert "the disk may be full" in row["message"] or "make room" in row["message"]
        assert sorted(os.listdir(target)) == ["summary.csv", "summary.html"]

    def test_whose_table_is_held_for_a_while(self, source, tmp_path, tiny_model, monkeypatch):
        # In place of the table lies a folder, until the first scan is done.
        (tmp_path / "out" / "summary.csv").mkdir(parents=True)
        target = self.with_site(tmp_path, monkeypatch, "(file.parents[2] / 'summary.csv').rmdir()")
        write_volume(small_scan(1), source / "other.nrrd")
        assert enhance_all(source, target, tiny_model, "--resume") == 0
        assert len(table(target)) == 2

    @staticmethod
    def with_site(tmp_path: Path, monkeypatch, code: str) -> Path:
        """An output folder whose processes run code first; the task is `file`."""
        (tmp_path / "site").mkdir()
        find = """
import sys
from pathlib import Path
from contextlib import suppress
if "XViewSynthLib.cli.worker" in sys.orig_argv:
    file = Path(next(word for word in sys.orig_argv if word.endswith("task.json")))
    with suppress(OSError):
"""
        (tmp_path / "site" / "sitecustomize.py").write_text(f"{find}        {code}\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
        return tmp_path / "out"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals between processes")
class TestStop:
    @pytest.fixture
    def folders(self, site, tmp_path) -> tuple[Path, Path]:
        source = tmp_path / "in"
        source.mkdir()
        write_volume(small_scan(), source / "slow 1.nrrd")
        write_volume(small_scan(), source / "slow 2.nrrd")
        return source, tmp_path / "out"

    @pytest.fixture
    def process(self, folders, site, tiny_model):
        """A batch whose two processes are at work."""
        words = ["batch", *map(str, folders), "--model", str(tiny_model), "--device", "cpu", "--jobs", "2"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([LIBRARY, str(site)])}
        command = [sys.executable, "-m", "XViewSynthLib", *words, "--progress", "none"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            wait_until(lambda: len(waiting(folders[1])) == 2, 60)
            yield process
            process.kill()

    def test_ends_in_time_and_leaves_nothing(self, process, folders):
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 3
        assert time.monotonic() - began < LIMIT_SECONDS
        assert not any(worker.is_running() for worker in workers)
        assert sorted(os.listdir(folders[1])) == ["summary.csv", "summary.html"]
        assert b"Cancelled. What was finished is kept: add --resume" in process.stderr.read()

    def test_a_kill_leaves_no_process_and_the_next_batch_clears_up(self, process, folders, tiny_model):
        workers = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        source, target = folders
        for file in source.iterdir():
            file.rename(source / f"crash {file.name}")
        # Waits for those that the killed one has left, which hold its folder.
        assert enhance_all(source, target, tiny_model, "--resume") == 4
        assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
        assert sorted(os.listdir(target)) == ["summary.csv", "summary.html"]

    def test_two_batches_do_not_share_an_output_folder(self, process, folders, tiny_model, monkeypatch, capsys):
        monkeypatch.setattr(batch, "_LOCK_SECONDS", 0.1)
        assert enhance_all(*folders, tiny_model, "--resume") == 2
        assert "Another batch works in" in capsys.readouterr().err
        assert len(waiting(folders[1])) == 2


class TestFindStudies:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        """A folder with files that look like scans by their names."""
        for name in ("chest.nrrd", "chest.mha", "b/chest.nrrd", "b/out/old.nrrd"):
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).touch()
        return tmp_path / "in"

    def test_each_has_a_place_of_its_own(self, folder, tmp_path):
        studies = find_items(folder, tmp_path / "out")
        places = [study.place.relative_to(tmp_path / "out").as_posix() for study in studies]
        assert places == [
            "b/chest.nrrd.enhanced",
            "b/out/old.nrrd.enhanced",
            "chest.mha.enhanced",
            "chest.nrrd.enhanced",
        ]

    def test_outputs_are_not_scans(self, folder):
        names = [study.name for study in find_items(folder, folder / "b" / "out")]
        assert names == ["b/chest.nrrd", "chest.mha", "chest.nrrd"]

    def test_scans_below_the_output_folder_are(self, folder):
        assert len(find_items(folder / "b", folder)) == 2

    def test_a_folder_named_like_an_output_is_evaded(self, folder, tmp_path):
        (folder / "chest.mha.enhanced.NRRD").mkdir()
        (folder / "chest.mha.enhanced.NRRD" / "chest.nrrd").touch()
        places = {study.name: study.place.name for study in find_items(folder, tmp_path / "out")}
        assert places["chest.mha"] == "chest.mha.enhanced~2"

    @pytest.mark.parametrize(("first", "second"), [("Ab.nrrd", "aB.nrrd"), ("\u00e9.nrrd", "e\u0301.nrrd")])
    def test_names_that_some_system_takes_for_one_get_two_places(self, tmp_path, first, second):
        (tmp_path / first).touch()
        (tmp_path / second).touch()
        if len(os.listdir(tmp_path)) == 1:
            pytest.skip("this system takes them for one")
        places = {study.place.name for study in find_items(tmp_path, tmp_path / "out")}
        assert len({place.removesuffix("~2") for place in places}) == 2
        assert sum(place.endswith("~2") for place in places) == 1

    def test_links_to_the_outputs_are_not_followed(self, folder):
        try:
            (folder / "again").symlink_to("b/out", target_is_directory=True)
        except OSError:
            pytest.skip("this user may not make links")
        names = [study.name for study in find_items(folder, folder / "b" / "out", follow_links=True)]
        assert names == ["b/chest.nrrd", "chest.mha", "chest.nrrd"]

    def test_links_out_of_the_folder_are_reported(self, folder, tmp_path):
        (tmp_path / "far.nrrd").touch()
        try:
            (folder / "far.nrrd").symlink_to(tmp_path / "far.nrrd")
        except OSError:
            pytest.skip("this user may not make links")
        said = []
        assert len(find_items(folder, tmp_path / "out", say=said.append)) == 4
        assert said[0].startswith("Links out of ")
        assert len(find_items(folder, tmp_path / "out", follow_links=True)) == 5

    def test_the_folder_itself_can_be_a_series(self, tmp_path):
        write_dicom_series(tmp_path / "in", small_scan())
        (study,) = find_items(tmp_path / "in", tmp_path / "out")
        assert (study.name, study.place) == (".", tmp_path / "out" / "enhanced")

    def test_outputs_among_the_scans_are_refused(self, folder):
        with pytest.raises(InputError, match="choose another folder"):
            find_items(folder, folder)

    def test_nothing_found(self, tmp_path):
        with pytest.raises(InputError, match="holds no scan"):
            find_items(tmp_path, tmp_path / "out")

    def test_no_folder(self, tmp_path):
        with pytest.raises(InputError, match="is no folder"):
            find_items(tmp_path / "none", tmp_path / "out")


# Headers of two slices of two by two voxels in 16 bits, without the last field, which names their data files.
TWO_SLICES = {
    "scan.mhd": "NDims = 3\nDimSize = 2 2 2\nElementSpacing = 1 1 5\nElementType = MET_SHORT\n",
    "scan.nhdr": "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nspace: left-posterior-superior\n"
    "space directions: (1,0,0) (0,1,0) (0,0,5)\nendian: little\nencoding: raw\n",
}


class TestFingerprint:
    def test_changes_with_any_byte_and_not_with_the_name(self, tmp_path):
        (tmp_path / "a.nii").write_bytes(b"voxels")
        (tmp_path / "b.nii").write_bytes(b"voxels")
        (tmp_path / "c.nii").write_bytes(b"voxelz")
        first, second, third = (fingerprint_of_scan(tmp_path / name) for name in ("a.nii", "b.nii", "c.nii"))
        assert first == second != third

    @pytest.mark.parametrize("changed", [0, 5])
    def test_covers_every_file_of_a_series(self, tmp_path, changed):
        files = write_dicom_series(tmp_path, small_scan())
        before = fingerprint_of_scan(tmp_path)
        files[changed].write_bytes(files[changed].read_bytes()[:-1] + b"\7")
        assert fingerprint_of_scan(tmp_path) != before

    def test_other_files_beside_a_series_do_not_count(self, tmp_path):
        write_dicom_series(tmp_path, small_scan())
        before = fingerprint_of_scan(tmp_path)
        (tmp_path / "notes.txt").write_text("notes")
        assert fingerprint_of_scan(tmp_path) == before

    @pytest.mark.parametrize(
        ("name", "field"),
        [
            ("scan.mhd", "ElementDataFile = 1.raw\n"),
            ("scan.mhd", "ElementDataFile = ./1.raw\n"),
            ("scan.mhd", "ElementDataFile = %01d.raw 1 2\n"),
            ("scan.nhdr", "data file: 1.raw\n"),
            ("scan.nhdr", "data file: %d.raw 1 2 1\n"),
            ("scan.nhdr", "data file: LIST\n1.raw\n2.raw\n"),
        ],
    )
    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_covers_the_voxels_that_a_header_points_to(self, tmp_path, name, field, newline):
        (tmp_path / name).write_text(TWO_SLICES[name] + field, newline=newline)
        expected = ["1.raw", "2.raw"] if "LIST" in field or "%" in field else ["1.raw"]
        for raw in expected:
            (tmp_path / raw).write_bytes(bytes(16 // len(expected)))
        assert [file.name for file in files_of_scan(tmp_path / name)] == [name, *expected]

    @pytest.mark.parametrize("field", ["LOCAL", "gone.raw", "1.raw"])
    def test_a_header_that_is_not_valid_stands_alone(self, tmp_path, field):
        (tmp_path / "1.raw").write_bytes(b"too short")
        (tmp_path / "scan.mhd").write_text(TWO_SLICES["scan.mhd"] + f"ElementDataFile = {field}\n")
        assert files_of_scan(tmp_path / "scan.mhd") == [tmp_path / "scan.mhd"]

    @pytest.mark.parametrize("header", ["ElementDataFile = LOCAL\n", "ElementDataFile = gone.raw\n", "NDims = 3\n"])
    def test_a_header_alone(self, tmp_path, header):
        (tmp_path / "scan.mhd").write_text(header)
        assert files_of_scan(tmp_path / "scan.mhd") == [tmp_path / "scan.mhd"]

    @pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd"])
    def test_a_file_that_holds_its_voxels_points_nowhere(self, tmp_path, name):
        (tmp_path / "1.raw").write_bytes(b"voxels")
        (tmp_path / name).write_text("NRRD0004\nElementDataFile = 1.raw\ndata file: 1.raw\n")
        assert files_of_scan(tmp_path / name) == [tmp_path / name]

    @pytest.mark.parametrize("name", ["scan.mhd", "scan.nhdr"])
    @pytest.mark.parametrize(
        "named",
        [
            "../secret",
            "{place}/secret",
            "below/../../secret",
            "LIST\n../secret\n{place}/secret",
            "..",
            ".",
            "/dev/zero",
            "C:\\secret",
            "link",
            "../%06x 1 1",
            "x" * 5000,
            "\0",
            "a" + " " * 200_000 + "b",
            "%d.raw 0 99999999999999999999999999999",
        ],
    )
    def test_nothing_out_of_its_folder_is_part_of_a_scan(self, tmp_path, name, named):
        (tmp_path / "secret").write_bytes(bytes(16))
        (tmp_path / "in" / "below").mkdir(parents=True)
        if os.name == "posix":
            (tmp_path / "in" / "link").symlink_to("../secret")
        field = "ElementDataFile = " if name == "scan.mhd" else "data file: "
        header = tmp_path / "in" / name
        header.write_text(TWO_SLICES[name] + field + named.format(place=tmp_path) + "\n")
        assert files_of_scan(header) == [header]

    def test_can_be_stopped(self, tmp_path):
        (tmp_path / "a.nii").write_bytes(b"voxels")

        def stop() -> None:
            raise Cancelled

        with pytest.raises(Cancelled):
            fingerprint_of_scan(tmp_path / "a.nii", stop)

    def test_of_settings_heeds_every_value(self):
        assert fingerprint_of({"factor": 2, "axis": "K"}) != fingerprint_of({"factor": 3, "axis": "K"})


class TestWrongArguments:
    """All of them are found before anything is made."""

    @pytest.fixture
    def source(self, tmp_path) -> Path:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "scan.nrrd").touch()
        return tmp_path / "in"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--jobs", "0"], "a whole number from 1, not '0'"),
            (["--format", "mhd"], "invalid choice: 'mhd'"),
            (["--model", "none"], "There is no model 'none'"),
        ],
    )
    def test_end_with_2(self, source, tmp_path, capsys, options, message):
        assert main(["batch", str(source), str(tmp_path / "out"), *options]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_a_factor_that_the_model_does_not_know(self, source, tmp_path, capsys):
        limited = save_model(tmp_path / "limited", make_network(), make_card(factors=[4])).folder
        assert enhance_all(source, tmp_path / "out", limited) == 2
        assert "was trained for factors 4" in capsys.readouterr().err

    def test_a_file_where_the_output_folder_should_be(self, source, tmp_path, tiny_model, capsys):
        (tmp_path / "out").touch()
        assert enhance_all(source, tmp_path / "out", tiny_model) == 2
        assert "cannot be used" in capsys.readouterr().err


class TestShares:
    def test_memory_is_divided_among_processes(self):
        assert batch._share(8, 2) == 4

    def test_one_process_has_no_limit(self):
        assert batch._share(None, 1) is None

    def test_several_never_take_more_than_there_is(self):
        assert 0 < batch._share(None, 4) * 4 < psutil.virtual_memory().total

    def test_every_gpu_gets_scans(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
        assert batch._devices("auto") == ["cuda:0", "cuda:1"]
        assert batch._devices("cuda:1") == ["cuda:1"]


class TestBenchmark:
    def test_every_good_scan_is_done_and_every_broken_one_named(self, tmp_path, tiny_model):
        write_volume(small_scan(), tmp_path / "a.nrrd")
        write_dicom_series(tmp_path / "series", small_scan(1))
        command = [sys.executable, str(BENCHMARKS / "batch_all.py"), str(tmp_path), "--model", str(tiny_model)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert finished.stdout.count("refused") == 12
        assert "2 scans, 12 broken inputs, exit code 0" in finished.stdout
