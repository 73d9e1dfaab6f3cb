"""XViewSynthTrainUI: panel, logic and parameter node of the Slicer module XViewSynthTrain.

Slicer imports this package at its start. To keep that quick, functions import the scene package and the libraries when
they need them, except for the small XViewSynthScene.desk. Nothing here imports torch.
"""
