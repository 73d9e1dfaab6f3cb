"""Stepping through the most uncertain places of an enhanced volume."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _

from XViewSynthScene.desk import allow


class PlaceStepper:
    """The button "Next uncertain place", and the label that describes the place.

    Args:
        ui: the widgets of the panel.
    """

    def __init__(self, ui: Any) -> None:
        self.ui = ui
        self._places: list[Any] | None = None
        self._next = 0

    def reset(self) -> None:
        """Begin anew, because other volumes are shown."""
        self._places, self._next = None, 0
        self.ui.placeLabel.text = ""

    def update(self, refusal: str | None) -> None:
        """Enable the button, or disable it for this reason."""
        allow(
            self.ui.nextPlaceButton,
            refusal,
            _("Show the next region of the map that is coloured, the worst first (Ctrl+Shift+N)."),
        )

    def step(self, views: Any, overlay: Any) -> None:
        """Show the next place in all linked views; after the last place, the first.

        Raises:
            ValueError: the map cannot be read.
        """
        from XViewSynthScene.places import find_places

        if self._places is None:
            self._places = find_places(overlay.uncertainty_node, views.provenance, overlay.limits_hu[0])
        if not self._places:
            self.ui.placeLabel.text = _("No place of the map is coloured.")
            return
        place, number, count = self._places[self._next], self._next + 1, len(self._places)
        self._next = number % count
        views.jump_to(place.position)
        self.ui.placeLabel.text = _("{number} of {count}: {hu:.0f} HU").format(
            number=number, count=count, hu=place.uncertainty_hu
        )
