"""The viewer as its users start it, in a process of its own, and a browser without a window to look at it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

# The command as an installed program has it, also where nothing is installed.
PROGRAM = (
    "import sys; from XViewSynthLib.__main__ import main; from XViewSynthWeb.command import register_view; "
    "sys.exit(main(register_view))"
)
_ADDRESS = re.compile(r"Open (http://\S+) in a browser")
_NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Served:
    """A viewer at work: its process, and the address that it has printed."""

    process: subprocess.Popen
    address: str

    @property
    def port(self) -> int:
        """On which it listens."""
        return urllib.parse.urlsplit(self.address).port

    @property
    def token(self) -> str:
        """That the address carries; "" without one."""
        return urllib.parse.parse_qs(urllib.parse.urlsplit(self.address).query).get("token", [""])[0]


def command(*arguments: object) -> list[str]:
    """Command line of ``xviewsynth view`` in this checkout."""
    return [sys.executable, "-c", PROGRAM, "view", *map(str, arguments)]


def environment() -> dict[str, str]:
    """In which the libraries of this checkout are found."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY / "XViewSynth"), "PYTHONUTF8": "1"}


@contextmanager
def viewer(*arguments: object, browser: str | None = None) -> Iterator[Served]:
    """Start a viewer, and end it afterwards if it has not ended.

    Args:
        arguments: of ``xviewsynth view``.
        browser: command that stands for the user's browser; None opens none.

    Raises:
        RuntimeError: it ended before it told its address; the message is what it said.
    """
    started = command(*arguments, "--stop-with-parent", os.getpid(), *([] if browser else ["--no-browser"]))
    # A screen that nothing draws on, so that a browser is opened.
    screen = {"BROWSER": browser, "WAYLAND_DISPLAY": "none"} if browser else {}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    with subprocess.Popen(started, env=environment() | screen, cwd=REPOSITORY, **pipes) as process:
        try:
            said = ""
            while not (address := _ADDRESS.search(said)):
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError(said)
                said += line
            yield Served(process, address[1])
        finally:
            process.terminate()


def why_no_browser() -> str | None:
    """Why no browser can be driven on this machine; None where one can."""
    if not browser_path():
        return "no Chromium is installed (Debian: chromium)"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return None


def browser_path() -> str | None:
    """The system's Chromium."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def browser() -> Iterator:
    """A Chromium without a window, as playwright's `Browser`."""
    from playwright.sync_api import sync_playwright

    # Its sandbox refuses to work for root, which tests in a container run as.
    options = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        playwright.selectors.set_test_id_attribute("data-test")
        yield playwright.chromium.launch(executable_path=browser_path(), args=options)
