"""Volumes to files: NRRD, NIfTI, MHA or MHD, by the name's ending."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .nifti import check_complete, read_nifti_header
from .outputs import Outputs
from .reading import SLICE_AXIS, SLICE_THICKNESS, suffix_of
from .volume import Volume

WRITABLE = {
    ".nrrd": "NrrdImageIO",
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
# Measured on CT: as small as the usual level 6, in three quarters of the time.
COMPRESSION_LEVEL = 3

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def check_writable_name(path: str | Path) -> None:
    """Refuse a name whose ending stands for no format that can be written, before any work is done for it.

    Raises:
        InputError: the name does not end in .nrrd, .nii, .nii.gz, .mha or .mhd.
    """
    if suffix_of(Path(path)) not in WRITABLE:
        raise InputError(f"{path} has no ending that can be written: choose one of {', '.join(WRITABLE)}.")


def write_volume(volume: Volume, path: str | Path, overwrite: bool = False) -> None:
    """Write a volume; the file appears whole or not at all.

    The scalar type is kept, except that half-precision floats become float32. NRRD, MHA and MHD keep positions to
    1e-6 mm, the slice thickness and the slice axis. NIfTI, with 32-bit floats for positions, loses up to 1e-4 mm, and
    both.

    Args:
        volume: what to write.
        path: a name that ends in .nrrd, .nii, .nii.gz, .mha or .mhd (which puts a .raw file beside it).
        overwrite: whether an existing file may be replaced.

    Raises:
        InputError: another ending, a file that exists, a place that cannot be written to or is full, or a sheared
            grid, which these formats do not keep.
    """
    path = Path(path)
    check_writable_name(path)
    if volume.shear_degrees:
        raise InputError(f"{path} cannot hold a grid sheared by {volume.shear_degrees:.1f} degrees: resample it first.")
    with Outputs(overwrite=overwrite) as outputs:
        staged = outputs.add(path)
        try:
            _write(volume, staged)
        except (RuntimeError, InputError, OSError) as error:
            raise InputError(
                f"Cannot write {path} completely, the disk may be full: free some space or choose another place."
            ) from error
        outputs.commit()


def _write(volume: Volume, path: Path) -> None:
    suffix = suffix_of(path)
    # The NIfTI writer knows its endings in lower case only.
    written = path.with_name(path.name[: -len(suffix)] + suffix)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO(WRITABLE[suffix])
    writer.SetFileName(str(written))
    writer.SetUseCompression(suffix in (".nrrd", ".nii.gz", ".mha"))
    writer.SetCompressionLevel(COMPRESSION_LEVEL)
    writer.Execute(_image(volume))
    if WRITABLE[suffix] == "NiftiImageIO":
        # The NIfTI writer does not notice a full disk.
        check_complete(written, read_nifti_header(written).size)
    written.replace(path)


def _image(volume: Volume) -> sitk.Image:
    voxels = volume.voxels
    if voxels.dtype == np.float16:
        voxels = voxels.astype(np.float32)
    image = sitk.GetImageFromArray(voxels)
    to_lps = Volume(np.zeros((1, 1, 1), np.uint8), _RAS_TO_LPS @ volume.affine)
    image.SetOrigin(to_lps.origin.tolist())
    image.SetSpacing(to_lps.spacing)
    image.SetDirection(to_lps.directions.ravel().tolist())
    if volume.slice_thickness is not None:
        image.SetMetaData(SLICE_THICKNESS, repr(volume.slice_thickness))
    if volume.slice_axis is not None:
        image.SetMetaData(SLICE_AXIS, volume.slice_axis)
    return image
