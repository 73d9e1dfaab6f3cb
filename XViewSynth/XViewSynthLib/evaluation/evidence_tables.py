"""Tables of the evidence of one scan, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .evidence import TRUTH
from .markdown import number, table

_TITLES = {"linear": "linear", "cubic": "cubic spline", TRUTH: "thin truth"}


def evidence_tables(evidence: Mapping[str, Any]) -> Iterable[str]:
    """The tables of `Evidence.to_dict`."""
    for measure, tables in (
        ("noise_floor", _floor_tables),
        ("structures", _structure_tables),
        ("lesions", _lesion_tables),
        ("invented", _invented_tables),
    ):
        if measure in evidence:
            yield from tables(evidence[measure])


def _floor_tables(found: Mapping[str, Any]) -> Iterable[str]:
    yield "#### Noise floor\n"
    yield (
        "Root mean square, HU, on new slices. Floor: noise that observed slices cannot explain. Recoverable error "
        "removed: (MSE of the better interpolation - MSE) / (MSE of the better interpolation - floor).\n"
    )
    rows = [
        [
            region,
            number(entry["noise_hu"], ".1f"),
            number(_root(entry["floor_mse_hu2"]), ".1f"),
            _title(method),
            number(_root(errors[region]["mse_hu2"]), ".1f"),
            _percent(errors[region]["recoverable_removed"]),
        ]
        for region, entry in found["regions"].items()
        for method, errors in found["methods"].items()
        if region in errors
    ]
    yield table(["region", "noise", "floor", "method", "error", "recoverable error removed"], rows)


def _structure_tables(found: Mapping[str, Any]) -> Iterable[str]:
    yield "#### Structures\n"
    yield "Segmented by the same rule in the truth and in each result:\n"
    yield "\n".join(f"- {name}: {rule}" for name, rule in found["rules"].items()) + "\n"
    rows = [
        [
            name,
            f"{volume:.1f}",
            _title(method),
            number(agreements[name]["dice"], ".4f"),
            number(agreements[name]["mean_distance_mm"], ".2f"),
            number(agreements[name]["distance_95_mm"], ".2f"),
            number(agreements[name]["volume_error_percent"], "+.1f"),
            _pieces(agreements[name]["pieces"], found["truth_pieces"]),
        ]
        for name, volume in found["truth_ml"].items()
        for method, agreements in found["methods"].items()
    ]
    header = ["structure", "truth ml", "method", "Dice", "mean distance mm", "95 % distance mm", "volume error %"]
    yield table([*header, "pieces (truth)"], rows)
    yield from _missing(found["missing"])


def _lesion_tables(found: Mapping[str, Any]) -> Iterable[str]:
    yield "#### Lesions\n"
    yield from _missing(found["missing"])
    methods: Mapping[str, Any] = found["methods"]
    if not found["lesions"]:
        return
    compared = [method for method in methods if method != TRUTH]
    yield (
        f"{found['lesions']} balls, and {found['places_without']} places without. Cells: "
        f"{' / '.join(map(_title, compared))}; area under ROC also: / {_title(TRUTH)}. Phase: thirds of the way from "
        "the nearest observed slice to the middle between two. Lost: less than 10 % of the contrast recovered.\n"
    )
    for grouping, labels in (
        ("by_size_and_phase", ("region", "diameter_mm", "phase")),
        ("by_contrast", ("region", "contrast_hu")),
        ("by_observed", ("region", "observed")),
    ):
        groups = zip(*(methods[method][grouping] for method in (*compared, TRUTH)), strict=True)
        rows = [_lesion_row(group, labels) for group in groups]
        header = ["contrast recovered %", "volume error %", "centre error mm", "lost", "area under ROC"]
        yield table([*(_LABELS[label] for label in labels), "lesions", *header], rows)


_LABELS = {
    "region": "region",
    "diameter_mm": "diameter mm",
    "phase": "phase",
    "contrast_hu": "contrast HU",
    "observed": "cut by an observed slice",
}


def _lesion_row(group: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[str]:
    """Cells of one group of lesions: an entry for each method, the truth last."""
    results = group[:-1]

    def cell(entries: Sequence[Mapping[str, Any]], key: str, form: Callable[[Any], str]) -> str:
        return " / ".join(form(entry[key]) or "-" for entry in entries)

    return [
        *(_label(group[0][label]) for label in labels),
        str(group[0]["lesions"]),
        cell(results, "contrast_recovered", lambda value: number(None if value is None else 100 * value, ".0f")),
        cell(results, "volume_error_percent", lambda value: number(value, "+.0f")),
        cell(results, "centre_error_mm", lambda value: number(value, ".2f")),
        cell(results, "lost", str),
        cell(group, "area_under_roc", lambda value: number(value, ".2f")),
    ]


def _invented_tables(found: Mapping[str, Any]) -> Iterable[str]:
    yield "#### Invented and missed structure\n"
    yield (
        f"Blobs above {found['threshold_deviations']:g} standard deviations of noise after a band-pass, per litre of "
        f"tissue, in {found['tissue_litres']:.2f} litres; standard deviation {found['noise_hu']:.1f} HU. Invented: "
        "without counterpart in the truth. Missed: blobs of the truth without counterpart; noise has such blobs too.\n"
    )
    rows = [
        [
            _title(method),
            *(number(entry[key], ".1f") for key in ("invented_per_litre", "missed_per_litre", "found_per_litre")),
            number(entry["invented_in_worst_percent"], ".0f"),
        ]
        for method, entry in found["methods"].items()
        if entry is not None
    ]
    yield table(["method", "invented", "missed", "found", "invented in the worst 5 % of uncertainty, %"], rows)


def _missing(missing: Mapping[str, str]) -> Iterable[str]:
    if missing:
        yield "Left out: " + "; ".join(f"{name} ({reason})" for name, reason in missing.items()) + ".\n"


def _title(method: str) -> str:
    return _TITLES.get(method, method)


def _label(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _pieces(pieces: int | None, truth: int | None) -> str:
    return "" if pieces is None else f"{pieces} ({truth})"


def _root(square: float | None) -> float | None:
    return None if square is None else math.sqrt(square)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"
