"""XViewSynthUI: panel, logic and parameter node of the Slicer module XViewSynth, and parts shared by both panels.

Slicer imports this package at its start. To keep that quick, functions import the scene package and the engine when
they need them, except for the small XViewSynthScene.desk. Nothing here imports torch.
"""
