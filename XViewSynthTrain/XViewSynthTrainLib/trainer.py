"""The training loop: seeded, resumable, stage by stage, judged on scans that are kept from it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.inference.hardware import total_bytes
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthLib.progress import UNWATCHED, Monitor

from .checkpoints import (
    check_tensors,
    damaged_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from .config import TrainingConfig
from .distillation import answered, training_terms
from .files import CHECKPOINT_FILE, CONFIG_FILE
from .heldout import Gain, mean_gain
from .runlog import RunLog
from .sampling import Blocks, Sampler
from .stored_json import is_number, is_whole, read_object, reason
from .team import Team
from .whole import write_whole_text

_CLIP_NORM = 0.5
_WARM_UP = 0.03
_FINAL_RATE = 0.01
_LOG_EVERY = 20
# A run that leaves the numbers more often than this will not settle at any rate.
_MOST_RECOVERIES = 8

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Evaluation:
    """How the averaged network is evaluated during a run, and what follows from that.

    Attributes:
        evaluate: measures a network on scans that are not trained on. Called `config.judgements` times; training ends
            when `config.patience` calls in a row bring no more gain.
        on_best: called with the network whenever it is the best so far, before that is remembered.
        on_evaluated: called with the network after every evaluation.
    """

    evaluate: Callable[[ThreeViewNetwork], dict[int, Gain]]
    on_best: Callable[[ThreeViewNetwork], object] = lambda network: None
    on_evaluated: Callable[[ThreeViewNetwork], object] = lambda network: None


class Trainer:
    """One run in one folder: `config.json`, a log, events for TensorBoard, and a checkpoint.

    Args:
        scans: what to train on.
        config: the settings; their network is created from `config.seed` unless `start` is given.
        folder: created when missing; one that holds a run already is refused unless `resume`.
        start: weights to start from, of the same network.
        resume: go on from the folder's checkpoint, with the folder's settings.
        evaluation: of the network during the run; without it, there is none.
        team: the processes that train together, with their device; the leader alone evaluates and writes.

    Attributes:
        step: steps done.
        average: moving average of the weights, which is what a run delivers.
        best_gain, best_step: the best judgement so far, in dB over the better interpolation; -inf and None before.

    Raises:
        InputError: the folder holds another run, has no checkpoint to resume, or no scan is large enough.
    """

    def __init__(
        self,
        scans: Sequence[Volume],
        config: TrainingConfig,
        folder: Path,
        *,
        start: dict[str, Tensor] | None = None,
        resume: bool = False,
        evaluation: Evaluation | None = None,
        team: Team | None = None,
    ):
        self.folder, self.team, self._evaluation = Path(folder), team or Team(), evaluation
        self.device = torch.device(self.team.device)
        if resume:
            config = stored_config(self.folder)
        elif self.team.leads:
            refuse_existing_run(self.folder)
        if config.batch % self.team.size:
            raise InputError(
                f"Set the batch to a multiple of {self.team.size}, the number of processes: it is {config.batch}."
            )
        self.config = config
        self.sampler = Sampler(scans, config)
        most_slices = max(len(material.voxels) for material in self.sampler.along)
        check_step(config, most_slices, self.team.size, self.device)
        torch.manual_seed(config.seed)
        self.network = new_network(config)
        if start is not None:
            self.network.load_state_dict(start)
        self.network.placed_on(self.device)
        self._teacher = self._frozen_start(start)
        self.average = deepcopy(self.network).requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
        self._objective = self.team.wrap(_Objective(self.network, config))
        self.step = 0
        self.best_gain = -math.inf
        self.best_step: int | None = None
        self._judged_in_vain, self._judged_step = 0, 0
        self._rate_scale, self._recoveries = 1.0, 0
        self._recent: list[dict[str, float]] = []
        self._seconds_before, self._began = 0.0, time.monotonic()
        self._saved = time.monotonic()
        if resume:
            self._restore()
        elif self.team.leads:
            self._create_folder()
        self.log = RunLog(self.folder, self.step) if self.team.leads else None
        self.team.wait()

    @property
    def seconds(self) -> float:
        """Time spent on the run, former parts of it included."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def finished(self) -> bool:
        """Whether the last step is done, or more steps bring nothing."""
        return self.step >= self.config.steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether too many judgements in a row brought no more gain."""
        return 0 < self.config.patience <= self._judged_in_vain

    def run(self, monitor: Monitor = UNWATCHED) -> ThreeViewNetwork:
        """Train to the end and return the averaged network.

        Args:
            monitor: a step is reported after every step of the run. A stop is possible before every step; then a
                checkpoint is written before `Cancelled` is raised.

        Raises:
            InputError: a file of the run cannot be written, or the numbers leave what a float can hold again and
                again. The last checkpoint remains.
        """
        try:
            self._run(monitor)
        finally:
            if self.log is not None:
                self.log.close()
        return self.average

    def _run(self, monitor: Monitor) -> None:
        began, first = time.monotonic(), self.step
        # Where the run was stopped in the middle of a judgement.
        self._judge_if_due()
        while not self._team_finished():
            if self.team.any(monitor.cancelled):
                self.save()
                raise self._stopped()
            if not self._advance():
                self._recover()
                continue
            self._log_loss()
            self._judge_if_due()
            if time.monotonic() - self._saved > self.config.checkpoint_seconds:
                self.save()
            if self.team.leads:
                left = (time.monotonic() - began) / max(self.step - first, 1) * (self.config.steps - self.step)
                monitor.step("training", self.step, self.config.steps, left)
        self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        if not self.team.leads:
            return
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer)
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "best_gain": None if self.best_step is None else self.best_gain,
            "best_step": self.best_step,
            "judged_in_vain": self._judged_in_vain,
            "judged_step": self._judged_step,
            "rate_scale": self._rate_scale,
            "recoveries": self._recoveries,
            "recent": self._recent,
        }
        save_checkpoint(self.folder / CHECKPOINT_FILE, tensors, facts)
        self._saved = time.monotonic()

    def judge_start(self, gains: dict[int, Gain]) -> None:
        """Note what the network gained before any training: that is what a run has to beat."""
        self.best_gain, self.best_step = mean_gain(gains), 0
        self._note_gain(0, gains)
        self.save()

    def _stopped(self) -> Cancelled:
        return Cancelled(f"Stopped after step {self.step}; --resume goes on from there.")

    def _team_finished(self) -> bool:
        # The leader alone judges, so it alone knows of an early end.
        return self.team.any(self.finished)

    def _advance(self) -> bool:
        """Take one step; false where the numbers left what a float can hold, which changes nothing."""
        config, done = self.config, self.step / self.config.steps
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * self._rate_scale * rate_at(done)
        thinned, untouched = self._exercise(), None
        if done >= config.cross_view_from:
            untouched = self._own_part(self.sampler.untouched(self.step))
        increments = config.increments if done >= config.incremental_from else 0
        self.optimizer.zero_grad()
        terms = self._objective(thinned, untouched, increments)
        sum(terms.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP_NORM)
        values = self.team.mean(torch.stack([term.detach() for term in terms.values()])).tolist()
        # After averaging the gradients are the same everywhere, so the whole team turns back or none of it.
        if not (math.isfinite(norm) and all(map(math.isfinite, values))):
            return False
        self.optimizer.step()
        self.step += 1
        self._update_average()
        self._recent.append(dict(zip(terms, values, strict=True)))
        return True

    def _exercise(self) -> Blocks:
        """What the step restores: mostly slices that were dropped, sometimes what the starting model answers."""
        if self._teacher is not None and self.sampler.rehearses(self.step):
            return answered(self._teacher, self._own_part(self.sampler.own_gaps(self.step)))
        return self._own_part(self.sampler.thinned(self.step))

    def _frozen_start(self, start: dict[str, Tensor] | None) -> ThreeViewNetwork | None:
        if not self.config.rehearsal_share:
            return None
        if start is None:
            raise InputError("Set the share of rehearsing steps to 0, or start from a model: there is nothing to keep.")
        return deepcopy(self.network).requires_grad_(False).eval()

    def _own_part(self, blocks: Blocks) -> Blocks:
        return blocks.part(self.team.rank, self.team.size).to(self.device)

    def _recover(self) -> None:
        """Go back to the last checkpoint, and on from there more carefully."""
        lost_at, scale, recoveries = self.step, self._rate_scale / 2, self._recoveries + 1
        if recoveries > _MOST_RECOVERIES:
            raise InputError(
                f"Lower the learning rate or leave out odd scans: training left the numbers {recoveries} times, "
                f"the last time after step {lost_at}. The checkpoint before that is kept in {self.folder}."
            )
        self.team.wait()
        self._restore()
        self._rate_scale, self._recoveries = scale, recoveries
        if self.log is not None:
            self.log.forget_after(self.step)
            self.log.add_note(
                self.step,
                f"The loss was no number after step {lost_at}: went back to step {self.step} and halved the learning "
                "rate.",
            )
        self.save()
        self.team.wait()

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average follows closely, or it would remember the untrained network for too long.
        decay = min(self.config.average_decay, self.step / (self.step + 10))
        for kept, current in zip(self.average.parameters(), self.network.parameters(), strict=True):
            kept.lerp_(current, 1 - decay)

    def _log_loss(self) -> None:
        if self.step % _LOG_EVERY == 0 or self.step == self.config.steps:
            if self.log is not None:
                self.log.add_loss(
                    self.step, self.seconds, self.optimizer.param_groups[0]["lr"], _mean_terms(self._recent)
                )
            self._recent.clear()

    def _judge_if_due(self) -> None:
        every = math.ceil(self.config.steps / self.config.judgements)
        due = self.step % every == 0 or self.step == self.config.steps
        if self._evaluation is None or not self.team.leads or not due or self.step == self._judged_step:
            return
        # Judging may take longer than steps that may be lost.
        self.save()
        try:
            gains = self._evaluation.evaluate(self.average)
        except Cancelled:
            raise self._stopped() from None
        self._take_judgement(gains, self._evaluation)
        self.save()

    def _note_gain(self, step: int, gains: dict[int, Gain]) -> None:
        if self.log is not None:
            self.log.add_gain(step, self.seconds, gains)

    def _take_judgement(self, gains: dict[int, Gain], evaluation: Evaluation) -> None:
        self._note_gain(self.step, gains)
        # "Not greater" also where the gain is no number.
        if mean_gain(gains) > self.best_gain:
            evaluation.on_best(self.average)
            self.best_gain, self.best_step, self._judged_in_vain = mean_gain(gains), self.step, 0
        else:
            self._judged_in_vain += 1
        self._judged_step = self.step
        evaluation.on_evaluated(self.average)

    def _create_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Where there are settings there is a run, and a run has always something to go back to.
            self.save()
            write_whole_text(self.folder / CONFIG_FILE, json.dumps(self.config.to_dict(), indent=2) + "\n")
        except OSError as problem:
            raise InputError(
                f"Choose another folder for the run: {problem.strerror or problem} ({self.folder})."
            ) from None

    def _restore(self) -> None:
        path = self.folder / CHECKPOINT_FILE
        tensors, facts = load_checkpoint(path)
        check_tensors(path, tensors, self.network)
        _check_facts(path, facts, self.config.steps)
        self.network.load_state_dict(_below("network.", tensors))
        self.average.load_state_dict(_below("average.", tensors))
        restore_optimizer(self.optimizer, tensors)
        self.step, self.best_step = facts["step"], facts["best_step"]
        self.best_gain = -math.inf if facts["best_gain"] is None else facts["best_gain"]
        self._judged_in_vain, self._recent = facts["judged_in_vain"], facts["recent"]
        self._rate_scale, self._recoveries = facts["rate_scale"], facts["recoveries"]
        self._judged_step = facts["judged_step"]
        self._seconds_before, self._began = facts["seconds"], time.monotonic()


class _Objective(nn.Module):
    """All of a step in one call, as `DistributedDataParallel` wants it."""

    def __init__(self, network: ThreeViewNetwork, config: TrainingConfig):
        super().__init__()
        self.network, self.config = network, config

    def forward(self, thinned: Blocks, untouched: Blocks | None, increments: int) -> dict[str, Tensor]:
        device = thinned.slices.device.type
        # On a GPU half the bytes are nearly half the time; what is added to the spline stays float32.
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return training_terms(self.network, thinned, untouched, self.config, increments)


def rate_at(done: float) -> float:
    """Learning rate at a fraction of the run, as a fraction of the highest: a short rise, then half a cosine."""
    if done < _WARM_UP:
        return (done + 1e-3) / (_WARM_UP + 1e-3)
    return _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2


def refuse_existing_run(folder: Path) -> None:
    """Raise `InputError` where a folder holds a run."""
    if (folder / CONFIG_FILE).exists():
        raise InputError(f"Add --resume or choose another folder: {folder} holds a run already.")


def stored_config(folder: Path) -> TrainingConfig:
    """The settings of the run in a folder.

    Raises:
        InputError: there is no run.
    """
    settings = folder / CONFIG_FILE
    try:
        return TrainingConfig.from_dict(read_object(settings))
    except FileNotFoundError:
        raise InputError(f"Start without --resume: there is no run in {folder}.") from None
    except (OSError, ValueError) as problem:
        raise InputError(
            f"Start anew in another folder: {settings} holds no settings of a run ({reason(problem)})."
        ) from problem


def new_network(config: TrainingConfig) -> ThreeViewNetwork:
    """An untrained network of the settings.

    Raises:
        InputError: there is no such network, or no machine like this one can have the memory for it.
    """
    channels, *blocks = _sizes(config)
    # Weights, their average and the two moments of Adam.
    _check_memory(4 * _FLOAT_BYTES * sum(blocks) * 2 * 9 * channels**2, torch.device("cpu"), "a network of such a size")
    try:
        return ThreeViewNetwork(**config.network)
    except (TypeError, ValueError) as problem:
        raise InputError(f"Change the training settings: the network cannot be made ({problem}).") from problem


def check_step(config: TrainingConfig, most_slices: int, processes: int, device: torch.device) -> None:
    """Refuse steps that no machine like this one can have the memory for.

    Args:
        config: the settings.
        most_slices: of the scans.
        processes: that share a step.
        device: where to compute.

    Raises:
        InputError: even a part of what a step keeps is larger than all memory there is.
    """
    channels, axial_blocks, *_ = _sizes(config)
    voxels = config.batch // processes * min(config.slices, most_slices) * config.pixels**2
    # The features of the axial view, of 4 pixels each; and what is to be predicted, with four predictions of it.
    features = voxels // 4 * channels * (2 * axial_blocks + 1)
    predictions = 5 * voxels * min(config.factor_shares)
    what = f"a step of {config.batch} x {config.slices} x {config.pixels} x {config.pixels} voxels"
    _check_memory(_FLOAT_BYTES * (features + predictions), device, what)


def _sizes(config: TrainingConfig) -> list[int]:
    return [config.network.get(name, 0) for name in ("channels", "axial_blocks", "pixel_blocks", "fusion_blocks")]


def _check_memory(needed: int, device: torch.device, what: str) -> None:
    there = total_bytes(device)
    if needed > there:
        raise InputError(
            f"Change the training settings: {what} needs more than {needed / 1e9:.0f} GB of memory, and there are "
            f"{there / 1e9:.0f} GB."
        )


def _check_facts(path: Path, facts: dict, steps: int) -> None:
    """Make sure that the facts of a checkpoint are those of a run of so many steps.

    Raises:
        InputError: they are not.
    """
    sound = {
        "step": lambda value: is_whole(value, 0, steps),
        "seconds": is_number,
        "best_gain": lambda value: value is None or isinstance(value, float),
        "best_step": lambda value: value is None or is_whole(value, 0, steps),
        "judged_in_vain": is_whole,
        "judged_step": is_whole,
        "rate_scale": lambda value: is_number(value) and 0 < value <= 1,
        "recoveries": is_whole,
        "recent": lambda value: isinstance(value, list) and all(map(_are_terms, value)),
    }
    # Checkpoints of former versions were all written after the judgement.
    facts.setdefault("judged_step", facts.get("step"))
    for name, is_sound in sound.items():
        if name not in facts or not is_sound(facts[name]):
            raise damaged_checkpoint(path, f"{name} is missing or impossible")


def _are_terms(value: object) -> bool:
    return isinstance(value, dict) and all(map(is_number, value.values()))


def _mean_terms(recent: Sequence[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for terms in recent for name in terms})
    means = {}
    for name in names:
        values = [terms[name] for terms in recent if name in terms]
        means[name] = sum(values) / len(values)
    return means


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
