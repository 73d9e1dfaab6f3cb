"""JSON of others: read whole and of the expected types, or not at all, and never at the cost of memory or time."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path

import pytest

from XViewSynthLib.batch.records import facts_of, read_json, read_record

OUTPUTS = ("scan.enhanced.nrrd", "scan.enhanced.mha")
GRID = {"shape_ijk": [9, 8, 7], "spacing_mm": [0.8, 0.8, 4.0]}
RECORD = {
    "fingerprint": "0" * 64,
    "output": {"file": OUTPUTS[0], "bytes": 10, "sha256": "1" * 64},
    "seconds": 1.5,
    "report": {"axis": "K", "factor": 2, "input": GRID, "output": GRID, "notes": ["A note."]},
    "selfcheck": {"methods": {"enhanced": {"gain_over_linear_db": 1, "gain_over_cubic_db": None}}},
}


def changed(*keys: str, value: object) -> dict:
    """The record with another value, or for a missing one without it."""
    record = deepcopy(RECORD)
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return record


def is_refused(file: Path) -> bool:
    try:
        read_json(file)
    except (OSError, ValueError):
        return True
    return False


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "scan.enhanced.json"


class TestReadJson:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"\xff\xfe\x00",
            b"[NaN]",
            b"-Infinity",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'"' + b"x" * (5 * 1024**2) + b'"',
            b"9" * 100_000,
        ],
    )
    def test_refuses_what_is_not_json_of_ours(self, file, content):
        file.write_bytes(content)
        assert is_refused(file)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
    def test_does_not_wait_for_a_pipe(self, file):
        os.mkfifo(file)
        assert is_refused(file)

    def test_refuses_a_folder(self, file):
        file.mkdir()
        assert is_refused(file)


class TestReadRecord:
    def test_gives_a_whole_one(self, file):
        file.write_text(json.dumps(RECORD))
        assert read_record(file, OUTPUTS) == RECORD

    @pytest.mark.parametrize("content", ["", "[]", "{}", "1", "null", '"text"', '{"fingerprint": 1'])
    def test_gives_none_for_something_else(self, file, content):
        file.write_text(content)
        assert read_record(file, OUTPUTS) is None

    @pytest.mark.parametrize(
        "name", ["../../etc/passwd", "/etc/passwd", "other.nrrd", "", ".", "a/scan.enhanced.nrrd", 7, None, ["x"]]
    )
    def test_gives_none_where_the_output_is_another_file(self, file, name):
        file.write_text(json.dumps(changed("output", "file", value=name)))
        assert read_record(file, OUTPUTS) is None

    @pytest.mark.parametrize("value", [..., None, [], {}, "text", "<script>", True, 1e300, -(10**400)])
    @pytest.mark.parametrize(
        "keys",
        [
            ("report",),
            ("report", "axis"),
            ("report", "factor"),
            ("report", "input"),
            ("report", "input", "spacing_mm"),
            ("report", "output", "shape_ijk"),
            ("report", "notes"),
            ("output",),
            ("output", "sha256"),
            ("fingerprint",),
            ("seconds",),
        ],
    )
    def test_gives_none_or_what_a_table_can_show(self, file, keys, value):
        file.write_text(json.dumps(changed(*keys, value=value)))
        record = read_record(file, OUTPUTS)
        if record is not None:
            facts = facts_of(record["report"], record["selfcheck"], record["seconds"])
            assert isinstance(facts["factor"], int)
            assert isinstance(facts["slices"], int)
            assert isinstance(facts["message"], str)
            assert f"{facts['spacing_before_mm']:.4g} {facts['seconds']:.0f}"

    @pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400])
    def test_gives_none_for_numbers_that_are_none(self, file, number):
        file.write_text(json.dumps(RECORD).replace("1.5", number))
        assert read_record(file, OUTPUTS) is None

    def test_gives_none_without_a_file(self, file):
        assert read_record(file, OUTPUTS) is None
