"""Ablation of the method: short runs that differ in one component."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from XViewSynthLib.evaluation.benchmark import run_bench, to_markdown
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.inference.hardware import resolve_device
from XViewSynthLib.io.reading import read_volume
from XViewSynthLib.io.writing import write_volume
from XViewSynthLib.model.catalogue import WEIGHTS_FILE, load_model, save_model
from XViewSynthLib.progress import Progress
from XViewSynthLib.system.outputs import output_folder

from .config import TrainingConfig
from .files import CONFIG_FILE
from .lock import run_lock
from .regions import middle_of
from .runs import learned_factors, make_card, read_training_scan, training_data
from .trainer import Trainer

#: Settings of each arm. All arms of a seed use the same blocks in the same order; level 0 gives the single views and
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
    center: int | None = None,
    start: str | None = None,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> str | None:
    """Train every arm with every seed, from scratch or all from the model `start`, and measure them.

    Writes the model folders <arm>/seed<k> below `folder`, their runs below `folder`/runs, and with `validate` the
    tables of `run_bench`, for whole scans or, to save time, the `center` x `center` pixels in their middle. Models
    that are there already are kept, and a run that was stopped goes on.

    Returns:
        The tables as Markdown, or None without `validate`.
    """
    folder = Path(folder)
    volumes = [read_training_scan(str(scan)) for scan in scans]
    for scan in validate:
        # Refuses an invalid request before hours of training.
        read_volume(scan)
    with output_folder(folder, parents=True), run_lock(folder):
        _train_arms(volumes, folder, settings, seeds, start, device, progress, should_cancel)
    if not validate:
        return None
    if center is not None:
        validate = [_write_center(Path(scan), center, folder / "validation") for scan in validate]
    tables = folder / "tables"
    report = run_bench(
        validate, factors, [], tables, ablation=folder, device=device, overwrite=True, progress=progress,
        should_cancel=should_cancel,
    )  # fmt: skip
    return to_markdown(report)


def _train_arms(
    volumes: Sequence[Volume],
    folder: Path,
    settings: dict,
    seeds: int,
    start: str | None,
    device: str,
    progress: Callable[[Progress], None] | None,
    should_cancel: Callable[[], bool] | None,
) -> None:
    where = str(resolve_device(device))
    began_with = load_model(start).trainable() if start is not None else None
    if began_with is not None:
        settings = settings | {"network": began_with.card["network"]}
    arms = [(arm, seed) for seed in range(seeds) for arm in ARMS]
    for done, (arm, seed) in enumerate(arms):
        model = folder / arm / f"seed{seed}"
        if (model / WEIGHTS_FILE).exists():
            continue
        config = replace(TrainingConfig.from_dict({**settings, **ARMS[arm]}), seed=seed)
        run = folder / "runs" / f"{arm}-seed{seed}"
        weights = began_with.network.state_dict() if began_with is not None else None
        trainer = Trainer(volumes, config, run, start=weights, device=where, resume=(run / CONFIG_FILE).exists())
        network = trainer.run(_counted(progress, f"{arm} seed {seed}", done, len(arms)), should_cancel)
        card = make_card(f"{arm}-seed{seed}", config, training_data(volumes), began_with)
        card |= {"factors": learned_factors(network, config)}
        save_model(model, network, card)


def _write_center(scan: Path, size: int, folder: Path) -> Path:
    """Write the middle of every slice of a scan as a file of the same name in `folder`."""
    volume = read_volume(scan)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{scan.stem}.nrrd"
    write_volume(middle_of(volume, volume.through_plane_axis, size), path, overwrite=True)
    return path


def _counted(progress: Callable | None, arm: str, done: int, runs: int) -> Callable | None:
    """A progress callback that adds the expected seconds of the remaining runs, which take about equally long."""
    if progress is None:
        return None

    def report(step: Progress) -> None:
        left = step.seconds_left
        if left is not None and step.done:
            this_run = left * step.total / max(step.total - step.done, 1)
            left += (runs - done - 1) * this_run
        progress(Progress(arm, step.done, step.total, left))

    return report
