"""`Testing/tools/quick_convolutions.py`: convolutions that train as PyTorch's do, and whom they leave alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import quick_convolutions
from quick_convolutions import QuickConv2d, compiler, quicken
from XViewSynthLib.model.network import ScanFacts, ThreeViewNetwork

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


def outcome(layer: nn.Module, images: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    """What comes out, and the gradients of all that goes in."""
    convolved = layer(images)
    return [convolved, *torch.autograd.grad(convolved, (images, layer.weight, layer.bias), gradient)]


@needs_compiler
class TestConvolution:
    # 26 x 4 pixels are more tiles than are done at a time, and no multiple of it.
    @given(
        images=st.integers(1, 5),
        rows=st.integers(1, 26),
        columns=st.integers(1, 10),
        channels=st.tuples(*[st.sampled_from((8, 16, 24, 40))] * 2),
        contiguous=st.booleans(),
    )
    def test_is_pytorchs_in_double_precision(self, images, rows, columns, channels, contiguous):
        torch.manual_seed(rows)
        exact = nn.Conv2d(*channels, 3, padding=1).double()
        quick = nn.Conv2d(*channels, 3, padding=1)
        quick.load_state_dict(exact.state_dict())
        quicken(quick)
        layout = torch.contiguous_format if contiguous else torch.channels_last
        seen = torch.randn(images, channels[0], rows, columns).contiguous(memory_format=layout)
        slope = torch.randn(images, channels[1], rows, columns).contiguous(memory_format=layout)
        found = outcome(quick, seen.requires_grad_(), slope)
        wanted = outcome(exact, seen.detach().double().requires_grad_(), slope.double())
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape
            assert (one - other).norm() <= 1e-5 * other.norm()

    def test_what_needs_no_gradient_gets_none(self):
        layer = nn.Conv2d(8, 8, 3, padding=1)
        quicken(layer)
        images = torch.randn(1, 8, 6, 6)
        layer(images).sum().backward()
        assert images.grad is None
        assert layer.weight.grad.shape == layer.weight.shape

    def test_in_other_precisions_is_pytorchs(self):
        plain = nn.Conv2d(8, 8, 3, padding=1).double()
        quick = nn.Conv2d(8, 8, 3, padding=1).double()
        quick.load_state_dict(plain.state_dict())
        quicken(quick)
        images = torch.randn(1, 8, 6, 6, dtype=torch.float64)
        assert torch.equal(quick(images), plain(images))


@needs_compiler
class TestNetwork:
    def test_answers_as_before_under_the_same_names(self):
        network = ThreeViewNetwork(channels=8, axial_blocks=1, pixel_blocks=1, fusion_blocks=2)
        observed, facts = torch.rand(1, 7, 12, 16) * 2 - 1, ScanFacts(torch.tensor([3.0]))

        def answer():
            return network.fuse(observed, network(observed, 4, facts), 4, facts)

        before, names = answer(), list(network.state_dict())
        quicken(network)
        assert sum(isinstance(module, QuickConv2d) for module in network.modules()) > 6
        assert torch.allclose(answer(), before, atol=1e-5)
        assert list(network.state_dict()) == names

    @pytest.mark.parametrize(
        "layer",
        [
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 8, 3),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1, stride=2),
            nn.Conv2d(8, 8, 3, padding=1, dilation=2),
            nn.Conv2d(16, 16, 3, padding=1, groups=2),
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
            nn.Conv2d(8, 1032, 3, padding=1),
        ],
        ids=str,
    )
    def test_leaves_alone_what_it_does_not_know(self, layer):
        quicken(layer)
        assert type(layer) is nn.Conv2d


class TestCompiler:
    @pytest.fixture(autouse=True)
    def forgetful(self):
        """A kernel that was compiled before counts for nothing, nor does one of these tests for others."""
        quick_convolutions._kernel.cache_clear()
        yield
        quick_convolutions._kernel.cache_clear()

    def test_its_lack_is_told(self, monkeypatch):
        monkeypatch.setattr("shutil.which", lambda name: None)
        with pytest.raises(RuntimeError, match=r"Install g\+\+"):
            quicken(nn.Conv2d(8, 8, 3, padding=1))

    @needs_compiler
    def test_its_failure_is_told(self, monkeypatch, tmp_path):
        broken = tmp_path / "broken.cpp"
        broken.write_text("int main( {")
        monkeypatch.setattr(quick_convolutions, "SOURCE", broken)
        with pytest.raises(RuntimeError, match=r"does not compile broken\.cpp"):
            quicken(nn.Conv2d(8, 8, 3, padding=1))
