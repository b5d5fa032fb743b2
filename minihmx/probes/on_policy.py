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
from minihmx.probes.suspects import ONLY_DECODING, SUSPECTS, concerns, suspects, switched_off
from minihmx.probes.trace import STAGE_ORDER, Trace, changed, first_difference, growth, heard
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
    with merging(decoder):  # as a run samples answers of usual length, all together
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
    heard_before: Known = {}
    applicable = suspects(setup.decoder)
    pairs = [taken_apart(setup, pair, applicable, heard_before) for pair in PAIRS]
    drawn = [x for answer in setup.answers for x in answer.completion.logprobs]
    again = flat(trace_of(setup, "decode", heard_before))
    return {
        "answers": len(setup.answers),
        "tokens": len(drawn),
        "replayed": (again == torch.tensor(drawn).double()).double().mean().item(),
        "suspects": {name: SUSPECTS[name] for name in applicable},
        "pairs": pairs,
    }


Known = dict[tuple[str, frozenset[str]], Trace]


def trace_of(setup: Setup, name: str, known: Known) -> Trace:
    """This way, heard, without the suspects that are off; or as it was heard before."""
    off = setup.off if name == "decode" else setup.off - ONLY_DECODING
    off = off - {"two libraries"} if "product shapes" in off else off  # which leaves one as well
    if (name, off) not in known:
        with switched_off(off), heard(setup.decoder, setup.answers) as trace:
            EVERY_WAY[name](setup._replace(off=off), trace)
        known[name, off] = trace
    return known[name, off]


def taken_apart(
    setup: Setup, pair: TwoWays, applicable: Sequence[str], known: Known
) -> dict[str, Any]:
    """A pair as it is, and as it is when what is suspected at the first stage that differs is
    switched off, one after the other, for as long as there is something to suspect."""
    one, other = (trace_of(setup, name, known) for name in pair[:2])
    layers = growth(one, other)
    steps: list[dict[str, Any]] = [{"off": None, **compare(one, other)}]
    while (stage := first_difference(one, other)[0]) is not None:
        left = [name for name in applicable if name not in setup.off]
        name = next((name for name in left if concerns(name, stage.name)), None)
        if name is None:
            break
        setup, before = setup._replace(off=setup.off | {name}), (one, other)
        one, other = (trace_of(setup, way, known) for way in pair[:2])
        acts = changed(stage, before[0], one) or changed(stage, before[1], other)
        steps.append({"off": name, "acts": acts, **compare(one, other)})
    equal = steps[-1]["first"] is None
    causes = list(causes_of(steps))
    return {**pair._asdict(), "equal": equal, "causes": causes, "layers": layers, "steps": steps}


def flat(trace: Trace) -> Tensor:
    """The log-probs of all tokens, answer after answer, float64 [N]."""
    return trace.logprobs[trace.predicting(range(trace.shape[0]))]


def compare(one: Trace, other: Trace) -> dict[str, Any]:
    """Log-probs of one less those of the other, the weights exp(one - other) that they would give a
    token and an answer, and the first stage that differs, with the tokens of which it does."""
    gap = flat(one) - flat(other)
    rows = [piece.sum().item() for piece in torch.split(gap, one.said)]
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
