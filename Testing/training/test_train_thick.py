"""Training for slices that are averages over their thickness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scans import affine_from, anatomy
from tiny import NETWORK, make_card, make_network
from XViewSynthLib import Cancelled, InputError, Volume, enhance, load_model, read_volume, write_volume
from XViewSynthLib.geometry.acquisition import average
from XViewSynthLib.geometry.slice_profile import SliceProfile, averaging_weights
from XViewSynthLib.model.catalogue import save_model
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.distillation import agreement_terms, answered, training_terms
from XViewSynthTrainLib.heldout import HeldOut, write_example
from XViewSynthTrainLib.runs import train
from XViewSynthTrainLib.sampling import Sampler, materials_of
from XViewSynthTrainLib.trainer import stored_config
from XViewSynthTrainLib.training_set import TrainingSet

pytestmark = pytest.mark.slow

THICK_NETWORK = NETWORK | {"thick": 1}
CONFIG = TrainingConfig(acquisition="thick", slices=5, pixels=16, batch=2, network=THICK_NETWORK)
SETTINGS = {"steps": 4, "slices": 4, "pixels": 16, "batch": 1, "acquisition": "thick"}


def fine_scan(slices: int = 61, thickness: float | None = None) -> Volume:
    return Volume(anatomy((slices, 24, 28)), affine_from((0.8, 0.8, 1.0)), thickness)


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("scans") / "scan.nrrd"
    write_volume(fine_scan(), path)
    return path


@pytest.fixture(scope="module")
def gap_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "sees"
    save_model(folder, make_network(seed=4), make_card(training_data=[{"name": "seen", "license": "CC0-1.0"}]))
    return folder


class TestSampler:
    @pytest.mark.parametrize("step", range(6))
    def test_observed_slices_are_averages_of_the_truth(self, step):
        blocks = Sampler([fine_scan()], CONFIG).thinned(step)
        weights = torch.tensor(averaging_weights(blocks.observed.shape[1], blocks.factor, blocks.profile))
        averaged = torch.einsum("kt,bthw->bkhw", weights, blocks.slices)
        # At the ends what lies beyond the block is averaged as well.
        assert torch.allclose(blocks.observed[:, 1:-1], averaged[:, 1:-1], atol=1e-5)
        assert torch.equal(blocks.truth, blocks.slices)

    def test_the_ends_of_a_block_average_what_lies_beyond(self):
        volume = fine_scan(slices=80)
        sampler = Sampler([volume], replace(CONFIG, factor_shares={2: 1.0}, in_plane_share=0.0, batch=1))
        differs = []
        for step in range(8):
            blocks = sampler.thinned(step)
            weights = torch.tensor(averaging_weights(blocks.observed.shape[1], 2, blocks.profile))
            mirrored = torch.einsum("kt,bthw->bkhw", weights, blocks.slices)
            differs.append(not torch.allclose(blocks.observed[:, 0], mirrored[:, 0], atol=1e-4))
        assert any(differs)

    def test_a_scan_without_slices_to_spare_is_used_to_its_ends(self):
        blocks = Sampler([fine_scan(slices=9)], replace(CONFIG, in_plane_share=0.0, batch=1)).thinned(0)
        assert (blocks.factor, blocks.observed.shape[1]) == (2, 5)

    def test_slices_of_every_kind_are_made(self):
        sampler = Sampler([fine_scan()], CONFIG)
        profiles = [sampler.thinned(step).profile for step in range(60)]
        assert {profile.shape for profile in profiles} == {"box", "gaussian"}
        assert 15 < sum(profile.thickness == 1 for profile in profiles) < 45
        assert max(p.thickness for p in profiles) > 1.6
        assert min(p.thickness for p in profiles) < 0.8
        assert all(p.thickness <= 1 for p in profiles if p.shape == "gaussian")

    @pytest.mark.parametrize(("thickness", "expected"), [(None, 1.0), (1.25, 1.25), (0.1, 0.5), (9.0, 2.0)])
    def test_a_scan_itself_is_as_thick_as_it_says(self, thickness, expected):
        blocks = Sampler([fine_scan(thickness=thickness)], CONFIG).untouched(0)
        assert blocks.profile == SliceProfile(expected)
        assert torch.equal(blocks.slices, blocks.observed)

    def test_exercises_of_the_gap_model_stay_what_they_were(self):
        gap = replace(CONFIG, acquisition="gap", network=NETWORK)
        blocks = Sampler([fine_scan()], gap).thinned(0)
        assert blocks.profile is None
        assert torch.equal(blocks.observed, blocks.slices[:, :: blocks.factor])

    def test_in_plane_material_touches(self):
        assert [m.thickness for m in materials_of(fine_scan(thickness=1.5))] == [1.5, 1.0, 1.0]


class TestDistillation:
    def test_every_term_is_there(self):
        sampler, network = Sampler([fine_scan()], CONFIG), make_network(thick=1)
        terms = training_terms(network, sampler.thinned(0), sampler.untouched(0), CONFIG, increments=1)
        assert set(terms) == {"views", "mean", "wavelet", "distillation_1", "distillation_2"}
        assert all(term.isfinite() and term > 0 for term in terms.values())

    def test_what_goes_in_again_are_slices_that_touch(self):
        class Recording(ThreeViewNetwork):
            profiles: list = []  # noqa: RUF012

            def forward(self, observed, factor, facts):
                self.profiles.append((observed.shape[1], facts.profile))
                return super().forward(observed, factor, facts)

        network = Recording(**THICK_NETWORK)
        blocks = Sampler([fine_scan(thickness=1.5)], CONFIG).untouched(0)
        agreement_terms(network, blocks, CONFIG, increments=1)
        count = blocks.observed.shape[1]
        assert network.profiles == [(count, SliceProfile(1.5)), (2 * count - 1, SliceProfile())]

    def test_rehearsal_keeps_the_prediction_for_the_scans_own_slices(self):
        teacher, own = make_network(thick=1), Sampler([fine_scan()], CONFIG).own_gaps(0)
        blocks = answered(teacher, own)
        assert torch.equal(blocks.observed, own.observed)
        assert blocks.truth.shape[1] == own.factor * (own.observed.shape[1] - 1) + 1


class TestHeldOut:
    def test_averages_slices_and_begins_at_the_spline_through_them(self):
        card = make_card(acquisition="thick", network=THICK_NETWORK)
        held_out = HeldOut([fine_scan()], (2, 4), card, "cpu")
        assert np.array_equal(held_out.example.observed.voxels, average(fine_scan(), 2).voxels)
        gains = held_out.evaluate(ThreeViewNetwork(**THICK_NETWORK).eval())
        assert gains[2].over_cubic_db > 0.2

    def test_the_preview_shows_the_averages(self, tmp_path):
        card = make_card(acquisition="thick", network=THICK_NETWORK)
        write_example(HeldOut([fine_scan()], (2,), card, "cpu"), tmp_path / "preview")
        shown = read_volume(tmp_path / "preview" / "observed.nrrd").voxels
        assert np.array_equal(shown[::2], average(fine_scan(), 2).voxels)


class TestRun:
    def test_from_scratch(self, scan_file, tmp_path):
        settings = SETTINGS | {"network": THICK_NETWORK}
        report = train(TrainingSet([scan_file], name="mine"), tmp_path / "run", settings, device="cpu")
        model = load_model(tmp_path / "run" / "model")
        assert model.card["acquisition"] == "thick"
        assert "averages over their thickness" in model.card["intended_use"]
        assert report["after"]
        thick = average(fine_scan(), 4)
        assert len(enhance(thick, 4, model=model).synthetic_slices) == enhance(thick, 4, model=model).volume.slices("K")

    def test_from_a_model_for_gaps_takes_over_its_backbone(self, scan_file, gap_model, tmp_path):
        report = train(TrainingSet([scan_file], start=str(gap_model)), tmp_path / "run", SETTINGS, device="cpu")
        config = stored_config(tmp_path / "run")
        assert config.network["thick"] == 1
        # There is no starting model to beat or to rehearse.
        assert report["beats_start"] is None
        assert config.rehearsal_share == 0
        card = load_model(tmp_path / "run" / "model").card
        assert {"name": "seen", "license": "CC0-1.0"} in card["training_data"]

    def test_which_can_be_resumed(self, scan_file, gap_model, tmp_path):
        whole = train(TrainingSet([scan_file], start=str(gap_model)), tmp_path / "whole", SETTINGS, device="cpu")
        steps = iter([False, False, True])
        with pytest.raises(Cancelled, match="after step"):
            train(
                TrainingSet([scan_file], start=str(gap_model)),
                tmp_path / "run",
                SETTINGS,
                device="cpu",
                should_cancel=lambda: (tmp_path / "run" / "config.json").exists() and next(steps, True),
            )
        report = train(None, tmp_path / "run", device="cpu")
        assert report["model"]["sha256"] == whole["model"]["sha256"]

    def test_and_cannot_be_made_to_rehearse(self, scan_file, gap_model, tmp_path):
        with pytest.raises(InputError, match="no starting model to rehearse"):
            train(TrainingSet([scan_file], start=str(gap_model)), tmp_path / "run", SETTINGS | {"rehearsal_share": 0.3})

    def test_a_model_for_thick_slices_goes_on_as_one(self, scan_file, tmp_path):
        card = make_card(name="thick", acquisition="thick", network=THICK_NETWORK)
        start = save_model(tmp_path / "thick", make_network(thick=1), card)
        settings = {name: value for name, value in SETTINGS.items() if name != "acquisition"}
        report = train(TrainingSet([scan_file], start=str(start.folder)), tmp_path / "run", settings, device="cpu")
        assert stored_config(tmp_path / "run").acquisition == "thick"
        assert report["beats_start"] is not None


class TestConfig:
    def test_the_network_follows_the_acquisition(self):
        assert TrainingConfig.from_dict({"acquisition": "thick"}).network["thick"] == 1

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"acquisition": "box"}, "acquisition must be gap or thick"),
            ({"acquisition": "thick", "network": NETWORK}, '"thick": 1 for the acquisition thick'),
            ({"network": THICK_NETWORK}, '"thick": 1 for the acquisition thick'),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, settings, sentence):
        with pytest.raises(InputError, match=sentence):
            TrainingConfig.from_dict(settings)
