"""Stop signals: noticed at any moment, and nothing is left behind.

How quickly is measured by `benchmarks/cancel_moments.py`: here no limit may depend on how busy the machine is.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scans import affine_from, anatomy
from tiny import make_card, make_spline_network
from XViewSynthLib import Volume, write_volume
from XViewSynthLib.errors import Cancelled
from XViewSynthLib.model.catalogue import save_model
from XViewSynthLib.system.stop import StopRequest, stop_signals
from XViewSynthLib.workers import job
from XViewSynthLib.workers.job import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals between processes"),
]


@pytest.fixture(autouse=True)
def heard_hang_up():
    """Whoever starts the tests with nohup hands the deafness on, to this process and to what it starts."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


LIBRARY = str(Path(job.__file__).parents[2])
# What a test lets a process wait for lasts longer than this.
TIMEOUT_SECONDS = 300
OUTPUTS = ["out.nrrd", "report.json", "uncertainty.nii.gz"]

# The program, into which a test can put a delay.
DELAYED = """
import sys, time
from XViewSynthLib import __main__
{delay}
sys.exit(__main__.main())
"""

# What a test puts there. Our own code arrives late; torch never gets imported; a file is never read, or never finished;
# a pipe fills up, since nobody reads it.
SLOW_START = """
class SlowCli:
    def find_spec(self, name, path=None, target=None):
        if name == "XViewSynthLib.cli.main":
            print("starting", flush=True)
            time.sleep(0.5)
sys.meta_path.insert(0, SlowCli())
"""
SLOW_IMPORT = """
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("importing", flush=True)
            time.sleep(3600)
sys.meta_path.insert(0, Slow())
"""
SLOW_READING = """
from XViewSynthLib.io import reading
def read_without_end(path, *_, **__):
    time.sleep(3600)
reading.read_volume = read_without_end
"""
SLOW_WRITING = """
from XViewSynthLib.io import writing
def write_half(volume, path):
    path.write_text("half")
    print("at half", flush=True)
    time.sleep(3600)
writing.WRITABLE.update(dict.fromkeys(writing.WRITABLE, write_half))
"""
# Says that the program listens.
LISTENING = SLOW_START.replace("time.sleep(0.5)", "pass")
# Python takes itself apart at its end, long after it has given signals their default meaning back.
SLOW_END = """
from XViewSynthLib.cli import enhance as cli
import atexit
class SaysSo:
    def __del__(self):
        print("taken apart", flush=True)
        time.sleep(3600)
keep = SaysSo()
def leave():
    print("leaving", flush=True)
    time.sleep(0.5)
enhance = cli._enhance
def enhance_and_leave(arguments, job):
    atexit.register(leave)
    enhance(arguments, job)
cli._enhance = enhance_and_leave
"""
# All is done but for the words, which a full pipe keeps from being printed.
SLOW_WORDS = """
from XViewSynthLib.cli import enhance as cli
enhance = cli._enhance
def enhance_and_print_for_ever(arguments, job):
    enhance(arguments, job)
    print("finished", flush=True)
    while True:
        job.say("x" * 1000)
        print("x" * 1000)
cli._enhance = enhance_and_print_for_ever
"""
ENDLESS_PRINTING = """
from XViewSynthLib.cli import enhance as cli
def print_for_ever(arguments, job):
    while True:
        job.say("x" * 1000)
        print("x" * 1000)
cli._enhance = print_for_ever
"""


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory) -> str:
    """A model that takes a second or more for a small scan."""
    network = {"channels": 48, "axial_blocks": 8, "pixel_blocks": 8}
    folder = tmp_path_factory.mktemp("slow") / "slow"
    return str(save_model(folder, make_spline_network(**network), make_card(name="slow", network=network)).folder)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with scan.nrrd, large enough that nothing is over at once."""
    work = tmp_path / "work"
    work.mkdir()
    write_volume(Volume(anatomy((24, 96, 96)), affine_from()), work / "scan.nrrd")
    return work


@pytest.fixture
def start(folder, slow_model):
    """Start enhancing scan.nrrd in a process of its own."""
    started = []

    def begin(
        delay: str = "",
        scan: str = "scan.nrrd",
        model: str = slow_model,
        parent: int | None = None,
        stdin: int = subprocess.PIPE,
    ) -> subprocess.Popen:
        program = ["-c", DELAYED.format(delay=delay)] if delay else ["-m", "XViewSynthLib"]
        options = f"--model {model} --factor 8 --progress json --disagreement uncertainty.nii.gz --report report.json"
        if parent is not None:
            options += f" --stop-with-parent {parent}"
        process = subprocess.Popen(
            [sys.executable, *program, "enhance", scan, "out.nrrd", *options.split()],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": LIBRARY, "OMP_NUM_THREADS": "1"},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        with process:
            process.kill()


def wait_for(process: subprocess.Popen, text: str) -> None:
    """Read standard output until a line that holds the text."""
    while text not in (line := process.stdout.readline()):
        assert line, f"ended without {text!r}: {process.stderr.read()}"


def stop(process: subprocess.Popen, number: signal.Signals = signal.SIGTERM) -> str:
    """Send a signal; what the process said on standard error before it ended."""
    process.send_signal(number)
    process.wait(timeout=TIMEOUT_SECONDS)
    return process.stderr.read()


def outputs_in(folder: Path) -> list[str]:
    return sorted(set(os.listdir(folder)) - {"scan.nrrd"})


def assert_cancelled(process: subprocess.Popen, folder: Path, number: signal.Signals = signal.SIGTERM) -> None:
    before = {"scan.nrrd"}
    said = stop(process, number)
    assert process.returncode == 3
    assert said.splitlines()[-1].startswith("Cancelled.")
    assert "Traceback" not in said
    assert set(os.listdir(folder)) <= before


class TestMoments:
    def test_while_the_program_itself_is_imported(self, start, folder):
        process = start(delay=SLOW_START)
        wait_for(process, "starting")
        assert_cancelled(process, folder)

    def test_while_torch_is_imported(self, start, folder):
        process = start(delay=SLOW_IMPORT)
        wait_for(process, "importing")
        assert_cancelled(process, folder)

    def test_while_the_scan_is_read(self, start, folder):
        process = start(delay=SLOW_READING)
        wait_for(process, "reading")
        time.sleep(0.2)
        assert_cancelled(process, folder)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_while_a_view_is_computed(self, start, folder, number):
        process = start()
        wait_for(process, "axial view")
        assert_cancelled(process, folder, number)

    def test_while_a_volume_is_written(self, start, folder, tiny_model):
        process = start(delay=SLOW_WRITING, model=str(tiny_model))
        wait_for(process, "at half")
        assert_cancelled(process, folder)

    @pytest.mark.parametrize("seconds", [0.0, 1.5, 3.0])
    def test_whenever_it_comes_all_outputs_are_there_or_none(self, start, folder, tiny_model, seconds):
        process = start(delay=LISTENING, model=str(tiny_model))
        wait_for(process, "starting")
        time.sleep(seconds)
        stop(process)
        assert (process.returncode, outputs_in(folder)) in [(3, []), (0, OUTPUTS)]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_while_it_leaves_nothing_changes(self, start, folder, tiny_model, number):
        process = start(delay=SLOW_END, model=str(tiny_model))
        wait_for(process, "leaving")
        assert "Traceback" not in stop(process, number)
        assert "taken apart" not in process.stdout.read()
        assert (process.returncode, outputs_in(folder)) == (0, OUTPUTS)

    def test_once_all_is_done_it_is_too_late(self, start, folder, tiny_model):
        process = start(delay=SLOW_WORDS, model=str(tiny_model))
        wait_for(process, "finished")
        stop(process)
        assert (process.returncode, outputs_in(folder)) == (0, OUTPUTS)

    def test_a_second_signal_changes_nothing(self, start, folder):
        process = start(delay=SLOW_READING)
        wait_for(process, "reading")
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert_cancelled(process, folder, signal.SIGINT)

    def test_when_its_messages_are_not_read(self, start, folder):
        process = start(delay=ENDLESS_PRINTING)
        wait_for(process, "xxx")
        time.sleep(0.2)
        stop(process)
        assert process.returncode == 3


class TestParent:
    """A program that starts a command gives it an input, and says which process it is itself."""

    @pytest.fixture
    def parent(self):
        with subprocess.Popen(["sleep", "3600"]) as process:
            yield process
            process.kill()

    @pytest.fixture
    def process(self, start, folder, parent):
        """The command, once it reads a scan that never ends."""
        process = start(delay=SLOW_READING, parent=parent.pid)
        wait_for(process, "reading")
        return process

    def assert_ends(self, process, folder):
        assert process.wait(timeout=TIMEOUT_SECONDS) == 3
        assert os.listdir(folder) == ["scan.nrrd"]

    def test_nothing_ends_while_it_is_there(self, process):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)

    def test_what_it_says_is_no_end(self, process):
        process.stdin.write("hello")
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)

    def test_ends_with_its_input(self, process, folder):
        process.stdin.close()
        self.assert_ends(process, folder)

    def test_ends_with_the_process_if_its_input_stays_open(self, process, parent, folder):
        parent.kill()
        parent.wait()
        self.assert_ends(process, folder)

    def test_one_that_was_not_collected_has_ended(self, process, parent, folder):
        parent.kill()
        self.assert_ends(process, folder)

    def test_one_that_is_gone_already(self, start, folder, parent):
        parent.kill()
        parent.wait()
        assert start(parent=parent.pid).wait(timeout=TIMEOUT_SECONDS) == 3
        assert os.listdir(folder) == ["scan.nrrd"]

    def test_an_input_that_was_never_open(self, start, folder, parent):
        assert start(parent=parent.pid, stdin=subprocess.DEVNULL).wait(timeout=TIMEOUT_SECONDS) == 3
        assert os.listdir(folder) == ["scan.nrrd"]

    def test_has_no_effect_without_the_option(self, start, folder):
        process = start(delay=SLOW_READING)
        wait_for(process, "reading")
        process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)


class TestStopSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_are_noticed(self, number):
        with stop_signals(restore=True) as request:
            assert not request.requested
            signal.raise_signal(number)
            assert request.requested

    def test_get_their_former_meaning_back(self):
        former = signal.getsignal(signal.SIGINT)
        with stop_signals(restore=True):
            assert signal.getsignal(signal.SIGINT) != former
        assert signal.getsignal(signal.SIGINT) == former

    def test_stay_caught_until_the_process_has_ended(self):
        former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            with stop_signals(restore=False) as request:
                pass
            assert signal.getsignal(signal.SIGTERM) is request
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def test_a_closed_terminal_is_ignored_where_nohup_said_so(self):
        former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with stop_signals(restore=True) as request:
                signal.raise_signal(signal.SIGHUP)
                assert not request.requested
        finally:
            signal.signal(signal.SIGHUP, former)

    def test_outside_the_main_thread_are_left_alone(self):
        former, seen = signal.getsignal(signal.SIGINT), []

        def use() -> None:
            with stop_signals(restore=True):
                seen.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert seen == [former]


class TestLastStep:
    def test_is_taken_once(self):
        request, taken = StopRequest(), []
        request.last_step(lambda: taken.append(1))
        assert taken == [1]
        assert request.done

    def test_is_not_taken_after_a_stop(self):
        request = StopRequest()
        request()
        with pytest.raises(Cancelled):
            request.last_step(pytest.fail)
        assert not request.done

    def test_one_that_fails_is_not_done(self):
        request = StopRequest()
        with pytest.raises(KeyError):
            request.last_step({}.popitem)
        assert not request.done


class TestRun:
    def test_work_that_listens_ends_by_itself(self, capsys):
        request = StopRequest()

        def work() -> None:
            request.requested = True
            raise Cancelled

        assert run(work, request) == 3
        assert capsys.readouterr().err == "Cancelled.\n"

    def test_work_that_ends_before_the_stop_request_is_done(self):
        request = StopRequest()

        def work() -> None:
            request.requested = True
            time.sleep(0.2)

        assert run(work, request) == 0

    @pytest.fixture
    def left(self, monkeypatch) -> list:
        """What happens when the process ends at once, which it does not here."""
        left = []

        class Left(BaseException):
            pass

        def leave(code: int) -> None:
            left.append(code)
            raise Left

        monkeypatch.setattr(job, "remove_staging_folders", lambda: left.append("cleaned"))
        monkeypatch.setattr(job.os, "_exit", leave)
        left.append(Left)
        return left

    def test_work_that_does_not_listen_ends_with_the_process(self, left, capsys):
        request, release, expected = StopRequest(), threading.Event(), left.pop()
        request.grace_seconds = 0.1
        request.requested = True
        with pytest.raises(expected):
            run(release.wait, request)
        release.set()
        assert left == ["cleaned", 3]
        assert capsys.readouterr().err == "Cancelled.\n"

    def test_work_that_is_done_and_does_not_end_is_done(self, left):
        request, release, expected = StopRequest(), threading.Event(), left.pop()
        request.grace_seconds = 0.1

        def work() -> None:
            request.last_step(request)
            release.wait()

        with pytest.raises(expected):
            run(work, request)
        release.set()
        assert left == [0]

    def test_a_last_step_that_has_begun_is_waited_for(self, left, capsys):
        request, release = StopRequest(), threading.Event()
        left.clear()
        request.grace_seconds = 0.01

        def step() -> None:
            request()
            release.wait()

        timer = threading.Timer(0.5, release.set)
        timer.start()
        assert run(lambda: request.last_step(step), request) == 0
        timer.join()
        assert left == []
        assert capsys.readouterr().err == ""

    def test_a_job_can_stop_itself(self):
        with pytest.raises(Cancelled):
            job.Job(print, print, lambda: True).stop_if_requested()
