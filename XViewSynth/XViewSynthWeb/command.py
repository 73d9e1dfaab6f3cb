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

# Packages of the extra `web`; pip installs their dependencies.
PACKAGES = ("slicer-core", "slicer-layer-dm", "trame-slicer")

#: Time to end a running enhancement and to close the pages, longer on a busy computer.
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
    parser.add_argument("enhanced", metavar="ENHANCED", type=Path, nargs="?", help="the enhanced volume of SCAN")
    parser.add_argument(
        "--uncertainty",
        "--doubt",
        "--disagreement",
        type=Path,
        metavar="FILE",
        help="uncertainty map of the enhanced volume, in HU, for a coloured overlay",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.json",
        help="report of the enhancement, with its synthetic slices (default: those that hold no slice of SCAN)",
    )
    add_model_option(parser)
    add_device_option(parser)
    parser.add_argument("--host", help="name or IP address at which other computers can connect; needs --token")
    parser.add_argument("--port", type=_port, default=0, metavar="N", help="default: 0, any free port")
    parser.add_argument(
        "--token",
        metavar="TOKEN|auto",
        help="access token, part of the address; auto makes one and prints it, while other users of this computer can "
        "see a typed one. The connection has no TLS: in an untrusted network, leave --host out and use an SSH tunnel",
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    add_stop_option(parser)
    parser.set_defaults(run=_view, grace_seconds=_GRACE_SECONDS)


def check_packages() -> None:
    """Raise unless the packages of the viewer are installed.

    Raises:
        InputError: a package is missing; the message names the command that installs it.
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

    # Pages can trigger VTK warnings, which would fill the terminal.
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
