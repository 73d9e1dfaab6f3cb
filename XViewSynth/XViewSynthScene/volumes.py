"""Volume nodes as the engine's volumes, and back."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from XViewSynthLib.errors import InputError
from XViewSynthLib.geometry.volume import Volume

from .dicom import facts_of, instances_of

SCALAR_VOLUME = "vtkMRMLScalarVolumeNode"

# Slicer makes labels and colours kinds of scalar volumes; what is told of them says what else the user has.
_REFUSED = {
    "vtkMRMLLabelMapVolumeNode": "is a labelmap, which has names instead of HU",
    # A vector volume is a kind of tensor volume too, so it comes first.
    "vtkMRMLVectorVolumeNode": "holds several values in each voxel",
    "vtkMRMLTensorVolumeNode": "holds a tensor in each voxel",
}


class NonLinearTransformError(InputError):
    """The volume lies under a transform that bends it, so its voxels form no regular grid in the patient."""


def check_volume_node(node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Make sure that a node can be enhanced.

    Raises:
        NonLinearTransformError: a transform above the volume is not linear: irregular spacing or a tilted gantry.
        InputError: no node, no longer in a scene, not a scalar volume, several values a voxel, or empty.
    """
    check_is_scalar_volume(node)
    image = node.GetImageData()
    name = node.GetName()
    if image is None or image.GetPointData().GetScalars() is None or image.GetNumberOfPoints() == 0:
        raise InputError(f"The volume {name!r} is empty: load its voxels or choose another volume.")
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            f"{name!r} holds {image.GetNumberOfScalarComponents()} values in each voxel: choose a CT volume."
        )
    if image.GetScalarType() == vtk.VTK_BIT:
        raise InputError(f"{name!r} holds single bits: choose a CT volume.")
    transform = node.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        raise NonLinearTransformError(
            f"{name!r} lies under the non-linear transform {transform.GetName()!r} (irregular spacing or a tilted "
            "gantry), so its slices are no regular grid: harden the transform first, in the Transforms module."
        )


def check_is_scalar_volume(node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Make sure that a node is a scalar volume of a scene, with or without voxels.

    Raises:
        InputError: it is not.
    """
    if node is None:
        raise InputError("No scan is chosen: choose one, or load a CT scan.")
    if not isinstance(node, slicer.vtkMRMLNode):
        raise InputError(f"A volume node is needed, not {type(node).__name__}.")
    name = node.GetName()
    if node.GetScene() is None:
        raise InputError(f"The volume {name!r} is no longer in the scene: choose another volume.")
    for kind, reason in _REFUSED.items():
        if node.IsA(kind):
            raise InputError(f"{name!r} {reason}: choose a CT volume.")
    if not node.IsA(SCALAR_VOLUME):
        raise InputError(f"{name!r} is no volume: choose a CT volume.")


def volume_from_node(node: slicer.vtkMRMLScalarVolumeNode) -> Volume:
    """The volume that a node holds.

    The voxels are a read-only view of the node's own memory, of the node's scalar type. The affine is the node's own:
    a parent transform is not applied, because it goes on to the output.

    Raises:
        InputError: as `check_volume_node`.
    """
    check_volume_node(node)
    image = node.GetImageData()
    first_i, last_i, first_j, last_j, first_k, last_k = image.GetExtent()
    shape = (last_k - first_k + 1, last_j - first_j + 1, last_i - first_i + 1)
    affine = ijk_to_ras(node)
    # VTK's indices count from the start of the extent, the engine's from the first voxel.
    affine[:3, 3] += affine[:3, :3] @ (first_i, first_j, first_k)
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
    return Volume(voxels, affine, facts_of(node).slice_thickness, "K" if instances_of(node) else None)


def ijk_to_ras(node: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    """(4, 4) float64: a node's voxel indices (I, J, K) to RAS in mm, without its parent transform."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return array_from_matrix(matrix)


def array_from_matrix(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """(4, 4) float64 copy of a matrix."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrix_from_array(array: np.ndarray) -> vtk.vtkMatrix4x4:
    """The matrix with the elements of a (4, 4) array."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy([float(element) for element in np.asarray(array).ravel()])
    return matrix


def set_voxels_and_geometry(node: slicer.vtkMRMLScalarVolumeNode, volume: Volume) -> None:
    """Give a node a copy of a volume's voxels, and its affine; observers hear of it once.

    64-bit integers and float16, which Slicer's readers and writers do not know, become the smallest type that Slicer
    knows and that holds every value.
    """
    set_image_and_geometry(node, copied_image(volume), volume.affine)


def set_image_and_geometry(node: slicer.vtkMRMLScalarVolumeNode, image: vtk.vtkImageData, affine: np.ndarray) -> None:
    """Give a node an image and a (4, 4) IJK -> RAS affine in mm; observers hear of it once."""
    was_modifying = node.StartModify()
    try:
        node.SetAndObserveImageData(image)
        node.SetIJKToRASMatrix(matrix_from_array(affine))
    finally:
        node.EndModify(was_modifying)


def copied_image(volume: Volume) -> vtk.vtkImageData:
    """An image with its own copy of a volume's voxels."""
    return _image(_known_to_slicer(volume.voxels), copy=True)


def handed_over_image(volume: Volume) -> vtk.vtkImageData:
    """An image that takes over the memory of a volume, for a volume that nobody uses afterwards.

    Whoever edits the image edits the volume. Memory that is not NumPy's own (another node's voxels, a mapped file) or
    that may not be written to is copied.
    """
    voxels = _known_to_slicer(volume.voxels)
    return _image(voxels, copy=not _is_numpys_own(voxels))


def harden_transform(node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Resample a volume through the transforms above it, so that its slices become a regular grid.

    Raises:
        InputError: no volume, empty, or Slicer cannot do it.
    """
    with suppress(NonLinearTransformError):
        check_volume_node(node)
    if node.GetParentTransformNode() is not None and not slicer.vtkSlicerTransformLogic.hardenTransform(node):
        raise InputError(
            f"The transform of {node.GetName()!r} could not be hardened: try it in the Transforms module, or choose "
            "another volume."
        )


def _known_to_slicer(voxels: np.ndarray) -> np.ndarray:
    """The same numbers, C-contiguous, in a type that Slicer can also read and write."""
    dtype = voxels.dtype
    if dtype.kind in "iu" and dtype.itemsize == 8:
        lowest, highest = int(voxels.min()), int(voxels.max())
        fitting = [kind for kind in (np.int32, np.uint32) if _holds(kind, lowest, highest)]
        dtype = np.dtype(fitting[0] if fitting else np.float64)
    elif dtype == np.float16:
        dtype = np.dtype(np.float32)
    return np.ascontiguousarray(voxels, dtype=dtype)


def _holds(kind: type[np.integer], lowest: int, highest: int) -> bool:
    limits = np.iinfo(kind)
    return limits.min <= lowest and highest <= limits.max


def _is_numpys_own(voxels: np.ndarray) -> bool:
    owner = voxels
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner.base is None and owner.flags.owndata and owner.flags.writeable


def _image(voxels: np.ndarray, copy: bool) -> vtk.vtkImageData:
    image = vtk.vtkImageData()
    image.SetDimensions(voxels.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(), deep=copy))
    return image
