"""Best-of-N of the base as a curve over its KL, and where trained checkpoints stand beside it.

Arithmetic on scores alone: `probe best-of` makes it of what it asked, the report of what is stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from minihmx.config import FIELDS
from minihmx.engine.samplers import AS_TRAINED
from minihmx.errors import UserError
from minihmx.probes.checkpoints import Checkpoint
from minihmx.stats import clustered_standard_error, mean

REACHED = 7.5  # the paper's threshold of a checkpoint's score
Scores = Sequence[float | None]  # of the answers to one question; None: the judge gave none


def expected_best(scores: Scores, n: int) -> float | None:
    """The highest score of n of these answers, averaged over all ways to choose the n.

    An answer without a score is kept only where none of the n has one, and that case is left out;
    None if it is the only one. Of m sorted scores the i-th (from 0) is the highest of the chosen in
    C(i, n - 1) ways; unscored answers stand below all of them.

    >>> expected_best([1, 2, 4], 2)  # 1 2, 1 4 and 2 4
    3.3333333333333335
    >>> expected_best([None, 3, 5], 1)
    4.0
    """
    scored = sorted(score for score in scores if score is not None)
    below = len(scores) - len(scored)
    ways = [math.comb(below + i, n - 1) for i in range(len(scored))]
    return sum(s * w for s, w in zip(scored, ways, strict=True)) / sum(ways) if any(ways) else None


def bound(n: int) -> float:
    """The most that the best of n can be away from the base, in nats per answer.

    >>> [round(bound(n), 2) for n in (1, 4, 8, 16, 64)]
    [0.0, 0.64, 1.2, 1.84, 3.17]
    """
    return math.log(n) - (n - 1) / n


def kl_of_best(scores: Scores, n: int) -> float | None:
    """How far the best of n is from the base, nats, if the base's scores were these frequencies.

    Equal scores are drawn among at random. So this is less than the bound, which is for answers
    that no two have one score, and it is lowest where most answers have the same.
    """
    scored = [score for score in scores if score is not None]
    if not scored:
        return None
    below = unscored = 1 - len(scored) / len(scores)
    kl = 0.0
    for value in sorted(set(scored)):
        share = scored.count(value) / len(scores)
        chosen = ((below + share) ** n - below**n) / (1 - unscored**n)
        kl += chosen * math.log(chosen / share) if chosen > 0 else 0.0
        below += share
    return kl


class Point(NamedTuple):
    """One N: the bound on its KL, the mean over questions of the best score, and how far they lie
    apart. by_question: None where no answer has a score."""

    n: int
    bound: float
    kl: float | None
    score: float | None
    error: float | None
    by_question: list[float | None]


def curve(table: Sequence[Scores], sign: int) -> list[Point]:
    """The best of N = 1, 2, 4, ... by question, or with sign -1 the worst."""
    points, n = list[Point](), 1
    signed = [[None if s is None else sign * s for s in scores] for scores in table]
    while n <= min(map(len, table)):
        best = [expected_best(scores, n) for scores in signed]
        values = [None if b is None else sign * b for b in best]
        known = [v for v in values if v is not None]
        kls = [kl for scores in signed if (kl := kl_of_best(scores, n)) is not None]
        error = clustered_standard_error([[v] for v in known])
        points.append(Point(n, bound(n), mean(kls), mean(known), error, values))
        n *= 2
    return points


def at_kl(points: Sequence[Point], question: int, kl: float) -> float | None:
    """The curve of one question at so many nats; at its end where they are more.

    Between two points lie the mixtures of both, whose KL is no higher than on the straight line.
    """
    after = next((i for i, point in enumerate(points) if point.bound >= kl), len(points) - 1)
    low, high = points[max(after - 1, 0)], points[after]
    ends = low.by_question[question], high.by_question[question]
    if ends[0] is None or ends[1] is None:
        return None
    width = high.bound - low.bound
    share = min(max((kl - low.bound) / width, 0.0), 1.0) if width else 1.0
    return ends[0] + share * (ends[1] - ends[0])


def drawn_as(values: Mapping[str, Any]) -> dict[str, str]:
    """How the base answers as a run did: sampler, stop ids and the judge's sampler, where they are
    not the default. values: of Config; what is the default may be missing.

    Of N greedy answers none is the best, so in their place it draws as for training.
    """
    own: dict[str, Any] = {name: f.default for name, f in FIELDS.items()} | dict(values)
    if own["eval_sampler"] not in (AS_TRAINED, "greedy"):
        own["sampler"] = own["eval_sampler"]
    names = "sampler", "stop_ids", "judge_sampler"
    return {name: own[name] for name in names if own[name] != FIELDS[name].default}


def drawn_notices(settings: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a sampler does to the comparison. settings: of the probe. runs: the values of each."""
    found = []
    if "sampler" in settings:
        found.append(
            f"The base's answers were drawn with {settings['sampler']}, as the runs' were. What N "
            "costs is counted from the base so drawn, and a run's KL is one of plain softmax, so "
            "the two are roughly on one scale."
        )
    if any(values.get("eval_sampler") == "greedy" for values in runs):
        found.append(
            "A run's held-out answers are greedy, and N greedy answers of the base would be one, "
            "so its were drawn as for training: beyond the curve is what greedy answers gain, too."
        )
    return found


Rows = Sequence[Mapping[str, Any]]  # of an evaluation


def by_questions(checkpoint: Checkpoint, ids: Sequence[str]) -> list[Rows]:
    """A checkpoint's held-out answers to each of these. Raises UserError where one has none."""
    rows = checkpoint.answers()
    found: list[Rows] = [[row for row in rows if row["question"] == name] for name in ids]
    if not all(found):
        raise UserError(
            f"{checkpoint.title} was evaluated on other questions than the first run, so the two "
            "stand on no common curve; probe them by separate commands."
        )
    return found


def standing(
    checkpoint: Checkpoint, answered: Sequence[Rows], points: Sequence[Point], sign: int
) -> dict[str, Any]:
    """Where a trained checkpoint, with its answers by question, stands beside the curve.

    difference: how much further than the curve at its KL its score went, the mean over questions.
    """
    scores = [[r["score"] for r in rows if r["score"] is not None] for rows in answered]
    kls = [
        [
            r["policy_logprob"] - r["reference_logprob"]
            for r in rows
            if None not in (r["policy_logprob"], r["reference_logprob"])
        ]
        for rows in answered
    ]
    kl = mean([value for row in kls for value in row])
    differences = list[float]()
    for place, own in enumerate(scores):
        on_curve = None if kl is None else at_kl(points, place, kl)
        if on_curve is not None and own:
            differences.append(sign * (sum(own) / len(own) - on_curve))
    difference = mean(differences)
    error = clustered_standard_error([[value] for value in differences])
    return {
        "run": checkpoint.title,
        "direction": checkpoint.direction,
        "seed": checkpoint.seed,
        "answers": sum(map(len, answered)),
        "score": mean([value for row in scores for value in row]),
        "score_error": clustered_standard_error(scores),
        "kl": kl,
        "kl_error": clustered_standard_error(kls),
        "difference": difference,
        "difference_error": error,
        "verdict": verdict_of(difference, error, kl, points[-1].bound),
    }


def verdict_of(difference: float | None, error: float | None, kl: float | None, end: float) -> str:
    """What a difference allows to say; see STANDINGS in terminal/probe.py."""
    if difference is None or error is None or kl is None:
        return "too few"
    if difference <= 0:
        return "under"
    if kl > end:
        return "past the end"
    return "on" if difference <= 2 * error else "above"


def best_of_report(
    table: Sequence[Scores],
    ids: Sequence[str],
    checkpoints: Sequence[Checkpoint],
    answered: Sequence[Sequence[Rows]],
) -> dict[str, Any]:
    """What `probe best-of` says of these scores, but for whose they are.

    table: by question, as many scores each. answered: of each checkpoint, what by_questions gives.
    """
    points = {sign: curve(table, sign) for sign in (1, -1)}
    samples = min(map(len, table))
    scored = [score for scores in table for score in scores if score is not None]
    reached = [any(s is not None and s >= REACHED for s in scores) for scores in table]
    return {
        "samples": samples,
        "questions": list(ids),
        "unscored": 1 - len(scored) / (samples * len(ids)),
        "coverage": sum(reached) / len(reached),
        "best": [point._asdict() for point in points[1]],
        "worst": [point._asdict() for point in points[-1]],
        "runs": [
            standing(c, rows, points[sign], sign)
            for c, rows in zip(checkpoints, answered, strict=True)
            for sign in (1 if c.direction == "forward" else -1,)
        ],
    }
