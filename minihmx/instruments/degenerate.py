"""Does an answer look degenerate? Three rules on its text, which can be checked by eye.

A judge may reward answers that no reader would, and training finds them: the score climbs while the
answers fall apart. So the share of such answers stands beside each score. It is only a sign for the
reader, and no part of the reward.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

GRAM = 4  # words
# The scripts that Chinese and Japanese mix, by the first word of a letter's Unicode name. All of
# them count as "CJK".
_MIXED = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO")
_WITHOUT_BLANKS = {"CJK", "THAI", "LAO", "KHMER", "MYANMAR"}


def looks_degenerate(question: str, answer: str) -> str:
    """The name of the first of these rules that holds, or "" if none does.

    "one word": the answer has no two different words with letters. This is so of "Yes.", "no no no"
    and "", but not of "Yes, I do."
    "repeats": more than half of the runs of 4 words stood in the answer before. This is so if a
    sentence of four words or more is said three times and nothing else, but not if twice.
    "another script": more than half of the letters are of scripts that the question lacks, such as
    Chinese letters after an English question. A question without letters lacks none.
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
    """The pieces between blanks, in lower case and without punctuation. A piece that is punctuation
    alone stays as it is. In a script without blanks between words each letter is a word."""
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
    """The first word of its Unicode name, such as LATIN. A wide or bold form counts as its plain
    letter."""
    plain = unicodedata.normalize("NFKC", letter)[0]
    first = unicodedata.name(plain, "").partition(" ")[0]
    return "CJK" if first in _MIXED else first
