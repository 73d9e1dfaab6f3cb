"""The six views as they are drawn for the pages: their sizes, what happens in them, and the memory that they take."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Any

import vtk
from trame_rca.encoders import RcaImageEncoder
from trame_server import Server
from trame_slicer.core import SlicerApp
from trame_slicer.rca_view import RemoteSliceViewFactory
from trame_slicer.views import ViewLayoutDefinition, ViewProps, ViewType

from XViewSynthScene.views import PLANES, ROWS, VIEW_GROUP, view_name, view_names

from .sockets import OpenPage

# While something moves, and once it stands still.
_QUALITY_MOVING, _QUALITY_STILL = 75, 97
_FRAMES_PER_SECOND = 24.0

# Of one view. Slicer takes about 90 bytes for each; on a screen of 4K a view has 1.2 million.
_MOST_PIXELS = 2_000_000
# Of a view that no page shows.
_NO_SIZE = {"w": 10, "h": 10, "p": 1}

# Of glibc's mallopt: blocks from this size on are given back to the system once they are freed.
_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES = -3, 2**20


class Drawing:
    """Draws the views. Make it while the event loop runs.

    Args:
        server: sends the pictures.
        app: has the scene.
    """

    def __init__(self, server: Server, app: SlicerApp):
        self._app = app
        self._factory = RemoteSliceViewFactory(
            server,
            rca_encoder=RcaImageEncoder.JPEG,
            target_fps=_FRAMES_PER_SECOND,
            blur_fps=_FRAMES_PER_SECOND,
            interactive_quality=_QUALITY_MOVING,
            populate_view_ui_f=None,
        )
        app.view_manager.register_factory(self._factory)
        for row in ROWS:
            for plane in PLANES:
                self._make_view(row, plane)
        self._adapters = {name: self._factory.get_factory_view(name).view_adapter for name in view_names()}
        self._sizes: dict[OpenPage, dict[str, dict[str, float]]] = {}
        _give_back_large_blocks()

    def resize(self, page: OpenPage, view: str, size: dict[str, float]) -> None:
        """Draw a view in the size that a page has for it."""
        # The page comes last in order, so that its sizes are those that count.
        self._sizes[page] = {**self._sizes.pop(page, {}), view: size}
        self._set_size(view, size)

    def handle(self, view: str, event: dict[str, Any]) -> None:
        """Let an event of mouse or fingers happen in a view."""
        self._adapters[view].on_interaction("", event)

    def forget(self, page: OpenPage) -> None:
        """Go back to the sizes of the page that was resized last before, or draw next to nothing without any page."""
        if self._sizes.pop(page, None) is not None:
            sizes = next(reversed(self._sizes.values()), {})
            for view in self._adapters:
                self._set_size(view, sizes.get(view, _NO_SIZE))

    async def close(self) -> None:
        """Stop drawing."""
        for name in view_names():
            view = self._factory.get_factory_view(name)
            await view.view_adapter.close()
            view.slicer_view.finalize()

    def _make_view(self, row: str, plane: str) -> None:
        look = PLANES[plane]
        properties = ViewProps(label=look.label, orientation=plane, color=look.color, group=VIEW_GROUP)
        name = view_name(row, plane)
        self._app.view_manager.create_view(ViewLayoutDefinition(name, ViewType.SLICE_VIEW, properties))
        view = self._factory.get_factory_view(name)
        view.view_adapter.update_quality(_QUALITY_MOVING, _QUALITY_STILL)
        view.view_adapter.max_pixel_count = _MOST_PIXELS
        # A slice is an image that fills its view: there are no edges to smooth.
        view.slicer_view.render_window().SetMultiSamples(0)

    def _set_size(self, view: str, size: dict[str, float]) -> None:
        images = self._app.app_logic.GetSliceLogicByLayoutName(view).GetImageDataConnection()
        if images is not None:
            _release(images.GetProducer())
        self._adapters[view].update_size("", size)


def _release(algorithm: vtk.vtkAlgorithm) -> None:
    """Free what an algorithm and those before it have made, since it keeps the memory of the largest size it ever had.

    They make it again when a view is drawn. The volumes come from algorithms without inputs, and stay.
    """
    waiting, seen = [algorithm], set()
    while waiting:
        current = waiting.pop()
        if current is None or current in seen or not current.GetNumberOfInputPorts():
            continue
        seen.add(current)
        for port in range(current.GetNumberOfOutputPorts()):
            current.GetOutputDataObject(port).ReleaseData()
        for port in range(current.GetNumberOfInputPorts()):
            connections = range(current.GetNumberOfInputConnections(port))
            waiting += [current.GetInputAlgorithm(port, number) for number in connections]


def _give_back_large_blocks() -> None:
    """Keep glibc from keeping freed memory. It raises the size from which it does not as soon as a block is freed."""
    with suppress(OSError, TypeError, AttributeError):  # other systems have no such function and no such need
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
