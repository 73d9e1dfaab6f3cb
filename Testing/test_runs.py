"""Training from the command line: from scans on disk to a model that enhances."""

from __future__ import annotations

import json

import pytest

from scans import affine_from, anatomy
from tiny import NETWORK
from XViewSynthLib import InputError, Volume, enhance, load_model, read_volume, write_volume
from XViewSynthLib.job import Job
from XViewSynthTrainLib.ablation import ARMS, ablate
from XViewSynthTrainLib.command import register_ablate, register_train
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.runs import make_card, steps_within, train

SETTINGS = {"steps": 4, "slices": 4, "pixels": 16, "batch": 1, "network": NETWORK}


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    """A file of a thin scan, named after a patient as such files often are."""
    path = tmp_path_factory.mktemp("scans") / "Doe^Jane.nrrd"
    write_volume(Volume(anatomy((21, 24, 28)), affine_from((0.8, 0.8, 1.0))), path)
    return path


@pytest.fixture
def run_command(tmp_path):
    """Run `train` or `ablate` with arguments, and return what it said."""
    import argparse

    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    register_train(commands)
    register_ablate(commands)
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(SETTINGS))

    def run(*arguments: object) -> list[str]:
        said: list[str] = []
        parsed = parser.parse_args([str(argument) for argument in arguments] + ["--settings", str(settings)])
        parsed.run(parsed, Job(said.append, lambda _: None, lambda: False))
        return said

    return run


class TestTrain:
    def test_gives_a_model_that_enhances(self, thin, tmp_path):
        model = train([thin], tmp_path / "run", SETTINGS, name="mine")
        assert load_model(model.folder).sha256 == model.sha256
        scan = read_volume(thin)
        assert enhance(scan, 2, model=str(model.folder)).volume.voxels.shape[0] == 41

    def test_the_card_tells_counts_and_no_names(self, thin, tmp_path):
        model = train([thin], tmp_path / "run", SETTINGS)
        text = (model.folder / "card.json").read_text()
        assert "Doe" not in text
        assert model.card["training_data"][0]["slices"] == 21
        assert model.card["training"]["steps"] == 4

    def test_starts_from_a_model_and_keeps_its_network(self, thin, tmp_path, tiny_model):
        model = train([thin], tmp_path / "run", {**SETTINGS, "network": {}}, start=str(tiny_model))
        assert model.card["network"] == NETWORK
        assert model.card["training"]["started_from"] == load_model(tiny_model).sha256
        assert [entry["name"] for entry in model.card["training_data"]] == ["nothing", "scan 1"]

    def test_goes_on_where_it_stopped(self, thin, tmp_path):
        whole = train([thin], tmp_path / "whole", SETTINGS)
        answers = iter([False, False, True])
        with pytest.raises(Exception, match="Stopped after step 2"):
            train([thin], tmp_path / "run", SETTINGS, should_cancel=lambda: next(answers))
        assert train([thin], tmp_path / "run", {}, resume=True).sha256 == whole.sha256

    def test_a_bad_name_is_told_before_the_work(self, thin, tmp_path):
        with pytest.raises(InputError, match="Choose a name"):
            train([thin], tmp_path / "run", SETTINGS, name="a/b")

    @pytest.mark.parametrize("minutes", [0, -3, float("inf"), float("nan")])
    def test_a_length_that_is_none_is_told(self, thin, tmp_path, minutes):
        with pytest.raises(InputError, match="positive number of minutes"):
            train([thin], tmp_path / "run", SETTINGS, minutes=minutes)

    def test_minutes_become_steps(self, thin):
        config = TrainingConfig(**SETTINGS)
        scans = [read_volume(thin)]
        assert steps_within(60, scans, config, "cpu") > steps_within(1e-6, scans, config, "cpu") == 1


class TestCard:
    @pytest.mark.parametrize(
        ("settings", "level"),
        [({"cross_view_from": 1.0}, 0), ({"incremental_from": 1.0}, 1), ({}, 2), ({"increments": 2}, 3)],
    )
    def test_tells_the_level(self, settings, level):
        assert f"up to level {level}" in make_card("m", TrainingConfig(**settings), [])["description"]


class TestAblation:
    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, thin, tmp_path_factory):
        folder = tmp_path_factory.mktemp("ablation")
        return folder, ablate([thin], folder, SETTINGS, seeds=2, validate=[thin], factors=[2])

    def test_trains_every_arm_with_every_seed(self, trained):
        folder, _ = trained
        for arm in ARMS:
            for seed in (0, 1):
                assert load_model(folder / arm / f"seed{seed}").card["training"]["seed"] == seed

    def test_arms_are_those_of_the_method(self, trained):
        folder, _ = trained
        training = {arm: load_model(folder / arm / "seed0").card["training"] for arm in ARMS}
        assert training["level0"]["cross_view_from"] == 1
        assert training["plain"]["gamma"] == 1
        assert training["selective"]["gamma"] == 0.25
        assert training["selective"]["incremental_from"] == 1
        assert training["incremental"]["incremental_from"] < 1

    def test_measures_them(self, trained):
        folder, tables = trained
        assert (folder / "tables" / "bench.json").exists()
        for arm in ARMS:
            assert arm in tables

    def test_can_measure_on_the_middle_of_the_slices(self, thin, trained):
        folder, _ = trained
        ablate([thin], folder, SETTINGS, seeds=2, validate=[thin], factors=[2], center=16)
        whole, middle = read_volume(thin), read_volume(folder / "validation" / thin.name)
        assert middle.voxels.shape == (21, 16, 16)
        i, j, k = (round(index) for index in whole.ras_to_ijk(middle.origin))
        assert (middle.voxels == whole.voxels[k:, j : j + 16, i : i + 16]).all()

    def test_does_not_train_twice(self, thin, trained):
        folder, _ = trained
        before = (folder / "plain" / "seed0" / "card.json").stat().st_mtime_ns
        told = []
        assert ablate([thin], folder, SETTINGS, seeds=2, progress=told.append) is None
        assert (folder / "plain" / "seed0" / "card.json").stat().st_mtime_ns == before
        assert not told

    def test_can_start_every_run_from_a_model(self, thin, tmp_path, tiny_model):
        ablate([thin], tmp_path / "out", {**SETTINGS, "network": {}}, seeds=1, start=str(tiny_model))
        began_with = load_model(tiny_model).sha256
        for arm in ARMS:
            assert load_model(tmp_path / "out" / arm / "seed0").card["training"]["started_from"] == began_with

    def test_tells_the_time_left_of_all_runs(self, thin, tmp_path):
        told = []
        ablate([thin], tmp_path / "one", SETTINGS, seeds=1, progress=told.append)
        assert told[0].stage == "level0 seed 0"
        assert told[0].seconds_left > 0
        assert told[-1].seconds_left == 0


class TestCommandLine:
    def test_train(self, thin, tmp_path, run_command):
        said = run_command(
            "train", thin, "--output", tmp_path / "run", "--gamma", 0.5, "--wavelet", 0, "--no-incremental"
        )
        assert "Trained trained" in said[0]
        training = load_model(tmp_path / "run" / "model").card["training"]
        assert (training["gamma"], training["incremental_from"], training["weights"]["wavelet"]) == (0.5, 1.0, 0)

    def test_level_0_alone(self, thin, tmp_path, run_command):
        run_command("train", thin, "--output", tmp_path / "run", "--no-cross-view")
        assert load_model(tmp_path / "run" / "model").card["training"]["cross_view_from"] == 1

    def test_ablate(self, thin, tmp_path, run_command):
        said = run_command("ablate", thin, "--output", tmp_path / "out", "--seeds", 1, "--steps", 1)
        assert "bench --ablation" in said[0]
        assert load_model(tmp_path / "out" / "level0" / "seed0").card["training"]["steps"] == 1

    @pytest.mark.parametrize("content", ["{", "[1]"])
    def test_settings_that_are_none_are_told(self, thin, tmp_path, run_command, content):
        (tmp_path / "settings.json").write_text(content)
        with pytest.raises(InputError, match="Check --settings"):
            run_command("train", thin, "--output", tmp_path / "run")

    @pytest.mark.parametrize("steps", ["0", "-1", "many"])
    def test_a_number_of_steps_that_is_none_is_told(self, thin, tmp_path, run_command, steps, capsys):
        with pytest.raises(SystemExit):
            run_command("train", thin, "--output", tmp_path / "run", "--steps", steps)
        assert "whole number of at least 1" in capsys.readouterr().err
