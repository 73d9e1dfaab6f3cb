"""Kill a training run again and again, resume it every time, and compare it with a run that was left alone.

    python Testing/benchmarks/kill_training.py [--kills 20] [--steps 3000] [--seed 0]

Trains a small network on the bundled scan. The kills (SIGKILL, no warning) are spread evenly over the run, each at a
random step of its part, and take turns: at a random moment, while a checkpoint is being written, in the middle of a
judgement, while the model is being saved; the first two come before the first step, the last two after the last one.
A kill counts only where it met what it was meant for.

Prints, as JSON, where each kill fell, how much work it cost, what half-written files it left, and whether checkpoint,
model, report and log of the killed run are in the end those of the undisturbed one, bit for bit but for the clock.
Exits with 1 where they are not, where a kill missed, or where the run folder holds anything that the other does not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCAN = ROOT / "Resources" / "SampleData" / "ChestCT.nrrd"
# A multiple of the 20 steps between lines of the log, so that the log shows when an evaluation is due.
JUDGED_EVERY = 100
SETTINGS = {
    "slices": 5,
    "pixels": 32,
    "network": {"channels": 8, "axial_blocks": 1, "pixel_blocks": 1},
    "patience": 0,
    "checkpoint_seconds": 0.5,
}
BEFORE, AFTER = ("reading", "first judgement"), ("last judgement", "report")
DURING = ("any", "checkpoint", "judgement", "model")
LOOK_SECONDS = 0.0005
TIMEOUT_SECONDS = 1800
CLOCKS = {"seconds"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.kills < len(BEFORE + AFTER) or arguments.steps % JUDGED_EVERY:
        parser.error(f"at least {len(BEFORE + AFTER)} kills, and a multiple of {JUDGED_EVERY} steps")
    settings = SETTINGS | {"steps": arguments.steps, "judgements": arguments.steps // JUDGED_EVERY}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "settings.json").write_text(json.dumps(settings))
        began = time.monotonic()
        Attempt(folder, "whole", resume=False).finish()
        undisturbed = time.monotonic() - began
        draw = random.Random(arguments.seed)
        kills = kill_and_resume(folder, plan(arguments.kills, arguments.steps, draw), draw)
        whole, killed = (everything(folder / name) for name in ("whole", "killed"))
    result = {
        "kills": kills,
        "killed": sum(kill["met"] for kill in kills),
        "most_seconds_lost": max(kill["seconds_lost"] or 0 for kill in kills),
        "undisturbed_seconds": round(undisturbed, 1),
        "identical": {name: whole[name] == killed[name] for name in whole},
    }
    print(json.dumps(result, indent=2))
    return 0 if result["killed"] == arguments.kills and all(result["identical"].values()) else 1


def plan(count: int, steps: int, draw: random.Random) -> list[tuple[str, int]]:
    """What each kill is meant for, and the step from which on it may come."""
    during = count - len(BEFORE + AFTER)
    targets = [int((part + draw.random()) * 0.97 * steps / during) for part in range(during)]
    kinds = [DURING[number % len(DURING)] for number in range(during)]
    # A model is saved where it is the best so far, and late in a run it hardly becomes better: every other kill of the
    # first half is for that.
    others = iter([kind for kind in kinds if kind != "model"])
    saving = range(0, 2 * kinds.count("model"), 2)
    kinds = ["model" if number in saving else next(others) for number in range(during)]
    return [*((kind, 0) for kind in BEFORE), *zip(kinds, targets, strict=True), *((kind, steps) for kind in AFTER)]


def kill_and_resume(folder: Path, planned: list[tuple[str, int]], draw: random.Random) -> list[dict]:
    """Carry out the kills, and then let the run come to its end."""
    run, kills = folder / "killed", []
    for kind, step in planned:
        # Before there are settings there is nothing to resume, and starting anew is the way.
        attempt = Attempt(folder, "killed", resume=(run / "config.json").exists())
        met = attempt.wait_for(moments(run, attempt, draw)[kind], step)
        kills.append({"meant_for": kind, "from_step": step, "met": met, **attempt.kill()})
        print(kills[-1], file=sys.stderr, flush=True)
    Attempt(folder, "killed", resume=(run / "config.json").exists()).finish()
    return kills


def moments(run: Path, attempt: Attempt, draw: random.Random) -> dict[str, Callable[[], bool]]:
    """How to see from outside that a process is at what a kill is meant for. Some wait for a random while.

    What a former process has left lies there until the next one trains.
    """

    def later(seconds: float) -> bool:
        time.sleep(draw.uniform(0, seconds))
        return True

    def trains() -> bool:
        return attempt.stage == "training"

    def there_is(pattern: str) -> bool:
        return any(run.glob(pattern))

    return {
        "reading": lambda: attempt.stage == "reading" and later(0.05),
        "first judgement": lambda: attempt.stage == "evaluating" and later(0.3),
        "any": lambda: trains() and later(0.5),
        "checkpoint": lambda: trains() and there_is(".xviewsynth-*/checkpoint.safetensors"),
        "judgement": lambda: trains() and is_judging(run) and later(0.1) and is_judging(run),
        "model": lambda: trains() and there_is(".xviewsynth-*/new/model/card.json"),
        "last judgement": lambda: attempt.stage == "evaluating" and later(0.3),
        "report": lambda: attempt.stage == "writing" and there_is(".xviewsynth-*/new/report.*"),
    }


def is_judging(run: Path) -> bool:
    """Whether the log tells of a step that is to be judged, and not yet of its gain."""
    log = entries(run)
    return bool(log) and log[-1]["kind"] == "loss" and log[-1]["step"] % JUDGED_EVERY == 0


class Attempt:
    """One process of a run, which is started or resumed.

    Attributes:
        stage: what it has told last.
        step: the last that it or a former process has told of.
    """

    def __init__(self, folder: Path, name: str, resume: bool):
        self.run, self.stage = folder / name, "starting"
        # One that is done with its steps tells of none.
        self.step = max((entry["step"] for entry in entries(self.run)), default=0)
        libraries = [str(ROOT / "XViewSynth"), str(ROOT / "XViewSynthTrain")]
        command = [sys.executable, "-m", "XViewSynthTrainLib", "train", "--output", str(self.run)]
        command += ["--device", "cpu", "--progress", "json"]
        command += ["--resume"] if resume else [str(SCAN), "--settings", str(folder / "settings.json")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(libraries)}
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def wait_for(self, moment: Callable[[], bool], step: int) -> bool:
        """Wait for a moment once the run is at a step or beyond; false where the run ended before it."""
        until = time.monotonic() + TIMEOUT_SECONDS
        while self._process.poll() is None and time.monotonic() < until:
            if self.step >= step and moment():
                return self._process.poll() is None
            time.sleep(LOOK_SECONDS)
        return False

    def kill(self) -> dict:
        """Kill it, and tell what that met."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        checkpoint, lost = self.run / "checkpoint.safetensors", None
        if checkpoint.exists():
            lost = round(time.time() - checkpoint.stat().st_mtime, 2)
        left = sorted(path.relative_to(self.run) for path in self.run.rglob(".xviewsynth-*/**/*") if path.is_file())
        return {
            "stage": self.stage,
            "step": self.step,
            "seconds_lost": lost,
            "half_written": sorted({path.name for path in left}),
        }

    def finish(self) -> None:
        """Wait for its end."""
        if self._process.wait():
            raise SystemExit("error: A run that was not killed did not come to its end.")

    def _listen(self) -> None:
        for line in self._process.stdout:
            with suppress(ValueError):
                told = json.loads(line)
                self.stage = told["stage"]
                if told["stage"] == "training":
                    self.step = told["done"]


def entries(run: Path) -> list[dict]:
    """The log of a run; a line cut short is left out."""
    found = []
    with suppress(OSError):
        for line in (run / "log.jsonl").read_text().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return found


def everything(run: Path) -> dict[str, object]:
    """All that a run leaves, as far as it does not depend on the clock."""
    sys.path[:0] = [str(ROOT / "XViewSynth"), str(ROOT / "XViewSynthTrain")]
    from XViewSynthTrainLib.checkpoints import load_checkpoint

    tensors, facts = load_checkpoint(run / "checkpoint.safetensors")
    return {
        "weights": {name: tensor.numpy().tobytes() for name, tensor in tensors.items()},
        "state": without_clocks(facts),
        "model": {path.name: path.read_bytes() for path in (run / "model").iterdir()},
        "report": without_clocks(json.loads((run / "report.json").read_text())),
        "log": [without_clocks(entry) for entry in entries(run)],
        "preview": {path.name: path.read_bytes() for path in (run / "preview").iterdir()},
        # Every attempt writes its own file of events.
        "files": sorted(
            path.relative_to(run).as_posix() for path in run.rglob("*") if not path.name.startswith("events.")
        ),
    }


def without_clocks(facts: dict) -> dict:
    """Facts without those that time alone changes."""
    return {name: value for name, value in facts.items() if name not in CLOCKS}


if __name__ == "__main__":
    sys.exit(main())
