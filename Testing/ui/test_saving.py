"""Saving an enhanced volume as a DICOM series: into the database of the application, or into a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer

from scans import affine_from, anatomy, write_dicom_series
from scene import make_volume_node
from XViewSynthLib import Volume, read_volume

pytestmark = pytest.mark.slow

STUDY = {"StudyInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2.4", "SeriesNumber": 3, "Modality": "CT"}
SMALL = Volume(anatomy((6, 14, 12)), affine_from(), slice_thickness=4.0)


@pytest.fixture
def logic(slicer_desk):
    return slicer.util.getModuleLogic("XViewSynth")


def load(folder: Path, database: bool = True, name: str = "3: Chest", **tags: object):
    """Write a series of the small scan, and load it as Slicer does, from the database or from its files."""
    paths = write_dicom_series(folder, SMALL, **{**STUDY, "ConvolutionKernel": "B70f", **tags})
    node = make_volume_node(slicer.mrmlScene, SMALL.with_voxels(SMALL.voxels.copy()), name)
    if database:
        from DICOMLib import DICOMUtils

        assert DICOMUtils.importDicom(str(folder))
        instances = [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]
        node.SetAttribute("DICOM.instanceUIDs", " ".join(instances))
    else:
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(paths[0]))
    return node


def enhance(logic, node, **options):
    return logic.enhance(node, factor=2, model="small", device="cpu", inProcess=True, **options)


def files_of(series: str) -> list[pydicom.Dataset]:
    images = [pydicom.dcmread(file) for file in slicer.dicomDatabase.filesForSeries(series)]
    return sorted(images, key=lambda image: int(image.InstanceNumber))


def refused(logic, *arguments) -> str:
    with pytest.raises(ValueError, match=r".*") as caught:
        logic.saveToDicom(*arguments)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


class TestDatabase:
    def test_gets_the_series_that_the_engine_writes(self, logic, tmp_path):
        from XViewSynthLib import enhance as engine_enhance
        from XViewSynthLib import write_series

        result = enhance(logic, load(tmp_path / "series"))
        images = files_of(logic.saveToDicom(result))
        expected = engine_enhance(read_volume(tmp_path / "series"), factor=2, model="small", device="cpu")
        write_series(expected, tmp_path / "series", tmp_path / "expected")
        others = [pydicom.dcmread(path) for path in sorted((tmp_path / "expected").iterdir())]
        assert len(images) == len(others) == 11
        for image, other in zip(images, others, strict=True):
            assert {element.keyword for element in image} == {element.keyword for element in other}
            for element in other:
                if "UID" not in element.keyword and element.VR not in ("DA", "TM", "DT", "SQ"):
                    assert image[element.tag].value == element.value, element.keyword

    def test_holds_its_own_files_and_temporary_ones_are_gone(self, slicer_desk, logic, tmp_path):
        series = logic.saveToDicom(enhance(logic, load(tmp_path / "series")))
        database = Path(slicer.dicomDatabase.databaseDirectory)
        assert all(Path(file).is_relative_to(database) for file in slicer.dicomDatabase.filesForSeries(series))
        assert slicer_desk.leaves_nothing()

    def test_files_in_several_folders_among_other_series_are_found(self, logic, tmp_path):
        node = load(tmp_path / "series")
        write_dicom_series(tmp_path / "series", SMALL, names=[f"X{n}.dcm" for n in range(6)], series="1.2.9", **STUDY)
        (tmp_path / "elsewhere").mkdir()
        first = tmp_path / "series" / "IM0000.dcm"
        first.rename(tmp_path / "elsewhere" / first.name)
        slicer.dicomDatabase.insert(str(tmp_path / "elsewhere" / first.name), False)
        assert len(files_of(logic.saveToDicom(enhance(logic, node)))) == 11

    def test_that_is_full_keeps_nothing_of_the_series(self, logic, tmp_path, monkeypatch):
        from DICOMLib import DICOMUtils

        result, whole = enhance(logic, load(tmp_path / "series")), DICOMUtils.importDicom

        def stop_halfway(folder, database, copy):
            for path in sorted(Path(folder).iterdir())[4:]:
                path.unlink()
            return whole(folder, database, copy)

        monkeypatch.setattr(DICOMUtils, "importDicom", stop_halfway)
        before = list((Path(slicer.dicomDatabase.databaseDirectory)).rglob("*.*"))
        assert "did not take the new series" in refused(logic, result)
        after = [path for path in Path(slicer.dicomDatabase.databaseDirectory).rglob("*.*") if path.is_file()]
        assert after == [path for path in before if path.is_file()]


class TestFolder:
    def test_of_a_scan_that_was_loaded_from_files(self, logic, tmp_path):
        result = enhance(logic, load(tmp_path / "series", database=False))
        series = logic.saveToDicom(result, tmp_path / "new")
        images = [pydicom.dcmread(path) for path in sorted((tmp_path / "new").iterdir())]
        assert {image.SeriesInstanceUID for image in images} == {series}
        assert [image.ImageType[3] for image in images] == ["OBSERVED", "SYNTHETIC"] * 5 + ["OBSERVED"]

    def test_that_exists_stays_as_it_is(self, logic, tmp_path):
        result = enhance(logic, load(tmp_path / "series"))
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "notes.txt").write_text("mine")
        assert str(tmp_path / "new") in refused(logic, result, tmp_path / "new")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["notes.txt"]

    def test_is_needed_without_the_database(self, logic, tmp_path):
        result = enhance(logic, load(tmp_path / "series", database=False))
        assert "give a folder" in refused(logic, result)


class TestRefused:
    def test_a_scan_that_is_not_from_dicom(self, logic, tmp_path):
        result = enhance(logic, make_volume_node(slicer.mrmlScene, SMALL, "Chest"))
        assert "'Chest' was not loaded from DICOM" in refused(logic, result)
        assert "'Chest' was not loaded from DICOM" in refused(logic, result, tmp_path / "new")

    def test_a_scan_itself(self, logic, tmp_path):
        assert "is not a result of XViewSynth" in refused(logic, load(tmp_path / "series"))

    def test_nothing(self, logic):
        assert "No scan is chosen" in refused(logic, None)

    def test_a_result_whose_scan_is_gone(self, logic, tmp_path):
        node = load(tmp_path / "series")
        result = enhance(logic, node)
        slicer.mrmlScene.RemoveNode(node)
        assert "'3: Chest', is no longer in the scene" in refused(logic, result)

    def test_files_that_are_gone(self, logic, tmp_path):
        result = enhance(logic, load(tmp_path / "series"))
        (tmp_path / "series" / "IM0002.dcm").unlink()
        assert "1 of 6 images of '3: Chest' are missing" in refused(logic, result)

    def test_another_database(self, logic, tmp_path):
        result = enhance(logic, load(tmp_path / "series"))
        slicer.dicomDatabase.closeDatabase()
        assert "are not in the open DICOM database" in refused(logic, result)

    @pytest.mark.parametrize("changed", ["scan", "result"])
    def test_observed_slices_that_were_changed(self, logic, tmp_path, changed):
        node = load(tmp_path / "series")
        if changed == "scan":
            slicer.util.arrayFromVolume(node)[2] += 1
        result = enhance(logic, node)
        if changed == "result":
            slicer.util.arrayFromVolume(result)[4] += 1
        assert "Slice 5 counts as observed, but does not hold the values" in refused(logic, result)
        assert not (tmp_path / "new").exists()

    def test_a_scan_that_was_moved(self, logic, tmp_path):
        node = load(tmp_path / "series")
        node.SetOrigin(np.add(node.GetOrigin(), (0, 0, 4)))
        assert "is not the scan that was enhanced" in refused(logic, enhance(logic, node))

    @pytest.mark.parametrize("modality", ["MR", "PT"])
    def test_a_scan_of_another_modality_is_not_enhanced(self, logic, tmp_path, modality):
        node = load(tmp_path / "series", Modality=modality, SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
        with pytest.raises(ValueError, match=f"'3: Chest' is {modality}, but models are for CT"):
            enhance(logic, node)

    def test_nor_one_that_a_saved_scene_names_so(self, logic):
        node = make_volume_node(slicer.mrmlScene, SMALL, "Head")
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        hierarchy.SetItemAttribute(hierarchy.GetItemByDataNode(node), "DICOM.Modality", "MR")
        with pytest.raises(ValueError, match="'Head' is MR"):
            enhance(logic, node)


class TestPlan:
    def test_follows_the_thickness_that_the_images_state(self, logic, tmp_path):
        assert enhance(logic, load(tmp_path / "thin", thickness=1.0)).GetAttribute("XViewSynth.SliceThickness") == "1.0"

    @pytest.mark.parametrize("value", [None, "0", "thick"])
    def test_knows_no_thickness_where_none_is_stated(self, slicer_desk, tmp_path, value):
        from XViewSynthScene.dicom import facts_of

        load(tmp_path / "series", thickness=None)
        node = load(tmp_path / "other", thickness=None, series="1.2.8")
        if value:
            for path in (tmp_path / "other").iterdir():
                data = pydicom.dcmread(path)
                data.add_new("SliceThickness", "LO", value)
                data.save_as(path)
        assert facts_of(node).slice_thickness is None

    def test_is_shown_with_thickness_and_kernel(self, slicer_desk, tmp_path):
        load(tmp_path / "series")
        panel = slicer_desk.panel()
        assert panel.ui.planLabel.text.endswith("\nDICOM: slices 4 mm thick, kernel B70f")


class TestButton:
    @pytest.fixture
    def panel(self, slicer_desk, logic, tmp_path):
        result = enhance(logic, load(tmp_path / "series"))
        panel = slicer_desk.panel()
        panel.logic.getParameterNode().enhancedVolume = result
        return panel

    def test_adds_to_the_database(self, panel):
        assert panel.ui.saveDicomButton.enabled
        assert "DICOM database" in panel.ui.saveDicomButton.toolTip
        panel.ui.saveDicomButton.click()
        assert panel.ui.messageLabel.text == "'3: Chest enhanced x2': added to the DICOM database."
        assert panel.ui.saveDicomButton.enabled

    def test_says_why_it_cannot(self, slicer_desk):
        panel = slicer_desk.panel()
        assert panel.ui.saveDicomButton.toolTip == "Choose an enhanced volume first."
        assert not panel.ui.saveDicomButton.enabled

    def test_asks_for_a_folder_without_the_database(self, slicer_desk, logic, tmp_path):
        panel = slicer_desk.panel()
        result = enhance(logic, load(tmp_path / "series", database=False))
        panel.logic.getParameterNode().enhancedVolume = result
        assert "folder" in panel.ui.saveDicomButton.toolTip
        (tmp_path / "chosen" / "3_ Chest enhanced x2").mkdir(parents=True)
        slicer_desk.desktop.answers.append(str(tmp_path / "chosen"))
        panel.ui.saveDicomButton.click()
        new = tmp_path / "chosen" / "3_ Chest enhanced x2 2"
        assert len(list(new.iterdir())) == 11
        assert str(new) in panel.ui.messageLabel.text

    def test_no_folder_saves_nothing(self, slicer_desk, logic, tmp_path):
        panel = slicer_desk.panel()
        result = enhance(logic, load(tmp_path / "series", database=False))
        panel.logic.getParameterNode().enhancedVolume = result
        slicer_desk.desktop.answers.append("")
        panel.ui.saveDicomButton.click()
        assert not panel.ui.messageLabel.text

    def test_a_problem_is_a_message(self, panel, tmp_path):
        shutil.rmtree(tmp_path / "series")
        panel.ui.saveDicomButton.click()
        assert "images of '3: Chest' are missing" in panel.ui.messageLabel.text
        assert panel.ui.saveDicomButton.enabled
