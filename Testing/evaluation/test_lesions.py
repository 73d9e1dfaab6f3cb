"""Simulated lesions: how they are placed and rendered, and what perfect, blind and fading results show of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scans import affine_from, stored_as
from XViewSynthLib.evaluation.balls import rendered_ball
from XViewSynthLib.evaluation.lesions import (
    CONTRASTS_HU,
    DIAMETERS_MM,
    LUNG,
    PHASES,
    SOFT_TISSUE,
    Lesion,
    LesionTest,
    Place,
    plant,
    summarise,
    with_lesions,
)
from XViewSynthLib.evaluation.selfcheck import Trial, drop_slices
from XViewSynthLib.geometry.interpolation import upsample
from XViewSynthLib.geometry.volume import Volume

SHAPE = (57, 110, 120)


def scan(noise_hu: float = 5.0) -> Volume:
    """A body in air whose left half is lung; voxels of 1 mm."""
    _, j, i = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in SHAPE), indexing="ij")
    hu = np.full(SHAPE, -1000.0)
    body = ((j - 55) / 52) ** 2 + ((i - 60) / 57) ** 2 < 1
    hu[body] = 40
    hu[body & (i < 60) & (((j - 55) / 39) ** 2 + ((i - 60) / 44) ** 2 < 1)] = -850
    hu += np.random.default_rng(0).normal(0, noise_hu, SHAPE)
    return Volume(hu.round().astype(np.int16), affine_from((1.0, 1.0, 1.0)), slice_thickness=1.0, slice_axis="K")


@pytest.fixture(scope="module")
def trial() -> Trial:
    return drop_slices(scan(), 4)


@pytest.fixture(scope="module")
def planted(trial) -> LesionTest:
    return plant(trial, places=40)


class TestPlaces:
    def test_are_well_apart(self, planted):
        centres = np.array(
            [place.centre_mm for place in (*(lesion.place for lesion in planted.lesions), *planted.vacant)]
        )
        for region in (LUNG, SOFT_TISSUE):
            chosen = centres[[place.region == region for place in _places(planted)]]
            distances = np.linalg.norm(chosen[:, None] - chosen[None], axis=2) + 1e9 * np.eye(len(chosen))
            assert distances.min() >= 16

    def test_every_size_contrast_and_phase(self, planted):
        for region in (LUNG, SOFT_TISSUE):
            lesions = [lesion for lesion in planted.lesions if lesion.place.region == region]
            assert {lesion.diameter_mm for lesion in lesions} == set(DIAMETERS_MM)
            assert {lesion.contrast_hu for lesion in lesions} <= set(CONTRASTS_HU[region])
        assert {lesion.place.phase for lesion in planted.lesions} == set(range(len(PHASES)))

    def test_lie_in_their_region(self, planted, trial):
        for place in _places(planted):
            value = trial.reference.slices[tuple(np.round(place.centre_mm).astype(int))]
            assert (value < -600) == (place.region == LUNG)

    def test_phase_is_the_distance_from_the_nearest_observed_slice(self, planted):
        for place in _places(planted):
            distance = abs((place.centre_mm[0] + 2) % 4 - 2)
            assert place.phase == min(int(distance / 2 * 3), 2)

    def test_do_not_depend_on_how_the_scan_is_stored(self, trial, planted):
        flipped = drop_slices(stored_as(scan(), (0, 1, 2), (True, False, True)), 4, "K")
        assert plant(flipped, places=40).lesions == planted.lesions

    def test_a_region_without_room_is_left_out_with_a_reason(self):
        voxels = np.random.default_rng(0).normal(40, 5, (25, 40, 40)).astype(np.int16)
        found = plant(drop_slices(Volume(voxels, np.eye(4)), 2))
        assert found.missing[LUNG] == "there is room for 0 lesions, and 8 are needed"


def _places(planted: LesionTest) -> list[Place]:
    return [*(lesion.place for lesion in planted.lesions), *planted.vacant]


class TestRendering:
    def test_a_large_ball_keeps_its_height_and_volume(self):
        distance = np.linspace(0, 12, 2401)
        ball = rendered_ball(distance, 8.0)
        assert ball[0] == pytest.approx(1, abs=1e-6)
        assert ball[np.searchsorted(distance, 4.0)] == pytest.approx(0.5, abs=0.06)
        shells = 4 * np.pi * distance**2 * ball
        assert np.sum((shells[1:] + shells[:-1]) / 2) * 0.005 == pytest.approx(4 / 3 * np.pi * 64, rel=1e-3)

    @pytest.mark.parametrize("flips", [(False, False, False), (True, False, True)])
    @pytest.mark.parametrize("acquisition", ["gap", "thick"])
    def test_lies_at_its_place_in_the_patient(self, flips, acquisition):
        volume = stored_as(scan(0), (0, 1, 2), flips)
        trial = drop_slices(volume, 4, "K", acquisition)
        place = Place(SOFT_TISSUE, (20.0, 55.0, 90.0), 0)
        changed = with_lesions(trial, [Lesion(place, 8.0, 80.0, True)])
        change = changed.voxels.astype(float) - volume.voxels
        k, j, i = (
            np.sum(np.arange(n) * np.moveaxis(change, axis, 0).sum((1, 2))) / change.sum()
            for axis, n in enumerate(change.shape)
        )
        first = scan(0).ras_to_ijk(trial.reference.volume.ijk_to_ras([_corner(trial)]))[0]
        found = scan(0).ras_to_ijk(changed.ijk_to_ras([[i, j, k]]))[0]
        assert found == pytest.approx([first[0] + 90, first[1] + 55, first[2] + 20], abs=0.05)
        assert change.max() == pytest.approx(80, abs=1)


def _corner(trial: Trial) -> list[int]:
    """(I, J, K) of the truth's first voxel in canonical order."""
    backwards = trial.reference.order.reversed
    k, j, i = ((size - 1) * back for size, back in zip(trial.reference.slices.shape, backwards, strict=True))
    return [i, j, k]


class TestFindings:
    def test_the_truth_shows_all_of_every_lesion(self, planted, trial):
        findings = planted.measure(planted.trial.reference.volume, trial.reference.volume)
        assert np.mean([finding.contrast for finding in findings]) == pytest.approx(1, abs=0.01)
        assert np.mean([finding.centre_error_mm for finding in findings]) < 0.2
        large = [finding for lesion, finding in zip(planted.lesions, findings, strict=True) if lesion.diameter_mm > 5]
        assert np.mean([finding.volume_ratio for finding in large]) == pytest.approx(1, abs=0.03)
        assert np.mean([finding.detectability for finding in large]) > 0.99

    def test_a_blind_result_shows_nothing(self, planted, trial):
        for finding in planted.measure(trial.reference.volume, trial.reference.volume):
            assert (finding.contrast, finding.volume_ratio, finding.centre_error_mm) == (0, 0, None)
        detected = [f.detectability for f in planted.measure(trial.reference.volume, trial.reference.volume)]
        assert np.mean(detected) == pytest.approx(0.5, abs=0.12)

    def test_half_the_contrast(self, planted, trial):
        before = trial.reference.volume.voxels.astype(np.float32)
        faded = (before + planted.trial.reference.volume.voxels) / 2
        findings = planted.measure(trial.reference.volume.with_voxels(faded), trial.reference.volume)
        assert np.mean([finding.contrast for finding in findings]) == pytest.approx(0.5, abs=0.01)

    def test_a_small_lesion_between_observed_slices_is_lost_to_interpolation(self, trial):
        places = [Place(SOFT_TISSUE, (z, 55.0, 85.0), 0) for z in (20.0, 30.0)]
        lesions = tuple(Lesion(place, 3.0, 80.0, place is places[0]) for place in places)
        changed = drop_slices(with_lesions(trial, lesions), 4)
        small = LesionTest(changed, trial, lesions, (), {})
        seen, lost = small.measure(*(upsample(each.observed, 4, "K", "linear") for each in (changed, trial)))
        assert seen.contrast > 0.7
        assert lost.contrast < 0.1
        assert lost.centre_error_mm is None
        assert seen.detectability is None


class TestSummary:
    def test_groups_hold_every_lesion_once(self, planted, trial):
        findings = planted.measure(planted.trial.reference.volume, trial.reference.volume)
        summary = summarise(planted.lesions, findings)
        for groups in summary.values():
            assert sum(group["lesions"] for group in groups) == len(planted.lesions)
        assert len({(g["region"], g["diameter_mm"], g["phase"]) for g in summary["by_size_and_phase"]}) == len(
            summary["by_size_and_phase"]
        )

    def test_unknown_values_are_left_out_of_means(self, planted, trial):
        findings = planted.measure(planted.trial.reference.volume, trial.reference.volume)
        lost = [replace(finding, centre_error_mm=None, volume_ratio=None) for finding in findings]
        for group in summarise(planted.lesions, lost)["by_contrast"]:
            assert (group["centre_error_mm"], group["volume_error_percent"]) == (None, None)
            assert group["lost"] == group["lesions"]
