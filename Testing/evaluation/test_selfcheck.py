"""Restoring slices of a scan that were taken away."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from tiny import make_card, make_network
from XViewSynthLib import selfcheck
from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.evaluation import metrics
from XViewSynthLib.evaluation.selfcheck import _memory_peak, drop_slices, with_gains
from XViewSynthLib.geometry.acquisition import cut_to_factor, thin
from XViewSynthLib.geometry.interpolation import upsample
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.inference.enhancement import enhance
from XViewSynthLib.model.catalogue import Model, save_model

METHODS = ["linear", "cubic", "sinc", "enhanced"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return save_model(tmp_path_factory.mktemp("models") / "small", make_network(), make_card())


@pytest.fixture(scope="module")
def report(scan, model) -> dict:
    return selfcheck(scan, 2, model=model, device="cpu")


class TestReport:
    def test_holds_what_every_report_holds(self, report, model):
        assert report["factor"] == 2
        assert report["axis"] == "K"
        assert report["model"] == model.name
        assert report["acquisition"] == "gap"
        assert report["device"] == "cpu"
        assert report["seconds"] > 0
        assert report["peak_memory_bytes"] > 1e7
        assert report["synthetic_slices"] == list(range(1, 17, 2))

    def test_input_is_what_was_left_of_the_scan(self, report, scan):
        assert report["input"]["shape_ijk"] == [36, 40, 9]
        assert report["input"]["spacing_mm"] == pytest.approx([0.8, 0.8, 8.0])
        assert report["output"]["shape_ijk"] == [36, 40, 17]
        assert report["output"]["scalar_type"] == "int16"
        assert np.allclose(report["output"]["affine_ijk_to_ras"], scan.affine)

    def test_is_json(self, report):
        assert json.loads(json.dumps(report, allow_nan=False)) == report

    def test_every_method_is_measured_in_full(self, report):
        assert list(report["methods"]) == METHODS
        for entry in report["methods"].values():
            assert entry.keys() >= {"psnr_db", "mae_hu", "ssim", "noise_ratio", "whole_volume_psnr_db"}
            assert entry.keys() >= {"gain_over_linear_db", "gain_over_cubic_db", "gain_over_better_db"}
            assert entry["seconds"] >= 0
            assert entry["peak_memory_bytes"] > 1e7

    def test_figures_are_those_of_doing_it_by_hand(self, report, scan, model):
        observed, truth = thin(scan, 2), cut_to_factor(scan, 2)
        reference = metrics.make_reference(truth, 2, "K")
        enhanced = enhance(observed, 2, model=model, device="cpu")
        by_hand = {
            "cubic": metrics.score(reference, upsample(observed, 2, "K", "cubic")),
            "enhanced": metrics.score(reference, enhanced.volume),
        }
        for method, scores in by_hand.items():
            assert report["methods"][method].items() >= scores.to_dict().items()
        correlation = metrics.disagreement_correlation(reference, enhanced.volume, enhanced.disagreement)
        assert report["rank_correlation"] == pytest.approx(correlation)


class TestSelfcheck:
    def test_factor_is_two_unless_named(self, scan, model):
        assert selfcheck(scan, model=model, device="cpu")["factor"] == 2

    def test_drops_slices_and_not_columns_of_a_thin_scan(self, model, scan):
        thin_scan = Volume(scan.voxels, np.diag([0.8, 0.8, 0.7, 1.0]))
        assert selfcheck(thin_scan, 3, model=model, device="cpu")["axis"] == "K"

    def test_named_axis_wins(self, scan, model):
        assert selfcheck(scan, 2, axis="J", model=model, device="cpu")["output"]["shape_ijk"] == [36, 39, 17]

    def test_reports_progress_with_the_time_left(self, scan, model):
        steps = []
        selfcheck(scan, 2, model=model, device="cpu", progress=steps.append)
        assert steps[0].stage == "measuring interpolation"
        assert {"axial view", "coronal view", "sagittal view"} <= {step.stage for step in steps}
        assert all(step.seconds_left >= 0 for step in steps)

    def test_cancelled_while_measuring(self, scan, model):
        with pytest.raises(Cancelled):
            selfcheck(scan, 2, model=model, device="cpu", should_cancel=lambda: True)

    def test_cancelled_while_enhancing(self, scan, model):
        steps = []
        with pytest.raises(Cancelled):
            selfcheck(
                scan,
                2,
                model=model,
                device="cpu",
                progress=steps.append,
                should_cancel=lambda: steps[-1].stage == "coronal view",
            )


class TestDropSlices:
    def test_observed_and_truth_belong_together(self, scan):
        trial = drop_slices(scan, 3)
        assert np.array_equal(trial.reference.slices[::3], trial.observed.voxels)
        assert len(trial.reference.slices) == 16

    def test_too_few_would_be_left(self, scan):
        with pytest.raises(InputError, match="17 slices along K, of which a factor of 8 leaves 3, and at least 4"):
            drop_slices(scan, 8)

    @pytest.mark.parametrize("factor", [1, 9, 2.5])
    def test_factor_that_does_not_exist(self, scan, factor):
        with pytest.raises(InputError, match="2 to 8"):
            drop_slices(scan, factor)

    def test_scan_that_cannot_be_enhanced(self, scan):
        with pytest.raises(InputError, match="everywhere"):
            drop_slices(scan.with_voxels(np.zeros((17, 40, 36), np.int16)), 2)


class TestGains:
    def test_differences_of_psnr(self):
        methods = {name: {"psnr_db": psnr} for name, psnr in (("linear", 30.0), ("cubic", 31.5), ("enhanced", 34.0))}
        gains = with_gains(methods)
        assert gains["enhanced"] == {
            "psnr_db": 34.0,
            "gain_over_linear_db": 4.0,
            "gain_over_cubic_db": 2.5,
            "gain_over_better_db": 2.5,
        }
        assert gains["linear"]["gain_over_better_db"] == -1.5

    def test_none_where_a_psnr_is_infinite(self):
        gains = with_gains({"linear": {"psnr_db": 30.0}, "cubic": {"psnr_db": None}})
        assert gains["linear"]["gain_over_linear_db"] == 0
        assert gains["linear"]["gain_over_better_db"] is None
        assert gains["cubic"]["gain_over_linear_db"] is None


class TestMemoryPeak:
    def test_sees_what_was_held_only_for_a_while(self):
        with _memory_peak() as before:
            pass
        with _memory_peak() as peak:
            block = np.ones(200_000_000, np.uint8)
            time.sleep(0.2)
            del block
        assert peak() - before() > 150_000_000

    def test_an_earlier_peak_does_not_count(self):
        block = np.ones(200_000_000, np.uint8)
        with _memory_peak() as high:
            pass
        del block
        with _memory_peak() as low:
            pass
        assert high() - low() > 150_000_000
