"""Convert volume nodes to the engine's volumes, and back."""

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

# In Slicer these classes are subclasses of scalar volumes. The texts complete the sentence of the refusal.
_REFUSED = {
    "vtkMRMLLabelMapVolumeNode": "is a labelmap, which has names instead of HU",
    # A vector volume is also a tensor volume, so it comes first.
    "vtkMRMLVectorVolumeNode": "holds several values in each voxel",
    "vtkMRMLTensorVolumeNode": "holds a tensor in each voxel",
}


class NonLinearTransformError(InputError):
    """The volume has a non-linear parent transform, so its voxels form no regular grid in the patient."""


def check_volume_node(node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Raise unless a node can be enhanced.

    Raises:
        NonLinearTransformError: a parent transform is not linear: irregular spacing or a tilted gantry.
        InputError: no node, no longer in a scene, not a scalar volume, several values per voxel, or empty.
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
            f"{name!r} has the non-linear transform {transform.GetName()!r} (irregular spacing or a tilted "
            "gantry), so its slices form no regular grid: harden the transform first, in the Transforms module."
        )


def check_is_scalar_volume(node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Raise unless a node is a scalar volume of a scene, with or without voxels.

    Raises:
        InputError: the node is missing, or not such a volume.
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
    """The volume of a node.

    The voxels are a read-only view of the node's memory, in its scalar type. The affine is that of the node: a parent
    transform is not applied, because the output gets the same transform.

    Raises:
        InputError: as in `check_volume_node`.
    """
    check_volume_node(node)
    image = node.GetImageData()
    first_i, last_i, first_j, last_j, first_k, last_k = image.GetExtent()
    shape = (last_k - first_k + 1, last_j - first_j + 1, last_i - first_i + 1)
    affine = ijk_to_ras(node)
    # VTK's indices start at the extent, the engine's at the first voxel.
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
    """Copy a volume's voxels and affine to a node; observers are notified once.

    64-bit integers and float16, which Slicer cannot read or write, are converted to the smallest supported type that
    holds every value.
    """
    set_image_and_geometry(node, copied_image(volume), volume.affine)


def set_image_and_geometry(node: slicer.vtkMRMLScalarVolumeNode, image: vtk.vtkImageData, affine: np.ndarray) -> None:
    """Set the image and the (4, 4) IJK -> RAS affine (mm) of a node; observers are notified once."""
    was_modifying = node.StartModify()
    try:
        node.SetAndObserveImageData(image)
        node.SetIJKToRASMatrix(matrix_from_array(affine))
    finally:
        node.EndModify(was_modifying)


def copied_image(volume: Volume) -> vtk.vtkImageData:
    """An image with a copy of a volume's voxels."""
    return _image(_in_slicer_type(volume.voxels), copy=True)


def shared_image(volume: Volume) -> vtk.vtkImageData:
    """An image that shares the memory of a volume, which must not be used afterwards.

    Memory that NumPy does not own (another node's voxels, a mapped file) or that is read-only is copied.
    """
    voxels = _in_slicer_type(volume.voxels)
    return _image(voxels, copy=not _is_owned_by_numpy(voxels))


def harden_transform(node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Resample a volume through its parent transforms, so that its slices form a regular grid.

    Raises:
        InputError: not a volume, empty, or Slicer cannot resample it.
    """
    with suppress(NonLinearTransformError):
        check_volume_node(node)
    if node.GetParentTransformNode() is not None and not slicer.vtkSlicerTransformLogic.hardenTransform(node):
        raise InputError(
            f"The transform of {node.GetName()!r} could not be hardened: try it in the Transforms module, or choose "
            "another volume."
        )


def _in_slicer_type(voxels: np.ndarray) -> np.ndarray:
    """The same values, C-contiguous, in a type that Slicer can read and write."""
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


def _is_owned_by_numpy(voxels: np.ndarray) -> bool:
    owner = voxels
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner.base is None and owner.flags.owndata and owner.flags.writeable


def _image(voxels: np.ndarray, copy: bool) -> vtk.vtkImageData:
    image = vtk.vtkImageData()
    image.SetDimensions(voxels.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(), deep=copy))
    return image
