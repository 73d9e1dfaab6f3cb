"""XViewSynthTrainUI: panel, logic and parameter node of the Slicer module XViewSynthTrain.

Slicer imports this package when it starts. So scene and libraries are imported by the functions that need them, except
for XViewSynthScene.desk, which is small; and nothing here imports torch.
"""
