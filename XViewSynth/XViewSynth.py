"""The Slicer module "XViewSynth": what Slicer shows of it, and what it sets up once.

Slicer finds its classes in this file by their names. They are defined in the package XViewSynthUI.
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
    """What Slicer shows of the module, and what is set up once."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("XViewSynth")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = ["SubjectHierarchy"]
        self.parent.contributors = ["The XViewSynth authors"]
        self.parent.helpText = _(
            "Gives a thick-slice CT the slices it lacks. Three views of the scan predict them, and where the views "
            "disagree, a map says so. Observed slices stay as they are. <b>Enhance slices</b> makes the volume, "
            "<b>Check on this scan</b> measures how well slices of your own scan are restored, and the linked views "
            "show original and result side by side. Synthetic slices are predictions: not for diagnosis. Nothing "
            "leaves this computer."
        )
        self.parent.acknowledgementText = _(
            "An independent implementation of Fang, Wang, Zhang, Xu, Yuan and Han: Incremental Cross-view Mutual "
            "Distillation for Self-supervised Medical CT Synthesis, CVPR 2022 (arXiv 2112.10325)."
        )
        slicer.app.connect("startupCompleted()", onStartupCompleted)

    def setup(self):
        """Called once the application's own plugins are there: offer "Enhance slices" in the Data module."""
        registerSubjectHierarchyPlugin()


def onStartupCompleted():
    """Called once all modules are there: offer the sample data, and get ready for scenes that are loaded and saved."""
    registerSampleData()
    layoutManager = slicer.app.layoutManager()
    if layoutManager:
        from XViewSynthScene.views import register_layout

        register_layout(layoutManager.layoutLogic().GetLayoutNode())
        slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.EndImportEvent, onSceneLoaded)
    slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.StartSaveEvent, onSaveScene)


def onSceneLoaded(caller, event):
    """A scene was loaded: if it brings the linked views, make the panel, which marks the synthetic slices there."""
    from XViewSynthScene.desk import is_shown
    from XViewSynthScene.views import LAYOUT_ID

    if is_shown(LAYOUT_ID):
        slicer.util.getModuleWidget("XViewSynth")


def onSaveScene(caller, event):
    """The scene is about to be saved: let files of enhanced volumes tell where they come from."""
    from XViewSynthScene.provenance import copy_all_to_storage

    copy_all_to_storage(caller)


def registerSubjectHierarchyPlugin():
    """Add "Enhance slices" to the context menu of volumes."""
    # Its import makes the base class of scripted plugins importable, which the plugin's own file needs.
    import SubjectHierarchyPlugins  # noqa: F401

    path = MODULE_FOLDER / "SubjectHierarchyPlugins" / "XViewSynthSubjectHierarchyPlugin.py"
    plugin = slicer.qSlicerSubjectHierarchyScriptedPlugin(None)
    plugin.setPythonSource(str(path))
