"""Promises that the repository makes as a whole: what ships, what imports what, and what is not to be found in it."""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import XViewSynthLib
from documents import repository_files
from XViewSynthLib import read_volume

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "XViewSynth" / "XViewSynthLib"
SCENE = ROOT / "XViewSynth" / "XViewSynthScene"
WEB = ROOT / "XViewSynth" / "XViewSynthWeb"
TRAINING = ROOT / "XViewSynthTrain" / "XViewSynthTrainLib"
PANELS = (ROOT / "XViewSynth" / "XViewSynthUI", ROOT / "XViewSynthTrain" / "XViewSynthTrainUI")
WEB_LOCK = ROOT / "Testing" / "requirements-web.lock"
LOCK = ROOT / "Testing" / "requirements.lock"
LOCKS = sorted(LOCK.parent.glob("requirements*.lock"))
SAMPLE = ROOT / "Resources" / "SampleData" / "ChestCT.nrrd"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

TOP_LEVEL = {
    "CHANGELOG.md",
    "CITATION.cff",
    "CMakeLists.txt",
    "LICENSE.txt",
    "README.md",
    "Resources",
    "Testing",
    "XViewSynth",
    "XViewSynthTrain",
    "pyproject.toml",
    "run.py",
}
DESKTOP = {"slicer", "qt", "ctk", "vtk", "mrml"}
ENGINE_MAY_IMPORT = {
    "XViewSynthLib",
    "SimpleITK",
    "jinja2",
    "matplotlib",
    "numpy",
    "psutil",
    "pydicom",
    "safetensors",
    "scipy",
    "torch",
    "tqdm",
}
# Only when asked for, and installed as an extra.
EXTRAS = {
    "cluster": {"distributed"},
    "receiver": {"pynetdicom"},
    "delivery": {"pynetdicom"},
    "web": {"dicomweb_client", "requests"},
}
# Modules that cannot be imported without their extra; the command imports them where the extra is there.
NEED_AN_EXTRA = {"receiver", "delivery", "service", "web"}
TRAINING_MAY_IMPORT = ENGINE_MAY_IMPORT | {"XViewSynthTrainLib", "tensorboardX"}
UNSAFE_TO_LOAD = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
PINNED = re.compile(r"[\w.-]+==[\w.]+(; (python_version|sys_platform) [<>=]+ \"[\w.]+\")?")
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:root|tmp|work)/\w+/|[A-Z]:\\Users")


def modules_of(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def imports_of(file: Path) -> set[str]:
    """Top-level names of all that a file imports, at any depth; relative imports are its own package's."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def run_python(code: str) -> str:
    """What `code` prints in a fresh Python that finds the two libraries and nothing else of ours."""
    prepare = f"import sys; sys.path[:0] = {[str(ENGINE.parent), str(TRAINING.parent)]!r}\n"
    finished = subprocess.run([sys.executable, "-c", prepare + code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def ours() -> Iterator[tuple[Path, ast.Module]]:
    libraries = (ENGINE, SCENE, WEB, TRAINING, *PANELS)
    for file in [
        *(file for library in libraries for file in modules_of(library)),
        ROOT / "run.py",
        *modules_of(ROOT / "Testing"),
    ]:
        yield file, ast.parse(file.read_text(encoding="utf-8"))


class TestExtension:
    def test_the_project_has_the_name_of_the_extension(self):
        assert "project(XViewSynth)" in (ROOT / "CMakeLists.txt").read_text()

    def test_every_module_folder_is_built(self):
        added = re.findall(r"add_subdirectory\((\w+)\)", (ROOT / "CMakeLists.txt").read_text())
        assert sorted(added) == sorted(path.parent.name for path in ROOT.glob("*/CMakeLists.txt"))


class TestImports:
    @pytest.mark.parametrize("file", modules_of(ENGINE), ids=lambda file: file.stem)
    def test_the_engine_imports_only_what_it_may(self, file):
        may_import = ENGINE_MAY_IMPORT | EXTRAS.get(file.stem, set())
        assert imports_of(file) - sys.stdlib_module_names <= may_import

    @pytest.mark.parametrize("file", modules_of(TRAINING), ids=lambda file: file.stem)
    def test_the_training_library_imports_the_engine_and_no_desktop(self, file):
        assert imports_of(file) - sys.stdlib_module_names <= TRAINING_MAY_IMPORT

    @pytest.mark.parametrize("file", modules_of(SCENE), ids=lambda file: file.stem)
    def test_the_scene_does_not_know_the_browser(self, file):
        assert not {name for name in imports_of(file) if name.startswith(("XViewSynthWeb", "trame", "aiohttp"))}

    def test_the_command_for_the_browser_is_offered_without_the_packages_it_needs(self):
        blocked = sorted(DESKTOP | {"aiohttp", "trame", "trame_slicer", "torch"})
        run_python(f"sys.modules.update(dict.fromkeys({blocked!r}))\nimport XViewSynthWeb.command\n")

    def test_the_engine_imports_without_desktop_and_training_library(self):
        blocked = sorted(DESKTOP.union({"XViewSynthTrainLib"}, *EXTRAS.values()))
        left_out = NEED_AN_EXTRA | {"__init__", "__main__"}
        files = [file for file in modules_of(ENGINE) if file.stem not in left_out]
        names = [".".join(file.relative_to(ENGINE.parent).with_suffix("").parts) for file in files]
        run_python(
            f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
            "import importlib\n"
            f"for name in {names!r}: importlib.import_module(name)\n"
        )

    def test_importing_the_engine_does_not_import_torch(self):
        assert run_python("import XViewSynthLib; print('torch' in sys.modules)").strip() == "False"

    def test_the_command_line_parses_without_torch(self):
        assert run_python("import XViewSynthLib.cli.main; print('torch' in sys.modules)").strip() == "False"

    def test_everything_public_can_be_had(self):
        for name in XViewSynthLib.__all__:
            assert getattr(XViewSynthLib, name) is not None


class TestSafety:
    def test_nothing_of_ours_can_load_a_pickle(self):
        for file, _ in ours():
            assert not imports_of(file) & UNSAFE_TO_LOAD, file

    def test_torch_never_loads_a_file(self):
        for file, tree in ours():
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    assert (node.value.id, node.attr) != ("torch", "load"), file

    def test_numpy_is_never_allowed_to_unpickle(self):
        for file, tree in ours():
            for node in ast.walk(tree):
                assert not (isinstance(node, ast.keyword) and node.arg == "allow_pickle"), file


class TestLayout:
    def test_the_top_level_holds_only_what_the_design_names(self):
        found = {path.parts[0] for path in repository_files()}
        assert {name for name in found if not name.startswith(".")} <= TOP_LEVEL

    def test_nothing_names_a_folder_of_one_machine(self):
        for path in repository_files():
            data = (ROOT / path).read_bytes()
            if b"\0" not in data:
                assert not MACHINE_PATH.search(data.decode("utf-8")), path

    def test_models_fit_the_repository(self):
        sizes = [path.stat().st_size for path in (ROOT / "Resources" / "Models").rglob("*") if path.is_file()]
        assert sum(sizes) <= 30_000_000


class TestStyle:
    @pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
    def test_ruff_is_content(self, command):
        finished = subprocess.run([sys.executable, "-m", "ruff", *command], cwd=ROOT, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stdout + finished.stderr


class TestPackaging:
    @pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
    def test_every_locked_package_is_pinned(self, lock):
        lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
        assert [line for line in lines if not PINNED.fullmatch(line)] == []

    def test_the_lock_names_every_dependency(self):
        locked = {line.split("==")[0].lower() for line in LOCK.read_text().splitlines()}
        needed = {re.match(r"[\w.-]+", entry).group().lower() for entry in PROJECT["project"]["dependencies"]}
        assert needed <= locked

    def test_locks_that_are_installed_together_agree(self):
        versions: dict[str, set[str]] = {}
        for lock in LOCKS:
            for line in lock.read_text().splitlines():
                if "==" in line:
                    name, version = line.split(";")[0].strip().split("==")
                    versions.setdefault(name.lower(), set()).add(version)
        assert {name for name, found in versions.items() if len(found) > 1} == set()

    def test_the_viewer_is_locked_to_the_versions_that_it_names(self):
        locked = WEB_LOCK.read_text().splitlines()
        exact = [entry for entry in PROJECT["project"]["optional-dependencies"]["web"] if "==" in entry]
        assert exact
        assert set(exact) <= set(locked)

    def test_the_locks_name_what_the_extras_need(self):
        locked = {line.split("==")[0].lower() for lock in LOCKS for line in lock.read_text().splitlines()}
        extras = PROJECT["project"]["optional-dependencies"].values()
        assert {re.match(r"[\w.-]+", entry).group().lower() for extra in extras for entry in extra} <= locked

    def test_the_version_is_said_once_or_alike(self):
        assert PROJECT["project"]["version"] == XViewSynthLib.__version__

    def test_every_command_leads_to_a_function(self):
        commands = PROJECT["project"]["entry-points"]["xviewsynth.commands"]
        for target in [*PROJECT["project"]["scripts"].values(), *commands.values()]:
            module, function = target.split(":")
            assert callable(getattr(importlib.import_module(module), function))

    def test_a_wheel_holds_the_libraries_and_the_models(self, tmp_path):
        source, expected = tmp_path / "source", set()
        for path in repository_files():
            place = {
                ("XViewSynth", "XViewSynthLib"): Path("XViewSynthLib"),
                ("XViewSynth", "XViewSynthScene"): Path("XViewSynthScene"),
                ("XViewSynth", "XViewSynthWeb"): Path("XViewSynthWeb"),
                ("XViewSynthTrain", "XViewSynthTrainLib"): Path("XViewSynthTrainLib"),
                ("Resources", "Models"): Path("XViewSynthLib/Models"),
            }.get(path.parts[:2])
            if place:
                expected.add((place / Path(*path.parts[2:])).as_posix())
            if place or path.name in ("LICENSE.txt", "README.md", "pyproject.toml"):
                (source / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / path, source / path)
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*build, "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True)
        with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
            assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected


class TestContinuousIntegration:
    @pytest.fixture
    def workflow(self) -> dict:
        return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))

    def test_it_runs_what_run_py_offers(self, workflow):
        steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
        assert {"python run.py test", "python run.py docs"} <= set(steps)

    def test_it_can_only_read(self, workflow):
        assert workflow["permissions"] == {"contents": "read"}

    def test_pre_commit_uses_the_locked_ruff(self):
        hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
        (ruff,) = [entry for entry in hooks if entry["repo"].endswith("ruff-pre-commit")]
        assert f"ruff=={ruff['rev'].removeprefix('v')}" in LOCK.read_text().splitlines()

    @pytest.mark.parametrize(
        "form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[bf]*.yml")), ids=lambda f: f.stem
    )
    def test_every_issue_form_asks_something(self, form):
        content = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(content)
        assert any(entry.get("validations", {}).get("required") for entry in content["body"])


class TestReadme:
    def test_it_fits_on_two_screens(self):
        assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


class TestPythonVersions:
    """One range of Python versions, stated in several places."""

    OLDEST, NEWEST = 11, 13

    def test_the_package_takes_the_range(self):
        assert PROJECT["project"]["requires-python"] == f">=3.{self.OLDEST},<3.{self.NEWEST + 1}"
        assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{self.OLDEST}"

    def test_run_py_takes_the_range(self):
        text = (ROOT / "run.py").read_text(encoding="utf-8")
        assert f"OLDEST_PYTHON, NEWEST_PYTHON = (3, {self.OLDEST}), (3, {self.NEWEST})" in text

    def test_continuous_integration_runs_all_of_them(self):
        workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
        tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
        assert tested == [f"3.{minor}" for minor in range(self.OLDEST, self.NEWEST + 1)]

    def test_no_sentence_names_another_range(self):
        stated = rf"Python 3\.{self.OLDEST} to 3\.{self.NEWEST}\b"
        for path in repository_files():
            if path.suffix in (".md", ".py", ".yml") and path.name not in ("CHANGELOG.md", Path(__file__).name):
                text = re.sub(stated, "", (ROOT / path).read_text(encoding="utf-8"))
                assert re.findall(r"Python 3\.\d+ (?:or newer|to)\b", text) == [], path


class TestSampleData:
    def test_the_scan_is_the_one_whose_source_and_licence_are_documented(self):
        about = (SAMPLE.parent / "README.md").read_text(encoding="utf-8")
        assert hashlib.sha256(SAMPLE.read_bytes()).hexdigest() in about

    def test_the_scan_fits_the_repository(self):
        assert SAMPLE.stat().st_size <= 12_000_000

    def test_no_slice_is_lost_when_the_scan_is_thinned_by_four(self):
        assert read_volume(SAMPLE).slices("K") % 4 == 1
