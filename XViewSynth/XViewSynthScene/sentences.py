"""Sentences for the panel: the size of a planned result, a finished result, and the scores of a self-check."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from XViewSynthLib.progress import describe_seconds
from XViewSynthLib.request import AcquisitionChoice

from .runs import Outlook

_COLUMNS = (("PSNR, dB", "psnr_db", ".2f"), ("Error, HU", "mae_hu", ".1f"), ("SSIM", "ssim", ".4f"))


def describe_outlook(outlook: Outlook, seconds: float | None = None) -> str:
    """One line on the planned result: "5 mm → 1.25 mm, 48 → 189 slices, 99 MB, about 40 s".

    Args:
        outlook: size of the result.
        seconds: expected time, s; None while unknown.
    """
    parts = [
        f"{outlook.slice_spacing:.3g} mm → {outlook.grid.slice_spacing:.3g} mm",
        f"{outlook.slices} → {outlook.grid.slices} slices",
        describe_bytes(outlook.output_bytes),
    ]
    if outlook.frames > 1:
        parts.insert(0, f"{outlook.frames} frames")
    if seconds is not None:
        parts.append(f"about {describe_seconds(seconds)}")
    return ", ".join(parts)


def describe_result(name: str, report: Mapping[str, Any], seconds: float) -> str:
    """Sentences on a finished enhancement: name, time, number of synthetic slices, and the notes of the report.

    Args:
        name: name of the enhanced volume.
        report: as ``xviewsynth enhance --report`` writes it.
        seconds: time from the click to the result, s.
    """
    slices = report["output"]["shape_ijk"]["IJK".index(report["axis"])]
    ready = f"'{name}' is ready after {describe_seconds(seconds)}"
    return " ".join(
        [f"{ready}: {len(report['synthetic_slices'])} of its {slices} slices are synthetic.", _in_panel_words(report)]
    ).rstrip()


def describe_selfcheck(report: Mapping[str, Any]) -> str:
    """HTML: the typical error of XViewSynth and of interpolation, and the scores of every method.

    Args:
        report: report of a self-check.
    """
    methods = report["methods"]
    errors = {name: _rounded_hu(scores["mae_hu"]) for name, scores in methods.items()}
    kept = f"all but every {report['factor']}th" if report["factor"] > 2 else "every second"
    headings = "".join(f"<th>{heading}</th>" for heading, _, _ in _COLUMNS)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f'<td align="right">{scores[key]:{form}}</td>' for _, key, form in _COLUMNS)
        + "</tr>"
        for name, scores in methods.items()
    )
    return (
        f"<p><b>Typical error between slices: {errors['enhanced']} with XViewSynth, {errors['linear']} with linear and "
        f"{errors['cubic']} with cubic interpolation (this scan).</b></p>"
        f"<p>To measure it, {kept} slice of this scan was left out and restored.</p>"
        f'<table cellpadding="3"><tr><th></th>{headings}</tr>{rows}</table>'
        f"<p>{html.escape(_in_panel_words(report))}</p>"
    )


def _rounded_hu(error: float) -> str:
    return f"{error:.0f} HU" if error >= 10 else f"{error:.1f} HU"


def _in_panel_words(report: Mapping[str, Any]) -> str:
    """The notes of a report, with the panel's labels instead of the command line's values."""
    notes = " ".join(report["notes"])
    for choice in AcquisitionChoice:
        notes = notes.replace(f'acquisition "{choice.value}"', f'acquisition "{choice.label()}"')
    return notes


def describe_bytes(count: int) -> str:
    """A number of bytes in MB or GB.

    >>> describe_bytes(99_000_000), describe_bytes(1_340_000_000), describe_bytes(1_500_000)
    ('99 MB', '1.3 GB', '1.5 MB')
    """
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"
