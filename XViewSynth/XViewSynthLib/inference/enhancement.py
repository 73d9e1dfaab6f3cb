"""Enhance a scan: three views predict the missing slices, and a fusion network combines the predictions."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import Cancelled, InputError, OutOfMemory
from ..geometry.constants import INTENSITY_RANGE, PADDING_BELOW
from ..geometry.grid import resampled_positions
from ..geometry.intensity import to_scalar_type
from ..geometry.interpolation import interpolation_weights, slices_used, weights_at
from ..geometry.orientation import to_slices
from ..geometry.slice_profile import SliceProfile, averaging_weights, correcting_weights, preserving_weights
from ..geometry.volume import Axis, Volume, affine_column, array_axis
from ..model.catalogue import Model, choose_model
from ..model.ensemble import Augmentation, augmentations
from ..model.network import VIEWS, ScanFacts, reading_weights, to_hu, to_network_units
from ..model.noise import noise_correlation
from ..progress import Progress
from ..request import Request, Texture, make_request
from ..system.memory import is_out_of_memory
from . import uncertainty
from .hardware import PRECISIONS, Arrival, memory_kept, peak_bytes, return_freed_memory
from .plan import Plan, gap_ratio, make_plan
from .texture import MATCHED_NOTE, textured

# The spline's weights fall by a factor of 3.7 a slice. Slices at larger distances do not change HU.
_SPLINE_REACH = 12
#: The network that combines the views, and their mean, to which it adds a correction.
FUSION, MEAN = "fusion", "mean"
# Views that are exchanged by a transposition of rows and columns.
_TRANSPOSED = {"coronal": "sagittal", "sagittal": "coronal"}
# While a GPU computes a tile, the one before is copied to the CPU and added up there.
_TILES_AHEAD = {"cuda": 1}
# In-plane Gaussian over which the views' variance is averaged, pixels. This value has the highest rank correlation with
# the true error on scans of the training set.
_UNCERTAINTY_SIGMA = 1.5
# Network units. Residuals of a CT are a thousand times smaller.
_LARGEST_RESIDUAL = 1000.0


@dataclass(frozen=True)
class Enhanced:
    """The result of `enhance`.

    Attributes:
        volume: the scan with its synthetic slices, of the input's scalar type.
        disagreement: float32 HU, on the same grid: standard deviation of the three views, smoothed in plane;
            0 on observed slices.
        expected_error: float32 HU, on the same grid: the absolute error to expect; 0 on observed slices and in padding.
            None if the model is not calibrated for the factor.
        axis: the axis that got more slices.
        factor: how many times more.
        synthetic_slices: indices along `axis` of the slices that were not observed; all for thick slices.
        plan: parameters of the enhancement, except for changes that `notes` report.
        seconds: time taken.
        peak_memory_bytes: most memory the process has held so far.
        model: the model that predicted the slices.
        notes: for the user, each a sentence.
        views: float32 volume in HU of each view ("axial", "coronal", "sagittal") if requested, else None. If the model
            has a fusion network, also their "mean".
    """

    volume: Volume
    disagreement: Volume
    expected_error: Volume | None
    axis: Axis
    factor: int
    synthetic_slices: tuple[int, ...]
    plan: Plan
    seconds: float
    peak_memory_bytes: int
    model: Model
    notes: tuple[str, ...]
    views: dict[str, Volume] | None = None

    @property
    def acquisition(self) -> str:
        """Acquisition of the slices: "gap" or "thick"."""
        return self.plan.acquisition

    @property
    def texture(self) -> Texture:
        """Whether synthetic slices have the noise of observed slices."""
        return self.plan.texture

    @property
    def model_label(self) -> str:
        """Name and version of the model."""
        return f"{self.model.name} {self.model.card['version']}"

    @property
    def model_sha256(self) -> str:
        """Checksum of the model's weights."""
        return self.model.sha256

    @property
    def uncertainty(self) -> Volume:
        """The uncertainty map, float32 HU on the same grid: the expected error.

        If the model is not calibrated for the factor, it is the disagreement, which shows where errors are likely, but
        not how large they are.
        """
        return self.expected_error or self.disagreement

    @property
    def doubt(self) -> Volume:
        """The former name of `uncertainty`."""
        return self.uncertainty

    def error_bound(self) -> Volume | None:
        """The 90 % bound of the absolute error, float32 HU, on the same grid.

        0 on observed slices and in padding. None if the model is not calibrated for the factor.
        """
        return None if self.expected_error is None else error_bound(self.expected_error, self.model, self.plan)


def enhance(
    volume: Volume,
    factor: int | None = None,
    *,
    model: str | os.PathLike[str] | Model | None = None,
    request: Request | None = None,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
    **options: Any,
) -> Enhanced:
    """Add the missing slices to a scan.

    Args:
        volume: the scan.
        factor: how many times closer the slices get, 2 to 8, in place of the request's.
        model: name or folder of a model, or a loaded one, in place of the request's.
        request: target and settings.
        progress: receives a `Progress` per step.
        should_cancel: called several times a second; true ends the work.
        options: further fields of `Request`, in place of the request's.

    Raises:
        InputError: the request is impossible, the scan cannot be enhanced, or there is too little memory.
        Cancelled: `should_cancel` returned true.
        TypeError: an option is no field of `Request`.

    Thin observed slices are kept bit for bit, unless the plan resamples. For thick ones, data consistency is enforced:
    the averages of the result are the input, within rounding and except for details that overlapping slices barely
    contain. Padding stays padding: a voxel between two padded ones is padded as well.
    """
    request = make_request(request, factor, model, **options)
    chosen = choose_model(volume, request, model)
    plan = make_plan(volume, chosen, request)
    return carry_out(plan, volume, chosen, progress=progress, should_cancel=should_cancel)


def carry_out(
    plan: Plan,
    volume: Volume,
    model: Model,
    *,
    keep_views: bool = False,
    progress: Callable[[Progress], None] | None = None,
    should_cancel: Callable[[], bool] | None = None,
) -> Enhanced:
    """Enhance a scan as planned.

    Args:
        plan: made by `make_plan` for this scan and model.
        volume: the scan.
        model: the model.
        keep_views: also return the prediction of each view.
        progress, should_cancel: as for `enhance`.

    Raises:
        InputError: there is too little memory, or a prediction is not finite.
        Cancelled: `should_cancel` returned true.
    """
    began = time.perf_counter()
    report = _Reporter(plan, progress, should_cancel)
    try:
        result = _carried_out(plan, volume, model, keep_views, report)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"There is not enough memory: enhancing by {plan.factor} takes about "
            f"{plan.expected_peak_bytes / 1e9:.1f} GB here, so close other programs, or crop the scan."
        ) from error
    return replace(result, seconds=time.perf_counter() - began, peak_memory_bytes=peak_bytes())


def _carried_out(plan: Plan, volume: Volume, model: Model, keep_views: bool, report: _Reporter) -> Enhanced:
    """The result of `carry_out`, without time and memory."""
    scan, order = to_slices(volume, plan.axis)
    with memory_kept():
        chosen = model.at_quality(plan.quality)
        prediction, variance, views = _run_passes(scan, _facts(volume, plan), chosen, plan, report, keep_views)
    enhanced = fuse(scan, prediction, plan.factor, plan.profile, report, offset=plan.offset)
    # Each volume is freed as soon as it is not needed.
    del prediction
    observed = _observed(len(enhanced), plan)
    disagreement = _disagreement(variance, observed, report)
    del variance
    synthetic = tuple(index for index in range(len(enhanced)) if index not in observed)
    expected = _expected_error(disagreement, scan, synthetic, volume.spacing_along(plan.axis), model, plan, report)

    def on_grid(slices: np.ndarray, offset: float = 0.0) -> np.ndarray:
        """(K, J, I) voxels of the result."""
        voxels = order.restore(slices)
        return voxels if plan.resample_to is None else _resampled(voxels, volume, plan, offset)

    enhanced, disagreement = on_grid(enhanced, plan.offset), on_grid(disagreement)
    expected = None if expected is None else on_grid(expected)
    grid = _resulting_volume(enhanced, volume, plan)
    result = Enhanced(
        volume=grid,
        disagreement=grid.with_voxels(disagreement),
        expected_error=None if expected is None else grid.with_voxels(expected),
        axis=plan.axis,
        factor=plan.factor,
        synthetic_slices=synthetic if plan.resample_to is None else _resampled_synthetic(volume, plan),
        plan=plan,
        seconds=0.0,
        peak_memory_bytes=0,
        model=model,
        notes=plan.notes + report.notes,
        views={
            view: grid.with_voxels(
                on_grid(fuse(scan, residual, plan.factor, plan.profile, report, np.float32, plan.offset), plan.offset)
            )
            for view, residual in views.items()
        }
        if keep_views
        else None,
    )
    if plan.texture is Texture.MATCH:
        matched = textured(result, volume, report.stop_if_requested)
        result = replace(result, volume=matched, notes=(*result.notes, MATCHED_NOTE))
    return result


def error_bound(expected_error: Volume, model: Model, plan: Plan) -> Volume | None:
    """As `Enhanced.error_bound`, from its expected error."""
    calibration = uncertainty.Calibration.from_card(model.card, plan.factor, plan.network_factor)
    if calibration is None:
        return None
    bound = np.empty(expected_error.voxels.shape, np.float32)
    # Plane by plane, since it computes in float64.
    for index, plane in enumerate(expected_error.voxels):
        bound[index] = _checked_error(calibration.error_bound(plane), model)
    return expected_error.with_voxels(bound)


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

    def add(self, others: _Predictions, augmentation: Augmentation, report: _Reporter) -> None:
        """Add the predictions for the transformed scan."""
        exchanged, volumes = _TRANSPOSED if augmentation.transposed else {}, others.volumes
        for name, total in self.volumes.items():
            prediction = volumes[exchanged.get(name, name)]
            # Slice by slice, to save the memory of a volume.
            for index in range(len(total)):
                total[index] += augmentation.inverse_slice(prediction, index)
                report.stop_if_requested()


class _Reporter:
    """Reports progress, handles stop requests, and collects notes."""

    def __init__(self, plan: Plan, progress: Callable | None, should_cancel: Callable | None):
        self._notes: dict[str, None] = {}
        self._progress, self._should_cancel = progress, should_cancel
        self._began, self._expected = time.perf_counter(), plan.expected_seconds

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes, each sentence once."""
        return tuple(self._notes)

    def note(self, sentence: str) -> None:
        self._notes[sentence] = None

    def stop_if_requested(self) -> None:
        if self._should_cancel is not None and self._should_cancel():
            raise Cancelled("Stopped; nothing was written.")

    def __call__(self, stage: str, done: int, total: int, fraction: float) -> None:
        """Report `done` of `total` steps of a stage, and that `fraction` of the whole work is done."""
        self.stop_if_requested()
        if self._progress is not None:
            elapsed = time.perf_counter() - self._began
            # The plan's estimate is gradually replaced by the measured speed.
            trust = min(1.0, 5 * fraction)
            whole = trust * elapsed / fraction + (1 - trust) * self._expected if fraction else self._expected
            self._progress(Progress(stage, done, total, max(0.0, whole - elapsed)))


def _observed(slices: int, plan: Plan) -> range:
    """Indices of observed slices in the result."""
    return range(0, slices, plan.factor) if plan.profile is None else range(0)


def _resulting_volume(voxels: np.ndarray, volume: Volume, plan: Plan) -> Volume:
    """The result with its place in the patient, from voxels (K, J, I)."""
    return replace(
        volume,
        voxels=voxels,
        affine=_resulting_affine(volume, plan),
        slice_thickness=_resulting_thickness(volume, plan),
        slice_axis=volume.through_plane_axis if plan.profile is None else plan.axis,
        synthetic=True,
        notes=(),
    )


def _resulting_thickness(volume: Volume, plan: Plan) -> float | None:
    """Thickness of the slices in mm: for thin slices that of the scan, for thick ones the planned thickness."""
    if plan.profile is None:
        return volume.slice_thickness
    return plan.overlap * volume.spacing_along(plan.axis) / plan.factor


def _resulting_affine(volume: Volume, plan: Plan) -> np.ndarray:
    """(4, 4) voxel indices of the result to RAS in mm."""
    if plan.resample_to is None:
        return volume.upsampled_affine(plan.axis, plan.factor)
    affine = volume.affine.copy()
    affine[:3, affine_column(plan.axis)] *= plan.resample_to / volume.spacing_along(plan.axis)
    return affine


def _facts(volume: Volume, plan: Plan) -> ScanFacts:
    return ScanFacts(gap_ratio(volume, plan.axis), plan.profile, overlap=torch.tensor([plan.network_overlap]))


def _run_passes(
    scan: np.ndarray, facts: ScanFacts, model: Model, plan: Plan, report: _Reporter, keep_views: bool
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Fused prediction, variance and views (see `_Predictions`), interpolated to the target slices."""
    _, rows, columns = scan.shape
    observed = _in_network_units(scan, plan.offset)
    if model.network.answering(plan.network_factor).likeness:
        facts = replace(facts, likeness=noise_correlation(observed[None]))
    _, *others = augmentations(plan.quality)
    passes = 1 + len(others)
    total = _run_once(observed, facts, model, plan, report, keep_views, (0, passes))
    for index, augmentation in enumerate(others, 1):
        predictions = _run_once(augmentation.apply(observed), facts, model, plan, report, keep_views, (index, passes))
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


def _in_network_units(scan: np.ndarray, offset: float) -> Tensor:
    """(slices, even rows, even columns) in network units. The networks process blocks of two by two pixels."""
    slices, rows, columns = scan.shape
    observed = torch.empty(slices, rows + rows % 2, columns + columns % 2)
    # Slice by slice, to save the memory of a volume.
    for plane, whole in zip(scan, observed, strict=True):
        hu = torch.from_numpy(np.array(plane, np.float32, order="C")) - offset
        padding = (0, columns % 2, 0, rows % 2)
        whole[:] = torch.nn.functional.pad(to_network_units(hu)[None], padding, mode="replicate")[0]
    return observed


def _interpolated(prediction: Tensor, plan: Plan, linear: bool, report: _Reporter) -> Tensor:
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
        report.stop_if_requested()
    return result


def _run_once(
    observed: Tensor,
    facts: ScanFacts,
    model: Model,
    plan: Plan,
    report: _Reporter,
    keep_views: bool,
    turn: tuple[int, int],
) -> _Predictions:
    """Predictions of one pass over the scan. `turn` is the number of earlier passes, and that of all passes."""
    predictions: dict[str, Tensor] = {}
    names = VIEWS if model.network.answering(plan.network_factor).fusion is None else (*VIEWS, FUSION)
    before, passes = turn
    which = "" if passes == 1 else f", pass {before + 1} of {passes}"
    for index, name in enumerate(names):
        prediction = torch.zeros(plan.network_factor * (len(observed) - 1) + 1, *observed.shape[1:])
        views = list(predictions.values())
        for part, residual, done, whole in _predict(name, observed, views, facts, model, plan, report):
            _add(prediction, part, residual, plan.network_factor)
            report(_title(name) + which, done, whole, (before + (index + done / whole) / len(names)) / passes)
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


def _joined(views: list[Tensor], correction: Tensor | None, report: _Reporter) -> tuple[Tensor, Tensor]:
    """The corrected mean of the views, and their variance. Overwrites the first two views."""
    fused, variance = views[:2]
    # Slice by slice, to save the memory of a volume.
    for index in range(len(fused)):
        stacked = torch.stack([view[index] for view in views])
        mean = stacked.mean(dim=0)
        # torch.var takes 40 times as long over the first dimension.
        variance[index] = stacked.sub_(mean).square_().mean(dim=0)
        fused[index] = mean if correction is None else mean.add_(correction[index])
        report.stop_if_requested()
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


def _predict(
    name: str,
    observed: Tensor,
    views: list[Tensor],
    facts: ScanFacts,
    model: Model,
    plan: Plan,
    report: _Reporter,
) -> Iterator[tuple[tuple[slice, ...], Tensor, int, int]]:
    """Yield tiles: place in (gaps, positions, rows, columns), prediction on the CPU, planes done, and all planes.

    `name` is a view, or the fusion of all `views`. If a GPU runs out of memory, tiles become smaller. If even the
    smallest does not fit, the CPU takes over. If a tile diverges in reduced precision (NaN or infinity), this tile and
    all further ones are computed in fp32.

    Raises:
        InputError: the model predicts NaN, infinity or values that are no HU.
    """
    slices, rows, columns = observed.shape
    everything = slice(None)
    dimension, whole, cost, least = {
        "axial": (0, slices - 1, rows * columns, 1),
        FUSION: (0, slices - 1, rows * columns, 1),
        "coronal": (2, rows, slices * columns, 2),
        "sagittal": (3, columns, slices * rows, 2),
    }[name]
    tile = max(least, plan.tile_voxels // cost // least * least)
    device, precision = torch.device(plan.device), plan.precision
    worker = _title(name)
    placed, done = None, 0
    underway: deque[tuple[tuple[slice, ...], Arrival, int]] = deque()
    while done < whole:
        part = slice(done, min(done + tile, whole))
        report.stop_if_requested()
        try:
            with _inference(device, precision):
                if placed is None:
                    network = model.network.placed_on(device)
                    facts = facts.to(device)
                    placed = observed[None].to(device)
                if name == FUSION:
                    stacked = torch.stack([_in_gaps(view, part, plan) for view in views])[:, None].to(device)
                    predicted = network.correction(placed, stacked, plan.network_factor, facts, part)
                else:
                    predicted = network.residual(name, placed, plan.network_factor, facts, part)
                arrival = Arrival(predicted[0].float())
                del predicted
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if tile > least:
                tile = max(least, tile // 2 // least * least)
                report.note(f"The {device.type} device ran out of memory: tiles of the {worker} were halved.")
            elif device.type != "cpu":
                device, precision, placed = torch.device("cpu"), "fp32", None
                report.note(f"The GPU has too little memory for the {worker}: the CPU took over.")
            else:
                raise
            continue
        done = part.stop
        cut = [everything] * 4
        cut[dimension] = part
        underway.append((tuple(cut), arrival, done))
        while underway and (len(underway) > _TILES_AHEAD.get(device.type, 0) or done == whole):
            place, arrival, arrived = underway.popleft()
            residual = arrival.wait()
            del arrival
            if not _is_plausible(residual):
                if precision == "fp32":
                    raise InputError(
                        f"Choose another model: {model.name} predicts values that are no HU (NaN, infinite or beyond "
                        "any tissue)."
                    )
                report.note(f"The {worker} was computed in fp32, as {precision} left its range.")
                precision, done = "fp32", place[dimension].start
                underway.clear()
                break
            yield place, residual, arrived, whole
            if device.type == "cpu":
                return_freed_memory()


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


@contextmanager
def _inference(device: torch.device, precision: str) -> Iterator[None]:
    reduced = precision != "fp32"
    with (
        torch.inference_mode(),
        torch.autocast(device.type, PRECISIONS[precision] if reduced else None, enabled=reduced),
    ):
        yield


def fuse(
    scan: np.ndarray,
    residual: Tensor,
    factor: int,
    profile: SliceProfile | None = None,
    report: _Reporter | None = None,
    dtype: np.dtype | type | None = None,
    offset: float = 0.0,
) -> np.ndarray:
    """Add the residual to the spline, and enforce data consistency.

    Thin observed slices do not change. The averages of thick ones are kept. If two neighbouring voxels both lie at or
    beyond the end of the range of the scalar type or of the networks, the spline is the result between them: the
    networks do not see such values.

    Args:
        scan: (slices, rows, columns) observed.
        residual: (s (slices - 1) + 1, rows, columns) float32, network units; set to 0 where the spline is the result.
        factor: up-sampling factor s.
        profile: of thick slices, else None.
        report: `_Reporter` of the work.
        dtype: scalar type of the result; default is that of `scan`.
        offset: of the scan's numbers above HU.

    Returns:
        (s (slices - 1) + 1, rows, columns), with the same offset.
    """
    slices, rows, columns = scan.shape
    result = np.empty(residual.shape, dtype or scan.dtype)
    _keep_spline(scan, residual, factor, offset)
    # The spline must not ring at the border of the padding, and no prediction may leave the range of the scan. Averages
    # have a narrower range than thin slices, so there the limits are those of the networks.
    lowest, highest = max(float(scan.min()), INTENSITY_RANGE[0] + offset), float(scan.max())
    if profile is None:
        weights, consistency = interpolation_weights(slices, factor, "cubic"), None
    else:
        weights = preserving_weights(slices, factor, profile)
        lowest, highest = INTENSITY_RANGE[0] + offset, max(highest, INTENSITY_RANGE[1] + offset)
        consistency = _DataConsistency(scan, residual, factor, profile, weights, lowest)

    @lru_cache(maxsize=1)
    def around(gap: int) -> tuple[slice, np.ndarray]:
        """The observed slices that contribute to a gap and its ends: indices, and voxels (slices, rows columns)."""
        near = slices_used(weights[gap * factor : (gap + 1) * factor + 1])
        return near, _clipped(scan[near], lowest).reshape(-1, rows * columns)

    for index in range(len(result)):
        below, above, position = index // factor, -(-index // factor), index % factor / factor
        if profile is None and below == above:
            result[index] = scan[below]
            continue
        near, source = around(min(below, slices - 2))
        prediction = (weights[index, near] @ source).reshape(rows, columns) + to_hu(residual[index]).numpy()
        if consistency is not None:
            prediction -= consistency.at(index)
        prediction = prediction.clip(lowest, highest)
        result[index] = _with_padding(prediction, scan[below], scan[above], position, result.dtype, offset)
        if report is not None:
            report.stop_if_requested()
    return result


def _keep_spline(scan: np.ndarray, residual: Tensor, factor: int, offset: float) -> None:
    """Set the residual to 0, in place, between neighbours that both lie at or beyond one end of the range."""
    limits = np.iinfo(scan.dtype) if scan.dtype.kind in "iu" else np.finfo(scan.dtype)
    lowest = max(float(limits.min), INTENSITY_RANGE[0] + offset)
    highest = min(float(limits.max), INTENSITY_RANGE[1] + offset)

    def ends(number: int) -> tuple[np.ndarray, np.ndarray]:
        return scan[number] <= lowest, scan[number] >= highest

    slices = residual.numpy()
    below = ends(0)
    slices[0][below[0] | below[1]] = 0
    for gap in range(len(scan) - 1):
        above = ends(gap + 1)
        outside = (below[0] & above[0]) | (below[1] & above[1])
        for index in range(gap * factor + 1, (gap + 1) * factor):
            slices[index][outside] = 0
        slices[(gap + 1) * factor][above[0] | above[1]] = 0
        below = above


def _clipped(slices: np.ndarray, lowest: float) -> np.ndarray:
    slices = slices.astype(np.float32)
    return slices.clip(min=lowest, out=slices)


class _DataConsistency:
    """Correction of thin slices that makes their averages equal to the observed thick slices.

    Args:
        scan: (slices, rows, columns) observed.
        residual: (s (slices - 1) + 1, rows, columns) float32, network units.
        factor: up-sampling factor s.
        profile: of the observed slices.
        spline: (s (slices - 1) + 1, slices), weights of the spline to which the residual is added.
        lowest: lower values of the scan are clipped to this.
    """

    def __init__(
        self,
        scan: np.ndarray,
        residual: Tensor,
        factor: int,
        profile: SliceProfile,
        spline: np.ndarray,
        lowest: float,
    ):
        slices = len(scan)
        averages = averaging_weights(slices, factor, profile)
        self._weights = correcting_weights(slices, factor, profile)
        # The averages of the spline, which differ from the scan if slices overlap.
        spline = averages @ spline - np.eye(slices, dtype=np.float32)
        self._averages = np.empty(scan.shape, np.float32)
        for index, (row, by_slice) in enumerate(zip(averages, spline)):
            near, close = slices_used(row), slices_used(by_slice)
            self._averages[index] = np.tensordot(row[near], to_hu(residual[near]).numpy(), axes=1)
            self._averages[index] += np.tensordot(by_slice[close], _clipped(scan[close], lowest), axes=1)

    def at(self, index: int) -> np.ndarray:
        """(rows, columns) HU, to subtract from thin slice `index`."""
        near = slices_used(self._weights[index])
        return np.tensordot(self._weights[index, near], self._averages[near], axes=1)


def _with_padding(
    prediction: np.ndarray, below: np.ndarray, above: np.ndarray, position: float, dtype: np.dtype, offset: float
) -> np.ndarray:
    """The prediction in a scalar type. A voxel between two padded ones gets the value of the nearer."""
    padded = (below < PADDING_BELOW + offset) & (above < PADDING_BELOW + offset)
    prediction = to_scalar_type(prediction, dtype)
    np.copyto(prediction, below if position <= 0.5 else above, where=padded, casting="unsafe")
    return prediction


def _disagreement(variance: Tensor, observed: range, report: _Reporter) -> np.ndarray:
    """Standard deviation of the views in HU, the shape of `variance`, float32; 0 on observed slices.

    The variance of three values is a poor estimate, so it is averaged over in-plane neighbours.
    """
    result = np.zeros(variance.shape, np.float32)
    for index in (index for index in range(len(result)) if index not in observed):
        result[index] = to_hu(uncertainty.smoothed(variance[index], _UNCERTAINTY_SIGMA).sqrt()).numpy()
        report.stop_if_requested()
    return result


def _expected_error(
    disagreement: np.ndarray,
    scan: np.ndarray,
    synthetic: tuple[int, ...],
    gap_mm: float,
    model: Model,
    plan: Plan,
    report: _Reporter,
) -> np.ndarray | None:
    calibration = uncertainty.Calibration.from_card(model.card, plan.factor, plan.network_factor)
    if calibration is None:
        return None
    expected = uncertainty.expected_error(
        disagreement, scan, synthetic, gap_mm, plan, calibration, report.stop_if_requested
    )
    for plane in expected:
        _checked_error(plane, model)
    return expected


def _checked_error(errors: np.ndarray, model: Model) -> np.ndarray:
    """The errors, if they are finite.

    Raises:
        InputError: the calibration of the model gives NaN or infinity.
    """
    if not np.isfinite(errors).all():
        raise InputError(f"Choose another model: the errors on the card of {model.name} are too large.")
    return errors


def _resampled_at(volume: Volume, plan: Plan) -> np.ndarray:
    """Positions of the slices of a resampled result, counted in enhanced slices."""
    assert plan.resample_to is not None
    step = volume.spacing_along(plan.axis)
    return resampled_positions(volume.slices(plan.axis), plan.factor, step, plan.resample_to)


def _resampled_synthetic(volume: Volume, plan: Plan) -> tuple[int, ...]:
    """Indices of the slices of a resampled result that do not lie where thin ones were observed."""
    observed = _resampled_at(volume, plan) / plan.factor
    on_observed = np.isclose(observed, np.round(observed), rtol=0, atol=1e-6) & (plan.profile is None)
    return tuple(int(index) for index in np.flatnonzero(~on_observed))


def _resampled(voxels: np.ndarray, volume: Volume, plan: Plan, offset: float) -> np.ndarray:
    """(K, J, I) voxels on slices `plan.resample_to` mm apart, from enhanced ones that lie `offset` above HU."""
    dimension = array_axis(plan.axis)
    slices, positions = np.moveaxis(voxels, dimension, 0), _resampled_at(volume, plan)
    result = np.empty((len(positions), *slices.shape[1:]), slices.dtype)
    for index, position in enumerate(positions):
        result[index] = _slice_at(slices, position, offset)
    return np.moveaxis(result, 0, dimension)


def _slice_at(slices: np.ndarray, position: float, offset: float) -> np.ndarray:
    """The slice at a fractional position in (slices, rows, columns), by the cubic spline."""
    nearest = round(position)
    if abs(position - nearest) < 1e-6:
        return slices[nearest]
    below = int(position)
    first = max(0, below - _SPLINE_REACH)
    near = slices[first : below + 2 + _SPLINE_REACH]
    lowest = max(float(near.min()), INTENSITY_RANGE[0] + offset)
    weights = weights_at(len(near), position - first, "cubic")
    prediction = np.tensordot(weights, _clipped(near, lowest), axes=1).clip(lowest, float(near.max()))
    return _with_padding(prediction, slices[below], slices[below + 1], position - below, slices.dtype, offset)
