r"""Which linears an adapter is on: PEFT's `target_modules`, a list of name endings or one pattern.

PEFT runs a pattern as a regular expression, and somebody's expression may run for ever:
`".*" * 20 + "z"` would take Python's `re` longer than anybody waits. So only the pieces that
recipes write are read, and they are matched here, in time linear in the pattern's length:

    q_proj   \.   \-        this text            (q_proj|v_proj)   (?:0|1)   one of these
    .   \d   [0-3]   [qkv]  one character        .*   .*?   \d+   [\d]{1,}   a run of them
    ^ at the start, $ at the end, and the \b, (?=\.) and (?!.*\.experts\.\d) of Unsloth and swift

For example `.*\.(q_proj|v_proj)$` and `model\.layers\.([0-9]|1[0-5])\.self_attn\..*`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from minihmx.config import LORA_TARGETS

LONGEST_PATTERN, DEEPEST_GROUP = 2048, 8
_PIECE = re.compile(
    r"""(?P<chars> \. | \\d | \[ (?: \w-\w | \w | \\d )+ \] )
        (?P<run> (?: [*+]\?? | \{1,\} ) (?! \.[*+] ) )?  # two runs in a row would be one
      | (?P<text> [\w-]+ | \\[.-] )
      | (?P<look> \\b (?=\w) | \(\?=\\\.\) | \(\?!\.\*\\\.experts\\\.\\d\) )
      | (?P<open> \( (?:\?:)? )
      | (?P<bar> \| )
      | (?P<close> \) )""",
    re.VERBOSE | re.ASCII,
)
# Places in a name at which a condition holds. Names are words between dots.
_LOOKS: dict[str, Callable[[str, int], bool]] = {
    r"\b": lambda name, at: at == 0 or name[at - 1] == ".",
    r"(?=\.)": lambda name, at: name.startswith(".", at),
    r"(?!.*\.experts\.\d)": lambda name, at: ".experts." not in name[at:],
}


class _Chars(NamedTuple):
    """One character of `among` (any, if that is empty), or with `run` as many as there are."""

    among: str
    run: str


# Alternatives are lists of parts; a part is text, characters, a condition, or alternatives again.
_Part: TypeAlias = "str | _Chars | Callable[[str, int], bool] | list[list[_Part]]"


def written_out(targets: Sequence[str] | str, names: Iterable[str]) -> Sequence[str]:
    """target_modules as a list of names or their endings; of a pattern, those names that it means.

    Raises ValueError for a pattern that is not read here.
    """
    if not isinstance(targets, str):
        return targets
    if targets == "all-linear":
        return LORA_TARGETS
    pattern = _parse(targets)
    return [name for name in names if len(name) in _ends(pattern, name, {0})]


def _parse(pattern: str) -> _Part:
    """Raises ValueError for whatever recipes do not write."""
    text, at = pattern.removeprefix("^").removesuffix("$"), 0
    groups: list[list[list[_Part]]] = [[[]]]  # those that are open, innermost last
    while at < len(text):
        piece = _PIECE.match(text, at)
        if not piece or len(text) > LONGEST_PATTERN or len(groups) > DEEPEST_GROUP:
            raise ValueError(f"what stands at character {at + 1} is not read")
        at, found = piece.end(), piece.group()
        if piece["open"]:
            groups.append([[]])
        elif piece["bar"]:
            groups[-1].append([])
        elif piece["close"]:
            closed = groups.pop()
            if not groups:
                raise ValueError("a group is closed that was never opened")
            groups[-1][-1].append(closed)
        elif piece["chars"]:
            groups[-1][-1].append(_Chars(_among(piece["chars"]), piece["run"] or ""))
        else:
            groups[-1][-1].append(_LOOKS[found] if piece["look"] else found.removeprefix("\\"))
    if len(groups) > 1:
        raise ValueError("a group is not closed")
    return groups[0]


def _among(chars: str) -> str:
    """The characters of "[0-3a]"; none for ".", which is any. Raises ValueError for "[z-a]"."""
    found = ""
    for one in re.findall(r"\w-\w|\\d|\w", chars, re.ASCII):
        first, last = ("0", "9") if one == r"\d" else (one[0], one[-1])
        if first > last:
            raise ValueError(f"no character is from {first} to {last}")
        found += "".join(map(chr, range(ord(first), ord(last) + 1)))
    return found


def _ends(part: _Part, name: str, starts: set[int]) -> set[int]:
    """Where in the name a part may end that begins at one of these places; never a second time."""
    if isinstance(part, str):
        return {at + len(part) for at in starts if name.startswith(part, at)}
    if isinstance(part, list):
        found = set()
        for branch in part:
            places = starts
            for inner in branch:
                places = _ends(inner, name, places) if places else places
            found |= places
        return found
    if not isinstance(part, _Chars):
        return {at for at in starts if part(name, at)}
    found = set(starts) if "*" in part.run else set()
    for at, char in enumerate(name):
        if (at in starts or (part.run and at in found)) and (not part.among or char in part.among):
            found.add(at + 1)
    return found
