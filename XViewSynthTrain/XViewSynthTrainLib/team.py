"""Several processes that train one network together, started by PyTorch's `torchrun`, on one machine or many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from XViewSynthLib.errors import InputError


@dataclass(frozen=True)
class Team:
    """The processes of one run.

    Attributes:
        rank: number of this process. Process 0 leads: it alone evaluates, writes and reports.
        size: number of processes.
        device: on which this process computes.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wrap(self, objective: torch.nn.Module) -> torch.nn.Module:
        """The module with its gradients averaged over the team."""
        # A step draws one factor, so the heads of other factors get no gradient.
        return DistributedDataParallel(objective, find_unused_parameters=True) if self.size > 1 else objective

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values over the team."""
        if self.size > 1:
            distributed.all_reduce(values)
            values = values / self.size
        return values

    def any(self, yes: bool) -> bool:
        """Whether `yes` is true in one process of the team. All must call this at the same place."""
        if self.size == 1:
            return yes
        flag = torch.tensor(float(yes), device=self.device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return bool(flag.item())

    def wait(self) -> None:
        """Wait for all processes of the team."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def team_of_torchrun(device: str) -> Iterator[Team]:
    """Join the team that `torchrun` has started, or be a team of one process.

    Args:
        device: of the networks; with several CUDA devices, each process uses its own.

    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Team(device=device)
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(
                f"Start at most {torch.cuda.device_count()} processes on this machine: each needs a GPU of its own."
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Team(distributed.get_rank(), size, device)
    finally:
        distributed.destroy_process_group()
