"""The panel of the module XViewSynth. It starts runs and polls them from a timer; no call here waits."""

from __future__ import annotations

from typing import Any

import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _

from XViewSynthScene.desk import allow

from .choices import Goal
from .comparison import Comparison
from .logic import XViewSynthLogic
from .messages import Messages
from .models import ModelSelector
from .panel import Panel
from .saving import DicomSaver
from .scan import canHarden, scanRefusal
from .several import SeveralScans, describeSeveral
from .speed import SpeedMeasurement
from .work import Work

# Voxels, geometry and parent transform of a scan.
_INPUT_EVENTS = (
    vtkMRMLScalarVolumeNode.ImageDataModifiedEvent,
    vtkMRMLScalarVolumeNode.TransformModifiedEvent,
    vtk.vtkCommand.ModifiedEvent,
)


class XViewSynthWidget(Panel):
    """Binds the parts of the panel to the parameter node and to each other."""

    packages = ("XViewSynthLib", "XViewSynthScene", "XViewSynthUI")

    def __init__(self, parent: Any = None) -> None:
        Panel.__init__(self, parent)
        self._observedInput = None
        # Reason why Enhance is disabled; None if it is enabled.
        self._refusal: str | None = None

    # Life cycle

    def setup(self) -> None:
        """Build the panel from its .ui file and connect it."""
        Panel.setup(self)
        self.ui.enhancedSelector.addAttribute("vtkMRMLScalarVolumeNode", "XViewSynth.Model")
        self.logic = XViewSynthLogic()
        self.messages = Messages(self.ui.messageLabel, self.ui.logText)
        self.work = Work(self.ui, self.messages, self.onParameters)
        self.speed = SpeedMeasurement(self.onParameters)
        self.comparison = Comparison(self.ui)
        self.saver = DicomSaver(self.ui, self.messages, self.logic, self.onParameters)
        self.models = ModelSelector(self.ui.modelSelector, self.onModelSelected)
        self.several = SeveralScans(self.ui, self._allowSeveral)
        self.ui.severalCollapsibleButton.connect("contentsCollapsed(bool)", self.onSeveralFolded)
        self.ui.severalButton.connect("clicked(bool)", self.onEnhanceSeveral)
        self.ui.enhanceButton.connect("clicked(bool)", self.onEnhance)
        self.ui.selfCheckButton.connect("clicked(bool)", self.onSelfCheck)
        self.ui.cancelButton.connect("clicked(bool)", self.onCancel)
        self.ui.timeButton.connect("clicked(bool)", self.onEstimateTime)
        self.ui.saveDicomButton.connect("clicked(bool)", self.onSaveDicom)
        self.ui.showViewsButton.connect("clicked(bool)", self.onShowViews)
        self.ui.swapButton.connect("clicked(bool)", self.onSwap)
        self.ui.nextPlaceButton.connect("clicked(bool)", self.onNextPlace)
        self.ui.formerLayoutButton.connect("clicked(bool)", self.onFormerLayout)
        self.initializeParameterNode()

    def exit(self) -> None:
        """End a measurement when the user opens another module; a run and the linked views continue."""
        self.speed.stop()
        Panel.exit(self)

    def initializeParameterNode(self) -> None:
        """Bind the panel to the parameter node, and choose a scan if there is one."""
        Panel.initializeParameterNode(self)
        self.chooseNew()

    def chooseNew(self) -> None:
        """List the scans, and choose the first one if none is chosen."""
        if self._parameterNode and not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = self.logic.firstScan()
        self._listSeveral()

    def restoreViews(self) -> None:
        """Fill the linked views if a loaded scene shows them."""
        try:
            self.comparison.restore(self.logic.getParameterNode())
        except ValueError as problem:
            self.messages.show(str(problem))
        self.onParameters()

    def fillSelectors(self) -> None:
        """List the installed models."""
        self.models.offer(["auto", *self.logic.modelNames()])

    def releaseScene(self) -> None:
        """Release all nodes and clear the messages about them."""
        self.messages.show("")
        self.ui.selfCheckLabel.visible = False
        self.speed.stop()
        self.several.forget()
        self.comparison.close()

    def endWork(self) -> None:
        """End every process of the panel, stop its timers, and close its views."""
        self.speed.stop()
        self.work.close()
        self.comparison.close()
        self.comparison.markEverywhere(False)

    # Display

    def onParameters(self, caller: Any = None, event: str | None = None) -> None:
        """Update all widgets from the parameters and the running work."""
        self._observeInput()
        parameters = self._parameterNode
        self.ui.factorSpinBox.visible = bool(parameters) and parameters.goal is Goal.FACTOR
        self.ui.spacingSpinBox.visible = bool(parameters) and parameters.goal is Goal.SPACING
        if parameters:
            self.models.select(parameters.model)
        refusal = self._showPlan()
        running = _("Another task is running: wait, or cancel it.") if self.work.isRunning else None
        self._refusal = running or refusal
        allow(
            self.ui.enhanceButton,
            self._refusal,
            _("Make the missing slices. Slicer stays usable meanwhile."),
        )
        allow(
            self.ui.selfCheckButton,
            running or self._checkRefusal(),
            _("Leave out slices of this scan, restore them, and compare with linear and cubic interpolation."),
        )
        self.work.update()
        self._listSeveral()
        self.saver.update(parameters)
        self.comparison.update(parameters)
        if parameters:
            self.comparison.markEverywhere(parameters.markSlices)

    def _showPlan(self) -> str | None:
        """Show the planned result; return the reason why it is not possible, or None."""
        from XViewSynthScene.dicom import describe_facts, facts_of
        from XViewSynthScene.sentences import describe_outlook

        self.ui.timeButton.visible = False
        parameters = self._parameterNode
        if not parameters:
            self.ui.planLabel.text = ""
            return _("The scene is being closed.")
        request = self.logic.requestOf(parameters)
        try:
            outlook = self.logic.lookAhead(parameters.inputVolume, request, parameters.outputVolume)
        except ValueError as problem:
            self.ui.planLabel.text = str(problem)
            return None if canHarden(parameters.inputVolume) else str(problem)
        plan = describe_outlook(outlook, self.speed.expectedSeconds(outlook, request))
        self.ui.planLabel.text = "\n".join(filter(None, (plan, describe_facts(facts_of(parameters.inputVolume)))))
        self._showTimeButton(outlook, request)
        return None

    def _listSeveral(self) -> None:
        parameters = self._parameterNode
        self.several.update(self.logic.requestOf(parameters) if parameters else None)
        self._allowSeveral()

    def _allowSeveral(self) -> None:
        running = _("Another task is running: wait, or cancel it.") if self.work.isRunning else None
        allow(
            self.ui.severalButton,
            running or self.several.refusal(),
            _("Enhance the ticked scans one after another, each into a new volume, with the settings above."),
        )

    def _showTimeButton(self, outlook: Any, request: Any) -> None:
        self.ui.timeButton.visible = self.speed.missing(outlook, request) is not None and not self.work.isRunning
        allow(
            self.ui.timeButton,
            _("The measurement is running.") if self.speed.isMeasuring else None,
            _("Measure how long this takes on this computer. After a first result the time is known."),
        )

    def _checkRefusal(self) -> str | None:
        if not self._parameterNode:
            return _("The scene is being closed.")
        return scanRefusal(self._parameterNode.inputVolume)

    def _observeInput(self) -> None:
        """Observe voxels, geometry and transform of the chosen scan."""
        node = self._parameterNode.inputVolume if self._parameterNode else None
        if node is self._observedInput:
            return
        for event in _INPUT_EVENTS:
            if self._observedInput:
                self.removeObserver(self._observedInput, event, self.onParameters)
            if node:
                self.addObserver(node, event, self.onParameters)
        self._observedInput = node

    # Actions of the user

    def onModelSelected(self, model: str) -> None:
        """Set the chosen model."""
        if self._parameterNode:
            self._parameterNode.model = model

    def onEnhance(self) -> None:
        """Enhance the chosen scan."""
        parameters = self._parameterNode
        request = self.logic.requestOf(parameters)
        self._begin(
            lambda: self.logic.startEnhancement(parameters.inputVolume, request, parameters.outputVolume),
            self._enhanced,
        )

    def enhanceVolume(self, node: Any) -> None:
        """Choose a volume and enhance it into a new one; if that is not possible, show the reason."""
        self.initializeParameterNode()
        self._parameterNode.inputVolume = node
        self._parameterNode.outputVolume = None
        if self._refusal is None:
            self.onEnhance()
        else:
            self.messages.show(self._refusal)

    def onSeveralFolded(self, isFolded: bool) -> None:
        """Update the list when the user opens or closes it."""
        self._listSeveral()

    def onEnhanceSeveral(self) -> None:
        """Enhance the ticked scans."""
        request, nodes = self.logic.requestOf(self._parameterNode), self.several.chosen
        self.speed.stop()
        self.work.begin(
            None,
            lambda: self.logic.startSeveral(nodes, request, self.several.showStates),
            self._enhancedSeveral,
        )

    def onSelfCheck(self) -> None:
        """Check on the chosen scan how well slices are restored."""
        parameters = self._parameterNode
        self._begin(
            lambda: self.logic.startSelfCheck(parameters.inputVolume, self.logic.checkRequestOf(parameters)),
            self._checked,
        )

    def onEstimateTime(self) -> None:
        """Measure how long the chosen enhancement takes on this computer."""
        request = self.logic.requestOf(self._parameterNode)
        outlook = self.logic.lookAhead(self._parameterNode.inputVolume, request)
        missing = self.speed.missing(outlook, request)
        if missing:
            self.speed.measure(missing)

    def onCancel(self) -> None:
        """Cancel the running task."""
        self.work.cancel()

    def onSaveDicom(self) -> None:
        """Save the chosen enhanced volume as a DICOM series."""
        self.saver.save(self._parameterNode.enhancedVolume)

    def onShowViews(self) -> None:
        """Show original and enhanced in linked views."""
        problem = self._showViews(self._parameterNode.enhancedVolume)
        if problem:
            self.messages.show(problem)

    def onSwap(self) -> None:
        """Switch the lower views between original and enhanced volume."""
        self.comparison.swap(self._parameterNode)

    def onNextPlace(self) -> None:
        """Show the next uncertain place."""
        try:
            self.comparison.showNextPlace(self._parameterNode)
        except ValueError as problem:
            self.messages.show(str(problem))

    def onFormerLayout(self) -> None:
        """Restore the layout before the linked views."""
        self.comparison.close()
        self.onParameters()

    # Start and end of runs

    def _begin(self, start: Any, whenDone: Any) -> None:
        self.speed.stop()
        self.ui.selfCheckLabel.visible = False
        self.work.begin(self._parameterNode.inputVolume, start, whenDone)

    def _enhanced(self, run: Any) -> None:
        from XViewSynthScene.sentences import describe_result

        parameters = self.logic.getParameterNode()
        parameters.enhancedVolume = run.output_node
        self.speed.record(run.outlook, run.request, run.seconds, run.compute_seconds)
        sentences = [describe_result(run.output_node.GetName(), run.report, run.seconds)]
        # The layout stays while the user works in another module.
        if parameters.showViews and self.parent.isEntered:
            sentences.append(self._showViews(run.output_node))
        self.messages.show(" ".join(filter(None, sentences)))

    def _enhancedSeveral(self, run: Any) -> None:
        self.logic.getParameterNode().enhancedVolume = run.done[0].output_node
        self.messages.show(describeSeveral(run), run.log)

    def _checked(self, run: Any) -> None:
        from XViewSynthScene.sentences import describe_selfcheck

        self.ui.selfCheckLabel.text = describe_selfcheck(run.result)
        self.ui.selfCheckLabel.visible = True

    def _showViews(self, enhancedVolume: Any) -> str:
        """Show a volume in the linked views; return the reason why that is not possible, or ""."""
        problem = ""
        try:
            self.comparison.show(self.logic.getParameterNode(), enhancedVolume)
        except ValueError as error:
            problem = str(error)
        self.onParameters()
        return problem
