"""The receiving side of a node: C-ECHO and C-STORE of CT images, bounded in everything that a caller decides."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import socketserver
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification  # type: ignore[attr-defined]
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from ..errors import InputError
from ..io.dicom.files import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, read_header
from ..io.dicom.slices import JPEG, JPEG_2000, JPEG_LS, RLE
from ..system.durable import names_to_disk
from .queue import FAILED, Queue
from .settings import (
    ACSE_SECONDS,
    FAILURES,
    LARGEST_INSTANCE,
    LARGEST_PDU,
    MOST_ASSOCIATIONS,
    NETWORK_SECONDS,
    PDU_SECONDS,
    REASON,
    RECEIVED,
    RESERVE,
    Settings,
)

if TYPE_CHECKING:
    from pynetdicom.events import Event

SYNTAXES = [EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED, *JPEG, *JPEG_LS, *JPEG_2000, RLE]
_PART = ".part"
#: Status of a C-STORE request (DICOM PS3.4, table B.2-1).
SUCCESS, NOT_AUTHORISED, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0x0124, 0xA700, 0xC000
_KEYWORDS = ("SOPInstanceUID", "SeriesInstanceUID", "NumberOfSeriesRelatedInstances")
_CHECK_SECONDS = 2.0


@contextmanager
def receiver(settings: Settings, store: Store) -> Iterator[int]:
    """Receive instances in other threads until the context ends. Yields the port.

    Args:
        settings: of the node.
        store: gets the instances.

    Raises:
        InputError: the node cannot listen at its address.
    """
    entity = AE(ae_title=settings.title)
    entity.add_supported_context(Verification)
    entity.add_supported_context(CTImageStorage, SYNTAXES)
    entity.require_called_aet = True
    entity.require_calling_aet = sorted({caller.title for caller in settings.callers})
    entity.maximum_associations, entity.maximum_pdu_size = MOST_ASSOCIATIONS, LARGEST_PDU
    entity.acse_timeout, entity.network_timeout, entity.dimse_timeout = ACSE_SECONDS, NETWORK_SECONDS, NETWORK_SECONDS
    handlers = [(evt.EVT_C_STORE, store.receive), (evt.EVT_PDU_RECV, store.check_size)]
    server = _listening(entity, settings, handlers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        # That of pynetdicom expects a server that its entity has started.
        socketserver.BaseServer.shutdown(server)
        server.server_close()
        for association in server.active_associations:
            association.abort()


def _listening(entity: AE, settings: Settings, handlers: list[Any]) -> _Server:
    context = settings.tls.context(ssl.Purpose.CLIENT_AUTH) if settings.tls else None
    address = (settings.host, settings.port)
    try:
        server = _Server(
            entity, address, settings.title, entity.supported_contexts, context, handlers, request_handler=_Handler
        )
    except (OSError, OverflowError) as error:
        raise InputError(
            f"Cannot listen at {settings.host}:{settings.port} ({error}): choose another --listen."
        ) from error
    server.callers = [caller.host for caller in settings.callers]
    return server


class _Server(ThreadedAssociationServer):
    """Accepts connections of known hosts only, and not too many at a time."""

    callers: Sequence[str] = ()
    daemon_threads = True

    def verify_request(self, request: Any, client_address: Any) -> bool:
        # Connections without an association count too.
        crowded = len(self.active_associations) >= 2 * MOST_ASSOCIATIONS
        return not crowded and is_known(client_address[0], self.callers)

    def get_request(self) -> Any:
        # TLS begins in the thread of the connection, so that a silent caller holds up nobody.
        assert self.socket is not None
        connection, address = self.socket.accept()
        connection.settimeout(PDU_SECONDS)
        return connection, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.ssl_context is not None:
            request = self.ssl_context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that fails to connect is its own concern."""


class _Handler(RequestHandler):
    """Makes associations whose PDUs are bounded."""

    def _create_association(self) -> Any:
        association = super()._create_association()
        association.dul.socket.__class__ = _Socket
        return association


class _Socket(AssociationSocket):
    """Refuses PDUs that are too large or too slow."""

    def recv(self, nr_bytes: int) -> bytearray:
        if nr_bytes > LARGEST_PDU + 6:
            raise OSError("the PDU is too large")
        assert self.socket is not None
        received, until = bytearray(), time.monotonic() + PDU_SECONDS
        while len(received) < nr_bytes:
            self.socket.settimeout(max(until - time.monotonic(), 1e-3))
            part = self.socket.recv(nr_bytes - len(received))
            if not part:
                break
            received += part
        return received


def is_known(host: str, callers: Sequence[str]) -> bool:
    """Whether an address is that of a caller: its host, or this computer if there are none."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if not callers:
        return address.is_loopback
    return any(address in _addresses(caller) for caller in callers)


def _addresses(host: str) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    with suppress(OSError):
        return {ipaddress.ip_address(str(found[4][0]).partition("%")[0]) for found in socket.getaddrinfo(host, None)}
    return set()


class Store:
    """Writes instances to disk and into the queue.

    Args:
        settings: of the node.
        queue: gets the instances.
        note: receives sentences for the log, without patient data.
    """

    def __init__(self, settings: Settings, queue: Queue, note: Callable[[str], None]):
        self._settings, self._queue, self._note = settings, queue, note
        self._folder = settings.folder / RECEIVED
        self._folder.mkdir(exist_ok=True)
        self._pairs = {(caller.title, caller.host) for caller in settings.callers}
        self._looked, self._has_room = 0.0, True

    def check_size(self, event: Event) -> None:
        """End an association whose message grows beyond the largest instance."""
        association: Any = event.assoc
        values = getattr(event.pdu, "presentation_data_value_items", None)
        if values is None:
            return
        data = [value.presentation_data_value for value in values]
        # The first byte holds two bits: command or data, and whether it is the last fragment.
        size = getattr(association, "received_bytes", 0) + sum(len(value) for value in data)
        association.received_bytes = 0 if data and data[-1][0] & 2 else size
        if size > LARGEST_INSTANCE and not getattr(association, "is_refused", False):
            # The rest of what has arrived is still received before the association ends.
            association.is_refused = True
            self._note(f"An instance above {LARGEST_INSTANCE / 1e6:.0f} MB was refused.")
            association.abort()

    def receive(self, event: Event) -> int:
        """The status of a C-STORE request, `SUCCESS` once the instance is on disk and in the queue."""
        if getattr(event.assoc, "is_refused", False):
            return OUT_OF_RESOURCES
        if not self._is_paired(event):
            return NOT_AUTHORISED
        return self.keep(event.encoded_dataset())

    def keep(self, instance: bytes) -> int:
        """Keep an instance; the status of a C-STORE request for it."""
        if not self._room():
            self._note("An instance was refused: the disk or the --quota is full.")
            return OUT_OF_RESOURCES
        if len(instance) > LARGEST_INSTANCE:
            return CANNOT_UNDERSTAND
        try:
            return self._keep(instance)
        except InputError:
            return CANNOT_UNDERSTAND
        except Exception as error:  # a full disk or a locked database: the caller sends it again
            self._note(f"An instance was refused: it could not be kept ({type(error).__name__}).")
            return OUT_OF_RESOURCES

    def _is_paired(self, event: Event) -> bool:
        """Whether the title and the host belong to the same caller."""
        requestor = event.assoc.requestor
        titled = [host for title, host in self._pairs if title == requestor.ae_title]
        return not self._pairs or is_known(requestor.address, titled or ["invalid."])

    def _room(self) -> bool:
        # Looked up now and then: the sum over the queue takes longer than an instance.
        if time.monotonic() - self._looked > _CHECK_SECONDS:
            free = shutil.disk_usage(self._folder).free
            self._has_room = free > RESERVE and self._queue.waiting_bytes() < self._settings.quota
            self._looked = time.monotonic()
        return self._has_room

    def _keep(self, instance: bytes) -> int:
        descriptor, name = tempfile.mkstemp(suffix=_PART, dir=self._folder)
        part = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(instance)
                file.flush()
                os.fsync(file.fileno())
            header = read_header(part, _KEYWORDS)
            uids = [header.text(keyword) for keyword in _KEYWORDS[:2]]
            if not all(uids):
                return CANNOT_UNDERSTAND
            own, series = map(self._queue.key_of, uids)
            expected = header.text(_KEYWORDS[2])
            with self._queue.files:
                failed = self._failed(series)
                if not self._queue.knows(own):
                    if failed is not None:
                        (failed / REASON).unlink(missing_ok=True)
                        failed.replace(self._folder / series)
                    _rename(part, self._folder / series / f"{own}.dcm")
                    self._queue.add(series, own, len(instance), int(expected) if expected.isdecimal() else 0)
        finally:
            part.unlink(missing_ok=True)
        return SUCCESS

    def _failed(self, series: str) -> Path | None:
        """The folder of a series that has failed; if somebody has removed it, its images are forgotten."""
        if self._queue.state_of(series) != FAILED:
            return None
        folder = self._settings.folder / FAILURES / series
        if folder.is_dir():
            return folder
        self._queue.forget_instances(series)
        return None


def _rename(part: Path, path: Path) -> None:
    """Give a file its name, on disk when this returns."""
    path.parent.mkdir(exist_ok=True)
    part.replace(path)
    names_to_disk(path.parent)


def remove_parts(folder: Path) -> None:
    """Remove instances whose writing was interrupted; none of them was acknowledged."""
    for part in (folder / RECEIVED).glob(f"*{_PART}"):
        part.unlink(missing_ok=True)
