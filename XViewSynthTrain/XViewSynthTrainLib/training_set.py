"""Scans and start of a run, as they are read, and as its folder stores them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.checks import check_enhanceable, geometry_notes
from XViewSynthLib.geometry.intensity import in_hu
from XViewSynthLib.geometry.volume import Volume
from XViewSynthLib.io.reading import read_volume
from XViewSynthLib.model.catalogue import check_name
from XViewSynthLib.progress import Monitor

from .files import SCANS_FILE
from .regions import split_slices
from .stored_json import is_number, read_object, reason
from .whole import write_whole_text

HOLD_OUT_SHARE = 0.25


@dataclass(frozen=True)
class TrainingSet:
    """Scans and start of a run. Stored in its folder, so that it can be resumed.

    Attributes:
        training: files or DICOM folders.
        held_out: files or DICOM folders kept from training.
        hold_out_share: if `held_out` is empty, the share to hold out: of several scans the last ones,
            of a single scan its upper slices. 0 for none: then there is no evaluation.
        start: name or folder of the model to start from, "auto" for the shipped one, or None. A model for the other
            acquisition gives its backbone, and its heads are trained from scratch.
        name: of the new model.
        minutes: length of the run, if that is what was requested.
    """

    training: Sequence[str | Path]
    held_out: Sequence[str | Path] = ()
    hold_out_share: float = HOLD_OUT_SHARE
    start: str | None = None
    name: str = "trained"
    minutes: float | None = None

    def __post_init__(self) -> None:
        if not self.training:
            raise InputError("Name at least one scan to train on.")
        if not 0 <= self.hold_out_share < 1:
            raise InputError(f"Hold out a share from 0 to below 1 of the scans or slices, not {self.hold_out_share}.")
        check_name(self.name)

    def read(self, monitor: Monitor) -> tuple[list, list]:
        """Read the scans.

        Returns:
            Volumes to train on, and held-out volumes.

        Raises:
            InputError: a scan cannot be read, or cannot be used: a labelmap, one value everywhere, too few slices.
        """
        paths = [*self.training, *self.held_out]
        volumes = []
        for done, path in enumerate(paths):
            monitor.check()
            monitor.step("reading", done, len(paths))
            volumes.append(read_training_scan(path))
        count = len(self.training)
        if self.held_out or not self.hold_out_share:
            return volumes[:count], volumes[count:]
        if count > 1:
            kept = min(count - 1, math.ceil(count * self.hold_out_share))
            return volumes[:-kept], volumes[-kept:]
        lower, upper = split_slices(volumes[0], volumes[0].through_plane_axis, self.hold_out_share)
        return [lower], [upper]


def read_training_scan(path: Path | str) -> Volume:
    """A scan to train on, in HU; its notes name neither it nor its patient.

    Raises:
        InputError: it cannot be read, or not be trained on.
    """
    volume = read_volume(path)
    try:
        check_enhanceable(volume, forced=True)
    except InputError as problem:
        # The message must name the scan.
        raise InputError(f"{path} cannot be trained on: {problem}") from problem
    return in_hu(replace(volume, notes=geometry_notes(volume)))


def store_training_set(training_set: TrainingSet, folder: Path) -> None:
    write_whole_text(folder / SCANS_FILE, json.dumps(vars(training_set), indent=2) + "\n")


def stored_training_set(folder: Path) -> TrainingSet:
    try:
        stored = read_object(folder / SCANS_FILE)
        for name in ("training", "held_out"):
            paths = stored.get(name)
            if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
                raise ValueError(f'"{name}" is no list of paths')
            stored[name] = tuple(paths)
        numbers = [stored.get("hold_out_share"), stored.get("minutes") or 0]
        if not isinstance(stored.get("start"), (str, type(None))) or not all(map(is_number, numbers)):
            raise ValueError("its values are of the wrong kind")
        return TrainingSet(**stored)
    except FileNotFoundError:
        raise InputError(f"Start without --resume: there is no run in {folder}.") from None
    except (OSError, ValueError, TypeError) as problem:
        raise InputError(
            f"Start anew in another folder: {folder / SCANS_FILE} does not name the scans of a run ({reason(problem)})."
        ) from problem
