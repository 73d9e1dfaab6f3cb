"""Fit the errors in HU that a model's uncertainty stands for, and put them on its card.

    python Testing/tools/calibrate_uncertainty.py MODEL_FOLDER SCAN... [--thickness MM...] [--factor N]... [--rows N]

The scans have thin slices. Of each, slices are left out and restored, and weights and curves of
`XViewSynthLib.inference.uncertainty` are fitted to the errors, all scans alike. For each scan it prints the share of
its errors that a calibration by the other scans covers, which should be near 0.9. Factors that are not named keep what
the card says.

Where slices are so far apart that the network of another factor answers, that has a calibration of its own. The network
of a factor is calibrated by the scans that it answers for, or by all if there are none.

Scans that the model was trained on will do as long as it restores them no better than others: compare the gains of
`xviewsynth bench` first. Never take a scan on which coverage will be reported.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from XViewSynthLib import InputError, Volume, enhance, load_model, read_volume
from XViewSynthLib.evaluation.calibration import fit, samples
from XViewSynthLib.evaluation.selfcheck import Trial, drop_slices
from XViewSynthLib.inference.plan import gap_ratio
from XViewSynthLib.inference.uncertainty import CARD_FIELD, COVERAGE, OWN, READ_OFF, TERMS, Calibration
from XViewSynthLib.model.catalogue import CARD_FILE, Model, card_fault
from XViewSynthLib.model.network import ThreeViewNetwork

VOXELS = 60_000


def main() -> None:
    """Write the field "doubt" of MODEL_FOLDER/card.json."""
    parser = argparse.ArgumentParser(description="Put the errors that a model's uncertainty stands for on its card.")
    parser.add_argument("model", type=Path, metavar="MODEL_FOLDER")
    parser.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    parser.add_argument("--thickness", nargs="+", type=float, metavar="MM", help="of the slices of each scan")
    parser.add_argument("--factor", type=int, action="append", metavar="N", help="default: all that the model knows")
    parser.add_argument("--rows", type=int, metavar="N", help="only the middle rows of each slice, to save time")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    thicknesses = arguments.thickness or [None] * len(arguments.scans)
    told = list(zip(arguments.scans, thicknesses, strict=True))
    own_networks = with_own_networks(model)
    for factor in arguments.factor or model.card["factors"]:
        trials = {
            path.name.split(".")[0]: drop_slices(
                middle(read_volume(path, thickness), arguments.rows), factor, acquisition=model.card["acquisition"]
            )
            for path, thickness in told
        }
        read_off = {name: trial for name, trial in trials.items() if is_read_off(trial, model)}
        own = {name: trial for name, trial in trials.items() if name not in read_off} or trials
        for field, chosen, answering in ((OWN, own, own_networks), (READ_OFF, read_off, model)):
            drawn = {name: draw(trial, answering) for name, trial in chosen.items()}
            for name, coverage in left_out(drawn).items():
                print(
                    f"x{factor} {name}, {field}: the calibration by the other scans covers {coverage:.3f}", flush=True
                )
            if drawn:
                write(arguments.model / CARD_FILE, field, factor, fit(list(drawn.values())), list(drawn))


def is_read_off(trial: Trial, model: Model) -> bool:
    """Whether the network of another factor answers for a scan that lost slices."""
    return model.network.network_factor(trial.factor, gap_ratio(trial.observed, trial.axis)) != trial.factor


def with_own_networks(model: Model) -> Model:
    """The model, in which every factor is answered by its own network."""
    sizes = {name: number for name, number in model.card["network"].items() if name != "wide_gaps"}
    network = ThreeViewNetwork(**sizes)
    network.load_state_dict(model.network.state_dict())
    return replace(model, network=network.eval())


def middle(scan: Volume, rows: int | None) -> Volume:
    """The middle rows of every slice of an axial scan; all where `rows` is None."""
    count = scan.voxels.shape[1]
    if rows is None or rows >= count:
        return scan
    first = (count - rows) // 2
    affine = scan.affine.copy()
    affine[:3, 3] += first * affine[:3, 1]
    return Volume(scan.voxels[:, first : first + rows], affine, scan.slice_thickness)


def draw(trial: Trial, model: Model) -> np.ndarray:
    """Terms of uncertainty and errors of a scan that lost slices and is restored."""
    new_thickness = trial.new_thickness(model)
    enhanced = enhance(trial.observed, trial.factor, axis=trial.axis, model=model, new_thickness=new_thickness)
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


def write(card_file: Path, field: str, factor: int, calibration: Calibration, scans: list[str]) -> None:
    """Put the calibration of one factor on the card. Those of other terms that it may have mean nothing any longer.

    Raises:
        InputError: the card would not be sound.
    """
    card = json.loads(card_file.read_text(encoding="utf-8"))
    former = card.get(CARD_FIELD, {})
    if former.get("terms") != list(TERMS):
        former = {}
    factors = {OWN: former.get(OWN, {}), READ_OFF: former.get(READ_OFF, {})}
    factors[field] = dict(sorted((factors[field] | {str(factor): calibration.to_card()}).items()))
    scans = sorted({*former.get("scans", []), *scans})
    card[CARD_FIELD] = {"coverage": COVERAGE, "terms": list(TERMS), "scans": scans, **factors}
    fault = card_fault(card)
    if fault:
        raise InputError(f"The errors could not be put on the card: {fault}.")
    card_file.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
