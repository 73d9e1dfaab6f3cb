"""Tables of a benchmark in Markdown, and the names of its methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..geometry import interpolation
from .evidence_tables import evidence_tables
from .markdown import number, table
from .selfcheck import ENHANCED, GAINS, TEXTURED
from .statistics import BASELINE_ARM, difference

SINGLE_VIEWS = ("axial", "coronal", "sagittal")
#: The mean of the views, for models with a fusion network.
MEAN = "mean"
METHODS = (*interpolation.METHODS, *SINGLE_VIEWS, MEAN, TEXTURED, ENHANCED)
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


def _summary_tables(summary: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for entry in summary:
        yield f"### {entry['model']}, x{entry['factor']}, {entry['scans']} scan(s)\n"
        gains = entry["mean_gains"]
        rows = [
            [
                title_of(method),
                *(number(gains[method][gain], "+.2f") for gain in GAINS),
                "" if method == ENHANCED else number(_lead(gains, method), "+.2f"),
            ]
            for method in gains
        ]
        yield table(["mean gain, dB", "over linear", "over cubic", "over the better", "ours ahead by"], rows)
        chance = entry["p_value"]
        lowest = number(entry["lowest_gain_over_better_db"], "+.2f")
        yield (
            f"Lowest gain over the better of linear and cubic: {lowest} dB. "
            f"Rank correlation of disagreement with error: {number(entry['mean_rank_correlation'], '.2f')}. "
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
        yield table(
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
        *(number(entry["gain_by_scan_db"][scan], "+.2f") for scan in scans),
    ]


def _run_tables(run: Mapping[str, Any]) -> Iterable[str]:
    yield (
        f"### {_in_markdown(run['scan'])}, x{run['factor']}\n\n{run['slices']} slices along {run['axis']}, "
        f"{run['spacing_mm']:.3g} mm apart.\n"
    )
    header = ["method", "PSNR dB", "over linear", "over cubic", "over better", "MAE HU", "SSIM", "noise"]
    header += ["authors' PSNR dB", "s", "peak GB"]
    yield table(header, [_run_row(*entry) for entry in {**run["baselines"], **run["peers"]}.items()])
    for name, result in run["models"].items():
        yield table([name, *header[1:]], [_run_row(*entry) for entry in result["methods"].items()])
        yield f"Rank correlation of disagreement with error: {number(result['rank_correlation'], '.3f')}.\n"
        if result["uncertainty"]:
            yield from _uncertainty_table(result["uncertainty"])
        if result["trained_on_this_scan"]:
            yield f"{name} was trained on this scan: left out of its means.\n"
    yield from evidence_tables(run["evidence"])


def _uncertainty_table(uncertainty: Mapping[str, Any]) -> Iterable[str]:
    rows = [("all", uncertainty), *((f"{part['mean_bound_hu']:.0f}", part) for part in uncertainty["bins"])]
    yield table(
        ["fifths by mean bound, HU", "error under its 90 % bound", "expected error HU", "true error HU"],
        [
            [
                title,
                f"{part['coverage']:.1%}".replace("%", " %"),
                number(part["mean_expected_error_hu"], ".1f"),
                number(part["mean_error_hu"], ".1f"),
            ]
            for title, part in rows
        ],
    )


def _run_row(method: str, entry: Mapping[str, Any]) -> list[str]:
    memory = entry["peak_memory_bytes"]
    return [
        title_of(method),
        number(entry["psnr_db"], ".2f"),
        *(number(entry[gain], "+.2f") for gain in GAINS),
        number(entry["mae_hu"], ".1f"),
        number(entry["ssim"], ".4f"),
        number(entry["noise_ratio"], ".2f"),
        number(entry["whole_volume_psnr_db"], ".2f"),
        number(entry["seconds"], ".1f"),
        number(None if memory is None else memory / 1e9, ".2f"),
    ]


def title_of(method: str) -> str:
    """Name of a method in tables; a peer has its own name."""
    return _TITLES.get(method, method)


def _lead(gains: Mapping[str, Mapping[str, float | None]], method: str) -> float | None:
    """PSNR of the fused views minus that of a method, in dB."""
    return difference(gains[ENHANCED]["gain_over_better_db"], gains[method]["gain_over_better_db"])


def _in_markdown(name: str) -> str:
    """A name with escaped Markdown: it ends no cell and begins no tag."""
    return name.replace("|", "\\|").replace("<", "&lt;")


def _spread(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:+.2f}" if deviation is None else f"{mean:+.2f} ± {deviation:.2f}"
