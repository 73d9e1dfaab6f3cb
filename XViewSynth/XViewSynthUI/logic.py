"""The logic of the module XViewSynth, also for scripts."""

from dataclasses import replace

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from XViewSynthLib.request import Request

from .choices import Goal
from .models import modelNames
from .options import ENHANCE_FIELDS, SELF_CHECK_FIELDS, documented, requestFrom
from .parameters import XViewSynthParameterNode


class XViewSynthLogic(ScriptedLoadableModuleLogic):
    """Enhances and checks volumes, for scripts and for the panel. No method opens a dialog."""

    def getParameterNode(self):
        """The parameter node of the panel."""
        return XViewSynthParameterNode(super().getParameterNode())

    # For scripts

    @documented(ENHANCE_FIELDS)
    def enhance(self, inputVolume, outputVolume=None, factor=None, *, inProcess=False, **options):
        """Add the missing slices to a thick scan, and wait for the result; Slicer's events are processed meanwhile.

        Without factor, spacing or isotropic: the smallest factor that brings the slices to 1.25 mm or less.

        :param inputVolume: vtkMRMLScalarVolumeNode, a CT in HU; it is not changed. If it shows a sequence, every
          frame is enhanced.
        :param outputVolume: receives the result; by default a new node.
        :param inProcess: compute in Slicer's own process, which does not respond meanwhile.
        {options}
        :return: the enhanced volume; its attributes "XViewSynth. ..." hold the provenance.
        :raises ValueError: with one sentence: what is wrong and what to do.
        :raises TypeError: there is no such option.

        >>> logic = slicer.util.getModuleLogic("XViewSynth")  # doctest: +SKIP
        >>> thin = logic.enhance(slicer.util.getNode("Chest"), factor=4)  # doctest: +SKIP
        """
        from XViewSynthScene.packages import require_packages
        from XViewSynthScene.runs import enhance_in_process

        request = requestFrom("enhance", ENHANCE_FIELDS, {"factor": factor, **options})
        require_packages()
        if inProcess:
            return enhance_in_process(inputVolume, request, outputVolume)
        return self._wait(self.startEnhancement(inputVolume, request, outputVolume)).output_node

    @documented(SELF_CHECK_FIELDS)
    def selfCheck(self, node, factor=None, *, inProcess=False, **options):
        """Leave out slices of a scan, restore them with the model and by interpolation, and compare. Waits.

        All but every factor-th slice are left out, every second one without a factor.

        :param node: vtkMRMLScalarVolumeNode, a CT in HU; it is not changed.
        :param inProcess: compute in Slicer's own process, which does not respond meanwhile.
        {options}
        :return: the report of `xviewsynth selfcheck`, as a dictionary.
        :raises ValueError: with one sentence: what is wrong and what to do.
        :raises TypeError: there is no such option.
        """
        from XViewSynthScene.packages import require_packages
        from XViewSynthScene.runs import selfcheck_in_process

        request = requestFrom("selfCheck", SELF_CHECK_FIELDS, {"factor": factor, **options})
        require_packages()
        if inProcess:
            return selfcheck_in_process(node, request)
        return self._wait(self.startSelfCheck(node, request)).result

    def saveToDicom(self, enhancedVolume, folder=None, progress=None):
        """Save an enhanced volume as a new DICOM series of the study that its scan was loaded from.

        :param enhancedVolume: vtkMRMLScalarVolumeNode, a result of `enhance`.
        :param folder: the folder to make; without one, the series is added to Slicer's DICOM database.
        :param progress: called about 50 times a second with the numbers of written slices and of all.
        :return: the UID of the new series.
        :raises ValueError: with one sentence: what is wrong and what to do.

        >>> series = logic.saveToDicom(thin)  # doctest: +SKIP
        >>> files = slicer.dicomDatabase.filesForSeries(series)  # doctest: +SKIP
        """
        from XViewSynthScene.saving import save_to_database, save_to_folder

        progress = progress or (lambda done, total: None)
        if folder is None:
            return save_to_database(enhancedVolume, progress)
        return save_to_folder(enhancedVolume, folder, progress)

    def startEnhancement(self, inputVolume, request, outputVolume=None):
        """Start an enhancement and return at once.

        :param request: XViewSynthLib.request.Request.
        :return: XViewSynthScene.runs.EnhanceRun; poll it.
        :raises ValueError: with one sentence: what is wrong and what to do.
        """
        from XViewSynthScene.runs import EnhanceRun

        run = EnhanceRun(inputVolume, request, outputVolume)
        run.start()
        return run

    def startSeveral(self, nodes, request, changed):
        """Start to enhance several volumes into new ones, one after another, and return at once.

        :param nodes: vtkMRMLScalarVolumeNodes.
        :param request: XViewSynthLib.request.Request.
        :param changed: called with the run whenever the status of a volume has changed.
        :return: XViewSynthScene.several.SeveralRun; poll it.
        :raises ValueError: with one sentence: what is wrong and what to do.
        """
        from XViewSynthScene.several import SeveralRun

        run = SeveralRun(nodes, request, changed)
        run.start()
        return run

    def startSelfCheck(self, node, request):
        """Start a self-check and return at once.

        :param request: XViewSynthLib.request.Request.
        :return: XViewSynthScene.runs.SelfCheckRun; poll it.
        :raises ValueError: with one sentence: what is wrong and what to do.
        """
        from XViewSynthScene.runs import SelfCheckRun

        run = SelfCheckRun(node, request)
        run.start()
        return run

    def _wait(self, run):
        """Wait for a run and return it; an interrupted script leaves nothing behind."""
        from XViewSynthScene.desk import wait_for

        state = wait_for(run, run.cancel)
        if state.status != "done":
            raise ValueError(state.message or _("The work was cancelled."))
        return run

    # For the panel

    def firstScan(self):
        """The first volume of the scene that can be enhanced; None without one."""
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            try:
                self.lookAhead(node, Request())
            except ValueError:
                continue
            return node
        return None

    def requestOf(self, parameterNode):
        """The request of the chosen enhancement."""
        goal = parameterNode.goal
        return replace(
            self.checkRequestOf(parameterNode),
            factor=parameterNode.factor if goal is Goal.FACTOR else None,
            spacing=parameterNode.spacing if goal is Goal.SPACING else None,
            isotropic=goal is Goal.ISOTROPIC,
        )

    def checkRequestOf(self, parameterNode):
        """The request of the chosen self-check, without a factor: see `selfCheck` for its default."""
        options = {
            "memory": parameterNode.memory or None,
            "thickness": parameterNode.thickness or None,
            "model": parameterNode.model,
            "device": parameterNode.device.value,
            "acquisition": parameterNode.acquisition,
            "axis": parameterNode.axis,
            "quality": parameterNode.quality,
        }
        return requestFrom("selfCheck", SELF_CHECK_FIELDS, options)

    def lookAhead(self, inputVolume, request, outputVolume=None):
        """Size of the result (XViewSynthScene.runs.Outlook); raises ValueError with one sentence."""
        from XViewSynthScene.results import check_output_node
        from XViewSynthScene.runs import look_ahead

        outlook = look_ahead(inputVolume, request)
        check_output_node(outputVolume, inputVolume)
        return outlook

    def modelNames(self):
        """Names of the installed models."""
        return modelNames()
