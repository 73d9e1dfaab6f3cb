"""Standard output and standard error of the program, which may be closed, full, or spoken to by others."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from ..errors import InputError

_ERRORS = 2


def prepare_streams(is_program: bool) -> None:
    """Make printing safe.

    Args:
        is_program: whether this process is ours, so that its streams may be replaced.
    """
    if is_program:
        _reopen_closed_descriptors()
    # Python has no stream where the caller closed it, and one that fails on letters its encoding lacks.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    if is_program:
        # Ours keeps working while `quiet_libraries` turns theirs away.
        sys.stderr = open(os.dup(_ERRORS), "w", buffering=1, encoding=sys.stderr.encoding)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def visible(text: str, keep: str = "") -> str:
    r"""The text with escape sequences in place of all that has no shape of its own.

    Names and descriptions come from elsewhere. Control characters would move the cursor or colour the terminal, marks
    of writing direction would reorder what is read, and bytes that are not UTF-8 cannot be printed at all.

    Args:
        text: a name, a description or a whole message.
        keep: characters that stay as they are, such as the line breaks of a message.

    >>> print(visible("chest\x1b[2J\n.nrrd"), visible("Kn\udcf6chel"))
    chest\x1b[2J\n.nrrd Kn\xf6chel
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else _escape(character) for character in text
    )


def print_line(text: str, to_errors: bool = False) -> None:
    """Print, line breaks as they are and else as `visible` shows it; silent where nobody reads any more (``| head``).

    Raises:
        InputError: the stream cannot be written to for another reason.
    """
    stream = sys.stderr if to_errors else sys.stdout
    with _telling_why(stream):
        print(visible(text, keep="\n"), file=stream, flush=True)


def finish_printing() -> None:
    """Print what is still held back now, since Python would show a traceback where it cannot later.

    Raises:
        InputError: as for `print_line`.
    """
    with _telling_why(sys.stdout):
        sys.stdout.flush()


@contextmanager
def _telling_why(stream: TextIO) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        mute(stream)
    except OSError as error:
        mute(stream)
        raise InputError(f"Cannot print ({error.strerror}): send the output of this command elsewhere.") from error


def mute(stream: TextIO) -> None:
    """Let a stream whose reader has gone swallow what is still written to it, at the end of the program too."""
    with suppress(OSError, ValueError):  # a stream that stands for no file has no descriptor to point elsewhere
        _point_to_nowhere(stream.fileno())


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what C libraries print on standard error by themselves from the user, who gets a sentence of ours."""
    try:
        kept = os.dup(_ERRORS)
    except OSError:  # closed: nothing can be printed
        yield
        return
    try:
        _point_to_nowhere(_ERRORS)
        yield
    finally:
        os.dup2(kept, _ERRORS)
        os.close(kept)


def _escape(character: str) -> str:
    code = ord(character)
    # How Python keeps a byte of a file name that is not UTF-8 (PEP 383).
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _point_to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _reopen_closed_descriptors() -> None:
    """Let closed standard streams lead nowhere: a file that is opened later would get their number, and their text."""
    for descriptor in range(_ERRORS + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def _nowhere() -> TextIO:
    return open(os.devnull, "w")
