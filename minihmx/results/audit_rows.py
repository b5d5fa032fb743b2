"""The answers of a step or an evaluation: each line's numbers are made again or held to bounds.

Score, reward, advantage and weight are made again from the judge's words and the token counts. The
log-probs and the KL are the model's own, so they are only held against their bounds. No torch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from minihmx.advantages import assign_advantages, assign_weights
from minihmx.config import Config
from minihmx.engine.samplers import token_ids
from minihmx.judge import parse_score, reward
from minihmx.questions import batch_of
from minihmx.records import Completion, Question, Rollout, Unscored, Verdict
from minihmx.results.audit_run import Facts
from minihmx.results.findings import ABSENT, Audit, Line, Place, Words

# The fields of a row that `rebuilt`, assign_advantages and assign_weights make again, each with the
# name of the check under which the comparison is counted.
QUESTION_PARTS = ("question", "category", "prompt")
REMADE = {
    **dict.fromkeys((*QUESTION_PARTS, "sample"), "order"),
    **dict.fromkeys(("score", "span", "flags", "unscored"), "scores"),
    "reward": "rewards",
    **dict.fromkeys(("group_mean", "group_std", "advantage"), "groups"),
    "weight": "weights",
}


class Turn(NamedTuple):
    """A step of training, or an evaluation. Steps and epochs are counted from 1.

    An evaluation has the number of the last step before it. The one before training has 0 and 0.
    """

    kind: str
    step: int
    epoch: int

    @property
    def file(self) -> str:
        if self.kind == "step":
            return f"rollouts/step-{self.step:06d}.jsonl"
        return f"evaluations/epoch-{self.epoch:02d}.jsonl"


class Endings:
    """Over a whole run, the tokens that ended an answer and those that stand within one."""

    def __init__(self) -> None:
        self.ends: dict[int, list[Place]] = defaultdict(list)
        self.within: dict[int, list[Place]] = defaultdict(list)

    def add(self, ids: Sequence[int], finish: str, place: Place) -> None:
        """Take an answer's tokens in. Its last token ended it if it finished with "stop"."""
        if finish == "stop":
            self.ends[ids[-1]].append(place)
            ids = ids[:-1]
        for token in set(ids):
            self.within[token].append(place)

    def check(self, audit: Audit) -> None:
        """A finding for each token that ends some answers and stands within others.

        Sampling stops at such a token, so it cannot stand within an answer. The findings name the
        rarer of the two uses, which is likely to be the changed one.
        """
        for token in sorted(self.ends.keys() & self.within.keys()):
            few = min(self.ends[token], self.within[token], key=len)
            rule = Words(f"another, as token {token} ends some answers and stands within others")
            for place in few:
                audit.find("endings", place, "finish", Words("one"), rule)


def wanted_answers(facts: Facts, turn: Turn) -> list[tuple[Question, int]] | None:
    """The question and the sample's number for each row; None if the questions are not known."""
    if facts.questions is None:
        return None
    config, samples = facts.config, facts.config.eval_samples
    questions = [q for q in facts.questions if q.split == "eval"]
    if turn.kind == "step":
        train, samples = [q for q in facts.questions if q.split == "train"], config.generations
        _, questions = batch_of(turn.step - 1, train, config.prompts_per_step, config.seed)
    return [(question, s) for question in questions for s in range(samples)]


def check_rows(
    audit: Audit, facts: Facts, turn: Turn, rows: Sequence[Line], bad: bool, endings: Endings
) -> list[Rollout]:
    """Make the numbers of a file's rows again; returns the rollouts, or none if a row is damaged.

    bad: whether the line in metrics.jsonl says that some number was not finite.
    """
    config, wanted = facts.config, wanted_answers(facts, turn)
    path = facts.folder / turn.file
    if wanted is not None and not audit.compare(
        "order", Place(path), "number of lines", len(rows), len(wanted)
    ):
        return []
    cap = config.max_completion_length
    # The list, unlike a generator, looks at every row, also after a damaged one.
    if not all([bool(row.record) and check_raw(audit, row, cap) for row in rows]):
        return []
    samples = config.generations if turn.kind == "step" else config.eval_samples
    rollouts = []
    stops = token_ids(config.stop_ids)
    for number, row in enumerate(rows):
        if stops and row.record["finish"] == "stop":
            last, rule = row.record["ids"][-1], f"one of {config.stop_ids}, which end an answer"
            audit.require("endings", row.place, "ids", last, last in stops, rule)
        endings.add(row.record["ids"], row.record["finish"], row.place)
        if wanted is None:
            name, category, text = (
                str(row.record.get(n)) for n in ("question", "category", "prompt")
            )
            asked = Question(name, category, text, "train", "ours"), number % samples
        else:
            asked = wanted[number]
        rollouts.append(rebuilt(row.record, *asked, config, bad))
    if turn.kind == "step":
        assign_advantages(rollouts, config)
        assign_weights(rollouts, config)
    for row, rollout in zip(rows, rollouts, strict=True):
        again = rollout.line()
        audit.known("scores", (row.place.file, ""), row.record, again, line=row.place.line)
        for name, check in REMADE.items():
            if name == "weight" not in row.record and not facts.sealed:
                facts.lacking.add("weight")
            elif wanted is not None or name not in QUESTION_PARTS:
                logged = row.record.get(name, ABSENT)
                audit.compare(check, row.place, name, logged, again[name])
    return rollouts


def check_raw(audit: Audit, row: Line, cap: int) -> bool:
    """Whether a model and a judge can have given a row's raw fields.

    cap: the most tokens of an answer.
    """
    record, place = row.record, row.place
    ids, finish, end = (record.get(name, ABSENT) for name in ("ids", "finish", "judge_finish"))
    of_ints = isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids)
    holds = of_ints and 1 <= len(ids) <= cap
    sound = audit.require("endings", place, "ids", ids, holds, f"1 to {cap} token ids")
    # An answer below the cap must have ended by itself. At the cap it may also have been cut, which
    # its last token decides (see Endings).
    ways = ("stop", "length") if sound and len(ids) == cap else ("stop",)
    sound &= audit.require("endings", place, "finish", finish, finish in ways, " or ".join(ways))
    for name in ("completion", "judge"):
        text = record.get(name, ABSENT)
        sound &= audit.require("scores", place, name, text, type(text) is str, "text")
    holds = end in ("stop", "length") or end == record.get("judge") == ""
    rule = 'stop or length, or "" where the judge was not asked'
    sound &= audit.require("scores", place, "judge_finish", end, holds, rule)
    return check_kl(audit, row) if sound else False


def check_kl(audit: Audit, row: Line) -> bool:
    """Whether a row's two log-probs and its KL can belong together. Each is null if not finite.

    The KL is the mean over the tokens of k3(r) = exp(r) - r - 1, where r is a token's log-prob
    under the reference less that under the policy. k3 is convex, so this mean is at least k3 of the
    mean r (Jensen), which the two sums of log-probs give. Rounding is allowed for.
    """
    record, sound, sums = row.record, True, []
    for name in ("policy_logprob", "reference_logprob"):
        value = record.get(name, ABSENT)
        sums.append(value)
        holds = value is None or (type(value) is float and value <= 0)
        sound &= audit.require("bounds", row.place, name, value, holds, "0 or less, or null")
    least = 0.0
    if sound and None not in sums:
        ratio = (sums[1] - sums[0]) / len(record["ids"])
        least = math.exp(min(ratio, 700.0)) - ratio - 1
    kl = record.get("kl", ABSENT)
    holds = kl is None or (type(kl) is float and kl >= least * (1 - 1e-4) - 1e-5)
    return audit.require("bounds", row.place, "kl", kl, holds, f"{least:.6g} or more") and sound


def rebuilt(
    record: dict[str, Any], question: Question, sample: int, config: Config, bad: bool
) -> Rollout:
    """The answer with its verdict read again from the judge's words, and its reward from that.

    An answer whose judge was not asked is unscored. Only if some number was not finite (bad) can an
    answer be unscored although the judge wrote a score.
    """
    completion = Completion(record["ids"], [], record["completion"], record["finish"])
    rollout = Rollout(question, sample, question.text, [], completion)
    reason, end = record.get("unscored"), record["judge_finish"]
    verdict: Verdict | Unscored = parse_score(record["judge"], end == "stop")
    if end == "":
        verdict = Unscored("not-finite" if bad and reason == "not-finite" else "too-long")
    elif bad and reason == "judge-not-finite":
        verdict = Unscored("judge-not-finite")
    rollout.verdict, rollout.kl = verdict, record["kl"]
    rollout.reward = reward(verdict, config.direction, config.unscored)
    return rollout
