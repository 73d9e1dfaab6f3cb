"""enhance_folder.py: every scan below a folder, as `xviewsynth batch` does it."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from scans import affine_from, anatomy
from XViewSynthLib import Volume, enhance, read_volume, write_volume

SCRIPT = Path(__file__).resolve().parents[2] / "XViewSynth" / "Scripts" / "enhance_folder.py"
TIMEOUT_SECONDS = 240


@pytest.fixture(scope="module")
def scans(tmp_path_factory, scan) -> Path:
    """A scan that can be enhanced, and one that cannot (too few slices)."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "Müller, A").mkdir()
    write_volume(scan, folder / "Müller, A" / "chest.nrrd")
    write_volume(Volume(anatomy((3, 20, 20)), affine_from()), folder / "short.nii.gz")
    return folder


@pytest.fixture(scope="module")
def options(tiny_model) -> list[str]:
    return ["--factor", "2", "--model", str(tiny_model), "--device", "cpu"]


def start(*arguments: object, cwd: Path | None = None) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", cwd=cwd)


def run(*arguments: object, cwd: Path | None = None) -> tuple[int, str, str]:
    process = start(*arguments, cwd=cwd)
    output, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def finished(scans, options, tmp_path_factory) -> tuple[Path, tuple[int, str, str]]:
    folder = tmp_path_factory.mktemp("finished") / "out"
    return folder, run(scans.name, folder, *options, cwd=scans.parent)


class TestAFolder:
    def test_the_exit_code_is_that_of_the_batch(self, finished):
        assert finished[1][0] == 0

    def test_results_lie_as_the_scans_do(self, finished, scan, tiny_model):
        result = read_volume(finished[0] / "Müller, A" / "chest.nrrd.enhanced.nrrd")
        expected = enhance(scan, factor=2, model=str(tiny_model), device="cpu")
        np.testing.assert_array_equal(result.voxels, expected.volume.voxels)

    def test_the_summary_lists_every_scan(self, finished):
        with open(finished[0] / "summary.csv", newline="", encoding="utf-8") as file:
            rows = {row["scan"]: row["status"] for row in csv.DictReader(file)}
        assert rows == {"Müller, A/chest.nrrd": "enhanced", "short.nii.gz": "refused"}

    def test_a_second_start_needs_resume(self, finished, scans, options):
        code, _, errors = run(scans, finished[0], *options)
        assert code == 2
        assert "add --resume" in errors
        assert run(scans, finished[0], *options, "--resume")[0] == 0


class TestEnds:
    def test_wrong_arguments_are_one_sentence(self, scans, tmp_path):
        code, _, errors = run(scans, tmp_path / "out", "--factor", "9")
        assert (code, errors.count("\n")) == (2, 1)
        assert "a whole number from 2 to 8" in errors

    @pytest.mark.skipif(os.name != "posix", reason="Windows has no signals between processes")
    def test_a_stop_signal_leaves_no_process_and_no_half_result(self, scans, options, tmp_path):
        process = start(scans, tmp_path / "out", *options)
        children: list[psutil.Process] = []
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not children and time.monotonic() < deadline:
            children = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 3
        assert not any(child.is_running() for child in children)
        assert not list(tmp_path.rglob("*.enhanced.nrrd"))
