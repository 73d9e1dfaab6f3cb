"""Writing: what a file keeps, and the sentence for every place that cannot be written to."""

from __future__ import annotations

import errno
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scans import affine_from, anatomy, directions, layouts, shearing
from XViewSynthLib import InputError, Volume, read_volume, write_volume
from XViewSynthLib.io.writing import WRITABLE, check_writable_name

SCALARS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
SMALL = anatomy((4, 6, 5))
CORNERS = np.array(list(np.ndindex(2, 2, 2))) * [4, 5, 3]
# NIfTI has 32-bit floats for positions; the other formats have decimal text.
TOLERANCE_MM = {".nrrd": 1e-6, ".mha": 1e-6, ".mhd": 1e-6, ".nii": 1e-4, ".nii.gz": 1e-4}


def refused(volume, path, **options):
    """The sentence with which a path is refused."""
    with pytest.raises(InputError) as caught:
        write_volume(volume, path, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def there_and_back(volume, suffix):
    with tempfile.TemporaryDirectory() as folder:
        write_volume(volume, f"{folder}/scan{suffix}")
        return read_volume(f"{folder}/scan{suffix}")


class TestRoundTrip:
    @pytest.mark.parametrize("suffix", WRITABLE)
    @given(
        turned=directions(),
        spacing=st.lists(st.floats(0.1, 12), min_size=3, max_size=3),
        origin=st.lists(st.floats(-800, 800), min_size=3, max_size=3),
    )
    def test_every_voxel_keeps_its_place_in_the_patient(self, suffix, turned, spacing, origin):
        scan = Volume(SMALL, affine_from(spacing, turned, origin))
        read = there_and_back(scan, suffix)
        np.testing.assert_array_equal(read.voxels, scan.voxels)
        np.testing.assert_allclose(read.ijk_to_ras(CORNERS), scan.ijk_to_ras(CORNERS), atol=TOLERANCE_MM[suffix])

    @pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".mha"])
    def test_all_48_layouts(self, suffix):
        for stored in layouts(Volume(SMALL, affine_from())):
            read = there_and_back(stored, suffix)
            np.testing.assert_array_equal(read.voxels, stored.voxels)
            np.testing.assert_allclose(read.affine, stored.affine, atol=TOLERANCE_MM[suffix])

    @pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".mha"])
    @pytest.mark.parametrize("dtype", SCALARS)
    def test_scalar_type(self, suffix, dtype):
        voxels = np.arange(60).reshape(3, 4, 5).astype(dtype)
        read = there_and_back(Volume(voxels, np.eye(4)), suffix)
        assert read.voxels.dtype == dtype
        np.testing.assert_array_equal(read.voxels, voxels)

    @pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
    def test_slice_thickness(self, suffix):
        assert there_and_back(Volume(SMALL, affine_from(), slice_thickness=0.1), suffix).slice_thickness == 0.1
        assert there_and_back(Volume(SMALL, affine_from()), suffix).slice_thickness is None

    def test_half_precision_becomes_single(self):
        read = there_and_back(Volume(SMALL.astype(np.float16), np.eye(4)), ".nrrd")
        assert read.voxels.dtype == np.float32
        np.testing.assert_array_equal(read.voxels, SMALL.astype(np.float16))

    def test_extremes_of_64_bits(self):
        voxels = np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max, 0]).reshape(3, 1, 1)
        np.testing.assert_array_equal(there_and_back(Volume(voxels, np.eye(4)), ".nrrd").voxels, voxels)


class TestPlace:
    def test_nothing_but_the_file_is_left(self, tmp_path, scan):
        write_volume(scan, tmp_path / "scan.nii.gz")
        assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]

    def test_mhd_has_its_raw_file_beside_it(self, tmp_path, scan):
        write_volume(scan, tmp_path / "scan.mhd")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.mhd", "scan.raw"]

    def test_existing_file_is_left_alone(self, tmp_path, scan):
        (tmp_path / "scan.nrrd").write_bytes(b"precious")
        assert "exists already" in refused(scan, tmp_path / "scan.nrrd")
        assert (tmp_path / "scan.nrrd").read_bytes() == b"precious"

    def test_existing_file_is_replaced_on_request(self, tmp_path, scan):
        (tmp_path / "scan.nrrd").write_bytes(b"old")
        write_volume(scan, tmp_path / "scan.nrrd", overwrite=True)
        np.testing.assert_array_equal(read_volume(tmp_path / "scan.nrrd").voxels, scan.voxels)

    @pytest.mark.parametrize("name", ["scan", "scan.png", "scan.nhdr", "scan.gz", "scan.dcm", "nrrd"])
    def test_unknown_ending(self, tmp_path, scan, name):
        assert "choose one of .nrrd, .nii, .nii.gz, .mha, .mhd" in refused(scan, tmp_path / name)
        with pytest.raises(InputError, match="no ending that can be written"):
            check_writable_name(tmp_path / name)

    @pytest.mark.parametrize("suffix", WRITABLE)
    def test_known_ending_in_any_case(self, suffix):
        check_writable_name(f"SCAN{suffix.upper()}")

    def test_missing_folder(self, tmp_path, scan):
        refused(scan, tmp_path / "gone" / "scan.nrrd")

    def test_folder_of_that_name(self, tmp_path, scan):
        (tmp_path / "scan.nrrd").mkdir()
        assert "is a folder" in refused(scan, tmp_path / "scan.nrrd", overwrite=True)

    def test_unwritable_folder(self, tmp_path, scan, monkeypatch):
        def no_permission(*_, **__):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(tempfile, "mkdtemp", no_permission)
        assert "Permission denied" in refused(scan, tmp_path / "scan.nrrd")

    @pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "n/" * 3000])
    def test_name_too_long(self, tmp_path, scan, name):
        refused(scan, tmp_path / f"{name}.nrrd")

    def test_longest_name_that_the_file_system_takes(self, tmp_path, scan):
        path = tmp_path / ("n" * 250 + ".nrrd")
        write_volume(scan, path)
        np.testing.assert_array_equal(read_volume(path).voxels, scan.voxels)

    def test_sheared_grid(self, tmp_path, scan):
        sheared = Volume(scan.voxels, affine_from(directions=shearing(10)))
        assert "sheared by 10.0 degrees" in refused(sheared, tmp_path / "scan.nii")
        assert not any(tmp_path.iterdir())


class TestFullDisk:
    @pytest.mark.parametrize("suffix", WRITABLE)
    def test_says_so_and_leaves_what_was_there(self, tmp_path, suffix, scan):
        resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
        (tmp_path / f"scan{suffix}").write_bytes(b"precious")
        noise = np.random.default_rng(0).integers(-1000, 1000, (20, 64, 64), dtype=np.int16)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        try:
            sentence = refused(scan.with_voxels(noise), tmp_path / f"scan{suffix}", overwrite=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "disk may be full" in sentence
        assert str(tmp_path / f"scan{suffix}") in sentence
        assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]
