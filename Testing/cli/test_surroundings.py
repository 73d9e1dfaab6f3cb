"""The program where users have no home or name, streams are closed or full, and outputs are no files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from scans import affine_from, anatomy
from tiny import make_card, make_network
from XViewSynthLib import Volume, write_volume
from XViewSynthLib.cli import main as cli
from XViewSynthLib.model.catalogue import save_model

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="about POSIX systems")]

LIBRARY = str(Path(cli.__file__).parents[2])
# No number of a user in any system's list.
UNKNOWN_USER = 1_234_567_891
# All that the work needs is imported first: an unknown user may not be allowed to read where Python lies.
AS_UNKNOWN_USER = f"""
import importlib, os, pkgutil, sys
import XViewSynthLib
from XViewSynthLib.cli.main import main
for module in pkgutil.walk_packages(XViewSynthLib.__path__, "XViewSynthLib."):
    if module.name.split(".")[-1] not in ("__main__", "cluster"):
        importlib.import_module(module.name)
os.setgroups([])
os.setgid({UNKNOWN_USER})
os.setuid({UNKNOWN_USER})
sys.exit(main(sys.argv[1:]))
"""
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs the rights of root")


@pytest.fixture
def place():
    """A folder that every user may use, with a scan and a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_volume(Volume(anatomy((9, 24, 24)), affine_from()), path / "scan.nrrd")
        save_model(path / "small", make_network(), make_card())
        for each in [path, *path.rglob("*")]:
            each.chmod(0o777 if each.is_dir() else 0o666)
        yield path


def run(place: Path, *arguments: str, program: tuple[str, ...] = ("-m", "XViewSynthLib"), **variables: str):
    """Run the program in an environment that holds next to nothing."""
    return subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=place,
        env={"PYTHONPATH": LIBRARY, "OMP_NUM_THREADS": "1", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def as_unknown_user(place: Path, *arguments: str, **variables: str):
    return run(place, *arguments, program=("-c", AS_UNKNOWN_USER), **variables)


ENHANCE = ("enhance", "scan.nrrd", "out.nrrd", "--model", "small", "--factor", "2", "--progress", "none")


class TestNoHome:
    @pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "/nowhere/at all"}, {"HOME": "relative"}])
    def test_models_are_listed(self, place, home):
        done = run(place, "models", "list", **home)
        assert (done.returncode, done.stderr) == (0, "")
        assert "standard  shipped" in done.stdout

    def test_scans_are_enhanced(self, place):
        done = run(place, *ENHANCE)
        assert (done.returncode, done.stderr) == (0, "")
        assert (place / "out.nrrd").exists()


@as_root
class TestUnknownUser:
    def test_models_are_listed(self, place):
        done = as_unknown_user(place, "models", "list")
        assert (done.returncode, done.stderr) == (0, "")
        assert "standard  shipped" in done.stdout

    def test_scans_are_enhanced(self, place):
        done = as_unknown_user(place, *ENHANCE)
        assert (done.returncode, done.stderr) == (0, "")
        assert (place / "out.nrrd").exists()

    def test_import_names_the_variable_to_set(self, place):
        done = as_unknown_user(place, "models", "import", "small")
        assert done.returncode == 2
        assert done.stderr.startswith("error: There is no folder for your models")
        assert done.stderr.endswith("set XVIEWSYNTH_MODELS to one.\n")
        done = as_unknown_user(place, "models", "import", "small", XVIEWSYNTH_MODELS=str(place / "mine"))
        assert (done.returncode, done.stderr) == (0, "")
        assert (place / "mine" / "small" / "card.json").exists()

    def test_a_folder_that_may_not_be_read_is_reported_and_hides_nothing_else(self, place):
        (place / "mine").mkdir(mode=0o700)
        done = as_unknown_user(place, "models", "list", XVIEWSYNTH_MODELS=str(place / "mine"))
        assert done.returncode == 0
        assert "standard  shipped" in done.stdout
        assert done.stderr.splitlines() == [
            f"The folder of your models, {place / 'mine'}, cannot be read (Permission denied): allow that, or set "
            "XVIEWSYNTH_MODELS to another folder."
        ]
        done = as_unknown_user(place, "models", "import", "small", XVIEWSYNTH_MODELS=str(place / "mine"))
        assert done.returncode == 2
        assert "Permission denied" in done.stderr
        assert len(done.stderr.splitlines()) == 1

    def test_an_output_folder_that_may_not_be_written_to_is_reported(self, place):
        place.chmod(0o755)
        done = as_unknown_user(place, *ENHANCE)
        assert done.returncode == 2
        assert done.stderr.startswith("error: Cannot write out.nrrd: Permission denied.")


class TestStreams:
    def shell(self, place: Path, line: str) -> subprocess.CompletedProcess:
        """A line for a shell, in which $X is the program."""
        program = f'"{sys.executable}" -m XViewSynthLib'
        return subprocess.run(
            ["sh", "-c", line.replace("$X", program)],
            cwd=place,
            env={**os.environ, "PYTHONPATH": LIBRARY},
            capture_output=True,
            text=True,
        )

    @pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "<&-", ">&-", "2>&-", "<&- >&-"])
    def test_any_may_be_closed(self, place, closed):
        done = self.shell(place, f"$X {' '.join(ENHANCE)} {closed}")
        assert done.returncode == 0
        assert "Traceback" not in done.stderr
        assert (place / "out.nrrd").read_bytes().startswith(b"NRRD")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    @pytest.mark.parametrize("command", ["--help", "--version", "models list", "models import --help"])
    def test_a_full_one_is_one_line(self, place, command):
        done = self.shell(place, f"$X {command} > /dev/full")
        assert done.returncode == 2
        assert (
            done.stderr == "error: Cannot print (No space left on device): send the output of this command elsewhere.\n"
        )


class TestOutputsThatAreNoFiles:
    @pytest.mark.parametrize("options", [(), ("--overwrite",)])
    def test_a_pipe_stays(self, place, options):
        os.mkfifo(place / "out.nrrd")
        done = run(place, *ENHANCE, *options)
        assert done.returncode == 2
        assert done.stderr.startswith("error: out.nrrd is a pipe, a socket or a device and no file")
        assert (place / "out.nrrd").is_fifo()

    def test_a_link_to_a_device_is_not_followed(self, place):
        (place / "out.nrrd").symlink_to("/dev/null")
        assert run(place, *ENHANCE).returncode == 2
        assert run(place, *ENHANCE, "--overwrite").returncode == 0
        assert (place / "out.nrrd").is_file()
        assert not (place / "out.nrrd").is_symlink()
