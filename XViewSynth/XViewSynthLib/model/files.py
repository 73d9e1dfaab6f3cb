"""Reads the two files of a model from a folder or a zip file, which may be damaged or hostile."""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from pathlib import Path

from ..errors import InputError
from ..system.regular_files import open_regular
from .cards import NAME_PATTERN

CARD_FILE, WEIGHTS_FILE = "card.json", "model.safetensors"
# Far above the size of three networks, far below the memory of a machine.
MAX_WEIGHTS_BYTES = 512 * 1024**2
MAX_CARD_BYTES = 1024**2
# Of a zip file: bounds its list of members, too.
_MOST_AT_ONCE = 1024**2
# NotImplementedError: a version that Python does not know; RuntimeError: encrypted.
_UNSOUND = (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError)


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a model folder by their names.

    Raises:
        InputError: one is missing, is no file, cannot be read, or is larger than a model can be.
    """
    return {name: read_file(folder, name) for name in (CARD_FILE, WEIGHTS_FILE)}


def _limit(name: str) -> int:
    return MAX_CARD_BYTES if name == CARD_FILE else MAX_WEIGHTS_BYTES


def read_file(folder: Path, name: str) -> bytes:
    """One file of a model folder.

    Raises:
        InputError: as for `read_folder`.
    """
    path, limit = folder / name, _limit(name)
    try:
        with open_regular(path) as file:
            # One byte more than its size when it was opened, to detect a file that grows.
            content = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{folder} is no model folder: {name} is missing.") from error
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}.") from error
    if len(content) > limit:
        raise InputError(f"{path} is larger than a model can be: use another model.")
    return content


class _ShortReads(io.FileIO):
    """A file that returns few bytes at a time, so that a list of millions of members is not read at once."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(_MOST_AT_ONCE if size is None or size < 0 else min(size, _MOST_AT_ONCE))


def read_zip(source: Path) -> dict[str, bytes]:
    """The files of a model in a zip file by their names. Nothing is unpacked on disk.

    Raises:
        InputError: it is no valid zip file of a model, or larger than a model can be.
    """
    try:
        file = open_regular(source)
    except FileNotFoundError as error:
        raise InputError(f"{source} does not exist: give a zip file or a model folder.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"Cannot read {source}: {getattr(error, 'strerror', None) or error}.") from error
    with file:
        if os.fstat(file.fileno()).st_size > MAX_WEIGHTS_BYTES + 2 * MAX_CARD_BYTES:
            raise InputError(f"{source} is larger than a model can be: use another file.")
        try:
            with _ShortReads(file.fileno(), closefd=False) as short, zipfile.ZipFile(short) as archive:
                members = _members(archive, source)
                return {name: _read_member(archive, member, source) for name, member in members.items()}
        # NotImplementedError: a version that Python does not know; RuntimeError: encrypted.
        except (
            OSError,
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
            RuntimeError,
            EOFError,
            ValueError,
        ) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{source} is no sound zip file: export the model again.") from error


def _members(archive: zipfile.ZipFile, source: Path) -> dict[str, zipfile.ZipInfo]:
    """The two files of a model, at the top or in one plain folder; nothing else may be in the archive."""
    files = [member for member in archive.infolist() if not member.is_dir()]
    for top in {member.filename.rpartition("/")[0] for member in files}:
        names = {f"{top}/{name}" if top else name: name for name in (CARD_FILE, WEIGHTS_FILE)}
        plain = not top or NAME_PATTERN.fullmatch(top)
        if plain and sorted(member.filename for member in files) == sorted(names):
            if any(stat.S_ISLNK(member.external_attr >> 16) for member in files):
                break
            return {names[member.filename]: member for member in files}
    raise InputError(f"{source} is no model: it must hold {CARD_FILE} and {WEIGHTS_FILE} and nothing else.")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: Path) -> bytes:
    limit = _limit(member.filename.rpartition("/")[2])
    # For other kinds of compression, Python does not limit the size of a decompressed block.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{source} is compressed in an unknown way: export the model again.")
    if member.file_size <= limit:
        with archive.open(member) as file:
            # The declared size may be wrong.
            content = file.read(limit + 1)
        if len(content) <= limit:
            return content
    raise InputError(f"{member.filename} in {source} is larger than a model can have: use another file.")
