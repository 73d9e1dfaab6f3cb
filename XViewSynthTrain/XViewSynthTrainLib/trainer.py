"""The training loop: seeded, resumable, stage by stage."""

import json
import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.networks import ThreeViewNetwork
from XViewSynthLib.progress import Progress
from XViewSynthLib.volume import Volume

from .checkpoints import NAME, load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from .config import TrainingConfig
from .distillation import training_terms
from .sampling import Sampler

_CLIP_NORM = 0.5
_WARM_UP = 0.03
_FINAL_RATE = 0.01
_LOG_EVERY = 20


class Trainer:
    """One run in one folder: `config.json`, `log.jsonl` and a checkpoint.

    Args:
        scans: what to train on.
        config: the settings; their network is created from `config.seed` unless `start` is given.
        folder: created when missing; one that holds a run already is refused unless `resume`.
        start: weights to start from, of the same network.
        device: where to compute.
        resume: go on from the folder's checkpoint, with the folder's settings.

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
        device: str = "cpu",
        resume: bool = False,
    ):
        self.folder, self.device = Path(folder), torch.device(device)
        settings = self.folder / "config.json"
        if resume:
            config = _stored_config(settings)
        elif settings.exists():
            raise InputError(f"Add --resume or choose another folder: {self.folder} holds a run already.")
        self.config = config
        self.sampler = Sampler(scans, config)
        torch.manual_seed(config.seed)
        self.network = ThreeViewNetwork(**config.network)
        if start is not None:
            self.network.load_state_dict(start)
        self.network.to(self.device, memory_format=torch.channels_last)
        self.average = deepcopy(self.network).requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
        self.step = 0
        if resume:
            self._restore()
        else:
            self._create_folder(settings)

    def run(
        self,
        progress: Callable[[Progress], None] | None = None,
        should_cancel: Callable[[], bool] | None = None,
        checkpoint_seconds: float = 60.0,
    ) -> ThreeViewNetwork:
        """Train to the last step and return the averaged network.

        Args:
            progress: told after every step.
            should_cancel: asked before every step; a checkpoint is written before `Cancelled` is raised.
            checkpoint_seconds: at most this much work is lost when the process is killed.
        """
        began, saved, first = time.monotonic(), time.monotonic(), self.step
        recent: list[dict[str, float]] = []
        while self.step < self.config.steps:
            if should_cancel is not None and should_cancel():
                self.save()
                raise Cancelled(f"Stopped after step {self.step}; --resume goes on from there.")
            recent.append(self._advance())
            if self.step % _LOG_EVERY == 0 or self.step == self.config.steps:
                self._log(recent, time.monotonic() - began)
                recent.clear()
            if time.monotonic() - saved > checkpoint_seconds:
                self.save()
                saved = time.monotonic()
            if progress is not None:
                left = (time.monotonic() - began) / (self.step - first) * (self.config.steps - self.step)
                progress(Progress("train", self.step, self.config.steps, left))
        self.save()
        return self.average

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer)
        save_checkpoint(self.folder / NAME, tensors, {"step": self.step})

    def _advance(self) -> dict[str, float]:
        config, done = self.config, self.step / self.config.steps
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * rate_at(done)
        thinned = self.sampler.thinned(self.step).to(self.device)
        untouched = None
        if done >= config.cross_view_from:
            untouched = self.sampler.untouched(self.step).to(self.device)
        increments = config.increments if done >= config.incremental_from else 0
        terms = training_terms(self.network, thinned, untouched, config, increments)
        self.optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP_NORM, error_if_nonfinite=True)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return {name: term.item() for name, term in terms.items()}

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average follows closely, or it would remember the untrained network for too long.
        decay = min(self.config.average_decay, self.step / (self.step + 10))
        for kept, current in zip(self.average.parameters(), self.network.parameters(), strict=True):
            kept.lerp_(current, 1 - decay)

    def _log(self, recent: list[dict[str, float]], seconds: float) -> None:
        names = sorted({name for terms in recent for name in terms})
        means = {}
        for name in names:
            values = [terms[name] for terms in recent if name in terms]
            means[name] = sum(values) / len(values)
        entry = {"step": self.step, "seconds": round(seconds, 1), "learning_rate": self.optimizer.param_groups[0]["lr"]}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(entry | {"loss": means}) + "\n")

    def _create_folder(self, settings: Path) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            settings.write_text(json.dumps(self.config.to_dict(), indent=2) + "\n", encoding="utf-8")
        except OSError as problem:
            raise InputError(
                f"Choose another folder for the run: {problem.strerror or problem} ({self.folder})."
            ) from None

    def _restore(self) -> None:
        tensors, facts = load_checkpoint(self.folder / NAME)
        self.network.load_state_dict(_below("network.", tensors))
        self.average.load_state_dict(_below("average.", tensors))
        restore_optimizer(self.optimizer, tensors)
        self.step = facts["step"]


def rate_at(done: float) -> float:
    """Learning rate at a fraction of the run, as a fraction of the highest: a short rise, then half a cosine."""
    if done < _WARM_UP:
        return (done + 1e-3) / (_WARM_UP + 1e-3)
    return _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))) / 2


def _stored_config(settings: Path) -> TrainingConfig:
    try:
        return TrainingConfig.from_dict(json.loads(settings.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as problem:
        raise InputError(f"Start without --resume: {settings} holds no settings of a run ({problem}).") from problem


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
