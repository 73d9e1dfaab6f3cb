"""Scans below a folder: where they are, what their headers tell, and why one cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .checks import check_geometry, check_values
from .dicom import is_dicom
from .errors import Cancelled, InputError
from .progress import Progress, Report
from .reading import READABLE, read_header, read_volume, suffix_of
from .volume import Volume

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
    progress: Report | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> Iterator[FoundScan]:
    """Every scan in a folder and the folders below it, one after the other as their headers are read.

    See `scan_paths` for what counts, and `check_scan` for what is checked. The search itself begins with the first
    scan that is asked for.

    Args:
        folder: where to search.
        progress: told after every scan.
        should_cancel: asked between folders and between scans.

    Raises:
        InputError: there is no such folder (at once, before any scan is asked for).
        Cancelled: the user asked to stop.

    >>> [scan.path.name for scan in find_scans("study") if scan.usable]  # doctest: +SKIP
    ['chest.nrrd', 'series 3']
    """
    folder = Path(folder)
    _check_folder(folder)
    return _checked(folder, progress, should_cancel)


def scan_paths(folder: Path, should_cancel: Callable[[], bool] | None = None) -> Iterator[tuple[Path, str]]:
    """Path and kind of all that looks like a scan: each NRRD, NIfTI, MHA or MHD file, each folder with DICOM files.

    In order of their names, those of a folder before those of the folders in it. Hidden files and folders are passed
    over. Links are followed, and what can be reached on several ways counts once. A folder that cannot be looked into
    comes last, as if it held DICOM files, so that nobody misses it.

    Raises:
        Cancelled: the user asked to stop.
    """
    seen: set[str] = set()
    closed: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=closed.append, followlinks=True):
        _stop_if_asked(should_cancel)
        if not _is_new(place, seen):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # Not everything that can be named is a file: to open a pipe is to wait for ever.
        files = [path for name in sorted(names) if not name.startswith(".") and (path := Path(place, name)).is_file()]
        if any(suffix_of(file) not in READABLE and _may_be_slice(file) for file in files):
            yield Path(place), DICOM
        for file in files:
            kind = READABLE.get(suffix_of(file))
            if kind is not None and _is_new(file, seen):
                yield file, kind
    for error in closed:
        yield Path(error.filename), DICOM


def check_scan(path: Path, kind: str) -> FoundScan:
    """What the headers of a file or DICOM folder tell, or why it cannot be used.

    What only voxels tell (a damaged file, a labelmap that nobody calls one) is found when the scan is read. The one
    exception are 8-bit files, which are mostly labelmaps, and read quickly if they are.

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


def _check_folder(folder: Path) -> None:
    try:
        os.listdir(folder)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder} cannot be searched ({reason}): choose a folder that holds scans.") from error


def _checked(folder: Path, progress: Report | None, should_cancel: Callable[[], bool] | None) -> Iterator[FoundScan]:
    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(Progress("searching", done, total))

    tell(0, 1)
    found = list(scan_paths(folder, should_cancel))
    for done, (path, kind) in enumerate(found, start=1):
        _stop_if_asked(should_cancel)
        scan = check_scan(path, kind)
        tell(done, len(found))
        yield scan


def _problem(scan: Volume, path: Path) -> str | None:
    try:
        check_geometry(scan, forced=True)
        if scan.voxels.dtype.itemsize == 1:
            check_values(read_volume(path).voxels)
    except InputError as problem:
        return str(problem)
    return None


def _may_be_slice(file: Path) -> bool:
    # A DICOMDIR lists the series of the folders below it, each of which is found there.
    if file.name.upper() == "DICOMDIR":
        return False
    try:
        return is_dicom(file)
    except OSError:  # reading the series will say which file, and why
        return True


def _is_new(path: str | Path, seen: set[str]) -> bool:
    real = os.path.realpath(path)
    new = real not in seen
    seen.add(real)
    return new


def _stop_if_asked(should_cancel: Callable[[], bool] | None) -> None:
    if should_cancel is not None and should_cancel():
        raise Cancelled("The search was stopped.")
