"""`Testing/tools/train_together.py`: views and fusion trained together, for one factor or for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from optimizers import MuonAndAdam, orthogonal
from scans import affine_from, anatomy
from tiny import NETWORK, make_card, make_network
from tools import train_together
from XViewSynthLib import Volume, write_volume
from XViewSynthLib.geometry.slice_profile import SliceProfile, averaging_weights
from XViewSynthLib.model.catalogue import load_model, save_model
from XViewSynthLib.model.network import ScanFacts
from XViewSynthTrainLib.sampling import Blocks, Material, Sampler

pytestmark = pytest.mark.slow

FACTS = ScanFacts(torch.tensor([3.0]))
FUSED = NETWORK | {"fusion_blocks": 1}


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "general", make_network(fusion_blocks=1), make_card(network=FUSED))


@pytest.fixture
def observed() -> torch.Tensor:
    return torch.rand(1, 7, 12, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1


def answer(network, observed, factor):
    return network.fuse(observed, network(observed, factor, FACTS), factor, FACTS)


class TestBeginning:
    @pytest.mark.parametrize("more", [{}, {"fusion_blocks": 3}, {"likeness": 1}, {"aligned": 1}])
    def test_starts_with_the_prediction_of_the_model(self, model, observed, more):
        alone = train_together.beginning(model.network, FUSED | more, 4)
        # Blocks beyond those known start near the identity.
        assert torch.allclose(answer(alone, observed, 4), answer(model.network, observed, 4), atol=1e-3)
        with pytest.raises(KeyError):
            alone(observed, 3, FACTS)

    def test_of_a_specialist_begins_with_that_one(self, observed):
        own = {"4": {"fusion_blocks": 1, "likeness": 1}}
        network = make_network(fusion_blocks=1, specialists=own)
        alone = train_together.beginning(network, FUSED | own["4"], 4)
        assert torch.equal(answer(alone, observed, 4), answer(network.specialists["4"], observed, 4))

    def test_of_a_whole_model_is_that_model(self, observed):
        sizes = FUSED | {"specialists": {"4": {"fusion_blocks": 1, "likeness": 1}}}
        network = make_network(fusion_blocks=1, specialists=sizes["specialists"])
        whole = train_together.beginning(network, sizes | {"likeness": 1}, None)
        for factor in (3, 4):
            assert torch.equal(answer(whole, observed, factor), answer(network, observed, factor))


class TestCoarser:
    @staticmethod
    def material(slices: int, thickness: float = 1.0) -> Material:
        voxels = np.random.default_rng(2).integers(-1000, 1000, (slices, 2, 3), dtype=np.int16)
        return Material(voxels, slice_spacing=0.8, pixel_spacing=0.7, in_plane=False, thickness=thickness)

    def test_slices_are_averages_that_touch(self):
        fine = self.material(7)
        by_two, by_half_more = (train_together.coarser(fine, by) for by in (2, 1.5))
        assert np.allclose(by_two.voxels, (fine.voxels[0:6:2].astype(float) + fine.voxels[1:6:2]) / 2, atol=0.01)
        one, two, three = fine.voxels[3:6].astype(float)
        assert len(by_half_more.voxels) == 4
        assert np.allclose(by_half_more.voxels[2:], [(2 * one + two) / 3, (two + 2 * three) / 3], atol=0.01)
        assert by_two.slice_spacing == 1.6
        assert by_half_more.slice_spacing == pytest.approx(1.2)

    @given(by=st.floats(1.0, 3.0), slices=st.integers(8, 30))
    def test_what_changes_evenly_still_does(self, by, slices):
        """A ramp along the slices stays one: every average lies in the middle of what it is of."""
        ramp = replace(self.material(slices), voxels=np.arange(slices, dtype=np.int16)[:, None, None].repeat(2, 1))
        coarse = train_together.coarser(ramp, by).voxels[:, 0, 0]
        # Within a slice, the average of a part of it is that of all of it: an eighth of a slice at most.
        middles = by * (np.arange(len(coarse)) + 0.5) - 0.5
        assert np.abs(coarse - middles).max() <= 0.126 / by + 1e-4

    def test_overlap_fades(self):
        overlapping = self.material(20, thickness=1.6)
        assert train_together.coarser(self.material(20), 1.5).thickness == 1.0
        assert 1.0 < train_together.coarser(overlapping, 1.5).thickness < 1.3
        assert train_together.coarser(overlapping, 1.0).thickness == 1.6


class TestVaried:
    @given(seed=st.integers(0, 99), thick=st.booleans())
    def test_what_is_observed_follows_from_what_there_is(self, seed, thick):
        random = np.random.default_rng(seed)
        slices = torch.from_numpy(random.uniform(-1, 1, (2, 9, 6, 8)).astype(np.float32))
        shares = averaging_weights(3, 4, SliceProfile()) if thick else np.eye(9, dtype=np.float32)[::4]

        def seen(of):
            return torch.einsum("kt,bthw->bkhw", torch.tensor(shares), of)

        blocks = Blocks(slices, seen(slices), 4, torch.ones(2))
        of_others = train_together.varied(blocks, random)
        assert torch.allclose(of_others.observed, seen(of_others.slices), atol=1e-5)
        assert not torch.allclose(of_others.slices, slices, atol=1e-3)
        air = Blocks(torch.full_like(slices, -1), seen(torch.full_like(slices, -1)), 4, torch.ones(2))
        assert torch.allclose(train_together.varied(air, random).slices, air.slices)

    def test_a_share_of_blocks_is_varied(self):
        scan = Volume(anatomy((60, 25, 22)), affine_from((0.8, 0.8, 1.0)))
        settings = train_together.Settings(pixels=14, slices=4, batch=1, factor_shares={"4": 1.0}, zoom=1.1)
        sampler = Sampler([scan], replace(settings.config(make_card(), 3, NETWORK), pixels=16))
        none, half, every = (
            train_together.Exercises(sampler, replace(settings, varied=share)) for share in (0.0, 0.5, 1.0)
        )
        steps = range(40)
        assert {none[step].slices.shape[-2:] for step in steps} == {(14, 14)}
        same = [torch.equal(half[step].slices, none[step].slices) for step in steps]
        assert 10 < sum(same) < 30
        assert all(torch.equal(half[step].slices, (none if same[step] else every)[step].slices) for step in steps)
        assert not any(torch.equal(every[step].slices, none[step].slices) for step in steps)
        ratios = torch.cat([every[step].slice_ratio for step in steps]) / sampler.thinned(0).slice_ratio
        assert 1 / 1.1 - 0.05 <= ratios.min() < 0.95 < 1.05 < ratios.max() <= 1.1 + 0.05


class TestZoomed:
    @given(zoom=st.floats(0.8, 1.3), seed=st.integers(0, 99))
    def test_what_is_observed_follows_from_what_there_is(self, zoom, seed):
        slices = torch.rand(1, 9, 20, 20, generator=torch.Generator().manual_seed(seed))
        blocks = Blocks(slices, slices[:, ::4], 4, torch.tensor([2.0]))
        nearer = train_together.zoomed(blocks, 16, zoom)
        assert nearer.slices.shape == (1, 9, 16, 16)
        assert torch.equal(nearer.observed, nearer.slices[:, ::4])

    @given(zoom=st.floats(0.8, 1.3))
    def test_pixels_become_smaller(self, zoom):
        """A ramp over the columns rises less from one pixel to the next, by as much as the ratio of spacings grows."""
        ramp = torch.linspace(-1, 1, 60).expand(1, 5, 60, 60)
        nearer = train_together.zoomed(Blocks(ramp, ramp[:, ::4], 4, torch.tensor([2.0])), 48, zoom)
        rise = nearer.slices[..., 1:] - nearer.slices[..., :-1]
        times = nearer.slice_ratio.item() / 2
        assert times == pytest.approx(zoom, rel=0.02)
        # Near the sides, what is interpolated ends.
        assert torch.allclose(rise[..., 4:-4], torch.tensor(2 / 59 / times), rtol=0.02)
        assert nearer.slices.mean().abs() < 0.02

    def test_as_it_is_the_middle_remains(self):
        slices = torch.rand(1, 5, 20, 20)
        same = train_together.zoomed(Blocks(slices, slices[:, ::4], 4, torch.tensor([2.0])), 16, 1.0)
        assert torch.equal(same.slices, slices[..., 2:18, 2:18])
        assert same.slice_ratio == 2


class TestHalved:
    def test_pixels_are_averages_and_distances_half(self):
        voxels = np.random.default_rng(2).integers(-1000, 1000, (4, 5, 6), dtype=np.int16)
        whole = Material(voxels, slice_spacing=3.0, pixel_spacing=0.7, in_plane=False, thickness=1.1)
        half = train_together.halved(whole)
        assert half.voxels.shape == (4, 2, 3)
        assert np.allclose(half.voxels[:, 1, 2], voxels[:, 2:4, 4:6].mean((1, 2)), atol=0.01)
        assert (half.slice_spacing, half.pixel_spacing, half.thickness) == (1.5, 0.7, 1.1)


class TestTool:
    @pytest.fixture
    def tool(self, monkeypatch):
        def run(*arguments: object) -> None:
            monkeypatch.setattr("sys.argv", ["train_together.py", *map(str, arguments)])
            train_together.main()

        for name, value in {"KEPT_SLICES": 11, "KEPT_PIXELS": 16, "REPORT_EVERY": 0.0, "SAVE_EVERY": 0.0}.items():
            monkeypatch.setattr(train_together, name, value)
        return run

    def test_trains_and_joins(self, tool, model, observed, tmp_path, capsys):
        write_volume(Volume(anatomy((60, 25, 22)), affine_from((0.8, 0.8, 1.0))), tmp_path / "scan.nrrd")
        files = {factor: tmp_path / f"{factor}.safetensors" for factor in (2, 4)}
        small = '{"batch": 1, "slices": 4, "pixels": 8, "adam_rate": 0.01}'
        for factor, file in files.items():
            arguments = [model.folder, file, tmp_path / "scan.nrrd", "--factor", factor, "--minutes", 0.01]
            own = f'{{"fusion_blocks": {factor - 1}, "overlap": 1, "aligned": 1}}'
            tool("train", *arguments, "--network", own, "--settings", small, "--workers", factor // 4)
        assert "dB (mixed by 0.28)" in capsys.readouterr().out
        tool("join", model.folder, tmp_path / "joined", *files.values())
        joined = load_model(tmp_path / "joined")
        assert joined.card["network"]["specialists"] == {
            "2": {"fusion_blocks": 1, "overlap": 1, "aligned": 1},
            "4": {"fusion_blocks": 3, "overlap": 1, "aligned": 1},
        }
        assert [record["part"] for record in joined.card["training"][-2:]] == ["specialist for x2", "specialist for x4"]
        assert all(record["steps_done"] > 0 for record in joined.card["training"][-2:])
        for factor in (3, 5):
            assert torch.equal(answer(joined.network, observed, factor), answer(model.network, observed, factor))
        for factor in files:
            change = answer(joined.network, observed, factor) - answer(model.network, observed, factor)
            assert change.abs().max() > 1e-4

    def test_trains_specialists_of_best_quality(self, tool, observed, tmp_path):
        own = {"2": {"fusion_blocks": 2}, "4": {"fusion_blocks": 3}}
        sizes = {"fusion_blocks": 1, "specialists": {"4": {"fusion_blocks": 1}}, "best_specialists": own}
        card = make_card(network=NETWORK | sizes)
        before = save_model(tmp_path / "before", make_network(seed=2, **sizes), card)
        write_volume(Volume(anatomy((60, 25, 22)), affine_from((0.8, 0.8, 1.0))), tmp_path / "scan.nrrd")
        small = '{"batch": 1, "slices": 4, "pixels": 8, "muon_rate": 0, "adam_rate": 0, "condition_rate": 0}'
        for factor in (3, 4):
            arguments = [before.folder, tmp_path / f"{factor}.safetensors", tmp_path / "scan.nrrd", "--minutes", 0.01]
            tool("train", *arguments, "--factor", factor, "--best", "--settings", small)
        tool("join", before.folder, tmp_path / "after", *(tmp_path / f"{factor}.safetensors" for factor in (3, 4)))
        after = load_model(tmp_path / "after")
        assert after.card["network"]["best_specialists"] == own | {"3": {"fusion_blocks": 1}}
        assert [record["part"] for record in after.card["training"][-2:]] == [
            "specialist for x3 at best quality",
            "specialist for x4 at best quality",
        ]
        for factor, quality in ((4, "standard"), (3, "best"), (4, "best")):
            first, then = (answer(model.network.at_quality(quality), observed, factor) for model in (before, after))
            assert torch.equal(then, first)

    def test_no_whole_model_for_best_quality_alone(self, tool, model, tmp_path, capsys):
        with pytest.raises(SystemExit):
            tool("train", model.folder, tmp_path / "all.safetensors", "scan.nrrd", "--minutes", 1, "--best")
        assert "Give --factor with --best" in capsys.readouterr().err

    @pytest.mark.parametrize("acquisition", ["gap", "thick"])
    def test_trains_a_whole_model(self, tool, tmp_path, capsys, acquisition):
        sizes = FUSED | ({"thick": 1} if acquisition == "thick" else {})
        before = make_network(fusion_blocks=1, thick=int(acquisition == "thick"))
        model = save_model(tmp_path / "before", before, make_card(acquisition=acquisition, network=sizes))
        write_volume(Volume(anatomy((60, 25, 22)), affine_from((0.8, 0.8, 1.0))), tmp_path / "scan.nrrd")
        arguments = [model.folder, tmp_path / "all.safetensors", tmp_path / "scan.nrrd", "--minutes", 0.01]
        small = '{"batch": 1, "slices": 4, "pixels": 8, "coarser": [1.5], "varied": 0.5, "zoom": 1.1, '
        small += '"factor_shares": {"4": 0.5, "3": 0.3, "2": 0.2}}'
        write_volume(Volume(anatomy((40, 45, 42)), affine_from((0.8, 0.8, 3.0))), tmp_path / "far.nrrd")
        arguments += ["--halved", tmp_path / "far.nrrd", "--thickness", 1, 3]
        tool("train", *arguments, "--network", '{"likeness": 1}', "--settings", small)
        told = capsys.readouterr().out.splitlines()[0]
        assert [f"x{factor} " in told for factor in (4, 3, 2)] == [True, True, False]
        tool("join", model.folder, tmp_path / "after", tmp_path / "all.safetensors")
        after = load_model(tmp_path / "after")
        assert after.card["network"] == sizes | {"likeness": 1}
        assert after.card["training"][-1]["part"] == "views and fusion"
        assert after.card["training"][-1]["coarser"] == [1.5]
        assert after.card["training"][-1]["halved"] == ["far"]
        assert not torch.equal(
            after.network.state_dict()["axial.trunk.head.weight"], before.state_dict()["axial.trunk.head.weight"]
        )

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    def test_trains_on_a_gpu(self, tool, model, observed, tmp_path):
        write_volume(Volume(anatomy((60, 25, 22)), affine_from((0.8, 0.8, 1.0))), tmp_path / "scan.nrrd")
        small = '{"batch": 1, "slices": 4, "pixels": 8, "adam_rate": 0.01}'
        arguments = [model.folder, tmp_path / "all.safetensors", tmp_path / "scan.nrrd", "--minutes", 0.05]
        tool("train", *arguments, "--settings", small, "--device", "cuda")
        tool("join", model.folder, tmp_path / "joined", tmp_path / "all.safetensors")
        change = answer(load_model(tmp_path / "joined").network, observed, 4) - answer(model.network, observed, 4)
        assert change.abs().max() > 1e-4

    def test_a_joined_specialist_has_the_conditions_of_the_model(self, tool, tmp_path):
        sizes = FUSED | {"likeness": 1}
        card = make_card(network=sizes)
        model = save_model(tmp_path / "before", make_network(fusion_blocks=1, likeness=1), card)
        own = make_network(seed=8, factors=(4,), fusion_blocks=1, likeness=1)
        train_together.write(tmp_path / "4.safetensors", own, 4, sizes, {"part": "specialist for x4"})
        tool("join", model.folder, tmp_path / "after", tmp_path / "4.safetensors")
        after = load_model(tmp_path / "after")
        assert after.card["network"]["specialists"] == {"4": {"fusion_blocks": 1, "likeness": 1}}
        assert after.network.network_for(4).condition_names == own.condition_names

    @pytest.mark.parametrize("factor", [None, 4])
    def test_a_share_of_what_was_trained_can_be_joined(self, tool, tmp_path, factor):
        sizes = FUSED | {"specialists": {"4": {"fusion_blocks": 1}}}
        before, after = (make_network(seed, fusion_blocks=1, specialists=sizes["specialists"]) for seed in (0, 1))
        model = save_model(tmp_path / "before", before, make_card(network=sizes))
        trained = after if factor is None else after.specialists["4"]
        train_together.write(tmp_path / "trained.safetensors", trained, factor, sizes if factor is None else FUSED, {})
        tool("join", model.folder, tmp_path / "joined", tmp_path / "trained.safetensors", "--share", 0.25)
        joined = load_model(tmp_path / "joined")
        assert joined.card["training"][-1]["share"] == 0.25
        first, second, found = (network.state_dict() for network in (before, after, joined.network))
        for name, weights in found.items():
            share = 0.25 if factor is None or name.startswith("specialists.4.") else 0.0
            assert torch.allclose(weights, (1 - share) * first[name] + share * second[name], atol=1e-6)

    def test_no_share_of_what_has_another_size(self, tool, model, tmp_path):
        larger = make_network(fusion_blocks=2)
        train_together.write(tmp_path / "larger.safetensors", larger, None, NETWORK | {"fusion_blocks": 2}, {})
        with pytest.raises(ValueError, match="Leave --share out"):
            tool("join", model.folder, tmp_path / "joined", tmp_path / "larger.safetensors", "--share", 0.5)
        assert not (tmp_path / "joined").exists()

    def test_in_half_precision_a_model_predicts_nearly_the_same(self, tool, model, observed, tmp_path):
        network = make_network(seed=3, fusion_blocks=1)
        train_together.write(tmp_path / "trained.safetensors", network, None, FUSED, {})
        tool("join", model.folder, tmp_path / "half", tmp_path / "trained.safetensors", "--half")
        stored = load_file(tmp_path / "half" / "model.safetensors")
        assert {weights.dtype for weights in stored.values()} == {torch.float16}
        rounded = load_model(tmp_path / "half").network
        assert torch.allclose(answer(rounded, observed, 4), answer(network, observed, 4), atol=1e-3)

    def test_a_joined_specialist_can_be_replaced(self, tool, tmp_path):
        own = {factor: {"fusion_blocks": 1} for factor in ("2", "4")}
        before = make_network(fusion_blocks=1, specialists=own)
        card = make_card(network=FUSED | {"specialists": own}, measured_gains={"scan x4": {}})
        model = save_model(tmp_path / "before", before, card)
        other = make_network(seed=8, factors=(4,), fusion_blocks=2)
        sizes = FUSED | {"fusion_blocks": 2}
        train_together.write(tmp_path / "4.safetensors", other, 4, sizes, {"part": "specialist for x4"})
        tool("join", model.folder, tmp_path / "after", tmp_path / "4.safetensors")
        after = load_model(tmp_path / "after")
        assert after.card["network"]["specialists"] == own | {"4": {"fusion_blocks": 2}}
        assert after.card["measured_gains"] == {}
        for name, weights in other.state_dict().items():
            assert torch.equal(after.network.specialists["4"].state_dict()[name], weights)
        for name, weights in before.specialists["2"].state_dict().items():
            assert torch.equal(after.network.specialists["2"].state_dict()[name], weights)


class TestOptimizer:
    @pytest.mark.parametrize("shape", [(6, 4, 3, 3), (4, 8, 1, 1)])
    def test_muon_steps_are_nearly_orthogonal(self, shape):
        kernel = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        singular = torch.linalg.svdvals(orthogonal(kernel).flatten(1))
        assert 0.5 < singular.min() <= singular.max() < 1.4

    def test_each_part_has_its_rate(self):
        network = make_network(fusion_blocks=1, likeness=1)
        before = {name: weights.detach().clone() for name, weights in network.named_parameters()}
        optimizer = MuonAndAdam(network, muon_rate=1e-2, adam_rate=1e-3, fusion=4.0, condition_rate=1e-1)
        loss = sum((weights * torch.randn_like(weights)).sum() for weights in network.parameters())
        optimizer.step(loss, rate=0.5)
        moved = {name: (weights - before[name]).norm().item() for name, weights in network.named_parameters()}
        # Adam's first step moves every weight by its rate, Muon's a matrix by its rate in every direction.
        assert moved["axial.trunk.head.bias"] == pytest.approx(
            5e-4 * len(before["axial.trunk.head.bias"]) ** 0.5, rel=0.01
        )
        assert moved["fusion.condition.weight"] == pytest.approx(
            5e-2 * before["fusion.condition.weight"].numel() ** 0.5, rel=0.01
        )
        block = "axial.trunk.blocks.0.enter.weight"
        assert moved[f"fusion.{block.split('trunk.')[1]}"] == pytest.approx(4 * moved[block], rel=0.3)
        assert moved[block] == pytest.approx(5e-3 * len(before[block]) ** 0.5, rel=0.3)
