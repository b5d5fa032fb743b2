"""Was it already there? The best of N answers of the base, against what training made of it.

Of N answers of the base, keep the one with the highest score: that is a policy too, and it puts in
nothing that the base would not say. Its KL to the base is at most log N - (N - 1) / N nats per
answer (Beirami et al. 2024, arXiv 2401.01879). Where a trained model scores no higher at its own KL
than this curve, giving the base's answers other weights is enough to explain it. The worst of N is
the same for the reverse direction.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from minihmx.config import check_number
from minihmx.errors import Diverged, UserError
from minihmx.probes.checkpoints import (
    NOT_FINITE,
    Checkpoint,
    ProbePieces,
    held_out,
    open_base,
    open_checkpoints,
    rubric_of,
)
from minihmx.records import Question, Rollout
from minihmx.stats import clustered_standard_error, mean
from minihmx.storage.disk import home_path
from minihmx.storage.identity import questions_digest, text_digest

if TYPE_CHECKING:
    from minihmx.engine.open import Model
    from minihmx.engine.prompts import Prompts

MOST_ANSWERS, REACHED = 1024, 7.5  # the latter the paper's threshold of a checkpoint's score
WRITTEN_OF_AN_ANSWER = ("sample", "completion", "finish", "judge", "judge_finish", "score")
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
    """What a difference allows to say; see WORDS in terminal/probe.py."""
    if difference is None or error is None or kl is None:
        return "too few"
    if difference <= 0:
        return "under"
    if kl > end:
        return "past the end"
    return "on" if difference <= 2 * error else "above"


def best_of(names: Sequence[str], flags: Mapping[str, Any], samples: int) -> dict[str, Any]:
    """Have the base answer every held-out question so many times, judge, and report.

    names: of runs, as `find_adapter` takes them; none: the base alone. What was answered before is
    read from the disk. Raises Failure (errors.py).
    """
    from minihmx.engine.prompts import Prompts

    check_number("samples", samples, 2, MOST_ANSWERS)
    checkpoints = open_checkpoints(names)
    model = open_base(checkpoints, flags, slow_dtypes=True)
    config, source = model.config, model.source
    if config.temperature == 0:
        raise UserError("At temperature 0 all answers are one; give --temperature 1.")
    questions = held_out(checkpoints, config.questions)
    ids = [question.id for question in questions]
    answered = [by_questions(checkpoint, ids) for checkpoint in checkpoints]
    prompts = Prompts(model.tokenizer, config.date, rubric_of(checkpoints, config.rubric))
    kept = ("temperature", "max_completion_length", "judge_max_tokens", "seed", "dtype")
    identity = {
        "model": source.digest,
        "questions": questions_digest(questions),
        "rubric": text_digest(prompts.rubric),
        **{name: getattr(config, name) for name in (*kept, "date", "chat_format")},
    }
    pieces = ProbePieces(home_path(config.out) / source.run_name / "base", "best-of", identity)
    table = _answers(model, prompts, questions, pieces, samples)
    points = {sign: curve(table, sign) for sign in (1, -1)}
    scored = [score for scores in table for score in scores if score is not None]
    reached = [any(s is not None and s >= REACHED for s in scores) for scores in table]
    return {
        "model": {"id": source.id, "digest": source.digest},
        "settings": identity,
        "folder": str(pieces.folder),
        "samples": samples,
        "questions": ids,
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


def _answers(
    model: Model,
    prompts: Prompts,
    questions: Sequence[Question],
    pieces: ProbePieces,
    samples: int,
) -> list[list[float | None]]:
    """The scores by question, asking for what is not on the disk; one file for each question."""
    from minihmx.engine.open import load_decoder

    decoder, table = None, list[list[float | None]]()
    for number, question in enumerate(questions, start=1):
        name = f"question-{number:02d}"
        rows = pieces.read(name, WRITTEN_OF_AN_ANSWER)
        if len(rows) < samples:
            decoder = decoder or load_decoder(model)
            told = f"question {number} of {len(questions)}: {samples - len(rows)} answers ..."
            print(told, file=sys.stderr, flush=True)
            rollouts = _ask(model, decoder, prompts, question, range(len(rows), samples))
            rows += [
                {k: r.line()[k] for k in ("question", *WRITTEN_OF_AN_ANSWER)} for r in rollouts
            ]
            pieces.write(name, rows)
        table.append([row["score"] for row in rows[:samples]])
    return table


def _ask(
    model: Model, decoder: Any, prompts: Prompts, question: Question, numbers: range
) -> list[Rollout]:
    """Answers with these numbers, judged as in training, by a decoder that has no adapter."""
    from minihmx.engine.memory import Limit
    from minihmx.engine.sampling import generate
    from minihmx.probes.examples import judge_answers

    config, ids = model.config, prompts.policy(question.text)
    completions = generate(
        decoder,
        prompts.tokenizer.decode,
        [ids] * len(numbers),
        max_new_tokens=config.max_completion_length,
        stop_ids=decoder.config.eos_ids,
        temperature=config.temperature,
        noise=[("best-of", config.seed, question.text, number) for number in numbers],
        limit=Limit("--decode-rows", config.decode_rows),
    )
    if not all(completion.finite for completion in completions):
        raise Diverged(NOT_FINITE.format(config.dtype, "answers"))
    rollouts = [
        Rollout(question, number, question.text, ids, completion)
        for number, completion in zip(numbers, completions, strict=True)
    ]
    judge_answers(decoder, prompts, config, rollouts)
    return rollouts
