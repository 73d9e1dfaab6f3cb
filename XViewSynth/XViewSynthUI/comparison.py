"""Original and enhanced volume side by side in linked views."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from XViewSynthScene.desk import allow, is_shown, make_timer, process_events, renderer_of, schedule_render

from .places import PlaceStepper

BLINK_MILLISECONDS = 600


class Comparison:
    """The linked views and the widgets that control them.

    Args:
        ui: the widgets of the panel.
    """

    def __init__(self, ui: Any) -> None:
        self.ui = ui
        self.views: Any | None = None
        self._isShowing = False
        # Where the divider is now.
        self._divider = 0.0
        self._places = PlaceStepper(ui)
        self._marks: Any | None = None
        self.blinkTimer = make_timer(qt, BLINK_MILLISECONDS, self._blink)

    def show(self, parameters: Any, enhancedVolume: Any | None) -> None:
        """Compare an enhanced volume with its original.

        Raises:
            ValueError: the volumes cannot be shown; the linked views are closed.
        """
        self._isShowing = True
        try:
            self.views = self.views or _makeViews()
            # The fade of the previous pair does not apply to this one.
            parameters.fade = 0.0
            original, enhanced, uncertainty = _comparedVolumes(enhancedVolume)
            self._places.reset()
            self._divider = 0.0
            self.views.show(original, enhanced, uncertainty, opacity=_mapOpacity(parameters))
        except ValueError:
            self.close()
            raise
        finally:
            self._isShowing = False

    def restore(self, parameters: Any) -> None:
        """Fill the linked views of a loaded scene: scenes hold the views and volumes, but not the marks.

        Raises:
            ValueError: the volumes cannot be shown; the linked views are closed.
        """
        from XViewSynthScene.layout import LAYOUT_ID

        # Showing processes events, so it may meet a scene that was just loaded.
        if is_shown(LAYOUT_ID) and not self._isShowing:
            self.show(parameters, parameters.enhancedVolume)

    def swap(self, parameters: Any) -> None:
        """Switch the lower views between original and enhanced volume."""
        parameters.fade = 0.0 if parameters.fade >= 0.5 else 1.0

    def showNextPlace(self, parameters: Any) -> None:
        """Show the next uncertain place in all linked views, with the uncertainty map.

        Raises:
            ValueError: the map cannot be read.
        """
        overlay = self.views.overlay if self.views else None
        if overlay:
            parameters.showUncertainty = True
            self._places.step(self.views, overlay)

    def close(self) -> None:
        """Restore the layout before the linked views."""
        self.blinkTimer.stop()
        self._places.reset()
        views, self.views = self.views, None
        if views:
            views.close()

    def update(self, parameters: Any | None) -> None:
        """Update views and widgets from the parameters; None while the scene is being closed."""
        self._updateWidgets(parameters)
        if self.views and parameters:
            self.views.set_fade(parameters.fade)
            self.views.set_as_acquired(parameters.asAcquired)
            self._moveDivider(parameters.divider)
            if self.views.overlay:
                self.views.overlay.set_opacity(_mapOpacity(parameters))
        blinks = bool(self.views and parameters and parameters.blink)
        if blinks != self.blinkTimer.active:
            self.blinkTimer.start() if blinks else self.blinkTimer.stop()

    @property
    def marks(self) -> dict[str, Any]:
        """The marks (XViewSynthScene.marks.SliceMark) in the views of other layouts, by the layout name of the view."""
        return self._marks.marks if self._marks else {}

    def markEverywhere(self, enabled: bool) -> None:
        """Switch the marks of observed and synthetic slices in the views of other layouts on or off."""
        if self._marks is None and enabled:
            self._marks = _makeMarks()
        if self._marks is not None:
            self._marks.set_enabled(enabled)

    def _updateWidgets(self, parameters: Any | None) -> None:
        enhanced = parameters.enhancedVolume if parameters else None
        hidden = None if self.views else _("Show the linked views first.")
        mapRefusal = hidden or (None if self.views.overlay else _("This volume has no uncertainty map."))
        allow(
            self.ui.showViewsButton,
            None if enhanced else _("Choose an enhanced volume first."),
            _("Show original (above) and enhanced volume (below) in three linked directions."),
        )
        allow(self.ui.swapButton, hidden, _("Switch the lower views between original and enhanced volume."))
        allow(self.ui.formerLayoutButton, hidden, _("Return to the layout before the linked views."))
        allow(self.ui.fadeSlider, hidden, _("Blend in the lower views: 0 shows the enhanced volume, 1 the original."))
        allow(
            self.ui.dividerSlider,
            hidden,
            _("In the lower views, show the original to the left of a divider; 0 is no divider."),
        )
        allow(
            self.ui.asAcquiredCheckBox,
            hidden,
            _("Show the original without interpolation, each voxel as large as it was acquired."),
        )
        allow(self.ui.blinkCheckBox, hidden, _("Alternate original and enhanced volume in the lower views."))
        allow(
            self.ui.uncertaintyCheckBox,
            mapRefusal,
            _("Colour the places with the largest expected error, in HU."),
        )
        self._places.update(mapRefusal)
        allow(self.ui.uncertaintySlider, mapRefusal, _("Opacity of the uncertainty map."))

    def _moveDivider(self, position: float) -> None:
        from XViewSynthScene.layout import ENHANCED, PLANES, view_name

        if position != self._divider:
            self._divider = position
            self.views.set_divider(position)
            schedule_render(view_name(ENHANCED, plane) for plane in PLANES)

    def _blink(self) -> None:
        if self.views:
            self.views.toggle()


def _mapOpacity(parameters: Any) -> float:
    return parameters.uncertaintyOpacity if parameters.showUncertainty else 0.0


def _layoutNode() -> Any | None:
    layoutManager = slicer.app.layoutManager()
    return layoutManager.layoutLogic().GetLayoutNode() if layoutManager else None


def _makeMarks() -> Any:
    """Marks for the views of this application."""
    from XViewSynthScene.everywhere import MarksEverywhere

    return MarksEverywhere(slicer.mrmlScene, _layoutNode(), renderer_of)


def _makeViews() -> Any:
    """New linked views for this application."""
    from XViewSynthScene.views import LinkedViews

    return LinkedViews(
        slicer.mrmlScene, _layoutNode(), slicer.app.applicationLogic(), renderer_of, lambda: process_events(qt)
    )


def _comparedVolumes(enhancedVolume: Any) -> tuple[Any, Any, Any | None]:
    """Original, enhanced and uncertainty map (or None); raises ValueError if the original was removed."""
    from XViewSynthScene.provenance import input_node, uncertainty_node

    if enhancedVolume is None:
        raise ValueError(_("The scene holds no enhanced volume for the linked views: choose one."))
    original = input_node(enhancedVolume)
    if original is None:
        raise ValueError(
            _("The scan that '{name}' was made from is no longer in the scene: load it again.").format(
                name=enhancedVolume.GetName()
            )
        )
    return original, enhancedVolume, uncertainty_node(enhancedVolume)
