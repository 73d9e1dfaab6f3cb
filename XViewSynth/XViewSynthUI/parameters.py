"""The parameter node of the module XViewSynth."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from XViewSynthLib.request import AcquisitionChoice, AxisChoice, Quality

from .choices import Device, Goal


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
    markSlices - Whether observed and synthetic slices are marked in the views of every layout.
    enhancedVolume - The result that is compared with its original.
    fade - What the lower views show: 0 the enhanced volume, 1 the original.
    divider - Where the divider of the lower views is: 0 at the left edge (none), 1 at the right.
    asAcquired - Whether the original is shown without interpolation.
    blink - Whether original and enhanced take turns there.
    showUncertainty, uncertaintyOpacity - The uncertainty map as a coloured overlay.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    outputVolume: vtkMRMLScalarVolumeNode
    goal: Goal = Goal.AUTOMATIC
    factor: Annotated[int, WithinRange(2, 8)] = 4
    spacing: Annotated[float, WithinRange(0.1, 10.0)] = 1.0
    model: str = "auto"
    device: Device = Device.AUTOMATIC
    acquisition: AcquisitionChoice = AcquisitionChoice.AUTOMATIC
    thickness: Annotated[float, WithinRange(0.0, 50.0)] = 0.0
    axis: AxisChoice = AxisChoice.AUTOMATIC
    quality: Quality = Quality.STANDARD
    memory: Annotated[float, WithinRange(0.0, 4096.0)] = 0.0
    showViews: bool = True
    markSlices: bool = True
    enhancedVolume: vtkMRMLScalarVolumeNode
    fade: Annotated[float, WithinRange(0.0, 1.0)] = 0.0
    divider: Annotated[float, WithinRange(0.0, 1.0)] = 0.0
    asAcquired: bool = False
    blink: bool = False
    showUncertainty: bool = False
    uncertaintyOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
