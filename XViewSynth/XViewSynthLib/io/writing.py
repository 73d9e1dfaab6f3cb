"""Writes volumes as NRRD, NIfTI, MHA or MHD, by the name's ending."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..geometry.volume import Volume
from ..system.outputs import Outputs
from .encode import write_metaimage, write_nifti, write_nrrd
from .reading import suffix_of

# Sizes in a NIfTI header are 16-bit numbers.
_MOST_NIFTI_VOXELS = 32767

WRITABLE = {
    ".nrrd": write_nrrd,
    ".nii": write_nifti,
    ".nii.gz": write_nifti,
    ".mha": write_metaimage,
    ".mhd": write_metaimage,
}


def check_writable_name(path: str | Path) -> None:
    """Refuse a name without the ending of a writable format, before any work is done.

    Raises:
        InputError: the name does not end in .nrrd, .nii, .nii.gz, .mha or .mhd.
    """
    if suffix_of(Path(path)) not in WRITABLE:
        raise InputError(f"{path} has no ending that can be written: choose one of {', '.join(WRITABLE)}.")


def write_volume(volume: Volume, path: str | Path, overwrite: bool = False) -> None:
    """Write a volume; the file appears whole or not at all.

    The scalar type is kept, except that half-precision floats become float32. NRRD, MHA and MHD keep positions to
    1e-6 mm, and the slice thickness. NIfTI, with 32-bit floats for positions, loses up to 1e-4 mm, and the thickness.
    All keep the slice axis and the mark of synthetic slices.

    Args:
        volume: the volume.
        path: a name that ends in .nrrd, .nii, .nii.gz, .mha or .mhd (which puts a .raw file beside it).
        overwrite: whether an existing file may be replaced.

    Raises:
        InputError: another ending, an existing file, a place that is not writable or is full, or a sheared grid, which
            these formats do not store.
    """
    path = Path(path)
    check_writable_name(path)
    if volume.shear_degrees:
        raise InputError(f"{path} cannot hold a grid sheared by {volume.shear_degrees:.1f} degrees: resample it first.")
    if suffix_of(path).startswith(".nii") and max(volume.shape_ijk) > _MOST_NIFTI_VOXELS:
        raise InputError(f"{path} cannot hold more than {_MOST_NIFTI_VOXELS} voxels along an axis: write NRRD.")
    with Outputs(overwrite=overwrite) as outputs:
        staged = outputs.add(path)
        try:
            WRITABLE[suffix_of(path)](volume, staged)
        except OSError as error:
            raise InputError(
                f"Cannot write {path} completely, the disk may be full: free some space or choose another place."
            ) from error
        outputs.commit()
