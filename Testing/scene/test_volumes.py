"""Volume nodes and the engine's volumes: same voxels, same place, and a sentence for what cannot be enhanced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

pytest.importorskip("slicer", reason="slicer-core is not installed")

import slicer
import vtk

import XViewSynthLib
from scans import affine_from, directions, layouts
from scene import make_bent_transform, make_shift, make_volume_node, mrml_scene
from XViewSynthLib import InputError, Volume
from XViewSynthScene.volumes import (
    NonLinearTransformError,
    check_volume_node,
    copied_image,
    harden_transform,
    ijk_to_ras,
    set_voxels_and_geometry,
    shared_image,
    volume_from_node,
)

TYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"]


@pytest.fixture
def node(scene, scan):
    return make_volume_node(scene, scan, "CT")


def modified_events(node):
    heard = []
    node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: heard.append(1))
    return heard


class TestFromNode:
    def test_voxels_and_affine_are_those_of_the_node(self, node, scan):
        volume = volume_from_node(node)
        np.testing.assert_array_equal(volume.voxels, scan.voxels)
        np.testing.assert_allclose(volume.affine, scan.affine, atol=1e-9)

    def test_voxels_are_a_view_of_the_node(self, node):
        volume = volume_from_node(node)
        node.GetImageData().SetScalarComponentFromDouble(3, 2, 1, 0, 1234)
        assert volume.voxels[1, 2, 3] == 1234

    def test_voxels_outlive_the_node(self, scene, node, scan):
        volume = volume_from_node(node)
        scene.RemoveNode(node)
        del node
        np.testing.assert_array_equal(volume.voxels, scan.voxels)

    @pytest.mark.parametrize("kind", TYPES)
    def test_scalar_type_is_kept(self, scene, scan, kind):
        voxels = scan.voxels.clip(0, 100).astype(kind)
        volume = volume_from_node(make_volume_node(scene, scan.with_voxels(voxels)))
        assert volume.voxels.dtype == kind
        np.testing.assert_array_equal(volume.voxels, voxels)

    def test_parent_transform_is_not_applied(self, scene, node, scan):
        node.SetAndObserveTransformNodeID(make_shift(scene).GetID())
        np.testing.assert_allclose(volume_from_node(node).affine, scan.affine, atol=1e-9)

    def test_extent_need_not_start_at_zero(self, node, scan):
        node.GetImageData().SetExtent(5, 40, -3, 36, 2, 18)
        expected = node.GetImageData().GetScalarComponentAsDouble(5, -3, 2, 0)
        volume = volume_from_node(node)
        assert volume.voxels[0, 0, 0] == expected
        np.testing.assert_allclose(volume.origin, scan.ijk_to_ras([5, -3, 2]))

    @given(turned=directions())
    def test_any_orientation(self, turned):
        made = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine_from(directions=turned))
        with mrml_scene() as scene:
            np.testing.assert_allclose(volume_from_node(make_volume_node(scene, made)).affine, made.affine, atol=1e-9)

    def test_any_layout(self, scene):
        made = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine_from())
        for stored in layouts(made):
            volume = volume_from_node(make_volume_node(scene, stored))
            np.testing.assert_array_equal(volume.voxels, stored.voxels)
            np.testing.assert_allclose(volume.affine, stored.affine, atol=1e-9)


class TestSliceThickness:
    class Database:
        """The slice thicknesses of two images."""

        def __init__(self, *stated):
            self.stated = dict(zip(("1.2.3", "1.2.4"), stated, strict=True))

        def instanceValue(self, instance, tag):
            return self.stated[instance] if tag == "0018,0050" else ""

    @pytest.mark.parametrize(
        ("stated", "thickness"),
        [
            (("5.0", "5.0"), 5.0),
            (("", ""), None),
            (("0", "0"), None),
            (("nan", "nan"), None),
            (("5.0", "3.0"), None),
            (("5.0", ""), None),
        ],
    )
    def test_comes_from_the_dicom_database(self, node, monkeypatch, stated, thickness):
        node.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
        monkeypatch.setattr(slicer, "dicomDatabase", self.Database(*stated), raising=False)
        assert volume_from_node(node).slice_thickness == thickness

    def test_is_unknown_without_a_database(self, node, monkeypatch):
        node.SetAttribute("DICOM.instanceUIDs", "1.2.3")
        monkeypatch.delattr(slicer, "dicomDatabase", raising=False)
        assert volume_from_node(node).slice_thickness is None


class TestRefused:
    def test_nothing(self):
        with pytest.raises(InputError, match="choose one, or load a CT scan"):
            check_volume_node(None)

    def test_something_else_than_a_node(self):
        with pytest.raises(InputError, match="A volume node is needed, not str"):
            check_volume_node("CT")

    def test_model(self, scene):
        with pytest.raises(InputError, match="'Liver' is no volume: choose a CT volume"):
            check_volume_node(scene.AddNewNodeByClass("vtkMRMLModelNode", "Liver"))

    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            ("vtkMRMLLabelMapVolumeNode", "is a labelmap"),
            ("vtkMRMLVectorVolumeNode", "holds several values in each voxel"),
            ("vtkMRMLDiffusionTensorVolumeNode", "holds a tensor in each voxel"),
        ],
    )
    def test_other_kinds_of_volume(self, scene, scan, kind, reason):
        node = scene.AddNewNodeByClass(kind, "Other")
        node.SetAndObserveImageData(copied_image(scan))
        with pytest.raises(InputError, match=f"'Other' {reason}.*choose a CT volume"):
            check_volume_node(node)

    def test_several_components(self, node):
        image = vtk.vtkImageData()
        image.SetDimensions(4, 4, 4)
        image.AllocateScalars(vtk.VTK_SHORT, 3)
        node.SetAndObserveImageData(image)
        with pytest.raises(InputError, match="3 values in each voxel"):
            check_volume_node(node)

    def test_single_bits(self, scene):
        image = vtk.vtkImageData()
        image.SetDimensions(4, 4, 4)
        image.AllocateScalars(vtk.VTK_BIT, 1)
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mask")
        node.SetAndObserveImageData(image)
        with pytest.raises(InputError, match="'Mask' holds single bits"):
            check_volume_node(node)

    @pytest.mark.parametrize("image", [None, vtk.vtkImageData()])
    def test_empty(self, node, image):
        node.SetAndObserveImageData(image)
        with pytest.raises(InputError, match="'CT' is empty: load its voxels"):
            check_volume_node(node)

    def test_deleted(self, scene, node):
        scene.RemoveNode(node)
        with pytest.raises(InputError, match="'CT' is no longer in the scene"):
            check_volume_node(node)

    def test_bent_by_its_transform(self, scene, node):
        node.SetAndObserveTransformNodeID(make_bent_transform(scene).GetID())
        with pytest.raises(NonLinearTransformError, match="'Acquisition transform'.*harden the transform first"):
            volume_from_node(node)

    def test_bent_by_a_transform_further_up(self, scene, node):
        shift = make_shift(scene)
        shift.SetAndObserveTransformNodeID(make_bent_transform(scene).GetID())
        node.SetAndObserveTransformNodeID(shift.GetID())
        with pytest.raises(NonLinearTransformError):
            check_volume_node(node)


class TestIntoNode:
    def test_observers_hear_of_it_once(self, node, thin_scan):
        heard = modified_events(node)
        set_voxels_and_geometry(node, thin_scan)
        assert len(heard) == 1
        np.testing.assert_array_equal(volume_from_node(node).voxels, thin_scan.voxels)
        np.testing.assert_allclose(ijk_to_ras(node), thin_scan.affine, atol=1e-9)

    def test_node_has_its_own_copy(self, scene):
        mine = np.zeros((3, 4, 5), np.int16)
        node = make_volume_node(scene, Volume(mine, affine_from()))
        node.GetImageData().SetScalarComponentFromDouble(0, 0, 0, 0, 7)
        assert mine[0, 0, 0] == 0

    def test_strided_voxels(self, node, scan):
        set_voxels_and_geometry(node, scan.with_voxels(scan.voxels[::-1, :, ::2]))
        np.testing.assert_array_equal(volume_from_node(node).voxels, scan.voxels[::-1, :, ::2])

    @pytest.mark.parametrize(
        ("kind", "value", "expected"),
        [
            ("int64", -1024, "int32"),
            ("uint64", 2**32 - 1, "uint32"),
            ("int64", -(2**40), "float64"),
            ("float16", 0.5, "float32"),
        ],
    )
    def test_types_that_slicer_lacks_keep_their_values(self, node, scan, kind, value, expected):
        voxels = np.full((3, 4, 5), value, kind)
        set_voxels_and_geometry(node, scan.with_voxels(voxels))
        stored = volume_from_node(node).voxels
        assert stored.dtype == expected
        assert (stored == value).all()


class TestHandingOver:
    def test_memory_is_not_copied(self):
        mine = np.zeros((3, 4, 5), np.int16)
        shared_image(Volume(mine, affine_from())).SetScalarComponentFromDouble(0, 0, 0, 0, 7)
        assert mine[0, 0, 0] == 7

    def test_memory_outlives_the_volume(self):
        image = shared_image(Volume(np.full((3, 4, 5), 7, np.int16), affine_from()))
        assert {image.GetScalarComponentAsDouble(i, 0, 0, 0) for i in range(5)} == {7}

    def test_voxels_of_another_node_are_copied(self, node, scan):
        shared_image(volume_from_node(node)).SetScalarComponentFromDouble(0, 0, 0, 0, 7)
        assert volume_from_node(node).voxels[0, 0, 0] == scan.voxels[0, 0, 0] != 7

    def test_read_only_memory_is_copied(self):
        mine = np.zeros((3, 4, 5), np.int16)
        mine.flags.writeable = False
        shared_image(Volume(mine, affine_from())).SetScalarComponentFromDouble(0, 0, 0, 0, 7)
        assert mine[0, 0, 0] == 0


class TestHardening:
    def test_bent_volume_can_be_enhanced_afterwards(self, scene, node):
        node.SetAndObserveTransformNodeID(make_bent_transform(scene).GetID())
        harden_transform(node)
        check_volume_node(node)
        assert node.GetParentTransformNode() is None

    def test_voxels_are_where_the_transform_puts_them(self, scene, node, scan):
        # One slice is 4 mm, so a shift of 4 mm to superior needs no interpolation.
        node.SetAndObserveTransformNodeID(make_bent_transform(scene, shift=4.0).GetID())
        harden_transform(node)
        hardened = volume_from_node(node)
        place = np.add(scan.ijk_to_ras([18, 20, 8]), [0, 0, 4])
        i, j, k = np.rint(hardened.ras_to_ijk(place)).astype(int)
        np.testing.assert_allclose(hardened.ijk_to_ras([i, j, k]), place, atol=0.01)
        assert abs(int(hardened.voxels[k, j, i]) - int(scan.voxels[8, 20, 18])) <= 1

    def test_without_a_transform_nothing_happens(self, node, scan):
        harden_transform(node)
        np.testing.assert_array_equal(volume_from_node(node).voxels, scan.voxels)

    def test_failure_is_reported(self, scene, node, monkeypatch):
        node.SetAndObserveTransformNodeID(make_bent_transform(scene).GetID())

        class Logic:
            @staticmethod
            def hardenTransform(_node):
                return False

        monkeypatch.setattr(slicer, "vtkSlicerTransformLogic", Logic)
        with pytest.raises(InputError, match="'CT' could not be hardened"):
            harden_transform(node)


class TestImport:
    def test_loads_neither_torch_nor_qt(self):
        code = (
            "import sys\n"
            "from XViewSynthScene import provenance, results, sequences, volumes\n"
            "sys.exit(', '.join({'torch', 'SimpleITK', 'qt', 'ctk'} & set(sys.modules)) or 0)"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(XViewSynthLib.__file__).parents[1])}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
