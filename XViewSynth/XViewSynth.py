"""The desk: the Slicer module "XViewSynth" with its panel and its logic. What they do lies in XViewSynthScene."""

import enum
import logging
import time
from pathlib import Path
from typing import Annotated

import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

MODULE_FOLDER = Path(__file__).resolve().parent
SAMPLE_CATEGORY = "XViewSynth"
# Name of the sample, its file below Resources/SampleData, its SHA-256.
SAMPLES = (
    (
        "ChestCTThick",
        "ChestCTThick.nrrd",
        "a0e18af7fb0b91588c334b09958475978f6c4eb9221a97d4f34dc0b637385b76",
    ),
    (
        "ChestCTThin",
        "ChestCT.nrrd",
        "432b8d77c7179d7c4d738cfba6c48e43005faa7b152401d633655613d28b2db9",
    ),
)

# How often a run is looked at: often enough that its progress moves, seldom enough to cost nothing.
TICK_MILLISECONDS = 100
BLINK_MILLISECONDS = 600
# Speed is measured only once the user has stopped choosing.
SETTLED_MILLISECONDS = 800


class XViewSynth(ScriptedLoadableModule):
    """What Slicer shows of the module, and what is set up once."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("XViewSynth")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = ["SubjectHierarchy"]
        self.parent.contributors = ["The XViewSynth authors"]
        self.parent.helpText = _(
            "Gives a thick-slice CT the slices it lacks. Three views of the scan predict them, and where the views "
            "disagree, a map says so. Observed slices stay as they are. <b>Enhance slices</b> makes the volume, "
            "<b>Check on this scan</b> measures how well slices of your own scan are restored, and the linked views "
            "show original and result side by side. Synthetic slices are predictions: not for diagnosis."
        )
        self.parent.acknowledgementText = _(
            "An independent implementation of Fang, Wang, Zhang, Xu, Yuan and Han: Incremental Cross-view Mutual "
            "Distillation for Self-supervised Medical CT Synthesis, CVPR 2022 (arXiv 2112.10325)."
        )
        slicer.app.connect("startupCompleted()", onStartupCompleted)

    def setup(self):
        """Called once the application's own plugins are there: offer "Enhance slices" in the Data module."""
        registerSubjectHierarchyPlugin()


def onStartupCompleted():
    """Called once all modules are there: offer the sample data, and get ready for scenes that are loaded and saved."""
    registerSampleData()
    layoutManager = slicer.app.layoutManager()
    if layoutManager:
        from XViewSynthScene.views import register_layout

        register_layout(layoutManager.layoutLogic().GetLayoutNode())
    slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.StartSaveEvent, onSaveScene)


def onSaveScene(caller, event):
    """The scene is about to be saved: let files of enhanced volumes tell where they come from."""
    from XViewSynthScene.provenance import copy_all_to_storage

    copy_all_to_storage(caller)


def registerSampleData():
    """Offer the bundled scans in the Sample Data module; they are read from disk, so no network is needed."""
    import SampleData

    folder = sampleDataFolder()
    if folder is None:
        logging.warning("XViewSynth was installed without its sample data.")
        return
    for name, fileName, checksum in SAMPLES:
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=SAMPLE_CATEGORY,
            sampleName=name,
            thumbnailFileName=str(MODULE_FOLDER / "Resources" / "Icons" / f"{name}.png"),
            uris=(folder / fileName).as_uri(),
            fileNames=fileName,
            checksums=f"SHA256:{checksum}",
            nodeNames=name,
        )


def sampleDataFolder():
    """Where the bundled scans lie: above the module in the repository, beside it where it is installed; or None."""
    places = [folder / "Resources" / "SampleData" for folder in (MODULE_FOLDER.parent, MODULE_FOLDER)]
    return next((place for place in places if place.is_dir()), None)


def registerSubjectHierarchyPlugin():
    """Add "Enhance slices" to the context menu of volumes."""
    path = MODULE_FOLDER / "SubjectHierarchyPlugins" / "XViewSynthSubjectHierarchyPlugin.py"
    plugin = slicer.qSlicerSubjectHierarchyScriptedPlugin(None)
    plugin.setPythonSource(str(path))


class Goal(enum.Enum):
    """How many slices to make."""

    AUTOMATIC = "automatic"
    FACTOR = "factor"
    SPACING = "spacing"
    ISOTROPIC = "isotropic"

    def label(self):
        """What the panel calls it."""
        return {
            Goal.AUTOMATIC: _("Down to 1.25 mm or less"),
            Goal.FACTOR: _("By a factor"),
            Goal.SPACING: _("To a spacing"),
            Goal.ISOTROPIC: _("As fine as the pixels (isotropic)"),
        }[self]


class Device(enum.Enum):
    """Where to compute; the values are the engine's words."""

    AUTOMATIC = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    def label(self):
        """What the panel calls it."""
        return {
            Device.AUTOMATIC: _("Automatic (a GPU if there is one)"),
            Device.CPU: _("Processor (CPU)"),
            Device.CUDA: _("NVIDIA GPU (CUDA)"),
            Device.MPS: _("Apple GPU (MPS)"),
        }[self]


class Acquisition(enum.Enum):
    """How the scanner made slices; the values are the engine's words."""

    AUTOMATIC = "auto"
    GAP = "gap"
    THICK = "thick"

    def label(self):
        """What the panel calls it."""
        return {
            Acquisition.AUTOMATIC: _("Automatic"),
            Acquisition.GAP: _("Thin slices far apart"),
            Acquisition.THICK: _("Averaged over thick slices"),
        }[self]


class Quality(enum.Enum):
    """How much work the result is worth; the values are the engine's words."""

    STANDARD = "standard"
    BEST = "best"

    def label(self):
        """What the panel calls it."""
        return {
            Quality.STANDARD: _("Standard"),
            Quality.BEST: _("Best (takes four to five times as long)"),
        }[self]


class Axis(enum.Enum):
    """Which axis gets more slices; the values are the engine's words."""

    AUTOMATIC = "auto"
    I = "I"  # noqa: E741
    J = "J"
    K = "K"

    def label(self):
        """What the panel calls it."""
        return _("Automatic (the axis of the slices)") if self is Axis.AUTOMATIC else self.value


@parameterNodeWrapper
class XViewSynthParameterNode:
    """What the user has chosen in the panel; saved and loaded with the scene.

    inputVolume - The scan to enhance.
    outputVolume - Gets the result; None for a new volume.
    goal, factor, spacing - How many slices to make; spacing in mm.
    model - Name or folder of the model, or "auto" for the one that ships for the acquisition.
    device, acquisition, axis, quality - As the command line's options of these names.
    thickness - Of the observed slices, mm; 0 for what the scan says.
    memory - The most memory to take, GB; 0 for what is free.
    showViews - Whether the linked views open when a result is there.
    enhancedVolume - The result that is compared with its original.
    fade - What the lower views show: 0 the enhanced volume, 1 the original.
    blink - Whether original and enhanced take turns there.
    showDoubt, doubtOpacity - The map of doubt as a coloured overlay.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    outputVolume: vtkMRMLScalarVolumeNode
    goal: Goal = Goal.AUTOMATIC
    factor: Annotated[int, WithinRange(2, 8)] = 4
    spacing: Annotated[float, WithinRange(0.1, 10.0)] = 1.0
    model: str = "auto"
    device: Device = Device.AUTOMATIC
    acquisition: Acquisition = Acquisition.AUTOMATIC
    thickness: Annotated[float, WithinRange(0.0, 50.0)] = 0.0
    axis: Axis = Axis.AUTOMATIC
    quality: Quality = Quality.STANDARD
    memory: Annotated[float, WithinRange(0.0, 4096.0)] = 0.0
    showViews: bool = True
    enhancedVolume: vtkMRMLScalarVolumeNode
    fade: Annotated[float, WithinRange(0.0, 1.0)] = 0.0
    blink: bool = False
    showDoubt: bool = False
    doubtOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5


class XViewSynthWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. It starts runs and looks at them from a timer; nothing here waits."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._observedInput = None
        self._run = None
        self._whenDone = None
        self._views = None
        # What is being measured, and what to measure once the user has stopped choosing.
        self._measurement = None
        self._wanted = None

    # Life cycle

    def setup(self):
        """Build the panel from its .ui file and connect it."""
        import qt

        from XViewSynthScene.desk import make_timer

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/XViewSynth.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.ui.enhancedSelector.addAttribute("vtkMRMLScalarVolumeNode", "XViewSynth.Model")

        self.logic = XViewSynthLogic()
        self._runTimer = make_timer(qt, TICK_MILLISECONDS, self.onTick)
        self._blinkTimer = make_timer(qt, BLINK_MILLISECONDS, self.onBlink)
        self._speedTimer = make_timer(qt, SETTLED_MILLISECONDS, self.onSettled, single_shot=True)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.enhanceButton.connect("clicked(bool)", self.onEnhance)
        self.ui.selfCheckButton.connect("clicked(bool)", self.onSelfCheck)
        self.ui.cancelButton.connect("clicked(bool)", self.onCancel)
        self.ui.showViewsButton.connect("clicked(bool)", self.onShowViews)
        self.ui.swapButton.connect("clicked(bool)", self.onSwap)
        self.ui.formerLayoutButton.connect("clicked(bool)", self.onFormerLayout)
        self.ui.modelSelector.connect("currentIndexChanged(int)", self.onModelSelected)
        self.initializeParameterNode()

    def cleanup(self):
        """The panel goes away, because the application closes or the module is reloaded: end what runs."""
        self._endWork()
        self._closeViews()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """The user opens the module."""
        self.initializeParameterNode()

    def exit(self):
        """The user opens another module; a run and the linked views go on."""
        self._stopMeasuring()
        self.setParameterNode(None)

    def onReload(self):
        """Reload the module together with its libraries, which Slicer by itself would keep."""
        import sys

        self._endWork()
        self._closeViews()
        for name in [name for name in sys.modules if name.split(".")[0] in ("XViewSynthLib", "XViewSynthScene")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller, event):
        """The scene is about to be closed: let go of its nodes. A run hears of it by itself."""
        self._stopMeasuring()
        self._closeViews()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """The scene was closed."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Make sure that there is a parameter node, and that a scan is chosen where there is one."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = self.logic.firstScan()

    def setParameterNode(self, parameterNode):
        """Bind the panel to a parameter node, or to none."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameters)
        self._parameterNode = parameterNode
        self._parameterNodeGuiTag = None
        if self._parameterNode:
            self._listModels()
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameters)
        self.onParameters()

    # What is shown

    def onParameters(self, caller=None, event=None):
        """Bring everything in line with what is chosen and with what runs."""
        self._observeInput()
        parameters = self._parameterNode
        self.ui.factorSpinBox.visible = bool(parameters) and parameters.goal is Goal.FACTOR
        self.ui.spacingSpinBox.visible = bool(parameters) and parameters.goal is Goal.SPACING
        self._selectModel()
        refusal = self._showPlan()
        running = _("Something runs already: wait, or cancel it.") if self._run else None
        self._allow(
            self.ui.enhanceButton,
            running or refusal,
            _("Make the slices that are missing; Slicer stays usable meanwhile."),
        )
        self._allow(
            self.ui.selfCheckButton,
            running or self._checkRefusal(),
            _("Leave out slices of this scan, restore them, and compare with linear and cubic interpolation."),
        )
        self._allow(
            self.ui.cancelButton,
            None if self._run else _("Nothing runs."),
            _("End what runs; nothing is left behind."),
        )
        self._updateViews()

    def _showPlan(self):
        """Show what Enhance would do; return why it cannot be done, or None."""
        from XViewSynthScene.sentences import describe_outlook

        self._wanted = None
        if not self._parameterNode:
            self.ui.planLabel.text = ""
            return _("The scene is being closed.")
        settings = self.logic.settingsOf(self._parameterNode)
        try:
            outlook = self.logic.lookAhead(self._parameterNode.inputVolume, settings, self._parameterNode.outputVolume)
        except ValueError as problem:
            self.ui.planLabel.text = str(problem)
            return str(problem) if not self.logic.canHarden(self._parameterNode.inputVolume) else None
        self.ui.planLabel.text = describe_outlook(outlook, self.logic.expectedSeconds(outlook, settings))
        self._wanted = None if self._run else self.logic.missingSpeed(outlook, settings)
        if self._wanted:
            self._speedTimer.start()
        return None

    def _checkRefusal(self):
        if not self._parameterNode:
            return _("The scene is being closed.")
        try:
            self.logic.checkNode(self._parameterNode.inputVolume)
        except ValueError as problem:
            return str(problem) if not self.logic.canHarden(self._parameterNode.inputVolume) else None
        return None

    def _allow(self, button, refusal, toolTip):
        from XViewSynthScene.desk import allow

        allow(button, refusal, toolTip)

    def _say(self, text, log=""):
        """Show a sentence below the buttons, and what a worker said last."""
        self.ui.messageLabel.text = text
        self.ui.messageLabel.visible = bool(text)
        self.ui.logText.setPlainText(log)
        self.ui.logText.visible = bool(log)

    def _showProgress(self, state):
        from XViewSynthScene.desk import show_progress

        show_progress(self.ui.progressBar, self.ui.stageLabel, state)

    # Work

    def onEnhance(self):
        """Enhance the chosen scan."""
        self._begin(
            lambda: self.logic.startEnhancement(
                self._parameterNode.inputVolume,
                self.logic.settingsOf(self._parameterNode),
                self._parameterNode.outputVolume,
            ),
            self._enhanced,
        )

    def enhanceVolume(self, node):
        """Choose a volume and enhance it into a new one; why that is not possible is said in the panel."""
        self.initializeParameterNode()
        self._parameterNode.inputVolume = node
        self._parameterNode.outputVolume = None
        if self.ui.enhanceButton.enabled:
            self.onEnhance()
        else:
            self._say(self.ui.enhanceButton.toolTip)

    def onSelfCheck(self):
        """Check on the chosen scan how well slices are restored."""
        self._begin(
            lambda: self.logic.startSelfCheck(
                self._parameterNode.inputVolume, self.logic.checkSettingsOf(self._parameterNode)
            ),
            self._checked,
        )

    def onCancel(self):
        """End what runs."""
        if self._run:
            self._run.cancel()
            self._allow(self.ui.cancelButton, _("It is ending."), "")

    def onTick(self):
        """Look at what runs."""
        self._lookAtRun()
        self._lookAtMeasurement()
        if not self._run and not self._measurement:
            self._runTimer.stop()

    def _lookAtRun(self):
        if not self._run:
            return
        state = self._run.poll()
        if not state.ended:
            self._showProgress(state)
            return
        run, whenDone = self._run, self._whenDone
        self._forgetRun()
        if state.status == "done":
            whenDone(run)
        elif state.status == "cancelled":
            self._say(state.message or _("Cancelled; nothing was changed."))
        else:
            logging.error(f"XViewSynth: {state.message}\n{run.log}")
            self._say(state.message, run.log)
        run.close()
        self.onParameters()

    def _begin(self, start, whenDone):
        """Install what is missing, straighten the scan where that is needed and wanted, and start."""
        self._stopMeasuring()
        self._say("")
        self.ui.selfCheckLabel.visible = False
        try:
            self.logic.installPackages()
            if self.logic.canHarden(self._parameterNode.inputVolume) and not self._harden():
                return
            self._run = start()
        except ValueError as problem:
            self._say(str(problem))
            self.onParameters()
            return
        self._whenDone = whenDone
        self._showProgress(self._run.poll())
        self._runTimer.start()
        self.onParameters()

    def _harden(self):
        """Ask whether to resample the scan through its non-linear transform; return whether that was done."""
        node = self._parameterNode.inputVolume
        question = _(
            "The slices of '{name}' form no regular grid (irregular spacing or a tilted gantry): Slicer straightens "
            "them by a non-linear transform. To be enhanced, the volume must be resampled through it, which changes "
            "the volume. Do that now?"
        ).format(name=node.GetName())
        if not slicer.util.confirmYesNoDisplay(question):
            self._say(_("Nothing was done: the volume still has its non-linear transform."))
            return False
        self.logic.harden(node)
        return True

    def _enhanced(self, run):
        from XViewSynthScene.sentences import describe_result

        parameters = self.logic.getParameterNode()
        parameters.enhancedVolume = run.output_node
        self._say(describe_result(run.output_node.GetName(), run.report))
        if parameters.showViews:
            self._showViews(run.output_node)

    def _checked(self, run):
        from XViewSynthScene.sentences import describe_selfcheck

        self.ui.selfCheckLabel.text = describe_selfcheck(run.result)
        self.ui.selfCheckLabel.visible = True

    def _forgetRun(self):
        self._run = None
        self._runTimer.stop()
        self._showProgress(None)

    def _endWork(self):
        """End every process of the panel, and its timers."""
        self._stopMeasuring()
        if self._run:
            self._run.close()
            self._forgetRun()
        for timer in (self._runTimer, self._blinkTimer, self._speedTimer):
            timer.stop()

    # Speed of this computer

    def onSettled(self):
        """The user has stopped choosing: measure how fast the choice is, unless something else runs."""
        if self._run or self._measurement or not self._wanted:
            return
        self._measurement = self.logic.startMeasuring(self._wanted)
        if self._measurement:
            self._runTimer.start()

    def _lookAtMeasurement(self):
        if self._measurement and self._measurement.poll().ended:
            self.logic.keepSpeed(self._measurement)
            self._measurement = None
            self.onParameters()

    def _stopMeasuring(self):
        self._speedTimer.stop()
        if self._measurement:
            self._measurement.close()
            self._measurement = None

    # Linked views

    def onShowViews(self):
        """Show original and enhanced in linked views."""
        self._showViews(self._parameterNode.enhancedVolume)

    def onSwap(self):
        """In the lower views, show what is not shown there now."""
        self._parameterNode.fade = 0.0 if self._parameterNode.fade >= 0.5 else 1.0

    def onBlink(self):
        """In the lower views, the other one's turn."""
        if self._views:
            self._views.toggle()

    def onFormerLayout(self):
        """Go back to the layout that was there before the linked views."""
        self._closeViews()
        self.onParameters()

    def _showViews(self, enhancedVolume):
        try:
            self._views = self._views or self.logic.makeViews()
            # What was compared before says nothing about how to begin with these.
            self.logic.getParameterNode().fade = 0.0
            self._views.show(*self.logic.comparedVolumes(enhancedVolume))
        except ValueError as problem:
            self._closeViews()
            self._say(str(problem))
        self.onParameters()

    def _closeViews(self):
        self._blinkTimer.stop()
        views, self._views = self._views, None
        if views:
            views.close()

    def _updateViews(self):
        parameters = self._parameterNode
        enhanced = parameters.enhancedVolume if parameters else None
        hidden = None if self._views else _("Show the linked views first.")
        undoubted = hidden or (None if self._views.overlay else _("This volume has no map of doubt."))
        self._allow(
            self.ui.showViewsButton,
            None if enhanced else _("Choose an enhanced volume first."),
            _("Original above, enhanced below, in three directions; scrolling, zoom and window together."),
        )
        self._allow(self.ui.swapButton, hidden, _("In the lower views, show the original in place of the enhanced."))
        self._allow(self.ui.formerLayoutButton, hidden, _("Go back to the layout before the linked views."))
        self._allow(self.ui.fadeSlider, hidden, _("In the lower views: 0 is the enhanced volume, 1 the original."))
        self._allow(self.ui.blinkCheckBox, hidden, _("Original and enhanced take turns in the lower views."))
        self._allow(
            self.ui.doubtCheckBox,
            undoubted,
            _("Colour the places where the new slices may be wrong, by the error to expect in HU."),
        )
        self._allow(self.ui.doubtSlider, undoubted, _("How strongly the colours of doubt cover the picture."))
        if self._views and parameters:
            self._views.set_fade(parameters.fade)
            if self._views.overlay:
                self._views.overlay.set_opacity(parameters.doubtOpacity if parameters.showDoubt else 0.0)
        blinks = bool(self._views and parameters and parameters.blink)
        if blinks != self._blinkTimer.active:
            self._blinkTimer.start() if blinks else self._blinkTimer.stop()

    # Models, and the input's changes

    def _listModels(self):
        names = ["auto", *self.logic.modelNames()]
        selector = self.ui.modelSelector
        if [selector.itemData(index) for index in range(selector.count)] != names:
            wasBlocked = selector.blockSignals(True)
            selector.clear()
            for name in names:
                selector.addItem(_("Standard for the acquisition") if name == "auto" else name, name)
            selector.blockSignals(wasBlocked)

    def _selectModel(self):
        """Show the chosen model; one that is not installed here stays chosen and is shown as well."""
        if not self._parameterNode:
            return
        selector, model = self.ui.modelSelector, self._parameterNode.model
        wasBlocked = selector.blockSignals(True)
        if selector.findData(model) < 0:
            selector.addItem(model, model)
        selector.setCurrentIndex(selector.findData(model))
        selector.blockSignals(wasBlocked)

    def onModelSelected(self, index):
        """The user has chosen another model."""
        if self._parameterNode and index >= 0:
            self._parameterNode.model = self.ui.modelSelector.itemData(index)

    def _observeInput(self):
        """Hear of what happens to the scan itself: other voxels, a transform."""
        node = self._parameterNode.inputVolume if self._parameterNode else None
        if node is self._observedInput:
            return
        for event in _INPUT_EVENTS:
            if self._observedInput:
                self.removeObserver(self._observedInput, event, self.onParameters)
            if node:
                self.addObserver(node, event, self.onParameters)
        self._observedInput = node


class XViewSynthLogic(ScriptedLoadableModuleLogic):
    """What the panel and scripts can ask for. Only `installPackages`, which scripts do not call, opens a dialog."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        # Seconds for a voxel, and to begin and end, by what they depend on; None where they could not be measured.
        self._speeds = {}

    def getParameterNode(self):
        """The panel's choices."""
        return XViewSynthParameterNode(super().getParameterNode())

    # For scripts

    def enhance(
        self,
        inputVolume,
        outputVolume=None,
        factor=None,
        spacing=None,
        isotropic=False,
        model="auto",
        device="auto",
        acquisition="auto",
        axis="auto",
        memory=None,
        precision="auto",
        thickness=None,
        profile="box",
        newThickness=None,
        quality="standard",
        inProcess=False,
    ):
        """Give a thick scan its missing slices, and wait for them; Slicer's events are processed meanwhile.

        Without factor, spacing or isotropic: the smallest factor that brings the slices to 1.25 mm or less.

        :param inputVolume: vtkMRMLScalarVolumeNode, a CT in HU; it is not changed. Where it shows a sequence, every
          frame is enhanced.
        :param outputVolume: gets the result; a new node unless given.
        :param factor: 2 to 8, how many times closer the slices get.
        :param spacing: the distance of slices to reach, mm.
        :param isotropic: bring the slices as close as the pixels in them.
        :param model: name or folder of a model; "auto" for the one that ships for the acquisition.
        :param device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        :param acquisition: "auto", "gap" or "thick".
        :param axis: "auto", "I", "J" or "K", the axis that gets more slices.
        :param memory: the most memory to take, GB; by default what is free.
        :param precision: "auto", "fp32", "bf16" or "fp16".
        :param thickness: of the observed slices, mm; by default what the scan says.
        :param profile: "box" or "gaussian", how thick slices average.
        :param newThickness: of the new slices, mm, where those of the scan are thick; by default they touch.
        :param quality: "standard", or "best", which is nearer to the truth and takes four to five times as long.
        :param inProcess: compute in Slicer's own process, which stands still meanwhile.
        :return: the enhanced volume; how it was made is in its attributes "XViewSynth. ...".
        :raises ValueError: with a sentence that says what to do.

        >>> logic = slicer.util.getModuleLogic("XViewSynth")  # doctest: +SKIP
        >>> thin = logic.enhance(slicer.util.getNode("Chest"), factor=4)  # doctest: +SKIP
        """
        from XViewSynthScene.jobs import EnhanceSettings
        from XViewSynthScene.packages import require_packages
        from XViewSynthScene.runs import enhance_in_process

        require_packages()
        settings = EnhanceSettings(
            factor=factor,
            spacing=spacing,
            isotropic=isotropic,
            model=str(model),
            device=device,
            acquisition=acquisition,
            axis=axis,
            memory_gb=memory,
            precision=precision,
            thickness=thickness,
            profile=profile,
            new_thickness=newThickness,
            quality=quality,
        )
        if inProcess:
            return enhance_in_process(inputVolume, settings, outputVolume)
        return self._wait(self.startEnhancement(inputVolume, settings, outputVolume)).output_node

    def selfCheck(
        self,
        node,
        factor=None,
        model="auto",
        device="auto",
        acquisition="auto",
        axis="auto",
        memory=None,
        precision="auto",
        thickness=None,
        quality="standard",
        inProcess=False,
    ):
        """Leave out slices of a scan, restore them with the model and by interpolation, and compare; wait for it.

        :param node: vtkMRMLScalarVolumeNode, a CT in HU; it is not changed.
        :param factor: all but every factor-th slice are left out; 2 by default.
        :return: the report of `xviewsynth selfcheck`, as a dictionary; the other parameters are those of `enhance`.
        :raises ValueError: with a sentence that says what to do.
        """
        from XViewSynthScene.jobs import SelfCheckSettings
        from XViewSynthScene.packages import require_packages
        from XViewSynthScene.runs import selfcheck_in_process

        require_packages()
        settings = SelfCheckSettings(
            factor=factor,
            model=str(model),
            device=device,
            acquisition=acquisition,
            axis=axis,
            memory_gb=memory,
            precision=precision,
            thickness=thickness,
            quality=quality,
        )
        if inProcess:
            return selfcheck_in_process(node, settings)
        return self._wait(self.startSelfCheck(node, settings)).result

    def startEnhancement(self, inputVolume, settings, outputVolume=None):
        """Begin to enhance, and return at once.

        :param settings: XViewSynthScene.jobs.EnhanceSettings.
        :return: XViewSynthScene.runs.EnhanceRun; poll it.
        :raises ValueError: with a sentence that says what to do.
        """
        from XViewSynthScene.runs import EnhanceRun

        run = EnhanceRun(inputVolume, settings, outputVolume)
        run.start()
        return run

    def startSelfCheck(self, node, settings):
        """Begin to check, and return at once.

        :param settings: XViewSynthScene.jobs.SelfCheckSettings.
        :return: XViewSynthScene.runs.SelfCheckRun; poll it.
        :raises ValueError: with a sentence that says what to do.
        """
        from XViewSynthScene.runs import SelfCheckRun

        run = SelfCheckRun(node, settings)
        run.start()
        return run

    def _wait(self, run):
        """Wait for a run and give it back; an interrupted script leaves nothing behind."""
        from XViewSynthScene.desk import wait_for

        state = wait_for(run, run.cancel)
        if state.status != "done":
            raise ValueError(state.message or _("The work was cancelled."))
        return run

    # For the panel

    def firstScan(self):
        """The first volume of the scene that can be enhanced as it is, or None."""
        from XViewSynthScene.jobs import EnhanceSettings

        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            try:
                self.lookAhead(node, EnhanceSettings())
            except ValueError:
                continue
            return node
        return None

    def settingsOf(self, parameterNode):
        """The chosen settings of an enhancement."""
        from XViewSynthScene.jobs import EnhanceSettings

        goal = parameterNode.goal
        return EnhanceSettings(
            factor=parameterNode.factor if goal is Goal.FACTOR else None,
            spacing=parameterNode.spacing if goal is Goal.SPACING else None,
            isotropic=goal is Goal.ISOTROPIC,
            **self._sharedSettingsOf(parameterNode),
        )

    def checkSettingsOf(self, parameterNode):
        """The chosen settings of a self-check; its factor is its own, see `selfCheck`."""
        from XViewSynthScene.jobs import SelfCheckSettings

        return SelfCheckSettings(**self._sharedSettingsOf(parameterNode))

    def _sharedSettingsOf(self, parameterNode):
        """What is chosen for enhancements and self-checks alike."""
        return {
            "thickness": parameterNode.thickness or None,
            "model": parameterNode.model,
            "device": parameterNode.device.value,
            "acquisition": parameterNode.acquisition.value,
            "axis": parameterNode.axis.value,
            "quality": parameterNode.quality.value,
            "memory_gb": parameterNode.memory or None,
        }

    def checkNode(self, node):
        """Raise ValueError with a sentence where a volume cannot be worked on."""
        from XViewSynthScene.volumes import check_volume_node

        check_volume_node(node)

    def canHarden(self, node):
        """Whether a non-linear transform is all that keeps a volume from being worked on."""
        from XViewSynthScene.volumes import NonLinearTransformError, check_volume_node

        try:
            check_volume_node(node)
        except NonLinearTransformError:
            return True
        except ValueError:
            return False
        return False

    def installPackages(self):
        """Install what the engine needs, asking the user; raises ValueError where that is not possible or wanted."""
        from XViewSynthScene.packages import install_packages

        install_packages()

    def harden(self, node):
        """Resample a volume through the transforms above it; raises ValueError where Slicer cannot."""
        from XViewSynthScene.volumes import harden_transform

        harden_transform(node)

    def lookAhead(self, inputVolume, settings, outputVolume=None):
        """What enhancing would give (XViewSynthScene.runs.Outlook); raises ValueError with a sentence."""
        from XViewSynthScene.results import check_output_node
        from XViewSynthScene.runs import look_ahead

        outlook = look_ahead(inputVolume, settings)
        check_output_node(outputVolume, inputVolume)
        return outlook

    def modelNames(self):
        """Names of the models that are installed."""
        from XViewSynthLib.model.catalogue import list_models

        return [entry.name for entry in list_models()]

    def makeViews(self):
        """Linked views for this application, not yet shown."""
        from XViewSynthScene.desk import renderer_of
        from XViewSynthScene.views import LinkedViews

        layoutManager = slicer.app.layoutManager()
        layoutNode = layoutManager.layoutLogic().GetLayoutNode() if layoutManager else None
        return LinkedViews(slicer.mrmlScene, layoutNode, slicer.app.applicationLogic(), renderer_of)

    def comparedVolumes(self, enhancedVolume):
        """Original, enhanced and map of doubt (or None); raises ValueError where the original has gone."""
        from XViewSynthScene.provenance import doubt_node, input_node

        original = input_node(enhancedVolume)
        if original is None:
            raise ValueError(
                _("The scan that '{name}' was made from is no longer in the scene: load it again.").format(
                    name=enhancedVolume.GetName()
                )
            )
        return original, enhancedVolume, doubt_node(enhancedVolume)

    # Speed of this computer

    def expectedSeconds(self, outlook, settings):
        """How long enhancing would take, or None as long as that is not known."""
        speed = self._speeds.get(_speedKey(settings, outlook.grid.factor))
        if speed is None:
            return None
        return speed[0] * outlook.timed_voxels + speed[1]

    def missingSpeed(self, outlook, settings):
        """What to measure before the time can be told (SpeedSettings), or None where nothing more can be learned."""
        from XViewSynthScene.jobs import SpeedSettings
        from XViewSynthScene.packages import missing_packages

        key = _speedKey(settings, outlook.grid.factor)
        if key in self._speeds or missing_packages():
            return None
        model, device, precision, quality, factor = key
        return SpeedSettings(factor=factor, model=model, device=device, precision=precision, quality=quality)

    def startMeasuring(self, settings):
        """Begin to measure this computer, and return at once: a job to poll, and to hand to `keepSpeed` at its end."""
        from XViewSynthScene.jobs import SpeedJob

        job = SpeedJob(settings)
        job.began = time.monotonic()
        job.start()
        return job

    def keepSpeed(self, job):
        """Remember what a measurement has found, or that it found nothing."""
        key = _speedKey(job.settings, job.settings.factor)
        self._speeds[key] = None
        if job.poll().status == "done":
            # It started a worker and read the model, as an enhancement does.
            self._speeds[key] = (job.result["seconds_per_voxel"], time.monotonic() - job.began)


# Voxels, geometry, and the transform above a scan.
_INPUT_EVENTS = (
    vtkMRMLScalarVolumeNode.ImageDataModifiedEvent,
    vtkMRMLScalarVolumeNode.TransformModifiedEvent,
    vtk.vtkCommand.ModifiedEvent,
)


def _speedKey(settings, factor):
    return settings.model, settings.device, settings.precision, settings.quality, factor


class XViewSynthTest(ScriptedLoadableModuleTest):
    """What can be tested wherever the module is installed. Without PyTorch, what needs it says so and passes."""

    def setUp(self):
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def test_observedSlicesStay(self):
        """A small thick scan gets slices in between; its own stay as they are."""
        import numpy as np

        from XViewSynthScene.packages import missing_packages

        if missing_packages():
            self.delayDisplay(f"Not tested, since these are missing: {', '.join(missing_packages())}")
            return
        self.delayDisplay("Enhancing a small scan")
        node = self._makeScan()
        enhanced = XViewSynthLogic().enhance(node, factor=2, device="cpu")
        before, after = slicer.util.arrayFromVolume(node), slicer.util.arrayFromVolume(enhanced)
        assert after.shape == (2 * before.shape[0] - 1, *before.shape[1:])
        assert np.array_equal(after[::2], before)
        assert enhanced.GetSpacing()[2] == node.GetSpacing()[2] / 2
        assert enhanced.GetAttribute("XViewSynth.Factor") == "2"

    def test_labelmapsAreRefused(self):
        """What is no CT is refused with a sentence, and no node is made."""
        logic = XViewSynthLogic()
        labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
        settings = logic.settingsOf(logic.getParameterNode())
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        refusal = "none"
        try:
            logic.startEnhancement(labelmap, settings)
        except ValueError as problem:
            refusal = str(problem)
        assert "labelmap" in refusal
        assert slicer.mrmlScene.GetNumberOfNodes() == nodes

    def test_outlookIsToldAtOnce(self):
        """What will come out is known before anything is computed."""
        logic = XViewSynthLogic()
        outlook = logic.lookAhead(self._makeScan(), logic.settingsOf(logic.getParameterNode()))
        assert (outlook.grid.factor, outlook.grid.slices, outlook.grid.slice_spacing) == (4, 33, 1.25)

    def _makeScan(self):
        """A body with a bone in noise: (9, 40, 36) voxels of 0.8 x 0.8 x 5 mm, HU."""
        import numpy as np

        k, j, i = np.meshgrid(*(np.linspace(-1, 1, count) for count in (9, 40, 36)), indexing="ij")
        hu = np.where(i**2 + j**2 < 0.8, 40.0, -1000.0)
        hu[(i - 0.2 * k) ** 2 + j**2 < 0.05] = 700.0
        hu += np.random.default_rng(0).normal(0, 8, hu.shape)
        node = slicer.util.addVolumeFromArray(hu.round().astype(np.int16), name="Scan")
        node.SetSpacing(0.8, 0.8, 5.0)
        return node
