"""Image files that were written by hand: odd but sound ones are read, and no damaged or hostile one is."""

from __future__ import annotations

import bz2
import gzip
import os
import re
import struct
import sys
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from scans import affine_from, anatomy
from XViewSynthLib import InputError, Volume, read_volume, write_volume
from XViewSynthLib.io.reading import read_header

HU = anatomy((5, 6, 7))
DIRECTIONS = "space: left-posterior-superior\nspace directions: (0.8,0,0) (0,0.8,0) (0,0,5)\nspace origin: (1,2,3)"
MATRIX = "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 0.8 0.8 5\n"
AFFINE = np.array([[-0.8, 0, 0, -1], [0, -0.8, 0, -2], [0, 0, 5, 3], [0, 0, 0, 1]])
SFORM = (-0.8, 0, 0, -1, 0, -0.8, 0, -2, 0, 0, 5, 3)


def nrrd(path, fields=DIRECTIONS, *, kind="short", encoding="raw", data=None, sizes="7 6 5", endian="endian: little\n"):
    """An NRRD file with these fields, whose voxels are `HU` unless other data is given."""
    lines = f"NRRD0004\ntype: {kind}\ndimension: 3\nsizes: {sizes}\nencoding: {encoding}\n{endian}{fields}\n\n"
    path.write_bytes(lines.encode() + (HU.astype("<i2").tobytes() if data is None else data))
    return path


def metaimage(path, fields=MATRIX, *, kind="MET_SHORT", data=None, size="7 6 5", file="LOCAL", ndims="3"):
    """A MetaImage file with these fields, whose voxels are `HU` unless other data is given."""
    lines = f"ObjectType = Image\nNDims = {ndims}\n{fields}DimSize = {size}\nElementType = {kind}\n"
    path.write_bytes(
        f"{lines}ElementDataFile = {file}\n".encode() + (HU.astype("<i2").tobytes() if data is None else data)
    )
    return path


def nifti(path, *, order="<", sform=SFORM, qform=None, pixdim=(0.8, 0.8, 5), scl=(0, 0), units=2, **patches):
    """A NIfTI file of version 1; `patches` are (offset, struct format, values) by any name."""
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, 3, 7, 6, 5, 1, 1, 1, 1)
    struct.pack_into(f"{order}hh", header, 70, 4, 16)
    struct.pack_into(f"{order}8f3f", header, 76, 1, *pixdim, 0, 0, 0, 0, 352, *scl)
    struct.pack_into(f"{order}b", header, 123, units)
    struct.pack_into(f"{order}hh", header, 252, qform is not None, sform is not None)
    struct.pack_into(f"{order}6f", header, 256, *(qform or [0] * 6))
    struct.pack_into(f"{order}12f", header, 280, *(sform or [0] * 12))
    struct.pack_into("4s", header, 344, b"n+1")
    for offset, form, *values in patches.values():
        struct.pack_into(order + form, header, offset, *values)
    path.write_bytes(bytes(header) + HU.astype(f"{order}i2").tobytes())
    return path


def refused(path):
    """The sentence with which a file is refused; it names the file."""
    with pytest.raises(InputError) as caught:
        read_volume(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert sentence.isprintable()
    assert sentence.endswith(".")
    return sentence.replace(str(path), "THIS")


def check_read(path, affine=AFFINE, notes=0):
    """The volume in a file, which holds `HU` at this place."""
    read = read_volume(path)
    np.testing.assert_array_equal(read.voxels, HU)
    np.testing.assert_allclose(read.affine, affine, rtol=1e-6, atol=1e-6)
    assert len(read.notes) == notes, read.notes
    return read


class TestNrrd:
    @pytest.mark.parametrize(
        ("encoding", "pack"),
        [
            ("raw", bytes),
            ("gzip", gzip.compress),
            ("gz", gzip.compress),
            ("bzip2", bz2.compress),
            ("bz2", bz2.compress),
            ("hex", lambda data: data.hex().encode()),
            ("ascii", lambda data: " ".join(map(str, np.frombuffer(data, "<i2"))).encode()),
        ],
    )
    def test_every_encoding(self, tmp_path, encoding, pack):
        check_read(nrrd(tmp_path / "x.nrrd", encoding=encoding, data=pack(HU.astype("<i2").tobytes())))

    def test_big_endian(self, tmp_path):
        check_read(nrrd(tmp_path / "x.nrrd", data=HU.astype(">i2").tobytes(), endian="endian: big\n"))

    def test_windows_line_ends(self, tmp_path):
        path = nrrd(tmp_path / "x.nrrd")
        header, _, data = path.read_bytes().partition(b"\n\n")
        path.write_bytes(header.replace(b"\n", b"\r\n") + b"\r\n\r\n" + data)
        check_read(path)

    @pytest.mark.parametrize(("space", "signs"), [("RAS", (1, 1, 1)), ("LAS", (-1, 1, 1)), ("LPS", (-1, -1, 1))])
    def test_spaces_of_a_patient(self, tmp_path, space, signs):
        path = nrrd(tmp_path / "x.nrrd", DIRECTIONS.replace("left-posterior-superior", space))
        check_read(path, np.diag([*signs, 1]) @ np.diag([-1, -1, 1, 1]) @ AFFINE)

    def test_an_unknown_space_is_noted(self, tmp_path):
        path = nrrd(tmp_path / "x.nrrd", DIRECTIONS.replace("space: left-posterior-superior", "space dimension: 3"))
        assert "which way the patient lies" in check_read(path, notes=1).notes[0]

    def test_spacings_and_mins(self, tmp_path):
        path = nrrd(tmp_path / "x.nrrd", "spacings: 0.8 0.8 5\naxis mins: 0 0 0\ncenters: node node node")
        check_read(path, np.diag([-0.8, -0.8, 5, 1]), notes=1)

    def test_mins_of_cells_lie_half_a_voxel_before_their_centres(self, tmp_path):
        path = nrrd(tmp_path / "x.nrrd", "spacings: 0.8 0.8 5\naxis mins: 1 2 3")
        np.testing.assert_allclose(read_volume(path).origin, (-1.4, -2.4, 5.5))

    def test_no_spacing_is_refused(self, tmp_path):
        assert "does not state how far apart its voxels are" in refused(nrrd(tmp_path / "x.nrrd", "content: scan"))

    @pytest.mark.parametrize(
        ("unit", "scale"), [("mm", 1), ("um", 1e-3), ("microns", 1e-3), ("µm", 1e-3), ("cm", 10), ("m", 1000), ("", 1)]
    )
    def test_units(self, tmp_path, unit, scale):
        path = nrrd(tmp_path / "x.nrrd", f'{DIRECTIONS}\nspace units: "{unit}" "{unit}" "{unit}"')
        np.testing.assert_allclose(read_volume(path).affine, np.diag([scale, scale, scale, 1]) @ AFFINE)

    def test_unknown_unit(self, tmp_path):
        path = nrrd(tmp_path / "x.nrrd", f'{DIRECTIONS}\nspace units: "furlong" "furlong" "furlong"')
        assert "measures lengths in 'furlong'" in refused(path)

    def test_slice_thickness_with_its_unit(self, tmp_path):
        assert read_volume(nrrd(tmp_path / "x.nrrd", f"{DIRECTIONS}\nSliceThickness:=5 mm")).slice_thickness == 5

    @pytest.mark.parametrize(
        ("fields", "sentence"),
        [
            (f"{DIRECTIONS}\nspace oqigin: (1,2,3)", "unknown field 'space oqigin'"),
            (f"{DIRECTIONS}\nspace origin: (1,2,3)", "states 'space origin' twice"),
            (f"{DIRECTIONS}\nnonsense", "has the line 'nonsense'"),
            (DIRECTIONS.replace("0.8", "nan"), "has 'nan' in place of a number"),
            (DIRECTIONS.replace("5)", "1e300)"), "has '1e300' in place of a number"),
            (DIRECTIONS.replace("(0.8,0,0)", "(0,0,0)"), "a distance of 0 mm"),
            (DIRECTIONS.replace("(0.8,0,0)", "(0,0.8,0)"), "lie in one plane"),
            (DIRECTIONS.replace("(0.8,0,0) ", ""), "2 space directions"),
            (DIRECTIONS.replace("(0.8,0,0)", "(0.8,0)"), "space directions are"),
            (DIRECTIONS.replace("left", "right-of"), "its space is"),
            (f"{DIRECTIONS}\nold min: 0\nold max: 9", "quantized"),
            (f"{DIRECTIONS}\nline skip: 1", "skips a part"),
            (f"{DIRECTIONS}\nkinds: domain domain vector", "colours or vectors"),
            (f"{DIRECTIONS}\nkinds: domain domain", "kinds"),
            (f"{DIRECTIONS}\ncontent: {'x' * 70_000}", "longer than any header"),
            (f"{DIRECTIONS}\n" + "# x\n" * 2_000_000, "longer than any header"),
        ],
    )
    def test_unsound_fields(self, tmp_path, fields, sentence):
        assert sentence in refused(nrrd(tmp_path / "x.nrrd", fields))

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"kind": "block"}, "unknown type 'block'"),
            ({"encoding": "zstd"}, "encoding is 'zstd'"),
            ({"endian": ""}, "lacks 'endian'"),
            ({"endian": "endian: middle\n"}, "byte order"),
            ({"sizes": "7 6 0"}, "7 x 6 x 0 voxels"),
            ({"sizes": "7 6 -5"}, "7 x 6 x -5 voxels"),
            ({"sizes": "7 6 five"}, "not whole numbers"),
            ({"sizes": "7 6"}, "3 dimensions and 2 sizes"),
            ({"sizes": "7 6 50"}, "truncated: it holds 420 bytes of voxels, its header states at least 4200"),
            ({"sizes": "7 6 4"}, "holds 84 bytes more than the 336"),
            ({"sizes": "2000000 2000000 2000000"}, "truncated"),
            ({"sizes": f"7 6 5{'0' * 30}"}, "not whole numbers"),
        ],
    )
    def test_a_header_that_contradicts_the_data(self, tmp_path, options, sentence):
        assert sentence in refused(nrrd(tmp_path / "x.nrrd", **options))

    def test_a_line_of_any_length_does_no_harm(self, tmp_path):
        for length in (500, 1000, 5000, 60_000):
            check_read(nrrd(tmp_path / "x.nrrd", f"{DIRECTIONS}\n# {'x' * length}\ncontent: {'x' * length}"))


class TestMetaImage:
    def test_as_written_by_itk_with_foreign_fields(self, tmp_path):
        image = sitk.GetImageFromArray(HU)
        for name, value in {"0008|0060": "CT", "NRRD_space": "LPS", "ITK_FileNotes": "x", "My Field": "5"}.items():
            image.SetMetaData(name, value)
        sitk.WriteImage(image, str(tmp_path / "x.mha"))
        check_read(tmp_path / "x.mha", np.diag([-1, -1, 1, 1]))

    def test_big_endian_and_other_names_of_fields(self, tmp_path):
        fields = MATRIX.replace("TransformMatrix", "Rotation").replace("Offset", "Position")
        path = metaimage(tmp_path / "x.mha", f"{fields}ElementByteOrderMSB = True\n", data=HU.astype(">i2").tobytes())
        check_read(path)

    @pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
    def test_compressed(self, tmp_path, pack):
        data = pack(HU.astype("<i2").tobytes())
        check_read(metaimage(tmp_path / "x.mha", f"{MATRIX}CompressedData = True\n", data=data))

    def test_text(self, tmp_path):
        data = " ".join(map(str, HU.ravel())).encode()
        check_read(metaimage(tmp_path / "x.mha", f"{MATRIX}BinaryData = False\n", data=data))

    @pytest.mark.parametrize("missing", ["TransformMatrix", "Offset"])
    def test_a_place_that_is_not_stated_is_noted(self, tmp_path, missing):
        fields = re.sub(rf"{missing}.*\n", "", MATRIX)
        assert missing in read_volume(metaimage(tmp_path / "x.mha", fields)).notes[0]

    def test_no_spacing_is_refused(self, tmp_path):
        fields = re.sub(r"ElementSpacing.*\n", "", MATRIX)
        assert "does not state how far apart its voxels are" in refused(metaimage(tmp_path / "x.mha", fields))

    @pytest.mark.parametrize(("unit", "scale"), [("um", 1e-3), ("mm", 1), ("cm", 10), ("?", 1)])
    def test_units(self, tmp_path, unit, scale):
        path = metaimage(tmp_path / "x.mha", f"{MATRIX}DistanceUnits = {unit}\n")
        np.testing.assert_allclose(read_volume(path).affine, np.diag([scale, scale, scale, 1]) @ AFFINE)

    @pytest.mark.parametrize("ndims", ["3000", "-3", "0", "", "3.0", "99999999999999999999", "2"])
    def test_dimensions_that_no_image_has(self, tmp_path, ndims):
        assert "NDims" in refused(metaimage(tmp_path / "x.mha", ndims=ndims))

    @pytest.mark.parametrize(
        ("fields", "sentence"),
        [
            (MATRIX.replace("Offset", "Offsft"), "looks like 'offset'"),
            (MATRIX.replace("ElementSpacing", "ElementSpacinh"), "looks like 'elementspacing'"),
            (MATRIX + MATRIX, "twice"),
            (MATRIX.replace("1 0 0 0 1", "2 0 0 0 1"), "length 2, 1, 1, not 1"),
            (MATRIX.replace("0.8 0.8 5", "0.8 0.8 0"), "a distance of 0 mm"),
            (MATRIX.replace("0.8 0.8 5", "0.8 0.8 -5"), "a spacing of"),
            (MATRIX.replace("0.8 0.8 5", "0.8 0.8"), "has 2 numbers in place of 3"),
            (MATRIX.replace("1 2 3", "1 2 inf"), "has 'inf' in place of a number"),
            (f"{MATRIX}ElementNumberOfChannels = 3\n", "colours or vectors"),
            (f"{MATRIX}CompressedData = maybe\n", "CompressedData = 'maybe'"),
            (f"{MATRIX}HeaderSize = -7\n", "skips a part"),
            (f"{MATRIX}DistanceUnits = furlong\n", "measures lengths in 'furlong'"),
            (f"{MATRIX}ElementToIntensityFunctionSlope = 2\n", "rescaled"),
            ("x\n", "has the line 'x'"),
        ],
    )
    def test_unsound_fields(self, tmp_path, fields, sentence):
        assert sentence in refused(metaimage(tmp_path / "x.mha", fields))

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"size": "7 6 6"}, "truncated"),
            ({"size": "7 6 4"}, "84 bytes more"),
            ({"size": "7 6 0"}, "7 x 6 x 0"),
            ({"kind": "MET_BLOB"}, "unknown type 'MET_BLOB'"),
            ({"kind": "MET_SHORT_ARRAY"}, "colours or vectors"),
        ],
    )
    def test_a_header_that_contradicts_the_data(self, tmp_path, options, sentence):
        assert sentence in refused(metaimage(tmp_path / "x.mha", **options))

    def test_another_object(self, tmp_path):
        path = metaimage(tmp_path / "x.mha")
        path.write_bytes(path.read_bytes().replace(b"ObjectType = Image", b"ObjectType = Tube "))
        assert "MetaIO 'Tube'" in refused(path)


class TestNifti:
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_both_byte_orders(self, tmp_path, order):
        check_read(nifti(tmp_path / "x.nii", order=order))

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_version_2(self, tmp_path, order):
        header = bytearray(544)
        struct.pack_into(f"{order}i8shh8q", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16, 3, 7, 6, 5, 1, 1, 1, 1)
        struct.pack_into(f"{order}8dq", header, 104, 1, 0.8, 0.8, 5, 0, 0, 0, 0, 544)
        struct.pack_into(f"{order}2i", header, 344, 0, 1)
        struct.pack_into(f"{order}12d", header, 400, *SFORM)
        struct.pack_into(f"{order}i", header, 500, 2)
        (tmp_path / "x.nii").write_bytes(bytes(header) + HU.astype(f"{order}i2").tobytes())
        check_read(tmp_path / "x.nii")

    def test_the_content_decides_whether_it_is_compressed(self, tmp_path):
        path = nifti(tmp_path / "x.nii")
        packed = gzip.compress(path.read_bytes())
        (tmp_path / "plain.nii.gz").write_bytes(path.read_bytes())
        path.write_bytes(packed)
        check_read(path)
        check_read(tmp_path / "plain.nii.gz")

    def test_no_place_is_noted(self, tmp_path):
        note = check_read(nifti(tmp_path / "x.nii", sform=None), np.diag([-0.8, -0.8, 5, 1]), notes=1).notes[0]
        assert "does not state which way and where" in note

    @pytest.mark.parametrize("pixdim", [(0, 0, 0), (0.8, 0.8, -5), (0.8, 0.8, 0)])
    def test_no_spacing_is_refused(self, tmp_path, pixdim):
        assert "does not state how far apart" in refused(nifti(tmp_path / "x.nii", sform=None, pixdim=pixdim))

    @pytest.mark.parametrize("qform", [None, (0, 0, 1, -1, -2, 3)])
    def test_two_spacings_are_named(self, tmp_path, qform):
        sentence = refused(nifti(tmp_path / "x.nii", qform=qform, pixdim=(0.8, 0.8, 3)))
        assert "0.8 x 0.8 x 5 mm by its sform and 0.8 x 0.8 x 3 mm by its pixdim" in sentence

    @pytest.mark.parametrize("pixdim", [(0, 0, 0), (1, 1, 1)])
    def test_spacings_that_were_never_set_say_nothing(self, tmp_path, pixdim):
        check_read(nifti(tmp_path / "x.nii", pixdim=pixdim))

    def test_two_places_are_noted(self, tmp_path):
        note = check_read(nifti(tmp_path / "x.nii", qform=(0, 0, 1, -1, -2, 103)), notes=1).notes[0]
        assert "up to 100 mm apart" in note
        check_read(nifti(tmp_path / "x.nii", qform=(0, 0, 1, -1, -2, 3)))

    @pytest.mark.parametrize("digits", [3, 4, 5])
    def test_a_rounded_sform_is_set_upright(self, tmp_path, digits):
        cosine, sine = np.cos(np.radians(17.3)), np.sin(np.radians(17.3))
        turned = np.array([[-1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) * [0.4945, 0.4945, 2.5]
        sform = np.column_stack([turned.round(digits), [20, -30, 100]])
        read = read_volume(nifti(tmp_path / "x.nii", sform=tuple(sform.ravel()), pixdim=(0.4945, 0.4945, 2.5)))
        assert "set upright" in read.notes[0]
        np.testing.assert_allclose(read.directions.T @ read.directions, np.eye(3), atol=1e-9)
        corners = np.array(list(np.ndindex(2, 2, 2))) * [6, 5, 4]
        np.testing.assert_allclose(read.ijk_to_ras(corners), corners @ sform[:, :3].T + sform[:, 3], atol=0.01)

    @pytest.mark.parametrize(
        ("scl", "slope", "intercept"), [((0, 7), 1, 0), ((np.nan, 7), 1, 0), ((2, -1024), 2, -1024)]
    )
    def test_rescale(self, tmp_path, scl, slope, intercept):
        read = read_volume(nifti(tmp_path / "x.nii", scl=scl))
        np.testing.assert_array_equal(read.voxels, HU.astype(float) * slope + intercept)

    @pytest.mark.parametrize(
        ("patch", "sentence"),
        [
            ((108, "f", 0.0), "voxels begin at byte 0"),
            ((108, "f", 351.0), "voxels begin at byte 351"),
            ((108, "f", -1e9), "voxels begin at byte -1e+09"),
            ((108, "f", np.nan), "voxels begin at byte nan"),
            ((108, "f", np.inf), "voxels begin at byte inf"),
            ((108, "f", 400.0), "truncated"),
            ((70, "hh", 8, 16), "16 bits a voxel for a type of 32"),
            ((70, "hh", 99, 16), "unknown type 99"),
            ((70, "hh", 128, 24), "colours or vectors"),
            ((40, "8h", 3, 7, 6, 0, 1, 1, 1, 1), "7 x 6 x 0"),
            ((40, "8h", 3, 7, 6, -5, 1, 1, 1, 1), "7 x 6 x -5"),
            ((40, "8h", 9, 7, 6, 5, 1, 1, 1, 1), "9 dimensions"),
            ((40, "8h", 3, 32767, 32767, 32767, 1, 1, 1, 1), "truncated"),
            ((40, "8h", 3, 7, 6, 4, 1, 1, 1, 1), "84 bytes more"),
            ((40, "8h", 4, 7, 6, 1, 5, 1, 1, 1), "4-D image"),
            ((112, "2f", np.inf, 0), "rescale slope of inf"),
            ((112, "2f", 1, np.nan), "intercept of nan"),
            ((123, "b", 5), "unknown unit 5"),
            ((280, "f", np.nan), "no lengths"),
            ((280, "f", 1e30), "no lengths"),
            ((344, "4s", b"ni1"), ".img"),
            ((344, "4s", b"nix"), "does not begin"),
        ],
    )
    def test_unsound_headers(self, tmp_path, patch, sentence):
        assert sentence in refused(nifti(tmp_path / "x.nii", patch=patch))

    @pytest.mark.parametrize("qform", [(1, 1, 1, 0, 0, 0), (np.nan, 0, 0, 0, 0, 0), (0, 0, 0, np.inf, 0, 0)])
    def test_a_qform_that_is_no_place(self, tmp_path, qform):
        refused(nifti(tmp_path / "x.nii", sform=None, qform=qform))


def compressed_files(folder: Path) -> list[Path]:
    raw = HU.astype("<i2").tobytes()
    plain = nifti(folder / "x.nii")
    (folder / "x.nii.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    nrrd(folder / "gzip.nrrd", encoding="gzip", data=gzip.compress(raw))
    nrrd(folder / "bzip2.nrrd", encoding="bzip2", data=bz2.compress(raw))
    metaimage(folder / "zlib.mha", f"{MATRIX}CompressedData = True\n", data=zlib.compress(raw))
    return sorted(folder.iterdir())


class TestComplete:
    def test_one_flipped_bit_in_compressed_voxels_is_never_accepted_as_other_voxels(self, tmp_path):
        for path in compressed_files(tmp_path):
            sound = path.read_bytes()
            refusals = 0
            for place in range(len(sound) - 200, len(sound)):
                for bit in (0, 3, 7):
                    damaged = bytearray(sound)
                    damaged[place] ^= 1 << bit
                    path.write_bytes(damaged)
                    try:
                        # The flags and the time stamp of gzip decide about nothing.
                        np.testing.assert_array_equal(read_volume(path).voxels, HU)
                    except InputError:
                        refusals += 1
            assert refusals > 500

    def test_every_shorter_file_is_refused(self, tmp_path):
        for path in compressed_files(tmp_path):
            sound = path.read_bytes()
            for length in (*range(0, len(sound), 17), *range(len(sound) - 20, len(sound))):
                path.write_bytes(sound[:length])
                refused(path)

    def test_bytes_after_the_end_are_noted_and_padding_is_not(self, tmp_path):
        for path in compressed_files(tmp_path):
            sound = path.read_bytes()
            path.write_bytes(sound + b"junk" * 9)
            assert check_read(path, notes=1).notes[0].startswith("36 bytes after the end")
            path.write_bytes(sound + bytes(36))
            check_read(path)

    def test_members_of_parallel_programs_are_one_stream(self, tmp_path):
        raw = HU.astype("<i2").tobytes()
        for encoding, pack in (("gzip", gzip.compress), ("bzip2", bz2.compress)):
            data = b"".join(pack(raw[start : start + 100]) for start in range(0, len(raw), 100))
            check_read(nrrd(tmp_path / "x.nrrd", encoding=encoding, data=data))

    def test_more_compressed_voxels_than_stated(self, tmp_path):
        data = gzip.compress(HU.astype("<i2").tobytes() + bytes(84))
        assert "holds more than the 420 bytes" in refused(nrrd(tmp_path / "x.nrrd", encoding="gzip", data=data))

    def test_a_stated_compressed_size_counts(self, tmp_path):
        data = zlib.compress(HU.astype("<i2").tobytes())
        fields = f"{MATRIX}CompressedData = True\nCompressedDataSize = {len(data) + 4}\n"
        assert "compressed bytes" in refused(metaimage(tmp_path / "x.mha", fields, data=data))

    @pytest.mark.parametrize("data", [b"1 2 3", b"1 " * 210 + b"x", b"70000 " * 210, b"1.5 " * 210])
    def test_text_that_is_no_voxels(self, tmp_path, data):
        refused(nrrd(tmp_path / "x.nrrd", encoding="ascii", data=data))


class TestMemory:
    @pytest.mark.parametrize("encoding", ["gzip", "bzip2"])
    def test_stated_gigabytes_take_no_memory(self, tmp_path, encoding):
        pack = {"gzip": gzip.compress, "bzip2": bz2.compress}[encoding]
        path = nrrd(tmp_path / "x.nrrd", encoding=encoding, data=pack(bytes(1000)), sizes="4000 4000 4000")
        tracemalloc.start()
        try:
            refused(path)
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()

    def test_a_bomb_is_refused_by_the_limit(self, tmp_path):
        packed = bz2.compress(bytes(200_000_000))
        path = nrrd(tmp_path / "x.nrrd", encoding="bzip2", data=packed, sizes="1000 1000 100")
        with pytest.raises(InputError, match=r"takes at least [\d.]+ GB to read") as refusal:
            read_volume(path, memory=1_000_000)
        assert float(re.search(r"[\d.]+(?= GB)", str(refusal.value))[0]) >= 0.2

    def test_a_header_alone_takes_none(self, tmp_path):
        path = nrrd(tmp_path / "x.nrrd", encoding="bzip2", data=bz2.compress(bytes(200_000_000)), sizes="1000 1000 100")
        tracemalloc.start()
        try:
            assert read_header(path).shape_ijk == (1000, 1000, 100)
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()


class TestDetached:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("inside/x.raw", "outside.raw"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(HU.astype("<i2").tobytes())
        return tmp_path / "inside"

    @pytest.mark.parametrize("place", ["../outside.raw", "{parent}/outside.raw", "..\\outside.raw", "C:\\x.raw", ""])
    def test_no_file_outside_of_the_folder_is_read(self, folder, place):
        place = place.format(parent=folder.parent)
        for path in (
            nrrd(folder / "x.nhdr", f"{DIRECTIONS}\ndata file: {place}", data=b""),
            nrrd(folder / "y.nhdr", f"{DIRECTIONS}\ndata file: LIST\n{place}", data=b""),
            metaimage(folder / "x.mhd", file=place, data=b""),
            metaimage(folder / "y.mhd", file=f"LIST\n{place}", data=b""),
        ):
            refused(path)

    @pytest.mark.skipif(sys.platform == "win32", reason="links take a right there that users lack")
    def test_a_link_out_of_the_folder_is_not_followed(self, folder):
        os.symlink(folder.parent / "outside.raw", folder / "link.raw")
        sentence = refused(nrrd(folder / "x.nhdr", f"{DIRECTIONS}\ndata file: link.raw", data=b""))
        assert "not in the header's own folder" in sentence

    def test_beside_the_header(self, folder):
        check_read(nrrd(folder / "x.nhdr", f"{DIRECTIONS}\ndata file: x.raw", data=b""))
        check_read(nrrd(folder / "x.nhdr", f"{DIRECTIONS}\nbyte skip: -1\ndata file: x.raw", data=b""))
        check_read(metaimage(folder / "x.mhd", file="x.raw", data=b""))
        check_read(metaimage(folder / "x.mhd", f"{MATRIX}HeaderSize = -1\n", file="x.raw", data=b""))

    def test_a_file_for_each_slice(self, folder):
        for index, plane in enumerate(HU):
            (folder / f"IM{index + 1:03d}.raw").write_bytes(b"head" + plane.astype("<i2").tobytes())
        names = "\n".join(f"IM{n:03d}.raw" for n in range(1, 6))
        skip = "byte skip: 4"
        check_read(nrrd(folder / "x.nhdr", f"{DIRECTIONS}\n{skip}\ndata file: IM%03d.raw 1 5 1 2", data=b""))
        check_read(nrrd(folder / "x.nhdr", f"{DIRECTIONS}\n{skip}\ndata file: LIST 2\n{names}", data=b""))
        check_read(metaimage(folder / "x.mhd", f"{MATRIX}HeaderSize = 4\n", file="IM%03d.raw 1 5 1", data=b""))
        check_read(metaimage(folder / "x.mhd", f"{MATRIX}HeaderSize = 4\n", file=f"LIST\n{names}", data=b""))

    @pytest.mark.parametrize("pattern", ["IM%03d.raw 1 99999999 1 2", "IM%03d.raw 5 1 1 2", "IM%s%n.raw 1 5 1 2"])
    def test_patterns_that_name_no_slices(self, folder, pattern):
        refused(nrrd(folder / "x.nhdr", f"{DIRECTIONS}\ndata file: {pattern}", data=b""))

    @pytest.mark.parametrize("name", ["x.nrrd", "x.mha"])
    def test_only_a_header_may_name_a_data_file(self, folder, name):
        path = folder / name
        if name == "x.nrrd":
            nrrd(path, f"{DIRECTIONS}\ndata file: x.raw", data=b"")
        else:
            metaimage(path, file="x.raw", data=b"")
        assert "rename it to" in refused(path)

    def test_a_data_file_that_was_not_copied(self, folder):
        assert "gone.raw, which holds its voxels, is not beside it" in refused(
            metaimage(folder / "x.mhd", file="gone.raw", data=b"")
        )


class TestNames:
    @pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
    @pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha", ".mhd"])
    def test_names_that_are_not_utf_8(self, tmp_path, suffix):
        folder = tmp_path / os.fsdecode(b"Sch\xe4del")
        folder.mkdir()
        path = folder / os.fsdecode(b"Kn\xf6chel" + suffix.encode())
        write_volume(Volume(HU, AFFINE), path)
        check_read(path)

    def test_a_folder_or_pipe_of_such_a_name(self, tmp_path):
        if hasattr(os, "mkfifo"):
            os.mkfifo(tmp_path / "x.nrrd")
            assert "is no regular file" in refused(tmp_path / "x.nrrd")

    def test_control_characters_stay_out_of_sentences(self, tmp_path):
        assert "\x1b" not in refused(nrrd(tmp_path / "x.nrrd", f"{DIRECTIONS}\n\x1b[2J\x07: 1"))


class TestSyntheticMark:
    @pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha", ".mhd"])
    @pytest.mark.parametrize("synthetic", [True, False])
    def test_comes_back(self, tmp_path, suffix, synthetic):
        write_volume(Volume(HU, affine_from(), synthetic=synthetic), tmp_path / f"x{suffix}")
        assert read_volume(tmp_path / f"x{suffix}").synthetic is synthetic


class TestAnyDamage:
    @given(
        kind=st.sampled_from(["x.nrrd", "x.mha", "x.nii"]),
        place=st.integers(0, 420),
        content=st.binary(min_size=1, max_size=12),
    )
    def test_a_header_with_other_bytes_is_refused_or_read_in_full(self, tmp_path_factory, kind, place, content):
        path = tmp_path_factory.mktemp("damage") / kind
        {"x.nrrd": nrrd, "x.mha": metaimage, "x.nii": nifti}[kind](path)
        data = bytearray(path.read_bytes())
        data[place : place + len(content)] = content
        path.write_bytes(data)
        with suppress(InputError):
            assert read_volume(path).voxels.shape == HU.shape


class TestSliceAxis:
    @pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha", ".mhd"])
    @pytest.mark.parametrize("axis", ["I", "J", "K", None])
    def test_comes_back(self, tmp_path, suffix, axis):
        write_volume(Volume(HU, affine_from(), slice_axis=axis), tmp_path / f"x{suffix}")
        assert read_volume(tmp_path / f"x{suffix}").slice_axis == axis
