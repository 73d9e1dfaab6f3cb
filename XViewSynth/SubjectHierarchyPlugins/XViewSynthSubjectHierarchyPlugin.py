""" "Enhance slices" in the context menu of volumes, in the Data module. Slicer makes the one object of this class."""

import qt
import slicer
from AbstractScriptedSubjectHierarchyPlugin import AbstractScriptedSubjectHierarchyPlugin
from slicer.i18n import tr as _


class XViewSynthSubjectHierarchyPlugin(AbstractScriptedSubjectHierarchyPlugin):
    """Owns no items; it only adds an action. What is not here, Slicer answers as for any such plugin."""

    # Slicer wants to know where the class comes from.
    filePath = __file__

    def __init__(self, scriptedPlugin):
        scriptedPlugin.name = "XViewSynth"
        AbstractScriptedSubjectHierarchyPlugin.__init__(self, scriptedPlugin)
        self.enhanceAction = qt.QAction(_("Enhance slices"), scriptedPlugin)
        self.enhanceAction.setToolTip(_("Give this thick-slice CT the slices it lacks, as chosen in XViewSynth."))
        self.enhanceAction.connect("triggered()", self.onEnhance)

    def canAddNodeToSubjectHierarchy(self, node, parentItemID):
        """Confidence, 0.0 to 1.0."""
        return 0.0

    def canOwnSubjectHierarchyItem(self, itemID):
        """Confidence, 0.0 to 1.0."""
        return 0.0

    def roleForPlugin(self):
        """It has none, since it owns nothing."""
        return "N/A"

    def itemContextMenuActions(self):
        """All actions that can appear for an item."""
        return [self.enhanceAction]

    def showContextMenuActionsForItem(self, itemID):
        """Show the action where the item is a volume that can be enhanced."""
        self.enhanceAction.visible = bool(itemID) and self._isScan(self._nodeOf(itemID))

    def onEnhance(self):
        """Open the module on the volume that was clicked, and begin."""
        handler = slicer.qSlicerSubjectHierarchyPluginHandler.instance()
        node = self._nodeOf(handler.currentItem())
        if self._isScan(node):
            slicer.util.selectModule("XViewSynth")
            slicer.modules.xviewsynth.widgetRepresentation().self().enhanceVolume(node)

    def _nodeOf(self, itemID):
        handler = slicer.qSlicerSubjectHierarchyPluginHandler.instance()
        return handler.subjectHierarchyNode().GetItemDataNode(itemID)

    def _isScan(self, node):
        if node is None:
            return False
        from XViewSynthScene.scans import check_scan
        from XViewSynthScene.volumes import NonLinearTransformError

        try:
            check_scan(node)
        except NonLinearTransformError:
            return True  # the module asks whether to straighten it
        except ValueError:
            return False
        return True
