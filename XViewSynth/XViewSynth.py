"""The Slicer module "XViewSynth": its title and help text, and its set-up at the start of Slicer.

Slicer looks up its classes in this file by name. They are defined in the package XViewSynthUI.
"""

from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

from XViewSynthUI.logic import XViewSynthLogic
from XViewSynthUI.parameters import XViewSynthParameterNode
from XViewSynthUI.sampledata import registerSampleData
from XViewSynthUI.selftest import XViewSynthTest
from XViewSynthUI.widget import XViewSynthWidget

__all__ = ["XViewSynth", "XViewSynthLogic", "XViewSynthParameterNode", "XViewSynthTest", "XViewSynthWidget"]

MODULE_FOLDER = Path(__file__).resolve().parent


class XViewSynth(ScriptedLoadableModule):
    """Title, category and help text of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("XViewSynth")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = ["SubjectHierarchy"]
        self.parent.contributors = ["The XViewSynth authors"]
        self.parent.helpText = _(
            "Adds the missing slices to a thick-slice CT. Three views of the scan predict them, and an uncertainty map "
            "shows the expected error. Observed slices do not change. <b>Enhance slices</b> makes the volume. "
            "<b>Check on this scan</b> measures how well slices of your own scan are restored. The linked views show "
            "original and result side by side. Synthetic slices are predictions: not for diagnosis."
        )
        self.parent.acknowledgementText = _(
            "An independent implementation of Fang, Wang, Zhang, Xu, Yuan and Han: Incremental Cross-view Mutual "
            "Distillation for Self-supervised Medical CT Synthesis, CVPR 2022 (arXiv 2112.10325)."
        )
        slicer.app.connect("startupCompleted()", onStartupCompleted)

    def setup(self):
        """Add "Enhance slices" to the Data module. Slicer calls this after it has loaded its own plugins."""
        registerSubjectHierarchyPlugin()


def onStartupCompleted():
    """Register sample data, layout and scene observers. Slicer calls this after it has loaded all modules."""
    registerSampleData()
    layoutManager = slicer.app.layoutManager()
    if layoutManager:
        from XViewSynthScene.layout import register_layout

        register_layout(layoutManager.layoutLogic().GetLayoutNode())
        slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.EndImportEvent, onSceneLoaded)
    slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.StartSaveEvent, onSaveScene)


def onSceneLoaded(caller, event):
    """Make the panel if the loaded scene shows the linked views: the panel marks the synthetic slices there."""
    from XViewSynthScene.desk import is_shown
    from XViewSynthScene.layout import LAYOUT_ID

    if is_shown(LAYOUT_ID):
        slicer.util.getModuleWidget("XViewSynth")


def onSaveScene(caller, event):
    """Copy the provenance of enhanced volumes to their storage nodes before the scene is saved."""
    from XViewSynthScene.provenance import copy_all_to_storage

    copy_all_to_storage(caller)


def registerSubjectHierarchyPlugin():
    """Add "Enhance slices" to the context menu of volumes."""
    # This import makes the base class importable, which the plugin's own file needs.
    import SubjectHierarchyPlugins  # noqa: F401

    path = MODULE_FOLDER / "SubjectHierarchyPlugins" / "XViewSynthSubjectHierarchyPlugin.py"
    plugin = slicer.qSlicerSubjectHierarchyScriptedPlugin(None)
    plugin.setPythonSource(str(path))
