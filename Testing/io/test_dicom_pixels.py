"""Pixels of DICOM series: HU as pydicom has them, in one scalar type that holds them all, or a sentence."""

from __future__ import annotations

import shutil
import struct
from itertools import product
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.pixels import apply_rescale
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from scans import affine_from, anatomy, write_dicom_series
from XViewSynthLib import InputError, Volume, read_volume
from XViewSynthLib.io.reading import read_header

SMALL = Volume(anatomy((4, 6, 7)), affine_from(), slice_thickness=4.0)


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    """The files of a series of 4 slices of 6 x 7 pixels in the folder "series"."""
    return write_dicom_series(tmp_path / "series", SMALL)


def change(path: Path, **tags: object) -> None:
    """Set elements of a file; None removes one."""
    image = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            delattr(image, name)
        else:
            setattr(image, name, value)
    image.save_as(path)


def store(path: Path, stored: np.ndarray, syntax=ExplicitVRLittleEndian, **tags: object) -> None:
    """Replace the pixels of a file by others, stored as their type says, in another transfer syntax if need be."""
    image = pydicom.dcmread(path)
    bits = stored.dtype.itemsize * 8
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    image.Rows, image.Columns = stored.shape
    image.BitsAllocated = image.BitsStored = bits
    image.HighBit = bits - 1
    image.PixelRepresentation = int(stored.dtype.kind == "i")
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax == RLELossless:
        image.compress(RLELossless, stored, generate_instance_uid=False)
    else:
        image.add_new(0x7FE00010, "OB" if bits == 8 else "OW", data + b"\0" * (len(data) % 2))
        image.file_meta.TransferSyntaxUID = syntax
    for name, value in tags.items():
        setattr(image, name, value)
    pydicom.dcmwrite(path, image, enforce_file_format=True)


def by_pydicom(paths: list[Path]) -> np.ndarray:
    """(K, J, I) HU, as pydicom reads and rescales them."""
    images = [pydicom.dcmread(path) for path in paths]
    return np.stack([apply_rescale(image.pixel_array, image) for image in images])


def refused(paths: list[Path]) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(paths[0].parent)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert sentence.isprintable()
    return sentence


class TestStored:
    @pytest.mark.parametrize(
        ("kind", "syntax"),
        [
            *product(
                ("int8", "uint8", "int16", "uint16", "int32", "uint32"), (ImplicitVRLittleEndian, ExplicitVRBigEndian)
            ),
            *product(("int8", "uint8", "int16", "uint16"), (RLELossless,)),
        ],
    )
    def test_any_type_in_any_syntax(self, paths, kind, syntax):
        chance = np.random.default_rng(0)
        limits = np.iinfo(kind)
        for path in paths:
            store(path, chance.integers(limits.min, limits.max, (5, 7), kind, endpoint=True), syntax)
        read = read_volume(paths[0].parent).voxels
        np.testing.assert_array_equal(read, by_pydicom(paths))
        assert read.dtype == {"int8": "i2", "uint8": "i2", "int16": "i2", "uint32": "i8"}.get(kind, "i4")

    def test_bytes_that_are_stored_as_big_endian_words(self, paths):
        for path in paths:
            store(path, np.arange(42, dtype=np.uint8).reshape(6, 7), ExplicitVRBigEndian)
            image = pydicom.dcmread(path)
            image.add_new(0x7FE00010, "OW", np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes())
            pydicom.dcmwrite(path, image, enforce_file_format=True)
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, by_pydicom(paths))

    @pytest.mark.parametrize("kind", [np.uint16, np.int16])
    @pytest.mark.parametrize("bits", [9, 12, 13])
    def test_bits_that_do_not_count(self, paths, kind, bits):
        chance = np.random.default_rng(1)
        for path in paths:
            store(path, chance.integers(0, 2**15, (6, 7)).astype(kind), BitsStored=bits, HighBit=bits - 1)
        read = read_volume(paths[0].parent).voxels
        np.testing.assert_array_equal(read, by_pydicom(paths))
        assert np.ptp(read) < 2**bits

    def test_an_odd_number_of_bytes_with_and_without_padding(self, paths):
        for path in paths:
            store(path, np.arange(35, dtype=np.uint8).reshape(5, 7))
        whole = paths[1].read_bytes()
        head = whole.index(b"\xe0\x7f\x10\x00OB\0\0") + 8
        paths[1].write_bytes(whole[:head] + struct.pack("<L", 35) + whole[head + 4 : head + 4 + 35])
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, [np.arange(35).reshape(5, 7)] * 4)

    def test_syntaxes_may_differ(self, paths):
        for path, syntax in zip(paths, (ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless)):
            store(path, pydicom.dcmread(path).pixel_array, syntax)
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, SMALL.voxels)

    def test_what_follows_the_pixels_does_not_count(self, paths):
        change(paths[0], DataSetTrailingPadding=bytes(100))
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, SMALL.voxels)

    def test_monochrome1_is_for_display_alone(self, paths):
        for path in paths:
            change(path, PhotometricInterpretation="MONOCHROME1")
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, SMALL.voxels)


class TestRescaled:
    @given(data=st.data())
    def test_hu_are_those_of_pydicom_whatever_differs_between_slices(self, data, tmp_path_factory):
        folder = tmp_path_factory.mktemp("any")
        paths = write_dicom_series(folder, SMALL)
        for path in paths:
            kind = np.dtype(data.draw(st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4"])))
            limits = np.iinfo(kind)
            high = data.draw(st.integers(0, limits.max))
            low = data.draw(st.integers(limits.min, 0))
            bits = data.draw(st.integers(kind.itemsize * 4 + 1, kind.itemsize * 8))
            rle = [RLELossless] if kind.itemsize < 4 else []
            stored = np.random.default_rng(0).integers(low, high, (6, 7), kind, endpoint=True)
            store(
                path,
                stored,
                data.draw(st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, *rle])),
                BitsStored=bits,
                HighBit=bits - 1,
                RescaleSlope=data.draw(st.sampled_from(["1", "2", "-1", "0.5", "0.1", "3"])),
                RescaleIntercept=data.draw(st.sampled_from(["0", "-1024", "-8192", "0.25", "-1000.5"])),
            )
        read, expected = read_volume(folder).voxels, by_pydicom(paths)
        if read.dtype.kind == "i":
            np.testing.assert_array_equal(read, expected)
        else:
            np.testing.assert_array_equal(read, expected.astype(read.dtype))
        shutil.rmtree(folder)

    @pytest.mark.parametrize(
        ("slope", "intercept", "expected"),
        [
            (1, -1024, np.int16),
            (1, -8192, np.int16),
            (2, -30000, np.int16),
            (1, 40000, np.int32),
            (100, 0, np.int32),
            (1000000, 0, np.int64),
            (0.5, 0, np.float32),
            (1, 0.5, np.float32),
            (0.1, 3e7, np.float64),
        ],
    )
    def test_scalar_type_is_the_smallest_that_holds_all(self, paths, slope, intercept, expected):
        for path in paths:
            stored = np.arange(42, dtype=np.uint16).reshape(6, 7) * 97
            store(path, stored, RescaleSlope=slope, RescaleIntercept=intercept)
        read = read_volume(paths[0].parent).voxels
        assert read.dtype == expected
        np.testing.assert_allclose(read, by_pydicom(paths), rtol=1e-7)

    @pytest.mark.parametrize(("slope", "values"), [(1, (-32768, 32767)), (1, (0, 32767))])
    def test_int16_to_its_limits(self, paths, slope, values):
        stored = np.full((6, 7), values[0], np.int16)
        stored[0, 0] = values[1]
        store(paths[0], stored)
        assert read_volume(paths[0].parent).voxels.dtype == np.int16

    def test_slices_that_are_stored_signed_and_unsigned(self, paths):
        for path, kind in zip(paths, (np.uint16, np.int16, np.uint16, np.int16)):
            store(path, SMALL.voxels[0].clip(0 if kind is np.uint16 else None).astype(kind))
        read = read_volume(paths[0].parent).voxels
        assert read.dtype == np.int16
        np.testing.assert_array_equal(read, by_pydicom(paths))

    @pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept"])
    @pytest.mark.parametrize("value", [b"nan ", b"inf ", b"1e99", b"x   ", b"1\\2 "])
    def test_a_rescale_that_is_no_number(self, paths, tag, value):
        for path in paths:
            change(path, **{tag: "7777"})
            path.write_bytes(path.read_bytes().replace(b"7777", value))
        assert f"has {tag} {value.decode().strip()!r}, which is not a finite number" in refused(paths)

    def test_a_slope_of_zero(self, paths):
        change(paths[2], RescaleSlope="0")
        assert f"{paths[2]} has RescaleSlope '0'" in refused(paths)

    def write_intercept(self, path: Path, text: str) -> None:
        change(path, RescaleIntercept="7777777777")
        path.write_bytes(path.read_bytes().replace(b"7777777777", text.ljust(10).encode()))

    @pytest.mark.parametrize("value", ["-1,024", "1,000,000"])
    def test_a_comma_that_may_stand_for_thousands(self, paths, value):
        self.write_intercept(paths[0], value)
        assert f"RescaleIntercept {value!r}" in refused(paths)

    def test_a_comma_that_stands_for_a_point(self, paths):
        for path in paths:
            self.write_intercept(path, "-1024,0")
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, SMALL.voxels - 1024)

    def test_values_beyond_all_sense(self, paths):
        change(paths[0], RescaleSlope="1e9", RescaleIntercept="1e9")
        store(paths[0], np.full((6, 7), 2**31, np.uint32))
        assert "RescaleSlope 1e+09" in refused(paths)

    def test_a_table_in_place_of_a_slope(self, paths):
        table = pydicom.Dataset()
        table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [2, 0, 16], bytes(4), "HU"
        change(paths[1], ModalityLUTSequence=[table])
        assert f"{paths[1]} has a ModalityLUTSequence" in refused(paths)

    def test_values_that_are_no_hu_are_noted(self, paths):
        assert read_volume(paths[0].parent).notes == ()
        for path in paths:
            change(path, RescaleType="ED")
        assert read_volume(paths[0].parent).notes == (
            "RescaleType is ED, so the values are no HU, which the models expect.",
        )


class TestSizes:
    """What the header says of the pixels and what there is must agree."""

    @pytest.mark.parametrize("which", [slice(1), slice(2, 3), slice(4)], ids=["first", "one", "all"])
    @pytest.mark.parametrize(
        "tags",
        [
            {"Rows": 5},
            {"Rows": 12},
            {"Rows": 65535},
            {"Columns": 8},
            {"Columns": 65535, "Rows": 65535},
            {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31},
            {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
            {"PixelData": b"\0\0"},
            {"PixelData": bytes(82)},
            {"PixelData": bytes(86)},
            {"PixelData": bytes(840)},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("reads", [read_volume, read_header])
    def test_other_sizes_are_refused_with_the_first_file(self, paths, which, tags, reads):
        for path in paths[which]:
            change(path, **tags)
        with pytest.raises(InputError, match=f"{paths[which][0].name} has .* bytes of pixel data, but .* pixels"):
            reads(paths[0].parent)

    @pytest.mark.parametrize(
        ("tag", "values"),
        [
            ("Rows", [0, None]),
            ("Columns", [0, None]),
            ("SamplesPerPixel", [None]),
            ("BitsAllocated", [0, 1, 12, 64, None]),
            ("BitsStored", [0, 17, 65535, None]),
            ("HighBit", [0, 14, 16, None]),
            ("PixelRepresentation", [2, None]),
        ],
    )
    def test_elements_that_are_missing_or_impossible(self, paths, tag, values):
        for value in values:
            change(paths[1], **{tag: value})
            sentence = refused(paths)
            assert str(paths[1]) in sentence
            assert tag in sentence or "damaged" in sentence
            change(paths[1], **{tag: getattr(pydicom.dcmread(paths[0]), tag)})

    def test_no_pixel_data(self, paths):
        change(paths[3], PixelData=None)
        assert f"{paths[3]} has no pixel data" in refused(paths)

    @pytest.mark.parametrize("lost", [1, 40, 83, 84])
    def test_a_file_that_ends_within_its_pixels(self, paths, lost):
        paths[3].write_bytes(paths[3].read_bytes()[:-lost])
        assert f"{paths[3]} ends within its pixel data" in refused(paths)

    def test_a_file_that_gets_shorter_after_its_header_was_read(self, paths):
        from XViewSynthLib.io.dicom.series import open_series

        _, load = open_series(paths[0].parent)
        paths[3].write_bytes(paths[3].read_bytes()[:-4])
        with pytest.raises(InputError, match="ends within its pixel data"):
            load()

    def test_colours(self, paths):
        change(paths[0], PhotometricInterpretation="PALETTE COLOR")
        assert f"{paths[0]} is in colour (PALETTE COLOR)" in refused(paths)

    @pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
    def test_a_compression_that_is_none(self, paths, syntax):
        for path in paths:
            whole = path.read_bytes()
            old, new = b"1.2.840.10008.1.2.1\0", syntax.encode().ljust(20 + len(syntax) % 2, b"\0")
            new = new[: (len(syntax) + 1) // 2 * 2]
            place = whole.index(b"UI\x14\0" + old)
            path.write_bytes(whole[: place + 2] + struct.pack("<H", len(new)) + new + whole[place + 4 + len(old) :])
        assert "a transfer syntax that does not fit its pixel data" in refused(paths)

    def test_a_syntax_that_cannot_be_read(self, paths):
        image = pydicom.dcmread(paths[0])
        image.compress(RLELossless, generate_instance_uid=False)
        image.file_meta.TransferSyntaxUID = HTJ2KLossless
        image.save_as(paths[0])
        assert f"of the transfer syntax {HTJ2KLossless.name}, which cannot be read" in refused(paths)


class TestRunLengths:
    @pytest.fixture
    def compressed(self, paths):
        for k, path in enumerate(paths):
            store(path, SMALL.voxels[k], RLELossless)
        return paths

    @pytest.mark.parametrize("tags", [{"Rows": 5}, {"Rows": 7}, {"Columns": 6}, {"BitsAllocated": 32}, {"Rows": 60000}])
    def test_another_size_is_refused(self, compressed, tags):
        for path in compressed:
            change(path, **tags)
        sentence = refused(compressed)
        assert "pixels" in sentence
        assert str(compressed[0]) in sentence

    def test_any_cut_is_refused(self, compressed):
        whole = compressed[1].read_bytes()
        for length in range(whole.index(b"\xe0\x7f\x10\x00") + 12, len(whole) - 16, 7):
            compressed[1].write_bytes(whole[:length])
            assert str(compressed[1]) in refused(compressed)

    def test_no_fragments(self, compressed):
        image = pydicom.dcmread(compressed[0])
        image.PixelData = pydicom.encaps.encapsulate([b"\0\0"])[:8]
        image["PixelData"].is_undefined_length = True
        image.save_as(compressed[0])
        assert f"{compressed[0]} has compressed pixel data that is damaged or cut short" in refused(compressed)


class TestCopies:
    def copy(self, path: Path) -> Path:
        return Path(shutil.copy(path, path.with_name(f"{path.stem} (copy).dcm")))

    def test_are_read_once(self, paths):
        self.copy(paths[1])
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, SMALL.voxels)

    def test_may_be_stored_otherwise(self, paths):
        store(self.copy(paths[1]), SMALL.voxels[1], RLELossless)
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, SMALL.voxels)

    @pytest.mark.parametrize("uid", ["1.2.3", ""])
    def test_without_an_instance_of_their_own(self, paths, uid):
        for path in paths:
            change(path, SOPInstanceUID=uid)
        self.copy(paths[2])
        np.testing.assert_array_equal(read_volume(paths[0].parent).voxels, SMALL.voxels)

    @pytest.mark.parametrize("tags", [{"PixelData": bytes(84)}, {"RescaleIntercept": "7"}])
    def test_of_other_values_are_another_image(self, paths, tags):
        change(self.copy(paths[1]), **tags)
        sentence = refused(paths)
        assert "IM0001 (copy).dcm and IM0001.dcm" in sentence
        assert "lie at the same place" in sentence
