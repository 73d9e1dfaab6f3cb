"""Structures of a phantom: what is found, and how far results agree."""

from __future__ import annotations

import numpy as np
import pytest

from XViewSynthLib.evaluation.metrics import Reference, make_reference
from XViewSynthLib.evaluation.structures import AIRWAYS, BODY, BONE, LUNGS, VESSELS, Anatomy
from XViewSynthLib.geometry.volume import Volume

SHAPE, MM = (41, 100, 110), 1.0


def phantom(bone_radius: float = 7.0, vessels: int = 6, rows: float = 0.0) -> np.ndarray:
    """(slices, rows, columns) HU: a body in air, moved by `rows`, with lungs, an airway, a bone and straight vessels.

    One voxel is a cubic millimetre.
    """
    _, j, i = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in SHAPE), indexing="ij")
    j -= rows
    hu = np.full(SHAPE, -1000.0)
    hu[((j - 50) / 42) ** 2 + ((i - 55) / 48) ** 2 < 1] = 40
    for middle in (35, 75):
        hu[((j - 45) / 22) ** 2 + ((i - middle) / 13) ** 2 < 1] = -860
    hu[(j - 40) ** 2 + (i - 35) ** 2 < 36] = -1000
    for number in range(vessels):
        middle = 70 + 5 * (number % 3)
        hu[(j - 35 - 12 * (number // 3)) ** 2 + (i - middle) ** 2 < 3] = 40
    hu[(j - 80) ** 2 + (i - 55) ** 2 < bone_radius**2] = 700
    return hu


def volume(hu: np.ndarray) -> Volume:
    return Volume(hu.astype(np.int16), np.diag([MM, MM, MM, 1.0]))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return make_reference(volume(phantom()), 4, "K")


@pytest.fixture(scope="module")
def anatomy(reference) -> Anatomy:
    return Anatomy(reference)


class TestTruth:
    def test_holds_all_structures(self, anatomy):
        assert anatomy.missing == {}
        new_slices = 30
        assert anatomy.volumes_ml[BONE] == pytest.approx(np.pi * 49 * new_slices / 1000, rel=0.1)
        assert anatomy.volumes_ml[BODY] == pytest.approx(np.pi * 42 * 48 * new_slices / 1000, rel=0.02)
        assert anatomy.volumes_ml[AIRWAYS] == pytest.approx(np.pi * 36 * new_slices / 1000, rel=0.2)
        assert anatomy.pieces == 6

    def test_agrees_with_itself(self, anatomy, reference):
        for name, agreement in anatomy.compare(reference.volume).items():
            assert (agreement.dice, agreement.mean_distance_mm, agreement.distance_95_mm) == (1, 0, 0), name
            assert agreement.volume_error_percent == 0
        assert anatomy.compare(reference.volume)[VESSELS].pieces == 6

    def test_structures_that_it_lacks_are_left_out_with_a_reason(self):
        scan = phantom(bone_radius=0, vessels=0)
        anatomy = Anatomy(make_reference(volume(np.where(scan < -900, -1000, np.maximum(scan, 0))), 4, "K"))
        assert set(anatomy.missing) == {BONE, LUNGS, AIRWAYS, VESSELS}
        assert anatomy.missing[BONE] == "the new slices of the truth hold 0 ml, and 1 ml are needed"
        assert set(anatomy.compare(volume(scan))) == {BODY}

    def test_a_body_that_fills_the_field_of_view_has_no_surface(self):
        anatomy = Anatomy(make_reference(volume(np.full(SHAPE, 40.0)), 4, "K"))
        assert "no surface" in anatomy.missing[BODY]


class TestAgreement:
    def test_a_larger_bone(self, anatomy):
        agreement = anatomy.compare(volume(phantom(bone_radius=9)))[BONE]
        before, after = (np.count_nonzero(phantom(bone_radius=radius)[0] > 200) for radius in (7, 9))
        assert agreement.volume_error_percent == pytest.approx(100 * (after / before - 1))
        assert agreement.dice == pytest.approx(2 * before / (before + after))
        assert agreement.mean_distance_mm == pytest.approx(2, abs=0.3)
        assert agreement.distance_95_mm == pytest.approx(2, abs=0.5)

    def test_a_moved_body(self, anatomy):
        agreement = anatomy.compare(volume(phantom(rows=2)))[BODY]
        assert agreement.volume_error_percent == pytest.approx(0, abs=1)
        assert agreement.distance_95_mm == pytest.approx(2, abs=0.3)
        assert 0.8 < agreement.mean_distance_mm < 2

    def test_vessels_that_break_into_pieces(self, anatomy):
        scan = phantom()
        lung = phantom(vessels=0)
        scan[20:22] = lung[20:22]
        agreement = anatomy.compare(volume(scan))[VESSELS]
        assert agreement.pieces == 12
        assert agreement.volume_error_percent == pytest.approx(-100 / 30, abs=0.5)

    def test_a_structure_that_is_lost(self, anatomy):
        agreement = anatomy.compare(volume(phantom(vessels=0)))[VESSELS]
        assert (agreement.dice, agreement.mean_distance_mm, agreement.distance_95_mm) == (0, None, None)
        assert (agreement.volume_error_percent, agreement.pieces) == (-100, 0)

    def test_observed_slices_count_neither_overlap_nor_volume(self, anatomy):
        scan = phantom()
        scan[::4] = phantom(bone_radius=9)[::4]
        agreement = anatomy.compare(volume(scan))[BONE]
        assert (agreement.dice, agreement.volume_error_percent) == (1, 0)
