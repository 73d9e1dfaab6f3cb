"""Draw the Mermaid diagrams of the documentation as SVG files, which the documentation site shows without a network.

    npm pack mermaid@11.17.2
    tar xzf mermaid-11.17.2.tgz package/dist/mermaid.min.js
    python Testing/tools/draw_diagrams.py package/dist/mermaid.min.js

A comment above a block in `mermaid` names its SVG file. The file holds the checksum of the block that it was drawn
from. The documentation does not build while the two differ. Needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Resources"))

from mkdocs_hook import Diagram, diagrams_of  # noqa: E402

DOCS = ROOT / "Resources" / "Docs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SETTINGS = {
    "startOnLoad": False,
    "deterministicIds": True,
    "htmlLabels": False,
    "theme": "neutral",
    "flowchart": {"htmlLabels": False},
}
PAGE = """<!DOCTYPE html><meta charset="utf-8"><body><script src="{script}"></script><script>
mermaid.initialize({settings});
mermaid.render("diagram", {source}).then(({{svg}}) => {{ document.body.innerHTML = svg; }});
</script>"""


def main() -> None:
    """Draw every diagram anew."""
    parser = argparse.ArgumentParser(description="Draw the Mermaid diagrams of the documentation as SVG files.")
    parser.add_argument("script", type=Path, metavar="MERMAID.min.js")
    script = parser.parse_args().script.resolve()
    for page in sorted(DOCS.rglob("*.md")):
        for diagram in diagrams_of(page.read_text(encoding="utf-8")):
            file = page.parent / diagram.file
            file.write_text(drawn(diagram, script), encoding="utf-8")
            print(f"Wrote {file.relative_to(ROOT)}.")


def drawn(diagram: Diagram, script: Path) -> str:
    """The SVG text of a diagram, with its checksum.

    Raises:
        RuntimeError: the browser drew nothing.
    """
    browser = next(found for name in BROWSERS if (found := shutil.which(name)))
    page = PAGE.format(script=script.as_uri(), settings=json.dumps(SETTINGS), source=json.dumps(diagram.source))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(page, encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
        command = [browser, *options, f"--user-data-dir={folder}/profile", file.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"<svg.*</svg>", shown, re.S)
    if not found:
        raise RuntimeError(f"{browser} drew nothing for {diagram.file}")
    # In an SVG file, unlike in a page, elements must be closed and the size be given.
    svg = re.sub(r"<br\s*>", "<br/>", found.group())
    width, height = re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg).groups()
    svg = re.sub(r'width="100%"', f'width="{float(width):.0f}" height="{float(height):.0f}"', svg, count=1)
    return f"<!-- {diagram.checksum} -->\n{svg}\n"


if __name__ == "__main__":
    main()
