"""JPEG, JPEG-LS and JPEG 2000 in DICOM: decoded apart, refused where a stream is cut or contradicts its header."""

from __future__ import annotations

import os
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_fragments
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1

from scans import affine_from, anatomy, write_dicom_series
from XViewSynthLib import InputError, Volume, read_volume
from XViewSynthLib.io.dicom.jpeg import JpegDecoder
from XViewSynthLib.io.dicom.series import read_series
from XViewSynthLib.io.reading import read_header

SMALL = Volume(anatomy((4, 24, 20)), affine_from(), slice_thickness=4.0)
NAMES = {JPEGLosslessSV1: "JPEG", JPEG2000Lossless: "JPEG2000"}


def stream(pixels: np.ndarray, syntax: str, folder: Path) -> bytes:
    """An image as SimpleITK compresses it."""
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor(NAMES[syntax])
    writer.SetFileName(str(folder / "compressed.dcm"))
    writer.Execute(sitk.GetImageFromArray(pixels[None]))
    written = pydicom.dcmread(folder / "compressed.dcm")
    assert written.file_meta.TransferSyntaxUID == syntax
    (folder / "compressed.dcm").unlink()
    return list(generate_fragments(written.PixelData))[1]


def put(path: Path, fragments: list[bytes], syntax: str | None = None, **tags: object) -> None:
    """Give a file other compressed pixel data, in these fragments."""
    image = pydicom.dcmread(path)
    if syntax is not None:
        image.file_meta.TransferSyntaxUID = syntax
    for name, value in tags.items():
        setattr(image, name, value)
    even = [fragment + b"\0" * (len(fragment) % 2) for fragment in fragments]
    data = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(part)) + part for part in [b"", *even])
    image.add_new(0x7FE00010, "OB", data)
    image["PixelData"].is_undefined_length = True
    image.save_as(path, enforce_file_format=True)


def fragments_of(path: Path) -> list[bytes]:
    return list(generate_fragments(pydicom.dcmread(path).PixelData))[1:]


def refused(paths: list[Path]) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(paths[0].parent)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert sentence.isprintable()
    return sentence


@pytest.fixture(params=[JPEGLosslessSV1, JPEG2000Lossless], ids=lambda syntax: NAMES[syntax])
def syntax(request) -> str:
    return request.param


@pytest.fixture
def paths(tmp_path, syntax) -> list[Path]:
    """The files of a compressed series in the folder "series"."""
    paths = write_dicom_series(tmp_path / "series", SMALL)
    for k, path in enumerate(paths):
        put(path, [stream(SMALL.voxels[k], syntax, tmp_path)], syntax)
    return paths


class TestDecoded:
    def test_values_are_those_that_were_compressed(self, paths):
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, SMALL.voxels)

    def test_several_fragments_are_one_stream(self, paths):
        (whole,) = fragments_of(paths[1])
        put(paths[1], [whole[:100], whole[100:300], whole[300:]])
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, SMALL.voxels)

    def test_bits_rescale_and_photometric_interpretation(self, tmp_path, syntax):
        paths = write_dicom_series(tmp_path / "series", SMALL)
        for k, path in enumerate(paths):
            stored = (SMALL.voxels[k] + 1024).astype(np.uint16)
            put(
                path,
                [stream(stored, syntax, tmp_path)],
                syntax,
                PixelRepresentation=0,
                BitsStored=12,
                HighBit=11,
                RescaleIntercept=-1024,
                PhotometricInterpretation="MONOCHROME1",
            )
        read = read_volume(tmp_path / "series").voxels
        assert read.dtype == np.int16
        np.testing.assert_array_equal(read, SMALL.voxels)

    def test_only_some_slices_may_be_compressed(self, tmp_path, syntax):
        paths = write_dicom_series(tmp_path / "series", SMALL)
        put(paths[2], [stream(SMALL.voxels[2], syntax, tmp_path)], syntax)
        np.testing.assert_array_equal(read_volume(tmp_path / "series").voxels, SMALL.voxels)

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
    def test_names_that_are_not_utf_8(self, paths):
        folder = Path(os.fsdecode(os.fsencode(paths[0].parent.parent) + b"/Sch\xe4del"))
        paths[0].parent.rename(folder)
        (folder / paths[0].name).rename(Path(os.fsdecode(os.fsencode(folder) + b"/\xf6\n")))
        np.testing.assert_array_equal(read_volume(folder).voxels, SMALL.voxels)

    @pytest.mark.parametrize(
        "name",
        [
            *("JPGExtended.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small_jp2klossless.dcm"),
            *("MR_small_jpeg_ls_lossless.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm"),
        ],
    )
    def test_streams_of_other_encoders(self, tmp_path, name):
        sample = pydicom.dcmread(get_testdata_file(name, download=False))
        pixels = {
            tag: sample[tag].value
            for tag in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
        }
        fragments = list(generate_fragments(sample.PixelData))[1:]
        paths = write_dicom_series(tmp_path / "series", SMALL)
        for path in paths:
            put(path, fragments, sample.file_meta.TransferSyntaxUID, **pixels)
        (tmp_path / "foreign.dcm").write_bytes(paths[0].read_bytes())
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "foreign.dcm"), imageIO="GDCMImageIO"))
        read = read_volume(tmp_path / "series").voxels
        np.testing.assert_array_equal(read, [expected[0]] * 4)


class TestRefused:
    @pytest.mark.parametrize("left", [-1, -2, -3, -200, 30, 3, 0])
    def test_a_stream_that_is_cut_short(self, paths, left):
        (whole,) = fragments_of(paths[1])
        whole = whole.rstrip(b"\0")
        put(paths[1], [whole[:left]])
        sentence = refused(paths)
        assert str(paths[1]) in sentence
        assert "compressed pixel data that is damaged or cut short" in sentence or "has no pixel data" in sentence

    def test_a_file_that_is_cut_short(self, paths):
        whole = paths[0].read_bytes()
        for lost in (1, 7, 9, 60, 300):
            paths[0].write_bytes(whole[:-lost])
            assert str(paths[0]) in refused(paths)

    def test_the_end_of_the_sequence_may_be_missing(self, paths):
        paths[0].write_bytes(paths[0].read_bytes()[:-8])
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, SMALL.voxels)

    @pytest.mark.parametrize(
        "tags",
        [
            {"Rows": 20},
            {"Rows": 48},
            {"Columns": 40},
            {"Rows": 20, "Columns": 24},
            {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
            {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31},
        ],
        ids=str,
    )
    def test_a_header_that_contradicts_the_stream(self, paths, tags):
        for path in paths:
            image = pydicom.dcmread(path)
            image.update(tags)
            image.save_as(path)
        assert f"{paths[0]} has 24 x 20 pixels of 1 x 16 bits in its compressed stream, but" in refused(paths)

    def test_one_header_that_contradicts_its_stream(self, paths):
        image = pydicom.dcmread(paths[2])
        image.update({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7})
        image.save_as(paths[2])
        assert f"{paths[2]} has 24 x 20 pixels of 1 x 16 bits in its compressed stream, but" in refused(paths)

    def test_another_size_of_all_images_than_files_can_hold(self, paths):
        for path in paths:
            image = pydicom.dcmread(path)
            image.Rows = image.Columns = 65535
            image.save_as(path)
        assert "has 65535 x 65535 pixels (Rows x Columns), too many for files of that size" in refused(paths)

    def test_no_fragments(self, paths):
        put(paths[1], [])
        assert f"{paths[1]} has no pixel data" in refused(paths)

    def test_a_stream_of_another_kind(self, tmp_path, paths, syntax):
        other = next(name for name in NAMES if name != syntax)
        put(paths[1], [stream(SMALL.voxels[1], other, tmp_path)])
        assert "compressed pixel data that is damaged" in refused(paths)

    def test_noise_between_the_markers(self, paths):
        (whole,) = fragments_of(paths[1])
        end = whole.rindex(b"\xff\xd9")
        start = 90
        put(paths[1], [whole[:start] + b"\xff\x00" * ((end - start) // 2) + whole[end:]])
        # Where a decoder makes something of it, that is an image of that size.
        try:
            read = read_volume(paths[0].parent)
        except InputError:
            return
        assert read.voxels.shape == SMALL.voxels.shape

    def test_complaints_of_the_library_count(self, tmp_path):
        paths = write_dicom_series(tmp_path / "series", SMALL)
        for k, path in enumerate(paths):
            put(path, [stream(SMALL.voxels[k], JPEGLosslessSV1, tmp_path)], JPEGLosslessSV1)
        whole = fragments_of(paths[1])[0].rstrip(b"\0")
        put(paths[1], [whole[:-150] + b"\xff\xd9"])
        assert f"{paths[1]} has compressed pixel data that is damaged" in refused(paths)

    def test_headers_alone_are_fine(self, paths):
        put(paths[1], [b"\xff\xd8"])
        assert read_header(paths[0].parent).voxels.shape == SMALL.voxels.shape


class TestProcess:
    def test_one_decodes_all_and_ends_with_them(self, paths):
        _, stack = read_series(paths[0].parent)
        with JpegDecoder() as decoder:
            decoded = [decoder.decode(image.pixels) for image in stack.slices]
            (child,) = psutil.Process().children()
        np.testing.assert_array_equal(decoded, SMALL.voxels)
        assert not child.is_running()

    def test_a_crash_costs_the_file_and_leaves_nothing(self, paths, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        _, stack = read_series(paths[0].parent)
        with JpegDecoder() as decoder:
            decoder.decode(stack.slices[0].pixels)
            (child,) = psutil.Process().children()
            child.kill()
            child.wait()
            with pytest.raises(InputError, match="IM0001.dcm has compressed pixel data that is damaged"):
                decoder.decode(stack.slices[1].pixels)
        assert os.listdir(tmp_path) == ["series"]

    def test_none_is_started_where_nothing_is_compressed(self, tmp_path):
        paths = write_dicom_series(tmp_path / "series", SMALL)
        with JpegDecoder() as decoder:
            read_volume(paths[0].parent)
            assert psutil.Process().children() == []
            assert decoder._process is None
