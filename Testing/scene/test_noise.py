"""The noise of a scan, from which the uncertainty map is coloured."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

from scans import affine_from
from scene import make_volume_node
from scene_pairs import make_pair
from XViewSynthLib import Volume
from XViewSynthScene.noise import noise_hu
from XViewSynthScene.overlay import FAINT_HU, FULL_HU, faint_from_noise
from XViewSynthScene.views import LinkedViews


def body(deviation: float) -> Volume:
    """Soft tissue with an edge, in air, with noise of this standard deviation: (5, 80, 80) int16 HU."""
    hu = np.full((5, 80, 80), -1000.0)
    hu[:, 10:70, 10:70] = 40
    hu[:, 10:70, 40:70] = 90
    hu += np.random.default_rng(0).normal(0, deviation, hu.shape)
    return Volume(hu.round().astype(np.int16), affine_from((0.8, 0.8, 4.0)))


class TestNoise:
    @pytest.mark.parametrize("deviation", [5.0, 15.0, 30.0])
    def test_is_measured_in_soft_tissue(self, scene, deviation):
        assert noise_hu(make_volume_node(scene, body(deviation))) == pytest.approx(deviation, rel=0.15)

    @pytest.mark.parametrize("shape", [(5, 80, 80), (3, 4, 4), (1, 9, 9)])
    def test_without_soft_tissue_nothing_is_known(self, scene, shape):
        air = Volume(np.full(shape, -1000, np.int16), affine_from((0.8, 0.8, 4.0)))
        assert noise_hu(make_volume_node(scene, air)) is None


class TestThreshold:
    @pytest.mark.parametrize(("noise", "faint"), [(None, FAINT_HU), (5.0, FAINT_HU), (25.0, 50.0)])
    def test_is_twice_the_noise_but_no_less_than_the_usual(self, noise, faint):
        assert faint_from_noise(noise) == faint

    @pytest.mark.parametrize(("faint", "full"), [(FAINT_HU, FULL_HU), (80.0, 160.0)])
    def test_the_linked_views_colour_from_there(self, scene, scan, faint, full):
        pair = make_pair(scene, scan)
        views = LinkedViews(scene)
        views.show(pair.original, pair.enhanced, pair.uncertainty, faint_hu=faint)
        display = pair.uncertainty.GetScalarVolumeDisplayNode()
        assert display.GetLevel() - display.GetWindow() / 2 == faint
        assert display.GetLevel() + display.GetWindow() / 2 == full
        views.close()
