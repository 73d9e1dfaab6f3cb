"""The smaller modules that a scripted module may import: translation, packages, sample data, the PyTorch extension."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from packaging.requirements import Requirement


def _module(name: str, **names: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(names)
    return module


def i18n_module() -> types.ModuleType:
    """`slicer.i18n`, in English."""
    return _module(
        "slicer.i18n",
        tr=lambda text: text,
        translate=lambda context, text: slicer.app.translate(context, text),
        getContext=lambda source: Path(source).stem,
    )


# Packages


def recorded_install(installed: list[str]) -> Callable:
    """A `pip_install` that notes what it was asked for and installs nothing."""

    def pip_install(requirements: str | list[str], **_options: Any) -> None:
        installed.extend(shlex.split(requirements) if isinstance(requirements, str) else requirements)

    return pip_install


def util_functions(installed: list[str]) -> dict[str, Callable]:
    """`slicer.util`'s functions for packages."""
    return {"pip_install": recorded_install(installed), "pip_uninstall": recorded_install([])}


def _satisfied(requirement: Requirement) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def packaging_module(installed: list[str], desktop: Any) -> types.ModuleType:
    """`slicer.packaging` of Slicer 5.12."""

    def load_requirements(path: str | Path) -> list[Requirement]:
        lines = [line.strip() for line in Path(path).read_text().splitlines()]
        return [Requirement(line) for line in lines if line and line[0] not in "#-"]

    def pip_check(requirements: Any) -> bool:
        several = requirements if isinstance(requirements, list) else [requirements]
        return all(_satisfied(item if isinstance(item, Requirement) else Requirement(item)) for item in several)

    def pip_ensure(
        requirements: Any,
        constraints: str | Path | None = None,
        skip_packages: list[str] | None = None,
        prompt_install: bool = True,
        prompt_restart: bool = True,
        requester: str | None = None,
        skip_in_testing: bool = True,
        show_progress: bool = True,
    ) -> None:
        several = requirements if isinstance(requirements, list) else [requirements]
        missing = [str(item) for item in several if not pip_check(item)]
        if not missing or (skip_in_testing and slicer.app.testingEnabled()):
            return
        question = f"{len(missing)} Python packages need to be installed. Continue?"
        title = f"{requester} - Install Python Packages" if requester else "Install Python Packages"
        listed = "\n".join(missing)
        if prompt_install and not slicer.util.confirmOkCancelDisplay(question, title, detailedText=listed):
            raise RuntimeError("User declined package installation")
        installed.extend(missing)

    return _module(
        "slicer.packaging",
        load_requirements=load_requirements,
        pip_check=pip_check,
        pip_ensure=pip_ensure,
        pip_install=recorded_install(installed),
        isPipInstallInProgress=lambda: False,
    )


# Sample data


class _SampleDataLogic:
    """Where modules register their sample data."""

    @staticmethod
    def registerCustomSampleDataSource(category: str = "Custom", **source: Any) -> None:
        allowed = {
            "sampleName",
            "uris",
            "fileNames",
            "nodeNames",
            "customDownloader",
            "thumbnailFileName",
            "loadFileTypes",
            "loadFiles",
            "loadFileProperties",
            "checksums",
            "loadFileType",
        }
        if unknown := set(source) - allowed:
            raise TypeError(f"registerCustomSampleDataSource got unexpected arguments: {', '.join(sorted(unknown))}")
        known = vars(slicer.modules).setdefault("sampleDataSources", {}).setdefault(category, [])
        names = [item.sampleName for item in known]
        if source.get("sampleName") not in names:
            known.append(types.SimpleNamespace(**{**dict.fromkeys(allowed), **source}))


def sample_data_module() -> types.ModuleType:
    """`SampleData`: what is registered lies in `slicer.modules.sampleDataSources`."""
    return _module("SampleData", SampleDataLogic=_SampleDataLogic)


# The PyTorch extension


def pytorch_module() -> types.ModuleType:
    """`PyTorchUtils`: torch counts as installed where this Python finds it."""

    class PyTorchUtilsLogic:
        """Installs torch, or says that it is there."""

        installations: list[dict[str, Any]] = []  # noqa: RUF012  meant to be shared

        @staticmethod
        def torchInstalled() -> bool:
            return importlib.util.find_spec("torch") is not None

        @property
        def torch(self) -> types.ModuleType:
            return importlib.import_module("torch")

        def installTorch(
            self,
            askConfirmation: bool = False,
            forceComputationBackend: str | None = None,
            torchVersionRequirement: str | None = None,
            torchvisionVersionRequirement: str | None = None,
        ) -> types.ModuleType | None:
            self.installations.append({"ask": askConfirmation, "version": torchVersionRequirement})
            return self.torch if self.torchInstalled() else None

    return _module("PyTorchUtils", PyTorchUtilsLogic=PyTorchUtilsLogic)
