"""Print the entry that Slicer's extension catalogue takes, once the repository has a public address.

    python Testing/tools/catalogue_entry.py https://HOST/OWNER/SlicerXViewSynth [--revision main] > XViewSynth.json

Resources/Catalogue/XViewSynth.json is the entry for a checkout on one's own disk, in a folder SlicerXViewSynth. The
catalogue itself wants an address that anybody can clone from, and links to it in the top level's CMakeLists.txt; what
those are to be is said on standard error.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ROOT / "Resources" / "Catalogue" / "XViewSynth.json"
PICTURES = ("Resources/Screenshots/comparison.png", "Resources/Screenshots/views.png")
ICON = "Resources/Icons/XViewSynth.png"


def main(argv: list[str] | None = None) -> int:
    """Print the entry; 2 where the address will not do."""
    parser = argparse.ArgumentParser(description="Print the entry that Slicer's extension catalogue takes.")
    parser.add_argument("url", help="where anybody can clone the repository from")
    parser.add_argument("--revision", default="main", help="branch or tag (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        entry = public_entry(arguments.url, arguments.revision)
    except ValueError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    print(json.dumps(entry, indent=2))
    print("CMakeLists.txt needs:", *cmake_lines(arguments.url, arguments.revision), sep="\n", file=sys.stderr)
    return 0


def public_entry(url: str, revision: str) -> dict:
    """The entry of the repository at `url`.

    Raises:
        ValueError: the catalogue would refuse the address.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("https", "git") or not parts.netloc:
        raise ValueError(f"Give an address that begins with https:// or git://, not {url}.")
    if not re.match("slicer", Path(parts.path).stem, re.IGNORECASE):
        raise ValueError(f"Give the repository a name that begins with Slicer: {url} does not end in such a name.")
    entry = json.loads(ENTRY.read_text(encoding="utf-8"))
    return {**entry, "scm_type": "git", "scm_url": url, "scm_revision": revision}


def cmake_lines(url: str, revision: str) -> list[str]:
    """What CMakeLists.txt has to say of homepage, icon and pictures, each on one line, as the catalogue reads them."""
    home = url.removesuffix(".git")
    pictures = " ".join(f"{home}/raw/{revision}/{picture}" for picture in PICTURES)
    return [
        f'set(EXTENSION_HOMEPAGE "{home}")',
        f'set(EXTENSION_ICONURL "{home}/raw/{revision}/{ICON}")',
        f'set(EXTENSION_SCREENSHOTURLS "{pictures}")',
    ]


if __name__ == "__main__":
    sys.exit(main())
