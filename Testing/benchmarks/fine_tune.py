"""Does fine-tuning on part of a scan pay on the rest of it, and on the scan as a whole?

    python Testing/benchmarks/fine_tune.py SCAN [--thin 2] [--hold-out-share 0.4] [--factor 2] [--minutes 10]

Fine-tunes a model on the lower slices of a scan, of which only every `--thin`-th is taken, and prints as JSON:

- "held_out": the report of the run, with the gain on the upper slices before and after;
- "truth": where `--thin` has taken slices away, the gain on those of the upper part that were taken away, before and
  after, which neither the run nor its early stopping has seen;
- "selfcheck": the gain of the scan's own self-check, before and after.

The run lies in a temporary folder and is removed with it, unless `--keep` names another place for it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "XViewSynthTrain")]

from XViewSynthLib import read_volume, selfcheck, write_volume  # noqa: E402
from XViewSynthLib.geometry.acquisition import thin  # noqa: E402
from XViewSynthLib.progress import reporter  # noqa: E402
from XViewSynthTrainLib.files import MODEL_FOLDER  # noqa: E402
from XViewSynthTrainLib.regions import split_slices  # noqa: E402
from XViewSynthTrainLib.runs import train  # noqa: E402
from XViewSynthTrainLib.training_set import TrainingSet  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("--thin", type=int, default=1, metavar="N", help="take every N-th slice (default: all)")
    parser.add_argument("--hold-out-share", type=float, default=0.4)
    parser.add_argument("--factor", type=int, default=2)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=10)
    length.add_argument("--steps", type=int, help="in place of minutes: the same work on a computer of any speed")
    parser.add_argument("--model", default="standard")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to keep the run")
    parser.add_argument("--settings", type=json.loads, default={}, metavar="JSON")
    arguments = parser.parse_args()
    factor = arguments.factor
    whole = read_volume(arguments.scan)
    scan = thin(whole, arguments.thin) if arguments.thin > 1 else whole
    settings = {"factor_shares": {factor: 1.0}, **arguments.settings}
    if arguments.steps:
        settings["steps"] = arguments.steps
    with tempfile.TemporaryDirectory() as place, reporter("bar") as progress:
        folder = Path(place)
        run = arguments.keep or folder / "run"
        write_volume(scan, folder / "scan.nrrd")
        report = train(
            TrainingSet([folder / "scan.nrrd"], hold_out_share=arguments.hold_out_share, start=arguments.model),
            run,
            settings,
            minutes=None if arguments.steps else arguments.minutes,
            progress=progress,
        )
        models = {"before": arguments.model, "after": str(run / MODEL_FOLDER)}
        result = {"held_out": report, "selfcheck": gains(scan, factor, models)}
        if arguments.thin > 1:
            _, upper = split_slices(whole, whole.through_plane_axis, arguments.hold_out_share)
            result["truth"] = gains(upper, arguments.thin, models)
    print(json.dumps(result, indent=2))


def gains(scan, factor: int, models: dict[str, str]) -> dict[str, float | None]:
    """Gain in dB over the better interpolation, by model."""
    return {
        name: selfcheck(scan, factor, model=model)["methods"]["enhanced"]["gain_over_better_db"]
        for name, model in models.items()
    }


if __name__ == "__main__":
    main()
