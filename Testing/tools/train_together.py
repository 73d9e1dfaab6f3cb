"""Train the views and the fusion of a model together, and put the outcome into a model.

    python Testing/tools/train_together.py train MODEL FILE.safetensors SCAN... --minutes M [--factor S [--best]]
        [--halved SCAN...] [--thickness MM...] [--network '{"fusion_blocks": 3, "overlap": 1}']
        [--settings '{"muon_rate": 0.001}'] [--threads N] [--device cuda] [--workers N]
    python Testing/tools/train_together.py join MODEL OUTPUT_FOLDER [FILE.safetensors...] [--share S] [--half]

Training begins with what the model answers now, and with the truth of thinned scans alone, half of them made to
overlap. Scans whose slices are too far apart to be thinned may count as those of bodies half as large (`halved`). With
a factor, a specialist is trained that will answer for this factor alone, with `--best` at best quality alone; without
a factor, the whole model. The last slices of the first scan are kept from it, and tell how much the network gains over
the spline. FILE is written every few minutes, so that a run that is stopped is not lost; `join` writes a model that has
everything given, or, with a share, weights between those that the model had and those given (Wortsman et al., Robust
fine-tuning of zero-shot models, CVPR 2022). With `--half`, all weights are rounded to half precision, which takes half
the room.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from optimizers import MuonAndAdam, follow
from XViewSynthLib import load_model, read_volume
from XViewSynthLib.geometry.slice_profile import SliceProfile, averaging_weights
from XViewSynthLib.model.catalogue import save_model
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthLib.model.spline import spline_between, spline_through, to_network_units
from XViewSynthLib.request import Quality
from XViewSynthTrainLib.config import LossWeights, TrainingConfig
from XViewSynthTrainLib.distillation import restoration_terms
from XViewSynthTrainLib.sampling import (
    Blocks,
    Material,
    Sampler,
    materials_of,
    mixed_with_neighbours,
    with_coarser_pixels,
)
from XViewSynthTrainLib.trainer import rate_at

REPORT_EVERY, SAVE_EVERY = 240.0, 300.0
#: Slices and pixels of the first scan that tell how far a run is.
KEPT_SLICES, KEPT_PIXELS = 41, 320
#: Of either neighbour in the slices that tell, which are made to overlap.
WEIGHTS = (0.0, 0.28)
#: Where a card has the specialists that answer at each quality; those at standard quality do at best as well, where it
#: has no others.
FIELDS = {Quality.STANDARD: "specialists", Quality.BEST: "best_specialists"}
#: What a specialist has no part in.
OF_THE_WHOLE = (*FIELDS.values(), "wide_gaps")
#: What a specialist has from the model unless it says otherwise.
SHARED = ("channels", "axial_blocks", "pixel_blocks", "thick")
#: Names the stream of random numbers by which blocks are varied; those of `Sampler` have lower ones.
VARYING = 100
#: Of both neighbours along rows and columns, and of what is denser than air (in network units), in `varied` blocks.
IN_PLANE_WEIGHTS, LOG_CONTRASTS, AIR = (-0.08, 0.15), (-0.2, 0.2), -1.0
#: So many factors are told of, those drawn most often.
FACTORS_TOLD = 2


@dataclass(frozen=True)
class Settings:
    """What may be set by `--settings`, and stands on the model's card.

    Attributes:
        muon_rate, adam_rate, fusion_rates, condition_rate: highest learning rates, as `MuonAndAdam` takes them.
        decay: of the moving average of the weights, which is what is written.
        batch, slices, pixels: blocks a step, and their size in observed slices and pixels.
        factor_shares: how often each factor is drawn, where no specialist is trained.
        overlap_share: of blocks whose slices overlap.
        candidates: places that are looked at for each block, of which the hardest is taken.
        rim: pixels along the sides of a block that do not count.
        ends_share: as in `TrainingConfig`.
        coarser: every scan counts once more with slices so many times as far apart (`coarser`).
        varied: share of blocks as other scanners might have made them (`varied`).
        zoom: by up to so many times, pixels of these blocks are smaller or larger than they were (`zoomed`).
        views, squared: weight of the loss of the single views beside that of their fusion, and of the squared error
            beside the absolute one.
    """

    muon_rate: float = 7e-4
    adam_rate: float = 1.3e-4
    fusion_rates: float = 1.5
    condition_rate: float = 2e-3
    decay: float = 0.998
    batch: int = 3
    slices: int = 7
    pixels: int = 40
    factor_shares: dict[str, float] | None = None
    overlap_share: float = 0.5
    candidates: int = 1
    rim: int = 0
    ends_share: float = 1.0
    coarser: tuple[float, ...] = ()
    varied: float = 0.0
    zoom: float = 1.0
    views: float = 0.5
    squared: float = 20.0

    def config(self, card: dict, seed: int, network: dict[str, int]) -> TrainingConfig:
        """The same for `Sampler` and `restoration_terms`."""
        shares = self.factor_shares or dict.fromkeys(card["factors"], 1.0)
        return TrainingConfig(
            seed=seed,
            acquisition=card["acquisition"],
            batch=self.batch,
            slices=self.slices,
            pixels=self.pixels,
            factor_shares={int(factor): share for factor, share in shares.items()},
            in_plane_share=0.0,
            overlap_share=self.overlap_share,
            candidates=self.candidates,
            rim=self.rim,
            ends_share=self.ends_share,
            weights=LossWeights(views=self.views, squared=self.squared, wavelet=0.0),
            network=network,
        )


def main() -> None:
    """Write FILE, or OUTPUT_FOLDER."""
    parser = argparse.ArgumentParser(description="Train the views and the fusion of a model together.")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train")
    command.add_argument("model")
    command.add_argument("file", type=Path, metavar="FILE.safetensors")
    command.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    command.add_argument("--minutes", type=float, required=True)
    command.add_argument("--factor", type=int, help="train a specialist for it")
    command.add_argument("--best", action="store_true", help="which answers at best quality alone")
    command.add_argument("--network", type=json.loads, default={}, metavar="JSON", help="its settings, if others")
    command.add_argument("--halved", nargs="+", type=Path, default=[], metavar="SCAN", help="of bodies half as large")
    command.add_argument("--thickness", nargs="+", type=float, metavar="MM", help="of each scan's slices, halved last")
    command.add_argument("--threads", type=int, help="cores to use")
    command.add_argument("--device", type=torch.device, default="cpu", help="where to compute; cuda in bfloat16")
    command.add_argument("--workers", type=int, default=0, help="processes that draw exercises ahead")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--settings", type=json.loads, default={}, metavar="JSON", help="see `Settings`")
    command.set_defaults(run=train)
    command = commands.add_parser("join")
    command.add_argument("model")
    command.add_argument("output", type=Path, metavar="OUTPUT_FOLDER")
    command.add_argument("files", nargs="*", type=Path, metavar="FILE.safetensors")
    command.add_argument("--share", type=float, default=1.0, help="of what was trained; the rest is what the model had")
    command.add_argument("--half", action="store_true", help="round all weights to half precision")
    command.set_defaults(run=join)
    arguments = parser.parse_args()
    if getattr(arguments, "best", False) and arguments.factor is None:
        parser.error("Give --factor with --best: at best quality, only networks of single factors answer alone.")
    arguments.run(arguments)


def train(arguments: argparse.Namespace) -> None:
    """Train a network and write it again and again."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings, factor, model = Settings(**arguments.settings), arguments.factor, load_model(arguments.model)
    quality = Quality.BEST if arguments.best else Quality.STANDARD
    sizes = model.card["network"]
    if factor is not None:
        model = model.at_quality(quality)
        own = sizes.get("specialists", {}) | sizes.get(FIELDS[quality], {})
        sizes = {name: number for name, number in sizes.items() if name not in OF_THE_WHOLE} | own.get(str(factor), {})
        settings = replace(settings, factor_shares={str(factor): 1.0})
    sizes = sizes | arguments.network
    torch.manual_seed(arguments.seed)
    torch.backends.cudnn.benchmark = True
    device = arguments.device
    network = beginning(model.network, sizes, factor).to(device, memory_format=torch.channels_last)
    averaged = deepcopy(network).requires_grad_(False)
    config = settings.config(model.card, arguments.seed, sizes)
    sampler, first = scans_of(arguments, settings, config)
    kept = [(weight, blocks.to(device)) for weight, blocks in exercises(first, config)]
    drawn = iter(
        DataLoader(Exercises(sampler, settings), batch_size=None, sampler=count(), num_workers=arguments.workers)
    )
    optimizer = MuonAndAdam(
        network, settings.muon_rate, settings.adam_rate, settings.fusion_rates, settings.condition_rate
    )
    part = "views and fusion" if factor is None else f"specialist for x{factor}"
    if arguments.best:
        part += " at best quality"
    record = {"part": part, "seed": arguments.seed, **asdict(settings)}
    if arguments.halved:
        record["halved"] = [path.stem for path in arguments.halved]
    began, step, reported, saved = time.monotonic(), 0, 0.0, 0.0
    while (elapsed := time.monotonic() - began) < 60 * arguments.minutes:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            terms = restoration_terms(network, next(drawn).to(device), config)
        optimizer.step(sum(terms.values()), rate_at(elapsed / (60 * arguments.minutes)))
        step += 1
        follow(averaged, network, step, settings.decay)
        if elapsed - reported > REPORT_EVERY:
            reported = elapsed
            print(f"{elapsed / 60:.0f} min, step {step}: {gains(averaged, kept)}", flush=True)
        if elapsed - saved > SAVE_EVERY:
            saved = elapsed
            write(arguments.file, averaged, factor, sizes, record | {"steps_done": step}, quality)
    print(f"end, step {step}: {gains(averaged, kept)}", flush=True)
    write(arguments.file, averaged, factor, sizes, record | {"steps_done": step}, quality)


def scans_of(arguments: argparse.Namespace, settings: Settings, config: TrainingConfig) -> tuple[Sampler, Material]:
    """What all scans are drawn from, without the slices of the first one that are kept, and the whole first one."""
    paths = arguments.scans + arguments.halved
    thicknesses = arguments.thickness or [None] * len(paths)
    volumes = [read_volume(path, thickness) for path, thickness in zip(paths, thicknesses, strict=True)]
    whole = len(arguments.scans)
    # Blocks whose pixels are to be larger are made of more pixels, an even number as of all blocks.
    pixels = 2 * math.ceil(settings.pixels * settings.zoom / 2)
    sampler = Sampler(volumes[:whole], replace(config, pixels=pixels))
    first = sampler.along[0]
    sampler.along[0] = replace(first, voxels=first.voxels[:-KEPT_SLICES])
    sampler.along += [halved(materials_of(volume)[0]) for volume in volumes[whole:]]
    sampler.along += [coarser(material, by) for by in settings.coarser for material in sampler.along]
    return sampler, first


class Exercises(Dataset):
    """What a sampler draws for each step, a share of it `varied` and `zoomed`."""

    def __init__(self, sampler: Sampler, settings: Settings):
        self._sampler, self._settings = sampler, settings

    def __getitem__(self, step: int) -> Blocks:
        blocks = self._sampler.thinned(step)
        # What is drawn does not depend on what is varied.
        random = np.random.default_rng([self._sampler.config.seed, step, VARYING])
        zoom = 1.0
        if random.random() < self._settings.varied:
            blocks = varied(blocks, random)
            zoom = self._settings.zoom ** random.uniform(-1, 1)
        return zoomed(blocks, self._settings.pixels, zoom)


def varied(blocks: Blocks, random: np.random.Generator) -> Blocks:
    """The same anatomy by another kernel of reconstruction, smoother or sharper in plane, and with another contrast."""
    weight, contrast = random.uniform(*IN_PLANE_WEIGHTS), math.exp(random.uniform(*LOG_CONTRASTS))
    along = torch.tensor([weight, 1 - 2 * weight, weight])
    kernel = torch.outer(along, along)[None, None]

    def changed(slices: Tensor) -> Tensor:
        rimmed = functional.pad(slices.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
        return (functional.conv2d(rimmed, kernel).view(slices.shape) - AIR) * contrast + AIR

    return replace(blocks, slices=changed(blocks.slices), observed=changed(blocks.observed))


def zoomed(blocks: Blocks, pixels: int, zoom: float) -> Blocks:
    """The middle of blocks, `pixels` wide, whose pixels are `zoom` times as small as they were."""
    size = round(pixels / zoom)
    first = (blocks.slices.shape[-1] - size) // 2

    def changed(slices: Tensor) -> Tensor:
        middle = slices[..., first : first + size, first : first + size]
        if size == pixels:
            return middle
        return functional.interpolate(middle, (pixels, pixels), mode="bicubic", antialias=True)

    slices, observed = changed(blocks.slices), changed(blocks.observed)
    return replace(blocks, slices=slices, observed=observed, slice_ratio=blocks.slice_ratio * (pixels / size))


def halved(material: Material) -> Material:
    """A scan as of a body half as large: squares of four pixels become their mean, and every distance is half of what
    it was. Slices that are 3 mm apart show then how those that are 1.5 mm apart change."""
    rows, columns = (size // 2 * 2 for size in material.voxels.shape[1:])
    voxels = with_coarser_pixels(material.voxels[:, :rows, :columns], 2)
    return replace(material, voxels=voxels, slice_spacing=material.slice_spacing / 2)


def coarser(material: Material, by: float) -> Material:
    """A scan as if made with slices `by` times as far apart: each the average of so many, also in parts, that touch."""
    slices = np.arange(len(material.voxels))
    edges = by * np.arange(int(len(slices) / by) + 1)
    shares = np.minimum(edges[1:, None], slices + 1) - np.maximum(edges[:-1, None], slices)
    voxels = np.tensordot(shares.clip(0).astype(np.float32) / by, material.voxels.astype(np.float32), axes=1)
    # An average over `by` slices has the variance of a box that wide, less that of a slice.
    thickness = material.thickness_when_spread((by**2 - 1) / 12) / by
    return replace(material, voxels=voxels, slice_spacing=by * material.slice_spacing, thickness=max(1.0, thickness))


def beginning(network: ThreeViewNetwork, sizes: dict, factor: int | None) -> ThreeViewNetwork:
    """A network, or a specialist for a factor, that begins with what another one answers.

    Blocks, numbers to be told and images to be seen that it has more do nothing yet.
    """
    new = ThreeViewNetwork(**sizes | ({} if factor is None else {"factors": (factor,)}))
    former = network if factor is None else network.network_for(factor)
    known = former.state_dict()
    for name, weights in new.state_dict().items():
        if name.endswith("condition.weight") and name in known and weights.shape != known[name].shape:
            columns = dict(zip(former.condition_names, known[name].unbind(1), strict=True))
            silent = torch.zeros_like(weights[:, 0])
            known[name] = torch.stack([columns.get(told, silent) for told in new.condition_names], dim=1)
        elif name.startswith("fusion.stems") and name.endswith("weight") and name in known:
            more = weights.shape[1] - known[name].shape[1]
            known[name] = torch.cat([known[name], torch.zeros_like(weights[:, :more])], dim=1)
    new.load_state_dict({name: known.get(name, weights) for name, weights in new.state_dict().items()})
    return new


def exercises(material: Material, config: TrainingConfig) -> Iterator[tuple[float, Blocks]]:
    """The middle of the last slices of a scan, by weight and by each of the factors that are drawn most often."""
    for factor in sorted(config.factor_shares, key=config.factor_shares.get)[-FACTORS_TOLD:]:
        for weight in WEIGHTS:
            voxels = material.voxels[-KEPT_SLICES:]
            for axis, size in enumerate(voxels.shape[1:], 1):
                pixels = min(KEPT_PIXELS, size // 2 * 2)
                first = (size - pixels) // 2
                voxels = voxels.take(range(first, first + pixels), axis)
            mixed = mixed_with_neighbours(voxels, weight)
            kept = (len(mixed) - 1) // factor + 1
            slices = to_network_units(torch.from_numpy(mixed[: (kept - 1) * factor + 1]))[None]
            observed, profile = slices[:, ::factor], None
            if config.acquisition == "thick":
                profile = SliceProfile()
                weights = torch.as_tensor(averaging_weights(kept, factor, profile).copy()).to(slices)
                observed = torch.einsum("kt,bthw->bkhw", weights, slices)
            ratio = torch.tensor([material.slice_spacing / material.pixel_spacing])
            likeness = torch.tensor([material.likeness(factor, weight, profile)])
            overlap = torch.tensor([material.thickness_when_mixed(weight)])
            yield weight, Blocks(slices, observed, factor, ratio, profile, likeness, overlap)


@torch.no_grad()
def gains(network: ThreeViewNetwork, kept: list[tuple[float, Blocks]]) -> str:
    """By how many dB a network is ahead of the spline; of thick slices, where no average reaches beyond the scan."""
    told = []
    for weight, blocks in kept:
        observed, factor, profile = blocks.observed, blocks.factor, blocks.profile
        spline = spline_between(observed, factor) if profile is None else spline_through(observed, factor, profile)
        answer = network.fuse(observed, network(observed, factor, blocks.facts), factor, blocks.facts)
        inner = slice(None) if profile is None else slice(factor, -factor)
        missed = [(one - blocks.truth)[:, inner].square().mean().item() for one in (spline, answer)]
        told.append(f"x{factor} {10 * math.log10(missed[0] / missed[1]):+.3f} dB (mixed by {weight})")
    return ", ".join(told)


def write(
    file: Path,
    network: ThreeViewNetwork,
    factor: int | None,
    sizes: dict,
    record: dict,
    quality: str = Quality.STANDARD,
) -> None:
    """Write a network, what it is made with and for, and what its training was like."""
    told = {"factor": factor, "network": sizes, "record": record, "quality": quality}
    told = {name: json.dumps(value) for name, value in told.items()}
    save_file({name: weights.contiguous() for name, weights in network.state_dict().items()}, file, metadata=told)


def join(arguments: argparse.Namespace) -> None:
    """Write a model with what was trained; what else it is made of stays as it was."""
    model = load_model(arguments.model)
    card, tensors, sizes = model.card, model.network.state_dict(), model.card["network"]
    records = []
    for file in arguments.files:
        with safe_open(file, "pt") as opened:
            told = {name: json.loads(value) for name, value in opened.metadata().items()}
        factor, own, record = (told[name] for name in ("factor", "network", "record"))
        field = FIELDS[told["quality"]]
        records.append(record if arguments.share == 1 else record | {"share": arguments.share})
        prefix = "" if factor is None else f"{field}.{factor}."
        trained = {f"{prefix}{name}": weights for name, weights in load_file(file).items()}
        tensors |= mixed(trained, tensors, arguments.share)
        if factor is None:
            sizes = own
            continue
        # What it shares with the model need not be said again.
        own = {name: number for name, number in own.items() if name not in SHARED or sizes.get(name) != number}
        sizes = sizes | {field: sizes.get(field, {}) | {str(factor): own}}
    network = ThreeViewNetwork(**sizes)
    network.load_state_dict({name: tensors[name] for name in network.state_dict()})
    # What was measured of the model before does not hold any longer.
    card = {name: value for name, value in card.items() if name != "doubt"}
    training = [*card.get("training", []), *records]
    network = network.half() if arguments.half else network
    save_model(arguments.output, network, card | {"measured_gains": {}, "network": sizes, "training": training})


def mixed(trained: dict[str, Tensor], former: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights between two states of a network.

    Raises:
        ValueError: the former network was of another size.
    """
    if share == 1:
        return trained
    if any(name not in former or weights.shape != former[name].shape for name, weights in trained.items()):
        raise ValueError("Leave --share out: what was trained has another size than what the model had.")
    return {name: torch.lerp(former[name], weights, share) for name, weights in trained.items()}


if __name__ == "__main__":
    main()
