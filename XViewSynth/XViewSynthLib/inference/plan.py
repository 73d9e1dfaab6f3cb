"""What will be done to a scan, settled and told before anything is done."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..errors import InputError
from ..geometry.acquisition import (
    Acquisition,
    known_thickness,
    resolve_acquisition,
    resolve_overlap,
    resolve_profile,
)
from ..geometry.checks import check_values, geometry_notes
from ..geometry.grid import settle_grid
from ..geometry.intensity import hu_offset, offset_note
from ..geometry.slice_profile import SliceProfile
from ..geometry.volume import Axis, Volume
from ..model.catalogue import Model
from ..model.ensemble import poses
from ..model.network import ScanFacts
from ..request import Quality, Request, Texture, make_request
from ..system.memory import address_space_left
from .hardware import PRECISIONS, free_bytes, process_bytes, resolve_device, resolve_precision

_IN_WORDS = {"gap": "thin slices far apart", "thick": "thick slices"}
# Distance of slices in pixels, where no scan is known: such as of slices 4 mm apart.
_USUAL_GAP = 5.0
# Measured at the network's widest point: live float32 feature maps of a tile, which have a quarter of its pixels, and
# live images for each slice that a gap is answered with.
_LIVE_FEATURE_MAPS, _LIVE_IMAGES = 5, 14
# What the C library holds beside, in pieces that do not fit what comes next.
_FRAGMENTS = 1.7
# A smaller tile does not save memory worth having; a larger one makes cancelling and the progress bar sluggish.
_SMALLEST_TILE = 2**14
_SHARE_OF_FREE = 0.8
_LARGEST_TILE = {"cpu": 2**18, "cuda": 2**23, "mps": 2**20}


@dataclass(frozen=True)
class Plan:
    """What enhancing a scan will do.

    Attributes:
        axis: the axis that gets more slices.
        factor: slices become `factor * (slices - 1) + 1`.
        asked_factor: what the networks are asked for, `factor` or another one, from whose slices those are read off.
        resample_to: spacing in mm that is reached by resampling after the factor, or None when the factor suffices.
        output_shape: (K, J, I) of the result.
        output_spacing: (I, J, K) of the result, mm.
        acquisition: "gap": slices are thin and far apart; "thick": they are averages over their thickness.
        profile: of thick slices, else None.
        overlap: thickness of the new slices over their distance; 1 where they touch, less where they leave gaps.
        asked_overlap: the same of the slices that the networks are asked for.
        device: where the students compute.
        precision: their arithmetic.
        quality: "standard", or "best" for the mean of several passes, over the scan, its mirror image and both turned,
            by larger networks where the model has some.
        texture: whether synthetic slices get the noise of observed ones.
        tile_voxels: observed voxels computed at once.
        expected_seconds: measured on this machine with a small piece, extrapolated.
        expected_peak_bytes: of the whole process.
        offset: by how much the numbers of the scan lie above HU; 0 for a scan in HU.
        notes: what the user should know, each a sentence.
    """

    axis: Axis
    factor: int
    asked_factor: int
    resample_to: float | None
    output_shape: tuple[int, int, int]
    output_spacing: tuple[float, float, float]
    acquisition: str
    profile: SliceProfile | None
    overlap: float
    asked_overlap: float
    device: str
    precision: str
    quality: Quality
    texture: Texture
    tile_voxels: int
    expected_seconds: float
    expected_peak_bytes: int
    offset: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict:
        """Plain values that JSON can hold."""
        return asdict(self)


def make_plan(volume: Volume, model: Model, request: Request | None = None, **options: Any) -> Plan:
    """Decide what to do.

    Args:
        volume: the scan.
        model: what predicts the new slices, in place of the request's.
        request: what to reach and how.
        options: fields of `Request`, in place of the request's.

    Raises:
        InputError: the request cannot be met, or the scan cannot be enhanced.
    """
    request = make_request(request, **options)
    thickness, new_thickness = request.thickness, request.new_thickness
    grid = settle_grid(volume, axis=request.axis, **request.target)
    chosen_axis, factor, resample_to = grid.axis, grid.factor, grid.resample_to
    acquisition = check_acquisition(model, request.acquisition)
    thick = resolve_profile(volume, chosen_axis, thickness, request.profile) if acquisition == "thick" else None
    check_values(volume.voxels)
    offset = hu_offset(volume.voxels)
    notes = [*volume.notes, *geometry_notes(volume), *([offset_note(offset)] if offset else [])]
    notes += _acquisition_notes(volume, chosen_axis, acquisition, thick, thickness)
    check_known_factor(model, factor)
    passes = len(poses(request.quality))
    model = model.at_quality(request.quality)
    if resample_to is not None:
        step = volume.spacing_along(chosen_axis)
        notes.append(
            f"The spacing of {resample_to:g} mm is no whole fraction of {step:g} mm: slices are "
            f"enhanced by {factor} and then resampled, so observed slices do not come out bit for bit."
        )
    asked = model.network.asked(factor, gap_ratio(volume, chosen_axis))
    overlap, asked_overlap = (
        resolve_overlap(volume, chosen_axis, closer, acquisition, thickness, new_thickness)
        for closer in (factor, asked)
    )
    if new_thickness is not None and not model.network.answering(asked).overlap:
        overlap = asked_overlap = 1.0
        notes.append(f"The model {model.name} cannot be told how thick new slices are to be: they touch.")
    where = resolve_device(request.device)
    arithmetic = resolve_precision(request.precision, where)
    # First, as libraries need memory of their own from their first use on.
    seconds = passes * _expected_seconds(volume, chosen_axis, asked, model, where, arithmetic)
    tile, peak = _fit_memory(volume, chosen_axis, factor, asked, model, where, request.memory, passes)
    return Plan(
        axis=chosen_axis,
        factor=factor,
        asked_factor=asked,
        resample_to=resample_to,
        output_shape=grid.shape,
        output_spacing=grid.spacing,
        acquisition=acquisition,
        profile=thick,
        overlap=overlap,
        asked_overlap=asked_overlap,
        device=str(where),
        precision=arithmetic,
        quality=request.quality,
        texture=request.texture,
        tile_voxels=tile,
        expected_seconds=seconds,
        expected_peak_bytes=peak,
        offset=offset,
        notes=tuple(notes),
    )


def gap_ratio(volume: Volume, axis: Axis) -> torch.Tensor:
    """Distance of the slices over that of the pixels, (1,), as `ScanFacts` has it."""
    return torch.tensor([volume.spacing_along(axis) / volume.pixel_spacing(axis)])


def usually_asked(model: Model, factor: int) -> int:
    """The factor that a model is asked for in most scans (`Plan.asked_factor`)."""
    return model.network.asked(factor, torch.tensor([_USUAL_GAP]))


def check_known_factor(model: Model, factor: int) -> None:
    """Refuse a factor that the model was not trained for.

    Raises:
        InputError: it was not.
    """
    if factor not in model.card["factors"]:
        trained = ", ".join(str(known) for known in model.card["factors"])
        raise InputError(f"Choose another model: {model.name} was trained for factors {trained}, not {factor}.")


def check_acquisition(model: Model, requested: str = "auto") -> Acquisition:
    """The acquisition that a model was trained for.

    Raises:
        InputError: another one is requested.
    """
    trained = model.card["acquisition"]
    if requested not in ("auto", trained):
        raise InputError(
            f"Choose another model: {model.name} was trained for {_IN_WORDS[trained]} ({trained}), not for "
            f"{_IN_WORDS[requested]} ({requested})."
        )
    return trained


def _acquisition_notes(
    volume: Volume, axis: Axis, acquisition: Acquisition, profile: SliceProfile | None, thickness: float | None
) -> list[str]:
    """What the user should know of how the slices were taken, each a sentence."""
    thickness = known_thickness(volume, axis, thickness)
    distance = volume.spacing_along(axis)
    if profile is not None:
        width = profile.thickness * distance
        known = "" if thickness is not None else ", which is a guess as the scan does not tell"
        return [
            f"Slices were taken as averages over {width:.3g} mm{known}: they are met on average, and all slices of the "
            "result are synthetic."
        ]
    if thickness is None:
        return [
            "The scan does not tell how thick its slices are; they were taken as thin and far apart (gap). If they "
            'touch, the acquisition "thick" shows more detail.'
        ]
    if resolve_acquisition(volume, axis, thickness=thickness) == "thick":
        return [
            f"Slices were taken as thin and far apart (gap), but are {thickness:g} mm thick and {distance:g} mm apart: "
            'the acquisition "thick" shows more detail.'
        ]
    return []


def seconds_per_voxel(model: Model, factor: int, device: torch.device, precision: str) -> float:
    """Seconds that one pass of enhancing takes here for each observed voxel below which slices are missing.

    Measured with one small piece, computed on the device that will do the work. All slices but the last count.

    Args:
        model: what predicts the new slices.
        factor: one the model was trained for.
        device, precision: as `hardware` resolves them.
    """
    slices, pixels = 6, 64
    network = model.network.placed_on(device)
    piece = torch.zeros(1, slices, pixels, pixels, device=device)
    facts = ScanFacts(torch.ones(1, device=device), SliceProfile() if model.network.thick else None)
    with torch.inference_mode(), torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32"):
        for _ in range(2):  # the first pass pays for choosing kernels
            start = time.perf_counter()
            views = network(piece, factor, facts)
            network.fuse(piece, views, factor, facts).sum().item()
            seconds = time.perf_counter() - start
    return seconds / (pixels * pixels * (slices - 1))


def _fit_memory(
    volume: Volume,
    axis: Axis,
    factor: int,
    asked: int,
    model: Model,
    device: torch.device,
    memory: int | None,
    passes: int,
) -> tuple[int, int]:
    """Tile size in observed voxels, and the expected peak of the process in bytes."""
    voxels = volume.voxels.size
    enhanced, answered = (math.prod(volume.upsampled_shape(axis, each)) for each in (factor, asked))
    # Network units, the sum and the spread of the views, the disagreement, the expected error (all float32), and the
    # result. Of thick slices also how far their averages are missed.
    volumes = (8 if model.network.thick else 4) * voxels + 16 * max(answered, enhanced)
    volumes += volume.voxels.itemsize * enhanced
    if passes > 1:
        # The scan in another pose, and the answer and the spread that passes add up to.
        volumes += 4 * voxels + 8 * answered
    fixed = process_bytes() + volumes
    per_voxel = _bytes_per_tile_voxel(model, asked)
    on_cpu = device.type == "cpu"
    least = fixed + (_SMALLEST_TILE * per_voxel if on_cpu else 0)
    allowed = _allowed_bytes(memory)
    if allowed < least:
        # Rounded up, so that it is enough.
        needed = math.ceil(least / 1e8) / 10
        remedy = "use a smaller factor" if factor > 2 else "crop the scan"
        raise InputError(f"Allow more memory or {remedy}: enhancing by {factor} takes at least {needed:.1f} GB here.")
    room = allowed - fixed if on_cpu else int(_SHARE_OF_FREE * free_bytes(device))
    tile = int(min(max(room // per_voxel, _SMALLEST_TILE), _LARGEST_TILE[device.type]))
    return tile, fixed + (tile * per_voxel if on_cpu else 0)


def _allowed_bytes(memory: int | None) -> float:
    """What the whole process may take on the CPU's side."""
    if memory is None:
        return process_bytes() + int(_SHARE_OF_FREE * free_bytes(torch.device("cpu")))
    return min(memory, process_bytes() + address_space_left())


def _bytes_per_tile_voxel(model: Model, factor: int) -> int:
    network = model.network.answering(factor)
    channels = network.axial.trunk.head.out_channels
    maps = _LIVE_IMAGES * (factor + 2 if network.thick else factor)
    if network.fusion is not None and network.fusion.trusts is not None:
        # What moved slices show.
        maps += 4 * factor
    return int(_FRAGMENTS * (channels * _LIVE_FEATURE_MAPS + 4 * maps))


def _expected_seconds(
    volume: Volume, axis: Axis, factor: int, model: Model, device: torch.device, precision: str
) -> float:
    gaps = volume.slices(axis) - 1
    voxels = volume.voxels.size / volume.slices(axis) * gaps
    return seconds_per_voxel(model, factor, device, precision) * voxels
