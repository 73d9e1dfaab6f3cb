"""Train the fusion of a model whose views stay as they are, and write the model with it.

    python Testing/tools/train_fusion.py MODEL OUTPUT_FOLDER SCAN... --minutes M [--cache FOLDER] [--threads N]
        [--settings '{"muon_rate": 0.002}']

As the views do not change, each scan is thinned and answered by them once; what lies in the cache folder is used again.
Then only the fusion is trained, on pieces of these answers: a step costs a fraction of one that trains all. Every tenth
gap is kept from it, and tells how much the fusion gains over the mean of the views. OUTPUT_FOLDER is written every
few minutes, so that a run that is stopped is not lost.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optimizers import MuonAndAdam, follow
from XViewSynthLib import Volume, load_model, read_volume
from XViewSynthLib.geometry.orientation import to_slices
from XViewSynthLib.geometry.slice_profile import SliceProfile, averaging_weights
from XViewSynthLib.model.catalogue import Model, save_model
from XViewSynthLib.model.network import (
    INTENSITY_RANGE,
    VIEWS,
    ScanFacts,
    ThreeViewNetwork,
    join_gaps,
    spline_between,
    spline_through,
    to_hu,
    to_network_units,
)
from XViewSynthTrainLib.losses import restoration_loss
from XViewSynthTrainLib.regions import middle_of
from XViewSynthTrainLib.sampling import mixed_with_neighbours
from XViewSynthTrainLib.trainer import rate_at

#: How often each factor is drawn, unless the settings tell.
FACTOR_SHARES = {
    "gap": {2: 0.38, 3: 0.06, 4: 0.40, 5: 0.06, 6: 0.04, 7: 0.03, 8: 0.03},
    "thick": {2: 0.10, 3: 0.08, 4: 0.34, 5: 0.34, 6: 0.05, 7: 0.05, 8: 0.04},
}
#: How often a scan is thinned, each time from another slice on; other factors once.
TIMES = {"gap": {2: 3, 4: 3}, "thick": {4: 3, 5: 3}}
#: Weights of either neighbour in slices made to overlap, one for each time.
OVERLAPS = (0.0, 0.28, 0.14)
#: How the slices are averaged, one for each time.
PROFILES = (SliceProfile(), SliceProfile(0.7), SliceProfile(1.0, "gaussian"))
#: No scanner leaves wider gaps, mm.
WIDEST_GAP = 10.0
#: Beside the mean absolute error, as in the training of the views.
SQUARED = 10.0
PIXELS, BATCH = 64, 8
KEPT_OUT = 10
REPORT_EVERY, SAVE_EVERY = 120.0, 300.0


@dataclass(frozen=True)
class Settings:
    """What may be set by `--settings`, and stands on the model's card.

    Attributes:
        adam_rate, muon_rate: highest learning rates.
        decay: of the moving average of the weights, which is what is written.
        factor_shares: how often each factor is drawn.
    """

    adam_rate: float = 1e-3
    muon_rate: float = 4e-3
    decay: float = 0.999
    factor_shares: dict[int, float] | None = None


@dataclass(frozen=True)
class Answered:
    """A scan that was thinned, and answered by the views; network units, float16.

    Attributes:
        observed: (slices, rows, columns).
        residuals: what each view adds to the spline, (3, gaps, positions in a gap, rows, columns).
        missed: what their mean misses, (gaps, positions in a gap, rows, columns).
        gap_ratio: distance between observed slices over the pixel spacing.
    """

    observed: np.ndarray
    residuals: np.ndarray
    missed: np.ndarray
    gap_ratio: float
    factor: int
    profile: SliceProfile | None


def main() -> None:
    """Write OUTPUT_FOLDER."""
    parser = argparse.ArgumentParser(description="Train the fusion of a model whose views stay as they are.")
    parser.add_argument("model")
    parser.add_argument("output", type=Path, metavar="OUTPUT_FOLDER")
    parser.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    parser.add_argument("--minutes", type=float, required=True, help="of training, after the views have answered")
    parser.add_argument("--blocks", type=int, default=3, help="residual blocks of the fusion")
    parser.add_argument("--pixels", type=int, default=320, help="the middle of each slice to train on")
    parser.add_argument("--cache", type=Path, default=Path("answered"), help="folder of what the views answered")
    parser.add_argument("--threads", type=int, help="cores to use")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", type=json.loads, default={}, metavar="JSON", help="see `Settings`")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = load_model(arguments.model)
    shares = arguments.settings.get("factor_shares", FACTOR_SHARES[model.card["acquisition"]])
    shares = {int(factor): share for factor, share in shares.items()}
    arguments.settings = Settings(**arguments.settings | {"factor_shares": shares})
    answered = [exercise for scan in arguments.scans for exercise in exercises(scan, model, arguments)]
    torch.manual_seed(arguments.seed)
    settings = model.card["network"] | {"fusion_blocks": arguments.blocks}
    network = ThreeViewNetwork(**settings).requires_grad_(False)
    missing, unexpected = network.load_state_dict(model.network.state_dict(), strict=False)
    if unexpected or not all(name.startswith("fusion.") for name in missing):
        parser.error(f"{arguments.model} has a fusion of another size: give its number of blocks by --blocks.")
    train(network, answered, model, arguments)


def exercises(path: Path, model: Model, arguments: argparse.Namespace) -> Iterator[Answered]:
    """A scan as the views of a model answer it, thinned by each factor, once or more often."""
    acquisition = model.card["acquisition"]
    scan = read_volume(path)
    spacing = scan.spacing_along(scan.through_plane_axis)
    for factor in model.card["factors"]:
        for time_ in range(TIMES[acquisition].get(factor, 1)):
            if factor > 2 and factor * spacing > WIDEST_GAP:
                continue
            folder = arguments.cache / f"{model.sha256[:8]}-{path.name.split('.')[0]}-x{factor}-{time_}"
            if not (folder / "missed.npy").exists():
                began = time.monotonic()
                answer(scan, factor, time_, model, arguments.pixels, folder)
                print(f"{folder.name}: {time.monotonic() - began:.0f} s", flush=True)
            yield Answered(
                *(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("observed", "residuals", "missed")),
                gap_ratio=spacing * factor / scan.pixel_spacing(scan.through_plane_axis),
                factor=factor,
                profile=PROFILES[time_] if acquisition == "thick" else None,
            )


@torch.inference_mode()
def answer(scan: Volume, factor: int, time_: int, model: Model, pixels: int, folder: Path) -> None:
    """Thin a scan, let the views answer and keep what `Answered` needs."""
    axis = scan.through_plane_axis
    ratio = torch.tensor([scan.spacing_along(axis) * factor / scan.pixel_spacing(axis)])
    voxels, _ = to_slices(middle_of(scan, axis, pixels), axis)
    rows, columns = (size // 2 * 2 for size in voxels.shape[1:])
    voxels = voxels[time_ % factor :, :rows, :columns].astype(np.float32).clip(*INTENSITY_RANGE)
    voxels = voxels[: (len(voxels) - 1) // factor * factor + 1]
    network, profile = model.network, None
    if network.thick:
        profile = PROFILES[time_]
    elif OVERLAPS[time_]:
        voxels = mixed_with_neighbours(np.pad(voxels, ((1, 1), (0, 0), (0, 0)), "edge"), OVERLAPS[time_])
    thin = to_network_units(torch.from_numpy(voxels))
    if network.thick:
        weights = torch.as_tensor(averaging_weights((len(thin) - 1) // factor + 1, factor, profile).copy())
        observed = torch.einsum("kt,thw->khw", weights, thin)[None]
        base = spline_through(observed, factor, profile)[0]
    else:
        observed = thin[None, ::factor]
        base = spline_between(observed, factor)[0]
        thin = thin[:-1].unflatten(0, (-1, factor))[:, 1:]
    facts = ScanFacts(ratio, profile)
    residuals = torch.stack([_in_parts(network, view, observed, factor, facts) for view in VIEWS])
    missed = thin - base - residuals.mean(dim=0)
    if network.thick:
        residuals = residuals.unfold(1, factor + 1, factor).movedim(-1, 2)
        missed = missed.unfold(0, factor + 1, factor).movedim(-1, 1)
    folder.mkdir(parents=True, exist_ok=True)
    for name, tensor in (("observed", observed[0]), ("residuals", residuals), ("missed", missed)):
        np.save(folder / f"{name}.npy", tensor.half().numpy())


def _in_parts(network: ThreeViewNetwork, view: str, observed: Tensor, factor: int, facts: ScanFacts) -> Tensor:
    """What a view adds to the spline, a part at a time: (gaps, s - 1, rows, columns), of thick slices joined."""
    slices, rows, columns = observed.shape[1:]
    whole, size, dimension = {"axial": (slices - 1, 4, 1), "coronal": (rows, 32, 3), "sagittal": (columns, 32, 4)}[view]
    parts = [slice(first, min(first + size, whole)) for first in range(0, whole, size)]
    answers = [network.residual(view, observed, factor, facts, part) for part in parts]
    answers = torch.cat(answers, dim=dimension)
    return (join_gaps(answers) if network.thick else answers)[0]


def train(network: ThreeViewNetwork, answered: list[Answered], model: Model, arguments: argparse.Namespace) -> None:
    """Train the fusion of `network` and write the model again and again."""
    settings, shares = arguments.settings, arguments.settings.factor_shares
    fusion = network.fusion.requires_grad_(True)
    averaged = deepcopy(network).requires_grad_(False)
    optimizer = MuonAndAdam(fusion, settings.muon_rate, settings.adam_rate)
    kept_out = [draw(np.random.default_rng([7, seed]), answered, shares, True) for seed in range(96)]
    began, step, reported, saved = time.monotonic(), 0, 0.0, 0.0
    while (elapsed := time.monotonic() - began) < 60 * arguments.minutes:
        predicted, missed = predict(network, *draw(np.random.default_rng([arguments.seed, step]), answered, shares))
        optimizer.step(restoration_loss(predicted, missed, SQUARED), rate_at(elapsed / (60 * arguments.minutes)))
        step += 1
        follow(averaged.fusion, fusion, step, settings.decay)
        if elapsed - reported > REPORT_EVERY:
            reported = elapsed
            print(f"{elapsed / 60:.0f} min, step {step}: {gains(averaged, kept_out)}", flush=True)
        if elapsed - saved > SAVE_EVERY:
            saved = elapsed
            write(averaged, model, arguments, step)
    print(f"end, step {step}: {gains(averaged, kept_out)}", flush=True)
    write(averaged, model, arguments, step)


def draw(
    random: np.random.Generator, answered: list[Answered], shares: dict[int, float], kept_out: bool = False
) -> tuple[Tensor, Tensor, Tensor, Answered, Tensor]:
    """Pieces of gaps of one factor and profile: observed, residuals, missed, one of their scans, ratios."""
    factor = int(random.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))
    pool = [scan for scan in answered if scan.factor == factor]
    profile = pool[random.integers(len(pool))].profile
    pool = [scan for scan in pool if scan.profile == profile]
    sizes = np.sqrt([scan.missed.size for scan in pool])
    chosen = [pool[index] for index in random.choice(len(pool), BATCH, p=sizes / sizes.sum())]
    observed, residuals, missed = zip(*(_piece(random, scan, kept_out) for scan in chosen), strict=True)
    ratios = torch.tensor([scan.gap_ratio for scan in chosen])
    return (
        torch.from_numpy(np.stack(observed)).float(),
        torch.from_numpy(np.stack(residuals, axis=1)).float(),
        torch.from_numpy(np.stack(missed)).float(),
        chosen[0],
        ratios,
    )


def _piece(random: np.random.Generator, scan: Answered, kept_out: bool) -> tuple[np.ndarray, ...]:
    """Observed (4, rows, columns), residuals (3, positions, rows, columns), missed (positions, rows, columns)."""
    gaps, _, rows, columns = scan.missed.shape
    pool = [gap for gap in range(gaps) if (gap % KEPT_OUT == KEPT_OUT // 2) == kept_out]
    gap = pool[random.integers(len(pool))]
    around = np.abs(np.arange(gap - 1, gap + 3))
    around = gaps - np.abs(gaps - around)
    top, left = random.integers(rows - PIXELS + 1), random.integers(columns - PIXELS + 1)
    window = (..., slice(top, top + PIXELS), slice(left, left + PIXELS))
    pieces = [scan.observed[around][window], scan.residuals[:, gap][window], scan.missed[gap][window]]
    # The slices come third from last everywhere.
    for axis in (-3, -2, -1):
        if random.random() < 0.5:
            pieces = [np.flip(piece, axis) for piece in pieces]
    if random.random() < 0.5:
        # What the coronal view answered is then what the sagittal one would have.
        pieces[1] = pieces[1][[VIEWS.index(view) for view in ("axial", "sagittal", "coronal")]]
        pieces = [piece.swapaxes(-1, -2) for piece in pieces]
    return tuple(pieces)


def predict(
    network: ThreeViewNetwork, observed: Tensor, residuals: Tensor, missed: Tensor, scan: Answered, ratios: Tensor
) -> tuple[Tensor, Tensor]:
    """What the fusion predicts of the middle gap, and what is true: (batch, positions, rows, columns)."""
    if not network.thick:
        residuals = residuals[:, :, None]
    facts = ScanFacts(ratios, scan.profile)
    return network.correction(observed, residuals, scan.factor, facts, slice(1, 2))[:, 0], missed


@torch.no_grad()
def gains(network: ThreeViewNetwork, kept_out: list[tuple]) -> str:
    """By how many dB the fusion is ahead of the mean of the views, factor by factor."""
    errors: dict[int, list[tuple[float, float]]] = {}
    for pieces in kept_out:
        predicted, missed = predict(network, *pieces)
        error = (to_hu(predicted - missed).square().mean().item(), to_hu(missed).square().mean().item())
        errors.setdefault(pieces[3].factor, []).append(error)
    return ", ".join(
        f"x{factor} {10 * math.log10(np.sum(pairs, axis=0)[1] / np.sum(pairs, axis=0)[0]):+.3f} dB"
        for factor, pairs in sorted(errors.items())
    )


def write(network: ThreeViewNetwork, model: Model, arguments: argparse.Namespace, step: int) -> None:
    """Write the model with its fusion; the card tells how that was trained."""
    record = {
        "part": "fusion",
        "steps_done": step,
        "seed": arguments.seed,
        "batch": BATCH,
        "pixels": PIXELS,
        "middle": arguments.pixels,
        "factor_shares": {str(factor): share for factor, share in arguments.settings.factor_shares.items()},
        "learning_rate": arguments.settings.adam_rate,
        "muon_learning_rate": arguments.settings.muon_rate,
        "squared": SQUARED,
        "average_decay": arguments.settings.decay,
    }
    # What was measured of the mean of the views does not hold any longer.
    card = {name: value for name, value in model.card.items() if name != "doubt"}
    card |= {
        "measured_gains": {},
        "network": card["network"] | {"fusion_blocks": arguments.blocks},
        "training": [*card.get("training", []), record],
    }
    save_model(arguments.output, network, card)


if __name__ == "__main__":
    main()
