"""Finding scans below a folder: which are found, what is told of them, and why one is refused."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from scans import affine_from, anatomy, shearing, write_dicom, write_dicom_series
from XViewSynthLib import InputError, Volume, read_volume, write_volume
from XViewSynthLib.cli.main import main
from XViewSynthLib.errors import Cancelled
from XViewSynthLib.io.finding import FoundScan, check_own_files, find_scans, scan_paths
from XViewSynthLib.io.reading import read_header
from XViewSynthLib.io.sample import first_voxels

STEP = "d"
ODD_NAMES = (
    "\x1b[31mred.nrrd",
    "new\nline.nrrd",
    "\u202egpj.nrrd",
    "--help.nrrd",
    "=1+1.nrrd",
    "<script>.nrrd",
    "'\"`$%\\|;*?.nrrd",
    os.fsdecode(b"Kn\xf6chel.nrrd"),
)


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


def link(path: Path, target: str) -> None:
    """A symbolic link, where this user may make one."""
    try:
        path.symlink_to(target, target_is_directory=(path.parent / target).is_dir())
    except OSError as error:  # Windows
        pytest.skip(f"links cannot be made ({error})")


def remove_deep(folder: Path) -> None:
    """Remove a tree that is too deep for `shutil.rmtree`."""
    handles = [os.open(folder, os.O_RDONLY)]
    below = folder.parent / "below"
    # The lower half moves up, until nothing is left below.
    while os.listdir(handles[0]):
        os.rename(STEP, below, src_dir_fd=handles[0])
        os.close(handles.pop())
        os.rmdir(folder)
        below.rename(folder)
        handles.append(os.open(folder, os.O_RDONLY))
    os.close(handles.pop())


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

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
    @pytest.mark.parametrize("name", ["pipe", "pipe.nrrd"])
    def test_a_pipe_is_not_waited_for(self, tmp_path, name):
        os.mkfifo(tmp_path / name)
        assert names(tmp_path) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such sockets")
    def test_a_socket_is_no_scan(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("server.nrrd")
            assert names(tmp_path) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids such names")
    def test_any_name_that_a_file_can_have(self, tmp_path, small):
        write_volume(small, tmp_path / "scan.nrrd")
        content = (tmp_path / "scan.nrrd").read_bytes()
        (tmp_path / "scan.nrrd").unlink()
        for name in (*ODD_NAMES, "x" * 250 + ".nrrd"):
            with suppress(OSError):  # macOS takes UTF-8 only
                (tmp_path / name).write_bytes(content)
        found = list(find_scans(tmp_path))
        assert sorted(scan.path.name for scan in found) == sorted(os.listdir(tmp_path))
        assert all(scan.usable for scan in found)

    @pytest.mark.skipif(sys.platform == "win32", reason="needs folders that are opened by a handle")
    def test_a_tree_deeper_than_any_path_is_searched_as_far_as_paths_reach(self, tmp_path, small):
        write_volume(small, tmp_path / "scan.nrrd")
        (tmp_path / "deep").mkdir()
        handles = [os.open(tmp_path / "deep", os.O_RDONLY)]
        try:
            # Deeper than Python calls functions, and than paths are long.
            for _ in range(2100):
                os.mkdir(STEP, dir_fd=handles[-1])
                handles.append(os.open(STEP, os.O_RDONLY, dir_fd=handles[-1]))
                os.close(handles.pop(-2))
            *found, last = find_scans(tmp_path)
        finally:
            os.close(handles[0])
            remove_deep(tmp_path / "deep")
        assert [scan.path.name for scan in found] == ["scan.nrrd"]
        assert "too long" in last.problem

    def test_what_goes_during_the_search_is_passed_over(self, tmp_path, small):
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            write_volume(small, tmp_path / name / "scan.nrrd")
        paths = scan_paths(tmp_path)
        first, _ = next(paths)
        shutil.rmtree(tmp_path / "b")
        assert (first, list(paths)) == (tmp_path / "a" / "scan.nrrd", [])

    def test_any_script_in_the_name(self, tmp_path, small):
        write_volume(small, tmp_path / "Schädel 頭.nrrd")
        assert only(tmp_path).usable

    def test_a_folder_that_cannot_be_looked_into_is_reported(self, tmp_path, small, monkeypatch):
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


class TestLinks:
    """Those out of the folder are not followed; what those in it lead to counts once."""

    @pytest.fixture
    def study(self, tmp_path, small) -> Path:
        """A folder with one scan, beside others that it may link to."""
        for folder in ("study", "far"):
            (tmp_path / folder).mkdir()
            write_volume(small, tmp_path / folder / f"{folder}.nrrd")
        write_dicom_series(tmp_path / "far" / "series", small)
        return tmp_path / "study"

    @staticmethod
    def search(study: Path, **options) -> tuple[list[str], list[str]]:
        """The names of the scans, and what is said."""
        said = []
        return names(study, say=said.append, **options), said

    @pytest.mark.parametrize("target", ["../far", "../far/far.nrrd", "..", "/"])
    def test_out_of_the_folder(self, study, target):
        link(study / ("link.nrrd" if target.endswith("nrrd") else "link"), target)
        assert self.search(study) == (
            ["study.nrrd"],
            [
                f"Links out of {study} are not followed (1, such as {next(study.glob('link*'))}): copy their targets "
                "there, or add --follow-links."
            ],
        )

    def test_out_of_the_folder_on_request(self, study):
        link(study / "link", "../far")
        link(study / "same", "../far")
        link(study / "link.nrrd", "../far/far.nrrd")
        found, said = self.search(study, follow_links=True)
        assert (found, said) == (["study.nrrd", "link/far.nrrd", "link/series"], [])

    def test_is_said_once_for_all(self, study):
        for number in range(3):
            link(study / f"{number}", "../far")
        (said,) = self.search(study)[1]
        assert f"(3, such as {study / '0'})" in said

    def test_to_other_files_is_not_worth_a_word(self, study):
        (study.parent / "far" / "notes.txt").write_text("notes")
        link(study / "notes.txt", "../far/notes.txt")
        assert self.search(study) == (["study.nrrd"], [])

    def test_from_slice_to_slice_out_of_the_folder(self, study):
        (study / "series").mkdir()
        for file in (study.parent / "far" / "series").iterdir():
            link(study / "series" / file.name, f"../../far/series/{file.name}")
        found, said = self.search(study)
        assert found == ["study.nrrd"]
        assert "(8, such as" in said[0]
        assert self.search(study, follow_links=True)[0] == ["study.nrrd", "series"]

    def test_a_series_of_which_a_slice_is_elsewhere_is_left_out(self, study, small):
        write_dicom_series(study / "series", small, keep=range(7))
        link(study / "series" / "last", "../../far/series/IM0007.dcm")
        found, said = self.search(study)
        assert found == ["study.nrrd"]
        assert "such as " + str(study / "series" / "last") in said[0]

    def test_in_circles(self, study):
        (study / "below").mkdir()
        for name, target in (("self", "self"), ("up", ".."), ("here", "."), ("a", "b"), ("b", "a")):
            link(study / "below" / name, target)
        assert self.search(study) == (["study.nrrd"], [])

    def test_to_a_place_in_the_folder_counts_once_by_its_own_name(self, study, small):
        write_dicom_series(study / "z" / "series", small)
        link(study / "a", "z")
        link(study / "b.nrrd", "study.nrrd")
        (study / "c").mkdir()
        link(study / "c" / "slice", "../z/series/IM0000.dcm")
        assert self.search(study) == (["study.nrrd", "z/series"], [])

    def test_into_a_hidden_place_of_the_folder(self, study, small):
        # As programs do that keep files by their checksums.
        write_dicom_series(study / ".store" / "series", small)
        write_volume(small, study / ".store" / "1234.nrrd")
        (study / ".store" / "1234.nrrd").rename(study / ".store" / "1234")
        (study / "series").mkdir()
        for file in (study / ".store" / "series").iterdir():
            link(study / "series" / file.name, f"../.store/series/{file.name}")
        link(study / "kept.nrrd", ".store/1234")
        link(study / "again.nrrd", ".store/1234")
        assert sorted(self.search(study)[0]) == ["again.nrrd", "series", "study.nrrd"]

    def test_the_folder_may_be_a_link_itself(self, study):
        link(study.parent / "link", "study")
        assert self.search(study.parent / "link") == (["study.nrrd"], [])

    def test_what_a_header_names_elsewhere_is_not_read(self, study, small):
        write_volume(small, study.parent / "far" / "scan.mhd")
        (study / "scan.mhd").write_bytes((study.parent / "far" / "scan.mhd").read_bytes())
        link(study / "scan.raw", "../far/scan.raw")
        assert {scan.path.name: scan.usable for scan in find_scans(study)} == {"scan.mhd": False, "study.nrrd": True}

    def test_training_refuses_slices_that_are_links_elsewhere(self, study, capsys):
        (study / "series").mkdir()
        check_own_files(study / "series")
        link(study / "series" / "slice", "../../far/series/IM0000.dcm")
        with pytest.raises(InputError, match="slice is a link that leads out of its folder.*add --follow-links"):
            check_own_files(study / "series")


class TestBounds:
    """However large a file says that it is, looking at it takes little time and memory."""

    @pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha", ".mhd"])
    def test_only_the_first_voxels_of_a_labelmap_are_read(self, tmp_path, suffix):
        labels = np.zeros((60, 256, 256), np.uint8)
        labels[:, 50:150, 60:160] = 3
        write_volume(Volume(labels, affine_from()), tmp_path / f"labels{suffix}")
        voxels = first_voxels(tmp_path / f"labels{suffix}")
        assert np.array_equal(voxels.ravel(), labels.ravel()[: 1 << 20])
        assert "segmentation" in only(tmp_path).problem

    def test_blank_first_slices_are_accepted(self, tmp_path):
        values = np.zeros((40, 256, 256), np.uint8)
        values[-1] = np.arange(256)
        write_volume(Volume(values, affine_from()), tmp_path / "scan.nrrd")
        assert only(tmp_path).usable

    def test_one_value_everywhere_does(self, tmp_path):
        write_volume(Volume(np.zeros((8, 12, 10), np.uint8), affine_from()), tmp_path / "scan.nrrd")
        assert "has the value 0 everywhere" in only(tmp_path).problem

    def test_a_file_that_unpacks_to_gigabytes(self, tmp_path):
        with open(tmp_path / "bomb.nrrd", "wb") as file:
            file.write(
                b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 1024 1024 2000\nspace: LPS\nencoding: gzip\n"
                b"space directions: (1,0,0) (0,1,0) (0,0,4)\nspace origin: (0,0,0)\n\n"
            )
            file.write(gzip.compress(bytes(1 << 27)) * 16)
        tracemalloc.start()
        found = only(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.slices == 2000
        assert peak < 16e6

    def test_many_files(self, tmp_path):
        for number in range(3000):
            (tmp_path / f"{number}.txt").touch()
            (tmp_path / f"{number}.nii").touch()
        assert len(list(find_scans(tmp_path))) == 3000


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
        assert "holds 2 CT series, so give one file of the series to use" in problem()

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

        for module in ("finding", "dicom.series"):
            monkeypatch.setattr(f"XViewSynthLib.io.{module}.is_dicom", refuse)
        assert "Permission denied" in problem()


class TestProgress:
    @pytest.fixture
    def folder(self, tmp_path, small):
        for name in ("a.nrrd", "b.nrrd", "c.nrrd"):
            write_volume(small, tmp_path / name)
        return tmp_path

    def test_is_reported_after_every_scan(self, folder):
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

    def test_odd_names_are_shown_escaped_and_given_to_programs_as_they_are(self, folder, capsys):
        named_oddly = folder / "\x1b[2J\n\u202e.nrrd"
        try:
            (folder / "good.nrrd").rename(named_oddly)
        except OSError:
            pytest.skip("no file can have such a name here")
        assert main(["scans", "study"]) == 0
        printed = capsys.readouterr().out
        assert r"\x1b[2J\n\u202e.nrrd: NRRD, 10 x" in printed
        assert printed.replace("\n", "").isprintable()
        assert main(["scans", "study", "--json"]) == 0
        lines = capsys.readouterr().out
        assert lines.isascii()
        assert json.loads(lines.splitlines()[0])["path"] == os.path.join("study", named_oddly.name)

    def test_links_out_of_the_folder(self, folder, capsys):
        (folder / "below").mkdir()
        (folder / "good.nrrd").rename(folder / "below" / "good.nrrd")
        (folder / "short.nrrd").unlink()
        link(folder / "below" / "up", "../..")
        assert main(["scans", os.path.join("study", "below"), "--json"]) == 0
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 1
        assert err.count("Links out of") == 1
        assert main(["scans", os.path.join("study", "below"), "--json", "--follow-links"]) == 0
        assert capsys.readouterr().err == ""

    def test_nothing_found(self, tmp_path, capsys):
        assert main(["scans", str(tmp_path)]) == 2
        assert "holds no scan" in capsys.readouterr().err

    def test_no_such_folder(self, tmp_path, capsys):
        assert main(["scans", str(tmp_path / "missing")]) == 2
        assert "choose a folder that holds scans" in capsys.readouterr().err
