"""Times of enhancing a scan with several settings or versions of the program, as ratios from one run.

    python Testing/benchmarks/speed.py [--size 512 512 24] [--factor 4] [--runs 3] [--baseline CHECKOUT]
        [--setting "--precision fp32"]... [--output TABLE.md]

Enhances the bundled CT, mirrored or cut to the size, by the command line. The variants take turns, so that other work
on the machine slows down all of them; their fastest runs are compared. With --baseline, the program of another checkout
is measured too. Prints a table in Markdown: seconds as reported, and how many times faster than the first variant.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from enhance_speed import large_scan

from XViewSynthLib import write_volume

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ("--precision fp32", "--precision auto")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 24), metavar=("I", "J", "K"))
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--model", default="standard")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--baseline", type=Path, metavar="CHECKOUT", help="measure another version of the program too")
    parser.add_argument("--setting", action="append", metavar="OPTIONS", help=f"default: {', '.join(SETTINGS)}")
    parser.add_argument("--output", type=Path, metavar="TABLE.md")
    arguments = parser.parse_args()
    variants = [(ROOT, setting) for setting in arguments.setting or SETTINGS]
    if arguments.baseline:
        variants.insert(0, (arguments.baseline, ""))
    with tempfile.TemporaryDirectory() as place:
        scan = Path(place) / "scan.nrrd"
        write_volume(large_scan(tuple(arguments.size)), scan)
        options = ["--factor", str(arguments.factor), "--model", arguments.model]
        reports = [[run(scan, options, *variant) for variant in variants] for _ in range(arguments.runs)]
    text = table(variants, reports, arguments)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


def run(scan: Path, options: list[str], checkout: Path, setting: str) -> dict:
    """The report of an enhancement by a checkout."""
    report = scan.with_name("report.json")
    command = [sys.executable, "-m", "XViewSynthLib", "enhance", str(scan), str(scan.with_name("out.nrrd"))]
    command += [*options, *setting.split(), "--device", "cpu", "--report", str(report), "--overwrite"]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "XViewSynth")}
    subprocess.run([*command, "--progress", "none"], env=environment, check=True, stdout=subprocess.DEVNULL)
    return json.loads(report.read_text(encoding="utf-8"))


def table(variants: list[tuple[Path, str]], reports: list[list[dict]], arguments: argparse.Namespace) -> str:
    """The table in Markdown; `reports` holds for each run those of all variants."""
    size = " x ".join(map(str, arguments.size))
    lines = [
        f"{size} voxels, x{arguments.factor}, model {arguments.model}, {arguments.runs} runs\n",
        "| variant | precision | fastest run, s | times faster | peak memory, GB |",
        "|---|---|---:|---:|---:|",
    ]
    first = min(run[0]["seconds"] for run in reports)
    for (checkout, setting), runs in zip(variants, zip(*reports, strict=True), strict=True):
        name = setting if checkout == ROOT else "baseline"
        best = min(runs, key=lambda report: report["seconds"])
        memory = max(report["peak_memory_bytes"] for report in runs) / 1e9
        lines.append(
            f"| {name or 'as usual'} | {best.get('precision', best.get('plan', {}).get('precision', ''))} "
            f"| {best['seconds']:.1f} | {first / best['seconds']:.2f} | {memory:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
