"""Train the network that answers for one factor alone, and put such networks into a model.

    python Testing/tools/train_specialist.py train MODEL FILE.safetensors SCAN... --factor S --minutes M
        [--network '{"fusion_blocks": 3, "likeness": 1}'] [--threads N] [--settings '{"muon_rate": 0.001}']
    python Testing/tools/train_specialist.py join MODEL OUTPUT_FOLDER FILE.safetensors...

A specialist begins with what the model answers at the factor now. Views and fusion are trained together, with the truth
of thinned scans alone, half of them made to overlap. The last slices of the first scan are kept from it, and tell how
much it gains over the spline. FILE is written every few minutes, so that a run that is stopped is not lost; `join`
writes a model that has every specialist given.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimizers import MuonAndAdam, follow
from XViewSynthLib import load_model, read_volume
from XViewSynthLib.models import save_model
from XViewSynthLib.networks import ThreeViewNetwork, interleave, spline_between, to_network_units
from XViewSynthTrainLib.config import LossWeights, TrainingConfig
from XViewSynthTrainLib.distillation import restoration_terms
from XViewSynthTrainLib.sampling import Material, Sampler
from XViewSynthTrainLib.trainer import rate_at

REPORT_EVERY, SAVE_EVERY = 180.0, 300.0
#: Slices and pixels of the first scan that tell how far a run is.
KEPT_SLICES, KEPT_PIXELS = 45, 320
#: Weights of either neighbour in the slices that tell, which are made to overlap.
OVERLAPS = (0.0, 0.28)


@dataclass(frozen=True)
class Settings:
    """What may be set by `--settings`, and stands on the model's card.

    Attributes:
        muon_rate, adam_rate: highest learning rates.
        decay: of the moving average of the weights, which is what is written.
        batch, slices, pixels: blocks a step, and their size in observed slices and pixels.
        overlap_share: of blocks whose slices overlap.
        views, squared: weight of the loss of the single views beside that of their fusion, and of the squared error
            beside the absolute one.
    """

    muon_rate: float = 1.5e-3
    adam_rate: float = 3e-4
    decay: float = 0.998
    batch: int = 3
    slices: int = 7
    pixels: int = 48
    overlap_share: float = 0.5
    views: float = 0.5
    squared: float = 20.0

    def config(self, factor: int, seed: int, network: dict[str, int]) -> TrainingConfig:
        """The same for `Sampler` and `restoration_terms`."""
        return TrainingConfig(
            seed=seed,
            batch=self.batch,
            slices=self.slices,
            pixels=self.pixels,
            factor_shares={factor: 1.0},
            in_plane_share=0.0,
            overlap_share=self.overlap_share,
            weights=LossWeights(views=self.views, squared=self.squared, wavelet=0.0),
            network=network,
        )


def main() -> None:
    """Write FILE, or OUTPUT_FOLDER."""
    parser = argparse.ArgumentParser(description="Train networks that answer for one factor alone.")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train")
    command.add_argument("model")
    command.add_argument("file", type=Path, metavar="FILE.safetensors")
    command.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    command.add_argument("--factor", type=int, required=True)
    command.add_argument("--minutes", type=float, required=True)
    command.add_argument("--network", type=json.loads, default={}, metavar="JSON", help="its settings, if others")
    command.add_argument("--threads", type=int, help="cores to use")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--settings", type=json.loads, default={}, metavar="JSON", help="see `Settings`")
    command.set_defaults(run=train)
    command = commands.add_parser("join")
    command.add_argument("model")
    command.add_argument("output", type=Path, metavar="OUTPUT_FOLDER")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE.safetensors")
    command.set_defaults(run=join)
    arguments = parser.parse_args()
    arguments.run(arguments)


def train(arguments: argparse.Namespace) -> None:
    """Train a specialist and write it again and again."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings, factor = Settings(**arguments.settings), arguments.factor
    model = load_model(arguments.model)
    torch.manual_seed(arguments.seed)
    sizes = model.card["network"]
    sizes = sizes | sizes.get("specialists", {}).get(str(factor), {}) | arguments.network
    network = specialist(model.network, sizes, factor)
    averaged = deepcopy(network).requires_grad_(False)
    config = settings.config(factor, arguments.seed, sizes)
    sampler = Sampler([read_volume(path) for path in arguments.scans], config)
    first = sampler.along[0]
    sampler.along[0] = replace(first, voxels=first.voxels[:-KEPT_SLICES])
    kept = [(middle(first, overlap, factor), torch.tensor([first.likeness(factor, overlap)])) for overlap in OVERLAPS]
    ratio = torch.tensor([factor * first.slice_spacing / first.pixel_spacing])
    optimizer = MuonAndAdam(network, settings.muon_rate, settings.adam_rate)
    record = {"part": f"specialist for x{factor}", "seed": arguments.seed, **asdict(settings)}
    began, step, reported, saved = time.monotonic(), 0, 0.0, 0.0
    while (elapsed := time.monotonic() - began) < 60 * arguments.minutes:
        terms = restoration_terms(network, sampler.thinned(step), config)
        optimizer.step(sum(terms.values()), rate_at(elapsed / (60 * arguments.minutes)))
        step += 1
        follow(averaged, network, step, settings.decay)
        if elapsed - reported > REPORT_EVERY:
            reported = elapsed
            print(f"{elapsed / 60:.0f} min, step {step}: {gains(averaged, kept, factor, ratio)}", flush=True)
        if elapsed - saved > SAVE_EVERY:
            saved = elapsed
            write(arguments.file, averaged, factor, sizes, record | {"steps_done": step})
    print(f"end, step {step}: {gains(averaged, kept, factor, ratio)}", flush=True)
    write(arguments.file, averaged, factor, sizes, record | {"steps_done": step})


def specialist(network: ThreeViewNetwork, sizes: dict[str, int], factor: int) -> ThreeViewNetwork:
    """A network for one factor that begins with what another one answers; what it has more does nothing yet."""
    sizes = {name: number for name, number in sizes.items() if name != "specialists"}
    new, former = ThreeViewNetwork(**sizes | {"factors": (factor,)}), network.answering(factor)
    known = former.state_dict()
    for name, weights in new.state_dict().items():
        if name.endswith("condition.weight"):
            columns = dict(zip(former.told, known[name].unbind(1), strict=True))
            silent = torch.zeros_like(weights[:, 0])
            known[name] = torch.stack([columns.get(told, silent) for told in new.told], dim=1)
    new.load_state_dict({name: known.get(name, weights) for name, weights in new.state_dict().items()})
    return new


def middle(material: Material, overlap: float, factor: int) -> Tensor:
    """The middle of the last slices of a scan, each mixed with its neighbours: (1, slices, rows, columns)."""
    voxels = material.voxels[-KEPT_SLICES:]
    for axis, size in enumerate(voxels.shape[1:], 1):
        kept = min(KEPT_PIXELS, size // 2 * 2)
        first = (size - kept) // 2
        voxels = voxels.take(range(first, first + kept), axis)
    voxels = voxels.astype(np.float32)
    voxels = overlap * (voxels[:-2] + voxels[2:]) + (1 - 2 * overlap) * voxels[1:-1]
    return to_network_units(torch.from_numpy(voxels[: (len(voxels) - 1) // factor * factor + 1]))[None]


@torch.no_grad()
def gains(network: ThreeViewNetwork, kept: Sequence[tuple[Tensor, Tensor]], factor: int, ratio: Tensor) -> str:
    """By how many dB a network is ahead of the spline, for each overlap: of slices, and how alike they are."""
    told = []
    for (slices, likeness), overlap in zip(kept, OVERLAPS, strict=True):
        observed = slices[:, ::factor]
        views = network(observed, factor, ratio, likeness=likeness)
        answer = network.fuse(observed, views, factor, ratio, likeness=likeness)
        missed = [
            (interleave(observed, between) - slices).square().mean().item()
            for between in (spline_between(observed, factor), answer)
        ]
        told.append(f"{10 * math.log10(missed[0] / missed[1]):+.3f} dB (overlap {overlap})")
    return ", ".join(told)


def write(file: Path, network: ThreeViewNetwork, factor: int, sizes: dict[str, int], record: dict) -> None:
    """Write a specialist, what it is made with, and what its training was like."""
    told = {"factor": str(factor), "network": json.dumps(sizes), "record": json.dumps(record)}
    save_file({name: weights.contiguous() for name, weights in network.state_dict().items()}, file, metadata=told)


def join(arguments: argparse.Namespace) -> None:
    """Write a model with specialists; what else it is made of stays as it was."""
    model = load_model(arguments.model)
    card, tensors = model.card, model.network.state_dict()
    specialists, records = dict(card["network"].get("specialists", {})), []
    for file in arguments.files:
        with safe_open(file, "pt") as opened:
            told = opened.metadata()
        factor = told["factor"]
        tensors |= {f"specialists.{factor}.{name}": weights for name, weights in load_file(file).items()}
        # What it shares with the model need not be said again; the size of its fusion is not shared.
        specialists[factor] = {
            name: number
            for name, number in json.loads(told["network"]).items()
            if name in ("fusion_blocks", "likeness") or card["network"].get(name) != number
        }
        records.append(json.loads(told["record"]))
    sizes = card["network"] | {"specialists": dict(sorted(specialists.items()))}
    network = ThreeViewNetwork(**sizes)
    network.load_state_dict({name: tensors[name] for name in network.state_dict()})
    # What was measured of the model before does not hold any longer.
    card = {name: value for name, value in card.items() if name != "doubt"}
    training = [*card.get("training", []), *records]
    save_model(arguments.output, network, card | {"measured_gains": {}, "network": sizes, "training": training})


if __name__ == "__main__":
    main()
