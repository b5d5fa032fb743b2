"""Strict reading of files that others wrote: JSON with one meaning, names that stay in a folder.

Python's own reader lets the last of two equal keys win, accepts NaN, and raises errors of other
kinds on deep nesting and long numbers. All here takes time and memory linear in the input's length.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

from minihmx.errors import IOFailure, UserError, quoted

FILE_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
DEEPEST = 64  # real files nest five deep, and later steps (repr, dumps) recurse as deep as the file
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def open_file(path: Path) -> BinaryIO:
    """An ordinary file, or a link to one, open for reading.

    Raises UserError for anything else of that name, because reading a pipe or a device might never
    end. Raises OSError for a file that is not there or may not be read.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path} is a link to {quoted(os.readlink(path))}, where nothing is; put a file in its "
            "place, or give another path."
        )
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise UserError(
            f"{path} is a {FILE_KINDS.get(kind, 'device')}, and only an ordinary file can be read "
            "there; put one in its place, or give another path."
        )
    return path.open("rb")


def read_file(path: Path) -> bytes:
    """All that an ordinary file holds. Raises as `open_file` does."""
    with open_file(path) as file:
        return file.read()


def parse(data: bytes | str) -> Any:
    """The value of one JSON text, UTF-8 with or without a byte order mark.

    Raises ValueError saying what is wrong: no JSON, a key that is there twice, NaN or infinity, a
    whole number of more than 64 bits, half of a surrogate pair, or nesting deeper than DEEPEST.
    """
    text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    level, depth = [value], 0
    while level and depth < DEEPEST:
        depth += 1
        lists = (n.values() if isinstance(n, dict) else n for n in level if not _is_scalar(n))
        level = [node for nodes in lists for node in nodes]
    if level:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    if _HALF.search(text):  # two halves that make a whole character are fine, and encode() tells
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, dict | list)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} is there twice")
        found[key] = value
    return found


def _integer(text: str) -> int:
    value = int(text) if len(text) <= 20 else 2**63
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"the number {text[:20]}... is too large")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_finite, parse_constant=_finite
)


def read_json(path: Path, remedy: str = "restore the file, or move its folder away") -> Any:
    """The JSON value in a file. remedy: the end of the sentence that refuses the file.

    Raises UserError naming the file if it is no JSON or no ordinary file, and IOFailure if it is
    not there or cannot be read.
    """
    try:
        return parse(read_file(path))
    except OSError as error:
        raise IOFailure(f"{path} cannot be read ({error.strerror}); {remedy}.") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); {remedy}.") from None


def is_own_name(name: object) -> bool:
    """Whether a file name found in a file stays in that file's folder, on any system."""
    return isinstance(name, str) and not set(name) & set("/\\:\0") and name[:1] not in ("", ".")


def is_own_path(path: object) -> bool:
    """The same of each name in a path such as checkpoints/epoch-03/state.json."""
    return isinstance(path, str) and all(map(is_own_name, path.split("/")))
