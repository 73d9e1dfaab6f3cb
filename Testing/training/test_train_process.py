"""Trainings in processes of their own: one at a time in a folder, killed, on a full disk, without their scan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scans import affine_from, anatomy
from tiny import NETWORK
from XViewSynthLib import InputError, Volume, write_volume
from XViewSynthTrainLib.checkpoints import load_checkpoint
from XViewSynthTrainLib.files import CHECKPOINT_FILE, LOCK_FILE
from XViewSynthTrainLib.lock import is_locked, refuse_locked_run, run_lock
from XViewSynthTrainLib.runlog import read_log

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "steps": 100_000,
    "slices": 4,
    "pixels": 16,
    "network": NETWORK,
    "judgements": 1,
    "checkpoint_seconds": 0.2,
    "factor_shares": {"2": 1},
}
TIMEOUT_SECONDS = 120
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("XViewSynth", "XViewSynthTrain", "Testing")),
    "OMP_NUM_THREADS": "1",
}
HOLD = """
import sys, time
from pathlib import Path
from XViewSynthTrainLib.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def processes():
    """Processes that end with the test."""
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def hold(processes, tmp_path):
    """Let another process hold the lock of the folder."""

    def begin() -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    return begin


@pytest.fixture
def train(processes, tmp_path):
    """Start a training in the folder "run", as a user would."""
    scan, settings = tmp_path / "scan.nrrd", tmp_path / "settings.json"
    write_volume(Volume(anatomy((41, 24, 28)), affine_from((0.8, 0.8, 1.0))), scan)
    settings.write_text(json.dumps(SETTINGS))

    def begin(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
        command = [sys.executable, *launcher, "-m", "XViewSynthTrainLib", "train", "--output", str(tmp_path / "run")]
        command += ["--device", "cpu", "--progress", "none", *map(str, arguments)]
        process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        processes.append(process)
        return process

    begin.new = (scan, "--settings", settings)
    return begin


def last_logged(run: Path) -> int:
    """The last step that a run has told of, which may lie beyond its checkpoint."""
    return max(entry["step"] for entry in read_log(run))


def wait_until_training(run: Path, process: subprocess.Popen, beyond: int = 0) -> int:
    """Wait until a run has logged a step beyond another; gives that step."""
    until = time.monotonic() + TIMEOUT_SECONDS
    while True:
        steps = [entry["step"] for entry in read_log(run) if entry["kind"] == "loss"]
        if steps and steps[-1] > beyond:
            return steps[-1]
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def wait_until_kept(run: Path) -> None:
    """Wait until a checkpoint holds what was learned."""
    until = time.monotonic() + TIMEOUT_SECONDS
    while not load_checkpoint(run / CHECKPOINT_FILE)[1]["step"]:
        assert time.monotonic() < until
        time.sleep(0.05)


class TestLock:
    def test_a_second_process_is_refused_in_one_sentence(self, hold, tmp_path):
        hold()
        assert is_locked(tmp_path)
        with pytest.raises(InputError, match="Wait until the training in") as refused, run_lock(tmp_path):
            pass
        assert str(refused.value).count(".") == str(tmp_path).count(".") + 1
        with pytest.raises(InputError, match="Wait until the training"):
            refuse_locked_run(tmp_path)

    def test_so_is_a_second_run_of_one_process(self, tmp_path):
        with run_lock(tmp_path), pytest.raises(InputError, match="Wait until the training"), run_lock(tmp_path):
            pass

    def test_a_killed_process_leaves_the_file_and_no_lock(self, hold, tmp_path):
        process = hold()
        process.kill()
        process.wait()
        assert (tmp_path / LOCK_FILE).exists()
        assert not is_locked(tmp_path)
        with run_lock(tmp_path):
            assert is_locked(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"what a power cut left"])
    def test_a_file_without_a_holder_is_no_lock(self, tmp_path, content):
        (tmp_path / LOCK_FILE).write_bytes(content)
        assert not is_locked(tmp_path)
        with run_lock(tmp_path):
            assert is_locked(tmp_path)

    def test_nothing_is_left(self, tmp_path):
        with run_lock(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []
        assert not is_locked(tmp_path)

    def test_nothing_is_left_by_work_that_failed(self, tmp_path):
        with pytest.raises(RuntimeError), run_lock(tmp_path):
            raise RuntimeError
        assert list(tmp_path.iterdir()) == []

    def test_looking_does_not_stop_a_run_from_beginning(self, tmp_path):
        """Panels look many times a second."""
        looker = subprocess.Popen(
            [sys.executable, "-c", LOOK, str(tmp_path)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        try:
            assert looker.stdout.readline() == "looking\n"
            for _ in range(50):
                with run_lock(tmp_path):
                    pass
        finally:
            looker.kill()
            looker.communicate()

    def test_of_many_at_once_one_gets_it(self, tmp_path):
        contenders = [
            subprocess.Popen([sys.executable, "-c", CONTEND, str(tmp_path)], env=ENVIRONMENT) for _ in range(4)
        ]
        assert [process.wait(TIMEOUT_SECONDS) for process in contenders] == [0] * 4
        # Every turn of every process was alone while it lasted.
        turns = (tmp_path / "turns").read_text().split()
        assert len(turns) == 4 * 25 * 2
        assert all(begin == end for begin, end in zip(turns[::2], turns[1::2]))

    def test_a_folder_that_is_not_there_is_reported(self, tmp_path):
        with pytest.raises(InputError, match="Choose another folder"), run_lock(tmp_path / "nowhere"):
            pass
        assert not is_locked(tmp_path / "nowhere")


LOOK = """
import sys
from pathlib import Path
from XViewSynthTrainLib.lock import is_locked
print("looking", flush=True)
while True:
    is_locked(Path(sys.argv[1]))
"""

# Without the lock, the two words of one turn are torn apart by those of others.
CONTEND = """
import os, sys, time
from pathlib import Path
from XViewSynthLib import InputError
from XViewSynthTrainLib.lock import run_lock
folder, turns = Path(sys.argv[1]), 0
while turns < 25:
    try:
        with run_lock(folder):
            for pause in (0.002, 0):
                with open(folder / "turns", "a") as file:
                    file.write(f"{os.getpid()} ")
                time.sleep(pause)
        turns += 1
    except InputError:
        continue
"""


class TestTraining:
    @pytest.fixture
    def running(self, train, tmp_path):
        process = train(*train.new)
        wait_until_training(tmp_path / "run", process)
        return process

    def refused(self, process: subprocess.Popen) -> None:
        out, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 2, errors
        assert (out, errors.count("\n")) == ("", 1)
        assert errors.startswith("error: Wait until the training in")

    def test_a_second_one_is_refused_and_the_first_goes_on(self, train, running, tmp_path):
        for arguments in (("--resume",), train.new):
            self.refused(train(*arguments))
        wait_until_training(tmp_path / "run", running, beyond=wait_until_training(tmp_path / "run", running))

    def test_one_that_was_killed_is_resumed_at_once(self, train, running, tmp_path):
        running.kill()
        running.wait()
        reached = last_logged(tmp_path / "run")
        assert (tmp_path / "run" / LOCK_FILE).exists()
        resumed = train("--resume")
        wait_until_training(tmp_path / "run", resumed, beyond=reached)
        self.refused(train("--resume"))
        resumed.send_signal(signal.SIGTERM)
        assert resumed.wait(TIMEOUT_SECONDS) == 3
        assert not (tmp_path / "run" / LOCK_FILE).exists()

    def test_of_two_that_begin_at_once_one_trains(self, train, tmp_path):
        both = [train(*train.new) for _ in range(2)]
        until = time.monotonic() + TIMEOUT_SECONDS
        while all(process.poll() is None for process in both):
            assert time.monotonic() < until
            time.sleep(0.05)
        both.sort(key=lambda process: process.poll() is None)
        self.refused(both[0])
        wait_until_training(tmp_path / "run", both[1])

    def test_a_team_is_refused_as_one(self, train, running):
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        team = train("--resume", launcher=launcher)
        errors = team.communicate(timeout=TIMEOUT_SECONDS)[1]
        assert team.returncode != 0
        assert errors.count("error: Wait until the training in") == 1
        assert "internal error" not in errors
        assert running.poll() is None


class TestMishaps:
    """A run ends with a sentence, and what it has learned is there for the next one."""

    def told(self, process: subprocess.Popen) -> str:
        out, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        assert (process.returncode, out, errors.count("\n")) == (2, "", 1), errors
        return errors

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot be limited from outside")
    @pytest.mark.parametrize("full", ["log", "checkpoint"])
    def test_a_disk_that_is_full(self, train, tmp_path, full):
        import resource

        run = tmp_path / "run"
        process = train(*train.new)
        wait_until_training(run, process)
        wait_until_kept(run)
        # Files may grow no more: none at all, or as far as the log needs. A checkpoint is now shorter, now longer, by
        # the losses since the last line of the log, so that no limit near its size is sure to stop the next.
        room = 1 if full == "log" else (run / CHECKPOINT_FILE).stat().st_size // 2
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, room))
        assert "error: Make room or choose another folder" in self.told(process)
        assert load_checkpoint(run / CHECKPOINT_FILE)[1]["step"] > 0
        wait_until_training(run, train("--resume"), beyond=last_logged(run))

    def test_a_scan_that_is_gone_or_damaged(self, train, tmp_path):
        run, scan = tmp_path / "run", train.new[0]
        process = train(*train.new)
        wait_until_training(run, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_SECONDS) == 3
        saved, content = (run / CHECKPOINT_FILE).read_bytes(), scan.read_bytes()
        scan.unlink()
        assert "scan.nrrd" in self.told(train("--resume"))
        scan.write_bytes(content[: len(content) // 2])
        assert "scan.nrrd" in self.told(train("--resume"))
        assert (run / CHECKPOINT_FILE).read_bytes() == saved
        scan.write_bytes(content)
        wait_until_training(run, train("--resume"), beyond=last_logged(run))

    def test_a_process_that_was_killed_while_it_wrote(self, train, tmp_path):
        """What it was writing is no use to anybody, and the model that was being replaced is put back."""
        run = tmp_path / "run"
        process = train(*train.new)
        wait_until_training(run, process)
        process.kill()
        process.wait()
        half = run / ".xviewsynth-half"
        (half / "new").mkdir(parents=True)
        (half / "old" / "model").mkdir(parents=True)
        (half / "old" / "model" / "card.json").write_text("{}")
        (run / "preview" / ".xviewsynth-half").mkdir()
        wait_until_training(run, train("--resume"), beyond=last_logged(run))
        assert (run / "model" / "card.json").read_text() == "{}"
        assert not list(run.rglob(".xviewsynth-half"))
