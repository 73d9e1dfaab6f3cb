"""Options of the script API. They are the fields of a request, under names as Slicer's API spells them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from XViewSynthLib.request import DEFAULTS, OPTIONS, SELF_CHECK, Request

#: Fields of a request that `enhance` and `selfCheck` take.
ENHANCE_FIELDS, SELF_CHECK_FIELDS = tuple(OPTIONS), SELF_CHECK


def scriptName(field: str) -> str:
    """Name of a field in the script API.

    >>> scriptName("new_thickness")
    'newThickness'
    """
    first, *others = field.split("_")
    return first + "".join(word.capitalize() for word in others)


def requestFrom(call: str, fields: Iterable[str], options: Mapping[str, Any]) -> Request:
    """The request with these options.

    Args:
        call: name of the call, for messages.
        fields: that it takes.
        options: by their names in the script API; memory in GB.

    Raises:
        TypeError: there is no such option.
        InputError: a value is not allowed.
    """
    known = {scriptName(field): field for field in fields}
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{call} has no option {unknown[0]!r}: use {', '.join(known)}.")
    return Request(**{known[name]: _scaled(known[name], value) for name, value in options.items()})


def documented(fields: Iterable[str]) -> Callable[[Callable], Callable]:
    """A decorator that puts the help of options in place of "{options}" in a docstring."""
    lines = "\n".join(f"        :param {scriptName(field)}: {_described(field)}" for field in fields)

    def document(function: Callable) -> Callable:
        function.__doc__ = (function.__doc__ or "").replace("        {options}", lines)
        return function

    return document


def _scaled(field: str, value: Any) -> Any:
    isNumber = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value * OPTIONS[field].scale if isNumber and OPTIONS[field].scale != 1 else value


def _described(field: str) -> str:
    option, default = OPTIONS[field], DEFAULTS[field]
    unit = f", {option.unit}" if option.unit else ""
    return f"{option.help}{unit}" + ("." if default is None else f"; {default!r} by default.")
