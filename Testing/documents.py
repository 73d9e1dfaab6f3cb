"""The documents of this repository as the tests read them: fenced blocks, headings, links."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN, STAND_IN, PARSE, READ, OUTPUT = TREATMENTS = ("run", "stand-in", "parse", "read", "output")
#: A row of a table: cells by the names of their columns.
Row = dict[str, str]
LANGUAGES = {"sh", "python", "json", "diff", "text", "bibtex", "mermaid", "ini", "lua"}

_FENCE = re.compile(r"\s*```(\S*)\s*")
_MARK = re.compile(r"\s*<!-- test: ([\w-]+)(?:, since (\S.*))? -->\s*")
_HEADING = re.compile(r"#{1,6} (.+)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        document: relative to the root.
        line: of its first fence, from 1.
        language: what stands behind the fence.
        treatment: what the comment above it says, or else `RUN`.
        reason: why, or "".
    """

    document: Path
    line: int
    language: str
    text: str
    treatment: str
    reason: str

    @property
    def place(self) -> str:
        """Where an editor finds it."""
        return f"{self.document}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block, without remarks."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(document: Path) -> list[Block]:
    """The fenced blocks of a document, from top to bottom.

    Raises:
        ValueError: a block is not closed, or a comment for the tests stands above none.
    """
    lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
    blocks: list[Block] = []
    mark, begin, language = None, None, ""
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.fullmatch(line)
        if begin is None and fence:
            begin, language = number, fence.group(1)
        elif fence and not fence.group(1):
            treatment, reason = mark.groups("") if mark else (RUN, "")
            # A block in a list is indented.
            text = textwrap.dedent("\n".join(lines[begin : number - 1]))
            blocks.append(Block(document, begin, language, text, treatment, reason))
            mark = begin = None
        elif begin is None and line.strip():
            if mark:
                raise ValueError(f"{document}:{number - 1}: a comment for the tests stands above no block")
            mark = _MARK.fullmatch(line)
    if begin is not None or mark:
        raise ValueError(f"{document}: the last block is not closed, or missing")
    return blocks


def prose_of(document: Path) -> str:
    """A document without its fenced blocks and its code spans."""
    text = (ROOT / document).read_text(encoding="utf-8")
    text = re.sub(r"^\s*```.*?^\s*```\s*$", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]+`", "", text)


def headings_of(document: Path) -> list[str]:
    """The texts of all headings."""
    text = (ROOT / document).read_text(encoding="utf-8")
    text = re.sub(r"^\s*```.*?^\s*```\s*$", "", text, flags=re.M | re.S)
    return [match.group(1) for line in text.splitlines() if (match := _HEADING.fullmatch(line))]


def anchors_of(document: Path) -> set[str]:
    """What a link may name behind #, as code forges make it of the headings."""
    anchors: set[str] = set()
    for heading in headings_of(document):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        count, anchor = 0, name
        while anchor in anchors:
            count += 1
            anchor = f"{name}-{count}"
        anchors.add(anchor)
    return anchors


def section_of(document: Path, heading: str) -> str:
    """The text below a heading, up to the next one of any level.

    Raises:
        ValueError: there is no such heading.
    """
    lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
    places = [number for number, line in enumerate(lines) if _HEADING.fullmatch(line)]
    for start, end in zip(places, [*places[1:], len(lines)], strict=True):
        if _HEADING.fullmatch(lines[start]).group(1) == heading:
            return "\n".join(lines[start + 1 : end])
    raise ValueError(f"{document} has no heading {heading!r}")


def keys_of(document: Path, heading: str) -> list[str]:
    """The names in the first column of the first table below a heading, from top to bottom."""
    lines = section_of(document, heading).splitlines()
    border = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    return [name for row in _rows_below(lines, border) for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def tables(page: Path) -> Iterator[tuple[str, list[Row]]]:
    """The headings above each table of a page, and its rows by the names of the columns."""
    headings: dict[int, str] = {}
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if heading := re.match(r"(#+) (.*)", line):
            headings = {level: text for level, text in headings.items() if level < len(heading[1])}
            headings[len(heading[1])] = heading[2]
        if re.match(r"\|[: ]*-[-: |]*\|$", line):
            names, *rows = map(_cells, (lines[number - 1], *_rows_below(lines, number)))
            yield " / ".join(headings.values()), [dict(zip(names, row, strict=True)) for row in rows]


def _rows_below(lines: Sequence[str], border: int) -> Iterator[str]:
    """The rows of a table, from the line below its header on."""
    return takewhile(lambda line: line.startswith("|"), lines[border + 1 :])


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip()[1:-1])]


def links_of(document: Path) -> list[str]:
    """The targets of all links and pictures that stay in this repository."""
    return [target for target in _LINK.findall(prose_of(document)) if not re.match(r"[a-z]+:", target)]


def repository_files() -> list[Path]:
    """Files that a clone has, relative to the root; without git, those that .gitignore does not name."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return [Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    ignored = {"demo-output", "build", "dist", "__pycache__"}
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [path for path in found if not (path.parts[0] == ".venv" or ignored & set(path.parts))]
