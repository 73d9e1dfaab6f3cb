"""Devices, precision and memory."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from ..errors import InputError
from ..system.memory import address_space_left

# Parameters of glibc's mallopt: largest size of blocks on the heap, and largest free part of the heap. The default
# values are those that glibc reaches by itself after large arrays were allocated and freed.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
_KEEPING = {_MMAP_THRESHOLD: 2**30, _TRIM_THRESHOLD: 2**31 - 1}
_USUAL = {_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(requested: str = "auto") -> torch.device:
    """The device meant by `requested`; "auto" takes a GPU when there is one.

    Raises:
        InputError: there is no such device here.
    """
    if requested == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        raise InputError(f"Device {requested!r} does not exist: choose auto, cpu, cuda, cuda:1 or mps.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("There is no CUDA GPU that PyTorch can use here: choose --device cpu or auto.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"There are only {torch.cuda.device_count()} CUDA GPUs here, counted from 0: choose another.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("There is no Apple GPU that PyTorch can use here: choose --device cpu or auto.")
    if device.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"Device {requested!r} is not supported: choose auto, cpu, cuda, cuda:1 or mps.")
    return device


def resolve_precision(requested: str, device: torch.device) -> str:
    """The arithmetic meant by `requested` on a device.

    "auto" is fp16 on CUDA GPUs, whose matrix units support it: predictions change by 0.01 HU on average, and by less
    than 0.2 HU anywhere (Testing/benchmarks/half_precision.py). It is bf16 on CPUs with instructions for it, where it
    takes half to two thirds of the time; plans check its accuracy on the scan. On other devices it is fp32.
    """
    if requested != "auto":
        return requested
    if device.type == "cuda":
        return "fp16"
    return "bf16" if device.type == "cpu" and _has_bfloat16() else "fp32"


def _has_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16, as PyTorch reports."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return False  # an older version of PyTorch
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def free_bytes(device: torch.device) -> int:
    """Free memory of `device`, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(min(psutil.virtual_memory().available, address_space_left()))


def total_bytes(device: torch.device) -> int:
    """Total memory of `device`, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return psutil.virtual_memory().total


def process_bytes() -> int:
    """Memory this process holds now, in bytes."""
    return psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """The most memory this process has held so far, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Arrival:
    """An asynchronous copy of a tensor to the CPU. On a CUDA GPU it runs in parallel with further computations."""

    def __init__(self, tensor: torch.Tensor):
        self._arrived = None
        if tensor.device.type != "cuda":
            self._tensor = tensor.cpu()
            return
        # A copy is asynchronous only into pinned memory and in a separate stream.
        self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        stream = torch.cuda.Stream(tensor.device)
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            self._tensor.copy_(tensor, non_blocking=True)
            self._arrived = stream.record_event()
        # The tensor's memory must not be reused before the copy is complete.
        tensor.record_stream(stream)

    def wait(self) -> torch.Tensor:
        """The tensor, on the CPU."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def return_freed_memory() -> None:
    """Return freed memory to the system, if the C library is glibc. Others do so by themselves."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep memory that is freed inside the context for reuse, and return it to the system at the end.

    The feature maps of networks are allocated and freed thousands of times. The system clears memory each time, which
    took a seventh of the time of an enhancement on a CPU. Does nothing if the C library is not glibc.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    for parameter, value in _KEEPING.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            libc.mallopt(parameter, value)
        return_freed_memory()
