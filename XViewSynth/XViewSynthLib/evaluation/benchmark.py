"""Benchmark: quality and speed of models and other methods on scans with a known truth, as tables and a figure."""

from __future__ import annotations

import json
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..geometry import interpolation
from ..geometry.acquisition import Acquisition
from ..geometry.checks import check_factor
from ..geometry.volume import Volume
from ..model.ensemble import augmentations
from ..progress import Progress, Report
from ..request import BENCHMARK, AcquisitionChoice, Request, make_request
from ..system.outputs import Outputs, output_folder
from ..system.stop import LastStep, at_once
from ..system.streams import visible
from .evidence import Evidence, check_measures
from .evidence_tables import evidence_tables
from .markdown import number as _number
from .markdown import table as _table
from .metrics import candidate_slices, finite_or_none, psnr_db
from .peers import Peer, make_peers
from .selfcheck import (
    ENHANCED,
    GAINS,
    TEXTURED,
    Trial,
    cancel_check,
    drop_slices,
    measure_baseline,
    measure_model,
    with_gains,
)

if TYPE_CHECKING:
    from ..model.catalogue import Model

JSON_FILE, TABLES_FILE, FIGURE_FILE = "bench.json", "bench.md", "bench.png"

SINGLE_VIEWS = ("axial", "coronal", "sagittal")
#: The mean of the views, for models with a fusion network.
MEAN = "mean"
METHODS = (*interpolation.METHODS, *SINGLE_VIEWS, MEAN, TEXTURED, ENHANCED)
BASELINE_ARM = "level0"
# In this order, each arm adds one component to the one before.
_KNOWN_ARMS = (BASELINE_ARM, "plain", "selective", "incremental")
_SEED_FOLDER = re.compile(r"seed(\d+)")

# Below this no p-value can fall under 0.05, whatever the gains.
_FEWEST_FOR_A_TEST = 6
_MOST_FOR_ALL_SIGNS = 16
_RANDOM_SIGNS = 100_000

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

_TITLES = {
    "linear": "linear",
    "cubic": "cubic spline",
    "sinc": "windowed sinc",
    "axial": "axial view alone",
    "coronal": "coronal view alone",
    "sagittal": "sagittal view alone",
    MEAN: "mean of three views",
    TEXTURED: "three views fused, texture matched",
    ENHANCED: "**three views fused**",
}


def run_bench(
    scans: Sequence[Path],
    factors: Sequence[int],
    models: Sequence[str | Model],
    out_folder: Path,
    *,
    request: Request | None = None,
    ablation: Path | None = None,
    peers: Sequence[str] = (),
    volumes: Mapping[str, Path] | None = None,
    thicknesses: Sequence[float] = (),
    measures: Sequence[str] = (),
    overwrite: bool = False,
    progress: Report | None = None,
    should_cancel: Callable[[], bool] | None = None,
    last_step: LastStep = at_once,
    **options: Any,
) -> dict[str, Any]:
    """Thin each scan by each factor, restore it by every method, and measure all on the same voxels.

    Writes bench.json (everything), bench.md (tables) and bench.png (gains at a glance), together or not at all.

    Args:
        scans: thin-slice scans, files or DICOM folders, none of which a model has been trained on. One that the card
            of a model names as training data is measured, marked, and left out of that model's means.
        factors: 2 to 8.
        models: names or folders of models, or loaded ones; may be empty with `ablation`.
        out_folder: made if missing.
        request: settings; the fields named by `request.BENCHMARK`. Slices are dropped along its axis. Its acquisition
            is "gap" to drop slices, "thick" to average them, and "auto" as the first model was trained. Models for the
            other acquisition get the same slices.
        ablation: a folder with model folders <arm>/seed<k>/, measured on the same voxels.
        peers: slower methods to measure as well, of `peers.PEERS`.
        volumes: results of other methods by their names: a volume, or a folder with one for each scan and factor; see
            `peers.VolumeOfOthers`.
        thicknesses: of the slices of each scan, mm, in place of those of the scans.
        measures: clinical evidence to measure as well, of `evidence.MEASURES`, or "all".
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

    scans, out_folder = [Path(scan) for scan in scans], Path(out_folder)
    factors = [check_factor(factor) for factor in factors]
    request = make_request(request, **options)
    request.require_only(BENCHMARK, "a benchmark")
    if not (scans and factors and (models or ablation)):
        raise InputError("There is nothing to measure: name at least one scan, one factor and one model.")
    if thicknesses and len(thicknesses) != len(scans):
        raise InputError(
            f"Give the slice thickness of every scan, in their order, or of none: there are {len(scans)} scans and "
            f"{len(thicknesses)} thicknesses."
        )
    measures = check_measures(measures)
    _check_writable(out_folder, scans, overwrite)
    resolve_device(request.device)
    passes = len(augmentations(request.quality))
    mode = "in one pass" if passes == 1 else f"at {request.quality} quality: the mean of {passes} passes"
    loaded = _load_models(models)
    arms = _load_arms(Path(ablation)) if ablation is not None else {}
    _check_factors([*loaded, *(model for seeds in arms.values() for model in seeds.values())], factors)
    word: str = request.acquisition
    if word == AcquisitionChoice.AUTOMATIC:
        word = [*loaded, *(model for seeds in arms.values() for model in seeds.values())][0].card["acquisition"]
    acquisition: Acquisition = "thick" if word == "thick" else "gap"
    others = make_peers(peers, volumes or {}, scans, factors, acquisition, taken=METHODS)
    trained = sum(len(seeds) for seeds in arms.values())
    methods = len(interpolation.METHODS) + len(others) + len(loaded) + trained + bool(measures)
    report_step = _step_reporter(progress, len(scans) * len(factors) * methods + 1)
    runs, ablation_runs = [], []
    for scan, trial in _trials(scans, thicknesses, factors, request.axis, acquisition):
        run, better = _run(scan, trial, others, loaded, request, measures, report_step, should_cancel)
        runs.append(run)
        ablation_runs += _run_arms(scan, trial, arms, better, request, report_step, should_cancel)
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


def summarise(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per model and factor: the mean gain of each method over scans, and the p-value of the enhanced result's gain.

    Scans that the model was trained on are left out.
    """
    grouped: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for run in runs:
        for name, result in run["models"].items():
            if not result["trained_on_this_scan"]:
                methods = {**run["baselines"], **run["peers"], **result["methods"]}
                grouped.setdefault((name, run["factor"]), []).append({**result, "methods": methods})
    summary = []
    for (name, factor), results in grouped.items():
        gains = [result["methods"][ENHANCED]["gain_over_better_db"] for result in results]
        summary.append(
            {
                "model": name,
                "factor": factor,
                "scans": len(results),
                "mean_gains": {
                    method: {gain: _mean(result["methods"][method][gain] for result in results) for gain in GAINS}
                    for method in results[0]["methods"]
                },
                "lowest_gain_over_better_db": None if None in gains else min(gains),
                "mean_rank_correlation": _mean(result["rank_correlation"] for result in results),
                "p_value": None if None in gains else paired_p_value(gains),
            }
        )
    return summary


def summarise_ablation(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per factor, arm and method: mean and standard deviation over seeds of the gain over the better baseline, in dB.

    A seed's gain is its mean over scans. "change" is the difference of gains from the fused views in the arm without
    distillation, for the seeds of both arms.
    """
    grouped: dict[tuple[int, str, str], list[tuple[int, str, float | None]]] = {}
    for run in runs:
        for method, gain in run["gains_over_better_db"].items():
            found = grouped.setdefault((run["factor"], run["arm"], method), [])
            found.append((run["seed"], run["scan"], gain))
    by_seed = {key: _means_by(found, 0) for key, found in grouped.items()}
    summary = []
    for (factor, arm, method), found in grouped.items():
        gains, start = by_seed[factor, arm, method], by_seed.get((factor, BASELINE_ARM, ENHANCED), {})
        changes = [_difference(gains[seed], start[seed]) for seed in gains if seed in start]
        summary.append(
            {
                "factor": factor,
                "arm": arm,
                "method": method,
                "seeds": sorted(gains),
                "gain_by_scan_db": _means_by(found, 1),
                "gain_mean_db": _mean(gains.values()),
                "gain_sd_db": _deviation(gains.values()),
                "change_mean_db": _mean(changes),
                "change_sd_db": _deviation(changes),
            }
        )
    return summary


def paired_p_value(gains: Sequence[float]) -> float | None:
    """Two-sided p-value of the mean of paired differences, by a sign-flip test.

    All sign patterns of up to 16 differences are evaluated, else a fixed random sample of a hundred thousand. None for
    fewer than six differences, whose smallest possible p-value is above 0.05. (For six of one sign it is 2 / 64.)

    >>> paired_p_value([1.0, 2.0, 0.5, 3.0, 1.5, 0.7])
    0.03125
    """
    differences = np.asarray(gains, dtype=np.float64)
    count = differences.size
    if count < _FEWEST_FOR_A_TEST:
        return None
    if count <= _MOST_FOR_ALL_SIGNS:
        patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        patterns = np.random.default_rng(0).integers(0, 2, (_RANDOM_SIGNS, count))
    sums = np.abs((2 * patterns - 1) @ differences)
    as_far = np.count_nonzero(sums >= abs(differences.sum()) * (1 - 1e-12))
    if count <= _MOST_FOR_ALL_SIGNS:
        return as_far / len(patterns)
    return (as_far + 1) / (len(patterns) + 1)


def to_markdown(report: Mapping[str, Any]) -> str:
    """The tables of a report of `run_bench`."""
    parts = ["# Benchmark\n", " ".join(report["protocol"]) + "\n"]
    if report["summary"]:
        parts += ["## Mean gains over scans\n", *_summary_tables(report["summary"])]
    if report["ablation"]:
        parts += ["## Ablation\n", *_ablation_tables(report["ablation"])]
    parts.append("## Every scan\n")
    for run in report["runs"]:
        parts += _run_tables(run)
    machine = report["machine"]
    parts.append(f"Measured on {machine['cores']} cores ({machine['processor']}), PyTorch {machine['torch']}.\n")
    return "\n".join(parts)


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


def _trials(
    scans: Sequence[Path], thicknesses: Sequence[float], factors: Sequence[int], axis: str, acquisition: Acquisition
) -> Iterable[tuple[Path, Trial]]:
    from ..io.reading import read_volume

    for scan, thickness in zip_longest(scans, thicknesses):
        volume = read_volume(scan)
        if thickness is not None:
            volume = volume.with_thickness(thickness, volume.resolve_axis(axis))
        for factor in factors:
            try:
                trial = drop_slices(volume, factor, axis, acquisition)
            except InputError as error:
                raise InputError(f"{_name_of(scan)}: {error}") from error
            yield scan, trial


def _run(
    scan: Path,
    trial: Trial,
    peers: Sequence[Peer],
    models: Sequence[Model],
    request: Request,
    measures: Sequence[str],
    report_step: Callable[[str], None],
    should_cancel: Callable[[], bool] | None,
) -> tuple[dict[str, Any], float | None]:
    """All figures of one scan at one factor, and the PSNR of the better of linear and cubic."""
    from ..inference.plan import make_plan
    from . import calibration

    check = cancel_check(should_cancel)
    title = f"{_name_of(scan)} x{trial.factor}"
    interpolated: dict[str, dict[str, Any]] = {}
    for method in interpolation.METHODS:
        report_step(f"{title}: {method}")
        interpolated[method], _ = measure_baseline(trial, method, check)
    if measures:
        report_step(f"{title}: evidence")
    evidence = Evidence(trial, measures, check)
    rivals = {}
    for peer in peers:
        report_step(f"{title}: {peer.name}")
        rivals[peer.name] = peer.measure(scan, trial, check)
        if measures:
            evidence.add(peer.name, peer.restore(scan, trial, check))
    rivals = {name: entry for name, entry in with_gains({**interpolated, **rivals}).items() if name in rivals}
    results = {}
    for model in models:
        report_step(f"{title}: {model.name}")
        enhanced, methods = measure_model(
            trial,
            model,
            make_plan(trial.observed, model, trial.request(model, request)),
            views=True,
            should_cancel=should_cancel,
        )
        evidence.add(model.name, enhanced.volume, enhanced.uncertainty)
        evidence.add_lesions(model.name, enhanced.volume, _restorer(model, request, should_cancel))
        gains = with_gains({**interpolated, **methods})
        results[model.name] = {
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
    run = {
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
    reached = [interpolated[method]["psnr_db"] for method in ("linear", "cubic")]
    return run, None if None in reached else max(reached)


def _restorer(model: Model, request: Request, should_cancel: Callable[[], bool] | None) -> Callable[[Trial], Volume]:
    """A function that returns the model's result for a thinned scan."""
    from ..inference.enhancement import carry_out
    from ..inference.plan import make_plan

    def restore(trial: Trial) -> Volume:
        plan = make_plan(trial.observed, model, trial.request(model, request))
        return carry_out(plan, trial.observed, model, should_cancel=should_cancel).volume

    return restore


def _run_arms(
    scan: Path,
    trial: Trial,
    arms: Mapping[str, Mapping[int, Model]],
    better: float | None,
    request: Request,
    report_step: Callable[[str], None],
    should_cancel: Callable[[], bool] | None,
) -> list[dict[str, Any]]:
    """PSNR gains of every arm and seed over the better baseline, in dB; for the first arm also those of its views."""
    from ..inference.enhancement import carry_out
    from ..inference.plan import make_plan

    reference = trial.reference
    counted = reference.in_view & reference.is_new[:, None, None]
    runs = []
    for arm, seeds in arms.items():
        for seed, model in seeds.items():
            report_step(f"{_name_of(scan)} x{trial.factor}: {arm}, seed {seed}")
            enhanced = carry_out(
                make_plan(trial.observed, model, trial.request(model, request)),
                trial.observed,
                model,
                keep_views=arm == BASELINE_ARM,
                should_cancel=should_cancel,
            )
            gains = {}
            for name, candidate in {**(enhanced.views or {}), ENHANCED: enhanced.volume}.items():
                psnr = psnr_db(reference.slices, candidate_slices(reference, candidate), counted)
                gains[name] = _difference(finite_or_none(psnr), better)
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


def _step_reporter(progress: Report | None, total: int) -> Callable[[str], None]:
    """A function to call with the name of each step at its beginning."""
    began, done = time.perf_counter(), 0

    def report_step(stage: str) -> None:
        nonlocal done
        if progress is not None:
            left = (time.perf_counter() - began) / done * (total - done) if done else None
            progress(Progress(stage, done, total, left))
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
            _draw(report["runs"], outputs.add(folder / FIGURE_FILE))
            last_step(outputs.commit)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _draw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw bars of the gain over the better baseline: a group for each scan, factor and model, a bar for each view."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = [
        (f"{run['scan'].split('.')[0]}\nx{run['factor']} {name}", {**run["peers"], **result["methods"]})
        for run in runs
        for name, result in run["models"].items()
    ]
    peers = list(runs[0]["peers"])
    methods = (*peers, *SINGLE_VIEWS, ENHANCED)
    figure = Figure(figsize=(9, 1.2 + 0.9 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.subplots()
    height = 0.8 / len(methods)
    for number, method in enumerate(methods):
        rows = [group + (number - (len(methods) - 1) / 2) * height for group in range(len(groups))]
        # A bar of unknown length is not drawn.
        gains = np.array([result[method]["gain_over_better_db"] for _, result in groups], dtype=np.float64)
        color = "#c44e52" if method == ENHANCED else "#4c72b0" if method in peers else str(0.45 + 0.15 * (number % 3))
        bars = plot.barh(rows, gains, height, label=_title(method).strip("*"), color=color)
        plot.bar_label(bars, fmt="%+.2f", fontsize=7, padding=2)
    # A dollar sign in a name must not begin a formula.
    plot.set_yticks(range(len(groups)), [label for label, _ in groups], fontsize=8, parse_math=False)
    plot.invert_yaxis()
    plot.axvline(0, color="black", linewidth=0.8)
    plot.margins(x=0.12)
    plot.set_xlabel("PSNR gain over the better of linear and cubic, dB (new slices, field of view)")
    figure.legend(loc="outside upper center", ncols=len(methods), fontsize=8)
    with warnings.catch_warnings():
        # matplotlib warns of characters that its font lacks, and draws boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(path, format="png", dpi=110)


def _summary_tables(summary: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for entry in summary:
        yield f"### {entry['model']}, x{entry['factor']}, {entry['scans']} scan(s)\n"
        gains = entry["mean_gains"]
        rows = [
            [
                _title(method),
                *(_number(gains[method][gain], "+.2f") for gain in GAINS),
                "" if method == ENHANCED else _number(_lead(gains, method), "+.2f"),
            ]
            for method in gains
        ]
        yield _table(["mean gain, dB", "over linear", "over cubic", "over the better", "ours ahead by"], rows)
        chance = entry["p_value"]
        lowest = _number(entry["lowest_gain_over_better_db"], "+.2f")
        yield (
            f"Lowest gain over the better of linear and cubic: {lowest} dB. "
            f"Rank correlation of disagreement with error: {_number(entry['mean_rank_correlation'], '.2f')}. "
            + (f"Sign-flip test: p = {chance:.3g}.\n" if chance is not None else "Too few scans for a paired test.\n")
        )


def _ablation_tables(ablation: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield (
        "Gain over the better of linear and cubic: mean over scans, then mean and standard deviation over seeds. "
        f"Change: against the fused views of {BASELINE_ARM}, seed by seed. Last columns: each scan.\n"
    )
    for factor in dict.fromkeys(entry["factor"] for entry in ablation):
        entries = [entry for entry in ablation if entry["factor"] == factor]
        scans = list(entries[0]["gain_by_scan_db"])
        yield f"### x{factor}\n"
        yield _table(
            ["arm", "prediction", "seeds", "gain, dB", "change, dB", *map(_in_markdown, scans)],
            [_ablation_row(entry, scans) for entry in entries],
        )


def _ablation_row(entry: Mapping[str, Any], scans: Sequence[str]) -> list[str]:
    is_start = (entry["arm"], entry["method"]) == (BASELINE_ARM, ENHANCED)
    return [
        entry["arm"],
        _TITLES[entry["method"]].strip("*"),
        str(len(entry["seeds"])),
        _spread(entry["gain_mean_db"], entry["gain_sd_db"]),
        "" if is_start else _spread(entry["change_mean_db"], entry["change_sd_db"]),
        *(_number(entry["gain_by_scan_db"][scan], "+.2f") for scan in scans),
    ]


def _run_tables(run: Mapping[str, Any]) -> Iterable[str]:
    yield (
        f"### {_in_markdown(run['scan'])}, x{run['factor']}\n\n{run['slices']} slices along {run['axis']}, "
        f"{run['spacing_mm']:.3g} mm apart.\n"
    )
    header = ["method", "PSNR dB", "over linear", "over cubic", "over better", "MAE HU", "SSIM", "noise"]
    header += ["authors' PSNR dB", "s", "peak GB"]
    yield _table(header, [_run_row(*entry) for entry in {**run["baselines"], **run["peers"]}.items()])
    for name, result in run["models"].items():
        yield _table([name, *header[1:]], [_run_row(*entry) for entry in result["methods"].items()])
        yield f"Rank correlation of disagreement with error: {_number(result['rank_correlation'], '.3f')}.\n"
        if result["uncertainty"]:
            yield from _uncertainty_table(result["uncertainty"])
        if result["trained_on_this_scan"]:
            yield f"{name} was trained on this scan: left out of its means.\n"
    yield from evidence_tables(run["evidence"])


def _uncertainty_table(uncertainty: Mapping[str, Any]) -> Iterable[str]:
    rows = [("all", uncertainty), *((f"{part['mean_bound_hu']:.0f}", part) for part in uncertainty["bins"])]
    yield _table(
        ["fifths by mean bound, HU", "error under its 90 % bound", "expected error HU", "true error HU"],
        [
            [
                title,
                f"{part['coverage']:.1%}".replace("%", " %"),
                _number(part["mean_expected_error_hu"], ".1f"),
                _number(part["mean_error_hu"], ".1f"),
            ]
            for title, part in rows
        ],
    )


def _run_row(method: str, entry: Mapping[str, Any]) -> list[str]:
    memory = entry["peak_memory_bytes"]
    return [
        _title(method),
        _number(entry["psnr_db"], ".2f"),
        *(_number(entry[gain], "+.2f") for gain in GAINS),
        _number(entry["mae_hu"], ".1f"),
        _number(entry["ssim"], ".4f"),
        _number(entry["noise_ratio"], ".2f"),
        _number(entry["whole_volume_psnr_db"], ".2f"),
        _number(entry["seconds"], ".1f"),
        _number(None if memory is None else memory / 1e9, ".2f"),
    ]


def _title(method: str) -> str:
    """Name of a method in tables; a peer has its own name."""
    return _TITLES.get(method, method)


def _lead(gains: Mapping[str, Mapping[str, float | None]], method: str) -> float | None:
    """PSNR of the fused views minus that of a method, in dB."""
    return _difference(gains[ENHANCED]["gain_over_better_db"], gains[method]["gain_over_better_db"])


def _in_markdown(name: str) -> str:
    """A name with escaped Markdown: it ends no cell and begins no tag."""
    return name.replace("|", "\\|").replace("<", "&lt;")


def _spread(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:+.2f}" if deviation is None else f"{mean:+.2f} ± {deviation:.2f}"


def _means_by(found: Iterable[tuple[int, str, float | None]], part: int) -> dict[Any, float | None]:
    """Mean gain for each seed (part 0) or scan (part 1) of (seed, scan, gain)."""
    gains: dict[Any, list[float | None]] = {}
    for entry in found:
        gains.setdefault(entry[part], []).append(entry[2])
    return {key: _mean(values) for key, values in gains.items()}


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean; None if there is no value, or if one is None."""
    known = _if_known(values)
    return float(np.mean(known)) if known else None


def _deviation(values: Iterable[float | None]) -> float | None:
    """Standard deviation with n - 1; None for fewer than two values."""
    known = _if_known(values)
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


def _if_known(values: Iterable[float | None]) -> list[float]:
    """The values; an empty list if one of them is None."""
    known = []
    for value in values:
        if value is None:
            return []
        known.append(value)
    return known
