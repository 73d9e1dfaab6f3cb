"""Settings of a node: the addresses of both sides, limits, and the series that qualify."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..request import Request

#: Folders of a node: received series, each in a folder named by its key, and series that cannot be enhanced, with the
#: reason in a file.
RECEIVED, FAILURES, REASON = "received", "failures", "reason.txt"
#: Bytes: of the largest instance, and of the free disk space that the node leaves to others.
LARGEST_INSTANCE, RESERVE = 32 * 10**6, 10**9
#: Largest PDU, in bytes. A larger one ends the association.
LARGEST_PDU = 2**17
#: Associations at a time.
MOST_ASSOCIATIONS = 16
#: Seconds: until a connection becomes an association, for the rest of a PDU, and between two messages.
ACSE_SECONDS, PDU_SECONDS, NETWORK_SECONDS = 10.0, 30.0, 60.0

_LARGEST_PORT = 2**16 - 1
# ASCII without backslash or blanks at its ends (DICOM PS3.5, value representation AE).
_AE_TITLE = r"[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?"


@dataclass(frozen=True)
class Peer:
    """An application entity: its title, its host, and the port on which it listens (0 for a caller)."""

    title: str
    host: str
    port: int = 0

    @classmethod
    def parse(cls, text: str, has_port: bool) -> Peer:
        """The peer meant by AET@HOST:PORT, or AET@HOST.

        Raises:
            ValueError: the text has another form.
        """
        return cls(*_parts(text, True, has_port))

    def __str__(self) -> str:
        return f"{self.title}@{self.host}" + (f":{self.port}" if self.port else "")


@dataclass(frozen=True)
class Tls:
    """Files of TLS, in PEM.

    Attributes:
        certificate, key: of the node.
        authority: of the certificates of peers, which must have one.
    """

    certificate: Path
    key: Path
    authority: Path

    def context(self, purpose: ssl.Purpose) -> ssl.SSLContext:
        """The context for accepting (`CLIENT_AUTH`) or making (`SERVER_AUTH`) connections.

        Both sides show certificates.

        Raises:
            InputError: a file cannot be used.
        """
        try:
            context = ssl.create_default_context(purpose, cafile=str(self.authority))
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"The TLS files cannot be used ({error}): check --tls-cert, --tls-key and --tls-ca."
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


@dataclass(frozen=True)
class Settings:
    """Addresses, limits and rules of a node.

    Attributes:
        folder: of the queue, the received series and the results; one node at a time uses it.
        title: the node's AE title.
        host, port: where it listens; port 0 takes a free one.
        callers: the application entities that may send, any on this computer if empty.
        destination: the archive that gets the results: an application entity, or the URL of a DICOMweb service.
        source: URL of a DICOMweb service whose new series are fetched, or None.
        tls: for connections in and out, or None.
        quiet_seconds: a series is complete when nothing of it has arrived for so long.
        thicker_than: a series qualifies if its slices are farther apart, mm.
        keep: whether received series and results stay after delivery.
        quota: bytes of received instances that are not yet delivered.
        page: port of the status page on this computer, 0 for a free one, or None for no page.
        request: how series are enhanced.
    """

    folder: Path
    title: str
    host: str
    port: int
    callers: tuple[Peer, ...]
    destination: Peer | str
    source: str | None = None
    tls: Tls | None = None
    quiet_seconds: float = 30.0
    thicker_than: float = 2.0
    keep: bool = False
    quota: int = 50 * 10**9
    page: int | None = None
    request: Request = field(default_factory=Request)


def parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT.

    Raises:
        ValueError: the text has another form.
    """
    _, host, port = _parts(text, False, True)
    return host, port


def parse_title(text: str) -> str:
    """An AE title.

    Raises:
        ValueError: the text is none.
    """
    if not re.fullmatch(_AE_TITLE, text):
        raise ValueError("must be an AE title: 1 to 16 letters, digits and signs")
    return text


def parse_url(text: str) -> str:
    """The URL of a DICOMweb service.

    Raises:
        ValueError: the text is none.
    """
    if not re.fullmatch(r"https?://[^\s@]+", text):
        raise ValueError("must be a URL that begins with https:// or http://, without user and password")
    return text.rstrip("/")


def _parts(text: str, has_title: bool, has_port: bool) -> tuple[str, str, int]:
    """AE title, host and port."""
    title, port = rf"({_AE_TITLE})@" if has_title else "()", r":(\d{1,5})" if has_port else "()"
    found = re.fullmatch(rf"{title}([\w.-]+|\[[0-9a-fA-F:.]+\]){port}", text)
    number = int(found[3] or 0) if found else 0
    if not found or number > _LARGEST_PORT:
        raise ValueError(f"must be {'AET@' * has_title}HOST{':PORT' * has_port}")
    return found[1], found[2].strip("[]"), number
