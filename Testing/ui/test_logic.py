"""The logic as scripts use it: it waits, opens no dialog, and says in a sentence what is wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer

from desk import ROOT, desk, volumes, workers
from scene import make_bent_transform, make_volume_node
from XViewSynthLib import selfcheck
from XViewSynthLib.request import OPTIONS, Request
from XViewSynthScene.provenance import read_provenance

pytestmark = pytest.mark.slow


@pytest.fixture
def batch(tmp_path):
    """Slicer without a window, as in a batch script."""
    with desk(tmp_path, main_window=False) as opened:
        yield opened


@pytest.fixture
def node(batch, scan):
    return make_volume_node(slicer.mrmlScene, scan, "Chest")


@pytest.fixture
def logic(batch):
    return slicer.util.getModuleLogic("XViewSynth")


@pytest.fixture
def options(tiny_model):
    return {"model": tiny_model, "device": "cpu"}


class TestEnhance:
    def test_gives_the_node_with_the_slices(self, logic, node, scan, options):
        enhanced = logic.enhance(node, factor=2, **options)
        assert np.array_equal(slicer.util.arrayFromVolume(enhanced)[::2], scan.voxels)
        assert read_provenance(enhanced).factor == 2

    def test_fills_an_output(self, logic, node, options):
        output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
        assert logic.enhance(node, output, spacing=2.0, **options) is output
        assert output.GetSpacing()[2] == 2.0

    def test_leaves_neither_process_nor_file(self, batch, logic, node, options):
        logic.enhance(node, factor=2, **options)
        assert batch.leaves_nothing()

    def test_opens_no_dialog(self, batch, logic, node, options):
        logic.enhance(node, factor=2, **options)
        with pytest.raises(ValueError, match="both input and output"):
            logic.enhance(node, node, **options)
        assert batch.desktop.shown_messages == []

    def test_slicer_lives_meanwhile(self, batch, logic, node, options):
        import qt

        ticks = []
        timer = qt.QTimer()
        timer.setInterval(50)
        timer.connect("timeout()", lambda: ticks.append(1))
        timer.start()
        logic.enhance(node, factor=2, **options)
        timer.stop()
        assert len(ticks) > 5

    def test_an_interrupted_script_leaves_nothing(self, batch, logic, node, options, monkeypatch):
        def interrupt():
            if workers():
                raise KeyboardInterrupt

        monkeypatch.setattr(slicer, "app", _Interrupting(slicer.app, interrupt))
        with pytest.raises(KeyboardInterrupt):
            logic.enhance(node, factor=2, **options)
        monkeypatch.undo()
        assert batch.leaves_nothing()
        assert len(volumes()) == 1


class _Interrupting:
    """An application in which the user presses Ctrl+C."""

    def __init__(self, app, interrupt):
        self._app, self.processEvents = app, interrupt

    def __getattr__(self, name):
        return getattr(self._app, name)


class TestRefusals:
    @pytest.mark.parametrize("kind", ["vtkMRMLLabelMapVolumeNode", "vtkMRMLVectorVolumeNode", "vtkMRMLModelNode"])
    def test_what_is_no_ct_volume(self, logic, options, kind):
        other = slicer.mrmlScene.AddNewNodeByClass(kind, "Other")
        with pytest.raises(ValueError, match="choose a CT volume"):
            logic.enhance(other, **options)

    def test_no_node(self, logic, options):
        with pytest.raises(ValueError, match="No scan is chosen"):
            logic.enhance(None, **options)

    def test_a_bent_grid(self, logic, node, options):
        node.SetAndObserveTransformNodeID(make_bent_transform(slicer.mrmlScene).GetID())
        with pytest.raises(ValueError, match="harden the transform first"):
            logic.enhance(node, **options)

    def test_a_factor_out_of_range(self, logic, node, options):
        with pytest.raises(ValueError, match="from 2 to 8"):
            logic.enhance(node, factor=9, **options)

    def test_two_goals(self, logic, node, options):
        with pytest.raises(ValueError, match="not several"):
            logic.enhance(node, factor=2, isotropic=True, **options)

    def test_a_model_that_is_not_there(self, logic, node):
        with pytest.raises(ValueError, match="There is no model 'elsewhere'"):
            logic.enhance(node, model="elsewhere", device="cpu")
        assert len(volumes()) == 1


class TestOptions:
    """They are the fields of a request, which the command line has too."""

    def test_every_field_is_an_option_and_described(self, logic):
        from XViewSynthUI.options import ENHANCE_FIELDS, scriptName

        assert set(ENHANCE_FIELDS) == set(OPTIONS)
        for field, option in OPTIONS.items():
            assert f":param {scriptName(field)}: {option.help}" in type(logic).enhance.__doc__

    def test_an_unknown_one_is_named_with_those_that_exist(self, logic, node):
        with pytest.raises(TypeError, match=r"enhance has no option 'facotr': use factor, .*newThickness.*\."):
            logic.enhance(node, facotr=4)
        with pytest.raises(TypeError, match=r"selfCheck has no option 'texture': use factor, model, .*\."):
            logic.selfCheck(node, texture="match")

    def test_values_are_those_of_the_request(self):
        from XViewSynthUI.options import ENHANCE_FIELDS, requestFrom

        values = {"memory": 2, "newThickness": 1.5, "acquisition": "thick", "factor": None, "isotropic": True}
        expected = Request(memory=2_000_000_000, new_thickness=1.5, acquisition="thick", isotropic=True)
        assert requestFrom("enhance", ENHANCE_FIELDS, values) == expected

    @pytest.mark.parametrize("memory", [True, "2", 0, float("nan")])
    def test_a_memory_that_is_no_number_is_refused(self, logic, node, memory):
        with pytest.raises(ValueError, match="The memory must be"):
            logic.enhance(node, memory=memory)

    def test_the_reference_lists_them_all(self):
        from XViewSynthUI.options import ENHANCE_FIELDS, SELF_CHECK_FIELDS, scriptName

        page = (ROOT / "Resources" / "Docs" / "reference" / "slicer-scripts.md").read_text(encoding="utf-8")
        enhance, selfcheck = page.split("### enhance")[1].split("### selfCheck")
        listed = re.findall(r"^\| `(\w+)` \|", enhance, re.M)
        named = set(re.findall(r"`(\w+)`", selfcheck.split("###")[0]))
        assert set(listed) == {*map(scriptName, ENHANCE_FIELDS), "inputVolume", "outputVolume", "inProcess"}
        assert set(map(scriptName, SELF_CHECK_FIELDS)) - {"factor"} <= named


class TestSelfCheck:
    def test_gives_the_engines_report(self, logic, node, scan, options, tiny_model):
        report = logic.selfCheck(node, **options)
        expected = selfcheck(scan, model=str(tiny_model), device="cpu")
        assert report["methods"]["enhanced"]["psnr_db"] == expected["methods"]["enhanced"]["psnr_db"]
        assert logic.selfCheck(node, inProcess=True, **options)["factor"] == report["factor"] == 2


class TestOwnTests:
    def test_slicers_test_runner_finds_and_passes_them(self, batch):
        slicer.selfTests["XViewSynth"](msec=1)
