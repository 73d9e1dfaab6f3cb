"""The commands `xviewsynth train` and `xviewsynth ablate`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from XViewSynthLib.errors import InputError
from XViewSynthLib.workers.job import Job

#: Seconds for the last step and checkpoint after a stop request. A step with large blocks is slow on a slow machine.
_GRACE_SECONDS = 60.0


def register_train(subparsers: argparse._SubParsersAction) -> None:
    """Add `train`."""
    parser = subparsers.add_parser(
        "train",
        help="train or fine-tune a model on scans, without ground truth",
        description="Train the three views on scans by incremental cross-view mutual distillation. The run folder gets "
        "the settings, a log, events for TensorBoard, a checkpoint a minute, the best model so far, and at the end a "
        "report. Started by torchrun, several processes share every step.",
    )
    _add_scans(parser, "*")
    parser.add_argument("--output", required=True, type=Path, metavar="RUN_FOLDER")
    parser.add_argument(
        "--from", dest="start", metavar="MODEL", help="start from a model, by name or folder; auto: the shipped one"
    )
    parser.add_argument("--name", default="trained", help="name of the new model (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN_FOLDER, with its scans")
    _add_held_out(parser)
    parser.add_argument(
        "--factor",
        action="append",
        type=_whole,
        metavar="N",
        help="train only for this factor; may be repeated (default: 2 to 8)",
    )
    parser.add_argument(
        "--acquisition",
        choices=("gap", "thick"),
        help="learn to fill gaps between thin slices, or to separate averages over thick slices (default: as the "
        "model to start from, else gap)",
    )
    _add_method(parser)
    _add_common(parser)
    parser.set_defaults(run=_train, grace_seconds=_GRACE_SECONDS)


def _add_held_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hold-out",
        action="append",
        default=[],
        type=Path,
        metavar="SCAN",
        help="evaluate the model on this scan, and do not train on it; may be repeated",
    )
    parser.add_argument(
        "--hold-out-share",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="without --hold-out: the share of the scans, or of the slices of a single one, to evaluate on "
        "(default: %(default)s; 0 for none)",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=_whole, metavar="N", help="length of the run (default: 4000)")
    length.add_argument("--minutes", type=float, metavar="M", help="length of the run, measured at its beginning")
    parser.add_argument("--gamma", type=float, help="share of the smallest differences to distil (default: 0.25)")
    parser.add_argument("--no-cross-view", action="store_true", help="level 0 only")
    parser.add_argument("--no-incremental", action="store_true", help="levels 0 and 1 only")
    parser.add_argument("--distillation", type=float, metavar="WEIGHT", help="default: 0.15; 0 switches it off")
    parser.add_argument("--wavelet", type=float, metavar="WEIGHT", help="default: 0.1; 0 switches it off")
    parser.add_argument("--seed", type=int)


def register_ablate(subparsers: argparse._SubParsersAction) -> None:
    """Add `ablate`."""
    from XViewSynthLib.cli.options import factor

    parser = subparsers.add_parser(
        "ablate",
        help="train short runs that differ in one part of the method, and compare them",
        description="Train every arm of the ablation with every seed: level 0 alone (single views and "
        "their mean), plain distillation, selective distillation, and with the incremental level. With --validate, "
        "measure them as xviewsynth bench does. A run that is complete already is not trained again.",
    )
    _add_scans(parser, "+")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--validate", nargs="+", default=[], type=Path, metavar="SCAN", help="thin scans to measure on")
    parser.add_argument("--factor", action="append", type=factor, metavar="N", help="to measure at (default: 2 and 4)")
    parser.add_argument("--from", dest="start", metavar="MODEL", help="start every run from a model, not from scratch")
    parser.add_argument("--center", type=_whole, metavar="PIXELS", help="measure on the middle of every slice alone")
    parser.add_argument("--steps", type=_whole, default=300, metavar="N", help="of every run (default: %(default)s)")
    parser.add_argument("--seeds", type=_whole, default=3, metavar="N", help="runs an arm (default: %(default)s)")
    _add_common(parser)
    parser.set_defaults(run=_ablate, grace_seconds=_GRACE_SECONDS)


def _add_scans(parser: argparse.ArgumentParser, count: str) -> None:
    parser.add_argument("scans", nargs=count, type=Path, metavar="SCAN", help="NRRD, NIfTI, MHA/MHD or a DICOM folder")


def _add_common(parser: argparse.ArgumentParser) -> None:
    from XViewSynthLib.cli.options import add_device_option, add_links_option, add_progress_option, add_stop_option

    add_links_option(parser)
    parser.add_argument("--settings", type=Path, metavar="FILE.json", help="any other setting of TrainingConfig")
    add_device_option(parser)
    add_progress_option(parser)
    add_stop_option(parser)


def _train(arguments: argparse.Namespace, job: Job) -> None:
    from .files import MODEL_FOLDER, REPORT_PAGE
    from .runs import train
    from .training_set import TrainingSet

    if arguments.resume and arguments.scans:
        raise InputError("Leave the scans out with --resume: the run uses its own.")
    _check_links(arguments, [*arguments.scans, *arguments.hold_out])
    given = (arguments.scans, arguments.hold_out, arguments.hold_out_share, arguments.start, arguments.name)
    report = train(
        None if arguments.resume else TrainingSet(*given),
        arguments.output,
        _settings(arguments),
        minutes=arguments.minutes,
        device=arguments.device,
        progress=job.progress,
        should_cancel=job.should_cancel,
    )
    if report:
        for note in report["notes"]:
            job.say(note)
        job.say(report["message"])
        job.say(f"Use it with --model {arguments.output / MODEL_FOLDER}; more in {arguments.output / REPORT_PAGE}.")


def _ablate(arguments: argparse.Namespace, job: Job) -> None:
    from .ablation import Ablation, ablate

    factors = arguments.factor or [2, 4]
    _check_links(arguments, [*arguments.scans, *arguments.validate])
    table = ablate(
        Ablation(
            arguments.scans,
            _settings(arguments),
            arguments.seeds,
            arguments.start,
            arguments.validate,
            factors,
            arguments.center,
        ),
        arguments.output,
        device=arguments.device,
        progress=job.progress,
        should_cancel=job.should_cancel,
    )
    job.say(table or f"Trained all arms below {arguments.output}; measure them with xviewsynth bench --ablation.")


def _check_links(arguments: argparse.Namespace, scans: Sequence[Path]) -> None:
    from XViewSynthLib.io.finding import check_own_files

    for scan in scans:
        if os.path.isdir(scan) and not arguments.follow_links:
            check_own_files(scan)


def _settings(arguments: argparse.Namespace) -> dict:
    """The user's settings, as values of `TrainingConfig`."""
    settings = {} if arguments.settings is None else _read_settings(arguments.settings)
    given = vars(arguments)
    settings |= {name: given[name] for name in ("steps", "gamma", "seed", "acquisition") if given.get(name) is not None}
    if given.get("no_cross_view"):
        settings["cross_view_from"] = 1.0
    if given.get("no_incremental"):
        settings["incremental_from"] = 1.0
    if given.get("factor") and given["run"] is _train:
        settings["factor_shares"] = dict.fromkeys(given["factor"], 1.0)
    weights = {name: given[name] for name in ("distillation", "wavelet") if given.get(name) is not None}
    if weights:
        former = settings.get("weights", {})
        settings["weights"] = former | weights if isinstance(former, dict) else former
    return settings


def _read_settings(path: Path) -> dict:
    from .stored_json import read_object, reason

    try:
        return read_object(path)
    except (OSError, ValueError) as problem:
        raise InputError(
            f"Check --settings: {path} cannot be read as JSON with an object of named settings ({reason(problem)})."
        ) from problem


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return number
