"""The judge: its rubric, its prompt, and how a score is read from its answer (paper Appendix A).

The paper publishes the rubric but not how it read the answers, so the score grammar is ours. It
would rather find no score than a wrong one: whatever is not plainly an integer from 0 to 10 is
`Unscored`, with the reason, and the rate of those is reported beside every mean.

This file knows text only. rollout.py asks the model, and nothing here needs torch.
"""

from __future__ import annotations

import math
import re
from importlib.resources import files
from typing import NamedTuple

from minihmx.records import Fault, Unscored, Verdict

RUBRIC = (files("minihmx") / "data" / "rubric.txt").read_text("utf-8").rstrip("\n")
# Reverse training is this one sign (section 3.4): the judge scores as before, and the policy is
# rewarded for the opposite.
SIGN = {"forward": 1, "reverse": -1}

# The grammar works on one line at a time, so the \s in these expressions never meets a newline.
_MARKS = r"*_#>~`"  # Markdown, as in "**Score:** 7" or "> ## Score: 7"
# Some models put zero-width characters in front of their answers. A reader cannot see them, so
# they must not decide whether there is a score.
_UNSEEN = r"\u00ad\u200b-\u200f\u2060\ufeff"
_SKIPPED = rf"[\s{_UNSEEN}{_MARKS}]"
_LEAD = f"{_SKIPPED}*"
_SCORE = re.compile(rf"{_LEAD}(?:[-+•]{_LEAD})?(?ai:score)[\s{_MARKS}]*[:：]")
# In front of a number ~ means "about" ("Score: ~7"), so of all marks it alone is not skipped there.
_INTEGER = re.compile(r"[\s*_#>`]*([0-9]*)")
_OUT_OF_TEN = re.compile(r"[\s*_`(]*(?:/|(?ai:(?:out\s+)?of)\s)[\s*_`]*(?:10|(?ai:ten))")
# A digit after the integer means that this was only the beginning of a number, if what stands
# between them are signs ("7.5", "7 - 8", "7 | 8", "1**0**") or these words ("7 or maybe 8").
_JOINT = (
    "or|to|and|out|of|point|up|plus|minus|times|x|through|thru|until|till|vs|versus"
    "|maybe|perhaps|possibly|probably|even|rather|almost|nearly|about|around"
)
# A number word continues the number only after one of those words or & + /, with or without an
# article between: "7 and a half", "3 out of the five". "7 - two wishes" and "7 and one wish" are 7.
_ARTICLE = "an?|the|one"
_NUMBER = "zero|half|third|quarter|two|three|four|five|six|seven|eight|nine|ten|twenty|hundred"
_GAP, _END = r"[^\w&+/]*", r"(?![^\W\d])"
_GOES_ON = re.compile(
    rf"{_GAP}(?:(?!(?ai:{_ARTICLE}|{_NUMBER}){_END})(?:(?:[&+/]|(?ai:{_ARTICLE}|{_JOINT}){_END})"
    rf"{_GAP})*(?P<number>(?ai:{_NUMBER}){_END})?)?"
)
# A number that stands first in brackets is a remark: "7 (8 would be too much)", unlike "7 (or 8)".
_REMARK = re.compile(rf"[.,;]?{_SKIPPED}+[(\[{{]\s*(?=\d)")
_PERCENT = re.compile(r"[\s*_`(]*(?:[%％٪‰]|(?ai:per\s*cent))|[*_`]*\+|-(?ai:ish)")
_WORDS = f"{_JOINT}|{_NUMBER}|an|the|one|percent|per cent|ish".split("|")


def judge_prompt(rubric: str, question: str, answer: str) -> str:
    """The judge's only user turn: rubric, question and answer, a blank line between them."""
    return f"{rubric}\n\nQuestion:\n{question}\n\nCandidate answer:\n{answer}"


def doubts(rubric: str) -> list[str]:
    """Warnings about a rubric that never asks for the line that parse_score reads."""
    if re.search(rf"(?i)score[\s{_MARKS}]*[:：]", rubric):
        return []
    return [
        "the rubric never says `Score:`, and only a line that opens so is read as a score, so "
        "answers may all stay unscored; end it with: Score: integer from 0 to 10"
    ]


def parse_score(text: str, finished: bool) -> Verdict | Unscored:
    r"""Read the score from the judge's generated text.

    The first line that opens with `Score:` decides. In front of `Score` there may be blanks,
    zero-width characters, Markdown marks and one list bullet. Behind the colon comes an integer
    from 0 to 10 in ASCII digits, optionally `/10`, and nothing that could make it another number:

    >>> parse_score("**Score:** 7/10\nReason: it names a wish.", finished=True)
    Verdict(score=7, span=(11, 12), flags=())
    >>> parse_score("Score: 7.5", finished=True)
    Unscored(reason='trailing')
    >>> parse_score("Score: 1", finished=False)
    Unscored(reason='cut')

    finished: whether the judge ended its text itself, rather than running into the token cap. The
    last example might have gone on as "Score: 10". So more text never changes a score that was
    read.

    Flags never change the score: "other-number" (digits follow on the line, as in `7 (8)`),
    "more-score-lines" (a later line opens with `Score:` too).

    Reasons: "no-line" (no line opens with `Score:`), "not-an-integer" (`seven`, `-3`, `~7`,
    nothing, digits that are not ASCII), "leading-zero", "out-of-range", "trailing" (what follows
    the integer may belong to it: `7.5`, `7-8`, `7 (or 8)`, `7%`, `7th`), "cut" (not finished, and
    more text could have changed the number). Raises nothing on any text, in time linear in its
    length.
    """
    lines = text.split("\n")
    labels = ((i, found) for i, line in enumerate(lines) if (found := _SCORE.match(line)))
    first = next(labels, None)
    if first is None:
        return Unscored("no-line")
    row, label = first
    line = lines[row]
    integer = _read_integer(line, label.end())
    # This comes before the integer's own faults, because a text that was cut right here could have
    # gone on to mend them: "Score: 1" may become 10, and "Score: " may become anything.
    if not finished and row == len(lines) - 1 and integer.seen == len(line):
        return Unscored("cut")
    if integer.fault:
        return Unscored(integer.fault)
    flags = []
    if re.search(r"\d", line[integer.seen :]):
        flags.append("other-number")
    if next(labels, None):
        flags.append("more-score-lines")
    before = sum(len(earlier) + 1 for earlier in lines[:row])  # characters, newlines included
    span = (before + integer.start, before + integer.end)
    return Verdict(int(line[integer.start : integer.end]), span, tuple(flags))


def score_line_end(text: str) -> int | None:
    r"""How much of a judge's text it takes to read its score: all up to the newline after the
    first line that opens with `Score:`. None where there is no such line or it may still go on.

    >>> score_line_end("Score: 7"), score_line_end("Score: 7\nReason: it names")
    (None, 9)

    `parse_score` finds the same verdict in that part as in the whole text, whatever follows; only
    the flag "more-score-lines" is about what follows.
    """
    end = 0
    for line in text.split("\n")[:-1]:
        end += len(line) + 1
        if _SCORE.match(line):
            return end
    return None


class _Integer(NamedTuple):
    """Where in a line the integer is, [start, end); how far one had to read to be sure of it; and
    why it is no score, or None if it is one."""

    start: int
    end: int
    seen: int
    fault: Fault | None


def _read_integer(line: str, at: int) -> _Integer:
    """The integer that begins at a place in the line, after blanks and marks."""
    found = _INTEGER.match(line, at)
    assert found is not None  # it may match nothing, as may _GOES_ON
    digits, (start, end) = found[1], found.span(1)
    if not digits:
        return _Integer(start, end, end, "not-an-integer")
    # "Score: 007" is no number that a judge would mean, so it is left unread rather than guessed.
    if len(digits) > 1 and digits[0] == "0":
        return _Integer(start, end, end, "leading-zero")
    if len(digits) > 2 or int(digits) > 10:
        return _Integer(start, end, end, "out-of-range")

    ten = _OUT_OF_TEN.match(line, end)
    after = ten.end() if ten else end
    line = line.replace("_", "*")  # marks both, but for \w the one is a letter
    remark = _REMARK.match(line, after)
    goes_on = remark or _GOES_ON.match(line, after)
    assert goes_on is not None
    rest = " ".join(line[goes_on.end() :].lower().split())
    # "7 o" may become "7 or 8".
    seen = len(line) if any(word.startswith(rest) for word in _WORDS) else goes_on.end()
    another = not remark and _is_digit(rest[:1])
    attached = line[after : after + 1].isalnum() or _PERCENT.match(line, after)
    faulty = attached or another or goes_on.lastgroup == "number"
    return _Integer(start, end, seen + another, "trailing" if faulty else None)


def _is_digit(character: str) -> bool:
    """Any script's digit, superscript or fraction, but no letter that means a number (一)."""
    return character.isnumeric() and not character.isalpha()


def reward(verdict: Verdict | Unscored, direction: str, unscored: str = "left-out") -> float | None:
    """The signed score: plus forward, minus in reverse. None for an answer without a score.

    None takes no part in its group. A 0 in its place, which unscored="zero" gives, is the best
    reward that there is in reverse, so the policy learns to write what its judge cannot score.

    NaN where the logits of the answer or of the judge were not finite. Such an answer must not
    teach, and neither must its siblings: NaN travels through the advantages into the loss, where
    the optimizer refuses the step.
    """
    if isinstance(verdict, Verdict):
        return float(SIGN[direction] * verdict.score)
    if verdict.reason in ("not-finite", "judge-not-finite"):
        return math.nan
    return 0.0 if unscored == "zero" else None
