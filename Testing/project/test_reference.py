"""The reference pages: the command line is that of the parser, and tables list what the program really writes."""

from __future__ import annotations

import ast
import csv
import dataclasses
import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from commands import run_command
from documents import ROOT, blocks_of, keys_of, section_of
from scans import affine_from, anatomy
from tiny import UNCERTAINTY, make_card, make_network
from XViewSynthLib import Volume, write_volume
from XViewSynthLib.model.cards import CARD_FIELDS, OPTIONAL_CARD_FIELDS
from XViewSynthLib.model.catalogue import save_model
from XViewSynthTrainLib.config import TrainingConfig
from XViewSynthUI.options import ENHANCE_FIELDS, SELF_CHECK_FIELDS, scriptName

DOCS = Path("Resources") / "Docs"
FILES, CARD = DOCS / "reference" / "files.md", DOCS / "reference" / "model-card.md"
SLICER = DOCS / "reference" / "slicer-scripts.md"
REPORT_SCHEMA = json.loads((ROOT / "XViewSynth" / "XViewSynthLib" / "report.schema.json").read_text(encoding="utf-8"))


class TestCommandLine:
    @pytest.fixture
    def tool(self):
        path = ROOT / "Testing" / "tools" / "write_reference.py"
        spec = importlib.util.spec_from_file_location("write_reference", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def test_the_page_is_what_the_tool_writes(self, tool):
        written = tool.PAGE.read_text(encoding="utf-8")
        assert written == tool.page(), "run Testing/tools/write_reference.py"

    def test_the_page_has_every_option(self, tool):
        page = tool.page()
        parser = tool.cli._parser(["enhance"], ())
        (commands,) = (action for action in parser._actions if hasattr(action, "choices") and action.choices)
        for name, command in commands.choices.items():
            for action in command._actions:
                for option in action.option_strings[-1:]:
                    assert option in ("--help", "-h") or f"`{option}`" in page, f"{name} {option}"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with one of each file that the page describes."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XVIEWSYNTH_MODELS", str(folder / "models"))
        patch.chdir(folder)
        save_model(folder / "models" / "standard", make_network(), make_card(name="standard", doubt=UNCERTAINTY))
        (folder / "scans").mkdir()
        thin_scan = Volume(anatomy((41, 64, 64)), affine_from((0.8, 0.8, 2.0)))
        write_volume(thin_scan, folder / "scans" / "scan.nrrd")
        for command in (
            "enhance scans/scan.nrrd thin.nrrd --factor 2 --report report.json --progress none",
            "selfcheck scans/scan.nrrd --factor 2 --report check.json --progress none",
            "batch scans results --factor 2 --selfcheck --progress none",
            "train scans/scan.nrrd --from standard --steps 2 --output run --progress none",
        ):
            assert run_command(["xviewsynth", *command.split()]) == 0, command
    return folder


class TestFiles:
    def read(self, path: Path) -> dict:
        return json.loads(path.read_text(encoding="utf-8"))

    def test_the_report(self, made):
        report = self.read(made / "report.json")
        assert keys_of(FILES, "Report") == list(report)
        assert keys_of(FILES, "Geometry") == list(report["input"]) == list(report["output"])
        assert keys_of(FILES, "Plan") == list(report["plan"])

    def test_the_report_satisfies_its_schema(self, made):
        Draft202012Validator.check_schema(REPORT_SCHEMA)
        Draft202012Validator(REPORT_SCHEMA).validate(self.read(made / "report.json"))

    def test_the_schema_of_the_report_has_the_keys_of_the_tables(self):
        definitions = REPORT_SCHEMA["$defs"]
        for title, schema in (
            ("Report", REPORT_SCHEMA),
            ("Geometry", definitions["geometry"]),
            ("Plan", definitions["plan"]),
        ):
            assert keys_of(FILES, title) == list(schema["properties"]) == schema["required"]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("factor", 2.5),
            ("axis", "L"),
            ("model_sha256", "0" * 63),
            ("seconds", -1),
            ("input", {}),
            ("synthetic_slices", [-1]),
            ("plan", None),
            ("notes", "none"),
        ],
    )
    def test_the_schema_of_the_report_refuses_other_types(self, made, key, value):
        assert not Draft202012Validator(REPORT_SCHEMA).is_valid(self.read(made / "report.json") | {key: value})

    def test_the_report_of_a_self_check(self, made):
        check = self.read(made / "check.json")
        assert set(check) <= {*keys_of(FILES, "Report"), *keys_of(FILES, "Self-check")}
        assert set(keys_of(FILES, "Self-check")) <= set(check)
        assert keys_of(FILES, "Scores") == list(check["methods"]["linear"])
        assert all(f"`{method}`" in section_of(FILES, "Self-check") for method in check["methods"])

    def test_the_record_of_a_batch(self, made):
        assert keys_of(FILES, "Batch record") == list(self.read(made / "results" / "scan.nrrd.enhanced.json"))

    def test_the_summary_of_a_batch(self, made):
        with open(made / "results" / "summary.csv", newline="", encoding="utf-8") as table:
            assert keys_of(FILES, "Batch summary") == csv.DictReader(table).fieldnames

    def test_the_list_of_scans(self, made, capfd):
        assert run_command(["xviewsynth", "scans", str(made / "scans"), "--json"]) == 0
        assert keys_of(FILES, "List of scans") == list(json.loads(capfd.readouterr().out))

    def test_the_progress(self, made, capfd, monkeypatch):
        monkeypatch.setenv("XVIEWSYNTH_MODELS", str(made / "models"))
        command = f"enhance {made}/scans/scan.nrrd {made}/again.nrrd --factor 2 --progress json"
        assert run_command(["xviewsynth", *command.split()]) == 0
        assert keys_of(FILES, "Progress") == list(json.loads(capfd.readouterr().out.splitlines()[0]))

    def test_the_run_folder(self, made):
        listed = keys_of(FILES, "Run folder")
        found = {path.name for path in (made / "run").iterdir()}
        events = {name for name in found if name.startswith("events.out.tfevents")}
        assert found - events == {name for name in listed if not name.startswith("events")}
        assert events

    def test_the_training_report(self, made):
        assert keys_of(FILES, "Training report") == list(self.read(made / "run" / "report.json"))

    def test_the_training_log(self, made):
        text = section_of(FILES, "Training log")
        for line in (made / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            assert entry["kind"] in keys_of(FILES, "Training log")
            assert all(f"`{key}`" in text for key in entry)


class TestModelCard:
    def test_the_tables_name_every_field(self):
        assert keys_of(CARD, "Required fields") == list(CARD_FIELDS)
        assert keys_of(CARD, "Optional fields") == list(OPTIONAL_CARD_FIELDS)

    def test_the_table_names_every_size_of_the_shipped_networks(self):
        named = set(keys_of(CARD, "Network"))
        for card in (ROOT / "Resources" / "Models").glob("*/card.json"):
            network = json.loads(card.read_text(encoding="utf-8"))["network"]
            sizes = [network, *network.get("specialists", {}).values(), *network.get("best_specialists", {}).values()]
            assert {name for size in sizes for name in size} <= named


class TestSlicerScripts:
    def parameters(self, method: str, fields: Iterable[str]) -> set[str]:
        tree = ast.parse((ROOT / "XViewSynth" / "XViewSynthUI" / "logic.py").read_text(encoding="utf-8"))
        (logic,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Logic"))
        (function,) = (node for node in logic.body if isinstance(node, ast.FunctionDef) and node.name == method)
        named = [argument.arg for argument in [*function.args.args[1:], *function.args.kwonlyargs]]
        return {*named, *map(scriptName, fields)}

    def test_the_table_names_every_parameter(self):
        assert set(keys_of(SLICER, "enhance")) == self.parameters("enhance", ENHANCE_FIELDS)

    def test_the_text_names_every_parameter_of_the_self_check(self):
        text = section_of(SLICER, "selfCheck")
        assert all(re.search(rf"\b{name}\b", text) for name in self.parameters("selfCheck", SELF_CHECK_FIELDS))

    def test_the_table_names_every_attribute(self):
        tree = ast.parse((ROOT / "XViewSynth" / "XViewSynthScene" / "provenance.py").read_text(encoding="utf-8"))
        (names,) = (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_ATTRIBUTES"
        )
        assert keys_of(SLICER, "Attributes of the result") == list(names.values())


class TestTrainingSettings:
    PAGE = DOCS / "how-to" / "training-settings.md"

    def test_the_example_is_a_sound_file_of_settings(self):
        (example,) = [block.text for block in blocks_of(self.PAGE) if block.language == "json"]
        assert TrainingConfig.from_dict(json.loads(example))

    def test_the_table_names_settings_that_exist(self):
        known = {field.name for field in dataclasses.fields(TrainingConfig)}
        named = re.findall(r"`([a-z_]+)`", section_of(self.PAGE, "Settings").split("|---|")[1])
        assert named
        assert set(named) <= known
