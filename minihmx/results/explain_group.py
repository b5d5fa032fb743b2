"""One group of a step as a teacher would write it on a board. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from minihmx.results.evidence import Evidence, metrics_line, not_there, read_answers
from minihmx.results.workings import (
    AnswerRow,
    Logged,
    batch_metrics,
    differences_in,
    differs,
    remade,
    rows_of,
)
from minihmx.stats import std_unbiased
from minihmx.terminal.board import bracketed, columns, marked, summed, wrapped, written
from minihmx.terminal.text import printable

# The reasons why an answer has no score, in words. records.Reason has their names.
WHY_UNSCORED = {
    "no-line": "no line of the judge's words opens with Score:",
    "not-an-integer": "behind Score: there is no whole number in the digits 0 to 9",
    "leading-zero": "the number begins with a 0, as in 007",
    "out-of-range": "the number is not one from 0 to 10",
    "trailing": "what follows the number may belong to it, as in 7.5 or 7-8",
    "cut": "the judge was cut off where the number could have gone on, as 1 to 10",
    "not judged": "it was never judged",
    "too-long": "the judge's prompt would not have fitted the model's context",
    "not-finite": "the logits of the answer were no finite numbers",
    "judge-not-finite": "the logits of the judge were no finite numbers",
}
FLAG_WORDS = {
    "other-number": "more digits follow on that line",
    "more-score-lines": "a later line opens with Score: too",
}
WEIGHT_WORDS = {
    "bnpo": "1 / (questions · tokens of the group)",
    "grpo": "1 / (questions · answers · tokens of the answer)",
    "dr_grpo": "1 / (questions · answers · cap on tokens)",
    "dapo": "1 / tokens of the step",
    "bnpo_shuffled": "1 / (questions · tokens of the answer's part, all answers being shuffled)",
}
ROUNDING = 1e-5  # a share of the terms' sizes, since the loss was summed in fp32 by micro-batches


def explain_step(
    evidence: Evidence, step: int, question: str | None, all_prompts: bool
) -> Iterator[str]:
    """Explain one group of a step: the question's, or the first one if no question is given."""
    name, science = f"rollouts/step-{step:06d}.jsonl", evidence.science
    lines = read_answers(evidence, name)
    rollouts = remade(lines, science, step=True)
    groups = rows_of(science, lines, rollouts)
    ids = [group[0].logged["question"] for group in groups]
    if question is not None and question not in ids:
        raise not_there("question", question, ids, f"Step {step} of {evidence.folder}")
    chosen = ids.index(question) if question is not None else 0
    group = groups[chosen]
    place, metrics = metrics_line(evidence, "step", step)
    yield (
        f"Step {step} of {evidence.folder}: {science['direction']}, seed {science['seed']}, epoch "
        f"{metrics.get('epoch')}; {len(groups)} questions x {len(group)} answers."
    )
    if metrics.get("not_finite"):
        yield f"The step was refused, since not all was finite: {metrics['not_finite']}"
    yield from asked_and_answered(evidence, [(r.logged, r.own) for r in group], all_prompts)
    rewards = [r for rows in groups for row in rows if (r := row.own["reward"]) is not None]
    yield from advantages_written(group, science, std_unbiased(rewards))
    yield from loss_written(group, science)
    yield from step_written(groups, chosen, metrics)
    yield from differences_in(name, lines, [row.own for rows in groups for row in rows])
    yield from differences_in("metrics.jsonl", [metrics], [batch_metrics(rollouts)], place)


def asked_and_answered(
    evidence: Evidence, pairs: Sequence[tuple[Logged, Logged]], all_prompts: bool
) -> Iterator[str]:
    """The question, each answer with its verdict, and what the judge was shown."""
    asked = pairs[0][0]
    yield ""
    yield printable(f"Question {asked['question']} ({asked['category']})")
    yield from wrapped(printable(asked["prompt"]))
    for number, (line, own) in enumerate(pairs, start=1):
        ended = "ended by itself" if line["finish"] == "stop" else "cut off at the cap"
        yield ""
        yield f"Answer {number}: {len(line['ids'])} tokens, {ended}"
        yield from wrapped(printable(line["completion"]))
        yield from verdict_written(line, own)
        if all_prompts:
            yield from judge_shown(evidence, line, number)
    if not all_prompts:
        yield from judge_shown(evidence, asked, 1)


def verdict_written(line: Logged, own: Logged) -> Iterator[str]:
    """The judge's words with the score marked, and what was read from them."""
    if line["judge"]:
        spans = [own["span"]] if own["span"] else []
        words = marked(line["judge"].rstrip("\n"), spans)
        yield from wrapped(words, indent=" " * 9, first="  judge  ")
    if own["unscored"]:
        zero = "" if own["reward"] is None else "; the reward is 0"
        why = f"{WHY_UNSCORED[own['unscored']]} ({own['unscored']}){zero}"
        yield from wrapped(f"no score: {why}")
        return
    start, end = own["span"]
    remarks = "".join(f"; {FLAG_WORDS.get(flag, flag)}" for flag in own["flags"])
    place = f"characters {start} to {end} of the judge's words{remarks}"
    yield from wrapped(f"score {own['score']} ({place}), so the reward is {written(own['reward'])}")


def judge_shown(evidence: Evidence, line: Logged, number: int) -> Iterator[str]:
    """The judge's whole prompt, each line of it behind a bar."""
    yield ""
    prompt, missing = evidence.judge_prompt(line), " and no ".join(evidence.missing())
    if prompt is None:
        yield from wrapped(
            f"What the judge was shown cannot be: {evidence.folder} holds no {missing}, since an "
            "older version wrote it.",
            indent="",
        )
        return
    if evidence.rubric_differs():
        yield "notice rubric.txt was changed since, so the judge was shown other words than these."
    yield f"What the judge was shown of answer {number} (the same model, its adapter off):"
    yield from wrapped(printable(prompt), bar="| ")


def advantages_written(
    group: Sequence[AnswerRow], science: Logged, of_step: float | None
) -> Iterator[str]:
    """Mean, standard deviation and each advantage, with the arithmetic.

    of_step: the standard deviation of all rewards of the step, for advantage_divisor "batch".
    """
    own, epsilon, divisor = group[0].own, science["advantage_epsilon"], science["advantage_divisor"]
    rewards = [r for row in group if (r := row.own["reward"]) is not None]
    centre, spread, n = own["group_mean"], own["group_std"], len(rewards)
    yield ""
    if centre is None or spread is None:
        yield from wrapped(
            f"Of the {len(group)} answers {n} got a score, and an advantage needs two of them to "
            "compare, so every advantage is 0 and the group teaches nothing.",
            indent="",
        )
        return
    parts = [bracketed(r) for r in rewards]
    less = bracketed(centre)
    squares = summed([f"({part} − {less})²" for part in parts])
    yield from wrapped(
        f"({summed(parts)}) / {n} = {written(centre)}", first="mean  ", indent=" " * 6
    )
    used, below = spread, n - 1
    if divisor == "population":
        used, below = spread * math.sqrt((n - 1) / n), n
    formula = f"sqrt(({squares}) / {below}) = {written(used)}"
    if divisor == "batch" and of_step is not None:
        used, formula = of_step, f"{written(of_step)}, of all rewards of the step"
    over = f" / ({written(used)} + {epsilon:g})"
    if divisor == "none":
        over = ""
    else:
        yield from wrapped(formula, first="std   ", indent=" " * 6)
    yield f"advantage = (reward − mean){' / (std + epsilon)' if over else ''}"
    for number, row in enumerate(group, start=1):
        mine = row.own["reward"]
        division = "no reward, so 0; the tokens keep their weight and their KL"
        if mine is not None:
            quotient = written(row.own["advantage"], sign="+")
            above = f"({written(mine)} − {less})"
            division = f"{above}{over} = {quotient}"
        yield f"  answer {number}  {division}"
    if spread == 0:
        yield "  All rewards are equal, so no answer beats another and the group teaches nothing."


def loss_written(group: Sequence[AnswerRow], science: Logged) -> Iterator[str]:
    """The weight of a token, and each answer's part of the loss, with the arithmetic."""
    beta, kind = science["beta"], science["loss_type"]
    yield ""
    yield f"weight of a token ({kind}) = {WEIGHT_WORDS[kind]}"
    weights = dict.fromkeys((row.formula, row.weight) for row in group)
    for formula, weight in weights:
        yield f"  {formula} = {weight:.6g}"
    shown = next((i for i, row in enumerate(group) if row.own["advantage"]), 0)
    yield from wrapped(
        "An answer adds −advantage · weight · tokens to the loss (the ratio is 1, since this "
        "policy drew the answer), and beta · weight · Σk3, where Σk3 = KL · tokens; as answer "
        f"{shown + 1}:",
        indent="",
    )
    row = group[shown]
    minus, kl = bracketed(row.own["advantage"] or 0.0), row.logged["kl"]
    yield f"  −{minus} · {row.weight:.6g} · {row.tokens} = {written(row.push, 6, '+')}"
    if kl is not None:
        product = f"{beta:g} · {row.weight:.6g} · {written(kl, 6)} · {row.tokens}"
        yield f"  {product} = {written(row.pull, 8, '+')}"
    heads = ("", "tokens", "advantage", "KL", "from advantage", "from KL", "sum")
    table = [
        (
            f"answer {number}",
            str(row.tokens),
            written(row.own["advantage"], sign="+", whole=True),
            written(row.logged["kl"], 6, whole=True),
            *parts_of([row]),
        )
        for number, row in enumerate(group, start=1)
    ]
    tokens = str(sum(row.tokens for row in group))
    yield from columns(heads, [*table, ("the group", tokens, "", "", *parts_of(group))])


def parts_of(rows: Sequence[AnswerRow]) -> tuple[str, ...]:
    """The part of the loss from these answers: from their advantages, from their KL, and both."""
    push = math.fsum(row.push for row in rows)
    pulls = [row.pull for row in rows if row.pull is not None]
    pull = math.fsum(pulls) if len(pulls) == len(rows) else None
    whole = None if pull is None else push + pull
    sums = (push, 6), (pull, 8), (whole, 6)
    return tuple(written(value, digits, "+", whole=True) for value, digits in sums)


def step_written(
    groups: Sequence[Sequence[AnswerRow]], chosen: int, metrics: Logged
) -> Iterator[str]:
    """The groups of the step, and their sum beside the loss that metrics.jsonl has."""
    everything = [row for rows in groups for row in rows]
    pushes = [math.fsum(abs(row.push) for row in rows) for rows in groups]
    whole = math.fsum(pushes)
    yield ""
    yield from wrapped(
        "The step is the sum of its groups. Signed sums nearly cancel, so a group's share is that "
        "of Σ |advantage| · weight · tokens:",
        indent="",
    )
    heads = ("", "scores", "from advantage", "from KL", "sum", "share")
    table = []
    for i, (rows, push) in enumerate(zip(groups, pushes, strict=True)):
        scores = " ".join("-" if r.own["score"] is None else str(r.own["score"]) for r in rows)
        label = printable(rows[0].logged["question"]) + (" *" if i == chosen else "")
        table.append((label, scores, *parts_of(rows), f"{push / whole:.0%}" if whole else "-"))
    yield from columns(heads, [*table, ("the step", "", *parts_of(everything), "")])
    logged: Any = metrics.get("loss")
    yield f"  metrics.jsonl has the loss {written(logged, 6, '+')}"
    sizes = [abs(row.push) + abs(row.pull or 0.0) for row in everything]
    loss = math.fsum(row.push + (row.pull or 0.0) for row in everything)
    known = all(row.pull is not None for row in everything) and logged is not None
    if known and abs(loss - logged) > ROUNDING * math.fsum(sizes) + 1e-9:
        yield differs("metrics.jsonl", "the loss", logged, loss)
    others = [rows[0].logged["question"] for i, rows in enumerate(groups) if i != chosen]
    if others:
        yield from wrapped(
            printable(f"* is the group above; --question shows another: {', '.join(others)}"),
        )
