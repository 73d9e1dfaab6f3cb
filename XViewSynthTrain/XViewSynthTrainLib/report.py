"""Report of a finished run: `report.json`, and the same as a self-contained page with figures.

The page may be shared, so it names no file, no folder and no patient. Paths of the run are removed from all texts, and
figures are drawn from voxels alone.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from XViewSynthLib import __version__
from XViewSynthLib.errors import InputError
from XViewSynthLib.io.reading import suffix_of
from XViewSynthLib.progress import describe_seconds
from XViewSynthLib.system.outputs import Outputs
from XViewSynthLib.system.pages import render

from . import figures
from .files import CONFIG_FILE, PREVIEW_FOLDER, REPORT_FILE, REPORT_PAGE, SCANS_FILE
from .runlog import read_log

_GAINS = {"over_linear_db": "over linear", "over_cubic_db": "over cubic", "over_better_db": "over the better"}
_SETTINGS = {
    "steps": "steps planned",
    "seed": "seed",
    "batch": "blocks a step",
    "learning_rate": "highest learning rate",
    "factor_shares": "factors and how often each is trained",
    "gamma": "γ, share of the smallest differences that views distil",
    "cross_view_from": "distillation between views from this share of the run",
    "incremental_from": "further doublings from this share of the run",
    "weights": "weights of the loss terms",
}
_SHORTEST_NAME = 3
_TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True)
class _Figure:
    """A figure of the page: its address (`data:image/...`), its alternative text, and its caption."""

    address: str
    about: str
    caption: str


def write_report(run_folder: Path, report: dict[str, Any]) -> None:
    """Write `report.json` and `report.html` into a run folder, both or none. Former ones are replaced.

    The page also uses `log.jsonl`, `config.json` and `preview/`, if they exist.

    Args:
        run_folder: the run's.
        report: "status", "message", "beats_start", "before" and "after" (gains by factor), "best_step", "steps",
            "seconds", "training_scans", "held_out_scans", "model". The page omits missing values.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = Path(run_folder)
    # Through JSON, so that page and file show the same values.
    text = json.dumps(_without_infinities(report), indent=2, allow_nan=False)
    page = _page(folder, json.loads(text))
    with Outputs(overwrite=True) as outputs:
        for name, content in ((REPORT_FILE, text + "\n"), (REPORT_PAGE, page)):
            path = outputs.add(folder / name)
            try:
                path.write_text(content, encoding="utf-8")
            except OSError as error:
                raise InputError(f"Make room or choose another folder: {folder / name}: {error.strerror}.") from error
        outputs.commit()


def _page(folder: Path, report: dict[str, Any]) -> str:
    hide = _hiding_names(folder)
    log = read_log(folder)
    settings, other_settings = _settings(folder, hide)
    return render(
        _TEMPLATE,
        name=hide(str(report.get("model", {}).get("name", "model"))),
        extent=_extent(report),
        beats_start=report.get("beats_start"),
        message=hide(str(report.get("message", ""))),
        meaning=_meaning(report, _is_one_scan(folder)),
        gains=_gains(report),
        picture=_picture(folder, report, log),
        curves=_curves(report, log),
        notes=[(entry["step"], hide(str(entry["message"]))) for entry in log if entry["kind"] == "note"],
        training_scans=_scans(report.get("training_scans")),
        held_out_scans=_scans(report.get("held_out_scans")),
        settings=settings,
        other_settings=other_settings,
        particulars=_particulars(report),
    )


def _extent(report: dict[str, Any]) -> list[str]:
    """Number of steps, duration and end of the run."""
    extent = []
    if "steps" in report:
        extent.append(f"{report['steps']} steps")
    if "seconds" in report:
        extent.append(describe_seconds(report["seconds"]))
    if "status" in report:
        extent.append(str(report["status"]))
    return extent


def _meaning(report: dict[str, Any], is_one_scan: bool) -> list[str]:
    """Sentences for a clinician on the meaning of the gains."""
    reached, had = (_mean_gain(report.get(key)) for key in ("after", "before"))
    if reached is None:
        return [
            "No scans were held out from training, so the quality of the model is unknown. Check it on your own "
            "scan before you rely on it."
        ]
    sentences = [
        "Slices were dropped from parts of scans that the model was not trained on, and the model restored them. "
        f"{_error_sentence('The delivered model', reached)}"
    ]
    if report.get("beats_start") and had is not None:
        sentences.append(_error_sentence("The model that training started from", had))
    sentences.append(_advice(report.get("beats_start"), reached))
    sentences.append(_reservation(is_one_scan, len(report.get("held_out_scans") or [])))
    return sentences


def _reservation(is_one_scan: bool, count: int) -> str:
    if is_one_scan:
        measured = "This was measured on other slices of the scan that it was trained on, which is the easiest case."
    else:
        measured = f"This was measured on {_count(count, 'scan')}." if count else "This was measured on few scans."
    return (
        f"{measured} The same slices determined the end of training, so the figures are a little too good. Scans of "
        "other scanners, doses, contrast agents or parts of the body may have lower gains: check it on your scan."
    )


def _error_sentence(who: str, gain_db: float) -> str:
    share = 100 * (10 ** (-abs(gain_db) / 20))
    if abs(gain_db) < 0.05:
        return f"{who} is as close to the true slices as the better of linear and cubic interpolation."
    if gain_db > 0:
        return (
            f"{who} comes closer to the true slices than the better of linear and cubic interpolation: its typical "
            f"error (root mean square) is {100 - share:.0f} % smaller."
        )
    return (
        f"{who} is further from the true slices than the better of linear and cubic interpolation: its typical error "
        f"(root mean square) is {10000 / share - 100:.0f} % larger."
    )


def _advice(beats_start: bool | None, reached: float) -> str:
    if beats_start is False:
        return (
            "Training gave no improvement on these scans, so the result is the model that it started from. Continue to "
            "use that, or train longer or on more scans."
        )
    if reached <= 0:
        return "Do not use this model: plain interpolation does as well. Train longer or on more scans."
    return "It can be used for scans like these."


def _gains(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of factor, other method, gain before, gain after and change."""
    before, after = report.get("before") or {}, report.get("after") or {}
    rows: list[tuple[str, ...]] = []
    for factor in sorted({*before, *after}, key=int):
        for key, rival in _GAINS.items():
            had, has = (gains.get(factor, {}).get(key) for gains in (before, after))
            change = None if had is None or has is None else has - had
            rows.append((f"x{factor}", rival, _decibels(had), _decibels(has), _decibels(change)))
    return rows


def _picture(folder: Path, report: dict[str, Any], log: Sequence[dict[str, Any]]) -> _Figure | None:
    factors = {int(factor) for factor in report.get("after") or {}}
    factors |= {int(factor) for entry in log if entry["kind"] == "gain" for factor in entry["gain"]}
    address = None
    # A page without its picture is better than no page after hours of training.
    if factors:
        with suppress(InputError, ImportError):
            address = figures.before_and_after(folder / PREVIEW_FOLDER, min(factors))
    if address is None:
        return None
    caption = (
        f"A held-out region of which one slice in {min(factors)} was left. Below: a part of it, and how far each is "
        "from the truth. Where slices were left, predictions have no error."
    )
    return _Figure(address, "Held-out slices before and after training", caption)


def _curves(report: dict[str, Any], log: Sequence[dict[str, Any]]) -> list[_Figure]:
    draw: list[tuple[str, Callable[[], str | None], str]] = [
        ("Held-out gain", lambda: figures.gain_curves(log, report.get("best_step")), "Step 0 is before training."),
        ("Loss", lambda: figures.loss_curves(log), "Terms that start later belong to later stages."),
        ("Learning rate", lambda: figures.rate_curve(log), ""),
    ]
    curves = []
    for title, make, caption in draw:
        address = None
        with suppress(ImportError):
            address = make()
        if address is not None:
            curves.append(_Figure(address, title, f"{title} over the steps. {caption}".strip()))
    return curves


def _scans(scans: Sequence[dict[str, Any]] | None) -> list[tuple[int | str, ...]]:
    """Rows of the number of scans that are alike, their slices and the distance of slices in mm."""
    # Numbers alone, since other values may name a patient.
    alike = Counter((scan.get("slices"), scan.get("slice_spacing_mm")) for scan in scans or [])
    return [(count, *(_number(value) for value in facts)) for facts, count in alike.items()]


def _settings(folder: Path, hide: Callable[[str], str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Names and values of the most important settings, and of all others."""
    try:
        settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        rows = [(meaning, hide(_setting(settings[key]))) for key, meaning in _SETTINGS.items() if key in settings]
        others = [(key, hide(_setting(value))) for key, value in settings.items() if key not in _SETTINGS]
    except (OSError, ValueError, TypeError, AttributeError):
        return [], []
    return rows, others


def _particulars(report: dict[str, Any]) -> list[tuple[str, Any]]:
    model = report.get("model", {})
    rows = [
        ("model version", model.get("version")),
        ("SHA-256 of the weights", model.get("sha256")),
        ("device", report.get("device")),
        ("processes", report.get("processes")),
        ("best step", report.get("best_step")),
        ("program", f"XViewSynth {__version__}"),
    ]
    return [row for row in rows if row[1] is not None]


def _mean_gain(gains: dict[str, dict[str, float | None]] | None) -> float | None:
    values = [gain.get("over_better_db") for gain in (gains or {}).values()]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f} dB"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else "–"


def _setting(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_setting(entry)}" for key, entry in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _without_infinities(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _without_infinities(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinities(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scan_paths(folder: Path) -> tuple[list[str], list[str]]:
    """Paths of the training scans and of the held-out scans."""
    try:
        stored = json.loads((folder / SCANS_FILE).read_text(encoding="utf-8"))
        return list(stored["training"]), list(stored["held_out"])
    except (OSError, ValueError, TypeError, KeyError):
        return [], []


def _is_one_scan(folder: Path) -> bool:
    """Whether only slices of the training scan were held out."""
    training, held_out = _scan_paths(folder)
    return len(training) == 1 and not held_out


def _hiding_names(folder: Path) -> Callable[[str], str]:
    """A function that removes the paths of the run and its scans from a text."""
    names: set[str] = {str(folder), str(folder.resolve())}
    training, held_out = _scan_paths(folder)
    for path in map(Path, [*training, *held_out]):
        names |= {str(path), path.name, path.name[: len(path.name) - len(suffix_of(path))]}
    # The longest first, so that no part of a path remains.
    ordered = sorted((name for name in names if len(name) >= _SHORTEST_NAME), key=len, reverse=True)
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in ordered))
    return lambda text: pattern.sub("…", text)
