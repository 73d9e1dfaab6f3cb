"""The command ``xviewsynth enhance``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..model.catalogue import check_model, choose_model
from ..progress import Monitor, describe_seconds
from ..report import describe_enhanced
from ..system.outputs import Outputs
from ..system.streams import quiet_libraries
from .files import add_report_output, add_volume_output, read_scan, write_json
from .options import (
    add_progress_option,
    add_report_options,
    add_request_options,
    add_scan_argument,
    add_stop_option,
    request_of,
)

if TYPE_CHECKING:
    from ..geometry.volume import Volume
    from ..inference.enhancement import Enhanced
    from ..inference.plan import Plan
    from ..io.dicom.source import Source
    from ..model.catalogue import Model
    from ..workers.job import Job


def register(commands: argparse._SubParsersAction) -> None:
    """Add `enhance`."""
    parser = commands.add_parser(
        "enhance",
        help="add the missing slices to a scan",
        description="Add the missing slices to a scan. Without --factor, --spacing or --isotropic: the smallest factor "
        "that brings the slices to 1.25 mm or less, at most 8.",
    )
    add_scan_argument(parser)
    parser.add_argument(
        "output", metavar="OUTPUT", type=Path, help="NRRD, NIfTI or MHA/MHD file; with --dicom a folder"
    )
    add_request_options(parser)
    parser.add_argument(
        "--dicom",
        action="store_true",
        help="write a DICOM series of the same study, in which every image is marked as synthetic or observed: "
        "INPUT must be a DICOM series, and OUTPUT becomes a folder",
    )
    parser.add_argument(
        "--uncertainty",
        "--doubt",
        type=Path,
        metavar="FILE",
        help="also write the uncertainty map, in HU: the expected error, or if the model is not calibrated, the "
        "disagreement of its views (--doubt is the former name)",
    )
    parser.add_argument(
        "--disagreement", type=Path, metavar="FILE", help="also write the disagreement of the views, in HU"
    )
    parser.add_argument(
        "--expected-error", type=Path, metavar="FILE", help="also write the expected absolute error, in HU"
    )
    parser.add_argument(
        "--error-bound", type=Path, metavar="FILE", help="also write the 90 %% bound of the absolute error, in HU"
    )
    add_report_options(parser)
    add_progress_option(parser)
    add_stop_option(parser)
    parser.set_defaults(run=_enhance)


def _enhance(arguments: argparse.Namespace, job: Job) -> None:
    with Outputs(arguments.overwrite, [arguments.input]) as outputs:
        add_output = _add_series_output if arguments.dicom else add_volume_output
        output = add_output(outputs, arguments.output)
        maps = {
            name: path and add_volume_output(outputs, path)
            for name, path in vars(arguments).items()
            if name in ("uncertainty", "disagreement", "expected_error", "error_bound")
        }
        report = arguments.report and add_report_output(outputs, arguments.report)
        request = request_of(arguments)
        check_model(request.model)
        source = _open_source(arguments.input, job) if arguments.dicom else None
        scan = read_scan(arguments.input, job, arguments.again, request.memory)

        from ..inference.enhancement import carry_out
        from ..inference.plan import make_plan
        from ..io.writing import write_volume

        model = choose_model(scan, request)
        plan = make_plan(scan, model, request)
        if maps["expected_error"] or maps["error_bound"]:
            _check_calibrated(model, plan)
        job.say(_describe_plan(plan))
        monitor = Monitor(job.progress, job.should_cancel)
        enhanced = carry_out(plan, scan, model, monitor=monitor)
        monitor.step("writing", 0, 1)
        notes, seconds = enhanced.notes[len(plan.notes) :], enhanced.seconds
        if report:
            write_json(report, describe_enhanced(str(arguments.input), str(arguments.output), scan, enhanced))
        if source:
            _write_series(enhanced, source, output, job)
        volumes = _volumes_to_write(enhanced, None if source else output, maps)
        # Each volume is freed after it is written, since writing needs memory too.
        del enhanced
        while volumes:
            job.stop_if_requested()
            make, path = volumes.pop(0)
            with quiet_libraries():
                volume = make()
                if volume is not None:
                    write_volume(volume, path)
                del volume
        job.last_step(outputs.commit)
        monitor.step("writing", 1, 1, 0.0)
    for note in notes:
        job.say(note)
    job.say(f"Wrote {arguments.output} in {describe_seconds(seconds)}.")


def _volumes_to_write(
    enhanced: Enhanced, output: Path | None, maps: Mapping[str, Path | None]
) -> list[tuple[Callable[[], Volume | None], Path]]:
    """A function that returns each output volume, and its path. Derived volumes come last."""
    from ..inference.enhancement import error_bound

    makers: dict[str, Callable[[], Volume | None]] = {
        "disagreement": partial(_itself, enhanced.disagreement),
        "uncertainty": partial(_itself, enhanced.uncertainty),
    }
    if enhanced.expected_error is not None:
        makers["expected_error"] = partial(_itself, enhanced.expected_error)
        makers["error_bound"] = partial(error_bound, enhanced.expected_error, enhanced.model, enhanced.plan)
    derived = [(make, path) for name, make in makers.items() if (path := maps[name]) is not None]
    return [*([(partial(_itself, enhanced.volume), output)] if output else []), *derived]


def _itself(volume: Volume) -> Volume:
    return volume


def _check_calibrated(model: Model, plan: Plan) -> None:
    from ..inference.uncertainty import Calibration

    if Calibration.from_card(model.card, plan.factor, plan.network_factor) is None:
        raise InputError(
            f"Model {model.name} was not calibrated for a factor of {plan.factor}, so it gives no error in HU: write "
            "the disagreement of its views with --disagreement FILE, or choose another model."
        )


def _add_series_output(outputs: Outputs, path: Path) -> Path:
    from ..io.dicom.writing import FILE_PATTERN

    return outputs.add_folder(path, FILE_PATTERN)


def _open_source(path: Path, job: Job) -> Source:
    from ..io.dicom.source import open_source

    source = open_source(path)
    job.stop_if_requested()
    return source


def _write_series(enhanced: Enhanced, source: Source, folder: Path, job: Job) -> None:
    from ..io.dicom.writing import write_files

    write_files(enhanced, source, folder, job.stop_if_requested)


def _describe_plan(plan: Plan) -> str:
    k, j, i = plan.output_shape
    spacing = " x ".join(f"{step:.3g}" for step in plan.output_spacing)
    lines = [
        f"Plan: {plan.factor} times the slices along {plan.axis}, to {i} x {j} x {k} voxels of {spacing} mm",
        f"      on {plan.device} ({plan.precision}), acquisition {plan.acquisition}, {plan.quality} quality, about "
        f"{describe_seconds(plan.expected_seconds)} and {plan.expected_peak_bytes / 1e9:.1f} GB",
    ]
    return "\n".join([*lines, *plan.notes])
