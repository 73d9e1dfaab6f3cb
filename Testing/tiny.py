"""A model small enough for any test; its weights are random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.inference.enhancement import Enhanced, carry_out
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.inference.uncertainty import TERMS
from XViewSynthLib.model.catalogue import Model
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthLib.request import make_request

NETWORK = {"channels": 4, "axial_blocks": 1, "pixel_blocks": 1}

#: For `make_card(doubt=UNCERTAINTY)`: what a calibration may look like.
UNCERTAINTY = {
    "terms": list(TERMS),
    "factors": {
        str(factor): {
            "weights": [1.0, 0.1, 0.1],
            "scale_hu": [5.0, 50.0],
            "expected_error_hu": [4.0, 40.0],
            "error_bound_hu": [9.0, 100.0],
        }
        for factor in range(2, 9)
    },
}


def make_card(**changes: object) -> dict:
    """The card of a model named "small", for `save_model`."""
    return {
        "name": "small",
        "version": "1.0",
        "description": "A small network with random weights.",
        "modality": "CT",
        "intensity_range_hu": [-1024, 3071],
        "factors": [2, 3, 4, 5, 6, 7, 8],
        "acquisition": "gap",
        "network": NETWORK,
        "training_data": [{"name": "nothing", "license": "CC0-1.0"}],
        "measured_gains": {},
        "intended_use": "Tests.",
        "limitations": "Everything.",
        "license": "Apache-2.0",
        **changes,
    }


def make_network(seed: int = 0, **changes: object) -> ThreeViewNetwork:
    """Its students answer with more than the spline, which is all that an untrained one knows, and heed the gaps;
    its fusion, where it has one, with more than their mean."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ThreeViewNetwork(**NETWORK, **changes)
        for part in (network, *network.specialists.values(), *network.best_specialists.values()):
            for student in (part.axial, part.pixelwise):
                torch.nn.init.normal_(student.trunk.condition.weight, std=0.3)
                for head in student.heads.values():
                    torch.nn.init.normal_(head.weight, std=0.01)
            if part.fusion is not None:
                for head in part.fusion.heads.values():
                    torch.nn.init.normal_(head.weight, std=0.03)
        return network


def make_spline_network(**sizes: object) -> ThreeViewNetwork:
    """A network that has learned next to nothing, and so answers with the spline."""
    network = ThreeViewNetwork(**sizes)
    for part in (network, *network.specialists.values(), *network.best_specialists.values()):
        for head in part.axial.heads.values():
            torch.nn.init.constant_(head.bias, 1e-12)
    return network


def cramped(model: Model) -> Model:
    """The same model where more than two gaps at once are too many for the memory of its fusion."""

    class Cramped(ThreeViewNetwork):
        def correction(self, observed, residuals, factor, facts, gaps=slice(None)):
            if gaps.stop is not None and gaps.stop - gaps.start > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().correction(observed, residuals, factor, facts, gaps)

    network = Cramped(**model.card["network"]).eval()
    network.load_state_dict(model.network.state_dict())
    return replace(model, network=network)


def enhance_with_views(scan: Volume, factor: int | None = None, *, model: Model, **options: Any) -> Enhanced:
    """The enhanced scan, and what each view predicts."""
    plan = make_plan(scan, model, make_request(None, factor, **options))
    return carry_out(plan, scan, model, keep_views=True)
