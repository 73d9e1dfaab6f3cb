"""The Python packages that training needs."""

from __future__ import annotations

from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "Resources" / "requirements-training.txt"
TRAIN_BUTTON = "Fine-tune"


def requirePackages() -> None:
    """Raise if a package is missing; for scripts, without a question to the user.

    Raises:
        ValueError: a package is missing.
    """
    from XViewSynthScene.packages import require_packages

    require_packages(REQUIREMENTS, TRAIN_BUTTON)


def installPackages() -> None:
    """Install missing packages after the user has agreed.

    Raises:
        ValueError: the installation failed, or the user declined.
    """
    from XViewSynthScene.packages import install_packages

    install_packages(REQUIREMENTS, "XViewSynthTrain")
