"""What other catalogues read of this repository: Slicer's extension catalogue, reference managers, the changelog."""

from __future__ import annotations

import importlib.util
import json
import re
from datetime import date
from pathlib import Path

import pytest
import yaml
from pydicom.uid import CTImageStorage

import XViewSynthLib

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ROOT / "Resources" / "Catalogue" / "XViewSynth.json"
CMAKE = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")

# The schema of the catalogue's entries, version 1.0.2: its keys, their types, and which are needed.
SCHEMA = (
    "https://raw.githubusercontent.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1.0.2.json#"
)
TYPES = {
    "$schema": str,
    "category": str,
    "scm_url": str,
    "scm_revision": str,
    "scm_type": str,
    "build_dependencies": list,
    "dicom_support_rule": str,
    "build_subdirectory": str,
    "enabled": bool,
    "tier": int,
}
NEEDED = {"$schema", "category", "scm_url"}


def faults(entry: dict) -> list[str]:
    """What the schema has against an entry."""
    found = [f"{key} is missing" for key in sorted(NEEDED - set(entry))]
    found += [f"{key} is unknown" for key in sorted(set(entry) - set(TYPES))]
    found += [f"{key} has the wrong type" for key, value in entry.items() if type(value) is not TYPES.get(key)]
    if entry.get("scm_type", "git") not in ("git", "local"):
        found.append("scm_type is neither git nor local")
    if entry.get("tier", 1) not in range(1, 6):
        found.append("tier is not between 1 and 5")
    if not all(isinstance(name, str) for name in entry.get("build_dependencies", [])):
        found.append("build_dependencies are not names")
    return found


def cmake_value(name: str) -> str:
    return re.search(rf'set\({name} "([^"]+)"\)', CMAKE).group(1)


@pytest.fixture
def entry() -> dict:
    return json.loads(ENTRY.read_text(encoding="utf-8"))


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("catalogue_entry", ROOT / "Testing" / "tools" / "catalogue_entry.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestExtensionCatalogue:
    def test_the_entry_keeps_the_schema(self, entry):
        assert faults(entry) == []
        assert entry["$schema"] == SCHEMA

    @pytest.mark.parametrize(
        "change",
        [
            {"tier": 7},
            {"tier": "1"},
            {"homepage": "x"},
            {"scm_type": "svn"},
            {"build_dependencies": [1]},
            {"enabled": 1},
        ],
    )
    def test_a_faulty_entry_would_be_noticed(self, entry, change):
        assert faults({**entry, **change}) != []

    def test_a_missing_key_would_be_noticed(self, entry):
        del entry["category"]
        assert faults(entry) == ["category is missing"]

    def test_its_name_is_that_of_the_project(self):
        assert f"project({ENTRY.stem})" in CMAKE

    def test_it_says_what_cmake_says(self, entry):
        assert entry["category"] == cmake_value("EXTENSION_CATEGORY")
        assert entry["build_dependencies"] == cmake_value("EXTENSION_DEPENDS").split()

    def test_its_rule_for_dicom_uses_what_slicer_knows_of_a_series(self, entry):
        # Slicer's published rules, in the language of the package rule-engine, use these two attributes.
        assert set(re.findall(r"(\w+) ==", entry["dicom_support_rule"])) == {"Modality", "SOPClassUID"}
        assert f"'{CTImageStorage}'" in entry["dicom_support_rule"]

    def test_it_invents_no_address(self, entry):
        assert entry["scm_type"] == "local"
        assert "/" not in entry["scm_url"]


class TestPublicEntry:
    URL = "https://example.org/somebody/SlicerXViewSynth.git"

    def test_it_keeps_the_schema_and_names_the_address(self, tool):
        entry = tool.public_entry(self.URL, "main")
        assert faults(entry) == []
        assert (entry["scm_type"], entry["scm_url"], entry["scm_revision"]) == ("git", self.URL, "main")

    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("/home/me/SlicerXViewSynth", "begins with https"),
            ("https://example.org/me/XViewSynth", "begins with Slicer"),
        ],
    )
    def test_an_address_that_would_be_refused_is_refused_here(self, tool, capsys, url, sentence):
        assert tool.main([url]) == 2
        assert sentence in capsys.readouterr().err

    def test_its_pictures_and_icon_exist(self, tool):
        assert all((ROOT / name).is_file() for name in (tool.ICON, *tool.PICTURES))

    def test_the_entry_is_printed_alone(self, tool, capsys):
        assert tool.main([self.URL]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["scm_url"] == self.URL
        assert said.err.count("set(EXTENSION_") == 3


class TestCitation:
    @pytest.fixture
    def citation(self) -> dict:
        return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

    def test_what_the_format_needs_is_there(self, citation):
        assert citation["cff-version"] == "1.2.0"
        assert all(citation[key] for key in ("message", "title", "authors"))
        assert citation["type"] == "software"

    def test_it_names_this_version_and_licence(self, citation):
        assert citation["version"] == XViewSynthLib.__version__
        assert citation["license"] == "Apache-2.0"
        assert f"version = {{{citation['version']}}}" in (ROOT / "README.md").read_text(encoding="utf-8")

    def test_the_date_is_that_of_the_changelog(self, citation):
        released = date.fromisoformat(citation["date-released"])
        assert f"## {citation['version']} - {released}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    def test_the_paper_is_referred_to(self, citation):
        (paper,) = citation["references"]
        assert [author["family-names"] for author in paper["authors"]] == ["Fang", "Wang", "Zhang", "Xu", "Yuan", "Han"]
        assert (paper["type"], paper["year"]) == ("conference-paper", 2022)
        assert paper["url"] in (ROOT / "README.md").read_text(encoding="utf-8")


class TestLicences:
    def test_the_first_page_names_those_of_the_weights_and_of_what_they_learned_from(self):
        card = json.loads((ROOT / "Resources" / "Models" / "standard" / "card.json").read_text(encoding="utf-8"))
        page = (ROOT / "README.md").read_text(encoding="utf-8")
        (weights,) = re.findall(r"^\| the shipped weights \| (.+) \|$", page, re.M)
        assert weights.startswith(card["license"].replace("-", " "))
        assert all(data["license"] in weights for data in card["training_data"])

    def test_the_first_page_names_that_of_the_sample(self):
        about = (ROOT / "Resources" / "SampleData" / "README.md").read_text(encoding="utf-8")
        (licence,) = set(re.findall(r"\((CC [^)]+)\)", about))
        (told,) = re.findall(r"^\| the sample scans.*? \| (.+) \|$", (ROOT / "README.md").read_text(), re.M)
        assert told.startswith(licence)


class TestChangelog:
    @pytest.fixture
    def releases(self) -> list[tuple[str, str]]:
        text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        return re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)$", text, re.M)

    def test_this_version_is_the_newest(self, releases):
        assert releases[0][0] == XViewSynthLib.__version__

    def test_versions_and_dates_fall(self, releases):
        versions = [tuple(map(int, version.split("."))) for version, _ in releases]
        assert versions == sorted(versions, reverse=True)
        assert [day for _, day in releases] == sorted((day for _, day in releases), reverse=True)

    def test_changes_are_of_the_known_kinds(self):
        kinds = set(re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M))
        assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
