"""How long a reply of 64 KB takes to read, for replies that are made to be slow.

    python scripts/bench_reading.py

Each line is the best of five: `mentions` and `commitment` for two answers, and `letter` for options
A to J. No cap on completions allows so long a reply. docs/measurements.md has the numbers.
"""

from __future__ import annotations

import time

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


def seconds(reply: str, answers: list[str]) -> float:
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        commitment(reply, mentions(reply, answers), answers[:1])
        letter(reply, "ABCDEFGHIJ")
        best = min(best, time.process_time() - started)
    return best


def main() -> None:
    print("| reply | answers | ms |\n|---|---|---|")
    for name, unit in UNITS.items():
        reply = (unit * SIZE)[:SIZE]
        print(f"| {name} | Paris, Lyon | {1000 * seconds(reply, ['Paris', 'Lyon']):.0f} |")
    for unit in ("a ", "a-", "aa"):
        reply = (unit * SIZE)[:SIZE]
        halves = [reply[: SIZE // 2], reply[1 : SIZE // 2]]
        print(f"| `{unit}` | two halves of it | {1000 * seconds(reply, halves):.0f} |")


if __name__ == "__main__":
    main()
