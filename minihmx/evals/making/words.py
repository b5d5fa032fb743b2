"""The English words that RULER's items are made of: the lists of the package wonderwords."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from minihmx.errors import UserError


class WordLists(NamedTuple):
    """The vocabulary: names of needles are ADJECTIVE-NOUN, and lists of words are of all three."""

    nouns: Sequence[str]
    adjectives: Sequence[str]
    verbs: Sequence[str]


@cache
def word_lists() -> WordLists:
    """Raises UserError where wonderwords (of the extra `evals`) is not installed."""
    try:
        import wonderwords
    except ImportError:
        raise UserError(
            "RULER's items are made of the word lists of wonderwords, which is not installed: type "
            f"`{sys.executable} -m pip install wonderwords` (it is in the extra `evals`) and the "
            "same command again."
        ) from None
    known = wonderwords.RandomWord()
    nouns, adjectives, verbs = (
        known.filter(include_categories=[kind]) for kind in ("noun", "adjective", "verb")
    )
    return WordLists(nouns, adjectives, verbs)
