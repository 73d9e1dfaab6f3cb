"""The reading kit: blinded, complete, and the same voxels that were given."""

from __future__ import annotations

import base64
import json
import re
import zlib

import numpy as np
import pytest

from scans import affine_from, anatomy, layouts, write_dicom_series
from XViewSynthLib import InputError, Volume, write_volume
from XViewSynthLib.cli.main import main
from XViewSynthLib.evaluation.reading_kit import ACQUIRED, KEY, LINEAR, PAGE, Settings, write_kit
from XViewSynthLib.geometry.acquisition import thin


@pytest.fixture
def truth() -> Volume:
    return Volume(anatomy((17, 40, 36)), affine_from((0.8, 0.9, 1.25)), slice_thickness=1.25)


@pytest.fixture
def scan(truth) -> Volume:
    return thin(truth, 4)


@pytest.fixture
def files(tmp_path, scan, truth):
    for name, volume in (("thick", scan), ("fine", truth)):
        write_volume(volume, tmp_path / f"{name}.nrrd")
    return tmp_path


def kit(folder, scan, volumes, seed=1, **settings):
    """Key and voxels (slices, rows, columns) by the names of the methods."""
    folder.mkdir(exist_ok=True)
    write_kit(scan, volumes, folder, Settings(seed, **settings))
    page = (folder / PAGE).read_text(encoding="utf-8")
    key = json.loads((folder / KEY).read_text(encoding="utf-8"))
    shape = json.loads(re.search(r"const kit = (\{.*\});", page)[1])["shape"]
    voxels = {}
    for letter, text in re.findall(r'id="voxels-(\w)">([^<]*)<', page):
        rows = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i2").reshape(shape)
        voxels[key["series"][letter]] = np.cumsum(rows, axis=2, dtype=np.int16)
    return key, voxels


class TestVoxels:
    def test_of_the_finest_volume_are_those_given(self, tmp_path, scan, truth):
        _, voxels = kit(tmp_path, scan, {"truth": truth})
        assert set(voxels) == {ACQUIRED, LINEAR, "truth"}
        assert np.array_equal(np.sort(voxels["truth"], axis=None), np.sort(truth.voxels, axis=None))

    def test_do_not_depend_on_how_the_scan_is_stored(self, tmp_path, scan, truth):
        _, expected = kit(tmp_path, scan, {"truth": truth})
        for stored in list(layouts(truth))[::7]:
            _, voxels = kit(tmp_path, scan, {"truth": stored})
            for name in expected:
                assert np.abs(voxels[name].astype(int) - expected[name]).max() <= 1

    def test_run_down_back_and_to_the_left_of_the_patient(self, tmp_path, scan, truth):
        k, j, i = np.meshgrid(*map(np.arange, truth.voxels.shape), indexing="ij")
        ras = truth.ijk_to_ras(np.stack([i, j, k], axis=-1))
        for axis, dimension in ((2, 0), (1, 1), (0, 2)):
            ramp = truth.with_voxels((ras[..., axis] * 5 - 700).astype(np.int16))
            _, voxels = kit(tmp_path, scan, {"truth": ramp})
            steps = np.diff(voxels["truth"].astype(int), axis=dimension)
            assert (steps < 0).all()

    def test_of_the_scan_as_acquired_are_its_own(self, tmp_path, scan, truth):
        _, voxels = kit(tmp_path, scan, {"truth": truth})
        assert set(np.unique(voxels[ACQUIRED])) <= set(np.unique(scan.voxels))
        assert len(np.unique(voxels[ACQUIRED], axis=0)) == scan.slices("K")
        assert np.array_equal(voxels[ACQUIRED][::4], voxels["truth"][::4])
        assert np.array_equal(voxels[LINEAR][::4], voxels["truth"][::4])
        between = voxels["truth"][[0, 4]].mean(axis=0)
        assert np.abs(voxels[LINEAR][2] - between).max() <= 0.5

    def test_of_a_region(self, tmp_path, scan, truth):
        whole = kit(tmp_path, scan, {"truth": truth})[1]["truth"]
        part = kit(tmp_path, scan, {"truth": truth}, pixels=16)[1]["truth"]
        assert part.shape == (17, 16, 16)
        corner = kit(tmp_path, scan, {"truth": truth}, pixels=16, centre=tuple(truth.ijk_to_ras((0, 0, 0))))[1]["truth"]
        assert any(np.array_equal(corner, whole[:, rows, columns]) for rows in ENDS for columns in ENDS)

    def test_of_a_shorter_volume_limit_the_slices(self, tmp_path, scan, truth):
        short = Volume(truth.voxels[2:12], truth.affine @ shift(2), slice_thickness=1.25)
        _, voxels = kit(tmp_path, scan, {"truth": truth, "short": short})
        assert len(voxels["truth"]) == 10
        assert np.array_equal(voxels["truth"], voxels["short"])

    @pytest.mark.parametrize("order", [1, -1])
    def test_of_a_smaller_field_of_view_limit_the_region(self, tmp_path, scan, truth, order):
        moved = np.eye(4)
        moved[:3, 3] = 4, 6, 0
        small = Volume(truth.voxels[:, 6:36, 4:32], truth.affine @ moved, slice_thickness=1.25)
        volumes = {"truth": truth, "small": small}
        _, voxels = kit(tmp_path, scan, dict(list(volumes.items())[::order]))
        assert voxels["truth"].shape == (17, 30, 28)
        assert np.array_equal(voxels["truth"], voxels["small"])

    def test_of_a_tilted_volume_are_shown_where_all_have_some(self, tmp_path, scan, truth):
        angle = np.radians(3)
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        middle = np.eye(4)
        middle[:3, 3] = truth.ijk_to_ras((np.array(truth.shape_ijk) - 1) / 2)
        tilted = Volume(truth.voxels, middle @ turn @ np.linalg.inv(middle) @ truth.affine, slice_thickness=1.25)
        _, voxels = kit(tmp_path, scan, {"tilted": tilted})
        assert min(voxels["tilted"].shape) > 10

    def test_of_a_page_that_would_be_too_large_are_fewer_slices(self, tmp_path, scan, truth, monkeypatch):
        size = len((tmp_path / PAGE).read_text()) if kit(tmp_path, scan, {"truth": truth}) else 0
        monkeypatch.setattr("XViewSynthLib.evaluation.reading_kit._MOST_CHARACTERS", size // 3)
        _, voxels = kit(tmp_path, scan, {"truth": truth})
        assert 2 <= len(voxels["truth"]) < 10

    def test_outside_of_hu_are_clipped(self, tmp_path, scan, truth):
        wild = truth.with_voxels(np.where(truth.voxels > 0, 30000, truth.voxels).astype(np.int16))
        assert kit(tmp_path, scan, {"truth": wild})[1]["truth"].max() == 3071


ENDS = (slice(0, 16), slice(-16, None))


def shift(slices: int) -> np.ndarray:
    moved = np.eye(4)
    moved[2, 3] = slices
    return moved


class TestBlinding:
    def test_the_page_names_no_method(self, tmp_path, scan, truth):
        kit(tmp_path, scan, {"Secret method": truth, "Another one": truth})
        page = (tmp_path / PAGE).read_text(encoding="utf-8")
        words = re.sub(r">[A-Za-z0-9+/=]{100,}<", "><", page)
        assert not re.search("secret method|another one|acquired|linear", words, re.IGNORECASE)

    def test_the_seed_decides_the_letters(self, tmp_path, scan, truth):
        volumes = dict.fromkeys("uvwxyz", truth)
        keys = [kit(tmp_path, scan, volumes, seed)[0]["series"] for seed in (1, 1, 2)]
        assert keys[0] == keys[1] != keys[2]

    def test_the_order_of_the_volumes_does_not(self, tmp_path, scan, truth):
        first = kit(tmp_path, scan, {"u": truth, "v": scan})[0]["series"]
        assert kit(tmp_path, scan, {"v": scan, "u": truth})[0]["series"] == first

    def test_the_scan_as_acquired_can_be_left_out(self, tmp_path, scan, truth):
        assert set(kit(tmp_path, scan, {"truth": truth}, acquired=False)[1]) == {LINEAR, "truth"}

    def test_without_a_seed_one_is_drawn(self, tmp_path, scan, truth):
        seeds = {kit(tmp_path, scan, {"truth": truth}, None)[0]["seed"] for _ in range(3)}
        assert len(seeds) == 3


class TestRefusals:
    def test_of_a_volume_elsewhere(self, tmp_path, scan, truth):
        far = Volume(truth.voxels, truth.affine @ shift(500))
        with pytest.raises(InputError, match="'far' does not hold the centre"):
            kit(tmp_path, scan, {"truth": truth, "far": far})

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
    def test_of_values_that_are_no_hu(self, tmp_path, scan, truth, value):
        voxels = truth.voxels.astype(np.float32)
        voxels[:, :, 3:] = value
        odd = truth.with_voxels(voxels if value else np.zeros_like(voxels))
        with pytest.raises(InputError, match="The volume 'odd' cannot be shown. The scan has"):
            kit(tmp_path, scan, {"odd": odd})

    def test_of_a_name_that_is_taken(self, tmp_path, scan, truth):
        with pytest.raises(InputError, match="a series 'linear' of its own"):
            kit(tmp_path, scan, {LINEAR: truth})

    def test_of_a_centre_outside(self, tmp_path, scan, truth):
        with pytest.raises(InputError, match="outside of the scan"):
            kit(tmp_path, scan, {"truth": truth}, centre=(1e4, 0, 0))

    @pytest.mark.parametrize("centre", [(float("nan"), 0, 0), (0, float("inf"), 0)])
    def test_of_a_centre_that_is_none(self, tmp_path, scan, truth, centre):
        with pytest.raises(InputError, match="outside of the scan"):
            kit(tmp_path, scan, {"truth": truth}, centre=centre)

    def test_of_more_than_readers_can_compare(self, tmp_path, scan, truth):
        with pytest.raises(InputError, match="at most 10 series, and these are 11"):
            kit(tmp_path, scan, {f"m{number}": truth for number in range(9)})

    def test_of_a_single_slice(self, tmp_path, scan, truth):
        one = Volume(truth.voxels[8:9], truth.affine @ shift(8), slice_thickness=1.25)
        with pytest.raises(InputError, match="fewer than 2 slices in common"):
            kit(tmp_path, scan, {"truth": truth, "one": one})


class TestCommand:
    def run(self, files, *words):
        arguments = ["compare", files / "thick.nrrd", f"truth={files / 'fine.nrrd'}", *words, "--output", files / "kit"]
        return main([str(word) for word in arguments])

    def test_writes_the_page_and_its_key(self, files, capsys):
        assert self.run(files, "--seed", 7) == 0
        assert sorted(path.name for path in (files / "kit").iterdir()) == [KEY, PAGE]
        assert json.loads((files / "kit" / KEY).read_text(encoding="utf-8"))["seed"] == 7
        assert "Give readers reading.html alone" in capsys.readouterr().out

    def test_replaces_a_kit_on_request_alone(self, files, capsys):
        assert self.run(files) == 0
        assert self.run(files) == 2
        assert self.run(files, "--overwrite") == 0

    def test_of_a_patient_says_nothing(self, files, scan):
        write_dicom_series(files / "series", scan, PatientName="Quux^Eva", PatientID="zzqx77")
        words = ["compare", files / "series", f"x={files / 'fine.nrrd'}", "--output", files / "kit"]
        assert main([str(word) for word in words]) == 0
        for path in (files / "kit").iterdir():
            assert not re.search("quux|zzqx77|series/|thick|fine", path.read_text(encoding="utf-8"), re.IGNORECASE)

    @pytest.mark.parametrize("words", [("--seed", "-1"), ("--seed", "x"), ("--pixels", "8"), ("--pixels", "9" * 40)])
    def test_numbers_that_are_none_are_refused(self, files, words, capsys):
        assert self.run(files, *words) == 2
        assert "must be a whole number from" in capsys.readouterr().err

    def test_one_name_twice_is_refused(self, files, capsys):
        assert self.run(files, f"truth={files / 'thick.nrrd'}") == 2
        assert "Two volumes are called 'truth'" in capsys.readouterr().err
        assert not (files / "kit").exists()
