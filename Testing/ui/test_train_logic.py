"""Training as scripts use it: it waits, opens no dialog, and says in a sentence what is wrong."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer

from desk import ENHANCING, TRAINING, desk
from scans import affine_from, anatomy
from scene import make_volume_node
from XViewSynthLib import Volume, write_volume

pytestmark = pytest.mark.slow

SMALL = {"network": {"channels": 4, "axial_blocks": 1, "pixel_blocks": 1}, "slices": 5, "pixels": 16}
OPTIONS = {"start": None, "steps": 2, "factors": (2,), "device": "cpu", "further": SMALL}


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """Slicer without a window, as in a batch script."""
    monkeypatch.setenv("XVIEWSYNTH_MODELS", str(tmp_path / "models"))
    with desk(tmp_path / "slicer", TRAINING, main_window=False) as opened:
        yield opened


@pytest.fixture
def logic(batch):
    return slicer.util.getModuleLogic(TRAINING)


@pytest.fixture
def volume():
    return Volume(anatomy((33, 48, 48)), affine_from((0.8, 0.8, 1.0)))


class TestTrain:
    def test_from_a_node_and_a_file_to_a_model_in_use(self, batch, logic, volume, tmp_path):
        node = make_volume_node(slicer.mrmlScene, volume, "Chest")
        write_volume(volume, tmp_path / "other.nrrd")
        report = logic.train([node], tmp_path / "run", [tmp_path / "other.nrrd"], name="mine", **OPTIONS)
        assert report["steps"] == 2
        assert set(report["after"]) == {"2"}
        assert logic.useModel(tmp_path / "run") == "mine"
        assert slicer.util.getModuleLogic(ENHANCING).getParameterNode().model == "mine"
        assert batch.leaves_nothing()
        assert batch.desktop.shown_messages == []

    def test_slicers_test_runner_finds_and_passes_the_modules_own_tests(self, batch):
        slicer.selfTests[TRAINING](msec=1)


class TestRefusals:
    @pytest.fixture
    def node(self, batch, volume):
        return make_volume_node(slicer.mrmlScene, volume, "Chest")

    def test_no_scan(self, logic, tmp_path):
        with pytest.raises(ValueError, match="at least one scan"):
            logic.train([], tmp_path / "run")

    def test_no_node(self, logic, tmp_path):
        with pytest.raises(ValueError, match="No scan is chosen"):
            logic.train([None], tmp_path / "run")

    def test_an_unknown_setting(self, logic, node, tmp_path):
        with pytest.raises(ValueError, match="no setting minuets"):
            logic.train([node], tmp_path / "run", minuets=3)

    def test_what_the_worker_refuses(self, logic, node, tmp_path):
        with pytest.raises(ValueError, match="gamma"):
            logic.train([node], tmp_path / "run", **{**OPTIONS, "gamma": 2.0})
        assert not (tmp_path / "run").exists()

    def test_nothing_to_resume(self, logic, tmp_path):
        with pytest.raises(ValueError, match="was stopped"):
            logic.resume(tmp_path)

    def test_no_model_to_use(self, logic, tmp_path):
        with pytest.raises(ValueError, match="no model yet"):
            logic.useModel(tmp_path)
