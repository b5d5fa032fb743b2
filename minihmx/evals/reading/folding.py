"""Text as answers are compared, with the way back to the reply it comes from. No torch.

"İZMIR" and "izmir" are one answer in different characters, and so are “no” and "no", "Straße" and
"STRASSE". So a reply is folded to one form before it is searched, and a place that is found in the
folded form is translated back to a place in the reply.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

# Full-width characters, as in "（Ｃ）", become plain ones too. Each character becomes exactly one,
# so a position in the translated text is a position in the text itself.
PLAIN = str.maketrans("‘’‚‛“”„‟", "''''\"\"\"\"") | {0xFF01 + i: 0x21 + i for i in range(94)}
# A reader does not see these: soft hyphens, characters without width, marks of direction, variation
# selectors, and HTML tags. Only lower-case tags count, since <B> may name an option.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]+"
    r"|</?(?:b|i|u|em|strong|span|code|mark|answer|wbr)(?:\s+[a-z]+=[^<>]*|\s*/)?>"
)
# Unicode calls a text "stream-safe" (UAX #15) if no character has more marks than this, and no
# language needs more. Without a bound, a megabyte of accents takes quadratic time to normalise.
_MARKS_OF_A_CHARACTER = 30


class Folded(NamedTuple):
    """text: NFKC, casefolded, straight quotes, each run of white space a blank, nothing unseen.

    at: for each character of text, where the piece that it comes from begins in the visible text,
    and at the end that text's length. A piece may give several characters ("ss" of ß), which then
    share a beginning. places: where each character of the visible text stands in the original.
    """

    text: str
    at: array[int]
    places: array[int]

    def span(self, start: int, end: int) -> tuple[int, int] | None:
        """The place in the original of text[start:end]; None if it cuts a piece (the 1 of ½)."""
        if (start and self.at[start] == self.at[start - 1]) or self.at[end] == self.at[end - 1]:
            return None
        return self.places[self.at[start]], self.places[self.at[end] - 1] + 1


def visible(text: str) -> tuple[str, array[int]]:
    """The text with plain quotes and without what a reader does not see, and where each character
    stood. After the places of the characters comes the length of the original:

    >>> visible("Is it <b>B</b>?")
    ('Is it B?', array('q', [0, 1, 2, 3, 4, 5, 9, 14, 15]))
    """
    return _without(_UNSEEN, text.translate(PLAIN))


def _without(pattern: re.Pattern[str], text: str) -> tuple[str, array[int]]:
    ends = [0, *(end for match in pattern.finditer(text) for end in match.span()), len(text)]
    kept = list(zip(ends[::2], ends[1::2], strict=True))
    places = chain(*(range(start, end) for start, end in kept), ends[-1:])
    return "".join(text[start:end] for start, end in kept), array("q", places)


def fold(text: str) -> Folded:
    """The text as answers are compared, with the way back to the original.

    >>> folded = fold("Die Straße")
    >>> folded.text, folded.span(4, 11)
    ('die strasse', (4, 10))
    """
    seen, places = visible(text)
    lean, where = _without(re.compile(r"(?<=\s)\s+"), seen)
    lean = re.sub(r"\s", " ", lean)
    folded = lean.casefold()
    unchanged = all(unicodedata.is_normalized("NFKC", form) for form in (lean, folded))
    if lean.isascii() or (unchanged and len(folded) == len(lean)):
        return Folded(folded, where, places)
    # A character is folded together with the marks that combine with it, so no other is changed.
    pieces, at, start = [], array("q"), 0
    for i, character in enumerate(lean[1:] + " ", 1):
        alone = character < "\u0300" or lean[start] == " " or not _combines(character)
        if alone or i - start > _MARKS_OF_A_CHARACTER:
            pieces.append(_fold(lean[start:i]))
            at.extend([where[start]] * len(pieces[-1]))
            start = i
    at.append(len(seen))
    return Folded("".join(pieces), at, places)


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
    return folded


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


def whole_words(answer: str, text: str) -> Iterator[tuple[int, int, str]]:
    """(start, -end, answer) of every place where the answer stands in the text with no letter,
    digit or underscore on either side. Both are folded. Sorted, the longest at a start comes first.

    This is the algorithm of Knuth, Morris and Pratt, which takes linear time where both are long.
    """
    joined = [*answer, None, *text] if answer and answer in text else []
    # For each character, the length of the longest beginning of the answer that ends there.
    lengths, length = [0], 0
    for character in joined[1:]:
        while length and joined[length] != character:
            length = lengths[length - 1]
        length += joined[length] == character
        lengths.append(length)
    word = [c.isalnum() or c == "_" for c in (f" {text} " if joined else "")]
    for end, length in enumerate(lengths[len(answer) :] if answer else ()):
        if length == len(answer) and not (word[end - length] or word[end + 1]):
            yield end - length, -end, answer
