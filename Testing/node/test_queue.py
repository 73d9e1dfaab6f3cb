"""The durable queue: every change of state, and what a crash between two of them leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from XViewSynthLib import InputError
from XViewSynthLib.node import queue as module
from XViewSynthLib.node.queue import DELIVERING, DONE, ENHANCING, FAILED, RECEIVING, SKIPPED, Queue, read_summary


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, which a test sets."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    return now


@pytest.fixture
def queue(tmp_path, clock) -> Iterator[Queue]:
    queue = Queue(tmp_path)
    yield queue
    queue.close()


def begun(queue: Queue, instances: int = 2) -> module.Series:
    """A series that is being enhanced."""
    for number in range(instances):
        queue.add("s", f"i{number}", 10)
    series = queue.next_complete(0)
    assert queue.begin(series)
    return series


class TestKeys:
    def test_are_the_same_after_a_restart(self, queue, tmp_path):
        key = queue.key_of("1.2.3")
        queue.close()
        again = Queue(tmp_path)
        assert again.key_of("1.2.3") == key
        again.close()

    def test_differ_between_folders(self, queue, tmp_path):
        (tmp_path / "other").mkdir()
        other = Queue(tmp_path / "other")
        assert other.key_of("1.2.3") != queue.key_of("1.2.3")
        other.close()

    def test_hide_the_uid(self, queue):
        assert "1.2.3" not in queue.key_of("1.2.3")


class TestCompleteness:
    def test_needs_quiet(self, queue, clock):
        queue.add("s", "a", 10)
        clock[0] += 29
        assert queue.next_complete(30) is None
        clock[0] += 2
        assert queue.next_complete(30).key == "s"

    def test_begins_anew_with_every_instance(self, queue, clock):
        queue.add("s", "a", 10)
        clock[0] += 29
        queue.add("s", "b", 10)
        clock[0] += 29
        assert queue.next_complete(30) is None

    def test_is_known_from_the_expected_number(self, queue):
        queue.add("s", "a", 10, expected=2)
        assert queue.next_complete(30) is None
        queue.add("s", "b", 10)
        assert queue.next_complete(30).key == "s"

    def test_the_series_that_has_waited_longest_is_first(self, queue, clock):
        queue.add("first", "a", 10)
        clock[0] += 1
        queue.add("second", "b", 10)
        clock[0] += 60
        assert queue.next_complete(30).key == "first"


class TestStates:
    def test_go_from_receiving_to_done(self, queue):
        series = begun(queue)
        assert queue.state_of("s") == ENHANCING
        assert queue.next_complete(0) is None
        assert queue.enhanced(series, 3.0)
        assert queue.state_of("s") == DELIVERING
        assert queue.next_delivery() == series
        assert queue.end(series, DONE)
        assert queue.next_delivery() is None
        assert queue.state_of("s") == DONE

    @pytest.mark.parametrize("state", [SKIPPED, FAILED])
    def test_may_end_without_a_result(self, queue, state):
        assert queue.end(begun(queue), state, "why")
        assert queue.summary()["troubles"] == [{"series": "s", "state": state, "attempts": 0, "reason": "why"}]

    def test_an_interrupted_enhancement_begins_anew(self, queue, tmp_path):
        begun(queue)
        queue.close()
        again = Queue(tmp_path)
        again.resume()
        assert again.next_complete(0).key == "s"
        assert again.next_complete(0).attempts == 1
        again.close()

    def test_an_enhancement_that_was_stopped_begins_anew(self, queue, tmp_path):
        assert queue.put_back(begun(queue))
        queue.resume()
        assert queue.next_complete(0).attempts == 0

    def test_the_quiet_time_begins_anew_after_a_restart(self, queue, clock):
        queue.add("s", "a", 10)
        clock[0] += 1000
        queue.resume()
        clock[0] += 29
        assert queue.next_complete(30) is None
        clock[0] += 2
        assert queue.next_complete(30).key == "s"

    def test_a_retry_waits_and_counts(self, queue, clock):
        series = begun(queue)
        assert queue.retry(series, RECEIVING, 10, "crashed")
        assert queue.next_complete(0) is None
        clock[0] += 11
        assert queue.next_complete(0).attempts == 1

    def test_a_result_forgets_the_attempts(self, queue, clock):
        queue.retry(begun(queue), RECEIVING, 0, "crashed")
        again = queue.next_complete(0)
        queue.begin(again)
        queue.enhanced(again, 1.0)
        assert queue.next_delivery().attempts == 0

    def test_a_delivery_that_failed_waits(self, queue, clock):
        series = begun(queue)
        queue.enhanced(series, 1.0)
        assert queue.retry(series, DELIVERING, 5, "no answer")
        assert queue.next_delivery() is None
        clock[0] += 6
        assert queue.next_delivery().attempts == 1


class TestLateInstances:
    @pytest.mark.parametrize("step", ["begin", "enhance", "end", "retry"])
    def test_undo_what_was_made_without_them(self, queue, clock, step):
        queue.add("s", "i0", 10)
        series = queue.next_complete(0)
        if step != "begin":
            queue.begin(series)
        queue.add("s", "late", 10)
        done = {
            "begin": lambda: queue.begin(series),
            "enhance": lambda: queue.enhanced(series, 1.0),
            "end": lambda: queue.end(series, DONE),
            "retry": lambda: queue.retry(series, RECEIVING, 0, "crashed"),
        }
        assert not done[step]()
        assert queue.state_of("s") == RECEIVING

    def test_in_the_same_instant_count_as_late(self, queue):
        first = begun(queue)
        queue.add("s", "late", 10)
        assert queue.next_complete(0).instances == first.instances + 1

    def test_open_a_series_that_has_ended(self, queue):
        queue.end(begun(queue), DONE)
        assert queue.knows("i0")
        queue.add("s", "late", 10)
        assert queue.state_of("s") == RECEIVING
        assert queue.knows("late")
        # All can be sent again, since their files are gone.
        assert not queue.knows("i0")
        assert queue.next_complete(0).missing == 1
        queue.add("s", "i0", 10)
        assert queue.next_complete(0).missing == 0

    def test_join_those_of_a_series_that_has_failed(self, queue):
        queue.end(begun(queue), FAILED, "why")
        queue.add("s", "late", 10)
        assert queue.knows("i0")
        assert queue.next_complete(0).missing == 0
        queue.forget_instances("s")
        assert not queue.knows("i0")

    def test_known_instances_stay_known(self, queue):
        queue.end(begun(queue), DONE)
        assert queue.knows("i0")
        assert not queue.knows("other")


class TestForgetting:
    def test_takes_what_ended_long_ago(self, queue, clock):
        queue.end(begun(queue), DONE)
        queue.add("waiting", "x", 10)
        clock[0] += 100
        queue.forget(clock[0] - 200)
        assert queue.knows("i0")
        queue.forget(clock[0] - 50)
        assert not queue.knows("i0")
        assert queue.state_of("s") == DONE
        assert queue.state_of("waiting") == RECEIVING


class TestSummary:
    def test_counts(self, queue, clock):
        series = begun(queue)
        assert queue.summary()["waiting_bytes"] == 20
        queue.enhanced(series, 4.0)
        queue.end(series, DONE)
        queue.add("t", "x", 7)
        summary = queue.summary()
        assert summary["series"] == {
            "receiving": 1,
            "enhancing": 0,
            "delivering": 0,
            "done": 1,
            "skipped": 0,
            "failed": 0,
        }
        assert (summary["instances"], summary["instance_bytes"], summary["waiting_bytes"]) == (3, 27, 7)
        assert (summary["done_in_last_hour"], summary["mean_seconds"]) == (1, 4.0)
        clock[0] += 4000
        assert queue.summary()["done_in_last_hour"] == 0
        assert queue.keys_in(DONE, FAILED) == ["s"]

    def test_is_read_beside_a_node(self, queue, tmp_path):
        queue.add("s", "a", 10)
        assert read_summary(tmp_path)["series"]["receiving"] == 1

    def test_of_another_folder_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="holds no queue of a node: give the --folder of a node"):
            read_summary(tmp_path / "nowhere")


class TestDamage:
    def test_is_refused_in_a_sentence(self, tmp_path):
        (tmp_path / "queue.sqlite").write_bytes(b"not a database" * 100)
        with pytest.raises(InputError, match="is damaged .*: choose another --folder"):
            Queue(tmp_path)

    def test_a_folder_where_it_should_be_is_refused(self, tmp_path):
        (tmp_path / "queue.sqlite").mkdir()
        with pytest.raises(InputError, match="cannot be opened .*: check its permissions"):
            Queue(tmp_path)

    def test_a_full_disk_is_named(self, tmp_path, monkeypatch):
        class Full(sqlite3.Connection):
            def execute(self, *_: object) -> sqlite3.Cursor:
                raise sqlite3.OperationalError("database or disk is full")

        connect = sqlite3.connect
        monkeypatch.setattr(
            module.sqlite3, "connect", lambda *names, **options: connect(*names, factory=Full, **options)
        )
        with pytest.raises(InputError, match="disk is full.*: check disk and permissions"):
            Queue(tmp_path)

    def test_another_version_is_refused(self, queue, tmp_path):
        queue.close()
        database = sqlite3.connect(tmp_path / "queue.sqlite")
        with database:
            database.execute("PRAGMA user_version = 9")
        database.close()
        with pytest.raises(InputError, match="another version: choose another --folder"):
            Queue(tmp_path)
