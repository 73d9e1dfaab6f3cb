"""Training from the command line: from scans on disk to a model that enhances."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from scans import affine_from, anatomy, write_dicom_series
from tiny import NETWORK, make_card, make_network, make_spline_network
from XViewSynthLib import Cancelled, InputError, Volume, enhance, load_model, read_volume, write_volume
from XViewSynthLib.model.catalogue import save_model
from XViewSynthLib.progress import Monitor
from XViewSynthLib.workers.job import Job
from XViewSynthTrainLib.ablation import ARMS, Ablation, ablate
from XViewSynthTrainLib.cards import make_card as make_trained_card
from XViewSynthTrainLib.checkpoints import load_checkpoint
from XViewSynthTrainLib.command import register_ablate, register_train
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.duration import affordable_voxels, steps_within
from XViewSynthTrainLib.files import CHECKPOINT_FILE
from XViewSynthTrainLib.heldout import VERDICT_VOXELS, WATCHED_VOXELS
from XViewSynthTrainLib.runlog import read_log
from XViewSynthTrainLib.runs import train
from XViewSynthTrainLib.training_set import TrainingSet

pytestmark = pytest.mark.slow

SETTINGS = {"steps": 4, "slices": 4, "pixels": 16, "batch": 1, "network": NETWORK}
#: Wild steps, few enough to be harmful.
HARMFUL = {**SETTINGS, "learning_rate": 0.5, "steps": 6}


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    """A file of a thin scan, named after a patient as such files often are."""
    path = tmp_path_factory.mktemp("scans") / "Doe^Jane.nrrd"
    write_volume(Volume(anatomy((41, 24, 28)), affine_from((0.8, 0.8, 1.0))), path)
    return path


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A file of a thin scan of few slices."""
    path = tmp_path_factory.mktemp("scans") / "short.nrrd"
    write_volume(Volume(anatomy((13, 24, 28), seed=1), affine_from((0.8, 0.8, 1.0))), path)
    return path


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """A file of a scan that can be learned in seconds: bars that lean."""
    k, _, i = np.indices((41, 24, 28))
    path = tmp_path_factory.mktemp("scans") / "bars.nrrd"
    hu = (500 * np.sign(np.sin(0.7 * (i + 1.5 * k)))).astype(np.int16)
    write_volume(Volume(hu, affine_from((0.8, 0.8, 1.0))), path)
    return path


@pytest.fixture(scope="module")
def with_best_specialist(tmp_path_factory):
    """It answers with the spline, and has another network for x4 at best quality."""
    folder = tmp_path_factory.mktemp("models") / "best"
    sizes = NETWORK | {"best_specialists": {"4": {"fusion_blocks": 1}}}
    save_model(folder, make_spline_network(**sizes), make_card(network=sizes))
    return folder


@pytest.fixture(scope="module")
def untrained_model(tmp_path_factory):
    """It answers with the spline, and so is hard to beat on a smooth scan in a few wild steps."""
    folder = tmp_path_factory.mktemp("models") / "untrained"
    save_model(folder, make_spline_network(**NETWORK), make_card())
    return folder


@pytest.fixture(scope="module")
def poor_model(tmp_path_factory):
    """Its weights are random."""
    folder = tmp_path_factory.mktemp("models") / "poor"
    save_model(folder, make_network(), make_card())
    return folder


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
        report = train(TrainingSet([thin], name="mine"), tmp_path / "run", SETTINGS)
        model = load_model(tmp_path / "run" / "model")
        assert (model.name, model.sha256) == (report["model"]["name"], report["model"]["sha256"])
        assert enhance(read_volume(thin), 2, model=model).volume.voxels.shape[0] == 81

    def test_starts_from_a_model_and_keeps_its_network(self, thin, tmp_path, tiny_model):
        settings = {**SETTINGS, "network": {}}
        train(TrainingSet([thin], start=str(tiny_model), hold_out_share=0), tmp_path / "run", settings)
        card = load_model(tmp_path / "run" / "model").card
        assert card["network"] == NETWORK
        assert card["training"]["started_from"] == load_model(tiny_model).sha256
        assert [entry["name"] for entry in card["training_data"]] == ["nothing", "scan 1"]

    def test_has_no_specialists_of_best_quality(self, thin, tmp_path, with_best_specialist):
        settings = {**SETTINGS, "network": {}}
        train(TrainingSet([thin], start=str(with_best_specialist), hold_out_share=0), tmp_path / "run", settings)
        card = load_model(tmp_path / "run" / "model").card
        assert card["network"] == NETWORK
        assert card["training"]["started_from"] == load_model(with_best_specialist).sha256

    @pytest.mark.parametrize("stopped_after", [1, 3])
    def test_goes_on_where_it_stopped(self, thin, tmp_path, stopped_after):
        train(TrainingSet([thin]), tmp_path / "whole", SETTINGS)
        done = []
        with pytest.raises(Cancelled, match=f"Stopped after step {stopped_after}"):
            train(
                TrainingSet([thin]),
                tmp_path / "run",
                SETTINGS,
                progress=lambda told: done.append(told.done) if told.stage == "training" else None,
                should_cancel=lambda: stopped_after in done,
            )
        train(None, tmp_path / "run")
        whole, run = (load_checkpoint(tmp_path / name / CHECKPOINT_FILE)[0] for name in ("whole", "run"))
        assert all(torch.equal(whole[name], run[name]) for name in whole)
        assert [e["kind"] for e in read_log(tmp_path / "run")] == [e["kind"] for e in read_log(tmp_path / "whole")]

    def test_a_bad_name_is_reported_before_the_work(self, thin, tmp_path):
        with pytest.raises(InputError, match="A model cannot be named"):
            train(TrainingSet([thin], name="a/b"), tmp_path / "run", SETTINGS)
        assert not (tmp_path / "run").exists()

    def test_no_scan_is_reported(self, tmp_path):
        with pytest.raises(InputError, match="at least one scan"):
            train(TrainingSet([]), tmp_path / "run", SETTINGS)

    @pytest.mark.parametrize(("value", "told"), [(0, "everywhere"), (np.nan, "NaN")])
    def test_a_scan_that_is_none_is_reported_by_name(self, thin, tmp_path, value, told):
        voxels = anatomy((41, 24, 28)).astype(np.float32)
        voxels[:, :, :] = value
        write_volume(Volume(voxels, affine_from((0.8, 0.8, 1.0))), tmp_path / "odd.nrrd")
        with pytest.raises(InputError, match=rf"odd.nrrd cannot be trained on: .*{told}"):
            train(TrainingSet([thin, tmp_path / "odd.nrrd"]), tmp_path / "run", SETTINGS)

    def test_a_run_is_not_overwritten(self, thin, tmp_path):
        train(TrainingSet([thin]), tmp_path / "run", SETTINGS)
        before = (tmp_path / "run" / "scans.json").read_text()
        with pytest.raises(InputError, match="holds a run already"):
            train(TrainingSet([thin], name="other"), tmp_path / "run", SETTINGS)
        assert (tmp_path / "run" / "scans.json").read_text() == before

    def test_without_a_run_there_is_nothing_to_resume(self, tmp_path):
        with pytest.raises(InputError, match="Start without --resume"):
            train(None, tmp_path / "run")

    def test_a_folder_that_cannot_be_made_is_reported(self, thin, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="Cannot make the folder .* Choose another one"):
            train(TrainingSet([thin]), tmp_path / "file" / "run", SETTINGS)

    @pytest.mark.parametrize("minutes", [0, -3, float("inf"), float("nan")])
    def test_a_length_that_is_none_is_reported(self, thin, tmp_path, minutes):
        with pytest.raises(InputError, match="positive number of minutes"):
            train(TrainingSet([thin]), tmp_path / "run", SETTINGS, minutes=minutes)

    def test_minutes_become_steps(self, thin, tmp_path):
        report = train(TrainingSet([thin]), tmp_path / "run", {**SETTINGS, "steps": 10**6, "patience": 0}, minutes=0.05)
        assert report["steps"] == json.loads((tmp_path / "run" / "config.json").read_text())["steps"] < 10**6

    def test_no_time_is_still_a_step(self, thin):
        assert steps_within(1e-6, [read_volume(thin)], TrainingConfig(**SETTINGS), "cpu") == 1

    def test_measuring_can_be_interrupted(self, thin):
        asked = []

        def should_cancel():
            asked.append(None)
            return len(asked) > 2

        config = TrainingConfig(**SETTINGS)
        with pytest.raises(Cancelled):
            steps_within(60, [read_volume(thin)], config, "cpu", monitor=Monitor(None, should_cancel))
        assert len(asked) < 10

    def test_the_verdict_is_as_thorough_as_the_time_allows(self):
        assert affordable_voxels(seconds=1e6, evaluation=1.0) == VERDICT_VOXELS
        assert affordable_voxels(seconds=60, evaluation=60.0) == WATCHED_VOXELS
        assert WATCHED_VOXELS < affordable_voxels(seconds=600, evaluation=10.0) < VERDICT_VOXELS


class TestHoldOut:
    def test_of_a_single_scan_the_upper_slices_are_held_out(self, thin, tmp_path):
        report = train(TrainingSet([thin]), tmp_path / "run", SETTINGS)
        assert [scan["slices"] for scan in report["training_scans"]] == [30]
        assert [scan["slices"] for scan in report["held_out_scans"]] == [11]

    def test_of_several_scans_the_last_ones(self, thin, short, tmp_path):
        report = train(TrainingSet([thin, thin, short], hold_out_share=0.3), tmp_path / "run", SETTINGS)
        assert [scan["slices"] for scan in report["training_scans"]] == [41, 41]
        assert [scan["slices"] for scan in report["held_out_scans"]] == [13]

    def test_named_ones(self, thin, short, tmp_path):
        report = train(TrainingSet([thin], held_out=[short]), tmp_path / "run", SETTINGS)
        assert [scan["slices"] for scan in report["training_scans"]] == [41]
        assert [scan["slices"] for scan in report["held_out_scans"]] == [13]

    def test_or_none(self, thin, tmp_path):
        report = train(TrainingSet([thin], hold_out_share=0), tmp_path / "run", SETTINGS)
        assert (report["after"], report["beats_start"]) == ({}, None)
        assert "its quality is unknown" in report["message"]
        assert not (tmp_path / "run" / "preview").exists()

    @pytest.mark.parametrize("share", [-0.1, 1.0])
    def test_a_share_that_is_none_is_reported(self, thin, tmp_path, share):
        with pytest.raises(InputError, match="Hold out a share from 0 to below 1"):
            train(TrainingSet([thin], hold_out_share=share), tmp_path / "run", SETTINGS)

    def test_gains_are_reported_from_before_the_first_step_on(self, thin, tmp_path):
        train(TrainingSet([thin]), tmp_path / "run", {**SETTINGS, "judgements": 2})
        assert [entry["step"] for entry in read_log(tmp_path / "run") if entry["kind"] == "gain"] == [0, 2, 4]

    def test_there_is_something_to_see(self, thin, tmp_path):
        train(TrainingSet([thin]), tmp_path / "run", SETTINGS)
        preview = tmp_path / "run" / "preview"
        assert sorted(path.stem for path in preview.iterdir()) == ["before", "now", "observed", "truth"]
        assert not (read_volume(preview / "now.nrrd").voxels == read_volume(preview / "truth.nrrd").voxels).all()


class TestVerdict:
    """What a run delivers is never worse than what it began with."""

    def test_training_that_helped_is_delivered(self, bars, tmp_path, poor_model):
        settings = {**SETTINGS, "steps": 120, "learning_rate": 3e-3, "cross_view_from": 1.0}
        report = train(TrainingSet([bars], start=str(poor_model)), tmp_path / "run", settings)
        assert report["beats_start"] is True
        assert report["after"]["2"]["over_better_db"] > report["before"]["2"]["over_better_db"] + 1
        assert "better than the model it started from" in report["message"]
        assert load_model(tmp_path / "run" / "model").name == "trained"

    def test_after_training_that_did_not_help_it_is_what_it_began_with(self, thin, tmp_path, untrained_model):
        report = train(TrainingSet([thin], start=str(untrained_model)), tmp_path / "run", HARMFUL)
        assert report["beats_start"] is False
        assert report["after"] == report["before"]
        assert "did not beat 'small'" in report["message"]
        assert report["model"]["sha256"] == load_model(untrained_model).sha256

    def test_what_it_began_with_is_copied_byte_for_byte(self, thin, tmp_path):
        half = tmp_path / "half"
        save_model(half, make_spline_network(**NETWORK).bfloat16(), make_card())
        report = train(TrainingSet([thin], start=str(half)), tmp_path / "run", HARMFUL)
        assert report["beats_start"] is False
        assert "did not beat 'small'" in report["message"]
        for file in half.iterdir():
            assert (tmp_path / "run" / "model" / file.name).read_bytes() == file.read_bytes()

    def test_a_gain_that_is_printed_as_nothing_is_none(self, thin, tmp_path, untrained_model):
        settings = {**SETTINGS, "learning_rate": 1e-9}
        report = train(TrainingSet([thin], start=str(untrained_model)), tmp_path / "run", settings)
        assert report["beats_start"] is False
        assert "0.00 dB better" not in report["message"]

    def test_its_starting_model_still_predicts_at_best_quality(self, thin, tmp_path, with_best_specialist):
        report = train(TrainingSet([thin], start=str(with_best_specialist)), tmp_path / "run", HARMFUL)
        assert report["beats_start"] is False
        assert "4" in load_model(tmp_path / "run" / "model").network.best_specialists

    def test_from_scratch_there_is_nothing_to_beat(self, thin, tmp_path):
        report = train(TrainingSet([thin]), tmp_path / "run", SETTINGS)
        assert report["beats_start"] is None
        assert "dB over the better interpolation" in report["message"]

    def test_an_early_end_is_reported(self, thin, tmp_path, untrained_model):
        settings = {**HARMFUL, "judgements": 6, "patience": 2}
        report = train(TrainingSet([thin], start=str(untrained_model)), tmp_path / "run", settings)
        assert (report["status"], report["steps"]) == ("stopped early", 2)


class TestPrivacy:
    """Whoever is given a model or a report must not learn whose scans it was trained on."""

    PLANTED = ("Doe^Jane", "19541224", "PID-4711", "Hospital of Springfield")

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("privacy")
        scan = Volume(anatomy((41, 24, 28)), affine_from((0.8, 0.8, 1.0)))
        name, birth, number, place = cls.PLANTED
        write_dicom_series(
            folder / "scans" / name, scan, PatientName=name, PatientBirthDate=birth, PatientID=number,
            InstitutionName=place, thickness=1.0,
        )  # fmt: skip
        scans = [folder / "scans" / name]
        # Stopped and resumed, so that all that is written then is there as well.
        told = []
        with pytest.raises(Cancelled):
            train(
                TrainingSet(scans),
                folder / "run",
                SETTINGS,
                progress=told.append,
                should_cancel=lambda: told[-1:] and told[-1].stage == "training",
            )
        train(None, folder / "run")
        return folder / "run"

    def test_is_kept_by_every_file_of_the_run(self, run):
        files = [path for path in run.rglob("*") if path.is_file() and path.name != "scans.json"]
        names = {path.name for path in files}
        assert {"checkpoint.safetensors", "model.safetensors", "card.json", "report.html", "truth.nrrd"} < names
        assert [name for name in names if name.startswith("events.")]
        for path in files:
            content = path.read_bytes()
            for planted in self.PLANTED:
                assert planted not in path.name
                assert not [form for form in ("utf-8", "utf-16-le") if planted.encode(form) in content], path.name

    def test_only_the_list_of_scans_names_files(self, run):
        assert "Doe^Jane" in (run / "scans.json").read_text()

    def test_the_card_states_counts(self, run):
        entry = load_model(run / "model").card["training_data"][0]
        assert (entry["slices"], entry["slice_spacing_mm"]) == (30, 1.0)


class TestCard:
    @pytest.mark.parametrize(
        ("settings", "level"),
        [({"cross_view_from": 1.0}, 0), ({"incremental_from": 1.0}, 1), ({}, 2), ({"increments": 2}, 3)],
    )
    def test_tells_the_level(self, settings, level):
        assert f"up to level {level}" in make_trained_card("m", TrainingConfig(**settings), [])["description"]


class TestAblation:
    @pytest.fixture(scope="class")
    @classmethod
    def trained(cls, thin, tmp_path_factory):
        folder = tmp_path_factory.mktemp("ablation")
        return folder, ablate(Ablation([thin], SETTINGS, seeds=2, validate=[thin], factors=[2]), folder)

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
        ablate(Ablation([thin], SETTINGS, seeds=2, validate=[thin], factors=[2], center=16), folder)
        whole, middle = read_volume(thin), read_volume(folder / "validation" / thin.name)
        assert middle.voxels.shape == (41, 16, 16)
        i, j, k = (round(index) for index in whole.ras_to_ijk(middle.origin))
        assert (middle.voxels == whole.voxels[k:, j : j + 16, i : i + 16]).all()

    def test_does_not_train_twice(self, thin, trained):
        folder, _ = trained
        before = (folder / "plain" / "seed0" / "card.json").stat().st_mtime_ns
        told = []
        assert ablate(Ablation([thin], SETTINGS, seeds=2), folder, progress=told.append) is None
        assert (folder / "plain" / "seed0" / "card.json").stat().st_mtime_ns == before
        assert not told

    def test_can_start_every_run_from_a_model(self, thin, tmp_path, tiny_model):
        ablate(Ablation([thin], {**SETTINGS, "network": {}}, seeds=1, start=str(tiny_model)), tmp_path / "out")
        began_with = load_model(tiny_model).sha256
        for arm in ARMS:
            assert load_model(tmp_path / "out" / arm / "seed0").card["training"]["started_from"] == began_with

    def test_trains_no_specialists_of_best_quality(self, thin, tmp_path, with_best_specialist):
        ablate(
            Ablation([thin], {**SETTINGS, "network": {}}, seeds=1, start=str(with_best_specialist)), tmp_path / "out"
        )
        for arm in ARMS:
            assert load_model(tmp_path / "out" / arm / "seed0").card["network"] == NETWORK

    def test_tells_the_time_left_of_all_runs(self, thin, tmp_path):
        told = []
        ablate(Ablation([thin], SETTINGS, seeds=1), tmp_path / "one", progress=told.append)
        assert told[0].stage == "level0 seed 0"
        assert told[0].seconds_left > 0
        assert told[-1].seconds_left == 0


class TestCommandLine:
    def test_train(self, thin, tmp_path, run_command):
        said = run_command(
            "train", thin, "--output", tmp_path / "run", "--gamma", 0.5, "--wavelet", 0, "--no-incremental"
        )
        assert "over the better interpolation" in said[0]
        assert str(tmp_path / "run" / "report.html") in said[1]
        training = load_model(tmp_path / "run" / "model").card["training"]
        assert (training["gamma"], training["incremental_from"], training["weights"]["wavelet"]) == (0.5, 1.0, 0)

    def test_hold_out(self, thin, short, tmp_path, run_command):
        run_command("train", thin, "--output", tmp_path / "run", "--hold-out", short)
        held_out = json.loads((tmp_path / "run" / "report.json").read_text())["held_out_scans"]
        assert [scan["slices"] for scan in held_out] == [13]

    @pytest.mark.parametrize("words", [("train", "--hold-out-share", 0), ("ablate", "--seeds", 1, "--steps", 1)])
    def test_slices_that_are_links_elsewhere_are_used_on_request(self, short, tmp_path, run_command, words):
        write_dicom_series(tmp_path / "far", read_volume(short))
        (tmp_path / "series").mkdir()
        for file in (tmp_path / "far").iterdir():
            try:
                (tmp_path / "series" / file.name).symlink_to(file)
            except OSError:
                pytest.skip("this user may not make links")
        words = (*words, tmp_path / "series", "--output", tmp_path / "run")
        with pytest.raises(InputError, match="is a link that leads out of its folder"):
            run_command(*words)
        assert not (tmp_path / "run").exists()
        assert run_command(*words, "--follow-links")

    def test_factors(self, thin, tmp_path, run_command):
        run_command("train", thin, "--output", tmp_path / "run", "--factor", 2, "--factor", 3)
        assert load_model(tmp_path / "run" / "model").card["factors"] == [2, 3]

    def test_resume_knows_its_scans(self, thin, tmp_path, run_command):
        run_command("train", thin, "--output", tmp_path / "run")
        with pytest.raises(InputError, match="Leave the scans out with --resume"):
            run_command("train", thin, "--output", tmp_path / "run", "--resume")
        assert run_command("train", "--output", tmp_path / "run", "--resume")

    def test_level_0_alone(self, thin, tmp_path, run_command):
        run_command("train", thin, "--output", tmp_path / "run", "--no-cross-view")
        assert load_model(tmp_path / "run" / "model").card["training"]["cross_view_from"] == 1

    def test_ablate(self, thin, tmp_path, run_command):
        said = run_command("ablate", thin, "--output", tmp_path / "out", "--seeds", 1, "--steps", 1)
        assert "bench --ablation" in said[0]
        assert load_model(tmp_path / "out" / "level0" / "seed0").card["training"]["steps"] == 1

    @pytest.mark.parametrize("content", ["{", "[1]"])
    def test_settings_that_are_none_are_reported(self, thin, tmp_path, run_command, content):
        (tmp_path / "settings.json").write_text(content)
        with pytest.raises(InputError, match="Check --settings"):
            run_command("train", thin, "--output", tmp_path / "run")

    @pytest.mark.parametrize("steps", ["0", "-1", "many"])
    def test_a_number_of_steps_that_is_none_is_reported(self, thin, tmp_path, run_command, steps, capsys):
        with pytest.raises(SystemExit):
            run_command("train", thin, "--output", tmp_path / "run", "--steps", steps)
        assert "whole number of at least 1" in capsys.readouterr().err
