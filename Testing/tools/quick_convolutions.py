"""3 x 3 convolutions in less than half the time that PyTorch takes for them on one core.

Winograd's minimal filtering multiplies a quarter as often (Lavin & Gray, "Fast algorithms for convolutional neural
networks", CVPR 2016). PyTorch does not convolve so on processors. `winograd.cpp` beside this file does, and is compiled
here when it is first needed, for the processor at hand.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

SOURCE = Path(__file__).with_name("winograd.cpp")
COMPILERS = ("g++", "clang++")
#: Numbers of channels that the kernel knows: multiples of this, up to that (`MOST_CHANNELS` there, too).
CHANNELS, MOST_CHANNELS = 8, 1024


def quicken(network: nn.Module) -> None:
    """Have a network convolve so, on processors and in single precision, wherever that is known here.

    Weights, and what they are called, stay as they are.

    Raises:
        RuntimeError: there is no C++ compiler, or it fails.
    """
    _kernel()
    for module in network.modules():
        if type(module) is nn.Conv2d and _known(module):
            module.__class__ = QuickConv2d


class QuickConv2d(nn.Conv2d):
    """As its base, of (batch, channels, rows, columns)."""

    def _conv_forward(self, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if images.device.type == "cpu" and images.dtype == weight.dtype == torch.float32:
            return _Convolution.apply(images, weight, bias)
        return super()._conv_forward(images, weight, bias)


def _known(layer: nn.Conv2d) -> bool:
    channels = (layer.in_channels, layer.out_channels)
    return (
        all(number % CHANNELS == 0 and number <= MOST_CHANNELS for number in channels)
        and (layer.kernel_size, layer.padding, layer.stride) == ((3, 3), (1, 1), (1, 1))
        and (layer.dilation, layer.groups, layer.padding_mode) == ((1, 1), 1, "zeros")
        and layer.bias is not None
    )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(images, weight)
        return _convolved(images, weight.permute(2, 3, 1, 0), bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        images, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_images = None
        if ctx.needs_input_grad[0]:
            turned = weight.flip(2, 3).permute(2, 3, 0, 1)
            of_images = _convolved(gradient, turned, torch.zeros(weight.shape[1]))
        of_kernel, of_bias = torch.empty(3, 3, weight.shape[1], weight.shape[0]), torch.empty(weight.shape[0])
        _call(_kernel().gradients, images, gradient, of_kernel, of_bias, to=weight.shape[0])
        return of_images, of_kernel.permute(3, 2, 0, 1), of_bias


def _convolved(images: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Images, channels last, with a kernel of (3, 3, from, to)."""
    kernel, (count, _, rows, columns) = kernel.contiguous(), images.shape
    convolved = torch.empty((count, kernel.shape[3], rows, columns), memory_format=torch.channels_last)
    _call(_kernel().convolve, images, kernel, bias, convolved, to=kernel.shape[3])
    return convolved


def _call(function: Callable[..., None], images: Tensor, *others: Tensor, to: int) -> None:
    count, channels, rows, columns = images.shape
    function(count, rows, columns, channels, to, *(tensor.data_ptr() for tensor in (images, *others)))


def compiler() -> str | None:
    """Path of a C++ compiler, if there is one."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


@lru_cache(maxsize=1)
def _kernel() -> ctypes.CDLL:
    program = compiler()
    if program is None:
        raise RuntimeError("Install g++ or clang++, or convolve by PyTorch: there is no C++ compiler here.")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "winograd.so"
        command = [program, "-O3", "-march=native", "-fPIC", "-shared", SOURCE, "-o", library]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            told = done.stderr.strip()
            raise RuntimeError(f"Convolve by PyTorch: {program} does not compile {SOURCE.name} ({told}).")
        kernel = ctypes.CDLL(str(library))
    for function in (kernel.convolve, kernel.gradients):
        function.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_int] * 2 + [ctypes.c_void_p] * 4
        function.restype = None
    return kernel
