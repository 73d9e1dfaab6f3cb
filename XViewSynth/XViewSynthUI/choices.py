"""The choices that the panels offer, with the labels that they show. Scenes keep the names of the members."""

import enum

from slicer.i18n import tr as _


class Goal(enum.Enum):
    """How many slices to make."""

    AUTOMATIC = "automatic"
    FACTOR = "factor"
    SPACING = "spacing"
    ISOTROPIC = "isotropic"

    def label(self):
        """What the panel calls it."""
        return {
            Goal.AUTOMATIC: _("Down to 1.25 mm or less"),
            Goal.FACTOR: _("By a factor"),
            Goal.SPACING: _("To a spacing"),
            Goal.ISOTROPIC: _("As fine as the pixels (isotropic)"),
        }[self]


class Device(enum.Enum):
    """Where to compute; the values are the engine's words."""

    AUTOMATIC = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    def label(self):
        """What the panel calls it."""
        return {
            Device.AUTOMATIC: _("Automatic (a GPU if there is one)"),
            Device.CPU: _("Processor (CPU)"),
            Device.CUDA: _("NVIDIA GPU (CUDA)"),
            Device.MPS: _("Apple GPU (MPS)"),
        }[self]


class Acquisition(enum.Enum):
    """How the scanner made slices; the values are the engine's words."""

    AUTOMATIC = "auto"
    GAP = "gap"
    THICK = "thick"

    def label(self):
        """What the panel calls it."""
        return {
            Acquisition.AUTOMATIC: _("Automatic"),
            Acquisition.GAP: _("Thin slices far apart"),
            Acquisition.THICK: _("Averaged over thick slices"),
        }[self]


class Quality(enum.Enum):
    """How much work the result is worth; the values are the engine's words."""

    STANDARD = "standard"
    BEST = "best"

    def label(self):
        """What the panel calls it."""
        return {
            Quality.STANDARD: _("Standard"),
            Quality.BEST: _("Best (takes four to five times as long)"),
        }[self]


class Axis(enum.Enum):
    """Which axis gets more slices; the values are the engine's words."""

    AUTOMATIC = "auto"
    I = "I"  # noqa: E741
    J = "J"
    K = "K"

    def label(self):
        """What the panel calls it."""
        return _("Automatic (the axis of the slices)") if self is Axis.AUTOMATIC else self.value
