"""XViewSynthLib: true-to-scan thin CT slices from thick ones, by three mutually distilled views.

>>> from XViewSynthLib import enhance, read_volume, write_volume
>>> scan = read_volume("chest.nrrd")                        # doctest: +SKIP
>>> write_volume(enhance(scan, factor=4).volume, "thin.nrrd")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib

__version__ = "0.18.0"

# As `typing.TYPE_CHECKING`, without the import: the program must catch stop signals as early as possible.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .errors import Cancelled, InputError
    from .evaluation.selfcheck import selfcheck
    from .geometry.volume import Volume
    from .inference.enhancement import Enhanced, enhance
    from .io.dicom.writing import write_series
    from .io.reading import read_volume
    from .io.writing import write_volume
    from .model.catalogue import load_model

_HOME_OF = {
    "Cancelled": "errors",
    "Enhanced": "inference.enhancement",
    "InputError": "errors",
    "Volume": "geometry.volume",
    "enhance": "inference.enhancement",
    "load_model": "model.catalogue",
    "read_volume": "io.reading",
    "selfcheck": "evaluation.selfcheck",
    "write_series": "io.dicom.writing",
    "write_volume": "io.writing",
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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
