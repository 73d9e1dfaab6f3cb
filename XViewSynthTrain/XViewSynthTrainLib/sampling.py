"""Training samples: blocks of real scans and their thinned versions, as of a thick acquisition."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.constants import INTENSITY_RANGE
from XViewSynthLib.geometry.intensity import to_scalar_type
from XViewSynthLib.geometry.orientation import to_slices
from XViewSynthLib.geometry.slice_profile import THICKNESS_RANGE, WIDTH_OVER_THICKNESS, SliceProfile, averaging_weights
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.model.network import ScanFacts
from XViewSynthLib.model.noise import DISTANCES, noise_correlation
from XViewSynthLib.model.spline import to_network_units

from .config import THICK, TrainingConfig

#: Least number of observed slices of a block.
_FEWEST_SLICES = 4
#: In-plane axes are used if the spacings of the two other axes are within this ratio.
_LARGEST_ANISOTROPY = 1.6
#: Largest gap for factors above 2, mm: scanners leave no wider ones.
_LARGEST_GAP = 10.0
#: Blocks have at least this share of tissue: air is plentiful.
_SMALLEST_TISSUE_SHARE = 0.25
_TISSUE_ABOVE_HU = -950
#: Range of the weight of either neighbour in a simulated overlapping slice; 1/3 averages three slices.
_OVERLAP_WEIGHTS = (0.05, 1 / 3)
#: Number of slices, and largest distance in slices, for the noise correlation of a scan.
_NOISE_SLICES, _NOISE_DISTANCES = 36, 24
#: Share of the steps with thick slices whose slices touch, as of most scanners; the others have a random thickness.
_TOUCHING_SHARE = 0.65
#: Share of the steps with thick slices whose profile is Gaussian. These slices do not overlap: a wider Gaussian would
#: exceed the margin of a block.
_GAUSSIAN_SHARE = 0.25


@dataclass(frozen=True)
class Material:
    """A scan along one axis: `voxels` (slices, rows, columns) in HU, spacings in mm, thickness in spacings."""

    voxels: np.ndarray
    slice_spacing: float
    pixel_spacing: float
    in_plane: bool
    thickness: float = 1.0

    def slices_when_thinned(self, factor: int) -> int:
        return (self.voxels.shape[0] - 1) // factor + 1

    def thickness_when_mixed(self, weight: float) -> float:
        """Nominal thickness, in spacings, of slices mixed with either neighbour by `weight`."""
        return self.thickness_when_spread(2 * weight)

    def thickness_when_spread(self, variance: float) -> float:
        """Nominal thickness, in spacings, of slices whose profile has this additional variance, spacings².

        A box of width t has the variance t² / 12."""
        return math.sqrt(self.thickness**2 + 12 * variance / WIDTH_OVER_THICKNESS**2)

    def likeness(self, factor: int, weight: float = 0.0, profile: SliceProfile | None = None) -> list[float]:
        """The noise correlation of the thinned scan (`noise_correlation`), without thinning it.

        Its slices are weighted sums of thin slices, whose noise has the correlations `noise`.

        Args:
            weight: weight of either neighbour in each thin slice.
            profile: of the thick slices; None if thin slices are dropped.
        """
        weights = np.array([weight, 1 - 2 * weight, weight])
        if profile is not None:
            # The weights of a slice far from both ends.
            weights = np.convolve(np.trim_zeros(averaging_weights(9, factor, profile)[4]), weights)
        pairs = np.correlate(weights, weights, "full")
        apart = np.arange(len(pairs)) - len(weights) + 1
        covariances = [
            (pairs * self.noise[np.abs(apart + distance * factor).clip(max=len(self.noise) - 1)]).sum()
            for distance in (0, *DISTANCES)
        ]
        return [float(covariance / covariances[0]) for covariance in covariances[1:]]

    @cached_property
    def noise(self) -> np.ndarray:
        """The correlation of noise in soft tissue between slices 0, 1, 2, ... apart; the last value holds for all
        larger distances."""
        first = max(0, len(self.voxels) - _NOISE_SLICES) // 2
        slices = to_network_units(torch.from_numpy(self.voxels[first : first + _NOISE_SLICES]).float())
        distances = range(1, min(_NOISE_DISTANCES, len(slices) - 1) + 1)
        return np.array([1.0, *noise_correlation(slices[None], distances)[0]])


@dataclass(frozen=True)
class Blocks:
    """Blocks of one step, in network units.

    Attributes:
        slices: (batch, s (observed slices - 1) + 1, rows, columns), at the spacing of the scan.
        observed: (batch, observed slices, rows, columns), the thinned slices.
        factor: s, the thinning factor that level 0 reverses.
        slice_ratio: (batch,) spacing of `slices` over the pixel spacing.
        profile: of the observed slices; None if they are thin.
        likeness: (batch, 1) noise correlation of the whole scans; None if no network is conditioned on it.
        overlap: (batch,) thickness of `slices` over their spacing; None if unknown.
    """

    slices: Tensor
    observed: Tensor
    factor: int
    slice_ratio: Tensor
    profile: SliceProfile | None = None
    likeness: Tensor | None = None
    overlap: Tensor | None = None

    @property
    def facts(self) -> ScanFacts:
        """The conditioning inputs for `observed`."""
        return ScanFacts(self.slice_ratio * self.factor, self.profile, self.likeness, self.overlap)

    @property
    def truth(self) -> Tensor:
        """The target of the prediction: the dropped slices, (batch, gaps, s - 1, rows, columns); for thick slices all
        of `slices`."""
        if self.profile is not None:
            return self.slices
        return self.slices[:, :-1].unflatten(1, (-1, self.factor))[:, :, 1:]

    def part(self, rank: int, size: int) -> "Blocks":
        """The part of the batch for process `rank` of `size`; the batch is a multiple of `size`."""
        return self._each(lambda tensor: tensor[rank::size])

    def to(self, device: torch.device) -> "Blocks":
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Blocks":
        return replace(
            self,
            slices=change(self.slices),
            observed=change(self.observed),
            slice_ratio=change(self.slice_ratio),
            likeness=None if self.likeness is None else change(self.likeness),
            overlap=None if self.overlap is None else change(self.overlap),
        )


def materials_of(volume: Volume) -> list[Material]:
    """Return a scan along its slices and, if it is fine enough, along its in-plane axes."""
    axis = volume.through_plane_axis
    voxels, _ = to_slices(volume, axis)
    # Padding such as -3024 is treated as air.
    voxels = to_scalar_type(voxels.clip(*INTENSITY_RANGE), np.int16)
    through, pixel = volume.spacing_along(axis), volume.pixel_spacing(axis)
    thickness = float(np.clip((volume.thickness_along(axis) or through) / through, *THICKNESS_RANGE))
    materials = [Material(voxels, through, pixel, in_plane=False, thickness=thickness)]
    if through / pixel <= _LARGEST_ANISOTROPY:
        rest = (through + pixel) / 2
        materials += [Material(voxels.swapaxes(0, axis), pixel, rest, in_plane=True) for axis in (1, 2)]
    return materials


class Sampler:
    """Draws blocks from scans. The blocks of a step depend only on seed and step, so a run can be resumed.

    Args:
        scans: at least one must be large enough for a block.
        config: sizes, factors and shares.

    Raises:
        InputError: all scans are too small.
    """

    def __init__(self, scans: Sequence[Volume], config: TrainingConfig):
        self.config = config
        networks = (config.network, *config.network.get("specialists", {}).values())
        self._conditions_on_noise = any(network.get("likeness") for network in networks)
        every = [material for scan in scans for material in materials_of(scan)]
        self.along = [material for material in every if not material.in_plane and self._fits(material, 2)]
        self.in_plane = [material for material in every if material.in_plane and self._fits(material, 2)]
        if not self.along:
            raise InputError(
                f"None of the {len(scans)} scans is large enough to train on: give scans of at least "
                f"{2 * _FEWEST_SLICES - 1} slices and {config.pixels} x {config.pixels} pixels."
            )

    def _fits(self, material: Material, factor: int, scale: int = 1) -> bool:
        rows, columns = material.voxels.shape[1:]
        large_enough = min(rows, columns) >= scale * self.config.pixels
        plausible = factor == 2 or factor * material.slice_spacing <= _LARGEST_GAP
        return large_enough and plausible and material.slices_when_thinned(factor) >= _FEWEST_SLICES

    def thinned(self, step: int) -> Blocks:
        """Blocks for level 0, of a random factor; after thinning they still have the full number of slices."""
        random = np.random.default_rng([self.config.seed, step, 0])
        factor = self._draw_factor(random)
        pool = self.in_plane if self.in_plane and random.random() < self.config.in_plane_share else self.along
        while not any(self._fits(material, factor) for material in pool):
            factor -= 1
        can_scale = any(self._fits(material, factor, factor) for material in pool)
        scale = factor if can_scale and self._happens(self.config.scaled_share, step, 4) else 1
        if self.config.acquisition == THICK:
            return self._draw_averaged(random, pool, factor, scale, self._profile(step))
        slices, chosen, weights = self._draw(random, pool, factor, self.config.slices, scale)
        return Blocks(slices, slices[:, ::factor], factor, **self._known(chosen, weights, factor, scale))

    def rehearses(self, step: int) -> bool:
        """Whether a step is a rehearsal step."""
        return self._happens(self.config.rehearsal_share, step, 2)

    def own_gaps(self, step: int) -> Blocks:
        """Blocks for rehearsal: the scan itself, with a random factor for its gaps."""
        random = np.random.default_rng([self.config.seed, step, 3])
        blocks = self._draw_scan(random, self.config.slices)
        return replace(blocks, factor=self._draw_factor(random))

    def untouched(self, step: int) -> Blocks:
        """Blocks for level 1 and above: the scan itself, without truth between its slices."""
        random = np.random.default_rng([self.config.seed, step, 1])
        return self._draw_scan(random, max(_FEWEST_SLICES, self.config.slices // 2))

    def _profile(self, step: int) -> SliceProfile:
        random = np.random.default_rng([self.config.seed, step, 5])
        gaussian = random.random() < _GAUSSIAN_SHARE
        thinnest, thickest = THICKNESS_RANGE
        touching = random.random() < _TOUCHING_SHARE
        thickness = 1.0 if touching else random.uniform(thinnest, 1.0 if gaussian else thickest)
        return SliceProfile(float(thickness), "gaussian" if gaussian else "box")

    def _draw_averaged(
        self, random: np.random.Generator, pool: list[Material], factor: int, scale: int, profile: SliceProfile
    ) -> Blocks:
        """Blocks of thick slices and the thin slices that they average."""
        # One more slice at each end, so that each thick slice averages complete data; short scans do without.
        margin = int(any(material.slices_when_thinned(factor) >= _FEWEST_SLICES + 2 for material in pool))
        observed_slices = self.config.slices + 2 * margin
        slices, chosen, weights = self._draw(random, pool, factor, observed_slices, scale, 2 * margin)
        kept = (slices.shape[1] - 1) // factor + 1
        averaging = torch.as_tensor(averaging_weights(kept, factor, profile).copy())
        observed = torch.einsum("kt,bthw->bkhw", averaging, slices)
        inner, fine = slice(margin, kept - margin), slice(margin * factor, slices.shape[1] - margin * factor)
        known = self._known(chosen, weights, factor, scale, profile)
        return Blocks(slices[:, fine], observed[:, inner], factor, **known)

    def _draw_scan(self, random: np.random.Generator, count: int) -> Blocks:
        slices, chosen, weights = self._draw(random, self.along, 1, count)
        profile = None
        if self.config.acquisition == THICK:
            profile = SliceProfile(float(np.mean([material.thickness for material in chosen])))
        return Blocks(slices, slices, 1, **self._known(chosen, weights, 1, profile=profile))

    def _known(
        self,
        chosen: list[Material],
        weights: list[float],
        factor: int,
        scale: int = 1,
        profile: SliceProfile | None = None,
    ) -> dict[str, Any]:
        """Fields of `Blocks` for materials that were mixed with their neighbours by `weights`."""
        both = list(zip(chosen, weights, strict=True))
        likeness = None
        if self._conditions_on_noise and scale == 1:
            likeness = torch.tensor([material.likeness(factor, weight, profile) for material, weight in both])
        return {
            "slice_ratio": torch.tensor([each.slice_spacing / (scale * each.pixel_spacing) for each in chosen]),
            "profile": profile,
            "likeness": likeness,
            "overlap": torch.tensor([material.thickness_when_mixed(weight) for material, weight in both]),
        }

    def _happens(self, share: float, step: int, stream: int) -> bool:
        # Its own random stream, so that other draws of the step do not depend on it.
        return np.random.default_rng([self.config.seed, step, stream]).random() < share

    def _draw_factor(self, random: np.random.Generator) -> int:
        shares = self.config.factor_shares
        return int(random.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))

    def _draw(
        self,
        random: np.random.Generator,
        pool: list[Material],
        factor: int,
        observed: int,
        scale: int = 1,
        more: int = 0,
    ) -> tuple[Tensor, list[Material], list[float]]:
        """Fine slices, (batch, s (observed - 1) + 1, rows, columns) in network units, their materials, and the weight
        of the neighbours in each.

        A thinned material must have `more` slices above the least number.
        """
        pool = [
            material
            for material in pool
            if self._fits(material, factor, scale) and material.slices_when_thinned(factor) >= _FEWEST_SLICES + more
        ]
        # Probability by the square root of the size, so that one long scan does not dominate.
        shares = np.sqrt([material.voxels.size for material in pool])
        chosen = [pool[index] for index in random.choice(len(pool), self.config.batch, p=shares / shares.sum())]
        observed = min(observed, *(material.slices_when_thinned(factor) for material in chosen))
        depth = (observed - 1) * factor + 1
        blocks, weights = zip(*(self._block(random, material, depth, scale) for material in chosen), strict=True)
        return to_network_units(torch.from_numpy(np.stack(blocks)).float()), chosen, list(weights)

    def _block(
        self, random: np.random.Generator, material: Material, depth: int, scale: int
    ) -> tuple[np.ndarray, float]:
        size = (depth, scale * self.config.pixels, scale * self.config.pixels)
        places = [self._place(random, material, size) for _ in range(self.config.candidates)]
        start, block = max(places, key=lambda place: _change(place[1]))
        weight = 0.0
        if random.random() < self.config.overlap_share:
            weight = random.uniform(*_OVERLAP_WEIGHTS)
            block = mixed_with_neighbours(_with_neighbours(material.voxels, start, block.shape), weight)
        if scale > 1:
            block = with_coarser_pixels(block, scale)
        for axis in range(3):
            if random.random() < 0.5:
                block = np.flip(block, axis)
        return (block.swapaxes(1, 2) if random.random() < 0.5 else block), weight

    def _place(
        self, random: np.random.Generator, material: Material, size: tuple[int, int, int]
    ) -> tuple[list[int], np.ndarray]:
        """Where a block with tissue in it begins, and its voxels."""
        for _ in range(8):
            start = [random.integers(whole - part + 1) for whole, part in zip(material.voxels.shape, size, strict=True)]
            block = material.voxels[tuple(slice(first, first + part) for first, part in zip(start, size, strict=True))]
            if (block[:: max(1, size[0] // 4)] > _TISSUE_ABOVE_HU).mean() >= _SMALLEST_TISSUE_SHARE:
                break
        return start, block


def _change(block: np.ndarray) -> float:
    """Mean square of what lines between slices half a block apart miss in their middle, HU²: how hard it is to fill."""
    apart = block[:: max(1, len(block) // 4)].astype(np.float32)
    return float(np.square(apart[1:-1] - (apart[:-2] + apart[2:]) / 2).mean())


def with_coarser_pixels(block: np.ndarray, scale: int) -> np.ndarray:
    """(slices, rows, columns) -> (slices, rows / scale, columns / scale), HU: squares of pixels become their mean."""
    slices, rows, columns = block.shape
    squares = block.reshape(slices, rows // scale, scale, columns // scale, scale)
    return squares.mean(axis=(2, 4), dtype=np.float32)


def mixed_with_neighbours(slices: np.ndarray, weight: float) -> np.ndarray:
    """All but the outermost slices as if they overlapped: each mixed with both neighbours.

    Args:
        slices: (slices + 2, rows, columns), HU.
        weight: of either neighbour, 0 to 1 / 3.

    Returns:
        (slices, rows, columns) float32.
    """
    slices = slices.astype(np.float32)
    return weight * (slices[:-2] + slices[2:]) + (1 - 2 * weight) * slices[1:-1]


def _with_neighbours(voxels: np.ndarray, start: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """The block at `start` with one more slice on either side; the outermost slice is its own neighbour."""
    slices = np.arange(start[0] - 1, start[0] + shape[0] + 1).clip(0, len(voxels) - 1)
    rows, columns = (slice(first, first + size) for first, size in zip(start[1:], shape[1:], strict=True))
    return voxels[slices, rows, columns]
