"""Tables of quality and speed over scans, factors and models."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from scans import affine_from, anatomy
from tiny import NETWORK, UNCERTAINTY, make_card, make_network
from XViewSynthLib import selfcheck
from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.evaluation.benchmark import Benchmark, _name_of, run_bench
from XViewSynthLib.evaluation.figures import draw_gains
from XViewSynthLib.evaluation.selfcheck import drop_slices, measure_baseline
from XViewSynthLib.evaluation.statistics import paired_p_value, summarise, summarise_ablation
from XViewSynthLib.evaluation.tables import MEAN, METHODS, to_markdown
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.io.reading import read_volume
from XViewSynthLib.io.writing import write_volume
from XViewSynthLib.model.catalogue import Model, load_model, save_model

ARMS = {"level0": (0, 1), "plain": (0, 1), "own": (0,)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def scans(folder):
    paths = [folder / "first.nrrd", folder / "second.nrrd"]
    for seed, path in enumerate(paths):
        write_volume(Volume(anatomy((14, 32, 30), seed), affine_from((0.8, 0.8, 1.0))), path)
    return paths


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return save_model(folder / "small", make_network(), make_card())


@pytest.fixture(scope="module")
def ablation(folder):
    for number, (arm, seeds) in enumerate(ARMS.items()):
        for seed in seeds:
            save_model(folder / "ablation" / arm / f"seed{seed}", make_network(10 * number + seed), make_card())
    (folder / "ablation" / "notes.txt").write_text("not a model")
    return folder / "ablation"


@pytest.fixture(scope="module")
def report(folder, scans, model, ablation) -> dict:
    return run_bench(Benchmark(scans, [2, 4], [model], ablation=ablation), folder / "out", device="cpu")


@pytest.fixture(scope="module")
def thick_report(folder, scans, model) -> dict:
    card = make_card(name="small-thick", acquisition="thick", network=NETWORK | {"thick": 1})
    thick = save_model(folder / "small-thick", make_network(thick=1), card)
    return run_bench(Benchmark(scans[:1], [2], [thick, model]), folder / "thick", device="cpu")


class TestRuns:
    def test_every_scan_at_every_factor(self, report):
        found = [(run["scan"], run["factor"], run["slices"]) for run in report["runs"]]
        assert found == [("first.nrrd", 2, 13), ("first.nrrd", 4, 13), ("second.nrrd", 2, 13), ("second.nrrd", 4, 13)]

    def test_every_method_is_measured_in_full(self, report):
        for run in report["runs"]:
            methods = {**run["baselines"], **run["models"]["small"]["methods"]}
            # The small model has no fusion, so that the mean of its views is its answer.
            assert tuple(methods) == tuple(name for name in METHODS if name != MEAN)
            for entry in methods.values():
                assert entry.keys() >= {"psnr_db", "mae_hu", "ssim", "noise_ratio", "whole_volume_psnr_db"}
                assert entry.keys() >= {"gain_over_linear_db", "gain_over_cubic_db", "gain_over_better_db"}
                assert entry.keys() >= {"seconds", "peak_memory_bytes"}

    def test_same_figures_as_a_selfcheck(self, report, scans, model):
        check = selfcheck(read_volume(scans[0]), 2, model=model, device="cpu")
        result = report["runs"][0]["models"]["small"]
        for key in ("psnr_db", "mae_hu", "ssim", "noise_ratio", "gain_over_better_db"):
            assert result["methods"]["enhanced"][key] == pytest.approx(check["methods"]["enhanced"][key], rel=1e-6)
        assert result["rank_correlation"] == pytest.approx(check["rank_correlation"], rel=1e-6)

    def test_slices_are_as_thick_as_one_says(self, report, scans, model, tmp_path):
        told = run_bench(Benchmark(scans, [2], [model], thicknesses=[1.5, 0.5]), tmp_path, device="cpu")
        assert [run["thickness_mm"] for run in told["runs"]] == [1.5, 0.5]
        assert report["runs"][0]["thickness_mm"] is None

    def test_the_thickness_of_some_scans_alone_is_refused(self, scans, model, tmp_path):
        with pytest.raises(InputError, match="there are 2 scans and 1 thicknesses"):
            run_bench(Benchmark(scans, [2], [model], thicknesses=[1.5]), tmp_path, device="cpu")

    def test_views_differ_from_their_mean(self, report):
        methods = report["runs"][0]["models"]["small"]["methods"]
        assert len({methods[name]["psnr_db"] for name in ("axial", "coronal", "sagittal", "enhanced")}) == 4


class TestThickSlices:
    def test_all_methods_see_averages_and_all_slices_count(self, thick_report, scans, report):
        assert thick_report["acquisition"] == "thick"
        assert "averaged over boxes" in thick_report["protocol"][0]
        run = thick_report["runs"][0]
        trial = drop_slices(read_volume(scans[0]), 2, acquisition="thick")
        linear, _ = measure_baseline(trial, "linear")
        assert run["baselines"]["linear"]["psnr_db"] == pytest.approx(linear["psnr_db"])
        assert run["baselines"]["linear"]["psnr_db"] != report["runs"][0]["baselines"]["linear"]["psnr_db"]

    def test_each_model_takes_them_for_what_it_knows(self, thick_report):
        models = thick_report["runs"][0]["models"]
        assert {name: result["acquisition"] for name, result in models.items()} == {
            "small-thick": "thick",
            "small": "gap",
        }

    def test_an_unknown_acquisition(self, scans, model, tmp_path):
        with pytest.raises(InputError, match="The acquisition must be auto, gap or thick, not 'box'"):
            run_bench(Benchmark(scans, [2], [model]), tmp_path, acquisition="box")


class TestFiles:
    def test_json_is_the_report(self, folder, report):
        assert json.loads((folder / "out" / "bench.json").read_text("utf-8")) == json.loads(json.dumps(report))

    def test_tables_are_those_of_the_report(self, folder, report):
        assert (folder / "out" / "bench.md").read_text("utf-8") == to_markdown(report)

    def test_figure_is_a_png(self, folder, report):
        assert (folder / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")

    def test_nothing_else_is_left(self, folder, report):
        assert sorted(path.name for path in (folder / "out").iterdir()) == ["bench.json", "bench.md", "bench.png"]

    def test_existing_results_are_kept(self, folder, report, scans, model):
        with pytest.raises(InputError, match="--overwrite"):
            run_bench(Benchmark(scans, [2], [model]), folder / "out", device="cpu")

    def test_existing_results_are_replaced_on_request(self, tmp_path, scans, model):
        for name in ("bench.json", "bench.md", "bench.png"):
            (tmp_path / name).write_text("old")
        run_bench(Benchmark(scans[:1], [2], [model]), tmp_path, device="cpu", overwrite=True)
        assert json.loads((tmp_path / "bench.json").read_text("utf-8"))["runs"]


class TestMarkdown:
    def test_lists_every_scan_and_method(self, report):
        text = to_markdown(report)
        assert text.count("| three views fused |") == len(ARMS) * 2
        assert text.count("| **three views fused** |") == 6
        assert text.count("| axial view alone |") == 6 + 2
        for run in report["runs"]:
            assert f"### {run['scan']}, x{run['factor']}" in text

    def test_rows_have_as_many_cells_as_their_header(self, report):
        tables = to_markdown(report).split("\n\n")
        for table in (part for part in tables if part.startswith("| ")):
            assert len({line.count("|") for line in table.strip().splitlines()}) == 1

    def test_names_of_scans_break_no_table_and_no_figure(self, report, tmp_path):
        runs = [{**run, "scan": "$a$ $b|<b>頭"} for run in report["runs"]]
        text = to_markdown({**report, "runs": runs})
        assert f"### $a$ $b\\|&lt;b>頭, x{runs[0]['factor']}" in text
        draw_gains(runs, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    def test_says_that_two_scans_are_too_few_for_a_test(self, report):
        assert "Too few scans for a paired test." in to_markdown(report)

    def test_gain_of_a_scan(self, report):
        gain = report["runs"][1]["models"]["small"]["methods"]["enhanced"]["gain_over_better_db"]
        section = to_markdown(report).split("### first.nrrd, x4")[1].split("###")[0]
        assert f"{gain:+.2f}" in section.split("**three views fused**")[1]

    def test_reports_the_calibration_of_the_uncertainty(self, folder, scans, report, tmp_path):
        assert all(run["models"]["small"]["uncertainty"] is None for run in report["runs"])
        assert "90 % bound" not in to_markdown(report)
        calibrated = save_model(folder / "calibrated", make_network(), make_card(doubt=UNCERTAINTY))
        found = run_bench(Benchmark(scans[:1], [2], [calibrated]), tmp_path, device="cpu")
        uncertainty, text = found["runs"][0]["models"]["small"]["uncertainty"], to_markdown(found)
        assert 0 < uncertainty["coverage"] < 1
        assert f"| all | {100 * uncertainty['coverage']:.1f} % | {uncertainty['mean_expected_error_hu']:.1f} |" in text


class TestTexture:
    def test_is_a_row_beside_the_prediction(self, report):
        for run in report["runs"]:
            methods = run["models"]["small"]["methods"]
            assert methods["textured"]["noise_ratio"] != methods["enhanced"]["noise_ratio"]
            assert methods["textured"]["seconds"] > methods["enhanced"]["seconds"]
        assert to_markdown(report).count("| three views fused, texture matched |") == 6


class TestQuality:
    def test_is_what_models_are_measured_at(self, folder, scans, model, report, tmp_path):
        best = run_bench(Benchmark(scans[:1], [2], [model]), tmp_path, device="cpu", quality="best")
        assert (report["quality"], best["quality"]) == ("standard", "best")
        assert "Models predicted in one pass." in to_markdown(report)
        assert "Models predicted at best quality: the mean of 4 passes." in to_markdown(best)
        answers = [found["runs"][0]["models"]["small"]["methods"]["enhanced"]["psnr_db"] for found in (report, best)]
        assert answers[0] != answers[1]

    def test_that_does_not_exist(self, scans, model, tmp_path):
        with pytest.raises(InputError, match="The quality must be standard or best, not 'perfect'"):
            run_bench(Benchmark(scans[:1], [2], [model]), tmp_path, quality="perfect")


class TestAblation:
    def test_arms_come_in_the_order_of_the_method(self, report):
        assert list(dict.fromkeys(entry["arm"] for entry in report["ablation"])) == ["level0", "plain", "own"]

    def test_single_views_of_the_first_arm_only(self, report):
        methods = [(entry["arm"], entry["method"]) for entry in report["ablation"] if entry["factor"] == 2]
        assert methods == [
            ("level0", "axial"),
            ("level0", "coronal"),
            ("level0", "sagittal"),
            ("level0", "enhanced"),
            ("plain", "enhanced"),
            ("own", "enhanced"),
        ]

    def test_same_voxels_as_the_models(self, report, folder, scans, ablation, tmp_path):
        model = load_model(ablation / "plain" / "seed1")
        alone = run_bench(Benchmark(scans[:1], [2], [model]), tmp_path, device="cpu")
        expected = alone["runs"][0]["models"]["small"]["methods"]["enhanced"]["gain_over_better_db"]
        found = [
            run["gains_over_better_db"]["enhanced"]
            for run in report["ablation_runs"]
            if (run["scan"], run["factor"], run["arm"], run["seed"]) == ("first.nrrd", 2, "plain", 1)
        ]
        assert found == [pytest.approx(expected, abs=1e-6)]

    def test_mean_over_scans_then_mean_and_deviation_over_seeds(self):
        gains = {("a", 0): 1.0, ("b", 0): 3.0, ("a", 1): 4.0, ("b", 1): 6.0}
        runs = [
            {"scan": scan, "factor": 4, "arm": "plain", "seed": seed, "gains_over_better_db": {"enhanced": gain}}
            for (scan, seed), gain in gains.items()
        ]
        (entry,) = summarise_ablation(runs)
        assert entry["gain_mean_db"] == 3.5
        assert entry["gain_sd_db"] == pytest.approx(3 / np.sqrt(2))
        assert entry["gain_by_scan_db"] == {"a": 2.5, "b": 4.5}
        assert entry["change_mean_db"] is None

    def test_change_is_taken_seed_by_seed(self):
        gains = {("level0", 0): 1.0, ("level0", 1): 2.0, ("plain", 0): 1.5, ("plain", 1): 2.7, ("plain", 2): 90.0}
        runs = [
            {"scan": "a", "factor": 2, "arm": arm, "seed": seed, "gains_over_better_db": {"enhanced": gain}}
            for (arm, seed), gain in gains.items()
        ]
        plain = summarise_ablation(runs)[1]
        assert plain["change_mean_db"] == pytest.approx(0.6)
        assert plain["change_sd_db"] == pytest.approx(0.1 * np.sqrt(2))

    def test_unknown_gains_stay_unknown(self):
        runs = [
            {"scan": "a", "factor": 2, "arm": "level0", "seed": seed, "gains_over_better_db": {"enhanced": gain}}
            for seed, gain in enumerate((1.0, None))
        ]
        assert summarise_ablation(runs)[0]["gain_mean_db"] is None

    def test_folder_without_models(self, tmp_path, scans, model):
        with pytest.raises(InputError, match="holds no ablation"):
            run_bench(Benchmark(scans, [2], [model], ablation=tmp_path), tmp_path / "out", device="cpu")

    def test_missing_folder(self, tmp_path, scans, model):
        with pytest.raises(InputError, match="is no folder"):
            run_bench(Benchmark(scans, [2], [model], ablation=tmp_path / "none"), tmp_path / "out", device="cpu")


def _run(scan: str, gain: float | None, trained: bool = False) -> dict:
    def entry(value):
        return {"gain_over_linear_db": value, "gain_over_cubic_db": value, "gain_over_better_db": value}

    methods = {name: entry(gain) for name in METHODS[3:]}
    result = {"methods": methods, "rank_correlation": 0.4, "trained_on_this_scan": trained}
    baselines = {name: entry(0.0) for name in METHODS[:3]}
    return {"scan": scan, "factor": 4, "baselines": baselines, "peers": {}, "models": {"standard": result}}


class TestSummary:
    def test_mean_and_lowest_of_the_gains_of_the_scans(self):
        (summary,) = summarise([_run("a", 3.0), _run("b", 2.0)])
        assert summary["mean_gains"]["enhanced"]["gain_over_better_db"] == 2.5
        assert summary["lowest_gain_over_better_db"] == 2
        assert summary["mean_rank_correlation"] == pytest.approx(0.4)
        assert summary["scans"] == 2

    def test_scans_trained_on_are_left_out(self):
        (summary,) = summarise([_run("a", 3.0), _run("b", 99.0, trained=True)])
        assert summary["mean_gains"]["enhanced"]["gain_over_better_db"] == 3
        assert summary["scans"] == 1

    def test_unknown_gains_stay_unknown(self):
        (summary,) = summarise([_run("a", 3.0), _run("b", None)])
        assert summary["mean_gains"]["enhanced"]["gain_over_better_db"] is None
        assert summary["lowest_gain_over_better_db"] is None
        assert summary["p_value"] is None

    def test_tests_enough_scans(self):
        (summary,) = summarise([_run(name, 1.0 + number) for number, name in enumerate("abcdef")])
        assert summary["p_value"] == 2 / 64

    def test_scans_are_called_by_what_can_be_printed(self, tmp_path, monkeypatch):
        assert _name_of(tmp_path / "\x1b[2J.nrrd") == r"\x1b[2J.nrrd"
        monkeypatch.chdir(tmp_path)
        assert _name_of(Path(".")) == tmp_path.name

    def test_card_that_names_the_scan(self, scans, folder, tmp_path):
        card = make_card(training_data=[{"name": "first", "license": "CC0-1.0"}])
        model = save_model(tmp_path / "seen", make_network(), card)
        report = run_bench(Benchmark(scans, [4], [model]), tmp_path / "out", device="cpu")
        assert [run["models"]["small"]["trained_on_this_scan"] for run in report["runs"]] == [True, False]
        assert report["summary"][0]["scans"] == 1
        assert "small was trained on this scan" in to_markdown(report)


class TestPairedTest:
    def test_all_patterns_of_signs(self):
        gains = [0.4, -0.1, 0.9, 0.3, 0.2, -0.3, 0.5]
        sums = [abs(np.dot(signs, gains)) for signs in itertools.product((1, -1), repeat=len(gains))]
        expected = np.mean([found >= abs(sum(gains)) - 1e-9 for found in sums])
        assert paired_p_value(gains) == pytest.approx(expected)

    def test_random_patterns_of_many(self):
        gains = np.random.default_rng(4).normal(0.5, 1, 20)
        # For the sum of randomly signed numbers the normal approximation is good at this size.
        z = gains.sum() / np.sqrt((gains**2).sum())
        expected = math.erfc(z / math.sqrt(2))
        assert paired_p_value(gains) == pytest.approx(expected, rel=0.3)
        assert paired_p_value(gains) == paired_p_value(gains)

    def test_too_few(self):
        assert paired_p_value([1.0] * 5) is None


class TestRequests:
    def test_nothing_to_measure(self, tmp_path, model):
        with pytest.raises(InputError, match="at least one scan"):
            run_bench(Benchmark([], [2], [model]), tmp_path)

    def test_factor_of_no_use(self, tmp_path, scans, model):
        with pytest.raises(InputError, match="2 to 8"):
            run_bench(Benchmark(scans, [9], [model]), tmp_path)

    def test_factor_the_model_does_not_know(self, tmp_path, scans):
        model = save_model(tmp_path / "small", make_network(), make_card(factors=[2]))
        with pytest.raises(InputError, match="small was trained for factors 2, not 4"):
            run_bench(Benchmark(scans, [2, 4], [model]), tmp_path / "out")

    def test_two_models_of_one_name(self, tmp_path, scans, model):
        with pytest.raises(InputError, match="Two models are called 'small'"):
            run_bench(Benchmark(scans, [2], [model, model]), tmp_path)

    def test_scan_with_too_few_slices_is_named(self, tmp_path, scans, model):
        with pytest.raises(InputError, match="first.nrrd: The scan has 14 slices"):
            run_bench(Benchmark(scans, [5], [model]), tmp_path / "out", device="cpu")

    @pytest.mark.parametrize("name", ["first.nrrd", "none/out", "x" * 300, "null\0"])
    def test_output_folder_that_cannot_be_made(self, folder, scans, model, name):
        with pytest.raises(InputError, match="Cannot make the folder"):
            run_bench(Benchmark(scans, [2], [model]), folder / name)

    def test_output_folder_that_is_lost_meanwhile(self, tmp_path, scans, model):
        def take_its_name(step):
            if step.stage == "writing":
                (tmp_path / "out").write_text("in the way")

        with pytest.raises(InputError, match="Cannot make the folder"):
            run_bench(Benchmark(scans[:1], [2], [model]), tmp_path / "out", device="cpu", progress=take_its_name)

    def test_unknown_device_before_any_work(self, tmp_path, scans, model):
        steps = []
        with pytest.raises(InputError, match="Device"):
            run_bench(Benchmark(scans, [2], [model]), tmp_path, device="abacus", progress=steps.append)
        assert not steps

    def test_progress_counts_every_measurement(self, tmp_path, scans, model):
        steps = []
        run_bench(Benchmark(scans[:1], [2], [model]), tmp_path, device="cpu", progress=steps.append)
        assert [(step.done, step.total) for step in steps] == [(done, 5) for done in range(5)]
        assert steps[3].stage == "first.nrrd x2: small"
        assert steps[0].seconds_left is None
        assert steps[3].seconds_left > 0

    def test_cancelled_leaves_nothing(self, tmp_path, scans, model):
        steps = []
        with pytest.raises(Cancelled):
            run_bench(
                Benchmark(scans, [2], [model]),
                tmp_path / "out",
                device="cpu",
                progress=steps.append,
                should_cancel=lambda: len(steps) > 3,
            )
        assert list(tmp_path.iterdir()) == []
