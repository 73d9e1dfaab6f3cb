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
        self._faintHU = 0.0
        # Where the divider is now.
        self._divider = 0.0
        self._places = PlaceStepper(ui)
        self._marks: Any | None = None
        self.blinkTimer = make_timer(qt, BLINK_MILLISECONDS, self._blink)

    def show(self, parameters: Any, enhancedVolume: Any | None) -> None:
        """Compare an enhanced volume with its original.

        Raises:
            ValueError: that is not possible; no linked views are shown then.
        """
        self._isShowing = True
        try:
            self.views = self.views or _makeViews()
            # What was compared before says nothing about how to begin with these.
            parameters.fade = 0.0
            original, enhanced, uncertainty = _comparedVolumes(enhancedVolume)
            self._faintHU = _faintHU(original) if uncertainty else 0.0
            self._places.reset()
            self._divider = 0.0
            self.views.show(original, enhanced, uncertainty, faint_hu=self._faintHU)
        except ValueError:
            self.close()
            raise
        finally:
            self._isShowing = False

    def restore(self, parameters: Any) -> None:
        """Fill the views of a scene that was saved with them: views and volumes are saved, marks are not.

        Raises:
            ValueError: that is not possible; no linked views are shown then.
        """
        from XViewSynthScene.views import LAYOUT_ID

        # Showing processes events, and may so meet a scene that has just been loaded.
        if is_shown(LAYOUT_ID) and not self._isShowing:
            self.show(parameters, parameters.enhancedVolume)

    def swap(self, parameters: Any) -> None:
        """In the lower views, show what is not shown there now."""
        parameters.fade = 0.0 if parameters.fade >= 0.5 else 1.0

    def showNextPlace(self, parameters: Any) -> None:
        """Show the next uncertain place in all linked views, with the uncertainty map.

        Raises:
            ValueError: the map cannot be read.
        """
        overlay = self.views.overlay if self.views else None
        if overlay:
            parameters.showUncertainty = True
            self._places.step(self.views, overlay.uncertainty_node, self.views.provenance, self._faintHU)

    def close(self) -> None:
        """Go back to the layout that was there before the linked views."""
        self.blinkTimer.stop()
        self._places.reset()
        views, self.views = self.views, None
        if views:
            views.close()

    def update(self, parameters: Any | None) -> None:
        """Bring views and widgets in line with the parameters; None while the scene is being closed."""
        self._updateWidgets(parameters)
        if self.views and parameters:
            self.views.set_fade(parameters.fade)
            self.views.set_as_acquired(parameters.asAcquired)
            self._moveDivider(parameters.divider)
            if self.views.overlay:
                self.views.overlay.set_opacity(parameters.uncertaintyOpacity if parameters.showUncertainty else 0.0)
        blinks = bool(self.views and parameters and parameters.blink)
        if blinks != self.blinkTimer.active:
            self.blinkTimer.start() if blinks else self.blinkTimer.stop()

    @property
    def marks(self) -> dict[str, Any]:
        """The marks in the views of other layouts (XViewSynthScene.marks.SliceMark), by the layout name of the view."""
        return self._marks.marks if self._marks else {}

    def markEverywhere(self, enabled: bool) -> None:
        """Mark observed and synthetic slices also in the views of other layouts, or do not."""
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
            _("Original above, enhanced below, in three directions; scrolling, zoom and window together."),
        )
        allow(self.ui.swapButton, hidden, _("In the lower views, show the original in place of the enhanced."))
        allow(self.ui.formerLayoutButton, hidden, _("Go back to the layout before the linked views."))
        allow(self.ui.fadeSlider, hidden, _("In the lower views: 0 is the enhanced volume, 1 the original."))
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
        allow(self.ui.blinkCheckBox, hidden, _("Original and enhanced take turns in the lower views."))
        allow(
            self.ui.uncertaintyCheckBox,
            mapRefusal,
            _("Colour the places where the expected error of the new slices exceeds the noise of the scan, in HU."),
        )
        self._places.update(mapRefusal)
        allow(self.ui.uncertaintySlider, mapRefusal, _("Opacity of the uncertainty map."))

    def _moveDivider(self, position: float) -> None:
        from XViewSynthScene.views import ENHANCED, PLANES, view_name

        if position != self._divider:
            self._divider = position
            self.views.set_divider(position)
            schedule_render(view_name(ENHANCED, plane) for plane in PLANES)

    def _blink(self) -> None:
        if self.views:
            self.views.toggle()


def _layoutNode() -> Any | None:
    layoutManager = slicer.app.layoutManager()
    return layoutManager.layoutLogic().GetLayoutNode() if layoutManager else None


def _makeMarks() -> Any:
    """Marks for the views of this application."""
    from XViewSynthScene.everywhere import MarksEverywhere

    return MarksEverywhere(slicer.mrmlScene, _layoutNode(), renderer_of)


def _makeViews() -> Any:
    """Linked views for this application, not yet shown."""
    from XViewSynthScene.views import LinkedViews

    return LinkedViews(
        slicer.mrmlScene, _layoutNode(), slicer.app.applicationLogic(), renderer_of, lambda: process_events(qt)
    )


def _faintHU(original: Any) -> float:
    """HU up to which the uncertainty of a scan is no more than its noise."""
    from XViewSynthScene.noise import noise_hu
    from XViewSynthScene.overlay import faint_from_noise

    try:
        noise = noise_hu(original)
    except ValueError:  # its voxels are no regular grid, or gone
        noise = None
    return faint_from_noise(noise)


def _comparedVolumes(enhancedVolume: Any) -> tuple[Any, Any, Any | None]:
    """Original, enhanced and uncertainty map (or None); raises ValueError where the original has gone."""
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
