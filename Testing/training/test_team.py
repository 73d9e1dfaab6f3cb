"""Several processes train what one would have trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scans import affine_from, anatomy
from tiny import NETWORK
from XViewSynthLib import InputError, Volume, write_volume
from XViewSynthTrainLib.checkpoints import load_checkpoint
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.files import CHECKPOINT_FILE
from XViewSynthTrainLib.runlog import read_log
from XViewSynthTrainLib.team import Team, team_of_torchrun
from XViewSynthTrainLib.trainer import Trainer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "steps": 40,
    "slices": 4,
    "pixels": 16,
    "batch": 2,
    "network": NETWORK,
    "gamma": 1.0,
    "judgements": 2,
    "factor_shares": {"2": 1, "3": 1},
}


def run(folder: Path, processes: int, *arguments: object) -> subprocess.CompletedProcess:
    """Train in so many processes, started as a user would."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "XViewSynth"), str(ROOT / "XViewSynthTrain")]),
        "OMP_NUM_THREADS": "1",
    }
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *torchrun, "-m", "XViewSynthTrainLib", "train", *map(str, arguments)]
    command += ["--settings", str(folder / "settings.json"), "--device", "cpu", "--progress", "none"]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with the runs "one" and "two", trained by so many processes."""
    folder = tmp_path_factory.mktemp("team")
    write_volume(Volume(anatomy((41, 24, 28)), affine_from((0.8, 0.8, 1.0))), folder / "scan.nrrd")
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    for processes, name in ((1, "one"), (2, "two")):
        done = run(folder, processes, folder / "scan.nrrd", "--output", folder / name)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build of PyTorch has no distributed engine")
class TestTwoProcesses:
    def test_have_the_same_loss_curve_as_one(self, runs):
        curves = [
            [entry["loss"] for entry in read_log(runs / name) if entry["kind"] == "loss"] for name in ("one", "two")
        ]
        assert len(curves[0]) == len(curves[1]) == 2
        for one, two in zip(*curves):
            assert two == pytest.approx(one, rel=1e-3)

    def test_learn_the_same_weights(self, runs):
        one, two = (load_checkpoint(runs / name / CHECKPOINT_FILE)[0] for name in ("one", "two"))
        moved = [name for name in one if name.startswith("network.")]
        assert moved
        for name in moved:
            assert torch.allclose(one[name], two[name], atol=1e-4), name

    def test_write_one_report(self, runs):
        report = json.loads((runs / "two" / "report.json").read_text())
        assert (report["processes"], report["steps"]) == (2, 40)
        assert len([entry for entry in read_log(runs / "two") if entry["kind"] == "gain"]) == 3

    def test_need_a_batch_they_can_share(self, runs):
        done = run(runs, 3, runs / "scan.nrrd", "--output", runs / "three")
        assert done.returncode != 0
        assert "Set the batch to a multiple of 3" in done.stderr

    def test_cannot_be_timed(self, runs):
        done = run(runs, 2, runs / "scan.nrrd", "--output", runs / "timed", "--minutes", 1)
        assert "Give --steps in place of --minutes" in done.stderr


class TestAlone:
    def test_without_torchrun_there_is_no_team(self, monkeypatch):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        with team_of_torchrun("cpu") as team:
            assert (team.size, team.leads, team.device) == (1, True, "cpu")

    def test_a_batch_that_cannot_be_shared_is_reported(self, tmp_path):
        scan = Volume(anatomy((21, 24, 28)), affine_from((0.8, 0.8, 1.0)))
        config = TrainingConfig(steps=1, slices=4, pixels=16, batch=1, network=NETWORK)
        with pytest.raises(InputError, match="multiple of 2"):
            Trainer([scan], config, tmp_path / "run", team=Team(0, 2))
