"""The allowed messages of a page: calls, settings and events, with their types and ranges.

Every message of a WebSocket passes through here, and nothing else reaches the viewer:

    call = read_call(data)             # Malformed: our page does not send this
    arguments = allowed.check(call)    # Refused: not one of the calls below, or a value out of range
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

#: Limit of a message, bytes; the page sends less than one thousand.
MOST_BYTES = 64 * 1024
#: Limit of the longest side of an image in pixels of the screen, after scaling by the pixel ratio.
MOST_PIXELS = 4096

HELLO = "wslink.hello"
STATE_GET, STATE_UPDATE = "trame.state.get", "trame.state.update"
TRIGGER = "trame.trigger"
RESIZE, EVENT = "trame.rca.size", "trame.rca.event"
#: Notices of trame's script that the viewer does not use. They get a reply and have no effect.
NOTICES = ("trame.lifecycle.update", "trame.error.client")

# Header of each message: message number, offset of this chunk, total bytes; 4 bytes each.
_HEADER_BYTES = 12
_ID = re.compile(r"(rpc|system):\w{1,64}:[0-9]{1,15}", re.ASCII)

_MOST_CHANGES = 32
_MOST_FINGERS = 10
_SIDE = (16.0, 4.0 * MOST_PIXELS)
_RATIO = (0.25, 8.0)
_SPIN = (-100.0, 100.0)
_ZOOM = (0.01, 100.0)
# A drag may leave its view by at most this many view widths.
_BEYOND = 4.0

_BUTTONS = {f"{button}Button{what}" for button in ("Left", "Middle", "Right") for what in ("Press", "Release")}
_MOUSE = {"MouseMove", "MouseWheel", *_BUTTONS}
_PINCHES = {"StartPinch", "Pinch", "EndPinch"}
_PANS = {"StartPan", "Pan", "EndPan"}

Rule = Callable[[object], bool]


class Malformed(Exception):
    """The bytes are not a call."""


class Refused(Exception):
    """The call is not allowed."""


@dataclass(frozen=True)
class Call:
    """One call of a page.

    Attributes:
        id: number for the reply.
        method: name of the method.
        arguments: as sent, not yet checked.
    """

    id: str
    method: str
    arguments: list[Any]


def read_call(data: bytes) -> Call:
    """Decode a message.

    Raises:
        Malformed: it is not a complete call in wslink's format. Messages in several chunks are refused: the page needs
            none, and chunks of unfinished messages would have to be stored.
    """
    offset, size = int.from_bytes(data[4:8], "little"), int.from_bytes(data[8:_HEADER_BYTES], "little")
    if offset != 0 or size != len(data) - _HEADER_BYTES:
        raise Malformed
    try:
        message = msgpack.unpackb(data[_HEADER_BYTES:])
    except Exception as error:  # msgpack has no common exception for invalid input
        raise Malformed from error
    match message:
        case {"id": str(id_), "method": str(method), "args": list(arguments)} if _ID.fullmatch(id_):
            return Call(id_, method, arguments)
    raise Malformed


def number(lowest: float, highest: float) -> Rule:
    """A rule that a value is a number from `lowest` to `highest`; NaN is refused.

    >>> number(0, 1)(0.5), number(0, 1)(1.5), number(0, 1)(float("nan")), number(0, 1)(True), number(0, 1)("0.5")
    (True, False, False, False, False)
    """
    return lambda value: type(value) in (int, float) and lowest <= value <= highest


def whole(lowest: int, highest: int) -> Rule:
    """A rule that a value is a whole number from `lowest` to `highest`.

    >>> whole(0, 9)(9), whole(0, 9)(10), whole(0, 9)(1.0)
    (True, False, False)
    """
    return lambda value: type(value) is int and lowest <= value <= highest


def one_of(choices: Collection[Any]) -> Rule:
    """A rule that a value is one of these, in value and type.

    >>> one_of([0, 2])(2), one_of([0, 2])(False), one_of(["Lung"])("Bone")
    (True, False, False)
    """
    return lambda value: any(type(value) is type(choice) and value == choice for choice in choices)


def is_flag(value: object) -> bool:
    """The rule that a value is true or false."""
    return type(value) is bool


@dataclass(frozen=True)
class Allowed:
    """The allowed calls of the page of one viewer.

    Attributes:
        views: names of the views.
        settings: the names in trame's state that a page may set, with the rule for each value.
        is_action: returns whether a button calls a function of this name.
    """

    views: Collection[str]
    settings: Mapping[str, Rule]
    is_action: Callable[[str], bool]

    def check(self, call: Call) -> tuple[Any, ...]:
        """The arguments of a call, reduced to known names and clipped to their ranges; () if the method has none.

        Raises:
            Refused: an unknown method, or an argument of another type or out of range.
        """
        match call.method, call.arguments:
            case (method, _) if method in (STATE_GET, *NOTICES):
                return ()
            case (method, [list(changes)]) if method == STATE_UPDATE and len(changes) <= _MOST_CHANGES:
                return (dict(map(self._change, changes)),)
            case (method, [str(action), [], dict(named)]) if method == TRIGGER and not named and self.is_action(action):
                return (action,)
            case (method, [str(view), _, dict(size)]) if method == RESIZE and view in self.views:
                return view, _size(size)
            case (method, [str(view), _, dict(event)]) if method == EVENT and view in self.views:
                return view, _event(event)
        raise Refused

    def _change(self, change: object) -> tuple[str, Any]:
        match change:
            case {"key": str(name), "value": value} if name in self.settings and self.settings[name](value):
                return name, value
        raise Refused


def _size(given: Mapping[str, Any]) -> dict[str, float]:
    """Width and height of a view in pixels of the page, and the screen pixels per page pixel."""
    width, height, ratio = (_finite(given.get(name)) for name in ("w", "h", "p"))
    width, height = (_within(side, (1.0, MOST_PIXELS)) for side in (width, height))
    return {"w": width, "h": height, "p": min(_within(ratio, _RATIO), MOST_PIXELS / max(width, height))}


def _event(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """An event of mouse or fingers, reduced to the fields that VTK reads; None for other events.

    VTK would end the process for a value of another type, or NaN.
    """
    kind = given.get("type")
    if not isinstance(kind, str):
        raise Refused
    if kind in _MOUSE:
        keys = {name: int(given.get(name) in (1, True)) for name in ("shiftKey", "altKey", "ctrlKey")}
        spin = {"spinY": _number(given.get("spinY"), _SPIN)} if kind == "MouseWheel" else {}
        return {"type": kind, **_view_of(given), **_place(given, given), **keys, **spin}
    if kind in _PINCHES:
        return {"type": kind, **_fingers(given), "factor": _number(given.get("factor"), _ZOOM)}
    if kind in _PANS:
        return {"type": kind, **_fingers(given), "translation": _translation(given)}
    return None


def _fingers(given: Mapping[str, Any]) -> dict[str, Any]:
    match given.get("positions"):
        case dict(places) if 1 <= len(places) <= _MOST_FINGERS:
            placed = {str(number): _place(place, given) for number, place in enumerate(places.values())}
            return {**_view_of(given), "positions": placed}
    raise Refused


def _translation(given: Mapping[str, Any]) -> list[float]:
    match given.get("translation"):
        case [across, down, *_]:
            return [_number(part, (-_SIDE[1], _SIDE[1])) for part in (across, down)]
    raise Refused


def _view_of(given: Mapping[str, Any]) -> dict[str, float]:
    """Width and height of the view of an event, pixels of the page."""
    return {side: _number(given.get(side), _SIDE) for side in ("w", "h")}


def _place(given: object, event: Mapping[str, Any]) -> dict[str, float]:
    """Position in the view of an event, pixels of the page."""
    if not isinstance(given, dict):
        raise Refused
    beyond = {name: _BEYOND * side for name, side in zip("xy", _view_of(event).values())}
    return {name: _within(_finite(given.get(name)), (-most, most)) for name, most in beyond.items()}


def _finite(value: object) -> float:
    return _number(value, (-1e6, 1e6))


def _number(value: object, limits: tuple[float, float]) -> float:
    if not number(*limits)(value):
        raise Refused
    return value


def _within(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])
