"""The parameter node of the module XViewSynth."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from XViewSynthLib.request import AcquisitionChoice, AxisChoice, Quality

from .choices import Device, Goal


@parameterNodeWrapper
class XViewSynthParameterNode:
    """The choices of the user in the panel; saved and loaded with the scene.

    inputVolume - The scan to enhance.
    outputVolume - Receives the result; None for a new volume.
    goal, factor, spacing - Target of the enhancement; spacing in mm.
    model - Name or folder of the model, or "auto" for the shipped model of the acquisition.
    device, acquisition, axis, quality - As in the options of the command line.
    thickness - Of the observed slices, mm; 0 for that of the scan.
    memory - Memory limit, GB; 0 for the free memory.
    showViews - Open the linked views when a result is ready.
    markSlices - Mark observed and synthetic slices in the views of every layout.
    enhancedVolume - The result to compare with its original.
    fade - Blend in the lower views: 0 the enhanced volume, 1 the original.
    divider - Position of the divider in the lower views: 0 at the left edge (none), 1 at the right.
    asAcquired - Show the original without interpolation.
    blink - Alternate original and enhanced volume in the lower views.
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
