"""How alike neighbouring slices are: what the networks are told of a scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scans import affine_from, anatomy
from tiny import NETWORK, make_card, make_network
from XViewSynthLib import Volume, enhance
from XViewSynthLib.geometry.slice_profile import SliceProfile, averaging_weights
from XViewSynthLib.model.catalogue import load_model, save_model
from XViewSynthLib.model.network import ScanFacts
from XViewSynthLib.model.noise import noise_correlation
from XViewSynthLib.model.spline import to_network_units
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.sampling import Sampler


def noise(slices: int = 9, pixels: int = 96, seed: int = 0) -> torch.Tensor:
    """Soft tissue with nothing but noise of 10 HU in it: (slices, pixels, pixels) in network units."""
    random = np.random.default_rng(seed)
    return to_network_units(torch.from_numpy(random.normal(40.0, 10.0, (slices, pixels, pixels))).float())


def overlapping(slices: torch.Tensor, weight: float) -> torch.Tensor:
    return weight * (slices[:-2] + slices[2:]) + (1 - 2 * weight) * slices[1:-1]


class TestNoiseCorrelation:
    def test_of_slices_with_noise_of_their_own_is_none(self):
        assert noise_correlation(noise()[None], (1, 2))[0].tolist() == pytest.approx([0.0, 0.0], abs=0.02)

    def test_of_equal_slices_is_one(self):
        assert noise_correlation(noise(1).expand(5, -1, -1)[None], (1, 2))[0].tolist() == pytest.approx(
            [1.0, 1.0], abs=1e-5
        )

    @given(weight=st.floats(0.0, 1 / 3))
    @settings(max_examples=10, deadline=None)
    def test_of_overlapping_slices_is_that_of_their_noise(self, weight):
        """Noise that is mixed with weights w, 1 - 2 w, w has these correlations with that one and two slices on."""
        power = 2 * weight**2 + (1 - 2 * weight) ** 2
        expected = [2 * weight * (1 - 2 * weight) / power, weight**2 / power]
        # That edges count no more than noise takes a little away.
        measured = noise_correlation(overlapping(noise(15), weight)[None], (1, 2))[0]
        assert measured.tolist() == pytest.approx(expected, abs=0.03)

    def test_neither_depends_on_the_level_nor_on_the_strength_of_noise(self):
        slices = overlapping(noise(), 0.3)[None]
        assert torch.allclose(noise_correlation(slices), noise_correlation(slices * 0.5 + 0.05), atol=1e-3)

    def test_what_is_no_soft_tissue_does_not_count(self):
        """Lungs, bones and the table are alike from slice to slice, and say nothing of the slices."""
        body, table = overlapping(noise(), 0.3), noise(1, seed=2).expand(7, -1, -1)
        for level in (-0.5, 0.5):
            beside = torch.cat([body, table + level], dim=2)
            assert torch.allclose(noise_correlation(beside[None]), noise_correlation(body[None]), atol=0.01)

    def test_of_a_scan_without_soft_tissue_is_none(self):
        assert noise_correlation(torch.full((2, 5, 8, 8), -1.0)).tolist() == [[0.0]] * 2

    def test_of_what_does_not_change_is_none(self):
        assert noise_correlation(torch.zeros(1, 5, 8, 8)).tolist() == [[0.0]]

    def test_scans_of_a_batch_do_not_see_each_other(self):
        one, other = overlapping(noise(), 0.3), noise(7, seed=4)
        both = noise_correlation(torch.stack([one, other]))
        assert torch.equal(both[1], noise_correlation(other[None])[0])


class TestEnhancement:
    def test_all_tiles_are_conditioned_on_that_of_the_whole_scan(self, tmp_path):
        network = make_network(fusion_blocks=1, likeness=1)
        card = make_card(network=NETWORK | {"fusion_blocks": 1, "likeness": 1})
        model = load_model(save_model(tmp_path / "told", network, card).folder)
        voxels = anatomy((8, 24, 24))
        volume = Volume(voxels, affine_from((0.8, 0.8, 4.0)))
        observed = to_network_units(torch.from_numpy(voxels.astype(np.float32)))[None]
        facts = ScanFacts(torch.tensor([5.0]))
        with torch.inference_mode():
            views = model.network(observed, 2, facts)
            expected = model.network.fuse(observed, views, 2, facts)[0, :, 0] * 1024
        result = enhance(volume, 2, model=model, acquisition="gap", precision="fp32").volume.voxels[1::2]
        inside = (result > voxels.min()) & (result < voxels.max())
        assert inside.mean() > 0.5
        assert np.abs(result - expected.numpy())[inside].max() <= 1.0


class TestTraining:
    CONFIG = TrainingConfig(
        batch=2, slices=5, pixels=16, factor_shares={2: 1.0}, overlap_share=0.5, network=NETWORK | {"likeness": 1}
    )

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _scan(cls):
        voxels = (noise(80, 48).numpy() * 1024).round().astype(np.int16)
        cls.scan = Volume(voxels, affine_from((0.8, 0.8, 1.0)))

    def test_blocks_are_conditioned_on_that_of_their_scan(self):
        sampler = Sampler([self.scan], self.CONFIG)
        told = torch.cat([sampler.thinned(step).likeness for step in range(8)])
        # Thinned, slices share a neighbour where they were made to overlap, and nothing where they were not.
        assert told[:, 0].min() < 0.03
        assert told[:, 0].max() > 0.1
        assert sampler.own_gaps(0).likeness.shape == (2, 1)

    def test_mixing_with_neighbours_is_heeded(self):
        material = Sampler([self.scan], self.CONFIG).along[0]
        at = [material.likeness(1, weight)[0] for weight in (0.0, 0.1, 0.3)]
        assert at == pytest.approx([0.0, 0.24, 0.71], abs=0.03)

    @pytest.mark.parametrize("profile", [None, SliceProfile(), SliceProfile(1.6), SliceProfile(0.9, "gaussian")])
    @pytest.mark.parametrize("factor", [2, 3])
    def test_is_that_of_the_thinned_scan(self, profile, factor):
        fine = self.scan.voxels.astype(np.float64)
        fine = 0.2 * (fine[:-2] + fine[2:]) + 0.6 * fine[1:-1]
        kept = (len(fine) - 1) // factor + 1
        thinned = fine[::factor]
        if profile is not None:
            thinned = np.tensordot(averaging_weights(kept, factor, profile), fine[: (kept - 1) * factor + 1], 1)
        measured = noise_correlation(to_network_units(torch.from_numpy(thinned[2:-2]).float())[None])[0]
        material = Sampler([self.scan], self.CONFIG).along[0]
        assert material.likeness(factor, 0.2, profile) == pytest.approx(measured.tolist(), abs=0.03)

    def test_networks_of_thick_slices_are_conditioned_too(self):
        network = NETWORK | {"thick": 1, "likeness": 1}
        sampler = Sampler([self.scan], replace(self.CONFIG, acquisition="thick", network=network))
        assert sampler.thinned(0).likeness.shape == (2, 1)

    def test_other_networks_are_not_conditioned(self):
        assert Sampler([self.scan], replace(self.CONFIG, network=NETWORK)).thinned(0).likeness is None

    def test_a_specialist_with_that_input_is_conditioned(self):
        network = NETWORK | {"specialists": {"2": {"likeness": 1}}}
        assert Sampler([self.scan], replace(self.CONFIG, network=network)).thinned(0).likeness is not None
