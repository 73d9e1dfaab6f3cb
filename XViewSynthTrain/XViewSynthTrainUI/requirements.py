"""The Python packages that training needs."""

from __future__ import annotations

from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "Resources" / "requirements-training.txt"
TRAIN_BUTTON = "Fine-tune"


def requirePackages() -> None:
    """Make sure that all is there, without a question; for scripts.

    Raises:
        ValueError: something is missing.
    """
    from XViewSynthScene.packages import require_packages

    require_packages(REQUIREMENTS, TRAIN_BUTTON)


def installPackages() -> None:
    """Install what is missing, after asking the user.

    Raises:
        ValueError: that is not possible, or the user does not want it.
    """
    from XViewSynthScene.packages import install_packages

    install_packages(REQUIREMENTS, "XViewSynthTrain")
