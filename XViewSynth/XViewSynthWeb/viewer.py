"""The viewer behind the page: volumes, linked views and the enhancement. It knows nothing of a browser.

    viewer = Viewer(scene, application_logic, content)
    viewer.scroll("Axial", 12)
    viewer.look()["text_position_Axial"]

Views are drawn by whoever made them, under the names of `XViewSynthScene.views`.
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
from XViewSynthScene.marks import BETWEEN, OBSERVED, SYNTHETIC, TEXTS, ijk_to_world
from XViewSynthScene.overlay import DEFAULT_OPACITY
from XViewSynthScene.provenance import Provenance, read_provenance
from XViewSynthScene.runs import EnhanceRun, look_ahead
from XViewSynthScene.sentences import describe_outlook, describe_result
from XViewSynthScene.views import (
    ENHANCED,
    ORIGINAL,
    PLANES,
    ROWS,
    LinkedViews,
    axis_across,
    share_window_level,
    view_name,
)
from XViewSynthScene.volumes import SCALAR_VOLUME, array_from_matrix, set_voxels_and_geometry

from .content import Content
from .labels import edge_letters, position_text

#: Width and centre in HU of the windows that radiologists look through.
WINDOWS = {"Lung": (1500.0, -500.0), "Soft tissue": (400.0, 40.0), "Bone": (2000.0, 400.0)}
OWN_WINDOW, OTHER_WINDOW = "Automatic", "By hand"

#: Factor 0 stands for the smallest that brings the slices close enough.
AUTOMATIC_FACTOR = 0

# What a view may show at least and at most from edge to edge, mm.
_FIELD_OF_VIEW = (0.1, 100_000.0)

IDLE, RUNNING, STOPPING = "idle", "running", "stopping"


class Viewer(VTKObservationMixin):
    """A scan and its enhancement in six linked views.

    Args:
        scene: gets the volumes.
        application_logic: knows the slice logics of the views that are drawn.
        content: what to show.
        model, device: for an enhancement, as for ``xviewsynth enhance``.
        on_change: called after anything that `look` tells may have changed.
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
        self._said = ""
        self._factor = AUTOMATIC_FACTOR
        self._outlook = self._look_ahead()
        self._opacity = DEFAULT_OPACITY
        self._swapped = False
        # The lower row needs no volume of its own yet: whoever draws the views covers it.
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
        """Whether there is an enhanced volume to see."""
        return self._enhanced is not None

    @property
    def busy(self) -> bool:
        """Whether an enhancement is at work."""
        return self._run is not None

    def factors(self) -> list[int]:
        """Factors that the model knows, and 0 for the smallest one that is enough."""
        return [AUTOMATIC_FACTOR, *known_factors(self._model)]

    def scroll(self, plane: str, index: int) -> None:
        """Let both views of a plane show a slice of the finer volume, counted from 0 along its own axis."""
        world = ijk_to_world(self._finest)
        middle = np.array([(count - 1) / 2 for count in self._finest.GetImageData().GetDimensions()])
        column = axis_across(world, PLANES[plane].normal)
        middle[column] = min(max(index, 0), self.slices(plane) - 1)
        self._views.slice_node(ENHANCED, plane).JumpSliceByOffsetting(*(world[:3, :3] @ middle + world[:3, 3]))

    def index(self, plane: str) -> int:
        """Which slice of the finer volume, along its own axis, is next to what the views of a plane show."""
        world = ijk_to_world(self._finest)
        to_ras = array_from_matrix(self._views.slice_node(ENHANCED, plane).GetSliceToRAS())
        position = np.linalg.solve(world, to_ras[:, 3])[axis_across(world, PLANES[plane].normal)]
        return int(np.clip(round(float(position)), 0, self.slices(plane) - 1))

    def slices(self, plane: str) -> int:
        """How many slices the finer volume has across a plane."""
        return self._finest.GetImageData().GetDimensions()[
            axis_across(ijk_to_world(self._finest), PLANES[plane].normal)
        ]

    def set_window(self, width: float, level: float) -> None:
        """Show this range of HU in all views: its width, at least 1, and its centre."""
        display = self._scan.GetScalarVolumeDisplayNode()
        was_modifying = display.StartModify()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(max(width, 1.0), level)
        display.EndModify(was_modifying)

    def choose_window(self, name: str) -> None:
        """Show one of `WINDOWS`, or the window that Slicer chose; other names change nothing."""
        window = {**WINDOWS, OWN_WINDOW: self._own_window}.get(name)
        if window is not None:
            self.set_window(*window)

    def set_opacity(self, opacity: float) -> None:
        """Draw the uncertainty map with this opacity, 0 to 1."""
        self._opacity = min(max(float(opacity), 0.0), 1.0)
        if self._views.overlay is not None:
            self._views.overlay.set_opacity(self._opacity)
            # The page has one legend for all views, which covers none of them.
            for legend in self._views.overlay.legend_nodes:
                legend.SetVisibility(False)
        self._on_change()

    def set_swapped(self, swapped: bool) -> None:
        """Show the original in place of the enhanced volume, to compare them in place."""
        self._swapped = bool(swapped)
        self._views.set_fade(1.0 if self._swapped else 0.0)
        self._on_change()

    def fit(self) -> None:
        """Show whole planes again, and the middle slices."""
        self._views.fit()

    def bound_zoom(self) -> None:
        """Bring views back that show too little or too much; VTK would divide by nothing."""
        for plane in PLANES:
            for row in ROWS:
                node = self._views.slice_node(row, plane)
                width, height, depth = node.GetFieldOfView()
                factor = max(1.0, _FIELD_OF_VIEW[0] / min(width, height))
                factor = min(factor, _FIELD_OF_VIEW[1] / max(width, height))
                if factor != 1.0:
                    node.SetFieldOfView(factor * width, factor * height, depth)

    def set_factor(self, factor: int) -> None:
        """Choose how many times closer the slices will get; 0 for the smallest factor that is enough."""
        self._factor = int(factor)
        self._outlook = self._look_ahead()
        self._on_change()

    def enhance(self) -> None:
        """Begin to make the enhanced volume, in a process of its own. Call `poll` from now on."""
        if self.busy or self.has_enhanced:
            return
        self._said = ""
        try:
            run = EnhanceRun(self._scan, self._request())
            run.start()
        except InputError as error:
            self._said = str(error)
        else:
            self._run, self._stopping = run, False
            self._state = run.poll()
        self._on_change()

    def cancel(self) -> None:
        """Ask the enhancement to end."""
        if self._run is not None:
            self._stopping = True
            self._run.cancel()
            self._on_change()

    def poll(self) -> None:
        """See how far the enhancement is; once it is done, its result is shown."""
        if self._run is None:
            return
        before, self._state = self._state, self._run.poll()
        if self._state.ended:
            self._end_run()
        if self._state != before:
            self._on_change()

    def look(self) -> dict[str, Any]:
        """All that the page tells, by names that begin alike for what belongs together; plain values only."""
        window = _window_of(self._scan)
        named = {name: values for name, values in {**WINDOWS, OWN_WINDOW: self._own_window}.items() if values == window}
        return {
            "name": self._scan.GetName(),
            "has_enhanced": self.has_enhanced,
            "has_uncertainty": self._views.overlay is not None,
            "opacity": self._opacity,
            "swapped": self._swapped,
            "window": next(iter(named), OTHER_WINDOW),
            "window_text": "W {:.0f}  L {:.0f}".format(*window),
            "said": self._said,
            **self._look_at_job(),
            **{name: value for plane in PLANES for name, value in self._look_at_plane(plane).items()},
        }

    def close(self) -> None:
        """End the enhancement and give back what the views hold. The run has ended when `poll` says so."""
        self.removeObservers()
        self._views.close()

    def _look_at_plane(self, plane: str) -> dict[str, Any]:
        node = self._views.slice_node(ENHANCED, plane)
        to_ras = array_from_matrix(node.GetSliceToRAS())
        told = {
            f"index_{plane}": self.index(plane),
            f"slices_{plane}": self.slices(plane),
            f"position_{plane}": position_text(to_ras, PLANES[plane].normal),
            f"edges_{plane}": edge_letters(to_ras),
        }
        for row in ROWS:
            mark = self._views.marks[view_name(row, plane)]
            told[f"mark_{row}_{plane}"] = mark.text
            kinds = [kind for kind in (OBSERVED, SYNTHETIC, BETWEEN) if mark.text.endswith(TEXTS[kind])]
            told[f"kind_{row}_{plane}"] = kinds[0] if kinds else "plain"
        return told

    def _look_at_job(self) -> dict[str, Any]:
        told = {"status": IDLE, "stage": "", "percent": 0, "time_left": "", "outlook": "", "possible": True}
        if self._run is not None:
            state = self._state
            return told | {
                "status": STOPPING if self._stopping else RUNNING,
                "stage": describe_stage(state.stage),
                "percent": round(100 * state.done / max(state.total, 1)),
                "time_left": describe_time_left(state.seconds_left),
            }
        return told if self.has_enhanced else told | self._outlook

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
            self._said = describe_result(run.output_node.GetName(), run.report, run.seconds)
        elif self._state.status == CANCELLED:
            self._said = self._state.message or "The enhancement was cancelled."
        else:
            self._said = self._state.message

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
        self._views.show(self._scan, self._finest, self._uncertainty, self._provenance)
        self.set_opacity(self._opacity)
        for plane, place in places.items():
            self._views.slice_node(ENHANCED, plane).JumpSliceByOffsetting(*place)
        for plane in PLANES:
            self.addObserver(self._views.slice_node(ENHANCED, plane), vtk.vtkCommand.ModifiedEvent, self._changed)
        self.addObserver(self._scan.GetScalarVolumeDisplayNode(), vtk.vtkCommand.ModifiedEvent, self._changed)
        self._on_change()

    def _places(self) -> dict[str, np.ndarray]:
        """Where the views are, (3,) in mm, so that new volumes are seen at the same place."""
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
