"""Slices that are averages over their thickness: enhanced, checked and measured from end to end."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from scans import affine_from, anatomy
from tiny import NETWORK, enhance_with_views, make_card, make_network
from XViewSynthLib import InputError, Volume, enhance
from XViewSynthLib.evaluation.selfcheck import drop_slices, selfcheck
from XViewSynthLib.geometry.acquisition import average
from XViewSynthLib.geometry.slice_profile import SliceProfile, averaging_weights
from XViewSynthLib.inference.enhancement import carry_out
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.model.catalogue import choose_model, load_model, save_model
from XViewSynthLib.model.network import ScanFacts, ThreeViewNetwork
from XViewSynthLib.model.spline import join_gaps, spline_through
from XViewSynthLib.request import Request

TOUCHING = SliceProfile()
FACTS = ScanFacts(torch.tensor([5.0]), TOUCHING)


@pytest.fixture(scope="module")
def thick_model(tmp_path_factory):
    card = make_card(name="small-thick", acquisition="thick", network=NETWORK | {"thick": 1})
    folder = tmp_path_factory.mktemp("models") / "small-thick"
    return load_model(save_model(folder, make_network(thick=1), card).folder)


@pytest.fixture(scope="module")
def thick_scan() -> Volume:
    """Odd numbers of rows and columns, which the students' pixel pairs do not divide."""
    return Volume(anatomy((7, 23, 21)), affine_from((0.8, 0.8, 4.0)), slice_thickness=4.0)


@pytest.fixture(scope="module")
def enhanced(thick_scan, thick_model):
    return enhance_with_views(thick_scan, 4, model=thick_model)


@pytest.fixture(scope="module")
def thin_scan() -> Volume:
    return Volume(anatomy((21, 24, 24)), affine_from((0.8, 0.8, 1.0)), slice_thickness=1.0)


def unclipped(volume: Volume) -> np.ndarray:
    """(rows, columns): where no slice is as dark as voxels can be."""
    inside = (volume.voxels > -1024).all(axis=0)
    assert inside.mean() > 0.3
    return inside


class TestNetwork:
    def test_predicts_every_slice(self):
        observed = torch.rand(2, 5, 8, 12)
        views = make_network(thick=1)(observed, 3, replace(FACTS, gap_ratio=FACTS.gap_ratio.expand(2)))
        assert views.shape == (3, 2, 13, 8, 12)

    def test_untrained_networks_predict_the_spline_through_the_averages(self):
        observed = torch.rand(1, 5, 8, 8)
        views = ThreeViewNetwork(**NETWORK, thick=1)(observed, 3, FACTS)
        assert torch.allclose(views, spline_through(observed, 3, TOUCHING).expand_as(views), atol=1e-6)

    def test_heeds_the_thickness(self):
        network, observed = make_network(thick=1), torch.rand(1, 5, 8, 8)
        thin, wide = (
            network.residual("axial", observed, 2, replace(FACTS, profile=SliceProfile(thickness)))
            for thickness in (0.5, 2.0)
        )
        assert not torch.allclose(thin, wide, atol=1e-4)

    def test_heeds_how_much_slices_blur_and_not_their_shape(self):
        network, observed = make_network(thick=1), torch.rand(1, 5, 8, 8)
        gaussian = SliceProfile(0.8, "gaussian")
        told, same, less = (
            network.residual("axial", observed, 2, replace(FACTS, profile=profile))
            for profile in (gaussian, SliceProfile(gaussian.box_width), SliceProfile(0.8))
        )
        assert torch.equal(told, same)
        assert not torch.allclose(told, less, atol=1e-4)

    def test_where_gaps_meet_the_mean_of_their_predictions_counts(self):
        answers = torch.arange(2 * 4.0).view(1, 2, 4, 1, 1)
        assert join_gaps(answers).flatten().tolist() == [0, 1, 2, 3.5, 5, 6, 7]

    def test_takes_over_the_backbone_of_a_network_for_thin_slices(self):
        thin, thick = make_network(seed=3), ThreeViewNetwork(**NETWORK, thick=1)
        thick.adopt_backbones(thin)
        assert torch.equal(thick.axial.trunk.blocks[0].enter.weight, thin.axial.trunk.blocks[0].enter.weight)
        assert torch.equal(thick.pixelwise.trunk.condition.weight[:, :2], thin.pixelwise.trunk.condition.weight)
        assert not thick.pixelwise.trunk.condition.weight[:, 2].any()

    def test_of_another_size_it_cannot(self):
        with pytest.raises(ValueError, match="differ in their size"):
            ThreeViewNetwork(channels=8, axial_blocks=1, pixel_blocks=1).adopt_backbones(make_network())


class TestEnhance:
    def test_the_scanner_would_have_seen_the_input(self, thick_scan, enhanced):
        seen = np.tensordot(averaging_weights(7, 4, TOUCHING), enhanced.volume.voxels.astype(float), axes=1)
        assert np.abs(seen - thick_scan.voxels)[1:-1, unclipped(enhanced.volume)].max() < 1.0

    def test_every_slice_is_synthetic(self, enhanced):
        assert enhanced.synthetic_slices == tuple(range(25))
        assert (enhanced.disagreement.voxels > 0).any(axis=(1, 2)).all()

    def test_geometry_is_that_of_the_gap_model(self, thick_scan, enhanced):
        assert np.array_equal(enhanced.volume.affine, thick_scan.upsampled_affine("K", 4))
        assert enhanced.volume.slice_thickness == 1.0

    def test_the_prediction_is_the_mean_of_the_views(self, enhanced):
        mean = np.mean([view.voxels for view in enhanced.views.values()], axis=0)
        inside = np.all([unclipped(volume) for volume in (enhanced.volume, *enhanced.views.values())], axis=0)
        assert np.abs(mean - enhanced.volume.voxels)[:, inside].max() < 1

    def test_tiles_do_not_show(self, thick_scan, thick_model, enhanced):
        plan = replace(enhanced.plan, tile_voxels=1)
        tiled = carry_out(plan, thick_scan, thick_model).volume.voxels
        assert np.abs(tiled.astype(int) - enhanced.volume.voxels).max() <= 1

    def test_a_scan_stored_backwards_gives_the_same_prediction(self, thick_scan, thick_model, enhanced):
        flip = np.diag([1.0, 1, -1, 1])
        flip[2, 3] = 6
        backwards = Volume(thick_scan.voxels[::-1], thick_scan.affine @ flip, 4.0)
        assert np.array_equal(enhance(backwards, 4, model=thick_model).volume.voxels[::-1], enhanced.volume.voxels)

    def test_padding_stays_padding(self, thick_model):
        voxels = anatomy((6, 20, 20))
        voxels[:, :4] = -3024
        result = enhance(Volume(voxels, affine_from((0.8, 0.8, 3.0)), 3.0), 3, model=thick_model).volume.voxels
        assert (result[:, :4] == -3024).all()
        assert result[:, 4:].min() >= -1024

    def test_thin_slices_may_be_brighter_than_their_average(self, thick_model):
        fine = np.full((25, 8, 8), -500, np.int16)
        fine[12] = 2000
        thick = average(Volume(fine, affine_from((0.8, 0.8, 1.0))), 4)
        assert enhance(thick, 4, model=thick_model).volume.voxels.max() > thick.voxels.max()

    def test_resampled_slices_are_all_synthetic(self, thick_scan, thick_model):
        result = enhance(thick_scan, spacing=1.5, model=thick_model)
        assert len(result.synthetic_slices) == result.volume.slices("K")

    def test_a_gaussian_profile_is_met_as_well(self, thick_scan, thick_model):
        result = enhance(thick_scan, 2, model=thick_model, profile="gaussian", thickness=3.0)
        weights = averaging_weights(7, 2, SliceProfile(0.75, "gaussian"))
        seen = np.tensordot(weights, result.volume.voxels.astype(float), axes=1)
        assert np.abs(seen - thick_scan.voxels)[1:-1, unclipped(result.volume)].max() < 1.0


class TestPlan:
    def test_notes_the_thickness(self, thick_scan, thick_model):
        plan = make_plan(thick_scan, thick_model)
        assert (plan.acquisition, plan.profile) == ("thick", TOUCHING)
        assert plan.notes[0].startswith("Slices were taken as averages over 4 mm: the averages are kept")

    def test_a_guessed_thickness_is_called_one(self, thick_scan, thick_model):
        plan = make_plan(replace(thick_scan, slice_thickness=None), thick_model)
        assert "4 mm, a guess" in plan.notes[0]

    def test_a_given_thickness_is_no_guess(self, thick_scan, thick_model):
        plan = make_plan(replace(thick_scan, slice_thickness=None), thick_model, thickness=5.0)
        assert plan.notes[0].startswith("Slices were taken as averages over 5 mm: the averages are kept")

    def test_a_given_thickness_decides_which_model_is_taken(self, thick_scan, tiny_model):
        thin = replace(thick_scan, slice_thickness=0.5)
        assert choose_model(thin, Request()).card["acquisition"] == "gap"
        assert choose_model(thin, Request(thickness=4.0)).card["acquisition"] == "thick"
        (note,) = make_plan(thin, load_model(tiny_model), thickness=4.0).notes
        assert "but are 4 mm thick and 4 mm apart" in note

    def test_is_plain_json(self, thick_scan, thick_model):
        assert make_plan(thick_scan, thick_model).to_dict()["profile"] == {"thickness": 1.0, "shape": "box"}

    def test_the_gap_model_notes_thick_slices(self, thick_scan, tiny_model):
        assert "are 4 mm thick and 4 mm apart" in make_plan(thick_scan, load_model(tiny_model)).notes[0]

    def test_and_of_slices_of_unknown_thickness(self, thick_scan, tiny_model):
        plan = make_plan(replace(thick_scan, slice_thickness=None), load_model(tiny_model))
        assert "does not state its slice thickness" in plan.notes[0]

    def test_but_not_of_thin_ones(self, thick_scan, tiny_model):
        assert make_plan(replace(thick_scan, slice_thickness=1.0), load_model(tiny_model)).notes == ()


class TestSelfCheck:
    def test_averages_in_place_of_dropping(self, thin_scan):
        trial = drop_slices(thin_scan, 4, acquisition="thick")
        assert np.array_equal(trial.observed.voxels, average(thin_scan, 4).voxels)
        assert trial.reference.is_new.all()

    def test_measures_all_slices(self, thin_scan, thick_model):
        report = selfcheck(thin_scan, 2, model=thick_model)
        assert report["acquisition"] == "thick"
        # Of 21 slices, the first and the last are only seen in averages.
        assert len(report["synthetic_slices"]) == 19
        assert math.isfinite(report["methods"]["enhanced"]["gain_over_better_db"])

    def test_the_spline_through_averages_beats_interpolation(self, thick_model):
        untrained = replace(thick_model, network=ThreeViewNetwork(**NETWORK, thick=1).eval())
        # At its ends it mirrors the body, so that a scan must be long.
        scan = Volume(anatomy((61, 24, 24)), affine_from((0.8, 0.8, 1.0)), slice_thickness=1.0)
        assert selfcheck(scan, 2, model=untrained)["methods"]["enhanced"]["gain_over_better_db"] > 0.3

    def test_refuses_what_the_model_was_not_trained_for(self, thin_scan, thick_model):
        with pytest.raises(InputError, match="was trained for thick slices"):
            selfcheck(thin_scan, 2, model=thick_model, acquisition="gap")
