"""Restore thinned scans with a method that `train_peer.py` has trained, for `xviewsynth bench --volume NAME=FOLDER`.

xviewsynth thin SCAN... --factor 4 --output thinned/
python Testing/benchmarks/peers/restore_peer.py TRAINED thinned/*.nrrd --output restored/
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / name) for name in ("XViewSynth", "XViewSynthTrain", "Testing")]

from benchmarks.peers.methods import load_method, restore  # noqa: E402
from XViewSynthLib import read_volume, write_volume  # noqa: E402
from XViewSynthLib.errors import InputError  # noqa: E402
from XViewSynthLib.inference.hardware import resolve_device  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Restore and write; exit code 2 and one sentence where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trained", type=Path, metavar="TRAINED", help="the folder that train_peer.py has written")
    parser.add_argument("scans", nargs="+", type=Path, metavar="SCAN", help="a thinned scan")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="gets a file of each scan's name")
    parser.add_argument("--axis", default="auto", choices=("auto", "I", "J", "K"))
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args(argv)
    try:
        method = load_method(arguments.trained)
        arguments.output.mkdir(parents=True, exist_ok=True)
        for path in arguments.scans:
            began = time.monotonic()
            scan = read_volume(path)
            restored = restore(method, scan, scan.resolve_axis(arguments.axis), str(resolve_device(arguments.device)))
            write_volume(restored, arguments.output / path.name, overwrite=True)
            print(f"{arguments.output / path.name}: {time.monotonic() - began:.0f} s")
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
