"""The widgets of CTK that a module's panel may use, with CTK's properties, methods and signals."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Property, QEvent, QPoint, QRect, Qt, Signal, Slot
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import (
    QAbstractButton,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGroupBox,
    QHBoxLayout,
    QLineEdit,
    QMessageBox,
    QPushButton,
    QSlider,
    QStyle,
    QStyleOptionButton,
    QToolButton,
    QWidget,
)

_TITLE_PADDING = 6


class _Folding:
    """What collapsible widgets share: children are hidden while collapsed, and come back as they were."""

    def _start_folding(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        self._hidden_by_us: list[QWidget] = []

    def _fold(self, collapsed: bool) -> None:
        self._collapsed = collapsed
        if collapsed:
            for child in self._child_widgets():
                if not child.isHidden():
                    self._hide(child)
        else:
            hidden, self._hidden_by_us = self._hidden_by_us, []
            for child in hidden:
                child.show()

    def _child_widgets(self) -> list[QWidget]:
        return [child for child in self.children() if isinstance(child, QWidget)]

    def _hide(self, child: QWidget) -> None:
        if child not in self._hidden_by_us:
            self._hidden_by_us.append(child)
        child.hide()

    def _fold_newcomer(self, event: QEvent) -> None:
        child = event.child()
        added = event.type() == QEvent.Type.ChildPolished and isinstance(child, QWidget)
        if added and self._collapsed and not child.isHidden():
            self._hide(child)


class ctkCollapsibleButton(_Folding, QAbstractButton):
    """A section with a title that shows and hides it."""

    contentsCollapsed = Signal(bool)

    def __init__(self, *arguments: object) -> None:
        texts = [item for item in arguments if isinstance(item, str)]
        parents = [item for item in arguments if isinstance(item, QWidget)]
        super().__init__(*parents)
        self._start_folding(False)
        self.setCheckable(True)
        self.setChecked(True)
        self.setText(texts[0] if texts else "")
        self.setContentsMargins(0, self._title_height(), 0, 0)
        self.toggled.connect(self._follow_checked)

    def _title_height(self) -> int:
        return self.fontMetrics().height() + 2 * _TITLE_PADDING

    def _follow_checked(self, checked: bool) -> None:
        self._fold(not checked)
        self.updateGeometry()
        self.contentsCollapsed.emit(not checked)

    def childEvent(self, event: QEvent) -> None:
        super().childEvent(event)
        self._fold_newcomer(event)

    def hitButton(self, place: QPoint) -> bool:
        return place.y() <= self._title_height()

    def sizeHint(self):
        hint = QWidget.sizeHint(self)
        return hint.expandedTo(self.minimumSizeHint())

    def minimumSizeHint(self):
        hint = QWidget.minimumSizeHint(self)
        hint.setHeight(max(hint.height(), self._title_height()))
        hint.setWidth(max(hint.width(), self.fontMetrics().horizontalAdvance(self.text()) + 4 * self._title_height()))
        return hint

    def paintEvent(self, _event: QEvent) -> None:
        painter = QPainter(self)
        bar = QRect(0, 0, self.width(), self._title_height())
        option = QStyleOptionButton()
        option.initFrom(self)
        option.rect = bar
        self.style().drawControl(QStyle.ControlElement.CE_PushButtonBevel, option, painter, self)
        arrow = QStyleOptionButton()
        arrow.initFrom(self)
        arrow.rect = QRect(_TITLE_PADDING, 0, bar.height() - _TITLE_PADDING, bar.height()).adjusted(2, 8, -2, -8)
        shape = QStyle.PrimitiveElement.PE_IndicatorArrowRight
        if not self._collapsed:
            shape = QStyle.PrimitiveElement.PE_IndicatorArrowDown
        self.style().drawPrimitive(shape, arrow, painter, self)
        painter.drawText(bar.adjusted(bar.height() + 4, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, self.text())

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def setCollapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = Property(bool, _get_collapsed, setCollapsed)
    contentsFrameShape = Property(int, lambda self: 0, lambda self, value: None)
    collapsedHeight = Property(int, lambda self: 10, lambda self, value: None)


class ctkCollapsibleGroupBox(_Folding, QGroupBox):
    """A group box whose title folds it."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._start_folding(False)
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(lambda checked: self._fold(not checked))

    def childEvent(self, event: QEvent) -> None:
        super().childEvent(event)
        self._fold_newcomer(event)

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def setCollapsed(self, collapsed: bool) -> None:
        self.setChecked(not collapsed)

    collapsed = Property(bool, _get_collapsed, setCollapsed)


class ctkDoubleSpinBox(QDoubleSpinBox):
    """A spin box for floats."""


class ctkCheckBox(QCheckBox):
    """A check box."""


class ctkSliderWidget(QWidget):
    """A slider and a spin box that hold one float between them."""

    valueChanged = Signal(float)
    valueChanging = Signal(float)
    valueIsChanging = Signal(float)
    SIGNATURES = ("valueChanged(double)", "valueChanging(double)", "valueIsChanging(double)")

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider = QSlider(Qt.Orientation.Horizontal)
        self._spin_box = QDoubleSpinBox()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider, 1)
        row.addWidget(self._spin_box)
        self._tracking = True
        self._page_step = 10.0
        self._spin_box.setRange(0.0, 99.0)
        self._spin_box.valueChanged.connect(self._follow_spin_box)
        self._slider.valueChanged.connect(self._follow_slider)
        self._fit_slider()

    def _fit_slider(self) -> None:
        span = self._spin_box.maximum() - self._spin_box.minimum()
        blocked = self._slider.blockSignals(True)
        steps = span / (self._spin_box.singleStep() or 1.0)
        self._slider.setRange(0, round(min(max(steps, 0.0), 1e6)))
        self._slider.setValue(self._position(self._spin_box.value()))
        self._slider.blockSignals(blocked)

    def _position(self, value: float) -> int:
        span = self._spin_box.maximum() - self._spin_box.minimum()
        return round((value - self._spin_box.minimum()) / span * self._slider.maximum()) if span else 0

    def _follow_spin_box(self, value: float) -> None:
        blocked = self._slider.blockSignals(True)
        self._slider.setValue(self._position(value))
        self._slider.blockSignals(blocked)
        self.valueChanged.emit(value)

    def _follow_slider(self, position: int) -> None:
        self._spin_box.setValue(self._spin_box.minimum() + position * self._spin_box.singleStep())

    def setValue(self, value: float) -> None:
        self._spin_box.setValue(value)

    def setRange(self, minimum: float, maximum: float) -> None:
        self._spin_box.setRange(minimum, maximum)
        self._fit_slider()

    def setMinimum(self, minimum: float) -> None:
        self._spin_box.setMinimum(minimum)
        self._fit_slider()

    def setMaximum(self, maximum: float) -> None:
        self._spin_box.setMaximum(maximum)
        self._fit_slider()

    def setSingleStep(self, step: float) -> None:
        self._spin_box.setSingleStep(step)
        self._fit_slider()

    def setPageStep(self, step: float) -> None:
        self._page_step = step
        self._slider.setPageStep(max(round(step / self._spin_box.singleStep()), 1))

    def setDecimals(self, decimals: int) -> None:
        self._spin_box.setDecimals(decimals)

    def setSuffix(self, suffix: str) -> None:
        self._spin_box.setSuffix(suffix)

    def setPrefix(self, prefix: str) -> None:
        self._spin_box.setPrefix(prefix)

    def setTracking(self, tracking: bool) -> None:
        self._tracking = tracking
        self._slider.setTracking(tracking)

    value = Property(float, lambda self: self._spin_box.value(), setValue)
    minimum = Property(float, lambda self: self._spin_box.minimum(), setMinimum)
    maximum = Property(float, lambda self: self._spin_box.maximum(), setMaximum)
    singleStep = Property(float, lambda self: self._spin_box.singleStep(), setSingleStep)
    pageStep = Property(float, lambda self: self._page_step, setPageStep)
    decimals = Property(int, lambda self: self._spin_box.decimals(), setDecimals)
    suffix = Property(str, lambda self: self._spin_box.suffix(), setSuffix)
    prefix = Property(str, lambda self: self._spin_box.prefix(), setPrefix)
    tracking = Property(bool, lambda self: self._tracking, setTracking)


class ctkComboBox(QComboBox):
    """A combo box that shows a default text while nothing is chosen."""

    def _get_default_text(self) -> str:
        return self.placeholderText()

    def setDefaultText(self, text: str) -> None:
        self.setPlaceholderText(text)

    defaultText = Property(str, _get_default_text, setDefaultText)


class ctkPathLineEdit(QWidget):
    """A line for the path of a file or folder, with a button to look for it."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    # CTK's Filter flags.
    Files, Dirs, Executable, Readable, Writable = 0x002, 0x001, 0x040, 0x010, 0x020

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._filters, self._name_filters, self._setting_key = self.Files, [], ""
        self._line = QLineEdit()
        self._button = QToolButton()
        self._button.setText("…")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._line, 1)
        row.addWidget(self._button)
        self._line.textChanged.connect(self._follow_line)
        self._button.clicked.connect(self.browse)

    def _follow_line(self, path: str) -> None:
        self.currentPathChanged.emit(path)
        self.validInputChanged.emit(Path(path).exists())

    @Slot()
    def browse(self) -> None:
        """Let the user look for a file, or for a folder where the filters ask for one."""
        if self._filters & self.Dirs:
            path = QFileDialog.getExistingDirectory(self, "", self._line.text())
        else:
            path, _ = QFileDialog.getOpenFileName(self, "", self._line.text(), ";;".join(self._name_filters))
        if path:
            self._line.setText(path)

    def setCurrentPath(self, path: str) -> None:
        self._line.setText(path)

    currentPath = Property(str, lambda self: self._line.text(), setCurrentPath)
    filters = Property(int, lambda self: self._filters, lambda self, value: setattr(self, "_filters", value))
    nameFilters = Property(
        "QStringList", lambda self: self._name_filters, lambda self, value: setattr(self, "_name_filters", value)
    )
    settingKey = Property(str, lambda self: self._setting_key, lambda self, value: setattr(self, "_setting_key", value))


class ctkMessageBox(QMessageBox):
    """A message box that can be told not to show again."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._settings_key = ""

    dontShowAgainSettingsKey = Property(
        str, lambda self: self._settings_key, lambda self, value: setattr(self, "_settings_key", value)
    )


class ctkCheckablePushButton(QPushButton):
    """A push button with a check box, which may decide whether the button toggles."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._controls = False

    checkBoxControlsButtonToggleState = Property(
        bool, lambda self: self._controls, lambda self, value: setattr(self, "_controls", value)
    )


WIDGETS = (
    ctkCollapsibleButton,
    ctkCollapsibleGroupBox,
    ctkDoubleSpinBox,
    ctkCheckBox,
    ctkSliderWidget,
    ctkComboBox,
    ctkPathLineEdit,
    ctkMessageBox,
    ctkCheckablePushButton,
)

# What Slicer's own parameter node compares with. Nobody can have one here.
ABSENT = ("ctkRangeWidget", "ctkDoubleRangeSlider", "ctkDoubleSlider", "ctkDirectoryButton", "ctkColorPickerButton")
