"""Self-check: drops slices of a scan, predicts them, and compares the result with the dropped slices."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..geometry import interpolation
from ..geometry.acquisition import Acquisition, average, cut_to_factor, remedy_for_too_few, slices_left, thin
from ..geometry.checks import MINIMUM_SLICES, check_enhanceable
from ..geometry.intensity import in_hu
from ..geometry.slice_profile import OVERLAP_RANGE, SliceProfile
from ..geometry.volume import Axis, Volume
from ..progress import UNWATCHED, Monitor, Progress, Report
from ..report import describe_geometry
from ..request import SELF_CHECK, AcquisitionChoice, AxisChoice, Request, make_request
from .metrics import Reference, disagreement_correlation, finite_or_none, make_reference, score

if TYPE_CHECKING:
    from ..inference.enhancement import Enhanced
    from ..inference.plan import Plan
    from ..model.catalogue import Model

DEFAULT_FACTOR = 2
ENHANCED, TEXTURED = "enhanced", "textured"
GAINS = ("gain_over_linear_db", "gain_over_cubic_db", "gain_over_better_db")

# For the estimate of the time left before the first measurement.
_MEASURING_SECONDS_PER_VOXEL = 2e-7
_MEMORY_SAMPLING_SECONDS = 0.02


@dataclass(frozen=True)
class Thinning:
    """How scans are thinned.

    Attributes:
        factors: 2 to 8, each for a thinned scan.
        axis: along which slices are dropped, "auto" for the axis they were acquired along.
        acquisition: "gap" to drop slices, "thick" to average them.
    """

    factors: Sequence[int]
    axis: str = "auto"
    acquisition: Acquisition = "gap"


@dataclass(frozen=True, eq=False)
class Trial:
    """A thinned scan with its truth.

    Attributes:
        observed: the thinned scan: every `factor`-th slice, or averages at that distance.
        reference: the truth, and masks of the voxels that count.
        factor: up-sampling factor from `observed` to the truth.
        axis: along which slices were dropped.
        source: the scan before thinning, HU.
        acquisition: of `observed`, "gap" or "thick".
    """

    observed: Volume
    reference: Reference
    factor: int
    axis: Axis
    source: Volume
    acquisition: Acquisition = "gap"

    def new_thickness(self, model: Model) -> float | None:
        """Thickness of the slices to predict, mm, clipped to the range of the networks.

        None if it is unknown, and for a model of thin slices, whose new slices are as thick as the observed ones.
        """
        truth = self.reference.volume
        thickness = truth.thickness_along(self.axis)
        if model.card["acquisition"] == "gap" or thickness is None:
            return None
        distance = truth.spacing_along(self.axis)
        thinnest, thickest = OVERLAP_RANGE
        return min(max(thickness, thinnest * distance), thickest * distance)

    def request(self, model: Model, request: Request) -> Request:
        """A request that restores the slices with a model, with the other settings of `request`."""
        return replace(
            request,
            factor=self.factor,
            axis=AxisChoice[self.axis],
            acquisition=AcquisitionChoice.AUTOMATIC,
            thickness=None,
            new_thickness=self.new_thickness(model),
        )


def selfcheck(
    volume: Volume,
    factor: int | None = None,
    *,
    model: str | os.PathLike[str] | Model | None = None,
    request: Request | None = None,
    progress: Report | None = None,
    should_cancel: Callable[[], bool] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Drop slices of `volume`, restore them with the model and by interpolation, and measure all on those slices.

    If slices are thick, `factor` of them are averaged instead of dropping all but one, and all of them are measured.
    The gaps are wider than those of the scan itself, so the figures are conservative.

    Args:
        volume: the scan.
        factor: of the thinning, in place of the request's; 2 by default, which is nearest to the original scan.
        model: name or folder of a model, or a loaded one, in place of the request's.
        request: settings; the fields named by `request.SELF_CHECK`.
        progress: receives a `Progress` per step.
        should_cancel: called several times a second; true ends the work.
        options: further fields of `Request`, in place of the request's.

    Returns:
        A report that JSON can hold. "methods" has for "linear", "cubic", "sinc" and "enhanced" the fields of
        `metrics.Scores`, the gains in dB over linear, over cubic and over the better of the two, seconds, and
        peak_memory_bytes of the process.

    Raises:
        InputError: the scan or a request is unsuitable, such as a scan with too few slices.
        Cancelled: `should_cancel` returned true.
        TypeError: an option is no field of `Request`.
    """
    from ..inference.plan import check_acquisition, make_plan
    from ..model.catalogue import choose_model

    began = time.perf_counter()
    request = make_request(request, factor, model, **options)
    request.require_only(SELF_CHECK, "a self-check")
    if request.thickness is not None:
        volume = volume.with_thickness(request.thickness, volume.resolve_axis(request.axis))
    chosen = choose_model(volume, request, model)
    acquisition = check_acquisition(chosen, request.acquisition)
    trial = drop_slices(volume, request.factor or DEFAULT_FACTOR, request.axis, acquisition)
    plan = make_plan(trial.observed, chosen, trial.request(chosen, request))
    monitor = Monitor(progress, should_cancel)
    measuring = trial.reference.slices.size * _MEASURING_SECONDS_PER_VOXEL
    methods: dict[str, dict[str, Any]] = {}
    for done, method in enumerate(interpolation.METHODS):
        left = plan.expected_seconds + (len(interpolation.METHODS) - done + 1) * measuring
        monitor.step("measuring interpolation", done, len(interpolation.METHODS), left)
        methods[method], measuring = measure_baseline(trial, method, monitor.check)

    def with_measuring(step: Progress) -> Progress:
        return replace(step, seconds_left=(step.seconds_left or 0.0) + measuring)

    enhanced, result = measure_model(trial, chosen, plan, monitor.changed(with_measuring))
    methods |= result
    return {
        "factor": trial.factor,
        "axis": trial.axis,
        "model": chosen.name,
        "model_sha256": chosen.sha256,
        "acquisition": enhanced.acquisition,
        "device": enhanced.plan.device,
        "precision": enhanced.plan.precision,
        "quality": enhanced.plan.quality,
        "seconds": time.perf_counter() - began,
        "peak_memory_bytes": max(entry["peak_memory_bytes"] for entry in methods.values()),
        "input": describe_geometry(trial.observed),
        "output": describe_geometry(enhanced.volume),
        "synthetic_slices": list(enhanced.synthetic_slices),
        "notes": list(enhanced.notes),
        "methods": with_gains(methods),
        "rank_correlation": methods[ENHANCED]["rank_correlation"],
    }


def drop_slices(volume: Volume, factor: int, axis: str = "auto", acquisition: Acquisition = "gap") -> Trial:
    """Drop slices of a scan, or average thick ones, and keep the truth; all in HU.

    Raises:
        InputError: the scan cannot be enhanced, or too few slices would be left.
    """
    chosen = volume.resolve_axis(axis)
    check_enhanceable(volume, chosen, factor, forced=True)
    volume = in_hu(volume)
    profile = SliceProfile() if acquisition == "thick" else None
    left = slices_left(volume.slices(chosen), factor, profile)
    if left < MINIMUM_SLICES:
        raise InputError(
            f"The scan has {volume.slices(chosen)} slices along {chosen}, of which a factor of {factor} leaves {left}, "
            f"and at least {MINIMUM_SLICES} are needed: use "
            f"{remedy_for_too_few(volume.slices(chosen), factor, MINIMUM_SLICES, profile)}."
        )
    reference = make_reference(cut_to_factor(volume, factor, chosen, profile), factor, chosen, acquisition)
    observed = average(volume, factor, chosen, profile) if profile else thin(volume, factor, chosen)
    return Trial(observed, reference, factor, chosen, volume, acquisition)


def measure_baseline(
    trial: Trial, method: interpolation.Method, check: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], float]:
    """Scores of one interpolation with its seconds and peak memory, and the seconds of the measurement."""
    entry, seconds, _ = measure_restored(
        trial, lambda: interpolation.upsample(trial.observed, trial.factor, trial.axis, method), check
    )
    return entry, seconds


def measure_restored(
    trial: Trial, restore: Callable[[], Volume], check: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], float, Volume]:
    """Scores of the result of `restore` with its seconds and peak memory, the seconds of measuring, and the result."""
    with _memory_peak() as peak:
        began = time.perf_counter()
        restored = restore()
        seconds = time.perf_counter() - began
    began = time.perf_counter()
    scores = score(trial.reference, restored, check)
    entry = {**scores.to_dict(), "seconds": seconds, "peak_memory_bytes": peak()}
    return entry, time.perf_counter() - began, restored


def measure_model(
    trial: Trial, model: Model, plan: Plan, monitor: Monitor = UNWATCHED, *, views: bool = False
) -> tuple[Enhanced, dict[str, dict[str, Any]]]:
    """Enhance a thinned scan, and score the result ("enhanced").

    Args:
        views: also score each view, by its name, and the result with the noise of observed slices ("textured").
    """
    from ..inference.enhancement import carry_out
    from ..inference.texture import textured

    check = monitor.check
    with _memory_peak() as peak:
        enhanced = carry_out(plan, trial.observed, model, keep_views=views, monitor=monitor)
    methods = {
        view: {**score(trial.reference, volume, check).to_dict(), "seconds": None, "peak_memory_bytes": None}
        for view, volume in (enhanced.views or {}).items()
    }
    if views:
        began = time.perf_counter()
        restored = textured(enhanced, trial.observed, check)
        seconds = enhanced.seconds + time.perf_counter() - began
        scores = score(trial.reference, restored, check).to_dict()
        methods[TEXTURED] = {**scores, "seconds": seconds, "peak_memory_bytes": None}
    correlation = disagreement_correlation(trial.reference, enhanced.volume, enhanced.disagreement)
    methods[ENHANCED] = {
        **score(trial.reference, enhanced.volume, check).to_dict(),
        "seconds": enhanced.seconds,
        "peak_memory_bytes": peak(),
        "rank_correlation": finite_or_none(correlation),
    }
    return enhanced, methods


def with_gains(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each method with its PSNR gain in dB over linear, over cubic, and over the better of the two.

    None if a PSNR is not finite.
    """
    linear, cubic = methods["linear"]["psnr_db"], methods["cubic"]["psnr_db"]
    better = None if linear is None or cubic is None else max(linear, cubic)
    rivals = dict(zip(GAINS, (linear, cubic, better), strict=True))

    def gain(reached: float | None, rival: float | None) -> float | None:
        return None if reached is None or rival is None else reached - rival

    return {
        name: {**entry, **{key: gain(entry["psnr_db"], rival) for key, rival in rivals.items()}}
        for name, entry in methods.items()
    }


@contextmanager
def _memory_peak() -> Iterator[Callable[[], int]]:
    """Watch this process, and provide a function that returns its peak memory inside the context, in bytes.

    The peak of the operating system covers the whole life of the process, and may be that of an earlier method.
    """
    from ..inference.hardware import process_bytes

    highest = process_bytes()
    ended = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not ended.wait(_MEMORY_SAMPLING_SECONDS):
            highest = max(highest, process_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: highest
    finally:
        highest = max(highest, process_bytes())
        ended.set()
        watcher.join()
