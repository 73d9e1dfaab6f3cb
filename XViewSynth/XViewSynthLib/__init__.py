"""XViewSynthLib: true-to-scan thin CT slices from thick ones, by three mutually distilled views.

>>> from XViewSynthLib import enhance, read_volume, write_volume
>>> scan = read_volume("chest.nrrd")                        # doctest: +SKIP
>>> write_volume(enhance(scan, factor=4).volume, "thin.nrrd")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

__version__ = "0.18.0"

# As `typing.TYPE_CHECKING`, without the import: until the program listens to stop signals, every millisecond counts.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .dicom_writing import write_series
    from .enhancement import Enhanced, enhance
    from .errors import Cancelled, InputError
    from .models import load_model
    from .reading import read_volume
    from .selfcheck import selfcheck
    from .volume import Volume
    from .writing import write_volume

_HOME_OF = {
    "Cancelled": "errors",
    "Enhanced": "enhancement",
    "InputError": "errors",
    "Volume": "volume",
    "enhance": "enhancement",
    "load_model": "models",
    "read_volume": "reading",
    "selfcheck": "selfcheck",
    "write_series": "dicom_writing",
    "write_volume": "writing",
}

__all__ = [
    "Cancelled",
    "Enhanced",
    "InputError",
    "Volume",
    "enhance",
    "load_model",
    "read_volume",
    "selfcheck",
    "write_series",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds, and a command that only reports a wrong argument should not wait for it.
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps `selfcheck` the function: importing the module of that name would otherwise replace it."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
