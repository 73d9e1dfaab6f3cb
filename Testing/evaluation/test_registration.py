"""Interpolation between registered slices."""

from __future__ import annotations

import numpy as np
import pytest

from scans import affine_from, anatomy, layouts
from XViewSynthLib import Volume
from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.evaluation.registration import upsample_by_registration
from XViewSynthLib.geometry.interpolation import upsample

ROWS = COLUMNS = 48


def disc(row: float) -> np.ndarray:
    """A soft disc of 60 HU in air, 16 pixels wide."""
    rows, columns = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    return -1000 + 1060 / (1 + np.exp(np.hypot(rows - row, columns - COLUMNS / 2) - 8))


@pytest.fixture(scope="module")
def wandering() -> Volume:
    """A disc that moves by six pixels from slice to slice."""
    return Volume(np.stack([disc(14 + 6 * k) for k in range(4)]).round().astype(np.int16), affine_from())


@pytest.fixture(scope="module")
def scan() -> Volume:
    return Volume(anatomy((4, 40, 36)), affine_from(), slice_thickness=4.0)


@pytest.fixture(scope="module")
def restored(scan) -> Volume:
    return upsample_by_registration(scan, 2, "K")


class TestUpsampleByRegistration:
    def test_what_moves_is_found_in_between_and_not_faded(self, wandering):
        truth = np.stack([disc(14 + 2 * k) for k in range(10)])
        errors = {
            name: np.abs(answer.voxels - truth).mean()
            for name, answer in {
                "linear": upsample(wandering, 3, "K", "linear"),
                "registration": upsample_by_registration(wandering, 3, "K"),
            }.items()
        }
        assert errors["registration"] < 0.35 * errors["linear"]

    def test_observed_slices_stay_as_they_are(self, scan, restored):
        assert np.array_equal(restored.voxels[::2], scan.voxels)

    def test_geometry(self, scan, restored):
        assert restored.voxels.shape == scan.upsampled_shape("K", 2)
        assert np.array_equal(restored.affine, scan.upsampled_affine("K", 2))
        assert restored.slice_thickness == scan.slice_thickness

    def test_every_run_gives_the_same_numbers(self, scan, restored):
        assert np.array_equal(upsample_by_registration(scan, 2, "K").voxels, restored.voxels)

    def test_the_way_a_scan_is_stored_changes_nothing(self, scan, restored):
        stored = list(layouts(scan))[29]
        axis = stored.through_plane_axis
        answer = upsample_by_registration(stored, 2, axis)
        middle = restored.ijk_to_ras([9, 21, 3])
        there = tuple(np.rint(answer.ras_to_ijk(middle)).astype(int)[::-1])
        assert answer.voxels[there] == restored.voxels[3, 21, 9]
        assert np.allclose(np.sort(answer.voxels, axis=None), np.sort(restored.voxels, axis=None))

    def test_equal_slices_stay_equal(self, scan):
        same = scan.with_voxels(np.repeat(scan.voxels[:1], 4, axis=0))
        assert np.allclose(upsample_by_registration(same, 4, "K").voxels, scan.voxels[0], atol=0.01)

    def test_padding_stays_padding_and_does_not_leak(self, scan):
        voxels = scan.voxels.copy()
        voxels[:, :10] = -3024
        answer = upsample_by_registration(scan.with_voxels(voxels), 2, "K").voxels
        assert (answer[:, :10] == -3024).all()
        assert answer[1::2, 10:].min() >= -1024

    def test_metal_does_not_spoil_the_rest(self, scan):
        voxels = scan.voxels.copy()
        voxels[:, 30:33, 10:13] = 20000
        answer = upsample_by_registration(scan.with_voxels(voxels), 2, "K").voxels
        assert answer[1::2].max() <= 3071

    def test_stops_between_gaps(self, scan):
        calls = []

        def check():
            calls.append(1)
            if len(calls) == 2:
                raise Cancelled("Stopped.")

        with pytest.raises(Cancelled):
            upsample_by_registration(scan, 2, "K", check)

    @pytest.mark.parametrize(("shape", "factor"), [((1, 40, 40), 2), ((4, 40, 12), 2), ((4, 40, 40), 1)])
    def test_what_cannot_be_registered(self, shape, factor):
        with pytest.raises(InputError, match="Registration needs a factor of at least 2"):
            upsample_by_registration(Volume(np.zeros(shape, np.int16), np.eye(4)), factor, "K")
