"""The ways in which the code computes the log-probs of sampled tokens.

A prefill is the sampler's own (engine/prefill.py), the trainer is learn.logprobs, and decoding is
the sampler's loop (engine/sampling.py) over tokens that are known already.

Shapes: N tokens of the answers, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from minihmx import learn
from minihmx.config import Config
from minihmx.engine.draw import probabilities
from minihmx.engine.memory import merging
from minihmx.engine.prefill import cache_for, prefill, rest_of
from minihmx.engine.sampling import drops
from minihmx.models.context import KVCache
from minihmx.models.decoder import Decoder
from minihmx.models.joined import Fused, Products, on_cpu
from minihmx.models.products import wide_linear
from minihmx.models.step import Step, StepLayer
from minihmx.probes.suspects import has_own_step, has_static_step
from minihmx.probes.trace import Trace
from minihmx.records import Rollout


class Setup(NamedTuple):
    """Answers of this decoder, whose adapter is on. off: the suspects that are switched off."""

    decoder: Decoder
    answers: Sequence[Rollout]
    config: Config
    off: frozenset[str] = frozenset()

    @property
    def all(self) -> range:
        return range(len(self.answers))

    def row(self, index: int) -> list[int]:
        """A prompt and its answer but for the last token, from which nothing is predicted."""
        answer = self.answers[index]
        return [*answer.prompt_ids, *answer.completion.ids[:-1]]


Way = Callable[[Setup, Trace], None]


# --- the sampler's prefill ------------------------------------------------------------------------


@torch.inference_mode()
def prefilled(
    setup: Setup, trace: Trace, pieces: Sequence[Sequence[int]], *, shared: bool = False
) -> None:
    """Prompt and answer at once, these rows together. shared: what they begin with goes first."""
    decoder = setup.decoder
    for piece in pieces:
        rows = [setup.row(index) for index in piece]
        kind = decoder.dtype, decoder.device
        cache = KVCache(decoder.config, len(rows), max(map(len, rows)), *kind)
        if shared:
            trace.stand(_equal(piece, rows))
            prefill(decoder, rows, cache, every=True)
        else:
            trace.stand([[index] for index in piece])
            rest_of(decoder, rows, cache, 0, every=True)
        logits = decoder.logits(trace.states(piece))
        tokens = [token for index in piece for token in setup.answers[index].completion.ids]
        trace.say(trace.predicting(piece), logits, _logprobs(setup, logits, tokens))


def _equal(names: Sequence[int], rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """The names of equal rows together, in the order in which prefill computes them."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for name, row in zip(names, rows, strict=True):
        groups.setdefault(tuple(row), []).append(name)
    return list(groups.values())


def _logprobs(setup: Setup, logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """As the sampler computes them, [N]; in float64 where that suspect is off."""
    token, temperature = torch.tensor(tokens)[:, None].to(logits.device), setup.config.temperature
    if "log-softmax" in setup.off:
        return (logits.double() / temperature).log_softmax(-1).gather(-1, token)[:, 0]
    return probabilities(logits, temperature).gather(-1, token)[:, 0].log()


# --- decoding -------------------------------------------------------------------------------------


@torch.inference_mode()
def decoded(setup: Setup, trace: Trace) -> None:
    """Token by token, all answers together, as engine/sampling.py does with the tokens it draws.

    In 16 bit on a CPU the decoder is called here, so that every stage can be heard. The sampler's
    step gives the same bits, which the report's `replayed` shows.
    """
    with nullcontext() if "merged weights" in setup.off else merging(setup.decoder):
        _decode(setup, trace)


def _decode(setup: Setup, trace: Trace) -> None:
    decoder, answers = setup.decoder, setup.answers
    prompts, said = [a.prompt_ids for a in answers], [a.completion.ids for a in answers]
    stepped = has_own_step(decoder) and "decode step" not in setup.off
    static = stepped and has_static_step(decoder)
    capacity = max(map(len, prompts)) + setup.config.max_completion_length
    capacity = -(-capacity // 8) * 8 if static else capacity
    cache = cache_for(decoder, prompts, len(prompts), capacity)
    trace.stand(_equal(setup.all, prompts))
    hidden = prefill(decoder, prompts, cache).hidden
    step = None
    if stepped:
        step = HeardStep(decoder, cache, trace, Fused if static else on_cpu)
    left, starts = [*setup.all], [len(prompt) for prompt in prompts]
    trace.stand([[row] for row in left], starts)
    for t in range(max(map(len, said))):
        tokens = [said[row][t] if t < len(said[row]) else 0 for row in left]
        logits = decoder.logits(hidden)
        places = [place for place, row in enumerate(left) if t < len(said[row])]
        at = torch.tensor([left[place] for place in places])
        positions = torch.tensor([starts[left[place]] + t - 1 for place in places])
        spoken = _logprobs(setup, logits, tokens)
        trace.say((at, positions), logits[places], spoken[places])
        going = [place for place, row in enumerate(left) if t + 1 < len(said[row])]
        if not going:
            return
        token = torch.tensor(tokens, device=decoder.device)
        where = [min(starts[row] + t, capacity - 1) for row in left]
        place = torch.tensor(where, device=decoder.device)
        if step:
            hidden = step(token, place, None if static else max(where) + 1)
        else:
            hidden = decoder(token[:, None], place[:, None], cache, max(where) + 1)[:, 0]
        if not static and drops(len(left), len(going)):  # as the sampler's rows get fewer
            cache.keep(going)
            hidden, left = hidden[going], [left[place] for place in going]
            trace.stand([[row] for row in left], [start + t + 1 for start in starts])


class HeardStep(Step):
    """The sampler's step, heard where its few kernels let one listen."""

    def __init__(self, decoder: Decoder, cache: KVCache, trace: Trace, products: Products):
        super().__init__(decoder, cache, products)
        self.trace, self.number = trace, 0

    def __call__(self, token: Tensor, where: Tensor, keys: int | None = None) -> Tensor:
        """As Step."""
        self.trace.begin(len(token), 1)
        hidden = super().__call__(token, where, keys)
        self.trace.keep(len(self.layers), "residual", self.stream)
        self.trace.keep(self.trace.behind, "norm", hidden)
        return hidden

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """As Step; what comes to a layer's first norm is the residual stream."""
        self.stream = x
        return super().norm(x, weight)

    def attend(self, x: Tensor, layer: StepLayer, index: int, mask: Tensor) -> Tensor:
        """As Step."""
        self.number = index + 1
        self.trace.keep(index, "residual" if index else "embedding", self.stream)
        self.trace.keep(self.number, "input_layernorm", x)
        out = super().attend(x, layer, index, mask)
        self.trace.keep(self.number, "o_proj", out)
        return out

    def feed(self, x: Tensor, layer: StepLayer) -> Tensor:
        """As Step."""
        before = "pre_feedforward_layernorm" if layer.sandwich else "post_attention_layernorm"
        self.trace.keep(self.number, before, x)
        out = super().feed(x, layer)
        self.trace.keep(self.number, "down_proj", out)
        return out


# --- the trainer ----------------------------------------------------------------------------------


def trainer_pass(setup: Setup, trace: Trace, rows: int = 0, *, recomputed: bool = False) -> None:
    """The forward pass that a gradient goes through, so many rows at once (0: --micro-batch).

    recomputed: with checkpointing where it is off, and without it where it is on.
    """
    decoder, rows = setup.decoder, rows or setup.config.micro_batch
    chunk = setup.config.logit_chunk
    if "product shapes" in setup.off:
        chunk = decoder.config.vocab_size
    before, cap = decoder.checkpointing, decoder.config.final_softcap
    decoder.checkpointing = before != recomputed
    for start in range(0, len(setup.answers), rows):
        piece = setup.all[start : start + rows]
        answers = [setup.answers[index] for index in piece]
        trace.stand([[index] for index in piece])
        with torch.enable_grad():
            spoken, _ = learn.logprobs(decoder, answers, replace(setup.config, logit_chunk=chunk))
        # The logits as grpo.py has them, which keeps none of them.
        states, head = trace.states(piece), decoder.lm_head.weight
        with torch.no_grad():
            logits = torch.cat([wide_linear(states, part) for part in torch.split(head, chunk)], -1)
            logits = logits if cap is None else cap * torch.tanh(logits / cap)
            if "log-softmax" in setup.off:
                tokens = [token for answer in answers for token in answer.completion.ids]
                spoken = _logprobs(setup, logits, tokens)
        trace.say(trace.predicting(piece), logits, spoken)
    decoder.checkpointing = before


# Every way by its name; "prefill" is what the others are held against.
EVERY_WAY: dict[str, Way] = {
    "prefill": lambda setup, trace: prefilled(setup, trace, [setup.all]),
    "alone": lambda setup, trace: prefilled(setup, trace, [[row] for row in setup.all]),
    "neighbours": lambda setup, trace: prefilled(setup, trace, [setup.all[::2], setup.all[1::2]]),
    "shared": lambda setup, trace: prefilled(setup, trace, [setup.all], shared=True),
    "decode": lambda setup, trace: decoded(setup, trace),
    "trainer": lambda setup, trace: trainer_pass(setup, trace),
    "trainer, one row": partial(trainer_pass, rows=1),
    "trainer, checkpointing": partial(trainer_pass, recomputed=True),
}
