"""The test case of the module XViewSynth for Slicer's test runner."""

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from .logic import XViewSynthLogic


class XViewSynthTest(ScriptedLoadableModuleTest):
    """Tests that run in every installation. Without PyTorch, tests that need it show a message and pass."""

    def setUp(self):
        """Clear the scene."""
        slicer.mrmlScene.Clear()

    def test_observedSlicesStay(self):
        """A small thick scan gets new slices; its observed slices do not change."""
        import numpy as np

        from XViewSynthScene.packages import missing_packages

        if missing_packages():
            self.delayDisplay(f"Not tested, because packages are missing: {', '.join(missing_packages())}")
            return
        self.delayDisplay("Enhancing a small scan")
        node = self._makeScan()
        enhanced = XViewSynthLogic().enhance(node, factor=2, device="cpu")
        before, after = slicer.util.arrayFromVolume(node), slicer.util.arrayFromVolume(enhanced)
        assert after.shape == (2 * before.shape[0] - 1, *before.shape[1:])
        assert np.array_equal(after[::2], before)
        assert enhanced.GetSpacing()[2] == node.GetSpacing()[2] / 2
        assert enhanced.GetAttribute("XViewSynth.Factor") == "2"

    def test_labelmapsAreRefused(self):
        """A labelmap is refused with a sentence, and no node is created."""
        logic = XViewSynthLogic()
        labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
        request = logic.requestOf(logic.getParameterNode())
        nodes = slicer.mrmlScene.GetNumberOfNodes()
        refusal = "none"
        try:
            logic.startEnhancement(labelmap, request)
        except ValueError as problem:
            refusal = str(problem)
        assert "labelmap" in refusal
        assert slicer.mrmlScene.GetNumberOfNodes() == nodes

    def test_outlookNeedsNoComputation(self):
        """The size of the result is known before any computation."""
        logic = XViewSynthLogic()
        outlook = logic.lookAhead(self._makeScan(), logic.requestOf(logic.getParameterNode()))
        assert (outlook.grid.factor, outlook.grid.slices, outlook.grid.slice_spacing) == (4, 33, 1.25)

    def _makeScan(self):
        """A body with a bone in noise: (9, 40, 36) voxels of 0.8 x 0.8 x 5 mm, HU."""
        import numpy as np

        k, j, i = np.meshgrid(*(np.linspace(-1, 1, count) for count in (9, 40, 36)), indexing="ij")
        hu = np.where(i**2 + j**2 < 0.8, 40.0, -1000.0)
        hu[(i - 0.2 * k) ** 2 + j**2 < 0.05] = 700.0
        hu += np.random.default_rng(0).normal(0, 8, hu.shape)
        node = slicer.util.addVolumeFromArray(hu.round().astype(np.int16), name="Scan")
        node.SetSpacing(0.8, 0.8, 5.0)
        return node
