"""Does an answer look degenerate? Three rules on its text, which can be checked by eye.

A judge may reward what no reader would, and training finds it: the score climbs while answers fall
apart. So the share of such answers stands beside each score. It is a sign and no part of a reward.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

GRAM = 4  # words
# What Chinese and Japanese mix. The first words of letters' Unicode names; "CJK" stands for all.
_MIXED = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO")
_WITHOUT_BLANKS = {"CJK", "THAI", "LAO", "KHMER", "MYANMAR"}


def looks_degenerate(question: str, answer: str) -> str:
    """The first of these rules that holds, or "" for none:

    "one word": no two different words with letters. "Yes.", "no no no" and "" are such answers,
    "Yes, I do." is none.
    "repeats": more than half of the runs of 4 words stood in the answer before. A sentence of four
    words or more that is said three times and nothing else is such an answer, one said twice is
    none.
    "another script": more than half of the letters are of a script that the question lacks, as
    Chinese letters after an English question.
    """
    words = _words(answer)
    if len({word for word in words if any(map(str.isalpha, word))}) <= 1:
        return "one word"
    grams = list(zip(*(words[i:] for i in range(GRAM)), strict=False))
    if 2 * len(set(grams)) < len(grams):
        return "repeats"
    asked, said = _scripts(question), _scripts(answer)
    foreign = sum(script not in asked for script in said)
    return "another script" if asked and 2 * foreign > len(said) else ""


def _words(text: str) -> list[str]:
    """What stands between blanks, in lower case and without punctuation. Where a script sets no
    blanks between words, each letter counts as one."""
    words: list[str] = []
    for piece in text.casefold().split():
        word = "".join(filter(str.isalnum, piece))
        alone = any(script in _WITHOUT_BLANKS for script in _scripts(piece))
        words += word if alone else [word or piece]
    return words


def _scripts(text: str) -> list[str]:
    """The script of each letter, in order."""
    return [_script(character) for character in text if character.isalpha()]


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The first word of its name: LATIN, CYRILLIC, ... A wide or bold form goes by its letter."""
    plain = unicodedata.normalize("NFKC", letter)[0]
    first = unicodedata.name(plain, "").partition(" ")[0]
    return "CJK" if first in _MIXED else first
