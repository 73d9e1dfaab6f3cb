"""XViewSynthTrainScene: a training run as Slicer's scene sees it, without Qt.

Runs in Slicer and on slicer-core. Nothing here imports torch, and of the training library only the names of its files;
SimpleITK is imported in threads alone.
"""
