"""Held-out scans, and the gain of a network over interpolation on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from XViewSynthLib.errors import InputError
from XViewSynthLib.evaluation import metrics
from XViewSynthLib.evaluation.selfcheck import Trial, drop_slices
from XViewSynthLib.geometry import interpolation
from XViewSynthLib.geometry.orientation import to_slices
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.inference.enhancement import carry_out
from XViewSynthLib.inference.plan import Plan, make_plan
from XViewSynthLib.io.writing import write_volume
from XViewSynthLib.model.catalogue import Model
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthLib.progress import UNWATCHED, Monitor
from XViewSynthLib.system.outputs import Outputs

from .regions import middle_of

#: Voxels for the frequent evaluations, and for the two final ones; all scans and factors together.
WATCHED_VOXELS, VERDICT_VOXELS = 1_500_000, 40_000_000
_FEWEST_PIXELS = 32


@dataclass(frozen=True)
class Gain:
    """Gain in PSNR on the dropped slices, dB, mean over the scans, measured with `metrics.score`."""

    over_linear_db: float
    over_cubic_db: float
    over_better_db: float


def mean_gain(gains: dict[int, Gain]) -> float:
    """The criterion of a run: the mean gain over the better interpolation, dB."""
    return float(np.mean([gain.over_better_db for gain in gains.values()]))


@dataclass(frozen=True, eq=False)
class _Task:
    trial: Trial
    plan: Plan
    counted: np.ndarray
    linear_db: float
    cubic_db: float


class HeldOut:
    """Thinned held-out scans, and the evaluation of networks that restore them.

    Args:
        scans: at least one; the training must use neither them nor other scans of their patients.
        factors: of the thinning. For a model of thick slices, slices are averaged. Factors that are too large for a
            scan are skipped for that scan.
        card: of the model whose networks are evaluated.
        device: of the networks.
        most_voxels: limit of all scans and factors together; slices are cropped to their middle to stay below.

    Raises:
        InputError: a scan cannot be enhanced, or all are too short for every factor.
    """

    def __init__(
        self,
        scans: Sequence[Volume],
        factors: Sequence[int],
        card: dict,
        device: str,
        most_voxels: int = WATCHED_VOXELS,
    ):
        self._card, self._device = card, device
        self._untrained = self._model(ThreeViewNetwork(**card["network"]).eval())
        slices = sum(scan.slices(scan.through_plane_axis) for scan in scans) * len(factors)
        pixels = max(_FEWEST_PIXELS, math.isqrt(most_voxels // slices) // 2 * 2)
        self._tasks: dict[int, list[_Task]] = {}
        refusal: InputError | None = None
        for factor in factors:
            for scan in scans:
                try:
                    middle = middle_of(scan, scan.through_plane_axis, pixels)
                    trial = drop_slices(middle, factor, acquisition=card["acquisition"])
                except InputError as error:
                    refusal = error
                    continue
                self._tasks.setdefault(factor, []).append(self._prepare(trial))
        if not self._tasks:
            raise InputError(f"Hold out other scans or more slices: {refusal}")

    @property
    def factors(self) -> list[int]:
        """The factors of the evaluation."""
        return sorted(self._tasks)

    def evaluate(self, network: ThreeViewNetwork, monitor: Monitor = UNWATCHED) -> dict[int, Gain]:
        """The gain of a network at every factor; deterministic.

        Raises:
            Cancelled: a stop was requested.
        """
        return {
            factor: _mean([self._gain(task, network, monitor) for task in self._tasks[factor]])
            for factor in self.factors
        }

    def _prepare(self, trial: Trial) -> _Task:
        reference = trial.reference
        counted = reference.in_view & reference.is_new[:, None, None]
        linear, cubic = (
            _psnr(trial, counted, interpolation.upsample(trial.observed, trial.factor, trial.axis, method))
            for method in ("linear", "cubic")
        )
        plan = make_plan(
            trial.observed,
            self._untrained,
            factor=trial.factor,
            axis=trial.axis,
            new_thickness=trial.new_thickness(self._untrained),
            device=self._device,
            precision="fp32",
        )
        return _Task(trial, plan, counted, linear, cubic)

    def restore_example(self, network: ThreeViewNetwork) -> Volume:
        """The result of a network for the first scan at the first factor."""
        return self._restore(self._tasks[self.factors[0]][0], network, UNWATCHED)

    @property
    def example(self) -> Trial:
        """The first scan at the first factor: thinned scan and truth."""
        return self._tasks[self.factors[0]][0].trial

    def _model(self, network: ThreeViewNetwork) -> Model:
        return Model(self._card["name"], Path(), self._card, "", network)

    def _gain(self, task: _Task, network: ThreeViewNetwork, monitor: Monitor) -> Gain:
        reached = _psnr(task.trial, task.counted, self._restore(task, network, monitor))
        over_linear, over_cubic = reached - task.linear_db, reached - task.cubic_db
        return Gain(over_linear, over_cubic, min(over_linear, over_cubic))

    def _restore(self, task: _Task, network: ThreeViewNetwork, monitor: Monitor) -> Volume:
        return carry_out(task.plan, task.trial.observed, self._model(network), monitor=monitor).volume


def write_example(held_out: HeldOut, folder: Path) -> None:
    """Write truth and thinned scan of the example as `truth.nrrd` and `observed.nrrd` into a folder.

    Both are on the grid of the truth: every observed slice is repeated up to the middle of the gap.

    Raises:
        InputError: the folder cannot be written to.
    """
    trial = held_out.example
    truth = trial.reference.volume
    observed, order = to_slices(trial.observed, trial.axis)
    nearest = (np.arange(truth.slices(trial.axis)) + trial.factor // 2) // trial.factor
    write_preview(truth, folder, "truth")
    write_preview(truth.with_voxels(order.restore(observed[nearest])), folder, "observed")


def write_preview(volume: Volume, folder: Path, name: str) -> None:
    """Write a volume as `name`.nrrd, atomically.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder.mkdir(exist_ok=True)
    with Outputs(overwrite=True) as outputs:
        write_volume(volume, outputs.add(folder / f"{name}.nrrd"))
        outputs.commit()


def _psnr(trial: Trial, counted: np.ndarray, restored: Volume) -> float:
    candidate = metrics.candidate_slices(trial.reference, restored)
    return metrics.psnr_db(trial.reference.slices, candidate, counted)


def _mean(gains: Sequence[Gain]) -> Gain:
    return Gain(*np.mean([astuple(gain) for gain in gains], axis=0).tolist())
