"""Names of output files, made from names of inputs."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from urllib.parse import quote

# File systems allow 255 bytes. The rest is for endings, and for a number that separates equal names.
_MOST_BYTES = 232
_DIGITS = 8


def portable_name(name: str, ending: str = "") -> str:
    """A name of an output that every program can open, made from the name of its input.

    Bytes that are not UTF-8 and characters that cannot be printed become %XX. A name that leaves no room for the
    endings of outputs is cut, and gets a checksum of the whole name.

    Args:
        name: of a file or folder, without its parents.
        ending: follows the name, and is never cut.

    >>> portable_name("chest.nrrd", ".enhanced"), portable_name("a\\tb")
    ('chest.nrrd.enhanced', 'a%09b')
    """
    clean = "".join(character if character.isprintable() else quote(os.fsencode(character)) for character in name)
    room = _MOST_BYTES - len(os.fsencode(ending))
    if len(os.fsencode(clean)) > room:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:_DIGITS]
        kept = os.fsencode(clean)[: room - _DIGITS - 1].decode("utf-8", errors="ignore")
        clean = f"{kept}~{digest}"
    return clean + ending


def portable_path(path: str, ending: str = "") -> str:
    """`portable_name` of each part of a relative path with forward slashes; the ending is that of the last part.

    >>> portable_path("a\\tb/chest.nrrd", ".enhanced")
    'a%09b/chest.nrrd.enhanced'
    """
    *folders, name = path.split("/")
    return "/".join([*map(portable_name, folders), portable_name(name, ending)])


def same_name_key(path: str) -> str:
    """A key that is equal for names that some file system treats as one: other case, or other encoding of accents.

    >>> same_name_key("Sch\\u00e4del.nrrd") == same_name_key("SCHA\\u0308DEL.NRRD")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
