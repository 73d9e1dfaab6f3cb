"""A whole training run: from scans on disk to a model folder with its card."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from torch import Tensor

from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.evaluation.selfcheck import cancel_check
from XViewSynthLib.geometry.checks import check_enhanceable, geometry_notes
from XViewSynthLib.geometry.constants import INTENSITY_RANGE
from XViewSynthLib.geometry.intensity import in_hu
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.inference.hardware import resolve_device
from XViewSynthLib.io.reading import read_volume
from XViewSynthLib.model.catalogue import Model, check_name, copy_model, load_model, save_model, shipped_for
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthLib.model.weights import trained_factors
from XViewSynthLib.progress import Progress
from XViewSynthLib.request import AUTOMATIC
from XViewSynthLib.system.outputs import output_folder, remove_left_folders, staging_folder

from .config import GAP, MOST_STEPS, THICK, TrainingConfig
from .files import CHECKPOINT_FILE, CONFIG_FILE, MODEL_FOLDER, PREVIEW_FOLDER, SCANS_FILE
from .heldout import VERDICT_VOXELS, WATCHED_VOXELS, Gain, HeldOut, mean_gain, write_example, write_preview
from .lock import refuse_locked_run, run_lock
from .regions import split_slices
from .report import write_report
from .runlog import gains_to_json
from .stored_json import is_number, read_object, reason
from .team import Team, team_of_torchrun
from .trainer import Trainer, new_network, refuse_existing_run, stored_config
from .whole import write_whole_text

HOLD_OUT_SHARE = 0.25
#: Factors of the evaluation, unless the run trains other ones.
_USUAL_FACTORS = (2, 4)
# Fine-tuning must not destroy earlier training, above all for gaps that are narrower than those of a thinned scan.
_FINE_TUNING = {"learning_rate": 3e-4, "rehearsal_share": 0.3}
_USES = {
    GAP: "thin slices between observed CT slices that are thin and far apart",
    THICK: "thin slices from observed CT slices that are averages over their thickness",
}
#: Largest share of a run's time for all its evaluations, and for the final one.
_EVALUATION_SHARE = 0.2
#: Largest share of a run's time for measuring the length of a step.
_MEASURING_SHARE = 0.1
#: A smaller gain is printed as 0.00 dB, and is none.
_LEAST_GAIN_DB = 0.005


@dataclass(frozen=True)
class TrainingSet:
    """Scans and start of a run. Stored in its folder, so that it can be resumed.

    Attributes:
        training: files or DICOM folders.
        held_out: files or DICOM folders kept from training.
        hold_out_share: if `held_out` is empty, the share to hold out: of several scans the last ones,
            of a single scan its upper slices. 0 for none: then there is no evaluation.
        start: folder of the model to start from, or None.
        name: of the new model.
        minutes: length of the run, if that is what was requested.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    hold_out_share: float = HOLD_OUT_SHARE
    start: str | None = None
    name: str = "trained"
    minutes: float | None = None

    def __post_init__(self) -> None:
        if not self.training:
            raise InputError("Name at least one scan to train on.")
        if not 0 <= self.hold_out_share < 1:
            raise InputError(f"Hold out a share from 0 to below 1 of the scans or slices, not {self.hold_out_share}.")
        check_name(self.name)

    def read(self, progress: Callable[[Progress], None] | None, check: Callable[[], None]) -> tuple[list, list]:
        """Read the scans.

        Returns:
            Volumes to train on, and held-out volumes.

        Raises:
            InputError: a scan cannot be read, or cannot be used: a labelmap, one value everywhere, too few slices.
        """
        paths = [*self.training, *self.held_out]
        volumes = []
        for done, path in enumerate(paths):
            check()
            _report_progress(progress, "reading", done, len(paths))
            volumes.append(read_training_scan(path))
        count = len(self.training)
        if self.held_out or not self.hold_out_share:
            return volumes[:count], volumes[count:]
        if count > 1:
            kept = min(count - 1, math.ceil(count * self.hold_out_share))
            return volumes[:-kept], volumes[-kept:]
        lower, upper = split_slices(volumes[0], volumes[0].through_plane_axis, self.hold_out_share)
        return [lower], [upper]


def train(
    scans: Sequence[Path | str],
    folder: Path,
    settings: dict | None = None,
    *,
    hold_out: Sequence[Path | str] = (),
    hold_out_share: float = HOLD_OUT_SHARE,
    name: str = "trained",
    start: str | None = None,
    minutes: float | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train on scans, and evaluate the network on held-out scans.

    After each evaluation, the best network is in `folder`/model. If training did not improve on the starting model,
    that is the starting model.

    Args:
        scans: files or DICOM folders; no truth is needed.
        folder: run folder, see `Trainer`.
        settings: values that differ from the defaults of `TrainingConfig`.
        hold_out, hold_out_share: as for `TrainingSet`.
        name: the model's name.
        start: name or folder of a model to start from, "auto" for the shipped one. A model for the other acquisition
            gives its backbone, and its heads are trained from scratch.
        minutes: length of the run in place of a number of steps; converted with the speed of a few steps.
        device: of the networks.
        resume: continue the run in `folder` with its scans and settings.
        progress, should_cancel: as for `enhance`.

    Returns:
        The content of `folder`/report.json.

    Raises:
        InputError: a scan, a setting or the folder is unsuitable, or another process trains in it.
        Cancelled: stopped; the run can be resumed.
    """
    folder = Path(folder)
    if minutes is not None and not 0 < minutes < float("inf"):
        raise InputError(f"The length of the run must be a positive number of minutes, not {minutes}.")
    settings = settings or {}
    # Checked before any work. The network depends on the starting model, which is loaded later.
    TrainingConfig.from_dict({name: value for name, value in settings.items() if name != "network"})
    with team_of_torchrun(str(resolve_device(device))) as (team, where):
        if resume:
            training_set = _stored_training_set(folder)
        else:
            training_set = TrainingSet(
                tuple(str(Path(scan).absolute()) for scan in scans),
                tuple(str(Path(scan).absolute()) for scan in hold_out),
                hold_out_share,
                None if start is None else _start_folder(start, settings),
                name,
                minutes,
            )
        if minutes is not None and team.size > 1:
            raise InputError("Give --steps in place of --minutes when several processes train together.")
        with _claimed(folder, resume, team, where):
            run = _Run(training_set, folder, where, team, progress, should_cancel)
            if team.leads and not resume:
                _store_training_set(training_set, folder)
            return run.carry_out(settings, minutes, resume)


class _Run:
    """One run from its scans to its report; see `train`."""

    def __init__(
        self,
        training_set: TrainingSet,
        folder: Path,
        device: str,
        team: Team,
        progress: Callable[[Progress], None] | None,
        should_cancel: Callable[[], bool] | None,
    ):
        self._training_set, self._folder, self._device, self._team = training_set, folder, device, team
        self._progress, self._should_cancel = progress, should_cancel
        self._began = time.monotonic()
        # Reference of the gains, and source of the backbone. Both are one model, unless its acquisition differs.
        self._start = load_model(training_set.start) if training_set.start is not None else None
        self._initial = self._start.trainable() if self._start is not None else None
        self._training, self._held_out = training_set.read(progress, cancel_check(should_cancel))

    def carry_out(self, settings: dict, minutes: float | None, resume: bool) -> dict[str, Any]:
        """Train, evaluate, and write the model and the report."""
        config = self._config(settings, resume)
        watch = self._held_out_at(config, WATCHED_VOXELS)
        before, each_evaluation = (None, 0.0) if watch is None or resume else self._evaluate_start(watch, config)
        if minutes is not None and not resume:
            config = self._fitted(config, 60 * minutes, each_evaluation)
        trainer = Trainer(
            self._training,
            config,
            self._folder,
            start=self._first_weights(config),
            device=self._device,
            resume=resume,
            judge=None if watch is None else partial(watch.evaluate, should_cancel=self._stop_evaluation),
            on_best=lambda network: self._save(network, config),
            on_judged=None if watch is None else partial(self._show, watch, name="now"),
            team=self._team,
        )
        if watch is not None and trainer.best_step is None:
            self._begin(trainer, watch, before or self._evaluate_start(watch, config)[0])
        trainer.run(self._progress, self._should_cancel)
        return self._close(trainer, config, watch) if self._team.leads else {}

    @property
    def _stop_evaluation(self) -> Callable[[], bool] | None:
        # The other processes of a team wait for the leader, and stop with it after the next step.
        return self._should_cancel if self._team.size == 1 else None

    def _first_weights(self, config: TrainingConfig) -> dict[str, Tensor] | None:
        return self._first_network(config).state_dict() if self._initial is not None else None

    def _config(self, settings: dict, resume: bool) -> TrainingConfig:
        if resume:
            config = stored_config(self._folder)
        elif self._initial is None:
            config = TrainingConfig.from_dict(settings)
        else:
            settings = {"acquisition": self._initial.card["acquisition"], **settings}
            if settings["acquisition"] == self._initial.card["acquisition"]:
                settings = {**_FINE_TUNING, **settings}
            network = {name: number for name, number in self._initial.card["network"].items() if name != "thick"}
            thick = {} if settings["acquisition"] == GAP else {"thick": 1}
            config = TrainingConfig.from_dict({**settings, "network": network | thick})
        if self._initial is not None and self._initial.card["acquisition"] != config.acquisition:
            self._start = None
        if self._start is None and config.rehearsal_share:
            raise InputError("Set the share of rehearsal steps to 0: there is no starting model to rehearse.")
        # Refuses sizes that are impossible or do not fit into memory.
        with torch.random.fork_rng(devices=[]):
            new_network(config)
        return config

    def _held_out_at(self, config: TrainingConfig, most_voxels: int) -> HeldOut | None:
        if not (self._held_out and self._team.leads):
            return None
        usual = [factor for factor in _USUAL_FACTORS if factor in config.factor_shares]
        factors = usual or sorted(config.factor_shares)
        card = make_card(self._training_set.name, config, [])
        return HeldOut(self._held_out, factors, card, self._device, most_voxels)

    def _evaluate_start(self, watch: HeldOut, config: TrainingConfig) -> tuple[dict[int, Gain], float]:
        """Gains of the initial network, and the seconds of the evaluation."""
        _report_progress(self._progress, "evaluating", 0, 1)
        began = time.monotonic()
        gains = watch.evaluate(self._first_network(config), self._should_cancel)
        return gains, time.monotonic() - began

    def _first_network(self, config: TrainingConfig) -> ThreeViewNetwork:
        if self._start is not None and self._initial is not None:
            return self._initial.network
        # An untrained network predicts the spline, for any seed and input.
        torch.manual_seed(config.seed)
        network = new_network(config).eval()
        if self._initial is not None:
            network.adopt_trunks(self._initial.network)
        return network

    def _fitted(self, config: TrainingConfig, seconds: float, each_evaluation: float) -> TrainingConfig:
        """The settings with the numbers of steps and evaluations that fit into a time."""
        _report_progress(self._progress, "measuring", 0, 1)
        share = _EVALUATION_SHARE * seconds
        count = min(config.judgements, max(1, int(share / each_evaluation))) if each_evaluation else config.judgements
        # The final evaluation uses more voxels, before and after.
        verdict = min(share, 2 * each_evaluation * VERDICT_VOXELS / WATCHED_VOXELS)
        taken = time.monotonic() - self._began + count * each_evaluation + verdict
        left = max(seconds - taken, seconds / 5)
        start = self._first_weights(config)
        steps = steps_within(left, self._training, config, self._device, start, self._should_cancel)
        return replace(config, steps=steps, judgements=count)

    def _begin(self, trainer: Trainer, watch: HeldOut, before: dict[int, Gain]) -> None:
        """Write the starting model, its preview and its gains."""
        if self._start is not None:
            copy_model(self._start, self._folder / MODEL_FOLDER)
        write_example(watch, self._folder / PREVIEW_FOLDER)
        for name in ("before", "now"):
            self._show(watch, self._first_network(trainer.config), name)
        trainer.judge_start(before)

    def _save(self, network: ThreeViewNetwork, config: TrainingConfig) -> Model:
        card = make_card(self._training_set.name, config, training_data(self._training), self._initial)
        card |= {"factors": learned_factors(network, config)}
        return save_model(self._folder / MODEL_FOLDER, network, card)

    def _show(self, watch: HeldOut, network: ThreeViewNetwork, name: str) -> None:
        write_preview(watch.restore_example(network), self._folder / PREVIEW_FOLDER, name)

    def _close(self, trainer: Trainer, config: TrainingConfig, watch: HeldOut | None) -> dict[str, Any]:
        """Evaluate start and end on more voxels, select the resulting model, and write the report."""
        _report_progress(self._progress, "evaluating", 0, 1)
        verdict = self._held_out_at(config, self._verdict_voxels(watch, config))
        before = after = None
        if verdict is None:
            model = self._save(trainer.average, config)
        else:
            before = verdict.evaluate(self._first_network(config), self._should_cancel)
            model = self._best(trainer, config)
            after = before if self._is_start(model) else verdict.evaluate(model.network, self._should_cancel)
            # "Not greater" also where the gain is no number.
            if self._start is not None and not mean_gain(after) > mean_gain(before) + _LEAST_GAIN_DB:
                model, after = copy_model(self._start, self._folder / MODEL_FOLDER), before
            if watch is not None:
                self._show(watch, model.network, "now")
        _report_progress(self._progress, "writing", 0, 1)
        report = self._report(trainer, model, before, after)
        write_report(self._folder, report)
        return report

    def _verdict_voxels(self, watch: HeldOut | None, config: TrainingConfig) -> int:
        """Held-out voxels of the final evaluation: as many as the requested time allows."""
        if watch is None or self._training_set.minutes is None:
            return VERDICT_VOXELS
        began = time.monotonic()
        watch.evaluate(self._first_network(config), self._should_cancel)
        return affordable_voxels(60 * self._training_set.minutes, time.monotonic() - began)

    def _best(self, trainer: Trainer, config: TrainingConfig) -> Model:
        if not (self._folder / MODEL_FOLDER).exists():
            # Trained from scratch, and never better than the spline.
            return self._save(trainer.average, config)
        return load_model(self._folder / MODEL_FOLDER)

    def _is_start(self, model: Model) -> bool:
        return self._start is not None and model.sha256 == self._start.sha256

    def _report(
        self, trainer: Trainer, model: Model, before: dict[int, Gain] | None, after: dict[int, Gain] | None
    ) -> dict[str, Any]:
        beats_start = None
        if self._start is not None and after is not None:
            beats_start = not self._is_start(model)
        return {
            "status": "stopped early" if trainer.stopped_early else "finished",
            "message": _sentence(model, beats_start, before, after),
            "beats_start": beats_start,
            "before": gains_to_json(before or {}),
            "after": gains_to_json(after or {}),
            "best_step": trainer.best_step,
            "steps": trainer.step,
            "seconds": round(trainer.seconds, 1),
            "device": self._device,
            "processes": self._team.size,
            "training_scans": training_data(self._training),
            "held_out_scans": training_data(self._held_out),
            "notes": [
                f"Scan {number}: {note}"
                for number, volume in enumerate([*self._training, *self._held_out], start=1)
                for note in volume.notes
            ],
            "model": {"name": model.name, "version": model.card["version"], "sha256": model.sha256},
        }


def affordable_voxels(seconds: float, evaluation: float) -> int:
    """Held-out voxels that can be evaluated twice, before and after, in a run's share of time for that.

    Args:
        seconds: requested length of the run.
        evaluation: seconds that evaluating `WATCHED_VOXELS` takes.
    """
    affordable = WATCHED_VOXELS * _EVALUATION_SHARE * seconds / max(2 * evaluation, 1e-6)
    return int(min(max(affordable, WATCHED_VOXELS), VERDICT_VOXELS))


def steps_within(
    seconds: float,
    volumes: Sequence[Volume],
    config: TrainingConfig,
    device: str,
    start: dict[str, Tensor] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> int:
    """Number of steps that fit into a time, estimated with a few steps of each stage (which are discarded).

    At least one step of each stage is run, and no further one begins after a tenth of the time.

    Raises:
        InputError: there is no space for temporary files.
        Cancelled: `should_cancel` returned True.
    """
    check = cancel_check(should_cancel)
    stages = {stage: share for stage, share in _stage_shares(config).items() if share}
    mean = 0.0
    for (cross_view_from, incremental_from), share in stages.items():
        check()
        stage = replace(config, steps=4, cross_view_from=cross_view_from, incremental_from=incremental_from)
        with _temporary_folder() as folder:
            trainer = Trainer(volumes, stage, folder / "measured", start=start, device=device)
            mean += share * _seconds_of_step(trainer, _MEASURING_SHARE * seconds / len(stages), check)
    return max(1, int(min(seconds / mean, MOST_STEPS)))


def _seconds_of_step(trainer: Trainer, seconds: float, check: Callable[[], None]) -> float:
    """Mean time of a step, of as many as begin within `seconds`, and at least of one."""
    began = time.perf_counter()

    def should_end() -> bool:
        check()
        return trainer.step > 0 and time.perf_counter() - began > seconds

    # Either the time is over, or the user wants to stop.
    with suppress(Cancelled):
        trainer.run(should_cancel=should_end)
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


def learned_factors(network: ThreeViewNetwork, config: TrainingConfig) -> list[int]:
    """The factors for a card: those that were drawn so far. Short runs do not draw rare ones."""
    return trained_factors(network, config.factor_shares) or sorted(config.factor_shares)


def make_card(name: str, config: TrainingConfig, training_data: list[dict], began_with: Model | None = None) -> dict:
    """The card of a model trained here, for `save_model`, without gains."""
    inherited = began_with.card["training_data"] if began_with is not None else []
    levels = 0 if config.cross_view_from >= 1 else 1 if config.incremental_from >= 1 else 1 + config.increments
    return {
        "name": name,
        "version": "1.0.0",
        "description": f"Three views, {config.steps} steps, distillation up to level {levels}.",
        "modality": "CT",
        "intensity_range_hu": list(INTENSITY_RANGE),
        "factors": sorted(config.factor_shares),
        "acquisition": config.acquisition,
        "network": config.network,
        "training_data": inherited + training_data,
        "training": config.to_dict() | {"started_from": began_with.sha256 if began_with is not None else None},
        "measured_gains": {},
        "intended_use": f"Research and viewing: {_USES[config.acquisition]}.",
        "limitations": "Synthetic slices are a prediction and not a diagnosis; the gain on a scan unlike those it was "
        "trained on is unknown until it is checked on that scan.",
        "license": "Private: the weights may carry the conditions of the scans they were trained on.",
    }


def _start_folder(start: str, settings: dict) -> str:
    if start == AUTOMATIC:
        start = shipped_for(settings.get("acquisition", GAP))
    return str(load_model(start).folder.absolute())


def _stage_shares(config: TrainingConfig) -> dict[tuple[float, float], float]:
    """Share of the run in level 0, in level 1, and beyond, by the settings that put a whole run there."""
    cross_view = min(config.cross_view_from, 1.0)
    incremental = max(cross_view, min(config.incremental_from, 1.0))
    return {(1.0, 1.0): cross_view, (0.0, 1.0): incremental - cross_view, (0.0, 0.0): 1 - incremental}


def read_training_scan(path: Path | str) -> Volume:
    """A scan to train on, in HU; its notes name neither it nor its patient.

    Raises:
        InputError: it cannot be read, or not be trained on.
    """
    volume = read_volume(path)
    try:
        check_enhanceable(volume, forced=True)
    except InputError as problem:
        # The message must name the scan.
        raise InputError(f"{path} cannot be trained on: {problem}") from problem
    return in_hu(replace(volume, notes=geometry_notes(volume)))


@contextmanager
def _claimed(folder: Path, resume: bool, team: Team, device: str) -> Iterator[None]:
    """Lock a run's folder. The leader holds the lock for its team, and a refusal ends all processes."""
    with ExitStack() as held:
        refusal = None
        if team.leads:
            try:
                held.enter_context(_held(folder, resume))
            except InputError as problem:
                refusal = problem
        if team.any(refusal is not None, torch.device(device)):
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


def _store_training_set(training_set: TrainingSet, folder: Path) -> None:
    write_whole_text(folder / SCANS_FILE, json.dumps(vars(training_set), indent=2) + "\n")


def _stored_training_set(folder: Path) -> TrainingSet:
    try:
        stored = read_object(folder / SCANS_FILE)
        for name in ("training", "held_out"):
            paths = stored.get(name)
            if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
                raise ValueError(f'"{name}" is no list of paths')
            stored[name] = tuple(paths)
        numbers = [stored.get("hold_out_share"), stored.get("minutes") or 0]
        if not isinstance(stored.get("start"), (str, type(None))) or not all(map(is_number, numbers)):
            raise ValueError("its values are of the wrong kind")
        return TrainingSet(**stored)
    except FileNotFoundError:
        raise InputError(f"Start without --resume: there is no run in {folder}.") from None
    except (OSError, ValueError, TypeError) as problem:
        raise InputError(
            f"Start anew in another folder: {folder / SCANS_FILE} does not name the scans of a run ({reason(problem)})."
        ) from problem


def _sentence(
    model: Model, beats_start: bool | None, before: dict[int, Gain] | None, after: dict[int, Gain] | None
) -> str:
    if before is None or after is None:
        return f"'{model.name}' is trained; no scans were held out, so its quality is unknown."
    reached, had = mean_gain(after), mean_gain(before)
    if beats_start is False:
        return (
            f"Training did not beat '{model.name}' on the held-out slices ({had:+.2f} dB over interpolation), so that "
            "model is the result: continue with it, or train longer or on more scans."
        )
    if beats_start:
        return (
            f"'{model.name}' restores the held-out slices {reached - had:.2f} dB better than the model it started from "
            f"({reached:+.2f} against {had:+.2f} dB over interpolation)."
        )
    return f"'{model.name}' restores the held-out slices with {reached:+.2f} dB over the better interpolation."


def _report_progress(progress: Callable[[Progress], None] | None, stage: str, done: int, total: int) -> None:
    if progress is not None:
        progress(Progress(stage, done, total))


def training_data(volumes: Sequence[Volume]) -> list[dict]:
    """Training scans for a card, as numbers only: file names and headers may name patients."""
    described = []
    for index, volume in enumerate(volumes, start=1):
        axis = volume.through_plane_axis
        spacing = volume.spacing_along(axis)
        entry = {"name": f"scan {index}", "license": "the user's own", "slices": volume.slices(axis)}
        described.append(entry | {"slice_spacing_mm": round(spacing, 3)})
    return described
