"""Enhances one scan of a batch, in a separate process.

The process writes output and thumbnail to the batch's hidden folder, and the batch moves them to their place. So a
process that ends early leaves nothing at that place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..report import describe_enhanced
from ..request import SELF_CHECK, Request
from .task import ENHANCED, FAILED, REFUSED, Task

if TYPE_CHECKING:
    from ..geometry.volume import Volume
    from ..inference.enhancement import Enhanced
    from ..io.dicom.source import Source
    from ..model.catalogue import Model


def enhance_one(task: Task, folder: Path, should_cancel: Callable[[], bool] | None = None) -> dict[str, Any]:
    """Enhance a scan into a folder, and return the status.

    Returns:
        "status": "enhanced", "refused" (the scan does not qualify) or "failed" (it does). The latter two have
        "message". The first has "report" as of ``enhance --report``, and "selfcheck" (a report or None).

    Raises:
        Cancelled: `should_cancel` returned true.
    """
    request = Request.from_json(task.request)
    try:
        scan, series, model = _qualified(task, request)
    except InputError as problem:
        return {"status": REFUSED, "message": str(problem)}
    try:
        return _enhanced(task, request, folder, scan, series, model, should_cancel)
    except InputError as problem:
        return {"status": FAILED, "message": str(problem)}


def _qualified(task: Task, request: Request) -> tuple[Volume, Source | None, Model]:
    """Read and check the scan; return it, its series for DICOM output, and the model.

    Raises:
        InputError: the scan cannot be enhanced.
    """
    from ..geometry.acquisition import resolve_overlap, resolve_profile
    from ..geometry.checks import check_values
    from ..geometry.grid import settle_grid
    from ..io.reading import read_volume
    from ..system.streams import quiet_libraries

    series = _open_source(task.source) if task.dicom else None
    with quiet_libraries():
        scan = read_volume(task.source, memory=request.memory)
    grid = settle_grid(scan, axis=request.axis, **request.target)
    check_values(scan.voxels)

    # Imported here, since it takes seconds, which are not needed for a refused scan.
    from ..inference.plan import check_acquisition, check_known_factor
    from ..model.catalogue import choose_model

    model = choose_model(scan, request)
    acquisition = check_acquisition(model, request.acquisition)
    if acquisition == "thick":
        resolve_profile(scan, grid.axis, request.thickness, request.profile)
    resolve_overlap(scan, grid.axis, grid.factor, acquisition, request.thickness, request.new_thickness)
    check_known_factor(model, grid.factor)
    return scan, series, model


def _open_source(source: str) -> Source:
    from ..io.dicom.source import open_source

    return open_source(source)


def _enhanced(
    task: Task,
    request: Request,
    folder: Path,
    scan: Volume,
    series: Source | None,
    model: Model,
    should_cancel: Callable[[], bool] | None,
) -> dict[str, Any]:
    from ..inference.enhancement import enhance
    from ..io.writing import write_volume
    from ..system.streams import quiet_libraries
    from .thumbnails import write_thumbnail

    enhanced = enhance(scan, model=model, request=request, should_cancel=should_cancel)
    with quiet_libraries():
        if series:
            _write_series(enhanced, series, folder / task.output)
        else:
            write_volume(enhanced.volume, folder / task.output)
        write_thumbnail(folder / task.thumbnail, scan, enhanced.volume, enhanced.axis)
    report = describe_enhanced(task.name, task.output, scan, enhanced)
    del enhanced
    return {
        "status": ENHANCED,
        "report": report,
        "selfcheck": _check(scan, model, request, should_cancel) if task.selfcheck else None,
    }


def _write_series(enhanced: Enhanced, series: Source, folder: Path) -> None:
    from ..io.dicom.writing import write_files

    folder.mkdir()
    write_files(enhanced, series, folder)


def _check(scan: Volume, model: Model, request: Request, should_cancel: Callable[[], bool] | None) -> dict[str, Any]:
    from ..evaluation.selfcheck import selfcheck

    # Always with factor 2, which is nearest to the original scan.
    measured = replace(request.limited_to(SELF_CHECK), factor=None)
    try:
        return selfcheck(scan, model=model, request=measured, should_cancel=should_cancel)
    except InputError as problem:  # such as too few slices to drop some; the result is valid all the same
        return {"problem": str(problem)}
