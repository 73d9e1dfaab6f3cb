"""DICOM files: which are recognised, and what is read of a header, damaged ones included."""

from __future__ import annotations

import io
import os
import random
import zlib
from contextlib import suppress

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian

from scans import affine_from, anatomy, write_dicom, write_dicom_series
from XViewSynthLib import InputError, Volume, read_volume
from XViewSynthLib.cli.main import main
from XViewSynthLib.io.dicom.files import read_header
from XViewSynthLib.io.dicom.header import number_in
from XViewSynthLib.io.dicom.series import is_dicom
from XViewSynthLib.io.finding import find_scans

SMALL = Volume(anatomy((5, 12, 10)), affine_from(), slice_thickness=4.0)


@pytest.fixture
def series(tmp_path):
    """The files of a series in the folder "series"."""
    return write_dicom_series(tmp_path / "series", SMALL)


def without_prefix(path, implicit, little=True, meta=False) -> None:
    """Write a file again as a bare data set, or with file meta information but without preamble and prefix."""
    image = pydicom.dcmread(path)
    if not little:
        image.PixelData = image.pixel_array.astype(">i2").tobytes()
    stored = io.BytesIO()
    bare = pydicom.Dataset(image)
    if meta:
        with_meta = io.BytesIO()
        image.save_as(with_meta, enforce_file_format=True)
        path.write_bytes(with_meta.getvalue()[132:])
        return
    bare.save_as(stored, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    path.write_bytes(stored.getvalue())


def changed(path, **tags) -> None:
    image = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(image, name, value)
    image.save_as(path)


def refused(path) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert sentence.isprintable()
    return sentence


class TestWithoutPrefix:
    @pytest.mark.parametrize(
        "written",
        [
            {"implicit": True},
            {"implicit": False},
            {"implicit": False, "little": False},
            {"implicit": False, "meta": True},
        ],
        ids=["implicit", "explicit", "big endian", "with meta information"],
    )
    def test_is_read_and_found(self, series, written):
        for path in series:
            without_prefix(path, **written)
        folder = series[0].parent
        np.testing.assert_array_equal(read_volume(folder).voxels, SMALL.voxels)
        assert [scan.usable for scan in find_scans(folder)] == [True]

    def test_prefix_without_meta_information(self, series):
        for path in series:
            without_prefix(path, implicit=True)
            path.write_bytes(bytes(128) + b"DICM" + path.read_bytes())
        np.testing.assert_array_equal(read_volume(series[0].parent).voxels, SMALL.voxels)

    def test_among_files_with_it(self, series):
        without_prefix(series[2], implicit=True)
        np.testing.assert_array_equal(read_volume(series[0].parent).voxels, SMALL.voxels)

    def test_can_be_written_as_dicom(self, tmp_path, tiny_model):
        study = {"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4"}
        for path in write_dicom_series(tmp_path / "series", SMALL, **study):
            without_prefix(path, implicit=True)
        enhanced = ["enhance", str(tmp_path / "series"), str(tmp_path / "new"), "--dicom", "--factor", "2"]
        assert main([*enhanced, "--model", str(tiny_model), "--device", "cpu", "--progress", "none"]) == 0
        np.testing.assert_array_equal(read_volume(tmp_path / "new").voxels[::2], SMALL.voxels)


class TestForeignFiles:
    @pytest.mark.parametrize(
        "start",
        [
            b"",
            b"\x08",
            b"\x08\x00",
            bytes(4096),
            b"\x08\x00\x05\x00" + bytes(4092),
            b"\x08\x00\x05\x00CS" + b"\xff" * 300,
            b"\x02\x00\x00\x00UL\x04\x00\x00\x00\x00\x00",
            b"\x08\x00" * 2048,
            b"PK\x03\x04" + bytes(500),
            "Häuser\n".encode() * 100,
        ],
    )
    def test_are_no_dicom(self, tmp_path, start):
        (tmp_path / "file").write_bytes(start)
        assert not is_dicom(tmp_path / "file")

    @given(st.binary(max_size=300), st.sampled_from([b"", b"\x08\x00", b"\x02\x00", b"\x00\x08"]))
    def test_random_bytes_are_no_dicom(self, tmp_path_factory, data, start):
        file = tmp_path_factory.getbasetemp() / "random"
        file.write_bytes(start + data)
        assert not is_dicom(file)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert "is a pipe and not a file" in refused(tmp_path / "pipe")

    def test_are_passed_over(self, series):
        (series[0].parent / "a").write_bytes(b"\x08\x00\x05\x00CS" + random.Random(0).randbytes(9000))
        np.testing.assert_array_equal(read_volume(series[0].parent).voxels, SMALL.voxels)


class TestDamage:
    def test_any_cut_gives_a_sentence(self, series):
        whole = series[-1].read_bytes()
        for length in range(132, len(whole) - 1, 23):
            series[-1].write_bytes(whole[:length])
            assert refused(series[0].parent).startswith(str(series[-1]))

    def test_garbage_after_the_prefix_gives_a_sentence(self, series):
        for seed in range(20):
            series[1].write_bytes(bytes(128) + b"DICM" + random.Random(seed).randbytes(2000))
            assert str(series[1]) in refused(series[0].parent)

    def test_a_byte_that_changed_gives_a_scan_or_a_sentence(self, series):
        whole = series[1].read_bytes()
        chance = random.Random(1)
        for _ in range(150):
            data = bytearray(whole)
            data[chance.randrange(132, len(whole) - 240)] ^= 1 << chance.randrange(8)
            series[1].write_bytes(data)
            # What passes is a scan of that size; what does not, is an InputError and nothing else.
            with suppress(InputError):
                assert read_volume(series[0].parent).voxels.shape[1:] == SMALL.voxels.shape[1:]

    def test_an_object_of_another_kind_may_be_damaged(self, series):
        write_dicom(series[0].parent / "report", None, SOPInstanceUID="1.2.3.4.5", ContentLabel="X" * 16)
        whole = (series[0].parent / "report").read_bytes()
        (series[0].parent / "report").write_bytes(whole[:-8])
        np.testing.assert_array_equal(read_volume(series[0].parent).voxels, SMALL.voxels)

    def test_a_length_beyond_all_memory_is_not_allocated(self, series):
        whole = series[1].read_bytes()
        uid = whole.index(b"\x08\x00\x18\x00UI")
        series[1].write_bytes(whole[:uid] + b"\x08\x00\x18\x00UT\x00\x00\xf0\xff\xff\xff" + whole[uid + 8 :])
        assert str(series[1]) in refused(series[0].parent)


class TestDeflated:
    def deflate(self, path, data_set=lambda data: data) -> None:
        image = pydicom.dcmread(path)
        plain = io.BytesIO()
        pydicom.Dataset(image).save_as(plain, implicit_vr=False, little_endian=True, enforce_file_format=False)
        meta = io.BytesIO()
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        pydicom.filewriter.write_file_meta_info(meta, image.file_meta)
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = packer.compress(data_set(plain.getvalue())) + packer.flush()
        path.write_bytes(bytes(128) + b"DICM" + meta.getvalue() + packed)

    def test_is_read(self, series):
        for path in series:
            self.deflate(path)
        np.testing.assert_array_equal(read_volume(series[0].parent).voxels, SMALL.voxels)

    def test_grows_within_bounds_only(self, series):
        self.deflate(series[0], lambda data: data + bytes(100 * 2**20))
        assert "damaged" in refused(series[0].parent)

    def test_pixels_that_end_too_early(self, series):
        self.deflate(series[0], lambda data: data[:-20])
        assert f"{series[0]} ends within its pixel data" in refused(series[0].parent)

    @pytest.mark.parametrize("left", [-1, -40, 400])
    def test_cut_short(self, series, left):
        self.deflate(series[0])
        series[0].write_bytes(series[0].read_bytes()[:left])
        assert "damaged" in refused(series[0].parent)


class TestValues:
    def test_headers_are_read_without_pixels(self, series):
        header = read_header(series[0])
        assert "PixelData" not in header.dataset
        assert header.pixels.length == 12 * 10 * 2
        assert series[0].read_bytes()[header.pixels.offset :] == SMALL.voxels[0].astype("<i2").tobytes()

    @given(st.floats(-1e8, 1e8))
    def test_any_number_is_read_back(self, number):
        assert number_in(str(number)) == number
        assert number_in(f" {number:.3f} ".replace(".", ",")) == float(f"{number:.3f}")

    @pytest.mark.parametrize("text", ["", "nan", "inf", "-inf", "1e400", "1e10", "0x10", "1_0", "5 mm", "1.2.3", "١"])
    def test_what_is_no_number(self, text):
        assert number_in(text) is None

    def test_elements_of_unknown_representation_are_read(self, series):
        for path in series:
            data = path.read_bytes()
            for tag in (b"\x28\x00\x10\x00US", b"\x28\x00\x11\x00US", b"\x20\x00\x32\x00DS"):
                place = data.index(tag)
                length = data[place + 6 : place + 8]
                data = data[: place + 4] + b"UN\0\0" + length + b"\0\0" + data[place + 8 :]
            path.write_bytes(data)
        np.testing.assert_array_equal(read_volume(series[0].parent).voxels, SMALL.voxels)

    def test_private_elements_are_passed_over(self, series):
        for path in series:
            image = pydicom.dcmread(path)
            image.private_block(0x19, "SIEMENS CT", create=True).add_new(0x10, "UN", b"\xff" * 4000)
            image.save_as(path)
        np.testing.assert_array_equal(read_volume(series[0].parent).voxels, SMALL.voxels)

    def test_a_file_that_is_implicit_but_states_explicit(self, series):
        for path in series:
            image = pydicom.dcmread(path)
            meta = io.BytesIO()
            pydicom.filewriter.write_file_meta_info(meta, image.file_meta)
            plain = io.BytesIO()
            pydicom.Dataset(image).save_as(plain, implicit_vr=True, little_endian=True, enforce_file_format=False)
            path.write_bytes(bytes(128) + b"DICM" + meta.getvalue() + plain.getvalue())
        np.testing.assert_array_equal(read_volume(series[0].parent).voxels, SMALL.voxels)
