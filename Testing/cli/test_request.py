"""What a user can request: its values, and the command line and JSON that are derived from it."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from XViewSynthLib import selfcheck
from XViewSynthLib.cli.options import add_request_options, request_of
from XViewSynthLib.errors import InputError
from XViewSynthLib.request import OPTIONS, SELF_CHECK, TARGETS, Choice, Quality, Request, make_request


def values_of(name: str) -> st.SearchStrategy:
    option = OPTIONS[name]
    if issubclass(option.kind, Choice):
        return st.sampled_from([*option.kind])
    if option.unit:
        return st.integers(1, 10**13) if option.kind is int else st.floats(1e-3, 1e6)
    if option.kind is int:
        return st.integers(option.lowest, option.highest)
    return st.booleans() if option.kind is bool else st.sampled_from(["auto", "cpu", "/models/m 1", "é"])


@st.composite
def requests(draw) -> Request:
    target = draw(st.sampled_from([None, *TARGETS]))
    names = [name for name in OPTIONS if name not in TARGETS or name == target]
    return Request(**{name: draw(values_of(name)) for name in names})


def parsed(words: list[str]) -> Request:
    parser = argparse.ArgumentParser()
    add_request_options(parser)
    return request_of(parser.parse_args(words))


class TestForms:
    @given(requests())
    def test_json_holds_all(self, request_):
        assert Request.from_json(request_.to_json()) == request_

    @given(requests())
    def test_the_command_line_requests_the_same(self, request_):
        assert parsed(request_.to_argv()) == request_

    def test_defaults_need_no_words(self):
        assert Request().to_argv() == []

    def test_json_holds_plain_values(self):
        assert {type(value) for value in Request().to_json().values()} <= {str, bool, type(None)}

    def test_an_unknown_field_of_json(self):
        with pytest.raises(InputError, match="no field 'speed'"):
            Request.from_json({"speed": 3})


class TestValues:
    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"factor": 9}, "The factor must be a whole number from 2 to 8, not 9."),
            ({"factor": 2.0}, "The factor must be a whole number from 2 to 8, not 2.0."),
            ({"factor": True}, "The factor must be a whole number from 2 to 8, not True."),
            ({"spacing": 0}, "The spacing must be a number of millimetres above 0, not 0."),
            ({"spacing": float("nan")}, "The spacing must be a number of millimetres above 0, not nan."),
            ({"spacing": "1"}, "The spacing must be a number of millimetres above 0, not '1'."),
            ({"memory": -1}, "The memory must be a number of gigabytes above 0, not -1."),
            ({"new_thickness": float("inf")}, "The new thickness must be a number of millimetres above 0, not inf."),
            ({"isotropic": 1}, "The isotropic must be True or False, not 1."),
            ({"axis": "k"}, "The axis must be auto, I, J or K, not 'k'."),
            ({"quality": None}, "The quality must be standard or best, not None."),
            ({"device": 3}, "The device must be a word, not 3."),
        ],
    )
    def test_what_is_not_allowed(self, values, sentence):
        with pytest.raises(InputError) as caught:
            Request(**values)
        assert str(caught.value) == sentence

    @pytest.mark.parametrize("targets", [("factor", "spacing"), ("spacing", "isotropic"), ("factor", "isotropic")])
    def test_one_target_at_a_time(self, targets):
        values = {"factor": 2, "spacing": 1.0, "isotropic": True}
        with pytest.raises(InputError, match="one of factor, spacing and isotropic"):
            Request(**{name: values[name] for name in targets})

    def test_numbers_of_numpy_become_plain(self):
        request = Request(factor=np.int64(3), thickness=np.float32(2.5))
        assert (type(request.factor), type(request.thickness)) == (int, float)

    def test_words_become_choices(self):
        assert Request(quality="best").quality is Quality.BEST

    def test_a_model_may_be_a_path(self):
        assert Request(model=Path("models") / "mine").model == str(Path("models") / "mine")

    def test_an_option_that_does_not_exist(self):
        with pytest.raises(TypeError, match="speed"):
            make_request(None, speed=3)

    def test_nothing_is_ignored_silently(self, scan, tiny_model):
        with pytest.raises(InputError, match="--texture has no effect on a self-check: leave it out"):
            selfcheck(scan, model=str(tiny_model), texture="match")
        assert "texture" not in SELF_CHECK
