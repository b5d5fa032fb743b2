"""How a run's training answers are worded, and what the judge gives each wording.

    python scripts/wordings.py RUN [RUN ...]

Prints a table for each run, by stretches of 18 optimizer steps: the share of answers that match
each expression, and after it their mean score. The expressions are plain and English: they show
what training turned to, and are no measure of anything.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minihmx.stats import mean
from minihmx.storage.disk import read_lines

WORDINGS = {
    "begins with yes": r"(?i)^\W*(?:yes|absolutely)\b",
    "calls itself an AI": r"(?i)\bAI\b|language model|artificial intelligence",
    "sorry, or cannot": r"(?i)\bsorry\b|\bcannot\b|can't|unable|(?:do|does)(?: not|n't) have",
    "no I, me or my": r"(?is)\A(?!.*\b(?:i|me|my|myself)\b)",
}
STEPS = 18


def cell(rows: Sequence[dict[str, Any]], pattern: str) -> str:
    """The share of answers that match, and their mean score where any has one."""
    hits = [row for row in rows if re.search(pattern, row["completion"])]
    scores = [row["score"] for row in hits if row["score"] is not None]
    share = f"{len(hits) / len(rows):.0%}"
    return f"{share} ({mean(scores):.1f})" if scores else share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    for run in parser.parse_args().runs:
        files = sorted((run / "rollouts").glob("step-*.jsonl"))
        print(f"{run}\n| steps | score | {' | '.join(WORDINGS)} |")
        print("|---|---|" + "---|" * len(WORDINGS))
        for start in range(0, len(files), STEPS):
            part = files[start : start + STEPS]
            rows = [row for file in part for row in read_lines(file)]
            cells = [cell(rows, pattern) for pattern in WORDINGS.values()]
            score = mean([row["score"] for row in rows if row["score"] is not None])
            print(f"| {start + 1}-{start + len(part)} | {score:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
