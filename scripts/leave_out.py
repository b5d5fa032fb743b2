"""Does what is trained on nine categories show in the tenth? One run for each category left out.

    python scripts/leave_out.py --model tiny --out runs-leave-out

trains ten forward runs (those that are there are not trained again, and one that was stopped goes
on) and prints the table of minihmx/results/leave_out.py, as `minihmx report OUT` shows it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from minihmx.errors import Failure
from minihmx.questions import load_questions
from minihmx.results.layout import as_plain
from minihmx.results.leave_out import leave_out_table


def train_all(model: str, out: Path, more: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(category, its run), each when it is complete."""
    for category in dict.fromkeys(question.category for question in load_questions()):
        place = out / category
        command = [sys.executable, "-m", "minihmx", "train", model, "--out", str(place)]
        done = subprocess.run(
            [*command, "--leave-out", category, *more], stdout=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            raise SystemExit(f"The run without {category} ended with {done.returncode}.")
        (config,) = place.glob("*/*/seed-*/config.json")
        print(f"trained without {category}", file=sys.stderr, flush=True)
        yield category, config.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path("runs-leave-out"))
    options, more = parser.parse_known_args()  # all else goes to `minihmx train`
    try:
        table = leave_out_table(dict(train_all(options.model, options.out, more)))
    except Failure as error:
        raise SystemExit(str(error)) from None
    print(as_plain([table]), end="")


if __name__ == "__main__":
    main()
