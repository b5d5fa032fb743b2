"""One evaluation on the held-out questions as a teacher would write it on a board. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from minihmx.instruments.metrics import score_error
from minihmx.results.evidence import Evidence, metrics_line, not_there, read_answers
from minihmx.results.explain_group import asked_and_answered
from minihmx.results.workings import Logged, batch_metrics, differences_in, fields_of, remade
from minihmx.stats import clustered_standard_error, mean
from minihmx.terminal.board import bracketed, columns, summed, wrapped, written
from minihmx.terminal.text import printable


def explain_evaluation(
    evidence: Evidence, epoch: int, question: str | None, all_prompts: bool
) -> Iterator[str]:
    """Explain one evaluation: all its questions' scores, or one question's with its answers."""
    name, science = f"evaluations/epoch-{epoch:02d}.jsonl", evidence.science
    lines = read_answers(evidence, name)
    rollouts, n = remade(lines, science, step=False), science["eval_samples"]
    own = fields_of(rollouts, step=False)
    ids = [line["question"] for line in lines[::n]]
    if question is not None and question not in ids:
        raise not_there("question", question, ids, f"Epoch {epoch} of {evidence.folder}")
    place, metrics = metrics_line(evidence, "evaluation", epoch)
    yield (
        f"Evaluation of epoch {epoch} of {evidence.folder}: {science['direction']}, seed "
        f"{science['seed']}, after step {metrics.get('step')}; {len(ids)} held-out questions x {n} "
        "answers."
    )
    if question is not None:
        here = slice(first := ids.index(question) * n, first + n)
        pairs = list(zip(lines[here], own[here], strict=True))
        yield from asked_and_answered(evidence, pairs, all_prompts)
    clusters = {
        name: [line["score"] for line in own[i * n : (i + 1) * n]] for i, name in enumerate(ids)
    }
    yield from scores_written(clusters, question)
    yield from kl_written(lines)
    yield from differences_in(name, lines, own)
    computed = batch_metrics(rollouts) | {"score_error": score_error(rollouts)}
    yield from differences_in("metrics.jsonl", [metrics], [computed], place)


def scores_written(clusters: Mapping[str, Sequence[int | None]], only: str | None) -> Iterator[str]:
    """Each question's scores, then their mean and its standard error with the arithmetic."""
    scored = {name: [s for s in values if s is not None] for name, values in clusters.items()}
    scores = [float(s) for values in scored.values() for s in values]
    centre, filled = mean(scores), [values for values in scored.values() if values]
    yield ""
    if centre is None:
        yield "No answer got a score, so there is no mean."
        return
    less, n, G = bracketed(centre), len(scores), len(filled)
    residuals = {name: math.fsum(s - centre for s in values) for name, values in scored.items()}
    table = [
        (printable(name), " ".join("-" if s is None else str(s) for s in values), residual)
        for name, values in clusters.items()
        if only in (None, name)
        for residual in [written(residuals[name], sign="+")]
    ]
    yield from columns(("question", "scores", f"sum of (score − {less})"), table)
    yield f"mean = {written(math.fsum(scores), 0)} / {n} = {written(centre)}"
    error = clustered_standard_error(filled)
    if error is None:
        yield "A standard error needs two questions with a score."
        return
    squares = [f"{bracketed(residuals[name])}²" for name, values in scored.items() if values]
    yield "standard error of the mean, the answers to one question going together"
    formula = f"sqrt(({summed(squares)}) · {G} / {G - 1}) / {n} = {written(error)}"
    yield from wrapped(formula, indent="    ", first="  = ")


def kl_written(lines: Sequence[Logged]) -> Iterator[str]:
    """The mean of the KL over the answers, and its mean over all their tokens, in nats."""
    known = [(kl, len(line["ids"])) for line in lines if (kl := line["kl"]) is not None]
    if known:
        tokens = sum(length for _, length in known)
        weighed = math.fsum(kl * length for kl, length in known)
        plain = math.fsum(kl for kl, _ in known)
        yield f"KL, mean of the answers = {written(plain, 6)} / {len(known)} = " + written(
            plain / len(known), 6
        )
        yield f"KL, mean of the tokens  = {written(weighed, 6)} / {tokens} = " + written(
            weighed / tokens, 6
        )
