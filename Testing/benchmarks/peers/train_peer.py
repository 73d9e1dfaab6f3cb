"""Train a published method, or our own network from nothing, on the same blocks of the same scans for the same time.

    python Testing/benchmarks/peers/train_peer.py paper|four-slice|ours SCAN... --factor 4 --minutes 10 --output FOLDER

Adam (0.9, 0.99), a short rise and half a cosine of the learning rate, gradients cut as in our own runs, and a moving
average of the weights, which is what is written: `peer.safetensors`, or a model folder for our own network.

On the CPU minutes are those that the training itself was computing, so that other programs on the machine change
nothing; on a GPU they are those of the clock.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / name) for name in ("XViewSynth", "XViewSynthTrain", "Testing")]

from benchmarks.peers.methods import METHODS, Method  # noqa: E402
from XViewSynthLib import Volume, read_volume  # noqa: E402
from XViewSynthLib.errors import InputError  # noqa: E402
from XViewSynthLib.inference.hardware import resolve_device  # noqa: E402
from XViewSynthTrainLib.config import TrainingConfig  # noqa: E402
from XViewSynthTrainLib.sampling import Sampler  # noqa: E402
from XViewSynthTrainLib.trainer import rate_at  # noqa: E402

_CLIP_NORM = 0.5
_TELL_EVERY = 25
#: Observed slices and pixels of a block, which is a step: small, so that a short training sees many of them.
BLOCK = {"batch": 1, "slices": 7, "pixels": 48}


def main(argv: Sequence[str] | None = None) -> int:
    """Train and write; exit code 2 and one sentence where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    parser.add_argument("--factor", type=int, default=4, choices=range(2, 9), metavar="N")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float)
    length.add_argument("--steps", type=int, help="in place of minutes: the same on a computer of any speed")
    parser.add_argument("--size", default="small", help="small, or full: the published width, for a GPU")
    parser.add_argument("--learning-rate", type=float, help="default: the method's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--settings", type=json.loads, default={}, metavar="JSON", help="what else of TrainingConfig differs"
    )
    arguments = parser.parse_args(argv)
    try:
        facts = _train(arguments)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(facts))
    return 0


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(arguments.seed)
    method = METHODS[arguments.method](arguments.factor, arguments.size)
    arguments.output.mkdir(parents=True, exist_ok=True)
    settings = {**BLOCK, "factor_shares": {arguments.factor: 1.0}, "seed": arguments.seed, **arguments.settings}
    network, facts = train(
        method,
        [read_volume(scan) for scan in arguments.scans],
        TrainingConfig.from_dict(settings),
        minutes=arguments.minutes,
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        device=torch.device(resolve_device(arguments.device)),
        tell=lambda line: print(line, file=sys.stderr),
    )
    method.save(arguments.output, network, facts)
    return facts


def train(
    method: Method,
    scans: Sequence[Volume],
    config: TrainingConfig,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    device: torch.device | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Train for a time or a number of steps.

    Returns:
        The network with the moving average of the weights, and what was done.

    Raises:
        InputError: no length above 0, or scans that cannot be thinned by the method's factor.
    """
    if not (steps or minutes or 0) > 0:
        raise InputError("Train for a time or a number of steps above 0.")
    device = device or torch.device("cpu")
    sampler, network = Sampler(scans, config), method.network.to(device)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    highest = learning_rate or method.LEARNING_RATE
    optimizer = torch.optim.Adam(network.parameters(), lr=highest, betas=(0.9, 0.99))
    average = deepcopy(network).requires_grad_(False)
    clock = time.monotonic if device.type == "cuda" else time.thread_time
    began, step, recent = clock(), 0, []
    while (done := step / steps if steps else (clock() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = highest * rate_at(done)
        optimizer.zero_grad()
        loss = sum(method.terms(sampler, step, done, device).values())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP_NORM)
        # A step that left what a float can hold is not taken.
        if torch.isfinite(norm):
            optimizer.step()
        step += 1
        _follow(average, network, min(config.average_decay, step / (step + 10)))
        recent.append(loss.item())
        if step % _TELL_EVERY == 0:
            tell(f"{100 * done:3.0f} %  step {step}  loss {sum(recent[-_TELL_EVERY:]) / _TELL_EVERY:.5f}")
    facts = {
        "steps": step,
        "minutes": round((clock() - began) / 60, 2),
        "parameters": method.parameters,
        "learning_rate": highest,
        "loss": sum(recent[-_TELL_EVERY:]) / len(recent[-_TELL_EVERY:]),
        "device": str(device),
    }
    return average, facts


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, current in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(current, 1 - decay)


if __name__ == "__main__":
    sys.exit(main())
