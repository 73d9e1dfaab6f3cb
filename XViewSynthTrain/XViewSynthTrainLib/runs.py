"""A whole training run: from scans on disk to a model folder with its card."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from XViewSynthLib.acquisition import acquisition_axis
from XViewSynthLib.errors import InputError
from XViewSynthLib.hardware import resolve_device
from XViewSynthLib.models import Model, load_model, save_model
from XViewSynthLib.networks import INTENSITY_RANGE
from XViewSynthLib.progress import Progress
from XViewSynthLib.reading import read_volume
from XViewSynthLib.volume import Volume

from .config import TrainingConfig
from .trainer import Trainer

MODEL_FOLDER = "model"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def train(
    scans: Sequence[Path],
    folder: Path,
    settings: dict,
    *,
    name: str = "trained",
    start: str | None = None,
    minutes: float | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> Model:
    """Train on scans and return the model, which lies in `folder`/model.

    Args:
        scans: files or DICOM folders; no truth is needed.
        folder: run folder, see `Trainer`.
        settings: what differs from the defaults of `TrainingConfig`.
        name: the model's name.
        start: name or folder of a model to start from; its network is kept.
        minutes: length of the run in place of a number of steps; measured with a few steps at the beginning.
        device: where to compute.
        resume: go on where the run in `folder` stopped; its own settings count.
        progress, should_cancel: as for `enhance`.

    Raises:
        InputError: a scan, a setting or the folder is unsuitable.
        Cancelled: stopped; the run can be resumed.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"Choose a name of letters, digits, dots, dashes and underscores: {name!r} is not.")
    if minutes is not None and not 0 < minutes < float("inf"):
        raise InputError(f"The length of the run must be a positive number of minutes, not {minutes}.")
    where = str(resolve_device(device))
    began_with = load_model(start) if start is not None else None
    if began_with is not None:
        settings = settings | {"network": began_with.card["network"]}
    config = TrainingConfig.from_dict(settings)
    volumes = [read_volume(scan) for scan in scans]
    if minutes is not None and not resume:
        config = replace(config, steps=steps_within(60 * minutes, volumes, config, where))
    weights = began_with.network.state_dict() if began_with is not None else None
    trainer = Trainer(volumes, config, folder, start=weights, device=where, resume=resume)
    network = trainer.run(progress, should_cancel)
    card = make_card(name, trainer.config, _training_data(volumes), began_with)
    return save_model(Path(folder) / MODEL_FOLDER, network, card)


def steps_within(seconds: float, volumes: Sequence[Volume], config: TrainingConfig, device: str) -> int:
    """How many steps fit into a time, judged by a few steps of each stage (which are thrown away)."""
    shares = _stage_shares(config)
    mean = 0.0
    for (cross_view_from, incremental_from), share in shares.items():
        if share:
            stage = replace(config, steps=4, cross_view_from=cross_view_from, incremental_from=incremental_from)
            with TemporaryDirectory() as folder:
                trainer = Trainer(volumes, stage, Path(folder) / "measured", device=device)
                began = time.perf_counter()
                trainer.run()
                mean += share * (time.perf_counter() - began) / stage.steps
    return max(1, int(seconds / mean))


def make_card(name: str, config: TrainingConfig, training_data: list[dict], began_with: Model | None = None) -> dict:
    """The card of a model trained here, for `save_model`. Gains are added by whoever measures them."""
    inherited = began_with.card["training_data"] if began_with is not None else []
    levels = 0 if config.cross_view_from >= 1 else 1 if config.incremental_from >= 1 else 1 + config.increments
    return {
        "name": name,
        "version": "1.0.0",
        "description": f"Three views, {config.steps} steps, distillation up to level {levels}.",
        "modality": "CT",
        "intensity_range_hu": list(INTENSITY_RANGE),
        "factors": sorted(config.factor_shares),
        "acquisition": "gap",
        "network": config.network,
        "training_data": inherited + training_data,
        "training": config.to_dict() | {"started_from": began_with.sha256 if began_with is not None else None},
        "measured_gains": {},
        "intended_use": "Research and viewing: thin slices between observed CT slices that are thin and far apart.",
        "limitations": "Synthetic slices are a prediction and not a diagnosis; the gain on a scan unlike those it was "
        "trained on is unknown until it is checked on that scan.",
        "license": "Private: the weights may carry the conditions of the scans they were trained on.",
    }


def _stage_shares(config: TrainingConfig) -> dict[tuple[float, float], float]:
    """Share of the run in level 0, in level 1, and beyond, by the settings that put a whole run there."""
    cross_view = min(config.cross_view_from, 1.0)
    incremental = max(cross_view, min(config.incremental_from, 1.0))
    return {(1.0, 1.0): cross_view, (0.0, 1.0): incremental - cross_view, (0.0, 0.0): 1 - incremental}


def _training_data(volumes: Sequence[Volume]) -> list[dict]:
    """What was trained on, in numbers: file names and headers may name patients."""
    described = []
    for index, volume in enumerate(volumes, start=1):
        axis = acquisition_axis(volume)
        spacing = volume.spacing_along(axis)
        entry = {"name": f"scan {index}", "license": "the user's own", "slices": volume.slices(axis)}
        described.append(entry | {"slice_spacing_mm": round(spacing, 3)})
    return described
