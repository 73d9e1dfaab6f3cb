"""What the linked views draw, asked of the pictures: where they must differ, be coloured, or carry text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import offscreen
from scene import mrml_scene
from scene_pairs import FACTOR, Pair, make_pair
from XViewSynthLib import Volume
from XViewSynthScene.layout import ENHANCED, PLANES, view_name, view_names
from XViewSynthScene.marks import SYNTHETIC
from XViewSynthScene.overlay import uncertainty_color
from XViewSynthScene.views import LinkedViews

pytestmark = pytest.mark.skipif(offscreen.why_not() is not None, reason=str(offscreen.why_not()))

SIZE = 240


@pytest.fixture
def stage(scan: Volume) -> Iterator[Stage]:
    with mrml_scene() as scene:
        application = offscreen.application_logic(scene)
        pictures = offscreen.OffscreenViews(scene, application, view_names(), (SIZE, SIZE))
        pair = make_pair(scene, scan)
        views = LinkedViews(scene, application_logic=application, renderer_of=pictures.renderer)
        views.show(pair.original, pair.enhanced, pair.uncertainty)
        views.overlay.set_opacity(0)
        yield Stage(views, pictures, pair, scan)
        views.close()
        pictures.close()


class Stage:
    """The linked views of a pair, with pictures of them."""

    def __init__(self, views: LinkedViews, pictures: offscreen.OffscreenViews, pair: Pair, scan: Volume):
        self.views, self.pair = views, pair
        self._pictures, self._scan = pictures, scan

    def scroll(self, position: float) -> None:
        """Let the axial views show a slice of the enhanced volume."""
        offset = self._scan.origin[2] + position * self._scan.spacing_along("K") / FACTOR
        self.views.slice_node(ENHANCED, "Axial").SetSliceOffset(float(offset))

    def picture(self, row: str, plane: str = "Axial") -> np.ndarray:
        """(rows, columns, 3) float64, 0 to 255."""
        return self._pictures.picture(view_name(row, plane)).astype(float)

    def middle(self, row: str, plane: str = "Axial") -> np.ndarray:
        """The picture without its edges, where the corner texts are."""
        return self.picture(row, plane)[SIZE // 5 : -SIZE // 5, SIZE // 5 : -SIZE // 5]


def colorfulness(picture: np.ndarray) -> np.ndarray:
    """(rows, columns): how far the colours are from grey."""
    return picture.max(axis=2) - picture.min(axis=2)


def corner(picture: np.ndarray) -> np.ndarray:
    """Bottom right, where the mark is."""
    return picture[-SIZE // 10 :, SIZE // 8 :]


def without_texts(picture: np.ndarray) -> np.ndarray:
    """Without the mark below and the legend to the right, which have colours of their own."""
    return picture[: -SIZE // 8, : SIZE * 4 // 5]


class TestOriginalAndEnhanced:
    def test_are_equal_on_observed_slices(self, stage):
        stage.scroll(8)
        difference = np.abs(stage.middle("Original") - stage.middle("Enhanced"))
        assert difference.max() <= 2

    def test_differ_between_them(self, stage):
        stage.scroll(10)
        assert (np.abs(stage.middle("Original") - stage.middle("Enhanced")) > 50).mean() > 0.1

    @pytest.mark.parametrize("plane", ["Coronal", "Sagittal"])
    def test_differ_in_planes_across_the_slices(self, stage, plane):
        assert (np.abs(stage.middle("Original", plane) - stage.middle("Enhanced", plane)) > 50).mean() > 0.05

    @pytest.mark.parametrize("plane", list(PLANES))
    def test_show_the_scan_and_not_an_empty_view(self, stage, plane):
        for row in ("Original", "Enhanced"):
            assert stage.middle(row, plane).std() > 20

    def test_move_together_in_the_pictures_too(self, stage):
        before = stage.middle("Original")
        stage.views.slice_node(ENHANCED, "Axial").SetFieldOfView(12, 12, 1)
        assert np.abs(stage.middle("Original") - before).mean() > 10

    def test_share_window_level_in_the_pictures_too(self, stage):
        stage.scroll(8)
        before = stage.middle("Enhanced")
        stage.pair.original.GetDisplayNode().SetWindowLevel(100, 1500)
        assert stage.middle("Enhanced").mean() < before.mean() / 2


class TestSwapInPlace:
    def test_shows_the_original_in_the_enhanced_view(self, stage):
        stage.scroll(10)
        stage.views.swap()
        assert np.abs(stage.middle("Original") - stage.middle("Enhanced")).max() <= 2

    def test_fades_between_the_two(self, stage):
        stage.scroll(10)
        enhanced, original = stage.middle("Enhanced"), stage.middle("Original")
        stage.views.set_fade(0.5)
        assert np.abs(stage.middle("Enhanced") - (enhanced + original) / 2).max() <= 3


class TestDivider:
    def test_shows_the_original_to_the_left_and_the_enhanced_volume_to_the_right(self, stage):
        stage.scroll(10)
        enhanced, original = stage.picture("Enhanced"), stage.picture("Original")
        stage.views.set_divider(0.5)
        divided = stage.picture("Enhanced")
        rows, left, right = slice(0, SIZE * 4 // 5), slice(0, SIZE // 2 - 2), slice(SIZE // 2 + 2, SIZE)
        assert divided[rows, left] == pytest.approx(original[rows, left], abs=2)
        assert divided[rows, right] == pytest.approx(enhanced[rows, right], abs=2)
        assert np.abs(divided[rows, left] - enhanced[rows, left]).max() > 50

    def test_fits_after_zoom_pan_and_another_window(self, stage):
        node = stage.views.slice_node(ENHANCED, "Coronal")
        stage.views.set_divider(0.75)
        width, height, depth = node.GetFieldOfView()
        node.SetFieldOfView(width / 2, height / 2, depth)
        node.SetXYZOrigin(3, 2, 0)
        stage.pair.original.GetScalarVolumeDisplayNode().SetWindowLevel(600, 40)
        part = slice(0, SIZE // 2), slice(0, SIZE // 2)
        assert stage.picture("Enhanced", "Coronal")[part] == pytest.approx(
            stage.picture("Original", "Coronal")[part], abs=2
        )

    def test_hides_the_map_on_its_left(self, stage):
        stage.scroll(10)
        stage.views.overlay.set_opacity(1)
        stage.views.set_divider(1.0)
        # The legend stays.
        assert colorfulness(without_texts(stage.picture("Enhanced"))).max() <= 2

    def test_goes_at_the_edge_and_with_the_views(self, stage):
        before = stage.picture("Enhanced")
        stage.views.set_divider(0.4)
        stage.views.set_divider(0.0)
        assert stage.picture("Enhanced") == pytest.approx(before)

    @pytest.mark.parametrize("position", [-0.1, 1.5])
    def test_refuses_a_place_outside_the_view(self, stage, position):
        with pytest.raises(ValueError, match="from 0 to 1"):
            stage.views.set_divider(position)


class TestAsAcquired:
    def test_shows_whole_voxels_across_the_slices(self, stage):
        def equal_rows() -> int:
            picture = stage.middle("Original", "Coronal")
            return int((picture[1:] == picture[:-1]).all(axis=(1, 2)).sum())

        before = equal_rows()
        stage.views.set_as_acquired(True)
        assert equal_rows() > before + SIZE // 4
        stage.views.set_as_acquired(False)
        assert equal_rows() == before

    @pytest.mark.parametrize("interpolated", [True, False])
    def test_gives_the_volume_its_own_display_back(self, stage, interpolated):
        display = stage.pair.original.GetScalarVolumeDisplayNode()
        display.SetInterpolate(interpolated)
        stage.views.set_as_acquired(True)
        assert not display.GetInterpolate()
        stage.views.close()
        assert bool(display.GetInterpolate()) == interpolated


class TestOverlayColours:
    def test_the_uncertain_half_is_coloured_and_the_rest_is_grey(self, stage):
        stage.scroll(10)
        stage.views.overlay.set_opacity(1)
        colored = colorfulness(without_texts(stage.picture("Enhanced"))) > 60
        rows, columns = np.nonzero(colored)
        # The block of uncertainty spans a third of the rows and a sixth of the columns.
        assert SIZE * 0.25 < np.ptp(rows) < SIZE * 0.45
        assert np.ptp(columns) < SIZE * 0.25

    def test_at_full_opacity_the_colour_is_that_of_the_legend(self, stage):
        stage.scroll(10)
        stage.views.overlay.set_opacity(1)
        picture = without_texts(stage.picture("Enhanced"))
        faint, full = stage.views.overlay.limits_hu
        expected = 255 * np.array(uncertainty_color((90 - faint) / (full - faint)))
        most = picture[colorfulness(picture) > 60]
        assert np.median(most, axis=0) == pytest.approx(expected, abs=6)

    def test_observed_slices_have_none(self, stage):
        stage.scroll(8)
        stage.views.overlay.set_opacity(1)
        assert colorfulness(stage.middle("Enhanced")[:, : SIZE // 2]).max() <= 2

    def test_more_opacity_more_colour(self, stage):
        stage.scroll(10)
        means = []
        for opacity in (0, 0.3, 0.9):
            stage.views.overlay.set_opacity(opacity)
            means.append(colorfulness(stage.middle("Enhanced")[:, : SIZE // 2]).mean())
        assert means[0] < means[1] < means[2]

    def test_the_original_has_none(self, stage):
        stage.scroll(10)
        stage.views.overlay.set_opacity(1)
        assert colorfulness(stage.middle("Original")).max() <= 2

    def test_the_legend_comes_and_goes_with_the_overlay(self, stage):
        stage.scroll(8)
        without = stage.picture("Enhanced")
        stage.views.overlay.set_opacity(1)
        right = slice(SIZE * 4 // 5, None)
        assert (colorfulness(stage.picture("Enhanced")[: -SIZE // 10, right]) > 60).mean() > 0.02
        stage.views.overlay.set_opacity(0)
        assert stage.picture("Enhanced") == pytest.approx(without)

    def test_the_legend_leaves_most_of_a_small_view_free(self, stage):
        stage.scroll(8)
        without = stage.picture("Enhanced")
        stage.views.overlay.set_opacity(1)
        _, columns, _ = np.nonzero(np.abs(stage.picture("Enhanced") - without) > 20)
        assert columns.min() > 0.65 * SIZE


class TestMarkInTheCorner:
    def test_is_drawn(self, stage):
        stage.scroll(9)
        before = corner(stage.picture("Enhanced"))
        stage.views.marks[view_name("Enhanced", "Axial")].remove()
        assert (np.abs(corner(stage.picture("Enhanced")) - before) > 50).mean() > 0.03

    def test_has_the_colour_of_a_synthetic_slice(self, stage):
        stage.scroll(9)
        red, _, blue = np.moveaxis(corner(stage.picture("Enhanced")), 2, 0)
        assert stage.views.marks[view_name("Enhanced", "Axial")].text.endswith(f"{SYNTHETIC} slice")
        assert (red - blue).max() > 100

    def test_changes_to_that_of_an_observed_one(self, stage):
        stage.scroll(8)
        red, _, blue = np.moveaxis(corner(stage.picture("Enhanced")), 2, 0)
        assert (blue - red).max() > 100
        assert (red - blue).max() < 50
