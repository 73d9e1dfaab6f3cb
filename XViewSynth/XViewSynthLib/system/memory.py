"""Detection of out-of-memory errors, and their message. Imports nothing that needs memory itself."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Iterator

from ..errors import Cancelled, InputError, OutOfMemory

# Messages of failed allocations, in lower case: Python's for threads, the loader's for libraries, and those of PyTorch,
# oneDNN, ITK and C++.
_MESSAGES = (
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
# With less address space than this left, or less than the libraries need, every failure is a lack of memory.
_NEXT_TO_NOTHING = 2**26
#: Address space that the libraries need before any scan is read, bytes, on a machine of a few cores.
LIBRARIES_BYTES = 2 * 10**9
#: Without this much, the libraries that every command needs end the process themselves.
_LEAST_BYTES = 2**28


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means too little memory and needs the message of `shortage`.

    An `InputError` caused by a failed allocation counts only if the address space is limited. Otherwise the file is
    damaged: it requests more memory than any system has.
    """
    failed = any(_is_failed_allocation(each) for each in _chain(error))
    limit = _address_space_limit()
    if isinstance(error, InputError):
        return failed and limit is not None and not isinstance(error, OutOfMemory)
    if isinstance(error, (Cancelled, SystemExit)):
        return False
    # Short of address space, libraries fail with unrelated messages.
    return failed or (limit is not None and (limit < LIBRARIES_BYTES or address_space_left() < _NEXT_TO_NOTHING))


def shortage() -> str:
    """One sentence: there is too little memory, and what to do."""
    limit = _address_space_limit()
    if limit is None:
        return "There is not enough memory: close other programs or use a computer with more."
    needed = LIBRARIES_BYTES / 1e9
    return (
        f"There is not enough memory: this process may use {limit / 1e9:.2g} GB of address space (ulimit -v), so allow "
        f"it more, at least {needed:g} GB and the size of the scan."
    )


def is_hopeless() -> bool:
    """Whether the limit of address space is too small to import the libraries."""
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


def _is_failed_allocation(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    message = str(error).lower()
    return isinstance(error, (RuntimeError, ImportError)) and any(words in message for words in _MESSAGES)
