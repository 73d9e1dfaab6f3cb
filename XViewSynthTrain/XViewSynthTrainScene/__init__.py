"""XViewSynthTrainScene: a training run as Slicer's scene sees it, without Qt.

Runs in Slicer and on slicer-core. Nothing here imports torch or the training library; SimpleITK only in threads.
"""
