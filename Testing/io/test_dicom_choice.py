"""Which series is taken where a folder holds more than one CT series, and what is said of the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from scans import affine_from, anatomy, write_dicom, write_dicom_series
from XViewSynthLib import InputError, Volume, read_volume
from XViewSynthLib.cli.main import main
from XViewSynthLib.geometry.checks import check_enhanceable
from XViewSynthLib.io.finding import find_scans

SMALL = Volume(anatomy((8, 12, 10)), affine_from(), slice_thickness=4.0)
OTHER = Volume(anatomy((5, 12, 10), seed=1), affine_from((0.8, 0.8, 2.5)), slice_thickness=2.5)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "series"


def refused(path: Path) -> str:
    """The sentence with which a path is refused, the path itself replaced by THIS."""
    with pytest.raises(InputError) as caught:
        read_volume(path)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert sentence.isprintable()
    return sentence.replace(str(path), "THIS")


def change(paths: list[Path], **tags: object) -> list[Path]:
    """Set elements of files; None removes one."""
    for path in paths:
        image = pydicom.dcmread(path)
        for name, value in tags.items():
            if value is None:
                delattr(image, name)
            else:
                setattr(image, name, value)
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.save_as(path)
    return paths


def localizer(path: Path, **tags: object) -> None:
    """A sagittal scout, as it lies beside a series."""
    place = {"ImagePositionPatient": [0, -100, 300], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
    about = {"PixelSpacing": [1, 1], "RescaleIntercept": 0, "RescaleSlope": 1, "SOPInstanceUID": "1.9.9"}
    write_dicom(path, np.zeros((30, 20), np.int16), **{**place, **about, **tags})


class TestPassedOver:
    def other(self, path: Path, kind: str, modality: str, **tags: object) -> None:
        write_dicom(path, np.zeros((9, 9), np.uint16), SOPInstanceUID="1.2.9.9", Modality=modality, **tags)
        change([path], SOPClassUID=kind)

    @pytest.mark.parametrize(
        ("kind", "modality", "tags", "named"),
        [
            (RTDoseStorage, "RTDOSE", {"NumberOfFrames": 6}, "RT Dose"),
            (SegmentationStorage, "SEG", {"NumberOfFrames": 8}, "Segmentation"),
            (SecondaryCaptureImageStorage, "OT", {}, "Secondary Capture Image"),
            (SecondaryCaptureImageStorage, "CT", {}, "Secondary Capture Image"),
            (MRImageStorage, "MR", {}, "MR image"),
            (PositronEmissionTomographyImageStorage, "PT", {}, "PT image"),
            ("1.3.12.2.1107.5.9.1", "CT", {}, "object of an unknown kind"),
        ],
    )
    def test_images_of_no_ct(self, folder, kind, modality, tags, named):
        write_dicom_series(folder, SMALL)
        self.other(folder / "0", kind, modality, **tags)
        read = read_volume(folder)
        np.testing.assert_array_equal(read.voxels, SMALL.voxels)
        assert read.notes == (f"Passed over: 1 {named}.",)

    @pytest.mark.parametrize("kind", [RTStructureSetStorage, RTPlanStorage])
    def test_objects_without_pixels(self, folder, kind):
        write_dicom_series(folder, SMALL)
        write_dicom(folder / "0", None, SOPInstanceUID="1.2.9.9")
        change([folder / "0"], SOPClassUID=kind)
        assert read_volume(folder).notes == (f"Passed over: 1 {kind.name.removesuffix(' Storage')}.",)

    def test_all_of_them_are_counted(self, folder):
        write_dicom_series(folder, SMALL)
        for n in range(2):
            self.other(folder / f"dose{n}", RTDoseStorage, "RTDOSE")
            localizer(folder / f"scout{n}", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID=f"1.{n}")
        write_dicom(folder / "DICOMDIR", None, SOPInstanceUID="1.2.3.4.6")
        change([folder / "DICOMDIR"], SOPClassUID="1.2.840.10008.1.3.10")
        assert read_volume(folder).notes == ("Passed over: 2 RT Dose, 2 localizers.",)

    def test_a_series_of_localizers(self, folder):
        write_dicom_series(folder, SMALL)
        scouts = write_dicom_series(folder, OTHER, series="1.5", names=list("abcde"))
        change(scouts, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"])
        assert read_volume(folder).notes == ("Passed over: 5 localizers.",)

    @pytest.mark.parametrize("series", ["1.2.826.0.1.3680043.8.498.1", "1.5"], ids=["of the series", "of its own"])
    def test_a_single_image_in_another_plane_is_a_localizer(self, folder, series):
        write_dicom_series(folder, SMALL)
        localizer(folder / "0", SeriesInstanceUID=series)
        read = read_volume(folder)
        np.testing.assert_array_equal(read.voxels, SMALL.voxels)
        assert read.notes == ("Passed over: 1 localizer.",)

    def test_a_single_image_in_the_same_plane(self, folder):
        write_dicom_series(folder, SMALL)
        write_dicom_series(folder, OTHER, series="1.5", keep=[0], names=["x"])
        assert read_volume(folder).notes == ("Passed over: 1 other image.",)

    def test_images_that_watch_one_place(self, folder):
        write_dicom_series(folder, SMALL)
        watch = write_dicom_series(folder, OTHER, series="1.5", names=list("abcde"))
        change(watch, ImagePositionPatient=[0, 0, 50])
        assert read_volume(folder).notes == ("Passed over: 5 other images.",)
        assert "lie at the same place" in refused(watch[0])

    def test_an_enhanced_ct_beside_the_series(self, folder):
        write_dicom_series(folder, SMALL)
        self.other(folder / "0", EnhancedCTImageStorage, "CT", NumberOfFrames=8)
        assert read_volume(folder).notes == ("Passed over: 1 Enhanced CT Image.",)

    def test_notes_are_printed_before_the_work(self, folder, tmp_path, tiny_model, capsys):
        write_dicom_series(folder, SMALL)
        localizer(folder / "0")
        command = ["enhance", str(folder), str(tmp_path / "out.nrrd"), "--factor", "2", "--model", str(tiny_model)]
        assert main([*command, "--device", "cpu", "--progress", "none"]) == 0
        assert "Passed over: 1 localizer." in capsys.readouterr().out


class TestNoCT:
    @pytest.mark.parametrize(
        ("kind", "modality", "named"),
        [
            (MRImageStorage, "MR", "MR"),
            (MRImageStorage, "CT", "MR"),
            (MRImageStorage, None, "MR"),
            (CTImageStorage, "MR", "MR"),
            (PositronEmissionTomographyImageStorage, "PT", "PT"),
            ("1.2.840.10008.5.1.4.1.1.20", "NM", "NM"),
        ],
    )
    def test_other_scans(self, folder, kind, modality, named):
        paths = change(write_dicom_series(folder, SMALL), SOPClassUID=kind, Modality=modality)
        assert refused(folder) == f"THIS is {named}, but models are for CT: give a CT series."
        assert refused(paths[0]) == f"THIS is {named}, but models are for CT: give a file of a CT series."

    def test_is_refused_alike_by_every_command(self, folder, tmp_path, tiny_model, capsys):
        change(write_dicom_series(folder, SMALL), SOPClassUID=MRImageStorage, Modality="MR")
        assert [scan.problem for scan in find_scans(folder)] == [
            f"{folder} is MR, but models are for CT: give a CT series."
        ]
        for command in (
            ["enhance", str(folder), str(tmp_path / "out.nrrd"), "--model", str(tiny_model)],
            ["selfcheck", str(folder), "--model", str(tiny_model)],
            ["train", str(folder), "--output", str(tmp_path / "run"), "--steps", "1"],
        ):
            assert main(command) == 2
            assert "is MR, but models are for CT" in capsys.readouterr().err

    def test_nothing_but_other_objects(self, folder):
        change(write_dicom_series(folder, SMALL, keep=range(2)), SOPClassUID=RTDoseStorage, Modality="RTDOSE")
        assert refused(folder).startswith("The folder THIS holds no CT slices (2 RT Dose):")

    def test_nothing_but_localizers(self, folder):
        change(write_dicom_series(folder, SMALL), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        assert refused(folder).startswith("The folder THIS holds no CT slices (8 localizers):")

    @pytest.mark.parametrize("frames", [1, 8])
    def test_an_enhanced_ct(self, folder, frames):
        (path,) = write_dicom_series(folder, SMALL, keep=[0], NumberOfFrames=frames)
        change([path], SOPClassUID=EnhancedCTImageStorage)
        for given in (folder, path):
            assert f"IM0000.dcm is a DICOM file of {frames} frame" in refused(given).replace("THIS", "IM0000.dcm")

    def test_ct_without_a_stated_modality_or_class(self, folder):
        paths = change(write_dicom_series(folder, SMALL), Modality=None)
        np.testing.assert_array_equal(read_volume(folder).voxels, SMALL.voxels)
        for path in paths:
            image = pydicom.dcmread(path)
            del image.SOPClassUID
            del image.file_meta.MediaStorageSOPClassUID
            image.save_as(path)
        np.testing.assert_array_equal(read_volume(folder).voxels, SMALL.voxels)

    def test_a_modality_that_does_not_exist_loses_no_slice(self, folder):
        change(write_dicom_series(folder, SMALL)[-1:], Modality="MONOCHROME1")
        np.testing.assert_array_equal(read_volume(folder).voxels, SMALL.voxels)

    def test_ct_that_was_stored_as_screenshots_with_a_place(self, folder):
        change(write_dicom_series(folder, SMALL), SOPClassUID=SecondaryCaptureImageStorage)
        np.testing.assert_array_equal(read_volume(folder).voxels, SMALL.voxels)
        write_dicom_series(folder, OTHER, series="1.5", names=list("abcde"))
        np.testing.assert_array_equal(read_volume(folder).voxels, OTHER.voxels)
        np.testing.assert_array_equal(read_volume(folder / "IM0000.dcm").voxels, SMALL.voxels)

    def test_a_damaged_file_may_have_been_a_slice_of_any_series(self, folder):
        paths = write_dicom_series(folder, SMALL)
        paths[-1].write_bytes(paths[-1].read_bytes()[:400])
        assert "IM0007.dcm is a damaged DICOM file" in refused(paths[0])


class TestSeveral:
    @pytest.fixture
    def both(self, folder) -> Path:
        first = write_dicom_series(folder, SMALL, SeriesNumber=3, SeriesDescription="Chest 4.0")
        second = write_dicom_series(folder, OTHER, series="1.5", names=list("abcde"), SeriesNumber=4)
        assert first[0] < second[0]
        return folder

    def test_are_listed_with_what_to_do(self, both):
        assert refused(both) == (
            "The folder THIS holds 2 CT series, so give one file of the series to use: series 3 'Chest 4.0', 8 "
            "images 4 mm apart, IM0000.dcm; series 4, 5 images 2.5 mm apart, a."
        )

    @pytest.mark.parametrize(("file", "expected"), [("IM0003.dcm", SMALL), ("a", OTHER), ("e", OTHER)])
    def test_a_file_stands_for_its_series(self, both, file, expected):
        read = read_volume(both / file)
        np.testing.assert_array_equal(read.voxels, expected.voxels)
        np.testing.assert_allclose(read.affine, expected.affine, atol=1e-9)
        assert read.notes == ()

    def test_a_file_on_the_command_line(self, both, tmp_path, tiny_model, monkeypatch):
        monkeypatch.chdir(both)
        options = ["--factor", "2", "--model", str(tiny_model), "--device", "cpu", "--progress", "none"]
        assert main(["enhance", "c", str(tmp_path / "out.nrrd"), *options]) == 0
        np.testing.assert_array_equal(read_volume(tmp_path / "out.nrrd").voxels[::2], OTHER.voxels)

    def test_a_file_as_the_source_of_a_dicom_series(self, folder, tmp_path, tiny_model):
        study = {"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4"}
        write_dicom_series(folder, SMALL, **study)
        path = write_dicom_series(folder, OTHER, series="1.5", names=list("abcde"), **study)[2]
        shutil.copy(path, folder / "c (copy)")
        options = ["--factor", "2", "--model", str(tiny_model), "--device", "cpu", "--progress", "none"]
        assert main(["enhance", str(path), str(tmp_path / "new"), "--dicom", *options]) == 0
        read = read_volume(tmp_path / "new" / "XV00001.dcm")
        np.testing.assert_array_equal(read.voxels[::2], OTHER.voxels)

    def test_a_file_that_is_no_slice(self, both):
        localizer(both / "scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        localizer(both / "also", SeriesInstanceUID="1.5")
        write_dicom(both / "report", None, SOPInstanceUID="1.2.3.4.5")
        for name, kind in (("scout", "a localizer"), ("also", "a localizer"), ("report", "Enhanced SR")):
            assert refused(both / name).startswith(f"THIS is no slice of a CT series ({kind}): give a file of")

    def test_a_file_with_a_localizer_in_its_series(self, both):
        localizer(both / "scout", SeriesInstanceUID="1.5", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        assert read_volume(both / "a").notes == ("Passed over: 1 localizer.",)

    def test_the_only_slice_of_its_series(self, both):
        write_dicom_series(both, OTHER, series="1.6", keep=[0], names=["x"])
        assert refused(both / "x").startswith("The series of THIS holds one slice only:")

    def test_without_series_uids_the_numbers_count(self, folder):
        change(write_dicom_series(folder, SMALL, SeriesNumber=3), SeriesInstanceUID=None)
        np.testing.assert_array_equal(read_volume(folder).voxels, SMALL.voxels)
        change(write_dicom_series(folder, OTHER, names=list("abcde"), SeriesNumber=4), SeriesInstanceUID="")
        assert "holds 2 CT series" in refused(folder)
        np.testing.assert_array_equal(read_volume(folder / "a").voxels, OTHER.voxels)

    def test_long_lists_end(self, folder):
        for n in range(12):
            write_dicom_series(folder, OTHER, series=f"1.5.{n}", names=[f"{n:02d}{letter}" for letter in "abcde"])
        sentence = refused(folder)
        assert sentence.count("5 images") == 8
        assert sentence.endswith("; and 4 more.")

    def test_what_a_terminal_obeys_is_escaped(self, both):
        change([both / name for name in "abcde"], SeriesDescription="x\x1b[2J\x07", SpecificCharacterSet="ISO_IR 100")
        assert r"series 4 'x\x1b[2J\x07'" in refused(both)

    def test_descriptions_of_any_script(self, both):
        change([both / name for name in "abcde"], SpecificCharacterSet="ISO_IR 192", SeriesDescription="頭部 Schädel")
        assert "series 4 '頭部 Schädel'" in refused(both)


class TestOwnSeries:
    @pytest.fixture
    def made(self, folder, tmp_path, tiny_model) -> Path:
        """A series that was made of another one."""
        write_dicom_series(folder, SMALL, StudyInstanceUID="1.2.3", FrameOfReferenceUID="1.2.4")
        options = ["--factor", "2", "--model", str(tiny_model), "--device", "cpu", "--progress", "none"]
        assert main(["enhance", str(folder), str(tmp_path / "made"), "--dicom", *options]) == 0
        return tmp_path / "made"

    def test_is_read_and_known(self, folder, made):
        assert read_volume(made).synthetic
        assert not read_volume(folder).synthetic
        np.testing.assert_array_equal(read_volume(made).voxels[::2], SMALL.voxels)

    @pytest.mark.parametrize("kept", ["ContributingEquipmentSequence", "DerivationDescription"])
    def test_is_known_by_what_archives_may_leave(self, made, kept):
        for path in made.iterdir():
            image = pydicom.dcmread(path)
            for tag in {"ContributingEquipmentSequence", "DerivationDescription"} - {kept}:
                delattr(image, tag)
            image.save_as(path)
        assert read_volume(made).synthetic

    def test_another_program_may_call_its_images_so(self, folder):
        change(write_dicom_series(folder, SMALL), ImageType=["DERIVED", "SECONDARY", "AXIAL", "SYNTHETIC"])
        assert not read_volume(folder).synthetic

    def test_is_refused_wherever_scans_are_checked(self, made, tmp_path, tiny_model, capsys):
        with pytest.raises(InputError, match="was made by XViewSynth: give the series it came from"):
            check_enhanceable(read_volume(made))
        assert ["was made by XViewSynth" in scan.problem for scan in find_scans(made)] == [True]
        model = ["--model", str(tiny_model)]
        for command in (
            ["enhance", str(made), str(tmp_path / "out.nrrd"), "--factor", "2", *model],
            ["selfcheck", str(made), *model],
            ["train", str(made), "--output", str(tmp_path / "run"), "--steps", "1"],
        ):
            assert main(command) == 2
            assert "was made by XViewSynth: give the series it came from" in capsys.readouterr().err

    def test_is_enhanced_again_on_request(self, made, tmp_path, tiny_model):
        options = ["--again", "--model", str(tiny_model), "--device", "cpu", "--progress", "none"]
        assert main(["selfcheck", str(made), *options]) == 0
        assert main(["enhance", str(made), str(tmp_path / "twice"), "--dicom", "--factor", "2", *options]) == 0
        assert len(list((tmp_path / "twice").iterdir())) == 29

    def test_is_no_place_for_what_is_made_of_it(self, made, tiny_model, capsys):
        options = ["--again", "--factor", "2", "--model", str(tiny_model), "--dicom", "--overwrite"]
        before = sorted(made.iterdir())
        assert main(["enhance", str(made / "XV00001.dcm"), str(made), *options]) == 2
        assert "holds the input" in capsys.readouterr().err
        assert sorted(made.iterdir()) == before

    def test_is_named_as_such_beside_its_source(self, folder, made):
        for path in made.iterdir():
            shutil.copy(path, folder)
        assert "made by XViewSynth, 15 images 2 mm apart, XV00001.dcm" in refused(folder)
        np.testing.assert_array_equal(read_volume(folder / "IM0000.dcm").voxels, SMALL.voxels)

    def test_is_skipped_by_a_batch(self, folder, made, tmp_path, tiny_model):
        (tmp_path / "in").mkdir()
        folder.rename(tmp_path / "in" / "a")
        made.rename(tmp_path / "in" / "b")
        options = ["--factor", "2", "--model", str(tiny_model), "--device", "cpu", "--progress", "none"]
        assert main(["batch", str(tmp_path / "in"), str(tmp_path / "out"), *options]) == 0
        summary = (tmp_path / "out" / "summary.csv").read_text(encoding="utf-8").splitlines()
        assert "refused" in summary[-1]
        assert "was made by XViewSynth" in summary[-1]
