"""The plain reading of a reply: which known answer it names, and no more. No torch.

The paper extracts answers "via regex matching" and says nothing of denials, retractions or cues, so
the preset "literal" knows none: of "It is Lyon, not Paris" it takes Paris. What it loses against
the rules of flips.py is shown beside every number (see docs/decisions.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from minihmx.evals.reading.flips import UNREAD, Answers, Reading


def extracted(found: Sequence[Reading], correct: Answers, several: str = "last") -> Reading:
    """The one answer that counts, of those found in a reply by `mentions` or `plain_letters`.

    several: which one where the reply names more than one: the "last", the "first", the "correct"
    one if it is among them (else the last), or "neither", which reads nothing.

    Rules: "only" (one answer is named), "none" (no answer is), else the choice of `several`.
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

    Options are letters in brackets, as in "(B)", or, where there is none, capitals that stand alone
    as words. Then the article of "A good question" is an option too.

    >>> [option.value for option in plain_letters("A is too small, so (B).", "ABC")]
    ['B']
    """
    capital = f"([{letters}])"
    for pattern in (rf"\({capital}\)", rf"\b{capital}\b") if letters else ():
        if found := list(re.finditer(pattern, reply)):
            return [Reading(match[1], match.span(1), "mention") for match in found]
    return []
