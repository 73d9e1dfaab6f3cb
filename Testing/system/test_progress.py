"""Progress: what a terminal, a log file or a program gets to see."""

import io
import json

import pytest

from XViewSynthLib.progress import Progress, describe_seconds, reporter

STEPS = [Progress("axial view", 1, 2, 65.0), Progress("axial view", 2, 2, 30.0), Progress("coronal view", 1, 1, 0.0)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ClosedPipe(io.StringIO):
    """A stream whose reader has gone."""

    def __init__(self):
        super().__init__()
        self.attempts = 0

    def write(self, text: str) -> int:
        self.attempts += 1
        raise BrokenPipeError(32, "Broken pipe")


def show(kind: str, output=None, messages=None, steps=STEPS) -> None:
    with reporter(kind, output or io.StringIO(), messages or io.StringIO()) as report:
        for step in steps:
            report(step)


class TestJson:
    def test_prints_one_object_a_line_on_output(self):
        output, messages = io.StringIO(), io.StringIO()
        show("json", output, messages)
        assert [json.loads(line) for line in output.getvalue().splitlines()] == [
            {"stage": "axial view", "done": 1, "total": 2, "seconds_left": 65.0},
            {"stage": "axial view", "done": 2, "total": 2, "seconds_left": 30.0},
            {"stage": "coronal view", "done": 1, "total": 1, "seconds_left": 0.0},
        ]
        assert messages.getvalue() == ""

    def test_unknown_time_is_null(self):
        assert json.loads(Progress("reading", 0, 1).to_json())["seconds_left"] is None

    def test_each_line_is_there_at_once(self, monkeypatch):
        flushed = []
        output = io.StringIO()
        monkeypatch.setattr(output, "flush", lambda: flushed.append(output.getvalue()), raising=False)
        show("json", output, steps=STEPS[:1])
        assert flushed[0].endswith("}\n")

    def test_a_reader_that_goes_away_does_not_stop_the_work(self):
        output = ClosedPipe()
        show("json", output)
        assert output.attempts == 1


class TestBar:
    def test_moves_on_a_terminal_and_shows_the_time_left(self):
        messages = Terminal()
        show("bar", messages=messages)
        text = messages.getvalue()
        assert "axial view: 100%" in text
        assert "1/2, 1 min 5 s left" in text
        assert "coronal view: 100%" in text

    def test_a_stage_of_unknown_length_shows_no_time(self):
        messages = Terminal()
        show("bar", messages=messages, steps=[Progress("reading", 0, 1)])
        assert "left" not in messages.getvalue()

    def test_prints_one_line_a_stage_into_a_file(self):
        messages = io.StringIO()
        show("bar", messages=messages, steps=[*STEPS, Progress("writing", 0, 1)])
        assert messages.getvalue().splitlines() == ["axial view (1 min 5 s left)", "coronal view (0 s left)", "writing"]

    def test_leaves_output_to_others(self):
        output = io.StringIO()
        show("bar", output, Terminal())
        assert output.getvalue() == ""

    def test_a_terminal_that_closes_does_not_stop_the_work(self):
        class ClosedTerminal(ClosedPipe):
            def isatty(self) -> bool:
                return True

        show("bar", messages=ClosedTerminal())

    def test_is_closed_when_the_work_fails(self):
        messages = Terminal()
        with pytest.raises(AttributeError), reporter("bar", None, messages) as report:
            report(STEPS[0]).nothing()
        assert messages.getvalue().endswith("\n")


class TestNone:
    def test_shows_nothing(self):
        output, messages = io.StringIO(), Terminal()
        show("none", output, messages)
        assert output.getvalue() == messages.getvalue() == ""


class TestReporter:
    def test_an_unknown_kind_is_refused_with_those_that_exist(self):
        with pytest.raises(ValueError, match="choose one of bar, json, none"), reporter("spinner"):
            pass

    def test_uses_the_standard_streams_by_default(self, capsys):
        with reporter("json") as report:
            report(STEPS[0])
        assert json.loads(capsys.readouterr().out)["stage"] == "axial view"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (-3, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")],
)
def test_seconds_in_words(seconds, words):
    assert describe_seconds(seconds) == words
