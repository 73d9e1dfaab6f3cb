"""The command ``xviewsynth view``."""

from __future__ import annotations

import argparse
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from XViewSynthLib.cli.options import add_device_option, add_model_option, add_stop_option
from XViewSynthLib.errors import InputError
from XViewSynthLib.model.catalogue import check_model
from XViewSynthLib.system.streams import quiet_libraries

if TYPE_CHECKING:
    from XViewSynthLib.workers.job import Job

# Of the extra `web`; what these need in turn, pip takes care of.
PACKAGES = ("slicer-core", "slicer-layer-dm", "trame-slicer")

#: It ends a running enhancement and tells all browsers, which takes seconds, and on a busy computer more.
_GRACE_SECONDS = 30.0


def register_view(subparsers: argparse._SubParsersAction) -> None:
    """Add `view`."""
    parser = subparsers.add_parser(
        "view",
        help="compare a scan and its enhancement in the browser",
        description="Show a scan and its enhancement in linked views, in the browser. Without ENHANCED, the page has a "
        "button that makes it. Only this computer can connect, unless --host and --token are given. Ctrl-C ends it.",
    )
    parser.add_argument("scan", metavar="SCAN", type=Path, help="NRRD, NIfTI, MHA/MHD or a folder of one DICOM series")
    parser.add_argument("enhanced", metavar="ENHANCED", type=Path, nargs="?", help="what was made of it")
    parser.add_argument(
        "--uncertainty",
        "--doubt",
        "--disagreement",
        type=Path,
        metavar="FILE",
        help="uncertainty map of the enhanced volume, in HU, which is drawn over it",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.json",
        help="of the enhancement: tells the synthetic slices (default: those that hold no slice of SCAN)",
    )
    add_model_option(parser)
    add_device_option(parser)
    parser.add_argument("--host", help="let other computers connect to this name or number of this one; needs --token")
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="default: 0, any that is free")
    parser.add_argument(
        "--token",
        metavar="TOKEN|auto",
        help="what the address must carry; auto makes one and prints it, and others on this computer can see one that "
        "is typed. Without TLS it can be read on the way: across an untrusted network, leave --host out and go through "
        "an SSH tunnel",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open nothing")
    add_stop_option(parser)
    parser.set_defaults(run=_view, grace_seconds=_GRACE_SECONDS)


def check_packages() -> None:
    """Make sure that what draws and serves the views is installed.

    Raises:
        InputError: with the command that installs it.
    """
    missing = [name for name in PACKAGES if not _is_installed(name)]
    if missing:
        raise InputError(f'The viewer needs {", ".join(missing)}: run pip install "xviewsynth[web]".')


def _view(arguments: argparse.Namespace, job: Job) -> None:
    check_packages()
    check_model(arguments.model)

    from .access import check_address, make_access

    access = make_access(arguments.host, arguments.token)
    check_address(access, arguments.port)

    from .content import read_content
    from .server import check_drawing, serve

    # VTK writes what it finds odd to the terminal, as often as a page makes it so.
    with quiet_libraries():
        check_drawing()
        job.stop_if_requested()
        content = read_content(arguments.scan, arguments.enhanced, arguments.uncertainty, arguments.report)
        job.stop_if_requested()
        serve(content, access, arguments.port, arguments.model, arguments.device, not arguments.no_browser, job)


def _is_installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _port(text: str) -> int:
    if not re.fullmatch("0|[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 65535, not {text!r}")
    return int(text)
