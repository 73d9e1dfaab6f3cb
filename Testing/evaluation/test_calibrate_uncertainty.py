"""`Testing/tools/calibrate_uncertainty.py`: what it puts on a card, and which networks it asks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scans import affine_from, anatomy
from tiny import NETWORK, UNCERTAINTY, make_card, make_network
from tools import calibrate_uncertainty
from XViewSynthLib import Volume, enhance, write_volume
from XViewSynthLib.inference.uncertainty import TERMS, Calibration
from XViewSynthLib.model.catalogue import load_model, save_model

WIDE = {"fusion_blocks": 1, "wide_gaps": 4, "specialists": {"4": {"fusion_blocks": 1}}}


@pytest.fixture
def folder(tmp_path):
    """Of a model whose networks for x4 answer for all factors where gaps are wide."""
    card = make_card(network=NETWORK | WIDE, doubt={"factors": UNCERTAINTY["factors"]})
    return save_model(tmp_path / "small", make_network(**WIDE), card).folder


@pytest.fixture
def scans(tmp_path):
    """One that leaves narrow gaps when it loses every second slice, and one that leaves wide ones."""
    paths = []
    for name, spacing in (("close", 0.8), ("far", 1.5)):
        paths.append(tmp_path / f"{name}.nrrd")
        write_volume(Volume(anatomy((21, 24, 24)), affine_from((0.5, 0.5, spacing))), paths[-1])
    return paths


def calibrate(monkeypatch, folder, scans, *factors: int) -> dict:
    chosen = [word for factor in factors for word in ("--factor", str(factor))]
    monkeypatch.setattr("sys.argv", ["calibrate_uncertainty.py", str(folder), *map(str, scans), *chosen])
    calibrate_uncertainty.main()
    return json.loads((folder / "card.json").read_text())["doubt"]


def test_each_network_has_its_own_and_what_is_read_off_has_another(monkeypatch, folder, scans, capsys):
    uncertainty = calibrate(monkeypatch, folder, scans, 2, 4)
    assert uncertainty["terms"] == list(TERMS)
    assert uncertainty["scans"] == ["close", "far"]
    # What the card said of other terms is gone.
    assert (list(uncertainty["factors"]), list(uncertainty["read_off_factors"])) == (["2", "4"], ["2"])
    assert uncertainty["factors"]["2"] != uncertainty["read_off_factors"]["2"]
    told = capsys.readouterr().out
    assert told.count("x4 close, factors: the calibration by the other scans covers") == 1
    # One scan alone has no others.
    assert "x2" not in told


def test_a_network_without_scans_of_its_own_is_calibrated_on_all(monkeypatch, folder, scans):
    alone = calibrate(monkeypatch, folder, scans[1:], 2)
    assert (list(alone["factors"]), list(alone["read_off_factors"])) == (["2"], ["2"])
    assert alone["factors"]["2"] != alone["read_off_factors"]["2"]


def test_other_factors_keep_what_the_card_says(monkeypatch, folder, scans):
    first = calibrate(monkeypatch, folder, scans, 2)
    second = calibrate(monkeypatch, folder, scans[:1], 4)
    assert second["factors"].pop("4")
    assert second == first


def test_the_networks_of_a_factor_also_predict_wide_gaps(folder):
    model = load_model(folder)
    far = Volume(anatomy((8, 24, 24)), affine_from((0.5, 0.5, 3.0)))
    own, read_off = (enhance(far, 2, model=each) for each in (calibrate_uncertainty.with_own_networks(model), model))
    assert (own.plan.network_factor, read_off.plan.network_factor) == (2, 4)
    assert not np.array_equal(own.volume.voxels, read_off.volume.voxels)


def test_what_is_fitted_keeps_its_promise(monkeypatch, folder, scans):
    calibrate(monkeypatch, folder, scans[:1], 2)
    model = load_model(folder)
    trial = calibrate_uncertainty.drop_slices(calibrate_uncertainty.read_volume(scans[0]), 2)
    drawn = calibrate_uncertainty.draw(trial, model)
    calibration = Calibration.from_card(model.card, 2)
    scale = np.sqrt(drawn[:, :3] @ np.array(calibration.weights, np.float32))
    bound = calibration.error_bound(calibration.expected_error(scale))
    assert (drawn[:, 3] <= bound).mean() == pytest.approx(0.9, abs=0.03)
