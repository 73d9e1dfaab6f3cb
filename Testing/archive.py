"""A real DICOM archive for tests: Orthanc, and whether other programs are installed."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"needs {tool}")


#: Orthanc's plugin for DICOMweb, where Debian installs it.
WEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Archive:
    """An Orthanc of its own in a folder, on this machine's loopback alone.

    Args:
        folder: for its files.
        web: whether it speaks DICOMweb.
    """

    def __init__(self, folder: Path, web: bool = False):
        self.dicom_port, self._port = free_port(), free_port()
        self.web_url = f"http://127.0.0.1:{self._port}/dicom-web"
        self._folder, self._plugins = folder, [str(WEB_PLUGIN)] if web else []

    def __enter__(self) -> Archive:
        settings = {
            "Name": "test",
            "StorageDirectory": str(self._folder / "db"),
            "IndexDirectory": str(self._folder / "db"),
            "HttpPort": self._port,
            "DicomPort": self.dicom_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "HttpBindAddresses": ["127.0.0.1"],
            "DicomAlwaysAllowStore": True,
            "Plugins": self._plugins,
        }
        (self._folder / "orthanc.json").write_text(json.dumps(settings))
        self._log = open(self._folder / "orthanc.log", "wb")
        self._process = subprocess.Popen(
            ["Orthanc", str(self._folder / "orthanc.json")], stdout=self._log, stderr=subprocess.STDOUT
        )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def restart(self) -> None:
        """Kill it, and start it again with what it holds."""
        self._process.kill()
        self.__exit__()
        self.__enter__()

    def get(self, place: str, data: bytes | None = None, method: str | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{place}", data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def ask(self, place: str) -> object:
        return json.loads(self.get(place))

    def add(self, path: Path) -> str:
        """Orthanc's name for the instance."""
        answer = json.loads(self.get("/instances", path.read_bytes()))
        assert answer["Status"] == "Success"
        return answer["ID"]

    def _wait(self) -> None:
        end = time.monotonic() + 60
        while True:
            try:
                self.get("/system")
                return
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    log = (self._folder / "orthanc.log").read_text(errors="replace")
                    raise AssertionError(f"Orthanc does not answer: {log}") from error
                time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
