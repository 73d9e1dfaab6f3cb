"""Several scans of one scene, one after another, with real workers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

from scans import affine_from, anatomy
from scene import make_bent_transform, make_volume_node, runs_begun, wait_until
from XViewSynthLib import InputError, Volume, enhance
from XViewSynthLib.request import Request
from XViewSynthScene.results import remove_volume
from XViewSynthScene.several import SeveralRun, candidates
from XViewSynthScene.volumes import volume_from_node

pytestmark = pytest.mark.slow

TIMEOUT_SECONDS = 300


@pytest.fixture
def request_(tiny_model):
    return Request(factor=2, model=str(tiny_model), device="cpu")


@pytest.fixture
def scans():
    return [Volume(anatomy((6, 20 + 2 * size, 24)), affine_from((0.7, 0.7, 4.0))) for size in range(3)]


@pytest.fixture
def nodes(scene, scans):
    return [make_volume_node(scene, volume, f"Scan {number}") for number, volume in enumerate(scans, 1)]


@pytest.fixture
def begin(tmp_path):
    """Starts a run whose temporary folders lie in a folder of the test, and ends it after the test."""
    with runs_begun(SeveralRun, tmp_path) as begin:
        yield begin


def finish(run):
    return wait_until(run, lambda state: state.ended, TIMEOUT_SECONDS)


class TestCandidates:
    def test_are_the_scans_with_what_they_would_give(self, nodes, scene, request_):
        found = candidates(scene, request_)
        assert [candidate.node for candidate in found] == nodes
        assert [candidate.outlook.grid.slices for candidate in found] == [11, 11, 11]

    def test_a_scan_that_cannot_be_enhanced_says_why(self, scene, scans, request_):
        node = make_volume_node(scene, scans[0], "Bent")
        node.SetAndObserveTransformNodeID(make_bent_transform(scene).GetID())
        (found,) = candidates(scene, request_)
        assert found.outlook is None
        assert "non-linear" in found.problem

    def test_results_are_none(self, begin, nodes, scene, request_):
        finish(begin(nodes[:1], request_))
        assert [candidate.node for candidate in candidates(scene, request_)] == nodes


class TestRun:
    def test_each_scan_gets_the_voxels_of_the_engine(self, begin, nodes, scans, request_):
        run = begin(nodes, request_)
        assert finish(run).status == "done"
        for item, volume in zip(run.items, scans, strict=True):
            expected = enhance(volume, request=request_).volume
            np.testing.assert_array_equal(volume_from_node(item.output_node).voxels, expected.voxels)
            assert item.seconds > 0

    def test_reports_the_scan_that_runs_and_the_time_left(self, begin, nodes, request_):
        run = begin(nodes, request_)
        stages, lefts = [], []

        def ended(state):
            stages.append(state.stage)
            lefts.append(state.seconds_left)
            return state.ended

        wait_until(run, ended, TIMEOUT_SECONDS)
        for number in (1, 2, 3):
            assert any(stage.startswith(f"scan {number} of 3 (Scan {number}): ") for stage in stages)
        assert any(left for left in lefts)

    def test_a_scan_that_fails_does_not_stop_the_others(self, begin, nodes, scene, request_):
        nodes[1].SetAndObserveTransformNodeID(make_bent_transform(scene).GetID())
        run = begin(nodes, request_)
        assert finish(run).status == "done"
        assert [item.status for item in run.items] == ["done", "failed", "done"]
        assert "non-linear" in run.items[1].message

    def test_a_scan_that_left_the_scene_fails_in_its_turn(self, begin, nodes, request_):
        run = begin(nodes, request_)
        remove_volume(nodes[2])
        assert finish(run).status == "done"
        assert run.items[2].message == "'Scan 3' is no longer in the scene."

    def test_none_that_works_is_a_failure(self, begin, nodes, request_, tmp_path):
        run = begin(nodes, Request(factor=2, model=str(tmp_path / "none"), device="cpu"))
        state = finish(run)
        assert (state.status, state.message) == ("failed", "No scan could be enhanced: the table says why.")

    def test_cancelling_keeps_what_is_done(self, begin, nodes, request_, tmp_path):
        run = begin(nodes, request_)
        wait_until(run, lambda state: run.done, TIMEOUT_SECONDS)
        run.cancel()
        state = finish(run)
        assert state.status == "cancelled"
        assert "scans are enhanced and stay in the scene." in state.message
        assert run.items[0].output_node.GetScene() is not None
        assert run.items[2].status == "cancelled"
        assert not list(tmp_path.glob("XViewSynth*"))

    def test_closing_the_scene_ends_it(self, begin, scene, nodes, request_):
        run = begin(nodes, request_)
        scene.Clear(0)
        state = finish(run)
        assert (state.status, state.message) == ("cancelled", "The scene was closed, so the work on it has ended.")

    def test_needs_a_scan(self, request_):
        with pytest.raises(InputError, match="Tick at least one scan."):
            SeveralRun([], request_)
