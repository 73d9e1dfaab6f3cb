"""The uncertainty above which a map is coloured."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

from scans import affine_from
from scene import make_bent_transform, make_volume_node
from scene_pairs import make_pair
from XViewSynthLib import Volume
from XViewSynthScene.noise import FAINT_HU, faint_hu, noise_hu
from XViewSynthScene.overlay import UncertaintyOverlay


def body(deviation: float) -> Volume:
    """Soft tissue with an edge, in air, with noise of this standard deviation: (5, 80, 80) int16 HU."""
    hu = np.full((5, 80, 80), -1000.0)
    hu[:, 10:70, 10:70] = 40
    hu[:, 10:70, 40:70] = 90
    hu += np.random.default_rng(0).normal(0, deviation, hu.shape)
    return Volume(hu.round().astype(np.int16), affine_from((0.8, 0.8, 4.0)))


class TestNoise:
    @pytest.mark.parametrize("deviation", [5.0, 15.0, 30.0])
    def test_is_measured_in_soft_tissue(self, deviation):
        assert noise_hu(body(deviation)) == pytest.approx(deviation, rel=0.15)

    def test_masked_air_does_not_count(self):
        scan = body(15.0)
        voxels = np.where(scan.voxels < -500, 0, scan.voxels).astype(np.int16)
        assert noise_hu(scan.with_voxels(voxels)) == pytest.approx(15, rel=0.15)

    @pytest.mark.parametrize("shape", [(5, 80, 80), (3, 4, 4), (1, 9, 9)])
    def test_without_soft_tissue_nothing_is_known(self, shape):
        air = Volume(np.full(shape, -1000, np.int16), affine_from((0.8, 0.8, 4.0)))
        assert noise_hu(air) is None


def threshold(scene, deviation: float, uncertainty: np.ndarray) -> float:
    """Of a scan with this noise, HU, which is its own enhanced volume."""
    scan = body(deviation)
    node = make_volume_node(scene, scan)
    return faint_hu(node, node, make_volume_node(scene, Volume(uncertainty.astype(np.float32), scan.affine)))


class TestThreshold:
    @pytest.mark.parametrize("deviation", [5.0, 25.0])
    def test_is_twice_the_noise_but_no_less_than_the_usual(self, scene, deviation):
        expected = max(FAINT_HU, 5 * math.ceil(2 * noise_hu(body(deviation)) / 5))
        assert threshold(scene, deviation, np.zeros((5, 80, 80))) == expected

    def test_leaves_four_fifths_of_the_body_without_colour(self, scene):
        uncertainty = np.zeros((5, 80, 80))
        uncertainty[1::2] = np.linspace(0, 60, 80)
        uncertainty[:, :10] = 500  # air
        found = threshold(scene, 5.0, uncertainty)
        inside = uncertainty[1::2, 10:70, 10:70]
        assert np.mean(inside > found) == pytest.approx(0.2, abs=0.05)

    def test_colours_whatever_is_very_uncertain(self, scene):
        assert threshold(scene, 5.0, np.full((5, 80, 80), 300.0)) == 50

    def test_of_a_map_of_another_size_heeds_the_noise_alone(self, scene):
        assert threshold(scene, 25.0, np.full((3, 80, 80), 300.0)) == threshold(scene, 25.0, np.zeros((5, 80, 80)))

    def test_of_a_bent_map_is_the_usual(self, scene):
        node = make_volume_node(scene, body(25.0))
        node.SetAndObserveTransformNodeID(make_bent_transform(scene).GetID())
        assert faint_hu(node, node, node) == FAINT_HU

    @pytest.mark.parametrize(("faint", "full"), [(FAINT_HU, 100.0), (80.0, 160.0)])
    def test_colours_begin_there(self, scene, scan, faint, full):
        uncertainty = make_pair(scene, scan).uncertainty
        overlay = UncertaintyOverlay(uncertainty, [], faint)
        display = uncertainty.GetScalarVolumeDisplayNode()
        assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == overlay.limits_hu == (faint, full)
        overlay.remove()
