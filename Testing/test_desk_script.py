"""enhance_folder.py as a hospital would run it over night: every study below a folder, resumable, with a summary."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from scans import affine_from, anatomy, write_dicom_series
from XViewSynthLib import Volume, enhance, read_volume, write_volume

SCRIPT = Path(__file__).resolve().parents[1] / "XViewSynth" / "Scripts" / "enhance_folder.py"
TIMEOUT_SECONDS = 240


@pytest.fixture(scope="module")
def studies(tmp_path_factory, scan) -> Path:
    """Two studies that can be enhanced (a file, a DICOM series) and one that cannot (too few slices)."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "Müller, A" / "CT 1").mkdir(parents=True)
    write_volume(scan, folder / "Müller, A" / "chest.nrrd")
    write_dicom_series(folder / "Müller, A" / "CT 1", Volume(scan.voxels[:5], scan.affine))
    write_volume(Volume(anatomy((3, 20, 20)), affine_from()), folder / "short.nii.gz")
    (folder / "notes.txt").write_text("no scan", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def options(tiny_model) -> list[str]:
    return ["--factor", "2", "--model", str(tiny_model), "--device", "cpu"]


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8")


def run(*arguments: object) -> tuple[int, str, str]:
    process = start(*arguments)
    output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, output, errors


def summary_of(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "summary.csv", newline="", encoding="utf-8") as file:
        return {line["study"]: line for line in csv.DictReader(file)}


@pytest.fixture(scope="module")
def finished(studies, options, tmp_path_factory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("finished") / "out"
    return folder, run(studies, folder, *options)[0]


class TestAFolder:
    def test_the_exit_code_says_that_some_are_missing(self, finished):
        assert finished[1] == 4

    def test_slices_are_as_thick_as_one_says(self, scan, options, tmp_path):
        (tmp_path / "in").mkdir()
        write_volume(scan, tmp_path / "in" / "chest.nrrd")
        thickness = 0.9 * scan.spacing_along("K")
        assert run(tmp_path / "in", tmp_path / "out", *options, "--thickness", thickness)[0] == 0
        assert f"are {thickness:g} mm thick" in summary_of(tmp_path / "out")["chest.nrrd"]["message"]

    def test_new_ones_between_thin_ones_have_no_thickness_of_their_own(self, scan, options, tmp_path):
        (tmp_path / "in").mkdir()
        write_volume(scan, tmp_path / "in" / "chest.nrrd")
        assert run(tmp_path / "in", tmp_path / "out", *options, "--new-thickness", 2)[0] != 0
        assert "leave the new thickness out" in summary_of(tmp_path / "out")["chest.nrrd"]["message"]

    def test_quality_is_as_good_as_one_says(self, scan, options, tiny_model, tmp_path):
        (tmp_path / "in").mkdir()
        write_volume(scan, tmp_path / "in" / "chest.nrrd")
        assert run(tmp_path / "in", tmp_path / "out", *options, "--quality", "best")[0] == 0
        expected = enhance(scan, factor=2, model=str(tiny_model), device="cpu", quality="best")
        assert np.array_equal(read_volume(tmp_path / "out" / "chest enhanced.nrrd").voxels, expected.volume.voxels)

    def test_results_lie_as_the_studies_do(self, finished, scan, tiny_model):
        result = read_volume(finished[0] / "Müller, A" / "chest enhanced.nrrd")
        expected = enhance(scan, factor=2, model=str(tiny_model), device="cpu")
        assert np.array_equal(result.voxels, expected.volume.voxels)
        assert (finished[0] / "Müller, A" / "CT 1 enhanced.nrrd").is_file()

    def test_the_summary_tells_of_every_study(self, finished):
        lines = summary_of(finished[0])
        assert {name: line["status"] for name, line in lines.items()} == {
            "Müller, A/CT 1": "enhanced",
            "Müller, A/chest.nrrd": "enhanced",
            "short.nii.gz": "refused",
        }
        chest = lines["Müller, A/chest.nrrd"]
        assert [chest[key] for key in ("factor", "axis", "spacing_before", "spacing_after", "slices", "model")] == [
            *("2", "K", "4", "2", "33", "small")
        ]
        assert "too few" in lines["short.nii.gz"]["message"]

    def test_all_enhanced_is_exit_code_zero(self, studies, options, tmp_path):
        assert run(studies / "Müller, A" / "CT 1", tmp_path / "out", *options)[0] == 0

    def test_a_second_start_overwrites_nothing(self, finished, studies, options):
        before = (finished[0] / "Müller, A" / "chest enhanced.nrrd").stat().st_mtime_ns
        assert run(studies / "Müller, A", finished[0] / "Müller, A", *options)[0] == 4
        assert "exists already" in summary_of(finished[0] / "Müller, A")["chest.nrrd"]["message"]
        assert (finished[0] / "Müller, A" / "chest enhanced.nrrd").stat().st_mtime_ns == before


class TestResuming:
    def test_what_is_there_is_not_done_again(self, finished, studies, options, tmp_path):
        folder = tmp_path / "out"
        shutil.copytree(finished[0], folder)
        (folder / "Müller, A" / "CT 1 enhanced.nrrd").unlink()
        (folder / "Müller, A" / "CT 1 enhanced.json").unlink()
        assert run(studies, folder, "--resume", *options)[0] == 4
        lines = summary_of(folder)
        assert lines["Müller, A/chest.nrrd"]["status"] == "enhanced before"
        assert lines["Müller, A/chest.nrrd"]["slices"] == "33"
        assert lines["Müller, A/CT 1"]["status"] == "enhanced"

    def test_a_damaged_report_is_no_result(self, finished, studies, options, tmp_path):
        folder = tmp_path / "out"
        shutil.copytree(finished[0] / "Müller, A", folder)
        (folder / "chest enhanced.json").write_text('{"axis": "X"}')
        assert run(studies / "Müller, A", folder, "--resume", *options)[0] == 4
        lines = summary_of(folder)
        assert lines["CT 1"]["status"] == "enhanced before"
        assert "exists already" in lines["chest.nrrd"]["message"]

    @pytest.mark.skipif(os.name != "posix", reason="Windows has no signals between processes")
    def test_cancelled_leaves_no_process_and_no_half_result(self, studies, options, tmp_path):
        process = start(studies, tmp_path / "out", *options)
        children: list[psutil.Process] = []
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not children and time.monotonic() < deadline:
            children = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 3
        assert not any(child.is_running() for child in children)
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


class TestWrongArguments:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["missing", "out"], "is no folder"),
            (["empty", "out"], "holds no study"),
            (["empty"], "required: OUTPUT"),
            (["empty", "out", "--factor", "9"], "from 2 to 8"),
            (["empty", "out", "--factor", "2", "--isotropic"], "not allowed"),
        ],
    )
    def test_they_are_told_in_a_sentence(self, tmp_path, arguments, sentence):
        (tmp_path / "empty").mkdir()
        places = [tmp_path / argument if argument.isalpha() else argument for argument in arguments]
        code, _, errors = run(*places)
        assert code == 2
        assert sentence in errors
        assert not (tmp_path / "out").exists()


class TestFindingStudies:
    @pytest.fixture
    def find(self):
        from importlib.util import module_from_spec, spec_from_file_location

        spec = spec_from_file_location("enhance_folder", SCRIPT)
        module = module_from_spec(spec)
        sys.modules["enhance_folder"] = module
        spec.loader.exec_module(module)
        yield module.find_studies
        del sys.modules["enhance_folder"]

    def test_results_of_an_earlier_start_are_no_studies(self, find, studies, scan):
        output = studies / "results"
        output.mkdir()
        write_volume(scan, output / "chest enhanced.nrrd")
        names = [study.name for study in find(studies, output)]
        shutil.rmtree(output)
        assert names == ["Müller, A/CT 1", "Müller, A/chest.nrrd", "short.nii.gz"]

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows forbids such names")
    def test_results_have_names_that_every_program_can_open(self, find, tmp_path):
        (tmp_path / "in\n").mkdir()
        (tmp_path / "in\n" / "\x1b[2J.nrrd").touch()
        (study,) = find(tmp_path, tmp_path / "out")
        assert study.output.relative_to(tmp_path) == Path("out", "in%0A", "%1B[2J enhanced.nrrd")

    def test_links_out_of_the_folder_are_followed_on_request(self, find, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "chest.nrrd").touch()
        (tmp_path / "far").mkdir()
        (tmp_path / "far" / "far.nrrd").touch()
        try:
            (tmp_path / "in" / "link").symlink_to(tmp_path / "far", target_is_directory=True)
        except OSError:
            pytest.skip("this user may not make links")
        said = []
        assert [study.name for study in find(tmp_path / "in", tmp_path / "out", say=said.append)] == ["chest.nrrd"]
        assert said[0].startswith("Links out of ")
        assert len(find(tmp_path / "in", tmp_path / "out", follow_links=True)) == 2

    def test_two_files_of_one_name_keep_apart(self, find, scan, tmp_path):
        for suffix in (".nrrd", ".mha"):
            write_volume(scan, tmp_path / f"chest{suffix}")
        outputs = [study.output.name for study in find(tmp_path, tmp_path / "out")]
        assert outputs == ["chest.mha enhanced.nrrd", "chest.nrrd enhanced.nrrd"]
