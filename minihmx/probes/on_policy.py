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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minihmx import lora
from minihmx.config import check_number
from minihmx.engine.memory import merging
from minihmx.engine.open import Model, load_decoder, open_adapter
from minihmx.engine.prompts import Prompts
from minihmx.errors import Diverged, UserError
from minihmx.instruments.estimate import checkpointing
from minihmx.instruments.machine import device_name
from minihmx.models import adapters
from minihmx.models.adapters import adapter_digest
from minihmx.probes.checkpoints import (
    NOT_FINITE,
    REPORT_FILE,
    ProbePieces,
    finished_probe,
    held_out,
    open_base,
    open_checkpoints,
)
from minihmx.probes.examples import answers_of
from minihmx.probes.suspects import ONLY_DECODING, SUSPECTS, concerns, suspects, switched_off
from minihmx.probes.trace import STAGE_ORDER, Trace, changed, first_difference, growth, heard
from minihmx.probes.two_ways import (
    ON_POLICY,
    PAIRS,
    SHAPING,
    SHOWN_SETTINGS,
    TwoWays,
    verdict_of_steps,
)
from minihmx.probes.ways import EVERY_WAY, Setup
from minihmx.records import Question
from minihmx.run import targets
from minihmx.storage.disk import home_path
from minihmx.storage.identity import questions_digest
from minihmx.storage.strict import read_json

_FRESH = ("lora_rank", "lora_alpha", "lora_targets")


def on_policy(
    adapter: str | None, flags: Mapping[str, Any], prompts: int, samples: int, tokens: int
) -> dict[str, Any]:
    """Sample answers, compute them in every way, compare, keep what was found, and report.

    adapter: a run, as `find_adapter` takes it; None: a fresh adapter, with which a run begins.
    prompts, samples, tokens: held-out questions, answers to each, and tokens of an answer at most.
    What was found before, on this machine and with the same settings, is read from the disk. Raises
    Failure (errors.py).
    """
    for name, value, most in (
        ("prompts", prompts, 1000),
        ("samples", samples, 1000),
        ("tokens", tokens, 4096),
    ):
        check_number(name, value, 1, most)
    checkpoints = open_checkpoints([adapter] if adapter else [])
    model = open_base(checkpoints, {**flags, "max_completion_length": tokens})
    config, source = model.config, model.source
    asked = held_out(checkpoints, config.questions)[:prompts]
    if len(asked) * samples < 2:
        raise UserError("One answer has no neighbours to be compared with; give --samples 2.")
    drawn = ("seed", "temperature", "max_completion_length", "date", "chat_format", "dtype")
    named = (*drawn, *SHAPING, *(() if adapter else _FRESH))
    identity = {
        "model": source.digest,
        "adapter": adapter_digest(checkpoints[0].folder) if checkpoints else None,
        "questions": questions_digest(asked),
        "samples": samples,
        **{name: getattr(config, name) for name in named},
        "device": str(model.device),
        "machine": device_name(model.device),
        "threads": config.threads or torch.get_num_threads(),
        "torch": torch.__version__,
    }
    base = home_path(config.out) / source.run_name / "base"
    if folder := finished_probe(base, ON_POLICY, identity):
        return {**read_json(folder / REPORT_FILE), "folder": str(folder)}
    report = {
        "model": {"id": source.id, "digest": source.digest},
        "adapter": checkpoints[0].title if checkpoints else None,
        **{name: identity[name] for name in SHOWN_SETTINGS},
        **_measured(model, asked, samples, str(checkpoints[0].folder) if checkpoints else None),
    }
    pieces = ProbePieces(base, ON_POLICY, identity)
    pieces.write_report(report)
    pieces.seal()
    return {**report, "folder": str(pieces.folder)}


def _measured(
    model: Model, asked: Sequence[Question], samples: int, adapter: str | None
) -> dict[str, Any]:
    """What `compared` says of answers as a run with this adapter, or a fresh one, samples them."""
    wanted = [(question, sample) for question in asked for sample in range(samples)]
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
    notices = opened.notices if opened else []
    return {"notices": notices, **compared(Setup(decoder, answers, model.config))}


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
    return {**pair._asdict(), **verdict_of_steps(steps), "layers": layers, "steps": steps}


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
