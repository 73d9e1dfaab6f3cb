"""The stand-in for Slicer's desktop: what a module meets there is what it would meet in Slicer."""

from __future__ import annotations

import functools
import gc
import os
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer

from standin import SLICER_PYTHON_DIR, install

UI = """\
<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0">
 <class>Sample</class>
 <widget class="qMRMLWidget" name="Sample">
  <layout class="QVBoxLayout" name="verticalLayout">
   <item>
    <widget class="ctkCollapsibleButton" name="section">
     <property name="text"><string>Section</string></property>
     <layout class="QFormLayout" name="formLayout">
      <item row="0" column="1">
       <widget class="qMRMLNodeComboBox" name="inputSelector">
        <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
        <property name="addEnabled"><bool>false</bool></property>
        <property name="noneEnabled"><bool>true</bool></property>
        <property name="SlicerParameterName" stdset="0"><string>inputVolume</string></property>
       </widget>
      </item>
      <item row="1" column="1">
       <widget class="QSpinBox" name="factorSpinBox">
        <property name="SlicerParameterName" stdset="0"><string>factor</string></property>
       </widget>
      </item>
      <item row="2" column="1">
       <widget class="ctkSliderWidget" name="opacitySlider">
        <property name="singleStep"><double>0.1</double></property>
        <property name="SlicerParameterName" stdset="0"><string>opacity</string></property>
       </widget>
      </item>
      <item row="3" column="1">
       <widget class="QCheckBox" name="isotropicCheckBox">
        <property name="SlicerParameterName" stdset="0"><string>isotropic</string></property>
       </widget>
      </item>
      <item row="4" column="1">
       <widget class="QComboBox" name="deviceSelector">
        <property name="SlicerParameterName" stdset="0"><string>device</string></property>
       </widget>
      </item>
      <item row="5" column="1">
       <widget class="QComboBox" name="kindSelector">
        <property name="SlicerParameterName" stdset="0"><string>kind</string></property>
       </widget>
      </item>
      <item row="6" column="1">
       <widget class="QLineEdit" name="nameEdit">
        <property name="SlicerParameterName" stdset="0"><string>name</string></property>
       </widget>
      </item>
      <item row="7" column="1">
       <widget class="ctkPathLineEdit" name="folderEdit">
        <property name="SlicerParameterName" stdset="0"><string>folder</string></property>
       </widget>
      </item>
     </layout>
    </widget>
   </item>
   <item>
    <widget class="QPushButton" name="applyButton"><property name="text"><string>Apply</string></property></widget>
   </item>
  </layout>
 </widget>
 <connections>
  <connection>
   <sender>Sample</sender>
   <signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
   <receiver>inputSelector</receiver>
   <slot>setMRMLScene(vtkMRMLScene*)</slot>
  </connection>
 </connections>
</ui>
"""

MODULE = """\
import enum
import os
import pathlib
from typing import Annotated

import vtk

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin


class Kind(enum.Enum):
    GAP = 1
    THICK = 2


class Sample(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("A sample")
        self.parent.categories = ["Tests"]
        self.started = 0
        slicer.app.connect("startupCompleted()", self.onStart)

    def onStart(self):
        self.started += 1


@parameterNodeWrapper
class SampleParameterNode:
    inputVolume: slicer.vtkMRMLScalarVolumeNode
    factor: Annotated[int, WithinRange(2, 8)] = 4
    opacity: Annotated[float, WithinRange(0, 1)] = 0.5
    isotropic: bool = False
    device: Annotated[str, Choice(["auto", "cpu"])] = "auto"
    kind: Kind = Kind.GAP
    name: str = "CT"
    folder: Annotated[pathlib.Path, Default(pathlib.Path("here"))]
    spacing: float | None = None


class SampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.events = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/Sample.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SampleLogic()
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onEndClose)
        self.bind()

    def bind(self):
        self.parameters = self.logic.getParameterNode()
        self.tag = self.parameters.connectGui(self.ui)

    def cleanup(self):
        self.events.append("cleanup")
        self.removeObservers()

    def enter(self):
        self.events.append("enter")

    def exit(self):
        self.events.append("exit")

    def onEndClose(self, caller, event):
        self.events.append("closed")

    def onApply(self):
        self.events.append("apply")


class SampleLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return SampleParameterNode(super().getParameterNode())


class SampleTest(ScriptedLoadableModuleTest):
    ran = []

    def test_once(self):
        self.delayDisplay("Testing")
        SampleTest.ran.append("once")
"""

SLICERS_OWN = pytest.mark.skipif(
    SLICER_PYTHON_DIR not in os.environ, reason=f"{SLICER_PYTHON_DIR} does not name a folder with Slicer's Python files"
)


@pytest.fixture
def desktop(tmp_path):
    with install(tmp_path / "desktop", slicer_python_dir="") as desktop:
        yield desktop


@pytest.fixture
def qt(desktop):
    return sys.modules["qt"]


@pytest.fixture
def ctk(desktop):
    return sys.modules["ctk"]


def write_module(folder: Path) -> Path:
    (folder / "Resources" / "UI").mkdir(parents=True)
    (folder / "Resources" / "UI" / "Sample.ui").write_text(UI)
    (folder / "Sample.py").write_text(MODULE)
    return folder / "Sample.py"


@pytest.fixture(params=["ours", pytest.param("slicer's", marks=SLICERS_OWN)])
def sample_desktop(request, tmp_path):
    """A desktop with the sample module loaded, over our Python files and over Slicer's."""
    folder = "" if request.param == "ours" else os.environ[SLICER_PYTHON_DIR]
    with install(tmp_path / "desktop", slicer_python_dir=folder) as desktop:
        desktop.sample = desktop.load_module(write_module(tmp_path / "Sample"))
        yield desktop


@pytest.fixture
def panel(sample_desktop):
    return sample_desktop.select_module("Sample")


def add_volume(name: str = "CT"):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


class TestProperty:
    def test_is_a_value(self, qt):
        assert qt.QPushButton("Enhance").text == "Enhance"

    def test_is_not_a_method(self, qt):
        with pytest.raises(TypeError, match="not callable"):
            qt.QPushButton("Enhance").text()

    def test_is_set_by_assignment(self, qt):
        button = qt.QPushButton()
        button.enabled = False
        assert not button.isEnabled()

    def test_keeps_its_setter_as_a_method(self, qt):
        label = qt.QLabel()
        label.setText("Cancelled.")
        assert label.text == "Cancelled."

    def test_shows_none_as_a_word(self, qt):
        label = qt.QLabel()
        label.text = None
        assert label.text == "None"

    def test_name_is_the_object_name(self, qt):
        button = qt.QPushButton()
        button.objectName = "enhanceButton"
        assert button.name == "enhanceButton"

    def test_that_cannot_be_written_says_so(self, qt):
        with pytest.raises(AttributeError, match="not writable"):
            qt.QComboBox().count = 3

    def test_of_a_value_type_keeps_its_methods(self, qt):
        widget = qt.QWidget()
        widget.resize(30, 20)
        assert widget.size.width() == widget.width == 30

    def test_of_an_enumeration_is_an_int(self, qt):
        slider = qt.QSlider()
        slider.orientation = qt.Qt.Horizontal
        assert slider.orientation == 1

    def test_of_an_enumeration_takes_an_int(self, qt):
        label = qt.QLabel()
        label.textFormat = 1
        assert label.textFormat == qt.Qt.RichText

    @pytest.mark.parametrize("value", ["yes", None, [1]])
    def test_of_type_bool_refuses(self, qt, value):
        with pytest.raises(ValueError, match="does not accept"):
            qt.QCheckBox().checked = value

    @pytest.mark.parametrize("value", [1.5, np.float64(2), "2", None])
    def test_of_type_int_refuses(self, qt, value):
        with pytest.raises(ValueError, match="does not accept"):
            qt.QSpinBox().value = value

    def test_of_type_int_takes_numpys(self, qt):
        spin = qt.QSpinBox()
        spin.value = np.int64(7)
        assert spin.value == 7

    def test_of_type_float_takes_numpys(self, qt):
        spin = qt.QDoubleSpinBox()
        spin.value = np.float64(2.5)
        assert spin.value == 2.5

    def test_of_type_float_refuses_a_word(self, qt):
        with pytest.raises(ValueError, match="does not accept"):
            qt.QDoubleSpinBox().value = "2.5"

    def test_list_of_texts_refuses_a_text(self, qt):
        with pytest.raises(ValueError, match="does not accept"):
            slicer.qMRMLNodeComboBox().nodeTypes = "vtkMRMLScalarVolumeNode"

    def test_added_at_run_time_is_an_attribute(self, qt):
        widget = qt.QWidget()
        widget.setProperty("SlicerParameterName", "factor")
        assert widget.SlicerParameterName == "factor"

    def test_added_at_run_time_is_set_as_an_attribute(self, qt):
        widget = qt.QWidget()
        widget.setProperty("SlicerParameterName", "factor")
        widget.SlicerParameterName = "spacing"
        assert widget.property("SlicerParameterName") == "spacing"


class TestObject:
    def test_is_no_instance_of_its_base(self, qt):
        assert not isinstance(qt.QPushButton(), qt.QWidget)

    def test_is_of_its_exact_class(self, qt):
        assert type(qt.QPushButton()) is qt.QPushButton

    def test_inherits_by_name(self, qt):
        assert qt.QPushButton().inherits("QWidget")

    def test_tells_its_class(self, qt):
        assert qt.QPushButton().className() == "QPushButton"

    def test_takes_no_new_attribute(self, qt):
        with pytest.raises(AttributeError, match="cannot be created"):
            qt.QLabel().mine = 1

    def test_without_an_attribute_says_so(self, qt):
        with pytest.raises(AttributeError, match="colour"):
            qt.QLabel().colour  # noqa: B018

    def test_constructor_refuses_keywords(self, qt):
        with pytest.raises(ValueError, match="keyword"):
            qt.QPushButton(text="Enhance")

    def test_method_refuses_keywords(self, qt):
        with pytest.raises(ValueError, match="keyword"):
            qt.QLabel().setText(text="Enhance")

    def test_method_refuses_wrong_arguments(self, qt):
        with pytest.raises(ValueError, match="overload"):
            qt.QLabel().setText([1])

    def test_int_setter_refuses_a_float(self, qt):
        with pytest.raises(ValueError, match="takes an int"):
            qt.QProgressBar().setValue(50.0)

    def test_is_the_same_each_time(self, qt):
        parent = qt.QWidget()
        child = qt.QLabel("x", parent)
        assert child.parent() is parent

    def test_lists_come_as_tuples(self, qt):
        parent = qt.QWidget()
        child = qt.QLabel("x", parent)
        assert parent.children() == (child,)

    def test_finds_children_by_class(self, qt):
        parent = qt.QWidget()
        label, _button = qt.QLabel("x", parent), qt.QPushButton("y", parent)
        assert parent.findChildren(qt.QLabel) == (label,)

    def test_that_is_destroyed_says_so(self, qt):
        label = qt.QLabel("x")
        label.delete()
        with pytest.raises(ValueError, match="destroyed"):
            label.text  # noqa: B018

    def test_that_is_destroyed_is_false(self, qt):
        label = qt.QLabel("x")
        label.delete()
        assert not label

    @pytest.mark.parametrize("name", ["QTest", "QSignalSpy", "QVariant", "QSvgWidget", "Signal", "Slot"])
    def test_module_lacks(self, qt, name):
        assert not hasattr(qt, name)

    def test_of_ctk_that_is_missing_says_what_to_do(self, ctk):
        with pytest.raises(NotImplementedError, match="add it"):
            ctk.ctkRangeWidget()


class TestEnumerator:
    def test_is_an_int(self, qt):
        assert isinstance(qt.QMessageBox.Yes, int)
        assert qt.Qt.AlignRight == 2

    def test_combines(self, qt):
        assert qt.QMessageBox.Yes | qt.QMessageBox.No == 0x4000 | 0x10000

    def test_goes_back_to_qt(self, qt):
        label = qt.QLabel()
        label.setAlignment(qt.Qt.AlignRight | qt.Qt.AlignTop)
        assert label.alignment == qt.Qt.AlignRight | qt.Qt.AlignTop

    def test_is_found_in_its_enumeration(self, qt):
        assert qt.QSizePolicy.Policy.Fixed == qt.QSizePolicy.Fixed

    def test_of_a_wrong_name_says_so(self, qt):
        with pytest.raises(AttributeError, match="Perhaps"):
            qt.QMessageBox.StandardButton.Perhaps  # noqa: B018


class TestSignal:
    def test_connects_by_signature(self, qt):
        button, heard = qt.QPushButton(), []
        assert button.connect("clicked(bool)", heard.append)
        button.click()
        assert heard == [False]

    def test_connects_by_name(self, qt):
        button, heard = qt.QPushButton(), []
        button.clicked.connect(lambda checked: heard.append(checked))
        button.click()
        assert heard == [False]

    def test_passes_no_more_than_the_slot_takes(self, qt):
        button, heard = qt.QPushButton(), []
        button.connect("clicked(bool)", lambda: heard.append("clicked"))
        button.click()
        assert heard == ["clicked"]

    def test_passes_no_more_than_the_signature_has(self, qt):
        button, heard = qt.QPushButton(), []
        button.connect("clicked()", lambda checked="default": heard.append(checked))
        button.click()
        assert heard == ["default"]

    def test_fills_a_default_where_the_signature_has_an_argument(self, qt):
        button, heard = qt.QPushButton(), []
        button.connect("clicked(bool)", lambda checked="default": heard.append(checked))
        button.click()
        assert heard == [False]

    def test_passes_everything_to_what_is_no_function(self, qt, desktop):
        button, heard = qt.QPushButton(), []
        button.connect("clicked(bool)", functools.partial(lambda *given: heard.append(given), 1))
        button.click()
        assert heard == [(1, False)]

    def test_of_a_wrong_signature_is_false_and_printed(self, qt, capfd):
        assert not qt.QPushButton().connect("pushed(bool)", print)
        assert "pushed(bool)" in capfd.readouterr().err

    def test_of_a_wrong_name_raises(self, qt):
        with pytest.raises(AttributeError):
            qt.QPushButton().pushed.connect(print)

    def test_connects_to_a_method_of_qt(self, qt):
        button, label = qt.QPushButton(), qt.QLabel("text")
        button.connect("clicked()", label.clear)
        button.click()
        assert label.text == ""

    def test_connects_to_a_slot_by_its_signature(self, qt):
        button, label = qt.QPushButton(), qt.QLabel("text")
        button.connect("clicked()", label, "clear()")
        button.click()
        assert label.text == ""

    def test_disconnects_by_signature(self, qt):
        button, heard = qt.QPushButton(), []
        button.connect("clicked(bool)", heard.append)
        assert button.disconnect("clicked(bool)", heard.append)
        button.click()
        assert heard == []

    def test_disconnects_by_name(self, qt):
        button, heard = qt.QPushButton(), []
        button.clicked.connect(heard.append)
        assert button.clicked.disconnect(heard.append)
        button.click()
        assert heard == []

    def test_that_was_not_connected_is_false(self, qt):
        assert not qt.QPushButton().clicked.disconnect(print)

    def test_emits(self, qt):
        button, heard = qt.QPushButton(), []
        button.clicked.connect(heard.append)
        button.clicked.emit(True)
        assert heard == [True]

    def test_exception_goes_no_further(self, qt, desktop, capfd):
        button = qt.QPushButton()
        button.clicked.connect(lambda: 1 / 0)
        button.click()
        assert "ZeroDivisionError" in capfd.readouterr().err
        assert "ZeroDivisionError" in desktop.take_slot_errors()[0]

    def test_exception_fails_the_test_that_does_not_expect_it(self, tmp_path):
        with pytest.raises(AssertionError, match="ZeroDivisionError"), install(tmp_path):
            self.click_on_a_fault()

    def click_on_a_fault(self):
        button = sys.modules["qt"].QPushButton()
        button.clicked.connect(lambda: 1 / 0)
        button.click()

    def test_exception_in_an_observer_is_kept(self, desktop, capfd):
        add_volume().AddObserver("ModifiedEvent", lambda *_: 1 / 0)
        slicer.util.getNode("CT").Modified()
        assert "ZeroDivisionError" in desktop.take_slot_errors()[0]
        capfd.readouterr()


class TestTimer:
    def test_fires(self, qt, desktop):
        heard, timer = [], qt.QTimer()
        timer.setSingleShot(True)
        timer.connect("timeout()", lambda: heard.append(1))
        timer.start(1)
        desktop.pump(lambda: heard, timeout=2)

    def test_without_a_reference_never_fires(self, qt, desktop):
        heard = []

        def start():
            timer = qt.QTimer()
            timer.connect("timeout()", lambda: heard.append(1))
            timer.start(1)

        start()
        desktop.pump(timeout=0.1)
        assert heard == []

    def test_single_shot_needs_no_reference(self, qt, desktop):
        heard = []
        qt.QTimer.singleShot(1, lambda: heard.append(1))
        desktop.pump(lambda: heard, timeout=2)

    def test_is_set_by_its_property(self, qt):
        timer = qt.QTimer()
        timer.start(1000)
        assert timer.active
        assert timer.interval == 1000


class TestVariant:
    def test_turns_int_keys_into_texts(self, qt):
        combo = qt.QComboBox()
        combo.addItem("one", {1: "a"})
        assert combo.itemData(0) == {"1": "a"}

    def test_refuses_a_large_int(self, qt):
        with pytest.raises(ValueError, match="QVariant"):
            qt.QWidget().setProperty("bytes", 2**40)

    def test_settings_remember(self, desktop):
        slicer.app.settings().setValue("XViewSynth/Device", "cpu")
        assert slicer.app.settings().value("XViewSynth/Device") == "cpu"

    def test_settings_refuse_a_large_int(self, desktop):
        with pytest.raises(ValueError, match="QVariant"):
            slicer.app.settings().setValue("XViewSynth/Bytes", 2**41)


class TestSubclass:
    def test_takes_attributes(self, qt):
        class Mine(qt.QDialog):
            def __init__(self):
                qt.QDialog.__init__(self)
                self.mine = 1

        assert Mine().mine == 1

    def test_is_an_instance_of_its_base(self, qt):
        class Mine(qt.QDialog):
            pass

        assert isinstance(Mine(), qt.QDialog)

    def test_has_its_virtual_methods_called(self, qt):
        class Mine(qt.QWidget):
            seen = 0

            def closeEvent(self, event):
                self.seen = event.type()

        widget = Mine()
        widget.show()
        widget.close()
        assert widget.seen == qt.QEvent.Close

    def test_filters_events(self, qt):
        class Filter(qt.QObject):
            def __init__(self):
                super().__init__()
                self.seen = []

            def eventFilter(self, watched, event):
                self.seen.append(event.type())
                return False

        watched, watching = qt.QWidget(), Filter()
        watched.installEventFilter(watching)
        watched.show()
        assert qt.QEvent.Show in watching.seen


class TestUiFile:
    def load(self, tmp_path, text=UI):
        path = tmp_path / "Sample.ui"
        path.write_text(text)
        return slicer.util.loadUI(str(path))

    def test_gives_its_widgets_by_name(self, desktop, tmp_path, qt, ctk):
        ui = slicer.util.childWidgetVariables(self.load(tmp_path))
        kinds = (type(ui.applyButton), type(ui.section), type(ui.inputSelector), type(ui.opacitySlider))
        assert kinds == (qt.QPushButton, ctk.ctkCollapsibleButton, slicer.qMRMLNodeComboBox, ctk.ctkSliderWidget)

    def test_gives_their_properties(self, desktop, tmp_path):
        widget = self.load(tmp_path)
        selector = slicer.util.findChild(widget, "inputSelector")
        given = (selector.nodeTypes, selector.addEnabled, selector.property("SlicerParameterName"))
        assert given == (("vtkMRMLScalarVolumeNode",), False, "inputVolume")

    def test_passes_the_scene_on(self, desktop, tmp_path):
        widget = self.load(tmp_path)
        widget.setMRMLScene(slicer.mrmlScene)
        assert slicer.util.findChild(widget, "inputSelector").mrmlScene() is slicer.mrmlScene

    def test_with_an_unknown_widget_is_refused(self, desktop, tmp_path):
        with pytest.raises(ValueError, match="ctkThermometer"):
            self.load(tmp_path, UI.replace("ctkPathLineEdit", "ctkThermometer"))

    @pytest.mark.parametrize("name", ["mrmlSceneChanged(vtkMRMLScene*)", "inputSelector</receiver", "setMRMLScene"])
    def test_with_a_dead_connection_is_refused(self, desktop, tmp_path, name):
        with pytest.raises(ValueError, match="does not exist"):
            self.load(tmp_path, UI.replace(name, name.replace("S", "Z").replace("input", "output")))

    def test_that_is_missing_is_refused(self, desktop):
        with pytest.raises(RuntimeError, match="not found"):
            slicer.util.loadUI("nowhere.ui")


class TestNodeComboBox:
    @pytest.fixture
    def selector(self, desktop):
        selector = slicer.qMRMLNodeComboBox()
        selector.nodeTypes = ("vtkMRMLScalarVolumeNode",)
        selector.noneEnabled = True
        selector.setMRMLScene(slicer.mrmlScene)
        return selector

    def test_starts_with_none(self, selector):
        add_volume()
        assert selector.currentNode() is None

    def test_without_none_it_does_not_choose_a_node_that_is_added(self, selector):
        selector.noneEnabled = False
        add_volume()
        assert selector.currentNode() is None

    def test_without_none_it_chooses_another_node_when_its_own_is_removed(self, selector):
        selector.noneEnabled = False
        removed, other = add_volume(), add_volume()
        selector.setCurrentNode(removed)
        slicer.mrmlScene.RemoveNode(removed)
        assert selector.currentNode() is other

    def test_tells_of_a_change(self, selector):
        heard, volume = [], add_volume()
        selector.connect("currentNodeChanged(vtkMRMLNode*)", heard.append)
        selector.setCurrentNode(volume)
        assert heard == [volume]

    def test_tells_the_id(self, selector):
        volume = add_volume()
        selector.setCurrentNode(volume)
        assert selector.currentNodeID == volume.GetID()

    def test_is_set_by_id(self, selector):
        volume = add_volume()
        selector.setCurrentNodeID(volume.GetID())
        assert selector.currentNode() is volume

    def test_forgets_a_removed_node(self, selector):
        heard, volume = [], add_volume()
        selector.setCurrentNode(volume)
        selector.currentNodeChanged.connect(heard.append)
        slicer.mrmlScene.RemoveNode(volume)
        assert selector.currentNode() is None
        assert heard == [None]

    def test_forgets_the_nodes_of_a_closed_scene(self, selector):
        selector.setCurrentNode(add_volume())
        slicer.mrmlScene.Clear(False)
        assert selector.currentNode() is None

    def test_offers_subclasses(self, selector):
        labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        selector.setCurrentNode(labels)
        assert selector.currentNode() is labels

    def test_hides_the_given_nodes(self, selector):
        selector.hideChildNodeTypes = ("vtkMRMLLabelMapVolumeNode",)
        selector.setCurrentNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode"))
        assert selector.currentNode() is None

    def test_offers_what_has_the_attribute(self, selector):
        selector.addAttribute("vtkMRMLScalarVolumeNode", "XViewSynth.Model")
        plain, enhanced = add_volume(), slicer.vtkMRMLScalarVolumeNode()
        enhanced.SetAttribute("XViewSynth.Model", "standard")
        slicer.mrmlScene.AddNode(enhanced)
        selector.setCurrentNode(plain)
        assert selector.currentNode() is None
        selector.setCurrentNode(enhanced)
        assert selector.currentNode() is enhanced

    def test_refuses_other_nodes(self, selector):
        selector.setCurrentNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode"))
        assert selector.currentNode() is None

    def test_adds_a_node(self, selector):
        selector.baseName = "enhanced"
        node = selector.addNode()
        assert (node.GetName(), selector.currentNode()) == ("enhanced", node)

    def test_shows_new_names(self, selector):
        volume = add_volume("CT")
        selector.setCurrentNode(volume)
        volume.SetName("Chest")
        assert selector.comboBox().currentText == "Chest"

    def test_dies_with_its_panel(self, desktop, qt):
        parent = qt.QWidget()
        selector = slicer.qMRMLNodeComboBox(parent)
        selector.nodeTypes = ("vtkMRMLScalarVolumeNode",)
        selector.setMRMLScene(slicer.mrmlScene)
        parent.delete()
        add_volume()
        with pytest.raises(ValueError, match="destroyed"):
            selector.currentNode()


class TestCtkWidget:
    def test_section_hides_its_contents(self, qt, ctk):
        section = ctk.ctkCollapsibleButton("Advanced")
        qt.QVBoxLayout(section).addWidget(label := qt.QLabel("x"))
        section.collapsed = True
        assert not label.isVisibleTo(section)

    def test_section_shows_them_again(self, qt, ctk):
        section, heard = ctk.ctkCollapsibleButton("Advanced"), []
        section.connect("contentsCollapsed(bool)", heard.append)
        qt.QVBoxLayout(section).addWidget(label := qt.QLabel("x"))
        section.collapsed = True
        section.collapsed = False
        assert label.isVisibleTo(section)
        assert heard == [True, False]

    def test_section_leaves_hidden_what_was_hidden(self, qt, ctk):
        section = ctk.ctkCollapsibleButton("Advanced")
        qt.QVBoxLayout(section).addWidget(label := qt.QLabel("x"))
        label.hide()
        section.collapsed = True
        section.collapsed = False
        assert not label.isVisibleTo(section)

    def test_slider_signals_a_change(self, ctk):
        slider, heard = ctk.ctkSliderWidget(), []
        slider.connect("valueChanged(double)", heard.append)
        slider.value = 12.5
        assert (slider.value, heard) == (12.5, [12.5])

    def test_slider_keeps_to_its_range(self, ctk):
        slider = ctk.ctkSliderWidget()
        slider.maximum = 1
        slider.value = 12.5
        assert slider.value == 1

    def test_path_line_signals_a_change(self, ctk):
        line, heard = ctk.ctkPathLineEdit(), []
        line.currentPathChanged.connect(heard.append)
        line.currentPath = "/scans"
        assert heard == ["/scans"]

    def test_combo_box_has_a_default_text(self, ctk):
        combo = ctk.ctkComboBox()
        combo.defaultText = "Choose"
        assert combo.defaultText == "Choose"


class TestParameterNode:
    def test_has_the_defaults(self, panel):
        assert (panel.parameters.factor, panel.parameters.folder) == (4, Path("here"))
        assert (panel.parameters.spacing, panel.parameters.inputVolume) == (None, None)

    def test_keeps_values_in_the_scene(self, panel):
        panel.parameters.factor = 6
        assert panel.logic.getParameterNode().factor == 6

    def test_keeps_a_node_as_a_reference(self, panel):
        volume = add_volume()
        panel.parameters.inputVolume = volume
        assert panel.parameters.parameterNode.GetNodeReference("inputVolume") is volume

    def test_forgets_a_removed_node(self, panel):
        panel.parameters.inputVolume = add_volume()
        slicer.mrmlScene.RemoveNode(panel.parameters.inputVolume)
        assert panel.parameters.inputVolume is None

    def test_keeps_an_optional_value(self, panel):
        panel.parameters.spacing = 1.25
        assert panel.logic.getParameterNode().spacing == 1.25
        panel.parameters.spacing = None
        assert panel.logic.getParameterNode().spacing is None

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("factor", np.int64(4)),
            ("factor", 4.0),
            ("opacity", np.float32(0.5)),
            ("isotropic", 1),
            ("isotropic", np.bool_(True)),
            ("folder", "here"),
            ("kind", "GAP"),
            ("inputVolume", "vtkMRMLScalarVolumeNode1"),
        ],
    )
    def test_refuses_the_wrong_type(self, panel, name, value):
        with pytest.raises(TypeError):
            setattr(panel.parameters, name, value)

    @pytest.mark.parametrize(("name", "value"), [("factor", 9), ("opacity", -0.1), ("device", "tpu"), ("name", None)])
    def test_refuses_the_wrong_value(self, panel, name, value):
        with pytest.raises(ValueError, match="(?i)value|none"):
            setattr(panel.parameters, name, value)

    def test_leaves_the_old_value_where_it_refuses(self, panel):
        with pytest.raises(ValueError, match="range|within"):
            panel.parameters.factor = 9
        assert panel.parameters.factor == 4

    def test_takes_a_misspelled_attribute_silently(self, panel):
        panel.parameters.fctor = 6
        assert panel.parameters.factor == 4

    def test_refuses_an_unknown_name(self, panel):
        with pytest.raises(ValueError, match="fctor"):
            panel.parameters.setValue("fctor", 6)

    def test_tells_observers(self, panel):
        heard = []
        tag = panel.parameters.AddObserver("ModifiedEvent", lambda *_: heard.append(panel.parameters.factor))
        panel.parameters.factor = 6
        panel.parameters.RemoveObserver(tag)
        panel.parameters.factor = 7
        assert heard == [6]

    def test_is_one_in_the_scene(self, panel):
        panel.logic.getParameterNode()
        assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScriptedModuleNode") == 1


class TestBinding:
    def test_shows_the_values(self, panel):
        ui = panel.ui
        assert (ui.factorSpinBox.value, ui.opacitySlider.value, ui.nameEdit.text) == (4, 0.5, "CT")
        assert (ui.deviceSelector.currentText, ui.kindSelector.currentText) == ("auto", "GAP")
        assert ui.folderEdit.currentPath == "here"

    def test_sets_the_range(self, panel):
        assert (panel.ui.factorSpinBox.minimum, panel.ui.factorSpinBox.maximum) == (2, 8)

    def test_takes_what_the_user_chooses(self, panel):
        ui, volume = panel.ui, add_volume()
        ui.factorSpinBox.value = 6
        ui.opacitySlider.value = 0.3
        ui.isotropicCheckBox.click()
        ui.deviceSelector.setCurrentIndex(1)
        ui.kindSelector.setCurrentIndex(1)
        ui.nameEdit.text = "Chest"
        ui.folderEdit.currentPath = "there"
        ui.inputSelector.setCurrentNode(volume)
        taken = panel.parameters
        assert (taken.factor, taken.opacity, taken.isotropic, taken.device) == (6, 0.3, True, "cpu")
        assert (taken.kind.name, taken.name, taken.folder, taken.inputVolume) == (
            "THICK",
            "Chest",
            Path("there"),
            volume,
        )

    def test_shows_what_a_script_sets(self, panel):
        panel.parameters.factor = 8
        panel.parameters.isotropic = True
        assert panel.ui.factorSpinBox.value == 8
        assert panel.ui.isotropicCheckBox.checked

    def test_ends_when_it_is_undone(self, panel):
        panel.parameters.disconnectGui(panel.tag)
        panel.ui.factorSpinBox.value = 7
        assert panel.parameters.factor == 4

    def test_may_be_given_by_hand(self, panel, sample_desktop):
        spin = sys.modules["qt"].QSpinBox()
        panel.parameters.connectParametersToGui({"factor": spin})
        spin.value = 5
        assert panel.parameters.factor == 5

    def test_takes_no_dict(self, panel):
        with pytest.raises(AttributeError):
            panel.parameters.connectGui({"factor": panel.ui.factorSpinBox})

    def test_refuses_a_widget_of_the_wrong_kind(self, panel):
        with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
            panel.parameters.connectParametersToGui({"factor": panel.ui.nameEdit})

    def test_slider_needs_a_range(self, panel):
        with pytest.raises(RuntimeError):
            panel.parameters.connectParametersToGui({"spacing": panel.ui.opacitySlider})


class TestModule:
    def test_tells_about_itself(self, sample_desktop):
        sample = sample_desktop.sample
        assert (sample.title, sample.categories, sample.name) == ("A sample", ("Tests",), "Sample")

    def test_is_among_slicers(self, sample_desktop):
        assert slicer.modules.sample is sample_desktop.sample
        assert slicer.util.modulePath("Sample") == sample_desktop.sample.path

    def test_is_notified_of_the_start(self, sample_desktop):
        sample_desktop.start_up()
        assert slicer.modules.SampleInstance.started == 1

    def test_has_its_logic_found(self, sample_desktop):
        assert type(slicer.util.getModuleLogic("Sample")).__name__ == "SampleLogic"

    def test_panel_is_entered(self, panel):
        assert panel.events == ["enter"]
        assert panel.parent.isEntered

    def test_panel_is_slicers(self, panel):
        assert slicer.modules.SampleWidget is panel

    def test_button_works(self, panel):
        panel.ui.applyButton.click()
        assert panel.events == ["enter", "apply"]

    def test_is_notified_of_a_closed_scene(self, panel):
        slicer.mrmlScene.Clear(False)
        assert panel.events == ["enter", "closed"]

    def test_is_reloaded(self, panel, sample_desktop):
        panel.onReload()
        assert panel.events == ["enter", "cleanup"]
        assert slicer.modules.SampleWidget is not panel
        assert slicer.modules.SampleWidget.ui.factorSpinBox.value == 4

    def test_runs_its_own_tests(self, sample_desktop):
        slicer.selfTests["Sample"]()
        assert sys.modules["Sample"].SampleTest.ran == ["once"]

    def test_cleans_up_at_the_end(self, tmp_path):
        with install(tmp_path / "desktop", slicer_python_dir="") as desktop:
            desktop.load_module(write_module(tmp_path / "Sample"))
            panel = desktop.select_module("Sample")
        assert panel.events[-1] == "cleanup"

    @SLICERS_OWN
    def test_uses_slicers_own_files(self, tmp_path):
        folder = Path(os.environ[SLICER_PYTHON_DIR]).resolve()
        with install(tmp_path):
            own = [slicer.ScriptedLoadableModule, slicer.i18n, slicer.packaging, slicer.parameterNodeWrapper]
            assert all(Path(module.__file__).resolve().is_relative_to(folder) for module in own)


class TestDialog:
    def test_is_noted_and_not_shown(self, desktop):
        slicer.util.errorDisplay("The scan has no slices.", detailedText="Log")
        assert [(item.kind, item.text) for item in desktop.shown_messages] == [
            ("error", "The scan has no slices.\nLog")
        ]

    @pytest.mark.parametrize("answer", [True, False])
    def test_question_is_answered(self, desktop, answer):
        desktop.answers.append(answer)
        assert slicer.util.confirmYesNoDisplay("Harden the transform?") is answer

    def test_question_takes_a_button(self, desktop, qt):
        desktop.answers.append(qt.QMessageBox.Cancel)
        assert not slicer.util.confirmOkCancelDisplay("Go on?")

    def test_question_without_an_answer_is_an_error(self, desktop):
        with pytest.raises(RuntimeError, match="would hang"):
            slicer.util.confirmYesNoDisplay("Harden the transform?")

    def test_file_dialog_is_answered(self, desktop, qt):
        desktop.answers.append("/scans/chest.nrrd")
        assert qt.QFileDialog.getOpenFileName(None, "Open") == "/scans/chest.nrrd"

    def test_static_box_is_noted(self, desktop, qt):
        qt.QMessageBox.critical(None, "Title", "Text")
        assert [(item.kind, item.title, item.text) for item in desktop.shown_messages] == [("error", "Title", "Text")]

    def test_any_dialog_would_hang(self, desktop, qt):
        with pytest.raises(RuntimeError, match="would hang"):
            qt.QDialog().exec_()

    def test_in_testing_mode_is_not_even_noted(self, tmp_path):
        with install(tmp_path, testing=True) as desktop:
            # Slicer says True to this and compares it with the button, which it is not.
            assert not slicer.util.confirmYesNoDisplay("Harden the transform?")
            assert desktop.shown_messages == []

    def test_with_error_display_raises_again(self, desktop):
        with pytest.raises(KeyError), slicer.util.tryWithErrorDisplay("It failed."):
            raise KeyError("x")
        assert "It failed." in desktop.shown_messages[0].text


class TestWithoutMainWindow:
    @pytest.fixture
    def desktop(self, tmp_path):
        with install(tmp_path / "desktop", main_window=False) as desktop:
            yield desktop

    def test_has_none(self, desktop):
        assert slicer.util.mainWindow() is None
        assert slicer.app.layoutManager() is None
        assert slicer.app.commandOptions().noMainWindow

    def test_error_is_silent(self, desktop):
        slicer.util.errorDisplay("No.")
        assert desktop.shown_messages == []

    def test_question_would_hang(self, desktop):
        with pytest.raises(RuntimeError, match="would hang"):
            slicer.util.confirmYesNoDisplay("Harden?")

    def test_builds_a_panel(self, desktop, tmp_path):
        desktop.load_module(write_module(tmp_path / "Sample"))
        assert desktop.select_module("Sample").ui.factorSpinBox.value == 4


class TestLayout:
    def test_has_the_usual_views(self, desktop):
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        assert set(slicer.app.layoutManager().sliceViewNames()) == {"Red", "Yellow", "Green"}

    def test_changes(self, desktop):
        manager, heard = slicer.app.layoutManager(), []
        manager.connect("layoutChanged(int)", heard.append)
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
        assert manager.sliceViewNames() == ("Red",)
        assert heard == [manager.layout]

    def test_follows_a_layout_of_our_own(self, desktop):
        node = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
        views = [f'<item><view class="vtkMRMLSliceNode" singletontag="{name}"/></item>' for name in ("Above", "Below")]
        node.AddLayoutDescription(777, f'<layout type="vertical">{"".join(views)}</layout>')
        slicer.app.layoutManager().setLayout(777)
        assert set(slicer.app.layoutManager().sliceViewNames()) == {"Above", "Below"}

    def test_new_views_get_their_size_when_events_are_processed(self, desktop):
        manager = slicer.app.layoutManager()
        node = manager.layoutLogic().GetLayoutNode()
        view = '<view class="vtkMRMLSliceNode" singletontag="Above"/>'
        node.AddLayoutDescription(777, f'<layout type="vertical"><item>{view}</item></layout>')
        manager.setLayout(777)
        logic = manager.sliceWidget("Above").sliceLogic()
        logic.SetSliceOffset(12)
        slicer.app.processEvents()
        assert logic.GetSliceOffset() == 0
        logic.SetSliceOffset(12)
        slicer.app.processEvents()
        assert logic.GetSliceOffset() == 12

    def test_views_have_their_logic(self, desktop):
        red = slicer.app.layoutManager().sliceWidget("Red")
        assert red.sliceLogic().GetSliceNode() is red.mrmlSliceNode()
        assert slicer.app.applicationLogic().GetSliceLogic(red.mrmlSliceNode()) is red.sliceLogic()

    def test_shows_volumes(self, desktop):
        volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), "int16"))
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
        assert composite.GetBackgroundVolumeID() == volume.GetID()

    def test_has_no_other_views(self, desktop):
        assert slicer.app.layoutManager().sliceWidget("Purple") is None


class TestPackages:
    @pytest.fixture
    def requirements(self, tmp_path):
        path = tmp_path / "requirements.txt"
        path.write_text("# a comment\nnumpy>=1.0\nno-such-package-of-ours>=2\n")
        return str(path)

    @pytest.mark.parametrize("files", ["ours", pytest.param("slicer's", marks=SLICERS_OWN)])
    def test_missing_ones_are_installed(self, tmp_path, requirements, files):
        folder = "" if files == "ours" else os.environ[SLICER_PYTHON_DIR]
        with install(tmp_path, slicer_python_dir=folder) as desktop:
            desktop.answers.append(True)
            needed = slicer.packaging.load_requirements(requirements)
            slicer.packaging.pip_ensure(needed, requester="XViewSynth")
            assert desktop.installed_requirements == ["no-such-package-of-ours>=2"]
            assert desktop.shown_messages[0].kind == "question"

    @pytest.mark.parametrize("files", ["ours", pytest.param("slicer's", marks=SLICERS_OWN)])
    def test_refusal_is_an_error(self, tmp_path, requirements, files):
        folder = "" if files == "ours" else os.environ[SLICER_PYTHON_DIR]
        with install(tmp_path, slicer_python_dir=folder) as desktop:
            desktop.answers.append(False)
            with pytest.raises(RuntimeError, match="declined"):
                slicer.packaging.pip_ensure(slicer.packaging.load_requirements(requirements))
            assert desktop.installed_requirements == []

    def test_in_testing_mode_nothing_happens(self, tmp_path, requirements):
        with install(tmp_path, testing=True) as desktop:
            slicer.packaging.pip_ensure(slicer.packaging.load_requirements(requirements))
            assert desktop.installed_requirements == []

    def test_of_slicer_5_10_have_no_such_module(self, tmp_path):
        with install(tmp_path, packaging=False), pytest.raises(ModuleNotFoundError):
            import slicer.packaging  # noqa: F401

    def test_pip_is_never_run(self, desktop):
        slicer.util.pip_install("no-such-package-of-ours")
        assert desktop.installed_requirements == ["no-such-package-of-ours"]

    def test_pytorch_extension_is_there(self, desktop):
        import PyTorchUtils

        assert PyTorchUtils.PyTorchUtilsLogic.torchInstalled()

    def test_pytorch_extension_is_missing(self, tmp_path):
        with install(tmp_path, pytorch=False), pytest.raises(ModuleNotFoundError):
            import PyTorchUtils  # noqa: F401


class TestSampleData:
    def test_is_registered(self, desktop):
        import SampleData

        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            "XViewSynth", sampleName="Chest", checksums="SHA256:0"
        )
        assert slicer.modules.sampleDataSources["XViewSynth"][0].sampleName == "Chest"

    def test_with_a_wrong_name_is_refused(self, desktop):
        import SampleData

        with pytest.raises(TypeError, match="checksum"):
            SampleData.SampleDataLogic.registerCustomSampleDataSource("XViewSynth", checksum="SHA256:0")


PLUGIN = textwrap.dedent(
    """
    import qt
    import slicer
    from AbstractScriptedSubjectHierarchyPlugin import *


    class SampleSubjectHierarchyPlugin(AbstractScriptedSubjectHierarchyPlugin):
        filePath = __file__

        def __init__(self, scriptedPlugin):
            scriptedPlugin.name = "Sample"
            AbstractScriptedSubjectHierarchyPlugin.__init__(self, scriptedPlugin)
            self.action = qt.QAction("Enhance slices", scriptedPlugin)
            self.action.connect("triggered()", self.onEnhance)
            self.enhanced = []

        def itemContextMenuActions(self):
            return [self.action]

        def showContextMenuActionsForItem(self, item):
            handler = slicer.qSlicerSubjectHierarchyPluginHandler.instance()
            self.action.visible = bool(handler.pluginByName("Volumes").canOwnSubjectHierarchyItem(item))

        def onEnhance(self):
            self.enhanced.append(slicer.qSlicerSubjectHierarchyPluginHandler.instance().currentItem())
    """
)


class TestSubjectHierarchy:
    @pytest.fixture
    def plugin(self, desktop, tmp_path):
        path = tmp_path / "SampleSubjectHierarchyPlugin.py"
        path.write_text(PLUGIN)
        import SubjectHierarchyPlugins  # noqa: F401  its import makes the base class importable

        plugin = slicer.qSlicerSubjectHierarchyScriptedPlugin(None)
        assert plugin.setPythonSource(str(path))
        return plugin

    def item(self, node):
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        return hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    def test_action_is_offered_and_works(self, plugin):
        handler, item = slicer.qSlicerSubjectHierarchyPluginHandler.instance(), self.item(add_volume())
        (action,) = handler.right_click(item)
        action.trigger()
        assert plugin.self().enhanced == [item]

    def test_the_base_class_is_not_importable_before_its_package(self, desktop, tmp_path):
        path = tmp_path / "SampleSubjectHierarchyPlugin.py"
        path.write_text(PLUGIN)
        with pytest.raises(ModuleNotFoundError):
            slicer.qSlicerSubjectHierarchyScriptedPlugin(None).setPythonSource(str(path))

    def test_action_is_hidden_elsewhere(self, plugin):
        model = self.item(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode"))
        assert slicer.qSlicerSubjectHierarchyPluginHandler.instance().right_click(model) == ()


class TestPump:
    def test_waits_for_the_condition(self, desktop, qt):
        heard = []
        qt.QTimer.singleShot(20, lambda: heard.append(1))
        desktop.pump(lambda: heard)
        assert heard == [1]

    def test_says_what_did_not_happen(self, desktop):
        with pytest.raises(TimeoutError, match="did not happen"):
            desktop.pump(lambda: False, timeout=0.05)

    def test_passes_the_conditions_error_on(self, desktop):
        with pytest.raises(ZeroDivisionError):
            desktop.pump(lambda: 1 / 0)

    def test_measures_a_stall(self, desktop, qt):
        qt.QTimer.singleShot(1, lambda: time.sleep(0.3))
        desktop.pump(timeout=0.5)
        assert desktop.longest_stall >= 290

    def test_measures_no_stall_where_there_is_none(self, desktop):
        desktop.pump(timeout=0.2)
        assert desktop.longest_stall < 150

    def test_forgets_a_stall(self, desktop, qt):
        qt.QTimer.singleShot(1, lambda: time.sleep(0.3))
        desktop.pump(timeout=0.4)
        desktop.reset_stall()
        assert desktop.longest_stall == 0

    def test_destroys_what_is_to_be_deleted_later(self, desktop, qt):
        label = qt.QLabel("x")
        label.deleteLater()
        desktop.pump(lambda: not label, timeout=2)


class TestPhotograph:
    def test_shows_the_widget(self, desktop, qt, tmp_path):
        label = qt.QLabel("x")
        label.setStyleSheet("background: #ff0000")
        label.resize(40, 30)
        path = desktop.photograph(label, tmp_path / "pictures" / "label.png")
        picture = qt.QImage(str(path))
        assert (picture.width(), picture.height()) == (40, 30)
        assert picture.pixelColor(1, 1).name() == "#ff0000"

    def test_that_cannot_be_written_says_so(self, desktop, qt, tmp_path):
        (tmp_path / "label.png").mkdir()
        with pytest.raises(OSError, match="could not be written"):
            desktop.photograph(qt.QLabel("x"), tmp_path / "label.png")


class TestFiles:
    def test_volume_is_saved_and_loaded(self, desktop, tmp_path):
        voxels = np.arange(60, dtype="int16").reshape(3, 4, 5)
        assert slicer.util.saveNode(slicer.util.addVolumeFromArray(voxels), str(tmp_path / "scan.nrrd"))
        loaded = slicer.util.loadVolume(str(tmp_path / "scan.nrrd"), {"name": "Chest"})
        assert loaded.GetName() == "Chest"
        assert np.array_equal(slicer.util.arrayFromVolume(loaded), voxels)

    def test_missing_file_is_an_error(self, desktop, tmp_path):
        with pytest.raises(RuntimeError, match="Failed to load"):
            slicer.util.loadVolume(str(tmp_path / "nowhere.nrrd"))
        assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0

    def test_temporary_folder_exists(self, desktop):
        assert Path(slicer.app.temporaryPath).is_dir()


class TestEnd:
    def test_takes_everything_away(self, tmp_path):
        before = (dict(vars(slicer)), set(sys.modules), list(sys.path))
        with install(tmp_path / "desktop", slicer_python_dir="") as desktop:
            desktop.load_module(write_module(tmp_path / "Sample"))
            desktop.select_module("Sample")
        gone = {"qt", "ctk", "Sample", "slicer.ScriptedLoadableModule", "slicer.parameterNodeWrapper", "PyTorchUtils"}
        assert not gone & (set(sys.modules) - before[1])
        assert {"app", "modules", "qMRMLWidget", "i18n"}.isdisjoint(vars(slicer).keys() - before[0].keys())
        assert sys.path == before[2]

    def test_leaves_no_window(self, tmp_path):
        with install(tmp_path) as desktop:
            app = desktop.app
            app.mainWindow()
        gc.collect()
        assert app.topLevelWidgets() == ()

    def test_next_desktop_starts_afresh(self, tmp_path):
        for number in range(2):
            with install(tmp_path / str(number), slicer_python_dir="") as desktop:
                desktop.load_module(write_module(tmp_path / f"Sample{number}" / "Sample"))
                assert desktop.select_module("Sample").events == ["enter"]
                assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScriptedModuleNode") == 1
