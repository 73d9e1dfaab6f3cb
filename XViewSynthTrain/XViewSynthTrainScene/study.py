"""The study set: volumes of the scene and scans below a folder, each with what speaks against training on it."""

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

from .jobs import StudyScan

#: An attribute of every node that this module makes, which says what it is for.
ROLE_ATTRIBUTE = "XViewSynthTrain.Role"


@dataclass(frozen=True)
class Candidate:
    """A scan that the user may choose.

    Attributes:
        key: identifies it while the panel is open: the path, or the ID of the node.
        name: what to call it.
        source: path of a file or DICOM folder, or the node.
        slices: along the axis it was acquired along; None where that is not known.
        slice_spacing_mm: distance of neighbouring slices; None where that is not known.
        problem: why it cannot be used, in a sentence; None where it can.
    """

    key: str
    name: str
    source: Path | slicer.vtkMRMLScalarVolumeNode
    slices: int | None = None
    slice_spacing_mm: float | None = None
    problem: str | None = None


def loaded_candidates(scene: slicer.vtkMRMLScene) -> list[Candidate]:
    """The volumes of a scene but for labelmaps, colours, and what this module has put there."""
    found = []
    for index in range(scene.GetNumberOfNodesByClass(SCALAR_VOLUME)):
        node = scene.GetNthNodeByClass(index, SCALAR_VOLUME)
        # Kinds of scalar volumes that no CT is loaded as.
        if node.GetClassName() == SCALAR_VOLUME and node.GetAttribute(ROLE_ATTRIBUTE) is None:
            found.append(candidate_of(node))
    return found


def candidate_of(node: slicer.vtkMRMLScalarVolumeNode) -> Candidate:
    """What is known of a volume without looking at its voxels."""
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


def scan_from(given: slicer.vtkMRMLScalarVolumeNode | str | os.PathLike[str]) -> StudyScan:
    """A scan for a run, from a volume node or a path as scripts give them.

    Raises:
        InputError: it cannot be used, or there is nothing at the path.
    """
    if isinstance(given, (str, os.PathLike)):
        path = Path(given).absolute()
        if not path.exists():
            raise InputError(f"There is no scan {path}: check the path.")
        return StudyScan(path.name, path)
    check_scan(given)
    candidate = candidate_of(given)
    if candidate.problem is not None:
        raise InputError(f"{candidate.name!r} cannot be used: {candidate.problem}")
    return StudyScan(candidate.name, volume_from_node(given))


class FolderSearch:
    """The search for scans below a folder, in a thread that ends with the search.

    Args:
        folder: where to search.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._found: list[Candidate] = []
        self._progress = Progress("searching", 0, 1)
        self._problem: str | None = None
        self._note = ""
        self._asked_to_stop = threading.Event()
        # No daemon: to end a program in the middle of reading is to crash. It is waited for, up to the next scan.
        self._thread = threading.Thread(target=self._search)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether all was searched, or the search was stopped."""
        return not self._thread.is_alive()

    @property
    def candidates(self) -> list[Candidate]:
        """The scans that were found so far."""
        return list(self._found)

    @property
    def progress(self) -> Progress:
        """How many of the scans were looked at."""
        return self._progress

    @property
    def problem(self) -> str | None:
        """Why the search was not possible, in a sentence, or None."""
        return self._problem

    @property
    def note(self) -> str:
        """A sentence on links that were not followed, or ""."""
        return self._note

    def stop(self) -> None:
        """Ask the search to end."""
        self._asked_to_stop.set()

    def _search(self) -> None:
        # Takes a second to import, and Slicer need not wait for it.
        from XViewSynthLib.io.finding import find_scans
        from XViewSynthLib.system.streams import visible

        def say(text: str) -> None:
            self._note = text

        def tell(progress: Progress) -> None:
            self._progress = progress

        def should_cancel() -> bool:
            return self._asked_to_stop.is_set() or not threading.main_thread().is_alive()

        try:
            for scan in find_scans(self.folder, say=say, progress=tell, should_cancel=should_cancel):
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
