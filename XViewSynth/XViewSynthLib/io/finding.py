"""Search for scans below a folder, with checks of their headers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import Cancelled, InputError
from ..geometry.checks import check_geometry, check_values
from ..geometry.volume import Volume
from ..progress import Monitor, Report
from ..system.streams import visible
from ..system.tree import File, Tree
from .dicom.series import is_dicom
from .reading import READABLE, read_header, suffix_of
from .sample import first_voxels

DICOM = "DICOM"


@dataclass(frozen=True)
class FoundScan:
    """A file or folder that looks like a scan.

    Attributes:
        path: the file, or the folder of a DICOM series; begins with the searched folder as given.
        kind: "DICOM", "NRRD", "NIfTI" or "MetaImage".
        problem: message of the check that failed; None if the scan can be used.
        slices: number along the acquisition axis. This and all following fields are None if the header is unreadable.
        slice_spacing_mm: distance of the centres of neighbouring slices.
        slice_thickness_mm: thickness over which a slice was averaged, or None if it is unknown.
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
        """Whether the scan has passed the checks of its header."""
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
    """Iterate over the scans in a folder and the folders below it, reading the header of each.

    `scan_paths` defines which files count, and `check_scan` which checks are made. The search begins with the first
    `next`.

    Args:
        folder: where to search.
        follow_links, say: as for `scan_paths`.
        progress: called after every scan.
        should_cancel: called between folders and between scans; true ends the search.

    Raises:
        InputError: there is no such folder (raised at once, not by the first `next`).
        Cancelled: `should_cancel` returned true.

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
    """Path and kind of each NRRD, NIfTI, MHA or MHD file, and of each folder with DICOM files.

    The order is by name, files of a folder before its subfolders, links last. Hidden files and folders are skipped. A
    folder that cannot be read comes at the end as a DICOM folder, so that it is reported.

    A scan that can be reached in several ways counts once. Links out of the folder are not followed. A scan is skipped
    if it is such a link, or if some of its files are.

    Args:
        folder: where to search; it may be a link itself.
        should_cancel: called for each folder; true ends the search.
        follow_links: follow links out of the folder, too.
        leave_out: a folder to skip.
        say: called at the end with one sentence on links that were not followed, if any.

    Raises:
        Cancelled: `should_cancel` returned true.
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
    """Refuse the folder of a series with slices that are links out of it.

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
    """Check the headers of a file or DICOM folder, and describe the scan or the problem.

    Problems of the voxels (a damaged file, a labelmap without that mark) are found when the scan is read. Exception:
    8-bit files are mostly labelmaps, so their first voxels are checked here.

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
    """Refuse a folder that cannot be searched.

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
    monitor = Monitor(progress)
    monitor.step("searching", 0, 1)
    found = list(paths)
    for done, (path, kind) in enumerate(found, start=1):
        _stop_if_requested(should_cancel)
        scan = check_scan(path, kind)
        monitor.step("searching", done, len(found))
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
    except OSError:  # removed since its header was read; reading the scan reports that
        return
    # The first slices may be empty, so a constant value is a problem only if these voxels are the whole scan.
    if voxels is not None and (voxels.size == scan.voxels.size or voxels.min() < voxels.max()):
        check_values(voxels)


def _may_be_slice(file: Path) -> bool:
    # A DICOMDIR lists the series of the folders below it, each of which is found there.
    if file.name.upper() == "DICOMDIR":
        return False
    try:
        return is_dicom(file)
    except OSError:  # reading the series reports the file and the reason
        return True


def _is_image(file: Path) -> bool:
    return suffix_of(file) in READABLE


def _holds_new_slices(files: Sequence[File], seen: set[str]) -> bool:
    """Whether there are DICOM files outside of the series found so far. Adds links to slices to `seen`."""
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
        f"Links out of {visible(str(folder))} are not followed ({len(links)}, such as {first}): copy their targets "
        "there, or add --follow-links."
    )


def _stop_if_requested(should_cancel: Callable[[], bool] | None) -> None:
    if should_cancel is not None and should_cancel():
        raise Cancelled("The search was stopped.")
