"""A training run in the background, with a script in place of the worker: what it is told, and how it ends."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

from scans import affine_from, shearing
from scene import make_provenance, make_volume_node
from scene_pairs import make_pair
from training_runs import REPORT, write_run
from XViewSynthLib import Volume, read_volume, write_volume
from XViewSynthLib.errors import InputError
from XViewSynthScene.jobs import temporary_folder
from XViewSynthScene.processes import ENGINE_FOLDER, worker_environment
from XViewSynthScene.provenance import write_provenance
from XViewSynthTrainLib.lock import run_lock
from XViewSynthTrainScene.jobs import TRAINING, TrainingRun, TrainingScan, TrainSettings, settings_from
from XViewSynthTrainScene.study import FolderSearch, loaded_candidates, scan_from

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 60
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no shell scripts")

# Comes when the script listens to signals, and not before.
TRAINS = 'echo \'{"stage": "training", "done": 1, "total": 5, "seconds_left": 8.0}\''
# Stops as the real one does: with a checkpoint and exit code 3.
WAITS = (
    'touch "$RUN/config.json"',
    "trap 'touch \"$RUN/checkpoint.safetensors\"; exit 3' TERM",
    TRAINS,
    "while true; do sleep 0.02; done",
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def python(tmp_path, folder):
    """A program to run in place of Python, made of lines for the shell; its arguments go to arguments.txt."""

    def make(*lines: str) -> str:
        path = tmp_path / "python.sh"
        report = json.dumps(REPORT)
        head = ["#!/bin/sh", f"RUN='{folder}'", f"printf '%s\\n' \"$@\" > '{tmp_path}/arguments.txt'"]
        finish = ["finish() {", 'touch "$RUN/config.json"', "cat > \"$RUN/report.json\" <<'END'", report, "END", "}"]
        path.write_text("\n".join([*head, *finish, *lines, ""]))
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def arguments(tmp_path):
    """What the worker was started with."""
    return lambda: (tmp_path / "arguments.txt").read_text().splitlines()


@pytest.fixture
def scans(scan):
    return [TrainingScan("Jane Doe", scan)]


def settings(**changes):
    return TrainSettings(**{"start": None, "steps": 5, **changes})


def begin(run):
    run.start()
    return run


def wait(run, reached=lambda state: state.ended):
    until = time.monotonic() + TIMEOUT_SECONDS
    while not reached(state := run.poll()):
        assert not state.ended, (state, run.log)
        assert time.monotonic() < until
        time.sleep(0.02)
    return state


class TestSettings:
    def test_become_options(self):
        given = settings(name="mine", factors=(2, 3), gamma=0.5, cross_view=False, seed=7, hold_out_share=0.1)
        text = " ".join(given.arguments())
        assert "--from" not in text
        for part in ("--name mine", "--steps 5", "--factor 2 --factor 3", "--gamma 0.5", "--seed 7"):
            assert part in text
        assert "--hold-out-share 0.1" in text
        assert text.endswith("--no-cross-view")

    @pytest.mark.parametrize(("acquisition", "model"), [("gap", "standard"), ("thick", "standard-thick")])
    def test_the_start_is_the_model_that_ships_for_the_acquisition(self, acquisition, model):
        options = TrainSettings(acquisition=acquisition).arguments()
        assert Path(options[options.index("--from") + 1]).name == model
        assert options[options.index("--acquisition") + 1] == acquisition

    def test_the_start_is_a_full_path(self, tiny_model):
        options = settings(start=str(tiny_model)).arguments()
        assert options[options.index("--from") + 1] == str(tiny_model)

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"acquisition": "other"}, "'gap' or 'thick'"),
            ({"minutes": 1.0}, "not in both"),
            ({"factors": ()}, "at least one factor"),
            ({"hold_out_share": 1.0}, "share to hold out"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, changes, sentence):
        with pytest.raises(InputError, match=sentence):
            settings(**changes)

    def test_an_unknown_one_is_named(self):
        with pytest.raises(InputError, match="no setting minuets"):
            settings_from({"minuets": 3})

    def test_a_model_that_is_not_there(self):
        with pytest.raises(InputError, match="no model 'elsewhere'"):
            settings(start="elsewhere").arguments()


class TestWorker:
    def test_finds_both_libraries_and_gets_time_to_save(self):
        folders = worker_environment(TRAINING)["PYTHONPATH"].split(os.pathsep)
        assert folders == [str(ENGINE_FOLDER), str(ENGINE_FOLDER.parent / "XViewSynthTrain")]
        # The worker itself takes up to 60 s.
        assert TRAINING.grace_seconds > 60


@posix
class TestRun:
    def test_gives_the_report(self, scans, folder, python):
        run = begin(TrainingRun(scans, folder, settings(), python=python("finish")))
        assert wait(run).status == "done"
        assert run.report == REPORT

    def test_loaded_volumes_are_handed_over_as_files_without_a_name(self, scans, scan, folder, python, arguments):
        wait(begin(TrainingRun(scans, folder, settings(), scans, python=python("finish"))))
        files = [folder / "scans" / f"volume-{number}.nrrd" for number in (1, 2)]
        assert arguments()[:4] == ["-m", "XViewSynthTrainLib", "train", str(files[0])]
        assert arguments()[arguments().index("--hold-out") + 1] == str(files[1])
        assert np.array_equal(read_volume(files[0]).voxels, scan.voxels)
        np.testing.assert_allclose(read_volume(files[0]).affine, scan.affine, atol=1e-6)
        assert b"Jane" not in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())

    def test_files_are_named_as_they_are(self, tmp_path, scan, folder, python, arguments):
        path = tmp_path / "chest.nrrd"
        write_volume(scan, path)
        wait(begin(TrainingRun([scan_from(path)], folder, settings(), python=python("finish"))))
        assert str(path) in arguments()
        assert not (folder / "scans").exists()

    def test_further_settings_go_by_a_file(self, scans, folder, python, arguments):
        given = settings(further={"pixels": 16})
        wait(begin(TrainingRun(scans, folder, given, python=python("finish"))))
        assert json.loads(Path(arguments()[arguments().index("--settings") + 1]).read_text()) == {"pixels": 16}

    def test_tells_stage_and_time_left(self, scans, folder, python):
        run = begin(TrainingRun(scans, folder, settings(), python=python(*WAITS)))
        state = wait(run, lambda state: state.stage == "training")
        assert (state.done, state.total, state.seconds_left) == (1, 5, 8.0)
        run.close()

    def test_stopped_it_can_be_resumed(self, scans, folder, python, arguments):
        run = begin(TrainingRun(scans, folder, settings(), python=python(*WAITS)))
        wait(run, lambda state: state.stage == "training")
        run.stop()
        assert "stopping" in run.poll().stage
        state = wait(run)
        assert state.status == "cancelled"
        assert "resume it" in state.message
        again = begin(TrainingRun.resumed(folder, "cpu", python=python("finish")))
        assert wait(again).status == "done"
        assert arguments()[2:8] == ["train", "--output", str(folder), "--resume", "--device", "cpu"]

    def test_one_that_was_done_before_it_heard_is_done(self, scans, folder, python):
        deaf = python("trap '' TERM", TRAINS, "sleep 0.5", "finish")
        run = begin(TrainingRun(scans, folder, settings(), python=deaf))
        wait(run, lambda state: state.stage == "training")
        run.stop()
        assert wait(run).status == "done"

    def test_stopped_before_it_began_it_leaves_nothing(self, scans, folder, python):
        run = begin(TrainingRun(scans, folder, settings(), python=python("finish")))
        run.stop()
        assert "before it began" in wait(run).message
        assert not folder.exists()

    def test_closing_the_scene_stops_it(self, scene, scans, folder, python):
        run = begin(TrainingRun(scans, folder, settings(), scene=scene, python=python(*WAITS)))
        wait(run, lambda state: state.stage == "training")
        scene.Clear(False)
        state = wait(run)
        assert state.status == "cancelled"
        assert state.message.startswith("The scene was closed.")

    def test_forgotten_it_saves_and_ends(self, scans, folder, python):
        run = begin(TrainingRun(scans, folder, settings(), python=python(*WAITS)))
        wait(run, lambda state: state.stage == "training")
        del run
        gc.collect()
        until = time.monotonic() + TIMEOUT_SECONDS
        while not (folder / "checkpoint.safetensors").exists():
            assert time.monotonic() < until
            time.sleep(0.02)

    def test_a_refusal_names_the_volume_and_leaves_nothing(self, scans, folder, python):
        lines = (
            'touch "$RUN/scans.json"',
            'echo "error: $RUN/scans/volume-1.nrrd is too small: choose another." >&2',
            "exit 2",
        )
        run = begin(TrainingRun(scans, folder, settings(), python=python(*lines)))
        state = wait(run)
        assert (state.status, state.message) == ("failed", "The scan 'Jane Doe' is too small: choose another.")
        assert not folder.exists()

    def test_two_that_are_prepared_in_one_folder_keep_their_scans_apart(self, scan, folder, python):
        volumes = [scan, Volume(scan.voxels + 1, scan.affine)]
        runs = [
            TrainingRun([TrainingScan("Jane", volume)], folder, settings(), python=python("finish"))
            for volume in volumes
        ]
        for run in runs:
            begin(run)
        for run in runs:
            wait(run)
        written = [read_volume(path).voxels for path in (folder / "scans").iterdir()]
        assert sorted(int(voxels[0, 0, 0]) for voxels in written) == [int(v.voxels[0, 0, 0]) for v in volumes]

    def test_one_that_did_not_begin_takes_nothing_of_another_that_does(self, scans, folder, python):
        refused = python('echo "error: Wait." >&2', "exit 2")
        run = TrainingRun(scans, folder, settings(further={"pixels": 16}), python=refused)
        folder.mkdir()
        with run_lock(folder):
            (folder / "scans.json").write_text("{}")
            assert wait(begin(run)).message == "Wait."
            assert sorted(path.name for path in folder.iterdir()) == ["run.lock", "scans.json"]

    def test_what_the_worker_says_is_not_left_in_the_folder(self, scans, folder, python):
        """It may name files, so patients."""
        before = set(Path(temporary_folder()).iterdir())
        run = begin(TrainingRun(scans, folder, settings(), python=python("finish", "echo Jane >&2")))
        wait(run)
        assert run.log == "Jane"
        assert not [path for path in folder.rglob("*") if path.is_file() and b"Jane" in path.read_bytes()]
        assert not [path for path in set(Path(temporary_folder()).iterdir()) - before if path.name.startswith("XView")]

    def test_a_crash_gives_a_sentence_and_the_log(self, scans, folder, python):
        run = begin(TrainingRun(scans, folder, settings(), python=python("echo broken >&2", "kill -9 $$")))
        assert "signal 9" in wait(run).message
        assert run.log == "broken"

    def test_a_damaged_report_gives_a_sentence(self, scans, folder, python):
        run = begin(TrainingRun(scans, folder, settings(), python=python("finish", 'echo "{" > "$RUN/report.json"')))
        assert "no report" in wait(run).message

    def test_a_folder_that_cannot_be_written_to_gives_a_sentence(self, scans, tmp_path, python):
        (tmp_path / "file").touch()
        run = begin(TrainingRun(scans, tmp_path / "file" / "run", settings(), python=python("finish")))
        assert "choose another folder" in wait(run).message

    def test_without_an_interpreter_it_says_so(self, scans, folder, tmp_path):
        run = begin(TrainingRun(scans, folder, settings(), python=str(tmp_path / "nobody")))
        assert "could not be started" in wait(run).message


# What works in a thread has just begun when the program ends: ITK is in the middle of a file.
PROGRAM = """
import sys, time
from pathlib import Path
import slicer
import XViewSynthLib.io.finding
from XViewSynthLib.io.reading import read_volume
from XViewSynthTrainScene.jobs import TrainingScan, TrainingRun, TrainSettings
from XViewSynthTrainScene.preview import PreviewVolumes
from XViewSynthTrainScene.study import FolderSearch

scan, place, work = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
if work == "writing":
    at_work = TrainingRun([TrainingScan("Chest", read_volume(scan))], place / "run", TrainSettings(start=None, steps=1))
    at_work.start()
    has_begun = lambda: list(place.glob("run/scans/.xviewsynth-*/new"))
elif work == "searching":
    at_work = FolderSearch(place)
    has_begun = lambda: at_work.candidates
else:
    at_work = PreviewVolumes(slicer.vtkMRMLScene(), place)
    at_work.update()
    has_begun = lambda: True
while not has_begun():
    time.sleep(0.001)
"""


class TestEnd:
    """Slicer may be closed at any moment, and must not crash then."""

    @pytest.mark.parametrize("work", ["writing", "searching", "reading"])
    def test_of_the_program_while(self, work, tmp_path):
        scan = ROOT / "Resources" / "SampleData" / "ChestCT.nrrd"
        (tmp_path / "preview").mkdir()
        for name in (*(f"{number}.nrrd" for number in range(9)), "preview/before.nrrd", "preview/now.nrrd"):
            shutil.copy(scan, tmp_path / name)
        folders = [str(ROOT / name) for name in ("XViewSynth", "XViewSynthTrain")]
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(scan), str(tmp_path), work],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        assert ended.returncode == 0, ended.stderr[:500]


class TestRefusals:
    def test_no_scan(self, folder):
        with pytest.raises(InputError, match="at least one scan"):
            TrainingRun([], folder, settings())

    def test_a_folder_with_a_run(self, scans, folder):
        write_run(folder)
        with pytest.raises(InputError, match="holds a run already"):
            TrainingRun(scans, folder, settings())

    def test_nothing_to_resume(self, tmp_path):
        with pytest.raises(InputError, match="was stopped"):
            TrainingRun.resumed(tmp_path)

    def test_a_sheared_scan(self, scan, folder):
        leaning = Volume(scan.voxels, affine_from(directions=shearing(10)))
        with pytest.raises(InputError, match="sheared by 10.0 degrees"):
            TrainingRun([TrainingScan("Tilted", leaning)], folder, settings())


class TestStudy:
    def test_volumes_are_offered_with_slices_and_spacing(self, scene, scan):
        make_volume_node(scene, scan, "Chest")
        (candidate,) = loaded_candidates(scene)
        assert (candidate.name, candidate.slices, candidate.slice_spacing_mm) == ("Chest", 17, pytest.approx(4.0))
        assert candidate.problem is None

    def test_thin_scans_are_welcome(self, scene):
        make_volume_node(scene, Volume(np.zeros((9, 8, 8), np.int16), affine_from((1, 1, 1))), "Isotropic")
        assert loaded_candidates(scene)[0].problem is None

    def test_a_scan_with_few_slices_is_refused(self, scene, scan):
        make_volume_node(scene, Volume(scan.voxels[:3], scan.affine), "Short")
        assert "too few" in loaded_candidates(scene)[0].problem

    def test_enhanced_volumes_are_refused(self, scene, scan):
        node = make_volume_node(scene, scan, "Enhanced")
        write_provenance(node, make_provenance(17, 4))
        assert "synthetic slices" in loaded_candidates(scene)[0].problem
        with pytest.raises(InputError, match="'Enhanced' holds synthetic slices"):
            scan_from(node)

    def test_uncertainty_maps_are_refused(self, scene, scan):
        uncertainty = make_pair(scene, scan).uncertainty
        problems = {candidate.name: candidate.problem for candidate in loaded_candidates(scene)}
        assert "uncertainty map" in problems[uncertainty.GetName()]
        with pytest.raises(InputError, match="uncertainty map"):
            scan_from(uncertainty)

    def test_labelmaps_are_not_offered(self, scene):
        scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
        assert loaded_candidates(scene) == []

    def test_a_path_must_exist(self, tmp_path):
        with pytest.raises(InputError, match="check the path"):
            scan_from(tmp_path / "nothing.nrrd")

    def test_a_folder_is_searched_in_the_background(self, tmp_path, scan):
        (tmp_path / "below").mkdir()
        write_volume(scan, tmp_path / "below" / "chest.nrrd")
        (tmp_path / "broken.nrrd").write_text("x")
        search = FolderSearch(tmp_path)
        self.finish(search)
        found = {candidate.name: candidate for candidate in search.candidates}
        assert found["below/chest.nrrd"].slices == 17
        assert "damaged" in found["broken.nrrd"].problem
        assert search.progress.done == 2

    def test_links_out_of_the_folder_are_named_and_not_followed(self, tmp_path, scan):
        for name in ("study", "far"):
            (tmp_path / name).mkdir()
            write_volume(scan, tmp_path / name / f"{name}.nrrd")
        try:
            (tmp_path / "study" / "link").symlink_to(tmp_path / "far", target_is_directory=True)
        except OSError:
            pytest.skip("this user may not make links")
        search = FolderSearch(tmp_path / "study")
        self.finish(search)
        assert [candidate.name for candidate in search.candidates] == ["study.nrrd"]
        assert search.note.startswith("Links out of ")

    def test_a_folder_that_is_not_there_gives_a_sentence(self, tmp_path):
        search = FolderSearch(tmp_path / "nowhere")
        self.finish(search)
        assert "choose a folder" in search.problem

    @staticmethod
    def finish(search):
        until = time.monotonic() + TIMEOUT_SECONDS
        while not search.ended:
            assert time.monotonic() < until
            time.sleep(0.02)
