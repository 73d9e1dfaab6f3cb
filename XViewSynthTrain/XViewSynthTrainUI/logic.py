"""The logic of the module XViewSynthTrain, also for scripts."""

from datetime import datetime
from pathlib import Path

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from XViewSynthUI.models import modelNames

from .parameters import Factors, XViewSynthTrainParameterNode
from .requirements import requirePackages


class XViewSynthTrainLogic(ScriptedLoadableModuleLogic):
    """Trains and installs models, for scripts and for the panel. No method opens a dialog."""

    def getParameterNode(self):
        """The parameter node of the panel."""
        return XViewSynthTrainParameterNode(super().getParameterNode())

    # For scripts

    def train(self, volumesOrPaths, runFolder, heldOut=(), **settings):
        """Train a model on scans, and wait for it; Slicer's events are processed meanwhile.

        :param volumesOrPaths: vtkMRMLScalarVolumeNodes, and paths of files or DICOM folders: CT in HU, no truth needed.
        :param runFolder: receives settings, log, checkpoint, report and model; it must not hold a run yet.
        :param heldOut: scans to evaluate the model on.
        :param settings: fields of XViewSynthTrainScene.jobs.TrainSettings: start (a model's name, or None to start from
          scratch), name, minutes or steps, hold_out_share, factors, device, gamma, distillation, wavelet, cross_view,
          incremental, seed, further.
        :return: the run's report, as a dictionary.
        :raises ValueError: with one sentence: what is wrong and what to do.

        >>> logic = slicer.util.getModuleLogic("XViewSynthTrain")  # doctest: +SKIP
        >>> report = logic.train(["/study/chest.nrrd"], "/study/run", minutes=10)  # doctest: +SKIP
        >>> report["beats_start"] and logic.useModel("/study/run")  # doctest: +SKIP
        """
        requirePackages()
        return self._wait(self.startTraining(volumesOrPaths, runFolder, heldOut, **settings)).report

    def resume(self, runFolder, device="auto"):
        """Resume a stopped run with its own settings, and wait for it; see `train`.

        :raises ValueError: with one sentence: what is wrong and what to do.
        """
        requirePackages()
        return self._wait(self.startResuming(runFolder, device)).report

    def startTraining(self, volumesOrPaths, runFolder, heldOut=(), **settings):
        """Start a training and return at once; for the parameters see `train`.

        :return: XViewSynthTrainScene.jobs.TrainingRun; poll it.
        :raises ValueError: with one sentence: what is wrong and what to do.
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
        """Resume a stopped run and return at once.

        :return: XViewSynthTrainScene.jobs.TrainingRun; poll it.
        :raises ValueError: with one sentence: what is wrong and what to do.
        """
        from XViewSynthTrainScene.jobs import TrainingRun

        run = TrainingRun.resumed(Path(runFolder).absolute(), device, scene=slicer.mrmlScene)
        run.start()
        return run

    def useModel(self, runFolder):
        """Install the model of a run, and choose it in XViewSynth.

        :return: the name of the model; that of the starting model if the run did not improve on it.
        :raises ValueError: with one sentence: what is wrong and what to do.
        """
        from XViewSynthTrainScene.folders import RunFolder, take_model

        name = take_model(RunFolder(Path(runFolder).absolute()))
        slicer.util.getModuleLogic("XViewSynth").getParameterNode().model = name
        return name

    def _wait(self, run):
        """Wait for a run and return it; an interrupted script leaves a run that can be resumed."""
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
        """Raise ValueError with one sentence if a run with the chosen settings cannot start."""
        from XViewSynthLib.model.catalogue import check_new_name
        from XViewSynthTrainScene.folders import RunFolder
        from XViewSynthTrainScene.jobs import settings_from

        settings_from(self.settingsOf(parameterNode)).arguments()
        check_new_name(parameterNode.modelName)
        RunFolder(Path(parameterNode.runFolder)).check_new()

    def modelNames(self):
        """Names of the installed models."""
        return modelNames()

    def freeModelName(self):
        """A name that no model has."""
        names, number, name = self.modelNames(), 1, "fine-tuned"
        while name in names:
            number += 1
            name = f"fine-tuned-{number}"
        return name

    def newRunFolder(self, documents):
        """Path of a new folder below the user's documents."""
        from XViewSynthTrainScene.folders import new_run_folder

        return str(new_run_folder(Path(documents) / "XViewSynth", datetime.now()))
