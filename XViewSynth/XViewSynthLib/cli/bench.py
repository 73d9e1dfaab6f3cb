"""The commands ``xviewsynth bench`` and ``xviewsynth thin``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.catalogue import STANDARD, model_folder
from ..request import BENCHMARK
from .options import (
    add_progress_option,
    add_request_options,
    add_stop_option,
    by_name,
    factor,
    millimetres,
    named_path,
    request_of,
)

if TYPE_CHECKING:
    from ..workers.job import Job


def register(commands: argparse._SubParsersAction) -> None:
    """Add `bench` and `thin`."""
    _add_bench(commands)
    _add_thin(commands)


def _add_bench(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "bench",
        help="quality and speed against interpolation, on scans with thin slices",
        description="Thin scans, restore them by every method, and write tables and a figure of the gains.",
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
    _add_methods(parser)
    parser.add_argument(
        "--thickness",
        type=millimetres,
        metavar="MM",
        action="append",
        default=[],
        help="of the slices; once for each scan, in their order (default: as the scans state)",
    )
    add_request_options(parser, BENCHMARK)
    add_progress_option(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    add_stop_option(parser)
    parser.set_defaults(run=_bench)


def _add_methods(parser: argparse.ArgumentParser) -> None:
    """Add the options for further methods, and for what is measured of all."""
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
        help="also measure the result of another program for the thinned scan (see xviewsynth thin), or a folder with "
        "results of the same names; may be repeated",
    )
    parser.add_argument(
        "--measure",
        metavar="noise-floor|structures|lesions|invented|all",
        action="append",
        default=[],
        help="also measure clinical evidence: error above the noise floor, agreement of segmented structures, recovery "
        "of simulated lesions, or invented and missed structure; may be repeated",
    )


def _bench(arguments: argparse.Namespace, job: Job) -> None:
    models = arguments.model or [STANDARD]
    for model in models:
        model_folder(model)

    from ..evaluation.benchmark import Benchmark, run_bench
    from ..evaluation.tables import to_markdown

    report = run_bench(
        Benchmark(
            arguments.scans,
            arguments.factor or [2, 4],
            models,
            ablation=arguments.ablation,
            peers=arguments.peers,
            volumes=by_name(arguments.volume),
            thicknesses=arguments.thickness,
            measures=arguments.measure,
        ),
        arguments.output,
        request=request_of(arguments, BENCHMARK),
        overwrite=arguments.overwrite,
        progress=job.progress,
        should_cancel=job.should_cancel,
        last_step=job.last_step,
    )
    job.say(to_markdown(report))
    job.say(f"Wrote {arguments.output}.")


def _add_thin(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "thin",
        help="write the thinned scans of bench, to restore them with other programs",
        description="Drop all but every N-th slice of scans, as bench does, and write FOLDER/SCAN.xN.nrrd for each. "
        "Results of another program, under the same names in another folder, can be measured with "
        "bench --volume NAME=FOLDER.",
    )
    parser.add_argument("scans", metavar="SCAN", nargs="+", type=Path, help="a thin-slice scan")
    parser.add_argument(
        "--factor", type=factor, metavar="N", action="append", help="2 to 8; may be repeated (default: 2 and 4)"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", required=True, help="where the thinned scans go")
    add_request_options(parser, ("axis",))
    parser.add_argument(
        "--acquisition", choices=("gap", "thick"), default="gap", help="drop slices, or average them (default: gap)"
    )
    parser.add_argument("--format", default="nrrd", metavar="nrrd|nii.gz|nii|mha|mhd", help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_stop_option(parser)
    parser.set_defaults(run=_thin)


def _thin(arguments: argparse.Namespace, job: Job) -> None:
    from ..evaluation.peers import write_thinned
    from ..evaluation.selfcheck import Thinning

    paths = write_thinned(
        arguments.scans,
        Thinning(arguments.factor or [2, 4], arguments.axis, arguments.acquisition),
        arguments.output,
        suffix=f".{arguments.format}",
        overwrite=arguments.overwrite,
        check=job.stop_if_requested,
        last_step=job.last_step,
    )
    for path in paths:
        job.say(f"Wrote {path}.")
