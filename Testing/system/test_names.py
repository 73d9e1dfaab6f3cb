"""Names from anywhere: shown so that a terminal obeys nothing, and kept in outputs that every program can open."""

from __future__ import annotations

import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from XViewSynthLib.batch.summary import cell
from XViewSynthLib.progress import Progress, reporter
from XViewSynthLib.system.names import portable_name, portable_path, same_name_key
from XViewSynthLib.system.streams import print_line, visible

NOT_UTF8 = os.fsdecode(b"Kn\xf6chel") if sys.platform != "win32" else "Kn\udcf6chel"
# As on disk, where names are bytes: whatever decodes to text, and no slash.
file_names = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=60)
bytes_names = st.binary(min_size=1, max_size=60).filter(lambda name: not set(name) & set(b"/\0")).map(os.fsdecode)
names = file_names if sys.platform == "win32" else st.one_of(file_names, bytes_names)


class TestVisible:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("Schädel 頭.nrrd", "Schädel 頭.nrrd"),
            ("a\x1b[2Jb", r"a\x1b[2Jb"),
            ("a\r\nb\tc", r"a\r\nb\tc"),
            ("\x9b31m", r"\x9b31m"),
            ("\u202egpj", r"\u202egpj"),
            ("a\u2028b", r"a\u2028b"),
            ("Kn\udcf6chel", r"Kn\xf6chel"),
            ("\ud800", r"\ud800"),
            ("\U000e0001", r"\U000e0001"),
        ],
    )
    def test_shows_what_has_no_shape_as_escapes(self, text, shown):
        assert visible(text) == shown

    @given(names)
    def test_gives_one_printable_line_of_unicode(self, name):
        shown = visible(name)
        assert shown.isprintable()
        assert shown.encode("utf-8")

    def test_keeps_what_is_meant(self):
        assert visible("a\nb\x07", keep="\n") == "a\nb\\x07"

    def test_is_how_lines_are_printed(self, capsys):
        print_line(f"first\n{NOT_UTF8} \x1b[2J")
        assert capsys.readouterr().out == "first\nKn\\xf6chel \\x1b[2J\n"

    @pytest.mark.parametrize("kind", ["bar", "json"])
    def test_is_how_stages_are_shown(self, capsys, kind):
        with reporter(kind) as report:
            report(Progress(f"{NOT_UTF8}\x1b[2J x2", 0, 1))
        out, err = capsys.readouterr()
        assert (out + err).replace("\n", "").isprintable()
        assert json.loads(out)["stage"].startswith("Kn") if kind == "json" else err.startswith(r"Kn\xf6chel\x1b[2J x2")


class TestCell:
    @pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
    def test_is_no_formula(self, sign):
        assert cell(f"{sign}cmd") == f"'{visible(sign)}cmd"

    @pytest.mark.parametrize("value", [-3, 0, None])
    def test_leaves_numbers_alone(self, value):
        assert cell(value) == value

    def test_rounds_numbers_without_a_sign_of_text(self):
        assert cell(-1.23456) == "-1.235"

    def test_has_no_control_characters(self):
        assert cell("a\x1b[2J\n") == r"a\x1b[2J\n"


class TestPortableName:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("chest 1.nrrd", "chest 1.nrrd"),
            ("Schädel", "Schädel"),
            ("a\nb", "a%0Ab"),
            ("\u202e", "%E2%80%AE"),
            (NOT_UTF8, "Kn%F6chel" if sys.platform != "win32" else "Kn%ED%B3%B6chel"),
        ],
    )
    def test_is_the_name_where_that_can_be(self, name, expected):
        assert portable_name(name) == expected

    @given(names)
    def test_can_be_written_anywhere(self, name):
        portable = portable_name(name, ".enhanced.nii.gz")
        assert portable.isprintable()
        assert len(portable.encode("utf-8")) <= 255
        assert portable.endswith(".enhanced.nii.gz")

    @pytest.mark.parametrize("letter", ["x", "ü", "頭"])
    def test_long_names_stay_apart(self, letter):
        first, second = (portable_name(letter * 80 + letter.join("x" * 40) + end, ".enhanced") for end in "ab")
        assert first != second
        assert len(first.encode("utf-8")) < 240

    def test_of_a_path_keeps_its_folders(self):
        assert portable_path("a\tb/c/d.nrrd", ".enhanced") == "a%09b/c/d.nrrd.enhanced"
        assert portable_path(".") == "."


class TestSameNameKey:
    @pytest.mark.parametrize(("first", "second"), [("A.nrrd", "a.NRRD"), ("é", "e\u0301"), ("STRASSE", "straße")])
    def test_is_equal_for_what_some_system_takes_for_one(self, first, second):
        assert same_name_key(first) == same_name_key(second)

    def test_differs_otherwise(self):
        assert same_name_key("a") != same_name_key("ä")
