"""Provenance: what is written on a node comes back, through saving and loading, and nothing is made of damage."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("slicer", reason="slicer-core is not installed")

from scene import make_provenance, make_volume_node, mrml_scene, saved_and_loaded
from XViewSynthLib import __version__, enhance, write_volume
from XViewSynthScene.provenance import (
    INPUT_REFERENCE,
    PREFIX,
    copy_all_to_storage,
    copy_to_storage,
    input_node,
    now,
    provenance_attributes,
    provenance_from_report,
    read_provenance,
    restore_attributes,
    write_provenance,
)


@pytest.fixture
def provenance():
    return make_provenance(slices=17, factor=4, input_name="CT")


@pytest.fixture
def node(scene, scan):
    """17 slices, so every fourth of them may be an observed one."""
    return make_volume_node(scene, scan, "CT enhanced x4")


class TestValues:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("model", ""),
            ("model_sha256", "abc"),
            ("factor", 0),
            ("axis", "L"),
            ("acquisition", ""),
            ("synthetic_slices", (2, 1)),
            ("synthetic_slices", (1, 1)),
            ("synthetic_slices", (-1,)),
            ("synthetic_slices", (99,)),
            ("observed_slices", -1),
            ("software_version", ""),
            ("created", "yesterday"),
            ("created", "2026-01-02T03:04:05"),
            ("created", "2026-01-02T03:04:05+02:00"),
            ("quality", ""),
            ("texture", ""),
            ("slice_thickness", 0.0),
            ("slice_thickness", math.inf),
        ],
    )
    def test_impossible_ones_are_refused(self, provenance, field, value):
        with pytest.raises(ValueError, match="damaged|Invalid isoformat"):
            replace(provenance, **{field: value})

    def test_tells_synthetic_from_observed(self, provenance):
        assert [provenance.is_synthetic(index) for index in range(5)] == [False, True, True, True, False]

    def test_counts_all_slices(self, provenance):
        assert provenance.slices == 17

    def test_now_is_a_time_of_creation(self, provenance):
        assert replace(provenance, created=now()).created.endswith("+00:00")


class TestOnANode:
    def test_comes_back(self, node, provenance):
        write_provenance(node, provenance)
        assert read_provenance(node) == provenance

    @pytest.mark.parametrize("thickness", [None, 1.25, 0.1 + 0.2])
    def test_quality_and_texture_come_back(self, node, provenance, thickness):
        written = replace(provenance, quality="best", texture="match", slice_thickness=thickness)
        write_provenance(node, written)
        assert read_provenance(node) == written

    def test_the_provenance_of_a_former_result_is_removed(self, node, provenance):
        write_provenance(node, replace(provenance, quality="best", slice_thickness=2.0))
        write_provenance(node, provenance)
        assert read_provenance(node) == provenance

    @given(indices=st.sets(st.integers(0, 60)), name=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
    def test_any_slices_and_any_name_come_back(self, indices, name):
        indices = tuple(sorted(indices))
        observed = 61 - len(indices)
        written = replace(
            make_provenance(slices=17, factor=4), synthetic_slices=indices, observed_slices=observed, input_name=name
        )
        with mrml_scene() as scene:
            node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
            write_provenance(node, written)
            assert read_provenance(node) == written

    def test_other_nodes_have_none(self, node):
        assert read_provenance(node) is None
        assert read_provenance(None) is None

    def test_slices_are_written_briefly(self, node, provenance):
        write_provenance(node, provenance)
        assert node.GetAttribute("XViewSynth.SyntheticSlices") == "1-3,5-7,9-11,13-15"

    def test_node_id_is_that_of_today(self, scene, node, provenance):
        write_provenance(node, provenance)
        other = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
        node.SetNodeReferenceID(INPUT_REFERENCE, other.GetID())
        assert read_provenance(node).input_node_id == other.GetID()
        assert input_node(node) is other

    def test_attributes_can_be_put_back(self, node, provenance):
        write_provenance(node, provenance)
        before = provenance_attributes(node)
        write_provenance(node, replace(provenance, model="other"))
        restore_attributes(node, before)
        assert read_provenance(node) == provenance
        restore_attributes(node, {})
        assert provenance_attributes(node) == {}


class TestDamage:
    @pytest.mark.parametrize(
        ("attribute", "text"),
        [
            ("Model", None),
            ("Factor", "four"),
            ("Axis", "left"),
            ("SyntheticSlices", "1-3,x"),
            ("SyntheticSlices", "3-1"),
            ("SyntheticSlices", "1-99999999999"),
            ("ObservedSlices", ""),
            ("ModelSHA256", "abc"),
            ("Created", "soon"),
            ("SliceThickness", "thin"),
            ("SliceThickness", "nan"),
        ],
    )
    def test_gives_none(self, node, provenance, attribute, text):
        write_provenance(node, provenance)
        node.SetAttribute(PREFIX + attribute, text)
        assert read_provenance(node) is None

    def test_volume_cropped_since_gives_none(self, node, provenance):
        write_provenance(node, provenance)
        image = node.GetImageData()
        image.Crop([0, 35, 0, 39, 0, 8])
        assert image.GetDimensions()[2] == 9
        assert read_provenance(node) is None


class TestOnTheStorage:
    def test_storage_that_is_there_gets_it(self, node, provenance):
        node.AddDefaultStorageNode()
        write_provenance(node, provenance)
        assert provenance_attributes(node.GetStorageNode()) == provenance_attributes(node)

    def test_storage_that_comes_later_gets_it(self, node, provenance):
        write_provenance(node, provenance)
        node.AddDefaultStorageNode()
        assert read_provenance(node.GetStorageNode()) == provenance

    def test_storage_that_takes_over_gets_it(self, scene, node, provenance):
        write_provenance(node, provenance)
        node.AddDefaultStorageNode()
        storage = scene.AddNewNodeByClass("vtkMRMLNRRDStorageNode")
        node.SetAndObserveStorageNodeID(storage.GetID())
        assert read_provenance(storage) == provenance

    def test_storage_keeps_up(self, node, provenance):
        node.AddDefaultStorageNode()
        write_provenance(node, provenance)
        later = replace(provenance, model="other")
        write_provenance(node, later)
        assert read_provenance(node.GetStorageNode()) == later

    def test_node_without_storage_is_fine(self, node):
        copy_to_storage(node)
        copy_to_storage(node.GetDisplayNode())
        assert node.GetStorageNode() is None

    def test_all_nodes_of_a_scene(self, scene, node, provenance):
        node.AddDefaultStorageNode()
        write_provenance(node, provenance)
        restore_attributes(node.GetStorageNode(), {})
        copy_all_to_storage(scene)
        assert read_provenance(node.GetStorageNode()) == provenance


class TestSavedWithTheScene:
    @pytest.mark.parametrize("kind", ["mrml", "mrb"])
    @pytest.mark.parametrize("name", ["CT", "Größe 50%; a:b 'c' \"d\" <e> & 肺\n2"])
    def test_comes_back(self, scene, node, provenance, tmp_path, kind, name):
        written = replace(provenance, input_name=name)
        write_provenance(node, written)
        with saved_and_loaded(scene, tmp_path, kind) as loaded:
            again = loaded.GetFirstNodeByName("CT enhanced x4")
            assert again.GetImageData().GetDimensions()[2] == 17
            assert read_provenance(again) == written
            assert read_provenance(again.GetStorageNode()) == written


@pytest.fixture(scope="module")
def report(scan, tiny_model, tmp_path_factory):
    from XViewSynthLib.cli.main import main

    folder = tmp_path_factory.mktemp("report")
    write_volume(scan, folder / "scan.nrrd")
    files = [str(folder / name) for name in ("scan.nrrd", "thin.nrrd")]
    options = ["--factor", "4", "--model", str(tiny_model), "--device", "cpu", "--progress", "none"]
    assert main(["enhance", *files, *options, "--report", str(folder / "report.json")]) == 0
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


class TestFromAReport:
    def test_tells_what_was_done(self, report, scan, tiny_model):
        done = enhance(scan, 4, model=str(tiny_model), device="cpu")
        made = provenance_from_report(report, input_node_id="vtkMRMLScalarVolumeNode1", input_name="CT")
        assert made.synthetic_slices == done.synthetic_slices
        assert made.observed_slices == scan.slices("K")
        assert (made.model, made.model_sha256) == ("small", done.model.sha256)
        assert (made.factor, made.axis, made.acquisition) == (4, "K", "gap")
        assert made.software_version == __version__
        assert (made.quality, made.texture) == ("standard", "keep")
        assert made.slice_thickness == done.volume.slice_thickness

    def test_a_report_of_an_earlier_version_has_fewer_fields(self, report):
        earlier = {name: value for name, value in report.items() if name not in ("quality", "texture")}
        earlier["output"] = {name: value for name, value in report["output"].items() if name != "slice_thickness_mm"}
        made = provenance_from_report(earlier, input_node_id="", input_name="CT")
        assert (made.quality, made.texture, made.slice_thickness) == (None, None, None)

    def test_something_else_is_no_report(self):
        with pytest.raises(KeyError):
            provenance_from_report({}, input_node_id="", input_name="")
