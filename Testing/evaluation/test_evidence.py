"""Clinical evidence in a benchmark: its JSON, its tables and its requests."""

from __future__ import annotations

import json

import pytest

from scans import affine_from, anatomy
from tiny import make_card, make_network
from XViewSynthLib.cli.main import main
from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.evaluation.benchmark import Benchmark, run_bench
from XViewSynthLib.evaluation.evidence import MEASURES, Evidence, check_measures
from XViewSynthLib.evaluation.selfcheck import drop_slices
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.io.writing import write_volume
from XViewSynthLib.model.catalogue import Model, save_model

pytestmark = pytest.mark.slow

METHODS = ["linear", "cubic", "registration", "small"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("evidence")


@pytest.fixture(scope="module")
def scan(folder):
    path = folder / "scan.nrrd"
    write_volume(Volume(anatomy((41, 60, 64)), affine_from((2.0, 2.0, 2.0))), path)
    return path


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return save_model(folder / "small", make_network(), make_card())


@pytest.fixture(scope="module")
def report(folder, scan, model) -> dict:
    return run_bench(
        Benchmark([scan], [2], [model], peers=["registration"], measures=["all"]), folder / "out", device="cpu"
    )


class TestReport:
    def test_every_measure_of_every_method(self, report):
        evidence = report["runs"][0]["evidence"]
        assert list(evidence) == ["noise_floor", "structures", "lesions", "invented"]
        for name in ("noise_floor", "structures", "invented"):
            assert list(evidence[name]["methods"]) == METHODS
        assert list(evidence["lesions"]["methods"]) == ["truth", "linear", "cubic", "small"]

    def test_errors_of_the_body_agree_with_the_recoverable_share(self, report):
        found = report["runs"][0]["evidence"]["noise_floor"]
        floor = found["regions"]["body"]["floor_mse_hu2"]
        errors = {method: entry["body"]["mse_hu2"] for method, entry in found["methods"].items()}
        better = min(errors["linear"], errors["cubic"])
        for method, entry in found["methods"].items():
            expected = (better - errors[method]) / (better - floor)
            assert entry["body"]["recoverable_removed"] == pytest.approx(expected)

    def test_only_results_with_an_uncertainty_map_have_its_share(self, report):
        methods = report["runs"][0]["evidence"]["invented"]["methods"]
        assert {methods[name]["invented_in_worst_percent"] for name in ("linear", "cubic", "registration")} == {None}

    def test_is_written_with_its_tables(self, folder, report):
        assert json.loads((folder / "out" / "bench.json").read_text("utf-8")) == json.loads(json.dumps(report))
        tables = (folder / "out" / "bench.md").read_text("utf-8")
        for title in ("Noise floor", "Structures", "Lesions", "Invented and missed structure"):
            assert f"#### {title}" in tables

    def test_rows_have_as_many_cells_as_their_header(self, folder, report):
        for block in (folder / "out" / "bench.md").read_text("utf-8").split("\n\n"):
            if block.startswith("|"):
                assert len({line.count(" | ") for line in block.strip().split("\n")}) == 1

    def test_without_a_request_there_is_none(self, folder, scan, model):
        report = run_bench(Benchmark([scan], [2], [model]), folder / "plain", device="cpu")
        assert report["runs"][0]["evidence"] == {}


class TestRequests:
    def test_measures_come_in_their_order(self):
        assert check_measures(["lesions", "noise-floor"]) == ("noise-floor", "lesions")
        assert check_measures(["all", "lesions"]) == MEASURES
        assert check_measures([]) == ()

    def test_an_unknown_measure(self, folder, scan, model):
        with pytest.raises(InputError, match="There is no measure 'dice': choose noise-floor, structures"):
            run_bench(Benchmark([scan], [2], [model], measures=["dice"]), folder / "none")
        assert not (folder / "none").exists()

    def test_on_the_command_line(self, folder, scan, model, capsys):
        command = ["bench", str(scan), "--factor", "2", "--model", str(folder / "small"), "--device", "cpu"]
        options = ["--measure", "invented", "--measure", "structures", "--output", str(folder / "command")]
        assert main([*command, *options]) == 0
        assert "#### Invented and missed structure" in capsys.readouterr().out
        report = json.loads((folder / "command" / "bench.json").read_text("utf-8"))
        assert list(report["runs"][0]["evidence"]) == ["structures", "invented"]

    def test_can_be_cancelled(self, scan):
        def cancel() -> None:
            raise Cancelled("Stopped.")

        trial = drop_slices(Volume(anatomy((41, 60, 64)), affine_from((2.0, 2.0, 2.0))), 2)
        for measure in MEASURES:
            with pytest.raises(Cancelled):
                Evidence(trial, [measure], cancel)


class TestProgress:
    def test_counts_the_evidence(self, scan, model, tmp_path):
        steps = []
        run_bench(
            Benchmark([scan], [2], [model], measures=["noise-floor"]), tmp_path, device="cpu", progress=steps.append
        )
        assert [step.done for step in steps] == list(range(steps[0].total))
        assert "scan.nrrd x2: evidence" in [step.stage for step in steps]
