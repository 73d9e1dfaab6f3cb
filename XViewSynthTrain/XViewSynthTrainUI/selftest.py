"""The test case of the module XViewSynthTrain, which Slicer's test runner finds."""

from pathlib import Path

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from .logic import XViewSynthTrainLogic
from .requirements import REQUIREMENTS


class XViewSynthTrainTest(ScriptedLoadableModuleTest):
    """What can be tested wherever the module is installed. Without PyTorch, what needs it says so and passes."""

    def setUp(self):
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def test_aShortRunLeavesAModel(self):
        """Two steps on a small scan, from scratch with a small network, are a whole run."""
        import tempfile

        from XViewSynthScene.packages import missing_packages

        missing = missing_packages(REQUIREMENTS)
        if missing:
            self.delayDisplay(f"Not tested, since these are missing: {', '.join(missing)}")
            return
        self.delayDisplay("Training for two steps")
        network = {"channels": 4, "axial_blocks": 1, "pixel_blocks": 1}
        with tempfile.TemporaryDirectory() as folder:
            report = XViewSynthTrainLogic().train(
                [self._makeScan()],
                Path(folder) / "run",
                start=None,
                steps=2,
                factors=(2,),
                device="cpu",
                further={"network": network, "slices": 5, "pixels": 16},
            )
            assert report["steps"] == 2
            assert (Path(folder) / "run" / "model" / "model.safetensors").is_file()

    def test_labelmapsAreRefused(self):
        """What is no CT is refused with a sentence, and no folder is made."""
        import tempfile

        labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Labels")
        refusal = "none"
        with tempfile.TemporaryDirectory() as folder:
            try:
                XViewSynthTrainLogic().startTraining([labelmap], Path(folder) / "run")
            except ValueError as problem:
                refusal = str(problem)
            assert not (Path(folder) / "run").exists()
        assert "labelmap" in refusal

    def _makeScan(self):
        """A body with a bone in noise: (25, 48, 48) voxels of 0.8 x 0.8 x 2 mm, HU."""
        import numpy as np

        k, j, i = np.meshgrid(*(np.linspace(-1, 1, count) for count in (25, 48, 48)), indexing="ij")
        hu = np.where(i**2 + j**2 < 0.8, 40.0, -1000.0)
        hu[(i - 0.2 * k) ** 2 + j**2 < 0.05] = 700.0
        hu += np.random.default_rng(0).normal(0, 8, hu.shape)
        node = slicer.util.addVolumeFromArray(hu.round().astype(np.int16), name="Scan")
        node.SetSpacing(0.8, 0.8, 2.0)
        return node
