"""Printing never ends in a traceback, and C libraries do not talk over us."""

import io
import os
import sys

import pytest

from XViewSynthLib.errors import InputError
from XViewSynthLib.system import streams
from XViewSynthLib.system.streams import mute, prepare_streams, print_line, quiet_libraries


class Failing(io.StringIO):
    def __init__(self, error: OSError):
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


class TestPrintLine:
    def test_goes_to_standard_output_or_error(self, capsys):
        print_line("result")
        print_line("message", to_errors=True)
        assert capsys.readouterr() == ("result\n", "message\n")

    def test_is_silent_without_a_reader(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", Failing(BrokenPipeError(32, "Broken pipe")))
        print_line("result")

    def test_says_why_it_cannot(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", Failing(OSError(28, "No space left on device")))
        with pytest.raises(InputError, match="Cannot print \\(No space left on device\\)"):
            print_line("result")


class TestPrepareStreams:
    def test_letters_that_a_stream_lacks_are_escaped(self, monkeypatch):
        printed = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii"))
        prepare_streams(is_program=False)
        print_line("dünn")
        assert printed.getvalue() == b"d\\xfcnn\n"

    def test_closed_streams_swallow_what_is_printed(self, monkeypatch):
        monkeypatch.setattr(sys, "stdout", None)
        monkeypatch.setattr(sys, "stderr", None)
        prepare_streams(is_program=False)
        print_line("result")
        print_line("message", to_errors=True)
        sys.stdout.close()
        sys.stderr.close()


class TestMute:
    def test_later_writing_goes_nowhere(self, tmp_path):
        with (tmp_path / "log").open("w") as stream:
            mute(stream)
            print("lost", file=stream, flush=True)
        assert (tmp_path / "log").read_text() == ""

    def test_leaves_alone_what_is_no_file(self):
        stream = io.StringIO()
        mute(stream)
        assert not stream.closed


class TestQuietLibraries:
    def test_what_they_print_is_dropped_until_the_end(self, capfd):
        with quiet_libraries():
            os.write(2, b"libfoo: assertion\n")
        os.write(2, b"after\n")
        assert capfd.readouterr().err == "after\n"

    def test_the_end_comes_after_an_error_too(self, capfd):
        with pytest.raises(ZeroDivisionError), quiet_libraries():
            raise ZeroDivisionError
        os.write(2, b"after\n")
        assert capfd.readouterr().err == "after\n"

    def test_the_programs_own_messages_still_arrive(self, capfd, monkeypatch):
        monkeypatch.setattr(sys, "stderr", sys.stderr)
        prepare_streams(is_program=True)
        with quiet_libraries(), sys.stderr:
            print_line("ours", to_errors=True)
        assert capfd.readouterr().err == "ours\n"

    def test_a_closed_standard_error_is_no_trouble(self, monkeypatch):
        def closed(_):
            raise OSError(9, "Bad file descriptor")

        monkeypatch.setattr(streams.os, "dup", closed)
        with quiet_libraries():
            pass
