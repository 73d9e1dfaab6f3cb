"""How the tools of this folder train: Muon for the layers between stem and head, Adam for the others.

Muon: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

import torch
from torch import nn

#: Gradients are shortened to this length.
LONGEST_GRADIENT = 0.5
#: Decay of Adam's means.
BETAS = (0.9, 0.99)


class MuonAndAdam:
    """Trains all weights of a network that ask for a gradient.

    Args:
        network: its kernels in residual blocks are Muon's. From here on they are views of matrices.
        muon_rate, adam_rate: highest learning rates.
    """

    def __init__(self, network: nn.Module, muon_rate: float, adam_rate: float):
        trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self._network = network
        self._kernels = [weight for name, weight in trained.items() if "blocks." in name and weight.ndim == 4]
        # Muon takes matrices; these share the memory of the kernels.
        self._matrices = [nn.Parameter(kernel.data.flatten(1)) for kernel in self._kernels]
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            kernel.data = matrix.data.view_as(kernel)
        others = [weight for weight in trained.values() if all(weight is not kernel for kernel in self._kernels)]
        self._rates = muon_rate, adam_rate
        self._muon = torch.optim.Muon(self._matrices, lr=muon_rate, weight_decay=0.0)
        self._adam = torch.optim.Adam(others, lr=adam_rate, betas=BETAS)

    def step(self, loss: torch.Tensor, rate: float) -> None:
        """Go down the gradient of a loss, at a share of the highest rates."""
        self._network.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), LONGEST_GRADIENT)
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            matrix.grad = kernel.grad.flatten(1)
        for optimizer, highest in zip((self._muon, self._adam), self._rates, strict=True):
            optimizer.param_groups[0]["lr"] = highest * rate
            optimizer.step()


@torch.no_grad()
def follow(averaged: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """Move a moving average of a network's weights towards them; at first it moves faster."""
    for kept, current in zip(averaged.parameters(), network.parameters(), strict=True):
        kept.lerp_(current, 1 - min(decay, step / (step + 10)))
