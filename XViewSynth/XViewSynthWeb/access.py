"""Access control: without a token only this computer may connect, and pages of other sites never.

Any page that is open in a browser can send requests to this computer, and a host name of an attacker may resolve to it
("DNS rebinding"). So the Host header must name this server, and the Origin header must not name another site.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from XViewSynthLib.errors import InputError

LOOPBACK = "127.0.0.1"
AUTOMATIC = "auto"

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,200}")
_LOCAL_NAMES = {"127.0.0.1", "localhost", "::1"}
_PAGES = ("/", "/index.html")

# Not a redirect: after a link in a file or on another site, browsers send the cookie only if our own page makes the
# next request.
_FORWARDING_PAGE = '<!DOCTYPE html><meta http-equiv="refresh" content="0; url=index.html"><title>XViewSynth</title>'

#: Headers of every response. "Server" replaces the versions of aiohttp and Python.
HEADERS = {
    "Server": "XViewSynth",
    "Content-Security-Policy": (
        # The browser compiles the page's components from templates of this server.
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'; "
        "base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Access:
    """The address of the server and its access rules.

    Attributes:
        host: name or number to listen on.
        token: required in the first request; None only on the loopback address.
        session: required in a cookie of later requests, so that the token stays out of addresses and histories.
    """

    host: str = LOOPBACK
    token: str | None = None
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def is_local(self) -> bool:
        """Whether only this computer can connect."""
        return is_loopback(self.host)

    def address(self, port: int, name: str | None = None) -> str:
        """Address for the browser; `name` replaces a host that is not an address to connect to."""
        host = name or self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{port}/" + (f"?token={self.token}" if self.token else "")


def make_access(host: str | None, token: str | None) -> Access:
    """The access rules for the requested host and token.

    Args:
        host: None for the loopback address.
        token: "auto" generates one.

    Raises:
        InputError: other computers could connect without a token, or the token is too short or has other characters.
    """
    host = host or LOOPBACK
    if token is None and not is_loopback(host):
        raise InputError(
            f"With --host {host} other computers can connect: add --token {AUTOMATIC}, which makes an access token, or "
            "leave --host out."
        )
    if token == AUTOMATIC:
        token = secrets.token_urlsafe(24)
    if token is not None and not _TOKEN.fullmatch(token):
        raise InputError(f"The token must be 8 to 200 letters, digits, or any of . _ ~ -: take --token {AUTOMATIC}.")
    return Access(host, token)


def check_address(access: Access, port: int) -> None:
    """Raise unless the server can listen on the address. Call it before slow work.

    Raises:
        InputError: it cannot listen.
    """
    try:
        family, *_, place = socket.getaddrinfo(access.host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            if os.name == "posix":  # on other systems this option would share a port in use
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
            trial.listen()
    except OSError as error:
        raise cannot_listen(access, port, error) from error


def cannot_listen(access: Access, port: int, error: OSError) -> InputError:
    """The exception for an address on which the server cannot listen."""
    return InputError(
        f"The viewer cannot listen on port {port} of {access.host} ({error.strerror or error}): choose another --port, "
        "or 0 for a free one."
    )


def is_loopback(host: str) -> bool:
    """Whether a host is the loopback address, which other computers cannot reach.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("10.0.0.7")
    (True, True, False, False)
    """
    if host in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may resolve to any address
        return False


def protect(app: web.Application, access: Access) -> None:
    """Check every request, including those for a WebSocket."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        _check_origin(request, access)
        if access.token is None:
            return await handler(request)
        cookie = f"xviewsynth-{_port(request)}"
        given = request.query.get("token")
        if given is not None and request.path in _PAGES and _equal(given, access.token):
            response = web.Response(text=_FORWARDING_PAGE, content_type="text/html")
            response.set_cookie(cookie, access.session, httponly=True, samesite="Strict", path="/")
            return response
        if not _equal(request.cookies.get(cookie, ""), access.session):
            raise web.HTTPUnauthorized(text="Open the address that xviewsynth view has printed, with its token.")
        return await handler(request)

    async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)

    app.middlewares.append(guard)
    app.on_response_prepare.append(add_headers)


def _check_origin(request: web.Request, access: Access) -> None:
    if request.method not in ("GET", "HEAD"):
        raise web.HTTPMethodNotAllowed(request.method, ("GET", "HEAD"))
    named = request.headers.get("Host", "")
    if access.is_local and _name_of(named) not in _LOCAL_NAMES | {access.host}:
        raise web.HTTPForbidden(text="This server has another name.\n")
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{named}":
        raise web.HTTPForbidden(text="Pages of other sites may not connect.\n")


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::[0-9]+)?", host)
    return (match[1] or match[2]).lower() if match else ""


def _port(request: web.Request) -> int:
    # Cookies do not depend on the port, so their names contain it.
    return request.get_extra_info("sockname", ("", 0))[1]


def _equal(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())
