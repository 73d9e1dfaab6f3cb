"""How much work an answer is worth: one pass of the networks, or the mean of several, over the scan and its mirror
images.

Networks err in other places when they see a scan in a mirror, so that the mean of what they answer lies nearer to the
truth (geometric self-ensemble: Lim et al., "Enhanced deep residual networks for single image super-resolution", CVPR
Workshops 2017).
"""

from .errors import InputError

STANDARD_QUALITY, BEST_QUALITY = "standard", "best"
# Of (slices, rows, columns), the axes that are reversed in each pass. The scan and one mirror image for each axis have
# all but 0.01 dB of what all eight mirror images have together.
_MIRRORED = {STANDARD_QUALITY: ((),), BEST_QUALITY: ((), (0,), (1,), (2,))}
QUALITIES = tuple(_MIRRORED)


def mirrored_axes(quality: str) -> tuple[tuple[int, ...], ...]:
    """For each pass over the scan, which of its axes (slices, rows, columns) are reversed; the time taken grows with
    their number.

    Raises:
        InputError: there is no such quality.

    >>> len(mirrored_axes("best"))
    4
    """
    if quality not in _MIRRORED:
        raise InputError(f"The quality {quality!r} does not exist: choose {' or '.join(QUALITIES)}.")
    return _MIRRORED[quality]
