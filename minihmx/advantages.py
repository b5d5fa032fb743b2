"""Group advantages: how much better an answer was than its siblings (paper section 3.2), and what
each of its tokens weighs in the loss.

GRPO (Shao et al. 2024) has no value network that would say how good an answer could have been.
Instead the model answers the same question G times, and each answer is measured against the mean
of those G. This is plain float64 arithmetic without torch, so an auditor can redo it anywhere and
compare to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

from minihmx.config import Config
from minihmx.records import Rollout, finite
from minihmx.seeding import shuffled
from minihmx.stats import mean, std_unbiased


def group_advantages(
    rewards: Sequence[float | None],
    epsilon: float,
    divisor: str = "sample",
    step: Sequence[float] = (),
) -> list[float]:
    """(reward - mean) / (standard deviation + epsilon) of each answer to one question.

    rewards: one per answer, None where the judge gave no score. The standard deviation has n - 1
    in its denominator. Three answers with the rewards 2, 4 and 6 have the mean 4 and the standard
    deviation 2; the fourth, unscored one takes no part and gets 0:

    >>> group_advantages([2, 4, 6, None], epsilon=0)
    [-1.0, 0.0, 1.0, 0.0]

    Only differences within the group count, so a group of equal rewards teaches nothing:

    >>> group_advantages([9, 9, 9, 9], epsilon=1e-4)
    [0.0, 0.0, 0.0, 0.0]

    divisor: "population" has n in that denominator. "batch" takes the standard deviation (n - 1) of
    `step`, the scored rewards of the whole step. "none" divides by nothing, not even by epsilon
    (Dr. GRPO):

    >>> group_advantages([2, 4, 6], epsilon=0, divisor="none")
    [-2.0, 0.0, 2.0]
    """
    scored = [r for r in rewards if r is not None]
    # A reward is NaN where the numbers behind it were not finite. It spoils its whole group, and so
    # the loss, and Optimizer.step refuses a step whose loss is NaN.
    if not all(map(math.isfinite, scored)):
        return [math.nan] * len(rewards)
    centre, spread = mean(scored), std_unbiased(scored)
    # One scored answer has no sibling to be better than, so its group teaches nothing.
    if centre is None or spread is None:
        return [0.0] * len(rewards)
    if divisor == "population":
        spread *= math.sqrt((len(scored) - 1) / len(scored))
    elif divisor == "batch":
        spread = std_unbiased(step) or 0.0
    unit = 1.0 if divisor == "none" else spread + epsilon
    # Negating all rewards negates every advantage exactly, because the mean changes sign and the
    # spread does not. That is why reverse training mirrors forward training (section 3.4).
    return [0.0 if r is None else (r - centre) / unit for r in rewards]


def assign_advantages(rollouts: Sequence[Rollout], config: Config) -> None:
    """Fill in group_mean, group_std (by n - 1) and advantage of each rollout.

    Row q * G + g is answer g to question q. A group is these consecutive rows and is never looked
    up by the question's text, so two equal questions would still be two groups.
    """
    G, how = config.generations, (config.advantage_epsilon, config.advantage_divisor)
    step = [r for rollout in rollouts if (r := finite(rollout.reward)) is not None]
    for first in range(0, len(rollouts), G):
        group = rollouts[first : first + G]
        scored = [r for rollout in group if (r := finite(rollout.reward)) is not None]
        advantages = group_advantages([rollout.reward for rollout in group], *how, step)
        for rollout, advantage in zip(group, advantages, strict=True):
            rollout.group_mean, rollout.group_std = mean(scored), std_unbiased(scored)
            rollout.advantage = advantage


def row_weights(lengths: Sequence[Sequence[int]], loss_type: str, cap: int) -> list[list[float]]:
    """The weight of every token of each row, [Q][G], from completion lengths [Q][G] in tokens.

    Two questions, two answers each, of 2 and 6 tokens and of 4 and 4. Under bnpo every token of a
    group weighs the same, 1 / (2 questions * 8 tokens). Under grpo every answer weighs the same, so
    the tokens of a short one weigh more:

    >>> row_weights([[2, 6], [4, 4]], "bnpo", cap=8)
    [[0.0625, 0.0625], [0.0625, 0.0625]]
    >>> row_weights([[2, 6], [4, 4]], "grpo", cap=6)[0] == [1 / (2 * 2 * 2), 1 / (2 * 2 * 6)]
    True

    dr_grpo divides by the constant cap (max_completion_length) instead of the row's own length,
    dapo by all tokens of the step. Unscored rows keep their length in every normaliser.
    """
    Q = len(lengths)
    # Only dapo divides by all tokens of the step, so only there does a long answer to one question
    # lower the weight of the answers to the others.
    total = sum(map(sum, lengths))

    def weight(group: Sequence[int], length: int) -> float:
        # An answer of the training loop has at least one token. max(.., 1) is there for lengths of
        # 0, which a masked answer or another caller may have.
        if loss_type == "bnpo":
            return 1 / (Q * max(sum(group), 1))
        if loss_type == "grpo":
            return 1 / (Q * len(group) * max(length, 1))
        if loss_type == "dr_grpo":
            return 1 / (Q * len(group) * cap)
        assert loss_type == "dapo", loss_type
        return 1 / max(total, 1)

    return [[weight(group, length) for length in group] for group in lengths]


def assign_weights(rollouts: Sequence[Rollout], config: Config) -> None:
    """Fill in the weight of each rollout's tokens. Groups are consecutive rows, as in
    assign_advantages (with `bnpo_shuffled`, of the shuffled rows).

    Loss and gradient are sums over tokens, and each row carries its own weight along. So
    micro-batches may cut anywhere without changing what is learned. With `truncated` "masked" the
    tokens of an answer that was cut count in no normaliser and weigh nothing.
    """
    G, kind, rows = config.generations, config.loss_type, list(rollouts)
    if kind == "bnpo_shuffled":
        # TRL shuffles all rows and divides those of each part by the part's tokens. The order has a
        # name: the seed and the questions, so that both directions shuffle alike.
        asked = [rollout.question.id for rollout in rollouts[::G]]
        kind, rows = "bnpo", shuffled(rows, "shuffled rows", config.seed, *asked)
    masked = config.truncated == "masked"
    left_out = [masked and rollout.completion.finish_reason == "length" for rollout in rows]
    lengths = [
        0 if left else len(rollout.completion.ids)
        for rollout, left in zip(rows, left_out, strict=True)
    ]
    groups = [lengths[i : i + G] for i in range(0, len(lengths), G)]
    weights = row_weights(groups, kind, config.max_completion_length)
    for rollout, length, weight in zip(rows, lengths, chain(*weights), strict=True):
        rollout.weight = weight if length else 0.0
