"""Photograph the linked views: Resources/Screenshots/views.png.

    python Testing/tools/photograph_views.py SCAN ENHANCED --report REPORT.json [--uncertainty FILE]

The files are what `xviewsynth enhance SCAN ENHANCED --uncertainty FILE --report REPORT.json` read and wrote. Nothing
is drawn on a screen. Without --slice the axial views show the synthetic slice with the most uncertainty.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "XViewSynth"), str(REPOSITORY / "Testing")]

import offscreen  # noqa: E402
from scene import make_volume_node, mrml_scene  # noqa: E402
from XViewSynthLib import Volume, read_volume  # noqa: E402
from XViewSynthLib.geometry.volume import array_axis  # noqa: E402
from XViewSynthScene.layout import ENHANCED, PLANES, ROWS, view_name, view_names  # noqa: E402
from XViewSynthScene.provenance import Provenance, provenance_from_report, write_provenance  # noqa: E402
from XViewSynthScene.views import LinkedViews  # noqa: E402

PICTURE = REPOSITORY / "Resources" / "Screenshots" / "views.png"
GAP = 4  # pixels between two views


def main() -> None:
    """Write the picture."""
    arguments = read_arguments()
    if offscreen.why_not():
        raise SystemExit(f"error: {offscreen.why_not()}")
    with mrml_scene() as scene:
        scan, enhanced = read_volume(arguments.scan), read_volume(arguments.enhanced)
        original_node = make_volume_node(scene, scan, arguments.scan.stem)
        enhanced_node = make_volume_node(scene, enhanced, arguments.enhanced.stem)
        report = json.loads(arguments.report.read_text(encoding="utf-8"))
        provenance = provenance_from_report(report, input_node_id=original_node.GetID(), input_name=arguments.scan.stem)
        write_provenance(enhanced_node, provenance)
        uncertainty = read_volume(arguments.uncertainty) if arguments.uncertainty else None
        uncertainty_node = None if uncertainty is None else make_volume_node(scene, uncertainty, "uncertainty")
        window, level = arguments.window
        original_node.GetScalarVolumeDisplayNode().SetAutoWindowLevel(False)
        original_node.GetScalarVolumeDisplayNode().SetWindowLevel(window, level)

        application = offscreen.application_logic(scene)
        pictures = offscreen.OffscreenViews(scene, application, view_names(), tuple(arguments.size))
        views = LinkedViews(scene, application_logic=application, renderer_of=pictures.renderer)
        views.show(original_node, enhanced_node, uncertainty_node)
        if views.overlay:
            views.overlay.set_opacity(arguments.opacity)
        views.set_fade(arguments.fade)
        index = most_uncertain_slice(uncertainty, provenance) if arguments.slice is None else arguments.slice
        scroll_to(views, enhanced, provenance, index)
        save(mosaic([[pictures.picture(view_name(row, plane)) for plane in PLANES] for row in ROWS]), arguments.output)
        print(f"{arguments.output}: slice {index} along {provenance.axis}")
        views.close()
        pictures.close()


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Photograph the linked views.")
    parser.add_argument("scan", type=Path)
    parser.add_argument("enhanced", type=Path)
    parser.add_argument("--report", type=Path, required=True, help="of the enhancement, JSON")
    parser.add_argument("--uncertainty", type=Path, help="becomes the overlay")
    parser.add_argument("--slice", type=int, help="index along the enhanced volume's axis")
    parser.add_argument("--window", type=float, nargs=2, default=(1500, -500), metavar=("WIDTH", "CENTRE"), help="HU")
    parser.add_argument("--opacity", type=float, default=0.5, help="of the overlay, 0 to 1")
    parser.add_argument("--fade", type=float, default=0.0, help="0 the enhanced volume below, 1 the original")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(460, 360), metavar=("WIDTH", "HEIGHT"), help="of each view, pixels"
    )
    parser.add_argument("--output", type=Path, default=PICTURE)
    return parser.parse_args()


def most_uncertain_slice(uncertainty: Volume | None, provenance: Provenance) -> int:
    """The synthetic slice with the most uncertainty on average; without a map the middle one."""
    synthetic = provenance.synthetic_slices
    if uncertainty is None:
        return synthetic[len(synthetic) // 2]
    along = array_axis(provenance.axis)
    means = uncertainty.voxels.mean(axis=tuple(axis for axis in range(3) if axis != along))
    return max(synthetic, key=lambda index: means[index])


def scroll_to(views: LinkedViews, enhanced: Volume, provenance: Provenance, index: int) -> None:
    """Let all views cross in the middle of a slice."""
    middle = [(count - 1) / 2 for count in enhanced.shape_ijk]
    middle["IJK".index(provenance.axis)] = index
    position = enhanced.ijk_to_ras(middle)
    for plane in PLANES:
        views.slice_node(ENHANCED, plane).JumpSliceByOffsetting(*position)


def mosaic(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """(rows, columns, 3) uint8: the pictures of the first row above, side by side with a gap between."""
    spread = ((0, GAP), (0, GAP), (0, 0))
    lines = [np.hstack([np.pad(picture, spread, constant_values=90) for picture in row]) for row in rows]
    return np.vstack(lines)[:-GAP, :-GAP]


def save(picture: np.ndarray, path: Path) -> None:
    """Write a PNG."""
    height, width, _ = picture.shape
    image = vtk.vtkImageData()
    image.SetDimensions(width, height, 1)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(picture[::-1]).reshape(-1, 3), deep=True))
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputData(image)
    writer.Write()
    if writer.GetErrorCode():
        raise SystemExit(f"error: {path} cannot be written: choose another place with --output.")


if __name__ == "__main__":
    main()
