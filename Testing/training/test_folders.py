"""What Slicer reads of a run folder: what can be done with it, its log, its model."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

from training_runs import LOG, append_log, write_run
from XViewSynthLib.errors import InputError
from XViewSynthLib.model.catalogue import list_models
from XViewSynthTrainLib.lock import run_lock
from XViewSynthTrainScene.folders import RunFolder, RunLog, new_run_folder, take_model
from XViewSynthTrainScene.sentences import describe_run_folder


@pytest.fixture
def finished(tmp_path, tiny_model):
    return RunFolder(write_run(tmp_path / "finished", tiny_model))


@pytest.fixture
def stopped(tmp_path):
    return RunFolder(write_run(tmp_path / "stopped", finished=False))


class TestRunFolder:
    def test_a_new_run_may_begin_where_there_is_none(self, tmp_path):
        RunFolder(tmp_path / "new").check_new()
        RunFolder(tmp_path).check_new()

    def test_a_stopped_run_can_be_resumed_and_is_not_overwritten(self, stopped):
        stopped.check_resumable()
        with pytest.raises(InputError, match="resume the run in it"):
            stopped.check_new()

    def test_a_finished_run_is_neither(self, finished):
        with pytest.raises(InputError, match="is finished"):
            finished.check_resumable()
        with pytest.raises(InputError, match="holds a run already: choose another one"):
            finished.check_new()

    def test_an_empty_folder_cannot_be_resumed(self, tmp_path):
        with pytest.raises(InputError, match="was stopped"):
            RunFolder(tmp_path).check_resumable()

    def test_where_a_training_goes_on_nothing_can_begin(self, stopped, tmp_path):
        (tmp_path / "new").mkdir()
        for folder in (stopped, RunFolder(tmp_path / "new")):
            with run_lock(folder.path):
                assert folder.is_at_work
                for check in (folder.check_new, folder.check_resumable):
                    with pytest.raises(InputError, match="Wait until the training in"):
                        check()
        assert not stopped.is_at_work
        stopped.check_resumable()

    def test_says_what_is_in_it(self, stopped, finished, tmp_path):
        assert describe_run_folder(RunFolder(tmp_path / "new")) == ""
        assert "holds a stopped run: resume it" in describe_run_folder(stopped)
        assert "holds a finished run" in describe_run_folder(finished)
        with run_lock(stopped.path):
            assert "trains in this folder" in describe_run_folder(stopped)

    def test_a_run_that_was_killed_before_its_first_checkpoint_cannot(self, stopped):
        (stopped.path / "checkpoint.safetensors").unlink()
        assert not stopped.can_resume

    @pytest.mark.parametrize("path", ["", "run", "."])
    def test_the_full_path_is_required(self, path):
        with pytest.raises(InputError, match="full path"):
            RunFolder(Path(path)).check_new()

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="is a file"):
            RunFolder(tmp_path / "file").check_new()

    def test_gives_report_page_and_model(self, finished, stopped):
        assert finished.read_report()["best_step"] == 40
        assert finished.report_page.name == "report.html"
        assert finished.model.name == "model"
        assert (stopped.report_page, stopped.model) == (None, None)

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_a_damaged_report_gives_a_sentence(self, finished, text):
        (finished.path / "report.json").write_text(text)
        with pytest.raises(InputError, match="report"):
            finished.read_report()

    def test_new_folders_are_named_by_date_and_never_twice(self, tmp_path):
        now = datetime(2026, 8, 5, 14, 30)
        first = new_run_folder(tmp_path, now)
        first.mkdir()
        assert (first.name, new_run_folder(tmp_path, now).name) == ("2026-08-05 14.30", "2026-08-05 14.30 (2)")


class TestRunLog:
    @pytest.fixture
    def log(self, stopped):
        return RunLog(stopped.path)

    def test_gives_each_entry_once(self, log, stopped):
        assert log.read() == list(LOG)
        assert log.read() == []
        note = {"kind": "note", "step": 50, "message": "More."}
        append_log(stopped.path, note)
        assert log.read() == [note]
        assert log.entries == [*LOG, note]

    def test_waits_for_the_rest_of_a_line(self, log, stopped):
        log.read()
        with open(stopped.path / "log.jsonl", "a") as file:
            file.write('{"kind": "note", "st')
            file.flush()
            assert log.read() == []
            file.write('ep": 50, "message": "More."}\n')
        assert [entry["step"] for entry in log.read()] == [50]

    def test_what_a_resumed_run_repeats_replaces_what_it_said_before(self, log, stopped):
        log.read()
        append_log(stopped.path, {"kind": "loss", "step": 30, "loss": {"views": 0.1}})
        log.read()
        assert [entry["step"] for entry in log.entries] == [0, 20, 25, 30]

    def test_a_log_that_is_written_anew_is_read_anew(self, log, stopped):
        log.read()
        (stopped.path / "log.jsonl").unlink()
        append_log(stopped.path, LOG[0])
        assert log.read() == [LOG[0]] == log.entries

    def test_noise_is_passed_over(self, log, stopped):
        (stopped.path / "log.jsonl").write_text(
            'noise\n[1]\n{"step": "x", "kind": "note"}\n{"kind": "note", "step": 1}\n'
        )
        assert [entry["step"] for entry in log.read()] == [1]

    def test_there_may_be_none_yet(self, tmp_path):
        assert RunLog(tmp_path).read() == []


class TestTakeModel:
    @pytest.fixture(autouse=True)
    def models(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XVIEWSYNTH_MODELS", str(tmp_path / "models"))
        return tmp_path / "models"

    def test_installs_it(self, finished):
        assert take_model(finished) == "small"
        assert "small" in [entry.name for entry in list_models()]

    def test_a_model_that_is_installed_is_named_and_not_installed_twice(self, finished, models, tiny_model):
        shutil.copytree(tiny_model, models / "mine")
        assert take_model(finished) == "mine"
        assert not (models / "small").exists()

    def test_damaged_weights_are_refused(self, finished, models):
        (finished.path / "model" / "model.safetensors").write_bytes(b"damaged")
        with pytest.raises(InputError, match="damaged"):
            take_model(finished)
        assert not models.exists() or not list(models.iterdir())

    def test_without_a_model_there_is_a_sentence(self, stopped):
        with pytest.raises(InputError, match="no model yet"):
            take_model(stopped)
