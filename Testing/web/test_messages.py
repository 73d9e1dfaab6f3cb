"""What a page of the viewer may say: the calls, values and events that pass, and how all others are refused."""

from __future__ import annotations

import pytest

pytest.importorskip("msgpack", reason="the packages of the extra `web` are not installed")

import msgpack

from raw_page import framed, packed
from XViewSynthWeb.messages import (
    MOST_PIXELS,
    Allowed,
    Call,
    Malformed,
    Refused,
    is_flag,
    number,
    one_of,
    read_call,
    whole,
)

ALLOWED = Allowed(
    ["Axial"],
    {"opacity": number(0, 1), "swapped": is_flag, "window": one_of(["Lung"]), "index": whole(0, 9)},
    lambda name: name == "trigger__1",
)
NOT_A_NUMBER, INFINITE = float("nan"), float("inf")
NO_NUMBERS = [NOT_A_NUMBER, INFINITE, -INFINITE, "1", None, [], {}, True, 1e300, 2**63]
MOUSE = {"x": 150, "y": 100, "w": 300, "h": 200, "shiftKey": 0, "altKey": 0, "ctrlKey": 0}
TWO_FINGERS = {"w": 300, "h": 200, "positions": {"3": {"x": 1, "y": 2}, "4": {"x": 5, "y": 6}}}


def check(method, *arguments):
    """The arguments of a call, as they reach the viewer."""
    return ALLOWED.check(Call("rpc:c0:1", method, list(arguments)))


def handled(**event):
    """An event, as it reaches the view."""
    return check("trame.rca.event", "Axial", "anyone", event)[1]


class TestMessages:
    def test_a_call_is_taken_apart(self):
        message = {"wslink": "1.0", "id": "rpc:c0:7", "method": "trame.state.get", "args": [1], "kwargs": {}}
        assert read_call(packed(message)) == Call("rpc:c0:7", "trame.state.get", [1])

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            bytes(12),
            bytes(7),
            packed({"id": "rpc:c0:1", "method": "m", "args": []}, size=2**31),
            packed({"id": "rpc:c0:1", "method": "m", "args": []}, offset=4),
            packed([1, 2]),
            packed({"id": "rpc:c0:1", "args": []}),
            packed({"id": "rpc:c0:1", "method": "m"}),
            packed({"id": "rpc:c0:1", "method": "m", "args": {}}),
            packed({"id": "rpc:c0:1", "method": 7, "args": []}),
            packed({"id": 1, "method": "m", "args": []}),
            packed({"id": "publish:c0:1", "method": "m", "args": []}),
            packed({"id": "rpc:" + "c" * 100 + ":1", "method": "m", "args": []}),
            *(
                framed(body, len(body))
                for body in (
                    b"\xc1",
                    b"\x91" * 60_000 + b"\xc0",
                    b"\xdd\xff\xff\xff\xff",
                    b"\xdf\xff\xff\xff\xff",
                    b"\xdb\xff\xff\xff\xff",
                    b"\xc9\xff\xff\xff\xff\x05",
                    b"\x81\x90\xc0",
                    msgpack.packb("two") + b"things",
                )
            ),
        ],
    )
    def test_anything_else_is_none(self, data):
        with pytest.raises(Malformed):
            read_call(data)

    @pytest.mark.parametrize("changes", [{"opacity": 0.5}, {"opacity": 1}, {"swapped": True, "index": 9}, {}])
    def test_what_a_page_may_set(self, changes):
        listed = [{"key": name, "value": value} for name, value in changes.items()]
        assert check("trame.state.update", listed) == (changes,)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("opacity", value) for value in (*NO_NUMBERS, 1.01, -0.01)),
            *(("index", value) for value in (*NO_NUMBERS, 10, -1, 1.0)),
            *(("swapped", value) for value in (0, 1, "true", None, [])),
            *(("window", value) for value in ("Bone", None, ["Lung"], 7)),
            *((name, "x") for name in ("trame__template_main", "name", "__class__", "", 7, None)),
        ],
    )
    def test_what_it_may_not_set(self, name, value):
        with pytest.raises(Refused):
            check("trame.state.update", [{"key": "swapped", "value": True}, {"key": name, "value": value}])

    @pytest.mark.parametrize("changes", [None, "x", [1], [{}], [{"key": "swapped"}], [["swapped", True]]])
    def test_changes_of_another_form_are_refused(self, changes):
        with pytest.raises(Refused):
            check("trame.state.update", changes)

    def test_more_changes_than_a_page_has_settings_are_refused(self):
        with pytest.raises(Refused):
            check("trame.state.update", [{"key": "swapped", "value": True}] * 1000)

    @pytest.mark.parametrize(
        ("method", "arguments"),
        [
            ("application.exit", []),
            ("application.exit.later", [0]),
            ("trame.force.push", ["name"]),
            ("trame.rca.push", ["Axial", {}, b"x"]),
            ("trame.rca.drop", ["Axial", 0]),
            ("file.server.directory.list", ["/"]),
            ("viewport.size", [1, 9, 9]),
            ("unsubscribe", ["trame.state.topic"]),
            ("", []),
            ("trame.state.update", []),
            ("trame.trigger", ["trigger__2", [], {}]),
            ("trame.trigger", ["trigger__1", ["argument"], {}]),
            ("trame.trigger", ["trigger__1", [], {"named": 1}]),
            ("trame.trigger", ["trigger__1"]),
            ("trame.rca.size", ["Coronal", "", {"w": 9, "h": 9, "p": 1}]),
            ("trame.rca.size", ["Axial", "", [9, 9]]),
            ("trame.rca.event", ["Coronal", "", MOUSE]),
            ("trame.rca.event", ["Axial", "", "MouseMove"]),
            ("trame.rca.event", [["Axial"], "", MOUSE]),
        ],
    )
    def test_calls_that_no_page_makes_are_refused(self, method, arguments):
        with pytest.raises(Refused):
            check(method, *arguments)

    def test_a_button_calls_its_function(self):
        assert check("trame.trigger", "trigger__1", [], {}) == ("trigger__1",)

    def test_notices_are_without_effect(self):
        assert check("trame.lifecycle.update", "server_exited") == check("trame.error.client", "x" * 999) == ()

    @pytest.mark.parametrize(
        ("given", "size"),
        [
            ((300, 200, 2), (300, 200, 2)),
            ((16000, 16000, 1), (MOST_PIXELS, MOST_PIXELS, 1)),
            ((1000, 16000, 8), (1000, MOST_PIXELS, 1)),
            ((2048, 10, 8), (2048, 10, 2)),
            ((0, -5, 0), (1, 1, 0.25)),
        ],
    )
    def test_sizes_are_bounded(self, given, size):
        view, bounded = check("trame.rca.size", "Axial", "anyone", dict(zip("whp", given)))
        assert (view, bounded) == ("Axial", dict(zip("whp", size)))

    @pytest.mark.parametrize("side", "whp")
    @pytest.mark.parametrize("value", NO_NUMBERS)
    def test_sizes_that_are_no_numbers_are_refused(self, side, value):
        with pytest.raises(Refused):
            check("trame.rca.size", "Axial", "", {"w": 300, "h": 200, "p": 1, side: value})

    def test_an_event_is_reduced_to_what_is_known(self):
        assert handled(**MOUSE, type="MouseMove", action="down", more="x" * 999) == {**MOUSE, "type": "MouseMove"}
        assert handled(**MOUSE, type="MouseWheel", spinY=-1)["spinY"] == -1

    def test_the_fingers_of_an_event_are_numbered_anew(self):
        event = handled(**TWO_FINGERS, type="Pinch", factor=1.5)
        assert event == {
            **TWO_FINGERS,
            "type": "Pinch",
            "factor": 1.5,
            "positions": {"0": {"x": 1, "y": 2}, "1": {"x": 5, "y": 6}},
        }
        assert handled(**TWO_FINGERS, type="Pan", translation=[3, 4, 0])["translation"] == [3, 4]

    def test_a_place_far_outside_its_view_is_brought_near(self):
        event = handled(**{**MOUSE, "x": 10**6, "y": -(10**6)}, type="LeftButtonPress")
        assert (event["x"], event["y"]) == (1200, -800)

    @pytest.mark.parametrize("kind", ["KeyPress", "Tap", "Rotate", "StartInteractionEvent", "", "x" * 999])
    def test_events_without_a_use_here_are_without_effect(self, kind):
        assert handled(**MOUSE, type=kind) is None

    @pytest.mark.parametrize("kind", ["MouseMove", "MouseWheel", "LeftButtonPress", "RightButtonRelease"])
    @pytest.mark.parametrize("name", ["x", "y", "w", "h"])
    @pytest.mark.parametrize("value", NO_NUMBERS)
    def test_places_that_are_no_numbers_are_refused(self, kind, name, value):
        with pytest.raises(Refused):
            handled(**{**MOUSE, "spinY": 1, name: value}, type=kind)

    @pytest.mark.parametrize("value", NO_NUMBERS)
    @pytest.mark.parametrize(
        ("kind", "name"), [("MouseWheel", "spinY"), ("Pinch", "factor"), ("Pan", "translation"), (None, "type")]
    )
    def test_other_parts_of_an_event_have_their_types_too(self, kind, name, value):
        if kind or not isinstance(value, str):
            with pytest.raises(Refused):
                handled(**{**MOUSE, **TWO_FINGERS, "type": kind, name: value})

    @pytest.mark.parametrize(
        "positions", [None, {}, [], {"0": None}, {"0": {"x": 1}}, {str(n): {"x": 1, "y": 1} for n in range(11)}]
    )
    def test_fingers_have_places(self, positions):
        with pytest.raises(Refused):
            handled(w=300, h=200, type="Pinch", factor=1.0, positions=positions)

    @pytest.mark.parametrize("value", NO_NUMBERS)
    def test_keys_are_pressed_or_not(self, value):
        event = handled(**{**MOUSE, "ctrlKey": value}, type="MouseMove")
        assert event["ctrlKey"] == (1 if value is True else 0)
