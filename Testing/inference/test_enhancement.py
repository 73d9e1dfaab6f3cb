"""Enhancing a scan: observed slices, geometry, padding, uncertainty, memory and stopping."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given

from scans import affine_from, anatomy, directions, layouts
from tiny import enhance_with_views, make_network
from XViewSynthLib import Cancelled, InputError, Volume, enhance
from XViewSynthLib.geometry.interpolation import upsample
from XViewSynthLib.inference import prediction
from XViewSynthLib.inference.enhancement import carry_out
from XViewSynthLib.inference.plan import make_plan
from XViewSynthLib.model.catalogue import load_model
from XViewSynthLib.model.network import ThreeViewNetwork


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model)


@pytest.fixture(scope="module")
def enhanced(scan, model):
    return enhance_with_views(scan, 4, model=model)


@pytest.fixture(scope="module")
def few_slices() -> Volume:
    """Odd numbers of rows and columns, which the students' pixel pairs do not divide."""
    return Volume(anatomy((6, 19, 17)), affine_from())


def in_patient(volume: Volume, grid: Volume) -> np.ndarray:
    """The values of `volume` at the voxel centres of `grid`, which must be voxel centres of `volume` too."""
    k, j, i = np.indices(grid.voxels.shape)
    indices = volume.ras_to_ijk(grid.ijk_to_ras(np.stack([i, j, k], axis=-1)))
    nearest = np.rint(indices).astype(int)
    assert np.abs(indices - nearest).max() < 1e-6
    return volume.voxels[nearest[..., 2], nearest[..., 1], nearest[..., 0]]


class TestObservedSlices:
    def test_come_out_bit_for_bit(self, scan, enhanced):
        assert np.array_equal(enhanced.volume.voxels[::4], scan.voxels)

    def test_are_named(self, scan, enhanced):
        synthetic = set(enhanced.synthetic_slices)
        assert synthetic == set(range(65)) - set(range(0, 65, 4))

    @pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32, np.float64])
    def test_and_all_others_keep_the_scalar_type(self, model, dtype):
        voxels = (anatomy((5, 16, 16)).astype(np.float64) + (1024 if dtype == np.uint16 else 0)).astype(dtype)
        result = enhance(Volume(voxels, affine_from()), 2, model=model).volume.voxels
        assert result.dtype == dtype
        assert np.array_equal(result[::2], voxels)


class TestGeometry:
    def test_origin_directions_and_pixels_stay(self, scan, enhanced):
        assert enhanced.volume.voxels.shape == (4 * 16 + 1, 40, 36)
        assert np.array_equal(enhanced.volume.origin, scan.origin)
        assert np.allclose(enhanced.volume.spacing, (0.8, 0.8, 1.0))
        assert np.allclose(enhanced.volume.directions, scan.directions)

    def test_how_a_scan_is_stored_does_not_matter(self, few_slices, model):
        plain = enhance(few_slices, 2, axis="K", model=model)
        for stored in layouts(few_slices):
            result = enhance(stored, 2, axis=stored.through_plane_axis, model=model)
            assert np.array_equal(in_patient(result.volume, plain.volume), plain.volume.voxels)
            uncertainty = in_patient(result.disagreement, plain.disagreement)
            assert np.allclose(uncertainty, plain.disagreement.voxels, atol=1e-3)

    @given(turned=directions())
    def test_a_turned_patient_keeps_every_point_in_place(self, model, turned):
        voxels = anatomy((4, 9, 8))
        scan = Volume(voxels, affine_from(directions=turned))
        result = enhance(scan, 3, model=model).volume
        first_of_next = result.ijk_to_ras([2, 5, 3])
        assert np.allclose(first_of_next, scan.ijk_to_ras([2, 5, 1]), atol=1e-6)
        for stored in list(layouts(scan))[::17]:
            other = enhance(stored, 3, model=model).volume
            assert np.array_equal(in_patient(other, result), result.voxels)

    def test_any_axis_can_be_chosen(self, few_slices, model):
        result = enhance(few_slices, 2, axis="I", model=model)
        assert result.volume.voxels.shape == (6, 19, 33)
        assert np.array_equal(result.volume.voxels[:, :, ::2], few_slices.voxels)


class TestPrediction:
    def test_is_the_mean_of_the_views(self, enhanced):
        views = np.array([view.voxels for view in enhanced.views.values()])
        # Each view is kept within the range of the scan, and so is the answer.
        inside = (views > views.min()).all(axis=0) & (views < views.max()).all(axis=0)
        assert np.abs(views.mean(axis=0) - enhanced.volume.voxels)[inside].max() <= 0.5 + 1e-3

    def test_of_untrained_students_is_the_cubic_spline(self, few_slices, model):
        untrained = replace(model, network=ThreeViewNetwork(channels=4, axial_blocks=1, pixel_blocks=1).eval())
        scan = few_slices.with_voxels(few_slices.voxels.astype(np.float32))
        answer = enhance(scan, 3, model=untrained).volume.voxels
        spline = upsample(scan, 3, "K", "cubic").voxels.clip(scan.voxels.min(), scan.voxels.max())
        assert np.abs(answer - spline).max() < 0.01

    def test_stays_in_the_range_of_the_scan(self, scan, enhanced):
        assert scan.voxels.min() <= enhanced.volume.voxels.min()
        assert enhanced.volume.voxels.max() <= scan.voxels.max()

    def test_does_not_depend_on_the_size_of_tiles(self, few_slices, model):
        plan = make_plan(few_slices, model, factor=3)
        whole = carry_out(plan, few_slices, model)
        tiles = carry_out(replace(plan, tile_voxels=1), few_slices, model)
        assert np.abs(whole.volume.voxels - tiles.volume.voxels).max() <= 1
        assert np.allclose(whole.disagreement.voxels, tiles.disagreement.voxels, atol=0.01)

    def test_in_half_precision_is_the_same_to_a_few_hu(self, few_slices, model):
        full, half = (
            enhance(few_slices, 2, model=model, device="cpu", precision=precision).volume.voxels
            for precision in ("fp32", "bf16")
        )
        assert 0 < np.abs(full.astype(float) - half).mean() < 0.5

    def test_metal_passes(self, model):
        voxels = anatomy((6, 20, 20))
        voxels[:, 8:12, 8:12] = 20000
        result = enhance(Volume(voxels, affine_from()), 2, model=model).volume.voxels
        assert result[:, 9:11, 9:11].min() > 15000


@pytest.fixture(scope="module")
def padded(model) -> np.ndarray:
    """A result whose first four columns are padding."""
    voxels = anatomy((6, 20, 20))
    voxels[:, :, :4] = -3024
    return enhance(Volume(voxels, affine_from()), 4, model=model).volume.voxels


class TestPadding:
    def test_stays_padding(self, padded):
        assert (padded[:, :, :4] == -3024).all()

    def test_does_not_spill_into_the_scan(self, padded):
        assert padded[:, :, 4:].min() >= -1024

    def test_next_to_a_slice_without_it_is_not_padding(self, model):
        voxels = anatomy((6, 20, 20))
        voxels[3, 5:9, 5:9] = -2048
        result = enhance(Volume(voxels, affine_from()), 2, model=model).volume.voxels
        assert result[5, 5:9, 5:9].min() >= -1024


class TestDisagreement:
    def test_is_zero_on_observed_slices_alone(self, enhanced):
        uncertainty = enhanced.disagreement.voxels
        assert uncertainty.dtype == np.float32
        assert (uncertainty[::4] == 0).all()
        assert all(uncertainty[index].max() > 0 for index in enhanced.synthetic_slices)

    def test_is_the_spread_of_the_views_in_hu(self, scan, enhanced):
        def summed(image, taps):
            padded = np.pad(image, 5, mode="edge")
            rows = sum(tap * padded[shift : shift + 40] for shift, tap in enumerate(taps))
            return sum(tap * rows[:, shift : shift + 36] for shift, tap in enumerate(taps))

        views = np.array([view.voxels[1] for view in enhanced.views.values()])
        taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
        smooth = summed(views.var(axis=0), taps / taps.sum())
        # Views are kept to the scan's range, their spread is not.
        kept = ((views <= scan.voxels.min()) | (views >= scan.voxels.max())).any(axis=0)
        free = summed(kept.astype(float), np.ones(11)) == 0
        assert free.sum() > 20
        assert np.abs(enhanced.disagreement.voxels[1] - np.sqrt(smooth))[free].max() < 0.01

    def test_views_are_kept_only_on_request(self, scan, model):
        assert enhance(scan, 2, model=model).views is None


@pytest.fixture(scope="module")
def resampled(scan, model):
    return enhance_with_views(scan, spacing=1.5, model=model)


class TestResampling:
    def test_reaches_the_spacing(self, scan, resampled):
        assert resampled.volume.spacing == pytest.approx((0.8, 0.8, 1.5))
        assert np.array_equal(resampled.volume.origin, scan.origin)
        assert resampled.volume.voxels.shape == resampled.plan.output_shape

    def test_slices_on_observed_positions_are_observed(self, scan, resampled):
        # 4 mm and 1.5 mm meet every 12 mm.
        assert np.array_equal(resampled.volume.voxels[::8], scan.voxels[::3])
        assert not set(range(0, 43, 8)) & set(resampled.synthetic_slices)

    def test_follows_the_enhanced_slices(self, scan, model, resampled):
        fine = enhance(scan, 3, model=model).volume.voxels.astype(float)
        position = 1.5 * 3 / 4
        between = fine[1] + (position - 1) * (fine[2] - fine[1])
        assert np.abs(resampled.volume.voxels[1] - between).mean() < 15

    def test_is_noted(self, resampled):
        assert any("resampled" in note for note in resampled.notes)

    def test_carries_views_and_disagreement(self, resampled):
        assert resampled.disagreement.voxels.shape == resampled.volume.voxels.shape
        assert all(view.voxels.shape == resampled.volume.voxels.shape for view in resampled.views.values())


class TestProgressAndStopping:
    def test_every_view_is_reported_to_the_end(self, scan, model):
        told = []
        enhance(scan, 2, model=model, progress=told.append)
        for view in ("axial view", "coronal view", "sagittal view"):
            last = [step for step in told if step.stage == view][-1]
            assert last.done == last.total
        assert told[-1].seconds_left is not None

    @pytest.mark.parametrize("asked", [0, 1, 5, 20])
    def test_stops_on_request(self, scan, model, asked):
        answers = iter([False] * asked + [True] * 1000)
        with pytest.raises(Cancelled):
            enhance(scan, 2, model=model, should_cancel=lambda: next(answers))

    def test_seconds_and_memory_are_measured(self, enhanced):
        assert 0 < enhanced.seconds < 600
        assert enhanced.peak_memory_bytes > 1e7


class CrampedNetwork(ThreeViewNetwork):
    """Runs out of memory on tiles of more than `room` planes, as a small GPU does."""

    room = 2

    def residual(self, view, observed, factor, facts, part=slice(None)):
        if part.stop is not None and part.stop - part.start > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return super().residual(view, observed, factor, facts, part)


class TestOutOfMemory:
    @pytest.fixture
    def cramped(self, model):
        network = CrampedNetwork(channels=4, axial_blocks=1, pixel_blocks=1).eval()
        network.load_state_dict(make_network().state_dict())
        return replace(model, network=network)

    def test_smaller_tiles_give_the_same_prediction(self, few_slices, model, cramped):
        plain = enhance(few_slices, 2, model=model)
        result = enhance(few_slices, 2, model=cramped)
        assert np.abs(plain.volume.voxels - result.volume.voxels).max() <= 1
        assert any("halved" in note for note in result.notes)

    def test_nothing_is_lost_of_tiles_that_are_underway(self, few_slices, model, cramped, monkeypatch):
        plain = enhance(few_slices, 2, model=cramped)
        monkeypatch.setattr(prediction, "_TILES_AHEAD", {"cpu": 1})
        steps = []
        result = enhance(few_slices, 2, model=cramped, progress=steps.append)
        assert np.array_equal(plain.volume.voxels, result.volume.voxels)
        ends = {step.stage: (step.done, step.total) for step in steps}
        assert all(done == total for done, total in ends.values())

    def test_is_raised_when_not_even_the_smallest_fits_the_cpu(self, few_slices, cramped):
        cramped.network.room = 0
        with pytest.raises(InputError, match=r"not enough memory: enhancing by 2 takes about \d+\.\d GB here"):
            enhance(few_slices, 2, model=cramped)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    def test_the_cpu_takes_over_from_a_gpu(self, few_slices, model):
        class NoRoomOnGpu(ThreeViewNetwork):
            def residual(self, view, observed, *rest):
                if observed.is_cuda:
                    raise torch.OutOfMemoryError("out of memory")
                return super().residual(view, observed, *rest)

        network = NoRoomOnGpu(channels=4, axial_blocks=1, pixel_blocks=1).eval()
        network.load_state_dict(make_network().state_dict())
        result = enhance(few_slices, 2, model=replace(model, network=network), device="cuda")
        assert any("CPU took over" in note for note in result.notes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
class TestGpu:
    def test_gives_the_prediction_of_the_cpu(self, scan, model):
        on_cpu = enhance(scan, 4, model=model, device="cpu").volume.voxels
        on_gpu = enhance(scan, 4, model=model, device="cuda").volume.voxels
        assert np.abs(on_cpu.astype(float) - on_gpu).mean() < 0.5


class TestBadInput:
    def test_too_few_slices(self, model):
        with pytest.raises(InputError, match="slices"):
            enhance(Volume(anatomy((3, 20, 20)), affine_from()), 2, model=model)

    def test_unknown_model(self, scan):
        with pytest.raises(InputError, match="no model 'nonesuch'"):
            enhance(scan, 2, model="nonesuch")

    def test_a_model_for_the_other_acquisition(self, scan, model):
        with pytest.raises(InputError, match="small was trained for thin slices far apart .gap., not for thick slices"):
            enhance(scan, 2, model=model, acquisition="thick")

    def test_an_unknown_acquisition(self, scan, model):
        with pytest.raises(InputError, match="The acquisition must be auto, gap or thick, not 'box'"):
            enhance(scan, 2, model=model, acquisition="box")
