"""The parameter node of the module XViewSynthTrain, and the choices that only its panel offers."""

import enum
from typing import Annotated

from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from XViewSynthLib.request import AcquisitionChoice
from XViewSynthUI.choices import Device


class Acquisition(enum.Enum):
    """How the scanner made slices; automatic choice is not possible here."""

    GAP = AcquisitionChoice.GAP.value
    THICK = AcquisitionChoice.THICK.value

    def label(self):
        """What the panel calls it."""
        return AcquisitionChoice(self.value).label()


class Factors(enum.Enum):
    """Which factors to train and judge at."""

    AUTOMATIC = "automatic"
    RANGE = "range"

    def label(self):
        """What the panel calls it."""
        return {Factors.AUTOMATIC: _("Those that suit the scans"), Factors.RANGE: _("From, to")}[self]


@parameterNodeWrapper
class XViewSynthTrainParameterNode:
    """What the user has chosen in the panel; saved and loaded with the scene.

    studyFolder - Where to look for scans; empty for loaded volumes alone.
    studyChoices - JSON: by key of a scan, whether to train on it, to hold it out, or neither; to train unless said.
    startModel - Name of the model to start from, "auto" for the one that ships for the acquisition; empty to start from
      scratch.
    runFolder - Full path of the run's folder.
    acquisition, device - As the command line's options of these names.
    factorGoal, lowestFactor, highestFactor - Which factors to train and judge at.
    minutes - How long to train.
    holdOutPercent - Share of scans, or of slices, to hold out where no scan is chosen for that.
    modelName - Name of the new model.
    gamma, distillation, wavelet, crossView, incremental, seed - The library's settings of these names.
    showViews - Whether plots and preview are shown while a run goes on.
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
