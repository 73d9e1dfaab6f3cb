"""The command line: what it writes, what it says, and how it ends."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scans import affine_from, write_dicom_series
from tiny import make_card, make_network
from XViewSynthLib import Volume, __version__, read_volume, write_volume
from XViewSynthLib.cli import main as cli
from XViewSynthLib.cli.main import main
from XViewSynthLib.cli.selfcheck import _describe_selfcheck as describe
from XViewSynthLib.errors import Cancelled
from XViewSynthLib.model.catalogue import export_model, save_model
from XViewSynthLib.request import Request
from XViewSynthLib.system.stop import StopRequest
from XViewSynthLib.workers import job

LIBRARY = str(Path(cli.__file__).parents[2])
GEOMETRY = {"shape_ijk", "spacing_mm", "slice_thickness_mm", "affine_ijk_to_ras", "scalar_type"}


@pytest.fixture
def model(tiny_model) -> str:
    return str(tiny_model)


@pytest.fixture
def folder(tmp_path, monkeypatch, scan) -> Path:
    """A working folder with scan.nrrd; the user has no models of their own."""
    monkeypatch.setenv("XVIEWSYNTH_MODELS", str(tmp_path / "models"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    write_volume(scan, "scan.nrrd")
    return work


@pytest.fixture
def enhance(folder, model):
    """Enhance scan.nrrd to out.nrrd by 2 with the small model, and give the exit code."""

    def run(*options: str, scan: str = "scan.nrrd", output: str = "out.nrrd") -> int:
        return main(["enhance", scan, output, "--model", model, "--factor", "2", "--progress", "none", *options])

    return run


def error_of(capsys) -> str:
    """The one line that says what is wrong."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def python(*arguments: str, **settings) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": LIBRARY}
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
    return subprocess.run([sys.executable, *arguments], env=environment, text=True, timeout=120, **settings)


def command(*arguments: str, **settings) -> subprocess.CompletedProcess:
    """Run the real program."""
    return python("-m", "XViewSynthLib", *arguments, **settings)


class TestEnhance:
    def test_gives_the_scan_its_missing_slices(self, enhance, scan):
        assert enhance() == 0
        enhanced = read_volume("out.nrrd")
        assert enhanced.shape_ijk == (36, 40, 33)
        assert enhanced.voxels.dtype == np.int16
        np.testing.assert_array_equal(enhanced.voxels[::2], scan.voxels)
        np.testing.assert_allclose(enhanced.affine, scan.upsampled_affine("K", 2), atol=1e-6)

    def test_prints_the_plan_before_and_the_result_after(self, enhance, capsys):
        enhance()
        plan, *_, result = capsys.readouterr().out.splitlines()
        assert plan == "Plan: 2 times the slices along K, to 36 x 40 x 33 voxels of 0.8 x 0.8 x 2 mm"
        assert result.startswith("Wrote out.nrrd in ")

    def test_leaves_nothing_but_the_outputs(self, enhance, folder):
        enhance("--disagreement", "uncertainty.nii.gz", "--report", "report.json")
        assert sorted(os.listdir(folder)) == ["out.nrrd", "report.json", "scan.nrrd", "uncertainty.nii.gz"]

    def test_without_a_goal_slices_come_to_1_25_mm(self, folder, model):
        assert main(["enhance", "scan.nrrd", "out.nrrd", "--model", model, "--progress", "none"]) == 0
        assert read_volume("out.nrrd").spacing[2] == pytest.approx(1.0)

    def test_reaches_a_spacing(self, folder, model):
        assert main(["enhance", "scan.nrrd", "out.nrrd", "--model", model, "--spacing", "1.5"]) == 0
        assert read_volume("out.nrrd").spacing[2] == pytest.approx(1.5)

    def test_reaches_isotropic_voxels(self, folder, model):
        assert main(["enhance", "scan.nrrd", "out.nrrd", "--model", model, "--isotropic"]) == 0
        assert read_volume("out.nrrd").spacing[2] == pytest.approx(0.8)

    def test_takes_the_axis_that_is_named(self, enhance):
        assert enhance("--axis", "J") == 0
        assert read_volume("out.nrrd").shape_ijk == (36, 79, 17)

    def test_reads_a_dicom_folder(self, enhance, folder, scan):
        write_dicom_series(folder / "series", scan)
        assert enhance(scan="series") == 0
        assert read_volume("out.nrrd").shape_ijk == (36, 40, 33)

    def test_writes_the_disagreement_in_hu(self, enhance):
        assert enhance("--disagreement", "uncertainty.nrrd") == 0
        uncertainty = read_volume("uncertainty.nrrd").voxels
        assert uncertainty.dtype == np.float32
        assert uncertainty[1::2].max() > 0
        assert uncertainty[::2].max() == 0

    @pytest.mark.parametrize("calibrated", [False, True])
    def test_writes_the_uncertainty_as_well_as_it_is_known(self, enhance, folder, calibrated):
        from tiny import UNCERTAINTY, make_card, make_network
        from XViewSynthLib.model.catalogue import save_model

        model = save_model(
            folder / "model", make_network(), make_card(**{"doubt": UNCERTAINTY} if calibrated else {})
        ).folder
        assert enhance("--model", str(model), "--uncertainty", "uncertainty.nrrd", "--disagreement", "views.nrrd") == 0
        same = np.array_equal(read_volume("uncertainty.nrrd").voxels, read_volume("views.nrrd").voxels)
        assert same is not calibrated

    def test_writes_the_error_to_expect_and_its_bound(self, enhance, folder):
        from tiny import UNCERTAINTY, make_card, make_network
        from XViewSynthLib.model.catalogue import save_model

        calibrated = save_model(folder / "calibrated", make_network(), make_card(doubt=UNCERTAINTY)).folder
        options = ("--expected-error", "error.nrrd", "--error-bound", "bound.nii.gz", "--report", "report.json")
        assert enhance("--model", str(calibrated), *options) == 0
        expected, bound = read_volume("error.nrrd").voxels, read_volume("bound.nii.gz").voxels
        assert expected[1::2].min() > 0
        assert (bound[1::2] > expected[1::2]).all()
        assert expected[::2].max() == bound[::2].max() == 0
        assert json.loads((folder / "report.json").read_text())["uncertainty"] == "expected error"

    @pytest.mark.parametrize("option", ["--expected-error", "--error-bound"])
    def test_an_error_in_hu_of_a_model_that_is_not_calibrated(self, enhance, folder, capsys, option):
        assert enhance(option, "error.nrrd") == 2
        assert "Model small was not calibrated for a factor of 2" in error_of(capsys)
        assert os.listdir(folder) == ["scan.nrrd"]

    def test_gives_new_slices_the_noise_of_observed_ones(self, enhance, folder, scan, capsys):
        assert enhance("--texture", "match", "--report", "report.json") == 0
        np.testing.assert_array_equal(read_volume("out.nrrd").voxels[::2], scan.voxels)
        report = json.loads((folder / "report.json").read_text())
        assert (report["texture"], report["uncertainty"]) == ("match", "disagreement, not calibrated")
        assert report["notes"][-1] in capsys.readouterr().out

    def test_best_quality_is_another_prediction(self, enhance, folder, scan):
        assert enhance("--quality", "best", "--report", "report.json") == 0
        best = read_volume("out.nrrd").voxels
        np.testing.assert_array_equal(best[::2], scan.voxels)
        assert enhance("--overwrite") == 0
        assert not np.array_equal(read_volume("out.nrrd").voxels, best)
        assert json.loads((folder / "report.json").read_text())["quality"] == "best"

    def test_writes_the_companion_of_a_header_too(self, enhance, folder):
        assert enhance(output="out.mhd") == 0
        assert sorted(os.listdir(folder)) == ["out.mhd", "out.raw", "scan.nrrd"]
        assert read_volume("out.mhd").shape_ijk == (36, 40, 33)

    def test_replaces_outputs_on_request(self, enhance, folder):
        (folder / "out.nrrd").write_text("old")
        assert enhance("--overwrite") == 0
        assert read_volume("out.nrrd").shape_ijk == (36, 40, 33)

    def test_names_beyond_ascii_are_fine(self, enhance, folder, capsys):
        place = folder / "Müller, 体积"
        place.mkdir()
        (folder / "scan.nrrd").rename(place / "Schädel.nrrd")
        output = str(place / "dünn ☢.nii.gz")
        assert enhance("--report", str(place / "bericht é.json"), scan=str(place / "Schädel.nrrd"), output=output) == 0
        assert json.loads((place / "bericht é.json").read_text())["output"]["path"] == output
        assert output in capsys.readouterr().out

    def test_a_memory_limit_is_kept_in_the_plan(self, enhance):
        assert enhance("--memory", "4", "--report", "report.json") == 0
        assert json.loads(Path("report.json").read_text())["plan"]["expected_peak_bytes"] <= 4e9


class TestReport:
    @pytest.fixture
    def report(self, enhance) -> dict:
        enhance("--report", "report.json")
        return json.loads(Path("report.json").read_text())

    def test_says_what_was_done(self, report):
        assert {key: report[key] for key in ("factor", "axis", "model", "acquisition", "device")} == {
            "factor": 2,
            "axis": "K",
            "model": "small",
            "acquisition": "gap",
            "device": "cpu",
        }
        assert report["synthetic_slices"] == list(range(1, 33, 2))

    def test_says_what_it_cost(self, report):
        assert 0 < report["seconds"] < 120
        assert 1e7 < report["peak_memory_bytes"] < 1e11

    def test_describes_both_grids(self, report, scan):
        assert set(report["input"]) > GEOMETRY
        assert set(report["output"]) > GEOMETRY
        assert report["input"]["shape_ijk"] == [36, 40, 17]
        np.testing.assert_allclose(report["output"]["affine_ijk_to_ras"], scan.upsampled_affine("K", 2), atol=1e-6)

    def test_names_the_very_weights(self, report, model):
        card = json.loads(Path(model, "card.json").read_text())
        assert report["model_sha256"] == card["weights_sha256"]

    def test_names_the_software(self, report):
        assert report["program"] == f"xviewsynth {__version__}"

    def test_holds_the_notes_the_user_saw(self, enhance, capsys):
        enhance("--report", "report.json")
        said = capsys.readouterr().out
        notes = json.loads(Path("report.json").read_text())["notes"]
        assert notes
        assert all(note in said for note in notes)


class TestProgressOption:
    def test_json_has_standard_output_for_itself(self, folder, model, capsys):
        assert main(["enhance", "scan.nrrd", "out.nrrd", "--model", model, "--progress", "json"]) == 0
        captured = capsys.readouterr()
        steps = [json.loads(line) for line in captured.out.splitlines()]
        assert all(set(step) == {"stage", "done", "total", "seconds_left"} for step in steps)
        assert {"reading", "axial view", "coronal view", "sagittal view", "writing"} <= {
            step["stage"] for step in steps
        }
        assert captured.err.startswith("Plan: ")

    def test_bar_is_the_default_and_leaves_standard_output_to_messages(self, folder, model, capsys):
        assert main(["enhance", "scan.nrrd", "out.nrrd", "--model", model]) == 0
        captured = capsys.readouterr()
        assert "axial view" in captured.err
        assert "axial view" not in captured.out

    def test_none_is_silent(self, enhance, capsys):
        enhance()
        assert capsys.readouterr().err == ""


class TestWrongOutputs:
    """All of them are found before any work is done."""

    @pytest.fixture(autouse=True)
    def no_work(self, monkeypatch):
        def fail(*_, **__):
            raise AssertionError("the scan was read")

        monkeypatch.setattr("XViewSynthLib.io.reading.read_volume", fail)

    @pytest.mark.parametrize("output", ["out", "out.png", "out.dcm", "out.nrrd.txt"])
    def test_an_unknown_ending(self, enhance, capsys, output):
        assert enhance(output=output) == 2
        assert "choose one of .nrrd" in error_of(capsys)

    def test_an_unknown_ending_of_the_disagreement(self, enhance, capsys):
        assert enhance("--disagreement", "uncertainty.txt") == 2
        assert "uncertainty.txt has no ending that can be written" in error_of(capsys)

    def test_a_report_that_is_not_json(self, enhance, capsys):
        assert enhance("--report", "report.txt") == 2
        assert "report.txt must end in .json" in error_of(capsys)

    @pytest.mark.parametrize("option", [(), ("--report", "out.json"), ("--disagreement", "out.nii")])
    def test_one_that_exists(self, enhance, folder, capsys, option):
        name = option[1] if option else "out.nrrd"
        (folder / name).write_text("mine")
        assert enhance(*option) == 2
        assert f"{name} exists already: choose another name or add --overwrite" in error_of(capsys)
        assert sorted(os.listdir(folder)) == sorted([name, "scan.nrrd"])
        assert (folder / name).read_text() == "mine"

    def test_the_same_one_twice(self, enhance, capsys):
        assert enhance("--disagreement", "../work/out.nrrd") == 2
        assert "named for two outputs" in error_of(capsys)

    def test_the_input(self, enhance, capsys, scan):
        assert enhance("--overwrite", output="scan.nrrd") == 2
        assert "is the input" in error_of(capsys)

    def test_a_folder_that_is_not_there(self, enhance, capsys):
        assert enhance(output="none/out.nrrd") == 2
        assert "The folder none does not exist: create it first" in error_of(capsys)

    def test_a_place_below_a_file(self, enhance, capsys):
        assert enhance(output="scan.nrrd/out.nrrd") == 2
        assert "scan.nrrd does not exist: create it" in error_of(capsys)

    def test_a_name_that_is_too_long(self, enhance, capsys, folder):
        assert enhance(output="x" * 300 + ".nrrd") == 2
        assert "File name too long" in error_of(capsys)
        assert os.listdir(folder) == ["scan.nrrd"]

    def test_an_unknown_model(self, enhance, capsys):
        assert enhance("--model", "large") == 2
        assert "There is no model 'large'" in error_of(capsys)


class TestWrongInputs:
    def test_a_missing_file(self, enhance, capsys):
        assert enhance(scan="none.nrrd") == 2
        assert "none.nrrd does not exist" in error_of(capsys)

    def test_a_path_that_is_too_long(self, enhance, capsys):
        assert enhance(scan="x" * 5000 + ".nrrd") == 2
        error_of(capsys)

    def test_what_is_no_scan(self, enhance, folder, capsys):
        (folder / "notes.txt").write_text("notes")
        assert enhance(scan="notes.txt") == 2
        error_of(capsys)

    def test_a_scan_that_cannot_be_enhanced(self, enhance, folder, capsys):
        write_volume(Volume(np.zeros((9, 8, 8), np.int16), affine_from()), "flat.nrrd")
        assert enhance(scan="flat.nrrd") == 2
        assert "everywhere" in error_of(capsys)
        assert sorted(os.listdir(folder)) == ["flat.nrrd", "scan.nrrd"]

    @pytest.mark.parametrize("device", ["cuda", "cuda:1"])
    def test_a_gpu_that_is_not_there(self, enhance, capsys, device, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        assert enhance("--device", device) == 2
        assert "no CUDA GPU" in error_of(capsys)

    def test_an_unknown_device(self, enhance, capsys):
        assert enhance("--device", "abacus") == 2
        assert "Device 'abacus' does not exist" in error_of(capsys)

    def test_damaged_weights(self, enhance, folder, tmp_path, capsys):
        broken = save_model(tmp_path / "broken", make_network(), make_card()).folder
        (broken / "model.safetensors").write_bytes(b"damaged")
        assert enhance("--model", str(broken)) == 2
        assert "checksum" in error_of(capsys)
        assert os.listdir(folder) == ["scan.nrrd"]

    def test_too_little_memory(self, enhance, capsys):
        assert enhance("--memory", "0.01") == 2
        assert "Allow more memory" in error_of(capsys)


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "required: COMMAND: see xviewsynth --help."),
            (["improve"], "invalid choice: 'improve'"),
            (["enhance"], "required: INPUT, OUTPUT: see xviewsynth enhance --help."),
            (["enhance", "a", "b", "--factor", "1"], "a whole number from 2 to 8, not '1'"),
            (["enhance", "a", "b", "--factor", "9"], "a whole number from 2 to 8, not '9'"),
            (["enhance", "a", "b", "--factor", "2.5"], "a whole number from 2 to 8, not '2.5'"),
            (["enhance", "a", "b", "--factor", "٣"], "a whole number from 2 to 8"),
            (["enhance", "a", "b", "--spacing", "0"], "a number of millimetres above 0, not '0'"),
            (["enhance", "a", "b", "--spacing", "nan"], "a number of millimetres above 0"),
            (["enhance", "a", "b", "--memory", "-1"], "a number of gigabytes above 0"),
            (["enhance", "a", "b", "--memory", "lots"], "a number of gigabytes above 0, not 'lots'"),
            (["enhance", "a", "b", "--factor", "2", "--isotropic"], "not allowed with argument --factor"),
            (["enhance", "a", "b", "--axis", "k"], "invalid choice: 'k'"),
            (["enhance", "a", "b", "--fact", "2"], "Unrecognized arguments: --fact 2"),
            (["enhance", "a", "b", "c\nd"], "Unrecognized arguments: c d"),
            (["enhance", "a", "b", "--stop-with-parent", "0"], "the number of a process, not '0'"),
            (["speed", "--stop-with-parent", "mother"], "the number of a process, not 'mother'"),
            (["models"], "required: ACTION"),
            (["models", "show"], "required: NAME"),
            (["bench", "scan.nrrd"], "required: --output"),
        ],
    )
    def test_end_with_2_and_one_line(self, capsys, arguments, message):
        assert main(arguments) == 2
        assert message in error_of(capsys)


class TestHelp:
    def test_names_the_commands(self, capsys):
        assert main(["--help"]) == 0
        text = capsys.readouterr().out
        assert all(name in text for name in ("enhance", "selfcheck", "models", "bench"))

    def test_prints_the_version(self, capsys):
        assert main(["--version"]) == 0
        assert capsys.readouterr().out.startswith("xviewsynth ")


class TestSelfcheck:
    def test_prints_every_method_and_writes_the_report(self, folder, model, capsys):
        assert main(["selfcheck", "scan.nrrd", "--model", model, "--report", "report.json"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["PSNR", "dB", "gain", "dB", "MAE", "HU", "SSIM", "noise", "seconds"]
        assert [line.split()[0] for line in lines[1:5]] == ["linear", "cubic", "sinc", "enhanced"]
        report = json.loads(Path("report.json").read_text())
        assert {"psnr_db", "mae_hu", "ssim"} <= set(report["methods"]["enhanced"])
        assert f"{report['methods']['linear']['psnr_db']:.2f}" in lines[1]

    def test_what_could_not_be_measured_is_a_dash(self):
        scores = dict.fromkeys(("psnr_db", "gain_over_better_db", "mae_hu", "ssim", "noise_ratio", "seconds"))
        report = {"methods": {"linear": scores}, "factor": 2, "axis": "K", "notes": []}
        assert describe(report).splitlines()[1].split() == ["linear"] + ["-"] * 6

    def test_a_report_that_exists_is_kept(self, folder, model, capsys):
        (folder / "report.json").write_text("mine")
        assert main(["selfcheck", "scan.nrrd", "--model", model, "--report", "report.json"]) == 2
        assert "exists already" in error_of(capsys)


class TestSpeed:
    def test_prints_one_json_object(self, folder, model, capsys):
        assert main(["speed", "--model", model, "--factor", "3", "--precision", "bf16", "--device", "cpu"]) == 0
        measured = json.loads(capsys.readouterr().out)
        assert 0 < measured.pop("seconds_per_voxel") < 1e-3
        assert measured == {"device": "cpu", "precision": "bf16", "quality": "standard", "factor": 3, "model": "small"}

    def test_of_best_quality_all_passes_count(self, folder, model, capsys, monkeypatch):
        monkeypatch.setattr("XViewSynthLib.inference.trial.seconds_per_voxel", lambda *_: 1e-6)
        assert main(["speed", "--model", model, "--quality", "best", "--device", "cpu"]) == 0
        measured = json.loads(capsys.readouterr().out)
        assert (measured["quality"], measured["seconds_per_voxel"]) == ("best", pytest.approx(4e-6))

    def test_takes_a_factor_that_the_model_knows(self, folder, tmp_path, capsys):
        limited = save_model(tmp_path / "limited", make_network(), make_card(factors=[6, 5])).folder
        assert main(["speed", "--model", str(limited)]) == 0
        assert json.loads(capsys.readouterr().out)["factor"] == 5

    def test_refuses_a_factor_that_the_model_does_not_know(self, folder, tmp_path, capsys):
        limited = save_model(tmp_path / "limited", make_network(), make_card(factors=[2])).folder
        assert main(["speed", "--model", str(limited), "--factor", "4"]) == 2
        assert "trained for factors 2, not 4" in error_of(capsys)

    def test_refuses_an_unknown_model(self, folder, capsys):
        assert main(["speed", "--model", "large"]) == 2
        assert "There is no model 'large'" in error_of(capsys)


class TestModels:
    def test_come_and_go(self, folder, model, capsys):
        export_model(model, "small.zip")
        assert main(["models", "import", "small.zip"]) == 0
        assert main(["models", "list"]) == 0
        assert main(["models", "export", "small", "again.zip"]) == 0
        assert main(["models", "remove", "small"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "Imported small 1.0: use it with --model small."
        assert "small  imported  1.0  A small network with random weights." in lines
        assert lines[-2:] == ["Wrote again.zip.", "Removed small."]
        assert Path("again.zip").read_bytes() == Path("small.zip").read_bytes()

    def test_show_prints_the_card_as_json(self, folder, model, capsys):
        assert main(["models", "show", model]) == 0
        assert json.loads(capsys.readouterr().out) == json.loads(Path(model, "card.json").read_text())

    def test_an_empty_list_says_what_to_do(self, folder, capsys, monkeypatch):
        monkeypatch.setattr("XViewSynthLib.model.catalogue.shipped_folder", lambda: None)
        assert main(["models", "list"]) == 0
        assert "xviewsynth models import FILE" in capsys.readouterr().out

    def test_a_broken_one_is_listed_as_such(self, folder, tmp_path, capsys):
        (tmp_path / "models" / "broken").mkdir(parents=True)
        assert main(["models", "list"]) == 0
        assert "broken  imported  unusable: " in capsys.readouterr().out

    @pytest.mark.parametrize(
        "arguments", [["show", "none"], ["import", "none.zip"], ["export", "none", "a.zip"], ["remove", "none"]]
    )
    def test_wrong_ones_end_with_2(self, folder, capsys, arguments):
        assert main(["models", *arguments]) == 2
        error_of(capsys)


class TestBench:
    def test_hands_its_arguments_over_and_prints_the_tables(self, monkeypatch, model, capsys):
        asked = {}

        def run_bench(benchmark, out_folder, **options):
            asked.update(vars(benchmark), out_folder=out_folder, **options)
            return "report"

        monkeypatch.setattr("XViewSynthLib.evaluation.benchmark.run_bench", run_bench)
        monkeypatch.setattr("XViewSynthLib.evaluation.tables.to_markdown", lambda report: f"| the {report} |")
        line = ["bench", "a.nrrd", "b.nrrd", "--factor", "3", "--factor", "2", "--model", model, "--output", "tables"]
        assert main([*line, "--ablation", "arms", "--memory", "2", "--thickness", "1.25", "--thickness", "2"]) == 0
        assert asked["scans"] == [Path("a.nrrd"), Path("b.nrrd")]
        assert asked["factors"] == [3, 2]
        assert asked["models"] == [model]
        assert asked["out_folder"] == Path("tables")
        assert asked["ablation"] == Path("arms")
        assert asked["request"] == Request(memory=2_000_000_000)
        assert asked["thicknesses"] == [1.25, 2.0]
        assert capsys.readouterr().out == "| the report |\nWrote tables.\n"

    def test_an_unknown_model_is_found_before_any_work(self, capsys):
        assert main(["bench", "a.nrrd", "--model", "none", "--output", "tables"]) == 2
        assert "There is no model 'none'" in error_of(capsys)


class TestCommandsOfOthers:
    @pytest.fixture(autouse=True)
    def greeting(self, monkeypatch):
        def register(subparsers):
            parser = subparsers.add_parser("greet", help="say hello")
            parser.add_argument("name")
            parser.set_defaults(run=lambda arguments, job: job.say(f"Hello {arguments.name}"))

        class EntryPoint:
            name = "greet"

            def load(self):
                return register

        monkeypatch.setattr(cli, "entry_points", lambda group: [EntryPoint()] if group == "xviewsynth.commands" else [])

    def test_run_like_our_own(self, capsys):
        assert main(["greet", "Ada"]) == 0
        assert capsys.readouterr().out == "Hello Ada\n"

    def test_are_named_in_the_help(self, capsys):
        main(["--help"])
        assert "greet" in capsys.readouterr().out

    def test_can_be_handed_in_where_none_are_installed(self, capsys):
        def register(subparsers):
            subparsers.add_parser("wave", help="say goodbye").set_defaults(run=lambda _, job: job.say("Bye"))

        assert cli._run(["wave"], StopRequest(), [register]) == 0
        assert capsys.readouterr().out == "Bye\n"

    def test_that_are_installed_and_handed_in_are_there_once(self, capsys):
        def register(subparsers):
            subparsers.add_parser("greet").set_defaults(run=lambda _, job: job.say("Handed in"))

        assert cli._run(["--help"], StopRequest(), [register]) == 0
        assert cli._run(["greet"], StopRequest(), [register]) == 0
        assert capsys.readouterr().out.endswith("Handed in\n")

    def test_are_not_searched_for_our_own_commands(self, monkeypatch, capsys):
        monkeypatch.setattr(cli, "entry_points", lambda group: pytest.fail("looked for"))
        assert main(["models", "--help"]) == 0


class TestExitCodes:
    @pytest.fixture
    def fail_with(self, monkeypatch):
        def arrange(error: BaseException):
            def fail(*_):
                raise error

            monkeypatch.setattr("XViewSynthLib.cli.models.list_models", fail)
            return main(["models", "list"])

        return arrange

    def test_an_internal_error_is_1_with_one_line_and_the_traceback(self, fail_with, capsys):
        assert fail_with(KeyError("slices")) == 1
        first, second, *_ = capsys.readouterr().err.splitlines()
        assert first.startswith("error: This is an internal error, please report it")
        assert first.endswith("KeyError: 'slices'")
        assert second == "Traceback (most recent call last):"

    def test_cancelled_is_3(self, fail_with, capsys):
        assert fail_with(Cancelled()) == 3
        assert capsys.readouterr().err == "Cancelled.\n"

    def test_too_little_memory_is_2(self, fail_with, capsys):
        assert fail_with(MemoryError()) == 2
        assert "not enough memory" in error_of(capsys)

    def test_a_command_may_give_its_own(self):
        assert job.run(lambda: 2, StopRequest()) == 2


class TestStreams:
    def test_a_reader_that_stops_reading_is_no_error(self, folder, model):
        with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
            reader.wait()
            for arguments in (["models", "show", model], ["--help"]):
                done = command(*arguments, stdout=reader.stdin)
                assert (done.returncode, done.stderr) == (0, "")

    def test_work_continues_if_its_progress_is_not_read(self, folder, model):
        with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
            reader.wait()
            line = ["enhance", "scan.nrrd", "out.nrrd", "--factor", "2", "--model", model, "--progress", "json"]
            done = command(*line, stdout=reader.stdin)
        assert done.returncode == 0
        assert "Traceback" not in done.stderr
        assert read_volume("out.nrrd").shape_ijk == (36, 40, 33)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_output_that_cannot_be_kept_is_one_line(self, folder, model):
        with open("/dev/full", "w") as full:
            done = command("models", "show", model, stdout=full)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "error: Cannot print (No space left on device): send the output of this command elsewhere."
        ]

    @pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
    def test_closed_streams_are_no_error(self, folder, model):
        line = f'"{sys.executable}" -m XViewSynthLib models show "{model}" >&- 2>&-'
        assert subprocess.run(["sh", "-c", line], env={**os.environ, "PYTHONPATH": LIBRARY}, timeout=60).returncode == 0

    def test_an_error_on_a_full_stream_keeps_its_code(self, monkeypatch):
        class Full(io.StringIO):
            def write(self, text):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(sys, "stderr", Full())
        assert main(["enhance"]) == 2

    def test_what_is_held_back_until_the_end_may_fail_as_well(self, monkeypatch):
        class Closed(io.StringIO):
            def flush(self):
                raise BrokenPipeError(32, "Broken pipe")

        monkeypatch.setattr(sys, "stdout", Closed())
        assert main(["--version"]) == 0


class TestProgram:
    def test_python_m_and_the_command_are_the_same(self, folder, model):
        done = command("enhance", "scan.nrrd", "out.nrrd", "--model", model, "--factor", "2", "--progress", "none")
        assert (done.returncode, done.stderr) == (0, "")
        assert read_volume("out.nrrd").shape_ijk == (36, 40, 33)

    def test_a_wrong_argument_is_reported_without_waiting_for_torch(self):
        code = (
            "import sys; from XViewSynthLib.cli.main import main; main(['enhance']); sys.exit('torch' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": LIBRARY}, capture_output=True
        )
        assert done.returncode == 0

    @pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
    @pytest.mark.parametrize("output", ["out.nii", "out.mhd"])
    def test_a_full_disk_leaves_nothing(self, folder, model, output):
        import resource

        done = command(
            "enhance", "scan.nrrd", output, "--model", model, "--progress", "none",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
        )  # fmt: skip
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: Cannot write {output}")
        assert os.listdir(folder) == ["scan.nrrd"]

    def test_a_full_disk_for_the_report_takes_the_volume_back(self, enhance, folder, monkeypatch, capsys):
        def full(self, *_, **__):
            self.touch()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        assert enhance("--report", "report.json") == 2
        assert "Cannot write report.json: No space left on device" in error_of(capsys)
        assert os.listdir(folder) == ["scan.nrrd"]
