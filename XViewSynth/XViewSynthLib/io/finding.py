"""Scans below a folder: where they are, what their headers tell, and why one cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import Cancelled, InputError
from ..geometry.checks import check_geometry, check_values
from ..geometry.volume import Volume
from ..progress import Progress, Report
from ..system.streams import visible
from ..system.tree import File, Tree
from .dicom.series import is_dicom
from .reading import READABLE, read_header, suffix_of
from .sample import first_voxels

DICOM = "DICOM"


@dataclass(frozen=True)
class FoundScan:
    """A file or folder that is a scan, or should be one.

    Attributes:
        path: the file, or the folder of a DICOM series, below the folder that was searched and named as that was.
        kind: "DICOM", "NRRD", "NIfTI" or "MetaImage".
        problem: why it cannot be used, in the engine's own sentence; None where it can.
        slices: along the axis it was acquired along; like all below, None where the header could not be read.
        slice_spacing_mm: distance of the centres of neighbouring slices.
        slice_thickness_mm: what each slice was averaged over, or None where nobody said.
        shape_ijk: voxels along (I, J, K).
        spacing_mm: distance of voxel centres along (I, J, K).
    """

    path: Path
    kind: str
    problem: str | None = None
    slices: int | None = None
    slice_spacing_mm: float | None = None
    slice_thickness_mm: float | None = None
    shape_ijk: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None

    @property
    def usable(self) -> bool:
        """Whether nothing speaks against it so far."""
        return self.problem is None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {**asdict(self), "path": str(self.path)}


def find_scans(
    folder: str | os.PathLike[str],
    *,
    follow_links: bool = False,
    say: Callable[[str], None] = lambda text: None,
    progress: Report | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> Iterator[FoundScan]:
    """Every scan in a folder and the folders below it, one after the other as their headers are read.

    See `scan_paths` for what counts, and `check_scan` for what is checked. The search itself begins with the first
    scan that is asked for.

    Args:
        folder: where to search.
        follow_links, say: as for `scan_paths`.
        progress: told after every scan.
        should_cancel: asked between folders and between scans.

    Raises:
        InputError: there is no such folder (at once, before any scan is asked for).
        Cancelled: the user asked to stop.

    >>> [scan.path.name for scan in find_scans("study") if scan.usable]  # doctest: +SKIP
    ['chest.nrrd', 'series 3']
    """
    folder = Path(folder)
    check_folder(folder)
    paths = scan_paths(folder, should_cancel, follow_links=follow_links, say=say)
    return _checked(paths, progress, should_cancel)


def scan_paths(
    folder: Path,
    should_cancel: Callable[[], bool] | None = None,
    *,
    follow_links: bool = False,
    leave_out: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[Path, str]]:
    """Path and kind of all that looks like a scan: each NRRD, NIfTI, MHA or MHD file, each folder with DICOM files.

    In order of their names, those of a folder before those of the folders in it, and links after all else. Hidden
    files and folders are passed over. A folder that cannot be looked into comes last, as if it held DICOM files, so
    that nobody misses it.

    What can be reached on several ways counts once. Links that lead out of the folder are not followed: a scan that
    is such a link, or is made up of them in part, is left out.

    Args:
        folder: where to search; it may be a link itself.
        should_cancel: asked for each folder.
        follow_links: follow links out of the folder, too.
        leave_out: a folder in which nothing is a scan.
        say: receives, at the end, one sentence on the links that were not followed, if any.

    Raises:
        Cancelled: the user asked to stop.
    """
    tree = Tree(folder, follow_links, leave_out)
    seen: set[str] = set()
    not_followed: list[Path] = []
    for place in tree.folders(lambda: _stop_if_requested(should_cancel)):
        outside = [link for link in place.outside if _is_image(link) or _may_be_slice(link)]
        not_followed += outside
        if not all(map(_is_image, outside)):
            seen.add(place.real)
        if place.real not in seen and _holds_new_slices(place.files, seen):
            seen.add(place.real)
            yield place.path, DICOM
        for file in place.files:
            if not _is_image(file.path) or file.real in seen:
                continue
            seen.add(file.real)
            yield file.path, READABLE[suffix_of(file.path)]
    for error in tree.closed:
        yield Path(error.filename), DICOM
    if links := [*tree.not_followed, *not_followed]:
        say(_not_followed_sentence(links, folder))


def check_own_files(folder: Path) -> None:
    """Refuse the folder of a series some of whose slices are links out of it.

    Raises:
        InputError: there is such a link.
    """
    place = next(Tree(folder).folders(), None)
    for link in place.outside if place else ():
        if _may_be_slice(link):
            raise InputError(
                f"{link} is a link that leads out of its folder: copy the file there, or add --follow-links."
            )


def check_scan(path: Path, kind: str) -> FoundScan:
    """What the headers of a file or DICOM folder tell, or why it cannot be used.

    What only voxels tell (a damaged file, a labelmap that nobody calls one) is found when the scan is read. The one
    exception are 8-bit files, which are mostly labelmaps: their first voxels are looked at.

    Args:
        path: the scan.
        kind: its `FoundScan.kind`.
    """
    try:
        scan = read_header(path)
    except InputError as problem:
        return FoundScan(path, kind, str(problem))
    axis = scan.through_plane_axis
    return FoundScan(
        path=path,
        kind=kind,
        problem=_problem(scan, path),
        slices=scan.slices(axis),
        slice_spacing_mm=scan.spacing_along(axis),
        slice_thickness_mm=scan.slice_thickness,
        shape_ijk=scan.shape_ijk,
        spacing_mm=scan.spacing,
    )


def check_folder(folder: Path) -> None:
    """Refuse what cannot be searched.

    Raises:
        InputError: there is no such folder, or it cannot be read.
    """
    try:
        os.listdir(folder)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder} cannot be searched ({reason}): choose a folder that holds scans.") from error


def _checked(
    paths: Iterable[tuple[Path, str]], progress: Report | None, should_cancel: Callable[[], bool] | None
) -> Iterator[FoundScan]:
    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress("searching", done, total))

    tell(0, 1)
    found = list(paths)
    for done, (path, kind) in enumerate(found, start=1):
        _stop_if_requested(should_cancel)
        scan = check_scan(path, kind)
        tell(done, len(found))
        yield scan


def _problem(scan: Volume, path: Path) -> str | None:
    try:
        check_geometry(scan, forced=True)
        if scan.voxels.dtype.itemsize == 1:
            _check_first_voxels(scan, path)
    except InputError as problem:
        return str(problem)
    return None


def _check_first_voxels(scan: Volume, path: Path) -> None:
    try:
        voxels = first_voxels(path)
    except OSError:  # gone since its header was read, which reading the scan will say
        return
    # The first slices may well show nothing, so one value says something of a whole scan only.
    if voxels is not None and (voxels.size == scan.voxels.size or voxels.min() < voxels.max()):
        check_values(voxels)


def _may_be_slice(file: Path) -> bool:
    # A DICOMDIR lists the series of the folders below it, each of which is found there.
    if file.name.upper() == "DICOMDIR":
        return False
    try:
        return is_dicom(file)
    except OSError:  # reading the series will say which file, and why
        return True


def _is_image(file: Path) -> bool:
    return suffix_of(file) in READABLE


def _holds_new_slices(files: Sequence[File], seen: set[str]) -> bool:
    """Whether there are DICOM files that belong to no series so far; links to slices are remembered in `seen`."""
    found = False
    for file in files:
        if _is_image(file.path) or not _may_be_slice(file.path):
            continue
        if not file.is_link:
            return True
        found |= file.real not in seen and os.path.dirname(file.real) not in seen
        seen.add(file.real)
    return found


def _not_followed_sentence(links: Sequence[Path], folder: Path) -> str:
    first = visible(str(links[0]))
    return (
        f"Links out of {visible(str(folder))} are not followed ({len(links)}, such as {first}): copy there what is "
        "meant, or add --follow-links."
    )


def _stop_if_requested(should_cancel: Callable[[], bool] | None) -> None:
    if should_cancel is not None and should_cancel():
        raise Cancelled("The search was stopped.")
