"""A whole training run: from scans on disk to a model folder with its card."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from XViewSynthLib.errors import InputError
from XViewSynthLib.inference.hardware import resolve_device
from XViewSynthLib.model.catalogue import Model, copy_model, load_model, save_model, shipped_for
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthLib.progress import UNWATCHED, Monitor, Progress
from XViewSynthLib.request import AUTOMATIC

from .cards import learned_factors, make_card, training_data
from .claim import claimed
from .config import GAP, TrainingConfig
from .duration import EVALUATION_SHARE, affordable_voxels, steps_within
from .files import MODEL_FOLDER, PREVIEW_FOLDER
from .heldout import VERDICT_VOXELS, WATCHED_VOXELS, Gain, HeldOut, mean_gain, write_example, write_preview
from .report import write_report
from .runlog import gains_to_json
from .team import Team, team_of_torchrun
from .trainer import Evaluation, Trainer, new_network, stored_config
from .training_set import TrainingSet, store_training_set, stored_training_set

#: Factors of the evaluation, unless the run trains other ones.
_USUAL_FACTORS = (2, 4)
# Fine-tuning must not destroy earlier training, above all for gaps that are narrower than those of a thinned scan.
_FINE_TUNING = {"learning_rate": 3e-4, "rehearsal_share": 0.3}
#: A smaller gain is printed as 0.00 dB, and is none.
_LEAST_GAIN_DB = 0.005


def train(
    training_set: TrainingSet | None,
    folder: Path,
    settings: dict | None = None,
    *,
    minutes: float | None = None,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train on scans, and evaluate the network on held-out scans.

    After each evaluation, the best network is in `folder`/model. If training did not improve on the starting model,
    that is the starting model.

    Args:
        training_set: scans, start and name of the model; None to continue the run in `folder` with its scans and
            settings.
        folder: run folder, see `Trainer`.
        settings: values that differ from the defaults of `TrainingConfig`.
        minutes: length of the run in place of a number of steps; converted with the speed of a few steps.
        device: of the networks.
        progress, should_cancel: as for `enhance`.

    Returns:
        The content of `folder`/report.json.

    Raises:
        InputError: a scan, a setting or the folder is unsuitable, or another process trains in it.
        Cancelled: stopped; the run can be resumed.
    """
    folder, resume = Path(folder), training_set is None
    if minutes is not None and not 0 < minutes < float("inf"):
        raise InputError(f"The length of the run must be a positive number of minutes, not {minutes}.")
    settings = settings or {}
    # Checked before any work. The network depends on the starting model, which is loaded later.
    TrainingConfig.from_dict({name: value for name, value in settings.items() if name != "network"})
    with team_of_torchrun(str(resolve_device(device))) as team:
        if training_set is None:
            training_set = stored_training_set(folder)
        else:
            training_set = replace(
                training_set,
                training=[str(Path(scan).absolute()) for scan in training_set.training],
                held_out=[str(Path(scan).absolute()) for scan in training_set.held_out],
                start=None if training_set.start is None else _start_folder(training_set.start, settings),
                minutes=minutes,
            )
        if minutes is not None and team.size > 1:
            raise InputError("Give --steps in place of --minutes when several processes train together.")
        with claimed(folder, resume, team):
            run = _Run(training_set, folder, team, Monitor(progress, should_cancel))
            if team.leads and not resume:
                store_training_set(training_set, folder)
            return run.carry_out(settings, minutes, resume)


class _Run:
    """One run from its scans to its report; see `train`."""

    def __init__(self, training_set: TrainingSet, folder: Path, team: Team, monitor: Monitor):
        self._training_set, self._folder, self._team, self._monitor = training_set, folder, team, monitor
        self._began = time.monotonic()
        # Reference of the gains, and source of the backbone. Both are one model, unless its acquisition differs.
        self._start = load_model(training_set.start) if training_set.start is not None else None
        self._initial = self._start.trainable() if self._start is not None else None
        self._training, self._held_out = training_set.read(monitor)

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
            resume=resume,
            evaluation=None if watch is None else self._evaluation(watch, config),
            team=self._team,
        )
        if watch is not None and trainer.best_step is None:
            self._begin(trainer, watch, before or self._evaluate_start(watch, config)[0])
        trainer.run(self._monitor)
        return self._close(trainer, config, watch) if self._team.leads else {}

    def _evaluation(self, watch: HeldOut, config: TrainingConfig) -> Evaluation:
        # The other processes of a team wait for the leader, and stop with it after the next step.
        monitor = self._monitor.silent() if self._team.size == 1 else UNWATCHED
        return Evaluation(
            partial(watch.evaluate, monitor=monitor),
            on_best=lambda network: self._save(network, config),
            on_evaluated=partial(self._show, watch, name="now"),
        )

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
        return HeldOut(self._held_out, factors, card, self._team.device, most_voxels)

    def _evaluate_start(self, watch: HeldOut, config: TrainingConfig) -> tuple[dict[int, Gain], float]:
        """Gains of the initial network, and the seconds of the evaluation."""
        self._monitor.step("evaluating", 0, 1)
        began = time.monotonic()
        gains = watch.evaluate(self._first_network(config), self._monitor.silent())
        return gains, time.monotonic() - began

    def _first_network(self, config: TrainingConfig) -> ThreeViewNetwork:
        if self._start is not None and self._initial is not None:
            return self._initial.network
        # An untrained network predicts the spline, for any seed and input.
        torch.manual_seed(config.seed)
        network = new_network(config).eval()
        if self._initial is not None:
            network.adopt_backbones(self._initial.network)
        return network

    def _fitted(self, config: TrainingConfig, seconds: float, each_evaluation: float) -> TrainingConfig:
        """The settings with the numbers of steps and evaluations that fit into a time."""
        self._monitor.step("measuring", 0, 1)
        share = EVALUATION_SHARE * seconds
        count = min(config.judgements, max(1, int(share / each_evaluation))) if each_evaluation else config.judgements
        # The final evaluation uses more voxels, before and after.
        verdict = min(share, 2 * each_evaluation * VERDICT_VOXELS / WATCHED_VOXELS)
        taken = time.monotonic() - self._began + count * each_evaluation + verdict
        left = max(seconds - taken, seconds / 5)
        start = self._first_weights(config)
        steps = steps_within(left, self._training, config, self._team.device, start, self._monitor.silent())
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
        self._monitor.step("evaluating", 0, 1)
        verdict = self._held_out_at(config, self._verdict_voxels(watch, config))
        before = after = None
        if verdict is None:
            model = self._save(trainer.average, config)
        else:
            before = verdict.evaluate(self._first_network(config), self._monitor.silent())
            model = self._best(trainer, config)
            after = before if self._is_start(model) else verdict.evaluate(model.network, self._monitor.silent())
            # "Not greater" also where the gain is no number.
            if self._start is not None and not mean_gain(after) > mean_gain(before) + _LEAST_GAIN_DB:
                model, after = copy_model(self._start, self._folder / MODEL_FOLDER), before
            if watch is not None:
                self._show(watch, model.network, "now")
        self._monitor.step("writing", 0, 1)
        report = self._report(trainer, model, before, after)
        write_report(self._folder, report)
        return report

    def _verdict_voxels(self, watch: HeldOut | None, config: TrainingConfig) -> int:
        """Held-out voxels of the final evaluation: as many as the requested time allows."""
        if watch is None or self._training_set.minutes is None:
            return VERDICT_VOXELS
        began = time.monotonic()
        watch.evaluate(self._first_network(config), self._monitor.silent())
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
            "device": self._team.device,
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


def _start_folder(start: str, settings: dict) -> str:
    if start == AUTOMATIC:
        start = shipped_for(settings.get("acquisition", GAP))
    return str(load_model(start).folder.absolute())


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
