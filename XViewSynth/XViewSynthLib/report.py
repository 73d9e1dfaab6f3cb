"""The report of an enhancement, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import __version__

if TYPE_CHECKING:
    from .geometry.volume import Volume
    from .inference.enhancement import Enhanced

PROGRAM = "xviewsynth"


def describe_enhanced(source: str, output: str, scan: Volume, enhanced: Enhanced) -> dict[str, Any]:
    """Parameters and geometry of an enhancement, as plain values that JSON can hold.

    Args:
        source: path of the scan, for the report.
        output: path of the result, for the report.
        scan: the scan.
        enhanced: the result.
    """
    plan = enhanced.plan
    return {
        "program": f"{PROGRAM} {__version__}",
        "factor": enhanced.factor,
        "axis": enhanced.axis,
        "model": enhanced.model.name,
        "model_version": enhanced.model.card["version"],
        "model_sha256": enhanced.model.sha256,
        "acquisition": plan.acquisition,
        "device": plan.device,
        "precision": plan.precision,
        "quality": plan.quality,
        "seconds": enhanced.seconds,
        "peak_memory_bytes": enhanced.peak_memory_bytes,
        "input": {"path": source, **describe_geometry(scan)},
        "output": {"path": output, **describe_geometry(enhanced.volume)},
        "synthetic_slices": enhanced.synthetic_slices,
        "texture": plan.texture,
        "uncertainty": "expected error" if enhanced.expected_error else "disagreement, not calibrated",
        "plan": plan.to_dict(),
        "notes": enhanced.notes,
    }


def describe_geometry(volume: Volume) -> dict[str, Any]:
    """Grid and type of a volume: sizes and spacings along (I, J, K), affine to RAS and slice thickness in mm."""
    return {
        "shape_ijk": list(volume.shape_ijk),
        "spacing_mm": list(volume.spacing),
        "slice_thickness_mm": volume.slice_thickness,
        "affine_ijk_to_ras": volume.affine.tolist(),
        "scalar_type": volume.voxels.dtype.name,
    }
