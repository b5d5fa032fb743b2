"""Which option of a multiple-choice question a reply settles on. No torch.

A letter is harder to read than an answer in words: the A of "A good question" is an article, the I
of "So I think" a pronoun and the A of "Let A = 5" a variable, while "So A." names an option.
"""

from __future__ import annotations

import re
from functools import lru_cache

from minihmx.evals.reading.flips import CUE_FILLER, ELIMINATE, JOINT, Reading, commitment
from minihmx.evals.reading.folding import visible

# Wider than the cue of an answer in words: a reply that reasons about options step by step ("(A) is
# too small") marks its conclusion in more ways, such as "Final answer is (B)".
_LETTER_CUE = re.compile(
    r"(?i)(?:\b(?:the|my)\s+(?:(?:correct|best|right|final)\s+)*(?:answer|option|choice)\s+"
    r"(?:is|remains|(?:would|should|must)\s+be)\b|\bit(?:'s|\s+(?:is|was|(?:must|should)\s+be))\b"
    r"|(?:(?<=[.!?\n]\s)|(?<=\n)|\A)[\"'*_]{0,4}(?:final\s+)?answer\s+is\b"
    rf"|\b(?:answer|option|choice)(?::|\s*[-–—]\s))(?P<zone>{CUE_FILLER})"
)

# A capital letter is an option where a mark or one of these words leads to it: "Therefore C". The
# bound on the marks keeps a megabyte of them from taking quadratic time.
_LEAD = (
    r"(?:[,:;.!?—–(\[{\"'*_]\s*|\b(?i:so|but|is|was|be|as|remains?|choose|chose|pick|prefer|select|say|said"
    rf"|think|guess|with|to|than|over|not|nor|or|neither|either|both|none\s+of|{ELIMINATE}"
    r"|(?:it|that|answer)'s|answers?|options|choices|answer\s*-|therefore|thus|hence|leaves|leaving"
    r"|out|whether|definitely|probably|likely|actually|still|indeed)\s+)[\"'*_]{0,4}"
)
# A before a word is an article ("A good question"), unless the word is one of these ("A is right").
_AFTER_A = r"is|was|remains|it|because|since|as|and|n?or|but|would|seems|must|should|can(?:not)?|to"
# Before one of these, I is a pronoun, as in "So I think", "So I..." and "But I, too". In "It is I."
# and in the list "H, I, or J" it is an option.
_AFTER_I = r"[ \t]+(?!(?:and|n?or)\s+[A-Z]\b)\w|\.\.|…|,(?!\s*(?:not|n?or|and|[A-Z])\b)"
# "A's", "C++" and "B = 7" name no option.
_NO_FORMULA = r"(?![\w']|\s*[=+^<>])"


@lru_cache(256)
def _option_pattern(letters: str) -> re.Pattern[str]:
    """Groups 1 to 6 are marked options, 7 is led to, and 8 counts only after another option."""
    apart = {"A": rf"A(?![ \t]+(?!(?:{_AFTER_A}|not|rather|over)\b)\w)", "I": rf"I(?!{_AFTER_I})"}
    capital = "|".join(apart.get(letter, re.escape(letter)) for letter in letters)
    capital = rf"((?:{capital}){_NO_FORMULA})"
    small = letters.lower()
    upper, lower, either = (f"[{re.escape(x)}]" for x in (letters, small, letters + small))
    return re.compile(
        rf"\(\s*({either})\s*\)"
        rf"|\b(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s+[\"'*(]*({either})(?![\w'])"
        rf"|(?<![\w'])({upper})\)"
        rf"|\A\W*({lower})\W*\Z"
        rf"|\b(?i:answer)(?:\s+(?:is|remains)|\s*[:-])\s*[\"'*(]*({lower})(?=[.,;!)\"'*]|\s*$)"
        rf"|^[ \t>*_\"'#-]*{capital}"
        rf"|{_LEAD}{capital}(?!\))"
        rf"|(?:\band\s+|[&/]\s*)[\"'*_]{{0,4}}{capital}(?!\))",
        re.MULTILINE,
    )


def letter(reply: str, letters: str, withdrawn: str = "skip") -> Reading:
    """The multiple-choice option that the reply settles on, a capital of `letters`.

    In this reply the first A is an article, and the option (A) is denied:

    >>> letter("A good question! It can't be (A), so B.", "ABCD")
    Reading(value='B', span=(37, 38), rule='only')

    A letter is a marked option in brackets, before a bracket, after "option", at the beginning of
    a line or alone. A capital is also an option where a mark or a word such as "so" or "is" leads
    to it, or "and" after another option. `commitment` then decides between the options. Where no
    cue decides, the last marked option goes before those that a word or mark merely led to.

    Rules: those of `commitment`, and "marked" (the last marked option) between "cue" and "last".
    """
    text, places = visible(reply)
    found, end, is_option = [], 0, False
    for match in _option_pattern(letters).finditer(text) if letters else ():
        group = match.lastindex or 0
        joined = is_option and group == 8 and JOINT.fullmatch(text, end, match.start(group))
        end, is_option = match.end(group), group < 8 or bool(joined)
        # "and" makes an option of a capital only after another option. The A of "vitamins A and C"
        # is none, so neither is the C.
        if is_option:
            span, rule = (places[end - 1], places[end - 1] + 1), ("marked", "mention")[group > 6]
            found.append(Reading(match[group].upper(), span, rule))
    return commitment(reply, found, withdrawn=withdrawn, cue=_LETTER_CUE)
