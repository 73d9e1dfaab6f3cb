"""What comes out, told before anything is done, and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scans import affine_from
from XViewSynthLib import InputError, Volume
from XViewSynthLib.geometry.grid import settle_grid


def scan_with(spacing: float, slices: int = 9) -> Volume:
    # Zeros everywhere: the values are no concern of the grid's.
    return Volume(np.zeros((slices, 24, 20), np.int16), affine_from((0.8, 0.8, spacing)))


class TestGrid:
    def test_default_reaches_1_25_mm(self):
        grid = settle_grid(scan_with(9.0))
        assert (grid.axis, grid.factor, grid.slices, grid.slice_spacing) == ("K", 8, 65, 1.125)

    def test_another_axis_can_be_named(self):
        grid = settle_grid(scan_with(9.0), axis="I", factor=2)
        assert (grid.axis, grid.slices, grid.shape) == ("I", 39, (9, 24, 39))

    def test_a_spacing_between_whole_factors_is_resampled(self):
        grid = settle_grid(scan_with(5.0), spacing=1.5)
        assert (grid.factor, grid.resample_to, grid.slice_spacing) == (4, 1.5, 1.5)
        assert grid.slices == 27

    def test_isotropic_is_the_pixel_spacing(self):
        assert settle_grid(scan_with(4.0), isotropic=True).slice_spacing == pytest.approx(0.8)

    def test_two_goals_are_refused(self):
        with pytest.raises(InputError, match="not several"):
            settle_grid(scan_with(4.0), factor=2, isotropic=True)

    def test_too_few_slices_are_refused(self):
        with pytest.raises(InputError, match="too few"):
            settle_grid(scan_with(4.0, slices=3))

    def test_torch_stays_out(self):
        folder = Path(__file__).resolve().parents[2] / "XViewSynth"
        code = "import XViewSynthLib.geometry.grid, sys; print('torch' in sys.modules)"
        printed = subprocess.check_output([sys.executable, "-c", code], cwd=folder, text=True)
        assert printed.strip() == "False"
