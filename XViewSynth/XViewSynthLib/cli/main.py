"""The command line ``xviewsynth``.

Each command is a function that takes the parsed arguments and a `Job`, in that order, and returns nothing or an exit
code. Other packages add commands through the entry point group ``xviewsynth.commands``: each entry point is a
function ``register(subparsers)`` that adds a parser of the entry point's name and sets its default ``run`` to such a
function. Their modules should import quickly, like this one; what is slow is imported by the function that needs it.
"""

from __future__ import annotations

import argparse
import atexit
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from .. import __version__
from ..batch.worker import FAILED, FORMATS
from ..errors import InputError
from ..model.catalogue import (
    AUTOMATIC,
    STANDARD,
    check_model,
    choose_model,
    export_model,
    import_model,
    list_models,
    load_model,
    model_card,
    model_folder,
    remove_model,
    unreadable_folder,
)
from ..model.ensemble import QUALITIES, STANDARD_QUALITY, poses
from ..progress import KINDS, Progress, describe_seconds, reporter
from ..system.outputs import Outputs
from ..system.stop import StopRequest, stop_signals, stop_with_parent
from ..system.streams import finish_printing, prepare_streams, print_line, quiet_libraries, visible
from ..workers.job import CANCELLED, Job, run

if TYPE_CHECKING:
    from ..geometry.volume import Volume
    from ..inference.enhancement import Enhanced
    from ..inference.plan import Plan
    from ..io.dicom.writing import Source
    from ..io.finding import FoundScan
    from ..model.catalogue import Model

PROGRAM = "xviewsynth"
COMMAND_GROUP = "xviewsynth.commands"

Register = Callable[["argparse._SubParsersAction"], None]


def main(argv: Sequence[str]) -> int:
    """Run one command inside another program and give its exit code: 0 done, 1 our defect, 2 wrong input, 3 cancelled.

    SIGINT and SIGTERM cancel the command. One that does not stop in time takes the process with it.
    """
    prepare_streams(is_program=False)
    with stop_signals(restore=True) as request:
        return _run(argv, request)


def run_program(request: StopRequest, *registers: Register) -> int:
    """Run the command that this process was started with and give its exit code, as `main` does.

    Args:
        request: whether a stop signal has arrived, since before this module was imported.
        registers: functions that add commands where no entry point does.
    """
    prepare_streams(is_program=True)
    codes: list[int] = []
    # Registered first, so it runs after what libraries do at exit.
    atexit.register(_leave_with, codes)
    code = _run(sys.argv[1:], request, registers)
    if code == CANCELLED:
        # All is tidied up and said. To take the libraries apart takes Python another second on a busy machine.
        os._exit(code)
    codes.append(code)
    return code


def _leave_with(codes: Sequence[int]) -> None:
    """End the process before Python gives stop signals their default meaning back, which would change the exit code."""
    if codes:
        with suppress(InputError):
            finish_printing()
        os._exit(codes[0])


def add_progress_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--progress``, which decides what `Job.progress` shows."""
    parser.add_argument(
        "--progress",
        choices=KINDS,
        default="bar",
        help="bar: on standard error; json: one object a line on standard output (default: %(default)s)",
    )


def add_stop_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--stop-with-parent``, for commands that another program starts and should not be survived by."""
    parser.add_argument(
        "--stop-with-parent",
        type=process_id,
        metavar="PID",
        help="cancel when standard input closes or that process ends",
    )


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``."""
    parser.add_argument(
        "--model",
        default=AUTOMATIC,
        metavar="NAME|FOLDER",
        help="what predicts the slices (default: the model that ships for the scan's acquisition)",
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda|cuda:1|mps", help="auto: a GPU if there is one"
    )


def add_links_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--follow-links``, for commands that look for scans in a folder."""
    parser.add_argument(
        "--follow-links", action="store_true", help="also use what links lead to that point out of the folder"
    )


def positive(unit: str) -> Callable[[str], float]:
    """An argument type: a finite number above 0 of the given unit."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            if 0 < float(text) < math.inf:
                return float(text)
        raise argparse.ArgumentTypeError(f"must be a number of {unit} above 0, not {text!r}")

    return parse


def factor(text: str) -> int:
    """An argument type: a whole number from 2 to 8."""
    if not re.fullmatch("[2-8]", text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 2 to 8, not {text!r}")
    return int(text)


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


def job_count(text: str) -> int:
    """An argument type: a whole number from 1."""
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _run(argv: Sequence[str], request: StopRequest, registers: Sequence[Register] = ()) -> int:
    def work() -> int | None:
        try:
            return _run_command(_parser(argv, registers).parse_args(argv), request)
        finally:
            finish_printing()

    return run(work, request)


def _run_command(arguments: argparse.Namespace, request: StopRequest) -> int | None:
    request.grace_seconds = getattr(arguments, "grace_seconds", request.grace_seconds)
    kind = getattr(arguments, "progress", "none")
    parent = getattr(arguments, "stop_with_parent", None)
    if parent is not None:
        stop_with_parent(request, parent)

    def say(text: str) -> None:
        print_line(text, to_errors=kind == "json")

    with reporter(kind) as progress:
        job = Job(say, progress, lambda: request.asked, request.last_step)
        job.stop_if_asked()
        return arguments.run(arguments, job)


class _Parser(argparse.ArgumentParser):
    """Tells errors as one sentence, and takes no shortened option, which could change its meaning one day."""

    def __init__(self, **settings: object):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}: see {self.prog} --help.")

    def _print_message(self, message: str, file: TextIO | None = None) -> None:
        # The original passes over what cannot be printed.
        print_line(message.removesuffix("\n"), to_errors=file is sys.stderr)


def _parser(argv: Sequence[str], registers: Sequence[Register] = ()) -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Thin CT slices from thick ones, by three mutually distilled views.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_enhance(commands)
    _add_batch(commands)
    _add_selfcheck(commands)
    _add_speed(commands)
    _add_scans(commands)
    _add_models(commands)
    _add_bench(commands)
    _add_thin(commands)
    for register in registers:
        register(commands)
    # Looking for other packages takes longer than our own commands should wait.
    if not (argv and argv[0] in commands.choices):
        for entry_point in sorted(entry_points(group=COMMAND_GROUP), key=lambda found: found.name):
            if entry_point.name not in commands.choices:
                entry_point.load()(commands)
    return parser


def _add_enhance(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "enhance",
        help="give a scan the slices it lacks",
        description="Give a scan the slices it lacks. Without --factor, --spacing or --isotropic: the smallest factor "
        "that brings the slices to 1.25 mm or less, at most 8.",
    )
    _add_scan(parser)
    parser.add_argument(
        "output", metavar="OUTPUT", type=Path, help="NRRD, NIfTI or MHA/MHD file; with --dicom a folder"
    )
    _add_goal(parser)
    add_model_option(parser)
    _add_work_options(parser)
    _add_thickness(parser)
    _add_thick_slices(parser)
    parser.add_argument(
        "--dicom",
        action="store_true",
        help="write a DICOM series of the same study, in which every image tells whether it is synthetic or observed: "
        "INPUT must be a DICOM series, and OUTPUT becomes a folder",
    )
    _add_texture(parser)
    parser.add_argument(
        "--doubt",
        type=Path,
        metavar="FILE",
        help="also write where to doubt the result, in HU: the error to expect, or where the model is not calibrated "
        "how far its views differ",
    )
    parser.add_argument("--disagreement", type=Path, metavar="FILE", help="also write how far the views differ, in HU")
    parser.add_argument(
        "--expected-error", type=Path, metavar="FILE", help="also write the absolute error to expect, in HU"
    )
    parser.add_argument(
        "--error-bound",
        type=Path,
        metavar="FILE",
        help="also write what 90 %% of the errors stay under, in HU",
    )
    _add_report(parser)
    add_progress_option(parser)
    add_stop_option(parser)
    parser.set_defaults(run=_enhance)


def _add_scan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input",
        metavar="INPUT",
        type=Path,
        help="NRRD, NIfTI, MHA/MHD, a folder of one DICOM series, or a DICOM file of the series that is meant",
    )
    parser.add_argument(
        "--again", action="store_true", help="take a DICOM series that XViewSynth made like any other scan"
    )


def _add_goal(parser: argparse.ArgumentParser) -> None:
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--factor", type=factor, metavar="N", help="how many times closer the slices get, 2 to 8")
    goal.add_argument("--spacing", type=positive("millimetres"), metavar="MM", help="the distance of slices to reach")
    goal.add_argument("--isotropic", action="store_true", help="bring the slices as close as the pixels in them")


def _add_work_options(parser: argparse.ArgumentParser) -> None:
    """What is in the scan, and where and with how much memory to work on it."""
    parser.add_argument("--axis", choices=("auto", "I", "J", "K"), default="auto", help="auto: the axis of the slices")
    parser.add_argument(
        "--acquisition",
        choices=("auto", "gap", "thick"),
        default="auto",
        help="thin slices far apart, or averages over thick ones (auto: as the model was trained, or what the "
        "thickness of the slices says)",
    )
    _add_device_options(parser)
    _add_quality_option(parser)
    parser.add_argument(
        "--memory", type=positive("gigabytes"), metavar="GB", help="the most memory to take (default: what is free)"
    )


def _add_thickness(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--thickness",
        type=positive("millimetres"),
        metavar="MM",
        help="of the slices (default: what the scan says, or else, of thick ones, their distance)",
    )


def _add_thick_slices(parser: argparse.ArgumentParser) -> None:
    """How slices that are thick average, and how thick the new ones in their place are to be."""
    parser.add_argument(
        "--profile",
        choices=("box", "gaussian"),
        default="box",
        help="how thick slices average: evenly, or fading out with the thickness as full width at half maximum "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--new-thickness",
        type=positive("millimetres"),
        metavar="MM",
        help="of the new slices, where those of the scan are thick (default: they touch)",
    )


def _add_texture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--texture",
        choices=("keep", "match"),
        default="keep",
        help="keep: new slices as predicted, nearest to the truth; match: with the noise of the observed ones, so that "
        "nothing flickers, at the cost of accuracy (default: %(default)s)",
    )


def _add_quality_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quality",
        choices=QUALITIES,
        default=STANDARD_QUALITY,
        help="best: the mean of what is answered for the scan, its mirror image and both turned, for some factors by "
        "larger networks; nearer to the truth, in four to five times the time (default: %(default)s)",
    )


def _add_device_options(parser: argparse.ArgumentParser) -> None:
    add_device_option(parser)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="also write what was done, as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def _enhance(arguments: argparse.Namespace, job: Job) -> None:
    with Outputs(arguments.overwrite, [arguments.input]) as outputs:
        add_output = _add_series_output if arguments.dicom else _add_volume_output
        output = add_output(outputs, arguments.output)
        maps = {
            name: path and _add_volume_output(outputs, path)
            for name, path in vars(arguments).items()
            if name in ("doubt", "disagreement", "expected_error", "error_bound")
        }
        report = arguments.report and _add_report_output(outputs, arguments.report)
        check_model(arguments.model)
        source = _open_source(arguments.input, job) if arguments.dicom else None

        scan = _read(arguments.input, job, arguments.again, _bytes(arguments.memory))

        from ..inference.enhancement import enhance
        from ..inference.plan import make_plan
        from ..io.writing import write_volume

        model = choose_model(scan, arguments.axis, arguments.model, arguments.acquisition, arguments.thickness)
        plan = make_plan(
            scan,
            model,
            factor=arguments.factor,
            spacing=arguments.spacing,
            isotropic=arguments.isotropic,
            axis=arguments.axis,
            acquisition=arguments.acquisition,
            thickness=arguments.thickness,
            profile=arguments.profile,
            new_thickness=arguments.new_thickness,
            device=arguments.device,
            precision=arguments.precision,
            quality=arguments.quality,
            memory=_bytes(arguments.memory),
        )
        if maps["expected_error"] or maps["error_bound"]:
            _check_calibrated(model, plan)
        job.say(_describe_plan(plan))
        enhanced = enhance(
            scan,
            model=model,
            plan=plan,
            texture=arguments.texture,
            progress=job.progress,
            should_cancel=job.should_cancel,
        )
        job.progress(Progress("writing", 0, 1))
        notes, seconds = enhanced.notes[len(plan.notes) :], enhanced.seconds
        if report:
            _write_json(report, describe_enhanced(str(arguments.input), str(arguments.output), scan, enhanced))
        if source:
            _write_series(enhanced, source, output, job)
        volumes = _volumes_to_write(enhanced, None if source else output, maps)
        # Each volume goes as soon as it is written: formats need memory of their own.
        del enhanced
        while volumes:
            job.stop_if_asked()
            make, path = volumes.pop(0)
            with quiet_libraries():
                write_volume(make(), path)
        job.last_step(outputs.commit)
        job.progress(Progress("writing", 1, 1, 0.0))
    for note in notes:
        job.say(note)
    job.say(f"Wrote {arguments.output} in {describe_seconds(seconds)}.")


def _volumes_to_write(
    enhanced: Enhanced, output: Path | None, maps: Mapping[str, Path | None]
) -> list[tuple[Callable[[], Volume | None], Path]]:
    """What gives each volume that is to be written, and where to; those that come from others last."""
    from ..inference.enhancement import error_bound

    expected = enhanced.expected_error
    volumes = {
        "disagreement": partial(_itself, enhanced.disagreement),
        "doubt": partial(_itself, enhanced.doubt),
        "expected_error": partial(_itself, expected),
        "error_bound": partial(error_bound, expected, enhanced.model, enhanced.plan),
    }
    wanted = [(volumes[name], maps[name]) for name in volumes if maps[name]]
    return [*([(partial(_itself, enhanced.volume), output)] if output else []), *wanted]


def _itself(volume: Volume) -> Volume:
    return volume


def _check_calibrated(model: Model, plan: Plan) -> None:
    from ..inference.uncertainty import Calibration

    if Calibration.from_card(model.card, plan.factor, plan.asked_factor) is None:
        raise InputError(
            f"Model {model.name} was not calibrated for a factor of {plan.factor}, so it knows no error in HU: write "
            "how far its views differ with --disagreement FILE, or choose another model."
        )


def _read(path: Path, job: Job, again: bool, memory: int | None) -> Volume:
    """The scan; `again` takes one that was made by this program like any other."""
    from ..io.reading import read_volume

    job.progress(Progress("reading", 0, 1))
    with quiet_libraries():
        scan = read_volume(path, memory=memory)
    job.progress(Progress("reading", 1, 1))
    job.stop_if_asked()
    return replace(scan, synthetic=False) if again else scan


def _add_volume_output(outputs: Outputs, path: Path) -> Path:
    from ..io.writing import check_writable_name

    check_writable_name(path)
    return outputs.add(path)


def _add_series_output(outputs: Outputs, path: Path) -> Path:
    from ..io.dicom.writing import FILE_PATTERN

    return outputs.add_folder(path, FILE_PATTERN)


def _open_source(path: Path, job: Job) -> Source:
    from ..io.dicom.writing import open_source

    source = open_source(path)
    job.stop_if_asked()
    return source


def _write_series(enhanced: Enhanced, source: Source, folder: Path, job: Job) -> None:
    from ..io.dicom.writing import write_files

    write_files(enhanced, source, folder, job.stop_if_asked)


def _add_report_output(outputs: Outputs, path: Path) -> Path:
    if path.suffix.lower() != ".json":
        raise InputError(f"{path} must end in .json: a report is a JSON file.")
    return outputs.add(path)


def _bytes(gigabytes: float | None) -> int | None:
    return None if gigabytes is None else round(gigabytes * 1e9)


def _write_json(path: Path, content: object) -> None:
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}. Choose another place for the report.") from error


def _describe_plan(plan: Plan) -> str:
    k, j, i = plan.output_shape
    spacing = " x ".join(f"{step:.3g}" for step in plan.output_spacing)
    lines = [
        f"Plan: {plan.factor} times the slices along {plan.axis}, to {i} x {j} x {k} voxels of {spacing} mm",
        f"      on {plan.device} ({plan.precision}), acquisition {plan.acquisition}, {plan.quality} quality, about "
        f"{describe_seconds(plan.expected_seconds)} and {plan.expected_peak_bytes / 1e9:.1f} GB",
    ]
    return "\n".join([*lines, *plan.notes])


def describe_enhanced(source: str, output: str, scan: Volume, enhanced: Enhanced) -> dict:
    """What was done to a scan, for a report in JSON that names the two files so."""
    from ..evaluation.selfcheck import geometry

    return {
        "program": f"{PROGRAM} {__version__}",
        "factor": enhanced.factor,
        "axis": enhanced.axis,
        "model": enhanced.model.name,
        "model_version": enhanced.model.card["version"],
        "model_sha256": enhanced.model.sha256,
        "acquisition": enhanced.acquisition,
        "device": enhanced.plan.device,
        "precision": enhanced.plan.precision,
        "quality": enhanced.plan.quality,
        "seconds": enhanced.seconds,
        "peak_memory_bytes": enhanced.peak_memory_bytes,
        "input": {"path": source, **geometry(scan)},
        "output": {"path": output, **geometry(enhanced.volume)},
        "synthetic_slices": enhanced.synthetic_slices,
        "texture": enhanced.texture,
        "doubt": "expected error" if enhanced.expected_error else "disagreement, not calibrated",
        "plan": enhanced.plan.to_dict(),
        "notes": enhanced.notes,
    }


def _add_batch(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "batch",
        help="enhance every scan below a folder",
        description="Enhance every scan below a folder that can be enhanced, and say of the others why not. OUT gets "
        "the same folders, with NAME.enhanced.nrrd, a thumbnail and a record for each scan, and summary.csv and "
        "summary.html for all. Exit code 4: some scans that qualify could not be enhanced.",
    )
    parser.add_argument("input", metavar="IN", type=Path, help="folder with scans, at any depth")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder for the results, made where missing")
    _add_goal(parser)
    add_model_option(parser)
    _add_work_options(parser)
    _add_thickness(parser)
    _add_thick_slices(parser)
    _add_texture(parser)
    parser.add_argument("--selfcheck", action="store_true", help="also measure how well slices of each are restored")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the results (default: %(default)s)")
    parser.add_argument("--jobs", type=job_count, metavar="N", help="how many scans at once (default: one a device)")
    parser.add_argument(
        "--dask",
        metavar="tcp://HOST:PORT",
        help="let the workers of this Dask scheduler do it; they see IN and OUT under the same names",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on: pass over what is done, redo what has changed since"
    )
    add_links_option(parser)
    add_progress_option(parser)
    add_stop_option(parser)
    # Time to end the processes and write the summary once more.
    parser.set_defaults(run=_batch, grace_seconds=1.0)


def _batch(arguments: argparse.Namespace, job: Job) -> int | None:
    from ..batch.run import SOME_FAILED, Settings, run_batch
    from ..batch.summary import PAGE, counts

    settings = Settings(
        factor=arguments.factor,
        spacing=arguments.spacing,
        isotropic=arguments.isotropic,
        axis=arguments.axis,
        model=arguments.model,
        acquisition=arguments.acquisition,
        thickness=arguments.thickness,
        profile=arguments.profile,
        new_thickness=arguments.new_thickness,
        device=arguments.device,
        precision=arguments.precision,
        quality=arguments.quality,
        texture=arguments.texture,
        selfcheck=arguments.selfcheck,
        format=arguments.format,
    )
    rows = run_batch(
        arguments.input,
        arguments.output,
        settings,
        jobs=arguments.jobs,
        memory=_bytes(arguments.memory),
        resume=arguments.resume,
        follow_links=arguments.follow_links,
        dask=arguments.dask,
        say=job.say,
        progress=job.progress,
        should_cancel=job.should_cancel,
    )
    job.say(f"{counts(rows, len(rows))} {arguments.output / PAGE} shows them.")
    return SOME_FAILED if any(row.status == FAILED for row in rows) else None


def _add_selfcheck(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "selfcheck",
        help="how well does it restore slices of this scan",
        description="Take slices away from a scan, restore them with the model and by interpolation, and compare.",
    )
    _add_scan(parser)
    parser.add_argument("--factor", type=factor, metavar="N", help="keep every N-th slice, 2 to 8 (default: 2)")
    add_model_option(parser)
    _add_work_options(parser)
    _add_thickness(parser)
    _add_report(parser)
    add_progress_option(parser)
    add_stop_option(parser)
    parser.set_defaults(run=_selfcheck)


def _selfcheck(arguments: argparse.Namespace, job: Job) -> None:
    with Outputs(arguments.overwrite, [arguments.input]) as outputs:
        report_file = arguments.report and _add_report_output(outputs, arguments.report)
        check_model(arguments.model)

        scan = _read(arguments.input, job, arguments.again, _bytes(arguments.memory))

        from ..evaluation.selfcheck import selfcheck

        report = selfcheck(
            scan,
            arguments.factor,
            axis=arguments.axis,
            model=arguments.model,
            acquisition=arguments.acquisition,
            thickness=arguments.thickness,
            device=arguments.device,
            precision=arguments.precision,
            quality=arguments.quality,
            memory=_bytes(arguments.memory),
            progress=job.progress,
            should_cancel=job.should_cancel,
        )
        if report_file:
            _write_json(report_file, {"program": f"{PROGRAM} {__version__}", **report})
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


def _add_speed(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "speed",
        help="how fast enhancing is on this machine",
        description="Enhance a small piece, and print the seconds taken for each of its voxels as JSON. A scan takes "
        "that long for each of its voxels, those of its last slice left out.",
    )
    parser.add_argument("--factor", type=factor, metavar="N", help="2 to 8 (default: the model's smallest)")
    add_model_option(parser)
    _add_device_options(parser)
    _add_quality_option(parser)
    add_stop_option(parser)
    parser.set_defaults(run=_speed)


def _speed(arguments: argparse.Namespace, job: Job) -> None:
    name = STANDARD if arguments.model == AUTOMATIC else arguments.model
    model_folder(name)

    from ..inference.hardware import resolve_device, resolve_precision
    from ..inference.plan import check_known_factor, seconds_per_voxel, usually_asked

    device = resolve_device(arguments.device)
    precision = resolve_precision(arguments.precision, device)
    model = load_model(name).at_quality(arguments.quality)
    factor = arguments.factor or min(model.card["factors"])
    check_known_factor(model, factor)
    passes = len(poses(arguments.quality))
    job.stop_if_asked()
    measured = {
        "seconds_per_voxel": passes * seconds_per_voxel(model, usually_asked(model, factor), device, precision),
        "device": str(device),
        "precision": precision,
        "quality": arguments.quality,
        "factor": factor,
        "model": model.name,
    }
    job.say(json.dumps(measured))


def _add_scans(commands: argparse._SubParsersAction) -> None:
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
    if scan.slices is not None:
        pixels = " x ".join(str(count) for count in scan.shape_ijk)
        about.append(f"{pixels} voxels, {scan.slices} slices {scan.slice_spacing_mm:.3g} mm apart")
    return ", ".join(about) + ("" if scan.usable else f"\n    cannot be used: {visible(scan.problem)}")


def _add_models(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("models", help="list, show, import, export or remove models")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    actions.add_parser("list", help="name all models").set_defaults(run=_list_models)
    show = actions.add_parser("show", help="print the card of a model as JSON")
    show.set_defaults(run=_show_model)
    import_ = actions.add_parser("import", help="add a model")
    import_.add_argument("file", metavar="FILE", type=Path, help="zip file of an exported model, or a model folder")
    import_.set_defaults(run=_import_model)
    export = actions.add_parser("export", help="write a model to a zip file")
    remove = actions.add_parser("remove", help="delete a model that was imported")
    remove.set_defaults(run=_remove_model)
    for action in (show, export, remove):
        action.add_argument("name", metavar="NAME")
    export.add_argument("file", metavar="FILE", type=Path)
    export.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    export.set_defaults(run=_export_model)


def _list_models(_arguments: argparse.Namespace, job: Job) -> None:
    entries = list_models()
    if not entries:
        job.say("No model is installed: add one with xviewsynth models import FILE.")
    for entry in entries:
        origin = "shipped" if entry.shipped else "imported"
        about = f"{entry.card['version']}  {entry.card['description']}" if entry.card else f"unusable: {entry.problem}"
        job.say(visible(f"{entry.name}  {origin}  {about}"))
    problem = unreadable_folder()
    if problem:
        print_line(problem, to_errors=True)


def _show_model(arguments: argparse.Namespace, job: Job) -> None:
    job.say(json.dumps(model_card(arguments.name), indent=2))


def _import_model(arguments: argparse.Namespace, job: Job) -> None:
    model = import_model(arguments.file, job.last_step)
    job.say(f"Imported {model.name} {model.card['version']}: use it with --model {model.name}.")


def _export_model(arguments: argparse.Namespace, job: Job) -> None:
    export_model(arguments.name, arguments.file, arguments.overwrite, job.last_step)
    job.say(f"Wrote {arguments.file}.")


def _remove_model(arguments: argparse.Namespace, job: Job) -> None:
    remove_model(arguments.name, job.last_step)
    job.say(f"Removed {arguments.name}.")


def _add_bench(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "bench",
        help="quality and speed against interpolation, on scans with thin slices",
        description="Thin scans out, restore them by every method, and write tables and a figure of what was gained.",
    )
    parser.add_argument("scans", metavar="SCAN", nargs="+", type=Path, help="a thin-slice scan no model was trained on")
    parser.add_argument(
        "--factor", type=factor, metavar="N", action="append", help="2 to 8; may be repeated (default: 2 and 4)"
    )
    parser.add_argument(
        "--model", metavar="NAME|FOLDER", action="append", help=f"may be repeated (default: {STANDARD})"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", required=True, help="where the tables and the figure go"
    )
    parser.add_argument(
        "--ablation", type=Path, metavar="FOLDER", help="also measure the models in its folders ARM/seedN"
    )
    parser.add_argument(
        "--peers",
        metavar="registration",
        action="append",
        default=[],
        help="also measure a slower method: interpolation between registered slices",
    )
    parser.add_argument(
        "--volume",
        type=named_path,
        metavar="NAME=FILE|FOLDER",
        action="append",
        default=[],
        help="also measure what another program made of the thinned scan (see xviewsynth thin), or of each, under the "
        "same names in a folder; may be repeated",
    )
    parser.add_argument(
        "--thickness",
        type=positive("millimetres"),
        metavar="MM",
        action="append",
        default=[],
        help="of the slices; once for each scan, in their order (default: what the scans say)",
    )
    _add_work_options(parser)
    add_progress_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    add_stop_option(parser)
    parser.set_defaults(run=_bench)


def _bench(arguments: argparse.Namespace, job: Job) -> None:
    models = arguments.model or [STANDARD]
    for model in models:
        model_folder(model)

    from ..evaluation.benchmark import run_bench, to_markdown

    report = run_bench(
        arguments.scans,
        arguments.factor or [2, 4],
        models,
        arguments.output,
        axis=arguments.axis,
        ablation=arguments.ablation,
        peers=arguments.peers,
        volumes=_by_name(arguments.volume),
        thicknesses=arguments.thickness,
        acquisition=arguments.acquisition,
        device=arguments.device,
        precision=arguments.precision,
        quality=arguments.quality,
        memory=_bytes(arguments.memory),
        overwrite=arguments.overwrite,
        progress=job.progress,
        should_cancel=job.should_cancel,
        last_step=job.last_step,
    )
    job.say(to_markdown(report))
    job.say(f"Wrote {arguments.output}.")


def _by_name(volumes: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    names = [name for name, _ in volumes]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Two volumes are called {name!r}: give every method a name, and one file or folder.")
    return dict(volumes)


def _add_thin(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "thin",
        help="write the thinned scans that bench gives every method, for other programs to restore",
        description="Drop all but every N-th slice of scans, as bench does, and write FOLDER/SCAN.xN.nrrd for each. "
        "What another program makes of them, under the same names in another folder, goes to "
        "bench --volume NAME=FOLDER.",
    )
    parser.add_argument("scans", metavar="SCAN", nargs="+", type=Path, help="a thin-slice scan")
    parser.add_argument(
        "--factor", type=factor, metavar="N", action="append", help="2 to 8; may be repeated (default: 2 and 4)"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", required=True, help="where the thinned scans go")
    parser.add_argument("--axis", choices=("auto", "I", "J", "K"), default="auto", help="auto: the axis of the slices")
    parser.add_argument(
        "--acquisition", choices=("gap", "thick"), default="gap", help="drop slices, or average them (default: gap)"
    )
    parser.add_argument("--format", default="nrrd", metavar="nrrd|nii.gz|nii|mha|mhd", help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_stop_option(parser)
    parser.set_defaults(run=_thin)


def _thin(arguments: argparse.Namespace, job: Job) -> None:
    from ..evaluation.peers import write_thinned

    paths = write_thinned(
        arguments.scans,
        arguments.factor or [2, 4],
        arguments.output,
        axis=arguments.axis,
        acquisition=arguments.acquisition,
        suffix=f".{arguments.format}",
        overwrite=arguments.overwrite,
        check=job.stop_if_asked,
        last_step=job.last_step,
    )
    for path in paths:
        job.say(f"Wrote {path}.")
