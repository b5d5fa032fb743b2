"""The one generate path: rollouts, the judge, chat and evaluations all come through here.

Rows are decoded together, one token each at a time. Where there are more requests than rows, a row
that has finished is given to the next request at once (continuous batching): nobody waits for the
longest answer, and the shape of a step, rows x 1 token, changes only when nobody is waiting.

Sampling is plain softmax at the stated temperature, unless a sampler is given (draw.py). The
log-prob of a token is that of plain softmax either way, since training differentiates that one.

Shapes: B rows, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from minihmx.engine.draw import draw
from minihmx.engine.graphs import decodes_statically, next_states
from minihmx.engine.memory import OUT_OF_ROOM, Limit, packing_pays, release
from minihmx.engine.prefill import Prefix, cache_for, prefill, together
from minihmx.engine.samplers import Sampler
from minihmx.errors import UserError
from minihmx.instruments.estimate import PREFILL_TOKENS
from minihmx.instruments.work import working
from minihmx.models.decoder import Decoder
from minihmx.models.products import packed
from minihmx.records import Completion
from minihmx.seeding import uniforms

LOOK_EVERY = 8  # tokens between two looks at an answer's text
AHEAD_ON_GPU = 8  # tokens that a GPU decodes before anybody reads them, for which it would wait


class GenerationRequest(NamedTuple):
    """A prompt (token ids) and where its completion ends.

    noise: names the random stream, None at temperature 0. until: the completion ends once it holds
    one of these texts. complete: it ends once it holds all of these, in upper or lower case. Up to
    LOOK_EVERY tokens may follow such a text; they are not cut off here. enough: tells of the text
    whether it ends there; it is asked after every token, so it is for short texts only.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    noise: tuple[object, ...] | None = None
    until: tuple[str, ...] = ()
    complete: tuple[str, ...] = ()
    enough: Callable[[str], bool] | None = None


class Decoding(NamedTuple):
    """How every request is decoded. decode: token ids to text. temperature 0 is greedy.

    prefill_tokens: of prompts that go through the model at once, at most; None: PREFILL_TOKENS.
    known: what prompts are likely to begin with, computed before. sampler: as in draw.
    """

    decoder: Decoder
    decode: Callable[[list[int]], str]
    stop_ids: Sequence[int]
    temperature: float = 0.0
    prefill_tokens: int | None = None
    known: Prefix | None = None
    sampler: Sampler | None = None


def generate(
    decoder: Decoder,
    decode: Callable[[list[int]], str],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int],
    temperature: float = 0.0,
    noise: Sequence[tuple[object, ...]] | None = None,
    limit: Limit | None = None,
    enough: Callable[[str], bool] | None = None,
    known: Prefix | None = None,
    sampler: Sampler | None = None,
) -> list[Completion]:
    """Complete every prompt (token ids), in order; a prompt named G times gets G completions.

    decode: token ids to text. temperature 0 is greedy; else noise names each row's random stream,
    of which the number of token t is a pure function, whatever else is in the batch. limit: of rows
    decoded together; None: all. The others are those of GenerationRequest and Decoding.

    Raises UserError when a prompt and its completion exceed the model's context.
    """
    names: Sequence[tuple[object, ...] | None] = noise or [None] * len(prompts)
    requests = [
        GenerationRequest(prompt, max_new_tokens, name, enough=enough)
        for prompt, name in zip(prompts, names, strict=True)
    ]
    how = Decoding(decoder, decode, stop_ids, temperature, known=known, sampler=sampler)
    limit = limit or Limit("--decode-rows", len(prompts))
    with working("answers", len(requests)) as work:
        found = dict(work.counted(complete(how, requests, limit)))
    return [found[index] for index in range(len(requests))]


@torch.inference_mode()
def complete(
    how: Decoding, requests: Sequence[GenerationRequest], limit: Limit
) -> Iterator[tuple[int, Completion]]:
    """(index of a request, its completion), each when it is finished.

    Requests that share a prefix should stand side by side. Where memory runs out, what was not
    finished begins again in half as many rows, and comes out the same up to rounding.
    """
    context = how.decoder.config.max_positions
    for prompt, cap, *_ in requests:
        if len(prompt) + cap > context:
            raise UserError(
                f"A prompt of {len(prompt)} tokens and {cap} new ones exceed the model's "
                f"context of {context}; shorten the text or lower the completion cap."
            )
    missing = dict.fromkeys(range(len(requests)))
    while missing:
        rows, fits = min(limit.rows, len(missing)), True
        steps = sum(requests[index].max_new_tokens for index in missing) // rows
        try:
            with packed(how.decoder) if packing_pays(how.decoder, rows, steps) else nullcontext():
                for index, completion in _decode(how, requests, list(missing), limit):
                    del missing[index]
                    yield index, completion
        except OUT_OF_ROOM as error:
            limit.halve(rows, error)
            fits = False
        if not fits:
            release()


class _Row:
    """What one row has generated so far for its request."""

    def __init__(self, index: int, request: GenerationRequest):
        self.index, self.request = index, request
        self.ids: list[int] = []
        self.logprobs: list[float] = []

    def add(self, token: int, logprob: float, how: Decoding) -> bool:
        """Add a token; returns whether it was the last one."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        full = len(self.ids) == self.request.max_new_tokens
        return full or token in how.stop_ids or self._text_ends(how.decode)

    def _text_ends(self, decode: Callable[[list[int]], str]) -> bool:
        """Whether the text says that it is over."""
        until, wanted = self.request.until, self.request.complete
        if self.request.enough:
            return self.request.enough(decode(self.ids))
        # To look at a long text after every token would take longer than it saves.
        if not (until or wanted) or len(self.ids) % LOOK_EVERY:
            return False
        text = decode(self.ids)
        found = bool(wanted) and all(part.lower() in text.lower() for part in wanted)
        return found or any(stop in text for stop in until)

    def completion(self, how: Decoding) -> Completion:
        # The stop token stays among the ids, because ending an answer is something the policy has
        # to learn; it is not part of the text, because the judge should not see markup.
        stopped = self.ids[-1] in how.stop_ids
        text = how.decode(self.ids[:-1] if stopped else self.ids)
        cut = not stopped and len(self.ids) == self.request.max_new_tokens
        return Completion(self.ids, self.logprobs, text, "length" if cut else "stop")


class _Batch:
    """Rows that are decoded together, their cache, and the hidden states [B, D] of their last
    tokens. An empty row is None."""

    def __init__(
        self, how: Decoding, rows: int, requests: Sequence[GenerationRequest], limit: Limit
    ):
        self.how = how
        self.rows: list[_Row | None] = [None] * rows
        self.capacity = max(len(r.prompt) + r.max_new_tokens for r in requests)
        decoder = how.decoder
        self.static = decodes_statically(decoder)
        if self.static:  # a GPU's attention wants its keys in whole eights
            self.capacity = -(-self.capacity // 8) * 8
        self.at_once = AHEAD_ON_GPU if self.static else 1
        prompts = [request.prompt for request in requests]
        self.cache = cache_for(decoder, prompts, rows, self.capacity, how.known)
        self.positions = [self.cache.begin] * rows  # where each row's next token goes
        self.where = torch.tensor(self.positions, device=decoder.device)  # the same
        self.drawn = torch.zeros_like(self.where)  # tokens so far of each row's answer
        size = rows, decoder.config.hidden_size
        self.hidden = torch.zeros(size, dtype=decoder.dtype, device=decoder.device)
        longest = max(r.max_new_tokens for r in requests)
        self.advanced = next_states(decoder, self.cache, limit, longest, self.static)
        self.known = how.known
        # One random number for each token position, drawn before it is known which row stops where.
        # A generator's state would depend on how many rows and tokens came before.
        numbers = longest if how.temperature else 0
        self.uniforms = torch.zeros(rows, numbers, dtype=torch.float64, device=decoder.device)

    def fill(self, slots: Sequence[int], rows: Sequence[_Row], following: Sequence[int]) -> None:
        """Let the prompts of these rows into these slots; following: the prompt that comes next."""
        prompts = [row.request.prompt for row in rows]
        found = prefill(self.how.decoder, prompts, self.cache, slots, following, self.known)
        self.known = found.prefix or self.how.known
        index = torch.tensor(slots, device=self.hidden.device)
        self.hidden[index], self.drawn[index] = found.hidden, 0
        self.where[index] = torch.tensor(list(map(len, prompts)), device=self.where.device)
        for slot, row in zip(slots, rows, strict=True):
            self.rows[slot], self.positions[slot] = row, len(row.request.prompt)
            if self.how.temperature:
                names, cap = row.request.noise or (), row.request.max_new_tokens
                numbers = uniforms(cap, *names)
                self.uniforms[slot, :cap] = torch.tensor(numbers, dtype=torch.float64)

    def step(self) -> Iterator[tuple[int, Completion]]:
        """One more token for every row, on a GPU a few; yields what is finished by them, whose row
        is empty then."""
        sampled = [self._sample()]
        for _ in range(1, self.at_once):
            self._advance()
            sampled.append(self._sample())
        for tokens, logprobs in torch.stack(sampled).tolist():  # waits for the GPU once
            for slot, row in enumerate(self.rows):
                if row and row.add(int(tokens[slot]), logprobs[slot], self.how):
                    self.rows[slot] = None
                    yield row.index, row.completion(self.how)
        # Rows that have stopped, and found nobody to follow them, go on being decoded as padding,
        # until `shrink` takes them out.
        if any(self.rows):
            self._advance()

    def _sample(self) -> Tensor:
        """The next token of every row and its log-prob, [2, B] in float64."""
        noise = None
        if self.how.temperature:
            last = self.uniforms.shape[1] - 1  # where a row that has stopped stays
            noise = self.uniforms.gather(1, self.drawn.clamp(max=last)[:, None])[:, 0]
        logits_BV = self.how.decoder.logits(self.hidden)
        self.token, logprob = draw(logits_BV, self.how.temperature, noise, self.how.sampler)
        self.drawn = self.drawn + 1
        # The sum is finite only if every logit is, and a minus infinity is never drawn, so it would
        # pass unseen. 0 times the sum changes no finite log-prob, and makes it NaN otherwise.
        logprob = logprob + 0 * logits_BV.sum(-1)
        return torch.stack((self.token.double(), logprob.double()))

    def _advance(self) -> None:
        """The hidden states after the last tokens, which go into the cache."""
        self.hidden = self.advanced(self.token, self.where, max(self.positions) + 1)
        self.positions = [min(p + 1, self.capacity - 1) for p in self.positions]
        self.where = (self.where + 1).clamp(max=self.capacity - 1)

    def shrink(self) -> None:
        """Go on with the rows that are not empty, once at least a quarter of all rows is."""
        left = [slot for slot, row in enumerate(self.rows) if row]
        if not left or not drops(len(self.rows), len(left)):
            return
        index = torch.tensor(left, device=self.hidden.device)
        self.cache.keep(left)
        self.hidden, self.uniforms = self.hidden[index], self.uniforms[index]
        self.where, self.drawn = self.where[index], self.drawn[index]
        self.rows = [self.rows[slot] for slot in left]
        self.positions = [self.positions[slot] for slot in left]


def drops(rows: int, left: int) -> bool:
    """Whether a batch of so many rows should go on with only those that are left."""
    # Not one by one: each new shape is a copy, and may change the last bits of a row's logits.
    return 4 * left <= 3 * rows


def _decode(
    how: Decoding, requests: Sequence[GenerationRequest], order: Sequence[int], limit: Limit
) -> Iterator[tuple[int, Completion]]:
    """Decode the requests of these indexes, in this order, in as many rows as the limit allows."""
    waiting, rows = deque(order), min(limit.rows, len(order))
    batch = _Batch(how, rows, [requests[index] for index in order], limit)
    most = batch.cache.begin + min(PREFILL_TOKENS, how.prefill_tokens or PREFILL_TOKENS)
    while waiting or any(batch.rows):
        free = [slot for slot, row in enumerate(batch.rows) if row is None]
        # A prompt lets all other rows wait, so several go together, where there are several; an
        # eighth of the rows is little to leave empty meanwhile.
        while free and waiting and len(free) >= min(rows // 8, len(waiting)):
            next_ones = [requests[index].prompt for index in islice(waiting, len(free))]
            group = [waiting.popleft() for _ in range(together(next_ones, most))]
            following = requests[waiting[0]].prompt if waiting else ()
            batch.fill(free[: len(group)], [_Row(i, requests[i]) for i in group], following)
            free = free[len(group) :]
        yield from batch.step()
        # A GPU reads all weights for one row as for eight; a CPU is faster with fewer.
        if not batch.static and not waiting:
            batch.shrink()
