"""Parts of scans lie where they lay, however the scan was stored."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scans import affine_from, anatomy, directions, layouts
from XViewSynthLib import Volume
from XViewSynthLib.geometry.orientation import to_slices
from XViewSynthTrainLib.regions import middle_of, part_of, split_slices

SCAN = Volume(anatomy((9, 14, 12)), affine_from(), 3.0)


def places(volume: Volume) -> dict[tuple, int]:
    """The value at every place in the patient, in 1e-6 mm."""
    k, j, i = np.indices(volume.voxels.shape)
    points = volume.ijk_to_ras(np.stack([i, j, k], axis=-1)).reshape(-1, 3)
    return dict(zip(map(tuple, (points / 1e-6).round().astype(int).tolist()), volume.voxels.ravel().tolist()))


class TestPart:
    @given(directions(), st.integers(0, 4), st.integers(5, 9), st.integers(0, 6), st.integers(7, 14))
    def test_every_voxel_keeps_its_place(self, turned, first, last, top, bottom):
        scan = Volume(SCAN.voxels, affine_from(directions=turned))
        part = part_of(scan, "K", slice(first, last), slice(top, bottom))
        assert part.slices("K") == last - first
        points = part.ijk_to_ras(np.argwhere(np.ones(part.shape_ijk)))
        indices = scan.ras_to_ijk(points)
        assert np.allclose(indices, indices.round(), atol=1e-6)
        i, j, k = indices.round().astype(int).T
        assert np.array_equal(scan.voxels[k, j, i], part.voxels.transpose(2, 1, 0).ravel())

    def test_is_the_same_however_the_scan_is_stored(self):
        part = places(part_of(SCAN, "K", slice(2, 7), slice(3, 10), slice(1, 5)))
        for stored in layouts(SCAN):
            axis = stored.through_plane_axis
            assert places(part_of(stored, axis, slice(2, 7), slice(3, 10), slice(1, 5))) == part

    def test_the_slice_thickness_stays(self):
        assert part_of(SCAN, "K", slice(2, 7)).slice_thickness == 3.0


class TestMiddle:
    def test_is_cut_from_every_slice(self):
        middle = middle_of(SCAN, "K", 6)
        assert middle.voxels.shape == (9, 6, 6)
        assert np.array_equal(middle.voxels, SCAN.voxels[:, 4:10, 3:9])

    def test_of_a_small_slice_is_all_of_it(self):
        assert middle_of(SCAN, "K", 13).voxels.shape == (9, 13, 12)


class TestSplit:
    def test_no_slice_is_lost_or_shared(self):
        lower, upper = split_slices(SCAN, "K", 0.4)
        assert (lower.slices("K"), upper.slices("K")) == (5, 4)
        assert np.array_equal(np.concatenate([lower.voxels, upper.voxels]), SCAN.voxels)

    def test_upper_is_towards_the_head_in_every_orientation(self):
        for stored in layouts(SCAN):
            axis = stored.through_plane_axis
            lower, upper = split_slices(stored, axis, 0.4)
            heights = [to_slices(part, axis)[0].shape[0] for part in (lower, upper)]
            assert heights == [5, 4]
            assert max(place[2] for place in places(lower)) < min(place[2] for place in places(upper))
