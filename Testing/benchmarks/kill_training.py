"""Kill a training run at random moments, resume it every time, and compare it with a run that was left alone.

    python Testing/benchmarks/kill_training.py [--kills 20] [--seed 0]

Trains a small network on the bundled scan. Prints, as JSON, when the run was killed, how far it had come, and whether
the final weights are those of the undisturbed run, bit for bit. Exits with 1 where they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCAN = ROOT / "Resources" / "SampleData" / "ChestCT.nrrd"
SETTINGS = {
    "slices": 5,
    "pixels": 32,
    "network": {"channels": 8, "axial_blocks": 1, "pixel_blocks": 1},
    "judgements": 4,
    "checkpoint_seconds": 0.5,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "settings.json").write_text(json.dumps({**SETTINGS, "steps": arguments.steps}))
        startup, undisturbed = run_undisturbed(folder)
        # About so many attempts share the training; some end while they read the scan or the checkpoint.
        latest = startup + 2 * (undisturbed - startup) / max(arguments.kills, 1)
        kills, attempts = kill_and_resume(folder, arguments.kills, latest, random.Random(arguments.seed))
        same = weights(folder / "whole") == weights(folder / "killed")
    result = {"kills": kills, "attempts": attempts, "undisturbed_seconds": round(undisturbed, 1), "identical": same}
    print(json.dumps(result, indent=2))
    return 0 if same else 1


def run_undisturbed(folder: Path) -> tuple[float, float]:
    """Seconds until a run has begun to train, and until it has ended."""
    began = time.monotonic()
    process = start(folder, "whole", resume=False)
    while process.poll() is None and not (folder / "whole" / "config.json").exists():
        time.sleep(0.05)
    startup = time.monotonic() - began
    if process.wait():
        raise SystemExit("error: The undisturbed run did not come to its end.")
    return startup, time.monotonic() - began


def kill_and_resume(folder: Path, count: int, latest: float, draw: random.Random) -> tuple[list[dict], int]:
    """Kill the run `count` times, at most `latest` seconds after each start.

    Returns:
        The moments, and how many processes it took to come to the end.
    """
    run, kills, attempts = folder / "killed", [], 0
    while True:
        # Before there are settings there is nothing to resume, and starting anew is the way.
        process = start(folder, "killed", resume=(run / "config.json").exists())
        attempts += 1
        if len(kills) == count:
            if process.wait():
                raise SystemExit("error: The last attempt did not come to its end.")
            return kills, attempts
        moment = draw.uniform(0, latest)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills.append({"after_seconds": round(moment, 2), "last_logged_step": last_logged_step(run)})


def last_logged_step(run: Path) -> int | None:
    """How far a run had come; None before it began."""
    path = run / "log.jsonl"
    log = path.read_text() if path.exists() else ""
    steps = [int(step) for step in re.findall(r'"step": (\d+)', log)]
    return max(steps, default=None)


def start(folder: Path, name: str, resume: bool) -> subprocess.Popen:
    """Start or resume a run."""
    libraries = [str(ROOT / "XViewSynth"), str(ROOT / "XViewSynthTrain")]
    command = [sys.executable, "-m", "XViewSynthTrainLib", "train", "--output", str(folder / name)]
    command += ["--device", "cpu", "--progress", "none"]
    command += ["--resume"] if resume else [str(SCAN), "--settings", str(folder / "settings.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(libraries)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def weights(run: Path) -> tuple[str, ...]:
    """Checksums of all that a run has learned, and what its report says of the model."""
    sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "XViewSynthTrain")]
    import hashlib

    from XViewSynthTrainLib.checkpoints import load_checkpoint
    from XViewSynthTrainLib.files import CHECKPOINT_FILE

    tensors, facts = load_checkpoint(run / CHECKPOINT_FILE)
    learned = hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()
    return learned, facts["step"], json.loads((run / "report.json").read_text())["model"]["sha256"]


if __name__ == "__main__":
    sys.exit(main())
