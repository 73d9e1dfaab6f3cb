"""The report of a training run: what it says, what it never says, and that it survives what is missing."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from scans import affine_from, anatomy, layouts
from XViewSynthLib import InputError, Volume, write_volume
from XViewSynthLib.geometry.acquisition import thin
from XViewSynthLib.geometry.interpolation import upsample
from XViewSynthTrainLib import figures
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthTrainLib.report import write_report

pytestmark = pytest.mark.slow

NAME = "MÜLLER_HANS"
VOID = {"meta", "img", "br", "hr", "link", "input"}


def gain(linear: float, cubic: float) -> dict[str, float]:
    return {"over_linear_db": linear, "over_cubic_db": cubic, "over_better_db": min(linear, cubic)}


def make_report(**changes) -> dict:
    return {
        "status": "finished",
        "message": "'lungs' restores the held-out slices 0.42 dB better than the model it started from.",
        "beats_start": True,
        "before": {"2": gain(2.0, 1.5), "4": gain(3.0, 2.5)},
        "after": {"2": gain(2.5, 2.0), "4": gain(3.3, 2.8)},
        "best_step": 40,
        "steps": 60,
        "seconds": 75.0,
        "training_scans": [{"slices": 60, "slice_spacing_mm": 2.5, "name": NAME}],
        "held_out_scans": [{"slices": 30, "slice_spacing_mm": 2.5}],
        "model": {"name": "lungs", "version": "1.0.0", "sha256": "ab" * 32},
    } | changes


def log_lines() -> list[dict]:
    losses = [
        {"kind": "loss", "step": step, "seconds": step, "learning_rate": 1e-3 / step, "loss": {"views": 1 / step}}
        for step in (20, 40, 60)
    ]
    losses[-1]["loss"]["distillation"] = 0.01
    gains = [
        {"kind": "gain", "step": step, "seconds": step, "gain": {"2": gain(2 + step / 100, 1.5)}, "mean_gain_db": 1.5}
        for step in (0, 40, 60)
    ]
    return [*gains[:1], *losses, *gains[1:], {"kind": "note", "step": 50, "message": "Halved the learning rate."}]


def make_run(parent: Path) -> Path:
    """A run folder with settings and the names of its scans, without log and preview, which take time to draw."""
    folder = parent / f"run of {NAME}"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TrainingConfig(gamma=0.125).to_dict()))
    write_study(folder, training=[f"/data/{NAME}/{NAME}.nii.gz"], held_out=[f"/data/{NAME}/held.nrrd"])
    return folder


def write_study(folder: Path, **paths: list[str]) -> None:
    (folder / "scans.json").write_text(json.dumps(paths))


def write_log(folder: Path, *more: dict) -> None:
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (*log_lines(), *more)))


@pytest.fixture
def run(tmp_path) -> Path:
    return make_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    """The page of a run that has everything."""
    run = make_run(tmp_path_factory.mktemp("whole"))
    write_log(run)
    write_preview(run)
    return page_of(run)


def write_preview(folder, truth: Volume | None = None, names=tuple(figures.PREVIEW)) -> None:
    """A preview at a factor of 2: linear stands for before, cubic for now."""
    truth = truth or Volume(anatomy((17, 40, 36)), affine_from((0.8, 0.8, 2.0)))
    observed = thin(truth, 2, "K")
    volumes = {
        "observed": truth.with_voxels(np.repeat(observed.voxels, 2, axis=0)[:17]),
        "before": upsample(observed, 2, "K", "linear"),
        "now": upsample(observed, 2, "K", "cubic"),
        "truth": truth,
    }
    (folder / "preview").mkdir(exist_ok=True)
    for name in names:
        write_volume(volumes[name], folder / "preview" / f"{name}.nrrd")


class Page(HTMLParser):
    """A page as a browser meets it: its text, its images, and whether every element is closed."""

    def __init__(self, source: str):
        super().__init__()
        self.open, self.text, self.images, self.links = [], [], {}, []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images[attrs["alt"]] = attrs["src"]
        self.links += [value for key, value in attrs.items() if key in ("href", "src", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page_of(run, **changes) -> Page:
    write_report(run, make_report(**changes))
    return Page((run / "report.html").read_text(encoding="utf-8"))


class TestFiles:
    def test_json_is_what_was_given(self, run):
        write_report(run, make_report())
        assert json.loads((run / "report.json").read_text()) == make_report()

    def test_json_has_none_for_what_is_not_finite(self, run):
        write_report(run, make_report(after={"2": gain(float("inf"), float("nan"))}))
        told = json.loads((run / "report.json").read_text())
        assert told["after"]["2"]["over_linear_db"] is None

    def test_former_reports_are_replaced_and_nothing_else_is_left(self, run):
        before = {path.name for path in run.iterdir()}
        write_report(run, make_report())
        write_report(run, make_report(message="Second."))
        assert {path.name for path in run.iterdir()} == before | {"report.json", "report.html"}
        assert json.loads((run / "report.json").read_text())["message"] == "Second."

    def test_a_missing_folder_is_reported(self, tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            write_report(tmp_path / "missing", make_report())


class TestPage:
    def test_every_element_is_closed(self, page):
        assert page.open == []

    def test_nothing_is_fetched(self, page):
        assert page.links
        assert all(link.startswith("data:image/") for link in page.links)

    def test_verdict_and_what_it_means(self, page):
        assert "0.42 dB better than the model it started from" in page.words
        # 10 ** (-2.4 / 20) is 0.76.
        assert "its typical error (root mean square) is 24 % smaller" in page.words
        assert "This was measured on 1 scan." in page.words
        assert "not a diagnosis" in page.words

    def test_gains_before_and_after(self, page):
        assert "x4 over cubic +2.50 dB +2.80 dB +0.30 dB" in page.words

    def test_settings_counts_and_notes(self, page):
        assert "γ, share of the smallest differences that views distil 0.125" in page.words
        assert "scans slices mm apart 1 60 2.5" in page.words
        assert "50 Halved the learning rate." in page.words

    def test_curves_and_picture(self, page):
        assert set(page.images) == {
            "Held-out gain",
            "Loss",
            "Learning rate",
            "Held-out slices before and after training",
        }

    def test_a_run_in_vain_says_so(self, run):
        assert "Training gave no improvement" in page_of(run, beats_start=False).words

    def test_a_model_behind_interpolation_is_not_recommended(self, run):
        words = page_of(run, beats_start=None, after={"2": gain(-1.0, -2.0)}).words
        assert "is 26 % larger" in words
        assert "Do not use this model" in words

    def test_without_held_out_scans_nothing_is_claimed(self, run):
        words = page_of(run, beats_start=None, before={}, after={}, held_out_scans=[]).words
        assert "the quality of the model is unknown" in words
        assert "smaller" not in words

    def test_slices_of_the_same_scan_are_the_easiest_case(self, run):
        write_study(run, training=["only.nrrd"], held_out=[])
        assert "other slices of the scan that it was trained on" in page_of(run).words


@pytest.fixture(scope="module")
def revealing(tmp_path_factory) -> tuple[Path, str]:
    """A run whose every text names the patient, and its page, decoded pictures included."""
    run = make_run(tmp_path_factory.mktemp("private"))
    write_preview(run)
    write_log(run, {"kind": "note", "step": 9, "message": f"/data/{NAME}/{NAME}.nii.gz cannot be read; see {run}."})
    write_report(run, make_report(message=f"{NAME}.nii.gz was odd."))
    page = (run / "report.html").read_text(encoding="utf-8")
    pictures = re.findall(r'src="data:image/[^;]+;base64,([^"]+)"', page)
    return run, page + "".join(base64.b64decode(picture).decode("utf-8", "replace") for picture in pictures)


class TestPrivacy:
    def test_no_name_of_a_file_or_folder(self, revealing):
        _, source = revealing
        assert "cannot be read" in source
        assert NAME not in source
        assert "/data/" not in source

    def test_no_time_and_no_path_of_this_machine(self, revealing):
        run, source = revealing
        assert str(run.parent) not in source
        assert "dc:date" not in source

    def test_markup_in_texts_stays_text(self, run):
        evil = "<script>alert('x')</script>"
        page = page_of(run, message=evil, model={"name": evil, "version": evil, "sha256": evil})
        assert evil in page.words
        assert "<script" not in (run / "report.html").read_text(encoding="utf-8")


class TestMissing:
    def test_preview(self, run):
        assert "no preview of held-out slices" in page_of(run).words

    @pytest.mark.parametrize("missing", ["observed", "before", "now"])
    def test_one_volume_of_the_preview(self, run, missing):
        write_preview(run, names=[name for name in figures.PREVIEW if name != missing])
        assert "Held-out slices before and after training" in page_of(run).images

    def test_truth_of_the_preview(self, run):
        write_preview(run, names=["observed", "before", "now"])
        assert "no preview of held-out slices" in page_of(run).words

    def test_damaged_preview(self, run):
        write_preview(run)
        (run / "preview" / "now.nrrd").write_bytes(b"NRRD0004\n")
        assert "no preview of held-out slices" in page_of(run).words

    @pytest.mark.parametrize("content", [None, "", '{"kind": "loss", "st'])
    def test_log(self, run, content):
        if content is not None:
            (run / "log.jsonl").write_text(content)
        assert "Nothing was logged." in page_of(run).words

    def test_everything_but_the_folder(self, tmp_path):
        write_report(tmp_path, {})
        assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).open == []

    def test_gains_that_are_no_numbers(self, run):
        unknown = dict.fromkeys(gain(0, 0))
        write_log(run, {"kind": "gain", "step": 60, "seconds": 1, "gain": {"2": unknown}})
        assert "x2 over linear +2.00 dB – –" in page_of(run, after={"2": unknown}).words


class TestPicture:
    @pytest.fixture
    def drawn(self, monkeypatch):
        """Figures that were drawn, and not only their pixels."""
        kept, save = [], figures._png
        monkeypatch.setattr(figures, "_png", lambda figure: (kept.append(figure), save(figure))[1])
        return kept

    def test_columns_and_rows(self, run, drawn):
        write_preview(run)
        figures.before_and_after(run / "preview", 2)
        axes = drawn[0].axes[:12]
        assert [plot.get_title().splitlines()[0] for plot in axes[:4]] == list(figures.PREVIEW.values())
        assert [plot.get_ylabel() for plot in axes[::4]] == ["coronal", "detail", "error of the detail"]

    def test_mean_error_is_that_of_new_slices_in_the_body(self, run, drawn):
        write_preview(run)
        figures.before_and_after(run / "preview", 2)
        told = [re.search(r"mean error (\S+) HU", plot.get_title()) for plot in drawn[0].axes[:3]]
        observed, linear, _cubic = (float(match.group(1)) for match in told)
        assert 0 < linear < observed

    def test_same_picture_however_the_preview_is_stored(self, tmp_path):
        made = []
        for number, stored in enumerate([*layouts(Volume(anatomy((17, 40, 36)), affine_from((0.8, 0.8, 2.0))))][5::17]):
            folder = tmp_path / str(number)
            folder.mkdir()
            for name in ("before", "truth"):
                write_volume(stored, folder / f"{name}.nrrd")
            made.append(figures.before_and_after(folder, 2))
        assert len(set(made)) == 1

    def test_a_volume_on_another_grid_is_refused(self, run):
        write_preview(run)
        (run / "preview" / "now.nrrd").unlink()
        write_volume(Volume(anatomy((9, 40, 36)), affine_from()), run / "preview" / "now.nrrd")
        with pytest.raises(InputError):
            figures.before_and_after(run / "preview", 2)
