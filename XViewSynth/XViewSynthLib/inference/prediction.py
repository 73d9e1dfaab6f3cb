"""Prediction of the missing slices: every network, tile by tile, in one or several passes over the scan."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..model.catalogue import Model
from ..model.ensemble import Augmentation, augmentations
from ..model.network import VIEWS, ScanFacts
from ..model.noise import noise_correlation
from ..model.spline import in_network_units, reading_weights
from ..system.memory import is_out_of_memory
from .hardware import Arrival, return_freed_memory
from .plan import Plan
from .reporter import Reporter
from .trial import inference

#: The network that combines the views, and their mean, to which it adds a correction.
FUSION, MEAN = "fusion", "mean"
# Views that are exchanged by a transposition of rows and columns.
_TRANSPOSED = {"coronal": "sagittal", "sagittal": "coronal"}
# While a GPU computes a tile, the one before is copied to the CPU and added up there.
_TILES_AHEAD = {"cuda": 1}
# Network units. Residuals of a CT are a thousand times smaller.
_LARGEST_RESIDUAL = 1000.0


@dataclass(frozen=True)
class Work:
    """What all predictions for one scan share.

    Attributes:
        facts: properties of the scan.
        model: the model, at the quality of the plan.
        plan: parameters of the enhancement.
        report: receives progress and notes.
    """

    facts: ScanFacts
    model: Model
    plan: Plan
    report: Reporter


@dataclass(frozen=True)
class _Predictions:
    """Predicted residuals of the spline, in network units: (s gaps + 1, rows, columns) float32.

    0 on thin observed slices. For several passes, the mean.

    Attributes:
        fused: prediction of the fusion network, or the mean of the views if there is none.
        variance: of the views about their mean.
        views: prediction of each view if requested; also their mean if there is a fusion network.
    """

    fused: Tensor
    variance: Tensor
    views: dict[str, Tensor]

    @property
    def volumes(self) -> dict[str, Tensor]:
        return {"fused": self.fused, "variance": self.variance, **self.views}

    def add(self, others: _Predictions, augmentation: Augmentation, report: Reporter) -> None:
        """Add the predictions for the transformed scan."""
        exchanged, volumes = _TRANSPOSED if augmentation.transposed else {}, others.volumes
        for name, total in self.volumes.items():
            prediction = volumes[exchanged.get(name, name)]
            # Slice by slice, to save the memory of a volume.
            for index in range(len(total)):
                total[index] += augmentation.inverse_slice(prediction, index)
                report.check()


def predict(scan: np.ndarray, work: Work, keep_views: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Fused prediction, variance and views (see `_Predictions`), interpolated to the target slices."""
    _, rows, columns = scan.shape
    plan, report = work.plan, work.report
    observed = in_network_units(scan, plan.offset)
    if work.model.network.network_for(plan.network_factor).likeness:
        work = replace(work, facts=replace(work.facts, likeness=noise_correlation(observed[None])))
    _, *others = augmentations(plan.quality)
    passes = 1 + len(others)
    total = _run_once(observed, work, keep_views, (0, passes))
    for index, augmentation in enumerate(others, 1):
        predictions = _run_once(augmentation.apply(observed), work, keep_views, (index, passes))
        total.add(predictions, augmentation, report)
        # Free the memory before the next pass.
        del predictions
    if passes > 1:
        for volume in total.volumes.values():
            volume /= passes

    def at_target(prediction: Tensor, linear: bool = False) -> Tensor:
        return _interpolated(prediction[:, :rows, :columns], plan, linear, report)

    kept = {name: at_target(view) for name, view in total.views.items()}
    # Linear interpolation of variances gives no negative values.
    return at_target(total.fused), at_target(total.variance, linear=True), kept


def _interpolated(prediction: Tensor, plan: Plan, linear: bool, report: Reporter) -> Tensor:
    """Interpolate predicted slices to the positions of the target slices, if the networks have another factor."""
    predicted_factor, factor = plan.network_factor, plan.factor
    if predicted_factor == factor:
        return prediction
    gaps = len(prediction) // predicted_factor
    weights = torch.from_numpy(reading_weights(predicted_factor, factor, linear=linear).copy())
    result = torch.zeros(gaps * factor + 1, *prediction.shape[1:])
    for gap in range(gaps):
        predicted = prediction[gap * predicted_factor + 1 : (gap + 1) * predicted_factor]
        result[gap * factor + 1 : (gap + 1) * factor] = torch.tensordot(weights, predicted, dims=1)
        report.check()
    return result


def _run_once(observed: Tensor, work: Work, keep_views: bool, turn: tuple[int, int]) -> _Predictions:
    """Predictions of one pass over the scan. `turn` is the number of earlier passes, and that of all passes."""
    plan, report, predictions = work.plan, work.report, dict[str, Tensor]()
    names = VIEWS if work.model.network.network_for(plan.network_factor).fusion is None else (*VIEWS, FUSION)
    before, passes = turn
    which = "" if passes == 1 else f", pass {before + 1} of {passes}"
    for index, name in enumerate(names):
        prediction = torch.zeros(plan.network_factor * (len(observed) - 1) + 1, *observed.shape[1:])
        tiles = _Tiles(name, observed, list(predictions.values()), work)
        for part, residual, done in tiles:
            _add(prediction, part, residual, plan.network_factor)
            fraction = (before + (index + done / tiles.planes) / len(names)) / passes
            report.step(_title(name) + which, done, tiles.planes, fraction)
        if plan.profile is not None:
            # Slices between two gaps have two predictions.
            prediction[plan.network_factor : -1 : plan.network_factor] /= 2
        predictions[name] = prediction
    views = [predictions[view] for view in VIEWS]
    kept = {}
    if keep_views:
        kept = dict(zip(VIEWS, (view.clone() for view in views), strict=True))
        if FUSION in predictions:
            kept[MEAN] = torch.stack(views).mean(dim=0)
    return _Predictions(*_joined(views, predictions.get(FUSION), report), kept)


def _joined(views: list[Tensor], correction: Tensor | None, report: Reporter) -> tuple[Tensor, Tensor]:
    """The corrected mean of the views, and their variance. Overwrites the first two views."""
    fused, variance = views[:2]
    # Slice by slice, to save the memory of a volume.
    for index in range(len(fused)):
        stacked = torch.stack([view[index] for view in views])
        mean = stacked.mean(dim=0)
        # torch.var takes 40 times as long over the first dimension.
        variance[index] = stacked.sub_(mean).square_().mean(dim=0)
        fused[index] = mean if correction is None else mean.add_(correction[index])
        report.check()
    return fused, variance


def _add(slices: Tensor, part: tuple[slice, ...], residual: Tensor, factor: int) -> None:
    """Add the residual of a tile (gaps, s - 1 or s + 1, rows, columns) to its part of (s gaps + 1, rows, columns)."""
    gaps, _, rows, columns = part
    # Each gap with the observed slice at its beginning. The slice at its end is added separately.
    begun = slices[:-1].unflatten(0, (-1, factor))[gaps, :, rows, columns]
    if residual.shape[1] < factor:
        begun[:, 1:] += residual
    else:
        begun += residual[:, :-1]
        slices[factor::factor][gaps, rows, columns] += residual[:, -1]


class _Tiles:
    """The tiles of one network.

    If a GPU runs out of memory, tiles become smaller. If even the smallest does not fit, the CPU takes over. If a tile
    diverges in reduced precision (NaN or infinity), this tile and all further ones are computed in fp32.

    Args:
        name: a view, or the fusion of all `views`.
        observed: (slices, rows, columns) in network units.
        views: predictions of the views, if `name` is the fusion.
        work: what all predictions share.
    """

    def __init__(self, name: str, observed: Tensor, views: list[Tensor], work: Work):
        self._name, self._observed, self._views, self._work = name, observed, views, work
        slices, rows, columns = observed.shape
        # Dimension of (gaps, positions, rows, columns) to cut, its planes, voxels of a plane, fewest planes of a tile.
        self._dimension, self.planes, cost, self._least = {
            "axial": (0, slices - 1, rows * columns, 1),
            FUSION: (0, slices - 1, rows * columns, 1),
            "coronal": (2, rows, slices * columns, 2),
            "sagittal": (3, columns, slices * rows, 2),
        }[name]
        self._tile = self._at_least(work.plan.tile_voxels // cost)
        self._device, self._precision = torch.device(work.plan.device), work.plan.precision
        self._placed: tuple[Tensor, ScanFacts] | None = None

    def __iter__(self) -> Iterator[tuple[tuple[slice, ...], Tensor, int]]:
        """Yield place in (gaps, positions, rows, columns), prediction on the CPU, and planes done.

        Raises:
            InputError: the model predicts NaN, infinity or values that are no HU.
        """
        done = 0
        underway: deque[tuple[slice, Arrival]] = deque()
        while done < self.planes:
            part = slice(done, min(done + self._tile, self.planes))
            self._work.report.check()
            try:
                underway.append((part, self._computed(part)))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or not self._use_less_memory():
                    raise
                continue
            done = part.stop
            while underway and (len(underway) > _TILES_AHEAD.get(self._device.type, 0) or done == self.planes):
                part, arrival = underway.popleft()
                residual = arrival.wait()
                del arrival
                if not _is_plausible(residual):
                    self._use_fp32()
                    done = part.start
                    underway.clear()
                    break
                place = [slice(None)] * 4
                place[self._dimension] = part
                yield tuple(place), residual, part.stop
                if self._device.type == "cpu":
                    return_freed_memory()

    def _computed(self, part: slice) -> Arrival:
        with inference(self._device, self._precision):
            network, plan = self._work.model.network, self._work.plan
            if self._placed is None:
                network.placed_on(self._device)
                self._placed = self._observed[None].to(self._device), self._work.facts.to(self._device)
            placed, facts = self._placed
            if self._name == FUSION:
                stacked = torch.stack([_in_gaps(view, part, plan) for view in self._views])[:, None].to(self._device)
                predicted = network.correction(placed, stacked, plan.network_factor, facts, part)
            else:
                predicted = network.residual(self._name, placed, plan.network_factor, facts, part)
            return Arrival(predicted[0].float())

    def _use_less_memory(self) -> bool:
        """Make tiles smaller, or else compute on the CPU; False if this is already so."""
        report, title = self._work.report, _title(self._name)
        if self._tile > self._least:
            self._tile = self._at_least(self._tile // 2)
            report.note(f"The {self._device.type} device ran out of memory: tiles of the {title} were halved.")
        elif self._device.type != "cpu":
            self._device, self._precision, self._placed = torch.device("cpu"), "fp32", None
            report.note(f"The GPU has too little memory for the {title}: the CPU took over.")
        else:
            return False
        return True

    def _use_fp32(self) -> None:
        if self._precision == "fp32":
            raise InputError(
                f"Choose another model: {self._work.model.name} predicts values that are no HU (NaN, infinite or "
                "beyond any tissue)."
            )
        self._work.report.note(f"The {_title(self._name)} was computed in fp32, as {self._precision} left its range.")
        self._precision = "fp32"

    def _at_least(self, planes: int) -> int:
        return max(self._least, planes // self._least * self._least)


def _is_plausible(residual: Tensor) -> bool:
    least, greatest = torch.aminmax(residual)  # returns NaN if there is one, and every comparison with NaN is false
    return bool(least >= -_LARGEST_RESIDUAL) and bool(greatest <= _LARGEST_RESIDUAL)


def _title(name: str) -> str:
    """The name of a network for users."""
    return name if name == FUSION else f"{name} view"


def _in_gaps(prediction: Tensor, gaps: slice, plan: Plan) -> Tensor:
    """Part of a prediction (s gaps + 1, rows, columns) in some gaps, as input of `ThreeViewNetwork.correction`."""
    if plan.profile is not None:
        return prediction[gaps.start * plan.network_factor : gaps.stop * plan.network_factor + 1]
    return prediction[:-1].unflatten(0, (-1, plan.network_factor))[gaps, 1:]
