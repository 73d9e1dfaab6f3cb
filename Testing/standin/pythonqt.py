"""Qt as Python code inside Slicer sees it: PySide6 objects behind proxies that behave as PythonQt's do.

PythonQt and PySide6 differ in ways that matter to a module. Here a Qt property is a value and not a method, enumerators
are ints, lists come back as tuples, keyword arguments are refused, `isinstance` knows the exact class alone, a plain
widget takes no new attributes, and a slot's exception is printed and goes no further; it is kept in
`Runtime.slot_errors` as well, so that a test can tell that none happened.
"""

from __future__ import annotations

import enum
import functools
import inspect
import operator
import sys
import traceback
import types
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

# QVariant keeps no larger integers on the way through PythonQt.
_VARIANT_LIMIT = 2**40

# Calls that hand a value to QVariant, and the place of that value among the arguments.
_VARIANT_ARGUMENTS = {"setProperty": 1, "setData": 1, "setItemData": 1, "addItem": 1, "insertItem": 2}

_MODAL_METHODS = ("exec", "exec_", "open_")
_MODAL_STATIC_CLASSES = (QtWidgets.QFileDialog, QtWidgets.QInputDialog, QtWidgets.QMessageBox, QtWidgets.QColorDialog)
_MODAL_STATIC_PREFIXES = ("get", "question", "information", "warning", "critical", "about")


@dataclass
class Runtime:
    """What the proxies tell the desktop at work, and ask of it.

    Attributes:
        slot_errors: a traceback for each exception that a slot let out.
        on_modal: answers a dialog that would wait for the user: called with the Qt object or class, the name of the
            method and its arguments.
    """

    slot_errors: list[str] = field(default_factory=list)
    on_modal: Callable[[object, str, tuple], Any] | None = None


runtime = Runtime()


def report_exception() -> None:
    """Print the exception in flight, as PythonQt does with that of a slot, and keep its traceback."""
    text = traceback.format_exc()
    runtime.slot_errors.append(text)
    print(text, file=sys.stderr)


class QtEnum(int):
    """An enumerator: an int, which still knows its enumeration so that Qt can be given it back."""

    member: enum.Enum

    def __new__(cls, member: enum.Enum) -> QtEnum:
        value = super().__new__(cls, member.value)
        value.member = member
        return value

    def _combined(self, other: int, operation: Callable) -> int:
        kind = type(self.member)
        if issubclass(kind, enum.Flag):
            return QtEnum(kind(operation(int(self), int(other))))
        return operation(int(self), int(other))

    def __or__(self, other: int) -> int:
        return self._combined(other, operator.or_)

    def __and__(self, other: int) -> int:
        return self._combined(other, operator.and_)

    def __xor__(self, other: int) -> int:
        return self._combined(other, operator.xor)

    def __invert__(self) -> int:
        return QtEnum(~self.member) if isinstance(self.member, enum.Flag) else ~int(self)


class EnumNamespace:
    """An enumeration's own name, as in `QMessageBox.StandardButton.Yes`."""

    def __init__(self, enumeration: type[enum.Enum]) -> None:
        self._enumeration = enumeration

    def __getattr__(self, name: str) -> QtEnum:
        try:
            return QtEnum(self._enumeration[name])
        except KeyError:
            raise AttributeError(f"{self._enumeration.__name__} has no enumerator '{name}'") from None


@dataclass(frozen=True)
class _Property:
    name: str
    type_name: str
    writable: bool
    is_enum: bool


@functools.cache
def _properties(qt_class: type) -> dict[str, _Property]:
    """The Qt properties of a class of QObjects by name, inherited ones included."""
    meta = getattr(qt_class, "staticMetaObject", None)
    if meta is None:
        return {}
    found = {}
    for index in range(meta.propertyCount()):
        it = meta.property(index)
        name = it.name()
        found[name] = _Property(name, it.typeName(), it.isWritable(), it.isEnumType() or it.isFlagType())
    if "objectName" in found:
        found.setdefault("name", found["objectName"])
    return found


def wrap(value: object) -> Any:
    """What PythonQt would hand to Python for what PySide6 handed to us."""
    if isinstance(value, enum.Enum):
        return QtEnum(value) if isinstance(value.value, int) else value
    if isinstance(value, shiboken6.Object):
        return _proxy_of(value)
    if isinstance(value, (list, tuple)):
        return tuple(wrap(item) for item in value)
    if isinstance(value, dict):
        return {key: wrap(item) for key, item in value.items()}
    return value


def unwrap(value: object) -> Any:
    """What PySide6 takes for what Python code gave to a Qt call."""
    if isinstance(value, Proxy):
        return value._alive()
    if isinstance(value, QtEnum):
        return value.member
    if isinstance(value, PythonQtClass):
        return value.qt_class
    if type(value) in (list, tuple, set):
        return type(value)(unwrap(item) for item in value)
    if type(value) is dict:
        return {key: unwrap(item) for key, item in value.items()}
    if hasattr(value, "dtype") and hasattr(value, "__index__") and getattr(value, "shape", None) == ():
        return operator.index(value) if value.dtype.kind in "iu" else value
    if isinstance(value, (types.FunctionType, types.MethodType, functools.partial, Method, types.BuiltinMethodType)):
        return _slot(value, None)
    return value


def _to_variant(value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and not isinstance(value, QtEnum) and abs(value) >= _VARIANT_LIMIT:
        raise ValueError(f"{value} does not fit into a QVariant: store it as a text")
    if isinstance(value, dict):
        return {str(key): _to_variant(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_variant(item) for item in value]
    return value


def _slot(function: Callable, signal_arguments: int | None) -> Callable:
    """The function as Qt may call it: with no more arguments than it takes, and letting no exception out."""

    def call(*arguments: object) -> object:
        given = arguments if signal_arguments is None else arguments[:signal_arguments]
        accepted = _accepted_arguments(function)
        try:
            return unwrap(function(*(wrap(item) for item in given[:accepted])))
        except Exception:
            report_exception()

    return call


def _accepted_arguments(function: Callable) -> int | None:
    """How many positional arguments PythonQt passes at most: it can tell for functions and methods alone."""
    plain = function.__func__ if inspect.ismethod(function) else function
    if not inspect.isfunction(plain) or plain.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return plain.__code__.co_argcount - (1 if inspect.ismethod(function) else 0)


def _call(function: Callable, name: str, arguments: tuple, keywords: dict) -> Any:
    """Call into Qt with PythonQt's manners: no keyword arguments, and `ValueError` where no overload fits."""
    if keywords:
        raise ValueError(f"{name} does not take keyword arguments: PythonQt knows positional arguments alone")
    arguments = tuple(unwrap(item) for item in arguments)
    try:
        return wrap(function(*arguments))
    except TypeError as error:
        if isinstance(function, (types.BuiltinFunctionType, types.MethodDescriptorType, type)):
            raise ValueError(f"{name}: no overload takes these arguments: {error}") from None
        raise


class Method:
    """A method of a Qt object, or of a class."""

    def __init__(self, owner: object, function: Callable, name: str) -> None:
        self._owner, self._function, self.__name__ = owner, function, name

    def __call__(self, *arguments: object, **keywords: object) -> Any:
        qt_owner = self._owner._alive() if isinstance(self._owner, Proxy) else self._owner
        if not keywords and _is_modal(qt_owner, self.__name__):
            return wrap(runtime.on_modal(qt_owner, self.__name__, tuple(unwrap(item) for item in arguments)))
        place = _VARIANT_ARGUMENTS.get(self.__name__)
        if isinstance(qt_owner, QtCore.QSettings) and self.__name__ == "setValue":
            place = 1
        if place is not None and len(arguments) > place:
            arguments = (*arguments[:place], _to_variant(arguments[place]), *arguments[place + 1 :])
        self._refuse_float_for_int(qt_owner, arguments)
        return _call(self._function, self.__name__, arguments, keywords)

    def _refuse_float_for_int(self, qt_owner: object, arguments: tuple) -> None:
        name = self.__name__[3:4].lower() + self.__name__[4:]
        known = _properties(type(qt_owner)).get(name) if self.__name__.startswith("set") else None
        if known and known.type_name == "int" and len(arguments) == 1 and isinstance(arguments[0], float):
            raise ValueError(f"{self.__name__} takes an int and not {arguments[0]!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Method) and other._owner is self._owner and other.__name__ == self.__name__

    def __hash__(self) -> int:
        return hash((id(self._owner), self.__name__))


def _is_modal(qt_owner: object, name: str) -> bool:
    """Whether the call would wait for an answer of the user's."""
    if runtime.on_modal is None:
        return False
    if isinstance(qt_owner, type):
        return issubclass(qt_owner, _MODAL_STATIC_CLASSES) and name.startswith(_MODAL_STATIC_PREFIXES)
    return isinstance(qt_owner, (QtWidgets.QDialog, QtWidgets.QMenu)) and name in _MODAL_METHODS


@dataclass
class _Connection:
    signal: str
    function: Callable
    slot: Callable


# The connections of each living QObject, by its address.
_connections: dict[int, list[_Connection]] = {}


def _connections_of(qt_object: QtCore.QObject) -> list[_Connection]:
    address = shiboken6.getCppPointer(qt_object)[0]
    if address not in _connections:
        _connections[address] = []
        qt_object.destroyed.connect(functools.partial(_forget_connections, address))
    return _connections[address]


def _forget_connections(address: int, *_: object) -> None:
    _connections.pop(address, None)


class Signal:
    """A signal of an object: `button.clicked`."""

    def __init__(self, owner: Proxy, name: str) -> None:
        self._owner, self._name = owner, name

    def connect(self, function: Callable) -> bool:
        """Have the function called on each emission, with at most as many arguments as it takes."""
        return connect(self._owner, self._name, function, None)

    def disconnect(self, function: Callable | None = None) -> bool:
        """Undo `connect`; without a function, all of this signal's connections."""
        return disconnect(self._owner, self._name, function)

    def emit(self, *arguments: object) -> None:
        """Send the signal."""
        _fullest(self._owner._alive(), self._name).emit(*(unwrap(item) for item in arguments))

    __call__ = emit


def _fullest(qt_object: QtCore.QObject, name: str) -> QtCore.SignalInstance:
    """The overload with the most arguments: where a signal's argument has a default, Qt knows it without it as well."""
    signal = getattr(qt_object, name)
    overloads = _overloads(type(qt_object), name)
    return signal[overloads[-1]] if len(overloads) > 1 else signal


@functools.cache
def _overloads(qt_class: type, name: str) -> list[str]:
    meta = qt_class.staticMetaObject
    methods = (meta.method(index) for index in range(meta.methodCount()))
    signals = [m for m in methods if bytes(m.name()).decode() == name and m.methodType() == m.MethodType.Signal]
    kinds = [[bytes(kind).decode() for kind in signal.parameterTypes()] for signal in signals]
    return [",".join(kind) for kind in sorted(kinds, key=len)]


def connect(owner: Proxy, name: str, function: Callable, arguments: int | None) -> bool:
    """Connect the signal of that name, of whose arguments the first so many are passed on."""
    if not callable(function):
        raise ValueError(f"{function!r} cannot be connected to {name}: it is not callable")
    qt_object = owner._alive()
    slot = _slot(function, arguments)
    _fullest(qt_object, name).connect(slot)
    _connections_of(qt_object).append(_Connection(name, function, slot))
    return True


def disconnect(owner: Proxy, name: str | None, function: Callable | None) -> bool:
    """Undo connections: of all signals without a name, to all functions without a function."""
    qt_object = owner._alive()
    known = _connections_of(qt_object)
    matching = [
        item for item in known if name in (None, item.signal) and (function is None or item.function == function)
    ]
    # PythonQt undoes one connection a call when the function is named.
    for item in matching[-1:] if function is not None else matching:
        _fullest(qt_object, item.signal).disconnect(item.slot)
        known.remove(item)
    return bool(matching)


class PythonQtClass(type):
    """The class of the proxies' classes: it gives a Qt class's static methods and its enumerators."""

    qt_class: type

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            value = getattr(cls.qt_class, name)
        except AttributeError:
            raise AttributeError(f"{cls.__name__} has no attribute '{name}'") from None
        if isinstance(value, type):
            return EnumNamespace(value) if issubclass(value, enum.Enum) else wrap_class(value)
        if isinstance(value, enum.Enum):
            return wrap(value)
        return Method(cls.qt_class, value, name) if callable(value) else wrap(value)


class Proxy(metaclass=PythonQtClass):
    """A Qt object or a Qt value."""

    __slots__ = ("__weakref__", "_qt_object")
    qt_class = shiboken6.Object

    def __init__(self, *arguments: object, **keywords: object) -> None:
        if keywords:
            raise ValueError(f"{type(self).__name__} does not take keyword arguments in its constructor")
        made = _constructor(type(self))
        arguments = tuple(unwrap(item) for item in arguments)
        try:
            qt_object = made(*arguments)
        except TypeError as error:
            raise ValueError(f"Could not construct {type(self).__name__} from these arguments: {error}") from None
        object.__setattr__(self, "_qt_object", qt_object)
        if isinstance(qt_object, QtCore.QObject):
            _proxies[shiboken6.getCppPointer(qt_object)[0]] = self

    def _alive(self) -> Any:
        """The PySide6 object.

        Raises:
            ValueError: it was destroyed.
        """
        try:
            qt_object = object.__getattribute__(self, "_qt_object")
        except AttributeError:
            raise ValueError(f"{type(self).__name__}.__init__ was not called") from None
        if not shiboken6.isValid(qt_object):
            raise ValueError(f"Trying to reach a {type(self).__name__} that was destroyed")
        return qt_object

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        qt_object = self._alive()
        if isinstance(qt_object, QtCore.QObject):
            known = _properties(type(qt_object)).get(name)
            if known is not None:
                return _read_property(qt_object, known)
        name_in_pyside = {"exec_": "exec"}.get(name, name)
        try:
            value = getattr(qt_object, name_in_pyside)
        except AttributeError:
            return self._dynamic_property(qt_object, name)
        if isinstance(value, QtCore.SignalInstance):
            return Signal(self, name)
        if isinstance(value, enum.Enum):
            return wrap(value)
        if callable(value):
            return Method(self, value, name)
        return self._dynamic_property(qt_object, name)

    def _dynamic_property(self, qt_object: object, name: str) -> Any:
        if isinstance(qt_object, QtCore.QObject) and name.encode() in [
            bytes(n) for n in qt_object.dynamicPropertyNames()
        ]:
            return wrap(qt_object.property(name))
        raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'")

    def __setattr__(self, name: str, value: object) -> None:
        qt_object = self._alive() if not hasattr(self, "__dict__") else self._alive_or_none()
        if isinstance(qt_object, QtCore.QObject):
            known = _properties(type(qt_object)).get(name)
            if known is not None:
                _write_property(qt_object, known, value)
                return
            if name.encode() in [bytes(n) for n in qt_object.dynamicPropertyNames()]:
                qt_object.setProperty(name, _to_variant(unwrap(value)))
                return
        if not hasattr(self, "__dict__"):
            raise AttributeError(f"Attribute '{name}' does not exist on {type(self).__name__} and cannot be created")
        object.__setattr__(self, name, value)

    def _alive_or_none(self) -> object | None:
        try:
            return object.__getattribute__(self, "_qt_object")
        except AttributeError:
            return None

    def connect(self, signature: str, function: object, slot: str | None = None) -> bool:
        """Connect as in `button.connect("clicked(bool)", f)`; a signature that does not exist is printed and False."""
        name, count = _find_signal(self._alive(), signature)
        if name is None:
            print(f"{type(self).__name__} has no signal {signature}", file=sys.stderr)
            return False
        if slot is not None:
            function = getattr(function, slot.split("(")[0].lstrip("1"))
        return connect(self, name, function, count)

    def disconnect(self, signature: str | None = None, function: Callable | None = None) -> bool:
        """Undo `connect`."""
        name = None if signature is None else _find_signal(self._alive(), signature)[0]
        return (signature is None or name is not None) and disconnect(self, name, function)

    def className(self) -> str:
        """The name of the Qt class."""
        return self._alive().metaObject().className()

    def delete(self) -> None:
        """Destroy the Qt object now."""
        shiboken6.delete(self._alive())

    def __bool__(self) -> bool:
        return shiboken6.isValid(object.__getattribute__(self, "_qt_object"))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Proxy):
            mine, its = self._alive_or_none(), other._alive_or_none()
            return mine is its or (not isinstance(mine, QtCore.QObject) and mine == its)
        return NotImplemented

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__} ({type(self).__name__} at: {id(self):#x})"


def _find_signal(qt_object: QtCore.QObject, signature: str) -> tuple[str | None, int]:
    """The PySide6 name of a signal and how many arguments its signature has; None for a signature unknown to Qt."""
    signature = signature.replace(" ", "")
    name, _, rest = signature.partition("(")
    arguments = rest.rstrip(")")
    count = arguments.count(",") + 1 if arguments else 0
    if signature in getattr(qt_object, "SIGNATURES", ()):
        return name, count
    return (name, count) if qt_object.metaObject().indexOfSignal(signature) >= 0 else (None, 0)


def _read_property(qt_object: QtCore.QObject, known: _Property) -> Any:
    getter = getattr(type(qt_object), known.name, None)
    if known.is_enum and callable(getter):
        return wrap(getter(qt_object))
    return wrap(qt_object.property(known.name))


def _write_property(qt_object: QtCore.QObject, known: _Property, value: object) -> None:
    if not known.writable:
        raise AttributeError(f"Property '{known.name}' of {type(qt_object).__name__} is not writable")
    setter = getattr(qt_object, "set" + known.name[0].upper() + known.name[1:], None)
    if known.is_enum and setter is not None:
        setter(_as_member(qt_object, known, value))
        return
    qt_object.setProperty(known.name, _converted(qt_object, known, value))


def _as_member(qt_object: QtCore.QObject, known: _Property, value: object) -> enum.Enum:
    if isinstance(value, QtEnum):
        return value.member
    if not isinstance(value, int):
        raise _refusal(qt_object, known, value)
    return type(getattr(qt_object, known.name)())(value)


def _converted(qt_object: QtCore.QObject, known: _Property, value: object) -> object:
    value = unwrap(value)
    kind = known.type_name
    if kind == "QString":
        return value if isinstance(value, str) else str(value)
    if kind == "bool":
        if not isinstance(value, (bool, int, float)) and type(value).__name__ not in ("bool", "bool_"):
            raise _refusal(qt_object, known, value)
        return bool(value)
    if kind in ("int", "uint", "qlonglong"):
        if isinstance(value, float) or not hasattr(value, "__index__"):
            raise _refusal(qt_object, known, value)
        return operator.index(value)
    if kind in ("double", "float"):
        if not isinstance(value, (int, float)):
            raise _refusal(qt_object, known, value)
        return float(value)
    if kind == "QStringList":
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise _refusal(qt_object, known, value)
        return [str(item) for item in value]
    if kind == "QVariant":
        return _to_variant(value)
    return value


def _refusal(qt_object: QtCore.QObject, known: _Property, value: object) -> ValueError:
    return ValueError(
        f"Property '{known.name}' of type '{known.type_name}' of {type(qt_object).__name__} "
        f"does not accept an object of type {type(value).__name__} ({value!r})"
    )


# The proxy of each QObject that Python knows, by address, so that an object is always the same in Python.
_proxies: weakref.WeakValueDictionary[int, Proxy] = weakref.WeakValueDictionary()


def _proxy_of(qt_object: shiboken6.Object) -> Proxy:
    if not isinstance(qt_object, QtCore.QObject):
        return _bare_proxy(qt_object)
    address = shiboken6.getCppPointer(qt_object)[0]
    known = _proxies.get(address)
    if known is None or known._alive_or_none() is not qt_object:
        known = _bare_proxy(qt_object)
        _proxies[address] = known
    return known


def _bare_proxy(qt_object: shiboken6.Object) -> Proxy:
    proxy = object.__new__(wrap_class(type(qt_object)))
    object.__setattr__(proxy, "_qt_object", qt_object)
    return proxy


@functools.cache
def wrap_class(qt_class: type) -> PythonQtClass:
    """The class of the proxies of a PySide6 class. It has no base among Qt's: so `isinstance` knows itself alone."""
    return PythonQtClass(qt_class.__name__, (Proxy,), {"__slots__": (), "qt_class": qt_class})


def _constructor(proxy_class: PythonQtClass) -> Callable:
    """What makes the PySide6 object of a proxy class: for a Python subclass, one whose virtual methods call Python."""
    if not proxy_class.__dict__.get("qt_class"):
        return _shell_class(proxy_class)
    return proxy_class.qt_class


@functools.cache
def _shell_class(proxy_class: PythonQtClass) -> type:
    qt_class = proxy_class.qt_class
    overridden = {
        name: _override(qt_class, name)
        for part in proxy_class.__mro__
        if issubclass(part, Proxy) and "qt_class" not in part.__dict__
        for name, value in vars(part).items()
        if inspect.isfunction(value) and not name.startswith("_") and callable(getattr(qt_class, name, None))
    }
    return type(proxy_class.__name__, (qt_class,), overridden)


def _override(qt_class: type, name: str) -> Callable:
    def method(qt_object: QtCore.QObject, *arguments: object) -> object:
        proxy = _proxies.get(shiboken6.getCppPointer(qt_object)[0])
        if proxy is None:
            return getattr(qt_class, name)(qt_object, *arguments)
        try:
            return unwrap(getattr(proxy, name)(*(wrap(item) for item in arguments)))
        except Exception:
            report_exception()

    return method


class QtModule(types.ModuleType):
    """A module whose names are proxy classes: those of the given PySide6 modules, and classes of our own."""

    def __init__(self, name: str, sources: tuple[types.ModuleType, ...], own: dict[str, Any]) -> None:
        super().__init__(name, "Qt's classes as PythonQt shows them.")
        self._sources = sources
        self.__dict__.update(own)

    def __getattr__(self, name: str) -> Any:
        for source in self._sources:
            value = getattr(source, name, None)
            if isinstance(value, type) and issubclass(value, (shiboken6.Object, QtCore.Qt)):
                setattr(self, name, wrap_class(value))
                return self.__dict__[name]
        raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")


QT_SOURCES = (QtWidgets, QtGui, QtCore, QtUiTools)
