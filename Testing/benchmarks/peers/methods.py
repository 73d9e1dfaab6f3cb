"""What is trained beside our own network: each method's network, loss, way to restore a scan, and file.

Every method learns one factor, from the blocks of one `XViewSynthTrainLib.sampling.Sampler`.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.constants import PADDING_BELOW
from XViewSynthLib.geometry.orientation import to_slices
from XViewSynthLib.geometry.volume import Axis, Volume
from XViewSynthLib.model.catalogue import save_model
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthLib.model.spline import interleave, to_hu, to_network_units
from XViewSynthLib.system.outputs import Outputs
from XViewSynthTrainLib.cards import make_card
from XViewSynthTrainLib.config import NETWORK, TrainingConfig
from XViewSynthTrainLib.distillation import training_terms
from XViewSynthTrainLib.losses import selective_distillation, wavelet_loss
from XViewSynthTrainLib.sampling import Blocks, Sampler

from .networks import FourSliceNetwork, PaperNetwork

WEIGHTS_FILE = "peer.safetensors"
_PLANES_AT_ONCE = 16


class Method(ABC):
    """A network on its way from scans to an answer.

    Args:
        factor: up-sampling factor s.
        size: one of `SIZES`.

    Raises:
        InputError: there is no such size.
    """

    NAME: str
    SIZES: ClassVar[dict[str, dict[str, int]]]
    LEARNING_RATE: float

    def __init__(self, factor: int, size: str = "small"):
        if size not in self.SIZES:
            raise InputError(f"{self.NAME} has no size {size!r}: choose {', '.join(self.SIZES)}.")
        self.factor, self.size = factor, size
        self.network = self._make_network()

    @abstractmethod
    def _make_network(self) -> nn.Module: ...

    @abstractmethod
    def terms(self, sampler: Sampler, step: int, done: float, device: torch.device) -> dict[str, Tensor]:
        """The weighted terms of the loss of one step; `done` is how much of the training is behind it, 0 to 1."""

    @abstractmethod
    def between(self, observed: Tensor) -> Tensor:
        """(slices, rows, columns) -> (slices - 1, s - 1, rows, columns), network units; a part at a time."""

    @property
    def parameters(self) -> int:
        """How many numbers are learned."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def save(self, folder: Path, network: nn.Module, facts: dict[str, Any]) -> Path:
        """Write a network of this method, whole or not at all, and give the file's place."""
        path = Path(folder) / WEIGHTS_FILE
        about = {"method": self.NAME, "size": self.size, "factor": self.factor, **facts}
        tensors = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
        with Outputs(overwrite=True) as outputs:
            save_file(tensors, outputs.add(path), {"about": json.dumps(about)})
            outputs.commit()
        return path

    def _blocks(self, sampler: Sampler, step: int, device: torch.device) -> Blocks:
        blocks = sampler.thinned(step)
        if blocks.factor != self.factor:
            raise InputError(
                f"Give scans with thinner or more slices: not all of these can be thinned by {self.factor}."
            )
        return blocks.to(device)


class Paper(Method):
    """The configuration of the paper; all three levels from the first step on, as in the authors' code."""

    NAME = "paper"
    SIZES: ClassVar = {
        "small": {
            "axial_channels": 96, "axial_groups": 3, "axial_blocks": 4,
            "pixel_channels": 24, "pixel_groups": 2, "pixel_blocks": 2,
        },
        "full": {
            "axial_channels": 216, "axial_groups": 5, "axial_blocks": 12,
            "pixel_channels": 64, "pixel_groups": 3, "pixel_blocks": 3,
        },
    }  # fmt: skip
    LEARNING_RATE = 2e-3
    DISTILLATION, WAVELET, GAMMA = 0.15, 0.1, 0.25
    #: The paper's intensities are (HU + 1024) / 4096, network units HU / 1024.
    _UNITS = 4.0

    def _make_network(self) -> PaperNetwork:
        return PaperNetwork(self.factor, **self.SIZES[self.size])

    def terms(self, sampler: Sampler, step: int, done: float, device: torch.device) -> dict[str, Tensor]:
        """Level 0 with the truth; levels 1 and 2 by agreement, on slices that nobody has seen."""
        blocks = self._blocks(sampler, step, device)
        views, truth = self.network(blocks.observed) / self._UNITS, blocks.truth / self._UNITS
        terms = {
            "views": sum((view - truth).abs().mean() for view in views),
            "wavelet": self.WAVELET * sum(wavelet_loss(view, truth) for view in views),
        }
        observed = sampler.untouched(step).slices.to(device)
        for level in (1, 2):
            views = self.network(observed)
            axial, coronal, sagittal = views / self._UNITS
            terms[f"distillation_{level}"] = self.DISTILLATION * (
                selective_distillation(axial, coronal, self.GAMMA) + selective_distillation(axial, sagittal, self.GAMMA)
            )
            # Of the finer answer as many slices as went in: whole, level 2 would take most of the time.
            observed = interleave(observed, views.mean(dim=0).detach())[:, : observed.shape[1]]
        return terms

    def between(self, observed: Tensor) -> Tensor:
        """The mean of the three views."""
        network, total = self.network, None
        for view in (_by_gaps, _by_rows, _by_columns):
            answer = view(network, observed)
            total = answer if total is None else total.add_(answer)
        return total / 3


class FourSlice(Method):
    """One slice-wise network after I3Net, supervised by slices that were dropped."""

    NAME = "four-slice"
    SIZES: ClassVar = {"small": {"channels": 64, "blocks": 6}, "full": {"channels": 256, "blocks": 17}}
    LEARNING_RATE = 5e-4

    def _make_network(self) -> FourSliceNetwork:
        return FourSliceNetwork(self.factor, **self.SIZES[self.size])

    def terms(self, sampler: Sampler, step: int, done: float, device: torch.device) -> dict[str, Tensor]:
        """Mean absolute error."""
        blocks = self._blocks(sampler, step, device)
        return {"restoration": (self.network(blocks.observed) - blocks.truth).abs().mean()}

    def between(self, observed: Tensor) -> Tensor:
        """Gap by gap."""
        gaps = range(len(observed) - 1)
        return torch.cat([self.network(observed[None], slice(gap, gap + 1))[0] for gap in gaps])


class Ours(Method):
    """Our own three views from random weights, with the loss of `XViewSynthTrainLib`."""

    NAME = "ours"
    SIZES: ClassVar = {"small": dict(NETWORK)}
    LEARNING_RATE = TrainingConfig().learning_rate

    def _make_network(self) -> ThreeViewNetwork:
        return ThreeViewNetwork(**self.SIZES[self.size])

    def terms(self, sampler: Sampler, step: int, done: float, device: torch.device) -> dict[str, Tensor]:
        """The levels join in where `TrainingConfig` says."""
        config = sampler.config
        untouched = sampler.untouched(step).to(device) if done >= config.cross_view_from else None
        increments = config.increments if done >= config.incremental_from else 0
        return training_terms(self.network, self._blocks(sampler, step, device), untouched, config, increments)

    def between(self, observed: Tensor) -> Tensor:
        """Not here: `xviewsynth enhance` and `xviewsynth bench --model` do it."""
        raise InputError("Measure our own network with xviewsynth bench --model FOLDER.")

    def save(self, folder: Path, network: nn.Module, facts: dict[str, Any]) -> Path:
        """Write a model folder."""
        config = TrainingConfig(factor_shares={self.factor: 1.0}, network=self.SIZES[self.size])
        card = {**make_card(Path(folder).name, config, []), "training": facts}
        return save_model(folder, network.eval(), card).folder


METHODS: dict[str, type[Method]] = {method.NAME: method for method in (Paper, FourSlice, Ours)}


def load_method(folder: str | os.PathLike[str]) -> Method:
    """The method whose weights a folder holds, ready to restore.

    Raises:
        InputError: no such file, or not of a method that is known here.
    """
    path = Path(folder) / WEIGHTS_FILE
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        method = METHODS[about["method"]](about["factor"], about["size"])
        method.network.load_state_dict(tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} cannot be used: name a folder that train_peer.py has written ({error}).") from error
    method.network.eval()
    return method


@torch.inference_mode()
def restore(method: Method, scan: Volume, axis: Axis, device: str = "cpu") -> Volume:
    """A scan with s times the slices; observed ones as they are, a voxel between two padded ones padded.

    Raises:
        InputError: a method that is measured in another way.
    """
    slices, order = to_slices(scan, axis)
    observed = to_network_units(torch.from_numpy(np.array(slices, np.float32, order="C")))
    method.network.to(device)
    between = to_hu(method.between(observed.to(device))).cpu().numpy()
    restored = np.empty((method.factor * (len(slices) - 1) + 1, *slices.shape[1:]), scan.voxels.dtype)
    restored[:: method.factor] = slices
    for gap, answers in enumerate(between):
        padded = (slices[gap] < PADDING_BELOW) & (slices[gap + 1] < PADDING_BELOW)
        answers = np.rint(answers) if restored.dtype.kind in "iu" else answers
        restored[gap * method.factor + 1 : (gap + 1) * method.factor] = np.where(padded, slices[gap], answers)
    return Volume(order.restore(restored), scan.upsampled_affine(axis, method.factor), scan.slice_thickness)


def _by_gaps(network: PaperNetwork, observed: Tensor) -> Tensor:
    pairs = [observed[None, gap : gap + 2] for gap in range(len(observed) - 1)]
    return torch.cat([network.axial_view(pair)[0] for pair in pairs])


def _by_rows(network: PaperNetwork, observed: Tensor) -> Tensor:
    return torch.cat([network.coronal_view(part[None])[0] for part in _parts(observed)], dim=2)


def _by_columns(network: PaperNetwork, observed: Tensor) -> Tensor:
    return _by_rows(network, observed.transpose(1, 2)).transpose(2, 3)


def _parts(observed: Tensor) -> Iterator[Tensor]:
    for first in range(0, observed.shape[1], _PLANES_AT_ONCE):
        yield observed[:, first : first + _PLANES_AT_ONCE]
