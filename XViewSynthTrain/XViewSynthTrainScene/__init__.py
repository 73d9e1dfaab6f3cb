"""XViewSynthTrainScene: training runs in Slicer's scene, without Qt.

Runs in Slicer and on slicer-core. Nothing here imports torch, and only threads import SimpleITK. Of the training
library, only modules without PyTorch are imported.
"""
