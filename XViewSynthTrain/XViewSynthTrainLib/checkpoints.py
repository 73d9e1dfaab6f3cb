"""A training run's state in one safetensors file: written beside and renamed, so a checkpoint is whole or absent."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from XViewSynthLib.errors import InputError

from .whole import write_whole


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Write tensors and JSON-able facts; an older checkpoint at `path` survives until the new one is whole.

    Raises:
        InputError: the disk is full or the folder cannot be written to; `path` is as it was.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda beside: save_file(whole, beside, {"facts": json.dumps(facts)}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_checkpoint` wrote, to the CPU.

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    if not path.is_file():
        raise InputError(f"Start without --resume: there is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="pt") as stored:
            facts = json.loads((stored.metadata() or {})["facts"])
            return {name: stored.get_tensor(name) for name in stored.keys()}, facts  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, ValueError, OSError) as problem:
        raise InputError(f"Start anew in another folder: the checkpoint {path} is damaged ({problem}).") from problem


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten the optimiser's state to named tensors."""
    return {
        f"optimizer.{index}.{name}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
