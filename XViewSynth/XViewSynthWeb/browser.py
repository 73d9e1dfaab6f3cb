"""A file that passes an address with a token to the browser, because process arguments are visible to all users."""

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
    """A small page that forwards to an address, in a folder that only the user can read."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def write(self, address: str) -> str:
        """Write the file and return its address.

        Raises:
            OSError: the file cannot be written.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="xviewsynth-"))
        path = self._folder / "open.html"
        path.touch(mode=0o600)
        path.write_text(_PAGE.format(address=html.escape(address)), encoding="utf-8")
        return path.as_uri()

    def remove(self) -> None:
        """Remove the file and its folder; harmless without one."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
