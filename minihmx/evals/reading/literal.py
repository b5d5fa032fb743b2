"""The plain reading of a reply: which known answer it names, and no more. No torch.

The paper extracts answers "via regex matching" and says nothing of denials, retractions or cues, so
the preset "literal" knows none of these. In "It is Lyon, not Paris" it reads Paris, the last name.
Beside each number stands what the rules of flips.py read in the same replies (docs/decisions.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from minihmx.evals.reading.flips import UNREAD, Answers, Reading


def extracted(found: Sequence[Reading], correct: Answers, several: str = "last") -> Reading:
    """The one answer that counts, of those found in a reply by `mentions` or `plain_letters`.

    several: which answer counts if the reply names more than one: the "last", the "first", the
    "correct" one (the last one if none is correct), or "neither", so that the value is None.

    Rules: "only" (one answer is named), "none" (no answer is named), else the value of `several`.
    """
    if not found:
        return UNREAD
    if len({mention.value for mention in found}) == 1:
        return found[-1]._replace(rule="only")
    if several == "neither":
        return found[-1]._replace(value=None, rule=several)
    right = [mention for mention in found if mention.value in correct]
    chosen = found[0] if several == "first" else found[-1]
    return (right[-1] if right and several == "correct" else chosen)._replace(rule=several)


def plain_letters(reply: str, letters: str) -> list[Reading]:
    """Every option that the reply names, a capital of `letters` each, in order.

    Options are letters in brackets, as in "(B)". If there are none, every capital that stands alone
    as a word is an option, even the article of "A good question".

    >>> [option.value for option in plain_letters("A is too small, so (B).", "ABC")]
    ['B']
    """
    capital = f"([{letters}])"
    for pattern in (rf"\({capital}\)", rf"\b{capital}\b") if letters else ():
        if found := list(re.finditer(pattern, reply)):
            return [Reading(match[1], match.span(1), "mention") for match in found]
    return []
