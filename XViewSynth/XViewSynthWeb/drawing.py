"""Renders the six views for the pages: sizes, events and memory."""

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

from XViewSynthScene.layout import PLANES, ROWS, VIEW_GROUP, view_name, view_names

from .sockets import OpenPage

# JPEG quality during and after an interaction.
_QUALITY_MOVING, _QUALITY_STILL = 75, 97
_FRAMES_PER_SECOND = 24.0

# Limit of one view. Slicer uses about 90 bytes per pixel; on a 4K screen a view has 1.2 million pixels.
_MOST_PIXELS = 2_000_000
# Size of a view that no page shows.
_NO_SIZE = {"w": 10, "h": 10, "p": 1}

# Option of glibc's mallopt: freed blocks from this size on are returned to the system.
_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES = -3, 2**17


class Drawing:
    """Renders the views. Create it while the event loop is running.

    Args:
        server: sends the images.
        app: owns the scene.
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
        _return_large_blocks()

    def resize(self, page: OpenPage, view: str, size: dict[str, float]) -> None:
        """Render a view in the size of a page."""
        # The last page in the dictionary sets the sizes.
        self._sizes[page] = {**self._sizes.pop(page, {}), view: size}
        self._set_size(view, size)

    def handle(self, view: str, event: dict[str, Any]) -> None:
        """Pass an event of mouse or fingers to a view."""
        self._adapters[view].on_interaction("", event)

    def forget(self, page: OpenPage) -> None:
        """Use the sizes of the page that was resized before, or the smallest size without any page."""
        if self._sizes.pop(page, None) is not None:
            sizes = next(reversed(self._sizes.values()), {})
            for view in self._adapters:
                self._set_size(view, sizes.get(view, _NO_SIZE))

    async def close(self) -> None:
        """Stop rendering."""
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
        # A slice fills its view, so there are no edges to smooth.
        view.slicer_view.render_window().SetMultiSamples(0)

    def _set_size(self, view: str, size: dict[str, float]) -> None:
        images = self._app.app_logic.GetSliceLogicByLayoutName(view).GetImageDataConnection()
        if images is not None:
            _release(images.GetProducer())
        self._adapters[view].update_size("", size)


def _release(algorithm: vtk.vtkAlgorithm) -> None:
    """Free the outputs of an algorithm and of its inputs, which would keep the memory of their largest size.

    The next rendering computes them again. The volumes stay: they come from algorithms without inputs.
    """
    pending, seen = [algorithm], set()
    while pending:
        current = pending.pop()
        if current is None or current in seen or not current.GetNumberOfInputPorts():
            continue
        seen.add(current)
        for port in range(current.GetNumberOfOutputPorts()):
            current.GetOutputDataObject(port).ReleaseData()
        for port in range(current.GetNumberOfInputPorts()):
            connections = range(current.GetNumberOfInputConnections(port))
            pending += [current.GetInputAlgorithm(port, number) for number in connections]


def _return_large_blocks() -> None:
    """Make glibc return freed memory to the system; by default it raises this threshold with each freed block."""
    with suppress(OSError, TypeError, AttributeError):  # other systems neither have nor need this function
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
