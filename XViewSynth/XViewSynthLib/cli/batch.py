"""The command ``xviewsynth batch``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..batch.task import FAILED, FORMATS
from .options import add_links_option, add_progress_option, add_request_options, add_stop_option, job_count, request_of

if TYPE_CHECKING:
    from ..workers.job import Job


def register(commands: argparse._SubParsersAction) -> None:
    """Add `batch`."""
    parser = commands.add_parser(
        "batch",
        help="enhance every scan below a folder",
        description="Enhance every scan below a folder, and report those that cannot be enhanced. OUT gets "
        "the same folders, with NAME.enhanced.nrrd, a thumbnail and a record for each scan, and summary.csv and "
        "summary.html for all. Exit code 4: some scans that qualify could not be enhanced.",
    )
    parser.add_argument("input", metavar="IN", type=Path, help="folder with scans, at any depth")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder for the results, made if missing")
    add_request_options(parser)
    parser.add_argument("--selfcheck", action="store_true", help="also measure how well slices of each are restored")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the results (default: %(default)s)")
    parser.add_argument("--jobs", type=job_count, metavar="N", help="how many scans at once (default: one a device)")
    parser.add_argument(
        "--dask",
        metavar="tcp://HOST:PORT",
        help="use the workers of this Dask scheduler; they must mount IN and OUT under the same names",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue: skip finished scans, and repeat those with changes"
    )
    add_links_option(parser)
    add_progress_option(parser)
    add_stop_option(parser)
    # Time for ending the processes and writing the summary.
    parser.set_defaults(run=_batch, grace_seconds=1.0)


def _batch(arguments: argparse.Namespace, job: Job) -> int | None:
    from ..batch.run import SOME_FAILED, Batch, run_batch
    from ..batch.summary import PAGE, counts

    batch = Batch(
        arguments.input,
        arguments.output,
        request_of(arguments),
        format=arguments.format,
        selfcheck=arguments.selfcheck,
        jobs=arguments.jobs,
        follow_links=arguments.follow_links,
        dask=arguments.dask,
    )
    rows = run_batch(
        batch, resume=arguments.resume, say=job.say, progress=job.progress, should_cancel=job.should_cancel
    )
    job.say(f"{counts(rows, len(rows))} {arguments.output / PAGE} shows them.")
    return SOME_FAILED if any(row.status == FAILED for row in rows) else None
