"""The command ``xviewsynth models``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.catalogue import export_model, import_model, list_models, model_card, remove_model, unreadable_folder
from ..system.streams import print_line, visible

if TYPE_CHECKING:
    from ..workers.job import Job


def register(commands: argparse._SubParsersAction) -> None:
    """Add `models`."""
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
