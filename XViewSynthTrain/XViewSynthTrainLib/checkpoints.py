"""Checkpoints: a training run's state in one safetensors file, written atomically."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from XViewSynthLib.errors import InputError

from .stored_json import parse
from .whole import write_whole

_KINDS = ("network", "average")
#: Adam's state of each parameter.
_STATE = ("step", "exp_avg", "exp_avg_sq")


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Write tensors and plain facts. An older checkpoint at `path` is kept until the new one is complete.

    Raises:
        InputError: the disk is full or the folder cannot be written to; `path` is unchanged.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda beside: save_file(whole, beside, {"facts": json.dumps(facts)}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read a checkpoint of `save_checkpoint`, to the CPU.

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    if not path.is_file():
        raise InputError(f"Start anew in another folder: there is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="pt") as stored:
            facts = parse((stored.metadata() or {})["facts"])
            if not isinstance(facts, dict):
                raise ValueError("no facts of a run")
            return {name: stored.get_tensor(name) for name in stored.keys()}, facts  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, ValueError, OSError, RuntimeError) as problem:
        raise damaged_checkpoint(path, problem) from problem


def damaged_checkpoint(path: Path, problem: object) -> InputError:
    """The exception for a checkpoint that cannot be used, with the reason."""
    return InputError(f"Start anew in another folder: the checkpoint {path} is damaged ({problem}).")


def check_tensors(path: Path, tensors: Mapping[str, Tensor], network: torch.nn.Module) -> None:
    """Check that the tensors of a checkpoint have the names and shapes of a network, and are finite.

    Raises:
        InputError: a tensor is missing, unknown, of another shape or not finite.
    """
    expected = {f"{kind}.{name}": value for kind in _KINDS for name, value in network.state_dict().items()}
    # A parameter has a state after its first gradient.
    states = [
        {f"optimizer.{index}.{name}": parameter if name != "step" else torch.zeros(()) for name in _STATE}
        for index, parameter in enumerate(network.parameters())
    ]
    for state in states:
        if state.keys() & tensors.keys():
            expected |= state
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise damaged_checkpoint(path, f"{name} is {'missing' if name in expected else 'unknown'}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or not tensor.is_floating_point():
            raise damaged_checkpoint(path, f"{name} is not of the run's network")
        if not tensor.isfinite().all() or (name.endswith("exp_avg_sq") and (tensor < 0).any()):
            raise damaged_checkpoint(path, f"{name} holds impossible numbers")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors."""
    return {
        f"optimizer.{index}.{name}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the state from the result of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
