"""The documentation site: it builds without a warning, and its pages load nothing from the network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from documents import ROOT

pytestmark = pytest.mark.slow

pytest.importorskip("mkdocs", reason="MkDocs is not installed")
pytest.importorskip("material", reason="the theme of the documentation is not installed")

CONFIG = Path("Resources") / "mkdocs.yml"
# What a browser loads by itself, in contrast to links.
LOADED = re.compile(r'<(?:script|img|iframe|link(?! rel="(?:canonical|next|prev)"))[^>]*?(?:src|href)="([^"]+)"')


def build(root: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", root / CONFIG, "--site-dir", site]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    finished = build(ROOT, folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


class TestSite:
    def test_every_page_of_the_documentation_is_there(self, site):
        docs = ROOT / "Resources" / "Docs"
        for page in docs.rglob("*.md"):
            assert (site / page.relative_to(docs).with_suffix(".html")).is_file(), page

    def test_pages_load_nothing_from_the_network(self, site):
        for page in site.rglob("*.html"):
            loaded = LOADED.findall(page.read_text(encoding="utf-8"))
            assert loaded
            assert [address for address in loaded if re.match(r"(https?:)?//", address)] == [], page

    def test_styles_load_nothing_from_the_network(self, site):
        for style in site.rglob("*.css"):
            assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style

    def test_everything_that_pages_load_is_there(self, site):
        for page in site.rglob("*.html"):
            if page.name == "404.html":  # served for addresses at any depth, so its own are absolute
                continue
            for address in LOADED.findall(page.read_text(encoding="utf-8")):
                if not address.startswith("data:"):
                    assert (page.parent / address.split("#")[0].split("?")[0]).resolve().is_file(), (page, address)

    def test_diagrams_are_pictures(self, site):
        page = (site / "explanation" / "architecture.html").read_text(encoding="utf-8")
        assert 'src="architecture.svg"' in page
        assert "flowchart TD" not in page

    def test_lists_do_not_end_within(self, site):
        for page in site.rglob("*.html"):
            paragraphs = re.findall(r"<p>(.*?)</p>", page.read_text(encoding="utf-8"), re.S)
            assert [text for text in paragraphs if re.search(r"(?:^|\n|>)\s*\d+\. \S", text)] == [], page

    def test_comments_for_the_tests_stay_out(self, site):
        assert not [page for page in site.rglob("*.html") if "<!-- test:" in page.read_text(encoding="utf-8")]


class TestFaults:
    @pytest.fixture
    def copy(self, tmp_path) -> Path:
        """The smallest copy of the repository that a site can be made of: its configuration, and one page."""
        resources = tmp_path / "Resources"
        (resources / "Docs").mkdir(parents=True)
        (resources / "Icons").mkdir()
        shutil.copy(ROOT / "Resources" / "mkdocs_hook.py", resources)
        shutil.copy(ROOT / "Resources" / "Icons" / "XViewSynth.png", resources / "Icons")
        config = (ROOT / CONFIG).read_text(encoding="utf-8")
        kept = re.sub(r"\nextra_css:\n  - .*\n", "\n", config[: config.index("\nnav:")])
        (tmp_path / CONFIG).write_text(re.sub(r"  - mkdocstrings:\n(?:      .*\n)+", "", kept), encoding="utf-8")
        return tmp_path

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("# A page\n\n[somewhere](gone.md)", "gone.md"),
            ("# A page\n\n[somewhere](#gone)", "#gone"),
            ("# A page\n\n[outside](../../gone.md)", "gone.md"),
            ("# A page\n\n<!-- diagram: gone.svg -->\n```mermaid\nflowchart TD\n```\n", "draw_diagrams.py"),
        ],
    )
    def test_a_fault_is_an_error(self, copy, text, complaint):
        (copy / "Resources" / "Docs" / "index.md").write_text(text, encoding="utf-8")
        finished = build(copy, copy / "site")
        assert finished.returncode != 0
        assert complaint in finished.stdout + finished.stderr

    def test_a_page_without_a_fault_is_not(self, copy):
        (copy / "Resources" / "Docs" / "index.md").write_text("# A page\n\n[here](#a-page)", encoding="utf-8")
        finished = build(copy, copy / "site")
        assert finished.returncode == 0, finished.stdout + finished.stderr
