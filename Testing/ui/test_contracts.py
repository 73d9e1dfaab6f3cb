"""What Slicer, its packaging and its users rely on without being told: lists, names, imports, checksums."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE, TRAINING = MODULES = (ROOT / "XViewSynth", ROOT / "XViewSynthTrain")
PLUGIN = MODULE / "SubjectHierarchyPlugins" / "XViewSynthSubjectHierarchyPlugin.py"
REQUIREMENTS = Path("Resources") / "requirements.txt"
TRAINING_REQUIREMENTS = Path("Resources") / "requirements-training.txt"
SAMPLES = ROOT / "Resources" / "SampleData"
IMPORT_LIMIT_SECONDS = 0.3
# Parameters that the panel binds by hand, since their widgets show other things than their values.
BOUND_BY_HAND = {MODULE: set(), TRAINING: {"studyFolder", "studyChoices", "startModel", "runFolder"}}
SCENE_FILES = [path for module in MODULES for path in sorted((module / f"{module.name}Scene").glob("*.py"))]
UI_FILES = [path for module in MODULES for path in sorted((module / f"{module.name}UI").glob("*.py"))]

each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)


def panel_file(module: Path, name: str) -> str:
    """The text of a file of the module's package for its panel."""
    return (module / f"{module.name}UI" / name).read_text(encoding="utf-8")


def ui_of(module: Path) -> ElementTree.ElementTree:
    return ElementTree.parse(module / "Resources" / "UI" / f"{module.name}.ui")


def cmake_list(module: Path, name: str) -> list[str]:
    text = (module / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(rf"set\({module.name}_{name}\n(.*?)\)", text, re.S).group(1).split()


def cmake_packages(module: Path) -> list[str]:
    """Folders whose Python files the module's CMakeLists.txt collects."""
    text = (module / "CMakeLists.txt").read_text(encoding="utf-8")
    collected = re.search(rf"file\(GLOB_RECURSE {module.name}_LIBRARY .*?\n(.*?)\)", text, re.S).group(1)
    return re.findall(r'"(\w+)/\*\.py"', collected)


def files_below(module: Path, name: str, *suffixes: str) -> list[str]:
    folder = module / name
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(module).as_posix() for path in found if not suffixes or path.suffix in suffixes)


def requirements_of(file: Path) -> set[str]:
    return {line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")}


def imports(nodes) -> set[str]:
    return {name.split(".")[0] for name in modules_in(nodes)}


def modules_in(nodes) -> set[str]:
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return names


def imports_at_file_scope(path: Path) -> set[str]:
    """Top-level names of all that is imported when the file is, which is all but what stands in functions."""
    return {name.split(".")[0] for name in modules_at_file_scope(path)}


def modules_at_file_scope(path: Path) -> set[str]:
    waiting, found = list(ast.parse(path.read_text(encoding="utf-8")).body), []
    while waiting:
        node = waiting.pop()
        is_for_checkers = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not isinstance(node, (ast.FunctionDef, ast.Lambda)) and not is_for_checkers:
            found.append(node)
            waiting.extend(ast.iter_child_nodes(node))
    return modules_in(found)


def all_imports(path: Path) -> set[str]:
    return imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


class TestPackaging:
    @each_module
    def test_every_script_is_installed(self, module):
        others = [path for name in ("SubjectHierarchyPlugins", "Scripts") for path in files_below(module, name, ".py")]
        assert sorted(cmake_list(module, "SCRIPTS")) == sorted([f"{module.name}.py", *others])

    @each_module
    def test_every_resource_is_installed(self, module):
        assert sorted(cmake_list(module, "RESOURCES")) == files_below(module, "Resources")

    @each_module
    def test_every_package_is_installed(self, module):
        packages = [path.parent.name for path in module.glob("*/__init__.py")]
        assert sorted(cmake_packages(module)) == sorted(packages)

    @each_module
    def test_every_other_file_of_a_package_is_installed(self, module):
        text = (module / "CMakeLists.txt").read_text(encoding="utf-8")
        collected = re.search(rf"file\(GLOB_RECURSE {module.name}_LIBRARY_DATA .*?\n(.*?)\)", text, re.S).group(1)
        patterns = re.findall(r'"(\w+)/(.+?)"', collected)
        installed = {path for package, pattern in patterns for path in (module / package).rglob(pattern)}
        packages = [path.parent for path in module.glob("*/__init__.py")]
        data = {path for package in packages for path in package.rglob("*") if path.is_file()}
        assert {path for path in data if path.suffix not in (".py", ".pyc")} == installed
        assert f'RESOURCES "${{{module.name}_LIBRARY_DATA}}"' in text

    def test_modules_do_not_overwrite_each_others_files(self):
        # Once installed, the files of all modules lie in one folder.
        installed = []
        for module in MODULES:
            installed += cmake_list(module, "SCRIPTS") + cmake_list(module, "RESOURCES") + cmake_packages(module)
        assert len(installed) == len(set(installed))

    def test_the_module_has_the_icon_of_the_extension(self):
        name = Path("Resources") / "Icons" / "XViewSynth.png"
        assert (MODULE / name).read_bytes() == (ROOT / name).read_bytes()


class TestPanelFile:
    @each_module
    def test_parameters_and_widgets_know_each_other(self, module):
        properties = ui_of(module).iter("property")
        bound = [item.findtext("string") for item in properties if item.get("name") == "SlicerParameterName"]
        tree = ast.parse(panel_file(module, "parameters.py"))
        node = next(item for item in tree.body if getattr(item, "name", "") == f"{module.name}ParameterNode")
        parameters = [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]
        assert sorted([*bound, *BOUND_BY_HAND[module]]) == sorted(parameters)

    @each_module
    def test_every_widget_that_is_used_exists(self, module):
        made = {widget.get("name") for widget in ui_of(module).iter("widget")}
        files = (module / f"{module.name}UI").glob("*.py")
        used = {name for path in files for name in re.findall(r"\bui\.(\w+)", path.read_text(encoding="utf-8"))}
        assert used
        assert used <= made

    @each_module
    def test_every_node_selector_has_the_scene(self, module):
        tree = ui_of(module)
        selectors = {item.get("name") for item in tree.iter("widget") if item.get("class") == "qMRMLNodeComboBox"}
        connected = {item.findtext("receiver") for item in tree.iter("connection")}
        assert connected == selectors

    @each_module
    def test_every_control_says_what_it_is_for(self, module):
        controls = ("QPushButton", "QComboBox", "QCheckBox", "QSpinBox", "QDoubleSpinBox", "ctkSliderWidget")
        for widget in ui_of(module).iter("widget"):
            if widget.get("class") in (*controls, "ctkPathLineEdit", "qMRMLNodeComboBox"):
                assert any(item.get("name") == "toolTip" for item in widget.findall("property")), widget.get("name")

    def test_the_panel_of_training_begins_with_the_librarys_settings(self):
        from XViewSynthTrainLib.config import TrainingConfig

        config = TrainingConfig()
        expected = {"gamma": config.gamma, "seed": config.seed}
        expected |= {name: getattr(config.weights, name) for name in ("distillation", "wavelet")}
        for name, value in expected.items():
            told = re.search(rf"^    {name}: .* = (\S+)$", panel_file(TRAINING, "parameters.py"), re.M).group(1)
            assert float(told) == value


class TestImports:
    @each_module
    def test_the_modules_file_has_the_classes_that_slicer_looks_up(self, module):
        tree = ast.parse((module / f"{module.name}.py").read_text(encoding="utf-8"))
        imported = {alias.asname or alias.name for node in tree.body for alias in getattr(node, "names", ())}
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        assert {
            f"{module.name}{kind}" for kind in ("", "Widget", "Logic", "ParameterNode", "Test")
        } <= imported | defined

    @each_module
    def test_the_modules_file_imports_slicer_and_its_own_package_alone(self, module):
        assert imports_at_file_scope(module / f"{module.name}.py") - sys.stdlib_module_names == {
            "slicer",
            f"{module.name}UI",
        }

    @pytest.mark.parametrize("path", UI_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
    def test_the_panel_imports_nothing_slow_or_foreign_at_file_scope(self, path):
        names = {name for name in modules_at_file_scope(path) if name.split(".")[0] not in sys.stdlib_module_names}
        allowed = {"slicer", "vtk", "qt", "ctk", "XViewSynthUI"}
        assert {name.split(".")[0] for name in names - {"XViewSynthScene.desk", "XViewSynthLib.request"}} <= allowed
        assert not all_imports(path) & {"torch", "SimpleITK"}

    @pytest.mark.parametrize("path", UI_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
    def test_the_panel_knows_neither_the_browser_nor_how_to_train(self, path):
        ours = {name for name in all_imports(path) if name.startswith("XViewSynth")}
        allowed = {"XViewSynthLib", "XViewSynthScene", "XViewSynthUI"}
        assert ours <= (allowed | {"XViewSynthTrainScene"} if path.is_relative_to(TRAINING) else allowed)

    def test_the_plugin_imports_what_slicer_has(self):
        allowed = {"slicer", "vtk", "numpy", "qt", "AbstractScriptedSubjectHierarchyPlugin"}
        assert imports_at_file_scope(PLUGIN) - sys.stdlib_module_names <= allowed

    @pytest.mark.parametrize("path", SCENE_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
    def test_the_scene_imports_neither_qt_nor_torch(self, path):
        allowed = {"slicer", "vtk", "numpy", "XViewSynthLib"}
        if path.is_relative_to(TRAINING):
            allowed |= {"XViewSynthScene", "XViewSynthTrainLib"}
        assert imports_at_file_scope(path) - sys.stdlib_module_names <= allowed
        assert not all_imports(path) & {"qt", "ctk", "torch", "SimpleITK"}

    @pytest.mark.parametrize("path", SCENE_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
    def test_the_scene_knows_of_the_training_library_what_needs_no_torch(self, path):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        used = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
        allowed = {"XViewSynthTrainLib.files", "XViewSynthTrainLib.lock"}
        assert {name for name in used if name.startswith("XViewSynthTrainLib")} <= allowed

    @pytest.mark.parametrize("name", ["files", "lock"])
    def test_which_imports_no_more_than_a_desktop_has(self, name):
        path = TRAINING / "XViewSynthTrainLib" / f"{name}.py"
        assert all_imports(path) - sys.stdlib_module_names <= {"XViewSynthLib"}

    @each_module
    def test_the_module_is_quick_to_import_and_needs_no_torch(self, module):
        pytest.importorskip("PySide6", reason="PySide6 is not installed")
        pytest.importorskip("slicer", reason="slicer-core is not installed")
        code = f"""
import sys, tempfile, time
sys.path[:0] = {[*map(str, MODULES), str(ROOT / "Testing")]!r}
import slicer
from standin import install
sys.modules.update(dict.fromkeys(["torch", "SimpleITK", "safetensors", "psutil", "tensorboardX"]))
with install(tempfile.mkdtemp()) as desktop:
    start = time.process_time()
    import {module.name}
    print("seconds", time.process_time() - start)
    for path in {[str(place / f"{place.name}.py") for place in MODULES]!r}:
        desktop.load_module(path)
    desktop.start_up()
    print("panel", desktop.select_module({module.name!r}).ui.planLabel.text)
"""
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
        seconds = float(re.search(r"^seconds (\S+)$", finished.stdout, re.M).group(1))
        assert seconds < IMPORT_LIMIT_SECONDS
        first_words = {MODULE: "No scan is chosen", TRAINING: "Load a CT scan"}
        assert f"panel {first_words[module]}" in finished.stdout


class TestRequirements:
    def test_they_are_those_of_the_engine(self):
        dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
        assert requirements_of(MODULE / REQUIREMENTS) <= set(dependencies)
        assert requirements_of(TRAINING / TRAINING_REQUIREMENTS) <= set(dependencies)

    def test_training_needs_all_that_the_engine_needs(self):
        assert requirements_of(MODULE / REQUIREMENTS) < requirements_of(TRAINING / TRAINING_REQUIREMENTS)

    def test_torch_is_requested_in_the_engines_version_and_never_through_pip(self):
        pytest.importorskip("slicer", reason="slicer-core is not installed")
        from XViewSynthScene.packages import TORCH, requirements

        dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
        assert TORCH in dependencies
        assert not [line for line in requirements() if line.startswith("torch")]

    def test_what_slicer_brings_is_left_alone(self):
        lines = requirements_of(MODULE / REQUIREMENTS) | requirements_of(TRAINING / TRAINING_REQUIREMENTS)
        asked = {re.match(r"[\w-]+", line).group() for line in lines}
        assert not asked & {"numpy", "scipy", "SimpleITK", "pydicom", "vtk"}


class TestSamples:
    def test_the_checksums_are_those_of_the_files(self):
        told = dict(re.findall(r'"(\w+\.nrrd)",\s+"([0-9a-f]{64})"', panel_file(MODULE, "sampledata.py")))
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SAMPLES.glob("*.nrrd")}
        assert told == found

    def test_the_thick_scan_is_every_fourth_slice_of_the_thin_one(self):
        import numpy as np

        from XViewSynthLib import read_volume
        from XViewSynthLib.geometry.acquisition import thin

        expected, thick = thin(read_volume(SAMPLES / "ChestCT.nrrd"), 4), read_volume(SAMPLES / "ChestCTThick.nrrd")
        assert np.array_equal(thick.voxels, expected.voxels)
        np.testing.assert_allclose(thick.affine, expected.affine, atol=1e-6)
        assert hashlib.sha256((SAMPLES / "ChestCTThick.nrrd").read_bytes()).hexdigest() in (
            SAMPLES / "README.md"
        ).read_text(encoding="utf-8")
