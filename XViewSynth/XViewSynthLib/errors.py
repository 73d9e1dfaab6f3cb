"""The two ways in which work can end early without a defect of ours."""


class InputError(ValueError):
    """The user's file or argument is wrong; the message is one sentence that says what to do."""


class OutOfMemory(InputError):
    """There is too little memory for what the user wants; the message says how much it takes."""


class Cancelled(Exception):
    """The user asked to stop; nothing that was begun has been left behind."""
