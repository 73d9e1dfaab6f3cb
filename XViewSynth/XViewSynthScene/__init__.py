"""XViewSynthScene: the engine's volumes in Slicer's scene, without Qt.

Runs in Slicer and on slicer-core. Nothing here imports torch or SimpleITK.
"""
