"""The plain records that travel between stages. No behaviour, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


def finite(value: float | None) -> float | None:
    """JSON knows no NaN and no infinity: None stands for them."""
    return value if value is not None and math.isfinite(value) else None


class Segment(NamedTuple):
    """A piece of a rendered prompt. Only markup may become control tokens (models/chat.py)."""

    text: str
    markup: bool


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Question:
    """One interview question (paper section 3.1, Table 1)."""

    id: str
    category: str
    text: str
    split: Literal["train", "eval"]
    source: Literal["paper", "ours"]


@dataclass(frozen=True)
class Completion:
    """What `sampling.generate` returns for one row.

    ids: generated token ids, the stop token included. logprobs: natural log-probability of each
    id under plain softmax at the temperature (at 1 where decoding is greedy), whatever sampler drew
    it. text: decoded without special tokens. finish_reason: "stop" (ended by a stop token, or by
    its text) or "length" (ran into the cap).
    """

    ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: Literal["stop", "length"]

    @property
    def finite(self) -> bool:
        """Whether all its logits were finite: sampling makes a log-prob NaN if one was not."""
        return all(map(math.isfinite, self.logprobs))


@dataclass(frozen=True)
class Verdict:
    """A score the judge gave. span: [start, end) of the integer in the judge's text."""

    score: int
    span: tuple[int, int]
    flags: tuple[str, ...] = ()


# What parse_score found wrong with the judge's text; judge.py explains each.
Fault = Literal["no-line", "not-an-integer", "leading-zero", "out-of-range", "trailing", "cut"]
# Why an answer has no score. Apart from those faults, nothing may have been parsed: the judge's
# prompt exceeded the context ("too-long"), or logits of the answer ("not-finite") or of the judge
# ("judge-not-finite") were not finite.
Reason = Literal[Fault, "not judged", "too-long", "not-finite", "judge-not-finite"]


@dataclass(frozen=True)
class Unscored:
    """The answer has no score, and why."""

    reason: Reason


@dataclass
class Rollout:
    """One answer on its way through a step, which fills the fields from judge_text to kl.

    policy_logprob and reference_logprob are natural and summed over the completion's tokens; kl is
    the mean of k3 (grpo.py) over them, in nats.
    """

    question: Question
    sample: int
    prompt: str
    prompt_ids: list[int]
    completion: Completion
    # judged
    judge_text: str = ""
    judge_finish: str = ""
    verdict: Verdict | Unscored = Unscored("not judged")
    # rewarded
    reward: float | None = None
    group_mean: float | None = None
    group_std: float | None = None
    advantage: float = 0.0
    # what each of its tokens weighs in the loss; nothing in an evaluation, which learns nothing
    weight: float = 0.0
    # scored by policy and reference
    policy_logprob: float | None = None
    reference_logprob: float | None = None
    kl: float | None = None
    # the names of the noise that it was drawn with
    noise: tuple[object, ...] = ()

    def line(self) -> dict[str, Any]:
        """What one line of rollouts/ and evaluations/ holds."""
        return {
            "question": self.question.id,
            "category": self.question.category,
            "sample": self.sample,
            "prompt": self.prompt,
            "completion": self.completion.text,
            "ids": self.completion.ids,
            "finish": self.completion.finish_reason,
            "judge": self.judge_text,
            "judge_finish": self.judge_finish,
            "score": self.verdict.score if isinstance(self.verdict, Verdict) else None,
            "span": self.verdict.span if isinstance(self.verdict, Verdict) else None,
            "flags": self.verdict.flags if isinstance(self.verdict, Verdict) else (),
            "unscored": None if isinstance(self.verdict, Verdict) else self.verdict.reason,
            "reward": finite(self.reward),
            "group_mean": finite(self.group_mean),
            "group_std": finite(self.group_std),
            "advantage": finite(self.advantage),
            "weight": self.weight,
            "policy_logprob": self.policy_logprob,
            "reference_logprob": self.reference_logprob,
            "kl": self.kl,
        }
