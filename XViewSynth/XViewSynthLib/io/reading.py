"""Reading of scans: NRRD, NIfTI, MHA/MHD, or a folder of one DICOM series."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..geometry.volume import Volume, blank_voxels, largest_cosine
from .dicom.series import is_dicom, open_series
from .header import ImageHeader
from .metaimage import read_metaimage_header
from .nifti import read_nifti_header
from .nrrd import read_nrrd_header
from .voxels import check_memory, check_stored_size, read_voxels

NRRD, NIFTI, METAIMAGE = "NRRD", "NIfTI", "MetaImage"
#: The format of a file by its ending.
READABLE = {".nrrd": NRRD, ".nhdr": NRRD, ".nii": NIFTI, ".nii.gz": NIFTI, ".mha": METAIMAGE, ".mhd": METAIMAGE}
_READ_HEADER = {NRRD: read_nrrd_header, NIFTI: read_nifti_header, METAIMAGE: read_metaimage_header}
# Largest cosine between two axes of an upright grid: the rounding error of 32 bits.
_UPRIGHT = 1e-6

Load = Callable[[], tuple[np.ndarray, tuple[str, ...]]]


def read_volume(path: str | Path, thickness: float | None = None, memory: int | None = None) -> Volume:
    """Read a scan with its geometry, in the scalar type of the file.

    Args:
        path: a .nrrd, .nhdr, .nii, .nii.gz, .mha or .mhd file, a folder of one CT series in DICOM (or its DICOMDIR), or
            one DICOM file of the series.
        thickness: of the slices, mm, in place of that of the file.
        memory: limit for the process while it reads, bytes; default is most of the free memory.

    Returns:
        Voxels (K, J, I), rescale slope and intercept applied, and the affine IJK -> RAS in mm.

    Raises:
        InputError: the file is missing, of another format, damaged, not one 3-D grey image, a labelmap, sheared (a
            tilted gantry), or too large for the memory. Or the files of a DICOM folder are not one complete, evenly
            spaced series. Or the given thickness is not a positive number.

    >>> read_volume("chest.nrrd").spacing  # doctest: +SKIP
    (0.7, 0.7, 5.0)
    """
    path = Path(path)
    with _clear_errors(path):
        header, needed, load = _open(path)
        if thickness is not None:
            header = replace(header, slice_thickness=thickness)
        check_memory(path, needed, memory)
        voxels, notes = load()
        return replace(header, voxels=voxels, notes=(*header.notes, *notes))


def read_header(path: str | Path) -> Volume:
    """Read a scan as `read_volume`, but from the headers alone: every voxel is 0, and none takes memory.

    The scalar type is that of the file; of a DICOM series, that of its usual pixels (int16).

    Raises:
        InputError: as `read_volume`, except for problems of the voxels, such as a compressed file that ends too early.

    >>> read_header("chest.nrrd").voxels.shape  # doctest: +SKIP
    (60, 512, 512)
    """
    with _clear_errors(Path(path)):
        header, _, _ = _open(Path(path))
        return header


def suffix_of(path: Path) -> str:
    """The file name's ending in lower case. ".nii.gz" is one ending.

    >>> suffix_of(Path("Head.v2.NII.GZ"))
    '.nii.gz'
    """
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def read_image_header(path: Path) -> ImageHeader:
    """Read and check the header of an image file.

    Raises:
        InputError: the header is not valid, or the file is too short for it.
        OSError: a file cannot be read.
    """
    header = _READ_HEADER[READABLE[suffix_of(path)]](path)
    check_stored_size(header)
    return header


def _open(path: Path) -> tuple[Volume, int, Load]:
    """The scan with all voxels 0, the largest number of bytes of its voxels, and a function that reads them."""
    if not path.exists():
        raise InputError(f"{path} does not exist: check the name of the scan.")
    volume, needed, load = _open_any(path)
    return _upright(volume, path), needed, load


def _open_any(path: Path) -> tuple[Volume, int, Load]:
    if path.is_dir():
        return _open_series(path)
    if path.name.upper() == "DICOMDIR":
        return _open_series(path.parent)
    if suffix_of(path) in READABLE:
        return _open_image(path)
    if is_dicom(path):
        return _open_series(path)
    raise InputError(f"{path} is no scan: give an NRRD, NIfTI, MHA or MHD file, or a folder of one DICOM series.")


def _open_series(path: Path) -> tuple[Volume, int, Load]:
    volume, load = open_series(path)
    return volume, volume.voxels.nbytes, lambda: (load(), ())


def _open_image(path: Path) -> tuple[Volume, int, Load]:
    if not path.is_file():  # opening a pipe may block for ever
        raise InputError(f"{path} is no regular file: give an NRRD, NIfTI, MHA or MHD file.")
    header = read_image_header(path)
    if header.is_labelmap:
        raise InputError(f"{path} is a segmentation (labelmap), not a scan: give the CT scan itself.")
    volume = Volume(
        blank_voxels(header.shape, header.scalar_type),
        header.affine,
        header.slice_thickness,
        header.slice_axis,
        synthetic=header.synthetic,
        notes=header.notes,
    )
    return volume, header.needed_bytes, lambda: read_voxels(header)


def _upright(volume: Volume, path: Path) -> Volume:
    """The volume on a grid with right angles, if its own deviates by less than the limit of shear.

    Raises:
        InputError: the grid is sheared.
    """
    if volume.shear_degrees:
        raise InputError(
            f"{path} is sheared by {volume.shear_degrees:.1f} degrees, as by a tilted gantry: resample it to a grid "
            "with right angles first."
        )
    leaning = largest_cosine(volume.affine)
    if leaning <= _UPRIGHT:
        return volume
    # The nearest rotation, about the centre of the volume.
    left, _, right = np.linalg.svd(volume.directions)
    middle = (np.array(volume.shape_ijk) - 1) / 2
    affine = volume.affine.copy()
    affine[:3, :3] = left @ right * volume.spacing
    affine[:3, 3] = volume.ijk_to_ras(middle) - affine[:3, :3] @ middle
    note = f"The axes lean by {np.degrees(np.arcsin(leaning)):.3f} degrees, less than counts; they were set upright."
    return replace(volume, affine=affine, notes=(*volume.notes, note))


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}): check the file and its permissions.") from error
    except RuntimeError as error:  # SimpleITK raises it for every failure
        raise InputError(f"{path} is damaged or incomplete: export or copy it again.") from error
