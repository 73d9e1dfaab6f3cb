"""What MkDocs does beside its usual work: pages and pictures outside Docs, and diagrams without a network.

Links in the documents are relative to the file, as code forges follow them. Every file of the repository that a page
links to becomes part of the site, pages included; links are rewritten to the place that it has there. A block in
`mermaid` is shown as the SVG file beside the page that was drawn from it.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "Resources" / "Docs"
#: Folder of the site for files that are not in Docs.
REPOSITORY = "repository"
LOGO = ROOT / "Resources" / "Icons" / "XViewSynth.png"

_FENCED = re.compile(r"(^[ \t]*```.*?^[ \t]*```[ \t]*$|`[^`\n]+`)", re.M | re.S)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_DIAGRAM = re.compile(r"^<!-- diagram: (\S+\.svg).*?-->\n```mermaid\n(.*?)^```$", re.M | re.S)
_TEST_COMMENT = re.compile(r"^[ \t]*<!-- test: .*?-->\n", re.M)


@dataclass(frozen=True)
class Diagram:
    """A Mermaid diagram of a page: the SVG file beside the page, and the text that it is drawn from."""

    file: str
    source: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, 64 hexadecimal digits."""
        return hashlib.sha256(self.source.encode()).hexdigest()


def diagrams_of(text: str) -> list[Diagram]:
    """The diagrams of a page, from top to bottom."""
    return [Diagram(*found.groups()) for found in _DIAGRAM.finditer(text)]


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add every file of the repository that the pages link to, and what those pages link to in turn."""
    waiting = [LOGO]
    for page in files.documentation_pages():
        waiting.extend(_targets(DOCS / page.src_uri))
    while waiting:
        target = waiting.pop()
        uri = _place(target)
        if target.is_file() and files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(target)))
            if target.suffix == ".md":
                waiting.extend(_targets(target))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links to the places in the site, and show diagrams as pictures."""
    source = Path(page.file.abs_src_path)
    here = posixpath.dirname(page.file.src_uri)

    def rewritten(found: re.Match) -> str:
        path, mark, anchor = found.group(1).partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return found.group()
        return f"]({posixpath.relpath(_place(_target(source, path)), here or '.')}{mark}{anchor})"

    def picture(found: re.Match) -> str:
        diagram = Diagram(*found.groups())
        file = source.parent / diagram.file
        if not file.is_file() or diagram.checksum not in file.read_text(encoding="utf-8"):
            raise PluginError(f"{file} was not drawn from the diagram in {source}: run Testing/tools/draw_diagrams.py")
        return f"![Diagram]({diagram.file})"

    markdown = _TEST_COMMENT.sub("", _DIAGRAM.sub(picture, markdown))
    parts = _FENCED.split(markdown)
    parts[::2] = [_LINK.sub(rewritten, text) for text in parts[::2]]
    return "".join(parts)


def _targets(page: Path) -> Iterator[Path]:
    """The files that a page links to."""
    for link in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        path = link.partition("#")[0]
        if path and not re.match(r"[a-z]+:", path):
            yield _target(page, path)


def _target(page: Path, path: str) -> Path:
    return (page.parent / path).resolve()


def _place(target: Path) -> str:
    """The path of a file among the sources of the site."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    # MkDocs leaves out what begins with a dot.
    return f"{REPOSITORY}/{target.relative_to(ROOT).as_posix().lstrip('.')}"
