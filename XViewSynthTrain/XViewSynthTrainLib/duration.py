"""How many steps, and how many voxels of an evaluation, fit into a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

from torch import Tensor

from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.progress import UNWATCHED, Monitor
from XViewSynthLib.system.staging import staging_folder

from .config import MOST_STEPS, TrainingConfig
from .heldout import VERDICT_VOXELS, WATCHED_VOXELS
from .team import Team
from .trainer import Trainer

#: Largest share of a run's time for all its evaluations, and for the final one.
EVALUATION_SHARE = 0.2
#: Largest share of a run's time for measuring the length of a step.
_MEASURING_SHARE = 0.1


def affordable_voxels(seconds: float, evaluation: float) -> int:
    """Held-out voxels that can be evaluated twice, before and after, in a run's share of time for that.

    Args:
        seconds: requested length of the run.
        evaluation: seconds that evaluating `WATCHED_VOXELS` takes.
    """
    affordable = WATCHED_VOXELS * EVALUATION_SHARE * seconds / max(2 * evaluation, 1e-6)
    return int(min(max(affordable, WATCHED_VOXELS), VERDICT_VOXELS))


def steps_within(
    seconds: float,
    volumes: Sequence[Volume],
    config: TrainingConfig,
    device: str,
    start: dict[str, Tensor] | None = None,
    monitor: Monitor = UNWATCHED,
) -> int:
    """Number of steps that fit into a time, estimated with a few steps of each stage (which are discarded).

    At least one step of each stage is run, and no further one begins after a tenth of the time.

    Raises:
        InputError: there is no space for temporary files.
        Cancelled: a stop was requested.
    """
    stages = {stage: share for stage, share in _stage_shares(config).items() if share}
    mean = 0.0
    for (cross_view_from, incremental_from), share in stages.items():
        monitor.check()
        stage = replace(config, steps=4, cross_view_from=cross_view_from, incremental_from=incremental_from)
        with _temporary_folder() as folder:
            trainer = Trainer(volumes, stage, folder / "measured", start=start, team=Team(device=device))
            mean += share * _seconds_of_step(trainer, _MEASURING_SHARE * seconds / len(stages), monitor.check)
    return max(1, int(min(seconds / mean, MOST_STEPS)))


def _seconds_of_step(trainer: Trainer, seconds: float, check: Callable[[], None]) -> float:
    """Mean time of a step, of as many as begin within `seconds`, and at least of one."""
    began = time.perf_counter()

    def should_end() -> bool:
        check()
        return trainer.step > 0 and time.perf_counter() - began > seconds

    # Either the time is over, or the user wants to stop.
    with suppress(Cancelled):
        trainer.run(Monitor(None, should_end))
    check()
    return (time.perf_counter() - began) / trainer.step


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(staging_folder(Path(gettempdir())))
        except OSError as problem:
            raise InputError(
                f"Make room for temporary files, or set TMPDIR to another folder: {problem.strerror or problem}."
            ) from problem
        yield folder


def _stage_shares(config: TrainingConfig) -> dict[tuple[float, float], float]:
    """Share of the run in level 0, in level 1, and beyond, by the settings that put a whole run there."""
    cross_view = min(config.cross_view_from, 1.0)
    incremental = max(cross_view, min(config.incremental_from, 1.0))
    return {(1.0, 1.0): cross_view, (0.0, 1.0): incremental - cross_view, (0.0, 0.0): 1 - incremental}
