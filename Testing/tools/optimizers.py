"""How the tools of this folder train: Muon for the layers between stem and head, Adam for the others.

Muon: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. PyTorch's own computes in
bfloat16, for which processors without instructions for it take fifteen times as long as for single precision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Gradients are shortened to this length.
LONGEST_GRADIENT = 0.5
#: Decay of Adam's means.
BETAS = (0.9, 0.99)
#: Decay of Muon's mean.
MOMENTUM = 0.95
#: The polynomial whose fivefold application brings the singular values of a matrix near 1, and how often.
POLYNOMIAL, TIMES = (3.4445, -4.7750, 2.0315), 5


class MuonAndAdam:
    """Trains all weights of a network that ask for a gradient.

    Args:
        network: its kernels in residual blocks are Muon's.
        muon_rate, adam_rate: highest learning rates.
        fusion: by how much they are higher for what its names call the fusion.
        condition_rate: highest learning rate of what weighs the numbers that the network is told, where it is another.
    """

    def __init__(
        self,
        network: nn.Module,
        muon_rate: float,
        adam_rate: float,
        fusion: float = 1.0,
        condition_rate: float | None = None,
    ):
        self._network = network
        self._kernels: list[tuple[nn.Parameter, Tensor, float]] = []
        groups = []
        for name, weights in network.named_parameters():
            if not weights.requires_grad:
                continue
            higher = fusion if name.startswith("fusion.") else 1.0
            if "blocks." in name and weights.ndim == 4:
                self._kernels.append((weights, torch.zeros_like(weights), higher * muon_rate))
                continue
            rate = higher * adam_rate
            if condition_rate is not None and name.endswith("condition.weight"):
                rate = condition_rate
            groups.append({"params": [weights], "highest": rate})
        self._adam = torch.optim.Adam(groups, lr=adam_rate, betas=BETAS)

    def step(self, loss: Tensor, rate: float) -> None:
        """Go down the gradient of a loss, at a share of the highest rates."""
        self._network.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), LONGEST_GRADIENT)
        for group in self._adam.param_groups:
            group["lr"] = rate * group["highest"]
        self._adam.step()
        with torch.no_grad():
            for kernel, mean, highest in self._kernels:
                if kernel.grad is not None:
                    mean.lerp_(kernel.grad, 1 - MOMENTUM)
                    kernel.sub_(orthogonal(kernel.grad.lerp(mean, MOMENTUM)), alpha=rate * highest)


def orthogonal(kernel: Tensor) -> Tensor:
    """Nearly the orthogonal matrix nearest to a kernel (outputs, inputs, rows, columns), in its shape."""
    matrix = kernel.flatten(1)
    matrix = matrix / (matrix.norm() + 1e-7)
    linear, cubic, quintic = POLYNOMIAL
    for _ in range(TIMES):
        square = matrix @ matrix.T
        matrix = linear * matrix + (cubic * square + quintic * square @ square) @ matrix
    return matrix.view_as(kernel)


@torch.no_grad()
def follow(averaged: nn.Module, network: nn.Module, step: int, decay: float) -> None:
    """Move a moving average of a network's weights towards them; at first it moves faster."""
    for kept, current in zip(averaged.parameters(), network.parameters(), strict=True):
        kept.lerp_(current, 1 - min(decay, step / (step + 10)))
