"""Other methods in a benchmark: registration, and results of other programs for the thinned scan.

`write_thinned` writes the input of another program, and `VolumeOfOthers` measures its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from ..geometry.acquisition import Acquisition
from ..geometry.volume import Volume
from ..io.reading import READABLE, read_volume, suffix_of
from ..io.writing import check_writable_name, write_volume
from ..system.names import portable_name
from ..system.outputs import Outputs
from ..system.staging import output_folder
from ..system.stop import LastStep, at_once
from . import metrics
from .selfcheck import Thinning, Trial, drop_slices, measure_restored

REGISTRATION = "registration"
#: Further methods of this program, measured if requested.
PEERS = (REGISTRATION,)

# Largest distance, as a share of a voxel. Errors of 32-bit headers and rounded spacings are far smaller.
_TOLERANCE_VOXELS = 0.1
# Largest mean difference in the observed slices. Methods change them less, another unit more.
_FAR_OFF_HU = 250.0


class Peer(Protocol):
    """A method that restores the slices of a trial."""

    @property
    def name(self) -> str:
        """Its name in tables."""

    def measure(self, scan: Path, trial: Trial, check: Callable[[], None]) -> tuple[dict[str, Any], Volume]:
        """Scores with seconds and peak memory, and the result for the thinned scan, on the grid of the truth."""


@dataclass(frozen=True)
class Registration:
    """Interpolation between registered neighbours, see `registration.upsample_by_registration`."""

    name: str = REGISTRATION

    def measure(self, scan: Path, trial: Trial, check: Callable[[], None]) -> tuple[dict[str, Any], Volume]:
        """Scores with seconds and peak memory, and the interpolation of the thinned scan."""
        from .registration import upsample_by_registration

        entry, _, restored = measure_restored(
            trial, lambda: upsample_by_registration(trial.observed, trial.factor, trial.axis, check), check
        )
        return entry, restored


@dataclass(frozen=True)
class VolumeOfOthers:
    """Results of another program for the thinned scans.

    Attributes:
        name: of the method, in tables.
        place: a file, or a folder with a file for each thinned scan, with its name apart from the ending.
    """

    name: str
    place: Path

    def file_of(self, scan: Path, factor: int, acquisition: Acquisition) -> Path:
        """The file for a scan thinned by a factor.

        Raises:
            InputError: the file is missing.
        """
        if not self.place.is_dir():
            if not self.place.is_file():
                raise InputError(f"{self.place} does not exist: name the volume that {self.name} has made.")
            return self.place
        name = thinned_name(scan, factor, acquisition)
        for suffix in READABLE:
            if (self.place / f"{name}{suffix}").is_file():
                return self.place / f"{name}{suffix}"
        raise InputError(
            f"{self.place} holds no file {name}.nrrd (or {', '.join(list(READABLE)[1:])}): let {self.name} restore "
            f"the output of xviewsynth thin for {scan}, under the same name."
        )

    def measure(self, scan: Path, trial: Trial, check: Callable[[], None]) -> tuple[dict[str, Any], Volume]:
        """Scores, without seconds and memory, and the volume of the other program.

        Raises:
            InputError: the file is missing, lies on another grid than the scan, or is not in HU.
        """
        file = self.file_of(scan, trial.factor, trial.acquisition)
        entry, _, restored = measure_restored(trial, lambda: read_restored(file, trial), check)
        return {**entry, "seconds": None, "peak_memory_bytes": None}, restored


def make_peers(
    names: Sequence[str],
    volumes: Mapping[str, Path],
    scans: Sequence[Path],
    factors: Sequence[int],
    acquisition: Acquisition,
    taken: Iterable[str] = (),
) -> list[Peer]:
    """The methods to measure, in the requested order.

    Args:
        names: some of `PEERS`.
        volumes: for each other program a file, or a folder with a file for each scan and factor.
        scans, factors, acquisition: of the benchmark.
        taken: names of other methods in the tables.

    Raises:
        InputError: an unknown or taken name, a file that is missing, or one file for several scans or factors.
    """
    for name in names:
        if name not in PEERS:
            raise InputError(f"There is no peer {name!r}: choose {', '.join(PEERS)}.")
    for name in volumes:
        if name in (*PEERS, *taken):
            raise InputError(f"Another method is named {name!r} in the tables: give the volume another name.")
    others = [VolumeOfOthers(name, Path(place)) for name, place in volumes.items()]
    for peer in others:
        files = [peer.file_of(scan, factor, acquisition) for scan in scans for factor in factors]
        if len(files) > 1 and not peer.place.is_dir():
            raise InputError(
                f"{peer.place} is one volume for {len(files)} thinned scans: name one scan and one factor, or a folder "
                "with a volume for each."
            )
    return [*(Registration() for _ in dict.fromkeys(names)), *others]


def thinned_name(scan: Path, factor: int, acquisition: Acquisition = "gap") -> str:
    """File name of a scan thinned by a factor, without an ending.

    >>> thinned_name(Path("study/chest.nii.gz"), 4), thinned_name(Path("series"), 5, "thick")
    ('chest.x4', 'series.x5.thick')
    """
    name, suffix = scan.absolute().name, suffix_of(scan)
    name = name[: -len(suffix)] if suffix in READABLE else name
    return portable_name(name, f".x{factor}" + ("" if acquisition == "gap" else f".{acquisition}"))


def write_thinned(
    scans: Sequence[Path],
    thinning: Thinning,
    folder: Path,
    *,
    suffix: str = ".nrrd",
    overwrite: bool = False,
    check: Callable[[], None] = lambda: None,
    last_step: LastStep = at_once,
) -> list[Path]:
    """Write the input of all methods in a benchmark: every s-th slice of each scan, or averages at that distance.

    Args:
        scans: thin-slice scans, files or DICOM folders.
        thinning: factors, axis and acquisition.
        folder: made if missing; gets `thinned_name` of each scan and factor.
        suffix: of the files, one of `writing.WRITABLE`.
        overwrite: whether files may be replaced.
        check: called between scans; an exception of it ends the work, and nothing is written.
        last_step: gives all files their names; see `StopRequest.last_step`.

    Returns:
        The files, scan by scan.

    Raises:
        InputError: a scan cannot be thinned, two of them have one name, or the folder cannot be written to.
    """
    axis, acquisition = thinning.axis, thinning.acquisition
    names = [thinned_name(scan, factor, acquisition) for scan in scans for factor in thinning.factors]
    paths = [folder / f"{name}{suffix}" for name in names]
    for path in paths:
        check_writable_name(path)
        if paths.count(path) > 1:
            raise InputError(f"Two scans or factors lead to {path}: thin them into folders of their own.")
    with output_folder(folder), Outputs(overwrite, inputs=scans) as outputs:
        staged = iter([outputs.add(path) for path in paths])
        for scan in scans:
            volume = read_volume(scan)
            for factor in thinning.factors:
                check()
                try:
                    observed = drop_slices(volume, factor, axis, acquisition).observed
                except InputError as error:
                    raise InputError(f"{scan.absolute().name}: {error}") from error
                write_volume(observed, next(staged))
        last_step(outputs.commit)
    return paths


def read_restored(path: Path, trial: Trial) -> Volume:
    """The result of another program for a thinned scan, on the grid of the truth.

    Its axes may be stored in any order and direction.

    Raises:
        InputError: not readable, another grid than the truth's, or not HU.
    """
    found, truth = read_volume(path), trial.reference.volume
    restored = _in_the_order_of(found, truth)
    if restored is None:
        raise InputError(f"{path} is turned against the scan: write it with the directions of the thinned scan.")
    if restored.shape_ijk != truth.shape_ijk:
        held, expected = (" x ".join(map(str, volume.shape_ijk)) for volume in (restored, truth))
        raise InputError(
            f"{path} has {held} voxels where {expected} are expected: all pixels of the thinned scan, and "
            f"{trial.factor} x ({trial.observed.slices(trial.axis)} - 1) + 1 slices along {trial.axis}."
        )
    distance = _distance_mm(restored, truth)
    if distance > _TOLERANCE_VOXELS * min(truth.spacing):
        raise InputError(
            f"{path} lies up to {distance:.3g} mm beside the scan: write it with the origin and the directions of the "
            f"thinned scan, and slices {truth.spacing_along(trial.axis):.4g} mm apart."
        )
    if not np.isfinite(restored.voxels).all():
        raise InputError(f"{path} holds NaN or infinite numbers: write HU everywhere.")
    restored = truth.with_voxels(restored.voxels)
    _check_unit(path, restored, trial)
    return restored


def _check_unit(path: Path, restored: Volume, trial: Trial) -> None:
    reference = trial.reference
    given = reference.in_view.copy()
    given[np.arange(len(given)) % trial.factor != 0] = False
    off = metrics.mae_hu(reference.slices, metrics.candidate_slices(reference, restored), given)
    if off > _FAR_OFF_HU:
        raise InputError(
            f"{path} is {off:.0f} HU off on average where slices were given: write HU, each slice in its place."
        )


def _in_the_order_of(volume: Volume, truth: Volume) -> Volume | None:
    """The same voxels in the same places, stored as the truth is; None if its axes are not those of the truth."""
    cosines = truth.directions.T @ volume.directions
    columns = np.abs(cosines).argmax(axis=1)
    if sorted(columns) != [0, 1, 2]:
        return None
    backwards = cosines[range(3), columns] < 0
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, columns] * np.where(backwards, -1, 1)
    affine[:3, 3] = volume.ijk_to_ras(_last_of(volume, columns, backwards))
    # Arrays are (K, J, I): dimension d runs along column 2 - d.
    voxels = volume.voxels.transpose(2 - columns[::-1])
    voxels = voxels[tuple(slice(None, None, -1) if turned else slice(None) for turned in backwards[::-1])]
    return replace(volume, voxels=voxels, affine=affine, slice_axis=None)


def _last_of(volume: Volume, columns: np.ndarray, backwards: np.ndarray) -> np.ndarray:
    """(3,) voxel index (I, J, K) of the first voxel after some axes are flipped."""
    index = np.zeros(3)
    for column, turned in zip(columns, backwards, strict=True):
        index[column] = volume.shape_ijk[column] - 1 if turned else 0
    return index


def _distance_mm(volume: Volume, truth: Volume) -> float:
    """Largest distance between corresponding corners of two grids of the same shape, mm."""
    corners = np.stack(np.meshgrid(*([0, count - 1] for count in truth.shape_ijk)), axis=-1).reshape(-1, 3)
    return float(np.linalg.norm(volume.ijk_to_ras(corners) - truth.ijk_to_ras(corners), axis=1).max())
