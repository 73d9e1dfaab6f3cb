"""Reading: what comes out of a file, and the sentence for every file that cannot be used."""

from __future__ import annotations

import gzip
import random
import shutil
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from scans import affine_from, anatomy, shearing, write_dicom, write_dicom_series
from XViewSynthLib import InputError, Volume, read_volume, write_volume
from XViewSynthLib.io.reading import suffix_of

SCALARS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "series"


@pytest.fixture(scope="module")
def small():
    """An 8-slice scan, 4 mm apart."""
    return Volume(anatomy((8, 12, 10)), affine_from(), slice_thickness=4.0)


def refused(path):
    """The sentence with which a path is refused, the path itself replaced by THIS."""
    with pytest.raises(InputError) as caught:
        read_volume(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    # The path holds the name of the test, which may well hold the words that the test looks for.
    return sentence.replace(str(path), "THIS")


def write_sitk(path, array, vector=False, **metadata):
    image = sitk.GetImageFromArray(array, isVector=vector)
    for key, value in metadata.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(path))
    return path


def patched(path, offset, form, *values):
    raw = bytearray(path.read_bytes())
    struct.pack_into(form, raw, offset, *values)
    path.write_bytes(raw)
    return path


class TestImageFiles:
    @pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd"])
    def test_geometry_is_ras(self, tmp_path, suffix):
        image = sitk.GetImageFromArray(anatomy((4, 5, 6)))
        image.SetSpacing((0.5, 0.75, 3))
        image.SetOrigin((10, 20, 30))
        image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
        sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
        read = read_volume(tmp_path / f"scan{suffix}")
        for index in [(0, 0, 0), (5, 4, 3), (1, 2, 3)]:
            lps = image.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose(read.ijk_to_ras(index), np.multiply(lps, (-1, -1, 1)), atol=1e-5)

    def test_a_given_thickness_counts_in_place_of_the_files(self, tmp_path):
        file = write_sitk(tmp_path / "scan.nrrd", anatomy((4, 5, 6)), SliceThickness="5")
        assert (read_volume(file).slice_thickness, read_volume(file, 1.25).slice_thickness) == (5.0, 1.25)
        with pytest.raises(InputError, match="positive number of millimetres, not -1"):
            read_volume(file, -1.0)

    @pytest.mark.parametrize("dtype", SCALARS)
    def test_scalar_type_is_that_of_the_file(self, tmp_path, dtype):
        array = np.arange(60).reshape(3, 4, 5).astype(dtype)
        read = read_volume(write_sitk(tmp_path / "scan.nrrd", array))
        assert read.voxels.dtype == dtype
        np.testing.assert_array_equal(read.voxels, array)

    def test_path_may_be_text(self, tmp_path):
        assert read_volume(str(write_sitk(tmp_path / "scan.mha", anatomy((4, 5, 6))))).shape_ijk == (6, 5, 4)

    def test_fourth_dimension_of_one_is_dropped(self, tmp_path):
        image = sitk.JoinSeries([sitk.GetImageFromArray(anatomy((4, 5, 6)))])
        sitk.WriteImage(image, str(tmp_path / "scan.nrrd"))
        np.testing.assert_array_equal(read_volume(tmp_path / "scan.nrrd").voxels, anatomy((4, 5, 6)))

    @pytest.mark.parametrize("name", ["Müller, тест 患者.nrrd", "schädel.nii.gz", "頭.mhd", "SCAN.NRRD", "SCAN.NII.GZ"])
    def test_any_script_and_case_in_the_name(self, tmp_path, small, name):
        (tmp_path / "größe é 日本").mkdir()
        path = tmp_path / "größe é 日本" / name
        write_volume(small, path)
        np.testing.assert_array_equal(read_volume(path).voxels, small.voxels)

    def test_deeply_nested_folder(self, tmp_path, small):
        deep = tmp_path.joinpath(*["a folder with a long name" * 4] * 6)
        deep.mkdir(parents=True)
        write_volume(small, deep / "scan.nrrd")
        np.testing.assert_array_equal(read_volume(deep / "scan.nrrd").voxels, small.voxels)

    @pytest.mark.parametrize(
        ("name", "suffix"),
        [("a.b.nii.gz", ".nii.gz"), ("A.NII.GZ", ".nii.gz"), ("a.gz", ".gz"), ("a.NRRD", ".nrrd"), ("a", "")],
    )
    def test_suffix(self, tmp_path, name, suffix):
        assert suffix_of(tmp_path / name) == suffix


class TestNifti:
    def test_sform_is_taken_as_it_stands(self, tmp_path):
        path = write_sitk(tmp_path / "scan.nii", anatomy((4, 5, 6)))
        patched(path, 252, "<h", 0)
        patched(path, 280, "<12f", 0, -0.7, 0, 11, -0.7, 0, 0, 12, 0, 0, 2.5, 13)
        expected = np.array([[0, -0.7, 0, 11], [-0.7, 0, 0, 12], [0, 0, 2.5, 13], [0, 0, 0, 1]])
        np.testing.assert_allclose(read_volume(path).affine, expected, atol=1e-6)

    def test_qform_counts_where_there_is_no_sform(self, tmp_path, small):
        write_volume(small, tmp_path / "scan.nii")
        patched(tmp_path / "scan.nii", 254, "<h", 0)
        np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").affine, small.affine, atol=1e-5)

    def test_metres_become_millimetres(self, tmp_path, small):
        write_volume(small, tmp_path / "scan.nii")
        patched(tmp_path / "scan.nii", 123, "<b", 1)
        read = read_volume(tmp_path / "scan.nii")
        np.testing.assert_allclose(read.affine, np.diag([1000, 1000, 1000, 1]) @ small.affine, rtol=1e-6)

    @pytest.mark.parametrize("qform_code", [0, 1])
    def test_sheared_sform(self, tmp_path, qform_code):
        path = write_sitk(tmp_path / "scan.nii", anatomy((4, 5, 6)))
        patched(path, 252, "<hh", qform_code, 1)
        patched(path, 280, "<12f", -1, 0, 0, 0, 0, -1, 0.6, 0, 0, 0, 3, 0)
        assert "sheared by 11.3 degrees" in refused(path)

    def test_label_intent(self, tmp_path):
        path = write_sitk(tmp_path / "labels.nii", anatomy((4, 5, 6)))
        patched(path, 68, "<h", 1002)
        assert "segmentation" in refused(path)

    def test_truncated(self, tmp_path):
        path = write_sitk(tmp_path / "scan.nii", anatomy((4, 5, 6)))
        path.write_bytes(path.read_bytes()[:-10])
        assert "truncated" in refused(path)

    @pytest.mark.parametrize("left", [0, 1, 100, -9, -20])
    def test_truncated_and_compressed(self, tmp_path, left):
        path = write_sitk(tmp_path / "scan.nii.gz", anatomy((4, 5, 6)))
        path.write_bytes(path.read_bytes()[:left])
        assert "damaged" in refused(path)

    def test_compressed_bytes_of_something_else(self, tmp_path):
        (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(b"not a scan at all" * 50))
        assert "does not begin as a NIfTI file does" in refused(tmp_path / "scan.nii.gz")

    def test_big_endian(self, tmp_path):
        voxels = anatomy((4, 5, 6))
        header = bytearray(352)
        struct.pack_into(">i", header, 0, 348)
        struct.pack_into(">8h", header, 40, 3, 6, 5, 4, 1, 1, 1, 1)
        struct.pack_into(">hh", header, 70, 4, 16)
        struct.pack_into(">8f3f", header, 76, 1, 0.5, 0.5, 3, 0, 0, 0, 0, 352, 1, 0)
        struct.pack_into(">b", header, 123, 2)
        struct.pack_into(">hh", header, 252, 0, 1)
        struct.pack_into(">12f", header, 280, 0.5, 0, 0, 7, 0, 0.5, 0, 8, 0, 0, 3, 9)
        struct.pack_into(">4s", header, 344, b"n+1")
        (tmp_path / "scan.nii").write_bytes(bytes(header) + voxels.astype(">i2").tobytes())
        read = read_volume(tmp_path / "scan.nii")
        np.testing.assert_array_equal(read.voxels, voxels)
        np.testing.assert_allclose(read.origin, [7, 8, 9])


class TestFilesThatAreNoScan:
    def test_missing(self, tmp_path):
        assert "does not exist" in refused(tmp_path / "gone.nrrd")

    def test_name_too_long(self, tmp_path):
        assert refused(tmp_path / f"{'n' * 5000}.nrrd").startswith("THIS ")

    def test_impossible_name(self):
        assert refused("a\0b.nrrd").startswith("THIS ")

    @pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd"])
    @pytest.mark.parametrize("content", [b"", b"hello", bytes(2000)])
    def test_not_an_image_in_spite_of_its_name(self, tmp_path, suffix, content):
        (tmp_path / f"scan{suffix}").write_bytes(content)
        assert "damaged" in refused(tmp_path / f"scan{suffix}")

    @pytest.mark.parametrize("name", ["scan.txt", "scan.png", "scan", "scan.gz", "scan.tif"])
    def test_other_kind_of_file(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"hello")
        assert "give an NRRD, NIfTI, MHA or MHD file" in refused(tmp_path / name)

    @pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
    def test_truncated(self, tmp_path, small, suffix):
        path = tmp_path / f"scan{suffix}"
        write_volume(small, path)
        path.write_bytes(path.read_bytes()[:-200])
        assert "damaged or incomplete" in refused(path)

    def test_header_without_its_data_file(self, tmp_path, small):
        write_volume(small, tmp_path / "scan.mhd")
        (tmp_path / "scan.raw").unlink()
        assert "incomplete" in refused(tmp_path / "scan.mhd")

    def test_two_dimensions(self, tmp_path):
        assert "is a 2-D image of 6 x 5 voxels" in refused(write_sitk(tmp_path / "x.nrrd", np.zeros((5, 6), np.int16)))

    def test_four_dimensions(self, tmp_path):
        image = sitk.JoinSeries([sitk.GetImageFromArray(anatomy((4, 5, 6)))] * 3)
        sitk.WriteImage(image, str(tmp_path / "perfusion.nrrd"))
        assert "is a 4-D image of 6 x 5 x 4 x 3 voxels" in refused(tmp_path / "perfusion.nrrd")

    @pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".mha"])
    def test_colours(self, tmp_path, suffix):
        path = write_sitk(tmp_path / f"photo{suffix}", np.zeros((4, 5, 6, 3), np.uint8), vector=True)
        assert "colours or vectors" in refused(path)

    def test_complex_numbers(self, tmp_path):
        assert "one grey value" in refused(write_sitk(tmp_path / "x.nii", np.zeros((4, 5, 6), np.complex64)))

    def test_segmentation_of_slicer(self, tmp_path):
        path = write_sitk(tmp_path / "liver.seg.nrrd", anatomy((4, 5, 6)), Segment0_ID="liver")
        assert "segmentation" in refused(path)

    @pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
    def test_sheared(self, tmp_path, suffix):
        image = sitk.GetImageFromArray(anatomy((4, 5, 6)))
        image.SetDirection(shearing(8).ravel().tolist())
        sitk.WriteImage(image, str(tmp_path / f"tilted{suffix}"))
        assert "sheared by 8.0 degrees, as by a tilted gantry" in refused(tmp_path / f"tilted{suffix}")

    def test_unreadable(self, tmp_path, small, monkeypatch):
        write_volume(small, tmp_path / "scan.nii")

        def no_permission(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.open", no_permission)
        assert "cannot be read (Permission denied)" in refused(tmp_path / "scan.nii")

    @pytest.mark.parametrize("told", ["", "thick", "0", "-4", "nan", "inf"])
    def test_a_slice_thickness_that_is_none(self, tmp_path, told):
        assert (
            read_volume(write_sitk(tmp_path / "scan.nrrd", anatomy((4, 5, 6)), SliceThickness=told)).slice_thickness
            is None
        )


class TestDicomSeries:
    @pytest.mark.parametrize(
        ("spacing", "turned"),
        [
            ((0.8, 0.8, 4), np.eye(3)),
            ((0.6, 0.9, 4), np.diag([-1.0, -1.0, 1.0])),
            ((0.6, 0.9, 4), np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])),
            ((0.6, 0.9, 4), np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])),
            ((0.6, 0.9, 4), np.array([[1.0, 0, 0], [0, 0.6, -0.8], [0, 0.8, 0.6]])),
        ],
        ids=["axial", "axial towards left and posterior", "coronal", "sagittal", "oblique"],
    )
    def test_every_voxel_has_its_value_and_place(self, folder, spacing, turned):
        scan = Volume(anatomy((6, 8, 7)), affine_from(spacing, turned))
        write_dicom_series(folder, scan)
        read = read_volume(folder)
        here = read.ijk_to_ras(np.array(list(np.ndindex(7, 8, 6))))
        there = np.rint(scan.ras_to_ijk(here)).astype(int)
        np.testing.assert_allclose(scan.ijk_to_ras(there), here, atol=1e-6)
        np.testing.assert_array_equal(scan.voxels[tuple(there.T[::-1])], read.voxels.transpose(2, 1, 0).ravel())

    def test_file_names_say_nothing_about_the_order(self, folder, small):
        names = [f"{n}.dcm" for n in range(8)]
        random.Random(3).shuffle(names)
        write_dicom_series(folder, small, names=names)
        np.testing.assert_array_equal(read_volume(folder).voxels, small.voxels)

    @pytest.mark.parametrize("names", [[f"IM{n}" for n in range(8)], [f"{n}.IMA" for n in range(8)]])
    def test_any_ending_or_none(self, folder, small, names):
        write_dicom_series(folder, small, names=names)
        np.testing.assert_array_equal(read_volume(folder).voxels, small.voxels)

    @pytest.mark.parametrize("name", ["Patientin Müller", "患者 日本", "исследование"])
    def test_any_script_in_the_folder(self, tmp_path, small, name):
        write_dicom_series(tmp_path / name, small)
        np.testing.assert_array_equal(read_volume(tmp_path / name).voxels, small.voxels)

    @pytest.mark.parametrize(
        ("signed", "slope", "intercept"),
        [(True, 1, 0), (True, 1, -1024), (False, 1, -1024), (False, 2, -2000), (True, 0.5, 3)],
    )
    def test_rescaled_to_hu(self, folder, small, signed, slope, intercept):
        even = small.with_voxels(small.voxels // 2 * 2 + intercept % 2)
        write_dicom_series(folder, even, signed=signed, slope=slope, intercept=intercept)
        np.testing.assert_array_equal(read_volume(folder).voxels, even.voxels)

    def test_slope_of_each_slice_counts(self, folder, small):
        write_dicom_series(folder, small, slope=[1, *[0.25] * 7])
        np.testing.assert_array_equal(read_volume(folder).voxels, small.voxels)

    def test_no_rescale_tags(self, folder, small):
        write_dicom_series(folder, small, RescaleSlope=None, RescaleIntercept=None)
        np.testing.assert_array_equal(read_volume(folder).voxels, small.voxels)

    def test_signed_pixels_stay_int16(self, folder, small):
        write_dicom_series(folder, small)
        assert read_volume(folder).voxels.dtype == np.int16

    @pytest.mark.parametrize(("thickness", "expected"), [(5, 5.0), (None, None), ("", None), (0, None)])
    def test_slice_thickness(self, folder, small, thickness, expected):
        write_dicom_series(folder, small, thickness=thickness)
        assert read_volume(folder).slice_thickness == expected

    def test_different_thicknesses_are_no_thickness(self, folder, small):
        write_dicom_series(folder, small, keep=range(4), thickness=4)
        write_dicom_series(folder, small, keep=range(4, 8), names=list("abcd"), thickness=5)
        assert read_volume(folder).slice_thickness is None

    def test_positions_rounded_to_hundredths(self, folder):
        scan = Volume(anatomy((9, 6, 5)), affine_from((0.7, 0.7, 0.625)))
        write_dicom_series(folder, scan)
        for n in range(9):
            _rewrite(folder / f"IM{n:04d}.dcm", ImagePositionPatient=[12.5, -7.25, round(90 + 0.625 * n, 2)])
        assert read_volume(folder).spacing[2] == pytest.approx(0.625)


def _rewrite(path, **tags):
    import pydicom

    file = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path)


class TestStrayFiles:
    def test_files_that_are_not_dicom_are_ignored(self, folder, small):
        write_dicom_series(folder, small)
        (folder / "notes.txt").write_text("hello", encoding="utf-8")
        (folder / "Thumbs.db").write_bytes(b"")
        (folder / "wrong.dcm").write_bytes(random.Random(0).randbytes(3000))
        (folder / "._IM0000.dcm").write_bytes(bytes(200))
        (folder / "subfolder").mkdir()
        np.testing.assert_array_equal(read_volume(folder).voxels, small.voxels)

    def test_dicom_objects_without_an_image_are_ignored(self, folder, small):
        write_dicom_series(folder, small)
        write_dicom(folder / "report.dcm", None, SeriesInstanceUID="1.2.3.4", SOPInstanceUID="1.2.3.4.5")
        write_dicom(folder / "DICOMDIR", None, SOPInstanceUID="1.2.3.4.6")
        np.testing.assert_array_equal(read_volume(folder).voxels, small.voxels)

    def test_copies_of_a_file_are_ignored(self, folder, small):
        write_dicom_series(folder, small)
        shutil.copy(folder / "IM0002.dcm", folder / "IM0002 (copy).dcm")
        np.testing.assert_array_equal(read_volume(folder).voxels, small.voxels)

    @pytest.mark.parametrize("given", ["", "DICOMDIR"])
    def test_images_below_a_dicomdir(self, tmp_path, small, given):
        write_dicom(tmp_path / "DICOMDIR", None, SOPInstanceUID="1.2.3.4.6")
        write_dicom_series(tmp_path / "DICOM" / "PA1" / "SE2", small)
        np.testing.assert_array_equal(read_volume(tmp_path / given).voxels, small.voxels)


class TestFoldersThatAreNoSeries:
    def test_empty(self, tmp_path):
        assert "holds no DICOM images" in refused(tmp_path)

    def test_only_other_files(self, tmp_path):
        (tmp_path / "notes.txt").write_text("hello", encoding="utf-8")
        assert "holds no DICOM images" in refused(tmp_path)

    def test_images_in_subfolders_only(self, tmp_path, small):
        write_dicom_series(tmp_path / "SE1", small)
        assert "choose the folder with the slices of one series" in refused(tmp_path)

    def test_two_series(self, folder, small):
        write_dicom_series(folder, small)
        write_dicom_series(folder, small, series="1.2.3", keep=range(3), names=list("abc"))
        sentence = refused(folder)
        assert sentence.startswith("The folder THIS holds 2 CT series, so give one file of the series to use:")
        assert "8 images 4 mm apart, IM0000.dcm; series, 3 images 4 mm apart, a." in sentence

    def test_one_slice(self, folder, small):
        write_dicom_series(folder, small, keep=[0])
        assert "holds one slice only" in refused(folder)

    def test_missing_slice(self, folder, small):
        write_dicom_series(folder, small, keep=[0, 1, 2, 4, 5, 6, 7], names=list("abcdefg"))
        assert refused(folder).startswith("1 slice is missing in THIS, between c and d:")

    def test_missing_slices_in_two_places(self, folder, small):
        write_dicom_series(folder, small, keep=[0, 1, 4, 5, 7], names=list("abcde"))
        assert refused(folder).startswith("3 slices are missing in THIS, between b and c:")

    def test_uneven_spacing(self, folder, small):
        paths = write_dicom_series(folder, small)
        _rewrite(paths[-1], ImagePositionPatient=[12.5, -7.25, 90 + 7 * 4 + 1.3])
        assert "unevenly spaced, 4.00 to 5.30 mm apart" in refused(folder)

    def test_two_images_at_one_place(self, folder, small):
        paths = write_dicom_series(folder, small)
        _rewrite(paths[4], ImagePositionPatient=[12.5, -7.25, 90 + 3 * 4])
        assert "IM0003.dcm and IM0004.dcm" in refused(folder)

    def test_gantry_tilt(self, folder):
        write_dicom_series(folder, Volume(anatomy((6, 8, 7)), affine_from(directions=shearing(15))))
        assert "sheared by 15.0 degrees, as by a tilted gantry" in refused(folder)

    def test_slice_shifted_sideways(self, folder, small):
        paths = write_dicom_series(folder, small)
        _rewrite(paths[3], ImagePositionPatient=[13.5, -7.25, 90 + 3 * 4])
        assert "shifted sideways" in refused(folder)

    def test_slices_that_lie_in_two_planes(self, folder, small):
        for path in write_dicom_series(folder, small)[:3]:
            _rewrite(path, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
        assert "different planes" in refused(folder)

    def test_slices_of_different_size(self, folder, small):
        paths = write_dicom_series(folder, small)
        _rewrite(paths[0], PixelSpacing=[0.5, 0.5])
        assert "differ in size or pixel spacing" in refused(folder)

    def test_colours(self, folder):
        for n in range(3):
            write_dicom(
                folder.with_name(f"{n}.dcm"),
                np.zeros((4, 4, 3), np.uint8),
                SOPInstanceUID=f"1.2.{n}",
                ImagePositionPatient=[0, 0, n],
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                PixelSpacing=[1, 1],
            )
        assert "in colour" in refused(folder.parent)

    @pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
    def test_no_place_in_the_patient(self, folder, small, tag):
        write_dicom_series(folder, small, **{tag: None})
        assert f"has no {tag}" in refused(folder)

    def test_many_frames_in_one_file(self, folder, small):
        write_dicom_series(folder, small, NumberOfFrames=8)
        assert "8 frames, which is not supported" in refused(folder)

    @pytest.mark.parametrize("left", [140, 200, 350, 500])
    def test_damaged_header(self, folder, small, left):
        # The last slice: nothing but its own header can tell that it is one.
        paths = write_dicom_series(folder, small)
        paths[-1].write_bytes(paths[-1].read_bytes()[:left])
        assert refused(folder).startswith("THIS/IM0007.dcm is a damaged DICOM file")

    def test_damaged_pixels(self, folder, small):
        paths = write_dicom_series(folder, small)
        paths[2].write_bytes(paths[2].read_bytes()[:-100])
        assert "damaged" in refused(folder)

    def test_unreadable_file(self, folder, small, monkeypatch):
        write_dicom_series(folder, small)

        def no_permission(_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("XViewSynthLib.io.dicom.series.is_dicom", no_permission)
        assert "IM0000.dcm cannot be read (Permission denied)" in refused(folder)
