"""Locks on files: held by one process and its children, and given back however they end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from XViewSynthLib.system.locks import FileLock, LockHeld

LIBRARY = str(Path(__file__).resolve().parents[2] / "XViewSynth")
HOLD = """
import subprocess, sys
from pathlib import Path
from XViewSynthLib.system.locks import FileLock
lock = FileLock(Path(sys.argv[1]))
if len(sys.argv) > 2:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=sys.stdin, pass_fds=(lock.descriptor,))
print("held", flush=True)
input()
"""


@pytest.fixture
def hold():
    """A function that lets another process hold the lock of a file, and returns the process."""
    holders = []

    def begin(path: Path, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(path), *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": LIBRARY}, **pipes)
        holders.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield begin
    for process in holders:
        process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()


class TestFileLock:
    def test_only_one_holds_it(self, tmp_path, hold):
        hold(tmp_path / "lock")
        for shared in (False, True):
            with pytest.raises(LockHeld):
                FileLock(tmp_path / "lock", shared=shared)

    def test_a_killed_process_gives_it_back(self, tmp_path, hold):
        process = hold(tmp_path / "lock")
        process.kill()
        process.wait()
        FileLock(tmp_path / "lock", seconds=60).release()

    @pytest.mark.skipif(sys.platform == "win32", reason="children hold no locks there")
    def test_a_child_holds_it_until_it_ends(self, tmp_path, hold):
        process = hold(tmp_path / "lock", "with a child")
        process.kill()
        process.wait()
        with pytest.raises(LockHeld):
            FileLock(tmp_path / "lock")
        process.stdin.close()  # which ends the child
        FileLock(tmp_path / "lock", seconds=60).release()

    def test_release_keeps_the_file_and_remove_does_not(self, tmp_path):
        FileLock(tmp_path / "lock").release()
        assert os.listdir(tmp_path) == ["lock"]
        FileLock(tmp_path / "lock").remove()
        assert os.listdir(tmp_path) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed there")
    def test_the_lock_of_a_removed_file_blocks_no_process(self, tmp_path):
        removed = FileLock(tmp_path / "lock")
        (tmp_path / "lock").unlink()
        with pytest.raises(FileNotFoundError):
            FileLock(tmp_path / "lock", create=False)
        FileLock(tmp_path / "lock").remove()
        removed.release()

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no shared locks")
    def test_several_may_look_at_once(self, tmp_path):
        first = FileLock(tmp_path / "lock", shared=True)
        FileLock(tmp_path / "lock", shared=True).release()
        with pytest.raises(LockHeld):
            FileLock(tmp_path / "lock")
        first.release()

    def test_looking_makes_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            FileLock(tmp_path / "lock", create=False, shared=True)
        assert os.listdir(tmp_path) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
    def test_no_link_is_followed(self, tmp_path):
        (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="symbolic links"):
            FileLock(tmp_path / "lock")
        assert not (tmp_path / "elsewhere").exists()
