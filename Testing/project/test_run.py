"""The set-up of run.py: what it does with a folder that it finds, and what it says when it cannot go on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The module run.py, at work in an empty folder."""
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    venv = tmp_path / ".venv"
    folder = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    for name, path in (
        ("VENV", venv),
        ("PYTHON", venv / folder),
        ("STAMP", venv / module.STAMP.name),
        ("LOG", venv / module.LOG.name),
        ("LOCK", tmp_path / "lock"),
    ):
        monkeypatch.setattr(module, name, path)
    module.LOCK.write_text("safetensors==0.0.1\n")
    return module


class TestSetUp:
    def test_a_folder_of_other_content_is_left_alone(self, run):
        run.VENV.mkdir()
        (run.VENV / "precious").write_text("data")
        with pytest.raises(run.SetupError, match=r"not made by run\.py; move it away"):
            run.set_up(run.LOCK)
        assert (run.VENV / "precious").read_text() == "data"

    def test_a_set_up_that_was_cut_short_is_begun_again(self, run):
        (run.VENV / "lib").mkdir(parents=True)
        (run.VENV / "lib" / "half").write_text("a package")
        run.STAMP.write_text(run.UNFINISHED)
        run.make_environment()
        assert run.PYTHON.is_file()
        assert not (run.VENV / "lib" / "half").exists()
        assert run.STAMP.read_text() == run.UNFINISHED

    def test_what_is_set_up_is_not_set_up_again(self, run, monkeypatch, capsys):
        run.PYTHON.parent.mkdir(parents=True)
        run.PYTHON.write_text("")
        monkeypatch.setattr(run, "install", lambda *_: None)
        run.STAMP.write_text(f"{run.VENV} Python {sys.version.split()[0]}\n")
        run.set_up(run.LOCK)
        assert "Setting up" in capsys.readouterr().out
        run.set_up(run.LOCK)
        assert capsys.readouterr().out == ""

    def test_a_changed_lock_is_installed(self, run, monkeypatch):
        run.PYTHON.parent.mkdir(parents=True)
        run.PYTHON.write_text("")
        installed = []
        monkeypatch.setattr(run, "install", lambda lock: installed.append(lock.read_text()))
        run.STAMP.write_text(f"{run.VENV} Python {sys.version.split()[0]}\n")
        run.set_up(run.LOCK)
        run.LOCK.write_text("safetensors==0.0.2\n")
        run.set_up(run.LOCK)
        assert installed == ["safetensors==0.0.1\n", "safetensors==0.0.2\n"]

    def test_what_the_tests_need_is_added_and_serves_the_demo_too(self, run, monkeypatch, tmp_path):
        run.PYTHON.parent.mkdir(parents=True)
        run.PYTHON.write_text("")
        more = tmp_path / "more"
        more.write_text("vtk==9.6.0\n")
        installed = []
        monkeypatch.setattr(run, "install", lambda *locks: installed.append(locks))
        run.STAMP.write_text(f"{run.VENV} Python {sys.version.split()[0]}\n")
        for locks in ((run.LOCK,), (run.LOCK, more), (run.LOCK,)):
            run.set_up(*locks)
        assert installed == [(run.LOCK,), (run.LOCK, more)]

    def test_a_failed_set_up_counts_as_unfinished(self, run, monkeypatch):
        run.PYTHON.parent.mkdir(parents=True)
        run.PYTHON.write_text("")
        run.STAMP.write_text(f"{run.VENV} Python {sys.version.split()[0]}\n")

        def fail(*_):
            raise run.SetupError("the disk is full")

        monkeypatch.setattr(run, "install", fail)
        with pytest.raises(run.SetupError):
            run.set_up(run.LOCK)
        assert run.STAMP.read_text() == run.UNFINISHED

    def test_a_folder_that_cannot_be_created_is_reported(self, run):
        run.VENV.write_text("a file")
        with pytest.raises(run.SetupError, match="cannot be written"):
            run.set_up(run.LOCK)


class TestTroubles:
    def test_an_index_that_cannot_be_reached_is_reported(self, run, monkeypatch):
        run.VENV.mkdir()
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        # Nothing listens on this port of this machine.
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(run, "PYTHON", Path(sys.executable))
        with pytest.raises(run.SetupError, match="connect this machine to the internet"):
            run.install(run.LOCK)

    @pytest.mark.parametrize(
        ("said", "sentence"),
        [
            ("OSError: [Errno 28] No space left on device", "the disk is full"),
            ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "PIP_CERT"),
            ("ERROR: No matching distribution found for torch==2.13.0", r"use Python 3\.11 to"),
            ("ERROR: something new", "could not install"),
        ],
    )
    def test_each_trouble_of_pip_has_its_sentence(self, run, said, sentence):
        assert run.explain(said).count("\n") == 0
        with pytest.raises(run.SetupError, match=sentence):
            raise run.SetupError(run.explain(said))


class TestCommand:
    @pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 0)])
    def test_other_versions_of_python_are_refused_in_one_line(self, version):
        code = f"import runpy, sys; sys.version_info = {version}; runpy.run_path({str(ROOT / 'run.py')!r})"
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert finished.returncode == 2
        assert finished.stderr == f"error: this is Python 3.{version[1]}: use Python 3.11 to 3.13\n"

    def test_an_unknown_command_is_refused(self):
        finished = subprocess.run([sys.executable, str(ROOT / "run.py"), "tset"], capture_output=True, text=True)
        assert finished.returncode == 2
        assert "invalid choice: 'tset'" in finished.stderr

    def test_the_exit_code_is_that_of_the_command(self, run):
        assert run.call(sys.executable, "-c", "raise SystemExit(3)") == 3

    def test_a_command_can_be_given_variables(self, run):
        code = "import os; raise SystemExit(os.environ['OMP_NUM_THREADS'] != '3')"
        assert run.call(sys.executable, "-c", code, variables={"OMP_NUM_THREADS": "3"}) == 0

    @pytest.mark.parametrize(
        ("asked", "locks", "done"),
        [
            (["demo"], ["LOCK"], ["demo.py"]),
            (["demo", "--view"], ["LOCK", "WEB_LOCK"], ["demo.py", "view"]),
            (
                ["test"],
                ["LOCK", "SLICER_LOCK", "WEB_LOCK", "CLUSTER_LOCK", "PACS_LOCK", "DOCS_LOCK"],
                ["check", "format", "mypy", "lint-imports", "pytest"],
            ),
            (["docs"], ["LOCK", "DOCS_LOCK"], ["mkdocs build --strict"]),
        ],
        ids=" ".join,
    )
    def test_each_command_installs_what_it_needs_and_no_more(self, run, monkeypatch, asked, locks, done):
        installed, called = [], []
        monkeypatch.setattr(run, "set_up", lambda *files: installed.extend(files))
        monkeypatch.setattr(run, "call", lambda *command, **_: called.append(" ".join(map(str, command))) or 0)
        monkeypatch.setattr(run.signal, "signal", lambda *_: None)
        monkeypatch.setattr(sys, "argv", ["run.py", *asked])
        assert run.main() == 0
        assert installed == [getattr(run, name) for name in locks]
        assert [word in command for word, command in zip(done, called, strict=True)] == [True] * len(done)

    def test_packages_from_elsewhere_stay_out(self, run, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", "elsewhere")
        assert run.call(sys.executable, "-c", "import sys; raise SystemExit('elsewhere' in str(sys.path))") == 0
