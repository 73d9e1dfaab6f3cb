"""Preview of a held-out region as volumes of the scene: observed, before, now and truth."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import slicer
import vtk
from slicer.util import VTKObservationMixin

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.volume import Volume
from XViewSynthScene import provenance
from XViewSynthScene.views import share_window_level
from XViewSynthScene.volumes import set_voxels_and_geometry
from XViewSynthTrainLib.files import PREVIEW_FOLDER

from .study import ROLE_ATTRIBUTE

OBSERVED, BEFORE, NOW, TRUTH = "observed", "before", "now", "truth"
ROLES = (OBSERVED, BEFORE, NOW, TRUTH)

_Stamp = tuple[int, int]


@dataclass
class _Reading:
    """Files that a thread reads, and their volumes."""

    stamps: dict[str, _Stamp]
    thread: threading.Thread | None = None
    volumes: dict[str, Volume] = field(default_factory=dict)


class PreviewVolumes(VTKObservationMixin):
    """The preview of one run. Call `update` repeatedly; it does not wait for the disk.

    All volumes share window and level.

    Args:
        scene: receives the nodes. They are not saved with the scene, because the run folder holds the files.
        folder: run folder.
    """

    def __init__(self, scene: slicer.vtkMRMLScene, folder: Path):
        super().__init__()
        self._scene, self._folder = scene, folder / PREVIEW_FOLDER
        self._nodes: dict[str, slicer.vtkMRMLScalarVolumeNode] = {}
        self._shown: dict[str, _Stamp] = {}
        self._reading: _Reading | None = None
        self._sharing = False

    @property
    def nodes(self) -> dict[str, slicer.vtkMRMLScalarVolumeNode]:
        """The volumes in the scene, by role."""
        return {role: node for role, node in self._nodes.items() if node.GetScene() is not None}

    def update(self) -> bool:
        """Show files that were read and start to read changed ones; return whether a volume was added to the scene."""
        if self._reading is None:
            self._begin_reading()
            return False
        if self._reading.thread.is_alive():
            return False
        reading, self._reading = self._reading, None
        before = set(self.nodes)
        for role, volume in reading.volumes.items():
            self._show(role, volume)
        # A file that could not be read is not read again until it changes.
        self._shown |= reading.stamps
        return set(self.nodes) != before

    def remove(self) -> None:
        """Remove the volumes from the scene; harmless to repeat."""
        self.removeObservers()
        for node in self.nodes.values():
            displays = [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
            self._scene.RemoveNode(node)
            for display in displays:
                if display is not None and display.GetScene() is not None:
                    self._scene.RemoveNode(display)
        self._nodes.clear()

    def _begin_reading(self) -> None:
        stamps = {role: stamp for role in ROLES if (stamp := self._stamp(role)) and stamp != self._shown.get(role)}
        if stamps:
            reading = _Reading(stamps)
            # No daemon thread: a program that ends during a read may crash. The files are small, so it waits.
            reading.thread = threading.Thread(target=self._read, args=(reading,))
            reading.thread.start()
            self._reading = reading

    def _file(self, role: str) -> Path:
        return self._folder / f"{role}.nrrd"

    def _stamp(self, role: str) -> _Stamp | None:
        try:
            status = self._file(role).stat()
        except OSError:  # not there, or being replaced
            return None
        return status.st_mtime_ns, status.st_size

    def _read(self, reading: _Reading) -> None:
        # This import takes a second, so it is not at the top of the module.
        from XViewSynthLib.io.reading import read_volume

        for role in reading.stamps:
            if not threading.main_thread().is_alive():
                return
            try:
                reading.volumes[role] = read_volume(self._file(role))
            except InputError:  # replaced meanwhile: it will have another stamp
                continue

    def _show(self, role: str, volume: Volume) -> None:
        node = self._nodes.get(role)
        if node is not None and node.GetScene() is None:
            return  # the user has removed it
        if node is None:
            node = self._add(role)
        set_voxels_and_geometry(node, volume)
        if node.GetScalarVolumeDisplayNode() is None:
            node.CreateDefaultDisplayNodes()
            self._share_window(node)

    def _add(self, role: str) -> slicer.vtkMRMLScalarVolumeNode:
        node = self._scene.CreateNodeByClass("vtkMRMLScalarVolumeNode")
        node.UnRegister(None)
        node.SetName(f"Preview {role}")
        node.SetAttribute(ROLE_ATTRIBUTE, role)
        node.SetAttribute(provenance.ROLE_ATTRIBUTE, provenance.PREVIEW_ROLE)
        node.SetSaveWithScene(False)
        self._nodes[role] = self._scene.AddNode(node)
        return node

    def _share_window(self, node: slicer.vtkMRMLScalarVolumeNode) -> None:
        display = node.GetScalarVolumeDisplayNode()
        display.SetSaveWithScene(False)
        others = [other.GetScalarVolumeDisplayNode() for other in self.nodes.values() if other is not node]
        for other in [other for other in others if other is not None][:1]:
            share_window_level(other, display)
        self.addObserver(display, vtk.vtkCommand.ModifiedEvent, self._on_display_modified)

    def _on_display_modified(self, display: slicer.vtkMRMLScalarVolumeDisplayNode, _event: str) -> None:
        # Without this flag a change would return from the other volumes.
        if self._sharing:
            return
        self._sharing = True
        try:
            for node in self.nodes.values():
                if node.GetScalarVolumeDisplayNode() is not display:
                    share_window_level(display, node.GetScalarVolumeDisplayNode())
        finally:
            self._sharing = False
