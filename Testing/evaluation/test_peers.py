"""Other methods in a benchmark: what other programs are given, and how what they make of it is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scans import affine_from, anatomy, stored_as
from tiny import make_card, make_network
from XViewSynthLib import Volume, read_volume, write_volume
from XViewSynthLib.cli.main import main
from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.evaluation.benchmark import Benchmark, run_bench
from XViewSynthLib.evaluation.peers import make_peers, read_restored, thinned_name, write_thinned
from XViewSynthLib.evaluation.registration import upsample_by_registration
from XViewSynthLib.evaluation.selfcheck import Thinning, Trial, drop_slices
from XViewSynthLib.evaluation.tables import to_markdown
from XViewSynthLib.geometry.acquisition import average, thin
from XViewSynthLib.geometry.interpolation import upsample
from XViewSynthLib.model.catalogue import Model, save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def scans(folder) -> list[Path]:
    paths = [folder / "first.nrrd", folder / "second.nii.gz"]
    for seed, path in enumerate(paths):
        write_volume(Volume(anatomy((14, 32, 30), seed), affine_from((0.8, 0.8, 1.0))), path)
    return paths


@pytest.fixture(scope="module")
def trial(scans) -> Trial:
    return drop_slices(read_volume(scans[0]), 4)


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return save_model(folder / "small", make_network(), make_card())


@pytest.fixture(scope="module")
def thinned(folder, scans) -> list[Path]:
    return write_thinned(scans, Thinning([2, 4]), folder / "thinned")


@pytest.fixture(scope="module")
def restored(folder, thinned) -> Path:
    """What some program makes of every thinned scan: linear interpolation in halves of a HU, as float."""
    place = folder / "restored"
    place.mkdir()
    for path in thinned:
        answer = upsample(read_volume(path), int(path.stem[-1]), "K", "linear")
        write_volume(answer, place / path.name)
    return place


@pytest.fixture(scope="module")
def report(folder, scans, model, restored) -> dict:
    benchmark = Benchmark(scans, [2, 4], [model], peers=["registration"], volumes={"theirs": restored})
    return run_bench(benchmark, folder / "out", device="cpu")


class TestThinned:
    def test_name(self):
        assert thinned_name(Path("a/chest.v2.nii.gz"), 4) == "chest.v2.x4"
        assert thinned_name(Path("a/series"), 2) == "series.x2"
        assert thinned_name(Path("a/\x1b[2J.nrrd"), 5, "thick") == "%1B[2J.x5.thick"

    def test_a_file_for_every_scan_and_factor(self, thinned):
        assert [path.name for path in thinned] == [
            "first.x2.nrrd", "first.x4.nrrd", "second.x2.nrrd", "second.x4.nrrd",
        ]  # fmt: skip

    def test_is_what_the_benchmark_gives_every_method(self, thinned, trial):
        written = read_volume(thinned[1])
        assert np.array_equal(written.voxels, trial.observed.voxels)
        assert np.allclose(written.affine, trial.observed.affine, atol=1e-5)
        assert written.voxels.dtype == np.int16

    def test_other_format(self, tmp_path, scans):
        (path,) = write_thinned(scans[:1], Thinning([2]), tmp_path, suffix=".nii.gz")
        assert path.name == "first.x2.nii.gz"
        assert np.array_equal(read_volume(path).voxels, thin(read_volume(scans[0]), 2).voxels)

    def test_averages_have_a_name_of_their_own(self, tmp_path, scans):
        (path,) = write_thinned(scans[:1], Thinning([3], acquisition="thick"), tmp_path)
        assert path.name == "first.x3.thick.nrrd"
        assert np.array_equal(read_volume(path).voxels, average(read_volume(scans[0]), 3).voxels)

    def test_existing_files_are_kept(self, thinned, scans, folder):
        with pytest.raises(InputError, match="--overwrite"):
            write_thinned(scans, Thinning([2]), folder / "thinned")

    def test_two_scans_of_one_name(self, tmp_path, scans):
        with pytest.raises(InputError, match="Two scans or factors lead to"):
            write_thinned([scans[0], Path("other") / "first.nrrd"], Thinning([2]), tmp_path)

    def test_scan_that_is_too_short_is_named_and_nothing_is_written(self, tmp_path, scans):
        with pytest.raises(InputError, match="first.nrrd: The scan has 14 slices"):
            write_thinned(scans, Thinning([2, 5]), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_folder_that_cannot_be_made(self, tmp_path, scans):
        with pytest.raises(InputError, match="Cannot make the folder"):
            write_thinned(scans, Thinning([2]), tmp_path / "none" / "out")

    def test_unknown_format(self, tmp_path, scans):
        with pytest.raises(InputError, match="no ending that can be written"):
            write_thinned(scans, Thinning([2]), tmp_path, suffix=".png")

    def test_stopped_leaves_nothing(self, tmp_path, scans):
        def stop():
            raise Cancelled("Stopped.")

        with pytest.raises(Cancelled):
            write_thinned(scans, Thinning([2]), tmp_path, check=stop)
        assert list(tmp_path.iterdir()) == []


class TestRestored:
    @pytest.fixture
    def answer(self, trial) -> Volume:
        return upsample(trial.observed, 4, "K", "cubic")

    def test_lies_on_the_grid_of_the_truth(self, tmp_path, trial, answer):
        write_volume(answer, tmp_path / "a.nii.gz")
        found = read_restored(tmp_path / "a.nii.gz", trial)
        assert np.array_equal(found.affine, trial.reference.volume.affine)
        assert np.array_equal(found.voxels, answer.voxels)

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
    @pytest.mark.parametrize("flips", [(True, False, False), (False, True, True)])
    def test_axes_in_another_order_and_direction(self, tmp_path, trial, answer, order, flips):
        write_volume(stored_as(answer, order, flips), tmp_path / "a.nrrd")
        assert np.array_equal(read_restored(tmp_path / "a.nrrd", trial).voxels, answer.voxels)

    def test_too_few_slices(self, tmp_path, trial, answer):
        write_volume(answer.with_voxels(answer.voxels[:12]), tmp_path / "a.nrrd")
        with pytest.raises(InputError, match=r"30 x 32 x 12 voxels where 30 x 32 x 13 .* 4 x \(4 - 1\) \+ 1 slices"):
            read_restored(tmp_path / "a.nrrd", trial)

    @pytest.mark.parametrize("shift", [(0.2, 0, 0), (0, 0, -1.0)])
    def test_beside_the_scan(self, tmp_path, trial, answer, shift):
        affine = answer.affine.copy()
        affine[:3, 3] += shift
        write_volume(Volume(answer.voxels, affine), tmp_path / "a.nrrd")
        with pytest.raises(InputError, match="mm beside the scan: .* slices 1 mm apart"):
            read_restored(tmp_path / "a.nrrd", trial)

    def test_wrong_spacing(self, tmp_path, trial, answer):
        write_volume(Volume(answer.voxels, answer.affine @ np.diag([1, 1, 4, 1])), tmp_path / "a.nrrd")
        with pytest.raises(InputError, match="lies up to 36 mm beside the scan"):
            read_restored(tmp_path / "a.nrrd", trial)

    def test_turned_between_the_axes(self, tmp_path, trial, answer):
        # Turned about I, J and K so far that two of the truth's axes are nearest to the same one of its own.
        turned = np.eye(3)
        for axis, degrees in enumerate((50, 30, 45)):
            first, second = [(1, 2), (2, 0), (0, 1)][axis]
            step = np.eye(3)
            step[[first, second], [first, second]] = np.cos(np.radians(degrees))
            step[second, first], step[first, second] = np.sin(np.radians(degrees)), -np.sin(np.radians(degrees))
            turned = step @ turned
        write_volume(Volume(answer.voxels, affine_from((0.8, 0.8, 1.0), turned)), tmp_path / "a.nrrd")
        with pytest.raises(InputError, match="a.nrrd is turned against the scan"):
            read_restored(tmp_path / "a.nrrd", trial)

    def test_another_unit_than_hu(self, tmp_path, trial, answer):
        write_volume(answer.with_voxels((answer.voxels + 1024) / 4096), tmp_path / "a.nrrd")
        with pytest.raises(InputError, match="HU off on average where slices were given"):
            read_restored(tmp_path / "a.nrrd", trial)

    def test_numbers_that_are_none(self, tmp_path, trial, answer):
        voxels = answer.voxels.copy()
        voxels[3, 5, 5] = np.nan
        write_volume(answer.with_voxels(voxels), tmp_path / "a.nrrd")
        with pytest.raises(InputError, match="NaN or infinite"):
            read_restored(tmp_path / "a.nrrd", trial)


class TestBench:
    def test_every_run_has_the_peers(self, report):
        assert [list(run["peers"]) for run in report["runs"]] == [["registration", "theirs"]] * 4

    def test_the_volume_is_measured_on_the_same_voxels(self, report):
        for run in report["runs"]:
            linear, theirs = run["baselines"]["linear"], run["peers"]["theirs"]
            for key in ("psnr_db", "mae_hu", "ssim", "noise_ratio", "gain_over_better_db"):
                assert theirs[key] == pytest.approx(linear[key], rel=1e-6)
            assert theirs["seconds"] is None

    def test_registration_is_the_one_of_the_library(self, report, trial):
        from XViewSynthLib.evaluation import metrics

        by_hand = metrics.score(trial.reference, upsample_by_registration(trial.observed, 4, trial.axis))
        entry = report["runs"][1]["peers"]["registration"]
        assert entry["psnr_db"] == pytest.approx(by_hand.psnr_db)
        assert entry["seconds"] > 0

    def test_summary_has_their_mean_gains(self, report):
        for entry in report["summary"]:
            found = [run for run in report["runs"] if run["factor"] == entry["factor"]]
            for name in ("registration", "theirs"):
                mean = np.mean([run["peers"][name]["gain_over_cubic_db"] for run in found])
                assert entry["mean_gains"][name]["gain_over_cubic_db"] == pytest.approx(mean)

    def test_tables_show_them_with_the_gain_over_them(self, report):
        text = to_markdown(report)
        assert text.count("| registration |") == text.count("| theirs |") == 6
        gains = report["summary"][0]["mean_gains"]
        lead = gains["enhanced"]["gain_over_better_db"] - gains["theirs"]["gain_over_better_db"]
        row = next(line for line in text.splitlines() if line.startswith("| theirs |"))
        assert row.endswith(f"| {lead:+.2f} |")

    def test_progress_counts_them(self, tmp_path, scans, model, restored):
        steps = []
        run_bench(
            Benchmark(scans[:1], [2], [model], volumes={"theirs": restored}),
            tmp_path,
            device="cpu",
            progress=steps.append,
        )
        assert steps[3].stage == "first.nrrd x2: theirs"
        assert [(step.done, step.total) for step in steps] == [(done, 6) for done in range(6)]


class TestThick:
    def test_what_is_made_of_averages_is_measured_on_every_slice(self, tmp_path, scans, model):
        (given,) = write_thinned(scans[:1], Thinning([3], acquisition="thick"), tmp_path)
        made = upsample(read_volume(given), 3, "K", "linear")
        write_volume(made, tmp_path / "made.nrrd")
        benchmark = Benchmark(scans[:1], [3], [model], volumes={"theirs": tmp_path / "made.nrrd"})
        (run,) = run_bench(benchmark, tmp_path / "out", acquisition="thick", device="cpu")["runs"]
        assert run["peers"]["theirs"]["psnr_db"] == pytest.approx(run["baselines"]["linear"]["psnr_db"], rel=1e-6)

    def test_what_was_made_of_the_other_acquisition_is_not_found(self, scans, restored):
        with pytest.raises(InputError, match="holds no file first.x2.thick.nrrd"):
            make_peers([], {"theirs": restored}, scans, [2], "thick")


class TestRequests:
    def test_unknown_peer(self, scans):
        with pytest.raises(InputError, match="no peer 'magic': choose registration"):
            make_peers(["magic"], {}, scans, [2], "gap")

    @pytest.mark.parametrize("name", ["registration", "linear"])
    def test_taken_name(self, scans, restored, name):
        with pytest.raises(InputError, match="Another method is named"):
            make_peers([], {name: restored}, scans, [2], "gap", taken=("linear",))

    def test_one_file_for_one_thinned_scan(self, scans, restored):
        (peer,) = make_peers([], {"theirs": restored / "first.x2.nrrd"}, scans[:1], [2], "gap")
        assert peer.file_of(scans[0], 2, "gap") == restored / "first.x2.nrrd"

    def test_one_file_for_several(self, scans, restored):
        with pytest.raises(InputError, match="one volume for 2 thinned scans"):
            make_peers([], {"theirs": restored / "first.x2.nrrd"}, scans[:1], [2, 4], "gap")

    def test_missing_file(self, scans):
        with pytest.raises(InputError, match="none.nrrd does not exist"):
            make_peers([], {"theirs": Path("none.nrrd")}, scans[:1], [2], "gap")

    def test_missing_scan_in_a_folder_is_reported_before_any_work(self, tmp_path, scans, model, restored):
        steps = []
        with pytest.raises(InputError, match="holds no file first.x3.nrrd"):
            run_bench(Benchmark(scans, [2, 3], [model], volumes={"theirs": restored}), tmp_path, progress=steps.append)
        assert not steps

    def test_peer_requested_twice_is_measured_once(self, scans):
        assert len(make_peers(["registration", "registration"], {}, scans, [2], "gap")) == 1


class TestCommands:
    def test_thin_restore_and_measure(self, tmp_path, scans, model, capsys):
        given, made = tmp_path / "given", tmp_path / "made.nii.gz"
        assert main(["thin", str(scans[0]), "--factor", "4", "--output", str(given), "--format", "nii.gz"]) == 0
        assert capsys.readouterr().out == f"Wrote {given / 'first.x4.nii.gz'}.\n"
        write_volume(upsample(read_volume(given / "first.x4.nii.gz"), 4, "K", "sinc"), made)
        line = [
            "bench",
            str(scans[0]),
            "--factor",
            "4",
            "--model",
            str(model.folder),
            "--output",
            str(tmp_path / "out"),
        ]
        assert main([*line, "--volume", f"their network={made}", "--progress", "none"]) == 0
        assert "| their network |" in capsys.readouterr().out

    def test_two_volumes_of_one_name(self, scans, capsys):
        line = ["bench", str(scans[0]), "--output", "out", "--volume", "a=b.nrrd", "--volume", "a=c.nrrd"]
        assert main(line) == 2
        assert "Two volumes are called 'a'" in capsys.readouterr().err

    @pytest.mark.parametrize("text", ["a", "=b.nrrd", "a=", "a|b=c.nrrd"])
    def test_what_is_no_named_volume(self, scans, capsys, text):
        assert main(["bench", str(scans[0]), "--output", "out", "--volume", text]) == 2
        assert "must be a name" in capsys.readouterr().err
