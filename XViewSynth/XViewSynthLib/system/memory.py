"""Too little memory: how it shows, and what to say. Imports nothing that takes memory itself."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Iterator

from ..errors import Cancelled, InputError, OutOfMemory

# What libraries say, in lower case, when they get no memory: Python of threads, the loader of a library that it cannot
# map, PyTorch, oneDNN, ITK, and C++ itself.
_SAID = (
    "can't start new thread",
    "failed to map segment",
    "cannot allocate",
    "can't allocate memory",
    "failed to allocate memory",
    "unable to allocate",
    "could not create a primitive",
    "could not create a memory",
    "not enough memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
)
# With less address space than this left, or fewer than libraries take, whatever fails has failed for lack of it.
_NEXT_TO_NOTHING = 2**26
#: Address space that the libraries take before any scan is read, bytes, on a machine of a few cores.
LIBRARIES_BYTES = 2 * 10**9
#: Without this much, the libraries that every command needs end the process themselves.
_LEAST_BYTES = 2**28


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means too little memory, and does not say so itself.

    An `InputError` that came from one does where the address space is limited: elsewhere, what asks for more memory
    than any system gives is indeed damaged.
    """
    tells = any(_tells(each) for each in _chain(error))
    limit = _address_space_limit()
    if isinstance(error, InputError):
        return tells and limit is not None and not isinstance(error, OutOfMemory)
    if isinstance(error, (Cancelled, SystemExit)):
        return False
    # Short of address space, libraries fail in ways that tell nothing.
    return tells or (limit is not None and (limit < LIBRARIES_BYTES or address_space_left() < _NEXT_TO_NOTHING))


def shortage() -> str:
    """One sentence on too little memory, and what to do."""
    limit = _address_space_limit()
    if limit is None:
        return "There is not enough memory: close other programs or use a computer with more."
    needed = LIBRARIES_BYTES / 1e9
    return (
        f"There is not enough memory: this process may use {limit / 1e9:.2g} GB of address space (ulimit -v), so allow "
        f"it more, at least {needed:g} GB and what the scan takes."
    )


def is_hopeless() -> bool:
    """Whether this process may use too little address space to begin with."""
    limit = _address_space_limit()
    return limit is not None and limit < _LEAST_BYTES


def address_space_left() -> float:
    """Bytes of address space that this process can still take; infinite without a limit."""
    limit = _address_space_limit()
    if limit is None or sys.platform == "win32":
        return math.inf
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return math.inf
    return max(0, limit - taken)


def _address_space_limit() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _tells(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    said = str(error).lower()
    return isinstance(error, (RuntimeError, ImportError)) and any(words in said for words in _SAID)
