"""The numbers of a batch of rollouts, and how long a run takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minihmx.errors import Failure
from minihmx.instruments.degenerate import looks_degenerate
from minihmx.records import Rollout, Verdict, finite
from minihmx.stats import clustered_standard_error, mean, std_unbiased
from minihmx.storage.disk import read_lines
from minihmx.storage.history import NUMBER

if TYPE_CHECKING:  # an audit makes these numbers again where torch is not installed
    from torch import Tensor

STAGES = {
    "step": ("sample", "judge", "reference", "learn"),
    "evaluation": ("sample", "judge", "measure"),
}
RECENT = 20  # a rate is the mean over so many last steps, or over so many last evaluations


def token_metrics(
    rollouts: Sequence[Rollout], policy: Tensor, reference: Tensor, kl: Tensor, entropy: Tensor
) -> dict[str, Any]:
    """Fill in each row's log-probs and KL from flat [N] tensors; returns the token metrics.

    N counts the tokens of all rows. kl: the mean over answers of each answer's mean over its
    tokens; checkpoints are selected by it. kl_tokens, entropy: means over all tokens. sampler_gap:
    the mean of |log-prob while sampling - log-prob now|, which is 0 but for rounding. All are in
    nats.
    """
    import torch

    lengths = [len(rollout.completion.ids) for rollout in rollouts]
    rows = zip(
        rollouts, *(torch.split(flat, lengths) for flat in (policy, reference, kl)), strict=True
    )
    for rollout, of_policy, of_reference, of_kl in rows:
        rollout.policy_logprob = finite(of_policy.double().sum().item())
        rollout.reference_logprob = finite(of_reference.double().sum().item())
        rollout.kl = finite(of_kl.double().mean().item())
    sampled = torch.tensor([x for r in rollouts for x in r.completion.logprobs]).to(policy)
    return {
        "kl": mean([rollout.kl for rollout in rollouts if rollout.kl is not None]),
        "kl_tokens": finite(kl.double().mean().item()),
        "entropy": finite(entropy.double().mean().item()),
        "sampler_gap": finite((policy - sampled).abs().double().mean().item()),
    }


def describe(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Means over a batch: scores (unsigned), rewards (signed), lengths (tokens), and shares of the
    answers. A mean of nothing is None."""
    scores = [float(r.verdict.score) for r in rollouts if isinstance(r.verdict, Verdict)]
    rewards = [x for r in rollouts if (x := finite(r.reward)) is not None]
    lengths = [float(len(r.completion.ids)) for r in rollouts]
    odd = [float(bool(looks_degenerate(r.question.text, r.completion.text))) for r in rollouts]
    return {
        "score": mean(scores),
        "reward": mean(rewards),
        "reward_std": std_unbiased(rewards),
        "unscored": 1 - len(scores) / len(rollouts),
        "degenerate": mean(odd),
        "length": mean(lengths),
        "truncated": mean([float(r.completion.finish_reason == "length") for r in rollouts]),
    }


def zero_variance_groups(rollouts: Sequence[Rollout], generations: int) -> float | None:
    """The share of groups in which every advantage is 0, so that they teach nothing."""
    groups = [rollouts[i : i + generations] for i in range(0, len(rollouts), generations)]
    return mean([float(not any(rollout.advantage for rollout in group)) for group in groups])


def score_error(rollouts: Sequence[Rollout]) -> float | None:
    """The standard error of the mean score. The answers to one question are one cluster."""
    clusters: dict[str, list[float]] = {}
    for r in rollouts:
        if isinstance(r.verdict, Verdict):
            clusters.setdefault(r.question.id, []).append(float(r.verdict.score))
    return clustered_standard_error(clusters.values())


class Eta:
    """How long the rest of a run will take if each stage takes as long as it recently did."""

    def __init__(self) -> None:
        self.timings: dict[str, list[dict[str, Any]]] = {kind: [] for kind in STAGES}

    def recall(self, path: Path) -> None:
        """Begin with the evaluations in a run's timings.jsonl. A damaged file counts as empty,
        since nothing but this estimate needs it."""
        try:
            lines = read_lines(path)
        except (OSError, Failure):
            lines = []
        self.timings["evaluation"] = [
            line
            for line in lines
            if line.get("kind") == "evaluation"
            and all(type(line.get(s)) in NUMBER and line[s] >= 0 for s in STAGES["evaluation"])
        ]

    def rates(self, kind: str) -> dict[str, float]:
        """Mean seconds of each stage of the last steps, or of the last evaluations."""
        recent = self.timings[kind][-RECENT:]
        return {
            stage: sum(timings[stage] for timings in recent) / len(recent)
            for stage in STAGES[kind]
            if recent
        }

    def seconds(self, steps: int, evaluations: int) -> float | None:
        """Seconds that so many steps and evaluations will take; None before the first step."""
        a_step, an_evaluation = self.rates("step"), self.rates("evaluation")
        if not a_step:
            return None
        return steps * sum(a_step.values()) + evaluations * sum(an_evaluation.values())
