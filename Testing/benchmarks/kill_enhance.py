"""Kill a small `xviewsynth enhance` again and again, then let one come to its end, and see what is left.

    python Testing/benchmarks/kill_enhance.py [--kills 40] [--seed 0] [--warm]

The kills (SIGKILL, no warning) come at random moments; every third falls while outputs are written or renamed. Every
attempt may replace what the former one wrote, so that renaming has something to lose. With `--warm`, processes have
imported their libraries already. Prints, as JSON, what the kills left behind and what lies beside the scan after the
last run. Exits with 1 where that is more than the outputs, or where an output was lost meanwhile.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from small_enhance import OUTPUTS, Attempt, Warm, prepare, remaining

EVERY = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm", action="store_true")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    kills, lost, left = Counter(), 0, Counter()
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        work = prepare(Path(place))

        def begin(*options: str) -> Attempt:
            return Attempt(work, *options)

        if arguments.warm:
            begin = stack.enter_context(Warm(work)).begin
        began = time.monotonic()
        finish(begin)
        life = time.monotonic() - began
        for number in range(arguments.kills):
            kills[kill(begin("--overwrite"), number % EVERY == 0, life, draw)] += 1
            found = remaining(work)
            lost += len(set(OUTPUTS) - set(found))
            left[len(found) - len(OUTPUTS)] += 1
        finish(begin)
        found = remaining(work)
    result = {
        "undisturbed_seconds": round(life, 2),
        "kills": dict(kills),
        "outputs_lost": lost,
        "folders_left_after_a_kill": {str(count): times for count, times in sorted(left.items())},
        "after_the_last_run": found,
    }
    print(json.dumps(result, indent=2))
    return 0 if found == OUTPUTS and not lost else 1


def finish(begin: Callable[..., Attempt]) -> None:
    if begin("--overwrite").wait():
        raise SystemExit("error: A command that was left alone did not come to its end.")


def kill(attempt: Attempt, while_writing: bool, life: float, draw: random.Random) -> str:
    """Kill an attempt, and tell where it was."""
    if while_writing:
        attempt.wait_for('"writing"')
        time.sleep(draw.uniform(0, 0.1))
    else:
        time.sleep(draw.uniform(0, life))
    ended = attempt.ended()
    attempt.send(signal.SIGKILL)
    attempt.wait()
    if ended:
        return "ended before"
    said = attempt.said()
    return "while writing" if '"writing"' in said else "while at work" if said else "while starting"


if __name__ == "__main__":
    sys.exit(main())
