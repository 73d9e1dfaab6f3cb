"""Finding scans below a folder: which are found, what is told of them, and why one is refused."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import SimpleITK as sitk

from scans import affine_from, anatomy, shearing, write_dicom, write_dicom_series
from XViewSynthLib import InputError, Volume, read_volume, write_volume
from XViewSynthLib.cli import main
from XViewSynthLib.errors import Cancelled
from XViewSynthLib.finding import FoundScan, find_scans
from XViewSynthLib.reading import read_header


@pytest.fixture(scope="module")
def small() -> Volume:
    """An 8-slice scan, 4 mm apart."""
    return Volume(anatomy((8, 12, 10)), affine_from(), slice_thickness=4.0)


def names(folder, **options) -> list[str]:
    return [scan.path.relative_to(folder).as_posix() for scan in find_scans(folder, **options)]


def only(folder) -> FoundScan:
    """The one scan that is found."""
    (found,) = find_scans(folder)
    return found


def closing(look, closed):
    """A function of `os` that looks into folders, but for one that it may not look into."""

    def look_or_refuse(path="."):
        if os.path.basename(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    return look_or_refuse


class TestHeader:
    """`read_header` tells what `read_volume` would."""

    @pytest.mark.parametrize("name", ["scan.nrrd", "scan.nii", "scan.nii.gz", "scan.mha", "scan.mhd"])
    def test_of_a_file(self, tmp_path, small, name):
        write_volume(small, tmp_path / name)
        header, scan = read_header(tmp_path / name), read_volume(tmp_path / name)
        assert (header.voxels.shape, header.voxels.dtype) == (scan.voxels.shape, scan.voxels.dtype)
        assert np.array_equal(header.affine, scan.affine)
        assert header.slice_thickness == scan.slice_thickness

    def test_of_a_dicom_series(self, tmp_path, small):
        write_dicom_series(tmp_path, small)
        header, scan = read_header(tmp_path), read_volume(tmp_path)
        assert header.voxels.shape == scan.voxels.shape
        assert np.array_equal(header.affine, scan.affine)

    def test_of_a_file_with_a_fourth_dimension_of_one(self, tmp_path):
        image = sitk.GetImageFromArray(anatomy((4, 5, 6)))
        image.SetSpacing((0.5, 0.75, 3))
        image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
        sitk.WriteImage(sitk.JoinSeries([image]), str(tmp_path / "scan.nrrd"))
        header = read_header(tmp_path / "scan.nrrd")
        assert header.spacing == pytest.approx((0.5, 0.75, 3))
        assert header.shape_ijk == (6, 5, 4)

    def test_holds_no_voxels_in_memory(self, tmp_path, small):
        write_volume(small, tmp_path / "scan.nrrd")
        assert read_header(tmp_path / "scan.nrrd").voxels.strides == (0, 0, 0)


class TestSearch:
    def test_every_kind_in_order_of_name(self, tmp_path, small):
        write_dicom_series(tmp_path / "b" / "series", small)
        (tmp_path / "a").mkdir()
        for name in ("z.nrrd", "a/c.mha", "a/b.nii.gz", "a/d.mhd"):
            write_volume(small, tmp_path / name)
        assert names(tmp_path) == ["z.nrrd", "a/b.nii.gz", "a/c.mha", "a/d.mhd", "b/series"]
        assert [scan.kind for scan in find_scans(tmp_path)] == ["NRRD", "NIfTI", "MetaImage", "MetaImage", "DICOM"]

    def test_the_folder_itself_may_be_a_series(self, tmp_path, small):
        write_dicom_series(tmp_path, small, names=[f"slice{n}" for n in range(8)])
        assert only(tmp_path).path == tmp_path

    def test_other_files_are_no_scans(self, tmp_path):
        (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
        (tmp_path / "empty").mkdir()
        assert names(tmp_path) == []

    def test_hidden_files_and_folders_are_passed_over(self, tmp_path, small):
        (tmp_path / ".trash").mkdir()
        for name in ("._scan.nrrd", ".trash/scan.nrrd", "scan.nrrd"):
            write_volume(small, tmp_path / name)
        assert names(tmp_path) == ["scan.nrrd"]

    def test_series_below_a_dicomdir_stand_for_themselves(self, tmp_path, small):
        write_dicom(tmp_path / "DICOMDIR", None, SOPInstanceUID="1.2.3.4.6")
        for number in (1, 2):
            write_dicom_series(tmp_path / f"SE{number}", small, series=f"1.2.{number}")
        assert names(tmp_path) == ["SE1", "SE2"]

    def test_links_are_followed_once(self, tmp_path, small):
        (tmp_path / "study").mkdir()
        write_volume(small, tmp_path / "far.nrrd")
        (tmp_path / "study" / "loop").symlink_to(tmp_path / "study")
        (tmp_path / "study" / "one.nrrd").symlink_to(tmp_path / "far.nrrd")
        (tmp_path / "study" / "same.nrrd").symlink_to(tmp_path / "far.nrrd")
        (tmp_path / "study" / "gone.nrrd").symlink_to(tmp_path / "nowhere.nrrd")
        assert names(tmp_path / "study") == ["one.nrrd"]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert names(tmp_path) == []

    def test_any_script_in_the_name(self, tmp_path, small):
        write_volume(small, tmp_path / "Schädel 頭.nrrd")
        assert only(tmp_path).usable

    def test_a_folder_that_cannot_be_looked_into_is_told(self, tmp_path, small, monkeypatch):
        (tmp_path / "closed").mkdir()
        write_volume(small, tmp_path / "scan.nrrd")
        for name in ("scandir", "listdir"):
            monkeypatch.setattr(os, name, closing(getattr(os, name), "closed"))
        assert names(tmp_path) == ["scan.nrrd", "closed"]
        assert "Permission denied" in list(find_scans(tmp_path))[1].problem

    def test_a_missing_folder_is_refused_at_once(self, tmp_path):
        with pytest.raises(InputError, match="choose a folder that holds scans"):
            find_scans(tmp_path / "missing")

    def test_a_file_is_no_folder(self, tmp_path, small):
        write_volume(small, tmp_path / "scan.nrrd")
        with pytest.raises(InputError, match="choose a folder that holds scans"):
            find_scans(tmp_path / "scan.nrrd")


class TestFacts:
    def test_slices_and_spacing(self, tmp_path, small):
        write_dicom_series(tmp_path, small)
        found = only(tmp_path)
        assert (found.slices, found.shape_ijk, found.slice_thickness_mm) == (8, (10, 12, 8), 4.0)
        assert found.slice_spacing_mm == pytest.approx(4.0)
        assert found.spacing_mm == pytest.approx((0.8, 0.8, 4.0))

    def test_slices_are_counted_along_the_axis_of_acquisition(self, tmp_path):
        write_volume(Volume(anatomy((20, 12, 10)), affine_from((4.0, 0.8, 0.8))), tmp_path / "sagittal.nrrd")
        assert only(tmp_path).slices == 10

    def test_a_refused_scan_keeps_its_facts(self, tmp_path):
        write_volume(Volume(anatomy((3, 12, 10)), affine_from()), tmp_path / "short.nrrd")
        assert (only(tmp_path).usable, only(tmp_path).slices) == (False, 3)

    def test_voxels_are_not_read(self, tmp_path, small):
        write_volume(small, tmp_path / "scan.nii.gz")
        whole = (tmp_path / "scan.nii.gz").read_bytes()
        (tmp_path / "scan.nii.gz").write_bytes(whole[: len(whole) // 2])
        assert only(tmp_path).slices == 8

    def test_plain_values_for_json(self, tmp_path, small):
        write_volume(small, tmp_path / "scan.nrrd")
        told = json.loads(json.dumps(only(tmp_path).to_dict()))
        assert told["path"] == str(tmp_path / "scan.nrrd")
        assert (told["slices"], told["problem"]) == (8, None)


class TestRefusals:
    """The sentence is the engine's own, which names the scan and says what to do."""

    @pytest.fixture
    def problem(self, tmp_path):
        return lambda: only(tmp_path).problem

    def test_few_slices(self, tmp_path, problem):
        write_volume(Volume(anatomy((3, 12, 10)), affine_from()), tmp_path / "scan.nrrd")
        assert "at least 4 are needed" in problem()

    def test_thin_slices_are_fine(self, tmp_path, problem):
        write_volume(Volume(anatomy((9, 12, 10)), affine_from((1, 1, 1))), tmp_path / "scan.nrrd")
        assert problem() is None

    def test_colours(self, tmp_path, problem):
        colours = sitk.GetImageFromArray(np.zeros((5, 6, 7, 3), np.uint8), isVector=True)
        sitk.WriteImage(colours, str(tmp_path / "scan.nrrd"))
        assert "colours or vectors" in problem()

    def test_four_dimensions(self, tmp_path, problem):
        image = sitk.GetImageFromArray(anatomy((4, 5, 6)))
        sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / "scan.nrrd"))
        assert "give one 3-D scan" in problem()

    def test_segmentation_of_slicer(self, tmp_path, problem):
        image = sitk.GetImageFromArray(np.zeros((5, 6, 7), np.int16))
        image.SetMetaData("Segment0_ID", "Lung")
        sitk.WriteImage(image, str(tmp_path / "scan.seg.nrrd"))
        assert "segmentation" in problem()

    def test_labelmap_of_eight_bits(self, tmp_path, problem):
        labels = (anatomy((8, 12, 10)) > 0).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "labels.nii.gz"))
        assert "segmentation" in problem()

    def test_gantry_tilt(self, tmp_path, problem):
        write_dicom_series(tmp_path, Volume(anatomy((8, 12, 10)), affine_from(directions=shearing(12))))
        assert "tilted gantry" in problem()

    def test_two_series_in_a_folder(self, tmp_path, small, problem):
        write_dicom_series(tmp_path, small)
        write_dicom_series(tmp_path, small, series="1.2.3", names=[f"other{n}" for n in range(8)])
        assert "holds 2 CT series, so give one file of the one that is meant" in problem()

    def test_missing_slice(self, tmp_path, small, problem):
        write_dicom_series(tmp_path, small, keep=[0, 1, 2, 4, 5, 6, 7])
        assert "1 slice is missing" in problem()

    def test_one_bad_scan_does_not_hide_the_next(self, tmp_path, small):
        (tmp_path / "broken.nrrd").write_bytes(b"NRRD0004\n")
        write_volume(small, tmp_path / "scan.nrrd")
        assert [scan.usable for scan in find_scans(tmp_path)] == [False, True]

    def test_a_file_that_cannot_be_opened_makes_its_folder_a_refused_series(self, tmp_path, monkeypatch, problem):
        (tmp_path / "IM1").write_bytes(b"")

        def refuse(_path):
            raise PermissionError(13, "Permission denied")

        for module in ("finding", "dicom"):
            monkeypatch.setattr(f"XViewSynthLib.{module}.is_dicom", refuse)
        assert "Permission denied" in problem()


class TestProgress:
    @pytest.fixture
    def folder(self, tmp_path, small):
        for name in ("a.nrrd", "b.nrrd", "c.nrrd"):
            write_volume(small, tmp_path / name)
        return tmp_path

    def test_is_told_after_every_scan(self, folder):
        told = []
        list(find_scans(folder, progress=told.append))
        assert [(step.stage, step.done, step.total) for step in told] == [
            ("searching", 0, 1),
            *(("searching", done, 3) for done in (1, 2, 3)),
        ]

    def test_scans_come_one_by_one(self, folder):
        found = find_scans(folder)
        next(found)
        (folder / "b.nrrd").unlink()
        assert [scan.usable for scan in found] == [False, True]

    def test_stops_between_scans(self, folder):
        told = []
        with pytest.raises(Cancelled):
            list(find_scans(folder, progress=told.append, should_cancel=lambda: len(told) > 1))
        assert told[-1].done == 1

    def test_stops_before_the_first_folder(self, folder):
        with pytest.raises(Cancelled):
            list(find_scans(folder, should_cancel=lambda: True))


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path, small, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "study").mkdir()
        write_volume(small, tmp_path / "study" / "good.nrrd")
        write_volume(Volume(anatomy((3, 12, 10)), affine_from()), tmp_path / "study" / "short.nrrd")
        return tmp_path / "study"

    def test_lists_scans_and_refusals(self, folder, capsys):
        assert main(["scans", "study"]) == 0
        good, short, problem, count = capsys.readouterr().out.splitlines()
        assert good == f"{os.path.join('study', 'good.nrrd')}: NRRD, 10 x 12 x 8 voxels, 8 slices 4 mm apart"
        assert short.startswith(os.path.join("study", "short.nrrd"))
        assert problem.startswith("    cannot be used: The scan has 3 slices")
        assert count == "1 of 2 can be used."

    def test_json_has_a_scan_a_line(self, folder, capsys):
        assert main(["scans", "study", "--json"]) == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [scan["slices"] for scan in told] == [8, 3]
        assert [scan["problem"] is None for scan in told] == [True, False]

    def test_nothing_found(self, tmp_path, capsys):
        assert main(["scans", str(tmp_path)]) == 2
        assert "holds no scan" in capsys.readouterr().err

    def test_no_such_folder(self, tmp_path, capsys):
        assert main(["scans", str(tmp_path / "missing")]) == 2
        assert "choose a folder that holds scans" in capsys.readouterr().err
