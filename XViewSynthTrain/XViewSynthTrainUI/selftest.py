"""The test case of the module XViewSynthTrain for Slicer's test runner."""

from pathlib import Path

import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from .logic import XViewSynthTrainLogic
from .requirements import REQUIREMENTS


class XViewSynthTrainTest(ScriptedLoadableModuleTest):
    """Tests that run in every installation. Without PyTorch, tests that need it show a message and pass."""

    def setUp(self):
        """Clear the scene."""
        slicer.mrmlScene.Clear()

    def test_aShortRunLeavesAModel(self):
        """A run of two steps on a small scan with a small network writes a report and a model."""
        import tempfile

        from XViewSynthScene.packages import missing_packages

        missing = missing_packages(REQUIREMENTS)
        if missing:
            self.delayDisplay(f"Not tested, because packages are missing: {', '.join(missing)}")
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
        """A labelmap is refused with a sentence, and no folder is created."""
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
