"""Which checkpoints of a forward and a reverse run are compared (paper section 4).

    forward  the first epoch whose held-out score exceeds 7.5
    reverse  the same epoch, unless its KL from the untouched model is higher there than the forward
             run's; then the latest earlier epoch whose KL is no higher

A higher KL means a model that has moved further and so has probably lost more. With this rule the
forward model is the one that moved further, so it is not made to look better than it is. One model
of the paper, Qwen3-0.6B, had the lower KL in its forward run at every epoch; there the paper took
the same epoch. `Rule.same_epoch_exception` says whether that is done.

Plain values in, plain values out, and no torch: an audit makes the same choice again from
metrics.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

DIRECTIONS = ("forward", "reverse")
_ROUNDING = 1e-9  # of a share, which is far below one answer of any evaluation


@dataclass(frozen=True)
class Rule:
    """threshold: the score to exceed. same_epoch_exception: "on" as in the paper, or "off".

    max_unscored is ours: an epoch at which the judge left a larger share of the answers without a
    score is no candidate, because the mean of the others says little.
    """

    threshold: float = 7.5
    same_epoch_exception: str = "on"
    max_unscored: float = 0.2


class Candidate(NamedTuple):
    """One epoch's evaluation on the held-out questions.

    score: 0 to 10, unsigned in both directions; score_error: its standard error, clustered by
    question. kl: mean over answers of each one's mean per token, in nats, which is what decides;
    kl_tokens: mean over all tokens. unscored: share of the answers. None: not a finite number.
    """

    epoch: int
    score: float | None
    score_error: float | None
    kl: float | None
    kl_tokens: float | None
    unscored: float


class Choice(NamedTuple):
    """The chosen epoch, whether the rule chose it, and the reason as a sentence.

    qualified is False where no epoch fulfils the rule, and the best there is was taken instead.
    """

    epoch: int
    qualified: bool
    why: str


History = Sequence[Candidate]


def candidates(evaluations: Iterable[Mapping[str, Any]]) -> list[Candidate]:
    """The candidates in a run's evaluation lines of metrics.jsonl, from epoch 1 on: epoch 0 is the
    untrained model."""
    found = [Candidate(*(line[name] for name in Candidate._fields)) for line in evaluations]
    return [candidate for candidate in found if candidate.epoch >= 1]


def select(forward: History, reverse: History, rule: Rule) -> tuple[Choice, Choice]:
    """The forward and the reverse choice. Both histories must hold the same epochs, at least one.

    The forward run passes 7.5 at epoch 2, where the reverse run's KL is higher; at epoch 1 it was
    not:

    >>> forward = [Candidate(1, 6.0, 0.3, 0.1, 0.1, 0.0), Candidate(2, 8.0, 0.3, 0.2, 0.2, 0.0)]
    >>> reverse = [Candidate(1, 2.0, 0.3, 0.05, 0.1, 0.0), Candidate(2, 1.0, 0.3, 0.3, 0.3, 0.0)]
    >>> [choice.epoch for choice in select(forward, reverse, Rule())]
    [2, 1]
    """
    epochs = [candidate.epoch for candidate in forward]
    assert epochs and epochs == [candidate.epoch for candidate in reverse], "histories differ"
    first = select_forward(forward, rule)
    return first, select_reverse(forward, reverse, first.epoch, rule)


def select_forward(forward: History, rule: Rule) -> Choice:
    """The first epoch whose score exceeds the threshold, else the one with the highest score."""
    usable = [c for c in forward if _usable(c, rule)]
    for candidate in usable:
        if candidate.score is not None and candidate.score > rule.threshold:
            why = f"epoch {candidate.epoch} is the first whose score, {candidate.score:.2f}, "
            return Choice(candidate.epoch, True, why + f"exceeds {rule.threshold:g}")
    best = max(usable or forward, key=lambda c: -1.0 if c.score is None else c.score)
    why = f"no epoch has a score above {rule.threshold:g}, so the one with the highest is taken"
    if best.score is not None:
        why += f", {best.score:.2f} at epoch {best.epoch}"
    return Choice(best.epoch, False, why + _left_out(forward, rule))


def select_reverse(forward: History, reverse: History, chosen: int, rule: Rule) -> Choice:
    """The reverse epoch that goes with the chosen forward one."""
    (limit,) = (c.kl for c in forward if c.epoch == chosen)
    usable = [c for c in reverse if c.epoch <= chosen and _usable(c, rule)]
    within = [c for c in usable if limit is not None and c.kl is not None and c.kl <= limit]
    same = next((c for c in usable if c.epoch == chosen), None)
    if same in within:
        why = f"its KL at the same epoch, {_nats(same)}, is at most the forward run's, {limit:.4f}"
        return Choice(chosen, True, why)
    lower = all(
        f.kl is not None and r.kl is not None and f.kl < r.kl
        for f, r in zip(forward, reverse, strict=True)
    )
    if same and lower and rule.same_epoch_exception == "on":
        why = "the forward run's KL is the lower one at every epoch, so the same epoch is taken"
        return Choice(chosen, True, f"{why}, as the paper did for Qwen3-0.6B")
    higher = (
        f"its KL at epoch {chosen} is not within the forward run's"
        if same
        else (f"epoch {chosen} has too many answers without a score")
    )
    if within:
        last = within[-1]
        why = (
            f"{higher}, and epoch {last.epoch} is the latest earlier one whose KL, {_nats(last)}, "
        )
        return Choice(last.epoch, True, why + f"is at most {limit:.4f}")
    why = f"{higher}, and no earlier epoch has one that is, so the same epoch is taken"
    return Choice(chosen, False, why + _left_out(reverse, rule))


def selected(
    forward: History, reverse: History, rule: Rule, pair: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
    """What selected.json holds, by direction. pair: by direction, the run and its fingerprint."""
    choices = dict(zip(DIRECTIONS, select(forward, reverse, rule), strict=True))
    winners = {direction: f"epoch-{choice.epoch:02d}" for direction, choice in choices.items()}
    common = {
        "rule": asdict(rule),
        "pair": {which: {**pair[which], "winner": winners[which]} for which in winners},
        "candidates": {
            "forward": [candidate._asdict() for candidate in forward],
            "reverse": [candidate._asdict() for candidate in reverse],
        },
    }
    return {
        which: {
            "direction": which,
            "winner": winners[which],
            "qualified": choice.qualified,
            "why": choice.why,
            **common,
        }
        for which, choice in choices.items()
    }


def _usable(candidate: Candidate, rule: Rule) -> bool:
    # 12 unscored of 40 are recorded as 1 - 28/40, which is 0.3 and a last digit.
    within = candidate.unscored <= rule.max_unscored + _ROUNDING
    return candidate.score is not None and within


def _left_out(history: History, rule: Rule) -> str:
    left = [str(c.epoch) for c in history if not _usable(c, rule)]
    if not left:
        return ""
    return f" (more than {rule.max_unscored:.0%} unscored at epoch {', '.join(left)})"


def _nats(candidate: Candidate) -> str:
    return "unknown" if candidate.kl is None else f"{candidate.kl:.4f}"
