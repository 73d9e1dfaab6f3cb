"""The sending side of a node: a result goes to the archive."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE, Association
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

from ..io.dicom.files import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from .settings import NETWORK_SECONDS, Peer, Settings

# DICOM PS3.4, table B.2-1: success, and warnings after which the instance is stored.
_STORED = {0x0000, 0xB000, 0xB006, 0xB007}


class NotDelivered(Exception):
    """The archive did not take the whole result. The message is a sentence without patient data."""


def deliver(folder: Path, settings: Settings, stop_if_requested: Callable[[], None]) -> int:
    """Send every image of a result, and return their number. An archive that has some of them gets them again.

    Args:
        folder: the images.
        settings: of the node.
        stop_if_requested: called before each image; may raise.

    Raises:
        NotDelivered: the archive cannot be reached, or has refused an image.
    """
    files = sorted(folder.iterdir())
    if isinstance(settings.destination, str):
        from .web import deliver_by_web

        deliver_by_web(files, settings.destination, stop_if_requested)
        return len(files)
    association = _associate(settings, settings.destination)
    try:
        for file in files:
            stop_if_requested()
            _send(file, association)
    finally:
        if association.is_established:
            association.release()
    return len(files)


def _associate(settings: Settings, peer: Peer) -> Association:
    entity = AE(ae_title=settings.title)
    entity.add_requested_context(CTImageStorage, [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = NETWORK_SECONDS
    tls = (settings.tls.context(ssl.Purpose.SERVER_AUTH), peer.host) if settings.tls else None
    association = entity.associate(peer.host, peer.port, ae_title=peer.title, tls_args=tls)
    if association.is_established:
        return association
    if association.is_rejected:
        raise NotDelivered(f"{peer} rejects associations of {settings.title}: register it there.")
    raise NotDelivered(f"{peer} does not answer: start it, or check the address.")


def _send(file: Path, association: Association) -> None:
    if not association.is_established:
        raise NotDelivered("The connection to the archive was lost.")
    try:
        status = association.send_c_store(dcmread(file)).get("Status")
    except (ValueError, RuntimeError) as error:
        raise NotDelivered("The archive takes no CT images, or has ended the association.") from error
    if status is None:
        raise NotDelivered("The connection to the archive was lost.")
    if status not in _STORED:
        raise NotDelivered(f"The archive refuses an image with the status {status:04X}.")
