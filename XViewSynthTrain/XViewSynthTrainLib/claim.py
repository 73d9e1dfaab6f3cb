"""A run's claim to its folder, on behalf of all processes that train together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from XViewSynthLib.errors import InputError
from XViewSynthLib.system.staging import output_folder, remove_left_folders

from .files import CHECKPOINT_FILE, CONFIG_FILE, PREVIEW_FOLDER, SCANS_FILE
from .lock import refuse_locked_run, run_lock
from .team import Team
from .trainer import refuse_existing_run


@contextmanager
def claimed(folder: Path, resume: bool, team: Team) -> Iterator[None]:
    """Lock a run's folder. The leader holds the lock for its team, and a refusal ends all processes."""
    with ExitStack() as held:
        refusal = None
        if team.leads:
            try:
                held.enter_context(_held(folder, resume))
            except InputError as problem:
                refusal = problem
        if team.any(refusal is not None):
            raise refusal or InputError("The leading process cannot use the run's folder: see its message.")
        yield


@contextmanager
def _held(folder: Path, resume: bool) -> Iterator[None]:
    if resume:
        with run_lock(folder):
            _clear_up(folder)
            yield
        return
    # Before the check for an existing run: a running one cannot be resumed yet, so this message is more helpful.
    refuse_locked_run(folder)
    refuse_existing_run(folder)
    with output_folder(folder, parents=True), run_lock(folder):
        # Another process may have begun a run since the first check.
        refuse_existing_run(folder)
        _clear_up(folder)
        try:
            yield
        finally:
            # A run that did not begin leaves nothing.
            if not (folder / CONFIG_FILE).exists():
                for name in (SCANS_FILE, CHECKPOINT_FILE):
                    (folder / name).unlink(missing_ok=True)


def _clear_up(folder: Path) -> None:
    """Remove incomplete files of killed processes. The caller holds the lock."""
    for place in (folder, folder / PREVIEW_FOLDER):
        remove_left_folders(place, all_computers=True)
