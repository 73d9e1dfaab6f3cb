"""Who may connect: nobody but this computer, unless a token says so, and no page of another site ever.

A browser lets any page that is open in it send requests to this computer, and a name of the attacker's may lead here
("DNS rebinding"). So a request must name the server as it is called, and must not come from a page of elsewhere.
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

#: Of every answer. Without a name of ours, aiohttp would name itself and Python with their versions.
HEADERS = {
    "Server": "XViewSynth",
    "Content-Security-Policy": (
        # The page's components are compiled in the browser, from templates that come from here.
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
    """On which address the server listens, and what it asks of those who connect.

    Attributes:
        host: name or number to listen on.
        token: what the first request must carry; None only on the loopback address.
        session: what later requests carry in a cookie instead, so that the token stays out of addresses and histories.
    """

    host: str = LOOPBACK
    token: str | None = None
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def is_local(self) -> bool:
        """Whether only this computer can connect."""
        return is_loopback(self.host)

    def address(self, port: int, name: str | None = None) -> str:
        """What to open in the browser; `name` where the host is no name to connect to."""
        host = name or self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{port}/" + (f"?token={self.token}" if self.token else "")


def make_access(host: str | None, token: str | None) -> Access:
    """Decide on what the user has asked for.

    Args:
        host: None for the loopback address.
        token: "auto" makes one.

    Raises:
        InputError: others could connect without a token, or the token is easy to guess or fits in no address.
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
    """Make sure that the address can be listened on, before anything that takes long.

    Raises:
        InputError: it cannot.
    """
    try:
        family, *_, place = socket.getaddrinfo(access.host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            if os.name == "posix":  # elsewhere this would share a port that is taken
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
            trial.listen()
    except OSError as error:
        raise cannot_listen(access, port, error) from error


def cannot_listen(access: Access, port: int, error: OSError) -> InputError:
    """What to tell where an address cannot be listened on."""
    return InputError(
        f"The viewer cannot listen on port {port} of {access.host} ({error.strerror or error}): choose another --port, "
        "or 0 for a free one."
    )


def is_loopback(host: str) -> bool:
    """Whether a host is this computer as nobody else can reach it.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("10.0.0.7")
    (True, True, False, False)
    """
    if host in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may lead anywhere
        return False


def protect(app: web.Application, access: Access) -> None:
    """Let every request, those for a WebSocket too, pass by the rules."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        _refuse_strangers(request, access)
        if access.token is None:
            return await handler(request)
        cookie = f"xviewsynth-{_port(request)}"
        given = request.query.get("token")
        if given is not None and request.path in _PAGES and _equal(given, access.token):
            answer = web.HTTPSeeOther("/index.html")
            answer.set_cookie(cookie, access.session, httponly=True, samesite="Strict", path="/")
            raise answer
        if not _equal(request.cookies.get(cookie, ""), access.session):
            raise web.HTTPUnauthorized(text="Open the address that xviewsynth view has printed, with its token.\n")
        return await handler(request)

    async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)

    app.middlewares.append(guard)
    app.on_response_prepare.append(add_headers)


def _refuse_strangers(request: web.Request, access: Access) -> None:
    if request.method not in ("GET", "HEAD"):
        raise web.HTTPMethodNotAllowed(request.method, ("GET", "HEAD"))
    named = request.headers.get("Host", "")
    if access.is_local and _name_of(named) not in _LOCAL_NAMES | {access.host}:
        raise web.HTTPForbidden(text="This server is not called so.\n")
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"http://{named}":
        raise web.HTTPForbidden(text="Pages of other sites may not connect.\n")


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::[0-9]+)?", host)
    return (match[1] or match[2]).lower() if match else ""


def _port(request: web.Request) -> int:
    # Browsers keep the cookies of all ports of a host together.
    return request.get_extra_info("sockname", ("", 0))[1]


def _equal(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())
