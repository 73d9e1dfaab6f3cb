"""The HTTP server: the files of the page and its WebSocket, with limits for each connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from .access import HEADERS, Access, protect
from .sockets import OpenPages

#: Most connections besides those of pages: a browser opens six, and some systems limit a process to 256 open files.
MOST_CONNECTIONS = 100

# Time to send a complete request, and time to receive a body that is not used; then the connection is closed.
_IDLE_SECONDS = 10.0
_BODY_SECONDS = 1.0
_SHUTDOWN_SECONDS = 2.0
_LINE_BYTES, _MOST_HEADERS = 8190, 64


class _Connection(web.RequestHandler):
    """One connection; its error responses contain no details.

    Attributes:
        socket: transport, kept until the connection is lost, also while written data wait for a slow peer.
        is_page: whether the connection is the WebSocket of a page.
    """

    socket: asyncio.Transport
    is_page = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.socket = transport
        super().connection_made(transport)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500:
            self.log_exception("A request failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("The response has started, so it cannot become an error")
        response = web.Response(status=status, text=f"{status}\n", headers=HEADERS)
        response.force_close()
        return response


class WebServer:
    """Serves a page.

    Args:
        access: who may connect.
        pages: receives the WebSockets.
        folders: folders of the page's files, by the path under which they are served.
    """

    def __init__(self, access: Access, pages: OpenPages, folders: Mapping[str, str]):
        self._access, self._pages, self._folders = access, pages, folders
        app = web.Application()
        protect(app, access)
        app.router.add_get("/", _to_page)
        app.router.add_get("/index.html", self._show)
        app.router.add_get("/ws", self._serve_page)
        for path in sorted(folders, reverse=True):
            app.router.add_static(f"/{path.strip('/')}", folders[path])
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS)
        self._listening: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port of the server."""
        return self._listening.sockets[0].getsockname()[1]

    async def start(self, port: int) -> None:
        """Start to listen; port 0 selects a free port.

        Raises:
            OSError: the server cannot listen on the address.
        """
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._accept, self._access.host, port)

    async def stop(self) -> None:
        """Close all pages and connections."""
        if self._listening is not None:
            self._listening.close()
        await self._pages.close()
        await self._runner.cleanup()

    def _accept(self) -> _Connection:
        """The protocol of a new connection. It closes the oldest ones, so that idle ones do not block it."""
        server = self._runner.server
        others = [connection for connection in server.connections if not connection.is_page]
        for oldest in others[: max(len(others) - MOST_CONNECTIONS + 1, 0)]:
            oldest.socket.abort()
        return _Connection(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_BODY_SECONDS,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
            max_headers=_MOST_HEADERS,
            access_log=None,
        )

    async def _show(self, _request: web.Request) -> web.StreamResponse:
        # A page whose WebSocket is refused would stay empty without a message.
        self._pages.refuse_too_many()
        return web.FileResponse(Path(self._folders["/"]) / "index.html")

    async def _serve_page(self, request: web.Request) -> web.StreamResponse:
        request.protocol.is_page = True
        try:
            return await self._pages.serve(request)
        finally:
            request.protocol.is_page = False


async def _to_page(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("index.html")
