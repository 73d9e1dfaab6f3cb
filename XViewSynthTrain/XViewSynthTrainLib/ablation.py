"""What each part of the method brings: short runs from scratch that differ in that part alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from XViewSynthLib.bench import run_bench, to_markdown
from XViewSynthLib.hardware import resolve_device
from XViewSynthLib.models import WEIGHTS_FILE, save_model
from XViewSynthLib.progress import Progress
from XViewSynthLib.reading import read_volume

from .checkpoints import NAME
from .config import TrainingConfig
from .runs import make_card
from .trainer import Trainer

#: Settings of each arm. All arms of a seed see the same blocks in the same order; level 0 gives the single views and
#: their mean without distillation.
ARMS = {
    "level0": {"cross_view_from": 1.0, "incremental_from": 1.0},
    "plain": {"incremental_from": 1.0, "gamma": 1.0},
    "selective": {"incremental_from": 1.0},
    "incremental": {},
}


def ablate(
    scans: Sequence[Path],
    folder: Path,
    settings: dict,
    *,
    seeds: int = 3,
    validate: Sequence[Path] = (),
    factors: Sequence[int] = (2, 4),
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> str | None:
    """Train every arm with every seed, and measure them.

    Writes the model folders <arm>/seed<k> below `folder`, their runs below `folder`/runs, and with `validate` the
    tables of `run_bench`. Models that are there already are kept, and a run that was stopped goes on.

    Returns:
        The tables as Markdown, or None without `validate`.
    """
    folder = Path(folder)
    where = str(resolve_device(device))
    volumes = [read_volume(scan) for scan in scans]
    arms = [(arm, seed) for seed in range(seeds) for arm in ARMS]
    for done, (arm, seed) in enumerate(arms):
        model = folder / arm / f"seed{seed}"
        if (model / WEIGHTS_FILE).exists():
            continue
        config = replace(TrainingConfig.from_dict({**settings, **ARMS[arm]}), seed=seed)
        run = folder / "runs" / f"{arm}-seed{seed}"
        trainer = Trainer(volumes, config, run, device=where, resume=(run / NAME).exists())
        network = trainer.run(_counted(progress, f"{arm} seed {seed}", done, len(arms)), should_cancel)
        data = [{"name": scan.stem, "license": "the user's own"} for scan in map(Path, scans)]
        save_model(model, network, make_card(f"{arm}-seed{seed}", config, data))
    if not validate:
        return None
    tables = folder / "tables"
    report = run_bench(
        validate, factors, [], tables, ablation=folder, device=device, overwrite=True, progress=progress,
        should_cancel=should_cancel,
    )  # fmt: skip
    return to_markdown(report)


def _counted(progress: Callable | None, arm: str, done: int, runs: int) -> Callable | None:
    """Tell the seconds left of all runs, which take about equally long."""
    if progress is None:
        return None

    def tell(step: Progress) -> None:
        left = step.seconds_left
        if left is not None and step.done:
            this_run = left * step.total / max(step.total - step.done, 1)
            left += (runs - done - 1) * this_run
        progress(Progress(arm, step.done, step.total, left))

    return tell
