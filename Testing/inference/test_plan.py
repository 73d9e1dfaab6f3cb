"""What is settled before the work: axis, factor, resampling, memory."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from scans import affine_from, anatomy
from tiny import NETWORK, make_card, make_network
from XViewSynthLib import InputError, Volume
from XViewSynthLib.geometry.grid import resampled_positions
from XViewSynthLib.inference.hardware import process_bytes
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.model.catalogue import Model, load_model, save_model
from XViewSynthLib.model.network import ThreeViewNetwork


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model)


def scan_with(spacing: float, slices: int = 9) -> Volume:
    return Volume(anatomy((slices, 24, 20)), affine_from((0.8, 0.8, spacing)))


class TestFactor:
    @pytest.mark.parametrize(
        ("spacing", "factor"), [(2.0, 2), (2.5, 2), (3.0, 3), (5.0, 4), (8.0, 7), (10.0, 8), (15.0, 8)]
    )
    def test_default_is_the_smallest_that_reaches_1_25_mm(self, model, spacing, factor):
        assert make_plan(scan_with(spacing), model).factor == factor

    def test_slices_that_are_fine_already_need_a_named_factor(self, model):
        with pytest.raises(InputError, match="fine already"):
            make_plan(scan_with(1.2), model)
        assert make_plan(scan_with(1.2), model, factor=2).factor == 2

    @pytest.mark.parametrize("factor", [1, 9, 2.5, 0, -2])
    def test_other_factors_are_refused(self, model, factor):
        with pytest.raises(InputError, match="from 2 to 8"):
            make_plan(scan_with(5.0), model, factor=factor)

    def test_factor_and_spacing_together_are_refused(self, model):
        with pytest.raises(InputError, match="not several"):
            make_plan(scan_with(5.0), model, factor=2, spacing=1.0)

    def test_a_factor_the_model_does_not_know_is_refused(self, model):
        limited = replace(model, card=model.card | {"factors": [2, 4]})
        with pytest.raises(InputError, match="was trained for factors 2, 4, not 3"):
            make_plan(scan_with(5.0), limited, factor=3)


class TestSpacing:
    def test_a_whole_ratio_is_a_factor(self, model):
        plan = make_plan(scan_with(5.0), model, spacing=1.25)
        assert (plan.factor, plan.resample_to, plan.output_spacing[2]) == (4, None, 1.25)

    def test_another_ratio_takes_the_next_factor_and_is_resampled(self, model):
        plan = make_plan(scan_with(5.0), model, spacing=1.5)
        assert (plan.factor, plan.resample_to, plan.output_spacing[2]) == (4, 1.5, 1.5)
        assert plan.output_shape[0] == 27  # 40 mm from first to last slice
        assert any("resampled" in note for note in plan.notes)

    def test_isotropic_reaches_the_pixel_spacing(self, model):
        plan = make_plan(scan_with(4.0), model, isotropic=True)
        assert (plan.factor, plan.resample_to) == (5, None)

    def test_a_spacing_that_needs_more_than_eight_is_refused(self, model):
        with pytest.raises(InputError, match="at least 1.25 mm, or factor 8"):
            make_plan(scan_with(10.0), model, isotropic=True)

    @pytest.mark.parametrize("spacing", [5.0, 7.0, 0.0, -1.0, float("nan")])
    def test_a_spacing_that_is_no_gain_is_refused(self, model, spacing):
        with pytest.raises(InputError, match="below 5 mm|millimetres above 0"):
            make_plan(scan_with(5.0), model, spacing=spacing)

    def test_the_last_resampled_slice_lies_within_the_scan(self):
        positions = resampled_positions(slices=9, factor=4, step=5.0, resample_to=1.3)
        assert positions[0] == 0
        assert positions[-1] <= 32 < positions[-1] + 1.04


class TestAxis:
    def test_auto_is_the_largest_spacing(self, model):
        scan = Volume(anatomy((20, 12, 24)), affine_from((0.8, 5.0, 0.8)))
        assert make_plan(scan, model).axis == "J"

    def test_an_isotropic_scan_needs_a_named_axis_or_factor(self, model):
        scan = Volume(anatomy((20, 24, 24)), affine_from((2.0, 2.0, 2.0)))
        with pytest.raises(InputError, match="isotropic"):
            make_plan(scan, model)
        assert make_plan(scan, model, axis="I", factor=2).axis == "I"


class TestMemory:
    def test_less_memory_gives_smaller_tiles(self, model):
        scan = scan_with(5.0, slices=12)
        # The first one also pays for what libraries need from their first use on.
        generous = make_plan(scan, model, memory=process_bytes() + 10**9)
        tight = make_plan(scan, model, memory=process_bytes() + 40 * 10**6)
        assert tight.tile_voxels < generous.tile_voxels

    def test_moved_slices_take_memory(self, tmp_path):
        scan = scan_with(5.0, slices=12)
        tiles = []
        for name, own in {"plain": {}, "aligned": {"aligned": 1}}.items():
            sizes = {"fusion_blocks": 1} | own
            known = save_model(tmp_path / name, make_network(**sizes), make_card(network=NETWORK | sizes))
            make_plan(scan, known)
            tiles.append(make_plan(scan, known, memory=process_bytes() + 40 * 10**6).tile_voxels)
        assert tiles[1] < tiles[0]

    def test_too_little_memory_is_refused_with_what_is_needed(self, model):
        with pytest.raises(InputError, match=r"at least \d+\.\d GB"):
            make_plan(scan_with(5.0), model, memory=1000)

    @pytest.mark.parametrize(("factor", "remedy"), [(2, "crop the scan"), (4, "use a smaller factor")])
    def test_the_remedy_fits_the_factor(self, model, factor, remedy):
        with pytest.raises(InputError, match=f"^Allow more memory or {remedy}: enhancing by {factor} takes"):
            make_plan(scan_with(5.0), model, factor=factor, memory=1000)


class TestPrecision:
    @pytest.fixture(autouse=True)
    def cpu_with_bfloat16(self, monkeypatch):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)

    @pytest.fixture
    def coarse(self, model) -> Model:
        """A model whose residuals are too large for bfloat16."""
        network = deepcopy(model.network)
        for head in network.axial.heads.values():
            torch.nn.init.normal_(head.weight, std=1.0)
        return replace(model, network=network)

    def test_is_bf16_where_it_changes_nothing_that_matters(self, model):
        smooth = replace(model, network=ThreeViewNetwork(**model.card["network"]).eval())
        assert make_plan(scan_with(5.0), smooth, device="cpu").precision == "bf16"

    def test_is_fp32_where_bf16_would_change_the_result(self, coarse):
        assert make_plan(scan_with(5.0), coarse, device="cpu").precision == "fp32"

    @pytest.mark.parametrize("precision", ["bf16", "fp32", "fp16"])
    def test_the_requested_one_is_kept(self, coarse, precision):
        assert make_plan(scan_with(5.0), coarse, device="cpu", precision=precision).precision == precision

    @pytest.mark.parametrize("shape", [(5, 23, 21), (4, 1, 40), (9, 200, 130)])
    def test_scans_of_any_size_are_tried(self, coarse, shape):
        scan = Volume(anatomy(shape), affine_from((0.8, 0.8, 5.0)))
        assert make_plan(scan, coarse, device="cpu", factor=3).precision == "fp32"


class TestReport:
    def test_a_plan_is_json(self, model):
        plan = make_plan(scan_with(5.0), model)
        assert json.loads(json.dumps(plan.to_dict()))["factor"] == 4

    def test_time_is_expected(self, model):
        assert 0 < make_plan(scan_with(5.0), model).expected_seconds < 60

    def test_auto_acquisition_says_that_it_is_gap(self, model):
        plan = make_plan(scan_with(5.0), model)
        assert plan.acquisition == "gap"
        assert any("gap" in note for note in plan.notes)

    def test_spacings_are_numbers_of_the_output(self, model):
        plan = make_plan(scan_with(5.0), model, factor=4)
        assert np.allclose(plan.output_spacing, (0.8, 0.8, 1.25))
