"""The command ``xviewsynth speed``."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from ..model.catalogue import STANDARD, load_model, model_folder
from ..model.ensemble import augmentations
from ..request import AUTOMATIC, COMPUTE
from .options import add_request_options, add_stop_option, request_of

if TYPE_CHECKING:
    from ..workers.job import Job


def register(commands: argparse._SubParsersAction) -> None:
    """Add `speed`."""
    parser = commands.add_parser(
        "speed",
        help="measure the speed of enhancing on this machine",
        description="Enhance a small piece, and print the seconds for each of its voxels as JSON. A scan takes this "
        "time for each voxel of all its slices but the last.",
    )
    add_request_options(parser, ("factor", "model", *COMPUTE))
    add_stop_option(parser)
    parser.set_defaults(run=_speed)


def _speed(arguments: argparse.Namespace, job: Job) -> None:
    request = request_of(arguments)
    name = STANDARD if request.model == AUTOMATIC else request.model
    model_folder(name)

    from ..inference.hardware import resolve_device, resolve_precision
    from ..inference.plan import check_known_factor, usual_network_factor
    from ..inference.trial import seconds_per_voxel

    device = resolve_device(request.device)
    precision = resolve_precision(request.precision, device)
    model = load_model(name).at_quality(request.quality)
    factor = request.factor or min(model.card["factors"])
    check_known_factor(model, factor)
    passes = len(augmentations(request.quality))
    job.stop_if_requested()
    measured = {
        "seconds_per_voxel": passes * seconds_per_voxel(model, usual_network_factor(model, factor), device, precision),
        "device": str(device),
        "precision": precision,
        "quality": request.quality,
        "factor": factor,
        "model": model.name,
    }
    job.say(json.dumps(measured))
