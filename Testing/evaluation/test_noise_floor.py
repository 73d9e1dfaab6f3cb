"""Noise floor: on phantoms with known noise, whose unexplained part follows from its correlation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from XViewSynthLib.evaluation.noise_floor import measure_floor
from XViewSynthLib.evaluation.recoverable import BODY, ErrorRegions, recoverable_removed
from XViewSynthLib.evaluation.selfcheck import Trial, drop_slices
from XViewSynthLib.geometry.interpolation import upsample
from XViewSynthLib.geometry.slice_profile import SliceProfile, profile_shares
from XViewSynthLib.geometry.volume import Volume

pytestmark = pytest.mark.slow

SHAPE = (33, 192, 192)
NOISE_HU = 20.0
#: Weights of independent slices in one slice: noise that slices do not share, and noise of overlapping slices.
ALONE, SHARED = (1.0,), (1.0, 2.0, 1.0)


def noise(along: tuple[float, ...], in_plane: float, seed: int = 0) -> np.ndarray:
    """Noise (slices, rows, columns) of known standard deviation, filtered along the slices and in plane (pixels)."""
    white = np.random.default_rng(seed).normal(size=SHAPE)
    impulse = np.zeros((1, 65, 65))
    impulse[0, 32, 32] = 1
    sigma = (0, in_plane, in_plane)
    kept = np.square(ndimage.gaussian_filter(impulse, sigma)).sum() * np.square(along).sum()
    filtered = ndimage.convolve1d(ndimage.gaussian_filter(white, sigma, mode="wrap"), along, axis=0, mode="wrap")
    return NOISE_HU * filtered / kept**0.5


def anatomy(with_structure: bool) -> np.ndarray:
    """A body in air with one lung, blurred; with waves, and balls that many slices do not show."""
    k, j, i = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in SHAPE), indexing="ij")
    rows, columns = j / SHAPE[1] * 2 - 1, i / SHAPE[2] * 2 - 1
    hu = np.full(SHAPE, -1000.0)
    hu[(rows / 0.95) ** 2 + (columns / 0.95) ** 2 < 1] = 40
    hu[(rows / 0.65) ** 2 + ((columns + 0.35) / 0.4) ** 2 < 1] = -850
    if not with_structure:
        return hu
    random = np.random.default_rng(5)
    for _ in range(150):
        centre, radius = random.uniform(0, 1, 3) * SHAPE, random.uniform(1, 4)
        ball = (k - centre[0]) ** 2 + (j - centre[1]) ** 2 + (i - centre[2]) ** 2 < radius**2
        hu += np.where(ball, random.choice([60, -80, 150, 400]), 0)
    hu += 20 * np.sin(i / 15 + k / 9) * np.cos(j / 18)
    return ndimage.gaussian_filter(hu, 0.6)


def thinned(along: tuple[float, ...], in_plane: float, factor: int, acquisition, structure: bool = False) -> Trial:
    scan = (anatomy(structure) + noise(along, in_plane)).astype(np.float32)
    return drop_slices(Volume(scan, np.diag([0.8, 0.8, 1.0, 1.0])), factor, acquisition=acquisition)


def unexplained(along: tuple[float, ...], factor: int, acquisition: str) -> float:
    """Share of the variance of noise that the two observed slices on either side leave open, by linear algebra."""
    products = np.correlate(along, along, "full") / np.square(along).sum()
    reach = len(along) - 1

    def correlation(distance: int) -> float:
        return float(products[distance + reach]) if abs(distance) <= reach else 0.0

    weights = np.asarray(profile_shares(factor, SliceProfile())) if acquisition == "thick" else np.ones(1)
    profile = dict(zip(range(-(len(weights) // 2), len(weights) // 2 + 1), weights / weights.sum(), strict=True))
    places = [factor * index for index in (-1, 0, 1, 2)]
    between = [
        [
            sum(v * w * correlation(p + a - q - b) for a, v in profile.items() for b, w in profile.items())
            for q in places
        ]
        for p in places
    ]
    shares = []
    for hidden in range(0 if acquisition == "thick" else 1, factor):
        common = [sum(w * correlation(p + a - hidden) for a, w in profile.items()) for p in places]
        shares.append(1 - common @ np.linalg.solve(between, common))
    return float(np.mean(shares))


class TestFloor:
    @pytest.mark.parametrize("in_plane", [0.0, 1.0], ids=["white", "coloured"])
    @pytest.mark.parametrize("along", [ALONE, SHARED], ids=["alone", "shared"])
    @pytest.mark.parametrize(("factor", "acquisition"), [(2, "gap"), (4, "gap"), (4, "thick"), (5, "thick")])
    def test_is_the_noise_that_neighbours_do_not_explain(self, along, in_plane, factor, acquisition):
        floors = measure_floor(thinned(along, in_plane, factor, acquisition))
        expected = NOISE_HU**2 * unexplained(along, factor, acquisition)
        assert floors["soft tissue"].mse_hu2 == pytest.approx(expected, rel=0.05)
        # The lung of the phantom is small, and so is the sample.
        assert floors["lung"].mse_hu2 == pytest.approx(expected, rel=0.08)
        assert floors["soft tissue"].noise_hu == pytest.approx(NOISE_HU, rel=0.03)

    @pytest.mark.parametrize(("factor", "acquisition"), [(4, "gap"), (4, "thick")])
    def test_structure_does_not_leak_into_it(self, factor, acquisition):
        trial = thinned(SHARED, 0.0, factor, acquisition, structure=True)
        expected = NOISE_HU**2 * unexplained(SHARED, factor, acquisition)
        for floor in measure_floor(trial).values():
            assert floor.mse_hu2 == pytest.approx(expected, rel=0.05)

    def test_structure_of_the_phantom_would_be_seen(self):
        alone = drop_slices(Volume(anatomy(with_structure=True).astype(np.float32), np.diag([0.8, 0.8, 1.0, 1.0])), 4)
        error = upsample(alone.observed, 4, "K", "linear").voxels - alone.reference.volume.voxels
        assert np.mean(error[alone.reference.body] ** 2) > 0.1 * NOISE_HU**2

    def test_of_a_scan_without_noise(self):
        voxels = anatomy(with_structure=False).astype(np.float32)
        floors = measure_floor(drop_slices(Volume(voxels, np.diag([0.8, 0.8, 1.0, 1.0])), 4))
        assert all(floor.mse_hu2 < 1e-3 for floor in floors.values())

    def test_regions_that_the_scan_lacks(self):
        voxels = (np.full(SHAPE, 40.0) + noise(ALONE, 0.0)).astype(np.float32)
        assert set(measure_floor(drop_slices(Volume(voxels, np.diag([0.8, 0.8, 1.0, 1.0])), 4))) == {"soft tissue"}

    def test_few_slices(self):
        voxels = (40 + noise(ALONE, 0.0))[:7].astype(np.float32)
        assert set(measure_floor(drop_slices(Volume(voxels, np.eye(4)), 2))) == {"soft tissue"}

    def test_homogeneous_voxels_are_chosen_without_the_hidden_slices(self):
        trial = thinned(ALONE, 0.0, 4, "gap")
        voxels = trial.source.voxels.copy()
        voxels[1::4] += 300 * (np.arange(SHAPE[2]) % 2)
        changed = drop_slices(trial.source.with_voxels(voxels), 4)
        floors, before = measure_floor(changed), measure_floor(trial)
        assert floors["soft tissue"].mse_hu2 > before["soft tissue"].mse_hu2 + 1000


@pytest.fixture(scope="module")
def trial() -> Trial:
    return thinned(ALONE, 0.0, 4, "gap", structure=True)


class TestRecoverableError:
    def test_all_is_removed_by_a_result_at_the_floor(self, trial):
        regions = ErrorRegions(trial)
        perfect = trial.reference.volume.with_voxels(anatomy(with_structure=True).astype(np.float32))
        linear = regions.errors(upsample(trial.observed, 4, "K", "linear"))
        for name in (BODY, "soft tissue", "lung"):
            removed = recoverable_removed(linear[name], regions.errors(perfect)[name], regions.floors[name])
            assert removed == pytest.approx(1, abs=0.03)

    def test_the_floor_of_the_body_lies_between_those_of_its_regions(self, trial):
        floors = ErrorRegions(trial).floors
        lowest, highest = sorted([floors["soft tissue"], floors["lung"]])
        assert lowest <= floors[BODY] <= highest

    def test_errors_are_mean_squares_on_new_slices(self, trial):
        truth = trial.reference.volume
        voxels = truth.voxels + np.where(trial.reference.is_new, 10, 500).astype(np.float32)[:, None, None]
        errors = ErrorRegions(trial).errors(truth.with_voxels(voxels))
        assert errors == pytest.approx(dict.fromkeys(errors, 100), rel=1e-3)

    def test_an_interpolation_at_the_floor_leaves_nothing_to_remove(self):
        assert recoverable_removed(50.0, 40.0, 50.0) is None
        assert recoverable_removed(50.0, 40.0, None) is None
        assert recoverable_removed(250.0, 300.0, 50.0) == -0.25
