"""Which volumes count as scans: none that XViewSynth made, also after saving, cropping, or from older scenes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")

from scene import make_provenance, make_volume_node, saved_and_loaded
from scene_pairs import make_pair
from XViewSynthLib import InputError, Volume
from XViewSynthLib.request import Request
from XViewSynthScene.provenance import ENHANCED_ROLE, PREVIEW_ROLE, ROLE_ATTRIBUTE, UNCERTAINTY_ROLE, role_of
from XViewSynthScene.results import create_output
from XViewSynthScene.runs import EnhanceRun, SelfCheckRun, enhance_in_process, look_ahead, selfcheck_in_process
from XViewSynthScene.scans import check_scan
from XViewSynthScene.volumes import set_voxels_and_geometry, volume_from_node

STARTS = {
    "look_ahead": look_ahead,
    "enhance": EnhanceRun,
    "selfcheck": SelfCheckRun,
    "enhance_in_process": enhance_in_process,
    "selfcheck_in_process": selfcheck_in_process,
}


@pytest.fixture
def output(scene, scan):
    """The enhanced volume and the uncertainty map that an enhancement leaves."""
    node = make_volume_node(scene, scan, "Chest")
    thin = Volume(np.zeros((65, 40, 36), np.int16), scan.upsampled_affine("K", 4))
    provenance = make_provenance(slices=65, factor=4, input_name="Chest")
    return create_output(node, thin, thin.with_voxels(np.zeros(thin.voxels.shape, np.float32)), provenance)


class TestRoles:
    def test_of_a_result(self, scene, output):
        assert [role_of(node) for node in output] == [ENHANCED_ROLE, UNCERTAINTY_ROLE]
        assert role_of(scene.GetFirstNodeByName("Chest")) is None

    def test_they_are_saved_with_the_scene(self, scene, output, tmp_path):
        names = [node.GetName() for node in output]
        with saved_and_loaded(scene, tmp_path, "mrml") as loaded:
            assert [role_of(loaded.GetFirstNodeByName(name)) for name in names] == [ENHANCED_ROLE, UNCERTAINTY_ROLE]

    def test_scenes_of_former_versions_have_none_and_are_understood(self, scene, scan):
        pair = make_pair(scene, scan)
        assert [role_of(node) for node in (pair.original, pair.enhanced, pair.uncertainty)] == [
            None,
            ENHANCED_ROLE,
            UNCERTAINTY_ROLE,
        ]

    def test_a_cropped_result_remains_one(self, output, scan):
        set_voxels_and_geometry(output[0], Volume(scan.voxels[:9], scan.affine))
        assert role_of(output[0]) == ENHANCED_ROLE

    def test_a_volume_that_gets_a_result_has_its_role(self, scene, scan, output):
        other = make_volume_node(scene, scan, "Mine")
        thin = volume_from_node(output[0])
        copied = thin.with_voxels(thin.voxels.copy())
        provenance = make_provenance(slices=65, factor=4)
        create_output(scene.GetFirstNodeByName("Chest"), copied, None, provenance, other)
        assert role_of(other) == ENHANCED_ROLE


class TestRefused:
    @pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
    def test_an_enhanced_volume(self, output, start):
        with pytest.raises(InputError, match="choose the scan that it was made from, 'Chest'"):
            start(output[0], Request(factor=2))

    @pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
    def test_an_uncertainty_map(self, output, start):
        with pytest.raises(InputError, match="is an uncertainty map and no CT"):
            start(output[1], Request(factor=2))

    def test_a_preview(self, scene, scan):
        node = make_volume_node(scene, scan, "Preview now")
        node.SetAttribute(ROLE_ATTRIBUTE, PREVIEW_ROLE)
        with pytest.raises(InputError, match="preview of a training"):
            check_scan(node)

    def test_the_input_name_is_known_when_the_input_is_gone(self, scene, output):
        scene.RemoveNode(scene.GetFirstNodeByName("Chest"))
        with pytest.raises(InputError, match="made from, 'Chest'"):
            check_scan(output[0])


class TestAccepted:
    def test_a_scan(self, scene, scan):
        check_scan(make_volume_node(scene, scan, "Chest"))
