"""Does the trainer see what the sampler drew? Their log-probs side by side, to the bit.

With one update per batch of answers the policy that learns is the one that drew them, so the ratio
in the loss is taken to be 1 and no stored log-prob is needed. Up to rounding it is: sampler and
trainer compute one policy in products of other shapes. Here a few answers are sampled as in a run
and computed again in every way that the code has, as others test an exact sampler: prefill(m) =
prefill(n), trainer = prefill, decode = prefill. Where two are not equal, the first stage that
differs is found, and suspects are switched off until they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minihmx import lora
from minihmx.config import check_number
from minihmx.engine.memory import merging
from minihmx.engine.open import load_decoder, open_adapter
from minihmx.engine.prompts import Prompts
from minihmx.errors import Diverged, UserError
from minihmx.instruments.estimate import checkpointing
from minihmx.models import adapters
from minihmx.probes.checkpoints import NOT_FINITE, held_out, open_base, open_checkpoints
from minihmx.probes.examples import answers_of
from minihmx.probes.suspects import SUSPECTS, suspects, switched_off
from minihmx.probes.trace import STAGE_ORDER, Trace, first_difference, growth, heard
from minihmx.probes.ways import EVERY_WAY, Setup
from minihmx.run import targets


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
SIDES_OF_A_PAIR = ("one", "other")


def on_policy(
    adapter: str | None, flags: Mapping[str, Any], prompts: int, samples: int, tokens: int
) -> dict[str, Any]:
    """Sample answers, compute them in every way, compare, and report.

    adapter: a run, as `find_adapter` takes it; None: a fresh adapter, with which a run begins.
    prompts, samples, tokens: held-out questions, answers to each, and tokens of an answer at most.
    Raises Failure (errors.py).
    """
    for name, value, most in (
        ("prompts", prompts, 1000),
        ("samples", samples, 1000),
        ("tokens", tokens, 4096),
    ):
        check_number(name, value, 1, most)
    checkpoints = open_checkpoints([adapter] if adapter else [])
    model = open_base(checkpoints, {**flags, "max_completion_length": tokens})
    if model.config.temperature == 0:
        raise UserError("Nothing is trained at temperature 0; give --temperature 1.")
    asked = held_out(checkpoints, model.config.questions)[:prompts]
    wanted = [(question, sample) for question in asked for sample in range(samples)]
    if len(wanted) < 2:
        raise UserError("One answer has no neighbours to be compared with; give --samples 2.")
    chat = Prompts(model.tokenizer, model.config.date, rubric="")
    opened = open_adapter(adapter, model.source, model.config.chat_format) if adapter else None
    decoder = load_decoder(model)
    decoder.checkpointing = checkpointing(model.config, model.device.type) == "on"
    if opened:
        adapters.attach_adapter(decoder, opened.adapter, opened.tensors)
    else:
        c = model.config
        lora.attach(decoder, c.lora_rank, c.lora_alpha, c.seed, targets(c))
    with merging(decoder):  # as in rollout.ask_policy, and all of them together
        together = replace(model.config, decode_rows=len(wanted))
        answers = answers_of(decoder, chat, together, wanted)
    if not all(answer.completion.finite for answer in answers):
        raise Diverged(NOT_FINITE.format(model.config.dtype, "answers"))
    return {
        "model": {"id": model.source.id, "digest": model.source.digest},
        "adapter": checkpoints[0].title if checkpoints else None,
        "device": str(model.device),
        "dtype": model.config.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "temperature": model.config.temperature,
        "seed": model.config.seed,
        "notices": opened.notices if opened else [],
        **compared(Setup(decoder, answers, model.config)),
    }


def compared(setup: Setup) -> dict[str, Any]:
    """Every pair of ways as they are, then with one suspect more switched off until it is equal.

    replayed: the share of the sampler's own log-probs that decoding these tokens again gives to the
    bit, so that what was heard is what was sampled.
    """
    traces = traces_of(setup, {name for pair in PAIRS for name in pair[:2]})
    drawn = [x for answer in setup.answers for x in answer.completion.logprobs]
    replayed = flat(traces["decode"]) == torch.tensor(drawn, dtype=torch.float64)
    found = []
    for pair in PAIRS:
        layers = growth(traces[pair.one], traces[pair.other])
        steps = [{"off": None, **compare(traces[pair.one], traces[pair.other])}]
        found.append({**pair._asdict(), "layers": layers, "steps": steps})
    applicable = suspects(setup.decoder)
    for number, name in enumerate(applicable, start=1):
        left = [pair for pair in found if not _equal(pair)]
        off = setup._replace(off=frozenset(applicable[:number]))
        before, traces = traces, traces_of(off, {p[side] for p in left for side in SIDES_OF_A_PAIR})
        for pair in left:
            sides = [pair[side] for side in SIDES_OF_A_PAIR]
            acts = any(first_difference(before[s], traces[s])[0] for s in sides)
            one, other = (traces[side] for side in sides)
            pair["steps"].append({"off": name, "acts": acts, **compare(one, other)})
    for pair in found:
        pair["causes"] = list(causes_of(pair["steps"]))
        pair["equal"] = _equal(pair)
    return {
        "answers": len(setup.answers),
        "tokens": len(drawn),
        "replayed": replayed.double().mean().item(),
        "suspects": {name: SUSPECTS[name] for name in applicable},
        "pairs": found,
    }


def traces_of(setup: Setup, names: set[str]) -> dict[str, Trace]:
    """These ways, heard, without the suspects that are off."""
    found = dict[str, Trace]()
    for name, way in EVERY_WAY.items():
        if name in names:
            with switched_off(setup.off), heard(setup.decoder, setup.answers) as found[name]:
                way(setup, found[name])
    return found


def flat(trace: Trace) -> Tensor:
    """The log-probs of all tokens, answer after answer, float64 [N]."""
    return trace.logprobs[trace.predicting(range(trace.shape[0]))]


def compare(one: Trace, other: Trace) -> dict[str, Any]:
    """Log-probs of one less those of the other, the weights exp(one - other) that they would give a
    token and an answer, and the first stage that differs, with the tokens of which it does."""
    gap = flat(one) - flat(other)
    rows = [piece.sum().item() for piece in gap.split(one.said)]
    stage, tokens = first_difference(one, other)
    return {
        "equal_tokens": int((gap == 0).sum()),
        "largest": gap.abs().max().item(),
        "mean": gap.abs().mean().item(),
        "ratio": gap.exp().mean().item(),
        "weights": [gap.min().exp().item(), gap.max().exp().item()],
        "answer_weights": [math.exp(min(rows)), math.exp(max(rows))],
        "first": str(stage) if stage else None,
        "place": [stage.layer, STAGE_ORDER.index(stage.name)] if stage else None,
        "differing": tokens,
    }


def _equal(pair: Mapping[str, Any]) -> bool:
    return pair["steps"][-1]["first"] is None


def causes_of(steps: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Stages that differed first, each with the suspects without which it no longer does.

    A suspect that changed no bit of either side when it was switched off is no part of a cause.
    """
    last, blamed = steps[0], list[str]()
    for step in steps[1:]:
        blamed += [step["off"]] if step["acts"] else []
        # A GPU's step lets one hear less, so without it the first stage may be one before.
        if step["place"] is None or step["place"] > last["place"]:
            yield {"stage": last["first"], "suspects": blamed}
            blamed = []
        last = step
