"""The base class of scripted plugins of the Data module."""

from typing import Any

import slicer


class AbstractScriptedSubjectHierarchyPlugin:
    """A plugin in Python, which registers itself."""

    def __init__(self, scriptedPlugin: Any) -> None:
        self.scriptedPlugin = scriptedPlugin
        slicer.qSlicerSubjectHierarchyPluginHandler.instance().registerPlugin(scriptedPlugin)
