"""The layout of the six linked views, and their names.

The views are named after the patient's planes.
"""

from __future__ import annotations

from dataclasses import dataclass

import slicer

#: ID of the layout; Slicer's own layouts are below 100.
LAYOUT_ID = 70613
#: Slicer links the views of a group. Its own views are in groups 0 and 1 and must not be linked to these.
VIEW_GROUP = 70613

ORIGINAL, ENHANCED = "Original", "Enhanced"
ROWS = (ORIGINAL, ENHANCED)


@dataclass(frozen=True)
class _Plane:
    """One of the patient's planes: colour and label of its view in Slicer, and the index of its normal (R, A, S)."""

    color: str
    label: str
    normal: int


PLANES = {
    "Axial": _Plane("#F34A33", "A", 2),
    "Coronal": _Plane("#6EB04B", "C", 1),
    "Sagittal": _Plane("#EDD54C", "S", 0),
}


def view_name(row: str, plane: str) -> str:
    """Layout name of a view.

    >>> view_name("Enhanced", "Axial")
    'XVSEnhancedAxial'
    """
    return f"XVS{row}{plane}"


def view_names() -> tuple[str, ...]:
    """Layout names of the six views, row by row."""
    return tuple(view_name(row, plane) for row in ROWS for plane in PLANES)


def layout_description() -> str:
    """XML of the layout for a `vtkMRMLLayoutNode`: three columns in two rows."""
    rows = "".join(f"<item>{_row_description(row)}</item>" for row in ROWS)
    return f'<layout type="vertical" split="true">{rows}</layout>'


def register_layout(layout_node: slicer.vtkMRMLLayoutNode) -> None:
    """Register the layout, so that a scene saved with it can be loaded; harmless to repeat."""
    if not layout_node.IsLayoutDescription(LAYOUT_ID):
        layout_node.AddLayoutDescription(LAYOUT_ID, layout_description())


def _row_description(row: str) -> str:
    items = []
    for plane, look in PLANES.items():
        properties = {
            "orientation": plane,
            "viewlabel": view_label(row, plane),
            "viewcolor": look.color,
            "viewgroup": VIEW_GROUP,
        }
        elements = "".join(
            f'<property name="{name}" action="default">{value}</property>' for name, value in properties.items()
        )
        items.append(f'<view class="vtkMRMLSliceNode" singletontag="{view_name(row, plane)}">{elements}</view>')
    return '<layout type="horizontal" split="true">' + "".join(f"<item>{item}</item>" for item in items) + "</layout>"


def view_label(row: str, plane: str) -> str:
    """Label of a view: two letters at most.

    >>> view_label("Original", "Axial"), view_label("Enhanced", "Axial")
    ('A', 'A+')
    """
    # Slicer uses "+" for the second view of a plane, and its label holds two letters.
    return PLANES[plane].label + ("+" if row == ENHANCED else "")
