"""The parameter node of the module XViewSynthTrain, and the choices of its panel."""

import enum
from typing import Annotated

from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from XViewSynthLib.request import AcquisitionChoice
from XViewSynthUI.choices import Device


class Acquisition(enum.Enum):
    """Acquisition of the scans; there is no automatic choice."""

    GAP = AcquisitionChoice.GAP.value
    THICK = AcquisitionChoice.THICK.value

    def label(self):
        """Label in the panel."""
        return AcquisitionChoice(self.value).label()


class Factors(enum.Enum):
    """Which factors to train and evaluate at."""

    AUTOMATIC = "automatic"
    RANGE = "range"

    def label(self):
        """Label in the panel."""
        return {Factors.AUTOMATIC: _("Those that suit the scans"), Factors.RANGE: _("From, to")}[self]


@parameterNodeWrapper
class XViewSynthTrainParameterNode:
    """The choices of the user in the panel; saved and loaded with the scene.

    studyFolder - Folder to search for scans; empty for loaded volumes only.
    studyChoices - JSON: by key of a scan, "train" (the default), "hold out" or "neither".
    startModel - Name of the model to start from, "auto" for the shipped model of the acquisition; empty to start from
      scratch.
    runFolder - Full path of the run's folder.
    acquisition, device - As in the options of the command line.
    factorGoal, lowestFactor, highestFactor - Factors to train and evaluate at.
    minutes - Length of the run.
    holdOutPercent - Share of scans, or of slices, to hold out if no scan is chosen for that.
    modelName - Name of the new model.
    gamma, distillation, wavelet, crossView, incremental, seed - As in the settings of the library.
    showViews - Show plots and preview during a run.
    """

    studyFolder: str = ""
    studyChoices: str = "{}"
    startModel: str = "auto"
    runFolder: str = ""
    acquisition: Acquisition = Acquisition.GAP
    device: Device = Device.AUTOMATIC
    factorGoal: Factors = Factors.AUTOMATIC
    lowestFactor: Annotated[int, WithinRange(2, 8)] = 2
    highestFactor: Annotated[int, WithinRange(2, 8)] = 4
    minutes: Annotated[float, WithinRange(0.1, 10080.0)] = 10.0
    holdOutPercent: Annotated[int, WithinRange(0, 90)] = 25
    modelName: str = ""
    gamma: Annotated[float, WithinRange(0.01, 1.0)] = 0.25
    distillation: Annotated[float, WithinRange(0.0, 10.0)] = 0.15
    wavelet: Annotated[float, WithinRange(0.0, 10.0)] = 0.1
    crossView: bool = True
    incremental: bool = True
    seed: Annotated[int, WithinRange(0, 2147483647)] = 0
    showViews: bool = True
