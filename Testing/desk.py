"""The module on the stand-in desktop, for the tests of its panel and its logic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import slicer

from standin import Desktop, install

MODULE_FILE = Path(__file__).resolve().parents[1] / "XViewSynth" / "XViewSynth.py"
TIMEOUT_SECONDS = 600


@dataclass
class Desk:
    """Slicer with the module loaded.

    Attributes:
        desktop: the stand-in for Slicer's window.
        module: the module's Python file.
    """

    desktop: Desktop
    module: Any

    def panel(self) -> Any:
        """The module's panel, as if the user had opened the module."""
        return self.desktop.select_module("XViewSynth")

    def pump(self, until: Callable[[], Any], timeout: float = TIMEOUT_SECONDS) -> None:
        """Let Slicer live until something holds."""
        self.desktop.pump(until, timeout)

    def finish(self, panel: Any) -> None:
        """Let Slicer live until nothing runs in the panel."""
        self.pump(lambda: panel.ui.cancelButton.toolTip == "Nothing runs.")

    def wait_for_worker(self) -> psutil.Process:
        """The process that computes, as soon as there is one."""
        self.pump(workers)
        return workers()[0]

    @property
    def temporary(self) -> Path:
        """Slicer's folder for temporary files."""
        return Path(slicer.app.temporaryPath)

    def leaves_nothing(self) -> bool:
        """Whether neither a process nor a temporary file is left."""
        self.pump(lambda: not workers() and not list(self.temporary.glob("XViewSynth*")), 10)
        return True


@contextmanager
def desk(folder: Path, **options: Any) -> Iterator[Desk]:
    """Slicer with the module loaded; `options` are those of the stand-in."""
    with install(folder, **options) as desktop:
        module = desktop.load_module(MODULE_FILE)
        desktop.start_up()
        yield Desk(desktop, module)


def workers() -> list[psutil.Process]:
    """The processes of the engine that this one has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "XViewSynthLib" in child.cmdline():
                found.append(child)
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


def volumes() -> list[slicer.vtkMRMLScalarVolumeNode]:
    """The volumes of the scene."""
    return slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")


def seconds_until_gone(process: psutil.Process, limit: float) -> float:
    """Wait until a process has ended, at most `limit` seconds."""
    start = time.monotonic()
    psutil.wait_procs([process], timeout=limit)
    return time.monotonic() - start
