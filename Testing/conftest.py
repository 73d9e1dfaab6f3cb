"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from scans import affine_from, anatomy
from XViewSynthLib import Volume

# A busy machine is no fault of the code, so no example has to be done in a given time.
settings.register_profile("here", deadline=None, max_examples=30)
settings.load_profile("here")


@pytest.fixture(scope="session")
def scan() -> Volume:
    """A small thick-slice CT: int16 HU, (K, J, I) = (17, 40, 36), 0.8 x 0.8 x 4 mm, 4 mm thick slices."""
    return Volume(anatomy((17, 40, 36)), affine_from(), slice_thickness=4.0)


@pytest.fixture(scope="session")
def thin_scan() -> Volume:
    """A small thin-slice CT, the truth behind a thick one: int16 HU, (33, 40, 36), 0.8 x 0.8 x 1 mm."""
    return Volume(anatomy((33, 40, 36)), affine_from((0.8, 0.8, 1.0)), slice_thickness=1.0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model with random weights, small enough to enhance a small scan in no time."""
    from tiny import make_card, make_network
    from XViewSynthLib.model.catalogue import save_model

    return save_model(tmp_path_factory.mktemp("models") / "small", make_network(), make_card()).folder


@pytest.fixture
def scene():
    """An empty MRML scene, which is Slicer's own while the test runs."""
    from scene import mrml_scene

    with mrml_scene() as scene:
        yield scene
