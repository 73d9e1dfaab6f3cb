"""XViewSynthUI: panel, logic and parameter node of the Slicer module XViewSynth, and what both modules' panels share.

Slicer imports this package when it starts. So scene and engine are imported by the functions that need them, except for
XViewSynthScene.desk, which is small; and nothing here imports torch.
"""
