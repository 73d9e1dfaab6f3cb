"""Options that several commands share, and types of arguments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..progress import KINDS
from ..request import DEFAULTS, OPTIONS, Choice, Option, Request, option_name


def add_request_options(parser: argparse.ArgumentParser, names: Iterable[str] = tuple(OPTIONS)) -> None:
    """Add the options of fields of `Request`."""
    options = {name: OPTIONS[name] for name in names}
    has_target = any(option.is_target for option in options.values())
    targets = parser.add_mutually_exclusive_group() if has_target else parser
    for name, option in options.items():
        add = (targets if option.is_target else parser).add_argument
        if option.kind is bool:
            add(option_name(name), action="store_true", help=option.help)
        elif issubclass(option.kind, Choice):
            add(
                option_name(name),
                choices=[choice.value for choice in option.kind],
                default=DEFAULTS[name],
                help=option.help,
            )
        else:
            add(
                option_name(name),
                type=argument_type(option),
                default=DEFAULTS[name],
                metavar=option.metavar,
                help=option.help,
            )


def request_of(arguments: argparse.Namespace, names: Iterable[str] = tuple(OPTIONS)) -> Request:
    """The request from arguments with the options of some fields."""
    values = {name: getattr(arguments, name, None) for name in names}
    return Request(**{name: value for name, value in values.items() if value is not None})


def argument_type(option: Option) -> Callable[[str], Any]:
    """An argument type: a value of a field of `Request`."""

    def parse(text: str) -> Any:
        try:
            return option.parsed(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be {option.requirement}, not {text!r}") from error

    return parse


def add_progress_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--progress``, which selects the reporter of `Job.progress`."""
    parser.add_argument(
        "--progress",
        choices=KINDS,
        default="bar",
        help="bar: on standard error; json: one object a line on standard output (default: %(default)s)",
    )


def add_stop_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--stop-with-parent``, for commands that must not outlive the program that started them."""
    parser.add_argument(
        "--stop-with-parent",
        type=process_id,
        metavar="PID",
        help="cancel when standard input closes or that process ends",
    )


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``."""
    add_request_options(parser, ("model",))


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    add_request_options(parser, ("device",))


def add_links_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--follow-links``, for commands that look for scans in a folder."""
    parser.add_argument("--follow-links", action="store_true", help="also follow links that lead out of the folder")


def add_scan_argument(parser: argparse.ArgumentParser) -> None:
    """Add INPUT and ``--again``."""
    parser.add_argument(
        "input",
        metavar="INPUT",
        type=Path,
        help="NRRD, NIfTI, MHA/MHD, a folder of one DICOM series, or one DICOM file of the series",
    )
    parser.add_argument("--again", action="store_true", help="accept a DICOM series that XViewSynth made")


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--report`` and ``--overwrite``."""
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="also write a report, as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


#: Argument types: a factor, and a number of millimetres.
factor = argument_type(OPTIONS["factor"])
millimetres = argument_type(OPTIONS["thickness"])


def process_id(text: str) -> int:
    """An argument type: the number of a process."""
    if not re.fullmatch("[1-9][0-9]{0,9}", text):
        raise argparse.ArgumentTypeError(f"must be the number of a process, not {text!r}")
    return int(text)


def named_path(text: str) -> tuple[str, Path]:
    """An argument type: NAME=FILE or NAME=FOLDER."""
    name, _, path = text.partition("=")
    if not (re.fullmatch(r"\w[\w .+()-]{0,39}", name) and path):
        raise argparse.ArgumentTypeError(
            f"must be a name of letters, digits, blanks and . + ( ) -, an = and a file or folder, not {text!r}"
        )
    return name, Path(path)


def by_name(volumes: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """The volumes of several `named_path` by their names.

    Raises:
        InputError: two have one name.
    """
    paths: dict[str, Path] = {}
    for name, path in volumes:
        if name in paths:
            raise InputError(f"Two volumes are called {name!r}: give every method a name, and one file or folder.")
        paths[name] = path
    return paths


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """An argument type: a whole number within limits, both included."""
    return argument_type(Option(int, "", lowest=lowest, highest=highest))


def job_count(text: str) -> int:
    """An argument type: a whole number from 1."""
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)
