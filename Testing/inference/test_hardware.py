"""Devices, precisions and memory."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch

from XViewSynthLib import InputError
from XViewSynthLib.inference import hardware


class TestDevice:
    def test_cpu_is_always_there(self):
        assert hardware.resolve_device("cpu") == torch.device("cpu")

    def test_auto_is_a_device_that_can_compute(self):
        assert torch.ones(2, device=hardware.resolve_device("auto")).sum() == 2

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
    @pytest.mark.parametrize("device", ["cuda", "cuda:1"])
    def test_cuda_without_a_gpu_is_refused(self, device):
        with pytest.raises(InputError, match="no CUDA GPU.*choose --device cpu or auto"):
            hardware.resolve_device(device)

    @pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU here")
    def test_mps_without_one_is_refused(self):
        with pytest.raises(InputError, match="no Apple GPU"):
            hardware.resolve_device("mps")

    @pytest.mark.parametrize("device", ["gpu", "", "meta"])
    def test_what_is_no_device_is_refused(self, device):
        with pytest.raises(InputError, match="choose auto, cpu, cuda"):
            hardware.resolve_device(device)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    def test_a_gpu_that_is_not_there_is_refused(self):
        with pytest.raises(InputError, match="counted from 0"):
            hardware.resolve_device(f"cuda:{torch.cuda.device_count()}")


class TestPrecision:
    @pytest.mark.parametrize(("device", "precision"), [("mps", "fp32"), ("cuda", "fp16")])
    def test_auto_is_what_the_device_is_made_for(self, device, precision):
        assert hardware.resolve_precision("auto", torch.device(device)) == precision

    @pytest.mark.parametrize(
        ("reported", "precision"),
        [
            ({"avx2": True, "avx512_f": True}, "fp32"),
            ({"avx512_bf16": True}, "bf16"),
            ({"amx_bf16": True}, "bf16"),
            ({}, "fp32"),
        ],
    )
    def test_auto_on_a_cpu_is_what_its_instructions_are_made_for(self, reported, precision, monkeypatch):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: reported, raising=False)
        assert hardware.resolve_precision("auto", torch.device("cpu")) == precision

    def test_auto_is_fp32_where_pytorch_does_not_report_instructions(self, monkeypatch):
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        assert hardware.resolve_precision("auto", torch.device("cpu")) == "fp32"

    def test_the_requested_one_is_used(self):
        assert hardware.resolve_precision("bf16", torch.device("cpu")) == "bf16"


class TestArrival:
    @pytest.mark.parametrize(
        "device",
        [
            "cpu",
            pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")),
        ],
    )
    def test_brings_every_number(self, device):
        sent = [torch.rand(300, 200, device=device) for _ in range(3)]
        arrivals = [hardware.Arrival(tensor * 2) for tensor in sent]
        for tensor, arrival in zip(sent, arrivals, strict=True):
            assert torch.equal(arrival.wait(), (tensor * 2).cpu())


class TestMemory:
    def test_the_peak_is_never_below_what_is_held(self):
        assert hardware.peak_bytes() >= 0.9 * hardware.process_bytes() > 1e6

    def test_there_is_free_memory(self):
        assert hardware.free_bytes(torch.device("cpu")) > 0

    @pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
    def test_what_is_freed_is_kept_for_the_next_and_given_back_at_the_end(self):
        size = 300_000_000
        before = hardware.process_bytes()
        with hardware.memory_kept():
            array = np.ones(size, np.uint8)
            del array
            inside = hardware.process_bytes()
        assert inside > before + 0.9 * size
        assert hardware.process_bytes() < before + 0.1 * size

    def test_other_libraries_are_left_alone(self, monkeypatch):
        monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
        with hardware.memory_kept():
            assert hardware.process_bytes() > 0

    def test_an_error_inside_comes_out(self):
        with pytest.raises(KeyError), hardware.memory_kept():
            raise KeyError
