"""The documents: what they tell to type works, where they lead there is something, and what they quote is said."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from commands import parse_command, run_command
from documents import (
    LANGUAGES,
    OUTPUT,
    PARSE,
    READ,
    ROOT,
    RUN,
    STAND_IN,
    TREATMENTS,
    Block,
    anchors_of,
    blocks_of,
    headings_of,
    links_of,
    repository_files,
)
from scans import write_dicom_series
from tiny import UNCERTAINTY, make_card, make_network
from XViewSynthLib import Volume, read_volume, write_volume
from XViewSynthLib.geometry.acquisition import thin
from XViewSynthLib.model.catalogue import save_model

DOCUMENTS = [path for path in repository_files() if path.suffix == ".md"]
DOCS = Path("Resources") / "Docs"
TROUBLESHOOTING = DOCS / "how-to" / "troubleshooting.md"
PIXELS = 64
# What a sentence is allowed to leave open: words in capitals, also in quotes.
PLACEHOLDER = r"'?[A-Z]+'?"

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=str)


@pytest.fixture(scope="module")
def small_sample() -> Volume:
    """The middle of the bundled scan."""
    whole = read_volume(ROOT / "Resources" / "SampleData" / "ChestCT.nrrd")
    first_row, first_column = ((size - PIXELS) // 2 for size in whole.voxels.shape[1:])
    rows, columns = slice(first_row, first_row + PIXELS), slice(first_column, first_column + PIXELS)
    affine = whole.affine.copy()
    affine[:3, 3] = whole.ijk_to_ras([first_column, first_row, 0])
    return Volume(whole.voxels[:, rows, columns].copy(), affine, whole.slice_thickness)


@pytest.fixture
def sandbox(tmp_path, monkeypatch, small_sample) -> Path:
    """A working folder with small scans under the names that documents use, and a small model called standard."""
    monkeypatch.setenv("XVIEWSYNTH_MODELS", str(tmp_path / "models"))
    save_model(tmp_path / "models" / "standard", make_network(), make_card(name="standard", doubt=UNCERTAINTY))
    folder = tmp_path / "work"
    thick = thin(small_sample, 4)
    for name, volume in (
        ("Resources/SampleData/ChestCT.nrrd", small_sample),
        ("Resources/SampleData/ChestCTThick.nrrd", thick),
        ("thick.nrrd", thick),
        ("thin1.nrrd", small_sample),
        ("thin2.nrrd", small_sample),
        ("study/one.nrrd", small_sample),
        ("study/two.nrrd", small_sample),
        ("studies/chest.nrrd", thick),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_volume(volume, folder / name)
    write_dicom_series(folder / "series", thick, StudyInstanceUID="1.2.3", FrameOfReferenceUID="1.2.4")
    monkeypatch.chdir(folder)
    return folder


class Reader:
    """Follows a document: runs its blocks one after the other, and remembers what the last one printed."""

    def __init__(self, folder: Path, stack: ExitStack, capture: pytest.CaptureFixture):
        self._folder = folder
        self._stack = stack
        self._capture = capture
        self._names: dict[str, Any] = {}
        self._desk = None
        self._printed = ""

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        if block.treatment == OUTPUT:
            assert missing_lines(block.text, self._printed) == [], f"{block.place}: not printed"
            return
        self._capture.readouterr()
        if block.language == "sh":
            self._follow_commands(block)
        elif block.language == "python":
            self._follow_python(block)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "diff":
            self._check_diff(block)
        self._printed = "".join(self._capture.readouterr())

    def _follow_commands(self, block: Block) -> None:
        if block.treatment == READ:
            checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
            assert checked.returncode == 0, f"{block.place}: {checked.stderr}"
            return
        for words in block.commands:
            command = " ".join(words)
            if block.treatment == PARSE:
                parse_command(words)
            else:
                code = run_command(words)
                assert code == 0, f"{block.place}: {command}\n{''.join(self._capture.readouterr())}"

    @staticmethod
    def _check_diff(block: Block) -> None:
        """Check that the changes fit the files; a copy without git cannot be checked."""
        if not (ROOT / ".git").exists():
            return
        command = ["git", "apply", "--check"]
        checked = subprocess.run(command, cwd=ROOT, input=f"{block.text}\n", text=True, capture_output=True)
        assert checked.returncode == 0, f"{block.place}: {checked.stderr}"

    def _follow_python(self, block: Block) -> None:
        if block.treatment == STAND_IN:
            self._names |= self._slicer()
        code = compile(re.sub(r"\bminutes=\d+", "steps=2", block.text), block.place, "exec")
        if block.treatment not in (PARSE, READ):
            exec(code, self._names)

    def _slicer(self) -> dict[str, Any]:
        """Slicer's names, with the bundled scans loaded."""
        slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
        pytest.importorskip("PySide6", reason="PySide6 is not installed")
        from desk import TRAINING, desk

        if self._desk is None:
            place = self._folder / "slicer"
            place.mkdir()
            self._desk = self._stack.enter_context(desk(place, TRAINING, main_window=False))
            for node, file in (("ChestCTThick", "ChestCTThick"), ("ChestCTThin", "ChestCT")):
                slicer.util.loadVolume(str(self._folder / f"Resources/SampleData/{file}.nrrd"), {"name": node})
        return {"slicer": slicer}


@pytest.fixture
def reader(sandbox, capfd) -> Iterator[Reader]:
    with ExitStack() as stack:
        yield Reader(sandbox, stack, capfd)


def missing_lines(expected: str, printed: str) -> list[str]:
    """The lines that were not printed, whatever their numbers and the width of their gaps."""

    def alike(line: str) -> str:
        return " ".join(re.sub(r"[-+]?\d+(\.\d+)?", "0", line).split())

    said = {alike(line) for line in printed.splitlines()}
    return [line for line in expected.splitlines() if line.strip() and alike(line) not in said]


@pytest.mark.slow
class TestBlocks:
    @each_document
    def test_every_block_does_what_it_says(self, document, reader):
        for block in blocks_of(document):
            reader.follow(block)

    @each_document
    def test_every_block_names_its_language(self, document):
        assert [block.place for block in blocks_of(document) if block.language not in LANGUAGES] == []

    @each_document
    def test_what_stands_in_a_list_is_indented_by_four_columns(self, document):
        # With fewer, the list ends there in the site.
        text = (ROOT / document).read_text(encoding="utf-8")
        assert re.findall(r"^ {1,3}(?:```|\||!\[|<!--).*", text, re.M) == []

    @each_document
    def test_what_is_not_run_has_a_reason(self, document):
        for block in blocks_of(document):
            assert block.treatment in TREATMENTS, block.place
            assert block.reason or block.treatment in (RUN, OUTPUT), block.place

    def test_output_is_compared_line_by_line(self):
        assert missing_lines("Wrote 3 files.\n\nDone", "Wrote   17.5 files.\nDone\n") == []
        assert missing_lines("Wrote 3 files.", "Wrote three files.") == ["Wrote 3 files."]


class TestLinks:
    @each_document
    def test_every_link_between_documents_leads_somewhere(self, document):
        for target in links_of(document):
            file, _, anchor = target.partition("#")
            path = (ROOT / document.parent / file).resolve() if file else ROOT / document
            assert path.exists(), f"{document}: {target}"
            if anchor:
                assert anchor in anchors_of(path.relative_to(ROOT)), f"{document}: {target}"

    def test_every_page_is_reached_from_the_first(self):
        reached, waiting = set(), [Path("README.md")]
        while waiting:
            document = waiting.pop()
            reached.add(document)
            for target in links_of(document):
                path = (ROOT / document.parent / target.partition("#")[0]).resolve()
                if path.suffix == ".md" and path.relative_to(ROOT) not in reached:
                    waiting.append(path.relative_to(ROOT))
        assert {path for path in DOCUMENTS if DOCS in path.parents} <= reached

    def test_every_screenshot_is_shown_somewhere(self):
        shown = {Path(target).name for document in DOCUMENTS for target in links_of(document)}
        assert {path.name for path in (ROOT / "Resources" / "Screenshots").iterdir()} <= shown


@pytest.fixture(scope="module")
def templates() -> tuple[list[re.Pattern], set[str]]:
    """What the sources can say: a pattern for each text with gaps, and all texts without."""
    patterns, texts = [], set()
    sources = [*(ROOT / "XViewSynth").rglob("*.py"), *(ROOT / "XViewSynthTrain").rglob("*.py"), ROOT / "run.py"]
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
                patterns.append(re.compile("".join(PLACEHOLDER if part is None else re.escape(part) for part in parts)))
    return patterns, texts


class TestTroubleshooting:
    def keys(self) -> list[str]:
        text = (ROOT / TROUBLESHOOTING).read_text(encoding="utf-8")
        return re.findall(r"^### (.+)$", text, re.M)

    def test_every_key_is_said_by_the_sources_word_for_word(self, templates):
        patterns, texts = templates
        for key in self.keys():
            assert key in texts or any(pattern.fullmatch(key) for pattern in patterns), key

    def test_an_undocumented_key_would_be_noticed(self, templates):
        patterns, texts = templates
        key = self.keys()[0].replace("missing", "absent")
        assert key not in texts
        assert not any(pattern.fullmatch(key) for pattern in patterns)

    def test_the_usual_messages_are_there(self):
        assert len(self.keys()) >= 20
        assert len(self.keys()) == len(set(self.keys()))


class TestTutorials:
    @pytest.mark.parametrize(("page", "module"), [("slicer", "XViewSynth"), ("fine-tuning", "XViewSynthTrain")])
    def test_every_label_in_bold_is_on_the_panel(self, page, module):
        panel = (ROOT / module / "Resources" / "UI" / f"{module}.ui").read_text(encoding="utf-8")
        text = (ROOT / DOCS / "tutorials" / f"{page}.md").read_text(encoding="utf-8")
        labels = set(re.findall(r"\*\*(.+?)\*\*", text))
        assert len(labels) >= 5
        assert {label for label in labels if f"<string>{label}</string>" not in panel} == set()

    def test_the_sample_scans_have_the_names_that_slicer_shows(self):
        samples = (ROOT / "XViewSynth" / "XViewSynthUI" / "sampledata.py").read_text(encoding="utf-8")
        for page, name in (("slicer", "ChestCTThick"), ("fine-tuning", "ChestCTThin")):
            assert f'"{name}"' in samples
            assert f"*{name}*" in (ROOT / DOCS / "tutorials" / f"{page}.md").read_text(encoding="utf-8")


class TestHardware:
    @pytest.fixture
    def table(self):
        import importlib.util

        path = ROOT / "Testing" / "tools" / "write_speed_table.py"
        spec = importlib.util.spec_from_file_location("write_speed_table", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_the_table_holds_what_was_measured_and_nothing_else(self, table):
        page = table.PAGE.read_text(encoding="utf-8")
        assert table.with_table(page, table.read_records()) == page

    def test_every_line_names_measurement_computer_and_command(self, table):
        for record in table.read_records():
            assert {"size", "factor", "seconds", "memory_bytes", "memory_of", "machine", "version", "command"} <= set(
                record
            )

    def test_a_new_measurement_gets_a_line(self, table):
        measured = {"seconds": 57, "memory_bytes": 8e8, "memory_of": "beyond input and output", "gpu_bytes": 2.5e9}
        record = {**table.read_records()[0], "machine": "a GPU", **measured}
        page = table.with_table(table.PAGE.read_text(encoding="utf-8"), [record])
        assert "| a GPU | 57 | 0.8 GB beyond input and output; 2.5 GB on the GPU |" in page


class TestHowItIsTested:
    @pytest.mark.parametrize("folder", ["benchmarks", "tools"])
    def test_every_tool_is_named(self, folder):
        page = (ROOT / "Testing" / "README.md").read_text(encoding="utf-8")
        for path in (ROOT / "Testing" / folder).glob("*.py"):
            assert re.search(rf"\b{re.escape(path.name)}\b", page), path.name

    def test_no_file_is_named_that_is_gone(self):
        rows = re.findall(r"^\| `([\w/]+\.py)` \|", (ROOT / "Testing" / "README.md").read_text(), re.M)
        assert [name for name in rows if not (ROOT / "Testing" / name).is_file()] == []

    def test_headings_are_unique(self):
        for document in DOCUMENTS:
            if document.name != "CHANGELOG.md" and "results" not in document.parts:
                headings = headings_of(document)
                assert len(headings) == len(set(headings)), document
