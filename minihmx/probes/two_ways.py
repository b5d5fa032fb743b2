"""Which two ways should give one log-prob, and what the steps of a comparison say. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

ON_POLICY = "on-policy"  # the probe's name, and the beginning of its folder's
SHAPING = ("micro_batch", "logit_chunk", "checkpointing")  # settings that shape products
# What its report repeats of its settings, for the tables.
SHOWN_SETTINGS = ("device", "dtype", "threads", "torch", "temperature", "seed")


class TwoWays(NamedTuple):
    """Two ways (ways.EVERY_WAY) that should give one log-prob, and what is claimed of them."""

    one: str
    other: str
    claim: str


PAIRS = (
    TwoWays("alone", "prefill", "a prefill of one row is that of all"),
    TwoWays("neighbours", "prefill", "half of the rows, with other padding, are as all of them"),
    TwoWays("shared", "prefill", "what prompts begin with may go first"),
    TwoWays("trainer, one row", "trainer", "micro-batches may cut anywhere"),
    TwoWays("trainer, checkpointing", "trainer", "recomputing a layer changes nothing"),
    TwoWays("trainer", "prefill", "the trainer's pass is the sampler's prefill"),
    TwoWays("decode", "prefill", "token by token is as at once"),
    TwoWays("trainer", "decode", "the policy that learns is the one that drew"),
)


def verdict_of_steps(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the steps of a pair, with one suspect more switched off in each, amount to."""
    return {"equal": steps[-1]["first"] is None, "causes": list(causes_of(steps))}


def causes_of(steps: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Stages that differed first, each with the suspects without which it no longer does.

    A suspect that changed no bit of that stage when it was switched off is no part of its cause.
    """
    last, blamed = steps[0], list[str]()
    for step in steps[1:]:
        blamed += [step["off"]] if step["acts"] else []
        # A GPU's step lets one hear less, so without it the first stage may be one before.
        if step["place"] is None or step["place"] > last["place"]:
            yield {"stage": last["first"], "suspects": blamed}
            blamed = []
        last = step
