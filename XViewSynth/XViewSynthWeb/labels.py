"""Labels of a view: anatomical directions of its edges and position of its slice."""

from __future__ import annotations

import numpy as np

# Positive and negative direction of the axes of RAS.
_LETTERS = (("R", "L"), ("A", "P"), ("S", "I"))

# Least component of a direction that gets a letter: sin 22.5 degrees, half way to the next diagonal.
_LEAST_SHARE = np.sin(np.radians(22.5))


def direction_letters(direction: np.ndarray) -> str:
    """Letters of a (3,) direction in RAS, largest first; an oblique one has several.

    >>> direction_letters(np.array([-1.0, 0.05, 0.0])), direction_letters(np.array([0.0, 0.6, -0.8]))
    ('L', 'IA')
    """
    shares = direction / np.linalg.norm(direction)
    strongest_first = sorted(range(3), key=lambda axis: -abs(shares[axis]))
    return "".join(
        _LETTERS[axis][int(shares[axis] < 0)] for axis in strongest_first if abs(shares[axis]) > _LEAST_SHARE
    )


def edge_letters(slice_to_ras: np.ndarray) -> dict[str, str]:
    """Letters of the four edges of a view.

    Args:
        slice_to_ras: (4, 4) matrix of the view: its columns point to the right edge, the top edge and the next slice.
    """
    to_right, to_top = slice_to_ras[:3, 0], slice_to_ras[:3, 1]
    directions = {"left": -to_right, "right": to_right, "top": to_top, "bottom": -to_top}
    return {edge: direction_letters(direction) for edge, direction in directions.items()}


def position_text(slice_to_ras: np.ndarray, normal: int) -> str:
    """Position of a slice in mm, as in Slicer's slice controllers.

    Args:
        slice_to_ras: (4, 4) matrix of the view.
        normal: index of the view's normal, 0 to 2 for R, A, S.

    >>> matrix = np.eye(4)
    >>> matrix[2, 3] = -12.5
    >>> position_text(matrix, 2)
    'I 12.5 mm'
    """
    place = round(float(slice_to_ras[normal, 3]), 1)
    return f"{_LETTERS[normal][int(place < 0)]} {abs(place):.1f} mm"
