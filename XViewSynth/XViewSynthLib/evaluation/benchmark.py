"""Benchmark: quality and speed of models and other methods on scans with a known truth, as tables and a figure."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..geometry import interpolation
from ..geometry.acquisition import Acquisition
from ..geometry.checks import check_factor
from ..geometry.volume import Volume
from ..model.ensemble import augmentations
from ..progress import Monitor, Report
from ..request import BENCHMARK, AcquisitionChoice, Request, make_request
from ..system.outputs import Outputs
from ..system.staging import output_folder
from ..system.stop import LastStep, at_once
from ..system.streams import visible
from .evidence import Evidence, check_measures
from .figures import draw_gains
from .metrics import candidate_slices, finite_or_none, psnr_db
from .peers import Peer, make_peers
from .selfcheck import ENHANCED, Thinning, Trial, drop_slices, measure_baseline, measure_model, with_gains
from .statistics import BASELINE_ARM, difference, summarise, summarise_ablation
from .tables import METHODS, to_markdown

if TYPE_CHECKING:
    from ..inference.plan import Plan
    from ..model.catalogue import Model

JSON_FILE, TABLES_FILE, FIGURE_FILE = "bench.json", "bench.md", "bench.png"

# In this order, each arm adds one component to the one before.
_KNOWN_ARMS = (BASELINE_ARM, "plain", "selective", "incremental")
_SEED_FOLDER = re.compile(r"seed(\d+)")


_DEGRADATIONS = {
    "gap": "Truth: thin slices, all but every s-th dropped (gap model), new slices only are counted.",
    "thick": "Truth: thin slices, averaged over boxes of s around every s-th position (thick model), no box beyond the "
    "scan, all from the first to the last such position are counted. "
    "The thickness of the thin slices is an input of the models, if it is known.",
}
_PROTOCOL = (
    "Counted: inside the field of view, HU clipped to [-1024, 3071], PSNR for a range of 4096 HU.",
    "MAE is inside the body; SSIM (11 x 11 Gaussian, sigma 1.5) is the mean of axial, coronal and sagittal planes;",
    "noise is that of new over observed slices (1 = no flicker when scrolling).",
    "Gains are in dB on the same voxels.",
    "Seconds are of restoring alone; memory is of the whole process, which here also holds the truth and all views.",
    "The authors' own protocol counts the whole volume, observed slices and padding included.",
)


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark measures.

    Attributes:
        scans: thin-slice scans, files or DICOM folders, none of which a model has been trained on. One that the card
            of a model names as training data is measured, marked, and left out of that model's means.
        factors: 2 to 8.
        models: names or folders of models, or loaded ones; may be empty with `ablation`.
        ablation: a folder with model folders <arm>/seed<k>/, measured on the same voxels.
        peers: slower methods to measure as well, of `peers.PEERS`.
        volumes: results of other methods by their names: a volume, or a folder with one for each scan and factor; see
            `peers.VolumeOfOthers`.
        thicknesses: of the slices of each scan, mm, in place of those of the scans.
        measures: clinical evidence to measure as well, of `evidence.MEASURES`, or "all".
    """

    scans: Sequence[Path]
    factors: Sequence[int]
    models: Sequence[str | Model]
    ablation: Path | None = None
    peers: Sequence[str] = ()
    volumes: Mapping[str, Path] = field(default_factory=dict)
    thicknesses: Sequence[float] = ()
    measures: Sequence[str] = ()


def run_bench(
    benchmark: Benchmark,
    out_folder: Path,
    *,
    request: Request | None = None,
    overwrite: bool = False,
    progress: Report | None = None,
    should_cancel: Callable[[], bool] | None = None,
    last_step: LastStep = at_once,
    **options: Any,
) -> dict[str, Any]:
    """Thin each scan by each factor, restore it by every method, and measure all on the same voxels.

    Writes bench.json (everything), bench.md (tables) and bench.png (gains at a glance), together or not at all.

    Args:
        benchmark: scans, factors and methods.
        out_folder: made if missing.
        request: settings; the fields named by `request.BENCHMARK`. Slices are dropped along its axis. Its acquisition
            is "gap" to drop slices, "thick" to average them, and "auto" as the first model was trained. Models for the
            other acquisition get the same slices.
        overwrite: whether files of an earlier run may be replaced.
        progress: receives a `Progress` per measurement.
        should_cancel: called several times a second; true ends the work.
        last_step: gives all files their names; see `StopRequest.last_step`.
        options: further fields of `Request`, in place of the request's.

    Returns:
        The content of bench.json: "runs" (scan by factor), "summary" (mean over scans of the gains), "ablation".

    Raises:
        InputError: a scan, model or request is unsuitable.
        Cancelled: `should_cancel` returned true; nothing has been written.
    """
    from ..inference.hardware import resolve_device

    scans, out_folder = [Path(scan) for scan in benchmark.scans], Path(out_folder)
    factors = [check_factor(factor) for factor in benchmark.factors]
    request = make_request(request, **options)
    request.require_only(BENCHMARK, "a benchmark")
    if not (scans and factors and (benchmark.models or benchmark.ablation)):
        raise InputError("There is nothing to measure: name at least one scan, one factor and one model.")
    thicknesses = benchmark.thicknesses
    if thicknesses and len(thicknesses) != len(scans):
        raise InputError(
            f"Give the slice thickness of every scan, in their order, or of none: there are {len(scans)} scans and "
            f"{len(thicknesses)} thicknesses."
        )
    measures = check_measures(benchmark.measures)
    _check_writable(out_folder, scans, overwrite)
    resolve_device(request.device)
    passes = len(augmentations(request.quality))
    mode = "in one pass" if passes == 1 else f"at {request.quality} quality: the mean of {passes} passes"
    models = _load_models(benchmark.models)
    arms = _load_arms(Path(benchmark.ablation)) if benchmark.ablation is not None else {}
    measured = [*models, *(model for seeds in arms.values() for model in seeds.values())]
    _check_factors(measured, factors)
    word: str = request.acquisition
    if word == AcquisitionChoice.AUTOMATIC:
        word = measured[0].card["acquisition"]
    acquisition: Acquisition = "thick" if word == "thick" else "gap"
    peers = make_peers(benchmark.peers, benchmark.volumes, scans, factors, acquisition, taken=METHODS)
    methods = len(interpolation.METHODS) + len(peers) + len(measured) + bool(measures)
    monitor = Monitor(progress, should_cancel)
    report_step = _step_reporter(monitor, len(scans) * len(factors) * methods + 1)
    # The steps of a benchmark are whole measurements, so these report none.
    measurement = _Measurement(peers, models, arms, measures, request, monitor.silent(), report_step)
    runs, ablation_runs = [], []
    for scan, trial in _trials(scans, thicknesses, Thinning(factors, request.axis, acquisition)):
        runs.append(measurement.run(scan, trial))
        ablation_runs += measurement.run_arms(scan, trial, runs[-1]["baselines"])
    report = {
        "acquisition": acquisition,
        "quality": request.quality,
        "protocol": [_DEGRADATIONS[acquisition], *_PROTOCOL, f"Models predicted {mode}."],
        "machine": _machine(),
        "runs": runs,
        "summary": summarise(runs),
        "ablation": summarise_ablation(ablation_runs),
        "ablation_runs": ablation_runs,
    }
    report_step("writing")
    _write(report, out_folder, scans, overwrite, last_step)
    return report


def _load_models(models: Sequence[str | Model]) -> list[Model]:
    from ..model.catalogue import Model, load_model

    loaded = [model if isinstance(model, Model) else load_model(model) for model in models]
    names = [model.name for model in loaded]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"Two models are called {name!r}: measure them one at a time or rename one.")
    return loaded


def _load_arms(folder: Path) -> dict[str, dict[int, Model]]:
    """Models by arm and seed, from model folders <arm>/seed<k>/."""
    from ..model.catalogue import load_model

    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: name one that holds model folders such as level0/seed0.")
    arms: dict[str, dict[int, Model]] = {}
    for place in sorted(folder.glob("*/seed*")):
        seed = _SEED_FOLDER.fullmatch(place.name)
        if seed and place.is_dir():
            arms.setdefault(place.parent.name, {})[int(seed.group(1))] = load_model(place)
    if not arms:
        raise InputError(f"{folder} holds no ablation: model folders such as level0/seed0 are expected in it.")
    return {arm: dict(sorted(arms[arm].items())) for arm in sorted(arms, key=_arm_order)}


def _arm_order(arm: str) -> tuple[int, str]:
    return (_KNOWN_ARMS.index(arm) if arm in _KNOWN_ARMS else len(_KNOWN_ARMS), arm)


def _check_factors(models: Iterable[Model], factors: Sequence[int]) -> None:
    for model in models:
        for factor in factors:
            if factor not in model.card["factors"]:
                trained = ", ".join(map(str, model.card["factors"]))
                raise InputError(
                    f"Model {model.name} was trained for factors {trained}, not {factor}: leave one of the two out."
                )


def _trials(scans: Sequence[Path], thicknesses: Sequence[float], thinning: Thinning) -> Iterable[tuple[Path, Trial]]:
    from ..io.reading import read_volume

    for scan, thickness in zip_longest(scans, thicknesses):
        volume = read_volume(scan)
        if thickness is not None:
            volume = volume.with_thickness(thickness, volume.resolve_axis(thinning.axis))
        for factor in thinning.factors:
            try:
                trial = drop_slices(volume, factor, thinning.axis, thinning.acquisition)
            except InputError as error:
                raise InputError(f"{_name_of(scan)}: {error}") from error
            yield scan, trial


@dataclass(frozen=True)
class _Measurement:
    """Measures all methods on one scan at one factor.

    Attributes:
        peers, models: the methods, apart from interpolation.
        arms: models of an ablation, by arm and seed.
        measures: of clinical evidence.
        request: settings.
        monitor: of cancellation.
        report_step: called with the name of each step at its beginning.
    """

    peers: Sequence[Peer]
    models: Sequence[Model]
    arms: Mapping[str, Mapping[int, Model]]
    measures: Sequence[str]
    request: Request
    monitor: Monitor
    report_step: Callable[[str], None]

    def run(self, scan: Path, trial: Trial) -> dict[str, Any]:
        """All figures but those of the arms."""
        title, check = f"{_name_of(scan)} x{trial.factor}", self.monitor.check
        interpolated: dict[str, dict[str, Any]] = {}
        for method in interpolation.METHODS:
            self.report_step(f"{title}: {method}")
            interpolated[method], _ = measure_baseline(trial, method, check)
        if self.measures:
            self.report_step(f"{title}: evidence")
        evidence = Evidence(trial, self.measures, check)
        rivals = {}
        for peer in self.peers:
            self.report_step(f"{title}: {peer.name}")
            rivals[peer.name], restored = peer.measure(scan, trial, check)
            evidence.add(peer.name, restored)
        rivals = {name: entry for name, entry in with_gains({**interpolated, **rivals}).items() if name in rivals}
        results = {}
        for model in self.models:
            self.report_step(f"{title}: {model.name}")
            results[model.name] = self._result_of(model, scan, trial, interpolated, evidence)
        return {
            "scan": _name_of(scan),
            "factor": trial.factor,
            "axis": trial.axis,
            "slices": len(trial.reference.slices),
            "spacing_mm": trial.reference.spacing[0],
            "thickness_mm": trial.observed.slice_thickness,
            "baselines": with_gains(interpolated),
            "peers": rivals,
            "models": results,
            "evidence": evidence.to_dict(),
        }

    def _plan(self, model: Model, trial: Trial) -> Plan:
        from ..inference.plan import make_plan

        return make_plan(trial.observed, model, trial.request(model, self.request))

    def _restored(self, model: Model, trial: Trial) -> Volume:
        from ..inference.enhancement import carry_out

        return carry_out(self._plan(model, trial), trial.observed, model, monitor=self.monitor).volume

    def _result_of(
        self,
        model: Model,
        scan: Path,
        trial: Trial,
        interpolated: Mapping[str, Mapping[str, Any]],
        evidence: Evidence,
    ) -> dict[str, Any]:
        from . import calibration

        enhanced, methods = measure_model(trial, model, self._plan(model, trial), self.monitor, views=True)
        evidence.add(model.name, enhanced.volume, enhanced.uncertainty)
        evidence.add_lesions(model.name, enhanced.volume, partial(self._restored, model))
        gains = with_gains({**interpolated, **methods})
        return {
            "sha256": model.sha256,
            "trained_on_this_scan": _trained_on(model, scan),
            "acquisition": enhanced.acquisition,
            "new_thickness_mm": enhanced.volume.slice_thickness,
            "device": enhanced.plan.device,
            "precision": enhanced.plan.precision,
            "quality": enhanced.plan.quality,
            "rank_correlation": methods[ENHANCED]["rank_correlation"],
            "uncertainty": calibration.measure(trial.reference, enhanced),
            "notes": list(enhanced.notes),
            "methods": {name: gains[name] for name in METHODS if name in methods},
        }

    def run_arms(self, scan: Path, trial: Trial, baselines: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """PSNR gains of every arm and seed over the better baseline, dB; for the first arm also those of its views."""
        from ..inference.enhancement import carry_out

        reached = [baselines[method]["psnr_db"] for method in ("linear", "cubic")]
        better = None if None in reached else max(reached)
        reference = trial.reference
        counted = reference.in_view & reference.is_new[:, None, None]
        runs = []
        for arm, seeds in self.arms.items():
            for seed, model in seeds.items():
                self.report_step(f"{_name_of(scan)} x{trial.factor}: {arm}, seed {seed}")
                enhanced = carry_out(
                    self._plan(model, trial),
                    trial.observed,
                    model,
                    keep_views=arm == BASELINE_ARM,
                    monitor=self.monitor,
                )
                gains = {}
                for name, candidate in {**(enhanced.views or {}), ENHANCED: enhanced.volume}.items():
                    psnr = psnr_db(reference.slices, candidate_slices(reference, candidate), counted)
                    gains[name] = difference(finite_or_none(psnr), better)
                found = {"scan": _name_of(scan), "factor": trial.factor, "arm": arm, "seed": seed}
                runs.append({**found, "gains_over_better_db": gains})
        return runs


def _name_of(scan: Path) -> str:
    """Name of a scan in tables, figures and messages."""
    return visible(scan.absolute().name)


def _trained_on(model: Model, scan: Path) -> bool:
    """Whether the card names this scan's file among the training data."""
    stem = _name_of(scan).split(".")[0].lower()
    return bool(stem) and any(stem in str(entry["name"]).lower() for entry in model.card["training_data"])


def _step_reporter(monitor: Monitor, total: int) -> Callable[[str], None]:
    """A function to call with the name of each step at its beginning."""
    began, done = time.perf_counter(), 0

    def report_step(stage: str) -> None:
        nonlocal done
        left = (time.perf_counter() - began) / done * (total - done) if done else None
        monitor.step(stage, done, total, left)
        done += 1

    return report_step


def _machine() -> dict[str, Any]:
    from importlib.metadata import version

    return {"cores": os.cpu_count(), "processor": platform.machine(), "torch": version("torch")}


def _check_writable(folder: Path, scans: Sequence[Path], overwrite: bool) -> None:
    """Check before hours of work that the outputs can be written."""
    with output_folder(folder), Outputs(overwrite, inputs=scans) as outputs:
        for name in (JSON_FILE, TABLES_FILE, FIGURE_FILE):
            outputs.add(folder / name)


def _cannot_write(folder: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or error
    return InputError(f"Cannot write to the folder {folder}: {reason}. Choose another folder, in one that exists.")


def _write(
    report: Mapping[str, Any], folder: Path, scans: Sequence[Path], overwrite: bool, last_step: LastStep
) -> None:
    try:
        with output_folder(folder), Outputs(overwrite, inputs=scans) as outputs:
            text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            outputs.add(folder / JSON_FILE).write_text(text, encoding="utf-8")
            outputs.add(folder / TABLES_FILE).write_text(to_markdown(report), encoding="utf-8")
            draw_gains(report["runs"], outputs.add(folder / FIGURE_FILE))
            last_step(outputs.commit)
    except OSError as error:
        raise _cannot_write(folder, error) from error
