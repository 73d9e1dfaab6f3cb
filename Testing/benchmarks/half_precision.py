"""How much half precision changes an answer: of the bundled CT, thinned and restored.

    python Testing/benchmarks/half_precision.py [--model NAME]... [--pixels 96]

On the CPU, where rounding is the same as on a GPU and only the seconds are not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from XViewSynthLib import enhance, load_model, read_volume
from XViewSynthLib.geometry.acquisition import average, thin
from XViewSynthTrainLib.regions import middle_of

SAMPLE = Path(__file__).parents[2] / "Resources" / "SampleData" / "ChestCT.nrrd"


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description="How much half precision changes an answer.")
    parser.add_argument("--model", action="append", help="default: both that ship")
    parser.add_argument("--factor", type=int, action="append", help="default: 2 and 4")
    parser.add_argument("--pixels", type=int, default=96, help="the middle of each slice")
    arguments = parser.parse_args()
    scan = middle_of(read_volume(SAMPLE), "K", arguments.pixels)
    # As floats, so that nothing is rounded to whole HU.
    scan = scan.with_voxels(scan.voxels.astype(np.float32))
    print("| model | factor | precision | mean change, HU | 99 % below, HU | largest, HU |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for name in arguments.model or ("standard", "standard-thick"):
        model = load_model(name)
        for factor in arguments.factor or (2, 4):
            observed = (average if model.network.thick else thin)(scan, factor, "K")
            full = enhance(observed, factor, model=model, device="cpu", precision="fp32")
            for precision in ("fp16", "bf16"):
                half = enhance(observed, factor, model=model, device="cpu", precision=precision)
                change = np.abs(full.volume.voxels - half.volume.voxels)[list(full.synthetic_slices)]
                figures = f"{change.mean():.3f} | {np.quantile(change, 0.99):.2f} | {change.max():.2f}"
                print(f"| {name} | {factor} | {precision} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
