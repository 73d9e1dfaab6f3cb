"""Trials of a model on a small piece: its speed on this machine, and the accuracy of bfloat16."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ..geometry.slice_profile import SliceProfile
from ..model.catalogue import Model
from ..model.network import ScanFacts
from ..model.spline import in_network_units, to_hu
from .hardware import PRECISIONS

# Slices of a piece, and its side in pixels: for the speed, and for the accuracy.
_SLICES, _PIXELS, _ACCURACY_PIXELS = 6, 64, 96
# Mean change in HU that reduced precision may cause.
_LARGEST_CHANGE = 0.1


@contextmanager
def inference(device: torch.device, precision: str) -> Iterator[None]:
    """Compute without gradients, in a precision of `PRECISIONS`."""
    reduced = precision != "fp32"
    with (
        torch.inference_mode(),
        torch.autocast(device.type, PRECISIONS[precision] if reduced else None, enabled=reduced),
    ):
        yield


def seconds_per_voxel(model: Model, factor: int, device: torch.device, precision: str) -> float:
    """Seconds of one pass for each observed voxel (of all slices but the last), measured with a small piece.

    Args:
        model: the model.
        factor: one the model was trained for.
        device, precision: as `hardware` resolves them.
    """
    model.network.placed_on(device)
    piece = torch.zeros(1, _SLICES, _PIXELS, _PIXELS, device=device)
    facts = ScanFacts(torch.ones(1, device=device), SliceProfile() if model.network.thick else None)
    for _ in range(2):  # the first pass includes the selection of kernels
        start = time.perf_counter()
        _fused(model, piece, factor, facts, precision).sum().item()
        seconds = time.perf_counter() - start
    return seconds / (_PIXELS**2 * (_SLICES - 1))


def is_accurate(precision: str, scan: np.ndarray, offset: float, model: Model, factor: int, facts: ScanFacts) -> bool:
    """Whether a reduced precision changes the result by 0.1 HU or less on average, in the middle of a scan.

    Computed on the CPU.

    Args:
        precision: one of `PRECISIONS`.
        scan: (slices, rows, columns) in HU plus `offset`.
        offset: of the scan's numbers above HU.
        model: the model, at the requested quality.
        factor: of the networks.
        facts: of the scan.
    """
    middle = tuple(
        slice((size - min(size, most)) // 2, (size + min(size, most)) // 2)
        for size, most in zip(scan.shape, (_SLICES, _ACCURACY_PIXELS, _ACCURACY_PIXELS), strict=True)
    )
    piece = in_network_units(scan[middle], offset)[None]
    model.network.placed_on(piece.device)
    fused = (_fused(model, piece, factor, facts, each) for each in (precision, "fp32"))
    reduced, full = (model.network.complete(piece, synthetic) for synthetic in fused)
    return bool(to_hu(reduced - full).abs().mean() <= _LARGEST_CHANGE)


def _fused(model: Model, piece: Tensor, factor: int, facts: ScanFacts, precision: str) -> Tensor:
    """The fused prediction for (1, slices, rows, columns) in network units."""
    with inference(piece.device, precision):
        return model.network.fuse(piece, model.network(piece, factor, facts), factor, facts)
