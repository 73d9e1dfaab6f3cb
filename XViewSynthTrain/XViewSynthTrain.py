"""The Slicer module "XViewSynthTrain": its title and help text, and its set-up at the start of Slicer.

Slicer looks up its classes in this file by name. They are defined in the package XViewSynthTrainUI.
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
    """Title, category and help text of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("XViewSynth Train")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = ["XViewSynth"]
        self.parent.contributors = ["The XViewSynth authors"]
        self.parent.helpText = _(
            "Fine-tunes a model of XViewSynth on your own CT scans, without ground truth. Scans stay on this "
            "computer. Choose loaded volumes or a folder, press <b>Fine-tune</b>, and follow the held-out gain. "
            "A stopped or interrupted run can be resumed. <b>Use this model</b> adds the result to the list of "
            "XViewSynth. Synthetic slices are predictions: not for diagnosis."
        )
        self.parent.acknowledgementText = _(
            "An independent implementation of Fang, Wang, Zhang, Xu, Yuan and Han: Incremental Cross-view Mutual "
            "Distillation for Self-supervised Medical CT Synthesis, CVPR 2022 (arXiv 2112.10325)."
        )
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted():
    """Register the layout of a run. Slicer calls this after it has loaded all modules."""
    layoutManager = slicer.app.layoutManager()
    if layoutManager:
        from XViewSynthTrainScene.layout import register_layout

        register_layout(layoutManager.layoutLogic().GetLayoutNode())
