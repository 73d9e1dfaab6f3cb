"""One scan of a batch, enhanced in a process of its own: ``python -m XViewSynthLib.batch.worker one TASK.json``.

What comes out lies beside the task, in the batch's own folder: the output, its thumbnail, and `RESULT`. The batch puts
it in its place, so that a process which ends halfway, for whatever reason, leaves nothing there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..geometry.volume import Volume
    from ..inference.enhancement import Enhanced
    from ..io.dicom.writing import Source
    from ..model.catalogue import Model
    from ..workers.job import Job

COMMAND = "one"
RESULT = "result.json"
ENHANCED, REFUSED, FAILED = "enhanced", "refused", "failed"
# A folder with a series; its name ends so.
DICOM = "dicom"
# Endings of what can be written; not .mhd, which would be two files.
FORMATS = ("nrrd", "nii.gz", "nii", "mha", DICOM)


@dataclass(frozen=True)
class Task:
    """What the process is told, as JSON.

    Attributes:
        name: of the scan, relative to the folder that is searched: the only name that is told on.
        source: the scan.
        output: name of the file, or of the DICOM folder, to write.
        dicom: whether it is a DICOM series, for which the scan must be one.
        thumbnail: file name of its picture.
        model: folder of the model.
        goal: "factor", "spacing" and "isotropic", as for `enhance`.
        axis, acquisition, thickness, profile, new_thickness, device, precision, quality, texture, memory: as for
            `enhance`.
        selfcheck: whether to measure on this scan how well slices are restored.
    """

    name: str
    source: str
    output: str
    dicom: bool
    thumbnail: str
    model: str
    goal: dict[str, Any]
    axis: str
    acquisition: str
    thickness: float | None
    profile: str
    new_thickness: float | None
    device: str
    precision: str
    quality: str
    texture: str
    memory: int | None
    selfcheck: bool


def enhance_one(task: Task, folder: Path, should_cancel: Callable[[], bool] | None = None) -> dict[str, Any]:
    """Enhance a scan into a folder and tell how that went.

    Returns:
        "status": "enhanced", "refused" (the scan does not qualify) or "failed" (it does); "message" for the latter
        two; for the first "report" as of ``enhance --report``, and "selfcheck", the report of `selfcheck`, or None.

    Raises:
        Cancelled: `should_cancel` said so.
    """
    try:
        scan, series, model = _qualified(task)
    except InputError as problem:
        return {"status": REFUSED, "message": str(problem)}
    try:
        return _enhanced(task, folder, scan, series, model, should_cancel)
    except InputError as problem:
        return {"status": FAILED, "message": str(problem)}


def register(subparsers: argparse._SubParsersAction) -> None:
    """Add the command to the program's own."""
    from ..cli.main import add_stop_option

    parser = subparsers.add_parser(COMMAND)
    parser.add_argument("task", type=Path)
    add_stop_option(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, job: Job) -> None:
    task = Task(**json.loads(arguments.task.read_text(encoding="utf-8")))
    folder = arguments.task.parent
    result = enhance_one(task, folder, job.should_cancel)
    try:
        (folder / RESULT).write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
    except OSError as error:
        raise InputError(f"Its result cannot be written ({error.strerror or error}): make room for it.") from error


def _qualified(task: Task) -> tuple[Volume, Source | None, Model]:
    """The scan, if nothing in it or about it speaks against enhancing it, and for DICOM output the series it is.

    Raises:
        InputError: something does.
    """
    from ..geometry.acquisition import resolve_overlap, resolve_profile
    from ..geometry.checks import check_values
    from ..geometry.grid import settle_grid
    from ..io.reading import read_volume
    from ..system.streams import quiet_libraries

    series = _open_source(task.source) if task.dicom else None
    with quiet_libraries():
        scan = read_volume(task.source, memory=task.memory)
    grid = settle_grid(scan, axis=task.axis, **task.goal)
    check_values(scan.voxels)

    # Takes seconds, which a scan that is refused need not wait for.
    from ..inference.plan import check_acquisition, check_known_factor
    from ..model.catalogue import choose_model

    model = choose_model(scan, grid.axis, task.model, task.acquisition, task.thickness)
    acquisition = check_acquisition(model, task.acquisition)
    if acquisition == "thick":
        resolve_profile(scan, grid.axis, task.thickness, task.profile)
    resolve_overlap(scan, grid.axis, grid.factor, acquisition, task.thickness, task.new_thickness)
    check_known_factor(model, grid.factor)
    return scan, series, model


def _open_source(source: str) -> Source:
    from ..io.dicom.writing import open_source

    return open_source(source)


def _enhanced(
    task: Task,
    folder: Path,
    scan: Volume,
    series: Source | None,
    model: Model,
    should_cancel: Callable[[], bool] | None,
) -> dict[str, Any]:
    from ..cli.main import describe_enhanced
    from ..inference.enhancement import enhance
    from ..io.writing import write_volume
    from ..system.streams import quiet_libraries
    from .thumbnails import write_thumbnail

    settings = {
        "axis": task.axis,
        "model": model,
        "acquisition": task.acquisition,
        "thickness": task.thickness,
        "device": task.device,
        "precision": task.precision,
        "quality": task.quality,
        "memory": task.memory,
        "should_cancel": should_cancel,
    }
    enhanced: Enhanced = enhance(
        scan,
        texture=task.texture,
        profile=task.profile,
        new_thickness=task.new_thickness,
        **task.goal,
        **settings,
    )
    with quiet_libraries():
        if series:
            _write_series(enhanced, series, folder / task.output)
        else:
            write_volume(enhanced.volume, folder / task.output)
        write_thumbnail(folder / task.thumbnail, scan, enhanced.volume, enhanced.axis)
    report = describe_enhanced(task.name, task.output, scan, enhanced)
    del enhanced
    return {"status": ENHANCED, "report": report, "selfcheck": _check(scan, settings) if task.selfcheck else None}


def _write_series(enhanced: Enhanced, series: Source, folder: Path) -> None:
    from ..io.dicom.writing import write_files

    folder.mkdir()
    write_files(enhanced, series, folder)


def _check(scan: Volume, settings: dict[str, Any]) -> dict[str, Any]:
    from ..evaluation.selfcheck import selfcheck

    try:
        return selfcheck(scan, **settings)
    except InputError as problem:  # such as too few slices to leave some out, which takes nothing from the result
        return {"problem": str(problem)}


if __name__ == "__main__":
    from XViewSynthLib.__main__ import main

    sys.exit(main(register))
