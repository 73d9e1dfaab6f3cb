"""The HTTP server: the files of the page and its WebSocket, with limits on what a connection may cost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import web

from .access import HEADERS, Access, protect
from .sockets import OpenPages

#: Connections besides those of pages: a browser opens six, and some systems allow a process 256 open files.
MOST_CONNECTIONS = 100

# A connection that sends no whole request for so long is closed, and so is one that sends a body nobody reads.
_IDLE_SECONDS = 10.0
_BODY_SECONDS = 1.0
_SHUTDOWN_SECONDS = 2.0
_LINE_BYTES, _MOST_HEADERS = 8190, 64


class _Connection(web.RequestHandler):
    """One connection, whose errors carry no detail.

    Attributes:
        socket: stays known until the connection is lost, also while what was written waits for a slow peer.
        is_page: whether it has become the WebSocket of a page.
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
            raise ConnectionError("The answer has begun, so it cannot become an error")
        answer = web.Response(status=status, text=f"{status}\n", headers=HEADERS)
        answer.force_close()
        return answer


class WebServer:
    """Serves a page.

    Args:
        access: who may connect.
        pages: gets the WebSockets.
        folders: of the page's files, by the path under which they are served.
    """

    def __init__(self, access: Access, pages: OpenPages, folders: Mapping[str, str]):
        self._access, self._pages = access, pages
        app = web.Application()
        protect(app, access)
        app.router.add_get("/", _to_page)
        app.router.add_get("/ws", self._meet)
        for path in sorted(folders, reverse=True):
            app.router.add_static(f"/{path.strip('/')}", folders[path])
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS)
        self._listening: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """On which it listens."""
        return self._listening.sockets[0].getsockname()[1]

    async def start(self, port: int) -> None:
        """Listen; 0 for a free port.

        Raises:
            OSError: the address cannot be listened on.
        """
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._accept, self._access.host, port)

    async def stop(self) -> None:
        """Say goodbye to the pages, and end all connections."""
        if self._listening is not None:
            self._listening.close()
        await self._pages.close()
        await self._runner.cleanup()

    def _accept(self) -> _Connection:
        """The protocol of a new connection. The oldest ones make room for it, so that no silent ones keep it out."""
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

    async def _meet(self, request: web.Request) -> web.StreamResponse:
        request.protocol.is_page = True
        try:
            return await self._pages.meet(request)
        finally:
            request.protocol.is_page = False


async def _to_page(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/index.html")
