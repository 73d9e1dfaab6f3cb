"""The Slicer module "XViewSynthTrain": what Slicer shows of it, and what it sets up once.

Slicer finds its classes in this file by their names. They are defined in the package XViewSynthTrainUI.
"""

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule

from XViewSynthTrainUI.logic import XViewSynthTrainLogic
from XViewSynthTrainUI.parameters import XViewSynthTrainParameterNode
from XViewSynthTrainUI.selftest import XViewSynthTrainTest
from XViewSynthTrainUI.widget import XViewSynthTrainWidget

__all__ = [
    "XViewSynthTrain",
    "XViewSynthTrainLogic",
    "XViewSynthTrainParameterNode",
    "XViewSynthTrainTest",
    "XViewSynthTrainWidget",
]


class XViewSynthTrain(ScriptedLoadableModule):
    """What Slicer shows of the module, and what is set up once."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("XViewSynth Train")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = ["XViewSynth"]
        self.parent.contributors = ["The XViewSynth authors"]
        self.parent.helpText = _(
            "Fine-tunes a model of XViewSynth on your own CT scans, without ground truth and without leaving this "
            "computer. Choose loaded volumes or a folder, press <b>Fine-tune</b>, and watch on scans that are held out "
            "whether the model becomes better. A run that is stopped, or interrupted, can be resumed. <b>Use this "
            "model</b> puts the result into XViewSynth's list. Synthetic slices are predictions: not for diagnosis."
        )
        self.parent.acknowledgementText = _(
            "An independent implementation of Fang, Wang, Zhang, Xu, Yuan and Han: Incremental Cross-view Mutual "
            "Distillation for Self-supervised Medical CT Synthesis, CVPR 2022 (arXiv 2112.10325)."
        )
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted():
    """Called once all modules are there: get ready for scenes that were saved with the layout of a run."""
    layoutManager = slicer.app.layoutManager()
    if layoutManager:
        from XViewSynthTrainScene.layout import register_layout

        register_layout(layoutManager.layoutLogic().GetLayoutNode())
