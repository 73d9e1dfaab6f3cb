"""Enhance every scan below a folder with Slicer's Python, without a window:

    Slicer --no-main-window --python-script XViewSynth/Scripts/enhance_folder.py IN OUT [--factor 4] [--resume]

Options, outputs and exit codes are those of ``xviewsynth batch``, which does the work in a process of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MODULE_FOLDER = Path(__file__).resolve().parents[1]
if str(MODULE_FOLDER) not in sys.path:
    sys.path.insert(0, str(MODULE_FOLDER))

POLL_SECONDS = 0.1


def main(arguments: Sequence[str]) -> int:
    """Run the batch, and return its exit code."""
    from XViewSynthScene.processes import default_python, worker_environment

    command = [default_python(), "-m", "XViewSynthLib", "batch", *arguments, "--stop-with-parent", str(os.getpid())]
    # It stops when this program ends, or closes the pipe to it.
    with subprocess.Popen(command, env=worker_environment(), stdin=subprocess.PIPE) as batch:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: batch.stdin.close())
        while batch.poll() is None:
            _process_events()
            time.sleep(POLL_SECONDS)
    return batch.returncode


def _process_events() -> None:
    # The system counts Slicer as hung if it handles no events.
    app = getattr(sys.modules.get("slicer"), "app", None)
    if app is not None:
        app.processEvents()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if hasattr(sys.modules.get("slicer"), "app"):
        # Slicer would stay open.
        sys.modules["slicer"].util.exit(code)
    else:
        sys.exit(code)
