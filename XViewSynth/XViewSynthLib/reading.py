"""Scans from files: NRRD, NIfTI, MHA/MHD, or a folder of one DICOM series."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .dicom import is_dicom, open_series
from .errors import InputError
from .nifti import INTENT_LABEL, check_complete, read_nifti_header
from .volume import AXES, Axis, Volume, blank_voxels

READABLE = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
# The fields in which `write_volume` keeps them in NRRD, MHA and MHD: mm, as DICOM names it; and I, J or K.
SLICE_THICKNESS, SLICE_AXIS = "SliceThickness", "SliceAxis"

Load = Callable[[], np.ndarray]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_volume(path: str | Path, thickness: float | None = None) -> Volume:
    """A scan with its geometry, in the scalar type of the file.

    Args:
        path: a .nrrd, .nhdr, .nii, .nii.gz, .mha or .mhd file, or a folder of one DICOM series (or its DICOMDIR).
        thickness: of the slices, mm, in place of what the file says.

    Returns:
        Voxels (K, J, I), rescale slope and intercept applied, and the affine IJK -> RAS in mm.

    Raises:
        InputError: nothing there, not such a file, damaged, not one 3-D grey image, a labelmap, a sheared grid (a
            tilted gantry), or a DICOM folder whose files are not one complete, evenly spaced series; or the given
            thickness is not a positive number.

    >>> read_volume("chest.nrrd").spacing  # doctest: +SKIP
    (0.7, 0.7, 5.0)
    """
    with _told_in_sentences(Path(path)), _warnings_off:
        header, load = _open(Path(path))
        if thickness is not None:
            header = replace(header, slice_thickness=thickness)
        return header.with_voxels(load())


def read_header(path: str | Path) -> Volume:
    """What `read_volume` would give, from the headers alone: every voxel is 0, and none takes memory.

    The scalar type is that of the file; of a DICOM series, that of its usual pixels (int16).

    Raises:
        InputError: as `read_volume`, but for what only the voxels tell, such as a file that ends too early.

    >>> read_header("chest.nrrd").voxels.shape  # doctest: +SKIP
    (60, 512, 512)
    """
    with _told_in_sentences(Path(path)), _warnings_off:
        header, _ = _open(Path(path))
        return header


def suffix_of(path: Path) -> str:
    """The file name's ending in lower case, ".nii.gz" taken as one.

    >>> suffix_of(Path("Head.v2.NII.GZ"))
    '.nii.gz'
    """
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def _open(path: Path) -> tuple[Volume, Load]:
    """The scan with all voxels 0, and what gives its voxels (K, J, I)."""
    if not path.exists():
        raise InputError(f"{path} does not exist: check the name of the scan.")
    header, load = _open_any(path)
    _check_right_angles(header, path)
    return header, load


def _open_any(path: Path) -> tuple[Volume, Load]:
    if path.is_dir():
        return open_series(path)
    if path.name.upper() == "DICOMDIR":
        return open_series(path.parent)
    image_io = READABLE.get(suffix_of(path))
    if image_io is None:
        if is_dicom(path):
            raise InputError(f"{path} is a single DICOM file: give the folder that holds the slices of its series.")
        raise InputError(f"{path} is no scan: give an NRRD, NIfTI, MHA or MHD file, or a folder of one DICOM series.")
    return _open_nifti(path) if image_io == "NiftiImageIO" else _open_image(path, image_io)


def _open_nifti(path: Path) -> tuple[Volume, Load]:
    told = read_nifti_header(path)
    if told.intent_code == INTENT_LABEL:
        raise InputError(_labelmap_sentence(path))
    if told.affine is not None:
        # SimpleITK would quietly take another transform than a sheared sform, and that one need not be sheared.
        _check_right_angles(Volume(np.zeros((1, 1, 1)), told.affine), path)
    header, load_image = _open_image(path, "NiftiImageIO")

    def load() -> np.ndarray:
        check_complete(path, told.size)
        return load_image()

    # The sform's own numbers, not what is left of them after SimpleITK has split them into spacing and directions.
    return header if told.affine is None else replace(header, affine=told.affine), load


def _check_right_angles(volume: Volume, path: Path) -> None:
    if volume.shear_degrees:
        raise InputError(
            f"{path} is sheared by {volume.shear_degrees:.1f} degrees, as by a tilted gantry: resample it to a grid "
            "with right angles first."
        )


def _open_image(path: Path, image_io: str) -> tuple[Volume, Load]:
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
    scalar_type = sitk.GetArrayViewFromImage(sitk.Image(1, 1, 1, reader.GetPixelID())).dtype
    blank = blank_voxels(size[2::-1], scalar_type)
    header = Volume(blank, _affine(reader), _slice_thickness(reader), _slice_axis(reader))
    return header, lambda: sitk.GetArrayFromImage(reader.Execute())


def _slice_thickness(reader: sitk.ImageFileReader) -> float | None:
    with suppress(ValueError):
        thickness = float(reader.GetMetaData(SLICE_THICKNESS)) if reader.HasMetaDataKey(SLICE_THICKNESS) else 0.0
        if 0 < thickness < math.inf:
            return thickness
    return None


def _slice_axis(reader: sitk.ImageFileReader) -> Axis | None:
    axis = reader.GetMetaData(SLICE_AXIS) if reader.HasMetaDataKey(SLICE_AXIS) else None
    return axis if axis in AXES else None


def _affine(reader: sitk.ImageFileReader) -> np.ndarray:
    dimensions = reader.GetDimension()
    directions = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = directions * reader.GetSpacing()[:3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    return _LPS_TO_RAS @ affine


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in size)


def _labelmap_sentence(path: Path) -> str:
    return f"{path} is a segmentation (labelmap), not a scan: give the CT scan itself."


@contextmanager
def _told_in_sentences(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}): check the file and its permissions.") from error
    except RuntimeError as error:  # what SimpleITK raises for everything
        raise InputError(f"{path} is damaged or incomplete: export or copy it again.") from error


class _WarningsOff(AbstractContextManager):
    """Keeps ITK's warnings, which say what is checked here in words for programmers, off standard error.

    They are shown or not for the whole process. So of several threads that read at the same time, the first hides
    them, and the last brings them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._shown = True

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._shown = sitk.ProcessObject.GetGlobalWarningDisplay()
                sitk.ProcessObject.SetGlobalWarningDisplay(False)
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                sitk.ProcessObject.SetGlobalWarningDisplay(self._shown)


_warnings_off = _WarningsOff()
