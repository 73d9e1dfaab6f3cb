"""Background jobs: real workers, which finish, fail, are cancelled and killed, and leave nothing behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from scans import affine_from, anatomy, shearing
from tiny import UNCERTAINTY, make_card, make_network, make_spline_network
from XViewSynthLib import Volume, __version__, enhance, selfcheck
from XViewSynthLib.io.writing import WRITABLE
from XViewSynthLib.model.catalogue import save_model
from XViewSynthLib.request import Request
from XViewSynthScene import processes
from XViewSynthScene.jobs import (
    EnhanceJob,
    JobState,
    SelfCheckJob,
    SpeedJob,
    temporary_folder,
)
from XViewSynthScene.processes import start_worker, worker_environment

pytestmark = pytest.mark.slow

LIMIT_SECONDS = 2.0
POLL_LIMIT_SECONDS = 0.05
TIMEOUT_SECONDS = 120
LIBRARY = str(processes.ENGINE_FOLDER)
SAMPLE = str(processes.ENGINE_FOLDER.parent / "Resources" / "SampleData" / "ChestCT.nrrd")

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has neither shell scripts nor signals between processes")


# Processes that other tests have started.
strangers: set[psutil.Process] = set()


@pytest.fixture(scope="module", autouse=True)
def _know_strangers():
    strangers.update(psutil.Process().children(recursive=True))


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory) -> str:
    """A model that takes several seconds for `large`."""
    network = {"channels": 48, "axial_blocks": 8, "pixel_blocks": 8}
    folder = tmp_path_factory.mktemp("slow") / "slow"
    return str(save_model(folder, make_spline_network(**network), make_card(name="slow", network=network)).folder)


@pytest.fixture(scope="session")
def large() -> Volume:
    return Volume(anatomy((24, 96, 96)), affine_from())


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where jobs make their temporary folders."""
    place = tmp_path / "temporäre Dateien"
    place.mkdir()
    return place


@pytest.fixture
def script(tmp_path):
    """A program to run in place of Python, made of lines for the shell; pids.txt receives the processes it names."""

    def make(*lines: str) -> str:
        path = tmp_path / "python.sh"
        path.write_text("\n".join(["#!/bin/sh", f"exec 3>'{tmp_path}/pids.txt'", "echo $$ >&3", *lines, ""]))
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def pids(tmp_path):
    """The processes that a `script` has named so far."""
    return lambda: [int(line) for line in (tmp_path / "pids.txt").read_text().split()]


@pytest.fixture
def start(folder):
    """Start a job in `folder`; it is closed, and ended, after the test."""
    started = []

    def begin(kind, *arguments, **settings):
        job = kind(*arguments, folder=folder, **settings)
        started.append(job)
        job.start()
        return job

    yield begin
    for job in started:
        job.close()
        wait_for_end(job)


def wait_for(job, reached, seconds: float = TIMEOUT_SECONDS) -> JobState:
    """Poll as a panel does until a state is reached; no look may take long."""
    until = time.monotonic() + seconds
    while True:
        began = time.perf_counter()
        state = job.poll()
        assert time.perf_counter() - began < POLL_LIMIT_SECONDS
        if reached(state):
            return state
        assert not state.ended, (state, job.log)
        assert time.monotonic() < until, state
        time.sleep(0.02)


def wait_for_end(job, seconds: float = TIMEOUT_SECONDS) -> JobState:
    return wait_for(job, lambda state: state.ended, seconds)


def wait_for_stage(job, stage: str) -> None:
    wait_for(job, lambda state: state.stage == stage)


def children() -> list[int]:
    """Processes that these tests have started, directly or not, and that run."""
    found = []
    for child in set(psutil.Process().children(recursive=True)) - strangers:
        with suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.append(child.pid)
    return found


def runs(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def only_worker() -> int:
    (worker,) = children()
    return worker


def assert_cancelled(job, folder: Path) -> None:
    """Cancel, and see nothing left in time."""
    began = time.monotonic()
    job.cancel()
    state = wait_for_end(job)
    assert time.monotonic() - began < LIMIT_SECONDS
    assert (state.status, state.message) == ("cancelled", None)
    assert os.listdir(folder) == []
    assert children() == []
    with pytest.raises(RuntimeError, match="cancelled"):
        _ = job.result


def failure(job, folder: Path) -> str:
    """The sentence with which a job fails, having left nothing."""
    state = wait_for_end(job)
    assert state.status == "failed"
    assert state.message.endswith(".")
    assert "\n" not in state.message
    assert os.listdir(folder) == []
    assert children() == []
    return state.message


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scan, tiny_model):
    """A job that is done, all it said on the way, and its folder."""
    folder = tmp_path_factory.mktemp("jobs")
    job = EnhanceJob(scan, Request(factor=3, model=str(tiny_model)), folder)
    states = [job.poll()]
    job.start()
    wait_for(job, lambda state: states.append(state) or state.ended)
    return SimpleNamespace(job=job, states=states, folder=folder)


@pytest.fixture(scope="module")
def expected(scan, tiny_model):
    return enhance(scan, 3, model=str(tiny_model))


class TestEnhancement:
    def test_gives_the_very_voxels_of_the_engine(self, finished, expected):
        result = finished.job.result
        for given, wanted in ((result.enhanced, expected.volume), (result.uncertainty, expected.disagreement)):
            assert given.voxels.dtype == wanted.voxels.dtype
            np.testing.assert_array_equal(given.voxels, wanted.voxels)

    def test_of_a_calibrated_model_the_uncertainty_is_the_error_to_expect(self, scan, folder):
        calibrated = save_model(folder / "calibrated", make_network(), make_card(doubt=UNCERTAINTY)).folder
        (folder / "job").mkdir()
        job = EnhanceJob(scan, Request(factor=3, model=str(calibrated)), folder / "job")
        job.start()
        wait_for(job, lambda state: state.ended)
        expected = enhance(scan, 3, model=str(calibrated)).expected_error
        np.testing.assert_array_equal(job.result.uncertainty.voxels, expected.voxels)
        assert job.result.report["uncertainty"] == "expected error"

    def test_no_place_is_rounded_on_the_way(self, finished, expected):
        for given in (finished.job.result.enhanced, finished.job.result.uncertainty):
            np.testing.assert_allclose(given.affine, expected.volume.affine, rtol=1e-15)
            np.testing.assert_array_equal(given.origin, expected.volume.origin)

    def test_keeps_what_is_known_about_the_slices(self, finished):
        assert finished.job.result.enhanced.slice_thickness == 4.0

    def test_the_engine_knew_the_slice_thickness(self, finished):
        assert any("4 mm thick" in note for note in finished.job.result.report["notes"])

    def test_the_report_says_what_was_used(self, finished, expected):
        report = finished.job.result.report
        assert report["program"] == f"xviewsynth {__version__}"
        assert report["model_sha256"] == expected.model.sha256
        assert report["acquisition"] == "gap"
        assert tuple(report["synthetic_slices"]) == expected.synthetic_slices

    def test_tells_where_it_stands(self, finished):
        statuses = list(dict.fromkeys(state.status for state in finished.states))
        assert statuses == [status for status in ("preparing", "running", "reading", "done") if status in statuses]
        assert {"preparing", "running", "done"} <= set(statuses)
        assert all(0 <= state.done <= state.total for state in finished.states)
        assert finished.states[-1] == JobState("done", "done", 1, 1, 0.0)

    def test_leaves_no_file_and_no_process(self, finished):
        assert os.listdir(finished.folder) == []
        assert children() == []

    def test_the_log_is_kept(self, finished):
        assert finished.job.log.startswith("Plan: 3 times the slices along K")

    def test_runs_once(self, finished):
        with pytest.raises(RuntimeError, match="make a new job"):
            finished.job.start()

    def test_cancelling_what_is_done_changes_nothing(self, finished):
        finished.job.cancel()
        assert finished.job.poll().status == "done"
        assert finished.job.result.report

    def test_another_spacing_comes_with_its_geometry(self, start, folder, tiny_model):
        scan = Volume(anatomy((9, 24, 20)), affine_from((0.8, 0.7, 4.1), origin=(1 / 3, -200 / 7, 1e-5)))
        job = start(EnhanceJob, scan, Request(spacing=1.5, model=str(tiny_model), axis="K"))
        assert wait_for_end(job).status == "done"
        wanted = enhance(scan, spacing=1.5, model=str(tiny_model)).volume
        np.testing.assert_array_equal(job.result.enhanced.voxels, wanted.voxels)
        np.testing.assert_allclose(job.result.enhanced.affine, wanted.affine, rtol=1e-15)
        np.testing.assert_array_equal(job.result.enhanced.origin, scan.origin)

    def test_closing_forgets_the_result(self, start, scan, tiny_model):
        job = start(EnhanceJob, scan, Request(factor=2, model=str(tiny_model)))
        wait_for_end(job)
        job.close()
        job.close()
        with pytest.raises(RuntimeError, match="no result"):
            _ = job.result


class TestSelfCheck:
    def test_gives_the_report_of_the_engine(self, start, folder, scan, tiny_model):
        job = start(SelfCheckJob, scan, Request(model=str(tiny_model)))
        assert wait_for_end(job).status == "done"
        expected = selfcheck(scan, model=str(tiny_model))
        assert job.result["methods"].keys() == expected["methods"].keys()
        for name, scores in expected["methods"].items():
            assert job.result["methods"][name]["psnr_db"] == pytest.approx(scores["psnr_db"], rel=1e-9)
        assert os.listdir(folder) == []


class TestSpeed:
    def test_gives_what_the_engine_prints(self, start, folder, tiny_model):
        job = start(SpeedJob, Request(factor=4, model=str(tiny_model), device="cpu"))
        assert wait_for_end(job).status == "done"
        assert 0 < job.result["seconds_per_voxel"] < 1e-3
        assert (job.result["factor"], job.result["model"], job.result["device"]) == (4, "small", "cpu")
        assert os.listdir(folder) == []


class TestRequest:
    def test_a_model_folder_is_found_from_anywhere(self, start, folder, scan, tiny_model, monkeypatch):
        monkeypatch.chdir(tiny_model.parent)
        job = start(EnhanceJob, scan, Request(factor=2, model=tiny_model.name))
        assert wait_for_end(job).status == "done"


class TestFailure:
    def test_the_sentence_of_the_engine(self, start, folder, scan, tiny_model):
        job = start(EnhanceJob, scan, Request(factor=2, model=str(tiny_model), memory=10000000))
        assert failure(job, folder).startswith("Allow more memory")
        assert job.log.startswith("error: ")

    def test_no_file_is_named_that_the_user_has_not_seen(self, start, folder, scan, script):
        python = script('echo "error: $4 is damaged." >&2', "exit 2")
        assert failure(start(EnhanceJob, scan, Request(), python=python), folder) == "The scan is damaged."

    def test_an_unknown_model(self, start, folder, scan):
        assert "There is no model 'large'" in failure(start(EnhanceJob, scan, Request(model="large")), folder)

    def test_a_sheared_scan(self, start, folder, scan):
        sheared = replace(scan, affine=affine_from(directions=shearing(10)))
        assert "sheared by 10.0 degrees" in failure(start(EnhanceJob, sheared, Request()), folder)

    @posix
    @pytest.mark.parametrize(
        ("ending", "told"),
        [
            ("kill -SEGV $$", "stopped unexpectedly (signal 11). The log says more."),
            ("kill -KILL $$", "(signal 9, perhaps for lack of memory: close other programs"),
            ("exit 1", "stopped unexpectedly (exit code 1). The log says more."),
            ("exit 2", "stopped unexpectedly (exit code 2). The log says more."),
        ],
    )
    def test_a_crash(self, start, folder, scan, script, ending, told):
        job = start(EnhanceJob, scan, Request(), python=script("echo 'my last words' >&2", ending))
        assert told in failure(job, folder)
        assert job.log == "my last words"

    @posix
    def test_what_a_crash_leaves_running_is_ended(self, start, folder, scan, script, pids):
        job = start(EnhanceJob, scan, Request(), python=script("sleep 60 &", "echo $! >&3", "exit 1"))
        failure(job, folder)
        assert [runs(pid) for pid in pids()] == [False, False]

    @posix
    def test_a_worker_that_is_killed(self, start, folder, large, slow_model):
        job = start(EnhanceJob, large, Request(factor=8, model=slow_model))
        wait_for_stage(job, "axial view")
        os.kill(only_worker(), signal.SIGKILL)
        assert "stopped unexpectedly (signal 9, perhaps for lack of memory" in failure(job, folder)
        assert job.log.startswith("Plan: ")

    @posix
    def test_a_worker_that_another_program_stops(self, start, folder, large, slow_model):
        job = start(EnhanceJob, large, Request(factor=8, model=slow_model))
        wait_for_stage(job, "axial view")
        os.kill(only_worker(), signal.SIGTERM)
        state = wait_for_end(job)
        assert (state.status, state.message) == ("cancelled", "The enhancement was stopped by another program.")
        assert os.listdir(folder) == []

    def test_a_missing_interpreter(self, start, folder, scan, tmp_path):
        job = start(EnhanceJob, scan, Request(), python=str(tmp_path / "none"))
        assert "could not be started (No such file or directory)" in failure(job, folder)

    def test_a_missing_temporary_folder(self, scan, tmp_path):
        job = EnhanceJob(scan, Request(), tmp_path / "none")
        job.start()
        assert "choose another temporary folder in Slicer's settings" in wait_for_end(job).message

    def test_too_little_memory_here(self, start, folder, scan, monkeypatch):
        monkeypatch.setattr(EnhanceJob, "_prepare", lambda *_: bytearray(2**62))
        assert "not enough memory" in failure(start(EnhanceJob, scan, Request()), folder)

    def test_an_internal_error(self, start, folder, scan, monkeypatch):
        monkeypatch.setattr(EnhanceJob, "_prepare", lambda *_: {}["missing"])
        job = start(EnhanceJob, scan, Request())
        assert "please report it with the log" in failure(job, folder)
        assert "KeyError: 'missing'" in job.log

    def test_a_damaged_result(self, start, folder, scan, script):
        python = script('echo "{}" > "$5"', 'echo "{" > "$9"')
        assert "please report it" in failure(start(EnhanceJob, scan, Request(), python=python), folder)


@posix
class TestFullDisk:
    def test_while_the_scan_is_written(self, start, folder, scan, monkeypatch):
        def no_space(_volume, path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setitem(WRITABLE, ".mhd", no_space)
        assert "the disk may be full: free some space" in failure(start(EnhanceJob, scan, Request()), folder)

    def test_while_the_result_is_written(self, start, folder, scan, tiny_model, script):
        # The shell counts in blocks of 512 bytes: room for the scan, not for three times as many slices.
        python = script("ulimit -f 100", f'exec "{sys.executable}" "$@"')
        job = start(EnhanceJob, scan, Request(factor=3, model=str(tiny_model)), python=python)
        assert "the disk may be full: free some space" in failure(job, folder)


class TestCancel:
    def test_before_it_has_started(self, folder, scan):
        job = EnhanceJob(scan, Request(), folder)
        assert_cancelled(job, folder)
        with pytest.raises(RuntimeError, match="make a new job"):
            job.start()

    def test_right_after_the_start(self, start, folder, scan, tiny_model):
        assert_cancelled(start(EnhanceJob, scan, Request(model=str(tiny_model))), folder)

    def test_while_the_scan_is_written(self, start, folder, scan, monkeypatch):
        writing, go_on, given_up = threading.Event(), threading.Event(), threading.Event()

        def write_slowly(_volume, path):
            writing.set()
            go_on.wait(TIMEOUT_SECONDS)
            try:
                path.write_bytes(b"late")
            finally:
                given_up.set()

        monkeypatch.setitem(WRITABLE, ".mhd", write_slowly)
        job = start(EnhanceJob, scan, Request())
        writing.wait(TIMEOUT_SECONDS)
        assert_cancelled(job, folder)
        go_on.set()
        given_up.wait(TIMEOUT_SECONDS)
        assert os.listdir(folder) == []

    def test_while_the_worker_starts(self, start, folder, scan, tiny_model):
        job = start(EnhanceJob, scan, Request(model=str(tiny_model)))
        wait_for_stage(job, "starting")
        assert_cancelled(job, folder)

    def test_while_a_view_is_computed(self, start, folder, large, slow_model):
        job = start(EnhanceJob, large, Request(factor=8, model=slow_model))
        wait_for_stage(job, "axial view")
        assert_cancelled(job, folder)

    def test_while_the_result_is_read(self, start, folder, scan, script, monkeypatch):
        reading, go_on = threading.Event(), threading.Event()

        def read_slowly(*_):
            reading.set()
            go_on.wait(TIMEOUT_SECONDS)

        monkeypatch.setattr(EnhanceJob, "_read", read_slowly)
        job = start(EnhanceJob, scan, Request(), python=script("exit 0"))
        reading.wait(TIMEOUT_SECONDS)
        assert job.poll().status == "reading"
        assert_cancelled(job, folder)
        go_on.set()

    @posix
    def test_a_worker_that_does_not_listen_and_its_children(self, start, folder, scan, script, pids):
        python = script(
            "trap '' TERM", "sleep 60 &", "echo $! >&3", 'echo \'{"stage": "s", "done": 0, "total": 1}\'', "wait"
        )
        job = start(EnhanceJob, scan, Request(), python=python)
        wait_for_stage(job, "s")
        assert_cancelled(job, folder)
        assert [runs(pid) for pid in pids()] == [False, False]

    @posix
    def test_a_launcher_that_goes_before_what_it_launched(self, start, folder, scan, script, pids):
        # The child tidies up for a moment, as the engine does.
        child = "trap 'sleep 0.5; exit 3' TERM; while true; do sleep 0.05; done"
        python = script(f'sh -c "{child}" &', "echo $! >&3", 'echo \'{"stage": "s", "done": 0, "total": 1}\'', "wait")
        job = start(EnhanceJob, scan, Request(), python=python)
        wait_for_stage(job, "s")
        assert_cancelled(job, folder)
        assert [runs(pid) for pid in pids()] == [False, False]

    def test_closing_cancels(self, start, folder, large, slow_model):
        job = start(EnhanceJob, large, Request(factor=8, model=slow_model))
        wait_for_stage(job, "starting")
        job.close()
        assert wait_for_end(job, LIMIT_SECONDS).status == "cancelled"
        assert os.listdir(folder) == []

    def test_ends_without_polling(self, start, folder, scan, tiny_model):
        job = start(EnhanceJob, scan, Request(model=str(tiny_model)))
        wait_for_stage(job, "starting")
        job.cancel()
        time.sleep(LIMIT_SECONDS)
        assert os.listdir(folder) == []
        assert children() == []


class TestEndOfSlicer:
    """A job that runs while its program ends, in whatever way."""

    PROGRAM = """
import sys, time
from pathlib import Path
from XViewSynthLib import read_volume
from XViewSynthLib.io.writing import WRITABLE
from XViewSynthLib.request import Request
from XViewSynthScene.jobs import EnhanceJob
scan, model, folder = sys.argv[1:]
job = EnhanceJob(read_volume(scan), Request(factor=8, model=model), folder)
job.start()
while job.poll().stage != "axial view":
    time.sleep(0.02)
print("ready", flush=True)
sys.stdin.readline()
"""

    @pytest.fixture
    def program(self, large, slow_model, folder, tmp_path):
        from XViewSynthLib import write_volume

        write_volume(large, tmp_path / "scan.nrrd")
        arguments = [str(tmp_path / "scan.nrrd"), slow_model, str(folder)]
        with subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, *arguments],
            env={**os.environ, "PYTHONPATH": LIBRARY},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout.readline() == "ready\n"
            yield process
            process.kill()

    def wait_until_ended(self, pid: int) -> None:
        until = time.monotonic() + LIMIT_SECONDS
        while runs(pid):
            assert time.monotonic() < until
            time.sleep(0.02)

    def test_the_worker_of_a_program_that_ends_leaves_nothing(self, program, folder):
        (worker,) = psutil.Process(program.pid).children()
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.wait(timeout=TIMEOUT_SECONDS) == 0
        self.wait_until_ended(worker.pid)
        assert os.listdir(folder) == []

    @pytest.mark.parametrize(
        "has_begun", ['list(Path(folder).glob("*/*"))', 'job.poll().stage == "reading the result"']
    )
    def test_a_program_that_ends_in_the_middle_of_a_file_leaves_nothing(self, has_begun, folder, tmp_path):
        """ITK at work in a thread that is gone would abort the whole program."""
        model = save_model(tmp_path / "small", make_network(), make_card()).folder
        program = f"""
import sys, time
from pathlib import Path
from XViewSynthLib import read_volume
from XViewSynthLib.io.writing import WRITABLE
from XViewSynthLib.request import Request
from XViewSynthScene.jobs import EnhanceJob
scan, model, folder = sys.argv[1:]
job = EnhanceJob(read_volume(scan), Request(factor=2, model=model), folder)
job.start()
while not ({has_begun}):
    time.sleep(0.001)
"""
        ended = subprocess.run(
            [sys.executable, "-c", program, SAMPLE, str(model), str(folder)],
            env={**os.environ, "PYTHONPATH": LIBRARY},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        assert ended.returncode == 0, ended.stderr[:500]
        assert os.listdir(folder) == []

    def test_the_worker_of_a_program_that_is_killed_ends(self, program):
        (worker,) = psutil.Process(program.pid).children()
        program.kill()
        self.wait_until_ended(worker.pid)


class TestSurroundings:
    """What a worker is given of the program around it."""

    def test_the_engine_of_this_checkout_is_found(self):
        assert worker_environment()["PYTHONPATH"] == LIBRARY
        assert Path(LIBRARY, "XViewSynthLib", "__main__.py").is_file()

    @pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONSAFEPATH"])
    def test_libraries_of_slicer_are_not(self, monkeypatch, name):
        monkeypatch.setenv(name, "/somewhere")
        assert name not in worker_environment()

    def test_what_else_the_user_has_set_is_kept(self, monkeypatch):
        monkeypatch.setenv("XVIEWSYNTH_MODELS", "/my/models")
        assert worker_environment()["XVIEWSYNTH_MODELS"] == "/my/models"

    def test_in_slicer_it_is_what_was_before_slicer_started(self, monkeypatch):
        before = {"HOME": "/home/me", "LD_LIBRARY_PATH": "/opt/cudnn"}
        slicer = SimpleNamespace(
            app=SimpleNamespace(startupEnvironment=None, temporaryPath="/slicer/temp"),
            util=SimpleNamespace(startupEnvironment=lambda: before),
        )
        monkeypatch.setitem(sys.modules, "slicer", slicer)
        assert worker_environment() == {"HOME": "/home/me", "PYTHONPATH": LIBRARY, "PYTHONUTF8": "1"}
        assert temporary_folder() == "/slicer/temp"

    def test_without_slicer_temporary_files_go_where_they_always_go(self, monkeypatch):
        import tempfile

        monkeypatch.setitem(sys.modules, "slicer", None)
        assert temporary_folder() == tempfile.gettempdir()

    def test_slicers_own_python_is_preferred(self, monkeypatch):
        monkeypatch.setattr(processes.shutil, "which", lambda name: f"/slicer/bin/{name}")
        assert processes.default_python() == "/slicer/bin/PythonSlicer"
        monkeypatch.setattr(processes.shutil, "which", lambda name: None)
        assert processes.default_python() == sys.executable

    def test_neither_torch_nor_simpleitk_is_imported_with_it(self):
        code = "import sys, XViewSynthScene.jobs; print({'torch', 'SimpleITK', 'slicer', 'vtk'} & set(sys.modules))"
        environment = {**os.environ, "PYTHONPATH": LIBRARY}
        assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) == "set()\n"


@posix
class TestWorker:
    def finish(self, worker) -> list[dict]:
        messages, until = [], time.monotonic() + TIMEOUT_SECONDS
        while not worker.finished:
            assert time.monotonic() < until
            messages += worker.poll()
            time.sleep(0.02)
        return messages + worker.poll()

    def test_reads_only_json_objects(self, tmp_path, script):
        python = script("echo noise", "echo '[1]'", "echo 2", "echo '{\"a\": 1}'", "printf '{\"b\": 2}'")
        worker = start_worker([], tmp_path / "log.txt", python)
        assert self.finish(worker) == [{"a": 1}, {"b": 2}]
        assert worker.exit_code == 0

    def test_has_a_group_of_its_own(self, tmp_path, script):
        worker = start_worker([], tmp_path / "log.txt", script("read line"))
        assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)
        worker.kill()
        self.finish(worker)
        assert worker.exit_code == -signal.SIGKILL

    def test_asking_twice_is_asking_once(self, tmp_path, script):
        worker = start_worker([], tmp_path / "log.txt", script("trap '' TERM", "while true; do sleep 0.05; done"))
        worker.request_stop()
        began = time.monotonic()
        time.sleep(1)
        worker.request_stop()
        self.finish(worker)
        assert time.monotonic() - began < LIMIT_SECONDS

    def test_keeps_the_end_of_a_long_log(self, tmp_path, script):
        worker = start_worker([], tmp_path / "log.txt", script("seq 100000 >&2"))
        self.finish(worker)
        assert worker.log_tail().splitlines() == [str(n) for n in range(99971, 100001)]
        (tmp_path / "log.txt").unlink()
        assert worker.log_tail() == ""
