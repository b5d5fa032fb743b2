"""Alarms: signs in a run's own numbers that the run is spoilt, a sentence for each kind. No torch.

A run may end with a high score and yet be spoilt: the policy no longer says what its base could
say, its answers fell apart, numbers outgrew 16 bits, or only its own judge likes what it learned.
Each alarm is made from numbers that a run writes down, so a report can raise it later as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minihmx.records import Rollout
from minihmx.stats import mean

# To answer like a policy that is KL nats an answer away, best-of-N of the base needs about e^(KL+1)
# draws: at 50 nats no number of draws does. docs/decisions.md has what sound runs measure.
KL_BOUND = 50.0  # nats an answer
DEGENERATE_BOUND = 0.1  # share of an evaluation's answers
HEADROOM = 0.25  # of fp16's range; the largest known of the five models, 17,664, is just beyond
# These activations are held in fp16, so they may overflow. The residual stream is fp32 and may be
# anything. A product that is too large is scaled down before down_proj, and the output is enlarged
# again in fp32.
SIXTEEN_BIT = {
    "attention": "attention output",
    "product": "gate * up product",
    "mlp": "MLP output",
    "logits": "logits",
}
# In the backward pass these gradients are factors of 16-bit products.
BACKWARD = {
    "attention_gradient": "gradient of the attention output",
    "mlp_gradient": "gradient of the MLP output",
}


def kl_of_answers(logprobs: Sequence[tuple[float | None, float | None]]) -> float | None:
    """The mean over answers of the log-prob under the policy less that under the reference, in nats
    an answer. A best-of-N is compared with this estimate of KL. None if no answer has both."""
    return mean([p - r for p, r in logprobs if p is not None and r is not None])


def kl_alarm(kl: float | None, where: str) -> str:
    """The alarm's sentence if the KL of an answer is above KL_BOUND, else ""."""
    if kl is None or kl <= KL_BOUND:
        return ""
    return (
        f"{where} the policy's answers are {kl:,.0f} nats from the untouched model (above "
        f"{KL_BOUND:g}), so it no longer chooses among what that model would say; a lower "
        "--learning-rate or a higher --beta keeps it nearer"
    )


def degenerate_alarm(share: float | None, where: str) -> str:
    """The alarm's sentence if too many answers look degenerate, else ""."""
    if share is None or share <= DEGENERATE_BOUND:
        return ""
    return (
        f"{where} {share:.0%} of the answers look degenerate (one word, repeats, another "
        "script), so a score that climbs with that is a fooled judge's; read evaluations/"
    )


def peak_alarms(line: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """(kind, share of fp16's range, sentence) if a line of amax.jsonl uses much of that range.

    Gradients are taken without the loss scale, because the scale is lowered when it is too large. A
    step that overflowed only because of the scale was repeated, so it raises no alarm.
    """
    if "share" in line:
        share = float("inf") if line["share"] is None else line["share"]
        if share > HEADROOM:
            yield "amax", share, peak_warning(line)
    backward = line.get("gradient_share")
    if backward is not None and backward > HEADROOM:
        yield "backward", backward, peak_warning(line, BACKWARD, "gradient_share")


def peak_warning(
    line: Mapping[str, Any], kinds: Mapping[str, str] = SIXTEEN_BIT, share: str = "share"
) -> str:
    """The sentence on that of these kinds which is nearest to fp16's largest number."""
    if line[share] is None:
        return "amax: an activation is not finite; amax.jsonl shows in which layer"
    value, kind, layer = max(
        (value, kind, layer) for kind in kinds for layer, value in enumerate(line[kind])
    )
    where = "" if kind == "logits" else f" of layer {layer}"
    return (
        f"amax: the {kinds[kind]}{where} reached {value:,.0f}, {line[share]:.0%} of the "
        "largest number of float16; --dtype bfloat16 has room"
    )


class Alarms:
    """The alarms of a run while it trains. A process tells each kind once."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def notices(self, rollouts: Sequence[Rollout], where: str) -> list[str]:
        """The sentences of the alarms that these answers raise for the first time."""
        kl = kl_of_answers([(r.policy_logprob, r.reference_logprob) for r in rollouts])
        sentence = kl_alarm(kl, where)
        if not sentence or "kl" in self.told:
            return []
        self.told.add("kl")
        return [f"alarm: {sentence}"]
