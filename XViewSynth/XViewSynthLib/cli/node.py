"""The command ``xviewsynth node``."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..node.settings import Peer, Settings, Tls, parse_address, parse_title, parse_url
from .options import add_request_options, add_stop_option, request_of, whole_number

if TYPE_CHECKING:
    from ..workers.job import Job

_TLS = ("tls_cert", "tls_key", "tls_ca")
# How long a stop waits for the process that enhances, and for the archive.
_GRACE_SECONDS = 8.0


def register(commands: argparse._SubParsersAction) -> None:
    """Add `node` with `run` and `status`."""
    parser = commands.add_parser(
        "node",
        help="receive thick CT series over DICOM, enhance them, and send the results to an archive",
        description="A DICOM node for a hospital network. It needs the extra 'pacs': pip install 'xviewsynth[pacs]'.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _register_run(actions)
    status = actions.add_parser(
        "status",
        help="print the state of a node",
        description="Print how many series wait, are done, were skipped or have failed, and why.",
    )
    _add_folder(status)
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_status)


def _register_run(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "run",
        help="run the node until it is stopped",
        description="Receive CT series by C-STORE, enhance those whose slices are far apart, and send the results "
        "to an archive. Series wait in a queue on disk; after a crash the node goes on where it was.",
    )
    _add_folder(parser)
    _add_network_options(parser)
    _add_work_options(parser)
    add_request_options(parser)
    add_stop_option(parser)
    parser.set_defaults(run=_run, grace_seconds=_GRACE_SECONDS)


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    destination = parser.add_mutually_exclusive_group(required=True)
    destination.add_argument(
        "--to",
        type=_of(lambda text: Peer.parse(text, True)),
        metavar="AET@HOST:PORT",
        help="the archive that gets the results",
    )
    destination.add_argument(
        "--to-web",
        type=_of(parse_url),
        metavar="URL",
        help="the DICOMweb service that gets the results, in place of --to",
    )
    add(
        "--from-web",
        type=_of(parse_url),
        metavar="URL",
        help="also fetch new CT series, of studies of today and yesterday, from this DICOMweb service",
    )
    add("--aet", type=_of(parse_title), default="XVIEWSYNTH", metavar="AET", help="AE title (default: %(default)s)")
    add(
        "--listen",
        type=_of(parse_address),
        default=("127.0.0.1", 11112),
        metavar="HOST:PORT",
        help="where to listen (default: 127.0.0.1:11112)",
    )
    add(
        "--allow",
        type=_of(lambda text: Peer.parse(text, False)),
        action="append",
        default=[],
        metavar="AET@HOST",
        help="a caller that may send; may be repeated (default: any on this computer)",
    )
    add(
        "--tls-cert",
        type=Path,
        metavar="FILE.pem",
        help="certificate of the node; with the next two, all connections use TLS, and peers must show a certificate",
    )
    add("--tls-key", type=Path, metavar="FILE.pem", help="its private key")
    add("--tls-ca", type=Path, metavar="FILE.pem", help="authority of the peers' certificates")


def _add_work_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--quiet-seconds",
        type=_of(_above_zero),
        default=30.0,
        metavar="S",
        help="a series is complete when no image has arrived for so long (default: 30)",
    )
    add(
        "--thicker-than",
        type=_of(_above_zero),
        default=2.0,
        metavar="MM",
        help="enhance series whose slices are farther apart (default: 2)",
    )
    add(
        "--quota",
        type=whole_number(1, 10**5),
        default=50,
        metavar="GB",
        help="refuse images while so much waits (default: 50)",
    )
    add("--keep", action="store_true", help="keep received series and results after delivery")
    add(
        "--page",
        type=whole_number(0, 2**16 - 1),
        metavar="PORT",
        help="show the state on a page on this computer, with metrics for Prometheus under /metrics; 0: a free port",
    )


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="FOLDER", help="folder of the node: its queue, and series in work"
    )


def _of(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argument type whose errors are those of `parse`."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}, not {text!r}") from error

    return parsed


def _above_zero(text: str) -> float:
    number = float(text) if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text) else 0.0
    if not number:
        raise ValueError("must be a number above 0")
    return number


def _run(arguments: argparse.Namespace, job: Job) -> None:
    if not (find_spec("pynetdicom") and find_spec("dicomweb_client")):
        raise InputError(
            "The node needs pynetdicom and dicomweb-client: install it with pip install 'xviewsynth[pacs]'."
        )
    from ..node.service import Node

    # Nobody else reads what is received.
    os.umask(0o077)
    Node(_settings(arguments), job.say, job.should_cancel).run()


def _settings(arguments: argparse.Namespace) -> Settings:
    host, port = arguments.listen
    return Settings(
        folder=arguments.folder.absolute(),
        title=arguments.aet,
        host=host,
        port=port,
        callers=tuple(arguments.allow),
        destination=arguments.to or arguments.to_web,
        source=arguments.from_web,
        tls=_tls(arguments),
        quiet_seconds=arguments.quiet_seconds,
        thicker_than=arguments.thicker_than,
        keep=arguments.keep,
        quota=arguments.quota * 10**9,
        page=arguments.page,
        request=request_of(arguments),
    )


def _tls(arguments: argparse.Namespace) -> Tls | None:
    files = [getattr(arguments, name) for name in _TLS]
    if not any(files):
        return None
    if not all(files):
        raise InputError("TLS needs all of --tls-cert, --tls-key and --tls-ca: give them together.")
    return Tls(*files)


def _status(arguments: argparse.Namespace, job: Job) -> None:
    from ..node.queue import read_summary
    from ..node.status import describe

    summary = read_summary(arguments.folder)
    job.say(json.dumps(summary, indent=2) if arguments.json else describe(summary))
