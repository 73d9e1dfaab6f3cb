"""Ablation of the method: short runs that differ in one component."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from XViewSynthLib.evaluation.benchmark import Benchmark, run_bench
from XViewSynthLib.evaluation.tables import to_markdown
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.inference.hardware import resolve_device
from XViewSynthLib.io.reading import read_volume
from XViewSynthLib.io.writing import write_volume
from XViewSynthLib.model.catalogue import WEIGHTS_FILE, load_model, save_model
from XViewSynthLib.progress import Monitor, Progress
from XViewSynthLib.system.staging import output_folder

from .cards import learned_factors, make_card, training_data
from .config import TrainingConfig
from .files import CONFIG_FILE
from .lock import run_lock
from .regions import middle_of
from .team import Team
from .trainer import Trainer
from .training_set import read_training_scan

#: Settings of each arm. All arms of a seed use the same blocks in the same order; level 0 gives the single views and
#: their mean without distillation.
ARMS = {
    "level0": {"cross_view_from": 1.0, "incremental_from": 1.0},
    "plain": {"incremental_from": 1.0, "gamma": 1.0},
    "selective": {"incremental_from": 1.0},
    "incremental": {},
}


@dataclass(frozen=True)
class Ablation:
    """Runs that differ in one component of the method, and how they are compared.

    Attributes:
        scans: files or DICOM folders to train on.
        settings: values that differ from the defaults of `TrainingConfig`, of every run.
        seeds: runs of each arm.
        start: name or folder of the model that every run starts from; without it, each starts from scratch.
        validate: thin scans to measure on.
        factors: of the measurement.
        center: measure on the middle `center` x `center` pixels of every slice alone, to save time.
    """

    scans: Sequence[Path]
    settings: dict
    seeds: int = 3
    start: str | None = None
    validate: Sequence[Path] = ()
    factors: Sequence[int] = (2, 4)
    center: int | None = None


def ablate(
    ablation: Ablation,
    folder: Path,
    *,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> str | None:
    """Train every arm with every seed, and measure them.

    Writes the model folders <arm>/seed<k> below `folder`, their runs below `folder`/runs, and with scans to measure on
    the tables of `run_bench`. Models that are there already are kept, and a stopped run is resumed.

    Returns:
        The tables as Markdown, or None without scans to measure on.
    """
    folder, validate = Path(folder), ablation.validate
    volumes = [read_training_scan(str(scan)) for scan in ablation.scans]
    for scan in validate:
        # Refuses an invalid request before hours of training.
        read_volume(scan)
    with output_folder(folder, parents=True), run_lock(folder):
        _train_arms(ablation, volumes, folder, device, Monitor(progress, should_cancel))
    if not validate:
        return None
    if ablation.center is not None:
        validate = [_write_center(Path(scan), ablation.center, folder / "validation") for scan in validate]
    report = run_bench(
        Benchmark(validate, ablation.factors, [], ablation=folder),
        folder / "tables",
        device=device,
        overwrite=True,
        progress=progress,
        should_cancel=should_cancel,
    )
    return to_markdown(report)


def _train_arms(ablation: Ablation, volumes: Sequence[Volume], folder: Path, device: str, monitor: Monitor) -> None:
    where, settings = str(resolve_device(device)), ablation.settings
    began_with = load_model(ablation.start).trainable() if ablation.start is not None else None
    if began_with is not None:
        settings = settings | {"network": began_with.card["network"]}
    arms = [(arm, seed) for seed in range(ablation.seeds) for arm in ARMS]
    for done, (arm, seed) in enumerate(arms):
        model = folder / arm / f"seed{seed}"
        if (model / WEIGHTS_FILE).exists():
            continue
        config = replace(TrainingConfig.from_dict({**settings, **ARMS[arm]}), seed=seed)
        run = folder / "runs" / f"{arm}-seed{seed}"
        weights = began_with.network.state_dict() if began_with is not None else None
        team, resume = Team(device=where), (run / CONFIG_FILE).exists()
        trainer = Trainer(volumes, config, run, start=weights, resume=resume, team=team)
        network = trainer.run(monitor.changed(partial(_counted, f"{arm} seed {seed}", len(arms) - done - 1)))
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


def _counted(arm: str, runs_left: int, step: Progress) -> Progress:
    """The step with the expected seconds of the remaining runs added, which take about equally long."""
    left = step.seconds_left
    if left is not None and step.done:
        left += runs_left * left * step.total / max(step.total - step.done, 1)
    return Progress(arm, step.done, step.total, left)
