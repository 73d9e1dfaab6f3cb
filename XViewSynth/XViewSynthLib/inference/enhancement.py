"""Enhance a scan: three views predict the missing slices, and a fusion network combines the predictions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import InputError, OutOfMemory
from ..geometry.orientation import to_slices
from ..geometry.volume import Axis, Volume, affine_column
from ..model.catalogue import Model, choose_model
from ..model.spline import to_hu
from ..progress import UNWATCHED, Monitor, Progress
from ..request import Request, Texture, make_request
from ..system.memory import is_out_of_memory
from . import uncertainty
from .hardware import memory_kept, peak_bytes
from .plan import Plan, make_plan, scan_facts
from .prediction import Work, predict
from .reconstruction import fuse, resampled, resampled_synthetic
from .reporter import Reporter
from .texture import MATCHED_NOTE, textured

# In-plane Gaussian over which the views' variance is averaged, pixels. This value has the highest rank correlation with
# the true error on scans of the training set.
_UNCERTAINTY_SIGMA = 1.5


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
    return carry_out(plan, volume, chosen, monitor=Monitor(progress, should_cancel))


def carry_out(
    plan: Plan, volume: Volume, model: Model, *, keep_views: bool = False, monitor: Monitor = UNWATCHED
) -> Enhanced:
    """Enhance a scan as planned.

    Args:
        plan: made by `make_plan` for this scan and model.
        volume: the scan.
        model: the model.
        keep_views: also return the prediction of each view.
        monitor: of progress and cancellation.

    Raises:
        InputError: there is too little memory, or a prediction is not finite.
        Cancelled: a stop was requested.
    """
    began = time.perf_counter()
    report = Reporter(plan, monitor)
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


def _carried_out(plan: Plan, volume: Volume, model: Model, keep_views: bool, report: Reporter) -> Enhanced:
    """The result of `carry_out`, without time and memory."""
    scan, order = to_slices(volume, plan.axis)
    with memory_kept():
        chosen = model.at_quality(plan.quality)
        prediction, variance, views = predict(scan, Work(scan_facts(volume, plan), chosen, plan, report), keep_views)
    check = report.check
    enhanced = fuse(scan, prediction, plan.factor, plan.profile, check, offset=plan.offset)
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
        return voxels if plan.resample_to is None else resampled(voxels, volume, plan, offset)

    def fused(view: str) -> np.ndarray:
        return fuse(scan, views[view], plan.factor, plan.profile, check, np.float32, plan.offset)

    enhanced, disagreement = on_grid(enhanced, plan.offset), on_grid(disagreement)
    expected = None if expected is None else on_grid(expected)
    grid = _resulting_volume(enhanced, volume, plan)
    result = Enhanced(
        volume=grid,
        disagreement=grid.with_voxels(disagreement),
        expected_error=None if expected is None else grid.with_voxels(expected),
        axis=plan.axis,
        factor=plan.factor,
        synthetic_slices=synthetic if plan.resample_to is None else resampled_synthetic(volume, plan),
        plan=plan,
        seconds=0.0,
        peak_memory_bytes=0,
        model=model,
        notes=plan.notes + report.notes,
        views={view: grid.with_voxels(on_grid(fused(view), plan.offset)) for view in views} if keep_views else None,
    )
    if plan.texture is Texture.MATCH:
        matched = textured(result, volume, check)
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


def _disagreement(variance: Tensor, observed: range, report: Reporter) -> np.ndarray:
    """Standard deviation of the views in HU, the shape of `variance`, float32; 0 on observed slices.

    The variance of three values is a poor estimate, so it is averaged over in-plane neighbours.
    """
    result = np.zeros(variance.shape, np.float32)
    for index in (index for index in range(len(result)) if index not in observed):
        result[index] = to_hu(uncertainty.smoothed(variance[index], _UNCERTAINTY_SIGMA).sqrt()).numpy()
        report.check()
    return result


def _expected_error(
    disagreement: np.ndarray,
    scan: np.ndarray,
    synthetic: tuple[int, ...],
    gap_mm: float,
    model: Model,
    plan: Plan,
    report: Reporter,
) -> np.ndarray | None:
    calibration = uncertainty.Calibration.from_card(model.card, plan.factor, plan.network_factor)
    if calibration is None:
        return None
    expected = uncertainty.expected_error(disagreement, scan, synthetic, gap_mm, plan, calibration, report.check)
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
