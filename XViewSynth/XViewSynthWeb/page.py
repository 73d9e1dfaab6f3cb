"""The page: its layout, and the part of the viewer that each control changes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import slicer
from trame.app import get_server
from trame_client.widgets import client, html
from trame_slicer.core import SlicerApp
from trame_vuetify.ui.vuetify3 import VAppLayout
from trame_vuetify.widgets import vuetify3 as v

from XViewSynthScene.layout import PLANES, ROWS, view_label, view_name, view_names
from XViewSynthScene.overlay import uncertainty_color

from .content import Content
from .drawing import Drawing
from .messages import (
    EVENT,
    NOTICES,
    RESIZE,
    STATE_GET,
    STATE_UPDATE,
    TRIGGER,
    Allowed,
    Call,
    Rule,
    is_flag,
    number,
    one_of,
    whole,
)
from .sockets import OpenPage
from .style import STYLE
from .viewer import AUTOMATIC_FACTOR, OTHER_WINDOW, OWN_WINDOW, WINDOWS, Viewer

TITLE = "XViewSynth"
NOT_FOR_DIAGNOSIS = "Synthetic slices are predictions. Not for diagnosis."
MOUSE = "Wheel: slices · left drag: window and level · right drag: zoom · middle drag: move"


class Page:
    """The page and its trame server. Create it while the event loop is running.

    Args:
        content: the volumes.
        model, device: for an enhancement.
    """

    def __init__(self, content: Content, model: str, device: str):
        self.server = get_server(f"XViewSynth-{secrets.token_hex(8)}", client_type="vue3")
        self._app = SlicerApp()
        slicer.mrmlScene = self._app.scene
        self._drawing = Drawing(self.server, self._app)
        self._is_scheduled = False
        self.viewer = Viewer(self._app.scene, self._app.app_logic, content, model, device, self._schedule_publish)
        self._connect()
        self._publish()
        self._build()
        # Trame has registered exactly the functions that the page's buttons call.
        self._allowed = Allowed(view_names(), self._settings(), lambda name: bool(self._action(name)))
        self._methods: dict[str, Callable[..., Any]] = {
            STATE_GET: self._get_state,
            STATE_UPDATE: self._update_state,
            TRIGGER: lambda _page, name: self._action(name)(),
            RESIZE: self._drawing.resize,
            EVENT: self._handle,
            **dict.fromkeys(NOTICES, lambda _page: None),
        }

    async def start(self, publish: Callable[..., None]) -> dict[str, str]:
        """Start rendering.

        Args:
            publish: sends state and images to all pages.

        Returns:
            The folders of the page's files, by the path under which to serve them.
        """
        # Trame's server does not listen: `handle_call` receives the calls of pages.
        servers = []
        self.server.controller.on_server_bind.add(servers.append)
        self._running = self.server.start(
            port=0,
            thread=True,
            open_browser=False,
            show_connection_info=False,
            disable_logging=True,
            backend="generic",
            exec_mode="task",
            timeout=0,
        )
        await self.server.ready
        for protocol in self.server.protocol.getLinkProtocols():
            protocol.init(publish, lambda content: content, lambda: None)
        return servers[0].config["static"]

    async def close(self) -> None:
        """Stop rendering."""
        self.viewer.close()
        await self.server.stop()
        await self._drawing.close()

    def handle_call(self, page: OpenPage, call: Call) -> Any:
        """Handle a call of a page and return its result.

        Raises:
            Refused: the call is not allowed.
        """
        arguments = self._allowed.check(call)
        return self._methods[call.method](page, *arguments)

    def forget(self, page: OpenPage) -> None:
        """Drop the sizes of a closed page."""
        self._drawing.forget(page)

    def _settings(self) -> dict[str, Rule]:
        """The names that a page may set, with the rule for each value."""
        settings = {
            "opacity": number(0, 1),
            "swapped": is_flag,
            "window": one_of([*WINDOWS, OWN_WINDOW, OTHER_WINDOW]),
            "factor": one_of(self.viewer.factors()),
        }
        return settings | {f"index_{plane}": self._slice_rule(plane) for plane in PLANES}

    def _slice_rule(self, plane: str) -> Rule:
        return lambda value: whole(0, self.viewer.slices(plane) - 1)(value)

    def _action(self, name: str) -> Callable[[], None] | None:
        return self.server.controller.trigger_fn(name)

    def _get_state(self, _page: OpenPage) -> dict[str, Any]:
        return self.server.protocol.get_server_state()

    def _update_state(self, _page: OpenPage, values: dict[str, Any]) -> None:
        self.server.protocol.update_state([{"key": name, "value": value} for name, value in values.items()])

    def _handle(self, _page: OpenPage, view: str, event: dict[str, Any] | None) -> None:
        if event is not None:
            self._drawing.handle(view, event)
            self.viewer.bound_zoom()

    def _schedule_publish(self) -> None:
        """Send one message for many changes, such as six views that move together."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._publish)

    def _publish(self) -> None:
        self._is_scheduled = False
        with self.server.state as state:
            state.update(self.viewer.look())

    def _connect(self) -> None:
        state, viewer = self.server.state, self.viewer
        state.trame__title = f"{viewer.look()['name']} - {TITLE}"
        state.factor = AUTOMATIC_FACTOR
        state.factors = [
            {"title": f"x {factor}" if factor else "Down to 1.25 mm", "value": factor} for factor in viewer.factors()
        ]
        state.change("opacity")(lambda opacity, **_: viewer.set_opacity(opacity))
        state.change("swapped")(lambda swapped, **_: viewer.set_swapped(swapped))
        state.change("window")(lambda window, **_: viewer.choose_window(window))
        state.change("factor")(lambda factor, **_: viewer.set_factor(factor))
        for plane in PLANES:
            state.change(f"index_{plane}")(self._scroller(plane))

    def _scroller(self, plane: str):
        def scroll(**state: object) -> None:
            # A view between two slices has the index of the nearest one, and stays unless the slider moved.
            if state[f"index_{plane}"] != self.viewer.index(plane):
                self.viewer.scroll(plane, state[f"index_{plane}"])

        return scroll

    def _build(self) -> None:
        with VAppLayout(self.server, theme="dark") as layout:
            client.Style(STYLE)
            with layout.root, html.Div(classes="xvs-page"):
                self._build_bar()
                with html.Div(classes="xvs-grid"):
                    for plane in PLANES:
                        self._build_slider(plane)
                    for row in ROWS:
                        for plane in PLANES:
                            self._build_view(row, plane)
                    self._build_enhance_card()
                self._build_foot()

    def _build_bar(self) -> None:
        with html.Div(classes="xvs-bar"):
            html.Div(TITLE, classes="xvs-title")
            html.Div("{{ name }}", classes="xvs-name", **_named("name"))
            v.VSpacer()
            with html.Div(
                classes="xvs-uncertainty",
                v_show=("has_uncertainty",),
                **_named("uncertainty", hint="Expected error of each voxel, in HU"),
            ):
                html.Div("Uncertainty", classes="xvs-caption")
                self._build_legend()
                v.VSlider(
                    v_model=("opacity",),
                    min=0,
                    max=1,
                    step=0.01,
                    hide_details=True,
                    density="compact",
                    color="#ff9933",
                    thumb_size=14,
                    classes="xvs-opacity",
                    **_named("opacity", label="Opacity of the uncertainty map"),
                )
                html.Div("{{ Math.round(100 * opacity) }} %", classes="xvs-number", **_named("opacity-text"))
            v.VSelect(
                v_model=("window",),
                items=("windows", [*WINDOWS, OWN_WINDOW, OTHER_WINDOW]),
                hide_details=True,
                density="compact",
                variant="outlined",
                classes="xvs-window",
                **_named("window", label="Window"),
            )
            html.Div("{{ window_text }}", classes="xvs-number xvs-wide", **_named("window-text"))
            with v.VBtn(
                v_show=("has_enhanced",),
                click="swapped = !swapped",
                active=("swapped",),
                variant="outlined",
                size="small",
                **_named("swap", hint="Switch the lower views between original and enhanced volume"),
            ):
                html.Span("Swap")
            with v.VBtn(
                click=self.viewer.fit, variant="outlined", size="small", **_named("fit", hint="Fit whole planes")
            ):
                html.Span("Fit")

    def _build_legend(self) -> None:
        with html.Div(classes="xvs-legend"):
            html.Div(style=f"background: linear-gradient(to right, {_ramp()})", classes="xvs-ramp")
            with html.Div(classes="xvs-ticks"):
                html.Span("{{ tick }}", v_for=("tick in ticks",))

    def _build_slider(self, plane: str) -> None:
        with html.Div(classes="xvs-slider", style=f"border-top-color: {PLANES[plane].color}"):
            html.Div(plane, classes="xvs-plane")
            v.VSlider(
                v_model=(f"index_{plane}",),
                min=0,
                max=(f"slices_{plane} - 1",),
                step=1,
                hide_details=True,
                density="compact",
                color=PLANES[plane].color,
                thumb_size=14,
                **_named(f"slice-{plane}", label=f"{plane} slice"),
            )
            html.Div(f"{{{{ position_{plane} }}}}", classes="xvs-number xvs-wide", **_named(f"position-{plane}"))

    def _build_view(self, row: str, plane: str) -> None:
        edges = f"edges_{plane}"
        with html.Div(classes="xvs-view", **_named(f"view-{row}-{plane}")):
            client.ServerTemplate(name=view_name(row, plane))
            for edge in ("left", "right", "top", "bottom"):
                html.Div(f"{{{{ {edges}.{edge} }}}}", classes=f"xvs-edge xvs-{edge}", **_named(f"{edge}-{row}-{plane}"))
            html.Div(
                view_label(row, plane),
                classes="xvs-label",
                style=f"background: {PLANES[plane].color}",
            )
            html.Div(
                f"{{{{ mark_{row}_{plane} }}}}",
                classes=(f"'xvs-mark xvs-' + kind_{row}_{plane}",),
                **_named(f"mark-{row}-{plane}"),
            )

    def _build_enhance_card(self) -> None:
        """The card with the controls of an enhancement, over the lower row until there is an enhanced volume."""
        with html.Div(classes="xvs-offer", v_if=("!has_enhanced",)), html.Div(classes="xvs-card", **_named("offer")):
            html.Div("Add the missing slices to this scan", classes="xvs-headline")
            html.Div("{{ outlook }}", v_if=("status === 'idle'",), classes="xvs-line", **_named("outlook"))
            with html.Div(classes="xvs-controls", v_if=("status === 'idle'",)):
                v.VSelect(
                    v_model=("factor",),
                    items=("factors",),
                    label="Slices",
                    hide_details=True,
                    density="compact",
                    variant="outlined",
                    **_named("factor"),
                )
                with v.VBtn(click=self.viewer.enhance, color="primary", disabled=("!possible",), **_named("enhance")):
                    html.Span("Enhance slices")
            with html.Div(v_if=("status !== 'idle'",)):
                with html.Div(classes="xvs-progress"):
                    html.Span("{{ status === 'stopping' ? 'Cancelling' : stage }}", **_named("stage"))
                    html.Span("{{ time_left }}", **_named("time-left"))
                v.VProgressLinear(
                    model_value=("percent",), indeterminate=("percent === 0",), height=8, rounded=True, color="primary"
                )
                with (
                    html.Div(classes="xvs-controls xvs-end"),
                    v.VBtn(
                        click=self.viewer.cancel,
                        variant="outlined",
                        disabled=("status === 'stopping'",),
                        **_named("cancel"),
                    ),
                ):
                    html.Span("Cancel")
            html.Div(
                "{{ message }}", v_if=("message && status === 'idle'",), classes="xvs-message", **_named("message")
            )

    def _build_foot(self) -> None:
        with html.Div(classes="xvs-foot"):
            html.Span(MOUSE)
            html.Span("{{ has_enhanced ? message : '' }}", classes="xvs-result", **_named("result"))
            html.Span(NOT_FOR_DIAGNOSIS, classes="xvs-warning")


def _named(name: str, label: str = "", hint: str = "") -> dict[str, list[str]]:
    """HTML attributes that trame does not offer: a name for tests, a label for screen readers and a tool tip."""
    given = {"data-test": name, "aria-label": label, "title": hint}
    return {"raw_attrs": [f'{attribute}="{value}"' for attribute, value in given.items() if value]}


def _ramp() -> str:
    """The colours of the uncertainty map, for CSS."""
    shares = [step / 8 for step in range(9)]
    return ", ".join(
        "rgb({:.0f} {:.0f} {:.0f})".format(*(255 * part for part in uncertainty_color(share))) for share in shares
    )
