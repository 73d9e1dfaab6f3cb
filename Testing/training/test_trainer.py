"""The training loop: levels, resuming, checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scans import affine_from, anatomy
from tiny import NETWORK, make_network
from XViewSynthLib import Cancelled, InputError, Volume
from XViewSynthLib.model.network import ScanFacts
from XViewSynthLib.model.spline import to_network_units
from XViewSynthLib.progress import Monitor
from XViewSynthTrainLib.checkpoints import load_checkpoint, save_checkpoint
from XViewSynthTrainLib.config import LossWeights, TrainingConfig
from XViewSynthTrainLib.distillation import agreement_terms, answered, cross_view_distillation, restoration_terms
from XViewSynthTrainLib.files import CHECKPOINT_FILE
from XViewSynthTrainLib.heldout import Gain
from XViewSynthTrainLib.runlog import read_log
from XViewSynthTrainLib.sampling import Sampler
from XViewSynthTrainLib.trainer import Evaluation, Trainer, rate_at

pytestmark = pytest.mark.slow

CONFIG = TrainingConfig(steps=8, slices=4, pixels=16, batch=1, network=NETWORK, factor_shares={2: 1.0})


@pytest.fixture(scope="module")
def scans() -> list[Volume]:
    return [Volume(anatomy((21, 24, 28)), affine_from((0.8, 0.8, 1.0)))]


def weights_of(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in network.state_dict().values()])


class TestLevels:
    def test_level_0_compares_every_view_and_their_mean_with_what_was_dropped(self, scans):
        terms = restoration_terms(make_network(), Sampler(scans, CONFIG).thinned(0), CONFIG)
        assert set(terms) == {"views", "mean", "wavelet"}
        assert all(term.item() > 0 for term in terms.values())

    def test_terms_of_weight_0_are_left_out(self, scans):
        config = replace(CONFIG, weights=LossWeights(mean=0, wavelet=0))
        assert set(restoration_terms(make_network(), Sampler(scans, config).thinned(0), config)) == {"views"}

    def test_the_rim_of_a_block_does_not_count(self, scans):
        config = replace(CONFIG, rim=2)
        blocks = Sampler(scans, config).thinned(0)
        inside = torch.zeros(blocks.slices.shape[-2:], dtype=torch.bool)
        inside[2:-2, 2:-2] = True

        def losses(change_where: torch.Tensor) -> list[float]:
            # What is observed stays: only the truth that answers are compared with is another.
            other = torch.where(change_where, 3.0, blocks.slices)
            terms = restoration_terms(make_network(), replace(blocks, slices=other), config)
            return [term.item() for term in terms.values()]

        nothing = torch.zeros_like(inside)
        assert losses(~inside) == losses(nothing)
        assert losses(inside) != losses(nothing)

    @pytest.mark.parametrize("acquisition", ["gap", "thick"])
    def test_the_ends_of_a_block_count_less(self, scans, acquisition):
        thick = int(acquisition == "thick")
        weights = replace(CONFIG.weights, wavelet=0.0)
        config = replace(CONFIG, acquisition=acquisition, network=NETWORK | {"thick": thick}, weights=weights)
        blocks = Sampler(scans, config).thinned(0)
        count, factor = blocks.slices.shape[1], blocks.factor
        # Of thick slices, those observed are to be found as well.
        ends, inside = (factor, slice(factor, -factor)) if thick else (factor + 1, slice(factor + 1, -factor - 1))
        others = {"ends": blocks.slices.clone(), "inside": blocks.slices.clone()}
        others["ends"][:, :ends] = others["ends"][:, count - ends :] = 3.0
        others["inside"][:, inside] = 3.0

        def growth(part: str, share: float) -> float:
            """Of the loss, once a part of what answers are compared with is another."""
            lost = [
                sum(restoration_terms(make_network(thick=thick), each, replace(config, ends_share=share)).values())
                for each in (blocks, replace(blocks, slices=others[part]))
            ]
            return (lost[1] - lost[0]).item()

        assert growth("ends", 0.0) == 0
        assert 0 < growth("ends", 0.3) < growth("ends", 1.0)
        assert growth("ends", 0.3) == pytest.approx(0.3 * growth("ends", 1.0), rel=1e-4)
        assert growth("inside", 0.0) > growth("inside", 1.0) > 0

    def test_level_1_and_beyond_need_no_truth(self, scans):
        terms = agreement_terms(make_network(), Sampler(scans, CONFIG).untouched(0), CONFIG, increments=2)
        assert set(terms) == {"distillation_1", "distillation_2", "distillation_3"}

    def test_all_views_learn_from_each_other(self, scans):
        network = make_network()
        terms = agreement_terms(network, Sampler(scans, CONFIG).untouched(0), CONFIG, increments=0)
        sum(terms.values()).backward()
        assert network.axial.trunk.head.weight.grad.abs().sum() > 0
        assert network.pixelwise.trunk.head.weight.grad.abs().sum() > 0

    def test_distillation_is_counted_in_the_scale_of_hu(self):
        apart = to_network_units(torch.tensor(50.0)).item()
        views = torch.tensor([0.0, apart, -apart]).view(3, 1, 1).expand(3, 4, 4)
        assert cross_view_distillation(views, CONFIG).item() == pytest.approx(2 * 0.5**2)

    def test_levels_join_one_after_the_other(self, scans, tmp_path):
        config = replace(CONFIG, steps=60, cross_view_from=0.4, incremental_from=0.7)
        Trainer(scans, config, tmp_path / "run").run()
        losses = [entry["loss"] for entry in read_log(tmp_path / "run")]
        assert [sorted(set(loss) - {"views", "mean", "wavelet"}) for loss in losses] == [
            [],
            ["distillation_1"],
            ["distillation_1", "distillation_2"],
        ]


class TestLearning:
    def test_leaning_bars_are_restored_better_than_by_the_spline(self, tmp_path):
        k, _, i = np.indices((21, 24, 28))
        bars = (500 * np.sign(np.sin(0.7 * (i + 1.5 * k)))).astype(np.int16)
        config = replace(CONFIG, steps=150, cross_view_from=1.0, network={**NETWORK, "channels": 8})
        trainer = Trainer([Volume(bars, affine_from((0.8, 0.8, 1.0)))], config, tmp_path / "run")
        blocks = [trainer.sampler.thinned(step) for step in range(1000, 1010)]

        def loss() -> float:
            with torch.no_grad():
                return sum(restoration_terms(trainer.average, block, config)["mean"].item() for block in blocks)

        untrained = loss()
        trainer.run()
        assert loss() < 0.7 * untrained

    def test_starts_from_given_weights(self, scans, tmp_path):
        start = make_network(seed=5)
        trainer = Trainer(scans, CONFIG, tmp_path / "run", start=start.state_dict())
        assert torch.equal(weights_of(trainer.network), weights_of(start))

    def test_the_rate_rises_and_falls(self):
        rates = [rate_at(done) for done in np.linspace(0, 1, 200)]
        top = int(np.argmax(rates))
        assert 0 < top < 20
        assert max(rates) == pytest.approx(1, abs=0.01)
        assert rates[-1] == pytest.approx(0.01)
        assert all(later <= earlier for earlier, later in zip(rates[top:], rates[top + 1 :]))


class TestRehearsal:
    """What the starting model answers between the slices of the scans is kept."""

    def test_what_is_rehearsed_is_the_answer_between_observed_slices(self, scans):
        teacher, gaps = make_network(), Sampler(scans, CONFIG).own_gaps(0)
        blocks = answered(teacher, gaps)
        views = teacher(gaps.slices, 2, ScanFacts(gaps.slice_ratio))
        assert torch.equal(blocks.observed, gaps.slices)
        assert torch.equal(blocks.truth, views.mean(dim=0))
        assert torch.equal(blocks.slice_ratio, gaps.slice_ratio / 2)

    def test_brings_a_run_nearer_to_what_it_began_with(self, scans, tmp_path):
        start = make_network(seed=5)
        gaps = [Sampler(scans, CONFIG).own_gaps(step) for step in range(1000, 1010)]

        def drift(share: float) -> float:
            config = replace(CONFIG, steps=40, cross_view_from=1.0, rehearsal_share=share)
            trained = Trainer(scans, config, tmp_path / f"run {share}", start=start.state_dict()).run()
            pairs = [(answered(trained, gap).truth, answered(start, gap).truth) for gap in gaps]
            return sum((now - before).abs().mean().item() for now, before in pairs)

        assert drift(0.5) < 0.8 * drift(0.0)

    def test_resumes_with_the_model_it_began_with(self, scans, tmp_path):
        config, start = replace(CONFIG, rehearsal_share=0.5), make_network(seed=5).state_dict()
        whole = Trainer(scans, config, tmp_path / "whole", start=start).run()
        answers = iter([False] * 4 + [True])
        with pytest.raises(Cancelled):
            Trainer(scans, config, tmp_path / "stopped", start=start).run(Monitor(None, lambda: next(answers)))
        resumed = Trainer(scans, config, tmp_path / "stopped", start=start, resume=True).run()
        assert torch.equal(weights_of(resumed), weights_of(whole))

    def test_from_scratch_there_is_nothing_to_keep(self, scans, tmp_path):
        with pytest.raises(InputError, match="start from a model"):
            Trainer(scans, replace(CONFIG, rehearsal_share=0.5), tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestResuming:
    @pytest.mark.parametrize("stopped_after", [1, 3, 6])
    def test_gives_the_weights_of_an_uninterrupted_run(self, scans, tmp_path, stopped_after):
        config = replace(CONFIG, cross_view_from=0.25, incremental_from=0.5)
        whole = Trainer(scans, config, tmp_path / "whole").run()
        answers = iter([False] * stopped_after + [True])
        with pytest.raises(Cancelled, match="--resume"):
            Trainer(scans, config, tmp_path / "stopped").run(Monitor(None, lambda: next(answers)))
        resumed = Trainer(scans, CONFIG, tmp_path / "stopped", resume=True)
        assert resumed.step == stopped_after
        assert torch.equal(weights_of(resumed.run()), weights_of(whole))

    def test_seeds_differ(self, scans, tmp_path):
        one = Trainer(scans, CONFIG, tmp_path / "one").run()
        other = Trainer(scans, replace(CONFIG, seed=1), tmp_path / "other").run()
        assert not torch.equal(weights_of(one), weights_of(other))

    def test_a_checkpoint_is_written_in_time(self, scans, tmp_path):
        seen = []
        trainer = Trainer(scans, replace(CONFIG, checkpoint_seconds=0.0), tmp_path / "run")
        trainer.run(Monitor(lambda _: seen.append(load_checkpoint(tmp_path / "run" / CHECKPOINT_FILE)[1]["step"])))
        assert seen == list(range(1, 9))

    def test_a_run_is_not_overwritten(self, scans, tmp_path):
        Trainer(scans, CONFIG, tmp_path / "run")
        with pytest.raises(InputError, match="holds a run already"):
            Trainer(scans, CONFIG, tmp_path / "run")

    def test_without_a_run_there_is_nothing_to_resume(self, scans, tmp_path):
        with pytest.raises(InputError, match="Start without --resume"):
            Trainer(scans, CONFIG, tmp_path / "run", resume=True)

    def test_a_folder_that_cannot_be_made_is_reported(self, scans, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="Choose another folder"):
            Trainer(scans, CONFIG, tmp_path / "file" / "run")


class Judge:
    """Finds the gains it was told to find, one after the other."""

    def __init__(self, *gains: float):
        self.gains = list(gains)
        self.judged = 0

    def __call__(self, _network: torch.nn.Module) -> dict[int, Gain]:
        gain = self.gains[self.judged]
        self.judged += 1
        return {2: Gain(gain, gain, gain)}


class TestJudging:
    def run(self, scans, folder, judge, **changes) -> tuple[Trainer, list[int]]:
        """Train under a judge, and tell the steps that were the best so far."""
        best = []
        config = replace(CONFIG, judgements=4, **changes)
        trainer = Trainer(
            scans, config, folder, evaluation=Evaluation(judge, on_best=lambda _: best.append(trainer.step))
        )
        trainer.run()
        return trainer, best

    def test_happens_so_many_times(self, scans, tmp_path):
        self.run(scans, tmp_path, judge := Judge(1, 2, 3, 4))
        assert judge.judged == 4
        assert [entry["step"] for entry in read_log(tmp_path) if entry["kind"] == "gain"] == [2, 4, 6, 8]

    def test_every_better_network_is_reported(self, scans, tmp_path):
        trainer, best = self.run(scans, tmp_path, Judge(1, 3, 2, 4))
        assert best == [2, 4, 8]
        assert (trainer.best_gain, trainer.best_step) == (4, 8)

    def test_what_the_run_began_with_is_to_beat(self, scans, tmp_path):
        best = []
        trainer = Trainer(
            scans,
            replace(CONFIG, judgements=4),
            tmp_path,
            evaluation=Evaluation(Judge(1, 2, 3, 4), on_best=best.append),
        )
        trainer.judge_start({2: Gain(9, 9, 9)})
        trainer.run()
        assert best == []
        assert (trainer.best_gain, trainer.best_step) == (9, 0)

    def test_a_gain_that_is_no_number_is_none(self, scans, tmp_path):
        assert self.run(scans, tmp_path, Judge(1, np.nan, np.nan, np.nan), patience=0)[1] == [2]

    def test_no_more_gain_ends_the_run(self, scans, tmp_path):
        trainer, _ = self.run(scans, tmp_path, Judge(3, 1, 2), patience=2)
        assert trainer.stopped_early
        assert trainer.step == 6

    def test_patience_is_kept_over_an_interruption(self, scans, tmp_path):
        config = replace(CONFIG, judgements=4, patience=2)
        answers = iter([False] * 5 + [True])
        with pytest.raises(Cancelled):
            Trainer(scans, config, tmp_path, evaluation=Evaluation(Judge(3, 1))).run(
                Monitor(None, lambda: next(answers))
            )
        resumed = Trainer(scans, config, tmp_path, evaluation=Evaluation(Judge(2)), resume=True)
        resumed.run()
        assert (resumed.step, resumed.stopped_early, resumed.best_gain) == (6, True, 3)

    def test_what_is_judged_is_saved_before_and_after(self, scans, tmp_path):
        saved = []

        def judge(_network: torch.nn.Module) -> dict[int, Gain]:
            facts = load_checkpoint(tmp_path / CHECKPOINT_FILE)[1]
            saved.append((facts["step"], facts["judged_step"]))
            return {2: Gain(1, 1, 1)}

        Trainer(scans, replace(CONFIG, judgements=4), tmp_path, evaluation=Evaluation(judge)).run()
        assert saved == [(2, 0), (4, 2), (6, 4), (8, 6)]
        assert load_checkpoint(tmp_path / CHECKPOINT_FILE)[1]["judged_step"] == 8

    @pytest.mark.parametrize("broken", [2, 8])
    def test_a_judgement_that_was_stopped_is_made_up_for(self, scans, tmp_path, broken):
        config = replace(CONFIG, judgements=4, patience=0)
        Trainer(scans, config, tmp_path / "whole", evaluation=Evaluation(Judge(1, 2, 3, 4))).run()
        trainer = None

        def stopped(_network: torch.nn.Module) -> dict[int, Gain]:
            if trainer.step == broken:
                raise Cancelled
            return {2: Gain(trainer.step / 2, trainer.step / 2, trainer.step / 2)}

        trainer = Trainer(scans, config, tmp_path / "stopped", evaluation=Evaluation(stopped))
        with pytest.raises(Cancelled, match=f"Stopped after step {broken}; --resume"):
            trainer.run()
        resumed = Trainer(
            scans, config, tmp_path / "stopped", evaluation=Evaluation(Judge(*range(broken // 2, 5))), resume=True
        )
        resumed.run()
        whole, log = (read_log(tmp_path / name) for name in ("whole", "stopped"))
        assert [(e["kind"], e["step"], e.get("mean_gain_db")) for e in log] == [
            (e["kind"], e["step"], e.get("mean_gain_db")) for e in whole
        ]

    def test_a_gain_that_was_noted_before_a_kill_is_noted_once(self, scans, tmp_path):
        trainer = Trainer(scans, replace(CONFIG, judgements=4), tmp_path, evaluation=Evaluation(Judge(1, 2, 3, 4)))
        trainer.log.add_gain(2, 0.0, {2: Gain(1, 1, 1)})
        trainer.run()
        assert [entry["step"] for entry in read_log(tmp_path) if entry["kind"] == "gain"] == [2, 4, 6, 8]


class TestNumbersThatAreNone:
    """A loss that is no number must not spoil the weights."""

    def spoil(self, trainer: Trainer, monkeypatch, times: int, step: int = 5) -> None:
        """Make the loss of a step infinite, the first `times` times."""
        left = [times]
        thinned = trainer.sampler.thinned

        def spoilt(at: int):
            blocks = thinned(at)
            if at == step and left[0]:
                left[0] -= 1
                blocks.slices[:] = torch.inf
            return blocks

        monkeypatch.setattr(trainer.sampler, "thinned", spoilt)

    def test_the_run_goes_back_and_on_at_half_the_rate(self, scans, tmp_path, monkeypatch):
        trainer = Trainer(scans, CONFIG, tmp_path)
        self.spoil(trainer, monkeypatch, times=1)
        trainer.run()
        assert trainer.step == 8
        assert weights_of(trainer.average).isfinite().all()
        rate = next(entry["learning_rate"] for entry in read_log(tmp_path) if entry["kind"] == "loss")
        assert rate == pytest.approx(CONFIG.learning_rate * rate_at(7 / 8) / 2)

    def test_and_says_so(self, scans, tmp_path, monkeypatch):
        trainer = Trainer(scans, CONFIG, tmp_path)
        self.spoil(trainer, monkeypatch, times=2)
        trainer.run()
        notes = [entry["message"] for entry in read_log(tmp_path) if entry["kind"] == "note"]
        assert len(notes) == 2
        assert "went back to step 0 and halved the learning rate" in notes[0]

    def test_the_rate_stays_halved_when_resumed(self, scans, tmp_path, monkeypatch):
        trainer = Trainer(scans, CONFIG, tmp_path)
        self.spoil(trainer, monkeypatch, times=1)
        whole = weights_of(trainer.run())
        resumed = Trainer(scans, CONFIG, tmp_path, resume=True)
        assert torch.equal(weights_of(resumed.average), whole)
        resumed.save()
        assert load_checkpoint(tmp_path / CHECKPOINT_FILE)[1]["rate_scale"] == 0.5

    def test_what_never_settles_ends_with_a_sentence(self, scans, tmp_path, monkeypatch):
        trainer = Trainer(scans, CONFIG, tmp_path)
        self.spoil(trainer, monkeypatch, times=1000)
        with pytest.raises(InputError, match="Lower the learning rate or leave out odd scans"):
            trainer.run()
        assert load_checkpoint(tmp_path / CHECKPOINT_FILE)[1]["step"] == 0


class TestCheckpoints:
    def test_tensors_and_facts_come_back(self, tmp_path):
        save_checkpoint(tmp_path / CHECKPOINT_FILE, {"a": torch.arange(3)}, {"step": 7})
        tensors, facts = load_checkpoint(tmp_path / CHECKPOINT_FILE)
        assert (tensors["a"].tolist(), facts) == ([0, 1, 2], {"step": 7})

    def test_nothing_else_is_left(self, tmp_path):
        save_checkpoint(tmp_path / CHECKPOINT_FILE, {"a": torch.arange(3)}, {})
        assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_FILE]

    def test_an_older_one_survives_a_failure(self, tmp_path):
        save_checkpoint(tmp_path / CHECKPOINT_FILE, {"a": torch.zeros(1)}, {"step": 1})
        with pytest.raises(InputError, match="Make room"):
            save_checkpoint(tmp_path / "missing" / CHECKPOINT_FILE, {"a": torch.ones(1)}, {"step": 2})
        assert load_checkpoint(tmp_path / CHECKPOINT_FILE)[1] == {"step": 1}

    @pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"not tensors at all"])
    def test_a_damaged_one_is_reported(self, tmp_path, content):
        (tmp_path / CHECKPOINT_FILE).write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            load_checkpoint(tmp_path / CHECKPOINT_FILE)

    def test_a_missing_one_is_reported(self, tmp_path):
        with pytest.raises(InputError, match="there is no checkpoint"):
            load_checkpoint(tmp_path / CHECKPOINT_FILE)
