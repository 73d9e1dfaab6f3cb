"""The open pages: each has one WebSocket that receives calls and sends images and state.

The queue for a slow page is bounded: it holds the latest image of each view and the latest value of each name of the
state. A page that receives nothing for half a minute is dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
from aiohttp import WSCloseCode, WSMsgType, web

from .messages import HELLO, MOST_BYTES, Call, Malformed, Refused, read_call

MOST_PAGES = 8

_STATE, _PICTURES = "trame.state.topic", "trame.rca.topic.stream"
_REFUSED, _FAILED = -32601, -32001

# Limits for the hello of a page, its reply to a ping, and the delivery of a message.
_HELLO_SECONDS = 10.0
_PING_SECONDS = 20.0
_SEND_SECONDS = 30.0
_CLOSE_SECONDS = 1.0

# A page sends at most a hundred calls a second, with bursts when the mouse enters or leaves a view.
_CALLS_PER_SECOND = 300.0
_CALLS_AT_ONCE = 300.0

_log = logging.getLogger(__name__)
_numbers = itertools.count()


class OpenPage:
    """One open page.

    Args:
        request: the request for the WebSocket.
    """

    def __init__(self, request: web.Request):
        self.greeted = False
        self.socket = web.WebSocketResponse(
            timeout=_CLOSE_SECONDS, heartbeat=_PING_SECONDS, max_msg_size=MOST_BYTES, compress=False
        )
        self._transport = request.transport
        self._state: dict[str, Any] = {}
        self._pictures: dict[str, bytes] = {}
        self._waiting = asyncio.Event()
        self._sending = asyncio.Lock()
        self._next_call = 0.0

    def queue_state(self, changes: dict[str, Any]) -> None:
        """Queue values; a newer value replaces a queued one of the same name."""
        self._state.update(changes)
        self._waiting.set()

    def queue_picture(self, view: str, message: bytes) -> None:
        """Queue the image of a view; it replaces a queued one of the same view."""
        self._pictures.pop(view, None)
        self._pictures[view] = message
        self._waiting.set()

    async def write(self) -> None:
        """Send queued messages until the page is closed."""
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            while self._state or self._pictures:
                await self.send(self._take())

    async def send(self, message: bytes) -> None:
        """Send one message; drop the page if it does not receive it."""
        try:
            async with self._sending:
                await asyncio.wait_for(self.socket.send_bytes(message), _SEND_SECONDS)
        except (TimeoutError, ConnectionError):
            self.drop()

    async def pace(self) -> None:
        """Wait if calls come too fast. The sender waits too, because nothing is read meanwhile."""
        now = asyncio.get_running_loop().time()
        self._next_call = max(self._next_call, now - _CALLS_AT_ONCE / _CALLS_PER_SECOND) + 1 / _CALLS_PER_SECOND
        if self._next_call > now:
            await asyncio.sleep(self._next_call - now)

    def drop(self) -> None:
        """Close the connection at once, with everything in its queue."""
        if self._transport is not None:
            self._transport.abort()

    def drop_silent(self) -> None:
        """Close the connection of a page that has sent no hello."""
        if not self.greeted:
            self.drop()

    def _take(self) -> bytes:
        if self._state:
            changes, self._state = self._state, {}
            return _pack(f"publish:{_STATE}:0", result=changes)
        return self._pictures.pop(next(iter(self._pictures)))


class OpenPages:
    """All open pages.

    Args:
        handle_call: returns the result of a call. `Refused` and other exceptions become errors without details.
        forget: called with a closed page.
    """

    def __init__(self, handle_call: Callable[[OpenPage, Call], Any], forget: Callable[[OpenPage], None]):
        self._handle_call, self._forget = handle_call, forget
        self._pages: list[OpenPage] = []
        self._calling: OpenPage | None = None

    @property
    def any_greeted(self) -> bool:
        """Whether an open page has sent its hello."""
        return any(page.greeted for page in self._pages)

    def publish(
        self, topic: str, data: dict[str, Any], client_id: str | None = None, skip_last_active_client: bool = False
    ) -> None:
        """Send state or an image to all pages; trame's protocols call it.

        Args:
            topic, data: of trame.
            client_id: not used, because trame sends these topics to all pages.
            skip_last_active_client: leave out the page whose call is being handled.
        """
        skipped = self._calling if skip_last_active_client else None
        pages = [page for page in self._pages if page.greeted and page is not skipped]
        if topic == _STATE:
            for page in pages:
                page.queue_state(data)
        elif topic == _PICTURES and pages:
            message = _pack(f"publish:{_PICTURES}:0", result=data)
            for page in pages:
                page.queue_picture(data["name"], message)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one page until it is closed.

        Raises:
            web.HTTPServiceUnavailable: too many pages are open.
        """
        self.refuse_too_many()
        page = OpenPage(request)
        self._pages.append(page)
        try:
            with suppress(ConnectionError):  # the page was closed before the handshake ended
                await page.socket.prepare(request)
                await self._serve(page)
        finally:
            self._pages.remove(page)
            self._forget(page)
        return page.socket

    def refuse_too_many(self) -> None:
        """Raise unless one more page may be opened.

        Raises:
            web.HTTPServiceUnavailable: too many pages are open.
        """
        if len(self._pages) >= MOST_PAGES:
            raise web.HTTPServiceUnavailable(text=f"{MOST_PAGES} pages are open: close one, and reload this one.")

    async def close(self) -> None:
        """Close all pages."""
        closings = [page.socket.close(code=WSCloseCode.GOING_AWAY) for page in self._pages if page.socket.prepared]
        await asyncio.gather(*closings, return_exceptions=True)

    async def _serve(self, page: OpenPage) -> None:
        silence = asyncio.get_running_loop().call_later(_HELLO_SECONDS, page.drop_silent)
        writing = asyncio.ensure_future(page.write())
        try:
            async for message in page.socket:
                if message.type is not WSMsgType.BINARY:
                    raise Malformed
                await page.send(self._reply(page, read_call(message.data)))
                await page.pace()
        except Malformed:
            with suppress(ConnectionError):
                await page.socket.close(code=WSCloseCode.POLICY_VIOLATION)
        finally:
            silence.cancel()
            writing.cancel()
            # A regular close would wait for a page that receives nothing.
            page.drop()

    def _reply(self, page: OpenPage, call: Call) -> bytes:
        if call.method == HELLO:
            page.greeted = True
            # Trame's script uses this in the numbers of its calls.
            return _pack(call.id, result={"clientID": f"c{secrets.token_hex(16)}", "maxMsgSize": MOST_BYTES})
        try:
            if not page.greeted:
                raise Refused
            self._calling = page
            return _pack(call.id, result=self._handle_call(page, call))
        except Refused:
            return _pack(call.id, error={"code": _REFUSED, "message": "The viewer has no such call for a page."})
        except Exception:
            _log.exception("A call of the page failed")
            return _pack(call.id, error={"code": _FAILED, "message": "The call failed."})
        finally:
            self._calling = None


def _pack(id_: str, **content: object) -> bytes:
    """A message in wslink's format: 4 bytes each for message number, offset and total bytes, then the content.

    Numbers differ, because trame's script loses one of two simultaneous messages with the same number.
    """
    body = msgpack.packb({"wslink": "1.0", "id": id_, **content})
    header = (next(_numbers) % 2**32, 0, len(body))
    return b"".join(part.to_bytes(4, "little") for part in header) + body
