"""Serving the viewer, from the first request to the last."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import slicer
import vtk

from XViewSynthLib.errors import InputError
from XViewSynthLib.job import Job

from .access import Access, cannot_listen, protect
from .content import Content
from .page import Page

_POLL_SECONDS = 0.1
# An enhancement that is cancelled has ended after two seconds.
_END_SECONDS = 4.0
_GOODBYE_SECONDS = 3.0


def check_drawing() -> None:
    """Make sure that this computer can draw.

    Raises:
        InputError: it lacks what draws, with what to install.
    """
    with _quiet_vtk():
        window = vtk.vtkRenderWindow()
        window.SetOffScreenRendering(True)
        can_draw = window.SupportsOpenGL()
    if not can_draw:
        raise InputError("Nothing can be drawn here, for lack of OpenGL: install Mesa's libEGL (Debian: libegl1).")


def serve(content: Content, access: Access, port: int, model: str, device: str, open_browser: bool, job: Job) -> None:
    """Serve the viewer until the job is asked to stop.

    Args:
        content: what to show.
        access: who may connect.
        port: 0 for a free one.
        model, device: for an enhancement.
        open_browser: also open it in the user's browser, where there is a screen.
        job: is told the address.

    Raises:
        InputError: the address cannot be listened on.
    """
    asyncio.run(_serve(content, access, port, model, device, open_browser, job))


async def _serve(
    content: Content, access: Access, port: int, model: str, device: str, open_browser: bool, job: Job
) -> None:
    _keep_to_ourselves()
    # While the loop runs: views that are made before it stay black.
    with _quiet_vtk():
        page = Page(content, model, device)
    page.server.controller.on_server_bind.add(lambda wslink: protect(wslink.app, access))
    serving = asyncio.ensure_future(
        page.server.start(
            host=access.host,
            port=port,
            thread=True,
            open_browser=False,
            show_connection_info=False,
            disable_logging=True,
            exec_mode="coroutine",
            timeout=0,
            follow_symlinks=False,
        )
    )
    try:
        await _started(page, serving, access, port)
        _tell(access, page.server.port, open_browser, job)
        while not job.should_cancel() and not serving.done():
            page.viewer.poll()
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        await _end(page, serving)


def _keep_to_ourselves() -> None:
    """Keep the server from reading our command line, and from printing to our standard output."""
    os.environ["TRAME_ARGS"] = ""
    os.environ["WSLINK_READY_MSG"] = ""


@contextmanager
def _quiet_vtk() -> Iterator[None]:
    """Without a screen VTK warns of that first, and then draws all the same."""
    before = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.GlobalWarningDisplayOff()
    try:
        yield
    finally:
        vtk.vtkObject.SetGlobalWarningDisplay(before)


async def _started(page: Page, serving: asyncio.Future, access: Access, port: int) -> None:
    await asyncio.wait({serving, page.server.ready}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        try:
            serving.result()
        except OSError as error:
            raise cannot_listen(access, port, error) from error


def _tell(access: Access, port: int, open_browser: bool, job: Job) -> None:
    everywhere = access.host in ("0.0.0.0", "::")
    address = access.address(port, socket.gethostname() if everywhere else None)
    job.say(f"Open {address} in a browser. Ctrl-C ends the viewer.")
    if open_browser and _has_screen():
        # Some browsers return when they are closed.
        here = access.address(port, "localhost" if everywhere else None)
        threading.Thread(target=webbrowser.open, args=(here,), daemon=True).start()


def _has_screen() -> bool:
    """False where the only browser would be one in the terminal."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


async def _end(page: Page, serving: asyncio.Future) -> None:
    """End the enhancement first, then the server, so that nothing outlives us."""
    page.viewer.cancel()
    for _ in range(round(_END_SECONDS / _POLL_SECONDS)):
        if not page.viewer.busy:
            break
        page.viewer.poll()
        await asyncio.sleep(_POLL_SECONDS)
    if not serving.done():
        # A browser that sleeps does not answer.
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(page.server.stop(), _GOODBYE_SECONDS)
        serving.cancel()
    with suppress(OSError, asyncio.CancelledError):
        await serving
    await page.close()
    slicer.mrmlScene = None
