"""Model folders: what is written is what is read, and nothing unsound is ever read."""

import contextlib
import hashlib
import io
import json
import os
import socket
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.torch import save

from tiny import NETWORK, UNCERTAINTY, make_card, make_network
from XViewSynthLib.errors import Cancelled, InputError
from XViewSynthLib.model import cards, catalogue
from XViewSynthLib.model import files as model_files
from XViewSynthLib.model.catalogue import (
    card_fault,
    check_new_name,
    export_model,
    import_model,
    list_models,
    load_model,
    model_folder,
    remove_model,
    save_model,
    shipped_folder,
    unreadable_folder,
    user_folder,
)
from XViewSynthLib.model.network import ThreeViewNetwork
from XViewSynthLib.system import regular_files

LIBRARY = str(Path(catalogue.__file__).parents[2])
CARD_SCHEMA = json.loads(Path(cards.__file__).with_name("card.schema.json").read_text(encoding="utf-8"))
in_schema = Draft202012Validator(CARD_SCHEMA).is_valid


def rewrite_card(folder, **changes):
    path = folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite_weights(folder, content: bytes):
    """New weights whose checksum is on the card, as someone who means harm would write them."""
    (folder / "model.safetensors").write_bytes(content)
    rewrite_card(folder, weights_sha256=hashlib.sha256(content).hexdigest())


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(autouse=True)
def shipped(tmp_path, monkeypatch):
    """The folder of shipped models; it and the user's folder are this test's own."""
    monkeypatch.setenv("XVIEWSYNTH_MODELS", str(tmp_path / "mine"))
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(catalogue, "shipped_folder", lambda: folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "small", make_network(), make_card()).folder


@pytest.fixture
def parts(folder):
    return {name: (folder / name).read_bytes() for name in ("card.json", "model.safetensors")}


class TestSaving:
    def test_the_network_that_is_loaded_is_the_one_that_was_saved(self, tmp_path):
        network = make_network(seed=3)
        save_model(tmp_path / "small", network, make_card())
        loaded = load_model(tmp_path / "small").network.state_dict()
        assert all(torch.equal(tensor, loaded[name]) for name, tensor in network.state_dict().items())

    def test_the_card_holds_the_checksum_of_the_weights(self, folder):
        checksum = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert json.loads((folder / "card.json").read_text())["weights_sha256"] == checksum

    def test_parents_are_created(self, tmp_path):
        assert save_model(tmp_path / "a" / "b" / "small", make_network(), make_card()).folder.is_dir()

    def test_a_model_that_is_there_is_replaced_and_nothing_else_is_left(self, folder):
        save_model(folder, make_network(seed=1), make_card(version="2.0"))
        assert load_model(folder).card["version"] == "2.0"
        assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []

    def test_a_folder_with_other_files_is_refused_and_kept(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(InputError, match="other files than a model"):
            save_model(tmp_path, make_network(), make_card())
        assert (tmp_path / "thesis.txt").read_text() == "years of work"

    def test_an_incomplete_card_is_refused_before_anything_is_written(self, tmp_path):
        card = make_card()
        del card["license"]
        with pytest.raises(InputError, match='"license" is missing'):
            save_model(tmp_path / "small", make_network(), card)
        assert not (tmp_path / "small").exists()

    def test_the_old_model_comes_back_when_the_new_one_cannot_take_its_place(self, folder, monkeypatch):
        replace = catalogue.os.replace

        def replace_but_not_new(source, target):
            if source.parent.name == "new":
                raise OSError(5, "Input/output error")
            replace(source, target)

        monkeypatch.setattr(catalogue.os, "replace", replace_but_not_new)
        with pytest.raises(InputError, match="Input/output error"):
            save_model(folder, make_network(), make_card(version="2.0"))
        assert load_model(folder).card["version"] == "1.0"

    def test_an_unwritable_place_is_one_sentence(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="Cannot write"):
            save_model(tmp_path / "file" / "small", make_network(), make_card())


class TestLoading:
    def test_gives_name_card_and_checksum(self, folder):
        model = load_model(folder)
        assert (model.name, model.card["version"], model.sha256) == ("small", "1.0", model.card["weights_sha256"])

    def test_the_network_is_ready_for_inference(self, folder):
        network = load_model(folder).network
        assert not network.training
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}

    def test_takes_no_compiler(self, folder):
        # PyTorch's own, which it would import for random numbers that nobody needs, takes several seconds.
        code = "import sys; from XViewSynthLib.model.catalogue import load_model; load_model(sys.argv[1]); "
        code += "sys.exit(any(name in sys.modules for name in ('torch._dynamo', 'sympy')))"
        environment = {**os.environ, "PYTHONPATH": LIBRARY}
        assert subprocess.run([sys.executable, "-c", code, str(folder)], env=environment).returncode == 0

    def test_half_precision_weights_become_float32(self, tmp_path):
        save_model(tmp_path / "half", make_network().half(), make_card())
        assert next(load_model(tmp_path / "half").network.parameters()).dtype == torch.float32

    def test_the_callers_random_numbers_are_left_alone(self, folder):
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        load_model(folder)
        assert torch.equal(torch.rand(3), expected)

    def test_works_below_a_non_ascii_folder(self, tmp_path):
        save_model(tmp_path / "Módèle 模型" / "small", make_network(), make_card())
        assert load_model(tmp_path / "Módèle 模型" / "small").name == "small"

    @pytest.mark.parametrize("name", ["card.json", "model.safetensors"])
    def test_a_missing_file_is_named(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(InputError, match=f"{name} is missing"):
            load_model(folder)

    def test_damaged_weights_are_refused(self, folder):
        path = folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(InputError, match="checksum is not the one on the card"):
            load_model(folder)

    def test_truncated_weights_are_refused(self, folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(InputError, match="copy or import the model again"):
            load_model(folder)

    def test_weights_of_another_model_are_refused(self, folder, tmp_path):
        other = save_model(tmp_path / "other", make_network(seed=1), make_card()).folder
        (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        with pytest.raises(InputError, match="belong to another model"):
            load_model(folder)

    def test_a_pickle_is_not_opened(self, folder, tmp_path):
        torch.save(make_network().state_dict(), tmp_path / "weights.pt")
        rewrite_weights(folder, (tmp_path / "weights.pt").read_bytes())
        with pytest.raises(InputError, match="weights .* are damaged"):
            load_model(folder)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_weights_that_are_not_numbers_are_refused(self, folder, value):
        state = make_network().state_dict()
        state["axial.heads.2.bias"] += value
        rewrite_weights(folder, save(state))
        with pytest.raises(InputError, match="not numbers"):
            load_model(folder)

    def test_whole_number_weights_are_refused(self, folder):
        rewrite_weights(folder, save({name: t.long() for name, t in make_network().state_dict().items()}))
        with pytest.raises(InputError, match="not floating-point numbers"):
            load_model(folder)

    def test_weights_beyond_single_precision_are_refused(self, folder):
        state = {name: t.double() for name, t in make_network().state_dict().items()}
        state["axial.heads.2.bias"] += 1e300
        rewrite_weights(folder, save(state))
        with pytest.raises(InputError, match="too large for single precision"):
            load_model(folder)

    @pytest.mark.parametrize("size", [1e12, 1e30, 3e38])
    @pytest.mark.parametrize(
        "name", ["axial.trunk.head.weight", "axial.trunk.condition.bias", "pixelwise.heads.7.weight"]
    )
    def test_weights_that_predict_no_ct_numbers_are_refused(self, folder, name, size):
        state = make_network().state_dict()
        state[name] = torch.full_like(state[name], size)
        rewrite_weights(folder, save(state))
        with pytest.raises(InputError, match="predicts no CT numbers for factor [27], its weights are too large"):
            load_model(folder)

    @pytest.mark.parametrize("quality", ["specialists", "best_specialists"])
    def test_so_are_those_of_a_specialist(self, tmp_path, quality):
        sizes = {quality: {"4": {"fusion_blocks": 1}}}
        folder = save_model(tmp_path / "small", make_network(**sizes), make_card(network=NETWORK | sizes)).folder
        state = make_network(**sizes).state_dict()
        state[f"{quality}.4.fusion.heads.4.weight"] += 1e20
        rewrite_weights(folder, save(state))
        with pytest.raises(InputError, match="predicts no CT numbers for factor 4"):
            load_model(folder)

    def test_a_factor_that_was_not_learned_is_refused(self, folder):
        state = make_network().state_dict()
        for name in state:
            if ".heads.7." in name:
                state[name].zero_()
        rewrite_weights(folder, save(state))
        with pytest.raises(InputError, match="lists factor 7, for which its network was not trained"):
            load_model(folder)
        rewrite_card(folder, factors=[2, 3, 4, 5, 6, 8])
        assert load_model(folder)

    def test_a_network_that_cannot_predict_is_refused(self, tmp_path):
        # A flag above 1 makes layers that fit each other, and not what they are given.
        network = make_network()
        sizes = NETWORK | {"overlap": 2}
        folder = save_model(tmp_path / "small", network, make_card()).folder
        rewrite_weights(folder, save(ThreeViewNetwork(**sizes).state_dict()))
        rewrite_card(folder, network=sizes)
        with pytest.raises(InputError, match="lists factor 2|does not fit this version"):
            load_model(folder)

    @pytest.mark.parametrize(
        "header",
        [
            b"",
            b"\xff" * 7,
            (2**63).to_bytes(8, "little"),
            (10**8).to_bytes(8, "little") + b" " * 1000,
            (2).to_bytes(8, "little") + b"[]",
            (2).to_bytes(8, "little") + b"{}",
        ],
    )
    def test_a_header_that_is_none_is_refused(self, folder, header):
        rewrite_weights(folder, header)
        with pytest.raises(InputError, match="are damaged|does not fit"):
            load_model(folder)

    def header(self, folder) -> dict:
        weights = (folder / "model.safetensors").read_bytes()
        return json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])

    def rewrite_header(self, folder, text: str) -> None:
        weights = (folder / "model.safetensors").read_bytes()
        data = weights[8 + int.from_bytes(weights[:8], "little") :]
        rewrite_weights(folder, len(text.encode()).to_bytes(8, "little") + text.encode() + data)

    @pytest.mark.parametrize(
        "change",
        [
            {"dtype": "I64"},
            {"dtype": "F8_E4M3"},
            {"dtype": 7},
            {"dtype": ["F32"]},
            {"shape": [10**30]},
            {"shape": [-1]},
            {"shape": ["4"]},
            {"shape": None},
            {"data_offsets": [0, 10**15]},
            {"data_offsets": [8, 4]},
            {"data_offsets": [0, 16]},
            {"data_offsets": "all"},
        ],
    )
    def test_a_tensor_of_another_kind_or_place_is_refused(self, folder, change):
        header = self.header(folder)
        header["pixelwise.heads.8.bias"] |= change
        self.rewrite_header(folder, json.dumps(header))
        with pytest.raises(InputError, match="are damaged|does not fit|not floating-point"):
            load_model(folder)

    def test_a_tensor_given_twice_is_refused(self, folder):
        text = json.dumps(self.header(folder))
        self.rewrite_header(
            folder, '{"axial.heads.2.bias": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, ' + text[1:]
        )
        with pytest.raises(InputError, match="are damaged"):
            load_model(folder)

    def test_a_header_nested_without_end_is_refused(self, folder):
        self.rewrite_header(folder, "[" * 200_000)
        with pytest.raises(InputError, match="are damaged"):
            load_model(folder)

    def test_a_header_with_more_tensors_than_a_model_has_is_refused(self, folder):
        many = {f"{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(30_000)}
        self.rewrite_header(folder, json.dumps(many))
        with pytest.raises(InputError, match="are damaged"):
            load_model(folder)

    def test_layers_that_no_weights_fill_are_not_even_counted_out(self, folder):
        rewrite_card(folder, network={"axial_blocks": 4096, "specialists": {str(n): {} for n in range(2, 9)}})
        with pytest.raises(InputError, match="does not fit this version"):
            load_model(folder)

    @pytest.mark.parametrize("network", [{"channels": 8}, {"neurons": 4}])
    def test_a_network_that_its_weights_do_not_fit_is_refused(self, folder, network):
        rewrite_card(folder, network=network)
        with pytest.raises(InputError, match="does not fit this version"):
            load_model(folder)

    def test_a_card_cannot_ask_for_more_memory_than_its_weights_fill(self, folder):
        rewrite_card(folder, network={"channels": 4096, "axial_blocks": 200, "pixel_blocks": 200})
        with pytest.raises(InputError, match="does not fit this version"):
            load_model(folder)

    @pytest.mark.parametrize(("name", "limit"), [("card.json", "CARD"), ("model.safetensors", "WEIGHTS")])
    def test_an_oversized_file_is_refused(self, folder, monkeypatch, name, limit):
        monkeypatch.setattr(model_files, f"MAX_{limit}_BYTES", 100)
        with pytest.raises(InputError, match=f"{name} is larger than a model can be"):
            load_model(folder)

    @pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
    def test_a_damaged_card_is_refused(self, folder, text):
        (folder / "card.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(InputError, match=r"The card of the model in .* is damaged"):
            load_model(folder)

    def test_an_unreadable_file_is_one_sentence(self, folder, monkeypatch):
        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(regular_files.os, "open", refuse)
        with pytest.raises(InputError, match=r"Cannot read .*card.json: Permission denied"):
            load_model(folder)


class TestCard:
    def test_a_whole_card_has_no_fault(self):
        assert card_fault({"schema_version": "1", "weights_sha256": "0" * 64, **make_card()}) is None

    def test_fields_of_others_are_allowed(self):
        assert card_fault({"schema_version": "1", "weights_sha256": "0" * 64, **make_card(authors="us")}) is None

    @pytest.mark.parametrize("card", [None, [], "card", 3])
    def test_anything_but_an_object_is_a_fault(self, card):
        assert "not an object" in card_fault(card)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("schema_version", "2"),
            ("name", "../evil"),
            ("name", ""),
            ("name", "a" * 65),
            ("name", "a\n"),
            ("version", ""),
            ("modality", "MR"),
            ("name", "nul"),
            ("name", "COM1.v2"),
            ("name", "small."),
            ("name", "Auto"),
            ("name", "größer"),
            ("version", "1\x1b[2J"),
            ("description", "\ud800"),
            ("intensity_range_hu", [3071, -1024]),
            ("intensity_range_hu", [True, 5]),
            ("intensity_range_hu", [-1e308, 1e308]),
            ("intensity_range_hu", [0, 1e-320]),
            ("intensity_range_hu", [-1024, 10**400]),
            ("intensity_range_hu", "[-1024, 3071]"),
            ("factors", []),
            ("factors", [1]),
            ("factors", [2, 2]),
            ("factors", [10**400]),
            ("factors", [2.5]),
            ("acquisition", "spiral"),
            ("network", {"channels": "48"}),
            ("network", {"channels": 0}),
            ("network", {"channels": 10**9}),
            ("network", ["channels"]),
            ("network", {"specialists": 4}),
            ("network", {"specialists": {"9": {"channels": 8}}}),
            ("network", {"specialists": {"four": {"channels": 8}}}),
            ("network", {"specialists": {"4": 8}}),
            ("network", {"specialists": {"4": {"channels": 10**9}}}),
            ("network", {"specialists": {"4": {"specialists": {"4": {}}}}}),
            ("network", {"best_specialists": ["4"]}),
            ("network", {"best_specialists": {"1": {"channels": 8}}}),
            ("training_data", [{"name": "a scan"}]),
            ("measured_gains", []),
            ("weights_sha256", "A" * 64),
            ("license", None),
        ],
    )
    def test_a_wrong_value_is_named(self, field, value):
        card = {"schema_version": "1", "weights_sha256": "0" * 64, **make_card(), field: value}
        assert f'"{field}" must be' in card_fault(card)
        assert not in_schema(card)

    @pytest.mark.parametrize(
        ("entry", "value"),
        [
            ("weights", [1e308, 1, 1]),
            ("weights", [-0.1, 1, 1]),
            ("weights", [10**400, 1, 1]),
            ("weights", [1, 1]),
            ("scale_hu", [1e-300, 50.0]),
            ("expected_error_hu", [4.0, 1e9]),
            ("error_bound_hu", [0.0, 100.0]),
            ("error_bound_hu", [9.0, True]),
            ("error_bound_hu", [100.0, 9.0]),
        ],
    )
    def test_an_absurd_calibration_is_named(self, entry, value):
        uncertainty = json.loads(json.dumps(UNCERTAINTY))
        uncertainty["factors"]["4"][entry] = value
        card = {"schema_version": "1", "weights_sha256": "0" * 64, **make_card(doubt=uncertainty)}
        assert '"doubt" must be' in card_fault(card)
        # JSON Schema cannot ask for rising numbers.
        assert in_schema(card) == (value == [100.0, 9.0])

    @pytest.mark.parametrize(("acquisition", "thick"), [("thick", {}), ("gap", {"thick": 1})])
    def test_acquisition_and_network_must_agree(self, acquisition, thick):
        sizes = {"acquisition": acquisition, "network": NETWORK | thick}
        card = {"schema_version": "1", "weights_sha256": "0" * 64, **make_card(**sizes)}
        assert '"acquisition" must be' in card_fault(card)
        assert not in_schema(card)

    @pytest.mark.parametrize("text", ["NaN", "1e400", "[" * 990 + "]" * 990, "1" * 5000])
    def test_what_json_cannot_print_again_is_damaged(self, folder, text):
        path = folder / "card.json"
        path.write_text(path.read_text().replace("{", f'{{"more": {text}, ', 1))
        with pytest.raises(InputError, match=r"The card of the model in .* is damaged"):
            load_model(folder)

    @pytest.mark.parametrize("field", sorted(cards.CARD_FIELDS))
    def test_a_missing_field_is_named(self, field):
        card = {"schema_version": "1", "weights_sha256": "0" * 64, **make_card()}
        del card[field]
        assert card_fault(card) == f'"{field}" is missing'
        assert not in_schema(card)


class TestCardSchema:
    """`card.schema.json`, which other programs can check cards with."""

    def test_it_is_a_schema(self):
        Draft202012Validator.check_schema(CARD_SCHEMA)

    def test_it_has_the_fields_and_the_words_of_the_check(self):
        fields = {**cards.CARD_FIELDS, **cards.OPTIONAL_CARD_FIELDS}
        described = {name: field["description"] for name, field in CARD_SCHEMA["properties"].items()}
        assert described == {name: expected for name, (_, expected) in fields.items()}
        assert CARD_SCHEMA["required"] == list(cards.CARD_FIELDS)

    @pytest.mark.parametrize("card", sorted(shipped_folder().glob("*/card.json")), ids=lambda path: path.parent.name)
    def test_shipped_cards_satisfy_it(self, card):
        assert in_schema(json.loads(card.read_text(encoding="utf-8")))

    @pytest.mark.parametrize(
        "changes",
        [
            {"authors": "us"},
            {"doubt": UNCERTAINTY},
            {"name": "Auto-2"},
            {"name": "console"},
            {"description": "two\nlines, größer"},
            {"acquisition": "thick", "network": NETWORK | {"thick": 1, "specialists": {"4": {"fusion_blocks": 1}}}},
        ],
        ids=lambda changes: " ".join(changes),
    )
    def test_sound_cards_satisfy_it(self, changes):
        card = {"schema_version": "1", "weights_sha256": "0" * 64, **make_card(**changes)}
        assert card_fault(card) is None
        assert in_schema(card)


class TestCatalogue:
    def test_is_empty_at_first(self):
        assert list_models() == []

    def test_a_users_model_comes_before_a_shipped_one_of_the_same_name(self, shipped):
        save_model(shipped / "small", make_network(), make_card(version="shipped"))
        save_model(user_folder() / "small", make_network(), make_card(version="mine"))
        assert load_model("small").card["version"] == "mine"
        assert [(entry.name, entry.shipped) for entry in list_models()] == [("small", False)]

    def test_lists_by_name_and_says_which_ones_shipped(self, shipped):
        save_model(shipped / "zeta", make_network(), make_card(name="zeta"))
        save_model(user_folder() / "alpha", make_network(), make_card(name="alpha"))
        assert [(entry.name, entry.shipped) for entry in list_models()] == [("alpha", False), ("zeta", True)]

    def test_one_broken_model_does_not_hide_the_others(self, shipped):
        save_model(shipped / "small", make_network(), make_card())
        (shipped / "broken").mkdir()
        broken, small = list_models()
        assert "card.json is missing" in broken.problem
        assert small.problem is None

    def test_passes_over_stray_files_and_hidden_folders(self, shipped):
        (shipped / "README.md").write_text("models")
        (shipped / ".staging").mkdir()
        assert list_models() == []

    def test_an_unknown_name_is_refused_with_those_that_exist(self, shipped):
        save_model(shipped / "small", make_network(), make_card())
        with pytest.raises(InputError, match=r"no model 'large': .* \(small\)"):
            load_model("large")

    @pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "../shipped/none", "."])
    def test_an_odd_name_is_one_sentence(self, name):
        with pytest.raises(InputError):
            load_model(name)

    def test_a_name_never_reaches_out_of_the_catalogue(self, shipped, folder):
        assert model_folder(str(folder)) == folder
        with pytest.raises(InputError, match="There is no model"):
            model_folder("../small/../nothing")

    def test_a_folder_that_cannot_be_read_hides_only_its_own_models(self, shipped, monkeypatch):
        save_model(shipped / "small", make_network(), make_card())
        user_folder().mkdir()
        listdir = os.listdir

        def refuse(path):
            if path == user_folder():
                raise PermissionError(13, "Permission denied")
            return listdir(path)

        monkeypatch.setattr(catalogue.os, "listdir", refuse)
        assert [entry.name for entry in list_models()] == ["small"]
        assert "cannot be read (Permission denied)" in unreadable_folder()
        with pytest.raises(InputError, match=r"no model 'mine': .* \(small\).* cannot be read"):
            load_model("mine")

    def test_a_users_folder_that_is_not_there_is_no_problem(self):
        assert unreadable_folder() is None

    def test_a_file_in_place_of_the_users_folder_is_reported(self, tmp_path):
        user_folder().write_text("")
        assert list_models() == []
        assert "Not a directory" in unreadable_folder()

    def test_the_shipped_standard_model_is_the_default(self, shipped):
        save_model(shipped / "standard", make_network(), make_card(name="standard"))
        assert load_model().name == "standard"


class TestPlaces:
    def test_the_environment_decides_first(self, tmp_path):
        assert user_folder() == tmp_path / "mine"

    @pytest.mark.parametrize(
        ("platform", "variables", "expected"),
        [
            ("linux", {"XDG_DATA_HOME": "/data"}, "/data/xviewsynth/models"),
            ("linux", {}, "/home/ada/.local/share/xviewsynth/models"),
            ("darwin", {}, "/home/ada/Library/Application Support/XViewSynth/Models"),
            ("win32", {"LOCALAPPDATA": "/local"}, "/local/XViewSynth/Models"),
            ("win32", {}, "/home/ada/AppData/Local/XViewSynth/Models"),
        ],
    )
    def test_otherwise_the_platform_does(self, monkeypatch, platform, variables, expected):
        for name in ("XVIEWSYNTH_MODELS", "XDG_DATA_HOME", "LOCALAPPDATA"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(catalogue.sys, "platform", platform)
        monkeypatch.setattr(catalogue.Path, "home", classmethod(lambda cls: cls("/home/ada")))
        assert user_folder().as_posix() == expected

    @pytest.mark.parametrize("error", [RuntimeError("no home"), KeyError("uid not found")])
    def test_without_a_home_there_are_only_shipped_models(self, monkeypatch, shipped, folder, error):
        for name in ("XVIEWSYNTH_MODELS", "XDG_DATA_HOME", "LOCALAPPDATA"):
            monkeypatch.delenv(name, raising=False)

        def no_home(_cls):
            raise error

        monkeypatch.setattr(catalogue.Path, "home", classmethod(no_home))
        save_model(shipped / "standard", make_network(), make_card(name="standard"))
        assert user_folder() is None
        assert unreadable_folder() is None
        assert [entry.name for entry in list_models()] == ["standard"]
        assert load_model().name == "standard"
        with pytest.raises(InputError, match="no folder for your models, .*: set XVIEWSYNTH_MODELS"):
            import_model(folder)
        with pytest.raises(InputError, match="you have imported none"):
            remove_model("small")

    @pytest.mark.parametrize(
        "place", ["Resources/Models", "XViewSynth/Resources/Models", "XViewSynth/XViewSynthLib/Models"]
    )
    def test_shipped_models_are_found_in_repository_module_and_wheel(self, tmp_path, monkeypatch, place):
        library = tmp_path / "root" / "XViewSynth" / "XViewSynthLib"
        library.mkdir(parents=True)
        monkeypatch.setattr(catalogue, "__file__", str(library / "model" / "catalogue.py"))
        assert shipped_folder() is None
        (tmp_path / "root" / place).mkdir(parents=True)
        assert shipped_folder() == (tmp_path / "root" / place).resolve()


class TestExport:
    def test_an_exported_model_can_be_imported_elsewhere(self, folder, tmp_path, monkeypatch):
        export_model(str(folder), tmp_path / "small.zip")
        monkeypatch.setenv("XVIEWSYNTH_MODELS", str(tmp_path / "elsewhere"))
        assert import_model(tmp_path / "small.zip").sha256 == load_model("small").sha256 == load_model(folder).sha256

    def test_equal_models_give_equal_files(self, folder, tmp_path):
        export_model(str(folder), tmp_path / "a.zip")
        export_model(str(folder), tmp_path / "b.zip")
        assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()

    def test_an_existing_file_is_kept_by_default(self, folder, tmp_path):
        file = tmp_path / "small.zip"
        file.write_text("mine")
        with pytest.raises(InputError, match="exists already"):
            export_model(str(folder), file)
        assert file.read_text() == "mine"
        export_model(str(folder), file, overwrite=True)
        assert zipfile.is_zipfile(file)

    def test_another_suffix_is_refused(self, folder, tmp_path):
        with pytest.raises(InputError, match="must end in .zip"):
            export_model(str(folder), tmp_path / "small.tar")

    def test_a_damaged_model_is_not_exported(self, folder, tmp_path):
        (folder / "model.safetensors").write_bytes(b"damaged")
        with pytest.raises(InputError, match="checksum"):
            export_model(str(folder), tmp_path / "small.zip")
        assert not (tmp_path / "small.zip").exists()

    def test_a_full_disk_is_one_sentence(self, folder, tmp_path, monkeypatch):
        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
        with pytest.raises(InputError, match="No space left on device"):
            export_model(str(folder), tmp_path / "small.zip")
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


class TestImport:
    def test_from_a_folder(self, folder):
        assert import_model(folder).folder == user_folder() / "small"

    def test_from_a_zip_file_with_one_folder_in_it(self, parts, tmp_path):
        members = {"anything/": b"", **{f"anything/{name}": content for name, content in parts.items()}}
        assert import_model(make_zip(tmp_path / "m.zip", members)).name == "small"

    def test_a_name_that_is_taken_is_refused(self, folder, shipped):
        save_model(shipped / "small", make_network(), make_card())
        with pytest.raises(InputError, match="'small' is installed already"):
            import_model(folder)

    def test_a_name_that_differs_in_capitals_alone_is_refused(self, folder, tmp_path):
        import_model(folder)
        other = save_model(tmp_path / "other", make_network(seed=1), make_card(name="SMALL")).folder
        with pytest.raises(InputError, match="'small' is installed already"):
            import_model(other)
        with pytest.raises(InputError, match="'small' is installed already"):
            check_new_name("Small")

    def test_a_stop_in_time_leaves_nothing(self, folder):
        def refuse(step):
            raise Cancelled

        with pytest.raises(Cancelled):
            import_model(folder, refuse)
        assert list_models() == []
        import_model(folder)
        with pytest.raises(Cancelled):
            remove_model("small", refuse)
        assert load_model("small").name == "small"

    def test_of_several_at_once_one_is_imported(self, folder):
        """Processes that wait for each other right before the model gets its name."""
        program = (
            "import sys\nfrom XViewSynthLib import InputError\nfrom XViewSynthLib.model.catalogue import import_model\n"
            "def last(step):\n    print('ready', flush=True)\n    sys.stdin.readline()\n    step()\n"
            "try:\n    import_model(sys.argv[1], last)\n"
            "except InputError as error:\n    print(error)\nelse:\n    print('imported')\n"
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(folder)],
                env={**os.environ, "PYTHONPATH": LIBRARY, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=600)[0].strip() for process in processes]
        assert said.count("imported") == 1
        assert sum("'small' is installed already: remove that one first" in line for line in said) == 3
        assert os.listdir(user_folder()) == ["small"]
        assert load_model("small").sha256 == load_model(folder).sha256

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
    @pytest.mark.parametrize("place", ["source", "card.json", "model.safetensors"])
    @pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
    def test_what_is_no_file_is_refused_at_once(self, folder, tmp_path, monkeypatch, place, kind):
        path = tmp_path / "m.zip" if place == "source" else folder / place
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            # A short name, as the system wants it.
            monkeypatch.chdir(path.parent)
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif place == "source":
            pytest.skip("a folder is a source")
        else:
            path.mkdir()
        with pytest.raises(InputError, match=f"{path} is a {kind} and not a file"):
            import_model(path if place == "source" else folder)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows needs rights for links")
    def test_links_in_a_circle_are_refused(self, tmp_path):
        (tmp_path / "a").symlink_to(tmp_path / "b")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        with pytest.raises(InputError, match="Cannot read"):
            import_model(tmp_path / "a")

    def test_damaged_weights_leave_nothing(self, folder):
        (folder / "model.safetensors").write_bytes(b"damaged")
        with pytest.raises(InputError, match="checksum"):
            import_model(folder)
        assert list(user_folder().iterdir()) == []

    @pytest.mark.parametrize(
        "rename",
        [
            "../{}",
            "../../{}",
            "/{}",
            "/etc/{}",
            "C:/{}",
            "..\\{}",
            "a/b/{}",
            "./{}",
            "{}/",
        ],
    )
    def test_a_member_elsewhere_is_refused(self, parts, tmp_path, rename):
        members = {rename.format(name): content for name, content in parts.items()}
        with pytest.raises(InputError, match="nothing else"):
            import_model(make_zip(tmp_path / "m.zip", members))
        assert list_models() == []
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m.zip", "shipped", "small"]

    @pytest.mark.parametrize("extra", ["run.py", "../run.py", "model.pt", "sub/card.json"])
    def test_an_unexpected_member_is_refused(self, parts, tmp_path, extra):
        with pytest.raises(InputError, match="nothing else"):
            import_model(make_zip(tmp_path / "m.zip", {**parts, extra: b"import os"}))
        assert list_models() == []

    def test_a_member_given_twice_is_refused(self, parts, tmp_path):
        file = make_zip(tmp_path / "m.zip", parts)
        with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("card.json", parts["card.json"])
        with pytest.raises(InputError, match="nothing else"):
            import_model(file)

    def test_a_missing_member_is_refused(self, parts, tmp_path):
        with pytest.raises(InputError, match="must hold card.json and model.safetensors"):
            import_model(make_zip(tmp_path / "m.zip", {"card.json": parts["card.json"]}))

    def test_a_symbolic_link_is_refused(self, parts, tmp_path):
        link = zipfile.ZipInfo("model.safetensors")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
            archive.writestr("card.json", parts["card.json"])
            archive.writestr(link, "/etc/passwd")
        with pytest.raises(InputError, match="nothing else"):
            import_model(tmp_path / "m.zip")

    @pytest.mark.parametrize(("name", "limit"), [("card.json", "CARD"), ("model.safetensors", "WEIGHTS")])
    def test_a_member_that_unpacks_to_a_huge_size_is_refused(self, parts, tmp_path, monkeypatch, name, limit):
        file = make_zip(tmp_path / "m.zip", {**parts, name: b"0" * 10_000_000})
        monkeypatch.setattr(model_files, f"MAX_{limit}_BYTES", 1_000_000)
        with pytest.raises(InputError, match=f"{name} in .* is larger than a model can have"):
            import_model(file)

    def test_a_member_that_lies_about_its_size_is_refused(self, parts, tmp_path, monkeypatch):
        file = make_zip(tmp_path / "m.zip", {**parts, "card.json": b"0" * 3_000_000})
        # Both headers, the local and the central one, declare the size.
        file.write_bytes(file.read_bytes().replace((3_000_000).to_bytes(4, "little"), (50).to_bytes(4, "little")))
        with pytest.raises(InputError):
            import_model(file)

    def test_a_huge_file_is_not_opened(self, tmp_path):
        with (tmp_path / "m.zip").open("wb") as file:
            file.truncate(2 * model_files.MAX_WEIGHTS_BYTES)
        with pytest.raises(InputError, match="larger than a model can be"):
            import_model(tmp_path / "m.zip")

    def test_an_encrypted_member_is_refused(self, parts, tmp_path):
        file = make_zip(tmp_path / "m.zip", parts)
        content = bytearray(file.read_bytes())
        start = content.find(b"PK\x01\x02")
        while start >= 0:
            content[start + 8] |= 1
            start = content.find(b"PK\x01\x02", start + 4)
        file.write_bytes(content)
        with pytest.raises(InputError, match="no sound zip file"):
            import_model(file)

    @pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_other_kinds_of_compression_are_refused(self, parts, tmp_path, kind):
        with zipfile.ZipFile(tmp_path / "m.zip", "w", kind) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
        with pytest.raises(InputError, match="compressed in an unknown way"):
            import_model(tmp_path / "m.zip")

    def test_data_descriptors_are_fine(self, parts, tmp_path):
        # What is written to a stream has its sizes behind the data.
        class Stream(io.BytesIO):
            def seekable(self):
                return False

            def seek(self, *_):
                raise io.UnsupportedOperation

        stream = Stream()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
        (tmp_path / "m.zip").write_bytes(stream.getvalue())
        assert import_model(tmp_path / "m.zip").name == "small"

    def test_a_list_of_members_without_end_is_not_read(self, parts, tmp_path):
        file = tmp_path / "m.zip"
        with zipfile.ZipFile(file, "w") as archive:
            for number in range(40_000):
                archive.writestr(f"{number}", b"")
        with pytest.raises(InputError, match="no sound zip file"):
            import_model(file)

    def test_damage_anywhere_is_one_sentence(self, parts, tmp_path):
        sound = make_zip(tmp_path / "m.zip", parts).read_bytes()
        random = np.random.default_rng(0)
        for _ in range(60):
            content = bytearray(sound)
            for place in random.integers(len(content), size=random.integers(1, 4)):
                content[place] = random.integers(256)
            (tmp_path / "m.zip").write_bytes(
                content[: random.integers(len(content)) if random.random() < 0.3 else None]
            )
            # Some changes do not matter, such as those of dates.
            with contextlib.suppress(InputError):
                import_model(tmp_path / "m.zip")
                remove_model("small")
        assert not user_folder().exists() or os.listdir(user_folder()) == []

    @pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04"])
    def test_what_is_no_zip_file_is_refused(self, tmp_path, content):
        (tmp_path / "m.zip").write_bytes(content)
        with pytest.raises(InputError, match="no sound zip file"):
            import_model(tmp_path / "m.zip")

    def test_a_missing_file_is_one_sentence(self, tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            import_model(tmp_path / "m.zip")


class TestRemove:
    def test_the_model_is_gone(self, folder):
        import_model(folder)
        remove_model("small")
        assert list_models() == []

    def test_a_broken_model_can_be_removed(self):
        (user_folder() / "broken").mkdir(parents=True)
        remove_model("broken")
        assert list_models() == []

    def test_a_shipped_model_stays(self, shipped):
        save_model(shipped / "small", make_network(), make_card())
        with pytest.raises(InputError, match="cannot be removed"):
            remove_model("small")
        assert load_model("small")

    @pytest.mark.parametrize("name", ["small", "../small", "."])
    def test_only_names_of_the_users_own_models_count(self, folder, name):
        with pytest.raises(InputError, match=r"There is no model .* to remove: you have imported none"):
            remove_model(name)
        assert load_model(folder)

    def test_a_folder_that_cannot_be_deleted_is_one_sentence(self, folder, monkeypatch):
        import_model(folder)

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(catalogue.os, "rename", refuse)
        with pytest.raises(InputError, match="Permission denied"):
            remove_model("small")
        assert load_model("small")
