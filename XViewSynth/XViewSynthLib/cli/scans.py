"""The command ``xviewsynth scans``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..system.streams import print_line, quiet_libraries, visible
from .options import add_links_option, add_stop_option

if TYPE_CHECKING:
    from ..io.finding import FoundScan
    from ..workers.job import Job


def register(commands: argparse._SubParsersAction) -> None:
    """Add `scans`."""
    parser = commands.add_parser(
        "scans",
        help="list the scans in a folder, and why one cannot be used",
        description="List the scans in a folder and the folders below it, with their slices and spacing, and why one "
        "cannot be used. Only headers are read.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--json", action="store_true", help="one JSON object a line, printed as scans are found")
    add_links_option(parser)
    add_stop_option(parser)
    parser.set_defaults(run=_scans)


def _scans(arguments: argparse.Namespace, job: Job) -> None:
    from ..io.finding import find_scans

    found = usable = 0
    with quiet_libraries():
        search = find_scans(
            arguments.folder,
            follow_links=arguments.follow_links,
            # Standard output is for the scans.
            say=lambda text: print_line(text, to_errors=True),
            should_cancel=job.should_cancel,
        )
        for scan in search:
            found += 1
            usable += scan.usable
            job.say(json.dumps(scan.to_dict()) if arguments.json else _describe_scan(scan))
    if not found:
        raise InputError(
            f"{arguments.folder} holds no scan: name a folder with DICOM, NRRD, NIfTI, MHA or MHD files in or below it."
        )
    if not arguments.json:
        job.say(f"{usable} of {found} can be used.")


def _describe_scan(scan: FoundScan) -> str:
    about = [f"{visible(str(scan.path))}: {scan.kind}"]
    if scan.slices is not None and scan.shape_ijk is not None:
        pixels = " x ".join(str(count) for count in scan.shape_ijk)
        about.append(f"{pixels} voxels, {scan.slices} slices {scan.slice_spacing_mm:.3g} mm apart")
    problem = "" if scan.usable else f"\n    cannot be used: {visible(scan.problem or 'the reason is unknown')}"
    return ", ".join(about) + problem
