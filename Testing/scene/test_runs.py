"""From node to node in the background: real workers on a real scene, whatever happens to the nodes meanwhile."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import psutil
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

import slicer

from scans import affine_from, anatomy
from scene import make_bent_transform, make_volume_node, runs_begun, wait_until
from XViewSynthLib import InputError, Volume, enhance, selfcheck
from XViewSynthLib.request import Request
from XViewSynthScene.provenance import input_node, read_provenance
from XViewSynthScene.results import remove_volume
from XViewSynthScene.runs import EnhanceRun, SelfCheckRun, enhance_in_process, look_ahead, selfcheck_in_process
from XViewSynthScene.volumes import volume_from_node

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 120
VOLUMES = "vtkMRMLScalarVolumeNode"


@pytest.fixture
def node(scene, scan):
    return make_volume_node(scene, scan, "Chest")


@pytest.fixture
def settings(tiny_model):
    return Request(factor=2, model=str(tiny_model), device="cpu")


@pytest.fixture
def begin(tmp_path):
    """Starts an enhancement whose temporary folders lie in a folder of the test, and ends it after the test."""
    with runs_begun(EnhanceRun, tmp_path) as begin:
        yield begin


def finish(run):
    return wait_until(run, lambda state: state.ended, TIMEOUT_SECONDS)


def wait_for_worker(run):
    """The worker's process, as soon as it computes."""
    known = set(psutil.Process().children())
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while run.poll().status != "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return next(child for child in {*psutil.Process().children(), *known} if "XViewSynthLib" in child.cmdline())


class TestOutlook:
    def test_tells_the_grid_and_what_it_takes(self, node, settings):
        outlook = look_ahead(node, settings)
        assert (outlook.slices, outlook.slice_spacing) == (17, 4.0)
        assert (outlook.grid.slices, outlook.grid.slice_spacing, outlook.frames) == (33, 2.0, 1)
        assert outlook.output_bytes == 33 * 40 * 36 * 2
        assert outlook.timed_voxels == 16 * 40 * 36

    def test_refuses_what_cannot_be_enhanced(self, scene, settings):
        with pytest.raises(InputError, match="No scan is chosen"):
            look_ahead(None, settings)
        with pytest.raises(InputError, match="labelmap"):
            look_ahead(scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels"), settings)


class TestEnhancing:
    def test_gives_the_voxels_of_the_engine(self, begin, node, scan, settings):
        run = begin(node, settings)
        assert finish(run).status == "done"
        expected = enhance(scan, factor=2, model=settings.model, device="cpu")
        assert np.array_equal(volume_from_node(run.output_node).voxels, expected.volume.voxels)
        assert np.array_equal(volume_from_node(run.uncertainty_node).voxels, expected.disagreement.voxels)
        np.testing.assert_allclose(volume_from_node(run.output_node).affine, expected.volume.affine, atol=1e-12)

    def test_in_process_gives_the_same_node(self, begin, node, settings):
        run = begin(node, settings)
        finish(run)
        same = enhance_in_process(node, settings)
        assert np.array_equal(volume_from_node(same).voxels, volume_from_node(run.output_node).voxels)
        first, second = read_provenance(run.output_node), read_provenance(same)
        assert first.synthetic_slices == second.synthetic_slices
        assert first.model_sha256 == second.model_sha256

    def test_says_where_the_result_comes_from(self, begin, node, settings):
        run = begin(node, settings)
        finish(run)
        assert run.output_node.GetName() == "Chest enhanced x2"
        assert input_node(run.output_node) is node
        assert read_provenance(run.output_node).synthetic_slices == tuple(range(1, 33, 2))
        assert run.report["factor"] == 2

    def test_fills_the_output_that_was_chosen(self, begin, scene, node, settings):
        output = scene.AddNewNodeByClass(VOLUMES, "Mine")
        run = begin(node, settings, output)
        finish(run)
        assert run.output_node is output
        assert output.GetName() == "Mine"

    def test_refuses_the_input_as_output(self, node, settings):
        with pytest.raises(InputError, match="both input and output"):
            EnhanceRun(node, settings, node)

    def test_refuses_a_bent_grid(self, scene, node, settings):
        node.SetAndObserveTransformNodeID(make_bent_transform(scene).GetID())
        with pytest.raises(InputError, match="harden"):
            EnhanceRun(node, settings)


class TestMeanwhile:
    def test_without_its_input_it_still_delivers(self, begin, scene, node, scan, settings):
        node.GetScalarVolumeDisplayNode().SetAutoWindowLevel(False)
        node.GetScalarVolumeDisplayNode().SetWindowLevel(400, 40)
        run = begin(node, settings)
        remove_volume(node)
        del node
        assert finish(run).status == "done"
        assert np.array_equal(volume_from_node(run.output_node).voxels[::2], scan.voxels)
        assert run.output_node.GetScalarVolumeDisplayNode().GetWindow() == 400
        assert run.output_node.GetName() == "Chest enhanced x2"

    def test_without_its_output_it_makes_a_new_one(self, begin, scene, node, settings):
        output = scene.AddNewNodeByClass(VOLUMES, "Mine")
        run = begin(node, settings, output)
        remove_volume(output)
        assert finish(run).status == "done"
        assert run.output_node.GetName() == "Chest enhanced x2"

    def test_closing_the_scene_ends_it(self, begin, scene, node, settings, tmp_path):
        run = begin(node, settings)
        worker = wait_for_worker(run)
        scene.Clear(False)
        state = finish(run)
        assert state.status == "cancelled"
        assert "scene was closed" in state.message
        assert scene.GetNumberOfNodesByClass(VOLUMES) == 0
        assert not worker.is_running()
        assert list(tmp_path.iterdir()) == []

    def test_a_result_that_came_before_the_scene_closed_is_not_put_into_the_next(self, begin, scene, node, settings):
        run = begin(node, settings)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not run._job.poll().ended and time.monotonic() < deadline:
            time.sleep(0.02)
        scene.Clear(False)
        assert run.poll().status == "cancelled"
        assert scene.GetNumberOfNodesByClass(VOLUMES) == 0

    def test_cancelled_within_two_seconds(self, begin, scene, node, settings, tmp_path):
        run = begin(node, settings)
        worker = wait_for_worker(run)
        run.cancel()
        start = time.monotonic()
        assert finish(run).status == "cancelled"
        assert time.monotonic() - start < 2
        assert not worker.is_running()
        assert scene.GetNumberOfNodesByClass(VOLUMES) == 1
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
    def test_a_killed_worker_leaves_a_sentence_and_nothing_else(self, begin, scene, node, settings, tmp_path):
        run = begin(node, settings)
        wait_for_worker(run).send_signal(signal.SIGKILL)
        state = finish(run)
        assert state.status == "failed"
        assert "signal 9" in state.message
        assert scene.GetNumberOfNodesByClass(VOLUMES) == 1
        assert list(tmp_path.iterdir()) == []


class TestSequence:
    @pytest.fixture
    def shown(self, scene, node):
        """A volume that shows a sequence of two frames, the second 10 HU brighter than the first."""
        sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Heart")
        brighter = volume_from_node(node).voxels + np.int16(10)
        sequence.SetDataNodeAtValue(node, "0")
        second = make_volume_node(scene, volume_from_node(node).with_voxels(brighter), "second")
        sequence.SetDataNodeAtValue(second, "125")
        remove_volume(second)
        browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        slicer.vtkSlicerSequencesLogic().UpdateProxyNodesFromSequences(browser)
        return browser.GetProxyNode(sequence)

    def test_every_frame_is_enhanced(self, begin, shown, settings):
        assert look_ahead(shown, settings).frames == 2
        run = begin(shown, settings)
        stages = set()
        while not (state := run.poll()).ended:
            stages.add(state.stage.split(":")[0])
            time.sleep(0.02)
        assert state.status == "done"
        assert {"frame 1 of 2", "frame 2 of 2"} <= stages
        assert run.output_node.GetImageData().GetDimensions() == (36, 40, 33)

    def test_a_sequence_needs_a_new_output(self, scene, shown, settings):
        with pytest.raises(InputError, match="choose no output"):
            EnhanceRun(shown, settings, scene.AddNewNodeByClass(VOLUMES, "Mine"))


class TestSelfCheck:
    def test_gives_the_report_of_the_engine(self, node, scan, tiny_model, tmp_path):
        settings = Request(model=str(tiny_model), device="cpu")
        run = SelfCheckRun(node, settings, folder=tmp_path)
        run.start()
        assert finish(run).status == "done"
        expected = selfcheck(scan, model=str(tiny_model), device="cpu")
        assert run.result["methods"]["enhanced"]["psnr_db"] == expected["methods"]["enhanced"]["psnr_db"]
        same = selfcheck_in_process(node, settings)
        assert same["methods"]["cubic"]["mae_hu"] == expected["methods"]["cubic"]["mae_hu"]

    def test_a_scan_that_is_too_short_gets_a_sentence(self, scene, tiny_model, tmp_path):
        node = make_volume_node(scene, Volume(anatomy((5, 20, 20)), affine_from()), "Short")
        run = SelfCheckRun(node, Request(model=str(tiny_model), device="cpu"), folder=tmp_path)
        run.start()
        state = finish(run)
        assert state.status == "failed"
        assert "longer scan" in state.message
