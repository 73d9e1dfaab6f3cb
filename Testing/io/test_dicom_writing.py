"""DICOM out: what an archive, a viewer and a reader of the new series rely on; judged by foreign tools as well."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from archive import Archive, needs
from scans import affine_from, anatomy, write_dicom_series
from tiny import NETWORK, make_card, make_network
from XViewSynthLib import InputError, Volume, enhance, read_volume, write_series
from XViewSynthLib.cli.main import main
from XViewSynthLib.errors import Cancelled
from XViewSynthLib.io.dicom.source import open_source
from XViewSynthLib.io.dicom.writing import COMMENTS, OBSERVED, SYNTHETIC, write_files
from XViewSynthLib.model.catalogue import save_model

STUDY, FRAME = "1.2.826.0.1.3680043.8.498.7", "1.2.826.0.1.3680043.8.498.8"
PATIENT = {
    "SpecificCharacterSet": "ISO_IR 100",
    "PatientName": "Müller^Jörg",
    "PatientID": "4711",
    "PatientBirthDate": "19500102",
    "PatientSex": "M",
    "StudyInstanceUID": STUDY,
    "StudyID": "S1",
    "StudyDate": "20200102",
    "StudyTime": "101112",
    "StudyDescription": "Thorax für Jörg",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "Weiß^Änne",
}
SERIES = {
    "FrameOfReferenceUID": FRAME,
    "PositionReferenceIndicator": "",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "Manufacturer": "Scanners",
    "SeriesNumber": 3,
    "SeriesDescription": "Lunge dünn",
    "AcquisitionNumber": 1,
    "KVP": 120,
    "PatientPosition": "HFS",
    "BodyPartExamined": "CHEST",
    "WindowCenter": [40, -600],
    "WindowWidth": [350, 1200],
}
SMALL = Volume(anatomy((6, 14, 12)), affine_from(), slice_thickness=4.0)


def clinical_series(folder: Path, volume: Volume = SMALL, **tags: object) -> list[Path]:
    """A series as a scanner writes it; the images are numbered in the order of the slices."""
    paths = write_dicom_series(folder, volume, **{**PATIENT, **SERIES, **tags})
    change(paths, lambda header, k: setattr(header, "InstanceNumber", k + 1))
    return paths


def change(paths: list[Path], how: Callable[[pydicom.Dataset, int], object]) -> None:
    for k, path in enumerate(paths):
        header = pydicom.dcmread(path)
        how(header, k)
        header.save_as(path)


def images_in(folder: Path) -> list[pydicom.Dataset]:
    """In the order of their names."""
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def stored(image: pydicom.Dataset) -> np.ndarray:
    return image.pixel_array


def unsigned(header: pydicom.Dataset) -> None:
    """Store an image as unsigned numbers, with the same HU."""
    header.PixelData = (np.frombuffer(header.PixelData, "<i2").astype(np.int32) + 1024).astype("<u2").tobytes()
    header.PixelRepresentation, header.RescaleIntercept = 0, int(header.RescaleIntercept) - 1024


def hu(image: pydicom.Dataset) -> np.ndarray:
    return stored(image) * float(image.RescaleSlope) + float(image.RescaleIntercept)


def raw(path: Path, keyword: str) -> bytes:
    """The bytes of a value, as the file has them."""
    return pydicom.dcmread(path, stop_before_pixels=True).get_item(keyword).value


def refused(enhanced, source: Path, folder: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        write_series(enhanced, source, folder, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


@pytest.fixture
def series(tmp_path) -> Path:
    return tmp_path / "series"


@pytest.fixture
def made(tmp_path, series, tiny_model):
    """Enhance the series, write it to "enhanced", and give its images."""

    def make(**options) -> list[pydicom.Dataset]:
        scan = read_volume(series)
        enhanced = enhance(scan, **{"factor": 2, "model": str(tiny_model), "device": "cpu", **options})
        write_series(enhanced, series, tmp_path / "enhanced")
        return images_in(tmp_path / "enhanced")

    return make


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_model):
    """A plain series, what was made of it, and the folder of the new series."""
    folder = tmp_path_factory.mktemp("plain")
    clinical_series(folder / "series")
    enhanced = enhance(read_volume(folder / "series"), factor=2, model=str(tiny_model), device="cpu")
    write_series(enhanced, folder / "series", folder / "enhanced")
    return folder / "series", enhanced, folder / "enhanced"


@pytest.fixture
def images(plain) -> list[pydicom.Dataset]:
    return images_in(plain[2])


class TestStudy:
    def test_the_series_and_its_images_are_new(self, plain, images):
        sources = images_in(plain[0])
        assert len({image.SeriesInstanceUID for image in [*images, *sources]}) == 2
        assert len({image.SeriesInstanceUID for image in images}) == 1
        assert len({image.SOPInstanceUID for image in [*images, *sources]}) == len(images) + len(sources)
        assert all(image.SOPInstanceUID.is_valid and image.SOPInstanceUID.startswith("2.25.") for image in images)

    def test_a_second_time_gives_other_uids(self, plain, tmp_path, images):
        write_series(plain[1], plain[0], tmp_path / "again")
        again = images_in(tmp_path / "again")
        assert again[0].SeriesInstanceUID != images[0].SeriesInstanceUID
        assert not {image.SOPInstanceUID for image in again} & {image.SOPInstanceUID for image in images}

    def test_study_and_frame_of_reference_stay(self, images):
        assert {(image.StudyInstanceUID, image.FrameOfReferenceUID) for image in images} == {(STUDY, FRAME)}

    @pytest.mark.parametrize("keyword", PATIENT)
    def test_patient_and_study_are_copied_byte_for_byte(self, plain, keyword):
        source, _, folder = plain
        before = raw(next(source.iterdir()), keyword)
        assert [raw(path, keyword) for path in folder.iterdir()] == [before] * 11

    def test_names_of_several_character_sets_are_copied_byte_for_byte(self, series, made, tmp_path):
        names = {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"}
        clinical_series(series, **names, **dict.fromkeys(["StudyDescription", "ReferringPhysicianName"], "x"),
                        SeriesDescription="山田")  # fmt: skip
        images = made()
        for keyword in names:
            assert raw(tmp_path / "enhanced" / "XV00001.dcm", keyword) == raw(series / "IM0000.dcm", keyword)
        assert images[0].SeriesDescription == "山田 (x2, synthetic slices)"

    def test_what_the_character_set_cannot_mean_is_copied_too(self, series, made, tmp_path):
        paths = clinical_series(series)
        change(paths, lambda header, _: header.__delattr__("SpecificCharacterSet"))
        made()
        assert raw(tmp_path / "enhanced" / "XV00002.dcm", "PatientName") == raw(paths[0], "PatientName")

    def test_the_series_differs_from_its_source(self, images):
        assert {image.SeriesDescription for image in images} == {"Lunge dünn (x2, synthetic slices)"}
        assert {int(image.SeriesNumber) for image in images} == {3002}

    def test_a_long_description_is_shortened(self, series, made):
        clinical_series(series, SeriesDescription="n" * 64)
        (description,) = {image.SeriesDescription for image in made()}
        assert len(description) == 64
        assert description.endswith("n (x2, synthetic slices)")

    def test_time_is_in_the_zone_of_the_source(self, series, made):
        clinical_series(series, TimezoneOffsetFromUTC="-0930")
        image = made()[0]
        told = time.strptime(f"{image.ContentDate}{image.ContentTime[:6]}+0000", "%Y%m%d%H%M%S%z")
        assert time.time() - time.mktime(told) + time.timezone == pytest.approx(9.5 * 3600, abs=3600 * 0.4)

    def test_equipment_is_that_of_the_source_and_ours_beside_it(self, images):
        for image in images:
            assert image.Manufacturer == "Scanners"
            (ours,) = image.ContributingEquipmentSequence
            assert ours.Manufacturer == "XViewSynth"
            assert ours.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


class TestKinds:
    def test_every_image_is_marked_as_synthetic_or_observed(self, images):
        kinds = [image.ImageType[3] for image in images]
        assert kinds == [SYNTHETIC if n % 2 else OBSERVED for n in range(11)]
        assert {tuple(image.ImageType[:3]) for image in images} == {("DERIVED", "SECONDARY", "AXIAL")}

    def test_in_words_as_well(self, images):
        for image in images:
            assert image.ImageComments == COMMENTS[image.ImageType[3]]

    def test_how_it_was_derived(self, images):
        for image in images:
            synthetic = image.ImageType[3] == SYNTHETIC
            assert image.DerivationDescription.startswith("Synthetic" if synthetic else "Slice of the source")
            assert "small 1.0" in image.DerivationDescription
            assert ("DerivationCodeSequence" in image) == synthetic

    def test_added_noise_is_noted_on_synthetic_slices(self, series, made):
        clinical_series(series)
        told = ["noise" in image.DerivationDescription for image in made(texture="match")]
        assert told == [bool(n % 2) for n in range(11)]

    def test_comments_of_the_source_stay(self, series, made):
        clinical_series(series, ImageComments="Atemlage schlecht für Jörg")
        assert [image.ImageComments for image in made()[:2]] == [
            f"{COMMENTS[kind]} Atemlage schlecht für Jörg" for kind in (OBSERVED, SYNTHETIC)
        ]

    def test_images_refer_to_those_they_came_from(self, plain, images):
        source = [image.SOPInstanceUID for image in images_in(plain[0])]
        for n, image in enumerate(images):
            expected = {source[n // 2], source[(n + 1) // 2]}
            (references,) = image.ReferencedSeriesSequence
            assert {item.ReferencedSOPInstanceUID for item in image.SourceImageSequence} == expected
            assert {item.ReferencedSOPInstanceUID for item in references.ReferencedInstanceSequence} == expected
            assert {item.SpatialLocationsPreserved for item in image.SourceImageSequence} == {"NO" if n % 2 else "YES"}


class TestPixels:
    @pytest.mark.parametrize(("signed", "intercept"), [(True, 0), (False, -1024), (True, -1024)])
    def test_observed_slices_keep_their_stored_values(self, series, made, signed, intercept):
        clinical_series(series, signed=signed, intercept=intercept)
        for new, source in zip(made()[::2], images_in(series), strict=True):
            assert new.PixelData == source.PixelData

    def test_fractions_are_kept(self, series, made):
        clinical_series(series, slope=0.25)
        for new, source in zip(made()[::2], images_in(series), strict=True):
            assert new.PixelData == source.PixelData

    def test_of_images_that_store_differently_too(self, series, made):
        clinical_series(series, slope=[1, 0.25, 0.5, 1, 0.25, 2])
        images = made()
        for new, source in zip(images[::2], images_in(series), strict=True):
            np.testing.assert_array_equal(hu(new), hu(source))
        assert len({image.RescaleSlope for image in images}) > 1

    def test_synthetic_slices_are_those_that_were_computed(self, plain, images):
        for n, image in enumerate(images):
            np.testing.assert_array_equal(hu(image), plain[1].volume.voxels[n])

    def test_bits_and_padding_are_those_of_the_source(self, series, made):
        paths = clinical_series(series, signed=False, intercept=-1024)
        change(paths, lambda header, _: header.update({"BitsStored": 12, "HighBit": 11}))
        change(paths, lambda header, _: header.add_new("PixelPaddingValue", "US", 0))
        for image in made():
            assert (image.BitsStored, image.HighBit, image.PixelRepresentation) == (12, 11, 0)
            assert (image.PixelPaddingValue, image["PixelPaddingValue"].VR) == (0, "US")
            assert stored(image).max() < 2**12

    def test_missing_rescale_is_reported(self, series, made):
        clinical_series(series, RescaleSlope=None, RescaleIntercept=None)
        assert {(i.RescaleSlope, i.RescaleIntercept, i.RescaleType) for i in made()} == {(1, 0, "HU")}

    @pytest.mark.parametrize(
        ("signed", "bits", "slope", "intercept"),
        [(False, 12, 1, -1024), (True, 12, 1, 0), (False, 16, 1, -1024), (True, 16, 0.5, 0), (False, 12, -1, 2000)],
    )
    def test_predictions_beyond_the_encoding_are_clipped_and_never_wrap(
        self, series, tmp_path, tiny_model, signed, bits, slope, intercept
    ):
        scan = SMALL.with_voxels(SMALL.voxels.clip(-1000, 1000))
        paths = clinical_series(series, scan, signed=signed, slope=slope, intercept=intercept)
        change(paths, lambda header, _: header.update({"BitsStored": bits, "HighBit": bits - 1}))
        enhanced = enhance(read_volume(series), factor=2, model=str(tiny_model), device="cpu")
        voxels = enhanced.volume.voxels.astype(np.float32)
        voxels[1::2, ::2], voxels[1::2, 1::2] = 1e6, -1e6
        write_series(replace(enhanced, volume=enhanced.volume.with_voxels(voxels)), series, tmp_path / "enhanced")
        lowest = -(2 ** (bits - 1)) if signed else 0
        limits = sorted(slope * stored + intercept for stored in (lowest, lowest + 2**bits - 1))
        images = images_in(tmp_path / "enhanced")
        for image in images[1::2]:
            assert {*np.unique(hu(image)[::2])} == {limits[1]}
            assert {*np.unique(hu(image)[1::2])} == {limits[0]}
        np.testing.assert_array_equal([hu(image) for image in images[::2]], scan.voxels)

    def test_of_slices_that_are_stored_signed_and_unsigned(self, series, made):
        paths = clinical_series(series)
        change(paths[::2], lambda header, _: unsigned(header))
        images = made()
        np.testing.assert_array_equal([hu(image) for image in images[::2]], SMALL.voxels)
        assert {image.PixelRepresentation for image in images} == {0, 1}

    def test_of_compressed_slices_and_copies(self, series, made):
        paths = clinical_series(series)
        shutil.copy(paths[1], series / "copy")
        change(paths[2:4], lambda header, _: header.compress(RLELossless, generate_instance_uid=False))
        images = made()
        assert {image.file_meta.TransferSyntaxUID for image in images} == {ExplicitVRLittleEndian}
        np.testing.assert_array_equal([hu(image) for image in images[::2]], SMALL.voxels)

    def test_bits_that_do_not_count_are_not_copied(self, series, made):
        paths = clinical_series(series, signed=False, intercept=-1024)
        change(paths, lambda header, _: header.update({"BitsStored": 12, "HighBit": 11}))

        def litter(header: pydicom.Dataset, _: int) -> None:
            header.PixelData = (np.frombuffer(header.PixelData, "<u2") | 0xA000).tobytes()

        change(paths, litter)
        images = made()
        assert max(int(np.frombuffer(image.PixelData, "<u2").max()) for image in images) < 2**12
        np.testing.assert_array_equal([hu(image) for image in images[::2]], SMALL.voxels)

    def test_what_no_encoding_holds_is_refused(self, tmp_path, series, tiny_model):
        paths = clinical_series(series)
        enhanced = enhance(read_volume(series), factor=2, model=str(tiny_model), device="cpu")
        change(paths, lambda header, _: header.update({"BitsStored": 9, "HighBit": 8}))
        assert "none can hold" in refused(enhanced, series, tmp_path / "enhanced")
        assert os.listdir(tmp_path) == ["series"]


class TestGeometry:
    def assert_same_place(self, folder: Path, enhanced: Volume) -> None:
        """Every voxel of the series that is read lies where it lay before."""
        read = read_volume(folder)
        points = np.array(list(np.ndindex(read.shape_ijk)))
        there = enhanced.ras_to_ijk(read.ijk_to_ras(points))
        whole = np.rint(there).astype(int)
        assert np.abs(there - whole).max() < 1e-3
        values = enhanced.voxels[whole[:, 2], whole[:, 1], whole[:, 0]]
        np.testing.assert_array_equal(read.voxels[points[:, 2], points[:, 1], points[:, 0]], values)
        assert read.voxels.size == enhanced.voxels.size

    def enhanced(self, series: Path, folder: Path, tiny_model, **options) -> Volume:
        enhanced = enhance(read_volume(series), **{"factor": 2, "model": str(tiny_model), "device": "cpu", **options})
        write_series(enhanced, series, folder)
        return enhanced.volume

    def test_read_back_it_is_the_same_scan(self, plain):
        read = read_volume(plain[2])
        np.testing.assert_allclose(read.affine, plain[1].volume.affine, atol=1e-9)
        np.testing.assert_array_equal(read.voxels, plain[1].volume.voxels)

    def test_spacing_and_thickness(self, images):
        assert {(image.SpacingBetweenSlices, image.SliceThickness) for image in images} == {(2, 4)}

    def test_slices_that_are_averages_are_taken_apart(self, series, made, tmp_path):
        clinical_series(series)
        card = make_card(name="thick", acquisition="thick", network=NETWORK | {"thick": 1})
        model = save_model(tmp_path / "thick", make_network(thick=1), card)
        images = made(model=model, profile="box")
        assert {image.ImageType[3] for image in images} == {SYNTHETIC}
        assert {(image.SpacingBetweenSlices, image.SliceThickness) for image in images} == {(2, 2)}
        assert all(len(image.SourceImageSequence) == 2 for image in images)

    @pytest.mark.parametrize("axis", ["I", "J", "K"])
    def test_any_axis(self, series, tmp_path, tiny_model, axis):
        turned = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
        for name, directions in (("series", np.eye(3)), ("oblique", turned * np.linalg.det(turned))):
            clinical_series(tmp_path / name, replace(SMALL, affine=affine_from(directions=directions)))
            new = tmp_path / f"{name}-enhanced"
            self.assert_same_place(new, self.enhanced(tmp_path / name, new, tiny_model, axis=axis))

    def test_other_axes_show_the_patient_upright(self, series, made):
        clinical_series(series)
        for image in made(axis="J"):
            assert [float(x) for x in image.ImageOrientationPatient] == [1, 0, 0, 0, 0, -1]
            assert image.SliceThickness == pytest.approx(0.8)
            assert len(image.SourceImageSequence) == 6
        assert image.ImageType[3] == OBSERVED

    def test_positions_that_are_rounded(self, series, tmp_path, tiny_model):
        paths = clinical_series(series, replace(SMALL, affine=affine_from((0.8, 0.8, 1.25))))
        change(paths, lambda header, k: setattr(header, "ImagePositionPatient", [12.5, -7.25, round(1.25 * k, 1)]))
        self.assert_same_place(tmp_path / "new", self.enhanced(series, tmp_path / "new", tiny_model))

    @pytest.mark.parametrize(("text", "expected"), [("4 mm", 4), ("4,0", 4), ("thick", None)])
    def test_a_thickness_that_is_no_number_is_not_copied(self, series, made, text, expected):
        for path in clinical_series(series, thickness="7777777777777777"):
            path.write_bytes(path.read_bytes().replace(b"7777777777777777", text.encode().ljust(16)))
        assert {image.SliceThickness for image in made()} == {expected}

    def test_thicknesses_that_differ_little_are_one_between_slices(self, series, made):
        change(clinical_series(series), lambda header, k: setattr(header, "SliceThickness", [4, 4.01][k % 2]))
        assert [image.SliceThickness for image in made()[:4]] == [4, pytest.approx(4.005), 4.01, pytest.approx(4.005)]

    def test_a_spacing_that_is_no_fraction(self, series, tmp_path, tiny_model):
        clinical_series(series)
        self.assert_same_place(
            tmp_path / "new", self.enhanced(series, tmp_path / "new", tiny_model, factor=None, spacing=1.5)
        )
        kinds = [image.ImageType[3] for image in images_in(tmp_path / "new")]
        assert kinds == [SYNTHETIC if n % 8 else OBSERVED for n in range(len(kinds))]

    def test_images_are_numbered_as_in_the_source(self, series, made, tmp_path):
        paths = clinical_series(series)
        change(paths, lambda header, k: setattr(header, "InstanceNumber", 6 - k))
        images = made()
        assert [image.InstanceNumber for image in images] == list(range(1, 12))
        assert images[0].ImagePositionPatient[2] > images[-1].ImagePositionPatient[2]

    def test_locations_follow_those_of_the_source(self, series, made):
        change(clinical_series(series), lambda header, k: setattr(header, "SliceLocation", f"{-100 - 4 * k}"))
        assert [float(image.SliceLocation) for image in made()] == [-100 - 2 * n for n in range(11)]


class TestCopied:
    def test_elements_of_one_image_stay_with_its_slice(self, series, made):
        change(clinical_series(series), lambda header, k: setattr(header, "XRayTubeCurrent", 100 + k // 2))
        told = [image.get("XRayTubeCurrent") for image in made()]
        assert told == [100, 100, 100, None, 101, 101, 101, None, 102, 102, 102]

    def test_what_must_not_be_missing_is_empty(self, series, made):
        change(clinical_series(series, KVP=None), lambda header, k: setattr(header, "AcquisitionNumber", k))
        for image in made():
            assert image.KVP is None
            assert (image.AcquisitionNumber is None) == (image.ImageType[3] == SYNTHETIC)

    def test_windows_are_kept(self, series, made):
        change(clinical_series(series), lambda header, k: setattr(header, "WindowCenter", [40, k]))
        assert [image.WindowCenter[1] for image in made()] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]

    def test_private_tags_go_nested_ones_too(self, series, made):
        def add(header: pydicom.Dataset, _: int) -> None:
            code = pydicom.Dataset()
            code.CodeValue = "1"
            for holder in (header, code):
                holder.private_block(0x29, "SECRET", create=True).add_new(1, "LO", "secret")
            header.ProcedureCodeSequence = [code]

        paths = clinical_series(series)
        change(paths, add)
        assert b"secret" in paths[0].read_bytes()
        for image in made():
            assert b"secret" not in Path(image.filename).read_bytes()
            assert image.ProcedureCodeSequence[0].CodeValue == "1"

    def test_what_would_be_wrong_goes(self, series, made):
        wrong = {
            "SmallestImagePixelValue": ("SS", 0),
            "LargestImagePixelValue": ("SS", 9),
            "ImagesInAcquisition": ("IS", 6),
            0x60003000: ("OW", bytes(4)),
        }
        paths = clinical_series(series)
        for tag, value in wrong.items():
            change(paths, lambda header, _, tag=tag, value=value: header.add_new(tag, *value))
        for image in made():
            assert [tag for tag in wrong if tag in image] == []

    def test_what_comes_from_a_lossy_image_stays_lossy(self, series, made):
        def compress(header: pydicom.Dataset, k: int) -> None:
            header.LossyImageCompression = "01" if k == 0 else "00"
            if k == 0:
                header.LossyImageCompressionRatio, header.LossyImageCompressionMethod = 10, "ISO_10918_1"

        change(clinical_series(series), compress)
        images = made()
        assert [image.LossyImageCompression for image in images] == ["01", "01", *["00"] * 9]
        assert images[1].LossyImageCompressionRatio == 10

    @pytest.mark.parametrize(
        "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian], ids=lambda s: s.name
    )
    def test_from_any_transfer_syntax(self, series, made, syntax):
        def write(header: pydicom.Dataset, _: int) -> None:
            if syntax == ExplicitVRBigEndian:
                header.PixelData = header.pixel_array.astype(">i2").tobytes()
            header.file_meta.TransferSyntaxUID = syntax
            header.add_new("PixelPaddingValue", "SS", -1024)

        paths = clinical_series(series)
        for k, path in enumerate(paths):
            header = pydicom.dcmread(path)
            write(header, k)
            pydicom.dcmwrite(path, header, enforce_file_format=True)
        images = made()
        assert {image.file_meta.TransferSyntaxUID for image in images} == {ExplicitVRLittleEndian}
        assert {str(image.PatientName) for image in images} == {"Müller^Jörg"}
        assert {image.PixelPaddingValue for image in images} == {-1024}
        np.testing.assert_array_equal([hu(image) for image in images[::2]], SMALL.voxels)


class TestRefusals:
    def test_a_scan_that_is_no_series(self, plain, tmp_path):
        (tmp_path / "scan.nrrd").write_text("")
        assert "is no DICOM series" in refused(plain[1], tmp_path / "scan.nrrd", tmp_path / "new")

    def test_images_that_are_not_ct(self, plain, tmp_path, series):
        clinical_series(series, SOPClassUID=MRImageStorage)
        assert "is MR, but models are for CT" in refused(plain[1], series, tmp_path / "new")

    def test_ct_that_was_stored_as_screenshots(self, plain, tmp_path, series):
        clinical_series(series, SOPClassUID=SecondaryCaptureImageStorage)
        assert "not CT images" in refused(plain[1], series, tmp_path / "new")

    @pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"])
    def test_images_that_belong_nowhere(self, plain, tmp_path, series, keyword):
        clinical_series(series, **{keyword: None})
        assert f"have no {keyword}" in refused(plain[1], series, tmp_path / "new")

    def test_images_of_two_studies(self, plain, tmp_path, series):
        change(clinical_series(series), lambda header, k: setattr(header, "StudyInstanceUID", f"{STUDY}.{1 + k // 3}"))
        assert "differ in their StudyInstanceUID" in refused(plain[1], series, tmp_path / "new")

    def test_another_scan(self, plain, tmp_path, series):
        clinical_series(series, Volume(anatomy((4, 14, 12)), affine_from()))
        assert "not the scan that was enhanced" in refused(plain[1], series, tmp_path / "new")
        assert os.listdir(tmp_path) == ["series"]

    def test_a_damaged_header(self, plain, tmp_path, series):
        path = clinical_series(series, SliceLocation="-12.345678")[2]
        path.write_bytes(path.read_bytes().replace(b"-12.345678", b"-12.3x5678"))
        assert "damaged DICOM headers" in refused(plain[1], series, tmp_path / "new")

    def test_a_folder_that_exists(self, plain, tmp_path):
        (tmp_path / "new").mkdir()
        assert "exists already" in refused(plain[1], plain[0], tmp_path / "new")

    @pytest.mark.parametrize("name", ["notes.txt", "IM0001.dcm"])
    def test_a_folder_with_other_files_even_on_request(self, plain, tmp_path, name):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / name).write_text("precious")
        assert "choose another name" in refused(plain[1], plain[0], tmp_path / "new", overwrite=True)
        assert (tmp_path / "new" / name).read_text() == "precious"

    def test_the_series_itself(self, plain):
        assert "is the input" in refused(plain[1], plain[0], plain[0], overwrite=True)


class TestWhole:
    def test_replaces_a_series_of_ours_on_request(self, plain, tmp_path):
        write_series(plain[1], plain[0], tmp_path / "new")
        (tmp_path / "new" / "XV99999.dcm").write_text("of a longer scan")
        write_series(plain[1], plain[0], tmp_path / "new", overwrite=True)
        assert os.listdir(tmp_path) == ["new"]
        assert len(os.listdir(tmp_path / "new")) == 11

    def test_a_full_disk_leaves_what_was_there(self, plain, tmp_path, monkeypatch):
        write_series(plain[1], plain[0], tmp_path / "new")
        before = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
        write = pydicom.Dataset.save_as

        def full(self, path, **options):
            if self.InstanceNumber == 5:
                raise OSError(28, "No space left on device")
            write(self, path, **options)

        monkeypatch.setattr(pydicom.Dataset, "save_as", full)
        sentence = refused(plain[1], plain[0], tmp_path / "new", overwrite=True)
        assert f"Cannot write {tmp_path / 'new'} completely" in sentence
        assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == before
        assert os.listdir(tmp_path) == ["new"]

    def test_can_be_stopped_between_slices(self, plain, tmp_path):
        asked = []

        def stop() -> None:
            asked.append(1)
            if len(asked) == 4:
                raise Cancelled

        with pytest.raises(Cancelled):
            write_files(plain[1], open_source(plain[0]), tmp_path, stop)
        assert len(os.listdir(tmp_path)) == 3


class TestCommand:
    @pytest.fixture
    def run(self, plain, tmp_path, tiny_model, monkeypatch):
        monkeypatch.setenv("XVIEWSYNTH_MODELS", str(tmp_path / "models"))

        def run(*options: str, scan: Path = plain[0]) -> int:
            output = str(tmp_path / "new")
            common = ["--model", str(tiny_model), "--factor", "2", "--device", "cpu", "--progress", "none"]
            return main(["enhance", str(scan), output, *common, *options])

        return run

    def test_writes_a_series(self, run, plain, tmp_path, capsys):
        assert run("--dicom") == 0
        np.testing.assert_array_equal(read_volume(tmp_path / "new").voxels, plain[1].volume.voxels)
        assert f"Wrote {tmp_path / 'new'} in " in capsys.readouterr().out

    def test_beside_the_other_outputs(self, run, tmp_path):
        assert run("--dicom", "--disagreement", str(tmp_path / "d.nrrd"), "--report", str(tmp_path / "r.json")) == 0
        assert sorted(os.listdir(tmp_path)) == ["d.nrrd", "new", "r.json"]

    def test_refuses_another_scan_before_any_work(self, run, tmp_path, capsys):
        (tmp_path / "scan.nrrd").write_text("no scan")
        assert run("--dicom", scan=tmp_path / "scan.nrrd") == 2
        assert "is no DICOM series" in capsys.readouterr().err

    def test_an_output_that_could_not_be_renamed_takes_the_folder_back(self, run, tmp_path, monkeypatch):
        report = tmp_path / "r.json"
        rename = os.rename

        def fail(old, new):
            if Path(new) == report:
                raise OSError(5, "Input/output error")
            rename(old, new)

        monkeypatch.setattr(os, "link", fail)
        monkeypatch.setattr(os, "rename", fail)
        assert run("--dicom", "--report", str(report)) == 2
        assert os.listdir(tmp_path) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals between processes")
    def test_cancelled_it_leaves_nothing(self, plain, tmp_path, tiny_model):
        delay = (
            "import sys, time\n"
            "from XViewSynthLib import __main__\n"
            "from XViewSynthLib.io.dicom import writing as dicom_writing\n"
            "save = dicom_writing._save\n"
            "def slow(*a):\n    save(*a)\n    print('at one', flush=True)\n    time.sleep(60)\n"
            "dicom_writing._save = slow\n"
            "sys.exit(__main__.main())\n"
        )
        command = ["enhance", str(plain[0]), "new", "--dicom", "--model", str(tiny_model), "--factor", "2"]
        with subprocess.Popen(
            [sys.executable, "-c", delay, *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "XViewSynth")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while "at one" not in (line := process.stdout.readline()):
                assert line, process.stderr.read()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=5) == 3
        assert os.listdir(tmp_path) == []


class TestValidators:
    """Tools that are not ours find nothing against it."""

    @pytest.fixture(params=["plain", "sagittal"])
    def folder(self, request, plain, tmp_path, tiny_model) -> Path:
        if request.param == "plain":
            return plain[2]
        enhanced = enhance(read_volume(plain[0]), factor=2, axis="I", model=str(tiny_model), device="cpu")
        write_series(enhanced, plain[0], tmp_path / "sagittal")
        return tmp_path / "sagittal"

    @pytest.mark.archive
    @needs("dciodvfy")
    def test_dciodvfy_reports_no_error(self, folder):
        for path in sorted(folder.iterdir())[:4]:
            said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True).stderr
            assert "CTImage" in said
            assert [line for line in said.splitlines() if line.startswith(("Error", "Abort"))] == []

    @pytest.mark.archive
    @needs("dcmftest")
    def test_dcmtk_takes_the_files_for_dicom(self, folder):
        said = subprocess.run(["dcmftest", *map(str, folder.iterdir())], capture_output=True, text=True)
        assert said.returncode == 0
        assert all(line.startswith("yes") for line in said.stdout.splitlines())

    @pytest.mark.archive
    @needs("dcm2json")
    def test_dcmtk_reads_what_was_written(self, folder):
        path = folder / "XV00002.dcm"
        said = subprocess.run(["dcm2json", str(path)], capture_output=True, check=True)
        read = json.loads(said.stdout.decode("utf-8", "replace"))
        assert said.stderr == b""
        assert read["00080008"]["Value"] == ["DERIVED", "SECONDARY", "AXIAL", "SYNTHETIC"]
        assert read["0020000D"]["Value"] == [STUDY]


@pytest.mark.archive
@needs("Orthanc")
class TestArchive:
    """A real archive takes the series, files it in the study, and gives it back as it was."""

    @pytest.fixture
    def archive(self, tmp_path) -> Iterator[Archive]:
        with Archive(tmp_path) as archive:
            yield archive

    def test_files_the_series_in_the_study_and_returns_it_bit_for_bit(self, archive, plain):
        kept = {path: archive.add(path) for folder in (plain[0], plain[2]) for path in sorted(folder.iterdir())}
        (study,) = archive.ask("/studies?expand")
        assert study["MainDicomTags"]["StudyInstanceUID"] == STUDY
        assert study["PatientMainDicomTags"]["PatientName"] == "Müller^Jörg"
        assert sorted(len(archive.ask(f"/series/{one}")["Instances"]) for one in study["Series"]) == [6, 11]
        for path, name in kept.items():
            assert archive.get(f"/instances/{name}/file") == path.read_bytes()

    @pytest.mark.archive
    @needs("storescu")
    def test_takes_it_over_the_network_protocol(self, archive, plain):
        files = [str(path) for path in sorted(plain[2].iterdir())]
        subprocess.run(["storescu", "127.0.0.1", str(archive.dicom_port), *files], check=True, timeout=60)
        (series,) = archive.ask("/series?expand")
        assert len(series["Instances"]) == 11
        sent = {pydicom.dcmread(file).SOPInstanceUID: pydicom.dcmread(file).PixelData for file in files}
        for name in series["Instances"]:
            image = pydicom.dcmread(pydicom.filebase.DicomBytesIO(archive.get(f"/instances/{name}/file")))
            assert image.PixelData == sent[image.SOPInstanceUID]
