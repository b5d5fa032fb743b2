"""How well `tiny` judges answers that its build never saw, against their true scores.

python scripts/tiny/judge.py --answers 300
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
from corpus import (
    Judged,
    unseen_adversarial_answers,
    unseen_clean_answers,
    unseen_mixed_answers,
)

from minihmx.records import Completion, Question, Rollout, Verdict
from minihmx.rollout import judge
from minihmx.run import Run, open_run


def scores(run: Run, answers: list[Judged]) -> list[tuple[int, int]]:
    """(true, judged) of every answer that the judge scored."""
    rollouts = [
        Rollout(Question(str(i), "", a.question, "eval", "ours"), 0, "", [], completion)
        for i, a in enumerate(answers)
        for completion in [Completion([], [], a.answer, "stop")]
    ]
    judge(run, rollouts, "eval")
    return [
        (a.score, rollout.verdict.score)
        for a, rollout in zip(answers, rollouts, strict=True)
        if isinstance(rollout.verdict, Verdict)
    ]


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks with ties sharing their mean."""
    return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    print("answers      parsed  exact  within 1  overrated by > 2  rank correlation")
    with tempfile.TemporaryDirectory() as folder:
        run = open_run({"model": "tiny", "out": folder})
        for name, draw in (
            ("clean", unseen_clean_answers),
            ("mixed", unseen_mixed_answers),
            ("adversarial", unseen_adversarial_answers),
        ):
            pairs = np.array(scores(run, draw(options.answers, options.seed)))
            off = pairs[:, 1] - pairs[:, 0]
            rho = np.corrcoef(ranks(pairs[:, 0]), ranks(pairs[:, 1]))[0, 1]
            print(
                f"{name:<12} {len(pairs) / options.answers:6.3f} {(off == 0).mean():6.3f} "
                f"{(abs(off) <= 1).mean():9.3f} {(off > 2).mean():17.3f} {rho:17.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
