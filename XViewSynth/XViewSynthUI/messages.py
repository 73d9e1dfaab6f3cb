"""Messages of a panel, and the log of its worker process."""

from __future__ import annotations

from typing import Any


class Messages:
    """A label and a text field below the buttons, each visible while it has text.

    Args:
        label: a QLabel for a sentence.
        log: a QPlainTextEdit for the output of a worker.
    """

    def __init__(self, label: Any, log: Any) -> None:
        self._label, self._log = label, log

    def show(self, text: str, log: str = "") -> None:
        """Replace sentence and log; "" hides."""
        self.showText(text)
        self.showLog(log)

    def showText(self, text: str) -> None:
        """Replace the sentence; "" hides it."""
        self._label.text = text
        self._label.visible = bool(text)

    def showLog(self, text: str) -> None:
        """Replace the log; "" hides it."""
        self._log.setPlainText(text)
        self._log.visible = bool(text)

    def appendLog(self, line: str) -> None:
        """Add a line to the log."""
        self._log.appendPlainText(line)
        self._log.visible = True
