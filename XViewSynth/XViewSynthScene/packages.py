"""The Python packages that the engine needs in Slicer: what is missing, and how to get it.

PyTorch is installed by Slicer's PyTorch extension alone, which knows the build that fits the computer. The rest is in
Resources/requirements.txt and comes through `slicer.packaging`, or before Slicer 5.12, through `slicer.util`.
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
    """What is needed beside PyTorch, each as "name>=version"; `file` is the list of the module that asks."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def missing_packages(file: Path = REQUIREMENTS) -> list[str]:
    """Requirements that are not met, PyTorch first."""
    return [line for line in (TORCH, *requirements(file)) if not _is_met(line)]


def require_packages(file: Path = REQUIREMENTS, button: str = "Enhance slices") -> None:
    """Make sure that all is there, without asking anybody; for scripts.

    Args:
        file: the requirements.
        button: what installs them, for the sentence that says so.

    Raises:
        InputError: something is missing.
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
    """Install what is missing, after asking the user.

    Args:
        file: the requirements.
        requester: the module that asks.

    Raises:
        InputError: that is not possible, or the user does not want it.
    """
    if not _is_met(TORCH):
        _install_torch()
    missing = [line for line in requirements(file) if not _is_met(line)]
    if missing:
        try:
            _install(missing, requester)
        # The user's no, no network, no space: pip_ensure and pip_install have no common error for them.
        except Exception as problem:
            raise InputError(
                f"The Python packages {', '.join(missing)} were not installed ({problem}): try again once that has "
                "changed."
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
    except Exception as problem:  # whatever pip and the extension come across
        raise InputError(f"PyTorch could not be installed ({problem}): try it in the module PyTorch.") from problem
    if torch is None:
        raise InputError("PyTorch was not installed, and nothing can be computed without it: try again to install it.")


def _install(missing: list[str], requester: str) -> None:
    try:
        from slicer.packaging import pip_ensure
    except ImportError:  # Slicer 5.10
        if not slicer.util.confirmOkCancelDisplay(
            f"{requester} needs Python packages ({', '.join(missing)}). Install them now?"
        ):
            raise InputError("the question was answered with no") from None
        slicer.util.pip_install(missing)
    else:
        pip_ensure(missing, requester=requester)


def _is_met(requirement: str) -> bool:
    name, least = requirement.split(">=")
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return _release(installed) >= _release(least)


def _release(version: str) -> list[int]:
    """The release of a version as numbers.

    >>> _release("2.4.1+cpu")
    [2, 4, 1]
    """
    return [int("".join(takewhile(str.isdigit, part)) or 0) for part in version.split("+")[0].split(".")]
