"""Writes an enhanced volume of the scene as a DICOM series, beside the series that its scan was loaded from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import slicer

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.volume import Axis, Volume
from XViewSynthLib.io.dicom.writing import check_observed, open_source, write_series
from XViewSynthLib.request import Texture

from .desk import work_aside
from .dicom import database_files, instances_of, is_in_database, loaded_files, open_database
from .jobs import FOLDER_PREFIX, temporary_folder
from .provenance import Provenance, input_name, input_node, read_provenance
from .sequences import sequence_of
from .volumes import check_is_scalar_volume, volume_from_node

Progress = Callable[[int, int], None]

# Files that the database takes at a time, so that the window stays responsive.
_IMPORTED_AT_ONCE = 50


@dataclass(frozen=True)
class _Result:
    """An enhanced volume of the scene, as `XViewSynthLib.io.dicom.writing.Result`."""

    volume: Volume
    axis: Axis
    factor: int
    synthetic_slices: tuple[int, ...]
    acquisition: str
    texture: Texture
    model_label: str
    model_sha256: str


@dataclass(frozen=True)
class _Task:
    """What is written, and the DICOM files of the scan. `write` needs the scene no longer."""

    result: _Result
    files: list[Path]

    @classmethod
    def of(cls, node: slicer.vtkMRMLScalarVolumeNode) -> _Task:
        scan = _scan_of(node)
        return cls(_result(node, read_provenance(node)), _source_files(scan))

    @property
    def slices(self) -> int:
        return self.result.volume.slices(self.result.axis)

    def write(self, folder: Path, next_slice: Callable[[], None]) -> str:
        """Write a new folder and return the UID of the series; `next_slice` is called before each slice."""
        # A single file stands for the series in its folder.
        source = open_source(self.files[0], self.files if len(self.files) > 1 else None)
        check_observed(self.result, source)
        return write_series(self.result, source, folder, stop_if_requested=next_slice)


def check_can_save(node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Make sure that a volume is an enhanced one whose scan was loaded from DICOM.

    Raises:
        InputError: it is not.
    """
    _scan_of(node)


def saves_to_database(node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether the scan of an enhanced volume is in the DICOM database that is open."""
    scan = input_node(node)
    return scan is not None and is_in_database(scan)


def save_to_folder(
    node: slicer.vtkMRMLScalarVolumeNode, folder: str | Path, progress: Progress = lambda done, total: None
) -> str:
    """Write an enhanced volume as DICOM files into a new folder.

    Args:
        node: the enhanced volume.
        folder: the folder to make; it appears whole or not at all.
        progress: called about 50 times a second with the numbers of written slices and of all.

    Returns:
        The UID of the new series.

    Raises:
        InputError: the volume cannot be written as DICOM, or the folder cannot be written.
    """
    return _write(_Task.of(node), Path(folder), progress)


def save_to_database(node: slicer.vtkMRMLScalarVolumeNode, progress: Progress = lambda done, total: None) -> str:
    """Add an enhanced volume to the DICOM database that its scan was loaded from.

    The database keeps its own copy of the files. It holds the whole series afterwards, or nothing of it.

    Args:
        node: the enhanced volume.
        progress: called about 50 times a second with the numbers of written slices and of all.

    Returns:
        The UID of the new series.

    Raises:
        InputError: the volume cannot be written as DICOM, or its scan is not in the open database.
    """
    if not saves_to_database(_checked(node)):
        check_can_save(node)
        raise InputError(
            f"The scan of {node.GetName()!r} is not in the DICOM database of Slicer: give a folder, or import the "
            "series in the DICOM module and load it from there."
        )
    task = _Task.of(node)
    with tempfile.TemporaryDirectory(
        prefix=FOLDER_PREFIX, dir=temporary_folder(), ignore_cleanup_errors=True
    ) as temporary:
        folder = Path(temporary) / "series"
        series = _write(task, folder, progress)
        _add_to_database(folder, series, lambda: progress(task.slices, task.slices))
    return series


def _write(task: _Task, folder: Path, progress: Progress) -> str:
    """Write the series in another thread, and return its UID."""
    begun = 0

    def count() -> None:
        nonlocal begun
        begun += 1

    return work_aside(lambda: task.write(folder, count), lambda: progress(max(0, begun - 1), task.slices))


def _add_to_database(folder: Path, series: str, meanwhile: Callable[[], None]) -> None:
    """Import the files of a folder, which are moved into folders within it, and all of them or none."""
    from DICOMLib import DICOMUtils

    database: Any = open_database()
    files = sorted(folder.iterdir())
    imported = database is not None
    for first in range(0, len(files), _IMPORTED_AT_ONCE):
        part = folder / f"from {first}"
        part.mkdir()
        for file in files[first : first + _IMPORTED_AT_ONCE]:
            file.rename(part / file.name)
        imported = imported and DICOMUtils.importDicom(str(part), database, True)
        meanwhile()
    if not imported or len(database.filesForSeries(series)) != len(files):
        if database is not None:
            database.removeSeries(series)
        raise InputError(
            "Slicer's DICOM database did not take the new series: free some space on its disk, or save to a folder."
        )


def _result(node: slicer.vtkMRMLScalarVolumeNode, provenance: Provenance) -> _Result:
    return _Result(
        volume=replace(volume_from_node(node), slice_thickness=provenance.slice_thickness),
        axis=provenance.axis,
        factor=provenance.factor,
        synthetic_slices=provenance.synthetic_slices,
        acquisition=provenance.acquisition,
        texture=Texture(provenance.texture or Texture.KEEP),
        model_label=" ".join(filter(None, (provenance.model, provenance.model_version))),
        model_sha256=provenance.model_sha256,
    )


def _checked(node: slicer.vtkMRMLScalarVolumeNode | None) -> slicer.vtkMRMLScalarVolumeNode:
    check_is_scalar_volume(node)
    if read_provenance(node) is None:
        raise InputError(
            f"{node.GetName()!r} is not a result of XViewSynth, or was cropped or resampled since: choose an enhanced "
            "volume."
        )
    if sequence_of(node) is not None:
        raise InputError(f"{node.GetName()!r} shows a sequence, which cannot be saved as DICOM: save it as NRRD.")
    return node


def _scan_of(node: slicer.vtkMRMLScalarVolumeNode | None) -> slicer.vtkMRMLScalarVolumeNode:
    """The scan of an enhanced volume, if it was loaded from DICOM."""
    scan = input_node(_checked(node))
    if scan is None:
        raise InputError(
            f"The scan that {node.GetName()!r} was made from, {input_name(node)!r}, is no longer in the scene: load "
            "and enhance it again."
        )
    if not is_in_database(scan) and not loaded_files(scan):
        if instances_of(scan):
            raise InputError(
                f"The images of {scan.GetName()!r} are not in the open DICOM database: open the database that it was "
                "loaded from, in the DICOM module."
            )
        raise InputError(
            f"{scan.GetName()!r} was not loaded from DICOM, so there is no study to add slices to: save the result as "
            "NRRD or NIfTI."
        )
    return scan


def _source_files(scan: slicer.vtkMRMLScalarVolumeNode) -> list[Path]:
    if not is_in_database(scan):
        return loaded_files(scan)
    files = database_files(scan)
    missing = [uid if path == Path() else path for uid, path in files.items() if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(files)} images of {scan.GetName()!r} are missing, such as {missing[0]}: import "
            "the series again in the DICOM module."
        )
    return list(files.values())
