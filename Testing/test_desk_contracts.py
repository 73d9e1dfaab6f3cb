"""What Slicer, its packaging and its users rely on without being told: lists, names, imports, checksums."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "XViewSynth"
DESK = MODULE / "XViewSynth.py"
SCENE = MODULE / "XViewSynthScene"
PLUGIN = MODULE / "SubjectHierarchyPlugins" / "XViewSynthSubjectHierarchyPlugin.py"
UI = MODULE / "Resources" / "UI" / "XViewSynth.ui"
SAMPLES = ROOT / "Resources" / "SampleData"
IMPORT_LIMIT_SECONDS = 0.3


def cmake_list(name: str) -> list[str]:
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    return re.search(rf"set\({name}\n(.*?)\)", text, re.S).group(1).split()


def files_below(folder: Path, *suffixes: str) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(MODULE).as_posix() for path in found if not suffixes or path.suffix in suffixes)


def imports(nodes) -> set[str]:
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def imports_at_file_scope(path: Path) -> set[str]:
    """Top-level names of all that is imported when the file is, which is all but what stands in functions."""
    waiting, found = list(ast.parse(path.read_text(encoding="utf-8")).body), []
    while waiting:
        node = waiting.pop()
        is_for_checkers = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not isinstance(node, (ast.FunctionDef, ast.Lambda)) and not is_for_checkers:
            found.append(node)
            waiting.extend(ast.iter_child_nodes(node))
    return imports(found)


def all_imports(path: Path) -> set[str]:
    return imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


class TestPackaging:
    def test_every_script_is_installed(self):
        scripts = ["XViewSynth.py", *files_below(PLUGIN.parent, ".py"), *files_below(MODULE / "Scripts", ".py")]
        assert sorted(cmake_list("XViewSynth_SCRIPTS")) == sorted(scripts)

    def test_every_resource_is_installed(self):
        assert sorted(cmake_list("XViewSynth_RESOURCES")) == files_below(MODULE / "Resources")

    def test_every_library_file_is_installed(self):
        libraries = files_below(MODULE / "XViewSynthLib", ".py") + files_below(SCENE, ".py")
        assert sorted(cmake_list("XViewSynth_LIBRARY")) == sorted(libraries)

    def test_the_module_has_the_icon_of_the_extension(self):
        name = Path("Resources") / "Icons" / "XViewSynth.png"
        assert (MODULE / name).read_bytes() == (ROOT / name).read_bytes()


class TestPanelFile:
    def test_parameters_and_widgets_know_each_other(self):
        properties = ElementTree.parse(UI).iter("property")
        bound = [item.findtext("string") for item in properties if item.get("name") == "SlicerParameterName"]
        tree = ast.parse(DESK.read_text(encoding="utf-8"))
        node = next(item for item in tree.body if getattr(item, "name", "") == "XViewSynthParameterNode")
        parameters = [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]
        assert sorted(bound) == sorted(parameters)

    def test_every_widget_that_is_used_exists(self):
        made = {widget.get("name") for widget in ElementTree.parse(UI).iter("widget")}
        used = set(re.findall(r"self\.ui\.(\w+)", DESK.read_text(encoding="utf-8")))
        assert used <= made

    def test_every_node_selector_hears_of_the_scene(self):
        tree = ElementTree.parse(UI)
        selectors = {item.get("name") for item in tree.iter("widget") if item.get("class") == "qMRMLNodeComboBox"}
        connected = {item.findtext("receiver") for item in tree.iter("connection")}
        assert connected == selectors

    def test_every_control_says_what_it_is_for(self):
        controls = ("QPushButton", "QComboBox", "QCheckBox", "QSpinBox", "QDoubleSpinBox", "ctkSliderWidget")
        for widget in ElementTree.parse(UI).iter("widget"):
            if widget.get("class") in (*controls, "qMRMLNodeComboBox"):
                assert any(item.get("name") == "toolTip" for item in widget.findall("property")), widget.get("name")


class TestImports:
    def test_the_desk_imports_nothing_slow_or_foreign_at_file_scope(self):
        assert imports_at_file_scope(DESK) - sys.stdlib_module_names <= {"slicer", "vtk", "numpy"}

    def test_the_plugin_imports_what_slicer_has(self):
        allowed = {"slicer", "vtk", "numpy", "qt", "AbstractScriptedSubjectHierarchyPlugin"}
        assert imports_at_file_scope(PLUGIN) - sys.stdlib_module_names <= allowed

    @pytest.mark.parametrize("path", sorted(SCENE.glob("*.py")), ids=lambda path: path.stem)
    def test_the_scene_imports_neither_qt_nor_torch(self, path):
        allowed = {"slicer", "vtk", "numpy", "XViewSynthLib"}
        assert imports_at_file_scope(path) - sys.stdlib_module_names <= allowed
        assert not all_imports(path) & {"qt", "ctk", "torch", "SimpleITK"}

    def test_the_module_is_quick_to_import_and_needs_no_torch(self):
        pytest.importorskip("PySide6", reason="PySide6 is not installed")
        pytest.importorskip("slicer", reason="slicer-core is not installed")
        code = f"""
import sys, tempfile, time
sys.path[:0] = {[str(MODULE), str(ROOT / "Testing")]!r}
import slicer
from standin import install
sys.modules.update(dict.fromkeys(["torch", "SimpleITK", "safetensors", "psutil"]))
with install(tempfile.mkdtemp()) as desktop:
    start = time.process_time()
    import XViewSynth
    print("seconds", time.process_time() - start)
    desktop.load_module({str(DESK)!r})
    desktop.start_up()
    print("panel", desktop.select_module("XViewSynth").ui.planLabel.text)
"""
        finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
        seconds = float(re.search(r"^seconds (\S+)$", finished.stdout, re.M).group(1))
        assert seconds < IMPORT_LIMIT_SECONDS
        assert "panel There is no volume" in finished.stdout


class TestRequirements:
    def test_they_are_those_of_the_engine(self):
        dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
        lines = (MODULE / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
        assert {line for line in lines if not line.startswith("#")} <= set(dependencies)

    def test_torch_is_asked_for_in_the_engines_version_and_never_through_pip(self):
        pytest.importorskip("slicer", reason="slicer-core is not installed")
        from XViewSynthScene.packages import TORCH, requirements

        dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
        assert TORCH in dependencies
        assert not [line for line in requirements() if line.startswith("torch")]

    def test_what_slicer_brings_is_left_alone(self):
        text = (MODULE / "Resources" / "requirements.txt").read_text(encoding="utf-8")
        asked = {re.match(r"[\w-]+", line).group() for line in text.splitlines() if not line.startswith("#")}
        assert not asked & {"numpy", "SimpleITK", "pydicom", "vtk"}


class TestSamples:
    def test_the_checksums_are_those_of_the_files(self):
        told = dict(re.findall(r'"(\w+\.nrrd)",\s+"([0-9a-f]{64})"', DESK.read_text(encoding="utf-8")))
        found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SAMPLES.glob("*.nrrd")}
        assert told == found

    def test_the_thick_scan_is_every_fourth_slice_of_the_thin_one(self):
        import numpy as np

        from XViewSynthLib import read_volume
        from XViewSynthLib.acquisition import thin

        expected, thick = thin(read_volume(SAMPLES / "ChestCT.nrrd"), 4), read_volume(SAMPLES / "ChestCTThick.nrrd")
        assert np.array_equal(thick.voxels, expected.voxels)
        np.testing.assert_allclose(thick.affine, expected.affine, atol=1e-6)
        assert hashlib.sha256((SAMPLES / "ChestCTThick.nrrd").read_bytes()).hexdigest() in (
            SAMPLES / "README.md"
        ).read_text(encoding="utf-8")
