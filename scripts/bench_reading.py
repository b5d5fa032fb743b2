"""How long a reply of 64 KB takes to read, for replies that are made to be slow.

    python scripts/bench_reading.py

Each number is the best of five. A reply is read in one of two ways: for answers in words by
`mentions` and `commitment`, for options (A to J here) by `letter`. No cap on completions allows so
long a reply. docs/measurements.md has the numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from minihmx.evals.reading.flips import commitment, mentions
from minihmx.evals.reading.letters import letter

SIZE = 64 << 10
UNITS = {
    "prose": "I'm not sure, yet the answer is a river; Lyon is old. So I think of it as (B).\n",
    "prose with dashes": "It is old — the answer is Paris; Lyon isn't. So I think of it as (B).\n",
    "an answer again and again": "Paris, ",
    "options": "so A and (B) ",
    "negations": "not Paris or ",
    "cues": "Wait, no: the answer is ",
    "retractions": "I was wrong to say Paris. ",
    "reports": "many people say ",
    "tags": "<b>Pa</b>ris ",
    "tags that never end": "<b x=",
    "zero width": "a\u200b",
    "blanks": " ",
    "brackets": "(",
    "accents": "\u0301\u0323",
    "Korean in parts": "\u1100\u1161\u11a8",
    "ligatures": "ﷺ ",
}


def milliseconds(read: Callable[[], object]) -> str:
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        read()
        best = min(best, time.process_time() - started)
    return f"{1000 * best:.0f}"


def row(name: str, unit: str, cut: bool) -> str:
    """cut: whether the answers are two halves of the reply itself, rather than Paris and Lyon."""
    reply = (unit * SIZE)[:SIZE]
    answers = [reply[: SIZE // 2], reply[1 : SIZE // 2]] if cut else ["Paris", "Lyon"]
    words = milliseconds(lambda: commitment(reply, mentions(reply, answers), answers[:1]))
    return f"| {name} | {words} | {milliseconds(lambda: letter(reply, 'ABCDEFGHIJ'))} |"


def main() -> None:
    print("| reply of 64 KB | answers in words, ms | options, ms |\n|---|---|---|")
    for name, unit in UNITS.items():
        print(row(name, unit, cut=False))
    for unit in ("a ", "a-", "aa"):
        print(row(f"`{unit}`, the answers are halves of it", unit, cut=True))


if __name__ == "__main__":
    main()
