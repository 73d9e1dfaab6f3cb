"""A page of the viewer without a browser: it sends any message over a WebSocket, well formed or not."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgpack
from PIL import Image

from web import Served

PATIENCE_SECONDS = 120.0
_PICTURES = "publish:trame.rca.topic.stream:0"


class RefusedCall(Exception):
    """The viewer has answered a call with an error."""


class GoneViewer(Exception):
    """The viewer has ended the connection."""


def packed(message: object, size: int | None = None, offset: int = 0) -> bytes:
    """A message in wslink's format; `size` and `offset` are what its header claims."""
    body = msgpack.packb(message)
    return framed(body, len(body) if size is None else size, offset)


def framed(body: bytes, size: int, offset: int = 0) -> bytes:
    """Bytes behind a header of wslink's format."""
    return b"".join(part.to_bytes(4, "little") for part in (next(_numbers), offset, size)) + body


_numbers = itertools.count(1)


class RawPage:
    """One WebSocket, and the calls and pictures that go through it.

    Attributes:
        socket: for messages that are no calls.
        pictures: the latest picture of each view, JPEG.
        state: what the viewer has published since the page was opened.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self.socket = socket
        self.pictures: dict[str, bytes] = {}
        self.state: dict[str, Any] = {}

    async def call(self, method: str, *arguments: object, id_: str = "rpc:c0") -> Any:
        """The result of a call.

        Raises:
            RefusedCall: it is an error.
            GoneViewer: there is no answer, since the connection has ended.
        """
        id_ = f"{id_}:{next(_numbers)}"
        await self.send(packed({"wslink": "1.0", "id": id_, "method": method, "args": arguments, "kwargs": {}}))
        while True:
            message = await self.receive()
            if message.get("id") == id_:
                if "error" in message:
                    raise RefusedCall(str(message["error"]))
                return message["result"]

    async def send(self, data: bytes) -> None:
        """Send bytes as they are.

        Raises:
            GoneViewer: the connection has ended.
        """
        try:
            await self.socket.send_bytes(data)
        except (ConnectionError, aiohttp.ClientError) as error:
            raise GoneViewer from error

    async def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
            GoneViewer: the connection has ended.
        """
        try:
            message = await self.socket.receive(PATIENCE_SECONDS)
        except aiohttp.ClientError as error:
            raise GoneViewer from error
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise GoneViewer(str(message))
        content = msgpack.unpackb(message.data[12:])
        if content.get("id") == _PICTURES:
            self.pictures[content["result"]["name"]] = content["result"]["content"]
        elif str(content.get("id")).startswith("publish:trame.state"):
            self.state |= content["result"]
        return content

    async def hello(self) -> None:
        """Be let in."""
        await self.call("wslink.hello", {"secret": "wslink-secret"}, id_="system:c0")

    async def get_state(self) -> dict[str, Any]:
        """The whole state of the viewer."""
        return (await self.call("trame.state.get"))["state"]

    async def set(self, **values: object) -> None:
        """Set values of the state."""
        await self.call("trame.state.update", [{"key": key, "value": value} for key, value in values.items()])

    async def resize(self, view: str, width: object, height: object, ratio: object = 1) -> None:
        """Show a view in this size, pixels."""
        await self.call("trame.rca.size", view, "test", {"w": width, "h": height, "p": ratio})

    async def event(self, view: str, **event: object) -> None:
        """Something happens in a view; a mouse at its place unless told otherwise."""
        keys = dict.fromkeys(("shiftKey", "altKey", "ctrlKey", "metaKey"), 0)
        await self.call("trame.rca.event", view, "test", {"w": 300, "h": 200, "x": 150, "y": 100, **keys, **event})

    async def new_picture(self, view: str, unlike: bytes = b"") -> bytes:
        """The next picture of a view that differs from one seen before."""
        while self.pictures.get(view, unlike) == unlike:
            await self.receive()
        return self.pictures[view]

    async def picture_of(self, view: str, width: int, height: int) -> bytes:
        """The next picture of this size, pixels; those of an earlier size may arrive before."""
        while self._size_of(view) != (width, height):
            await self.receive()
        return self.pictures[view]

    def _size_of(self, view: str) -> tuple[int, int] | None:
        seen = self.pictures.get(view)
        return Image.open(io.BytesIO(seen)).size if seen else None


@asynccontextmanager
async def raw_page(served: Served, greet: bool = True, **options: object) -> AsyncIterator[RawPage]:
    """Open a page of a viewer that asks for no token.

    Raises:
        GoneViewer: the viewer opens none.
    """
    async with aiohttp.ClientSession() as session:
        address = f"http://127.0.0.1:{served.port}/ws"
        try:
            socket = await session.ws_connect(address, max_msg_size=0, autoping=True, **options)
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise GoneViewer(str(error)) from error
        async with socket:
            page = RawPage(socket)
            if greet:
                await page.hello()
            yield page


async def scrolls(served: Served, view: str = "XVSEnhancedAxial", setting: str = "index_Axial") -> bool:
    """Whether a new page can show a whole view, scroll it, and get another picture of it."""
    async with raw_page(served) as page:
        state = await page.get_state()
        await page.call("trame.trigger", button(state, "fit"), [], {})
        await page.set(window="Soft tissue")
        await page.resize(view, 300, 200)
        before = await page.new_picture(view)
        await page.set(**{setting: state[setting] + (-1 if state[setting] else 1)})
        return await page.new_picture(view, before) != before


def button(state: dict[str, Any], name: str) -> str:
    """The name under which a button of the page calls its function."""
    tag = re.search(rf"<[^>]*data-test=\"{name}\"[^>]*>", state["trame__template_main"])
    return re.search(r"trigger__[0-9]+", tag[0])[0]
