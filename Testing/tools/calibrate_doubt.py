"""Fit the errors in HU that a model's doubt stands for, and put them on its card.

    python Testing/tools/calibrate_doubt.py MODEL_FOLDER SCAN... [--thickness MM...] [--factor N]... [--rows N]

The scans have thin slices. Of each, slices are left out and restored, and weights and curves of `XViewSynthLib.doubt`
are fitted to the errors, all scans alike. For each scan it is told how large a share of its errors a calibration by
the other scans covers, which should be near 0.9. Factors that are not named keep what the card says. Scans for
which the network of another factor answers, as where gaps at x2 are wide, do not count.

Scans that the model was trained on will do as long as it restores them no better than others: compare the gains of
`xviewsynth bench` first. Never take a scan on which coverage will be reported.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from XViewSynthLib import InputError, Volume, enhance, load_model, read_volume
from XViewSynthLib.calibration import fit
from XViewSynthLib.doubt import CARD_FIELD, COVERAGE, Calibration, samples
from XViewSynthLib.models import CARD_FILE, Model, card_fault
from XViewSynthLib.plan import make_plan
from XViewSynthLib.selfcheck import drop_slices

VOXELS = 60_000


def main() -> None:
    """Write the field "doubt" of MODEL_FOLDER/card.json."""
    parser = argparse.ArgumentParser(description="Put the errors that a model's doubt stands for on its card.")
    parser.add_argument("model", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    parser.add_argument("--thickness", nargs="+", type=float, metavar="MM", help="of the slices of each scan")
    parser.add_argument("--factor", type=int, action="append", metavar="N", help="default: all that the model knows")
    parser.add_argument("--rows", type=int, metavar="N", help="only the middle rows of each slice, to save time")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    thicknesses = arguments.thickness or [None] * len(arguments.scans)
    for factor in arguments.factor or model.card["factors"]:
        drawn = {}
        for path, thickness in zip(arguments.scans, thicknesses, strict=True):
            sample = draw(middle(read_volume(path, thickness), arguments.rows), factor, model)
            if sample is not None:
                drawn[path.name.split(".")[0]] = sample
        if not drawn:
            print(f"x{factor}: the network of another factor answers for all these scans; the card stays as it is.")
            continue
        for name, coverage in left_out(drawn).items():
            print(f"x{factor} {name}: the calibration by the other scans covers {coverage:.3f}", flush=True)
        write(arguments.model / CARD_FILE, factor, fit(list(drawn.values())), list(drawn))


def middle(scan: Volume, rows: int | None) -> Volume:
    """The middle rows of every slice of an axial scan; all where `rows` is None."""
    count = scan.voxels.shape[1]
    if rows is None or rows >= count:
        return scan
    first = (count - rows) // 2
    affine = scan.affine.copy()
    affine[:3, 3] += first * affine[:3, 1]
    return Volume(scan.voxels[:, first : first + rows], affine, scan.slice_thickness)


def draw(scan: Volume, factor: int, model: Model) -> np.ndarray | None:
    """Terms of doubt and errors of a scan that is thinned and restored; None where another factor's network answers."""
    trial = drop_slices(scan, factor, acquisition=model.card["acquisition"])
    plan = make_plan(trial.observed, model, factor=factor, axis=trial.axis, new_thickness=trial.new_thickness(model))
    if plan.asked_factor != factor:
        return None
    enhanced = enhance(trial.observed, model=model, plan=plan)
    return samples(trial.reference, enhanced, trial.reference.order.apply(trial.observed.voxels), VOXELS)


def left_out(drawn: dict[str, np.ndarray]) -> dict[str, float]:
    """For each scan, the share of its errors under the bound of a calibration by the other scans."""
    coverage = {}
    for name, sample in drawn.items():
        others = [other for key, other in drawn.items() if key != name]
        if others:
            calibration = fit(others)
            scale = np.sqrt(sample[:, :-1] @ np.asarray(calibration.weights, np.float32))
            bound = calibration.error_bound(calibration.expected_error(scale))
            coverage[name] = float((sample[:, -1] <= bound).mean())
    return coverage


def write(card_file: Path, factor: int, calibration: Calibration, scans: list[str]) -> None:
    """Put the calibration of one factor on the card.

    Raises:
        InputError: the card would not be sound.
    """
    card = json.loads(card_file.read_text(encoding="utf-8"))
    factors = card.get(CARD_FIELD, {}).get("factors", {}) | {str(factor): calibration.to_card()}
    card[CARD_FIELD] = {"coverage": COVERAGE, "scans": scans, "factors": dict(sorted(factors.items()))}
    fault = card_fault(card)
    if fault:
        raise InputError(f"The errors could not be put on the card: {fault}.")
    card_file.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
