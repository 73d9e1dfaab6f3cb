"""Scans for the tests: made up, small, and with enough structure that a mistake in their geometry shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from XViewSynthLib import Volume

SPACING = (0.8, 0.8, 4.0)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def anatomy(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """(K, J, I) int16 HU: a body in air with a lung, a bone and soft waves, no two regions alike."""
    k, j, i = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.full(shape, -1000.0)
    hu[(j / 0.85) ** 2 + (i / 0.9) ** 2 < 1] = 40.0
    hu[((j - 0.1) / 0.4) ** 2 + ((i + 0.4) / 0.3) ** 2 + (k / 1.5) ** 2 < 1] = -800.0
    hu[(j - 0.5 - 0.1 * k) ** 2 + (i - 0.2 * k) ** 2 < 0.03] = 700.0
    hu += 30 * np.sin(5 * i + 3 * k) * np.cos(4 * j - 2 * k)
    hu += np.random.default_rng(seed).normal(0, 8, shape)
    return np.round(hu).clip(-1024, 3071).astype(np.int16)


def affine_from(
    spacing: Sequence[float] = SPACING,
    directions: np.ndarray | None = None,
    origin: Sequence[float] = (-12.5, 7.25, 90),
) -> np.ndarray:
    """(4, 4) IJK -> RAS affine in mm; directions are unit columns, RAS itself unless given."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if directions is None else directions) * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


def layouts(volume: Volume) -> Iterator[Volume]:
    """The 48 ways to store one scan: its array axes in any order, each in either direction."""
    for order, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        yield stored_as(volume, order, flips)


def stored_as(volume: Volume, order: Sequence[int], flips: Sequence[bool]) -> Volume:
    """The same scan with (I, J, K) axes taken in `order` and reversed where `flips` says so."""
    array = volume.voxels.transpose(2, 1, 0).transpose(order)
    to_volume = np.zeros((4, 4))
    to_volume[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_volume[old, new] = -1 if flip else 1
        to_volume[old, 3] = volume.shape_ijk[old] - 1 if flip else 0
    array = array[tuple(slice(None, None, -1) if flip else slice(None) for flip in flips)]
    return Volume(array.transpose(2, 1, 0), volume.affine @ to_volume, volume.slice_thickness)


@st.composite
def directions(draw: st.DrawFn) -> np.ndarray:
    """(3, 3) unit columns of a patient turned any way, right-handed or left-handed."""
    angles = [draw(st.floats(-np.pi, np.pi, allow_nan=False)) for _ in range(3)]
    turned = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (n for n in range(3) if n != axis)
        step = np.eye(3)
        step[[first, second], [first, second]] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turned = turned @ step
    return turned * [1, 1, draw(st.sampled_from([1, -1]))]


def shearing(degrees: float) -> np.ndarray:
    """(3, 3) directions whose third column leans towards the second, as under a tilted gantry."""
    leaning = np.eye(3)
    leaning[:, 2] = [0, np.sin(np.radians(degrees)), np.cos(np.radians(degrees))]
    return leaning


def write_dicom_series(
    folder: Path,
    volume: Volume,
    *,
    names: Sequence[str] | None = None,
    keep: Sequence[int] | None = None,
    series: str = "1.2.826.0.1.3680043.8.498.1",
    signed: bool = True,
    slope: float | Sequence[float] = 1,
    intercept: float = 0,
    thickness: float | str | None = 4.0,
    **tags: object,
) -> list[Path]:
    """A DICOM file for each slice along K of a scan in HU, and the paths in the order of the slices.

    Args:
        folder: made where missing.
        volume: its affine gives positions, orientation and pixel spacing, shear included.
        names: file names of the kept slices; "IM0000.dcm" and so on unless given.
        keep: indices of the slices to write; all unless given.
        series: series instance UID.
        signed: whether pixels are stored as int16 or uint16.
        slope: one for all slices, or one for each.
        intercept: HU of a stored 0.
        thickness: SliceThickness in mm, or None to leave the tag out.
        **tags: further tags for every file; None removes the tag.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = range(volume.slices("K")) if keep is None else keep
    slopes = slope if isinstance(slope, Sequence) else [slope] * volume.slices("K")
    paths = [folder / (names[n] if names else f"IM{n:04d}.dcm") for n in range(len(kept))]
    for path, k in zip(paths, kept, strict=True):
        stored = np.round((volume.voxels[k] - intercept) / slopes[k]).astype(np.int16 if signed else np.uint16)
        header = _dicom_geometry(volume, k)
        header.update(
            SeriesInstanceUID=series,
            SOPInstanceUID=f"{series}.{k + 1}",
            RescaleSlope=slopes[k],
            RescaleIntercept=intercept,
            SliceThickness=thickness,
        )
        write_dicom(path, stored, **{**header, **tags})
    return paths


def write_dicom(path: Path, pixels: np.ndarray | None, **tags: object) -> None:
    """One DICOM file; (rows, columns) or (rows, columns, 3) pixels, or None for an object without an image."""
    import pydicom
    from pydicom.uid import CTImageStorage, EnhancedSRStorage, ExplicitVRLittleEndian

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    kind = EnhancedSRStorage if pixels is None else CTImageStorage
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = str(tags.get("SOPInstanceUID", "1.2.3"))
    file = pydicom.Dataset()
    file.file_meta = meta
    file.SOPClassUID = kind
    file.Modality = "SR" if pixels is None else "CT"
    if pixels is not None:
        bits = pixels.dtype.itemsize * 8
        file.Rows, file.Columns = pixels.shape[:2]
        file.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        file.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        file.BitsAllocated = file.BitsStored = bits
        file.HighBit = bits - 1
        file.PixelRepresentation = int(pixels.dtype.kind == "i")
        if pixels.ndim == 3:
            file.PlanarConfiguration = 0
        file.PixelData = pixels.tobytes()
    for name, value in tags.items():
        if value is not None:
            setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)


def _dicom_geometry(volume: Volume, k: int) -> dict[str, object]:
    lps = _LPS_TO_RAS @ volume.affine
    i_step, j_step = lps[:3, 0], lps[:3, 1]
    spacing_i, spacing_j, _ = volume.spacing
    position = lps @ [0, 0, k, 1]
    return {
        "ImagePositionPatient": [f"{x:.9g}" for x in position[:3]],
        "ImageOrientationPatient": [f"{x:.9f}" for x in [*(i_step / spacing_i), *(j_step / spacing_j)]],
        "PixelSpacing": [spacing_j, spacing_i],
    }
