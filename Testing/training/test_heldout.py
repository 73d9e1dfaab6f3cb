"""What a network gains on scans that are kept from training."""

from __future__ import annotations

import numpy as np
import pytest

from scans import affine_from, anatomy
from tiny import NETWORK, make_card, make_network
from XViewSynthLib import Cancelled, InputError, Volume, read_volume, selfcheck
from XViewSynthLib.model.catalogue import save_model
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthLib.progress import Monitor
from XViewSynthTrainLib.heldout import Gain, HeldOut, mean_gain, write_example, write_preview

SCAN = Volume(anatomy((21, 48, 52)), affine_from((0.8, 0.8, 1.0)))


def held_out(scans: list[Volume] | None = None, factors: tuple[int, ...] = (2,), **options: int) -> HeldOut:
    return HeldOut(scans or [SCAN], factors, make_card(), "cpu", **options)


class TestGain:
    def test_is_that_of_the_self_check(self, tmp_path):
        network = make_network().eval()
        model = save_model(tmp_path / "small", network, make_card())
        scores = selfcheck(SCAN, 2, model=model, device="cpu")["methods"]["enhanced"]
        gain = held_out(most_voxels=10**7).evaluate(network)[2]
        assert gain.over_linear_db == pytest.approx(scores["gain_over_linear_db"], abs=1e-3)
        assert gain.over_cubic_db == pytest.approx(scores["gain_over_cubic_db"], abs=1e-3)
        assert gain.over_better_db == pytest.approx(scores["gain_over_better_db"], abs=1e-3)

    def test_of_an_untrained_network_is_that_of_the_spline(self):
        gains = held_out().evaluate(ThreeViewNetwork(**NETWORK).eval())
        # Voxels are whole HU, and so are the spline's here.
        assert gains[2].over_cubic_db == pytest.approx(0, abs=0.05)

    def test_is_the_mean_over_scans(self):
        other = Volume(anatomy((21, 48, 52), seed=3), SCAN.affine)
        network = make_network().eval()
        alone = [held_out([scan]).evaluate(network)[2].over_linear_db for scan in (SCAN, other)]
        # Of two scans half as much of each is looked at, unless it all fits.
        together = held_out([SCAN, other], most_voxels=10**7).evaluate(network)[2].over_linear_db
        assert together == pytest.approx(np.mean(alone), abs=1e-6)

    def test_the_figure_of_a_run_is_the_mean_over_factors(self):
        assert mean_gain({2: Gain(3, 1, 1), 4: Gain(4, 3, 3)}) == 2


class TestScans:
    def test_factors_that_a_scan_is_too_short_for_are_left_out(self):
        assert held_out(factors=(2, 4, 8)).factors == [2, 4]

    def test_too_short_for_all_is_reported(self):
        short = Volume(SCAN.voxels[:5], SCAN.affine)
        with pytest.raises(InputError, match="Hold out other scans or more slices"):
            held_out([short])

    def test_only_as_much_is_looked_at_as_may_be(self):
        example = held_out(most_voxels=21 * 40 * 40).example
        assert example.reference.slices.shape == (21, 40, 40)

    def test_can_be_cancelled(self):
        with pytest.raises(Cancelled):
            held_out().evaluate(make_network().eval(), Monitor(None, lambda: True))


class TestPreview:
    def test_all_lie_on_one_grid(self, tmp_path):
        held = held_out(factors=(4,))
        write_example(held, tmp_path / "preview")
        write_preview(held.restore_example(make_network().eval()), tmp_path / "preview", "now")
        observed, now, truth = (
            read_volume(tmp_path / "preview" / f"{name}.nrrd") for name in ("observed", "now", "truth")
        )
        assert observed.voxels.shape == now.voxels.shape == truth.voxels.shape
        assert np.allclose(observed.affine, truth.affine)
        assert np.allclose(now.affine, truth.affine)

    def test_observed_slices_are_repeated(self, tmp_path):
        held = held_out(factors=(4,))
        write_example(held, tmp_path)
        observed, truth = (read_volume(tmp_path / f"{name}.nrrd").voxels for name in ("observed", "truth"))
        nearest = [0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16, 20, 20, 20]
        assert np.array_equal(observed, truth[nearest])

    def test_a_former_file_is_replaced(self, tmp_path):
        for value in (1, 2):
            write_preview(Volume(np.full((4, 5, 6), value, np.int16), SCAN.affine), tmp_path, "now")
        assert read_volume(tmp_path / "now.nrrd").voxels.max() == 2
        assert [path.name for path in tmp_path.iterdir()] == ["now.nrrd"]
