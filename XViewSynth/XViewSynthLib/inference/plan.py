"""Plan of an enhancement: grid, networks, device, time and memory, computed and reported in advance."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ..errors import InputError
from ..geometry.acquisition import Acquisition, known_thickness, resolve_acquisition, resolve_overlap, resolve_profile
from ..geometry.checks import check_values, geometry_notes
from ..geometry.grid import Grid, settle_grid
from ..geometry.intensity import hu_offset, offset_note
from ..geometry.orientation import to_slices
from ..geometry.slice_profile import SliceProfile
from ..geometry.volume import Axis, Volume
from ..model.catalogue import Model
from ..model.ensemble import augmentations
from ..model.network import ScanFacts
from ..request import AUTOMATIC, PrecisionChoice, Quality, Request, Texture, make_request
from ..system.memory import address_space_left
from .hardware import free_bytes, process_bytes, resolve_device, resolve_precision
from .trial import is_accurate, seconds_per_voxel

_IN_WORDS = {"gap": "thin slices far apart", "thick": "thick slices"}
# Keys of reports that differ from the names of attributes.
_IN_REPORTS = {"network_factor": "asked_factor", "network_overlap": "asked_overlap"}
# Distance of slices in pixels if no scan is given, such as of slices 4 mm apart.
_USUAL_GAP = 5.0
# Measured at the network's widest point: live float32 feature maps of a tile, which have a quarter of its pixels, and
# live images for each predicted slice of a gap.
_LIVE_FEATURE_MAPS, _LIVE_IMAGES = 5, 14
# Memory that the C library holds in fragments that are too small for reuse.
_FRAGMENTS = 1.7
# A smaller tile does not save memory worth having; a larger one makes cancelling and the progress bar sluggish.
_SMALLEST_TILE = 2**14
_SHARE_OF_FREE = 0.8
_LARGEST_TILE = {"cpu": 2**18, "cuda": 2**23, "mps": 2**20}


@dataclass(frozen=True)
class Plan:
    """Parameters of an enhancement.

    Attributes:
        axis: the axis that gets more slices.
        factor: slices become `factor * (slices - 1) + 1`.
        network_factor: factor of the networks. If it differs from `factor`, their predictions are interpolated.
        resample_to: spacing in mm to resample to after the factor, or None if the factor suffices.
        output_shape: (K, J, I) of the result.
        output_spacing: (I, J, K) of the result, mm.
        acquisition: "gap" for thin slices far apart, "thick" for averages over their thickness.
        profile: of thick slices, else None.
        overlap: thickness of the new slices over their distance; 1 where they touch, less where they leave gaps.
        network_overlap: the same for the slices that the networks predict.
        device: device of the networks.
        precision: their floating-point format.
        quality: "standard", or "best" for test-time augmentation and larger networks if the model has some.
        texture: whether synthetic slices get the noise of observed ones.
        tile_voxels: observed voxels computed at once.
        expected_seconds: extrapolated from a small piece that was measured on this machine.
        expected_peak_bytes: of the whole process.
        offset: of the scan's numbers above HU; 0 for a scan in HU.
        notes: for the user, each a sentence.
    """

    axis: Axis
    factor: int
    network_factor: int
    resample_to: float | None
    output_shape: tuple[int, int, int]
    output_spacing: tuple[float, float, float]
    acquisition: str
    profile: SliceProfile | None
    overlap: float
    network_overlap: float
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
        values = asdict(self)
        # Reports have always had these names.
        return {_IN_REPORTS.get(name, name): value for name, value in values.items()}


def make_plan(volume: Volume, model: Model, request: Request | None = None, **options: Any) -> Plan:
    """Compute the parameters of an enhancement.

    Args:
        volume: the scan.
        model: the model, in place of the request's.
        request: target and settings.
        options: fields of `Request`, in place of the request's.

    Raises:
        InputError: the request is impossible, or the scan cannot be enhanced.
    """
    request = make_request(request, **options)
    plan = _drafted(volume, model, request)
    if request.precision == AUTOMATIC and plan.precision == "bf16" and not _is_accurate(plan, volume, model):
        return _drafted(volume, model, replace(request, precision=PrecisionChoice.FP32))
    return plan


def _is_accurate(plan: Plan, volume: Volume, model: Model) -> bool:
    """Whether the precision of a plan suffices for the scan."""
    scan, _ = to_slices(volume, plan.axis)
    facts, chosen = scan_facts(volume, plan), model.at_quality(plan.quality)
    return is_accurate(plan.precision, scan, plan.offset, chosen, plan.network_factor, facts)


def _drafted(volume: Volume, model: Model, request: Request) -> Plan:
    """As `make_plan`, with the usual precision of the device if the request leaves it open."""
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
    model = model.at_quality(request.quality)
    if resample_to is not None:
        notes.append(_resampling_note(resample_to, volume.spacing_along(chosen_axis), factor))
    network_factor = model.network.network_factor(factor, gap_ratio(volume, chosen_axis))
    overlap, network_overlap = (
        resolve_overlap(volume, chosen_axis, closer, acquisition, thickness, new_thickness)
        for closer in (factor, network_factor)
    )
    if new_thickness is not None and not model.network.network_for(network_factor).overlap:
        overlap = network_overlap = 1.0
        notes.append(f"The model {model.name} does not support a thickness of new slices: they touch.")
    where = resolve_device(request.device)
    arithmetic = resolve_precision(request.precision, where)
    # Before the memory is measured, since libraries allocate memory on their first use.
    passes = len(augmentations(request.quality))
    seconds = passes * _expected_seconds(volume, chosen_axis, network_factor, model, where, arithmetic)
    tile, peak = _fit_memory(volume, grid, network_factor, model, where, request)
    return Plan(
        axis=chosen_axis,
        factor=factor,
        network_factor=network_factor,
        resample_to=resample_to,
        output_shape=grid.shape,
        output_spacing=grid.spacing,
        acquisition=acquisition,
        profile=thick,
        overlap=overlap,
        network_overlap=network_overlap,
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


def _resampling_note(spacing: float, step: float, factor: int) -> str:
    return (
        f"The spacing of {spacing:g} mm is no whole fraction of {step:g} mm: slices are enhanced by {factor} and then "
        "resampled, so observed slices are not kept bit for bit."
    )


def scan_facts(volume: Volume, plan: Plan) -> ScanFacts:
    """Conditioning inputs of the networks for a scan."""
    return ScanFacts(gap_ratio(volume, plan.axis), plan.profile, overlap=torch.tensor([plan.network_overlap]))


def gap_ratio(volume: Volume, axis: Axis) -> torch.Tensor:
    """Distance of the slices over that of the pixels, (1,), as in `ScanFacts`."""
    return torch.tensor([volume.spacing_along(axis) / volume.pixel_spacing(axis)])


def usual_network_factor(model: Model, factor: int) -> int:
    """The factor of a model's networks for most scans (`Plan.network_factor`)."""
    return model.network.network_factor(factor, torch.tensor([_USUAL_GAP]))


def check_known_factor(model: Model, factor: int) -> None:
    """Refuse a factor that the model was not trained for.

    Raises:
        InputError: the model's card does not list it.
    """
    if factor not in model.card["factors"]:
        trained = ", ".join(str(each) for each in model.card["factors"])
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
    """Notes to the user on the acquisition, each a sentence."""
    thickness = known_thickness(volume, axis, thickness)
    distance = volume.spacing_along(axis)
    if profile is not None:
        width = profile.thickness * distance
        guess = "" if thickness is not None else ", a guess since the scan does not state it"
        return [
            f"Slices were taken as averages over {width:.3g} mm{guess}: the averages are kept, and all slices of the "
            "result are synthetic."
        ]
    if thickness is None:
        return [
            "The scan does not state its slice thickness; slices were taken as thin and far apart (gap). If they "
            'touch, the acquisition "thick" shows more detail.'
        ]
    if resolve_acquisition(volume, axis, thickness=thickness) == "thick":
        return [
            f"Slices were taken as thin and far apart (gap), but are {thickness:g} mm thick and {distance:g} mm apart: "
            'the acquisition "thick" shows more detail.'
        ]
    return []


def _fit_memory(
    volume: Volume, grid: Grid, network_factor: int, model: Model, device: torch.device, request: Request
) -> tuple[int, int]:
    """Tile size in observed voxels, and the expected peak of the process in bytes."""
    voxels, factor = volume.voxels.size, grid.factor
    enhanced, predicted = (math.prod(volume.upsampled_shape(grid.axis, each)) for each in (factor, network_factor))
    # Network units, the sum and the spread of the views, the disagreement, the expected error (all float32), and the
    # result. For thick slices also the errors of their averages.
    volumes = (8 if model.network.thick else 4) * voxels + 16 * max(predicted, enhanced)
    volumes += volume.voxels.itemsize * enhanced
    if len(augmentations(request.quality)) > 1:
        # The transformed scan, and the sums of predictions and variances.
        volumes += 4 * voxels + 8 * predicted
    fixed = process_bytes() + volumes
    per_voxel = _bytes_per_tile_voxel(model, network_factor)
    on_cpu = device.type == "cpu"
    least = fixed + (_SMALLEST_TILE * per_voxel if on_cpu else 0)
    allowed = _allowed_bytes(request.memory)
    if allowed < least:
        # Rounded up, so that this value suffices.
        needed = math.ceil(least / 1e8) / 10
        remedy = "use a smaller factor" if factor > 2 else "crop the scan"
        raise InputError(f"Allow more memory or {remedy}: enhancing by {factor} takes at least {needed:.1f} GB here.")
    room = allowed - fixed if on_cpu else int(_SHARE_OF_FREE * free_bytes(device))
    tile = int(min(max(room // per_voxel, _SMALLEST_TILE), _LARGEST_TILE[device.type]))
    return tile, fixed + (tile * per_voxel if on_cpu else 0)


def _allowed_bytes(memory: int | None) -> float:
    """Memory limit of the whole process on the CPU, in bytes."""
    if memory is None:
        return process_bytes() + int(_SHARE_OF_FREE * free_bytes(torch.device("cpu")))
    return min(memory, process_bytes() + address_space_left())


def _bytes_per_tile_voxel(model: Model, factor: int) -> int:
    network = model.network.network_for(factor)
    channels = network.axial.trunk.head.out_channels
    maps = _LIVE_IMAGES * (factor + 2 if network.thick else factor)
    if network.fusion is not None and network.fusion.trusts is not None:
        # Motion-compensated slices.
        maps += 4 * factor
    return int(_FRAGMENTS * (channels * _LIVE_FEATURE_MAPS + 4 * maps))


def _expected_seconds(
    volume: Volume, axis: Axis, factor: int, model: Model, device: torch.device, precision: str
) -> float:
    gaps = volume.slices(axis) - 1
    voxels = volume.voxels.size / volume.slices(axis) * gaps
    return seconds_per_voxel(model, factor, device, precision) * voxels
