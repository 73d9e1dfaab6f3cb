"""The process of one scan: however it ends, and whatever it writes, the batch gets a result or one sentence."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from XViewSynthLib.batch import process
from XViewSynthLib.batch.process import _Watch, run_worker
from XViewSynthLib.errors import Cancelled

GRID = {"shape_ijk": [9, 8, 7], "spacing_mm": [0.8, 0.8, 4.0]}
REPORT = {"axis": "K", "factor": 2, "input": GRID, "output": GRID, "notes": []}
ENHANCED = {"status": "enhanced", "report": REPORT, "selfcheck": None}
# What the process does first; its task lies in `folder`.
START = """
import json, os, resource, signal, sys, time
from pathlib import Path
if "XViewSynthLib.cli.worker" in sys.orig_argv:
    folder = Path(next(word for word in sys.orig_argv if word.endswith("task.json"))).parent
    result = folder / "result.json"
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals between processes"),
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that lets the process do something, and gives what the batch hears of it."""
    site, folder = tmp_path / "site", tmp_path / "task"
    site.mkdir()
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(site))

    def run(code: str, stop_if_requested=lambda: None) -> dict:
        (site / "sitecustomize.py").write_text(START + "".join(f"    {line}\n" for line in code.splitlines()))
        return run_worker(folder, None, stop_if_requested, None)

    return run


def message(result: dict) -> str:
    """The sentence of a scan that failed."""
    assert set(result) == {"status", "message"}
    assert result["status"] == "failed"
    assert result["message"].isprintable() or "\ufffd" in result["message"]
    return result["message"]


class TestDeath:
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("SIGKILL", "perhaps for lack of memory: use fewer --jobs or less --memory"),
            ("SIGSEGV", "a crash in a library: check with another program whether the scan is damaged"),
            ("SIGABRT", "a crash in a library"),
            ("SIGBUS", "a crash in a library"),
            ("SIGTERM", "from outside: add --resume"),
            ("SIGXCPU", "a limit of this computer"),
        ],
    )
    def test_by_a_signal_names_the_likely_reason(self, run, name, reason):
        # No core file is to be written here.
        code = f"resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\nos.kill(os.getpid(), signal.{name})\ntime.sleep(60)"
        assert f"Its process was ended by {name}, {reason}" in message(run(code))

    @pytest.mark.parametrize(
        ("code", "expected"), [(137, "ended by SIGKILL, perhaps"), (7, "ended with 7 and gave no")]
    )
    def test_by_an_exit_code(self, run, code, expected):
        assert expected in message(run(f"os._exit({code})"))

    @pytest.mark.parametrize(("code", "reason"), [(0xC0000005, "0xc0000005, a crash"), (0xC0000017, "lack of memory")])
    def test_exit_codes_of_windows(self, code, reason):
        assert reason in process._last_words(code, "")

    def test_passes_on_the_last_error(self, run):
        said = run("os.write(2, b'error: first\\nerror: There is not enough memory: close others.\\n')\nos._exit(2)")
        assert message(said) == "There is not enough memory: close others."

    def test_passes_on_the_last_line_where_there_is_no_error(self, run):
        assert "(said: ImportError: no numpy)" in message(run("os.write(2, b'ImportError: no numpy\\n')\nos._exit(1)"))

    def test_of_a_process_that_cannot_be_started(self, run, monkeypatch):
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        assert "cannot be started (No such file or directory)" in message(run(""))

    def test_on_request(self, run):
        began = time.monotonic()

        def stop() -> None:
            if time.monotonic() > began + 0.5:
                raise Cancelled

        with pytest.raises(Cancelled):
            run("time.sleep(600)", stop)


class TestNonsense:
    def test_on_both_streams_takes_no_memory_and_no_disk(self, run, tmp_path):
        flood = "for stream in [1, 2] * 200:\n    os.write(stream, os.urandom(100_000))"
        assert "gave no result" in message(run(f"{flood}\nos._exit(1)"))
        assert list((tmp_path / "task").iterdir()) == []

    @pytest.mark.parametrize(
        "result",
        [
            "",
            "{",
            "[]",
            "null",
            "{}",
            '{"status": "enhanced"}',
            '{"status": "enhanced", "report": {}, "selfcheck": null}',
            '{"status": "enhanced", "report": NaN, "selfcheck": null}',
            '{"status": "perhaps", "message": "x"}',
            '{"status": "failed"}',
            '{"status": "failed", "message": 5}',
            "[" * 50_000,
        ],
    )
    def test_as_result(self, run, result):
        assert "gave no result" in message(run(f"result.write_text({result!r})\nos._exit(0)"))

    @pytest.mark.parametrize("code", ["os.mkfifo(result)", "result.mkdir()", "result.symlink_to('/dev/zero')"])
    def test_in_place_of_a_result(self, run, code):
        assert "gave no result" in message(run(f"{code}\nos._exit(0)"))

    def test_a_whole_result_is_passed_on(self, run):
        code = f"result.write_text({json.dumps(ENHANCED)!r})\nos.write(2, b'\\xff noise\\n')\nos._exit(0)"
        assert run(code) == ENHANCED

    def test_a_result_of_a_process_that_fails_later_does_not_count(self, run):
        assert "ended with 1" in message(run(f"result.write_text({json.dumps(ENHANCED)!r})\nos._exit(1)"))


class TestIdleness:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch):
        monkeypatch.setattr(process, "_IDLE_SECONDS", 2.0)
        monkeypatch.setattr(process, "_LOOKING_SECONDS", 0.2)

    @pytest.mark.parametrize("code", ["time.sleep(600)", "os.kill(os.getpid(), signal.SIGSTOP)"])
    def test_is_distinguished_from_work_and_ended(self, run, code):
        assert "did nothing for 0 minutes and was ended" in message(run(code))

    def test_computing_is_none(self):
        assert not self.idle_after(lambda passed: time.process_time(), enough=0.2)

    @pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not count bytes")
    def test_reading_is_none(self, tmp_path, monkeypatch):
        monkeypatch.setattr(process, "_IDLE_CORES", 100.0)
        (tmp_path / "data").write_bytes(bytes(1 << 20))
        assert not self.idle_after(lambda passed: len((tmp_path / "data").read_bytes()) and passed, enough=0.0)

    @staticmethod
    def idle_after(work, enough: float) -> bool:
        """Whether this process counts as idle once it has worked for a share of 2 seconds or more."""
        watch = _Watch(os.getpid())
        began, before = time.monotonic(), time.process_time()
        while (passed := time.monotonic() - began) < 2 or time.process_time() - before < enough * passed:
            work(passed)
        return watch.is_idle()


def test_a_process_decodes_names_as_this_one(tmp_path, monkeypatch):
    environment = process._environment(None)
    assert environment["PYTHONUTF8"] == ("1" if sys.getfilesystemencoding() == "utf-8" else "0")
    assert Path(environment["PYTHONPATH"].split(":")[0]).name == "XViewSynth"
