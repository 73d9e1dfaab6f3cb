"""Invented and missed structure, on a phantom with balls added and taken away."""

from __future__ import annotations

import numpy as np
import pytest

from XViewSynthLib.evaluation.invented import BlobFinder
from XViewSynthLib.evaluation.metrics import Reference, make_reference
from XViewSynthLib.geometry.volume import Volume

SHAPE = (41, 80, 80)


def balls(centres: list[tuple[int, int, int]], hu: float) -> np.ndarray:
    """(slices, rows, columns) HU: balls of 2 mm radius; a voxel is a cubic millimetre."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1)
    image = np.zeros(SHAPE, np.float32)
    for centre in centres:
        image[np.sum((grid - centre) ** 2, axis=-1) <= 4] = hu
    return image


TRUE = balls([(10, 20, 20), (22, 40, 40), (30, 60, 25)], 150)
# Strong enough to hide the dark rim that a band-pass draws around a bright ball.
TISSUE = np.random.default_rng(0).normal(40, 15, SHAPE).astype(np.float32)


def volume(voxels: np.ndarray) -> Volume:
    return Volume(voxels, np.eye(4))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return make_reference(volume(TISSUE + TRUE), 4, "K")


@pytest.fixture(scope="module")
def finder(reference) -> BlobFinder:
    return BlobFinder(reference)


class TestBlobs:
    def test_the_truth_invents_and_misses_nothing(self, finder, reference):
        blobs = finder.compare(reference.volume)
        assert (blobs.invented_per_litre, blobs.missed_per_litre) == (0, 0)
        assert blobs.found_per_litre > 0

    @pytest.mark.parametrize("hu", [150.0, -150.0])
    def test_added_balls_are_invented(self, finder, reference, hu):
        added = balls([(13, 60, 60), (26, 15, 60)], hu)
        blobs = finder.compare(volume(TISSUE + TRUE + added))
        assert blobs.invented_per_litre * finder.litres == pytest.approx(2)
        # A blob of noise may be hidden by a ball.
        assert blobs.missed_per_litre * finder.litres <= 2

    def test_removed_balls_are_missed(self, finder):
        smooth = np.full(SHAPE, 40, np.float32)
        blobs = finder.compare(volume(smooth))
        assert blobs.missed_per_litre * finder.litres >= 3
        assert (blobs.invented_per_litre, blobs.found_per_litre) == (0, 0)

    def test_balls_in_observed_slices_do_not_count(self, finder):
        added = balls([(16, 60, 60)], 150)
        assert finder.compare(volume(TISSUE + TRUE + added)).invented_per_litre == 0

    def test_uncertainty_points_at_the_invented_ones(self, finder):
        added = balls([(13, 60, 60)], 150)
        uncertain = volume(np.where(balls([(13, 60, 60)], 1) > 0, 50, 1).astype(np.float32))
        restored = volume(np.full(SHAPE, 40, np.float32) + TRUE + added)
        assert finder.compare(restored, uncertain).invented_in_worst_percent == 100
        assert finder.compare(restored, volume(np.ones(SHAPE, np.float32))).invented_in_worst_percent == 0
        assert finder.compare(restored).invented_in_worst_percent is None

    def test_noise_is_measured(self, finder, reference):
        noisier = BlobFinder(make_reference(volume(40 + 3 * (TISSUE - 40) + TRUE), 4, "K"))
        assert noisier.noise_hu == pytest.approx(3 * finder.noise_hu, rel=0.05)
        assert finder.litres == pytest.approx(30 * 80 * 80 / 1e6)
