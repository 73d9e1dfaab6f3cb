"""Seconds and peak memory of enhancing a scan of a given size, on this machine.

    python Testing/benchmarks/enhance_speed.py --size 512 512 48 --factor 2 [--quality best] [--record "2 CPU cores"]

The scan is the bundled CT, mirrored until it is large enough. Peak memory is that of the whole process; "beyond input
and output" takes those two volumes off. With --record, the measurement joins Testing/benchmarks/results/speed.jsonl,
from which Testing/tools/write_speed_table.py makes the table in the documents.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np
import torch

from XViewSynthLib import Volume, __version__, load_model, read_volume
from XViewSynthLib.inference.enhancement import carry_out
from XViewSynthLib.inference.hardware import process_bytes
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.progress import Monitor, reporter
from XViewSynthLib.request import Quality

SAMPLE = "Resources/SampleData/ChestCT.nrrd"
RECORDS = Path(__file__).parent / "results" / "speed.jsonl"


def large_scan(size: tuple[int, int, int]) -> Volume:
    """The bundled scan as thick slices 5 mm apart, mirrored or cut to (I, J, K) voxels."""
    sample = read_volume(os.path.join(os.path.dirname(__file__), "..", "..", SAMPLE))
    voxels = sample.voxels[::5]
    missing = [max(0, wanted - have) for wanted, have in zip(reversed(size), voxels.shape)]
    voxels = np.pad(voxels, [(0, more) for more in missing], mode="symmetric")
    voxels = voxels[tuple(slice(wanted) for wanted in reversed(size))]
    affine = sample.affine.copy()
    affine[:3, 2] *= 5
    return Volume(np.ascontiguousarray(voxels), affine)


def main() -> None:
    """Measure once and print JSON."""
    parser = argparse.ArgumentParser(description="Seconds and peak memory of enhancing a scan of a given size.")
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 48), metavar=("I", "J", "K"))
    parser.add_argument("--factor", type=int, default=2)
    parser.add_argument("--model", default="standard")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quality", choices=[*Quality], default=Quality.STANDARD)
    parser.add_argument("--memory", type=float, metavar="GB")
    parser.add_argument("--record", metavar="MACHINE", help="keep the measurement, made on a machine of this kind")
    arguments = parser.parse_args()
    model, scan = load_model(arguments.model), large_scan(tuple(arguments.size))
    before = process_bytes()
    memory = None if arguments.memory is None else round(arguments.memory * 1e9)
    plan = make_plan(
        scan,
        model,
        factor=arguments.factor,
        device=arguments.device,
        quality=arguments.quality,
        memory=memory,
    )
    with reporter("bar") as progress:
        enhanced = carry_out(plan, scan, model, monitor=Monitor(progress))
    volumes = scan.voxels.nbytes + enhanced.volume.voxels.nbytes
    result = {
        "size": list(scan.shape_ijk),
        "factor": enhanced.factor,
        "device": plan.device,
        "cores": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "seconds": round(enhanced.seconds, 1),
        "expected_seconds": round(plan.expected_seconds, 1),
        "input_and_output_bytes": volumes,
        "before_bytes": before,
        "peak_bytes": enhanced.peak_memory_bytes,
        "expected_peak_bytes": plan.expected_peak_bytes,
        "beyond_input_and_output_bytes": enhanced.peak_memory_bytes - volumes,
    }
    if plan.device.startswith("cuda"):
        result["gpu_peak_bytes"] = torch.cuda.max_memory_reserved(plan.device)
    print(json.dumps(result, indent=2))
    if arguments.record:
        record(result, arguments.record)


def record(result: dict, machine: str) -> None:
    """Add a measurement to those that the documents tell of.

    Args:
        result: what `main` prints.
        machine: its processor or GPU, in words.
    """
    options = sys.argv[1 : sys.argv.index("--record")]
    line = {
        "size": result["size"],
        "factor": result["factor"],
        "seconds": result["seconds"],
        "memory_bytes": result["beyond_input_and_output_bytes"],
        "memory_of": "beyond input and output",
        "device": result["device"],
        "machine": machine,
        "version": __version__,
        "command": " ".join(["python Testing/benchmarks/enhance_speed.py", *options]),
    }
    if "gpu_peak_bytes" in result:
        line["gpu_bytes"] = result["gpu_peak_bytes"]
    with open(RECORDS, "a", encoding="utf-8") as records:
        records.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
