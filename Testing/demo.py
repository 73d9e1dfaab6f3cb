"""The main job, on the bundled CT: leave slices out, synthesise them, compare with what was scanned.

    python Testing/demo.py FOLDER

writes into FOLDER, which `python3 run.py demo` sets to demo-output/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from XViewSynthLib import load_model, read_volume, write_volume
from XViewSynthLib.evaluation.figures import comparison_png
from XViewSynthLib.evaluation.selfcheck import (
    ENHANCED,
    drop_slices,
    measure_baseline,
    measure_model,
    with_gains,
)
from XViewSynthLib.geometry.interpolation import METHODS
from XViewSynthLib.inference.hardware import peak_bytes
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.progress import Monitor, reporter
from XViewSynthLib.report import describe_enhanced
from XViewSynthLib.request import Request
from XViewSynthLib.system.outputs import Outputs
from XViewSynthLib.system.staging import output_folder
from XViewSynthLib.system.stop import LastStep, at_once, stop_signals
from XViewSynthLib.workers.job import run

SAMPLE = Path(__file__).resolve().parents[1] / "Resources" / "SampleData" / "ChestCT.nrrd"
FACTOR = 4
#: Of the slices of the sample, mm: as its page says, since its file does not.
THICKNESS = 2.0
VOLUME, UNCERTAINTY, OBSERVED = "enhanced.nrrd", "uncertainty.nrrd", "observed.nrrd"
REPORT, PICTURE = "report.json", "comparison.png"
_TITLES = {"linear": "linear", "cubic": "cubic spline", "sinc": "windowed sinc", ENHANCED: "enhanced"}


def main(argv: list[str] | None = None) -> int:
    """Run the demo and give its exit code, which means the same as that of `xviewsynth`."""
    parser = argparse.ArgumentParser(description="Enhance the bundled CT and compare with what was scanned.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the volumes, picture and report go")
    parser.add_argument("--model", default="standard", metavar="NAME|FOLDER", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    with stop_signals(restore=True) as request:
        return run(
            lambda: demonstrate(arguments.folder, arguments.model, lambda: request.requested, request.last_step),
            request,
        )


def demonstrate(folder: Path, model: str, should_cancel: Callable[[], bool], last_step: LastStep = at_once) -> None:
    """Thin the bundled scan, enhance it, measure and write everything; what is there already is replaced.

    Args:
        folder: made if missing.
        model: name or folder.
        should_cancel: asked several times a second.
        last_step: gives all files their names; see `StopRequest.last_step`.

    Raises:
        InputError: the model or the folder cannot be used.
        Cancelled: `should_cancel` said so; nothing was written.
    """
    began = time.perf_counter()
    loaded = load_model(model)
    trial = drop_slices(read_volume(SAMPLE, THICKNESS), FACTOR)
    kept, whole = (volume.slices(trial.axis) for volume in (trial.observed, trial.reference.volume))
    print(f"{SAMPLE.name}: {kept} of {whole} slices are kept, {whole - kept} are to be synthesised.", flush=True)
    with output_folder(folder), Outputs(overwrite=True, inputs=[SAMPLE]) as outputs:
        files = {name: outputs.add(folder / name) for name in (VOLUME, UNCERTAINTY, OBSERVED, REPORT, PICTURE)}
        with reporter("bar") as progress:
            monitor, methods = Monitor(progress, should_cancel), {}
            for done, method in enumerate(METHODS):
                monitor.step("interpolating", done, len(METHODS))
                methods[method], _ = measure_baseline(trial, method, monitor.check)
            plan = make_plan(trial.observed, loaded, trial.request(loaded, Request()))
            enhanced, result = measure_model(trial, loaded, plan, monitor)
        methods = with_gains(methods | result)
        for name, volume in (
            (VOLUME, enhanced.volume),
            (UNCERTAINTY, enhanced.uncertainty),
            (OBSERVED, trial.observed),
        ):
            monitor.check()
            write_volume(volume, files[name])
        comparison_png(
            files[PICTURE], trial.observed, enhanced.volume, trial.factor, trial.axis, truth=trial.reference.volume
        )
        report = describe_enhanced(SAMPLE.name, VOLUME, trial.observed, enhanced) | {
            "seconds": time.perf_counter() - began,
            "seconds_enhancing": enhanced.seconds,
            "peak_memory_bytes": peak_bytes(),
            "methods": methods,
            "rank_correlation": methods[ENHANCED]["rank_correlation"],
        }
        files[REPORT].write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        last_step(outputs.commit)
    print(describe(report, folder), flush=True)


def describe(report: Mapping[str, Any], folder: Path) -> str:
    """The table of gains, what they mean, and where the files are."""
    lines = [
        "",
        f"{'new slices only':16}{'PSNR dB':>9}{'over linear':>13}{'over cubic':>12}{'MAE HU':>9}{'SSIM':>9}",
    ]
    for method, scores in report["methods"].items():
        lines.append(
            f"{_TITLES[method]:16}{scores['psnr_db']:9.2f}{scores['gain_over_linear_db']:+13.2f}"
            f"{scores['gain_over_cubic_db']:+12.2f}{scores['mae_hu']:9.1f}{scores['ssim']:9.4f}"
        )
    lines += [
        "",
        f"Rank correlation of the three views' disagreement with the true error: {report['rank_correlation']:.2f}.",
        f"Enhancing took {report['seconds_enhancing']:.0f} s, all of this {report['seconds']:.0f} s and "
        f"{report['peak_memory_bytes'] / 1e9:.1f} GB at most.",
        "",
        f"In {folder}:",
        f"  {PICTURE:18} observed, cubic, enhanced, truth: look at this first",
        f"  {VOLUME:18} the scan with its synthetic slices",
        f"  {UNCERTAINTY:18} uncertainty, HU: {report['uncertainty']}",
        f"  {OBSERVED:18} what the enhancement was given",
        f"  {REPORT:18} all figures",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
