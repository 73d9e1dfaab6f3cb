"""The logic of the module XViewSynthTrain, which scripts use."""

from datetime import datetime
from pathlib import Path

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from XViewSynthUI.models import modelNames

from .parameters import Factors, XViewSynthTrainParameterNode
from .requirements import requirePackages


class XViewSynthTrainLogic(ScriptedLoadableModuleLogic):
    """Trains models and puts them into use, for scripts and for the panel. Nothing here opens a dialog."""

    def getParameterNode(self):
        """The panel's choices."""
        return XViewSynthTrainParameterNode(super().getParameterNode())

    # For scripts

    def train(self, volumesOrPaths, runFolder, heldOut=(), **settings):
        """Train a model on scans, and wait for it; Slicer's events are processed meanwhile.

        :param volumesOrPaths: vtkMRMLScalarVolumeNodes, and paths of files or DICOM folders: CT in HU, no truth needed.
        :param runFolder: gets settings, log, checkpoint, report and model; there must be no run in it yet.
        :param heldOut: scans, given likewise, to judge the model on.
        :param settings: fields of XViewSynthTrainScene.jobs.TrainSettings: start (a model's name, or None to start from
          scratch), name, minutes or steps, hold_out_share, factors, device, gamma, distillation, wavelet, cross_view,
          incremental, seed, further.
        :return: the run's report, as a dictionary.
        :raises ValueError: with a sentence that says what to do.

        >>> logic = slicer.util.getModuleLogic("XViewSynthTrain")  # doctest: +SKIP
        >>> report = logic.train(["/study/chest.nrrd"], "/study/run", minutes=10)  # doctest: +SKIP
        >>> report["beats_start"] and logic.useModel("/study/run")  # doctest: +SKIP
        """
        requirePackages()
        return self._wait(self.startTraining(volumesOrPaths, runFolder, heldOut, **settings)).report

    def resume(self, runFolder, device="auto"):
        """Go on with a run that was stopped, with its own settings, and wait for it; see `train`.

        :raises ValueError: with a sentence that says what to do.
        """
        requirePackages()
        return self._wait(self.startResuming(runFolder, device)).report

    def startTraining(self, volumesOrPaths, runFolder, heldOut=(), **settings):
        """Begin to train, and return at once; the parameters are those of `train`.

        :return: XViewSynthTrainScene.jobs.TrainingRun; poll it.
        :raises ValueError: with a sentence that says what to do.
        """
        from XViewSynthTrainScene.jobs import TrainingRun, settings_from
        from XViewSynthTrainScene.study import scan_from

        training, heldOut = ([scan_from(scan) for scan in scans] for scans in (volumesOrPaths, heldOut))
        run = TrainingRun(
            training, Path(runFolder).absolute(), settings_from(settings), heldOut, scene=slicer.mrmlScene
        )
        run.start()
        return run

    def startResuming(self, runFolder, device="auto"):
        """Begin to go on with a run that was stopped, and return at once.

        :return: XViewSynthTrainScene.jobs.TrainingRun; poll it.
        :raises ValueError: with a sentence that says what to do.
        """
        from XViewSynthTrainScene.jobs import TrainingRun

        run = TrainingRun.resumed(Path(runFolder).absolute(), device, scene=slicer.mrmlScene)
        run.start()
        return run

    def useModel(self, runFolder):
        """Put the model of a run into XViewSynth's list, and choose it there.

        :return: its name; that of the starting model where the run found nothing better.
        :raises ValueError: with a sentence that says what to do.
        """
        from XViewSynthTrainScene.folders import RunFolder, take_model

        name = take_model(RunFolder(Path(runFolder).absolute()))
        slicer.util.getModuleLogic("XViewSynth").getParameterNode().model = name
        return name

    def _wait(self, run):
        """Wait for a run and give it back; an interrupted script leaves a run that can be resumed."""
        from XViewSynthScene.desk import wait_for

        state = wait_for(run, run.close)
        if state.status != "done":
            raise ValueError(state.message)
        return run

    # For the panel

    def settingsOf(self, parameterNode):
        """The chosen settings, for `startTraining`."""
        factors = None
        if parameterNode.factorGoal is Factors.RANGE:
            factors = tuple(range(parameterNode.lowestFactor, parameterNode.highestFactor + 1))
        return {
            "start": parameterNode.startModel or None,
            "name": parameterNode.modelName,
            "minutes": parameterNode.minutes,
            "hold_out_share": parameterNode.holdOutPercent / 100,
            "factors": factors,
            "device": parameterNode.device.value,
            "acquisition": parameterNode.acquisition.value,
            "gamma": parameterNode.gamma,
            "distillation": parameterNode.distillation,
            "wavelet": parameterNode.wavelet,
            "cross_view": parameterNode.crossView,
            "incremental": parameterNode.incremental,
            "seed": parameterNode.seed,
        }

    def checkNewRun(self, parameterNode):
        """Raise ValueError with a sentence where a run with the chosen settings cannot begin."""
        from XViewSynthLib.model.catalogue import check_new_name
        from XViewSynthTrainScene.folders import RunFolder
        from XViewSynthTrainScene.jobs import settings_from

        settings_from(self.settingsOf(parameterNode)).arguments()
        check_new_name(parameterNode.modelName)
        RunFolder(Path(parameterNode.runFolder)).check_new()

    def modelNames(self):
        """Names of the models that are installed."""
        return modelNames()

    def freeModelName(self):
        """A name that no model has."""
        names, number, name = self.modelNames(), 1, "fine-tuned"
        while name in names:
            number += 1
            name = f"fine-tuned-{number}"
        return name

    def newRunFolder(self, documents):
        """A folder that there is not yet, below the user's documents."""
        from XViewSynthTrainScene.folders import new_run_folder

        return str(new_run_folder(Path(documents) / "XViewSynth", datetime.now()))
