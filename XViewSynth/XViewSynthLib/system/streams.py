"""Standard output and standard error of the program, which may be closed or full, or used by libraries."""

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
        is_program: whether the process runs this program alone, so that its streams may be replaced.
    """
    if is_program:
        _reopen_closed_descriptors()
    # Python sets a closed stream to None. Other streams fail on characters that their encoding lacks.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    if is_program:
        # Ours keeps working while `quiet_libraries` redirects that of the libraries.
        sys.stderr = open(os.dup(_ERRORS), "w", buffering=1, encoding=sys.stderr.encoding)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def visible(text: str, keep: str = "") -> str:
    r"""The text with escape sequences in place of unprintable characters.

    Names and descriptions come from files. Control characters would move the cursor or colour the terminal. Marks of
    writing direction would reorder the text. Bytes that are not UTF-8 cannot be printed.

    Args:
        text: a name, a description or a whole message.
        keep: characters that are not escaped, such as the line breaks of a message.

    >>> print(visible("chest\x1b[2J\n.nrrd"), visible("Kn\udcf6chel"))
    chest\x1b[2J\n.nrrd Kn\xf6chel
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else _escape(character) for character in text
    )


def print_line(text: str, to_errors: bool = False) -> None:
    """Print a text as `visible` returns it, with its line breaks. Prints nothing into a closed pipe (``| head``).

    Raises:
        InputError: the stream cannot be written to for another reason.
    """
    stream = sys.stderr if to_errors else sys.stdout
    with _printing_errors(stream):
        print(visible(text, keep="\n"), file=stream, flush=True)


def finish_printing() -> None:
    """Flush standard output now, since Python would print a traceback if it failed at exit.

    Raises:
        InputError: as for `print_line`.
    """
    with _printing_errors(sys.stdout):
        sys.stdout.flush()


@contextmanager
def _printing_errors(stream: TextIO) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        mute(stream)
    except OSError as error:
        mute(stream)
        raise InputError(f"Cannot print ({error.strerror}): send the output of this command elsewhere.") from error


def mute(stream: TextIO) -> None:
    """Discard all further output to a stream whose reader has gone, also that at the end of the program."""
    with suppress(OSError, ValueError):  # a stream without a file has no descriptor
        _point_to_nowhere(stream.fileno())


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Discard text that C libraries print on standard error. The user gets our own message instead."""
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
    # Python represents a byte of a file name that is not UTF-8 so (PEP 383).
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _point_to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _reopen_closed_descriptors() -> None:
    """Open the null device for closed standard streams. Else a file opened later would get their number and text."""
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
