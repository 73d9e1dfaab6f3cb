"""The viewer behind the page: volumes, linked views and the enhancement. It does not depend on a browser.

    viewer = Viewer(scene, application_logic, content)
    viewer.scroll("Axial", 12)
    viewer.look()["text_position_Axial"]

The caller renders the views, with the names of `XViewSynthScene.layout`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.util import VTKObservationMixin

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.model.catalogue import known_factors
from XViewSynthLib.progress import describe_stage, describe_time_left
from XViewSynthLib.request import AUTOMATIC, Request
from XViewSynthScene.jobs import CANCELLED, DONE, JobState
from XViewSynthScene.layout import ENHANCED, ORIGINAL, PLANES, ROWS, view_name
from XViewSynthScene.marks import BETWEEN, OBSERVED, SYNTHETIC, TEXTS, ijk_to_world
from XViewSynthScene.orientation import axis_across
from XViewSynthScene.overlay import DEFAULT_OPACITY
from XViewSynthScene.provenance import Provenance, read_provenance
from XViewSynthScene.runs import EnhanceRun, look_ahead
from XViewSynthScene.sentences import describe_outlook, describe_result
from XViewSynthScene.views import LinkedViews, share_window_level
from XViewSynthScene.volumes import SCALAR_VOLUME, array_from_matrix, set_voxels_and_geometry

from .content import Content
from .labels import edge_letters, position_text

#: Width and centre in HU of the usual display windows.
WINDOWS = {"Lung": (1500.0, -500.0), "Soft tissue": (400.0, 40.0), "Bone": (2000.0, 400.0)}
OWN_WINDOW, OTHER_WINDOW = "Automatic", "By hand"

#: Factor 0 stands for the smallest factor that gives 1.25 mm or less.
AUTOMATIC_FACTOR = 0

# Limits of the field of view, mm.
_FIELD_OF_VIEW = (0.1, 100_000.0)

IDLE, RUNNING, STOPPING = "idle", "running", "stopping"


class Viewer(VTKObservationMixin):
    """A scan and its enhancement in six linked views.

    Args:
        scene: receives the volumes.
        application_logic: holds the slice logics of the rendered views.
        content: the volumes.
        model, device: for an enhancement, as in ``xviewsynth enhance``.
        on_change: called when the result of `look` may have changed.
    """

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        application_logic: slicer.vtkMRMLApplicationLogic,
        content: Content,
        model: str = AUTOMATIC,
        device: str = "auto",
        on_change: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self._scene = scene
        self._on_change = on_change
        self._model, self._device = model, device
        self._scan = _add_volume(scene, content.scan, content.name)
        self._enhanced: slicer.vtkMRMLScalarVolumeNode | None = None
        self._uncertainty: slicer.vtkMRMLScalarVolumeNode | None = None
        self._provenance: Provenance | None = None
        self._run: EnhanceRun | None = None
        self._state = JobState(IDLE, "")
        self._stopping = False
        self._message = ""
        self._factor = AUTOMATIC_FACTOR
        self._outlook = self._look_ahead()
        self._opacity = DEFAULT_OPACITY
        self._swapped = False
        # The lower row shows the scan until there is an enhanced volume; the page covers it.
        self._views = LinkedViews(scene, application_logic=application_logic)
        # Left drag changes window and level, as in most viewers of an archive.
        interaction = application_logic.GetInteractionNode()
        if interaction is not None:
            interaction.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.AdjustWindowLevel)
        self._own_window = _window_of(self._scan)
        if content.enhanced is not None:
            enhanced = _add_volume(scene, content.enhanced, f"{content.name} enhanced")
            share_window_level(self._scan.GetScalarVolumeDisplayNode(), enhanced.GetScalarVolumeDisplayNode())
            uncertainty = content.uncertainty
            self._take(
                enhanced,
                uncertainty and _add_volume(scene, uncertainty, f"{content.name} uncertainty"),
                content.provenance,
            )
        self._show()

    @property
    def views(self) -> LinkedViews:
        """The linked views."""
        return self._views

    @property
    def has_enhanced(self) -> bool:
        """Whether there is an enhanced volume."""
        return self._enhanced is not None

    @property
    def busy(self) -> bool:
        """Whether an enhancement is running."""
        return self._run is not None

    def factors(self) -> list[int]:
        """The factors of the model, and 0 for the automatic factor."""
        return [AUTOMATIC_FACTOR, *known_factors(self._model)]

    def scroll(self, plane: str, index: int) -> None:
        """Show a slice of the finer volume in both views of a plane; `index` counts from 0 along its axis."""
        world = ijk_to_world(self._finest)
        middle = np.array([(count - 1) / 2 for count in self._finest.GetImageData().GetDimensions()])
        column = axis_across(world, PLANES[plane].normal)
        middle[column] = min(max(index, 0), self.slices(plane) - 1)
        self._views.slice_node(ENHANCED, plane).JumpSliceByOffsetting(*(world[:3, :3] @ middle + world[:3, 3]))

    def index(self, plane: str) -> int:
        """Index of the slice of the finer volume, along its axis, nearest to the views of a plane."""
        world = ijk_to_world(self._finest)
        to_ras = array_from_matrix(self._views.slice_node(ENHANCED, plane).GetSliceToRAS())
        position = np.linalg.solve(world, to_ras[:, 3])[axis_across(world, PLANES[plane].normal)]
        return int(np.clip(round(float(position)), 0, self.slices(plane) - 1))

    def slices(self, plane: str) -> int:
        """Number of slices of the finer volume across a plane."""
        return self._finest.GetImageData().GetDimensions()[
            axis_across(ijk_to_world(self._finest), PLANES[plane].normal)
        ]

    def set_window(self, width: float, level: float) -> None:
        """Set window width (at least 1) and level of all views, HU."""
        display = self._scan.GetScalarVolumeDisplayNode()
        was_modifying = display.StartModify()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(max(width, 1.0), level)
        display.EndModify(was_modifying)

    def choose_window(self, name: str) -> None:
        """Set one of `WINDOWS`, or the window that Slicer chose; other names change nothing."""
        window = {**WINDOWS, OWN_WINDOW: self._own_window}.get(name)
        if window is not None:
            self.set_window(*window)

    def set_opacity(self, opacity: float) -> None:
        """Set the opacity of the uncertainty map, 0 to 1."""
        self._opacity = min(max(float(opacity), 0.0), 1.0)
        if self._views.overlay is not None:
            self._views.overlay.set_opacity(self._opacity)
            # The page has its own legend for all views.
            for legend in self._views.overlay.legend_nodes:
                legend.SetVisibility(False)
        self._on_change()

    def set_swapped(self, swapped: bool) -> None:
        """Show the original instead of the enhanced volume in the lower views."""
        self._swapped = bool(swapped)
        self._views.set_fade(1.0 if self._swapped else 0.0)
        self._on_change()

    def fit(self) -> None:
        """Fit the views to whole planes, at the middle slices."""
        self._views.fit()

    def bound_zoom(self) -> None:
        """Limit the field of view of all views; VTK would divide by zero."""
        for plane in PLANES:
            for row in ROWS:
                node = self._views.slice_node(row, plane)
                width, height, depth = node.GetFieldOfView()
                factor = max(1.0, _FIELD_OF_VIEW[0] / min(width, height))
                factor = min(factor, _FIELD_OF_VIEW[1] / max(width, height))
                if factor != 1.0:
                    node.SetFieldOfView(factor * width, factor * height, depth)

    def set_factor(self, factor: int) -> None:
        """Set the up-sampling factor; 0 for the automatic factor."""
        self._factor = int(factor)
        self._outlook = self._look_ahead()
        self._on_change()

    def enhance(self) -> None:
        """Start an enhancement in its own process. Call `poll` from then on."""
        if self.busy or self.has_enhanced:
            return
        self._message = ""
        try:
            run = EnhanceRun(self._scan, self._request())
            run.start()
        except InputError as error:
            self._message = str(error)
        else:
            self._run, self._stopping = run, False
            self._state = run.poll()
        self._on_change()

    def cancel(self) -> None:
        """Request the end of the enhancement."""
        if self._run is not None:
            self._stopping = True
            self._run.cancel()
            self._on_change()

    def poll(self) -> None:
        """Update the state of the enhancement, and show its result when it is done."""
        if self._run is None:
            return
        before, self._state = self._state, self._run.poll()
        if self._state.ended:
            self._end_run()
        if self._state != before:
            self._on_change()

    def _ticks(self) -> list[str]:
        """Numbers below the colours of the map, HU: at both ends and in the middle."""
        if self._views.overlay is None:
            return []
        faint, full = self._views.overlay.limits_hu
        return [f"{faint:.0f}", f"{(faint + full) / 2:.0f}", f"{full:.0f} HU"]

    def look(self) -> dict[str, Any]:
        """The state of the page: plain values by name."""
        window = _window_of(self._scan)
        named = {name: values for name, values in {**WINDOWS, OWN_WINDOW: self._own_window}.items() if values == window}
        return {
            "name": self._scan.GetName(),
            "has_enhanced": self.has_enhanced,
            "has_uncertainty": self._views.overlay is not None,
            "ticks": self._ticks(),
            "opacity": self._opacity,
            "swapped": self._swapped,
            "window": next(iter(named), OTHER_WINDOW),
            "window_text": "W {:.0f}  L {:.0f}".format(*window),
            "message": self._message,
            **self._job_state(),
            **{name: value for plane in PLANES for name, value in self._plane_state(plane).items()},
        }

    def close(self) -> None:
        """Remove observers and close the views."""
        self.removeObservers()
        self._views.close()

    def _plane_state(self, plane: str) -> dict[str, Any]:
        node = self._views.slice_node(ENHANCED, plane)
        to_ras = array_from_matrix(node.GetSliceToRAS())
        state = {
            f"index_{plane}": self.index(plane),
            f"slices_{plane}": self.slices(plane),
            f"position_{plane}": position_text(to_ras, PLANES[plane].normal),
            f"edges_{plane}": edge_letters(to_ras),
        }
        for row in ROWS:
            mark = self._views.marks[view_name(row, plane)]
            state[f"mark_{row}_{plane}"] = mark.text
            kinds = [kind for kind in (OBSERVED, SYNTHETIC, BETWEEN) if mark.text.endswith(TEXTS[kind])]
            state[f"kind_{row}_{plane}"] = kinds[0] if kinds else "plain"
        return state

    def _job_state(self) -> dict[str, Any]:
        state = {"status": IDLE, "stage": "", "percent": 0, "time_left": "", "outlook": "", "possible": True}
        if self._run is not None:
            job = self._state
            return state | {
                "status": STOPPING if self._stopping else RUNNING,
                "stage": describe_stage(job.stage),
                "percent": round(100 * job.done / max(job.total, 1)),
                "time_left": describe_time_left(job.seconds_left),
            }
        return state if self.has_enhanced else state | self._outlook

    def _look_ahead(self) -> dict[str, Any]:
        try:
            return {"outlook": describe_outlook(look_ahead(self._scan, self._request())), "possible": True}
        except InputError as error:
            return {"outlook": str(error), "possible": False}

    def _request(self) -> Request:
        return Request(factor=self._factor or None, model=self._model, device=self._device)

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if self._state.status == DONE:
            self._take(run.output_node, run.uncertainty_node, read_provenance(run.output_node))
            self._show()
            self._message = describe_result(run.output_node.GetName(), run.report, run.seconds)
        elif self._state.status == CANCELLED:
            self._message = self._state.message or "The enhancement was cancelled."
        else:
            self._message = self._state.message

    def _take(
        self,
        enhanced: slicer.vtkMRMLScalarVolumeNode,
        uncertainty: slicer.vtkMRMLScalarVolumeNode | None,
        provenance: Provenance | None,
    ) -> None:
        self._enhanced, self._uncertainty, self._provenance = enhanced, uncertainty, provenance

    def _show(self) -> None:
        places = self._places()
        self.removeObservers()
        self._views.show(self._scan, self._finest, self._uncertainty, self._provenance, self._opacity)
        self.set_opacity(self._opacity)
        for plane, place in places.items():
            self._views.slice_node(ENHANCED, plane).JumpSliceByOffsetting(*place)
        for plane in PLANES:
            self.addObserver(self._views.slice_node(ENHANCED, plane), vtk.vtkCommand.ModifiedEvent, self._changed)
        self.addObserver(self._scan.GetScalarVolumeDisplayNode(), vtk.vtkCommand.ModifiedEvent, self._changed)
        self._on_change()

    def _places(self) -> dict[str, np.ndarray]:
        """Positions of the views by plane, (3,) in mm, so that new volumes are shown at the same place."""
        if not self._views.shown:
            return {}
        nodes = {plane: self._views.slice_node(ORIGINAL, plane) for plane in PLANES}
        return {plane: array_from_matrix(node.GetSliceToRAS())[:3, 3] for plane, node in nodes.items()}

    @property
    def _finest(self) -> slicer.vtkMRMLScalarVolumeNode:
        return self._enhanced or self._scan

    def _changed(self, *_: object) -> None:
        self._on_change()


def _add_volume(scene: slicer.vtkMRMLScene, volume: Volume, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    node = scene.AddNewNodeByClass(SCALAR_VOLUME, name)
    set_voxels_and_geometry(node, volume)
    node.CreateDefaultDisplayNodes()
    return node


def _window_of(node: slicer.vtkMRMLScalarVolumeNode) -> tuple[float, float]:
    display = node.GetScalarVolumeDisplayNode()
    return display.GetWindow(), display.GetLevel()
