"""A stand-in for Slicer's desktop, so that the modules' panels can be tested without Slicer.

The scene below is real (slicer-core), and so is Qt (PySide6, drawn off the screen); what lies between behaves as
PythonQt and Slicer do, as far as a module can tell.
"""

from .desktop import SLICER_PYTHON_DIR, Desktop, Message, install

__all__ = ["SLICER_PYTHON_DIR", "Desktop", "Message", "install"]
