"""What the benchmark of speed counts: operations, bytes, and the departure from a straight line."""

from __future__ import annotations

import pytest

from benchmarks.speed_limits import from_a_line, moved_bytes, operations
from tiny import make_network


class TestOperations:
    def test_of_the_slice_wise_view_grow_with_the_gaps(self):
        network = make_network(fusion_blocks=1)
        few, more = (operations(network, 16, slices, 4) for slices in (5, 9))
        # The pixel-wise views see the slices, of which there is one more than gaps.
        assert more == pytest.approx(2 * few, rel=0.05)

    def test_are_two_for_each_weight_and_place(self):
        network = make_network()
        head = network.axial.heads["2"].weight.numel()
        trunk = sum(part.weight.numel() for part in network.axial.trunk.modules() if hasattr(part, "kernel_size"))
        pixels, slices = 16, 5
        axial = 2 * (trunk + head) * (pixels // 2) ** 2 * (slices - 1)
        assert axial < operations(network, pixels, slices, 2) < 4 * axial

    def test_of_the_fusion_are_counted(self):
        with_fusion, without = make_network(fusion_blocks=1), make_network()
        assert operations(with_fusion, 16, 5, 3) > operations(without, 16, 5, 3)

    def test_of_a_network_for_thick_slices(self):
        assert operations(make_network(thick=1, fusion_blocks=1), 16, 5, 3) > 0


class TestBytes:
    def test_of_scan_result_and_two_maps(self):
        assert moved_bytes(pixels=10, slices=5, factor=2) == 100 * (5 * 2 + 9 * (2 + 4 + 4))


class TestGrowth:
    def test_along_a_line_is_none(self):
        assert from_a_line([15, 31, 63], [2.0 + 15, 2.0 + 31, 2.0 + 63]) == pytest.approx(0, abs=1e-9)

    def test_twice_the_seconds_for_the_largest_is_seen(self):
        assert from_a_line([15, 31, 63, 127], [15.0, 31.0, 63.0, 254.0]) > 0.2
