"""Nodes in processes of their own, an archive that counts, and a sender, for tests and benchmarks of the node."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom import AE, StoragePresentationContexts, evt

from XViewSynthLib.node.service import Node
from XViewSynthLib.node.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_SECONDS = 120.0


class _Log:
    """Lines that a node prints."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @property
    def log(self) -> str:
        """All that the node has printed."""
        return "\n".join(self.lines)

    @property
    def port(self) -> int:
        """The port on which it listens, 0 before it does."""
        found = re.search(r"listens at .*:(\d+)\.", self.log)
        return int(found[1]) if found else 0

    def prints(self, text: str, times: int = 1) -> None:
        """Wait until a text has been printed so many times."""
        wait_for(lambda: self.log.count(text) >= times, lambda: self.log)


class NodeThread(_Log):
    """A node in a thread of this process; it stops with the context."""

    def __init__(self, settings: Settings):
        super().__init__()
        self._stop = threading.Event()
        self.errors: list[BaseException] = []
        self._node = Node(settings, self.lines.append, self._stop.is_set)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> NodeThread:
        self._thread.start()
        wait_for(lambda: self.port or not self._thread.is_alive(), lambda: self.log)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self.errors

    def _run(self) -> None:
        try:
            self._node.run()
        except BaseException as error:
            self.errors.append(error)


class NodeProcess(_Log):
    """A node that runs the program's command; it ends with the context.

    Args:
        folder: of the node.
        destination: AET@HOST:PORT of the archive.
        options: further options of the command.
    """

    def __init__(self, folder: Path, destination: str, *options: str):
        super().__init__()
        self._command = [sys.executable, "-m", "XViewSynthLib", "node", "run", "--folder", str(folder)]
        self._command += ["--to", destination, "--listen", "127.0.0.1:0", "--quiet-seconds", "0.5", *options]

    def __enter__(self) -> NodeProcess:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "XViewSynth"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            self._command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_for(lambda: self.port or self.process.poll() is not None, lambda: self.log)
        assert self.port, self.log
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join(PATIENCE_SECONDS)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                self.lines.append(line.rstrip())


class Inbox:
    """An archive that keeps what it gets, and counts how often.

    Args:
        refused: how many images are refused first.
    """

    def __init__(self, refused: int = 0, port: int = 0, tls: Any = None):
        self.images: dict[str, pydicom.Dataset] = {}
        self.counts: Counter[str] = Counter()
        self._refused = refused
        entity = AE("ARCHIVE")
        entity.supported_contexts = StoragePresentationContexts
        handlers = [(evt.EVT_C_STORE, self._receive)]
        self._server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=tls)
        self.port = self._server.server_address[1]
        self.address = f"ARCHIVE@127.0.0.1:{self.port}"

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _receive(self, event: Any) -> int:
        if self._refused:
            self._refused -= 1
            return 0xA700
        image = event.dataset
        image.file_meta = event.file_meta
        self.counts[image.SOPInstanceUID] += 1
        self.images[image.SOPInstanceUID] = image
        return 0x0000

    def series(self) -> dict[str, list[pydicom.Dataset]]:
        """The images by the UIDs of their series, in the order of their places."""
        found: dict[str, list[pydicom.Dataset]] = {}
        for image in sorted(self.images.values(), key=lambda image: image.ImagePositionPatient[2]):
            found.setdefault(image.SeriesInstanceUID, []).append(image)
        return found


def send(
    files: Sequence[Path], port: int, calling: str = "SCANNER", called: str = "XVIEWSYNTH", tls: Any = None
) -> list[int]:
    """Send files by C-STORE; the status of each, -1 if there is none. Empty if the association is refused."""
    entity = AE(calling)
    images = [pydicom.dcmread(file) for file in files]
    for syntax, kind in {(image.file_meta.TransferSyntaxUID, image.SOPClassUID) for image in images}:
        entity.add_requested_context(kind, syntax)
    association = entity.associate("127.0.0.1", port, ae_title=called, tls_args=tls)
    if not association.is_established:
        return []
    statuses = []
    for image in images:
        try:
            statuses.append(association.send_c_store(image).get("Status", -1))
        except (ValueError, RuntimeError):  # no context for it, or the association has ended
            statuses.append(-1)
    association.release()
    return statuses


def wait_for(condition: Callable[[], object], log: Callable[[], str] = lambda: "") -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, log()
        time.sleep(0.05)
