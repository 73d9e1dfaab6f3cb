"""Slicer's desktop without Slicer: the modules and names that a scripted module expects, over slicer-core and PySide6.

with install(tmp_path) as desktop:
    module = desktop.load_module("XViewSynth/XViewSynth.py")
    panel = desktop.select_module("XViewSynth")
    panel.ui.enhanceButton.click()
    desktop.pump(lambda: panel.ui.progressBar.value == 100, timeout=20)
    desktop.photograph(panel.parent, tmp_path / "panel.png")
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtWidgets

from . import ctk as ctk_widgets
from . import dicom, extras, files, loader, mrmlwidgets, pythonqt, subjecthierarchy
from .application import qSlicerApplication, qSlicerScriptedLoadableModule
from .pythonqt import QT_SOURCES, Proxy, QtModule, wrap, wrap_class

SLICER_PYTHON_DIR = "SLICER_PYTHON_DIR"

# Packages that Slicer's modules bring.
_MODULE_PACKAGES = Path(__file__).parent / "python"

_HEARTBEAT_MILLISECONDS = 10
_LOOK_MILLISECONDS = 5
_SEEN_BY_SCRIPTS = (
    "qt",
    "ctk",
    "parameterNodeWrapper",
    "ScriptedLoadableModule",
    "AbstractScriptedSubjectHierarchyPlugin",
)
_PARTS = ("i18n", "ScriptedLoadableModule", "parameterNodeWrapper", "packaging")


@dataclass(frozen=True)
class Message:
    """A box that the user would have seen.

    Attributes:
        kind: "information", "warning", "error", "question" or "dialog".
        text: what it said, with its detailed text below.
        title: the window's title.
    """

    kind: str
    text: str
    title: str = ""


@dataclass
class Desktop:
    """A desktop at work.

    Attributes:
        app: `slicer.app`.
        shown_messages: every box that was shown, in order.
        answers: what the user answers to the next questions: an enumerator such as `qt.QMessageBox.Yes`, True for the
            agreeing button, False for the declining one, or what a file dialog returns.
        installed_requirements: what `pip_ensure` and `pip_install` were asked for; nothing is ever installed.
        qt_messages: what Qt remarked on standard error.
        longest_stall: the longest time in ms, while an event loop was pumped, between two beats that are 10 ms apart.
    """

    app: Any
    folder: Path
    shown_messages: list[Message] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    installed_requirements: list[str] = field(default_factory=list)
    longest_stall: float = 0.0
    qt_messages: list[str] = field(default_factory=list)

    @property
    def slot_errors(self) -> list[str]:
        """A traceback for each exception that came out of a slot or an observer."""
        return pythonqt.runtime.slot_errors

    def take_slot_errors(self) -> list[str]:
        """The tracebacks so far, which are then forgotten: the way to expect an exception."""
        taken = list(self.slot_errors)
        self.slot_errors.clear()
        return taken

    # Modules

    def load_module(self, path: str | Path) -> Any:
        """Load a scripted module from its file, as Slicer does when it starts; return the module object."""
        return wrap(self.app._alive().moduleManager().load(Path(path).resolve()))

    def start_up(self) -> None:
        """Tell everybody that the start is completed."""
        self.app.startupCompleted.emit()

    def select_module(self, name: str) -> Any:
        """Switch to a module, as the user does in the main window; return the Python object of its panel."""
        window = self.app._alive().mainWindow()
        if window is None:
            module = self.app._alive().moduleManager().module(name)
            return module.widgetRepresentation().self()
        window.moduleSelector().selectModule(name)
        return slicer.util.getModuleWidget(name)

    # Time

    def pump(self, until: Callable[[], Any] | None = None, timeout: float = 10.0) -> None:
        """Run the event loop until the condition holds; without one, for as long as the timeout, in seconds.

        Raises:
            TimeoutError: the condition did not hold in time.
        """
        loop = QtCore.QEventLoop()
        outcome: list[BaseException | bool] = []

        def look() -> None:
            try:
                if until is not None and until():
                    outcome.append(True)
            except BaseException as error:
                outcome.append(error)
            if outcome or time.monotonic() >= end:
                loop.quit()

        end = time.monotonic() + timeout
        looking = QtCore.QTimer(interval=_LOOK_MILLISECONDS)
        looking.timeout.connect(look)
        looking.start()
        with self._heartbeat():
            loop.exec()
        looking.stop()
        if outcome and isinstance(outcome[0], BaseException):
            raise outcome[0]
        if until is not None and not outcome:
            raise TimeoutError(f"What was waited for did not happen within {timeout:g} s.")

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        last = time.perf_counter()

        def beat() -> None:
            nonlocal last
            now = time.perf_counter()
            self.longest_stall = max(self.longest_stall, (now - last) * 1000)
            last = now

        beating = QtCore.QTimer(interval=_HEARTBEAT_MILLISECONDS, timerType=QtCore.Qt.TimerType.PreciseTimer)
        beating.timeout.connect(beat)
        beating.start()
        try:
            yield
        finally:
            beating.stop()
            beat()

    def reset_stall(self) -> None:
        """Forget the longest stall so far."""
        self.longest_stall = 0.0

    # Pictures

    def photograph(self, widget: Any, path: str | Path) -> Path:
        """Save a picture of a widget, as it is shown now, as PNG."""
        qt_widget = widget._alive() if isinstance(widget, Proxy) else widget
        self.pump(timeout=0.05)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not qt_widget.grab().save(str(path), "PNG"):
            raise OSError(f"The picture could not be written to {path}.")
        return path

    # Dialogs

    def answer(self, qt_object: Any, method: str, arguments: tuple) -> Any:
        """Note a box and answer it as scripted; what nobody answers would hang Slicer, so it is an error here."""
        message = _message_of(qt_object, method, arguments)
        self.shown_messages.append(message)
        if self.answers and message.kind in ("question", "dialog"):
            return _as_result(qt_object, self.answers.pop(0))
        if message.kind in ("information", "warning", "error"):
            return QtWidgets.QMessageBox.StandardButton.Ok
        raise RuntimeError(f"Nobody answers this dialog, which would hang: {message}")


def _message_of(qt_object: Any, method: str, arguments: tuple) -> Message:
    icons = QtWidgets.QMessageBox.Icon
    if isinstance(qt_object, QtWidgets.QMessageBox):
        kinds = {icons.Information: "information", icons.Warning: "warning", icons.Critical: "error"}
        texts = (qt_object.text(), qt_object.informativeText(), qt_object.detailedText())
        kind = kinds.get(qt_object.icon(), "question")
        single = bin(int(qt_object.standardButtons().value)).count("1") <= 1
        return Message(kind if single else "question", "\n".join(filter(None, texts)), qt_object.windowTitle().strip())
    texts = [item for item in arguments if isinstance(item, str)]
    if isinstance(qt_object, type):
        kind = {"critical": "error", "about": "information", "information": "information", "warning": "warning"}
        return Message(
            kind.get(method, "question" if method == "question" else "dialog"), "\n".join(texts[1:]), *texts[:1]
        )
    return Message("dialog", getattr(qt_object, "windowTitle", str)(), type(qt_object).__name__)


def _as_result(qt_object: Any, answer: Any) -> Any:
    buttons = QtWidgets.QMessageBox.StandardButton
    if isinstance(answer, bool) and isinstance(qt_object, QtWidgets.QMessageBox):
        offered = qt_object.standardButtons()
        agreeing = (buttons.Yes, buttons.Ok, buttons.Retry)
        declining = (buttons.No, buttons.Cancel, buttons.Close)
        return next(button for button in (agreeing if answer else declining) if button & offered)
    return pythonqt.unwrap(answer)


def _application() -> qSlicerApplication:
    existing = QtWidgets.QApplication.instance()
    if existing is None:
        QtWidgets.QApplication.setStyle("Fusion")
        existing = qSlicerApplication(["Slicer"])
        existing.setApplicationName("Slicer")
        existing.setApplicationVersion("5.12.3")
        existing.setQuitOnLastWindowClosed(False)
    return existing


class _Patches(ExitStack):
    """Changes to modules and objects that are undone at the end."""

    def module(self, name: str, module: types.ModuleType | None) -> None:
        before = sys.modules.get(name)
        if module is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = module
        self.callback(self._restore_module, name, before)

    @staticmethod
    def _restore_module(name: str, before: types.ModuleType | None) -> None:
        if before is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        missing = object()
        before = vars(owner).get(name, missing)
        setattr(owner, name, value)
        self.callback(self._restore_attribute, owner, name, before, missing)

    @staticmethod
    def _restore_attribute(owner: Any, name: str, before: Any, missing: object) -> None:
        if before is missing:
            vars(owner).pop(name, None)
        else:
            setattr(owner, name, before)


@contextmanager
def install(
    folder: str | Path,
    *,
    main_window: bool = True,
    testing: bool = False,
    slicer_python_dir: str | Path | None = None,
    pytorch: bool = True,
    packaging: bool = True,
) -> Iterator[Desktop]:
    """Make this process look like Slicer's: `qt`, `ctk`, `slicer.app` and the rest, over an empty scene.

    Args:
        folder: for the settings and temporary files.
        main_window: False is `--no-main-window`: no main window and no layout manager.
        testing: what `slicer.app.testingEnabled()` says.
        slicer_python_dir: a folder with Slicer's own Python files (Base/Python of a checkout), used in the place of
            those here; by default what the environment variable SLICER_PYTHON_DIR says.
        pytorch: whether the PyTorch extension is there.
        packaging: whether `slicer.packaging` is there, as from Slicer 5.12.

    Raises:
        AssertionError: at the end, when an exception came out of a slot and nobody took it.
    """
    from scene import mrml_scene

    own = os.environ.get(SLICER_PYTHON_DIR) if slicer_python_dir is None else slicer_python_dir
    with mrml_scene() as scene, _Patches() as patches:
        app = _application()
        desktop = Desktop(wrap(app), Path(folder))
        patches.attribute(pythonqt, "runtime", pythonqt.Runtime(on_modal=desktop.answer))
        patches.attribute(sys, "excepthook", _recording(sys.excepthook))
        patches.attribute(sys, "path", [*sys.path, str(_MODULE_PACKAGES)])
        patches.callback(QtCore.qInstallMessageHandler, QtCore.qInstallMessageHandler(_noting(desktop.qt_messages)))
        app.begin(Path(folder), scene, main_window, testing, desktop.installed_requirements.extend)
        _put_modules(patches, desktop, Path(own) if own else None, pytorch, packaging)
        loaded = set(sys.modules)
        try:
            yield desktop
        finally:
            for connection in list(pythonqt._connections_of(app)):
                pythonqt.disconnect(desktop.app, connection.signal, connection.function)
            app.end()
            QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)
            _forget_modules(set(sys.modules) - loaded)
        if desktop.slot_errors:
            raise AssertionError("Exceptions came out of slots:\n" + "\n".join(desktop.slot_errors))


def _recording(hook: Callable) -> Callable:
    """VTK's observers hand their exceptions to `sys.excepthook`: keep those too."""

    def record(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        import traceback

        pythonqt.runtime.slot_errors.append("".join(traceback.format_exception(kind, error, trace)))
        hook(kind, error, trace)

    return record


def _noting(messages: list[str]) -> Callable:
    """Qt's remarks go to standard error as ever, but for one that its offscreen platform makes with every window."""

    def note(_kind: QtCore.QtMsgType, _context: QtCore.QMessageLogContext, text: str) -> None:
        if "propagateSizeHints" not in text:
            messages.append(text)
            print(text, file=sys.stderr)

    return note


def _forget_modules(names: set[str]) -> None:
    """Forget scripted modules and plugins, with their packages: they hold this desktop's modules from their import."""
    holders = {name for name in names if any(shown in vars(sys.modules[name]) for shown in _SEEN_BY_SCRIPTS)}
    packages = {name.split(".")[0] for name in holders}
    for name in names:
        if name.split(".")[0] in packages:
            del sys.modules[name]


def _put_modules(patches: _Patches, desktop: Desktop, own: Path | None, pytorch: bool, packaging: bool) -> None:
    qt = QtModule("qt", QT_SOURCES, {"QUiLoader": wrap_class(loader.UiLoader)})
    ctk = QtModule("ctk", (), _classes(ctk_widgets.WIDGETS, ctk_widgets.ABSENT))
    for module in (qt, ctk):
        patches.module(module.__name__, module)
    names = {
        **_classes((*mrmlwidgets.WIDGETS, qSlicerScriptedLoadableModule), mrmlwidgets.ABSENT),
        **subjecthierarchy.names(),
        "app": desktop.app,
        "modules": types.SimpleNamespace(),
        "moduleNames": types.SimpleNamespace(),
        "selfTests": {},
    }
    for name, value in names.items():
        patches.attribute(slicer, name, value)
    for name, value in {**files.functions(), **extras.util_functions(desktop.installed_requirements)}.items():
        patches.attribute(slicer.util, name, value)
    _put_parts(patches, own, packaging, desktop)
    for name, module in dicom.library().items():
        patches.module(name, module)
    patches.attribute(slicer, "dicomDatabase", wrap(dicom.open_database(desktop.folder / "dicom")))
    patches.module("SampleData", extras.sample_data_module())
    patches.module("PyTorchUtils", extras.pytorch_module() if pytorch else None)


def _classes(widgets: tuple[type, ...], absent: tuple[str, ...]) -> dict[str, Any]:
    return {
        **{widget.__name__: wrap_class(widget) for widget in widgets},
        **{name: _absent_class(name) for name in absent},
    }


def _absent_class(name: str) -> type:
    def refuse(*_: object) -> None:
        raise NotImplementedError(f"The stand-in has no {name}: add it to Testing/standin where a panel needs one.")

    return type(name, (), {"__init__": refuse})


def _put_parts(patches: _Patches, own: Path | None, packaging: bool, desktop: Desktop) -> None:
    """The parts of the `slicer` package that slicer-core lacks: Slicer's own files where given, otherwise ours."""
    for part in _PARTS:
        patches.module(f"slicer.{part}", None)
        patches.callback(vars(slicer).pop, part, None)
    if own is not None:
        patches.attribute(slicer, "__path__", [*slicer.__path__, str(own / "slicer")])
        for name in [name for name in sys.modules if name.startswith("slicer.parameterNodeWrapper.")]:
            patches.module(name, None)
    else:
        ours = {
            "i18n": extras.i18n_module,
            "ScriptedLoadableModule": lambda: _fresh("scripted"),
            "parameterNodeWrapper": lambda: _fresh("parameters"),
            "packaging": lambda: extras.packaging_module(desktop.installed_requirements, desktop),
        }
        for part in _PARTS:
            module = ours[part]()
            sys.modules[f"slicer.{part}"] = module
            setattr(slicer, part, module)
    for part in _PARTS:
        module = importlib.import_module(f"slicer.{part}")
        setattr(slicer, part, module)
    if not packaging:
        vars(slicer).pop("packaging", None)
        sys.modules["slicer.packaging"] = None
    elif own is not None:
        patches.attribute(slicer.packaging, "pip_install", extras.recorded_install(desktop.installed_requirements))


def _fresh(name: str) -> types.ModuleType:
    """A module of ours that imports qt and ctk, imported for this desktop's."""
    full = f"{__package__}.{name}"
    sys.modules.pop(full, None)
    return importlib.import_module(full)
