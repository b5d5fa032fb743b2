"""A step's answers computed again from their texts, and what each of them adds to the loss.

Log-probs and KL come from the model, so they are taken as they stand in the file. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from minihmx.advantages import assign_advantages, assign_weights
from minihmx.config import FIELDS, Config
from minihmx.instruments.metrics import describe
from minihmx.records import Question, Rollout
from minihmx.results.audit_rows import rebuilt
from minihmx.stats import mean
from minihmx.storage.disk import dumps

Logged = Mapping[str, Any]  # of rollouts/ or evaluations/
# What follows from the judge's words, and, in a step, from the group's rewards.
_FROM_WORDS = ("score", "span", "flags", "unscored", "reward")
_FROM_GROUP = ("group_mean", "group_std", "advantage", "weight")


class AnswerRow(NamedTuple):
    """One answer: what was logged, what follows from its text, and its part in the loss.

    weight: of each of its tokens, and as a formula. push, pull: what advantage and KL add to the
    loss at ratio 1; pull is None where the KL was not finite.
    """

    logged: Logged
    own: Logged
    weight: float
    formula: str
    push: float
    pull: float | None

    @property
    def tokens(self) -> int:
        return len(self.logged["ids"])


def remade(lines: Sequence[Logged], science: Logged, step: bool) -> list[Rollout]:
    """The answers with score and reward from their texts and, in a step, advantage and weight."""
    config = Config(**{name: value for name, value in science.items() if name in FIELDS})
    rollouts = []
    for line in lines:
        question = Question(line["question"], line["category"], line["prompt"], "train", "ours")
        rollouts.append(rebuilt(dict(line), question, line["sample"], config, bad=True))
    if step:
        assign_advantages(rollouts, config)
        assign_weights(rollouts, config)
    return rollouts


def fields_of(rollouts: Sequence[Rollout], step: bool) -> list[dict[str, Any]]:
    """Those fields of the answers' lines that follow from the text."""
    fields = (*_FROM_WORDS, *(_FROM_GROUP if step else ()))
    whole = [json.loads(dumps(rollout.line())) for rollout in rollouts]
    return [{name: line[name] for name in fields} for line in whole]


def weight_formula(
    science: Logged, groups: Sequence[Sequence[int]], group: int, place: int, weight: float
) -> str:
    """How `advantages.assign_weights` comes to the weight of each token of an answer.

    groups: tokens of every answer of the step that count, question by question.
    """
    if not weight:
        return "of an answer that was cut at the cap, which is masked"
    lengths, Q = groups[group], len(groups)
    factors = {
        "bnpo": (Q, sum(lengths)),
        "bnpo_shuffled": (Q, round(1 / (Q * weight))),
        "grpo": (Q, len(lengths), lengths[place]),
        "dr_grpo": (Q, len(lengths), science["max_completion_length"]),
        "dapo": (sum(map(sum, groups)),),
    }[science["loss_type"]]
    text = " · ".join(map(str, factors))
    return f"1 / ({text})" if len(factors) > 1 else f"1 / {text}"


def rows_of(
    science: Logged, lines: Sequence[Logged], rollouts: Sequence[Rollout]
) -> list[list[AnswerRow]]:
    """The answers of a step, group by group."""
    G = science["generations"]
    own = fields_of(rollouts, step=True)
    # An answer that is masked counts in no normaliser, and has the weight 0.
    counted = [len(line["ids"]) * (row["weight"] > 0) for line, row in zip(lines, own, strict=True)]
    groups = [counted[i : i + G] for i in range(0, len(lines), G)]
    rows = []
    for i, (line, computed) in enumerate(zip(lines, own, strict=True)):
        weight, kl = computed["weight"], line["kl"]
        formula = weight_formula(science, groups, i // G, i % G, weight)
        total = weight * len(line["ids"])
        push = -(computed["advantage"] or 0.0) * total
        pull = None if kl is None else science["beta"] * kl * total
        rows.append(AnswerRow(line, computed, weight, formula, push, pull))
    return [rows[i : i + G] for i in range(0, len(rows), G)]


def batch_metrics(rollouts: Sequence[Rollout]) -> dict[str, float | None]:
    """Those numbers of a line of metrics.jsonl that follow from the answers' lines."""
    kl = mean([rollout.kl for rollout in rollouts if rollout.kl is not None])
    return {**describe(rollouts), "kl": kl}


def differences_in(
    name: str, lines: Sequence[Logged], own: Sequence[Logged], first: int = 1
) -> Iterator[str]:
    """A sentence for each field of each line that does not follow from the text; the first of
    these lines has this number in the file of that name."""
    for number, (line, computed) in enumerate(zip(lines, own, strict=True), start=first):
        for field, value in computed.items():
            if field in line and line[field] != value:
                yield differs(f"{name}, line {number}", field, line[field], value)


def differs(place: str, what: str, logged: object, computed: object) -> str:
    """A notice about a number that was logged otherwise."""
    return f"notice {place}: {what} is {logged} there, and computed here it is {computed}."
