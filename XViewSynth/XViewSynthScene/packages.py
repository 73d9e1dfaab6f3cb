"""Python packages that the engine needs in Slicer: find and install those that are missing.

Only Slicer's PyTorch extension installs PyTorch, because it selects the build for the computer. The other packages are
listed in Resources/requirements.txt and installed by `slicer.packaging`, before Slicer 5.12 by `slicer.util`.
"""

from __future__ import annotations

from importlib import metadata
from itertools import takewhile
from pathlib import Path

import slicer

from XViewSynthLib.errors import InputError

REQUIREMENTS = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"
TORCH = "torch>=2.4"

_NO_TORCH = (
    "PyTorch is missing: install the extension 'PyTorch' in the Extensions Manager, restart Slicer, and try again."
)


def requirements(file: Path = REQUIREMENTS) -> list[str]:
    """Requirements other than PyTorch, each as "name>=version", from the list `file` of a module."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def missing_packages(file: Path = REQUIREMENTS) -> list[str]:
    """Requirements that are not met, PyTorch first."""
    return [line for line in (TORCH, *requirements(file)) if not _is_met(line)]


def require_packages(file: Path = REQUIREMENTS, button: str = "Enhance slices") -> None:
    """Raise if a package is missing; for scripts, without a question to the user.

    Args:
        file: the requirements.
        button: label of the button that installs them, for the message.

    Raises:
        InputError: a package is missing.
    """
    missing = missing_packages(file)
    if TORCH in missing:
        raise InputError(_NO_TORCH)
    if missing:
        raise InputError(
            f"Python packages are missing ({', '.join(missing)}): click '{button}' in the module once, or run "
            f"slicer.util.pip_install({' '.join(missing)!r})."
        )


def install_packages(file: Path = REQUIREMENTS, requester: str = "XViewSynth") -> None:
    """Install missing packages after the user has agreed.

    Args:
        file: the requirements.
        requester: name of the module for the question.

    Raises:
        InputError: the installation failed, or the user declined.
    """
    if not _is_met(TORCH):
        _install_torch()
    missing = [line for line in requirements(file) if not _is_met(line)]
    if missing:
        try:
            _install(missing, requester)
        # pip_ensure and pip_install have no common error for a declined question, no network or a full disk.
        except Exception as problem:
            raise InputError(
                f"The Python packages {', '.join(missing)} were not installed ({problem}): remove the cause, then "
                "try again."
            ) from problem
    require_packages(file)


def _install_torch() -> None:
    try:
        import PyTorchUtils
    except ImportError:
        raise InputError(_NO_TORCH) from None
    try:
        torch = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=True, torchVersionRequirement=TORCH.removeprefix("torch")
        )
    except Exception as problem:  # pip and the extension raise errors of many types
        raise InputError(f"PyTorch could not be installed ({problem}): try it in the module PyTorch.") from problem
    if torch is None:
        raise InputError("PyTorch was not installed, and XViewSynth needs it: try again and agree to install it.")


def _install(missing: list[str], requester: str) -> None:
    try:
        from slicer.packaging import pip_ensure
    except ImportError:  # Slicer 5.10
        if not slicer.util.confirmOkCancelDisplay(
            f"{requester} needs Python packages ({', '.join(missing)}). Install them now?"
        ):
            raise InputError("the installation was declined") from None
        slicer.util.pip_install(missing)
    else:
        pip_ensure(missing, requester=requester)


def _is_met(requirement: str) -> bool:
    name, minimum = requirement.split(">=")
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return _release(installed) >= _release(minimum)


def _release(version: str) -> list[int]:
    """The release numbers of a version.

    >>> _release("2.4.1+cpu")
    [2, 4, 1]
    """
    return [int("".join(takewhile(str.isdigit, part)) or 0) for part in version.split("+")[0].split(".")]
