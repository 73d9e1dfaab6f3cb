"""Cards of trained models."""

from __future__ import annotations

from collections.abc import Sequence

from XViewSynthLib.geometry.constants import INTENSITY_RANGE
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.model.catalogue import Model
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthLib.model.weights import trained_factors

from .config import GAP, THICK, TrainingConfig

_USES = {
    GAP: "thin slices between observed CT slices that are thin and far apart",
    THICK: "thin slices from observed CT slices that are averages over their thickness",
}


def learned_factors(network: ThreeViewNetwork, config: TrainingConfig) -> list[int]:
    """The factors for a card: those that were drawn so far. Short runs do not draw rare ones."""
    return trained_factors(network, config.factor_shares) or sorted(config.factor_shares)


def make_card(name: str, config: TrainingConfig, training_data: list[dict], began_with: Model | None = None) -> dict:
    """The card of a model trained here, for `save_model`, without gains."""
    inherited = began_with.card["training_data"] if began_with is not None else []
    levels = 0 if config.cross_view_from >= 1 else 1 if config.incremental_from >= 1 else 1 + config.increments
    return {
        "name": name,
        "version": "1.0.0",
        "description": f"Three views, {config.steps} steps, distillation up to level {levels}.",
        "modality": "CT",
        "intensity_range_hu": list(INTENSITY_RANGE),
        "factors": sorted(config.factor_shares),
        "acquisition": config.acquisition,
        "network": config.network,
        "training_data": inherited + training_data,
        "training": config.to_dict() | {"started_from": began_with.sha256 if began_with is not None else None},
        "measured_gains": {},
        "intended_use": f"Research and viewing: {_USES[config.acquisition]}.",
        "limitations": "Synthetic slices are a prediction and not a diagnosis; the gain on a scan unlike those it was "
        "trained on is unknown until it is checked on that scan.",
        "license": "Private: the weights may carry the conditions of the scans they were trained on.",
    }


def training_data(volumes: Sequence[Volume]) -> list[dict]:
    """Training scans for a card, as numbers only: file names and headers may name patients."""
    described = []
    for index, volume in enumerate(volumes, start=1):
        axis = volume.through_plane_axis
        spacing = volume.spacing_along(axis)
        entry = {"name": f"scan {index}", "license": "the user's own", "slices": volume.slices(axis)}
        described.append(entry | {"slice_spacing_mm": round(spacing, 3)})
    return described
