""" "Enhance slices" in the context menu of volumes, in the Data module. Slicer makes the one object of this class."""

import qt
import slicer
from AbstractScriptedSubjectHierarchyPlugin import AbstractScriptedSubjectHierarchyPlugin
from slicer.i18n import tr as _


class XViewSynthSubjectHierarchyPlugin(AbstractScriptedSubjectHierarchyPlugin):
    """Adds one action and owns no items. Slicer's base class supplies the rest."""

    # Slicer requires the path of the file that defines the class.
    filePath = __file__

    def __init__(self, scriptedPlugin):
        scriptedPlugin.name = "XViewSynth"
        AbstractScriptedSubjectHierarchyPlugin.__init__(self, scriptedPlugin)
        self.enhanceAction = qt.QAction(_("Enhance slices"), scriptedPlugin)
        self.enhanceAction.setToolTip(_("Add the missing slices to this CT, with the settings of XViewSynth."))
        self.enhanceAction.connect("triggered()", self.onEnhance)

    def canAddNodeToSubjectHierarchy(self, node, parentItemID):
        """Confidence, 0.0 to 1.0."""
        return 0.0

    def canOwnSubjectHierarchyItem(self, itemID):
        """Confidence, 0.0 to 1.0."""
        return 0.0

    def roleForPlugin(self):
        """The role name; "N/A" because the plugin owns no items."""
        return "N/A"

    def itemContextMenuActions(self):
        """All actions that can appear for an item."""
        return [self.enhanceAction]

    def showContextMenuActionsForItem(self, itemID):
        """Show the action where the item is a volume that can be enhanced."""
        self.enhanceAction.visible = bool(itemID) and self._isScan(self._nodeOf(itemID))

    def onEnhance(self):
        """Open the module and enhance the clicked volume."""
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
            return True  # the module offers to straighten it
        except ValueError:
            return False
        return True
