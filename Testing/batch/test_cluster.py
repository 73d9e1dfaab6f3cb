"""A batch on a Dask cluster: the same outputs, whatever befalls a worker, and what is said where it cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from batches import LIMIT_SECONDS, SITE, enhance_all, hidden, table, wait_until, waiting
from dask_cluster import LIBRARY, Cluster, local_cluster
from scans import affine_from, anatomy
from XViewSynthLib import InputError, Volume, __version__, write_volume
from XViewSynthLib.batch import cluster
from XViewSynthLib.batch.step import Step
from XViewSynthLib.cli.main import main
from XViewSynthLib.model.catalogue import model_card
from XViewSynthLib.request import Request

pytestmark = pytest.mark.cluster

distributed = pytest.importorskip("distributed")

PATIENCE_SECONDS = 900.0


@pytest.fixture
def site(tmp_path) -> dict[str, str]:
    """Variables with which the processes of a batch fare as their scans are called."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    return {"PYTHONPATH": os.pathsep.join([str(LIBRARY), str(tmp_path / "site")])}


def write_scans(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for seed, name in enumerate(names):
        write_volume(Volume(anatomy((8, 20, 18), seed), affine_from()), folder / f"{name}.nrrd")
    return folder


def processes_at_work(worker: subprocess.Popen) -> list[psutil.Process]:
    return [child for child in psutil.Process(worker.pid).children() if "cli.worker" in " ".join(words_of([child]))]


def words_of(processes: list[psutil.Process]) -> list[str]:
    words = []
    for process in processes:
        # Short-lived ones end while they are looked at, and a process that has ended has no words.
        with suppress(psutil.NoSuchProcess):
            words += process.cmdline()
    return words


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals between processes")
class TestCluster:
    def test_a_worker_that_dies_costs_no_scan_and_the_outputs_are_those_of_one_computer(
        self, site, tmp_path, tiny_model
    ):
        source = write_scans(tmp_path / "in", "1", "2", "slow")
        (source / "broken.nrrd").write_bytes(b"NRRD0004\nnothing")
        target = tmp_path / "out"
        with (
            local_cluster(2, site) as dask,
            started(source, target, tiny_model, dask.address, site) as batch,
        ):
            wait_until(lambda: waiting(target), PATIENCE_SECONDS)
            task = str(waiting(target)[0].with_name("task.json"))
            (victim,) = (worker for worker in dask.workers if task in words_of(processes_at_work(worker)))
            orphans = processes_at_work(victim)
            # From here on it is as quick as the others, wherever it is done.
            (tmp_path / "site" / "sitecustomize.py").write_text("")
            victim.kill()
            assert batch.wait(PATIENCE_SECONDS) == 0, batch.stderr.read()
            assert psutil.wait_procs(orphans, 20)[1] == []
            assert hidden(target) == []
            before = {path: path.stat().st_mtime_ns for path in target.rglob("*.enhanced.*")}
            assert main([*words(source, target, tiny_model), "--dask", dask.address, "--resume"]) == 0
        assert {path: path.stat().st_mtime_ns for path in target.rglob("*.enhanced.*")} == before
        rows = table(target)
        assert rows.pop("broken.nrrd")["status"] == "refused"
        assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(rows, "enhanced before")
        assert len(rows) == 3
        alone = tmp_path / "alone"
        assert enhance_all(source, alone, tiny_model) == 0
        for file in ("1.nrrd.enhanced.nrrd", "slow.nrrd.enhanced.nrrd", "slow.nrrd.enhanced.png"):
            assert (alone / file).read_bytes() == (target / file).read_bytes()

    def test_a_cancelled_batch_leaves_nothing_at_work(self, site, tmp_path, tiny_model):
        target = tmp_path / "out"
        with at_work_on_a_scan(tmp_path, site, tiny_model) as (dask, batch):
            at_work = processes_at_work(dask.workers[0])
            began = time.monotonic()
            batch.send_signal(signal.SIGTERM)
            assert batch.wait(PATIENCE_SECONDS) == 3
            assert time.monotonic() - began < LIMIT_SECONDS
            assert b"Cancelled. What was finished is kept: add --resume" in batch.stderr.read()
            assert sorted(os.listdir(target)) == ["summary.csv", "summary.html"]
            assert psutil.wait_procs(at_work, 20)[1] == []
            assert dask.workers[0].poll() is None

    def test_a_scheduler_that_goes_is_reported(self, site, tmp_path, tiny_model):
        with at_work_on_a_scan(tmp_path, site, tiny_model) as (dask, batch):
            dask.scheduler.kill()
            assert batch.wait(PATIENCE_SECONDS) == 2
            assert b"has gone: start it again, then add --resume" in batch.stderr.read()


def words(source: Path, target: Path, model: Path) -> list[str]:
    options = ["--factor", "2", "--model", str(model), "--device", "cpu", "--progress", "none"]
    return ["batch", str(source), str(target), *options]


@contextmanager
def started(
    source: Path, target: Path, model: Path, address: str, environment: dict[str, str]
) -> Iterator[subprocess.Popen]:
    """A batch on a cluster, in a process that does not outlive the test."""
    command = [sys.executable, "-m", "XViewSynthLib", *words(source, target, model), "--dask", address]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env={**os.environ, **environment}, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def at_work_on_a_scan(folder: Path, site: dict[str, str], model: Path) -> Iterator[tuple[Cluster, subprocess.Popen]]:
    """A cluster of one worker, in the midst of a batch of one slow scan from folder/in to folder/out."""
    source, target = write_scans(folder / "in", "slow 1"), folder / "out"
    with local_cluster(1, site) as dask, started(source, target, model, dask.address, site) as batch:
        wait_until(lambda: waiting(target), PATIENCE_SECONDS)
        yield dask, batch


class TestWrongArguments:
    @pytest.mark.parametrize("address", ["8786", "tcp://", "tcp://node", "http://node:8786", "tcp://node:port"])
    def test_what_is_no_address(self, address):
        with pytest.raises(InputError, match="no address of a Dask scheduler: give one such as tcp://"):
            cluster.check_address(address)

    @pytest.mark.parametrize("address", ["tcp://node:8786", "tls://10.0.0.1:8786", "tcp://[::1]:8786"])
    def test_addresses(self, address):
        cluster.check_address(address)

    def test_without_dask_it_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "distributed", None)
        with pytest.raises(InputError, match=r"pip install 'xviewsynth\[cluster\]'"):
            cluster.check_address("tcp://node:8786")

    def test_jobs_are_the_workers_own_affair(self, tmp_path, tiny_model, capsys):
        place = words(tmp_path, tmp_path / "out", tiny_model)
        assert main([*place, "--dask", "tcp://127.0.0.1:1", "--jobs", "2"]) == 2
        assert "leave --jobs out" in capsys.readouterr().err

    def test_without_workers(self, tmp_path, tiny_model, capsys, monkeypatch):
        monkeypatch.setattr(cluster, "_CONNECTING_SECONDS", 0.5)
        source = write_scans(tmp_path / "in", "1")
        assert main([*words(source, tmp_path / "out", tiny_model), "--dask", "tcp://127.0.0.1:1"]) == 2
        assert "No Dask scheduler responds at tcp://127.0.0.1:1" in capsys.readouterr().err
        assert os.listdir(tmp_path / "out") == []


@pytest.fixture
def step(tmp_path, tiny_model) -> Step:
    """A scan to enhance, in folders that are there."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out" / "staging").mkdir(parents=True)
    (tmp_path / "out" / "staging" / "token.txt").write_text("abc")
    return Step(
        name="a.nrrd",
        source=str(tmp_path / "in" / "a.nrrd"),
        place=str(tmp_path / "out" / "a.nrrd.enhanced"),
        root=str(tmp_path / "in"),
        staging=str(tmp_path / "out" / "staging"),
        settings={"model": model_card(tiny_model)["weights_sha256"]},
        request=Request(model=str(tiny_model), device="cpu").to_json(),
        threads=None,
    )


class TestLook:
    """What a worker is asked before it gets a scan."""

    def look(self, step: Step, **changes: str) -> str | None:
        plain = json.loads(json.dumps(asdict(step)))
        return cluster.look(
            plain, **{"model": step.request["model"], "token": "abc", "version": __version__, **changes}
        )

    def test_nothing_amiss(self, step):
        assert self.look(step) is None

    def test_another_version(self, step):
        assert "install the same version" in self.look(step, version="0.0.1")

    def test_no_input_folder(self, step):
        Path(step.root).rmdir()
        assert self.look(step) == f"does not see {step.root}: mount it there under the same name."

    def test_no_output_folder(self, step):
        (Path(step.staging) / "token.txt").unlink()
        assert "does not see" in self.look(step)

    def test_another_folder_of_the_same_name(self, step):
        assert "has another folder" in self.look(step, token="xyz")

    def test_another_model_of_the_same_name(self, step):
        step.settings["model"] = "0" * 64
        assert "lacks the model" in self.look(step)

    @pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="nothing is forbidden to this user")
    def test_a_folder_that_cannot_be_written_to(self, step):
        os.chmod(step.staging, 0o500)
        assert "cannot write to" in self.look(step)


class TestWorkers:
    def test_one_that_cannot_do_its_part_says_why_and_leaves_the_scan_to_others(self, step, monkeypatch):
        heard = []
        worker = SimpleNamespace(
            address="tcp://node:1",
            state=SimpleNamespace(tasks={"key": SimpleNamespace(state="executing")}),
            get_current_task=lambda: "key",
            log_event=lambda *event: heard.append(event),
        )
        monkeypatch.setattr("distributed.get_worker", lambda: worker)
        monkeypatch.setattr(cluster, "_BACK_OFF_SECONDS", 0.1)
        with pytest.raises(distributed.Reschedule):
            cluster.run_step_here(
                asdict(step), model=step.request["model"], token="xyz", version=__version__, topic="topic"
            )
        ((topic, sentence),) = heard
        assert topic == "topic"
        assert sentence.startswith("The worker tcp://node:1 has another folder")

    @pytest.mark.parametrize(
        ("answer", "sentence"),
        [
            (ModuleNotFoundError("No module named 'XViewSynthLib'"), f"has no XViewSynth.*install {__version__} there"),
            (OSError("Timed out"), "does not respond .Timed out.: restart it"),
            ("does not see /in: mount it.", "The worker tcp://node:1 does not see /in: mount it."),
        ],
    )
    def test_are_checked_before_the_batch_starts(self, answer, sentence):
        client = SimpleNamespace(run=lambda *_, **__: {"tcp://node:0": None, "tcp://node:1": answer})
        with pytest.raises(InputError, match=sentence):
            cluster._check_workers(client, {}, {})

    def test_a_scan_that_takes_every_worker_with_it_fails(self):
        error = distributed.KilledWorker("key", SimpleNamespace(address="tcp://node:1"), 3)
        outcome = cluster._outcome(SimpleNamespace(status="error", exception=lambda: error))
        assert outcome["status"] == "failed"
        assert "perhaps for lack of memory" in outcome["message"]

    def test_each_sentence_is_passed_on_once(self):
        said = []
        tell = cluster._message_callback(said.append)
        for event in ((1.0, "a"), (2.0, "a"), (3.0, "b")):
            tell(event)
        assert said == ["a", "b"]
