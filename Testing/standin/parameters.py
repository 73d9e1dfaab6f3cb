"""Typed parameters over a parameter node, with the manners of Slicer's `parameterNodeWrapper`.

Values live in a vtkMRMLScriptedModuleNode, nodes as its references. A value of the wrong type is a `TypeError`, one out
of range a `ValueError`; numpy's numbers are of the wrong type. Widgets are bound by the dynamic property
`SlicerParameterName`.
"""

from __future__ import annotations

import enum
import pathlib
import types
import typing
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ctk
import qt
import slicer
import vtk

__all__ = [
    "Choice",
    "Decimals",
    "Default",
    "Exclude",
    "Maximum",
    "Minimum",
    "NotNone",
    "SingleStep",
    "SlicerParameterNamePropertyName",
    "WithinRange",
    "isParameterNodeWrapper",
    "parameterNodeWrapper",
]

SlicerParameterNamePropertyName = "SlicerParameterName"

_RESERVED = (
    "allParameters",
    "default",
    "isCached",
    "dataType",
    "getValue",
    "setValue",
    "connectGui",
    "connectParametersToGui",
    "disconnectGui",
    "StartModify",
    "EndModify",
    "AddObserver",
    "RemoveObserver",
    "Modified",
)


# What an annotation may say


class Default:
    """The value of a parameter that nobody has set."""

    def __init__(self, value: object = None, *, generator: Callable | None = None) -> None:
        self._value, self._generator = value, generator

    @property
    def value(self) -> object:
        return self._generator() if self._generator else self._value


@dataclass
class Decimals:
    """How many decimals a spin box or slider shows."""

    value: int


@dataclass
class SingleStep:
    """The step of a spin box or slider."""

    value: float


class Validator:
    """What a value has to fulfil."""

    def validate(self, value: object) -> None:
        """Raise `ValueError` for a value that does not fulfil it."""
        raise NotImplementedError


class NotNone(Validator):
    """None is refused."""

    def validate(self, value: object) -> None:
        if value is None:
            raise ValueError("Value must not be None")


class WithinRange(Validator):
    """From the minimum to the maximum, both included."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Minimum(Validator):
    """At least the minimum."""

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def validate(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"Value must be >= {self.minimum}, is {value}")


class Maximum(Validator):
    """At most the maximum."""

    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def validate(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"Value must be <= {self.maximum}, is {value}")


class Choice(Validator):
    """One of the choices."""

    def __init__(self, choices: typing.Iterable) -> None:
        self.choices = choices

    def validate(self, value: object) -> None:
        if value not in self.choices:
            raise ValueError(f"Value must be one of {self.choices}, is '{value}'")


class Exclude(Validator):
    """None of the excluded values."""

    def __init__(self, excludedValues: typing.Iterable) -> None:
        self.excludedValues = excludedValues

    def validate(self, value: object) -> None:
        if value in self.excludedValues:
            raise ValueError(f"Value must not be one of {self.excludedValues}, is '{value}'")


# How values of a type are kept


@dataclass(frozen=True)
class _Kind:
    """How values of one type are kept as a parameter's text."""

    type: Any
    accepts: Callable[[object], bool]
    default: Callable[[], Any]
    to_text: Callable[[Any], str]
    from_text: Callable[[str], Any]


def _kind_of(annotation: Any) -> _Kind:
    if annotation is bool:
        return _Kind(bool, lambda v: isinstance(v, bool), bool, str, lambda text: text == "True")
    if annotation is int:
        return _Kind(int, lambda v: isinstance(v, int), int, str, int)
    if annotation is float:
        return _Kind(float, lambda v: isinstance(v, (int, float)), int, lambda v: str(float(v)), float)
    if annotation is str:
        return _Kind(str, lambda v: isinstance(v, str), str, str, str)
    if isinstance(annotation, type) and issubclass(annotation, pathlib.PurePath):
        return _Kind(annotation, lambda v: isinstance(v, annotation), annotation, str, annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _Kind(
            annotation,
            lambda v: isinstance(v, annotation),
            lambda: next(iter(annotation)),
            lambda v: v.name,
            lambda text: annotation[text],
        )
    raise TypeError(f"The stand-in's parameterNodeWrapper keeps no {annotation}")


def _is_node_class(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, slicer.vtkMRMLNode)


class _Parameter:
    """One parameter: its name, its types (several for a union), its validators and its default."""

    def __init__(self, owner: type, name: str, annotation: Any) -> None:
        self.name, self.annotation = name, annotation
        plain, *self.annotations = typing.get_args(typing.Annotated[annotation, None])[:-1]
        self.plain = plain
        union = isinstance(plain, types.UnionType) or typing.get_origin(plain) is typing.Union
        members = list(typing.get_args(plain)) if union else [plain]
        self.optional = type(None) in members
        self.members = [member for member in members if member is not type(None)]
        self.is_node = all(_is_node_class(member) for member in self.members)
        self.kinds = [] if self.is_node else [_kind_of(member) for member in self.members]
        self.validators = [item for item in self.annotations if isinstance(item, Validator)]
        self._default = self._find_default(owner)

    def _find_default(self, owner: type) -> Default:
        if self.name in vars(owner):
            return Default(vars(owner)[self.name])
        stated = [item for item in self.annotations if isinstance(item, Default)]
        if stated:
            return stated[0]
        return Default(None) if self.is_node or self.optional else Default(generator=self.kinds[0].default)

    @property
    def default(self) -> Any:
        return self._default.value

    def find(self, kind: type) -> Any:
        """The first annotation of a kind, or None."""
        return next((item for item in self.annotations if isinstance(item, kind)), None)

    def is_in(self, node: slicer.vtkMRMLScriptedModuleNode) -> bool:
        return bool(node.HasParameter(self.name))

    def check(self, value: Any) -> None:
        """Raise `TypeError` or `ValueError` for a value that does not belong here."""
        if self.is_node:
            if value is not None and not isinstance(value, tuple(self.members)):
                raise TypeError(f"Value must be a node of {self.members}, is '{value}' of {type(value)}")
        elif value is None:
            if not self.optional:
                raise ValueError(f"{self.name} must not be None")
            return
        elif not any(kind.accepts(value) for kind in self.kinds):
            raise TypeError(f"Value must be of type '{self.plain}', is type '{type(value)}' value '{value}'")
        for validator in self.validators:
            validator.validate(value)

    def write(self, node: slicer.vtkMRMLScriptedModuleNode, value: Any) -> None:
        self.check(value)
        with slicer.util.NodeModify(node):
            if self.is_node:
                node.SetParameter(self.name, "")
                node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
                return
            text = "" if value is None else next(k for k in self.kinds if k.accepts(value)).to_text(value)
            node.SetParameter(self.name, ("=" + text if value is not None else "") if self.optional else text)

    def read(self, node: slicer.vtkMRMLScriptedModuleNode) -> Any:
        if not self.is_in(node):
            self.write(node, self.default)
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.optional:
            if not text:
                return None
            text = text[1:]
        return self.kinds[0].from_text(text)


# How a widget shows a value


class _Connector:
    """A widget that shows a parameter: how to read and write it, and the signal that tells of a change."""

    signal: str

    def __init__(self, widget: Any, parameter: _Parameter) -> None:
        self.widget, self.parameter = widget, parameter
        self._callback: Callable | None = None

    def on_changed(self, callback: Callable | None) -> None:
        signal = getattr(self.widget, self.signal)
        if callback is None:
            signal.disconnect(self._changed)
        else:
            signal.connect(self._changed)
        self._callback = callback

    def _changed(self) -> None:
        if self._callback:
            self._callback()

    def read(self) -> Any:
        raise NotImplementedError

    def write(self, value: Any) -> None:
        raise NotImplementedError


class _ChecksConnector(_Connector):
    signal = "toggled"

    def read(self) -> bool:
        return self.widget.checked

    def write(self, value: bool) -> None:
        self.widget.checked = value


class _NumberConnector(_Connector):
    signal = "valueChanged"

    def __init__(self, widget: Any, parameter: _Parameter) -> None:
        super().__init__(widget, parameter)
        within = parameter.find(WithinRange)
        lowest, highest = parameter.find(Minimum), parameter.find(Maximum)
        bounded = within is not None or (lowest is not None and highest is not None)
        if type(widget) in (ctk.ctkSliderWidget, slicer.qMRMLSliderWidget, qt.QSlider) and not bounded:
            raise RuntimeError(f"{type(widget).__name__} needs WithinRange on the parameter {parameter.name}.")
        self._whole = parameter.plain is int
        small = type(widget) in (qt.QSlider, qt.QSpinBox)
        if not small and (self._whole or parameter.find(Decimals)):
            widget.decimals = 0 if self._whole else parameter.find(Decimals).value
        if parameter.find(SingleStep):
            widget.singleStep = parameter.find(SingleStep).value
        unbounded = (-(2**31), 2**31 - 1) if small else (float("-inf"), float("inf"))
        widget.minimum = (within or lowest).minimum if within or lowest else unbounded[0]
        widget.maximum = (within or highest).maximum if within or highest else unbounded[1]

    def read(self) -> float:
        return int(self.widget.value) if self._whole else self.widget.value

    def write(self, value: float) -> None:
        self.widget.value = int(value) if self._whole else value


class _ComboBoxConnector(_Connector):
    signal = "currentIndexChanged"

    def __init__(self, widget: Any, parameter: _Parameter) -> None:
        super().__init__(widget, parameter)
        if issubclass(parameter.plain, enum.Enum):
            self._choices = list(parameter.plain)
            labels = [getattr(parameter.plain, "label", lambda item: item.name)(item) for item in self._choices]
        else:
            choice = parameter.find(Choice)
            if choice is None:
                raise RuntimeError(f"A combo box needs the Choice annotation on the parameter {parameter.name}.")
            self._choices = list(choice.choices)
            labels = [str(item) for item in self._choices]
        widget.clear()
        for label in labels:
            widget.addItem(label)

    def read(self) -> Any:
        return self._choices[self.widget.currentIndex]

    def write(self, value: Any) -> None:
        if value not in self._choices:
            raise ValueError(f"Unable to find value {value} in choices {self._choices}")
        self.widget.currentIndex = self._choices.index(value)


class _LineConnector(_Connector):
    signal = "textChanged"

    def read(self) -> str:
        return self.widget.text

    def write(self, value: str) -> None:
        if value != self.widget.text:
            self.widget.text = value


class _PathConnector(_Connector):
    signal = "currentPathChanged"

    def read(self) -> pathlib.PurePath:
        return self.parameter.plain(self.widget.currentPath)

    def write(self, value: pathlib.PurePath) -> None:
        self.widget.currentPath = str(value)


class _NodeConnector(_Connector):
    signal = "currentNodeChanged"

    def __init__(self, widget: Any, parameter: _Parameter) -> None:
        super().__init__(widget, parameter)
        widget.nodeTypes = tuple(member().GetClassName() for member in parameter.members)

    def read(self) -> slicer.vtkMRMLNode | None:
        return self.widget.currentNode()

    def write(self, value: slicer.vtkMRMLNode | None) -> None:
        self.widget.setCurrentNode(value)


def _make_connector(widget: Any, parameter: _Parameter) -> _Connector:
    kind, plain = type(widget), parameter.plain
    if parameter.is_node and kind == slicer.qMRMLNodeComboBox:
        return _NodeConnector(widget, parameter)
    if plain is bool and kind in (qt.QCheckBox, ctk.ctkCheckBox, qt.QPushButton):
        if not widget.checkable:
            widget.checkable = True
        return _ChecksConnector(widget, parameter)
    if plain is int and kind in (qt.QSlider, qt.QSpinBox):
        return _NumberConnector(widget, parameter)
    floats = (
        qt.QDoubleSpinBox,
        ctk.ctkSliderWidget,
        slicer.qMRMLSliderWidget,
        ctk.ctkDoubleSpinBox,
        slicer.qMRMLSpinBox,
    )
    if plain in (int, float) and kind in floats:
        return _NumberConnector(widget, parameter)
    if kind in (qt.QComboBox, ctk.ctkComboBox) and isinstance(plain, type):
        return _ComboBoxConnector(widget, parameter)
    if plain is str and kind == qt.QLineEdit:
        return _LineConnector(widget, parameter)
    if isinstance(plain, type) and issubclass(plain, pathlib.PurePath) and kind == ctk.ctkPathLineEdit:
        return _PathConnector(widget, parameter)
    raise RuntimeError(
        f"Unable to create GUI connector from datatype '{parameter.annotation}' to widget type '{kind}'."
    )


# The wrapper


class _Wrapper:
    """What every wrapped class can do besides its parameters."""

    allParameters: typing.ClassVar[dict[str, _Parameter]]
    _is_parameter_node_wrapper = True

    def __init__(self, parameterNode: slicer.vtkMRMLScriptedModuleNode, prefix: str | None = None) -> None:
        if prefix:
            raise NotImplementedError("The stand-in's parameterNodeWrapper knows no prefix.")
        self.parameterNode = parameterNode
        self._guis: dict[int, list[tuple[str, _Connector]]] = {}
        self._tags: dict[int, int] = {}
        self._updating = False
        for parameter in self.allParameters.values():
            if not parameter.is_in(parameterNode):
                parameter.write(parameterNode, parameter.default)
        self._cache: dict[str, Any] = {}
        self._writing: set[str] = set()
        self._read_all()
        # The node outlives its wrappers and must not keep them.
        me = weakref.ref(self)
        event = vtk.vtkCommand.ModifiedEvent
        # Of observers with the same priority, VTK calls the one that was added first last.
        self._cache_tag = parameterNode.AddObserver(event, lambda *_: me() and me()._read_all(), 1.0)

    def __del__(self) -> None:
        self.parameterNode.RemoveObserver(self._cache_tag)

    def _read_all(self) -> None:
        """Cache what the node holds now: like Slicer, a wrapper reads only when its node is modified."""
        for name, parameter in self.allParameters.items():
            if name not in self._writing:
                self._cache[name] = parameter.read(self.parameterNode)

    @classmethod
    def _parameter(cls, name: str) -> _Parameter:
        if name not in cls.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}. Found: {', '.join(cls.allParameters)}")
        return cls.allParameters[name]

    def getValue(self, name: str) -> Any:
        self._parameter(name)
        return self._cache[name]

    def setValue(self, name: str, value: Any) -> None:
        parameter = self._parameter(name)
        self._writing.add(name)
        try:
            with slicer.util.NodeModify(self.parameterNode):
                parameter.write(self.parameterNode, value)
                self._cache[name] = parameter.read(self.parameterNode)
        finally:
            self._writing.discard(name)

    def default(self, name: str) -> Default:
        return Default(self._parameter(name).default)

    def isCached(self, name: str) -> bool:
        self._parameter(name)
        return True

    @classmethod
    def dataType(cls, name: str) -> Any:
        return cls._parameter(name).annotation

    def connectGui(self, gui: Any) -> int:
        """Bind the widgets among an object's attributes, or below a widget, that name a parameter; return a tag."""
        if isinstance(gui, dict):
            raise AttributeError("connectGui takes an object: for a dict there is connectParametersToGui")
        below = gui.findChildren(qt.QWidget) if hasattr(gui, "isWidgetType") else vars(gui).values()
        named = {widget.property(SlicerParameterNamePropertyName): widget for widget in below}
        return self.connectParametersToGui({name: widget for name, widget in named.items() if name})

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        connectors = [(name, _make_connector(widget, self._parameter(name))) for name, widget in mapping.items()]
        tag = max(self._guis, default=-1) + 1
        self._guis[tag] = connectors
        for name, connector in connectors:
            connector.write(self.getValue(name))
            connector.on_changed(self._taking(name, connector))
        self._tags[tag] = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())
        return tag

    def _taking(self, name: str, connector: _Connector) -> Callable:
        def take() -> None:
            if not self._updating:
                self.setValue(name, connector.read())

        return take

    def _show(self) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self):
                for connectors in self._guis.values():
                    for name, connector in connectors:
                        connector.write(self.getValue(name))
        finally:
            self._updating = False

    def disconnectGui(self, tag: int | None) -> None:
        for _, connector in self._guis.pop(tag, ()):
            connector.on_changed(None)
        if tag in self._tags:
            self.RemoveObserver(self._tags.pop(tag))

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, was_modifying: int) -> int:
        return self.parameterNode.EndModify(was_modifying)

    def AddObserver(self, event: int | str, callback: Callable, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def _value_property(name: str) -> property:
    return property(lambda self: self.getValue(name), lambda self, value: self.setValue(name, value))


def parameterNodeWrapper(classtype: type | None = None) -> Any:
    """Make a class of annotated names into one whose attributes live in a parameter node."""
    if classtype is None:
        return parameterNodeWrapper
    parameters = {
        name: _Parameter(classtype, name, annotation)
        for name, annotation in typing.get_type_hints(classtype, include_extras=True).items()
    }
    for name in vars(classtype):
        if name in _RESERVED:
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
    kept = {name: value for name, value in vars(classtype).items() if name not in ("__dict__", "__weakref__")}
    kept.update({name: _value_property(name) for name in parameters}, allParameters=parameters)
    return type(classtype.__name__, (_Wrapper,), kept)


def isParameterNodeWrapper(classOrObj: Any) -> bool:
    """Whether a class or an object is a parameter node wrapper."""
    return getattr(classOrObj, "_is_parameter_node_wrapper", False)
