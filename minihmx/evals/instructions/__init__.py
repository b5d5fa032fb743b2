"""IFEval's 25 instructions: what each is given, and the rule by which a reply follows it.

The rules are those of lm-evaluation-harness, oddities included, in time that grows with the reply's
length alone. Each file beside this one holds a table of some of them. Of an empty reply none is
asked: it follows nothing (ifeval.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# An instruction's arguments by name, and under "sentences" how a text is split into sentences.
Given = Mapping[str, Any]


class Requirement(NamedTuple):
    """What an argument may be: in words, as in "it must be a text", and as a test."""

    says: str
    fits: Callable[[Any], bool]


class Instruction(NamedTuple):
    """arguments: all that it takes, by name. follows: whether a reply that holds text does it."""

    arguments: Mapping[str, Requirement]
    follows: Callable[[str, Given], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


# lm-evaluation-harness replaces a 0, an empty text and a letter such as "ab" by chance.
COUNT = Requirement("a whole number above 0", lambda value: type(value) is int and value > 0)
PHRASE = Requirement("a text", _is_text)
PHRASES = Requirement(
    "a list of texts",
    lambda value: isinstance(value, list) and bool(value) and all(map(_is_text, value)),
)
LETTER = Requirement("one character", lambda value: _is_text(value) and len(value) == 1)
RELATION = Requirement(
    '"less than" or "at least"', lambda value: value in ("less than", "at least")
)


def compares(count: int, relation: str, threshold: int) -> bool:
    """Whether the count is less than the threshold, or at least it, as the relation says."""
    return count >= threshold if relation == "at least" else count < threshold
