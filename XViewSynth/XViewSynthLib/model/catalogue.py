"""Model folders: the weights of a network, and a card that describes them.

A model is a folder with two files: `model.safetensors` and `card.json`. The card uses the vocabulary of MONAI
bundles. Weights are read with safetensors only, and only if their SHA-256 is that of the card.

Models are found by name, first in the user's folder (`user_folder`), then among the shipped ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..request import AUTOMATIC, Quality, Request
from ..system.outputs import Outputs
from ..system.staging import staging_folder
from ..system.stop import LastStep, at_once
from .cards import BEST_SPECIALISTS, NAME_PATTERN, NAME_RULE, SCHEMA_VERSION, is_name, parse_card
from .cards import card_fault as card_fault
from .files import CARD_FILE, WEIGHTS_FILE, read_file, read_folder, read_zip

if TYPE_CHECKING:
    from ..geometry.volume import Volume
    from .network import ThreeViewNetwork

STANDARD = "standard"
STANDARD_THICK = "standard-thick"
_SHIPPED_FOR = {"gap": STANDARD, "thick": STANDARD_THICK}
_FOLDER_VARIABLE = "XVIEWSYNTH_MODELS"


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model.

    Attributes:
        name: the name on its card.
        folder: its source.
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
        """The same model with the network for a quality. The card does not change."""
        return replace(self, network=self.network.at_quality(quality))

    def trainable(self) -> Model:
        """The same model without the networks for best quality, which are not trained together with the others."""
        sizes = {name: value for name, value in self.card["network"].items() if name != BEST_SPECIALISTS}
        return replace(self.at_quality(Quality.STANDARD), card=self.card | {"network": sizes})


@dataclass(frozen=True)
class ModelEntry:
    """A model in the catalogue. Its weights have not been read.

    Attributes:
        name: its name in requests.
        folder: its folder.
        shipped: whether it is part of the program, and so cannot be removed.
        card: its card, or None if it cannot be read.
        problem: one sentence on why the card cannot be read, or None.
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
    if isinstance(model, str) and NAME_PATTERN.fullmatch(model):
        for folder, _ in _catalogue_folders():
            if os.path.isdir(folder / model):
                return folder / model
    if str(model) and os.path.isdir(model):
        return Path(model)
    names = ", ".join(entry.name for entry in list_models()) or "none is installed"
    missing = f"There is no model {str(model)!r}: choose one of those installed ({names}) or a model folder."
    raise InputError(missing + _hidden_models())


def choose_model(volume: Volume, request: Request, model: object = None) -> Model:
    """Read the requested model, or the one that ships for the acquisition of a scan.

    Args:
        volume: the scan.
        request: names the model.
        model: a loaded model, which is returned; anything else is ignored.

    Raises:
        InputError: as for `load_model`.
    """
    # Commands that only look at models need no numpy.
    from ..geometry.acquisition import resolve_acquisition

    if isinstance(model, Model):
        return model
    if request.model != AUTOMATIC:
        return load_model(request.model)
    axis = volume.resolve_axis(request.axis)
    return load_model(shipped_for(resolve_acquisition(volume, axis, request.acquisition, request.thickness)))


def shipped_for(acquisition: str) -> str:
    """Name of the model that ships for "gap" or "thick".

    Raises:
        InputError: there is no such acquisition.
    """
    if acquisition not in tuple(_SHIPPED_FOR):
        raise InputError(f"Acquisition {acquisition!r} does not exist: choose {' or '.join(_SHIPPED_FOR)}.")
    return _SHIPPED_FOR[acquisition]


def check_model(model: str | os.PathLike[str]) -> None:
    """Raise `InputError` if no model has that name or folder. "auto" is always accepted."""
    if model != AUTOMATIC:
        model_folder(model)


def model_identity(model: str | os.PathLike[str]) -> str:
    """The checksum of a model's weights, which determine its predictions; for "auto", those of all candidates.

    Raises:
        InputError: as for `load_model`.
    """
    return " ".join(card["weights_sha256"] for card in _cards(model))


def known_factors(model: str | os.PathLike[str]) -> list[int]:
    """The factors that a model was trained for; for "auto", those common to all candidates.

    Raises:
        InputError: as for `load_model`.
    """
    return sorted(set.intersection(*(set(card["factors"]) for card in _cards(model))))


def _cards(model: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The card of a model; for "auto", those of all candidates."""
    return [model_card(name) for name in (_SHIPPED_FOR.values() if model == AUTOMATIC else (model,))]


def model_card(model: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of a model, after a check that its weights belong to it.

    Raises:
        InputError: as for `load_model`.
    """
    folder = model_folder(model)
    files = read_folder(folder)
    card = parse_card(files[CARD_FILE], folder)
    _check_weights(card, files[WEIGHTS_FILE], folder)
    return card


def list_models() -> list[ModelEntry]:
    """All models that can be requested by name, sorted. A user's model hides a shipped one of the same name.

    A folder that cannot be read is skipped; see `unreadable_folder`.
    """
    found: dict[str, ModelEntry] = {}
    for folder, shipped in _catalogue_folders():
        for name in _names_in(folder):
            place = folder / name
            if NAME_PATTERN.fullmatch(name) and name not in found and os.path.isdir(place):
                found[name] = _entry(place, shipped)
    return [found[name] for name in sorted(found)]


def unreadable_folder() -> str | None:
    """A message if the folder of the user's models cannot be read, else None."""
    folder = user_folder()
    try:
        if folder is not None:
            os.listdir(folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return (
            f"The folder of your models, {folder}, cannot be read ({getattr(error, 'strerror', None) or error}): allow "
            f"that, or set {_FOLDER_VARIABLE} to another folder."
        )
    return None


def _hidden_models() -> str:
    problem = unreadable_folder()
    return f" {problem}" if problem else ""


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError):
        return []


def check_name(name: str) -> None:
    """Refuse an invalid name of a model.

    Raises:
        InputError: the name has characters that are not allowed, or has another meaning.
    """
    if not is_name(name):
        raise InputError(f"A model cannot be named {name!r}: choose {NAME_RULE}.")


def check_new_name(name: str) -> None:
    """Refuse an invalid name of a new model.

    Raises:
        InputError: as for `check_name`, or a model has that name already.
    """
    check_name(name)
    _refuse_taken(name, "choose another name")


def _refuse_taken(name: str, advice: str) -> None:
    # Many file systems, and people, do not distinguish names that differ only in capital letters.
    taken = {entry.name.lower(): entry.name for entry in list_models()}
    if name.lower() in taken:
        raise InputError(f"A model named {taken[name.lower()]!r} is installed already: {advice}.")


def import_model(source: str | os.PathLike[str], last_step: LastStep = at_once) -> Model:
    """Copy a model into the user's folder from a zip file made by `export_model`, or from a folder.

    Only the two known members of a zip file are read, and never more bytes than a model may have.

    Args:
        source: zip file or folder.
        last_step: gives the model its name; see `StopRequest.last_step`.

    Raises:
        InputError: the source is no valid model, a model of its name exists already, or the folder is not writable.
    """
    source = Path(source)
    files = read_folder(source) if os.path.isdir(source) else read_zip(source)
    name = parse_card(files[CARD_FILE], source)["name"]
    advice = "remove that one first or rename this one"
    _refuse_taken(name, advice)
    parent = user_folder()
    if parent is None:
        raise InputError(
            f"There is no folder for your models, as you have no home folder: set {_FOLDER_VARIABLE} to one."
        )

    def check_and_write(folder: Path) -> None:
        _write_files(folder, files)
        _load(folder, named=source)

    try:
        _write_folder(parent / name, check_and_write, overwrite=False, last_step=last_step)
    except InputError:
        # Another process may have imported it meanwhile.
        _refuse_taken(name, advice)
        raise
    return _load(parent / name)


def export_model(
    name: str, file: str | os.PathLike[str], overwrite: bool = False, last_step: LastStep = at_once
) -> None:
    """Write a model as a zip file that `import_model` reads on another machine.

    Args:
        name: of the model.
        file: ends in .zip.
        overwrite: whether a file that exists may be replaced.
        last_step: gives the file its name; see `StopRequest.last_step`.

    Raises:
        InputError: there is no such model, it is damaged, or the file cannot be written.
    """
    file = Path(file)
    if file.suffix.lower() != ".zip":
        raise InputError(f"{file} must end in .zip: a model is exported as a zip file.")
    folder = model_folder(name)
    model_card(folder)
    files = read_folder(folder)
    with Outputs(overwrite) as outputs:
        staged = outputs.add(file)
        with _clear_write_errors(file), zipfile.ZipFile(staged, "w") as archive:
            for member, content in files.items():
                # Without a date, equal models give equal files.
                archive.writestr(zipfile.ZipInfo(member), content)
        last_step(outputs.commit)


def remove_model(name: str, last_step: LastStep = at_once) -> None:
    """Delete a model from the user's folder.

    Args:
        name: of the model.
        last_step: removes the model; see `StopRequest.last_step`.

    Raises:
        InputError: there is no such model in that folder, or it cannot be deleted.
    """
    entries = {entry.name: entry for entry in list_models()}
    if name not in entries:
        imported = ", ".join(entry.name for entry in entries.values() if not entry.shipped) or "none"
        raise InputError(f"There is no model {name!r} to remove: you have imported {imported}.")
    entry = entries[name]
    if entry.shipped:
        raise InputError(f"The model {name!r} ships with the program and cannot be removed.")
    try:
        # Renamed first, so that a visible model is always complete.
        with staging_folder(entry.folder.parent) as staging:
            last_step(lambda: os.rename(entry.folder, staging / "removed"))
    except OSError as error:
        raise InputError(f"Cannot remove {entry.folder}: {error.strerror}.") from error


def save_model(folder: str | os.PathLike[str], network: ThreeViewNetwork, card: Mapping[str, Any]) -> Model:
    """Write a model folder, whole or not at all. An existing model is replaced.

    Args:
        folder: the model folder; its parents are created.
        network: weights of any floating type and device; stored as they are.
        card: see `CARD_FIELDS`. The schema version and the checksum of the weights are filled in.

    Raises:
        InputError: the card is incomplete, the folder holds other files, or it cannot be written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})
    checksum = hashlib.sha256(weights).hexdigest()
    card = {"schema_version": SCHEMA_VERSION, **card, "weights_sha256": checksum}
    text = (json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    parse_card(text, folder)
    _write_folder(folder, lambda staged: _write_files(staged, {CARD_FILE: text, WEIGHTS_FILE: weights}))
    return _load(folder)


def copy_model(model: Model, folder: str | os.PathLike[str]) -> Model:
    """Copy a model's files, byte for byte, so that the copy has its checksum; a model that is there is replaced.

    Raises:
        InputError: the model's files are gone or damaged, the folder holds something else, or it cannot be written.
    """
    files = read_folder(model.folder)
    _write_folder(Path(folder), lambda staged: _write_files(staged, files))
    return _load(Path(folder))


def user_folder() -> Path | None:
    """Folder of the user's own models: $XVIEWSYNTH_MODELS, else the platform's folder for data of applications.

    None if the user has no home folder.
    """
    chosen = os.environ.get(_FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        data, inside = os.environ.get("LOCALAPPDATA") or _in_home("AppData", "Local"), ("XViewSynth", "Models")
    elif sys.platform == "darwin":
        data, inside = _in_home("Library", "Application Support"), ("XViewSynth", "Models")
    else:
        data, inside = os.environ.get("XDG_DATA_HOME") or _in_home(".local", "share"), ("xviewsynth", "models")
    return None if data is None else Path(data, *inside)


def _in_home(*parts: str) -> Path | None:
    # For example an account number without a name, in a container.
    with suppress(RuntimeError, KeyError):
        return Path(Path.home(), *parts)
    return None


def shipped_folder() -> Path | None:
    """Folder of the shipped models, or None if there are none."""
    here = Path(__file__).resolve().parents[1]
    # In the repository, in a packaged Slicer module, in an installed wheel.
    places = (here.parents[1] / "Resources" / "Models", here.parent / "Resources" / "Models", here / "Models")
    return next((place for place in places if place.is_dir()), None)


def _catalogue_folders() -> Iterator[tuple[Path, bool]]:
    own = user_folder()
    if own is not None:
        yield own, False
    shipped = shipped_folder()
    if shipped is not None:
        yield shipped, True


def _entry(folder: Path, shipped: bool) -> ModelEntry:
    try:
        return ModelEntry(folder.name, folder, shipped, parse_card(read_file(folder, CARD_FILE), folder))
    except InputError as error:
        return ModelEntry(folder.name, folder, shipped, None, str(error))


def _load(folder: Path, named: Path | None = None) -> Model:
    """Read a model. Messages name the folder `named` instead, if `folder` is a temporary one."""
    from .weights import check_predictions, read_network

    place = named or folder
    files = read_folder(folder)
    card = parse_card(files[CARD_FILE], place)
    checksum = _check_weights(card, files[WEIGHTS_FILE], place)
    network = read_network(card, files[WEIGHTS_FILE], place)
    # Shipped models were checked before publication, and a check takes a quarter of a second.
    if folder.parent != shipped_folder():
        check_predictions(network, card["factors"], place)
    return Model(card["name"], folder, card, checksum, network)


def _check_weights(card: Mapping[str, Any], weights: bytes, place: Path) -> str:
    checksum = hashlib.sha256(weights).hexdigest()
    if checksum != card["weights_sha256"]:
        raise InputError(
            f"The weights of the model in {place} are damaged or belong to another model: their checksum is not "
            "the one on the card, so copy or import the model again."
        )
    return checksum


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _write_folder(
    folder: Path, write: Callable[[Path], None], overwrite: bool = True, last_step: LastStep = at_once
) -> None:
    """Call `write` with a temporary folder beside `folder`, then rename it to `folder`."""
    with _clear_write_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not _holds_only_a_model(folder):
            raise InputError(f"{folder} exists and holds other files than a model: choose another folder.")
        with Outputs(overwrite) as outputs:
            write(outputs.add_folder(folder, CARD_FILE, WEIGHTS_FILE))
            last_step(outputs.commit)


def _holds_only_a_model(folder: Path) -> bool:
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= {CARD_FILE, WEIGHTS_FILE}


@contextmanager
def _clear_write_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}. Choose another place.") from error
