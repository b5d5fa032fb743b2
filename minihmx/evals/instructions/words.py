"""Instructions about keywords, letters and lengths."""

from __future__ import annotations

import re

from minihmx.evals.instructions import (
    COUNT,
    LETTER,
    PHRASE,
    PHRASES,
    RELATION,
    Given,
    Instruction,
    compares,
)
from minihmx.evals.instructions.language import sentences_of, tokens_of


def _occurrences(word: str, reply: str) -> int:
    """In any case, also within other words. A keyword is a text here and no regular expression."""
    return len(re.findall(re.escape(word), reply, re.IGNORECASE))


def _existence(reply: str, given: Given) -> bool:
    return all(_occurrences(word, reply) for word in given["keywords"])


def _frequency(reply: str, given: Given) -> bool:
    count = _occurrences(given["keyword"].strip(), reply)
    return compares(count, given["relation"], given["frequency"])


def _forbidden_words(reply: str, given: Given) -> bool:
    """None of them stands there as a word of its own."""
    words = (rf"\b{re.escape(word)}\b" for word in given["forbidden_words"])
    return not any(re.search(word, reply, re.IGNORECASE) for word in words)


def _letter_frequency(reply: str, given: Given) -> bool:
    count = reply.lower().count(given["letter"].lower())
    return compares(count, given["let_relation"], given["let_frequency"])


def _number_words(reply: str, given: Given) -> bool:
    """Runs of letters, digits and underscores, so that "don't" is two."""
    return compares(len(re.findall(r"\w+", reply)), given["relation"], given["num_words"])


def _number_sentences(reply: str, given: Given) -> bool:
    count = len(sentences_of(reply, given["sentences"]))
    return compares(count, given["relation"], given["num_sentences"])


def _capital_word_frequency(reply: str, given: Given) -> bool:
    """A token counts where it holds a capital and no small letter: "I", "A-1", "U.S."."""
    count = sum(token.isupper() for token in tokens_of(reply, given["sentences"]))
    return compares(count, given["capital_relation"], given["capital_frequency"])


def _number_paragraphs(reply: str, given: Given) -> bool:
    """Exactly so many between dividers ***; one before the first or after the last is no fault."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", reply)]
    blank = parts.count("") - (not parts[0]) - (len(parts) > 1 and not parts[-1])
    return bool(not blank and sum(map(bool, parts)) == given["num_paragraphs"])


def _nth_paragraph_first_word(reply: str, given: Given) -> bool:
    """Blank paragraphs are left out of their number, but not of the counting to the nth."""
    paragraphs, nth = reply.split("\n\n"), given["nth_paragraph"]
    filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if nth > filled or not paragraphs[nth - 1].strip():
        return False
    word = paragraphs[nth - 1].split()[0].lstrip("'").lstrip('"')
    word = re.split(r"[.,?!'\"]", word)[0]
    # letter by letter, as the small form of one may depend on those around it (a final sigma)
    word = "".join(map(str.lower, word))
    return bool(filled == given["num_paragraphs"] and word == given["first_word"].lower())


WORDS: dict[str, Instruction] = {
    "keywords:existence": Instruction({"keywords": PHRASES}, _existence),
    "keywords:frequency": Instruction(
        {"keyword": PHRASE, "frequency": COUNT, "relation": RELATION}, _frequency
    ),
    "keywords:forbidden_words": Instruction({"forbidden_words": PHRASES}, _forbidden_words),
    "keywords:letter_frequency": Instruction(
        {"letter": LETTER, "let_frequency": COUNT, "let_relation": RELATION}, _letter_frequency
    ),
    "length_constraints:number_words": Instruction(
        {"num_words": COUNT, "relation": RELATION}, _number_words
    ),
    "length_constraints:number_sentences": Instruction(
        {"num_sentences": COUNT, "relation": RELATION}, _number_sentences
    ),
    "length_constraints:number_paragraphs": Instruction(
        {"num_paragraphs": COUNT}, _number_paragraphs
    ),
    "length_constraints:nth_paragraph_first_word": Instruction(
        {"num_paragraphs": COUNT, "nth_paragraph": COUNT, "first_word": PHRASE},
        _nth_paragraph_first_word,
    ),
    "change_case:capital_word_frequency": Instruction(
        {"capital_frequency": COUNT, "capital_relation": RELATION}, _capital_word_frequency
    ),
}
