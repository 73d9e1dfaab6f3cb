"""Send stop signals to a small `xviewsynth enhance` at moments all over its life, and count how it ends.

    python Testing/benchmarks/cancel_moments.py [--moments 300] [--seed 0] [--warm]

A third of the moments lie evenly from the start to beyond the end, a third at random, and a third in the last instants:
within 0.2 s of the beginning of writing, or 0.01 s of the first output that has its name or of the last line that is
printed. SIGTERM and SIGINT take turns. With `--warm`, processes have imported their libraries already, which takes most
of their time.

From the moment on at which the program listens it must end with exit code 0 and all outputs, or with 3 and none, and
nothing else beside the scan. What a signal does to an interpreter that has not come to our first line is counted apart;
Linux tells the one from the other. Prints, as JSON, how often each end was met and how long cancelling took. Exits with
1 where an end is none of these.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from small_enhance import OUTPUTS, Attempt, Warm, prepare, remaining

SIGNALS = (signal.SIGTERM, signal.SIGINT)
UNDISTURBED = 3
# What is waited for, and the seconds after that in which a signal may come.
EVENTS = (('"writing"', 0.2), ("an output", 0.01), ("Wrote", 0.01))
WHOLE, NONE, NOT_LISTENING, ENDED, FAULT = (
    "0 with all outputs",
    "3 with none",
    "ended before our first line, with none",
    "ended before the signal",
    "fault",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm", action="store_true")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    ends, faults, seconds = Counter(), [], []
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        work = prepare(Path(place))

        def begin() -> Attempt:
            return Attempt(work)

        if arguments.warm:
            begin = stack.enter_context(Warm(work)).begin
        life = statistics.median(undisturbed_seconds(work, begin) for _ in range(UNDISTURBED))
        for number, (event, delay) in enumerate(moments(arguments.moments, life, draw)):
            end, took, about = stop(work, begin(), event, delay, SIGNALS[number % 2])
            ends[f"after {event or 'the start'}: {end}"] += 1
            if end == FAULT:
                faults.append({"after": event, "seconds": round(delay, 4), **about})
            if end == NONE:
                seconds.append(took)
    result = {
        "undisturbed_seconds": round(life, 2),
        "moments": arguments.moments,
        "ends": dict(sorted(ends.items())),
        "cancelling_seconds": {
            "median": round(statistics.median(seconds), 2),
            "95 %": round(statistics.quantiles(seconds, n=20)[-1], 2),
            "most": round(max(seconds), 2),
        },
        "faults": faults,
    }
    print(json.dumps(result, indent=2))
    return 1 if faults else 0


def moments(count: int, life: float, draw: random.Random) -> list[tuple[str | None, float]]:
    """What to wait for, None for the start, and the seconds after that."""
    third = count // 3
    even = [(None, 1.1 * life * number / third) for number in range(third)]
    anywhere = [(None, draw.uniform(0, 1.1 * life)) for _ in range(third)]
    last = [EVENTS[number % len(EVENTS)] for number in range(count - 2 * third)]
    last = [(event, draw.uniform(0, longest)) for event, longest in last]
    return even + anywhere + last


def undisturbed_seconds(work: Path, begin: Callable[[], Attempt]) -> float:
    began = time.monotonic()
    if begin().wait() != 0 or remaining(work) != OUTPUTS:
        raise SystemExit("error: The undisturbed command did not come to its end.")
    remove_outputs(work)
    return time.monotonic() - began


def stop(
    work: Path, attempt: Attempt, event: str | None, delay: float, number: signal.Signals
) -> tuple[str, float, dict]:
    """How an attempt ends, the seconds from the signal to the end, and what there is to say of a fault."""
    if event == "an output":
        while not set(OUTPUTS) & set(remaining(work)) and not attempt.ended():
            pass
    elif event is not None:
        attempt.wait_for(event)
    time.sleep(delay)
    listening, ended = listens(attempt.pid), attempt.ended()
    began = time.monotonic()
    attempt.send(number)
    code = attempt.wait()
    took = time.monotonic() - began
    left, complained = remaining(work), attempt.complained()
    remove_outputs(work)
    about = {"signal": number.name, "code": code, "left": left, "said": complained[-2000:]}
    return judge(code, left, complained, listening, ended), took, about


def judge(code: int, left: list[str], complained: str, listening: bool, ended: bool) -> str:
    """One of the ends."""
    sound = (code, left) in [(0, OUTPUTS), (3, [])] and "Traceback" not in complained
    if not (sound or listening or ended):
        return NOT_LISTENING if left == [] else FAULT
    if not sound:
        return FAULT
    if ended:
        return ENDED
    return WHOLE if code == 0 else NONE


def listens(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM; assumed where the system does not tell."""
    if not Path("/proc/self/status").exists():
        return True
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        caught = next(line for line in lines if line.startswith("SigCgt:"))
    except (OSError, StopIteration):
        return False
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def remove_outputs(work: Path) -> None:
    for name in OUTPUTS:
        (work / name).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
