"""What a finished run leaves for people: `report.json`, and the same as a page with pictures that needs nothing else.

The page is to be shown around, so it names no file, no folder and no patient: what the run was told of those is taken
out of all texts, and pictures are drawn from voxels alone.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from XViewSynthLib import __version__
from XViewSynthLib.errors import InputError
from XViewSynthLib.io.reading import suffix_of
from XViewSynthLib.progress import describe_seconds
from XViewSynthLib.system.outputs import Outputs

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
    "cross_view_from": "views teach each other from this share of the run",
    "incremental_from": "further doublings from this share of the run",
    "weights": "weights of the loss terms",
}
_SHORTEST_NAME = 3

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { border-left: 5px solid #7a8794; background: #f3f5f7; padding: .8rem 1rem; font-size: 1.05rem; }
.verdict.better { border-color: #2e8b57; } .verdict.not-better { border-color: #c77700; }
table { border-collapse: collapse; margin: .6rem 0; } caption { text-align: left; color: #5a6672; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #dde2e7; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; break-inside: avoid; } figure img { max-width: 100%; height: auto; }
figcaption, .small { color: #5a6672; font-size: .9rem; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } h2 { break-after: avoid; } }
"""


def write_report(run_folder: Path, report: dict[str, Any]) -> None:
    """Write `report.json` and `report.html` into a run folder, both or none; former ones are replaced.

    The page draws on `log.jsonl`, `config.json` and `preview/` too, and does without those that are missing.

    Args:
        run_folder: the run's.
        report: "status", "message", "beats_start", "before" and "after" (gains by factor), "best_step", "steps",
            "seconds", "training_scans", "held_out_scans", "model"; the page leaves out what is missing.

    Raises:
        InputError: the folder cannot be written to.
    """
    folder = Path(run_folder)
    # Through JSON, so that the page shows what a reader of the file gets.
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
    name = hide(str(report.get("model", {}).get("name", "model")))
    sections = [
        _heading(report, name),
        f'<p class="verdict{_verdict_class(report)}">{escape(hide(str(report.get("message", ""))))}</p>',
        _meaning(report, _is_one_scan(folder)),
        _gains(report),
        _pictures(folder, report, log),
        _curves(report, log),
        _notes(log, hide),
        _scans("Scans it was trained on", report.get("training_scans")),
        _scans("Scans it was judged on, and not trained on", report.get("held_out_scans")),
        _settings(folder, hide),
        _facts(report),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>Training of {escape(name)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _heading(report: dict[str, Any], name: str) -> str:
    told = []
    if "steps" in report:
        told.append(f"{report['steps']} steps")
    if "seconds" in report:
        told.append(describe_seconds(report["seconds"]))
    if "status" in report:
        told.append(str(report["status"]))
    return f'<h1>Training of {escape(name)}</h1>\n<p class="small">{escape(", ".join(told))}</p>'


def _verdict_class(report: dict[str, Any]) -> str:
    return {True: " better", False: " not-better"}.get(report.get("beats_start"), "")


def _meaning(report: dict[str, Any], is_one_scan: bool) -> str:
    """What a clinician may conclude, and may not."""
    sentences = []
    reached, had = (_mean_gain(report.get(key)) for key in ("after", "before"))
    if reached is None:
        sentences.append(
            "No scans were kept from training, so this page cannot say how good the model is. Check it on your own "
            "scan before you rely on it."
        )
    else:
        sentences.append(
            "Parts of scans that the model was not trained on lost slices on purpose, and it restored them. "
            f"{_error_sentence('The delivered model', reached)}"
        )
        if report.get("beats_start") and had is not None:
            sentences.append(_error_sentence("The model that training started from", had))
        sentences.append(_advice(report.get("beats_start"), reached))
        sentences.append(_reservation(is_one_scan, len(report.get("held_out_scans") or [])))
    paragraphs = "\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return (
        f"<h2>What this means</h2>\n{paragraphs}\n"
        "<p><strong>Synthetic slices are predictions and not a diagnosis.</strong> They can miss what lies between two "
        "observed slices, and show what is not there. Decide on observed slices.</p>"
    )


def _reservation(is_one_scan: bool, count: int) -> str:
    if is_one_scan:
        measured = "This was measured on other slices of the very scan it was trained on, which is the easiest case."
    else:
        measured = f"This was measured on {_count(count, 'scan')}." if count else "This was measured on few scans."
    return (
        f"{measured} The same slices told when to stop training, which flatters the figures a little. Scans of another "
        "scanner, dose, contrast or part of the body may fare worse: check the model on the scan at hand."
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
            "Training brought nothing on these scans, so the delivered model is the one it started from. Go on using "
            "that, or train longer or on more scans."
        )
    if reached <= 0:
        return "Do not use this model: plain interpolation does as well. Train longer or on more scans."
    return "It can be used for scans like these."


def _gains(report: dict[str, Any]) -> str:
    before, after = report.get("before") or {}, report.get("after") or {}
    factors = sorted({*before, *after}, key=int)
    if not factors:
        return ""
    rows = []
    for factor in factors:
        for key, rival in _GAINS.items():
            had, has = (gains.get(factor, {}).get(key) for gains in (before, after))
            change = None if had is None or has is None else has - had
            rows.append((f"x{factor}", rival, _decibels(had), _decibels(has), _decibels(change)))
    head = ("factor", "gain", "before", "after", "change")
    return "<h2>Gain on held-out slices</h2>\n" + _table(
        head,
        rows,
        numbers=(2, 3, 4),
        caption="Gain in PSNR over interpolation of the same slices, mean over the scans.",
    )


def _pictures(folder: Path, report: dict[str, Any], log: Sequence[dict[str, Any]]) -> str:
    factors = {int(factor) for factor in report.get("after") or {}}
    factors |= {int(factor) for entry in log if entry["kind"] == "gain" for factor in entry["gain"]}
    address = None
    # A page without its picture is better than no page after hours of training.
    if factors:
        with suppress(InputError, ImportError):
            address = figures.before_and_after(folder / PREVIEW_FOLDER, min(factors))
    if address is None:
        return '<h2>Before and after</h2>\n<p class="small">There is no preview of held-out slices to show.</p>'
    caption = (
        f"A held-out region of which one slice in {min(factors)} was left. Below: a part of it, and how far each is "
        "from the truth. Where slices were left, predictions have no error."
    )
    return "<h2>Before and after</h2>\n" + _figure(address, "Held-out slices before and after training", caption)


def _curves(report: dict[str, Any], log: Sequence[dict[str, Any]]) -> str:
    draw: list[tuple[str, Callable[[], str | None], str]] = [
        ("Held-out gain", lambda: figures.gain_curves(log, report.get("best_step")), "Step 0 is before training."),
        ("Loss", lambda: figures.loss_curves(log), "Terms that start later belong to later stages."),
        ("Learning rate", lambda: figures.rate_curve(log), ""),
    ]
    parts = []
    for title, make, caption in draw:
        address = None
        with suppress(ImportError):
            address = make()
        if address is not None:
            parts.append(_figure(address, title, f"{title} over the steps. {caption}".strip()))
    return "<h2>How it learned</h2>\n" + ("\n".join(parts) or '<p class="small">Nothing was logged.</p>')


def _notes(log: Sequence[dict[str, Any]], hide: Callable[[str], str]) -> str:
    notes = [(entry["step"], hide(str(entry["message"]))) for entry in log if entry["kind"] == "note"]
    return "<h2>Notes</h2>\n" + _table(("step", "what happened"), notes, numbers=(0,)) if notes else ""


def _scans(title: str, scans: Sequence[dict[str, Any]] | None) -> str:
    if not scans:
        return ""
    # Numbers alone, whatever else the run may have noted of a scan.
    alike = Counter((scan.get("slices"), scan.get("slice_spacing_mm")) for scan in scans)
    rows = [(count, *(_number(value) for value in facts)) for facts, count in alike.items()]
    return f"<h2>{escape(title)}</h2>\n" + _table(("scans", "slices", "mm apart"), rows, numbers=(0, 1, 2))


def _settings(folder: Path, hide: Callable[[str], str]) -> str:
    try:
        settings = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        rows = [(told, hide(_setting(settings[key]))) for key, told in _SETTINGS.items() if key in settings]
        others = [(key, hide(_setting(value))) for key, value in settings.items() if key not in _SETTINGS]
    except (OSError, ValueError, TypeError, AttributeError):
        return ""
    more = f"<details><summary>All others</summary>\n{_table((), others)}\n</details>" if others else ""
    return f"<h2>Settings</h2>\n{_table((), rows)}\n{more}"


def _facts(report: dict[str, Any]) -> str:
    model = report.get("model", {})
    rows = [
        ("model version", model.get("version")),
        ("SHA-256 of the weights", model.get("sha256")),
        ("device", report.get("device")),
        ("processes", report.get("processes")),
        ("best step", report.get("best_step")),
        ("program", f"XViewSynth {__version__}"),
    ]
    return "<h2>Particulars</h2>\n" + _table((), [row for row in rows if row[1] is not None])


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = (), caption: str = "") -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        kinds = [' class="number"' if column in numbers else "" for column in range(len(cells))]
        made = (f"<{tag}{kind}>{escape(str(cell))}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    lines = [f"<caption>{escape(caption)}</caption>"] if caption else []
    lines += [f"<thead>{line(head, 'th')}</thead>"] if head else []
    return "\n".join(["<table>", *lines, "<tbody>", *(line(row, "td") for row in rows), "</tbody>", "</table>"])


def _figure(address: str, about: str, caption: str) -> str:
    image = f'<img src="{address}" alt="{escape(about)}">'
    return f"<figure>\n{image}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


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
    """The same with None for what JSON has no word for."""
    if isinstance(value, dict):
        return {key: _without_infinities(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinities(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _study(folder: Path) -> tuple[list[str], list[str]]:
    """Paths of the scans that were trained on, and of those that the user kept from it."""
    try:
        study = json.loads((folder / SCANS_FILE).read_text(encoding="utf-8"))
        return list(study["training"]), list(study["held_out"])
    except (OSError, ValueError, TypeError, KeyError):
        return [], []


def _is_one_scan(folder: Path) -> bool:
    """Whether there was nothing to judge on but slices of the scan that was trained on."""
    training, held_out = _study(folder)
    return len(training) == 1 and not held_out


def _hiding_names(folder: Path) -> Callable[[str], str]:
    """A function that takes the run's folder, and the files and folders of its scans, out of a text."""
    names: set[str] = {str(folder), str(folder.resolve())}
    training, held_out = _study(folder)
    for path in map(Path, [*training, *held_out]):
        names |= {str(path), path.name, path.name[: len(path.name) - len(suffix_of(path))]}
    # The longest first, or what is left of a path would still tell.
    ordered = sorted((name for name in names if len(name) >= _SHORTEST_NAME), key=len, reverse=True)
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in ordered))
    return lambda text: pattern.sub("…", text)
