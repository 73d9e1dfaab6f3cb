"""Send stop signals to a small `xviewsynth enhance` at moments all over its life, and count how it ends.

    python Testing/benchmarks/cancel_moments.py [--moments 300] [--seed 0]

A third of the moments lie evenly from the start to beyond the end, a third at random, and a third in the last instants:
from the beginning of writing on, or after the last line was printed. SIGTERM and SIGINT take turns.

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
import threading
import time
from collections import Counter
from pathlib import Path

from small_enhance import OUTPUTS, prepare, remaining, remove_outputs, start

SIGNALS = (signal.SIGTERM, signal.SIGINT)
UNDISTURBED = 3
LAST_SECONDS = 0.2
TIMEOUT_SECONDS = 120
WHOLE, NONE, NOT_LISTENING, ENDED, FAULT = (
    "0 with all outputs",
    "3 with none",
    "killed before our first line, with none",
    "ended before the signal",
    "fault",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        work = prepare(Path(place))
        life = statistics.median(undisturbed_seconds(work) for _ in range(UNDISTURBED))
        ends, faults, seconds = Counter(), [], []
        for number, (event, delay) in enumerate(moments(arguments.moments, life, draw)):
            end, took, said = attempt(work, event, delay, SIGNALS[number % 2])
            ends[f"{event or 'start'}: {end}"] += 1
            if end == FAULT:
                faults.append({"after": event or "start", "seconds": round(delay, 4), **said})
                print(faults[-1], file=sys.stderr, flush=True)
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
    last = [(('"writing"', "Wrote")[number % 2], draw.uniform(0, LAST_SECONDS)) for number in range(count - 2 * third)]
    return even + anywhere + last


def undisturbed_seconds(work: Path) -> float:
    began = time.monotonic()
    if start(work).wait(TIMEOUT_SECONDS) != 0 or remaining(work) != OUTPUTS:
        raise SystemExit("error: The undisturbed command did not come to its end.")
    remove_outputs(work)
    return time.monotonic() - began


def attempt(work: Path, event: str | None, delay: float, number: signal.Signals) -> tuple[str, float, dict]:
    """How the command ends, the seconds from the signal to the end, and what there is to say of a fault."""
    process = start(work)
    heard = threading.Event()
    out: list[str] = []
    errors: list[str] = []
    readers = [
        threading.Thread(target=read, args=(process.stdout, event, heard, out)),
        threading.Thread(target=read, args=(process.stderr, event, heard, errors)),
    ]
    for reader in readers:
        reader.start()
    if event is not None:
        heard.wait(TIMEOUT_SECONDS)
    time.sleep(delay)
    listening = listens(process.pid)
    ended = process.poll() is not None
    began = time.monotonic()
    process.send_signal(number)
    code = process.wait(TIMEOUT_SECONDS)
    took = time.monotonic() - began
    for reader in readers:
        reader.join()
    left, said = remaining(work), "".join(errors)
    remove_outputs(work)
    about = {"signal": number.name, "code": code, "left": left, "out": "".join(out)[-200:], "said": said[-2000:]}
    return judge(code, left, said, listening, ended), took, about


def judge(code: int, left: list[str], said: str, listening: bool, ended: bool) -> str:
    if not listening and not ended:
        return FAULT if left and left != OUTPUTS else NOT_LISTENING if code not in (0, 3) else NONE
    if "Traceback" in said or (code, left) not in [(0, OUTPUTS), (3, [])]:
        return FAULT
    if ended:
        return ENDED
    return WHOLE if code == 0 else NONE


def listens(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM; assumed where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not Path("/proc/self/status").exists():
        return True
    try:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
    except (OSError, StopIteration):
        return False
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def read(stream: object, text: str | None, heard: threading.Event, lines: list[str]) -> None:
    for line in stream:
        lines.append(line)
        if text is not None and text in line:
            heard.set()
    heard.set()


if __name__ == "__main__":
    sys.exit(main())
