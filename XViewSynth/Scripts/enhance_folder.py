"""Enhance every study below a folder, without a window:

    Slicer --no-main-window --python-script XViewSynth/Scripts/enhance_folder.py INPUT OUTPUT [--factor 4] [--resume]

A study is a folder with DICOM files, or an NRRD, NIfTI, MHA or MHD file. OUTPUT gets the same folders, with an NRRD
file and a report (JSON) for each study, and summary.csv with a line for each. Every study has a process of its own, so
that one that cannot be enhanced stops no other.

Exit codes: 0 every study is enhanced, 2 the arguments are wrong or no study was found, 3 cancelled, 4 some studies are
not enhanced, and the summary says why.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

MODULE_FOLDER = Path(__file__).resolve().parents[1]
if str(MODULE_FOLDER) not in sys.path:
    sys.path.insert(0, str(MODULE_FOLDER))

ALL_ENHANCED, WRONG_ARGUMENTS, CANCELLED, SOME_NOT = 0, 2, 3, 4
SUMMARY = "summary.csv"
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Study:
    """A scan to enhance, and where its result goes.

    Attributes:
        name: path below the input folder.
        source: file, or folder of DICOM files.
        output: NRRD file.
        report: JSON file.
    """

    name: str
    source: Path
    output: Path
    report: Path


@dataclass(frozen=True)
class Line:
    """What the summary says of a study; empty where nothing is known.

    Attributes:
        status: "enhanced", "enhanced before", "refused" (the scan is unsuitable) or "failed".
        spacing_before, spacing_after: of the slices, mm.
    """

    study: str
    status: str
    output: str = ""
    factor: str = ""
    axis: str = ""
    spacing_before: str = ""
    spacing_after: str = ""
    slices: str = ""
    model: str = ""
    seconds: str = ""
    message: str = ""


def main(arguments: Sequence[str]) -> int:
    """Enhance what the arguments name, and give the exit code."""
    from XViewSynthLib.errors import InputError
    from XViewSynthLib.system.streams import print_line, visible

    try:
        options = _parser().parse_args(arguments)
        studies = find_studies(options.input, options.output, options.follow_links, print_line)
        options.output.mkdir(parents=True, exist_ok=True)
    except SystemExit as end:  # argparse, which has said why
        return end.code or ALL_ENHANCED
    except (InputError, OSError) as problem:
        print_line(f"error: {problem}", to_errors=True)
        return WRONG_ARGUMENTS
    lines: list[Line] = []
    with _stop_signals() as asked_to_stop:
        for number, study in enumerate(studies, start=1):
            print_line(f"{number} of {len(studies)}: {visible(study.name)}")
            try:
                line = enhance_study(study, options, asked_to_stop)
            except OSError as problem:
                line = Line(study.name, "failed", message=f"Its output cannot be written ({problem.strerror}).")
            if line is None:
                print_line(f"Cancelled; what was done is in {options.output / SUMMARY}.", to_errors=True)
                return CANCELLED
            print_line(f"  {line.status}{': ' if line.message else ''}{visible(line.message)}")
            lines.append(line)
            try:
                write_summary(options.output / SUMMARY, lines)
            except OSError as problem:
                print_line(
                    f"error: {options.output / SUMMARY} cannot be written ({problem.strerror}): make room, close it "
                    "elsewhere, then add --resume.",
                    to_errors=True,
                )
                return WRONG_ARGUMENTS
    done = [line for line in lines if line.status.startswith("enhanced")]
    print_line(f"{len(done)} of {len(lines)} studies are enhanced; {options.output / SUMMARY} lists them.")
    return ALL_ENHANCED if len(done) == len(lines) else SOME_NOT


def find_studies(
    input_folder: Path,
    output_folder: Path,
    follow_links: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[Study]:
    """All studies below a folder, sorted by name; what lies in the output folder is none.

    Args:
        input_folder: folder with the studies.
        output_folder: where the results go.
        follow_links, say: as for `scan_paths`.

    Raises:
        InputError: there is no such folder, or no study in it.
    """
    from XViewSynthLib.errors import InputError
    from XViewSynthLib.io.finding import scan_paths
    from XViewSynthLib.io.reading import READABLE, suffix_of
    from XViewSynthLib.system.names import portable_name, portable_path

    if not os.path.isdir(input_folder):
        raise InputError(f"{input_folder} is no folder: name the folder that holds the studies.")
    results = Path(os.path.realpath(output_folder))
    studies = []
    for source, _ in scan_paths(input_folder, follow_links=follow_links, leave_out=output_folder, say=say):
        name = source.relative_to(input_folder).as_posix()
        below = source.parent.relative_to(input_folder).as_posix() if source != input_folder else "."
        whole = os.path.basename(os.path.realpath(source)) if source == input_folder else source.name
        stem = whole[: -len(suffix_of(source))] if suffix_of(source) in READABLE and not source.is_dir() else whole
        target = results / portable_path(below) / portable_name(stem, " enhanced.nrrd")
        studies.append(Study(name, source, target, target.with_suffix(".json")))
    if not studies:
        raise InputError(f"{input_folder} holds no study: name a folder with DICOM, NRRD, NIfTI, MHA or MHD files.")
    return _with_targets_of_their_own(sorted(studies, key=lambda study: study.name))


def enhance_study(study: Study, options: argparse.Namespace, asked_to_stop: list[int]) -> Line | None:
    """Enhance one study in a process of its own, and say how that went; None where the user stopped it."""
    from XViewSynthScene.processes import start_worker

    if options.resume and study.output.is_file() and (line := _line(study, "enhanced before")):
        return line
    study.output.parent.mkdir(parents=True, exist_ok=True)
    command = ["enhance", os.path.abspath(study.source), str(study.output), "--report", str(study.report)]
    command += [*_engine_options(options), "--progress", "json"]
    with tempfile.TemporaryDirectory(prefix="XViewSynth-") as folder:
        worker = start_worker(command, Path(folder) / "log.txt")
        while not worker.finished:
            worker.poll()
            if asked_to_stop:
                worker.request_stop()
            _process_events()
            time.sleep(POLL_SECONDS)
        log = worker.log_tail().splitlines()
    if asked_to_stop:
        return None
    if worker.exit_code == 0 and (line := _line(study, "enhanced")):
        return line
    told = [line.removeprefix("error: ") for line in log if line.startswith("error: ")]
    if worker.exit_code == 2 and told:
        return Line(study.name, "refused", message=told[-1])
    return Line(study.name, "failed", message=told[-1] if told else f"The process ended with {worker.exit_code}.")


def write_summary(path: Path, lines: Sequence[Line]) -> None:
    """Write the summary so that it is whole at any moment."""
    from XViewSynthLib.batch.summary import cell

    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Line)])
        table.writeheader()
        table.writerows({name: cell(value) for name, value in asdict(line).items()} for line in lines)
    os.replace(partial, path)


def _parser() -> argparse.ArgumentParser:
    from XViewSynthLib.cli.main import add_links_option, factor, positive
    from XViewSynthLib.model.ensemble import QUALITIES

    parser = argparse.ArgumentParser(
        prog="enhance_folder.py", description="Enhance every study below a folder.", allow_abbrev=False
    )
    parser.add_argument("input", type=Path, metavar="INPUT", help="folder with the studies, at any depth")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for results and summary.csv")
    parser.add_argument("--resume", action="store_true", help="pass over studies that are enhanced already")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")
    add_links_option(parser)
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--factor", type=factor, metavar="N", help="how many times closer the slices get, 2 to 8")
    goal.add_argument("--spacing", type=positive("millimetres"), metavar="MM", help="the distance of slices to reach")
    goal.add_argument("--isotropic", action="store_true", help="bring the slices as close as the pixels in them")
    parser.add_argument(
        "--thickness", type=positive("millimetres"), metavar="MM", help="of the slices (default: what each scan says)"
    )
    parser.add_argument(
        "--new-thickness", type=positive("millimetres"), metavar="MM", help="of new slices in place of thick ones"
    )
    parser.add_argument("--model", metavar="NAME|FOLDER", help="what predicts the slices")
    parser.add_argument("--device", metavar="auto|cpu|cuda|cuda:1|mps", help="where to compute")
    parser.add_argument(
        "--quality", choices=QUALITIES, help="best is nearer to the truth and takes 4 to 5 times as long"
    )
    parser.add_argument("--memory", type=positive("gigabytes"), metavar="GB", help="the most memory to take")
    return parser


def _engine_options(options: argparse.Namespace) -> list[str]:
    """The options that go to the engine as they are."""
    given = []
    for name in ("factor", "spacing", "thickness", "new-thickness", "model", "device", "quality", "memory"):
        value = getattr(options, name.replace("-", "_"))
        if value is not None:
            # The worker has another working folder.
            is_folder = name == "model" and os.path.dirname(value)
            given += [f"--{name}", os.path.abspath(value) if is_folder else str(value)]
    given += ["--isotropic"] if options.isotropic else []
    return [*given, "--overwrite"] if options.overwrite else given


def _with_targets_of_their_own(studies: list[Study]) -> list[Study]:
    """The same studies; where two would share a result (chest.nrrd beside chest.mha), both keep their whole name."""
    from XViewSynthLib.system.names import portable_name

    taken = Counter(study.output for study in studies)
    renamed = []
    for study in studies:
        if taken[study.output] > 1:
            output = study.output.with_name(portable_name(study.source.name, " enhanced.nrrd"))
            study = Study(study.name, study.source, output, output.with_suffix(".json"))
        renamed.append(study)
    return renamed


def _line(study: Study, status: str) -> Line | None:
    """What the report of a study says, or None where there is none that can be read."""
    from XViewSynthLib.batch.records import facts_of, read_json

    try:
        report = read_json(study.report)
        facts = facts_of(report, None, report["seconds"])
        return Line(
            study=study.name,
            status=status,
            output=str(study.output),
            factor=str(facts["factor"]),
            axis=facts["axis"],
            spacing_before=f"{facts['spacing_before_mm']:.4g}",
            spacing_after=f"{facts['spacing_after_mm']:.4g}",
            slices=str(facts["slices"]),
            model=str(report["model"]),
            seconds=f"{facts['seconds']:.1f}",
            message=facts["message"],
        )
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return None


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Give a list that is empty until a signal asks this program to stop."""
    asked: list[int] = []
    former = {number: signal.signal(number, lambda *_: asked.append(1)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in former.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _process_events() -> None:
    # Slicer counts as hung when it does not answer for long.
    app = getattr(sys.modules.get("slicer"), "app", None)
    if app is not None:
        app.processEvents()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if hasattr(sys.modules.get("slicer"), "app"):
        # Slicer would stay open.
        sys.modules["slicer"].util.exit(code)
    else:
        sys.exit(code)
