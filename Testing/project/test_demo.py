"""`python3 run.py demo`, on a small scan with a small model."""

from __future__ import annotations

import json

import pytest

import demo
from tiny import make_card, make_network
from XViewSynthLib import Cancelled, InputError, read_volume, write_volume
from XViewSynthLib.model.catalogue import save_model

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "small", make_network(), make_card())
    return tmp_path / "small"


@pytest.fixture(autouse=True)
def sample(tmp_path, thin_scan, monkeypatch):
    """The small scan, in the place of the bundled one."""
    write_volume(thin_scan, tmp_path / "sample.nrrd")
    monkeypatch.setattr(demo, "SAMPLE", tmp_path / "sample.nrrd")


class TestDemo:
    def test_everything_is_written_and_printed(self, tmp_path, model, thin_scan, capsys):
        folder = tmp_path / "out"
        assert demo.main([str(folder), "--model", str(model)]) == 0
        told = capsys.readouterr().out
        names = ["comparison.png", "enhanced.nrrd", "observed.nrrd", "report.json", "uncertainty.nrrd"]
        assert sorted(path.name for path in folder.iterdir()) == names
        assert all(name in told for name in [*names, str(folder), "over linear", "over cubic"])
        enhanced, observed = (read_volume(folder / name) for name in ("enhanced.nrrd", "observed.nrrd"))
        assert enhanced.shape_ijk == thin_scan.shape_ijk
        assert (enhanced.voxels[::4] == observed.voxels).all()

    def test_the_report_shows_the_gain_of_each_method(self, tmp_path, model):
        demo.main([str(tmp_path / "out"), "--model", str(model)])
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert list(report["methods"]) == ["linear", "cubic", "sinc", "enhanced"]
        for scores in report["methods"].values():
            assert scores["gain_over_linear_db"] == scores["psnr_db"] - report["methods"]["linear"]["psnr_db"]
        assert report["synthetic_slices"] == [index for index in range(33) if index % 4]

    def test_a_second_run_replaces_the_first(self, tmp_path, model):
        arguments = [str(tmp_path / "out"), "--model", str(model)]
        assert [demo.main(arguments), demo.main(arguments)] == [0, 0]

    def test_a_missing_model_is_one_sentence(self, tmp_path, capsys):
        assert demo.main([str(tmp_path / "out"), "--model", "absent"]) == 2
        assert capsys.readouterr().err.startswith("error: There is no model 'absent'")
        assert not (tmp_path / "out").exists()

    def test_a_stop_leaves_nothing(self, tmp_path, model):
        with pytest.raises(Cancelled):
            demo.demonstrate(tmp_path / "out", str(model), lambda: True)
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_cannot_be_created_is_reported(self, tmp_path, model):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="Cannot make the folder"):
            demo.demonstrate(tmp_path / "file", str(model), lambda: False)
