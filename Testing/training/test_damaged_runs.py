"""Run folders and settings that are damaged or odd: one sentence each, and nothing is changed or left."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import fields

import pytest
import torch
from safetensors.torch import save_file

from scans import affine_from, anatomy
from tiny import NETWORK
from XViewSynthLib import Cancelled, InputError, Volume, load_model, write_volume
from XViewSynthTrainLib.ablation import Ablation, ablate
from XViewSynthTrainLib.checkpoints import load_checkpoint, save_checkpoint
from XViewSynthTrainLib.command import _read_settings
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.files import CHECKPOINT_FILE, CONFIG_FILE, LOG_FILE, SCANS_FILE
from XViewSynthTrainLib.runlog import read_log
from XViewSynthTrainLib.runs import train
from XViewSynthTrainLib.trainer import check_step
from XViewSynthTrainLib.training_set import TrainingSet

pytestmark = pytest.mark.slow

SETTINGS = {
    "steps": 4, "slices": 4, "pixels": 16, "batch": 1, "network": NETWORK, "factor_shares": {"2": 1.0},
}  # fmt: skip
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("scans") / "scan.nrrd"
    write_volume(Volume(anatomy((41, 24, 28)), affine_from((0.8, 0.8, 1.0))), path)
    return path


@pytest.fixture(scope="module")
def stopped(scan, tmp_path_factory):
    """The folder of a run that was stopped after its second step."""
    folder, done = tmp_path_factory.mktemp("runs") / "run", []
    with pytest.raises(Cancelled):
        train(
            TrainingSet([scan]),
            folder,
            SETTINGS,
            device="cpu",
            progress=lambda told: done.append(told.done) if told.stage == "training" else None,
            should_cancel=lambda: 2 in done,
        )
    return folder


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(stopped, tmp_path / "run")


def content(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(run, match: str) -> None:
    """Resuming is refused in a sentence, and changes nothing."""
    before = content(run)
    with pytest.raises(InputError, match=match) as refused:
        train(None, run, device="cpu")
    assert "\n" not in str(refused.value)
    assert content(run) == before


def edit(path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


SET_FIELDS = {field.name for field in fields(TrainingSet)} - {"minutes"}
TEXTS = ["", "{", "[]", "null", '"text"', "\x00" * 100, DEEP, '{"a": ' * 5000, "1" * 5000]


class TestFiles:
    def test_the_run_itself_can_be_resumed(self, run):
        assert train(None, run, device="cpu")["steps"] == 4

    @pytest.mark.parametrize("text", TEXTS)
    @pytest.mark.parametrize("name", [CONFIG_FILE, SCANS_FILE])
    def test_without_their_json_are_refused(self, run, name, text):
        (run / name).write_text(text, encoding="utf-8")
        assert_refused(run, f"Start anew in another folder: .*{name} ")

    @pytest.mark.parametrize("name", [CONFIG_FILE, SCANS_FILE])
    def test_larger_than_they_can_be_are_refused(self, run, name):
        (run / name).write_bytes(b" " * (2 * 1024**2))
        assert_refused(run, "larger than 1 MB")

    @pytest.mark.parametrize("name", [CONFIG_FILE, SCANS_FILE, CHECKPOINT_FILE])
    def test_that_are_missing_are_reported_and_the_others_stay(self, run, name):
        (run / name).unlink()
        assert_refused(run, "there is no (run|checkpoint)")

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes in folders")
    @pytest.mark.parametrize("name", [CONFIG_FILE, SCANS_FILE, LOG_FILE, CHECKPOINT_FILE])
    def test_that_are_pipes_are_not_waited_for(self, run, name):
        (run / name).unlink()
        os.mkfifo(run / name)
        with pytest.raises(InputError):
            train(None, run, device="cpu")

    @pytest.mark.parametrize(
        "changes",
        [
            {"training": "scan.nrrd"},
            {"training": [5]},
            {"training": []},
            {"training": None},
            {"held_out": {}},
            {"hold_out_share": "0.25"},
            {"hold_out_share": -1},
            {"start": 3},
            {"name": ["trained"]},
            {"name": "../evil"},
            {"further": 1},
        ],
    )
    def test_scans_of_the_wrong_kind_are_refused(self, run, changes):
        edit(run / SCANS_FILE, **changes)
        assert_refused(run, "does not name the scans of a run")

    def test_a_scan_that_has_gone_is_named(self, run, tmp_path):
        edit(run / SCANS_FILE, training=[str(tmp_path / "gone.nrrd")])
        assert_refused(run, "gone.nrrd")

    def test_a_model_to_start_from_that_has_gone_is_named(self, run, tmp_path):
        edit(run / SCANS_FILE, start=str(tmp_path / "gone"))
        assert_refused(run, "There is no model '.*gone'")

    @pytest.mark.parametrize("changes", [{"steps": "4"}, {"network": {"channels": 8}}, {"pixels": 8192}, {"speed": 1}])
    def test_settings_that_are_none_or_of_another_run_are_refused(self, run, changes):
        edit(run / CONFIG_FILE, **changes)
        assert_refused(run, "Start anew in another folder")


class TestLog:
    @pytest.mark.parametrize(
        "line",
        [
            *TEXTS,
            '{"kind": "loss"}',
            '{"step": 2}',
            '{"kind": "note", "step": "2", "message": "a"}',
            '{"kind": "note", "step": 2, "message": 7}',
            '{"kind": ["note"], "step": 2}',
            '{"kind": "loss", "step": 2, "learning_rate": NaN, "loss": {"views": 1}}',
            '{"kind": "loss", "step": 2, "learning_rate": 1, "loss": {"views": [1]}}',
            '{"kind": "loss", "step": 2, "learning_rate": 1, "loss": 5}',
            '{"kind": "gain", "step": 2, "gain": {"two": {}}}',
            '{"kind": "gain", "step": 2, "gain": {"2": {"over_linear_db": "much"}}}',
            '{"kind": "note", "step": 1' + "0" * 400 + ', "message": "a"}',
        ],
    )
    def test_damaged_lines_are_left_out(self, run, line):
        known = read_log(run)
        with open(run / LOG_FILE, "a", encoding="utf-8") as log:
            log.write(line.replace("\n", " ") + "\n")
        assert read_log(run) == known

    def test_a_run_goes_on_with_them(self, run):
        with open(run / LOG_FILE, "ab") as log:
            log.write(b'\xff\xfe\x00{"kind": "gain", "step": 2}\n{"step": null}\n')
        assert train(None, run, device="cpu")["steps"] == 4


class TestCheckpoint:
    @pytest.mark.parametrize("size", [0, 7, 100, 2000])
    def test_cut_short(self, run, size):
        path = run / CHECKPOINT_FILE
        path.write_bytes(path.read_bytes()[:size])
        assert_refused(run, "Start anew in another folder: the checkpoint .* is damaged")

    @pytest.mark.parametrize("facts", ["{", "[]", "5", DEEP])
    def test_facts_that_are_none(self, run, facts):
        tensors, _ = load_checkpoint(run / CHECKPOINT_FILE)
        save_file(tensors, run / CHECKPOINT_FILE, {"facts": facts})
        assert_refused(run, "is damaged")

    @pytest.mark.parametrize(
        "changes",
        [
            {"step": -1},
            {"step": 5},
            {"step": 1.5},
            {"step": None},
            {"seconds": "long"},
            {"best_gain": "high"},
            {"best_step": 10**30},
            {"judged_in_vain": -1},
            {"rate_scale": 0},
            {"rate_scale": 1e300},
            {"recoveries": True},
            {"recent": [5]},
            {"recent": {"views": 1}},
            {"recent": [{"views": "low"}]},
        ],
    )
    def test_impossible_facts(self, run, changes):
        tensors, facts = load_checkpoint(run / CHECKPOINT_FILE)
        save_checkpoint(run / CHECKPOINT_FILE, tensors, facts | changes)
        assert_refused(run, f"is damaged \\({next(iter(changes))} is missing or impossible\\)")

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("network.axial.heads.2.bias", lambda tensor: tensor[:2]),
            ("network.axial.heads.2.bias", lambda tensor: tensor * float("nan")),
            ("network.axial.heads.2.bias", lambda tensor: tensor.long()),
            ("average.axial.heads.2.bias", lambda tensor: tensor + float("inf")),
            ("optimizer.0.exp_avg", lambda tensor: tensor[..., :1]),
            ("optimizer.0.exp_avg_sq", lambda tensor: tensor - 1),
            ("optimizer.0.step", lambda tensor: torch.ones(3)),
            ("optimizer.0.step", None),
            ("network.axial.heads.2.bias", None),
        ],
    )
    def test_tensors_that_do_not_fit(self, run, name, change):
        tensors, facts = load_checkpoint(run / CHECKPOINT_FILE)
        tensor = tensors.pop(name)
        if change is not None:
            tensors[name] = change(tensor)
        save_checkpoint(run / CHECKPOINT_FILE, tensors, facts)
        assert_refused(run, f"is damaged \\({name}")

    @pytest.mark.parametrize("name", ["optimizer.x.step", "optimizer.9999.step", "network.more", "more"])
    def test_unknown_tensors(self, run, name):
        tensors, facts = load_checkpoint(run / CHECKPOINT_FILE)
        save_checkpoint(run / CHECKPOINT_FILE, tensors | {name: torch.zeros(1)}, facts)
        assert_refused(run, f"is damaged \\({name} is unknown\\)")


class TestSettings:
    @pytest.mark.parametrize("text", [*TEXTS, "\xff"])
    def test_a_file_without_them_is_refused(self, tmp_path, text):
        (tmp_path / "settings.json").write_bytes(text.encode("latin-1" if text == "\xff" else "utf-8"))
        with pytest.raises(InputError, match="Check --settings: .*settings.json cannot be read as JSON"):
            _read_settings(tmp_path / "settings.json")

    @pytest.mark.parametrize("path", ["none.json", ""])
    def test_a_file_that_is_none_is_refused(self, tmp_path, path):
        with pytest.raises(InputError, match="Check --settings"):
            _read_settings(tmp_path / path)

    @pytest.mark.parametrize("name", sorted(TrainingConfig().to_dict()))
    @pytest.mark.parametrize(
        "value",
        [
            "NaN",
            "1e400",
            "-1",
            "-1e400",
            '"4"',
            "null",
            "true",
            "[]",
            "[[[]]]",
            '{"a": {}}',
            "1" + "0" * 400,
            '{"2": "x"}',
        ],
    )
    def test_an_impossible_value_is_one_sentence(self, name, value):
        with pytest.raises(InputError, match="Change the training settings") as refused:
            TrainingConfig.from_dict(json.loads(f'{{"{name}": {value}}}'))
        assert len(str(refused.value)) < 300

    @pytest.mark.parametrize(
        "settings",
        [
            {"weights": {"views": -1}},
            {"weights": {"speed": 1}},
            {"weights": {"views": 0, "mean": 0, "wavelet": 0}},
            {"factor_shares": {"two": 1}},
            {"factor_shares": {"2": 0}},
            {"factor_shares": {"2": 1e308, "3": 1e308}},
            {"network": {"neurons": 4}},
            {"network": {"channels": 10**9}},
            {"network": {"specialists": {"9": {}}}},
            {"network": {"specialists": {"4": {"specialists": {}}}}},
            {"network": {"factors": [2]}},
            {"acquisition": "thick", "network": {"channels": 8}},
            {"average_decay": 1},
            {"pixels": 17},
        ],
    )
    def test_what_does_not_fit_together_is_one_sentence(self, settings):
        with pytest.raises(InputError, match="Change the training settings"):
            TrainingConfig.from_dict(settings)

    @pytest.mark.parametrize(
        "settings",
        [
            {"network": {"channels": 4096, "axial_blocks": 4096, "pixel_blocks": 1}},
            {"network": {**NETWORK, "wide_gaps": 9}},
            {"network": {**NETWORK, "thick": 1}},
            {"rehearsal_share": 0.5},
            {"pixels": 4096},
            {"steps": "4"},
            {"acquisition": []},
        ],
    )
    def test_a_refused_run_leaves_nothing(self, scan, tmp_path, settings):
        with pytest.raises(InputError):
            train(TrainingSet([scan]), tmp_path / "below" / "run", SETTINGS | settings, device="cpu")
        assert os.listdir(tmp_path) == []

    def test_what_no_machine_has_the_memory_for_is_refused(self):
        config = TrainingConfig(batch=4096, slices=1024, pixels=4096)
        with pytest.raises(InputError, match="needs more than .* GB of memory, and there are"):
            check_step(config, 10_000, 1, torch.device("cpu"))
        check_step(TrainingConfig(), 10_000, 1, torch.device("cpu"))


class TestRefusals:
    @pytest.mark.parametrize(
        "changes",
        [
            {"training": ["none.nrrd"]},
            {"held_out": ["none.nrrd"]},
            {"hold_out_share": 2.0},
            {"hold_out_share": float("nan")},
            {"start": "none"},
            {"name": "nul"},
            {"device": "abacus"},
            {"minutes": float("nan")},
        ],
    )
    def test_leave_nothing(self, scan, tmp_path, changes):
        given = {"training": [scan]} | {name: value for name, value in changes.items() if name in SET_FIELDS}
        arguments = {"device": "cpu"} | {name: value for name, value in changes.items() if name not in SET_FIELDS}
        with pytest.raises(InputError):
            train(TrainingSet(**given), tmp_path / "below" / "run", **({"settings": SETTINGS} | arguments))
        assert os.listdir(tmp_path) == []

    def test_keep_a_folder_that_was_there(self, scan, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "notes.txt").write_text("mine")
        with pytest.raises(InputError):
            train(TrainingSet(["none.nrrd"]), tmp_path / "run", SETTINGS, device="cpu")
        assert content(tmp_path) == {"run/notes.txt": b"mine"}

    @pytest.mark.parametrize(
        "changes",
        [{"scans": ["none.nrrd"]}, {"settings": {"steps": 0}}, {"validate": ["none.nrrd"]}, {"start": "none"}],
    )
    def test_of_an_ablation_leave_nothing(self, scan, tmp_path, changes):
        arguments = {"scans": [scan], "settings": SETTINGS} | changes
        scans, settings = arguments.pop("scans"), arguments.pop("settings")
        with pytest.raises(InputError):
            ablate(Ablation(scans, settings, **arguments), tmp_path / "below" / "arms", device="cpu")
        assert os.listdir(tmp_path) == []


class TestDivergence:
    def test_ends_in_a_sentence_with_a_checkpoint_to_use(self, scan, tmp_path):
        settings = SETTINGS | {"learning_rate": 1e30, "steps": 60, "patience": 0}
        with pytest.raises(InputError, match="Lower the learning rate .* The checkpoint before that is kept"):
            train(TrainingSet([scan], hold_out_share=0), tmp_path / "run", settings, device="cpu")
        tensors, facts = load_checkpoint(tmp_path / "run" / CHECKPOINT_FILE)
        assert all(tensor.isfinite().all() for tensor in tensors.values())
        assert facts["recoveries"] == 8

    def test_keeps_the_model_it_began_with(self, scan, tmp_path, tiny_model):
        settings = {
            "steps": 60,
            "slices": 4,
            "pixels": 16,
            "learning_rate": 1e30,
            "rehearsal_share": 0.0,
            "patience": 0,
        }
        with pytest.raises(InputError, match="Lower the learning rate"):
            train(TrainingSet([scan], start=str(tiny_model)), tmp_path / "run", settings, device="cpu")
        assert load_model(tmp_path / "run" / "model").sha256 == load_model(tiny_model).sha256
