"""What a run tells while it goes on."""

from __future__ import annotations

import gc
import json
import math
import struct
import sys
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from XViewSynthLib import InputError
from XViewSynthTrainLib.heldout import Gain
from XViewSynthTrainLib.runlog import RunLog, read_log

GAINS = {2: Gain(3.0, 1.5, 1.5), 4: Gain(5.0, 2.5, 2.5)}


@pytest.fixture
def new_log():
    """Make logs, and finish them after the test."""
    made = []

    def make(folder: Path, step: int) -> RunLog:
        made.append(RunLog(folder, step))
        return made[-1]

    yield make
    for log in made:
        log.close()


@pytest.fixture
def filled(new_log, tmp_path) -> RunLog:
    """The log of a run of 60 steps."""
    log = new_log(tmp_path, 0)
    log.add_gain(0, 1.0, GAINS)
    for step in (20, 40, 60):
        log.add_loss(step, step / 2, 1e-3, {"views": 1 / step, "mean": 2 / step})
    return log


def events(folder: Path) -> list[Event]:
    """All events, in the order they were written."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.name.rpartition(".")[2]):
        data = path.read_bytes()
        while data:
            # TFRecord: length (8 bytes), its checksum (4), the record, its checksum (4).
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


class TestLog:
    def test_each_line_says_what_it_is(self, filled, tmp_path):
        filled.add_note(60, "All is well.")
        assert [entry["kind"] for entry in read_log(tmp_path)] == ["gain", "loss", "loss", "loss", "note"]

    def test_gains_are_reported_by_factor_and_as_one_figure(self, filled, tmp_path):
        entry = read_log(tmp_path)[0]
        assert entry["gain"]["4"] == {"over_linear_db": 5.0, "over_cubic_db": 2.5, "over_better_db": 2.5}
        assert entry["mean_gain_db"] == 2.0

    def test_what_is_no_number_becomes_none(self, new_log, tmp_path):
        new_log(tmp_path, 0).add_gain(0, 1.0, {2: Gain(math.inf, math.nan, math.nan)})
        assert read_log(tmp_path)[0]["mean_gain_db"] is None
        assert "NaN" not in (tmp_path / "log.jsonl").read_text()

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows does not limit the size of files")
    def test_a_full_disk_is_reported_in_one_sentence_however_often_it_is_met(self, filled):
        import resource

        room = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, room[1]))
        try:
            with pytest.raises(InputError, match="Make room or choose another folder"):
                filled.add_loss(80, 40.0, 1e-3, {"views": 1.0})
            with pytest.raises(InputError, match="Make room or choose another folder"):
                filled.close()
            gc.collect()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, room)

    def test_going_on_forgets_what_comes_again(self, filled, new_log, tmp_path):
        new_log(tmp_path, 40)
        assert [entry["step"] for entry in read_log(tmp_path)] == [0, 20, 40]

    def test_a_line_cut_short_is_left_out(self, filled, tmp_path):
        with open(tmp_path / "log.jsonl", "a") as log:
            log.write(json.dumps({"kind": "note", "step": 60})[:-5])
        assert len(read_log(tmp_path)) == 4

    def test_there_may_be_none(self, tmp_path):
        assert read_log(tmp_path) == []

    def test_a_folder_that_has_gone_is_reported(self, new_log, tmp_path):
        log = new_log(tmp_path, 0)
        (tmp_path / "log.jsonl").unlink()
        (tmp_path / "log.jsonl").mkdir()
        with pytest.raises(InputError, match="Make room or choose another folder"):
            log.add_note(0, "Hello.")


class TestEvents:
    def test_scalars_are_there_at_once(self, filled, tmp_path):
        scalars = {(e.step, v.tag): v.simple_value for e in events(tmp_path) for v in e.summary.value}
        assert scalars[20, "loss/views"] == pytest.approx(0.05)
        assert scalars[40, "learning_rate"] == pytest.approx(1e-3)
        assert scalars[0, "gain/x4_over_cubic_db"] == 2.5
        assert scalars[0, "gain/mean"] == 2.0

    def test_resuming_makes_viewers_drop_repeated_entries(self, filled, new_log, tmp_path):
        new_log(tmp_path, 40).add_loss(60, 1.0, 1e-3, {"views": 0.1})
        first = next(event for event in events(tmp_path)[5:] if event.HasField("session_log"))
        assert (first.step, first.session_log.status) == (41, first.session_log.START)
