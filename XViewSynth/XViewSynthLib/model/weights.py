"""Reads the weights of a model with safetensors, and refuses weights that do not predict CT numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..errors import InputError
from ..geometry.slice_profile import SliceProfile
from ..request import Quality
from .network import ScanFacts, ThreeViewNetwork

# The header of the shipped models is 64 KB long.
_MAX_HEADER_BYTES = 1024**2
_TYPES = ("F16", "BF16", "F32", "F64")
#: Sizes that a specialist inherits from its network if its own are not given.
_INHERITED = ("axial_blocks", "pixel_blocks")
# The test scan: as few slices as the spline needs, from air to metal, so close that each factor has its own network.
# Squares of predictions below the limit are far from the end of single precision.
_TRIED_SHAPE, _TRIED_GAP_RATIO = (1, 4, 8, 8), 2.0
_LARGEST_PREDICTION = 1e6


def read_network(card: Mapping[str, Any], weights: bytes, place: Path) -> ThreeViewNetwork:
    """The network of a model, on the CPU, float32, in evaluation mode.

    Args:
        card: a valid one (`cards.card_fault`).
        weights: content of the safetensors file.
        place: of the model, for messages.

    Raises:
        InputError: the file is damaged, its layers are not those of the card, or its numbers are not finite.
    """
    try:
        layout = _layout(weights)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(place) from error
    if any(entry["dtype"] not in _TYPES for entry in layout.values()):
        raise InputError(f"The weights of the model in {place} are not floating-point numbers: use another model.")
    # Initialisation draws random numbers, which must not change the caller's sequence.
    with torch.random.fork_rng(devices=[]):
        try:
            network = _build(card["network"], {name: tuple(entry["shape"]) for name, entry in layout.items()})
        except (TypeError, ValueError, RuntimeError) as error:
            raise _misfit(place, error) from error
    try:
        network.load_state_dict(load(weights))
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(place) from error
    network = network.float().eval()
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise InputError(
            f"The weights of the model in {place} hold values that are not numbers, or are too large for single "
            "precision: use another model."
        )
    return network


def check_predictions(network: ThreeViewNetwork, factors: Sequence[int], place: Path) -> None:
    """Check a network by predicting a few voxels for each factor.

    Raises:
        InputError: a factor is untrained, the layers do not fit together, or the predictions are no CT numbers.
    """
    wide = torch.tensor([math.inf])
    for factor in sorted({*factors, *(network.network_factor(factor, wide) for factor in factors)}):
        for predicting in _networks(network, factor):
            if not _is_trained(predicting, factor):
                raise InputError(
                    f"The card of the model in {place} lists factor {factor}, for which its network was not trained: "
                    'take it out of "factors" on the card, or use another model.'
                )
            # "Not smaller" includes NaN.
            if not _largest_prediction(predicting, factor, place) < _LARGEST_PREDICTION:
                raise InputError(
                    f"The model in {place} predicts no CT numbers for factor {factor}, its weights are too large: use "
                    "another model."
                )


def trained_factors(network: ThreeViewNetwork, factors: Iterable[int]) -> list[int]:
    """Those of the factors for which a network is trained. For others it predicts the spline."""
    return sorted(factor for factor in factors if all(_is_trained(each, factor) for each in _networks(network, factor)))


def _networks(network: ThreeViewNetwork, factor: int) -> list[ThreeViewNetwork]:
    """The networks that predict for a factor, one for each quality that has its own."""
    qualities = (Quality.STANDARD, Quality.BEST) if str(factor) in network.best_specialists else (Quality.STANDARD,)
    return [network.at_quality(quality) for quality in qualities]


def _is_trained(network: ThreeViewNetwork, factor: int) -> bool:
    predicting = network.network_for(factor)
    # An untrained head is zero; see `layers._heads`.
    return any(
        tensor.any()
        for student in (predicting.axial, predicting.pixelwise)
        for tensor in student.heads[str(factor)].state_dict().values()
    )


def _largest_prediction(network: ThreeViewNetwork, factor: int, place: Path) -> float:
    """The largest magnitude of a network's predictions for noise, in network units; may be NaN."""
    noise = torch.rand(_TRIED_SHAPE, generator=torch.Generator().manual_seed(0)) * 4 - 1
    facts = ScanFacts(torch.tensor([_TRIED_GAP_RATIO]), SliceProfile() if network.thick else None)
    try:
        with torch.inference_mode():
            return max(float(slices.abs().max()) for slices in network.predict(noise, factor, facts))
    except (TypeError, ValueError, RuntimeError, LookupError) as error:
        raise _misfit(place, error) from error


def _layout(weights: bytes) -> dict[str, Any]:
    """The header of a safetensors file by the names of its tensors.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: it is damaged.
    """
    length = int.from_bytes(weights[:8], "little")
    if not 0 < length <= min(len(weights) - 8, _MAX_HEADER_BYTES):
        raise ValueError("no header")
    header = json.loads(weights[8 : 8 + length], object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("no names")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for entry in tensors.values():
        if not all(isinstance(size, int) for size in entry["shape"]) or not isinstance(entry["dtype"], str):
            raise ValueError("no tensor")
    return tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name is given twice")
    return entries


def _build(sizes: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> ThreeViewNetwork:
    """A network of the given sizes, whose tensors have these shapes.

    Raises:
        TypeError, ValueError, RuntimeError: there is no such network.
    """
    # Every block has several tensors: a card cannot keep the program busy with more than the file holds.
    if _block_count(sizes) > len(shapes):
        raise ValueError("the layers differ")
    # First without memory, so that a card cannot request more than its weights need.
    with torch.device("meta"):
        expected: dict[str, Tensor] = ThreeViewNetwork(**sizes).state_dict()
    if {name: tuple(tensor.shape) for name, tensor in expected.items()} != shapes:
        raise ValueError("the layers differ")
    return ThreeViewNetwork(**sizes)


def _block_count(sizes: Mapping[str, Any]) -> int:
    inherited = {name: sizes[name] for name in _INHERITED if name in sizes}
    specialists = [
        inherited | own for name in ("specialists", "best_specialists") for own in sizes.get(name, {}).values()
    ]
    return sum(number for each in (sizes, *specialists) for name, number in each.items() if name.endswith("_blocks"))


def _damaged(place: Path) -> InputError:
    return InputError(f"The weights of the model in {place} are damaged: copy or import the model again.")


def _misfit(place: Path, error: Exception) -> InputError:
    reason = str(error).partition("\n")[0]
    return InputError(f"The model in {place} does not fit this version of the program ({reason}): use another model.")
