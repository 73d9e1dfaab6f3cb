"""Slices of a DICOM series as a stack: uneven, missing, rounded and shifted positions, thickness, directions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scans import affine_from, anatomy, directions, shearing, write_dicom_series
from XViewSynthLib import InputError, Volume, read_volume
from XViewSynthLib.io.reading import read_header

SMALL = Volume(anatomy((8, 12, 10)), affine_from(), slice_thickness=4.0)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "series"


def series_at(folder: Path, positions, thickness: object = 1.25, **tags: object) -> list[Path]:
    """A series of slices at these heights, mm."""
    scan = Volume(anatomy((len(positions), 12, 10)), affine_from())
    paths = write_dicom_series(folder, scan, thickness=thickness, **tags)
    for path, height in zip(paths, positions, strict=True):
        change(path, ImagePositionPatient=[12.5, -7.25, f"{height:.10g}"])
    return paths


def change(path: Path, **tags: object) -> None:
    image = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(image, name, value)
    image.save_as(path)


def overwrite(path: Path, keyword: str, text: str) -> None:
    """Write a value that is against the standard."""
    image = pydicom.dcmread(path)
    setattr(image, keyword, "7" * 15 + ("\\7" if "\\" in text else "7"))
    image.save_as(path)
    found = b"7" * 15
    data = path.read_bytes()
    place = data.index(found)
    length = int.from_bytes(data[place - 2 : place], "little")
    path.write_bytes(data[:place] + text.encode().ljust(length) + data[place + length :])


def refused(path: Path) -> str:
    """The sentence with which a path is refused, the path itself replaced by THIS."""
    with pytest.raises(InputError) as caught:
        read_header(path)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert sentence.isprintable()
    return sentence.replace(str(path), "THIS")


class TestSpacing:
    @pytest.mark.parametrize(
        ("positions", "expected"),
        [
            ([*np.arange(6) * 2.5, *(12.5 + 7.5 * np.arange(1, 6))], "unevenly spaced, 2.50 to 7.50 mm"),
            ([*np.arange(6) * 2.5, *(12.5 + 5.0 * np.arange(1, 6))], "unevenly spaced, 2.50 to 5.00 mm"),
            ([*(5.0 * np.arange(4)), *(15 + 2.5 * np.arange(1, 9))], "unevenly spaced, 2.50 to 5.00 mm"),
            ([0, 1, 2, 3, 4, 6, 8], "unevenly spaced, 1.00 to 2.00 mm"),
            ([0, 1, 2, 4, 5, 6, 9, 10], "3 slices are missing in THIS, between IM0002.dcm and IM0003.dcm"),
            ([0, 1, 2, 3, 5], "1 slice is missing in THIS, between IM0003.dcm and IM0004.dcm"),
            ([0, 2, 3, 4, 5], "1 slice is missing in THIS, between IM0000.dcm and IM0001.dcm"),
            ([0, 1, 2.5, 3.5, 4.5], "unevenly spaced, 1.00 to 1.50 mm"),
            ([*(5.04 * np.arange(30)), *(146.16 + 4.96 * np.arange(1, 30))], "unevenly spaced, 4.96 to 5.04 mm"),
            ([*(0.1 * np.arange(8)), 0.9], "1 slice is missing"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_is_uneven_and_what_is_missing(self, folder, positions, expected):
        series_at(folder, positions)
        assert expected in refused(folder)

    def test_positions_rounded_to_tenths_are_noted(self, folder):
        series_at(folder, [round(1.25 * n + 1e-9, 1) for n in range(12)])
        read = read_volume(folder)
        assert read.spacing[2] == pytest.approx(1.251, abs=5e-4)
        assert read.notes == ("Slice positions are rounded; slices taken as 1.251 mm apart.",)

    @given(st.floats(0.4, 12), st.integers(2, 25), st.floats(-500, 500))
    def test_any_even_grid_rounded_to_tenths_is_accepted(self, tmp_path_factory, gap, count, start):
        positions = [round(start + gap * n, 1) for n in range(count)]
        folder = tmp_path_factory.mktemp("any")
        series_at(folder, positions)
        read = read_header(folder)
        assert read.spacing[2] == pytest.approx(gap, abs=0.3 / count)
        heights = read.ijk_to_ras([[0, 0, n] for n in range(count)])[:, 2]
        assert np.abs(heights - (start + gap * np.arange(count))).max() < 0.16

    @given(st.floats(0.4, 12), st.integers(5, 20), st.data())
    def test_a_missing_slice_is_never_taken_for_rounding(self, tmp_path_factory, gap, count, data):
        missing = data.draw(st.integers(1, count - 2))
        folder = tmp_path_factory.mktemp("any")
        series_at(folder, [round(gap * n, 1) for n in range(count) if n != missing])
        sentence = refused(folder)
        assert "missing" in sentence or "unevenly spaced" in sentence

    def test_even_grids_get_no_note(self, folder):
        write_dicom_series(folder, SMALL)
        assert read_volume(folder).notes == ()
        assert read_volume(folder).spacing[2] == 4.0

    @given(directions())
    def test_rounding_in_any_direction_is_no_tilted_gantry(self, tmp_path_factory, turned):
        folder = tmp_path_factory.mktemp("any")
        scan = Volume(anatomy((9, 12, 10)), affine_from((0.8, 0.8, 1.3), turned))
        paths = write_dicom_series(folder, scan)
        for path in paths:
            place = pydicom.dcmread(path).ImagePositionPatient
            change(path, ImagePositionPatient=[f"{float(value):.1f}" for value in place])
        read = read_header(folder)
        here = read.ijk_to_ras([[0, 0, n] for n in range(9)])
        there = scan.ijk_to_ras([[0, 0, n] for n in range(9)])
        forwards, backwards = np.abs(here - there).max(), np.abs(here - there[::-1]).max()
        assert min(forwards, backwards) < 0.2

    def test_a_tilted_gantry_is_refused_even_if_rounded(self, folder):
        tilted = Volume(anatomy((9, 12, 10)), affine_from((0.8, 0.8, 3.75), shearing(8)))
        for path in write_dicom_series(folder, tilted):
            place = pydicom.dcmread(path).ImagePositionPatient
            change(path, ImagePositionPatient=[f"{float(value):.1f}" for value in place])
        assert "as by a tilted gantry" in refused(folder)

    def test_slices_that_share_an_instance_but_no_place(self, folder):
        for n, path in enumerate(write_dicom_series(folder, SMALL)):
            change(path, SOPInstanceUID=f"1.2.{n // 2}")
        np.testing.assert_array_equal(read_volume(folder).voxels, SMALL.voxels)

    def test_slices_without_numbers_and_instances(self, folder):
        for path in write_dicom_series(folder, SMALL):
            change(path, SOPInstanceUID="")
            assert "InstanceNumber" not in pydicom.dcmread(path)
        np.testing.assert_array_equal(read_volume(folder).voxels, SMALL.voxels)

    def test_the_axis_of_the_slices_is_stated(self, folder):
        write_dicom_series(folder, Volume(SMALL.voxels, affine_from((0.9, 0.9, 0.6))))
        assert read_volume(folder).slice_axis == "K"
        assert read_header(folder).slice_axis == "K"


class TestThickness:
    @pytest.mark.parametrize(
        ("thicknesses", "expected"),
        [
            ([5, 5, 5, 5, 5], 5),
            ([5, 5.01, 5, 4.99, 5], 5),
            ([5, 5.2, 5, 5, 5], None),
            ([5, 5, 5, 5, ""], None),
        ],
    )
    def test_that_of_all_slices_counts(self, folder, thicknesses, expected):
        for path, thickness in zip(series_at(folder, 5.0 * np.arange(5)), thicknesses, strict=True):
            change(path, SliceThickness=thickness)
        assert read_volume(folder).slice_thickness == expected

    @pytest.mark.parametrize(("text", "expected"), [("5 mm", 5), ("5,0", 5), ("5mm", 5), ("1.25", 1.25)])
    def test_is_read_with_a_unit_or_a_comma(self, folder, text, expected):
        for path in series_at(folder, 5.0 * np.arange(5)):
            overwrite(path, "SliceThickness", text)
        assert read_volume(folder).slice_thickness == expected
        assert read_volume(folder).notes == ()

    @pytest.mark.parametrize("text", ["thick", "nan", "inf", "-5", "5 cm", "1e99"])
    def test_what_is_none_is_noted(self, folder, text):
        for path in series_at(folder, 5.0 * np.arange(5)):
            overwrite(path, "SliceThickness", text)
        read = read_volume(folder)
        assert read.slice_thickness is None
        assert read.notes == (f"SliceThickness {text!r} is no thickness in mm and was ignored.",)


class TestElements:
    """Elements that place a slice are named with their value and file where they cannot be used."""

    @pytest.mark.parametrize(
        ("keyword", "text"),
        [
            ("PixelSpacing", "0\\0"),
            ("PixelSpacing", "-1\\1"),
            ("PixelSpacing", "1"),
            ("PixelSpacing", "nan\\1"),
            ("PixelSpacing", "1\\inf"),
            ("PixelSpacing", "1 mm\\1 mm"),
            ("ImagePositionPatient", "0\\0"),
            ("ImagePositionPatient", "0\\0\\nan"),
            ("ImagePositionPatient", "0\\0\\1e99"),
            ("ImageOrientationPatient", "1\\0\\0\\0\\1"),
            ("ImageOrientationPatient", "0\\0\\0\\0\\0\\0"),
            ("ImageOrientationPatient", "2\\0\\0\\0\\1\\0"),
            ("ImageOrientationPatient", "1\\0\\0\\1\\0\\0"),
            ("ImageOrientationPatient", "1\\0\\0\\.7\\.7\\0"),
            ("ImageOrientationPatient", "1\\0\\0\\nan\\1\\0"),
        ],
    )
    @pytest.mark.parametrize("which", [slice(2, 3), slice(8)], ids=["one", "all"])
    def test_values_that_cannot_be_used(self, folder, keyword, text, which):
        paths = write_dicom_series(folder, SMALL)
        for path in paths[which]:
            overwrite(path, keyword, text)
        sentence = refused(folder)
        assert f"{paths[which][0].name} has {keyword} {text!r}".replace("\\\\", "\\") in sentence.replace("\\\\", "\\")

    def test_decimal_commas_are_read(self, folder):
        for path in write_dicom_series(folder, SMALL):
            overwrite(path, "PixelSpacing", "0,8\\0,8")
        assert read_volume(folder).spacing == pytest.approx((0.8, 0.8, 4))

    @pytest.mark.parametrize("digits", [3, 4, 6])
    def test_directions_of_few_digits_are_straightened(self, folder, digits):
        angle = np.radians(33)
        turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        for path in write_dicom_series(folder, Volume(SMALL.voxels, affine_from(directions=turned))):
            orientation = pydicom.dcmread(path).ImageOrientationPatient
            change(path, ImageOrientationPatient=[f"{float(value):.{digits}f}" for value in orientation])
        read = read_volume(folder)
        assert read.shear_degrees == 0
        np.testing.assert_allclose(read.directions.T @ read.directions, np.eye(3), atol=1e-12)

    def test_a_projection(self, folder):
        write_dicom_series(folder, SMALL, PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.2])
        assert "THIS/IM0000.dcm has ImagerPixelSpacing in place of PixelSpacing, so it is a projection" in refused(
            folder
        )

    def test_numbers_that_are_no_text(self, folder):
        write_dicom_series(folder, SMALL, NumberOfFrames="1", SamplesPerPixel=1)
        for path in folder.iterdir():
            image = pydicom.dcmread(path)
            image.add_new(0x00280010, "UL", 12)
            image.add_new(0x00200032, "FD", [float(value) for value in image.ImagePositionPatient])
            image.save_as(path)
        np.testing.assert_array_equal(read_volume(folder).voxels, SMALL.voxels)
