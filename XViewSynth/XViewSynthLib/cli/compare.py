"""The command ``xviewsynth compare``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..system.outputs import Outputs
from .files import read_scan
from .options import add_progress_option, add_scan_argument, add_stop_option, by_name, named_path, whole_number

if TYPE_CHECKING:
    from ..workers.job import Job


def register(commands: argparse._SubParsersAction) -> None:
    """Add `compare`."""
    parser = commands.add_parser(
        "compare",
        help="make a page for a blinded comparison by readers",
        description="Make a page in which readers rate series of one scan without knowing which method made which.",
    )
    add_scan_argument(parser)
    parser.add_argument(
        "volumes",
        nargs="+",
        type=named_path,
        metavar="METHOD=VOLUME",
        help="a series to compare, such as enhanced=chest_x4.nrrd; also the thin scan, if there is one",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder of the page and its key")
    parser.add_argument("--overwrite", action="store_true", help="replace a kit that exists")
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        metavar="N",
        help="decides the letters of the series (default: drawn)",
    )
    parser.add_argument(
        "--centre",
        nargs=3,
        type=float,
        metavar=("R", "A", "S"),
        help="centre of the region that is shown, RAS mm (default: middle of the scan)",
    )
    parser.add_argument(
        "--pixels",
        type=whole_number(16, 1024),
        default=256,
        metavar="N",
        help="rows and columns of that region (default: %(default)s)",
    )
    parser.add_argument(
        "--no-acquired", action="store_true", help="leave out the scan as acquired, which readers recognise"
    )
    add_progress_option(parser)
    add_stop_option(parser)
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace, job: Job) -> None:
    paths = by_name(arguments.volumes)
    with Outputs(arguments.overwrite, [arguments.input, *paths.values()]) as outputs:
        from ..evaluation.reading_kit import KEY, PAGE, Settings, write_kit

        folder = outputs.add_folder(arguments.output, PAGE, KEY)
        scan = read_scan(arguments.input, job, arguments.again, None)
        volumes = {name: read_scan(path, job, True, None) for name, path in paths.items()}
        centre = None if arguments.centre is None else (arguments.centre[0], arguments.centre[1], arguments.centre[2])
        settings = Settings(arguments.seed, arguments.pixels, centre, not arguments.no_acquired)
        write_kit(scan, volumes, folder, settings, job.stop_if_requested)
        job.last_step(outputs.commit)
    job.say(f"Wrote {arguments.output}. Give readers {PAGE} alone: {KEY} says which series is which.")
