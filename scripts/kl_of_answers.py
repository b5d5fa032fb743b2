"""How far a run's answers are from the untouched model, in nats an answer, as the alarm counts it.

python scripts/kl_of_answers.py runs/tiny/forward/seed-1
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

from minihmx.errors import Failure
from minihmx.instruments.alarms import KL_BOUND, kl_of_answers
from minihmx.storage.history import ANSWERS_OF, load_rows


def highest(run: Path, kind: str) -> float:
    """The largest mean over the answers of one step, or of one evaluation."""
    rows = groupby(load_rows(run, kind), key=lambda row: row[ANSWERS_OF[kind][1]])
    means = (
        kl_of_answers([(r["policy_logprob"], r["reference_logprob"]) for r in g]) for _, g in rows
    )
    return max(mean for mean in means if mean is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    try:
        for run in parser.parse_args().runs:
            step, evaluation = highest(run, "step"), highest(run, "evaluation")
            print(f"{run}: step {step:.1f}, evaluation {evaluation:.1f} (alarm above {KL_BOUND:g})")
    except Failure as failure:
        raise SystemExit(str(failure)) from None


if __name__ == "__main__":
    main()
