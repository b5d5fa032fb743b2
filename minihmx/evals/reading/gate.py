"""Whether a judge can read at all: it first labels fixed replies whose labels are known.

The replies are our own, plain and short, 16 for each benchmark (data/reading_check.jsonl): right
and wrong answers in the known and in other words, hedged answers, refusals. A judge that errs on
too many of them is one reader among others, and no other reader's errors are counted by its labels.
No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from minihmx.evals.reading.readers import READABLE, Readable, parse_label, reader_prompt
from minihmx.storage.disk import read_lines
from minihmx.storage.identity import text_digest

LEAST_RIGHT = 13  # of 16; a judge that errs once in ten reaches this in 93 of 100 cases
LEAST_OF_A_LABEL = 0.5  # a judge below this may not know the label, as one did not know refusals


class FixedReply(NamedTuple):
    """A line of data/reading_check.jsonl: the label it has, and its texts as readable.shown."""

    label: str
    texts: tuple[str, ...]


def fixed_replies(benchmark: str) -> list[FixedReply]:
    """The fixed replies of one benchmark, in the order in which a judge is asked about them."""
    rows = read_lines(Path(str(files("minihmx"))) / "data" / "reading_check.jsonl")
    own = [row for row in rows if row["benchmark"] == benchmark]
    return [FixedReply(row["label"], tuple(row["texts"])) for row in own]


def fixed_line(readable: Readable, reply: FixedReply, words: str, finish: str) -> dict[str, Any]:
    """What reader.json keeps of a fixed reply: the prompt's digest, the known label, the judge's
    words, and the label that is read from them."""
    prompt = text_digest(reader_prompt(readable, reply.texts))
    label = parse_label(words, finish == "stop", readable)
    return {
        "prompt": prompt,
        "known": reply.label,
        "words": words,
        "finish": finish,
        "label": label,
    }


def gate_read_again(benchmark: str, stored: Any) -> list[dict[str, Any]] | None:
    """The lines that reader.json should have for what the judge said. None where it was not asked
    exactly these replies, for example by a version that had other ones or none."""
    readable, replies = READABLE[benchmark], fixed_replies(benchmark)
    try:
        said = [(str(line["words"]), str(line["finish"])) for line in stored]
        again = [fixed_line(readable, r, *s) for r, s in zip(replies, said, strict=True)]
        asked = [line["prompt"] for line in stored]
    except (LookupError, TypeError, ValueError):
        return None
    return again if asked == [line["prompt"] for line in again] else None


class ReaderGate(NamedTuple):
    """by_label: for each known label, how many fixed replies the judge read rightly, and how many
    there are. None where it was not asked about them."""

    by_label: Mapping[str, tuple[int, int]] | None

    @property
    def right(self) -> int:
        return sum(right for right, _ in (self.by_label or {}).values())

    @property
    def total(self) -> int:
        return sum(total for _, total in (self.by_label or {}).values())

    @property
    def passed(self) -> bool:
        """Whether this judge's labels may be the truth by which others' errors are counted."""
        pairs = (self.by_label or {}).values()
        each = all(right >= LEAST_OF_A_LABEL * total for right, total in pairs)
        return each and self.right >= LEAST_RIGHT

    @property
    def why_not(self) -> str:
        """Why it is not the truth, in one sentence without its full stop; "" where it may be."""
        if self.by_label is None:
            return (
                "the judge was not asked the fixed replies that this version has, so whether it "
                "can read is not known; give --labels"
            )
        if self.passed:
            return ""
        parts = ", ".join(f"{label} {r} of {n}" for label, (r, n) in self.by_label.items())
        return (
            f"the judge reads {self.right} of {self.total} fixed replies rightly ({parts}), where "
            f"{LEAST_RIGHT} and half of each kind are needed; give --labels"
        )


def reader_gate(benchmark: str, stored: Any) -> ReaderGate:
    """What the field `gate` of a reader.json shows. The labels are read again from the words."""
    lines: Sequence[Mapping[str, Any]] | None = gate_read_again(benchmark, stored)
    if lines is None:
        return ReaderGate(None)
    found = dict[str, tuple[int, int]]()
    for line in lines:
        right, total = found.get(line["known"], (0, 0))
        found[line["known"]] = right + (line["label"] == line["known"]), total + 1
    return ReaderGate(found)
