"""Run folders for the tests, as a training leaves them, made without training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from scans import affine_from, anatomy
from XViewSynthLib import Volume, write_volume

GAIN = {"over_linear_db": 1.5, "over_cubic_db": 0.5, "over_better_db": 0.5}
LOG = (
    {"kind": "gain", "step": 0, "seconds": 0.0, "gain": {"2": GAIN, "4": GAIN}, "mean_gain_db": 0.5},
    {"kind": "loss", "step": 20, "seconds": 4.0, "learning_rate": 1e-3, "loss": {"views": 0.05, "mean": 0.04}},
    {"kind": "note", "step": 25, "message": "The rate was halved."},
    {
        "kind": "loss",
        "step": 40,
        "seconds": 8.0,
        "learning_rate": 5e-4,
        "loss": {"views": 0.04, "mean": 0.03, "distillation_1": 0.002},
    },
    {
        "kind": "gain",
        "step": 40,
        "seconds": 9.0,
        "gain": {"2": {**GAIN, "over_cubic_db": 0.75}, "4": {**GAIN, "over_cubic_db": None}},
        "mean_gain_db": 0.6,
    },
)
REPORT = {
    "status": "finished",
    "message": "'fine-tuned' restores the held-out slices 0.25 dB better than the model it started from.",
    "beats_start": True,
    "before": {"2": GAIN},
    "after": {"2": {**GAIN, "over_cubic_db": 0.75}},
    "best_step": 40,
    "steps": 40,
    "seconds": 61.0,
    "training_scans": [{"slices": 65, "slice_spacing_mm": 1.0}],
    "model": {"name": "fine-tuned", "version": "1.0.0", "sha256": "0" * 64},
}


def preview_volume(seed: int = 0) -> Volume:
    """A small region: (17, 24, 20) int16 HU, 0.8 x 0.8 x 1 mm."""
    return Volume(anatomy((17, 24, 20), seed), affine_from((0.8, 0.8, 1.0)))


def append_log(folder: Path, *entries: dict) -> None:
    """Add entries to a run's log."""
    with open(folder / "log.jsonl", "a", encoding="utf-8") as log:
        log.writelines(json.dumps(entry) + "\n" for entry in entries)


def write_run(folder: Path, model: Path | None = None, finished: bool = True) -> Path:
    """The folder of a run that was stopped, or has come to its end; its checkpoint is not a real one.

    Args:
        folder: made here.
        model: folder of the model that the run has made.
        finished: whether there is a report.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "checkpoint.safetensors").write_bytes(b"")
    append_log(folder, *LOG)
    (folder / "preview").mkdir()
    for seed, role in enumerate(("observed", "before", "now", "truth")):
        write_volume(preview_volume(seed), folder / "preview" / f"{role}.nrrd")
    if model is not None:
        shutil.copytree(model, folder / "model")
    if finished:
        (folder / "report.json").write_text(json.dumps(REPORT), encoding="utf-8")
        (folder / "report.html").write_text("<!DOCTYPE html><title>Report</title>", encoding="utf-8")
    return folder


def voxels(seed: int = 0) -> np.ndarray:
    """Those of `preview_volume`."""
    return preview_volume(seed).voxels
