"""As in Slicer, importing this package makes the base class of scripted plugins importable by its own name."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from AbstractScriptedSubjectHierarchyPlugin import AbstractScriptedSubjectHierarchyPlugin

__all__ = ["AbstractScriptedSubjectHierarchyPlugin"]
