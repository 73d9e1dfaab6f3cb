"""Slice views and plots without windows: what Slicer would draw, as arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

_MANAGERS = ("vtkMRMLColorLegendDisplayableManager", "vtkMRMLOrientationMarkerDisplayableManager")


def why_not() -> str | None:
    """Why nothing can be drawn on this machine; None where it can."""
    window = _window()
    if window.SupportsOpenGL():
        return None
    return "nothing can be drawn: neither EGL (libegl1 with Mesa) nor OSMesa is installed"


def application_logic(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLApplicationLogic:
    """The part of Slicer that knows all slice logics."""
    logic = slicer.vtkMRMLApplicationLogic()
    logic.SetMRMLScene(scene)
    logic.SetSliceLogics(vtk.vtkCollection())
    return logic


class OffscreenViews:
    """Slice views of a scene, by their layout names.

    Args:
        scene: orientation presets are added where it has none.
        application_logic: learns the slice logics of the views.
        names: layout names.
        size: (width, height) in pixels.
    """

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        application_logic: slicer.vtkMRMLApplicationLogic,
        names: Iterable[str],
        size: tuple[int, int] = (240, 240),
    ):
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
        self._views = {name: _View(scene, application_logic, name, size) for name in names}

    def picture(self, name: str) -> np.ndarray:
        """(height, width, 3) uint8: what a view shows now, its first row at the top."""
        return self._views[name].picture()

    def renderer(self, name: str) -> vtk.vtkRenderer:
        """The first renderer of a view."""
        return self._views[name].renderer

    def logic(self, name: str) -> slicer.vtkMRMLSliceLogic:
        """The slice logic of a view."""
        return self._views[name].logic

    def close(self) -> None:
        """Give back what the views hold."""
        for view in self._views.values():
            view.close()


class _View:
    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        application_logic: slicer.vtkMRMLApplicationLogic,
        name: str,
        size: tuple[int, int],
    ):
        self._window = _window()
        self._window.SetSize(*size)
        self.renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self.renderer)
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        image = vtk.vtkActor2D()
        image.SetMapper(self._mapper)
        image.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(image)
        self._image = image
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)

        self._application_logic = application_logic
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        application_logic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(scene)
        node = self.logic.AddSliceNode(name)
        self.logic.ResizeSliceNode(*size)

        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application_logic)
        for manager in _MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self._managers = slicer.vtkMRMLDisplayableManagerGroup()
        self._managers.SetRenderer(self.renderer)
        self._managers.Initialize(factory, self.renderer)
        self._managers.SetMRMLDisplayableNode(node)

    def picture(self) -> np.ndarray:
        connection = self.logic.GetImageDataConnection()
        self._image.SetVisibility(connection is not None)
        self._mapper.SetInputConnection(connection)
        return _drawn(self._window)

    def close(self) -> None:
        self._managers.SetMRMLDisplayableNode(None)
        self._managers.SetRenderer(None)
        self._application_logic.GetSliceLogics().RemoveItem(self.logic)
        self.logic.SetMRMLScene(None)
        self._window.Finalize()


def chart_picture(chart_node: slicer.vtkMRMLPlotChartNode, size: tuple[int, int] = (480, 240)) -> np.ndarray:
    """(height, width, 3) uint8: a chart of lines over a column, its first row at the top."""
    chart = vtk.vtkChartXY()
    chart.SetShowLegend(chart_node.GetLegendVisibility())
    chart.SetTitle(chart_node.GetTitle())
    for place, title in (
        (vtk.vtkAxis.BOTTOM, chart_node.GetXAxisTitle()),
        (vtk.vtkAxis.LEFT, chart_node.GetYAxisTitle()),
    ):
        chart.GetAxis(place).SetTitle(title)
    chart.GetAxis(vtk.vtkAxis.LEFT).SetLogScale(chart_node.GetYAxisLogScale())
    if not chart_node.GetXAxisRangeAuto():
        chart.GetAxis(vtk.vtkAxis.BOTTOM).SetBehavior(vtk.vtkAxis.FIXED)
        chart.GetAxis(vtk.vtkAxis.BOTTOM).SetRange(chart_node.GetXAxisRange())
    for index in range(chart_node.GetNumberOfPlotSeriesNodes()):
        _add_line(chart, chart_node.GetNthPlotSeriesNode(index))
    view = vtk.vtkContextView()
    view.GetRenderWindow().SetOffScreenRendering(True)
    view.GetRenderWindow().SetSize(*size)
    view.GetRenderer().SetBackground(1, 1, 1)
    view.GetScene().AddItem(chart)
    picture = _drawn(view.GetRenderWindow())
    view.GetRenderWindow().Finalize()
    return picture


def _add_line(chart: vtk.vtkChartXY, series: slicer.vtkMRMLPlotSeriesNode) -> None:
    line = chart.AddPlot(vtk.vtkChart.LINE)
    line.SetInputData(series.GetTableNode().GetTable(), series.GetXColumnName(), series.GetYColumnName())
    line.SetLabel(series.GetName())
    line.SetColorF(*series.GetColor())
    line.SetWidth(2)
    # Slicer numbers kinds of lines and markers as VTK does.
    line.GetPen().SetLineType(series.GetLineStyle())
    line.SetMarkerStyle(series.GetMarkerStyle())


def _drawn(window: vtk.vtkRenderWindow) -> np.ndarray:
    window.Render()
    reader = vtk.vtkWindowToImageFilter()
    reader.SetInput(window)
    reader.ReadFrontBufferOff()
    reader.Update()
    image = reader.GetOutput()
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()


def _window() -> vtk.vtkRenderWindow:
    window = vtk.vtkRenderWindow()
    window.ShowWindowOff()
    window.SetOffScreenRendering(True)
    # The colour legend has a renderer of its own above the slice.
    window.SetNumberOfLayers(2)
    return window
