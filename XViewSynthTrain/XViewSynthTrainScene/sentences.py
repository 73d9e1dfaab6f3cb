"""Sentences for the panel on a training run: log entries, its scans, its folder and its report."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from XViewSynthLib.progress import describe_seconds

from .folders import RunFolder
from .study import Candidate

_BASELINES = (("linear", "over_linear_db"), ("cubic", "over_cubic_db"))


def describe_entry(entry: Mapping[str, Any]) -> str | None:
    """One line on an entry of the log; None for an entry of an unknown kind.

    >>> describe_entry({"kind": "note", "step": 40, "message": "The rate was halved."})
    'Step 40: The rate was halved.'
    """
    kind = entry["kind"]
    if kind == "loss":
        terms = entry.get("loss", {})
        parts = ", ".join(f"{name} {value:.4g}" for name, value in terms.items() if value is not None)
        rate = entry.get("learning_rate")
        text = f"loss {parts}" + ("" if rate is None else f"; learning rate {rate:.2g}")
    elif kind == "gain":
        gains = sorted(entry.get("gain", {}).items(), key=lambda item: int(item[0]))
        text = "held-out gain " + "; ".join(f"x{factor} {_describe_gain(gain)}" for factor, gain in gains)
    elif kind == "note":
        text = str(entry.get("message", ""))
    else:
        return None
    return f"Step {entry['step']}: {text}"


def describe_study(training: Sequence[Candidate], held_out: Sequence[Candidate], share: float) -> str:
    """One line on the scans to train on and the held-out scans.

    Args:
        training: the scans to train on, at least one.
        held_out: the scans that the user holds out.
        share: share to hold out if `held_out` is empty.
    """
    slices = sum(scan.slices or 0 for scan in training)
    line = f"{_count(len(training), 'scan')} to train on, {_count(slices, 'slice')}"
    if held_out:
        return f"{line}; {_count(len(held_out), 'scan')} held out to evaluate the model."
    if share == 0:
        return f"{line}; nothing is held out, so the gain will not be measured."
    if len(training) == 1:
        return f"{line}, of which the upper {share:.0%} are held out to evaluate the model."
    count = min(len(training) - 1, math.ceil(share * len(training)))
    return f"{line}, of which {_count(count, 'scan')} held out to evaluate the model."


def describe_run_folder(folder: RunFolder) -> str:
    """One line on the run in a folder and the next step; "" without a run."""
    if folder.is_at_work:
        return "Another program trains in this folder: wait for its end, or choose another folder."
    if folder.can_resume:
        return "This folder holds a stopped run: resume it, or choose a new folder to train again."
    if folder.holds_run:
        return "This folder holds a finished run: choose a new folder to train again."
    return ""


def describe_spacing(spacing: float | None) -> str:
    """Slice spacing for a table.

    >>> describe_spacing(2.5), describe_spacing(None)
    ('2.5 mm', '')
    """
    return "" if spacing is None else f"{spacing:.4g} mm"


def describe_report(report: Mapping[str, Any]) -> str:
    """HTML: the message of the run, and the held-out gain before and after it.

    Args:
        report: report of the run.
    """
    parts = [f"<p>{html.escape(str(report.get('message', '')))}</p>"]
    before, after = report.get("before") or {}, report.get("after") or {}
    if after:
        parts.append(_gain_table(before, after))
    if report.get("seconds") is not None:
        best = "" if report.get("best_step") is None else f"; the best model is from step {report['best_step']}"
        parts.append(f"<p>{_count(report.get('steps', 0), 'step')} in {describe_seconds(report['seconds'])}{best}.</p>")
    return "".join(parts)


def _gain_table(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    headings = "".join(f"<th>{text}</th>" for text in ("Factor", "over", "before, dB", "after, dB"))
    rows = []
    for factor in sorted(after, key=int):
        for name, key in _BASELINES:
            cells = "".join(
                f'<td align="right">{_decibel(gains.get(factor, {}).get(key))}</td>' for gains in (before, after)
            )
            rows.append(f"<tr><td>x{html.escape(factor)}</td><td>{name}</td>{cells}</tr>")
    return f'<table cellpadding="3"><tr>{headings}</tr>{"".join(rows)}</table>'


def _describe_gain(gain: Mapping[str, float | None]) -> str:
    return ", ".join(f"{_decibel(gain.get(key))} dB over {name}" for name, key in _BASELINES)


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
