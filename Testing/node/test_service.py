"""A node at work: what it enhances, delivers, skips and gives up."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from nodes import Inbox, NodeThread, send, wait_for
from XViewSynthLib import InputError
from XViewSynthLib.node import service
from XViewSynthLib.node.queue import Queue, read_summary
from XViewSynthLib.node.service import RESULTS, WORK, Node
from XViewSynthLib.node.settings import FAILURES, RECEIVED, Peer

pytestmark = pytest.mark.slow


def states(settings) -> dict[str, int]:
    return {state: count for state, count in read_summary(settings.folder)["series"].items() if count}


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestDelivery:
    @pytest.fixture
    def delivered(self, settings, archive, series) -> str:
        """The log of a node that has delivered a series."""
        with NodeThread(settings) as node:
            send(series(), node.port)
            node.prints("delivered")
            wait_for(lambda: states(settings) == {"done": 1})
        return node.log

    def test_brings_a_new_series_of_the_same_study(self, delivered, archive, series):
        source = [pydicom.dcmread(file) for file in series()]
        ((uid, images),) = archive.series().items()
        assert len(images) == 11
        assert uid != source[0].SeriesInstanceUID
        assert {image.StudyInstanceUID for image in images} == {source[0].StudyInstanceUID}
        assert set(archive.counts.values()) == {1}

    def test_keeps_observed_slices_bit_for_bit(self, delivered, archive, series):
        source = sorted((pydicom.dcmread(file) for file in series()), key=lambda image: image.ImagePositionPatient[2])
        ((_, images),) = archive.series().items()
        for image, original in zip(images[::2], source, strict=True):
            assert np.array_equal(image.pixel_array, original.pixel_array)

    def test_leaves_no_file_behind(self, delivered, settings):
        assert files_in(settings.folder) == ["lock", "queue.sqlite"]

    def test_prints_no_patient_data(self, delivered):
        assert not re.search(r"Secret|4711|\d+\.\d+\.\d+\.\d+\.\d", delivered)

    def test_happens_once(self, delivered, settings, archive, series):
        with NodeThread(settings) as node:
            assert send(series(), node.port) == [0] * 6
            assert states(settings) == {"done": 1}
        assert set(archive.counts.values()) == {1}

    def test_keeps_files_if_requested(self, settings, archive, series):
        with NodeThread(replace(settings, keep=True)) as node:
            send(series(), node.port)
            node.prints("delivered")
        assert len(files_in(settings.folder / RECEIVED)) == 6
        assert len(files_in(settings.folder / RESULTS)) == 11


class TestRules:
    @pytest.mark.parametrize(
        ("tags", "reason"),
        [
            ({"spacing": 1.5}, "Its slices are 1.5 mm apart."),
            ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "It is a localizer."),
            ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "SYNTHETIC"], "Manufacturer": "XViewSynth"}, "XViewSynth"),
        ],
    )
    def test_skip_what_does_not_qualify(self, settings, archive, series, tags, reason):
        with NodeThread(settings) as node:
            send(series(**tags), node.port)
            node.prints(reason)
            wait_for(lambda: states(settings) == {"skipped": 1})
        assert files_in(settings.folder) == ["lock", "queue.sqlite"]
        assert not archive.images

    def test_another_distance_may_qualify(self, settings, archive, series):
        with NodeThread(replace(settings, thicker_than=1.0)) as node:
            send(series(spacing=1.5), node.port)
            node.prints("delivered")

    def test_what_cannot_be_enhanced_is_kept_with_the_reason(self, settings, archive, series):
        with NodeThread(settings) as node:
            send(series("uneven")[:4] + series("uneven")[5:], node.port)
            send(series("whole"), node.port)
            node.prints("failed.")
            node.prints("delivered")
        (reason,) = (settings.folder / FAILURES).rglob("reason.txt")
        assert len(files_in(reason.parent)) == 6
        assert reason.read_text().endswith(".\n")
        assert states(settings) == {"done": 1, "failed": 1}

    def test_a_failure_is_enhanced_when_its_missing_image_arrives(self, settings, archive, series):
        files = series()
        with NodeThread(settings) as node:
            send(files[:3] + files[4:], node.port)
            node.prints("failed.")
            send(files[3:4], node.port)
            node.prints("delivered as 11 images")
            wait_for(lambda: states(settings) == {"done": 1})
        assert files_in(settings.folder) == ["lock", "queue.sqlite"]

    def test_a_failure_that_was_removed_can_be_sent_again(self, settings, archive, series):
        files = series()
        with NodeThread(settings) as node:
            send(files[:3] + files[4:], node.port)
            node.prints("failed.")
            wait_for(lambda: states(settings) == {"failed": 1})
            (reason,) = (settings.folder / FAILURES).rglob("reason.txt")
            service.shutil.rmtree(reason.parent)
            assert send(files, node.port) == [0] * 6
            node.prints("delivered as 11 images")

    def test_an_image_after_the_result_makes_no_result_of_its_own(self, settings, archive, series):
        files = series(slices=12)
        with NodeThread(settings) as node:
            send(files[:6], node.port)
            node.prints("delivered as 11 images")
            wait_for(lambda: states(settings) == {"done": 1})
            send(files[6:11], node.port)
            node.prints("It ended before with more images (1 more), which are gone: send all of them again.")
            send(files, node.port)
            node.prints("delivered as 23 images")


class TestLateImages:
    def test_are_part_of_the_result(self, settings, archive, series, monkeypatch):
        files, worked = series(slices=7), Node._worked

        def with_a_late_image(node: Node, source: Path, work: Path) -> dict:
            outcome = worked(node, source, work)
            if len(list(source.iterdir())) == 6:
                assert send(files[6:], port[0]) == [0]
            return outcome

        monkeypatch.setattr(Node, "_worked", with_a_late_image)
        port = []
        with NodeThread(settings) as node:
            port.append(node.port)
            send(files[:6], node.port)
            node.prints("more images have arrived")
            node.prints("delivered")
        assert len(archive.images) == 13


class TestTroubles:
    def test_a_crash_of_the_process_is_tried_again(self, settings, archive, series, monkeypatch):
        worked, outcomes = Node._worked, [{"status": "failed", "message": "Its process was ended by SIGKILL."}] * 2

        def crashing(node: Node, source: Path, work: Path) -> dict:
            return outcomes.pop() if outcomes else worked(node, source, work)

        monkeypatch.setattr(Node, "_worked", crashing)
        monkeypatch.setattr(service, "_RETRY_SECONDS", 0.1)
        with NodeThread(settings) as node:
            send(series(), node.port)
            node.prints("SIGKILL. It is tried again.", 2)
            node.prints("delivered")
        assert set(archive.counts.values()) == {1}

    def test_a_poisonous_series_is_given_up_and_blocks_nothing(self, settings, archive, series, monkeypatch):
        worked = Node._worked

        def crashing(node: Node, source: Path, work: Path) -> dict:
            if len(list(source.iterdir())) == 7:
                return {"status": "failed", "message": "Its process was ended by SIGSEGV."}
            return worked(node, source, work)

        monkeypatch.setattr(Node, "_worked", crashing)
        monkeypatch.setattr(service, "_RETRY_SECONDS", 0.05)
        with NodeThread(settings) as node:
            send(series("poison", slices=7), node.port)
            send(series("good"), node.port)
            node.prints("failed. Its process was ended by SIGSEGV.")
            node.prints("delivered")
        assert node.log.count("It is tried again") == 4

    def test_a_series_that_takes_the_node_down_is_given_up(self, settings, archive, series, monkeypatch):
        with NodeThread(replace(settings, quiet_seconds=1000.0)) as node:
            send(series(), node.port)
        for _ in range(5):
            queue = Queue(settings.folder)
            assert queue.begin(queue.next_complete(0))
            queue.resume()
            queue.close()
        with NodeThread(settings) as node:
            node.prints("failed. Its enhancement ended the node 5 times.")

    def test_an_absent_archive_gets_the_result_later(self, settings, series, monkeypatch):
        monkeypatch.setattr(service, "_FIRST_WAIT", 0.2)
        with Inbox() as box:
            port = box.port
        absent = replace(settings, destination=Peer("ARCHIVE", "127.0.0.1", port))
        with NodeThread(absent) as node:
            send(series(), node.port)
            node.prints("does not answer")
        assert states(settings) == {"delivering": 1}
        with Inbox(port=port) as box, NodeThread(absent) as node:
            node.prints("delivered")
        assert set(box.counts.values()) == {1}
        assert len(box.images) == 11

    def test_an_archive_that_refuses_gets_the_result_later(self, settings, series, monkeypatch):
        monkeypatch.setattr(service, "_FIRST_WAIT", 0.2)
        with Inbox(refused=1) as box, NodeThread(replace(settings, destination=_peer(box))) as node:
            send(series(), node.port)
            node.prints("refuses an image with the status A700")
            node.prints("delivered")
        assert len(box.images) == 11

    def test_an_archive_that_rejects_the_node_is_named(self, settings, archive, series):
        other = replace(settings, destination=Peer("ARCHIVE", "127.0.0.1", 0))
        with NodeThread(settings) as first:
            itself = Peer("OTHER", "127.0.0.1", first.port)
            with NodeThread(replace(other, destination=itself, folder=settings.folder / "second")) as node:
                send(series(), node.port)
                node.prints("rejects associations of XVIEWSYNTH: register it there")

    def test_a_full_disk_is_waited_for(self, settings, archive, series, monkeypatch):
        make, failures = service.tempfile.mkdtemp, [OSError(28, "No space left on device")]

        def full(**options: object) -> str:
            if failures:
                raise failures.pop()
            return make(**options)

        monkeypatch.setattr(service.tempfile, "mkdtemp", full)
        monkeypatch.setattr(service, "_RETRY_SECONDS", 0.1)
        with NodeThread(settings) as node:
            send(series(), node.port)
            node.prints("Work had to stop (No space left on device)")
            node.prints("delivered")

    def test_an_archive_that_is_absent_for_weeks_is_waited_for(self, settings, archive, series, monkeypatch):
        monkeypatch.setattr(service, "_LONGEST_WAIT", 0.1)
        monkeypatch.setattr(service, "_FIRST_WAIT", 1e-6)
        with NodeThread(replace(settings, destination=Peer("ARCHIVE", "127.0.0.1", 1))) as node:
            send(series(), node.port)
            node.prints("does not answer")
        queue = Queue(settings.folder)
        with queue._changes() as database:
            database.execute("UPDATE series SET attempts = 3000, due = 0")
        queue.close()
        with NodeThread(replace(settings, destination=Peer("ARCHIVE", "127.0.0.1", 1))) as node:
            node.prints("It is sent again", 2)

    def test_a_result_that_is_gone_holds_up_no_other(self, settings, archive, series, monkeypatch):
        monkeypatch.setattr(service, "_FIRST_WAIT", 1000.0)
        absent = replace(settings, destination=Peer("ARCHIVE", "127.0.0.1", 1))
        with NodeThread(absent) as node:
            send(series(), node.port)
            node.prints("does not answer")
        (result,) = (settings.folder / RESULTS).iterdir()
        service.shutil.rmtree(result)
        queue = Queue(settings.folder)
        with queue._changes() as database:
            database.execute("UPDATE series SET due = 0")
        queue.close()
        with NodeThread(settings) as node:
            node.prints("No such file or directory It is sent again")
            send(series("other"), node.port)
            node.prints("delivered")

    def test_an_internal_error_of_the_delivery_ends_the_node(self, settings, archive, series, monkeypatch):
        def fail(*_: object) -> int:
            raise TypeError("a defect")

        monkeypatch.setattr(service, "deliver", fail)
        with NodeThread(settings) as node:
            send(series(), node.port)
            wait_for(lambda: node.errors)
            assert isinstance(node.errors.pop(), TypeError)


class TestRestart:
    def test_continues_what_was_interrupted(self, settings, archive, series):
        with NodeThread(replace(settings, quiet_seconds=1000.0)) as node:
            send(series(), node.port)
        left = settings.folder / WORK / "left"
        left.mkdir()
        (left / "task.json").write_text("{}")
        with NodeThread(settings) as node:
            node.prints("delivered")
        assert not left.exists()
        assert len(archive.images) == 11

    def test_removes_the_files_of_series_that_have_ended(self, settings, archive, series):
        with NodeThread(replace(settings, keep=True)) as node:
            send(series(), node.port)
            node.prints("delivered")
        with NodeThread(settings):
            pass
        assert files_in(settings.folder) == ["lock", "queue.sqlite"]

    def test_waits_for_the_folder(self, settings):
        with NodeThread(settings), pytest.raises(InputError, match="Another node uses .*: choose another --folder"):
            Node(settings, print, lambda: True).run()

    def test_a_folder_that_cannot_be_made_is_refused(self, settings, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot be used .*: choose another --folder"):
            Node(replace(settings, folder=tmp_path / "file" / "node"), print, lambda: True).run()

    def test_an_unknown_model_is_refused_at_once(self, settings):
        with pytest.raises(InputError, match="nowhere"):
            Node(replace(settings, request=replace(settings.request, model="nowhere")), print, lambda: True)


def _peer(box: Inbox) -> Peer:
    return Peer("ARCHIVE", "127.0.0.1", box.port)
