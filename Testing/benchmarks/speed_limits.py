"""Seconds of enhancing against what the machine could do at best, and how seconds and memory grow with the scan.

    python Testing/benchmarks/speed_limits.py [--factor 4] [--model NAME] [--device cpu]
        [--slices 16 32 64 128 256] [--pixels 256 512 1024] [--output TABLE.md]

Two floors: the arithmetic of the networks at the rate at which this machine multiplies matrices, and the bytes of the
scan and of what is made of it, each once, at the rate at which it copies. Both rates are measured, before and after;
the better counts. Every size is enhanced in a process of its own, so that its peak of memory is its own.

Slices grow at 256 x 256 pixels, pixels at 16 slices.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from XViewSynthLib import load_model
from XViewSynthLib.geometry.slice_profile import SliceProfile
from XViewSynthLib.inference.hardware import PRECISIONS, resolve_device, resolve_precision
from XViewSynthLib.model.network import VIEWS, ScanFacts, ThreeViewNetwork

ENHANCE = Path(__file__).with_name("enhance_speed.py")
FEWEST_SLICES, FEWEST_PIXELS = 16, 256
MATRIX, COPIED_BYTES = 2048, 2**28
#: int16 scan and result; float32 disagreement and expected error.
INPUT_BYTES, OUTPUT_BYTES = 2, 2 + 4 + 4


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description="Seconds against the floors of the machine, and their growth.")
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--model", default="standard")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--slices", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--pixels", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--output", type=Path, metavar="TABLE.md")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    rates = [machine_rates(device)]
    network = load_model(arguments.model).network
    by_slices = [(FEWEST_PIXELS, slices) for slices in arguments.slices]
    by_pixels = [(pixels, FEWEST_SLICES) for pixels in arguments.pixels]
    measured = {size: enhance(*size, arguments) for size in dict.fromkeys(by_slices + by_pixels)}
    rates.append(machine_rates(device))
    arithmetic, bandwidth = map(max, zip(*rates, strict=True))
    lines = [
        f"Model {arguments.model}, x{arguments.factor}, device {device}, {torch.get_num_threads()} threads: "
        f"{arithmetic / 1e9:.0f} GFLOP/s in matrix products, {bandwidth / 1e9:.1f} GB/s in copies.\n",
        "| pixels | slices | seconds | floor of arithmetic, s | floor of bytes, s | times the larger floor "
        "| memory beyond input and output, GB | input and output, GB |",
        "|" + " ---: |" * 8,
    ]
    for (pixels, slices), result in measured.items():
        floors = (
            operations(network, pixels, slices, arguments.factor) / arithmetic,
            moved_bytes(pixels, slices, arguments.factor) / bandwidth,
        )
        figures = [
            f"{pixels} x {pixels}",
            str(slices),
            f"{result['seconds']:.1f}",
            *(f"{floor:.2f}" for floor in floors),
            f"{result['seconds'] / max(floors):.2f}",
            f"{result['beyond_input_and_output_bytes'] / 1e9:.2f}",
            f"{result['input_and_output_bytes'] / 1e9:.2f}",
        ]
        lines.append(f"| {' | '.join(figures)} |")
    for name, sizes, amounts in (
        ("slices", by_slices, [slices - 1 for _, slices in by_slices]),
        ("pixels", by_pixels, [pixels**2 for pixels, _ in by_pixels]),
    ):
        if len(sizes) > 2:
            departure = from_a_line(amounts, [measured[size]["seconds"] for size in sizes])
            lines.append(f"\nSeconds over {name}: no size departs from a straight line by more than {departure:.1%}.")
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


def enhance(pixels: int, slices: int, arguments: argparse.Namespace) -> dict:
    """What `enhance_speed.py` measures of a scan of one size."""
    size = [str(number) for number in (pixels, pixels, slices)]
    options = ["--factor", str(arguments.factor), "--model", arguments.model, "--device", arguments.device]
    command = [sys.executable, str(ENHANCE), "--size", *size, *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def machine_rates(device: torch.device) -> tuple[float, float]:
    """Operations a second in matrix products, in the arithmetic that `device` enhances with, and bytes a second."""
    precision = PRECISIONS[resolve_precision("auto", device)]
    matrix = torch.randn(MATRIX, MATRIX, device=device).to(precision)
    source = torch.zeros(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return (
        2 * MATRIX**3 / shortest(lambda: matrix @ matrix, device),
        2 * COPIED_BYTES / shortest(lambda: target.copy_(source), device),
    )


def shortest(work: Callable[[], object], device: torch.device, times: int = 8) -> float:
    """Seconds of the quickest of some tries."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def operations(network: ThreeViewNetwork, pixels: int, slices: int, factor: int) -> int:
    """Floating-point operations of the networks on a scan, a multiplication and its addition counted as two."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counted:
        # On the meta device, shapes alone are computed.
        network = network.to("meta")
        observed = torch.empty(1, slices, pixels, pixels, device="meta")
        facts = ScanFacts(torch.empty(1, device="meta"), SliceProfile() if network.thick else None)
        for view in VIEWS:
            network.residual(view, observed, factor, facts)
        if network.network_for(factor).fusion is not None:
            gaps = slices - 1
            shape = (factor * gaps + 1,) if network.thick else (gaps, factor - 1)
            residuals = torch.empty(len(VIEWS), 1, *shape, pixels, pixels, device="meta")
            network.correction(observed, residuals, factor, facts)
    return counted.get_total_flops()


def moved_bytes(pixels: int, slices: int, factor: int) -> int:
    """Bytes of the scan, the result and the two uncertainty maps."""
    return pixels**2 * (INPUT_BYTES * slices + OUTPUT_BYTES * (factor * (slices - 1) + 1))


def from_a_line(amounts: list[float], seconds: list[float]) -> float:
    """The largest departure from the straight line that has the smallest, relative to the seconds."""
    relative = np.array(seconds)
    design = np.stack([np.ones(len(amounts)), np.array(amounts, float)], axis=1) / relative[:, None]
    line, *_ = np.linalg.lstsq(design, np.ones(len(amounts)), rcond=None)
    return float(np.abs(design @ line - 1).max())


if __name__ == "__main__":
    main()
