"""The module on the stand-in desktop, for the tests of its panel and its logic."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import slicer

from standin import Desktop, install

ROOT = Path(__file__).resolve().parents[1]
ENHANCING, TRAINING = "XViewSynth", "XViewSynthTrain"
LIBRARIES = {"XViewSynthLib", "XViewSynthTrainLib"}
TIMEOUT_SECONDS = 600


@dataclass
class Desk:
    """Slicer with modules loaded.

    Attributes:
        desktop: the stand-in for Slicer's window.
        name: of the module that the tests are about.
    """

    desktop: Desktop
    name: str

    def panel(self, name: str = "") -> Any:
        """The module's panel, or another's, as if the user had opened the module."""
        return self.desktop.select_module(name or self.name)

    def pump(self, until: Callable[[], Any], timeout: float = TIMEOUT_SECONDS) -> None:
        """Let Slicer live until something holds."""
        self.desktop.pump(until, timeout)

    def is_idle(self, panel: Any) -> bool:
        """Whether nothing runs in the panel."""
        button = getattr(panel.ui, "cancelButton" if self.name == ENHANCING else "stopButton")
        return button.toolTip == "No task is running."

    def finish(self, panel: Any) -> None:
        """Let Slicer live until nothing runs in the panel."""
        self.pump(lambda: self.is_idle(panel))

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
def desk(folder: Path, *further: str, **options: Any) -> Iterator[Desk]:
    """Slicer with the module XViewSynth loaded, and further ones, the last of which is opened.

    `options` are those of the stand-in.
    """
    with install(folder, **options) as desktop:
        names = (ENHANCING, *further)
        for name in names:
            desktop.load_module(ROOT / name / f"{name}.py")
        desktop.start_up()
        yield Desk(desktop, names[-1])
    # What is left of the panels must not be found by a thread of a later test: widgets die in the main thread.
    gc.collect()
    # What is alive now, torch above all, need not be looked through after every test.
    gc.freeze()


def workers() -> list[psutil.Process]:
    """The processes of the engine, or of training, that this one has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if LIBRARIES & set(child.cmdline()):
                found.append(child)
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


def volumes() -> list[slicer.vtkMRMLScalarVolumeNode]:
    """The volumes of the scene."""
    return slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
