"""The logic of the module XViewSynth, which scripts use."""

from dataclasses import replace

import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from XViewSynthLib.request import Request

from .choices import Goal
from .models import modelNames
from .parameters import XViewSynthParameterNode


class XViewSynthLogic(ScriptedLoadableModuleLogic):
    """Enhances and checks volumes, for scripts and for the panel. Nothing here opens a dialog."""

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
        texture="keep",
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
        :param texture: "keep", or "match" for new slices with the noise of the observed ones.
        :param inProcess: compute in Slicer's own process, which stands still meanwhile.
        :return: the enhanced volume; how it was made is in its attributes "XViewSynth. ...".
        :raises ValueError: with a sentence that says what to do.

        >>> logic = slicer.util.getModuleLogic("XViewSynth")  # doctest: +SKIP
        >>> thin = logic.enhance(slicer.util.getNode("Chest"), factor=4)  # doctest: +SKIP
        """
        from XViewSynthScene.packages import require_packages
        from XViewSynthScene.runs import enhance_in_process

        require_packages()
        request = makeRequest(
            memory,
            factor=factor,
            spacing=spacing,
            isotropic=isotropic,
            model=model,
            device=device,
            acquisition=acquisition,
            axis=axis,
            precision=precision,
            thickness=thickness,
            profile=profile,
            new_thickness=newThickness,
            quality=quality,
            texture=texture,
        )
        if inProcess:
            return enhance_in_process(inputVolume, request, outputVolume)
        return self._wait(self.startEnhancement(inputVolume, request, outputVolume)).output_node

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
        from XViewSynthScene.packages import require_packages
        from XViewSynthScene.runs import selfcheck_in_process

        require_packages()
        request = makeRequest(
            memory,
            factor=factor,
            model=model,
            device=device,
            acquisition=acquisition,
            axis=axis,
            precision=precision,
            thickness=thickness,
            quality=quality,
        )
        if inProcess:
            return selfcheck_in_process(node, request)
        return self._wait(self.startSelfCheck(node, request)).result

    def saveToDicom(self, enhancedVolume, folder=None, progress=None):
        """Save an enhanced volume as a new DICOM series of the study that its scan was loaded from.

        :param enhancedVolume: vtkMRMLScalarVolumeNode, a result of `enhance`.
        :param folder: the folder to make; without one, the series is added to Slicer's DICOM database.
        :param progress: called before each slice with its index and the number of slices.
        :return: the UID of the new series.
        :raises ValueError: with a sentence that says what to do.

        >>> series = logic.saveToDicom(thin)  # doctest: +SKIP
        >>> files = slicer.dicomDatabase.filesForSeries(series)  # doctest: +SKIP
        """
        from XViewSynthScene.saving import save_to_database, save_to_folder

        progress = progress or (lambda done, total: None)
        if folder is None:
            return save_to_database(enhancedVolume, progress)
        return save_to_folder(enhancedVolume, folder, progress)

    def startEnhancement(self, inputVolume, request, outputVolume=None):
        """Begin to enhance, and return at once.

        :param request: XViewSynthLib.request.Request.
        :return: XViewSynthScene.runs.EnhanceRun; poll it.
        :raises ValueError: with a sentence that says what to do.
        """
        from XViewSynthScene.runs import EnhanceRun

        run = EnhanceRun(inputVolume, request, outputVolume)
        run.start()
        return run

    def startSelfCheck(self, node, request):
        """Begin to check, and return at once.

        :param request: XViewSynthLib.request.Request.
        :return: XViewSynthScene.runs.SelfCheckRun; poll it.
        :raises ValueError: with a sentence that says what to do.
        """
        from XViewSynthScene.runs import SelfCheckRun

        run = SelfCheckRun(node, request)
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
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            try:
                self.lookAhead(node, Request())
            except ValueError:
                continue
            return node
        return None

    def requestOf(self, parameterNode):
        """The enhancement that the user has chosen."""
        goal = parameterNode.goal
        return replace(
            self.checkRequestOf(parameterNode),
            factor=parameterNode.factor if goal is Goal.FACTOR else None,
            spacing=parameterNode.spacing if goal is Goal.SPACING else None,
            isotropic=goal is Goal.ISOTROPIC,
        )

    def checkRequestOf(self, parameterNode):
        """The self-check that the user has chosen; its factor is its own, see `selfCheck`."""
        return makeRequest(
            parameterNode.memory or None,
            thickness=parameterNode.thickness or None,
            model=parameterNode.model,
            device=parameterNode.device.value,
            acquisition=parameterNode.acquisition,
            axis=parameterNode.axis,
            quality=parameterNode.quality,
        )

    def lookAhead(self, inputVolume, request, outputVolume=None):
        """What enhancing would give (XViewSynthScene.runs.Outlook); raises ValueError with a sentence."""
        from XViewSynthScene.results import check_output_node
        from XViewSynthScene.runs import look_ahead

        outlook = look_ahead(inputVolume, request)
        check_output_node(outputVolume, inputVolume)
        return outlook

    def modelNames(self):
        """Names of the models that are installed."""
        return modelNames()


def makeRequest(memory, **fields):
    """A request with memory in GB, or None for what is free."""
    return Request(memory=memory * 1e9 if isinstance(memory, (int, float)) else memory, **fields)
