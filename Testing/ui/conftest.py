"""Fixtures for tests of the panels; a test file may override one."""

from __future__ import annotations

import shutil
import sys

import pytest


@pytest.fixture
def models(tmp_path, tiny_model, monkeypatch):
    """The user's models: one, "small", which takes no time."""
    folder = tmp_path / "models"
    shutil.copytree(tiny_model, folder / "small")
    monkeypatch.setenv("XVIEWSYNTH_MODELS", str(folder))
    return folder


@pytest.fixture
def slicer_desk(tmp_path, models):
    """The stand-in desktop with the module XViewSynth."""
    from desk import desk

    with desk(tmp_path / "slicer") as opened:
        yield opened


@pytest.fixture
def pair(slicer_desk, scan):
    """A scan with its enhanced volume and its uncertainty map, as an enhancement leaves them."""
    import slicer

    from scene_pairs import make_pair
    from XViewSynthScene.provenance import INPUT_REFERENCE

    made = make_pair(slicer.mrmlScene, scan)
    made.enhanced.SetNodeReferenceID(INPUT_REFERENCE, made.original.GetID())
    return made


@pytest.fixture
def libraries():
    """Modules of ours before the test; later tests go on with them, not with those of a reloaded module."""

    def loaded():
        return {name: module for name, module in sys.modules.items() if name.startswith("XViewSynth")}

    before = loaded()
    yield before
    for name in loaded():
        del sys.modules[name]
    sys.modules.update(before)
