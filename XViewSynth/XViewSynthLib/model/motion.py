"""How structures move in plane from one observed slice to the next, and what they look like on the way.

A vessel or a rib that runs obliquely lies elsewhere in the next slice, by more than its width where slices are far
apart. What is half here and half there in every interpolation along the slices becomes one thing again where both
slices are moved halfway first (Penney et al., "Registration-based interpolation", IEEE TMI 2004). The displacement is
that of Lucas and Kanade ("An iterative image registration technique with an application to stereo vision", IJCAI
1981), from coarse to fine, symmetric: both slices move by half of it.

Nothing here is trained. `registration.py` does the same with a maintained library, to compare with; this is twenty
times as fast and runs where the networks do.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .spline import full_precision

# Chosen on the training scans, thinned by 4. All lengths are in pixels of a level.
#: What is aligned, in network units: between air and contrast, bone would outweigh all else.
_ALIGNED_UNITS = (-1.0, 0.4)
#: From coarse to fine: so many pixels are one, and so many steps. Full resolution takes three times as long and gains
#: nothing.
_LEVELS = ((4, 3), (2, 2))
#: Gaussian within which everything is taken to move alike, and the one that smooths what was found.
_WINDOW_SIGMA, _FIELD_SIGMA = 2.0, 2.0
#: What a gradient has to stand out from, squared; and the longest step.
_NOISE, _LONGEST_STEP = 1e-3, 1.0


@torch.no_grad()
def displacement(below: Tensor, above: Tensor) -> Tensor:
    """How far structures move from one slice to the next.

    Args:
        below, above: (pairs, rows, columns) in network units.

    Returns:
        (pairs, 2, rows, columns) d in pixels, along columns and along rows: `below` at x - d / 2 looks like `above` at
        x + d / 2.
    """
    rows, columns = below.shape[1:]
    coarsest = _LEVELS[0][0]
    padding = (0, -columns % coarsest, 0, -rows % coarsest)
    # Gradients are small differences, of which bfloat16 leaves little.
    with full_precision(below.device):
        pair = torch.stack([below, above], dim=1).float().clamp(*_ALIGNED_UNITS)
        pair = functional.pad(pair, padding, mode="replicate")
        field = pair.new_zeros(len(pair), 2, 1, 1)
        for pixels, steps in _LEVELS:
            first, second = functional.avg_pool2d(pair, pixels).split(1, dim=1)
            field = _enlarged(field, first) / pixels
            for _ in range(steps):
                field = _gaussian(field + _step(first, second, field), _FIELD_SIGMA)
            field = field * pixels
        return _enlarged(field, pair)[:, :, :rows, :columns]


@torch.no_grad()
def on_the_way(below: Tensor, above: Tensor, factor: int) -> Tensor:
    """What displaced neighbours say of the slices between them.

    Args:
        below, above: (pairs, rows, columns) in network units.
        factor: up-sampling factor s.

    Returns:
        (pairs, 2 (s - 1) + 2, rows, columns) float32: for each position in the gap what moving both slices there adds
        to fading from one to the other; for each how much the moved ones still differ; and their displacement.
    """
    with full_precision(below.device):
        below, above = below.float(), above.float()
        field = displacement(below, above)
        added, differing = [], []
        for step in range(1, factor):
            position = step / factor
            first, second = _moved(below[:, None], -position * field), _moved(above[:, None], (1 - position) * field)
            mixed = torch.lerp(first, second, position)
            added.append(mixed - torch.lerp(below, above, position)[:, None])
            differing.append(second - first)
        return torch.cat([*added, *differing, field], dim=1)


def _step(below: Tensor, above: Tensor, field: Tensor) -> Tensor:
    """Correction of the displacement field from the image gradient."""
    below, above = _moved(below, -field / 2), _moved(above, field / 2)
    slope, difference = _gradient((below + above) / 2), above - below
    across, down = slope.split(1, dim=1)
    products = torch.cat([slope * slope, across * down, slope * difference], dim=1)
    xx, yy, xy, xd, yd = _gaussian(products, _WINDOW_SIGMA).split(1, dim=1)
    xx, yy = xx + _NOISE, yy + _NOISE
    step = torch.cat([xy * yd - yy * xd, xy * xd - xx * yd], dim=1) / (xx * yy - xy * xy)
    return step.clamp(-_LONGEST_STEP, _LONGEST_STEP)


def _moved(images: Tensor, field: Tensor) -> Tensor:
    """(pairs, 1, rows, columns) at x + field; beyond the border, that of the border."""
    rows, columns = images.shape[2:]
    across = torch.arange(columns, device=images.device) + field[:, 0]
    down = torch.arange(rows, device=images.device)[:, None] + field[:, 1]
    # Apple's GPUs have no `padding_mode="border"`. From pixels to the -1 to 1 of `grid_sample`:
    places = torch.stack(
        [(across.clamp(0, columns - 1) + 0.5) * (2 / columns) - 1, (down.clamp(0, rows - 1) + 0.5) * (2 / rows) - 1],
        dim=-1,
    )
    return functional.grid_sample(images, places, align_corners=False)


def _gradient(images: Tensor) -> Tensor:
    """(pairs, 1, rows, columns) -> (pairs, 2, rows, columns): slope along columns and along rows, per pixel."""
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    return torch.cat([across, down], dim=1) / 2


def _gaussian(images: Tensor, sigma: float) -> Tensor:
    """Smooth every channel of (pairs, channels, rows, columns)."""
    reach = round(2.5 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    alone = images.flatten(0, 1)[:, None]
    alone = functional.conv2d(functional.pad(alone, (reach, reach, 0, 0), mode="replicate"), kernel[None, None, None])
    alone = functional.conv2d(
        functional.pad(alone, (0, 0, reach, reach), mode="replicate"), kernel[None, None, :, None]
    )
    return alone.view(images.shape)


def _enlarged(field: Tensor, images: Tensor) -> Tensor:
    """The field with as many rows and columns as the images have."""
    return functional.interpolate(field, size=images.shape[2:], mode="bilinear", align_corners=False)
