"""Scans from files: NRRD, NIfTI, MHA/MHD, or a folder of one DICOM series."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .dicom import is_dicom, read_series
from .errors import InputError
from .nifti import INTENT_LABEL, check_complete, read_nifti_header
from .volume import Volume

READABLE = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
# The field in which `write_volume` keeps it in NRRD, MHA and MHD, named as DICOM names it; mm.
SLICE_THICKNESS = "SliceThickness"

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_volume(path: str | Path) -> Volume:
    """A scan with its geometry, in the scalar type of the file.

    Args:
        path: a .nrrd, .nhdr, .nii, .nii.gz, .mha or .mhd file, or a folder of one DICOM series (or its DICOMDIR).

    Returns:
        Voxels (K, J, I), rescale slope and intercept applied, and the affine IJK -> RAS in mm.

    Raises:
        InputError: nothing there, not such a file, damaged, not one 3-D grey image, a labelmap, a sheared grid (a
            tilted gantry), or a DICOM folder whose files are not one complete, evenly spaced series.

    >>> read_volume("chest.nrrd").spacing  # doctest: +SKIP
    (0.7, 0.7, 5.0)
    """
    path = Path(path)
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist: check the name of the scan.")
        with _without_warnings():
            volume = _read(path)
            _check_right_angles(volume, path)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}): check the file and its permissions.") from error
    except RuntimeError as error:  # what SimpleITK raises for everything
        raise InputError(f"{path} is damaged or incomplete: export or copy it again.") from error
    return volume


def suffix_of(path: Path) -> str:
    """The file name's ending in lower case, ".nii.gz" taken as one.

    >>> suffix_of(Path("Head.v2.NII.GZ"))
    '.nii.gz'
    """
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def _read(path: Path) -> Volume:
    if path.is_dir():
        return read_series(path)
    if path.name.upper() == "DICOMDIR":
        return read_series(path.parent)
    image_io = READABLE.get(suffix_of(path))
    if image_io is None:
        if is_dicom(path):
            raise InputError(f"{path} is a single DICOM file: give the folder that holds the slices of its series.")
        raise InputError(f"{path} is no scan: give an NRRD, NIfTI, MHA or MHD file, or a folder of one DICOM series.")
    return _read_nifti(path) if image_io == "NiftiImageIO" else _read_image(path, image_io)


def _read_nifti(path: Path) -> Volume:
    header = read_nifti_header(path)
    if header.intent_code == INTENT_LABEL:
        raise InputError(_labelmap_sentence(path))
    if header.affine is not None:
        # SimpleITK would quietly take another transform than a sheared sform, and that one need not be sheared.
        _check_right_angles(Volume(np.zeros((1, 1, 1)), header.affine), path)
    check_complete(path, header.size)
    volume = _read_image(path, "NiftiImageIO")
    # The sform's own numbers, not what is left of them after SimpleITK has split them into spacing and directions.
    return volume if header.affine is None else Volume(volume.voxels, header.affine)


def _check_right_angles(volume: Volume, path: Path) -> None:
    if volume.shear_degrees:
        raise InputError(
            f"{path} is sheared by {volume.shear_degrees:.1f} degrees, as by a tilted gantry: resample it to a grid "
            "with right angles first."
        )


def _read_image(path: Path, image_io: str) -> Volume:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size = reader.GetSize()
    if len(size) == 4 and size[3] == 1:
        reader.SetExtractSize([*size[:3], 0])
    elif len(size) != 3:
        raise InputError(f"{path} is a {len(size)}-D image of {_by(size)} voxels: give one 3-D scan.")
    if reader.GetNumberOfComponents() != 1 or "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{path} has colours or vectors instead of one grey value a voxel: give a plain CT scan.")
    if any(key.startswith("Segment0_") for key in reader.GetMetaDataKeys()):
        raise InputError(_labelmap_sentence(path))
    image = reader.Execute()
    return Volume(sitk.GetArrayFromImage(image), _affine(image), _slice_thickness(reader))


def _slice_thickness(reader: sitk.ImageFileReader) -> float | None:
    with suppress(ValueError):
        thickness = float(reader.GetMetaData(SLICE_THICKNESS)) if reader.HasMetaDataKey(SLICE_THICKNESS) else 0.0
        if 0 < thickness < math.inf:
            return thickness
    return None


def _affine(image: sitk.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return _LPS_TO_RAS @ affine


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in size)


def _labelmap_sentence(path: Path) -> str:
    return f"{path} is a segmentation (labelmap), not a scan: give the CT scan itself."


@contextmanager
def _without_warnings() -> Iterator[None]:
    # ITK's warnings go straight to standard error and say what is checked here, in words for programmers.
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
