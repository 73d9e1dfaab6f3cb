"""Candidates for training: volumes of the scene and scans below a folder, each with its problem if it has one."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import slicer

from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.geometry.checks import check_geometry
from XViewSynthLib.progress import Progress
from XViewSynthScene.scans import check_scan, scan_from_node
from XViewSynthScene.volumes import SCALAR_VOLUME, volume_from_node

from .jobs import TrainingScan

#: Attribute of all nodes of this module: the purpose of the node.
ROLE_ATTRIBUTE = "XViewSynthTrain.Role"


@dataclass(frozen=True)
class Candidate:
    """A scan that the user may choose.

    Attributes:
        key: identifies it while the panel is open: the path, or the ID of the node.
        name: name for the user.
        source: path of a file or DICOM folder, or the node.
        slices: number of slices along the acquisition axis; None if unknown.
        slice_spacing_mm: distance of neighbouring slices; None if unknown.
        problem: one sentence on why it cannot be used; None if it can.
    """

    key: str
    name: str
    source: Path | slicer.vtkMRMLScalarVolumeNode
    slices: int | None = None
    slice_spacing_mm: float | None = None
    problem: str | None = None


def loaded_candidates(scene: slicer.vtkMRMLScene) -> list[Candidate]:
    """The volumes of a scene, without labelmaps, colour volumes and the volumes of this module."""
    found = []
    for index in range(scene.GetNumberOfNodesByClass(SCALAR_VOLUME)):
        node = scene.GetNthNodeByClass(index, SCALAR_VOLUME)
        # Subclasses of scalar volumes do not hold CT.
        if node.GetClassName() == SCALAR_VOLUME and node.GetAttribute(ROLE_ATTRIBUTE) is None:
            found.append(candidate_of(node))
    return found


def candidate_of(node: slicer.vtkMRMLScalarVolumeNode) -> Candidate:
    """The candidate of a volume, without a look at its voxels."""
    about = {"key": node.GetID(), "name": node.GetName(), "source": node}
    try:
        volume = scan_from_node(node)
    except InputError as problem:
        return Candidate(**about, problem=str(problem))
    axis = volume.through_plane_axis
    about |= {"slices": volume.slices(axis), "slice_spacing_mm": volume.spacing_along(axis)}
    try:
        check_geometry(volume, axis, forced=True)
    except InputError as problem:
        return Candidate(**about, problem=str(problem))
    return Candidate(**about)


def scan_from(given: slicer.vtkMRMLScalarVolumeNode | str | os.PathLike[str]) -> TrainingScan:
    """A scan for a run, from a volume node or a path.

    Raises:
        InputError: the scan cannot be used, or the path does not exist.
    """
    if isinstance(given, (str, os.PathLike)):
        path = Path(given).absolute()
        if not path.exists():
            raise InputError(f"There is no scan {path}: check the path.")
        return TrainingScan(path.name, path)
    check_scan(given)
    candidate = candidate_of(given)
    if candidate.problem is not None:
        raise InputError(f"{candidate.name!r} cannot be used: {candidate.problem}")
    return TrainingScan(candidate.name, volume_from_node(given))


class FolderSearch:
    """A search for scans below a folder, in its own thread.

    Args:
        folder: folder to search.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._found: list[Candidate] = []
        self._progress = Progress("searching", 0, 1)
        self._problem: str | None = None
        self._note = ""
        self._stop_requested = threading.Event()
        # No daemon thread: a program that ends during a read may crash. It waits until the next scan at most.
        self._thread = threading.Thread(target=self._search)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether the search is finished or stopped."""
        return not self._thread.is_alive()

    @property
    def candidates(self) -> list[Candidate]:
        """The scans found so far."""
        return list(self._found)

    @property
    def progress(self) -> Progress:
        """Number of scans that were checked."""
        return self._progress

    @property
    def problem(self) -> str | None:
        """One sentence on why the search failed; else None."""
        return self._problem

    @property
    def note(self) -> str:
        """A sentence on links that were not followed, or ""."""
        return self._note

    def stop(self) -> None:
        """Request the end of the search."""
        self._stop_requested.set()

    def _search(self) -> None:
        # This import takes a second, so it is not at the top of the module.
        from XViewSynthLib.io.finding import find_scans
        from XViewSynthLib.system.streams import visible

        def show_note(text: str) -> None:
            self._note = text

        def show_progress(progress: Progress) -> None:
            self._progress = progress

        def should_cancel() -> bool:
            return self._stop_requested.is_set() or not threading.main_thread().is_alive()

        try:
            for scan in find_scans(self.folder, say=show_note, progress=show_progress, should_cancel=should_cancel):
                name = visible(scan.path.relative_to(self.folder).as_posix())
                self._found.append(
                    Candidate(
                        key=str(scan.path),
                        name=self.folder.name if name == "." else name,
                        source=scan.path,
                        slices=scan.slices,
                        slice_spacing_mm=scan.slice_spacing_mm,
                        problem=scan.problem and visible(scan.problem),
                    )
                )
        except Cancelled:
            return
        except InputError as problem:
            self._problem = visible(str(problem))
        except Exception as problem:
            self._problem = f"The folder could not be searched ({visible(str(problem))}): choose another one."
