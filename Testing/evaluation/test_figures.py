"""The picture that compares observed, cubic, enhanced and truth."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread

from scans import layouts
from XViewSynthLib.errors import InputError
from XViewSynthLib.evaluation import figures
from XViewSynthLib.evaluation.figures import comparison_png
from XViewSynthLib.evaluation.metrics import make_reference
from XViewSynthLib.geometry.acquisition import cut_to_factor, thin
from XViewSynthLib.geometry.interpolation import upsample
from XViewSynthLib.geometry.volume import Volume

pytestmark = pytest.mark.slow

FACTOR = 4


@pytest.fixture(scope="module")
def truth(thin_scan) -> Volume:
    return cut_to_factor(thin_scan, FACTOR)


@pytest.fixture(scope="module")
def observed(thin_scan) -> Volume:
    return thin(thin_scan, FACTOR)


def _draw(tmp_path, truth: Volume, with_truth: bool = True) -> np.ndarray:
    axis = truth.through_plane_axis
    observed = thin(truth, FACTOR)
    path = tmp_path / "picture.png"
    comparison_png(path, observed, truth, FACTOR, axis, truth if with_truth else None)
    return imread(path)


@pytest.fixture
def figure(monkeypatch, tmp_path, observed, truth):
    """The figure that was drawn, and not only its pixels."""
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: (drawn.append(self), save(self, *args, **kwargs))
    )
    linear = upsample(observed, FACTOR, "K", "linear")
    comparison_png(tmp_path / "picture.png", observed, linear, FACTOR, "K", truth)
    return drawn[0]


class TestLayout:
    def test_four_columns_with_a_truth(self, figure):
        titles = [plot.get_title().splitlines()[0] for plot in figure.axes[:4]]
        assert titles == ["observed", "cubic spline", "enhanced", "truth"]
        assert len(figure.axes) == 16

    def test_rows_are_both_planes_and_a_detail_of_each(self, figure):
        assert [plot.get_ylabel() for plot in figure.axes[::4]] == [
            "coronal",
            "sagittal",
            "coronal (detail)",
            "sagittal (detail)",
        ]

    def test_millimetres_are_square(self, figure):
        figure.canvas.draw()
        for plot in figure.axes:
            box = plot.get_window_extent()
            left, right = plot.get_xlim()
            bottom, top = plot.get_ylim()
            assert box.height / box.width == pytest.approx(abs((top - bottom) / (right - left)), rel=0.01)

    def test_columns_show_the_same_part(self, figure):
        for row in range(4):
            limits = {(plot.get_xlim(), plot.get_ylim()) for plot in figure.axes[4 * row : 4 * row + 4]}
            assert len({tuple(np.round(np.ravel(limit), 6)) for limit in limits}) == 1

    def test_superior_is_up_and_right_is_on_the_left(self, figure, truth):
        image = figure.axes[3].images[0]
        reference = make_reference(truth, FACTOR, "K")
        row = next(
            index
            for index in range(reference.slices.shape[1])
            if np.array_equal(np.clip(reference.slices[:, index], *image.get_clim()), image.get_array())
        )
        assert 0 < row < 40
        left, right = figure.axes[3].get_xlim()
        bottom, top = figure.axes[3].get_ylim()
        assert left > right
        assert bottom < top
        assert image.origin == "lower"

    def test_sides_of_the_patient_are_marked(self, figure):
        coronal, sagittal = (
            {text.get_text(): text.get_position() for text in figure.axes[first].texts} for first in (0, 4)
        )
        assert coronal == {"R": (0.02, 0.5), "L": (0.98, 0.5), "S": (0.5, 0.95), "I": (0.5, 0.05)}
        assert sagittal == {"A": (0.02, 0.5), "P": (0.98, 0.5), "S": (0.5, 0.95), "I": (0.5, 0.05)}

    def test_gain_over_cubic_is_named(self, figure, observed, truth):
        reference = make_reference(truth, FACTOR, "K")
        new = reference.is_new
        errors = [
            upsample(observed, FACTOR, "K", m).voxels[new] - truth.voxels[new].astype(float)
            for m in ("linear", "cubic")
        ]
        linear, cubic = (10 * np.log10(4096**2 / np.mean(e**2)) for e in errors)
        assert f"{linear:.2f} dB ({linear - cubic:+.2f} dB over cubic)" in figure.axes[2].get_title()


class TestPicture:
    def test_three_columns_without_a_truth(self, tmp_path, truth):
        with_truth, without = (_draw(tmp_path, truth, flag) for flag in (True, False))
        assert without.shape[1] < with_truth.shape[1]

    def test_same_picture_however_the_scan_is_stored(self, tmp_path, truth):
        expected = _draw(tmp_path, truth)
        for stored in list(layouts(truth))[5::17]:
            assert np.array_equal(_draw(tmp_path, stored), expected)

    def test_other_grid_is_refused(self, tmp_path, observed, truth):
        with pytest.raises(InputError):
            comparison_png(tmp_path / "picture.png", observed, observed, FACTOR, "K", truth)


class TestWindow:
    def test_lungs_have_their_own(self):
        slices = np.full((4, 4, 4), 40)
        everywhere = np.ones((4, 4, 4), bool)
        assert figures.display_window(slices, everywhere) == figures.SOFT_TISSUE_WINDOW
        slices[:2] = -850
        assert figures.display_window(slices, everywhere) == figures.LUNG_WINDOW

    def test_planes_are_where_slices_differ_most(self):
        voxels = np.full((9, 20, 24), 40, np.int16)
        voxels[::2, 7, :] = 140
        voxels[::2, :, 15] = 140
        reference = make_reference(Volume(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), 4, "K")
        rows, columns = figures.richest_planes(reference, figures.SOFT_TISSUE_WINDOW)
        assert (rows.index, columns.index) == (7, 15)
