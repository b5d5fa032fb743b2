"""What every stage of a pass computes for each token, so that two ways can be compared bit by bit.

Hooks look on and change nothing, and the decoder knows nothing of them. Of every stage the sum of
its bits is kept for each token, of the residual stream its values as well. Which token stands where
is told by who makes the pass and not read from its positions: a wrong one is to be found here.

Shapes: R rows, each a prompt with its answer; T tokens of the longest; D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minihmx.models.context import Packed, rotate, wide
from minihmx.models.decoder import Decoder
from minihmx.records import Rollout

# In the order in which a layer computes them; the last three stand after all layers.
STAGE_ORDER = (
    *("embedding", "input_layernorm", "q_proj", "k_proj", "v_proj", "q_norm", "k_norm", "rope"),
    *("attention", "o_proj", "post_attention_layernorm", "pre_feedforward_layernorm"),
    *("gate_proj", "up_proj", "gate * up", "down_proj", "post_feedforward_layernorm", "residual"),
    *("norm", "head", "log-softmax"),
)
WITH_VALUES = ("embedding", "residual", "norm")
NOT_HEARD = -(2**63)


class Stage(NamedTuple):
    """A stage of a layer, counted from 1; in front of all is 0, after all the last plus 1."""

    layer: int
    name: str

    def __str__(self) -> str:
        within = self.name not in ("embedding", *STAGE_ORDER[-3:])
        return f"layer {self.layer}, {self.name}" if within else self.name


class Trace:
    """One way of computing these answers, as it was heard.

    A row is a prompt and its answer but for the last token, from which nothing is predicted.
    """

    def __init__(self, decoder: Decoder, answers: Sequence[Rollout]):
        self.decoder, self.behind = decoder, decoder.config.num_hidden_layers + 1
        self.prompts = [len(answer.prompt_ids) for answer in answers]
        self.lengths = [len(a.prompt_ids) + len(a.completion.ids) - 1 for a in answers]
        self.said = [len(answer.completion.ids) for answer in answers]
        self.shape = len(answers), max(self.lengths)
        self.sums: dict[Stage, Tensor] = {}
        self.values: dict[Stage, Tensor] = {}
        self.logprobs = torch.full(self.shape, torch.nan, dtype=torch.float64)
        self.last: dict[str, Tensor] = {}
        self.ends: tuple[tuple[Tensor, Tensor], Tensor] | None = None

    def stand(self, groups: Sequence[Sequence[int]], starts: Sequence[int] = ()) -> None:
        """Say for which rows each row of the next passes stands, and at which token those go on
        (the first); every further pass goes on after the one before it."""
        self.groups, self.starts = groups, list(starts or [0] * len(self.lengths))

    def begin(
        self, batch: int, width: int, packed: Packed | None = None, last: Tensor | None = None
    ) -> None:
        """Note which (row, token) each token of this pass is; padding is none. last: as in
        Decoder.forward, whose last layer has those tokens alone."""
        # A pass of one row, where there are several, is of the tokens that all begin with.
        every = [[row for group in self.groups for row in group]]
        groups = every if packed is None and batch < len(self.groups) else self.groups
        shared = None if packed is None else packed.rows.tolist()
        found = list[tuple[int, int, int]]()
        for place, group in enumerate(groups):
            for row in group:
                start, end = self.starts[row], self.lengths[row]
                if shared is None:
                    end = min(end, start + width)
                    self.starts[row] += width
                for token in range(start, end):
                    there = place * width + token - start
                    found.append((row, token, there if shared is None else shared[place][token]))
        self.batch, self.tokens, self.ends = batch, batch * width, None
        rows, tokens, flat = zip(*found, strict=True) if found else ((), (), ())
        self.at = torch.tensor(rows).long(), torch.tensor(tokens).long()
        self.flat = torch.tensor(flat, device=self.decoder.device).long()
        if last is not None and width > 1:
            owner = self.flat // width
            ends = self.flat % width == last[owner]
            self.ends = (self.at[0][ends.cpu()], self.at[1][ends.cpu()]), owner[ends]

    def keep(self, layer: int, name: str, x: Tensor) -> None:
        """What a stage gave for the tokens of this pass."""
        stage, at, flat, tokens = Stage(layer, name), self.at, self.flat, self.tokens
        if self.ends and x.shape[1] == 1:
            (at, flat), tokens = self.ends, self.batch
        found = wide(x.detach()).reshape(tokens, -1)[flat]
        self._put(stage, at, sums_of_bits(found))
        if name in WITH_VALUES:
            if stage not in self.values:
                self.values[stage] = torch.zeros(*self.shape, found.shape[-1], dtype=found.dtype)
            self.values[stage][at] = found.cpu()

    def _put(self, stage: Stage, at: tuple[Tensor, Tensor], sums: Tensor) -> None:
        if stage not in self.sums:
            self.sums[stage] = torch.full(self.shape, NOT_HEARD)
        self.sums[stage][at] = sums.cpu()

    def predicting(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(row, token) of all tokens from which a token of these answers is predicted."""
        found = [(r, t) for r in rows for t in range(self.prompts[r] - 1, self.lengths[r])]
        places, tokens = zip(*found, strict=True)
        return torch.tensor(places), torch.tensor(tokens)

    def states(self, rows: Sequence[int]) -> Tensor:
        """The final hidden states at those tokens, [N, D], as the head got them."""
        found = self.values[Stage(self.behind, "norm")][self.predicting(rows)]
        return found.to(self.decoder.device, self.decoder.dtype)

    def say(self, at: tuple[Tensor, Tensor], logits: Tensor, logprobs: Tensor) -> None:
        """The logits [N, V] and the log-probs of the answer's tokens [N] at these (row, token)."""
        self._put(Stage(self.behind, "head"), at, sums_of_bits(wide(logits.detach())))
        self.logprobs[at] = logprobs.detach().double().cpu()

    def hear(self, layer: int, name: str, module: Any, given: Any, out: Tensor) -> None:
        """A module's hook; what goes into a projection is the stage before it."""
        before = {"o_proj": "attention", "down_proj": "gate * up"}.get(name)
        if before:
            self.keep(layer, before, given[0])
        if name in ("q_proj", "k_proj", "q_norm", "k_norm"):
            self.last[name[0]] = out
        self.keep(layer, name, out)

    def hear_rope(self, layer: int, module: Any, given: Any, out: Tensor) -> None:
        """The hook of attention, which rotates queries and keys between two modules."""
        x, context, *_ = given
        if self.last["q"].shape[1] != x.shape[1]:
            return  # in the last layer of a prefill there are fewer queries than keys
        size = self.decoder.config.head_dim
        heads = [self.last[name].reshape(*x.shape[:2], -1, size) for name in "qk"]
        turned = [rotate(h, context.cos, context.sin).to(x.dtype).flatten(2) for h in heads]
        self.keep(layer, "rope", torch.cat(turned, -1))


def sums_of_bits(x: Tensor) -> Tensor:
    """x [n, size] -> int64 [n]: equal where all bits are equal, and, as good as surely, only there.

    Zero and minus zero are the same number and count as such.
    """
    factors = torch.randint(2**62, (x.shape[-1],), generator=torch.Generator().manual_seed(0)) | 1
    whole = torch.int64 if x.dtype == torch.float64 else torch.int32
    return ((x + 0.0).view(whole).long() * factors.to(x.device)).sum(-1)


@contextmanager
def heard(decoder: Decoder, answers: Sequence[Rollout]) -> Iterator[Trace]:
    """Inside, what the decoder computes goes into the trace, which has to be told what it is of."""
    trace, handles = Trace(decoder, answers), list[Any]()

    def begin(module: Any, given: Any, named: Any) -> None:
        batch, width = given[0].shape
        trace.begin(batch, width, named.get("packed"), named.get("last"))

    def embedded(module: Any, given: Any) -> None:
        trace.keep(0, "embedding", given[0])

    handles.append(decoder.register_forward_pre_hook(begin, with_kwargs=True))
    for number, layer in enumerate(decoder.model.layers, start=1):
        for path, module in layer.named_modules():
            name = path.rpartition(".")[2]
            if name in STAGE_ORDER:
                handles.append(module.register_forward_hook(partial(trace.hear, number, name)))
        attention: Any = layer.self_attn
        handles.append(attention.register_forward_hook(partial(trace.hear_rope, number)))
        handles.append(layer.register_forward_hook(partial(trace.hear, number, "residual")))
    first = decoder.model.layers[0]
    handles.append(first.register_forward_pre_hook(embedded))
    last = partial(trace.hear, trace.behind, "norm")
    handles.append(decoder.model.norm.register_forward_hook(last))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def first_difference(one: Trace, other: Trace) -> tuple[Stage | None, int]:
    """The first stage of which the two heard different bits, and for how many tokens.

    All that this stage was given is equal, so the difference arises there. None: not even the
    log-probs differ.
    """
    both = one.sums.keys() & other.sums.keys()
    for stage in sorted(both, key=lambda s: (s.layer, STAGE_ORDER.index(s.name))):
        a, b = one.sums[stage], other.sums[stage]
        different = (a != b) & (a != NOT_HEARD) & (b != NOT_HEARD)
        if different.any():
            return stage, int(different.sum())
    different = one.logprobs.ne(other.logprobs) & ~one.logprobs.isnan()
    return (Stage(one.behind, "log-softmax") if different.any() else None), int(different.sum())


def changed(stage: Stage, before: Trace, now: Trace) -> bool:
    """Whether the same way gave other bits at this stage than before, or was not heard there."""
    if stage.name == "log-softmax":
        return not torch.equal(before.logprobs.nan_to_num(), now.logprobs.nan_to_num())
    if stage not in before.sums or stage not in now.sums:
        return True
    return not torch.equal(before.sums[stage], now.sums[stage])


def growth(one: Trace, other: Trace) -> list[float]:
    """In front of the first layer and after each: the largest difference between two values of the
    residual stream, over the root mean square of that token's stream; of tokens heard in both."""
    found = list[float]()
    for layer in range(one.behind):
        stage = Stage(layer, "residual" if layer else "embedding")
        both = (one.sums[stage] != NOT_HEARD) & (other.sums[stage] != NOT_HEARD)
        a, b = one.values[stage][both], other.values[stage][both]
        size = b.square().mean(-1).sqrt().clamp(min=torch.finfo(b.dtype).tiny)
        found.append(float(((a - b).abs().amax(-1) / size).max()))
    return found
