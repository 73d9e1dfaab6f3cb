"""The terms of the training loss."""

from __future__ import annotations

import pytest
import torch

from XViewSynthTrainLib.losses import restoration_loss, selective_distillation, wavelet_filters, wavelet_loss


class TestRestoration:
    def test_is_the_absolute_error(self):
        assert restoration_loss(torch.tensor([1.0, -3.0]), torch.zeros(2), 0.0).item() == 2.0

    def test_counts_squares_beside_it(self):
        assert restoration_loss(torch.tensor([1.0, -3.0]), torch.zeros(2), 0.1).item() == pytest.approx(2.5)


class TestSelectiveDistillation:
    def test_of_all_voxels_is_the_mean_squared_difference(self):
        one, other = torch.tensor([0.0, 1.0, 2.0, 4.0]), torch.zeros(4)
        assert selective_distillation(one, other, 1.0).item() == pytest.approx(21 / 4)

    def test_of_a_quarter_is_the_smallest_difference(self):
        one, other = torch.tensor([4.0, 1.0, 2.0, 3.0]), torch.zeros(4)
        assert selective_distillation(one, other, 0.25).item() == 1.0

    def test_keeps_at_least_one_voxel(self):
        assert selective_distillation(torch.tensor([2.0, 3.0]), torch.zeros(2), 0.01).item() == 4.0

    def test_voxels_that_differ_most_teach_nothing(self):
        one = torch.tensor([4.0, 1.0, 2.0, 3.0], requires_grad=True)
        selective_distillation(one, torch.zeros(4), 0.5).backward()
        assert one.grad.tolist() == [0.0, 1.0, 2.0, 0.0]


class TestWavelet:
    def test_filters_are_orthonormal(self):
        flat = wavelet_filters().flatten(1)
        assert torch.allclose(flat @ flat.T, torch.eye(4), atol=1e-6)

    @pytest.mark.parametrize("power", [0, 1, 2])
    def test_high_bands_ignore_polynomials_below_the_third_degree(self, power):
        columns = torch.arange(6.0) ** power
        ramp = columns.expand(6, 6)[None, None]
        high = torch.nn.functional.conv2d(ramp, wavelet_filters()[1:])
        assert high.abs().max() < 1e-4

    def test_is_blind_to_an_offset(self):
        image = torch.rand(2, 3, 32, 32)
        assert wavelet_loss(image + 0.3, image).item() == pytest.approx(0, abs=1e-6)

    def test_sees_lost_detail(self):
        image = torch.rand(2, 3, 32, 32)
        smooth = torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1)
        assert wavelet_loss(smooth, image).item() > 0.05

    def test_small_slices_take_fewer_levels(self):
        assert wavelet_loss(torch.rand(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)).item() > 0
        assert wavelet_loss(torch.rand(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)).item() == 0
