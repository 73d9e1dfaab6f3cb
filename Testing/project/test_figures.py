"""The figures that documents quote are those of the tables in Testing/benchmarks/results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from documents import ROOT, Row, tables

RESULTS = ROOT / "Testing" / "benchmarks" / "results"
EVIDENCE = ROOT / "Resources" / "Docs" / "explanation" / "evidence.md"
METHODS = ("linear", "cubic spline", "standard")


def table(page: Path, *words: str) -> list[Row]:
    """The rows of all tables below headings with all of these words."""
    found = [rows for headings, rows in tables(page) if all(word in headings for word in words)]
    assert found, f"{page} has no table below {words}"
    return [row for rows in found for row in rows]


def number(text: str) -> float:
    return float(re.match(r"[+-]?[\d.]+", text)[0])


class TestReadme:
    @pytest.mark.parametrize(
        ("words", "file", "factor"),
        [
            ("thin slices, x2", "bench.md", "x2"),
            ("thin slices, x4", "bench.md", "x4"),
            ("thick slices, x4", "bench-thick.md", "x4"),
        ],
    )
    @pytest.mark.parametrize(("column", "scan"), [("MIDRC", "midrc"), ("Lung-Fused", "lungfcp")])
    def test_gains(self, words, file, factor, column, scan):
        (row,) = (row for row in table(ROOT / "README.md") if words in row.values())
        (quoted,) = (cell for name, cell in row.items() if column in name)
        measured = [
            row["over better"]
            for headings, rows in tables(RESULTS / file)
            for row in rows
            if scan in headings.lower().replace("-", "") and factor in headings
            if row.get("standard", row.get("standard-thick")) == "**three views fused**"
        ]
        assert f"{measured[0]} dB" == quoted


@pytest.mark.parametrize("slices", ["Thin", "Thick"])
@pytest.mark.parametrize("scan", ["MIDRC", "Lung-FCP"])
class TestEvidence:
    def quoted(self, slices, scan, words) -> list[Row]:
        return [row for row in table(EVIDENCE, f"{slices} slices", words) if row["scan"] == scan]

    def measured(self, slices, scan, words) -> list[Row]:
        model = "standard" if slices == "Thin" else "standard-thick"
        rows = table(RESULTS / "bench-evidence.md", f"{slices} slices: {scan}", words)
        return [{**row, "method": "standard"} if row.get("method") == model else row for row in rows]

    def test_noise_floor(self, slices, scan):
        measured = self.measured(slices, scan, "Noise floor")
        for row in self.quoted(slices, scan, "noise floor"):
            found = {other["method"]: other for other in measured if other["region"] == row["region"]}
            assert row["floor HU"] == found["standard"]["floor"]
            assert row["recoverable error removed"] == found["standard"]["recoverable error removed"]
            for method, column in zip(METHODS, ("linear HU", "cubic spline HU", "XViewSynth HU"), strict=True):
                assert row[column] == found[method]["error"]

    def test_structures(self, slices, scan):
        measured = self.measured(slices, scan, "Structures")
        for row in self.quoted(slices, scan, "Structures"):
            found = {other["method"]: other for other in measured if other["structure"] == row["structure"]}
            for column in ("Dice", "mean distance mm", "95 % distance mm", "volume error %"):
                for quoted, method in zip(row[column].split(" / "), METHODS, strict=True):
                    exact = number(found[method][column])
                    assert abs(exact - number(quoted)) <= half_a_step(quoted) + 1e-9, (row["structure"], column, method)

    def test_invented(self, slices, scan):
        measured = {row["method"]: row for row in self.measured(slices, scan, "Invented")}
        for row in self.quoted(slices, scan, "Invented"):
            found = measured["standard" if row["method"] == "XViewSynth" else row["method"]]
            for word in ("invented", "missed", "found"):
                assert row[f"{word} per litre"] == found[word]


def half_a_step(text: str) -> float:
    """Half of the last digit of a number: how much rounding may change it."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


def test_what_is_said_of_the_evidence_stands_in_its_tables():
    text = EVIDENCE.read_text(encoding="utf-8")
    said = text.split("## What the figures say")[1].split("\nThese are two scans")[0]
    known = [abs(number(part)) for _, rows in tables(EVIDENCE) for row in rows for part in parts(row)]
    # Of balls and regions, not of results: sizes, distances of slices, names of measures.
    said = re.sub(r"\b3 mm|4 or 5 mm|95 % surface|worst 5 %", "", said)
    for quoted in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", said):
        assert any(abs(value - float(quoted)) <= half_a_step(quoted) + 1e-9 for value in known), quoted


def parts(row: Row) -> list[str]:
    return [part for cell in row.values() for part in re.findall(r"[+-]?\d+(?:\.\d+)?", cell)]
