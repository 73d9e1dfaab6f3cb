"""The command ``xviewsynth selfcheck``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import __version__
from ..model.catalogue import check_model
from ..report import PROGRAM
from ..request import SELF_CHECK
from ..system.outputs import Outputs
from .files import add_report_output, read_scan, write_json
from .options import (
    add_progress_option,
    add_report_options,
    add_request_options,
    add_scan_argument,
    add_stop_option,
    request_of,
)

if TYPE_CHECKING:
    from ..workers.job import Job


def register(commands: argparse._SubParsersAction) -> None:
    """Add `selfcheck`."""
    parser = commands.add_parser(
        "selfcheck",
        help="measure how well slices of this scan are restored",
        description="Drop slices of a scan, restore them with the model and by interpolation, and compare.",
    )
    add_scan_argument(parser)
    add_request_options(parser, SELF_CHECK)
    add_report_options(parser)
    add_progress_option(parser)
    add_stop_option(parser)
    parser.set_defaults(run=_selfcheck)


def _selfcheck(arguments: argparse.Namespace, job: Job) -> None:
    with Outputs(arguments.overwrite, [arguments.input]) as outputs:
        report_file = arguments.report and add_report_output(outputs, arguments.report)
        request = request_of(arguments)
        check_model(request.model)
        scan = read_scan(arguments.input, job, arguments.again, request.memory)

        from ..evaluation.selfcheck import selfcheck

        report = selfcheck(scan, request=request, progress=job.progress, should_cancel=job.should_cancel)
        if report_file:
            write_json(report_file, {"program": f"{PROGRAM} {__version__}", **report})
        job.last_step(outputs.commit)
    job.say(_describe_selfcheck(report))


def _describe_selfcheck(report: dict) -> str:
    """The scores of every method, one a line, the best last."""
    columns = (
        ("PSNR dB", "psnr_db", ".2f"),
        ("gain dB", "gain_over_better_db", "+.2f"),
        ("MAE HU", "mae_hu", ".1f"),
        ("SSIM", "ssim", ".4f"),
        ("noise", "noise_ratio", ".2f"),
        ("seconds", "seconds", ".1f"),
    )

    def cell(value: float | None, form: str) -> str:
        return f"{'-' if value is None else format(value, form):>9}"

    lines = [f"{'':10}" + "".join(f"{title:>9}" for title, _, _ in columns)]
    for method, scores in report["methods"].items():
        lines.append(f"{method:10}" + "".join(cell(scores[key], form) for _, key, form in columns))
    lines.append(
        f"On the slices left out by a factor of {report['factor']} along {report['axis']}; "
        "gain: over the better of linear and cubic."
    )
    return "\n".join([*lines, *report["notes"]])
