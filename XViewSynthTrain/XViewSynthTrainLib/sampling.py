"""Training material: blocks of real scans, thinned as a thick acquisition would have seen them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from XViewSynthLib.errors import InputError
from XViewSynthLib.networks import INTENSITY_RANGE, to_network_units
from XViewSynthLib.orientation import to_slices
from XViewSynthLib.volume import Volume

from .config import TrainingConfig

#: Fewest observed slices a block may have.
_FEWEST_SLICES = 4
#: In-plane axes serve as material where the two remaining axes have spacings within this ratio.
_LARGEST_ANISOTROPY = 1.6
#: No scanner leaves wider gaps, in mm; beyond factor 2 there is no use in learning to fill them.
_LARGEST_GAP = 10.0
#: Blocks with less tissue than this share teach little; air is plentiful anyway.
_SMALLEST_TISSUE_SHARE = 0.25
_TISSUE_ABOVE_HU = -950
#: Weight of either neighbour in a slice reconstructed with overlap: up to the average of three slices.
_OVERLAP_WEIGHTS = (0.05, 1 / 3)


@dataclass(frozen=True)
class Material:
    """A scan seen along one axis: `voxels` (slices, rows, columns) in HU, spacings in mm."""

    voxels: np.ndarray
    slice_spacing: float
    pixel_spacing: float
    in_plane: bool

    def slices_when_thinned(self, factor: int) -> int:
        return (self.voxels.shape[0] - 1) // factor + 1


@dataclass(frozen=True)
class Blocks:
    """Blocks of one step, in network units.

    Attributes:
        slices: (batch, slices, rows, columns), as fine as the scan is.
        factor: the thinning that level 0 undoes.
        slice_ratio: (batch,) spacing of `slices` over the pixel spacing.
    """

    slices: Tensor
    factor: int
    slice_ratio: Tensor

    @property
    def observed(self) -> Tensor:
        """(batch, observed slices, rows, columns): what a thick acquisition would have kept."""
        return self.slices[:, :: self.factor]

    @property
    def dropped(self) -> Tensor:
        """(batch, gaps, s - 1, rows, columns): what it would have missed."""
        return self.slices[:, :-1].unflatten(1, (-1, self.factor))[:, :, 1:]

    def part(self, rank: int, size: int) -> "Blocks":
        """The share of one of `size` processes in the batch, which is a multiple of `size`."""
        return Blocks(self.slices[rank::size], self.factor, self.slice_ratio[rank::size])

    def to(self, device: torch.device) -> "Blocks":
        return Blocks(self.slices.to(device), self.factor, self.slice_ratio.to(device))


def materials_of(volume: Volume) -> list[Material]:
    """Return the ways in which a scan can be thinned: along its slices and, where it is fine enough, in plane."""
    voxels, _ = to_slices(volume, volume.through_plane_axis)
    # Padding such as -3024 is no tissue: the networks see it as air.
    voxels = voxels.clip(*INTENSITY_RANGE).astype(np.int16)
    through = volume.spacing_along(volume.through_plane_axis)
    pixel = volume.pixel_spacing(volume.through_plane_axis)
    materials = [Material(voxels, through, pixel, in_plane=False)]
    if through / pixel <= _LARGEST_ANISOTROPY:
        rest = (through + pixel) / 2
        materials += [Material(voxels.swapaxes(0, axis), pixel, rest, in_plane=True) for axis in (1, 2)]
    return materials


class Sampler:
    """Draws blocks from scans. What a step sees depends on the seed and the step alone, so a run can be resumed.

    Args:
        scans: at least one scan that is large enough for a block.
        config: sizes, factors and shares.

    Raises:
        InputError: no scan can give a block.
    """

    def __init__(self, scans: Sequence[Volume], config: TrainingConfig):
        self.config = config
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
        """Blocks for level 0: a factor is drawn, and enough fine slices that thinning leaves a full block."""
        random = np.random.default_rng([self.config.seed, step, 0])
        factor = self._draw_factor(random)
        pool = self.in_plane if self.in_plane and random.random() < self.config.in_plane_share else self.along
        while not any(self._fits(material, factor) for material in pool):
            factor -= 1
        can_scale = any(self._fits(material, factor, factor) for material in pool)
        scale = factor if can_scale and self._happens(self.config.scaled_share, step, 4) else 1
        return self._draw(random, pool, factor, self.config.slices, scale)

    def rehearses(self, step: int) -> bool:
        """Whether a step is one of those that rehearse."""
        return self._happens(self.config.rehearsal_share, step, 2)

    def own_gaps(self, step: int) -> Blocks:
        """Blocks for rehearsal: the scan itself, and a factor by which to fill its gaps."""
        random = np.random.default_rng([self.config.seed, step, 3])
        blocks = self._draw(random, self.along, 1, self.config.slices)
        return replace(blocks, factor=self._draw_factor(random))

    def untouched(self, step: int) -> Blocks:
        """Blocks for level 1 and beyond: the scan itself, between whose slices nobody has looked."""
        random = np.random.default_rng([self.config.seed, step, 1])
        return self._draw(random, self.along, 1, max(_FEWEST_SLICES, self.config.slices // 2))

    def _happens(self, share: float, step: int, stream: int) -> bool:
        # By a stream of its own: what else a step draws does not depend on it.
        return np.random.default_rng([self.config.seed, step, stream]).random() < share

    def _draw_factor(self, random: np.random.Generator) -> int:
        shares = self.config.factor_shares
        return int(random.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))

    def _draw(
        self, random: np.random.Generator, pool: list[Material], factor: int, observed: int, scale: int = 1
    ) -> Blocks:
        pool = [material for material in pool if self._fits(material, factor, scale)]
        # Every voxel equally likely, up to a square root that keeps one long scan from drowning the others.
        shares = np.sqrt([material.voxels.size for material in pool])
        chosen = [pool[index] for index in random.choice(len(pool), self.config.batch, p=shares / shares.sum())]
        observed = min(observed, *(material.slices_when_thinned(factor) for material in chosen))
        depth = (observed - 1) * factor + 1
        blocks = np.stack([self._block(random, material, depth, scale) for material in chosen])
        ratios = [material.slice_spacing / (scale * material.pixel_spacing) for material in chosen]
        return Blocks(to_network_units(torch.from_numpy(blocks).float()), factor, torch.tensor(ratios))

    def _block(self, random: np.random.Generator, material: Material, depth: int, scale: int) -> np.ndarray:
        size = (depth, scale * self.config.pixels, scale * self.config.pixels)
        for _ in range(8):
            start = [random.integers(whole - part + 1) for whole, part in zip(material.voxels.shape, size, strict=True)]
            block = material.voxels[tuple(slice(first, first + part) for first, part in zip(start, size, strict=True))]
            if (block[:: max(1, depth // 4)] > _TISSUE_ABOVE_HU).mean() >= _SMALLEST_TISSUE_SHARE:
                break
        if random.random() < self.config.overlap_share:
            block = _overlapping(material.voxels, start, block.shape, random.uniform(*_OVERLAP_WEIGHTS))
        if scale > 1:
            block = _with_coarser_pixels(block, scale)
        for axis in range(3):
            if random.random() < 0.5:
                block = np.flip(block, axis)
        return block.swapaxes(1, 2) if random.random() < 0.5 else block


def _with_coarser_pixels(block: np.ndarray, scale: int) -> np.ndarray:
    """(slices, rows, columns) -> (slices, rows / scale, columns / scale), HU: squares of pixels become their mean."""
    slices, rows, columns = block.shape
    squares = block.reshape(slices, rows // scale, scale, columns // scale, scale)
    return squares.mean(axis=(2, 4), dtype=np.float32)


def _overlapping(voxels: np.ndarray, start: Sequence[int], shape: tuple[int, ...], weight: float) -> np.ndarray:
    """The block at `start`, each slice mixed with its two neighbours; the outermost slice is its own neighbour."""
    slices = np.arange(start[0] - 1, start[0] + shape[0] + 1).clip(0, len(voxels) - 1)
    rows, columns = (slice(first, first + size) for first, size in zip(start[1:], shape[1:], strict=True))
    wider = voxels[slices, rows, columns].astype(np.float32)
    return weight * (wider[:-2] + wider[2:]) + (1 - 2 * weight) * wider[1:-1]
