"""Training material."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scans import affine_from, anatomy
from XViewSynthLib import InputError, Volume
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.sampling import Sampler, materials_of

CONFIG = TrainingConfig(slices=5, pixels=16, batch=2, network={"channels": 4, "axial_blocks": 1, "pixel_blocks": 1})


def fine_scan(slices: int = 41, spacing: float = 1.0) -> Volume:
    return Volume(anatomy((slices, 24, 28)), affine_from((0.8, 0.8, spacing)))


class TestMaterial:
    def test_a_fine_scan_can_be_thinned_along_every_axis(self):
        materials = materials_of(fine_scan())
        assert [material.in_plane for material in materials] == [False, True, True]
        assert sorted(material.voxels.shape[0] for material in materials) == [24, 28, 41]

    def test_a_thick_scan_only_along_its_slices(self):
        assert len(materials_of(fine_scan(spacing=3.0))) == 1

    def test_padding_becomes_air(self):
        voxels = anatomy((41, 24, 28))
        voxels[:, :3] = -3024
        material = materials_of(Volume(voxels, affine_from((0.8, 0.8, 1.0))))[0]
        assert material.voxels.min() >= -1024


class TestBlocks:
    def test_thinned_blocks_know_what_was_dropped(self):
        blocks = Sampler([fine_scan()], CONFIG).thinned(0)
        s = blocks.factor
        assert blocks.observed.shape == (2, 5, 16, 16)
        assert blocks.truth.shape == (2, 4, s - 1, 16, 16)
        assert torch.equal(blocks.truth[:, 2, 0], blocks.slices[:, 2 * s + 1])
        assert torch.equal(blocks.observed[:, 3], blocks.slices[:, 3 * s])

    def test_depend_on_seed_and_step_alone(self):
        one, other = Sampler([fine_scan()], CONFIG), Sampler([fine_scan()], CONFIG)
        one.thinned(3)
        assert torch.equal(one.thinned(7).slices, other.thinned(7).slices)
        assert not torch.equal(one.thinned(7).slices[..., :4, :4], one.thinned(8).slices[:, :5, :4, :4][:, :1])

    def test_every_factor_is_drawn(self):
        sampler = Sampler([fine_scan()], CONFIG)
        assert {sampler.thinned(step).factor for step in range(150)} == set(range(2, 9))

    def test_gaps_that_no_scanner_leaves_are_not_drawn(self):
        sampler = Sampler([fine_scan(spacing=2.5)], CONFIG)
        assert {sampler.thinned(step).factor for step in range(60)} == {2, 3, 4}

    def test_thick_scans_are_thinned_by_two_at_least(self):
        sampler = Sampler([fine_scan(spacing=8.0)], CONFIG)
        assert {sampler.thinned(step).factor for step in range(20)} == {2}

    def test_untouched_blocks_are_as_fine_as_the_scan(self):
        blocks = Sampler([fine_scan()], CONFIG).untouched(0)
        assert blocks.factor == 1
        assert blocks.slice_ratio.tolist() == pytest.approx([1 / 0.8] * 2)

    def test_own_gaps_are_those_of_the_scan_and_get_a_factor(self):
        sampler = Sampler([fine_scan()], CONFIG)
        gaps = [sampler.own_gaps(step) for step in range(40)]
        assert {blocks.slices.shape for blocks in gaps} == {(2, 5, 16, 16)}
        assert {blocks.factor for blocks in gaps} >= {2, 3, 4}
        assert gaps[0].slice_ratio.tolist() == pytest.approx([1.25, 1.25])

    def test_so_many_steps_rehearse(self):
        rehearsing = [
            Sampler([fine_scan()], replace(CONFIG, rehearsal_share=0.3)).rehearses(step) for step in range(200)
        ]
        assert 40 < sum(rehearsing) < 80
        assert not any(Sampler([fine_scan()], CONFIG).rehearses(step) for step in range(20))

    def test_values_are_those_of_the_scan(self):
        scan = fine_scan()
        blocks = Sampler([scan], CONFIG).untouched(0)
        present = np.unique(scan.voxels.astype(np.float32) / 1024)
        assert np.isin(blocks.slices.numpy(), present).all()

    def test_overlapping_blocks_mix_neighbours_alone(self):
        voxels = np.zeros((41, 24, 28), np.float32)
        voxels[20] = 900
        config = TrainingConfig(slices=9, pixels=16, batch=2, factor_shares={2: 1.0}, overlap_share=1.0)
        sampler = Sampler([Volume(voxels, affine_from((0.8, 0.8, 1.0)))], config)
        profiles = torch.cat([sampler.thinned(step).slices[:, :, 0, 0] for step in range(20)]) * 1024
        inside = profiles[(profiles[:, 2:-2] > 0).any(dim=1) & (profiles[:, 0] == 0) & (profiles[:, -1] == 0)]
        assert ((inside > 0).sum(dim=1) == 3).all()
        assert torch.allclose(inside.sum(dim=1), torch.tensor(900.0), atol=0.1)
        assert len(set(inside.amax(dim=1).tolist())) > 5
        assert 300 <= inside.amax() < 900

    def test_scaled_blocks_have_the_ratio_of_the_scan_itself(self):
        config = replace(CONFIG, pixels=8, factor_shares={2: 1.0}, scaled_share=1.0)
        scan = fine_scan()
        blocks = Sampler([scan], config).thinned(0)
        assert blocks.slices.shape == (2, 9, 8, 8)
        assert (blocks.slice_ratio * blocks.factor).tolist() == pytest.approx([1.25, 1.25])

    def test_scaled_blocks_are_means_of_squares(self):
        flat = np.broadcast_to(np.arange(28, dtype=np.int16) // 2 * 100, (41, 24, 28)).copy()
        config = replace(CONFIG, pixels=8, batch=1, factor_shares={2: 1.0}, scaled_share=1.0)
        hu = Sampler([Volume(flat, affine_from((0.8, 0.8, 1.0)))], config).thinned(0).slices * 1024
        assert set(hu.round().unique().tolist()) <= {50.0 * count for count in range(28)}

    def test_a_scan_too_small_for_scaled_blocks_gives_others(self):
        config = replace(CONFIG, factor_shares={2: 1.0}, scaled_share=1.0)
        blocks = Sampler([fine_scan()], config).thinned(0)
        assert (blocks.slice_ratio * blocks.factor).tolist() == pytest.approx([2.5, 2.5])

    def test_of_more_candidates_the_one_that_changes_most_is_taken(self):
        voxels = np.zeros((41, 24, 96), np.int16)
        voxels[:, :, 80:] = anatomy((41, 24, 16))
        still_but_for_a_corner = Volume(voxels, affine_from((0.8, 0.8, 1.0)))

        def share_with_change(candidates: int) -> float:
            config = replace(CONFIG, batch=4, candidates=candidates)
            sampler = Sampler([still_but_for_a_corner], config)
            drawn = torch.cat([sampler.thinned(step).slices[:, :5] for step in range(20)])
            return (drawn.flatten(1).std(dim=1) > 0).float().mean().item()

        assert share_with_change(8) > 0.6 > 0.35 > share_with_change(1)

    def test_in_plane_axes_are_used_on_request(self):
        config = TrainingConfig(slices=4, pixels=16, in_plane_share=1.0)
        ratios = Sampler([fine_scan()], config).thinned(0).slice_ratio
        assert ratios.tolist() == pytest.approx([0.8 / 0.9])

    def test_scans_of_different_depth_share_a_step(self):
        sampler = Sampler([fine_scan(), fine_scan(slices=13)], CONFIG)
        for step in range(30):
            assert sampler.thinned(step).observed.shape[1] >= 4


class TestBadInput:
    def test_too_few_slices(self):
        with pytest.raises(InputError, match="at least 7 slices and 16 x 16 pixels"):
            Sampler([fine_scan(slices=6)], CONFIG)

    @pytest.mark.parametrize(
        "setting",
        [{"steps": 0}, {"gamma": 0.0}, {"gamma": 1.5}, {"pixels": 15}, {"slices": 2}, {"batch": 0},
         {"overlap_share": 1.5}, {"scaled_share": -0.1}, {"rehearsal_share": 1.0}, {"judgements": 0}, {"patience": -1},
         {"candidates": 0}, {"rim": -1}, {"pixels": 16, "rim": 8}, {"ends_share": 1.1},
         {"factor_shares": {}}, {"factor_shares": {9: 1.0}}],
    )  # fmt: skip
    def test_settings_out_of_range(self, setting):
        with pytest.raises(InputError, match="Change the training settings"):
            TrainingConfig(**setting)

    def test_unknown_settings(self):
        with pytest.raises(InputError, match="unknown settings: speed"):
            TrainingConfig.from_dict({"speed": 3})
