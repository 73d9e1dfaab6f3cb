"""Published methods that are trained beside our own: shapes, learning, files, and the way into the benchmark."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.peers import restore_peer, train_peer
from benchmarks.peers.methods import FourSlice, Ours, Paper, load_method, restore
from benchmarks.peers.networks import LayerAttention
from scans import affine_from, anatomy
from XViewSynthLib import Volume, load_model, read_volume, write_volume
from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.acquisition import thin
from XViewSynthLib.model.spline import spline_between, to_hu, to_network_units
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.sampling import Sampler

BLOCK = {"batch": 1, "slices": 5, "pixels": 16, "in_plane_share": 0.0}
PUBLISHED = (Paper, FourSlice)

each_published = pytest.mark.parametrize("method", PUBLISHED, ids=[method.NAME for method in PUBLISHED])


def config(factor: int) -> TrainingConfig:
    return TrainingConfig(**BLOCK, factor_shares={factor: 1.0})


@pytest.fixture
def tiny_sizes(monkeypatch):
    """A size of every method that learns in no time."""
    pixels = {"pixel_channels": 8, "pixel_groups": 2, "pixel_blocks": 1}
    monkeypatch.setitem(Paper.SIZES, "tiny", {"axial_channels": 16, "axial_groups": 1, "axial_blocks": 1, **pixels})
    monkeypatch.setitem(FourSlice.SIZES, "tiny", {"channels": 8, "blocks": 1})
    monkeypatch.setitem(Ours.SIZES, "tiny", {"channels": 8, "axial_blocks": 1, "pixel_blocks": 1})


@pytest.fixture(scope="module")
def fine() -> Volume:
    return Volume(anatomy((25, 40, 36)), affine_from((0.8, 0.8, 1.0)))


@pytest.fixture(scope="module")
def scan(fine) -> Volume:
    return thin(fine, 3)


class TestNetworks:
    @each_published
    def test_predicts_the_slices_in_between(self, method):
        # No size is a multiple of what the networks fold the slices by.
        assert method(3).between(torch.zeros(5, 22, 26)).shape == (4, 2, 22, 26)

    def test_views_of_the_paper_see_what_they_should(self):
        network = Paper(2).network.eval()
        observed = torch.rand(1, 5, 12, 14)
        changed = observed.clone()
        changed[:, :, 3] += 1
        coronal = network.coronal_view(changed) - network.coronal_view(observed)
        assert [row for row in range(12) if coronal[:, :, :, row].abs().max() > 0] == [3]
        turned = network.sagittal_view(observed.transpose(2, 3)).transpose(3, 4)
        assert torch.allclose(turned, network.coronal_view(observed), atol=1e-6)

    def test_parts_of_the_paper_joined_are_the_mean_of_its_views(self):
        method = Paper(2)
        observed = torch.rand(5, 36, 20)
        with torch.inference_mode():
            assert torch.allclose(method.between(observed), method.network(observed[None]).mean(dim=0)[0], atol=1e-5)

    def test_four_slices_and_no_more_matter_to_a_gap(self):
        network = FourSlice(2).network
        torch.nn.init.normal_(network.tail.weight, std=0.01)
        observed = torch.rand(1, 8, 16, 16)
        residual = network(observed) - spline_between(observed, 2)
        changed = observed.clone()
        changed[:, 1] += 1
        moved = (network(changed) - spline_between(changed, 2) - residual)[0, :, 0].abs().amax(dim=(1, 2)) > 1e-4
        assert moved.tolist() == [True, True, True, False, False, False, False]

    def test_four_slices_begin_with_the_spline(self):
        observed = torch.rand(1, 5, 16, 16)
        assert torch.equal(FourSlice(4).network(observed), spline_between(observed, 4))

    def test_layer_attention_begins_with_the_layers_themselves(self):
        layers = torch.rand(2, 3, 4, 5, 5)
        attention = LayerAttention()
        assert torch.equal(attention(layers), layers)
        torch.nn.init.ones_(attention.strength)
        assert not torch.allclose(attention(layers), layers)

    def test_full_sizes_have_as_many_parameters_as_published(self):
        paper, four = Paper(2, "full"), FourSlice(4, "full")
        counts = [sum(p.numel() for p in part.parameters()) for part in (paper.network.axial, paper.network.pixelwise)]
        assert counts == [pytest.approx(53.5e6, rel=0.02), pytest.approx(0.89e6, rel=0.02)]
        assert four.parameters == pytest.approx(23e6, rel=0.05)

    def test_unknown_size(self):
        with pytest.raises(InputError, match="paper has no size 'huge': choose small, full"):
            Paper(2, "huge")


class TestTraining:
    # Those that begin with the spline have less to learn, and are slower about it.
    @pytest.mark.parametrize(("method", "steps"), [(Paper, 8), (FourSlice, 30), (Ours, 30)])
    def test_a_few_steps_reduce_the_loss(self, method, steps, fine, tiny_sizes):
        torch.manual_seed(0)
        learning, sampler = method(2, "tiny"), Sampler([fine], config(2))

        def loss() -> float:
            with torch.no_grad():
                terms = [learning.terms(sampler, step, 0.0, torch.device("cpu")) for step in range(4)]
            return sum(term.item() for found in terms for term in found.values())

        before = loss()
        _, facts = train_peer.train(learning, [fine], config(2), steps=steps, learning_rate=2e-4)
        assert loss() < before
        assert facts["steps"] == steps
        assert facts["parameters"] == learning.parameters > 1000

    def test_progress_is_reported(self, fine, tiny_sizes):
        lines = []
        train_peer.train(FourSlice(2, "tiny"), [fine], config(2), steps=25, tell=lines.append)
        assert len(lines) == 1
        assert "step 25  loss 0." in lines[0]

    def test_terms_of_the_paper(self, fine, tiny_sizes):
        terms = Paper(2, "tiny").terms(Sampler([fine], config(2)), 0, 0.0, torch.device("cpu"))
        assert set(terms) == {"views", "wavelet", "distillation_1", "distillation_2"}
        assert all(term > 0 for term in terms.values())

    def test_ends_when_its_time_is_over(self, fine, tiny_sizes):
        _, facts = train_peer.train(FourSlice(2, "tiny"), [fine], config(2), minutes=0.005)
        assert facts["steps"] >= 1
        assert 0.005 <= facts["minutes"] < 0.1

    def test_a_step_that_leaves_the_numbers_is_not_taken(self, fine, tiny_sizes):
        method = FourSlice(2, "tiny")
        method.network.head.weight.data.fill_(float("nan"))
        kept, _ = train_peer.train(method, [fine], config(2), steps=2)
        assert torch.isfinite(kept.tail.weight).all()

    def test_no_time_at_all(self, fine):
        with pytest.raises(InputError, match="above 0"):
            train_peer.train(FourSlice(2), [fine], config(2), minutes=0.0)

    def test_scans_that_cannot_be_thinned_so(self, fine, tiny_sizes):
        thick = Volume(fine.voxels, np.diag([0.8, 0.8, 3.0, 1.0]))
        with pytest.raises(InputError, match="can be thinned by 8"):
            train_peer.train(FourSlice(8, "tiny"), [thick], config(8), steps=1)


class TestFiles:
    @each_published
    def test_what_is_written_is_what_is_read(self, tmp_path, method):
        written = method(2)
        written.save(tmp_path, written.network, {"steps": 1})
        read = load_method(tmp_path)
        assert (type(read), read.factor, read.size) == (method, 2, "small")
        for name, value in written.network.state_dict().items():
            assert torch.equal(read.network.state_dict()[name], value)

    def test_our_own_becomes_a_model(self, tmp_path):
        method = Ours(4)
        for weights in method.network.parameters():
            torch.nn.init.normal_(weights, std=0.01)
        method.save(tmp_path / "mine", method.network, {"steps": 1})
        model = load_model(tmp_path / "mine")
        assert (model.name, model.card["factors"]) == ("mine", [4])
        with pytest.raises(InputError, match="bench --model"):
            method.between(torch.zeros(4, 8, 8))

    @pytest.mark.parametrize("content", [None, b"", b"not weights at all"])
    def test_no_weights(self, tmp_path, content):
        if content is not None:
            (tmp_path / "peer.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="name a folder that train_peer.py has written"):
            load_method(tmp_path)


class TestRestore:
    @each_published
    def test_observed_slices_geometry_and_type_are_kept(self, method, scan):
        restored = restore(method(3), scan, "K")
        assert restored.voxels.dtype == scan.voxels.dtype
        assert np.array_equal(restored.voxels[::3], scan.voxels)
        assert np.array_equal(restored.affine, scan.upsampled_affine("K", 3))

    def test_untrained_four_slices_give_the_spline_in_hu(self, scan):
        floating = scan.with_voxels(scan.voxels.astype(np.float32))
        restored = restore(FourSlice(3), floating, "K").voxels
        expected = to_hu(spline_between(to_network_units(torch.from_numpy(floating.voxels.copy())[None]), 3))[0]
        assert np.allclose(restored[1:3], expected[0], atol=0.01)

    def test_padding_stays_padding(self, scan):
        voxels = scan.voxels.copy()
        voxels[:, :5] = -3024
        restored = restore(FourSlice(3), scan.with_voxels(voxels), "K").voxels
        assert (restored[:, :5] == -3024).all()


class TestScripts:
    def test_from_scans_to_restored_volumes(self, tmp_path, fine, scan, capsys):
        write_volume(fine, tmp_path / "fine.nrrd")
        write_volume(scan, tmp_path / "fine.x3.nrrd")
        trained, restored = tmp_path / "trained", tmp_path / "restored"
        line = ["four-slice", str(tmp_path / "fine.nrrd"), "--factor", "3", "--steps", "2", "--device", "cpu"]
        assert train_peer.main([*line, "--output", str(trained), "--settings", json.dumps(BLOCK)]) == 0
        assert json.loads(capsys.readouterr().out)["steps"] == 2
        assert restore_peer.main([str(trained), str(tmp_path / "fine.x3.nrrd"), "--output", str(restored)]) == 0
        assert read_volume(restored / "fine.x3.nrrd").voxels.shape == fine.voxels.shape

    def test_what_is_wrong_is_said_in_a_sentence(self, tmp_path, capsys):
        line = ["paper", "none.nrrd", "--steps", "1", "--output", str(tmp_path)]
        assert train_peer.main(line) == 2
        assert restore_peer.main([str(tmp_path), "none.nrrd", "--output", str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("error: ") == 2
