"""Choices of the panels, with their labels. Scenes store the names of the members."""

import enum

from slicer.i18n import tr as _


class Goal(enum.Enum):
    """How many slices to make."""

    AUTOMATIC = "automatic"
    FACTOR = "factor"
    SPACING = "spacing"
    ISOTROPIC = "isotropic"

    def label(self):
        """Label in the panel."""
        return {
            Goal.AUTOMATIC: _("Down to 1.25 mm or less"),
            Goal.FACTOR: _("By a factor"),
            Goal.SPACING: _("To a spacing"),
            Goal.ISOTROPIC: _("As fine as the pixels (isotropic)"),
        }[self]


class Device(enum.Enum):
    """Where to compute; the values are those of the engine."""

    AUTOMATIC = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    def label(self):
        """Label in the panel."""
        return {
            Device.AUTOMATIC: _("Automatic (a GPU if there is one)"),
            Device.CPU: _("Processor (CPU)"),
            Device.CUDA: _("NVIDIA GPU (CUDA)"),
            Device.MPS: _("Apple GPU (MPS)"),
        }[self]
