"""Starts, serves and ends the viewer."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import webbrowser
from contextlib import suppress

import slicer
import vtk

from XViewSynthLib.errors import InputError
from XViewSynthLib.workers.job import Job

from .access import Access, cannot_listen
from .browser import BrowserFile
from .content import Content
from .listening import WebServer
from .page import Page
from .sockets import OpenPages

_POLL_SECONDS = 0.1
# A cancelled enhancement ends within two seconds.
_END_SECONDS = 4.0
_CLOSE_SECONDS = 3.0
_MOST_LOG_RECORDS = 20


def check_drawing() -> None:
    """Raise unless this computer can render.

    Raises:
        InputError: OpenGL is missing; the message names the package to install.
    """
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(True)
    if not window.SupportsOpenGL():
        raise InputError("The views need OpenGL, which is missing: install Mesa's libEGL (Debian: libegl1).")


def serve(content: Content, access: Access, port: int, model: str, device: str, open_browser: bool, job: Job) -> None:
    """Serve the viewer until a stop is requested.

    Args:
        content: the volumes.
        access: who may connect.
        port: 0 for a free port.
        model, device: for an enhancement.
        open_browser: open the page in the user's browser if there is a screen.
        job: prints the address and holds the stop request.

    Raises:
        InputError: the server cannot listen on the address.
    """
    asyncio.run(_serve(content, access, port, model, device, open_browser, job))


async def _serve(
    content: Content, access: Access, port: int, model: str, device: str, open_browser: bool, job: Job
) -> None:
    _hide_arguments()
    _limit_log()
    # Created inside the loop: views that are created before it stay black.
    page = Page(content, model, device)
    pages = OpenPages(page.handle_call, page.forget)
    server = WebServer(access, pages, await page.start(pages.publish))
    file = BrowserFile()
    try:
        await _listen(server, access, port)
        _announce(access, server.port, open_browser, file, job)
        while not job.should_cancel():
            page.viewer.poll()
            if pages.any_greeted:
                file.remove()
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        file.remove()
        await _end(page, server)


def _hide_arguments() -> None:
    """Prevent trame from reading our command line."""
    os.environ["TRAME_ARGS"] = ""


class _FirstRecords(logging.Filter):
    """Passes only the first records. More would fill the terminal, or block the viewer on a pipe that is not read."""

    def __init__(self) -> None:
        super().__init__()
        self._left = _MOST_LOG_RECORDS

    def filter(self, record: logging.LogRecord) -> bool:
        self._left -= 1
        return self._left >= 0


def _limit_log() -> None:
    handler = logging.StreamHandler()
    handler.addFilter(_FirstRecords())
    logging.getLogger().addHandler(handler)


async def _listen(server: WebServer, access: Access, port: int) -> None:
    try:
        await server.start(port)
    except OSError as error:
        raise cannot_listen(access, port, error) from error


def _announce(access: Access, port: int, open_browser: bool, file: BrowserFile, job: Job) -> None:
    everywhere = access.host in ("0.0.0.0", "::")
    address = access.address(port, socket.gethostname() if everywhere else None)
    job.say(f"Open {address} in a browser. Ctrl-C ends the viewer.")
    if open_browser and _has_screen():
        here = access.address(port, "localhost" if everywhere else None)
        with suppress(OSError):  # without the file the user opens the printed address
            # All users of this computer can read process arguments, so that of the browser must not contain the token.
            shown = file.write(here) if access.token else here
            # In a thread, because some browsers return only when they are closed.
            threading.Thread(target=webbrowser.open, args=(shown,), daemon=True).start()


def _has_screen() -> bool:
    """Whether a graphical browser can open."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


async def _end(page: Page, server: WebServer) -> None:
    """End the enhancement first, then the server, so that no process is left."""
    page.viewer.cancel()
    for _ in range(round(_END_SECONDS / _POLL_SECONDS)):
        if not page.viewer.busy:
            break
        page.viewer.poll()
        await asyncio.sleep(_POLL_SECONDS)
    # A suspended browser does not respond.
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(server.stop(), _CLOSE_SECONDS)
    await page.close()
    slicer.mrmlScene = None
