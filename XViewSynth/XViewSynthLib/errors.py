"""Exceptions that end work early and are not internal errors."""


class InputError(ValueError):
    """The user's file or argument is wrong. The message is one sentence: what is wrong, then what to do."""


class OutOfMemory(InputError):
    """There is too little memory for the request. The message states how much it needs."""


class Cancelled(Exception):
    """The user requested a stop. No unfinished output remains."""
