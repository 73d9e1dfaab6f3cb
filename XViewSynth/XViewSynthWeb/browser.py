"""The file that passes an address with a token to the browser, since the arguments of a process are no secret."""

from __future__ import annotations

import html
import shutil
import tempfile
from pathlib import Path

_PAGE = """<!DOCTYPE html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={address}">
<title>XViewSynth</title>
<a href="{address}">Open the viewer</a>
"""


class BrowserFile:
    """A small page in a folder that only its user can read, which leads on to an address."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def write(self, address: str) -> str:
        """Write the file, and give its own address.

        Raises:
            OSError: it cannot be written.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="xviewsynth-"))
        path = self._folder / "open.html"
        path.touch(mode=0o600)
        path.write_text(_PAGE.format(address=html.escape(address)), encoding="utf-8")
        return path.as_uri()

    def remove(self) -> None:
        """Remove the file with its folder; nothing where there is none."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
