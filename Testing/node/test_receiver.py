"""The receiving side: who may send what, and the bounds on everything that a caller decides."""

from __future__ import annotations

import socket
import stat
import struct
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import MRImageStorage
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from nodes import send, wait_for
from XViewSynthLib import InputError
from XViewSynthLib.node import receiver as module
from XViewSynthLib.node.queue import DONE, Queue
from XViewSynthLib.node.receiver import Store, is_known, receiver, remove_parts
from XViewSynthLib.node.settings import LARGEST_PDU, RECEIVED, Peer

SUCCESS, NOT_AUTHORISED, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0x0124, 0xA700, 0xC000


@pytest.fixture
def queue(settings) -> Iterator[Queue]:
    settings.folder.mkdir()
    queue = Queue(settings.folder)
    yield queue
    queue.close()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def listening(settings, queue, notes, monkeypatch) -> Iterator[Callable[..., int]]:
    """Start a receiver with other settings; returns its port."""
    # Connections that become no association are gone before the test ends.
    monkeypatch.setattr(module, "ACSE_SECONDS", 1.0)
    with ExitStack() as stack:

        def listen(**others: object) -> int:
            own = replace(settings, **others)
            return stack.enter_context(receiver(own, Store(own, queue, notes.append)))

        yield listen


def received(settings) -> list[Path]:
    return sorted(path for path in (settings.folder / RECEIVED).rglob("*") if path.is_file())


class TestInstances:
    def test_are_on_disk_and_in_the_queue(self, listening, settings, queue, series):
        assert send(series(), listening()) == [SUCCESS] * 6
        assert len(received(settings)) == 6
        assert queue.summary()["instances"] == 6
        (folder,) = {path.parent.name for path in received(settings)}
        assert queue.state_of(folder) == "receiving"

    def test_are_kept_as_they_are(self, listening, settings, series):
        files = series()
        send(files, listening())
        sent = {pydicom.dcmread(file).SOPInstanceUID: pydicom.dcmread(file) for file in files}
        for path in received(settings):
            image = pydicom.dcmread(path)
            assert image == sent[image.SOPInstanceUID]
            assert image.file_meta.TransferSyntaxUID == sent[image.SOPInstanceUID].file_meta.TransferSyntaxUID

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
    def test_are_readable_by_nobody_else(self, listening, settings, series):
        send(series(), listening())
        assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in received(settings)} == {0}

    def test_have_names_without_uids(self, listening, settings, series):
        send(series(), listening())
        assert all("1.2.826" not in str(path.relative_to(settings.folder)) for path in received(settings))

    def test_that_are_known_are_acknowledged_and_ignored(self, listening, settings, queue, series):
        port, files = listening(), series()
        send(files, port)
        assert send(files, port) == [SUCCESS] * 6
        assert queue.summary()["instances"] == 6
        assert queue.next_complete(0).instances == 6
        assert len(received(settings)) == 6

    def test_that_cannot_be_understood_are_refused(self, listening, settings, series):
        files = series()
        image = pydicom.dcmread(files[0])
        del image.SeriesInstanceUID
        image.save_as(files[0])
        assert send(files[:2], listening()) == [CANNOT_UNDERSTAND, SUCCESS]
        assert len(received(settings)) == 1

    def test_complete_a_series_of_known_size(self, listening, queue, series):
        port = listening()
        files = series(NumberOfSeriesRelatedInstances=6)
        send(files[:5], port)
        assert queue.next_complete(1000) is None
        send(files[5:], port)
        assert queue.next_complete(1000) is not None

    def test_whose_writing_was_interrupted_are_removed(self, listening, settings, series):
        send(series(), listening())
        (settings.folder / RECEIVED / "abc.part").write_bytes(b"DICM")
        remove_parts(settings.folder)
        assert len(received(settings)) == 6


class TestCallers:
    def test_an_echo_is_answered(self, listening):
        entity = AE("ANY")
        entity.add_requested_context(Verification)
        association = entity.associate("127.0.0.1", listening(), ae_title="XVIEWSYNTH")
        assert association.send_c_echo().Status == SUCCESS
        association.release()

    def test_another_called_title_is_refused(self, listening, series):
        assert send(series(), listening(), called="OTHER") == []

    def test_an_unknown_calling_title_is_refused(self, listening, series):
        port = listening(callers=(Peer("SCANNER", "127.0.0.1"),))
        assert send(series()[:1], port, calling="STRANGER") == []
        assert send(series()[:1], port, calling="SCANNER") == [SUCCESS]

    def test_an_unknown_host_is_refused(self, listening, series):
        assert send(series(), listening(callers=(Peer("SCANNER", "192.0.2.1"),))) == []

    def test_the_title_of_another_host_is_refused(self, listening, series):
        port = listening(callers=(Peer("SCANNER", "192.0.2.1"), Peer("OTHER", "127.0.0.1")))
        assert send(series()[:1], port, calling="SCANNER") == [NOT_AUTHORISED]

    @pytest.mark.parametrize(
        ("host", "callers", "known"),
        [
            ("127.0.0.1", [], True),
            ("::1", [], True),
            ("10.0.0.1", [], False),
            ("10.0.0.1", ["10.0.0.1"], True),
            ("127.0.0.1", ["localhost"], True),
            ("10.0.0.2", ["10.0.0.1", "no.such.host.invalid"], False),
            ("127.0.0.1", ["10.0.0.1"], False),
        ],
    )
    def test_are_known_by_their_hosts(self, host, callers, known):
        assert is_known(host, callers) == known


class TestContent:
    def test_other_images_are_refused(self, listening, settings, series):
        files = series()
        for file in files:
            image = pydicom.dcmread(file)
            image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = MRImageStorage
            image.save_as(file)
        assert set(send(files, listening())) <= {-1}
        assert received(settings) == []

    def test_a_full_disk_refuses_without_ending_anything(self, listening, queue, notes, series, monkeypatch):
        port = listening()
        usage = namedtuple("usage", "free")
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage(10))
        assert send(series()[:2], port) == [OUT_OF_RESOURCES] * 2
        assert "the disk or the --quota is full" in notes[0]

    def test_the_quota_counts_what_waits(self, listening, queue, series, monkeypatch):
        monkeypatch.setattr(module, "_CHECK_SECONDS", 0.0)
        port, files = listening(quota=1500), series()
        assert send(files, port)[0] == SUCCESS
        assert send(series("other"), port) == [OUT_OF_RESOURCES] * 6
        waiting = queue.next_complete(0)
        queue.begin(waiting)
        queue.end(waiting, DONE)
        assert send(series("other"), port)[0] == SUCCESS

    def test_a_disk_that_fails_is_no_success(self, listening, queue, notes, series, monkeypatch):
        port = listening()

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module.os, "fsync", fail)
        assert send(series()[:1], port) == [OUT_OF_RESOURCES]
        assert "could not be kept (OSError)" in notes[0]

    def test_an_instance_that_is_too_large_ends_the_association(self, listening, settings, notes, series, monkeypatch):
        monkeypatch.setattr(module, "LARGEST_INSTANCE", 2 * LARGEST_PDU)
        assert send(series(pixels=400)[:1], listening()) == [-1]
        assert received(settings) == []
        assert "was refused" in notes[0]


class TestConnections:
    def test_a_pdu_that_is_too_large_ends_the_connection(self, listening, series):
        port = listening()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(60)
            connection.sendall(struct.pack(">BBL", 1, 0, 2**31) + b"x" * 5000)
            assert _is_closed(connection)
        assert send(series()[:1], port) == [SUCCESS]

    def test_a_slow_sender_is_cut_off(self, listening, series, monkeypatch):
        monkeypatch.setattr(module, "PDU_SECONDS", 0.3)
        port = listening()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(60)
            connection.sendall(struct.pack(">BBL", 1, 0, 1000) + b"x")
            assert _is_closed(connection)
        assert send(series()[:1], port) == [SUCCESS]

    def test_junk_does_no_harm(self, listening, series):
        port = listening()
        for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"\xff" * 100):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(junk)
        assert send(series()[:1], port) == [SUCCESS]

    def test_a_hundred_at_once_do_no_harm(self, listening, series):
        port = listening()
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        for connection in connections:
            connection.close()
        wait_for(lambda: send(series()[:1], port) == [SUCCESS])

    def test_an_address_in_use_is_refused(self, listening):
        port = listening()
        with pytest.raises(InputError, match="Cannot listen at 127.0.0.1:.*: choose another --listen"):
            listening(port=port)


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other side ends a connection, perhaps with an abort message."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return True
