"""Text as answers are compared, with the way back to the reply it comes from. No torch.

"İZMIR" and "izmir", “no” and "no", "Straße" and "STRASSE" are one answer in other characters, so a
reply is searched in a folded form. A place found there is given back as a place in the reply.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

QUOTES = str.maketrans("‘’‚‛“”„‟", "''''\"\"\"\"")
# Full-width characters, as in "（Ｃ）", become plain ones too. Each character becomes exactly one,
# so a position in the translated text is a position in the text itself.
PLAIN = QUOTES | {0xFF01 + i: 0x21 + i for i in range(94)}
_SPACE_AND_WORD = re.compile(r"(\s*)(\S*)")
# Unicode calls a text "stream-safe" (UAX #15) if no character has more marks than this, and no
# language needs more. Without a bound, a megabyte of accents takes quadratic time to normalise.
_MARKS_OF_A_CHARACTER = 30


class Folded(NamedTuple):
    """text: NFKC, casefolded, straight quotes, each run of white space a blank.

    at: for each character of text, where the piece that it comes from begins in the original, and
    at the end the original's length. A piece may give several characters ("ss" of ß), which then
    share a beginning.
    """

    text: str
    at: array[int]

    def span(self, start: int, end: int) -> tuple[int, int] | None:
        """[start, end) of text in the original; None if it holds part of a piece (the 1 of ½)."""
        at = self.at
        if (start and at[start] == at[start - 1]) or at[end] == at[end - 1]:
            return None
        return at[start], at[end]


def fold(text: str) -> Folded:
    """The text as answers are compared, with the way back to the original.

    >>> folded = fold("Die Straße")
    >>> folded.text, folded.span(4, 11)
    ('die strasse', (4, 10))
    """
    pieces: list[str] = []
    at = array("q")
    for match in _SPACE_AND_WORD.finditer(text):
        space, word = match.groups()
        if space:
            pieces.append(" ")
            at.append(match.start())
        start = match.start(2)
        if word.isascii() or _maps_one_to_one(word):
            pieces.append(word.casefold().translate(QUOTES))
            at.extend(range(start, match.end()))
        else:
            for begin, cluster in _clusters(word):
                folded = _fold(cluster)
                pieces.append(folded)
                at.extend([start + begin] * len(folded))
    at.append(len(text))
    return Folded("".join(pieces), at)


def _maps_one_to_one(word: str) -> bool:
    folded = word.casefold()
    normalized = all(unicodedata.is_normalized("NFKC", form) for form in (word, folded))
    return normalized and len(folded) == len(word)


def _clusters(word: str) -> Iterable[tuple[int, str]]:
    """Characters, each with what may combine with it; normalising one changes no other."""
    start = 0
    for i, character in enumerate(word):
        if i and not (_combines(character) and i - start <= _MARKS_OF_A_CHARACTER):
            yield start, word[start:i]
            start = i
    yield start, word[start:]


@lru_cache(4096)
def _combines(character: str) -> bool:
    first = unicodedata.normalize("NFKD", character)[0]
    # Hangul vowels and finals count as letters, yet they join the syllable before them: 한 may be
    # written as three characters.
    return unicodedata.category(first)[0] == "M" or "\u1160" <= first <= "\u11ff"


@lru_cache(4096)
def _fold(cluster: str) -> str:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", cluster).casefold())
    # NFKC tears a free-standing accent such as ´ into a blank and a combining accent. The blank
    # would end a word that the reply does not end, so such a character keeps its form under NFC.
    if any(map(str.isspace, folded)):
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", cluster).casefold())
    return folded.translate(QUOTES)


@lru_cache(4096)
def normal(answer: str) -> str:
    """An answer as it is looked for: folded, without `.,;:!?` at its end or quotes around it.

    >>> normal("“Straße”.")
    'strasse'
    """
    text, shorter = "", fold(answer).text
    # Taking off quotes may lay bare a full stop and the other way round, as in `"Yes."!`.
    while text != shorter:
        text = shorter
        shorter = text.strip().rstrip(" .,;:!?")
        if len(shorter) > 1 and shorter[0] == shorter[-1] and shorter[0] in "'\"":
            shorter = shorter[1:-1]
    return text
