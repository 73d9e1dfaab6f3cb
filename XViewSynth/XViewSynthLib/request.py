"""Options of an enhancement, defined once.

Options of the command line, JSON of workers and batches, settings of the panel and tables of the documents are derived
from the fields of `Request`. A new option is a new field here, and the code that uses it. Imports no other module but
`errors`, so that a panel can use it at no cost.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from numbers import Integral, Real
from typing import Any

from .errors import InputError

#: Name of the automatic choice of a model: the one that ships for the scan's acquisition.
AUTOMATIC = "auto"


class Choice(StrEnum):
    """A word of the command line, with the label that a panel shows."""

    _label: str

    def __new__(cls, word: str, label: str) -> Choice:
        member = str.__new__(cls, word)
        member._value_ = word
        member._label = label
        return member

    def label(self) -> str:
        """The text that a panel shows."""
        return self._label


class AxisChoice(Choice):
    """The axis that gets more slices."""

    AUTOMATIC = "auto", "Automatic (the axis of the slices)"
    I = "I", "I"  # noqa: E741
    J = "J", "J"
    K = "K", "K"


class AcquisitionChoice(Choice):
    """How the scanner acquired the slices."""

    AUTOMATIC = "auto", "Automatic"
    GAP = "gap", "Thin slices far apart"
    THICK = "thick", "Averaged over thick slices"


class ProfileShape(Choice):
    """How a thick slice averages the body along its axis."""

    BOX = "box", "Box"
    GAUSSIAN = "gaussian", "Gaussian"


class PrecisionChoice(Choice):
    """Floating-point format of the networks."""

    AUTOMATIC = "auto", "Automatic"
    FP32 = "fp32", "32 bits"
    BF16 = "bf16", "bfloat16"
    FP16 = "fp16", "16 bits"


class Quality(Choice):
    """How much computation a result is worth."""

    STANDARD = "standard", "Standard"
    BEST = "best", "Best (takes four to five times as long)"


class Texture(Choice):
    """Whether synthetic slices get the noise of observed slices."""

    KEEP = "keep", "As predicted"
    MATCH = "match", "Noise of observed slices"


@dataclass(frozen=True)
class Option:
    """Type, range and help text of a field of `Request`.

    Attributes:
        kind: int, float, bool, str or a `Choice`.
        help: help text of the command line, the panel and the documents.
        metavar: placeholder of the value.
        unit: unit of a number on the command line, in words.
        scale: factor from that unit to the unit of the field.
        lowest, highest: limits of whole numbers, both included.
        is_target: whether the field determines the number of new slices. At most one such field can be given.
    """

    kind: type
    help: str
    metavar: str | None = None
    unit: str = ""
    scale: float = 1.0
    lowest: int = 0
    highest: int = 0
    is_target: bool = False

    @property
    def requirement(self) -> str:
        """Which values are allowed, to follow "must be"."""
        if issubclass(self.kind, Choice):
            *first, last = self.kind
            return f"{', '.join(first)} or {last}"
        if self.unit:
            return f"a number of {self.unit} above 0"
        if self.kind is int:
            return f"a whole number from {self.lowest} to {self.highest}"
        return "True or False" if self.kind is bool else "a word"

    def checked(self, value: Any) -> Any:
        """The value of a field, as its plain type.

        Raises:
            ValueError: it is not allowed.
        """
        read: Callable[[Any], Any] = self.kind
        if issubclass(self.kind, Choice):
            return read(value)
        if self.unit:
            return read(_number(value))
        if self.kind is int:
            return _whole(value, self.lowest, self.highest)
        if self.kind is str:
            value = os.fspath(value)
        if not isinstance(value, self.kind):
            raise ValueError
        return value

    def parsed(self, text: str) -> Any:
        """The value of a field, from a word of the command line.

        Raises:
            ValueError: it is not allowed.
        """
        if self.unit:
            return self.kind(round(_number(float(text)) * self.scale) if self.kind is int else _number(float(text)))
        if self.kind is int:
            return _whole(int(text) if text.isascii() and text.isdecimal() else None, self.lowest, self.highest)
        return self.checked(text)

    def written(self, value: Any) -> str:
        """The word of the command line for the value of a field."""
        return repr(value / self.scale) if self.unit else str(value)


def _option(kind: type, help: str, **settings: Any) -> dict[str, Option]:
    return {"option": Option(kind, help, **settings)}


def _millimetres(help: str, **settings: Any) -> dict[str, Option]:
    return _option(float, help, metavar="MM", unit="millimetres", **settings)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user requests of an enhancement or a self-check. Lengths in mm, memory in bytes.

    Without `factor`, `spacing` or `isotropic`: the smallest factor that brings the slices to 1.25 mm or less, at most
    8.

    Raises:
        InputError: a value is not allowed, or more than one of `factor`, `spacing` and `isotropic` is given.

    >>> Request(factor=4, acquisition="thick").to_argv()
    ['--factor', '4', '--acquisition', 'thick']
    >>> Request.from_json(Request(factor=4).to_json()) == Request(factor=4)
    True
    """

    factor: int | None = field(
        default=None,
        metadata=_option(
            int, "how many times closer the slices get, 2 to 8", metavar="N", lowest=2, highest=8, is_target=True
        ),
    )
    spacing: float | None = field(
        default=None, metadata=_millimetres("distance between slices to reach", is_target=True)
    )
    isotropic: bool = field(
        default=False,
        metadata=_option(bool, "make the distance between slices that of the pixels in them", is_target=True),
    )
    model: str = field(
        default=AUTOMATIC,
        metadata=_option(
            str,
            "model that predicts the slices (default: the model that ships for the scan's acquisition)",
            metavar="NAME|FOLDER",
        ),
    )
    axis: AxisChoice = field(
        default=AxisChoice.AUTOMATIC,
        metadata=_option(AxisChoice, "axis that gets more slices; auto: the axis of the slices"),
    )
    acquisition: AcquisitionChoice = field(
        default=AcquisitionChoice.AUTOMATIC,
        metadata=_option(
            AcquisitionChoice,
            "gap: thin slices far apart; thick: averages over thick slices; auto: as the model was trained, or "
            "as the slice thickness indicates",
        ),
    )
    device: str = field(
        default=AUTOMATIC,
        metadata=_option(str, "device that computes; auto: a GPU if there is one", metavar="auto|cpu|cuda|cuda:1|mps"),
    )
    precision: PrecisionChoice = field(
        default=PrecisionChoice.AUTOMATIC,
        metadata=_option(
            PrecisionChoice,
            "floating-point format of the networks; auto: fp16 on CUDA, bf16 on CPUs made for it, else fp32",
        ),
    )
    quality: Quality = field(
        default=Quality.STANDARD,
        metadata=_option(
            Quality,
            "best: mean of four predictions (of the scan, mirrored and turned), for some factors by larger networks; "
            "more accurate, takes four to five times as long (default: standard)",
        ),
    )
    memory: int | None = field(
        default=None,
        metadata=_option(int, "most memory to use (default: free memory)", metavar="GB", unit="gigabytes", scale=1e9),
    )
    thickness: float | None = field(
        default=None,
        metadata=_millimetres(
            "slice thickness (default: as the scan states, or else, for thick slices, their distance)"
        ),
    )
    profile: ProfileShape = field(
        default=ProfileShape.BOX,
        metadata=_option(
            ProfileShape,
            "slice profile of thick slices: box, or gaussian with the thickness as full width at half maximum "
            "(default: box)",
        ),
    )
    new_thickness: float | None = field(
        default=None,
        metadata=_millimetres("thickness of new slices, where those of the scan are thick (default: they touch)"),
    )
    texture: Texture = field(
        default=Texture.KEEP,
        metadata=_option(
            Texture,
            "keep: new slices as predicted, which is most accurate; match: with the noise of observed slices, so that "
            "nothing flickers, but less accurate (default: keep)",
        ),
    )

    def __post_init__(self) -> None:
        for name, option in OPTIONS.items():
            value = getattr(self, name)
            if value is None and DEFAULTS[name] is None:
                continue
            try:
                object.__setattr__(self, name, option.checked(value))
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"The {name.replace('_', ' ')} must be {option.requirement}, not {value!r}."
                ) from error
        if sum(getattr(self, name) != DEFAULTS[name] for name in TARGETS) > 1:
            raise InputError("Choose one of factor, spacing and isotropic, not several.")

    @property
    def target(self) -> dict[str, Any]:
        """The fields that determine the number of new slices."""
        return {name: getattr(self, name) for name in TARGETS}

    def to_json(self) -> dict[str, Any]:
        """All fields, as plain values that JSON can hold."""
        values = ((name, getattr(self, name)) for name in OPTIONS)
        return {name: value.value if isinstance(value, Choice) else value for name, value in values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Request:
        """The request that `to_json` wrote.

        Raises:
            InputError: a field is unknown, or its value is not allowed.
        """
        unknown = sorted(set(values) - set(OPTIONS))
        if unknown:
            raise InputError(f"A request has no field {unknown[0]!r}: use the fields of this version.")
        return cls(**values)

    def to_argv(self) -> list[str]:
        """The options of the command line that request the same."""
        words = []
        for name, value in self._changed().items():
            words.append(option_name(name))
            if value is not True:
                words.append(OPTIONS[name].written(value))
        return words

    def _changed(self) -> dict[str, Any]:
        return {name: value for name, value in self.to_json().items() if value != DEFAULTS[name]}

    def limited_to(self, names: Iterable[str]) -> Request:
        """The same values for some fields, and the defaults for others."""
        return Request(**{name: getattr(self, name) for name in names})

    def require_only(self, names: Iterable[str], purpose: str) -> None:
        """Refuse fields that have no effect.

        Args:
            names: fields that have one.
            purpose: of the request, such as "a self-check".

        Raises:
            InputError: another field differs from its default.
        """
        others = [name for name in self._changed() if name not in set(names)]
        if others:
            raise InputError(f"{option_name(others[0])} has no effect on {purpose}: leave it out.")


#: Of each field of `Request`, in its order.
OPTIONS: dict[str, Option] = {each.name: each.metadata["option"] for each in fields(Request)}
#: Plain values.
DEFAULTS: dict[str, Any] = {
    each.name: each.default.value if isinstance(each.default, Choice) else each.default for each in fields(Request)
}
TARGETS = tuple(name for name, option in OPTIONS.items() if option.is_target)
#: Fields that concern how to compute; those that a benchmark uses of each scan; those that a self-check uses.
COMPUTE = ("device", "precision", "quality")
BENCHMARK = ("axis", "acquisition", *COMPUTE, "memory")
SELF_CHECK = ("factor", "model", *BENCHMARK, "thickness")


def make_request(
    request: Request | None = None, factor: int | None = None, model: Any = None, **options: Any
) -> Request:
    """A request with other values for some fields.

    Args:
        request: the request to change; one without requirements by default.
        factor: None keeps that of the request.
        model: name or folder of a model; None, or a loaded model, keeps that of the request.
        options: other fields.

    Raises:
        InputError: a value is not allowed.
        TypeError: there is no such field.
    """
    if factor is not None:
        options["factor"] = factor
    if isinstance(model, (str, os.PathLike)):
        options["model"] = model
    return replace(request or Request(), **options)


def option_name(name: str) -> str:
    """Name of a field on the command line.

    >>> option_name("new_thickness")
    '--new-thickness'
    """
    return f"--{name.replace('_', '-')}"


def _whole(value: Any, lowest: int, highest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not lowest <= int(value) <= highest:
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError from error
    if not 0 < number < math.inf:
        raise ValueError
    return number
