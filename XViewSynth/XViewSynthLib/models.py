"""Model folders: the weights of a network, and a card that says what they are.

A model is a folder with two files: `model.safetensors` and `card.json`. The card uses the vocabulary of MONAI
bundles. Weights are read with safetensors only, and only when their SHA-256 is the one on the card.

Models are found by name, first in the user's folder (`user_folder`), then among those that ship with the program.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .ensemble import STANDARD_QUALITY
from .errors import InputError
from .outputs import Outputs, staging_folder

if TYPE_CHECKING:
    from torch import Tensor

    from .networks import ThreeViewNetwork
    from .volume import Volume

#: In place of a name: the model that ships for the acquisition of the scan.
AUTOMATIC = "auto"
STANDARD = "standard"
STANDARD_THICK = "standard-thick"
_SHIPPED_FOR = {"gap": STANDARD, "thick": STANDARD_THICK}
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.json"
SCHEMA_VERSION = "1"

# Far above what three students need, far below what would fill a machine's memory.
MAX_WEIGHTS_BYTES = 512 * 1024**2
MAX_CARD_BYTES = 1024**2
_MAX_NETWORK_NUMBER = 4096
_SPECIALISTS, _BEST_SPECIALISTS = "specialists", "best_specialists"
_FACTORS = range(2, 9)
_MOST_CURVE_POINTS = 64

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FOLDER_VARIABLE = "XVIEWSYNTH_MODELS"


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is ready to use.

    Attributes:
        name: the name on its card.
        folder: where it was read from.
        card: the card, as written by `save_model`.
        sha256: checksum of the weights file, 64 hexadecimal digits.
        network: on the CPU, float32, in evaluation mode.
    """

    name: str
    folder: Path
    card: dict[str, Any]
    sha256: str
    network: ThreeViewNetwork

    def at_quality(self, quality: str) -> Model:
        """The same model with the network that answers at a quality (`ensemble.QUALITIES`); the card is that of all."""
        return replace(self, network=self.network.at_quality(quality))

    def trainable(self) -> Model:
        """The same model without what answers at best quality alone, which would not learn what the others do."""
        sizes = {name: value for name, value in self.card["network"].items() if name != _BEST_SPECIALISTS}
        return replace(self.at_quality(STANDARD_QUALITY), card=self.card | {"network": sizes})


@dataclass(frozen=True)
class ModelEntry:
    """A model in the catalogue; its weights have not been read.

    Attributes:
        name: the name to ask for.
        folder: where it lies.
        shipped: whether it came with the program, and so cannot be removed.
        card: its card, or None where that is not readable.
        problem: one sentence on why the card is not readable, or None.
    """

    name: str
    folder: Path
    shipped: bool
    card: dict[str, Any] | None
    problem: str | None = None


def load_model(model: str | os.PathLike[str] = STANDARD) -> Model:
    """Read a model by its name, or from a folder.

    Raises:
        InputError: there is no such model, or its files are missing, damaged, oversized or do not belong together.
    """
    return _load(model_folder(model))


def model_folder(model: str | os.PathLike[str]) -> Path:
    """The folder of a model, given its name or the folder itself. Its content is not looked at.

    Raises:
        InputError: there is no such model.
    """
    if isinstance(model, str) and _NAME.fullmatch(model):
        for folder, _ in _catalogue_folders():
            if (folder / model).is_dir():
                return folder / model
    try:
        if str(model) and Path(model).is_dir():
            return Path(model)
    except (OSError, ValueError):  # a name too long for the file system, or with a null character
        pass
    names = ", ".join(entry.name for entry in list_models()) or "none is installed"
    raise InputError(f"There is no model {str(model)!r}: choose one of those installed ({names}) or a model folder.")


def choose_model(
    volume: Volume,
    axis: str = "auto",
    model: str | os.PathLike[str] = AUTOMATIC,
    acquisition: str = "auto",
    thickness: float | None = None,
) -> Model:
    """Read the model that is asked for, or the one that ships for the acquisition of a scan.

    Args:
        volume: the scan.
        axis: "auto" or the axis to enhance along.
        model: "auto", or name or folder of a model.
        acquisition: "auto" for what the thickness of the slices says, "gap" or "thick".
        thickness: mm, in place of what the scan says.

    Raises:
        InputError: as for `load_model`.
    """
    from .acquisition import resolve_acquisition

    if model == AUTOMATIC:
        model = shipped_for(resolve_acquisition(volume, volume.resolve_axis(axis), acquisition, thickness))
    return load_model(model)


def shipped_for(acquisition: str) -> str:
    """Name of the model that ships for "gap" or "thick".

    Raises:
        InputError: there is no such acquisition.
    """
    if acquisition not in _SHIPPED_FOR:
        raise InputError(f"Acquisition {acquisition!r} does not exist: choose {' or '.join(_SHIPPED_FOR)}.")
    return _SHIPPED_FOR[acquisition]


def check_model(model: str | os.PathLike[str]) -> None:
    """Raise `InputError` where no model has that name or folder; "auto" always will."""
    if model != AUTOMATIC:
        model_folder(model)


def model_identity(model: str | os.PathLike[str]) -> str:
    """What decides on the answers of a model: the checksum of its weights, of "auto" those of all that may be chosen.

    Raises:
        InputError: as for `load_model`.
    """
    return " ".join(card["weights_sha256"] for card in _cards(model))


def known_factors(model: str | os.PathLike[str]) -> list[int]:
    """The factors that a model was trained for, of "auto" those that all know that may be chosen.

    Raises:
        InputError: as for `load_model`.
    """
    return sorted(set.intersection(*(set(card["factors"]) for card in _cards(model))))


def _cards(model: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The card of a model, of "auto" those of all that may be chosen."""
    return [model_card(name) for name in (_SHIPPED_FOR.values() if model == AUTOMATIC else (model,))]


def model_card(model: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of a model whose weights are the ones that the card describes.

    Raises:
        InputError: as for `load_model`.
    """
    folder = model_folder(model)
    files = _read_folder(folder)
    card = _parse_card(files[CARD_FILE], folder)
    _check_weights(card, files[WEIGHTS_FILE], folder)
    return card


def list_models() -> list[ModelEntry]:
    """All models that can be asked for by name, sorted; a user's model hides a shipped one of the same name."""
    found: dict[str, ModelEntry] = {}
    for folder, shipped in _catalogue_folders():
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            if place.is_dir() and _NAME.fullmatch(place.name) and place.name not in found:
                found[place.name] = _entry(place, shipped)
    return [found[name] for name in sorted(found)]


def check_name(name: str) -> None:
    """Make sure that a model may be called so.

    Raises:
        InputError: the name has other characters than allowed.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"Choose a name for the model of letters, digits, dots, dashes and underscores: {name!r} is not."
        )


def check_new_name(name: str) -> None:
    """Make sure that a model may get a name.

    Raises:
        InputError: as for `check_name`, or there is a model of that name already.
    """
    check_name(name)
    if name in {entry.name for entry in list_models()}:
        raise InputError(f"A model named {name!r} is installed already: choose another name.")


def import_model(source: str | os.PathLike[str]) -> Model:
    """Copy a model into the user's folder from a zip file made by `export_model`, or from a folder.

    Of a zip file only the two known members are read, and never more bytes than a model may have.

    Raises:
        InputError: the source is no sound model, or there is a model of its name already.
    """
    source = Path(source)
    files = _read_folder(source) if source.is_dir() else _read_zip(source)
    name = _parse_card(files[CARD_FILE], source)["name"]
    if name in {entry.name for entry in list_models()}:
        raise InputError(f"A model named {name!r} is installed already: remove that one first or rename this one.")
    target = user_folder() / name

    def check_and_write(folder: Path) -> None:
        _write_files(folder, files)
        _load(folder, told_as=source)

    _write_folder(target, check_and_write)
    return _load(target)


def export_model(name: str, file: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a model as a zip file that `import_model` reads on another machine.

    Raises:
        InputError: there is no such model, it is damaged, or the file cannot be written.
    """
    file = Path(file)
    if file.suffix.lower() != ".zip":
        raise InputError(f"{file} must end in .zip: a model is exported as a zip file.")
    folder = model_folder(name)
    model_card(folder)
    files = _read_folder(folder)
    with Outputs(overwrite) as outputs:
        staged = outputs.add(file)
        with _clear_write_errors(file), zipfile.ZipFile(staged, "w") as archive:
            for member, content in files.items():
                # Without a date equal models give equal files.
                archive.writestr(zipfile.ZipInfo(member), content)
        outputs.commit()


def remove_model(name: str) -> None:
    """Delete a model from the user's folder.

    Raises:
        InputError: there is no such model there, or it cannot be deleted.
    """
    entries = {entry.name: entry for entry in list_models()}
    if name not in entries:
        imported = ", ".join(entry.name for entry in entries.values() if not entry.shipped) or "none"
        raise InputError(f"There is no model {name!r} to remove: you have imported {imported}.")
    entry = entries[name]
    if entry.shipped:
        raise InputError(f"The model {name!r} ships with the program and cannot be removed.")
    try:
        shutil.rmtree(entry.folder)
    except OSError as error:
        raise InputError(f"Cannot remove {entry.folder}: {error.strerror}.") from error


def save_model(folder: str | os.PathLike[str], network: ThreeViewNetwork, card: Mapping[str, Any]) -> Model:
    """Write a model folder, whole or not at all; a model that is there already is replaced.

    Args:
        folder: the model folder; its parents are created.
        network: weights of any floating type and device; stored as they are.
        card: see `CARD_FIELDS`. The schema version and the checksum of the weights are filled in.

    Raises:
        InputError: the card is incomplete, the folder holds something else, or it cannot be written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})
    checksum = hashlib.sha256(weights).hexdigest()
    card = {"schema_version": SCHEMA_VERSION, **card, "weights_sha256": checksum}
    text = (json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    _parse_card(text, folder)
    _write_folder(folder, lambda staged: _write_files(staged, {CARD_FILE: text, WEIGHTS_FILE: weights}))
    return _load(folder)


def user_folder() -> Path:
    """Where the user's own models lie: $XVIEWSYNTH_MODELS, else the platform's place for data of applications."""
    chosen = os.environ.get(_FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "XViewSynth" / "Models"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "XViewSynth" / "Models"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "xviewsynth" / "models"


def shipped_folder() -> Path | None:
    """Where the models that came with the program lie, or None where none came with it."""
    here = Path(__file__).resolve().parent
    # In the repository, in a packaged Slicer module, in an installed wheel.
    places = (here.parents[1] / "Resources" / "Models", here.parent / "Resources" / "Models", here / "Models")
    return next((place for place in places if place.is_dir()), None)


def _catalogue_folders() -> Iterator[tuple[Path, bool]]:
    yield user_folder(), False
    shipped = shipped_folder()
    if shipped is not None:
        yield shipped, True


def _entry(folder: Path, shipped: bool) -> ModelEntry:
    try:
        return ModelEntry(folder.name, folder, shipped, _parse_card(_read(folder, CARD_FILE), folder))
    except InputError as error:
        return ModelEntry(folder.name, folder, shipped, None, str(error))


def _load(folder: Path, told_as: Path | None = None) -> Model:
    """Read a model; sentences about its faults name `told_as` where the folder is a passing one."""
    place = told_as or folder
    files = _read_folder(folder)
    card = _parse_card(files[CARD_FILE], place)
    checksum = _check_weights(card, files[WEIGHTS_FILE], place)
    network = _build_network(card, files[WEIGHTS_FILE], place)
    return Model(card["name"], folder, card, checksum, network)


def _check_weights(card: Mapping[str, Any], weights: bytes, place: Path) -> str:
    checksum = hashlib.sha256(weights).hexdigest()
    if checksum != card["weights_sha256"]:
        raise InputError(
            f"The weights of the model in {place} are damaged or belong to another model: their checksum is not "
            "the one on the card, so copy or import the model again."
        )
    return checksum


def _build_network(card: Mapping[str, Any], weights: bytes, place: Path) -> ThreeViewNetwork:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    from .networks import ThreeViewNetwork

    known_types = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    try:
        tensors: dict[str, Tensor] = load(weights)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"The weights of the model in {place} are damaged: copy or import the model again.") from error
    if not all(tensor.dtype in known_types and tensor.isfinite().all() for tensor in tensors.values()):
        raise InputError(f"The weights of the model in {place} hold values that are not numbers: use another model.")
    # Building draws random numbers, and the caller's sequence is the caller's.
    with torch.random.fork_rng(devices=[]):
        try:
            # First without memory, so that a card cannot ask for more than its weights fill.
            with torch.device("meta"):
                expected = ThreeViewNetwork(**card["network"]).state_dict()
            if {name: t.shape for name, t in expected.items()} != {name: t.shape for name, t in tensors.items()}:
                raise ValueError("the layers differ")
            network = ThreeViewNetwork(**card["network"])
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"The model in {place} does not fit this version of the program ({error}): use another model."
            ) from error
    network.load_state_dict(tensors)
    return network.float().eval()


def _read_folder(folder: Path) -> dict[str, bytes]:
    return {name: _read(folder, name) for name in (CARD_FILE, WEIGHTS_FILE)}


def _limit(name: str) -> int:
    return MAX_CARD_BYTES if name == CARD_FILE else MAX_WEIGHTS_BYTES


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        if not path.is_file():
            raise InputError(f"{folder} is no model folder: {name} is missing.")
        with path.open("rb") as file:
            content = file.read(_limit(name) + 1)
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error
    if len(content) > _limit(name):
        raise InputError(f"{path} is larger than a model can be: use another model.")
    return content


def _read_zip(source: Path) -> dict[str, bytes]:
    try:
        if source.stat().st_size > MAX_WEIGHTS_BYTES + 2 * MAX_CARD_BYTES:
            raise InputError(f"{source} is larger than a model can be: use another file.")
        with zipfile.ZipFile(source) as archive:
            return {name: _read_member(archive, member, source) for name, member in _members(archive, source).items()}
    except FileNotFoundError as error:
        raise InputError(f"{source} does not exist: give a zip file or a model folder.") from error
    # NotImplementedError: a compression or version that Python does not know; RuntimeError: encrypted.
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source} is no sound zip file: export the model again.") from error


def _members(archive: zipfile.ZipFile, source: Path) -> dict[str, zipfile.ZipInfo]:
    """The two files of a model, at the top or in one plain folder; nothing else may be in the archive."""
    files = [member for member in archive.infolist() if not member.is_dir()]
    for top in {member.filename.rpartition("/")[0] for member in files}:
        names = {f"{top}/{name}" if top else name: name for name in (CARD_FILE, WEIGHTS_FILE)}
        plain = not top or _NAME.fullmatch(top)
        if plain and sorted(member.filename for member in files) == sorted(names):
            if any(stat.S_ISLNK(member.external_attr >> 16) for member in files):
                break
            return {names[member.filename]: member for member in files}
    raise InputError(f"{source} is no model: it must hold {CARD_FILE} and {WEIGHTS_FILE} and nothing else.")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: Path) -> bytes:
    limit = _limit(member.filename.rpartition("/")[2])
    if member.file_size <= limit:
        with archive.open(member) as file:
            # The declared size may be a lie.
            content = file.read(limit + 1)
        if len(content) <= limit:
            return content
    raise InputError(f"{member.filename} in {source} is larger than a model can have: use another file.")


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `folder`, then put it in its place."""
    with _clear_write_errors(folder):
        if folder.exists() and not _holds_only_a_model(folder):
            raise InputError(f"{folder} exists and holds something else than a model: choose another folder.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(folder.parent) as staging:
            new, old = staging / "new", staging / "old"
            new.mkdir()
            write(new)
            if folder.exists():
                os.replace(folder, old)
            try:
                os.replace(new, folder)
            except OSError:
                if old.exists():
                    os.replace(old, folder)
                raise


def _holds_only_a_model(folder: Path) -> bool:
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= {CARD_FILE, WEIGHTS_FILE}


@contextmanager
def _clear_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}. Choose another place.") from error


def _parse_card(content: bytes, place: Path) -> dict[str, Any]:
    try:
        card = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The card of the model in {place} is damaged: copy or import the model again.") from error
    fault = card_fault(card)
    if fault:
        raise InputError(f"The card of the model in {place} cannot be used: {fault}.")
    return card


def card_fault(card: object) -> str | None:
    """What is wrong with a model card, in words, or None where it is sound. Unknown fields are allowed."""
    if not isinstance(card, dict):
        return "it is not an object with named fields"
    for field, (sound, expected) in CARD_FIELDS.items():
        if field not in card:
            return f'"{field}" is missing'
        if not sound(card[field]):
            return f'"{field}" must be {expected}'
    for field, (sound, expected) in OPTIONAL_CARD_FIELDS.items():
        if field in card and not sound(card[field]):
            return f'"{field}" must be {expected}'
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_range(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]


def _are_factors(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(_is_whole(factor, min(_FACTORS), max(_FACTORS)) for factor in value)
    )


def _is_network(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    own = (_SPECIALISTS, _BEST_SPECIALISTS)
    sizes = {name: number for name, number in value.items() if name not in own}
    return _are_sizes(sizes) and all(_are_specialists(value.get(name, {})) for name in own)


def _are_specialists(value: object) -> bool:
    return (
        isinstance(value, dict)
        # JSON knows names alone.
        and all(factor in map(str, _FACTORS) for factor in value)
        and all(map(_are_sizes, value.values()))
    )


def _are_sizes(value: object) -> bool:
    # Bounded, so that a card cannot keep the program busy building layers.
    return isinstance(value, dict) and all(_is_whole(number, 1, _MAX_NETWORK_NUMBER) for number in value.values())


def _is_training_data(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(entry, dict) and _is_text(entry.get("name")) and _is_text(entry.get("license")) for entry in value
    )


def _is_doubt(value: object) -> bool:
    if not isinstance(value, dict) or "factors" not in value:
        return False
    parts = [value[name] for name in ("factors", "read_off_factors") if name in value]
    return all(isinstance(part, dict) for part in parts) and all(
        factor in map(str, range(2, 9)) and _is_calibration(entry) for part in parts for factor, entry in part.items()
    )


def _is_calibration(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    weights, *curves = (entry.get(name) for name in ("weights", "scale_hu", "expected_error_hu", "error_bound_hu"))
    if not all(isinstance(numbers, list) and all(map(_is_number, numbers)) for numbers in (weights, *curves)):
        return False
    return (
        len(weights) == 3
        and min(weights) >= 0
        and 1 <= len(curves[0]) == len(curves[1]) == len(curves[2]) <= _MOST_CURVE_POINTS
        and all(0 < lower < higher for curve in curves for lower, higher in pairwise([curve[0] / 2, *curve]))
    )


#: Every field a card must have: when its value is sound, and what to say where it is not.
CARD_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "schema_version": (lambda value: value == SCHEMA_VERSION, f'"{SCHEMA_VERSION}": use another version of the model'),
    "name": (
        lambda value: isinstance(value, str) and bool(_NAME.fullmatch(value)),
        "1 to 64 letters, digits, dots, dashes or underscores, the first a letter or digit",
    ),
    "version": (_is_text, "text"),
    "description": (_is_text, "text"),
    "modality": (lambda value: value == "CT", '"CT"'),
    "intensity_range_hu": (_is_range, "two numbers, the lower first"),
    "factors": (_are_factors, "a list of whole numbers from 2 to 8"),
    "acquisition": (lambda value: value in ("gap", "thick"), '"gap" or "thick"'),
    "network": (
        _is_network,
        f'named whole numbers from 1 to {_MAX_NETWORK_NUMBER}, and "{_SPECIALISTS}" and "{_BEST_SPECIALISTS}" of '
        "factors, each the same",
    ),
    "training_data": (_is_training_data, 'a list of scans, each with "name" and "license"'),
    "measured_gains": (lambda value: isinstance(value, dict), "named gains over the baselines, or empty"),
    "weights_sha256": (
        lambda value: isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]{64}", value)),
        "64 hexadecimal digits",
    ),
    "intended_use": (_is_text, "text"),
    "limitations": (_is_text, "text"),
    "license": (_is_text, "text"),
}

#: Fields that a card may have. Without "doubt" a model tells how far its views differ, and no error in HU.
OPTIONAL_CARD_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "doubt": (
        _is_doubt,
        'an object whose "factors" hold, for each factor, three weights of 0 or more and three rising curves of equal '
        "length above 0",
    ),
}
