"""How structures move from slice to slice, and fusions that see slices moved onto each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tiny import make_network
from XViewSynthLib.model.motion import displacement, on_the_way
from XViewSynthLib.model.network import ScanFacts, ThreeViewNetwork

ROWS, COLUMNS = 50, 58


def disc(row: float, column: float = COLUMNS / 2) -> torch.Tensor:
    """A soft disc of 60 HU in air, 16 pixels wide, (rows, columns) in network units."""
    rows, columns = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    return -1 + 1.06 / (1 + torch.exp(torch.hypot(rows - row, columns - column) - 8))


def slices(count: int, rows: int = 13, columns: int = 18) -> torch.Tensor:
    return torch.rand(count, rows, columns, generator=torch.Generator().manual_seed(4)) - 0.7


class TestDisplacement:
    @given(across=st.floats(-5, 5), down=st.floats(-5, 5))
    def test_finds_how_far_a_disc_has_moved(self, across, down):
        row, column = ROWS / 2, COLUMNS / 2
        below, above = disc(row - down / 2, column - across / 2), disc(row + down / 2, column + across / 2)
        field = displacement(below[None], above[None])[0]
        # Along the border of the disc only the part across the border can be seen; on the whole of it, all of it.
        border = (disc(row) > -0.9) & (disc(row) < -0.1)
        assert field[:, border].mean(dim=1).tolist() == pytest.approx([across, down], abs=1.2)

    def test_nothing_moves_between_equal_slices(self):
        same = slices(2)
        assert displacement(same, same).abs().max() == 0

    def test_back_is_the_opposite_of_there(self):
        below, above = slices(6).split(3)
        assert torch.allclose(displacement(below, above), -displacement(above, below), atol=1e-5)

    def test_does_not_depend_on_what_is_beside_it(self):
        below, above = slices(6).split(3)
        together = displacement(below, above)
        alone = torch.cat([displacement(below[index, None], above[index, None]) for index in range(3)])
        assert together.shape == (3, 2, 13, 18)
        assert torch.allclose(together, alone, atol=1e-5)

    def test_bone_counts_no_more_than_contrast(self):
        below, above = slices(2).split(1)
        bone = torch.where(below > 0.2, 3.0, below)
        contrast = torch.where(below > 0.2, 0.4, below)
        assert torch.equal(displacement(bone, above), displacement(contrast, above))


class TestOnTheWay:
    def test_what_moves_is_found_in_between_and_not_faded(self):
        below, above = disc(20)[None], disc(28)[None]
        added = on_the_way(below, above, 4)[0, :3]
        for part, missed in enumerate(added, 1):
            truth, faded = disc(20 + 2 * part), torch.lerp(below, above, part / 4)[0]
            assert (faded + missed - truth).abs().mean() < 0.35 * (faded - truth).abs().mean()

    def test_returns_the_remaining_difference(self):
        """A spot in one slice alone goes nowhere: moved slices differ by it at every position."""
        below = torch.full((1, ROWS, COLUMNS), -0.5)
        above = below.clone()
        above[0, 25, 29] = 0.3
        differing = on_the_way(below, above, 3)[0, 2:4]
        assert (differing.amax(dim=(1, 2)) > 0.5).all()

    def test_is_the_same_where_networks_compute_in_less(self):
        below, above = slices(6).split(3)
        with torch.autocast("cpu", torch.bfloat16):
            reduced = on_the_way(below, above, 3)
        assert reduced.dtype == torch.float32
        assert torch.equal(reduced, on_the_way(below, above, 3))

    def test_carries_no_gradient(self):
        below, above = slices(2).requires_grad_().split(1)
        assert not on_the_way(below, above, 2).requires_grad


class TestAlignedFusion:
    FACTS = ScanFacts(torch.tensor([3.0]))

    @pytest.fixture
    def network(self) -> ThreeViewNetwork:
        """It trusts moved slices here and there."""
        network = make_network(fusion_blocks=1, aligned=1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(6)
            for head in network.fusion.trusts.values():
                torch.nn.init.normal_(head.weight, std=0.1)
        return network

    def test_predicts_in_parts_as_in_one(self, network):
        observed = slices(6, 12, 16)[None]
        residuals = torch.randn(3, 1, 5, 2, 12, 16, generator=torch.Generator().manual_seed(5)) / 50
        whole = network.correction(observed, residuals, 3, self.FACTS)
        assert whole.abs().max() > 0
        for part in (slice(0, 2), slice(2, 5)):
            answer = network.correction(observed, residuals[:, :, part], 3, self.FACTS, part)
            assert torch.allclose(answer, whole[:, part], atol=1e-5)

    def test_full_trust_is_registration(self, network):
        """Where moved slices are all that counts, whatever the views say, they are the answer."""
        with torch.no_grad():
            network.fusion.trusts["4"].weight.zero_()
            network.fusion.trusts["4"].bias.fill_(1)
        observed = torch.stack([disc(15 + 3 * index) for index in range(5)])[None]
        answer = network.fuse(observed, network(observed, 4, self.FACTS), 4, self.FACTS)[0]
        below, above = observed[0, :-1], observed[0, 1:]
        moved = torch.stack([torch.lerp(below, above, step / 4) for step in (1, 2, 3)], dim=1)
        moved += on_the_way(below, above, 4)[:, :3]
        assert torch.allclose(answer, moved, atol=1e-5)

    def test_thick_slices_are_not_moved(self):
        with pytest.raises(ValueError, match="thin"):
            make_network(fusion_blocks=1, aligned=1, thick=1)

    def test_sees_slices_moved_onto_each_other(self):
        """Views that say nothing leave the aligned fusion the images, and nothing else than these has changed."""
        aligned, plain = (make_network(fusion_blocks=1, aligned=number) for number in (1, 0))
        shared = plain.fusion.stems["4"].weight.shape[1]
        assert aligned.fusion.stems["4"].weight.shape[1] == shared + 4 * 8
        state = aligned.state_dict()
        for name, weights in plain.state_dict().items():
            if name.startswith("fusion.stems") and name.endswith("weight"):
                state[name] = state[name][:, : weights.shape[1]]
        plain.load_state_dict({name: state[name] for name in plain.state_dict()})
        observed = torch.stack([disc(15 + 3 * index) for index in range(5)])[None]
        silent = torch.zeros(3, 1, 4, 3, ROWS, COLUMNS)
        differing = [network.correction(observed, silent, 4, self.FACTS) for network in (aligned, plain)]
        assert not torch.allclose(*differing, atol=1e-4)
        with torch.no_grad():
            aligned.fusion.stems["4"].weight[:, shared:] = 0
        assert torch.allclose(aligned.correction(observed, silent, 4, self.FACTS), differing[1], atol=1e-5)

    def test_trains_like_any_other(self, network):
        observed = slices(5, 12, 16)[None]
        answer = network.fuse(observed, network(observed, 2, self.FACTS), 2, self.FACTS)
        answer.square().mean().backward()
        assert network.fusion.stems["2"].weight.grad[:, -16:].abs().max() > 0
        assert network.fusion.trusts["2"].weight.grad.abs().max() > 0
