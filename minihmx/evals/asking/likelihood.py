"""Log-likelihoods of continuations, as lm-evaluation-harness defines them (its _encode_pair).

Each context runs through the model once, however many continuations it has, and a beginning that
all contexts of a batch share runs once for all of them (engine/prefill.py). Logits are computed
only where they predict a token of a continuation, and once for continuations that are equal so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minihmx.engine.memory import Limit, in_pieces
from minihmx.engine.prefill import cache_for, prefill
from minihmx.models.decoder import Decoder
from minihmx.models.tokenizer import Tokenizer
from minihmx.records import Segment

STATES = 64  # whose logits are computed together: 64 MB in fp32 for a vocabulary of 256,000
Ids = tuple[int, ...]


class Pair(NamedTuple):
    """Token ids of a context (at least one) and of one continuation."""

    context: Ids
    continuation: Ids
    truncated: bool = False


def encode_pair(
    tokenizer: Tokenizer, context: Sequence[Segment], continuation: str, room: int
) -> Pair:
    """Encode both together and split by the length of the context's own encoding.

    Blanks at the end of the context are moved to the continuation. A context without markup begins
    with the tokens that the tokenizer puts before a text (bos for Llama and Gemma, none for Qwen3).
    If both have more than `room` tokens, the context loses its first ones, and `truncated` is true.
    Raises ValueError if no token of the context, or of the continuation, would be left.
    """
    context, blanks = without_trailing_blanks(context)
    plain = not any(segment.markup for segment in context)
    before = tokenizer.before_text if plain else []
    head = [*before, *tokenizer.encode(context)]
    both = [*before, *tokenizer.encode([*context, Segment(blanks + continuation, False)])]
    tail = both[len(head) :]
    kept = head[max(0, len(both) - room) :]
    if not kept or not tail:
        raise ValueError(
            f"{len(head)} tokens of context and {len(tail)} of continuation do not fit {room}"
        )
    return Pair(tuple(kept), tuple(tail), len(kept) < len(head))


def without_trailing_blanks(context: Sequence[Segment]) -> tuple[list[Segment], str]:
    """The context without the blanks at its end, and those blanks."""
    kept, blanks = list(context), ""
    while kept:
        text, markup = kept.pop()
        blanks = text[len(text.rstrip()) :] + blanks
        if text.rstrip():
            return [*kept, Segment(text.rstrip(), markup)], blanks
    return [], blanks


def loglikelihoods(
    decoder: Decoder, requests: Sequence[Sequence[Pair]], limit: Limit
) -> Iterator[list[list[float]]]:
    """The natural log-likelihood of every pair, by request. Yields a list for each batch.

    limit: bounds the padded tokens of a batch (rows times the longest row). No request is split.
    """

    def work(batch: Sequence[Sequence[Pair]]) -> list[list[float]]:
        pairs = [pair for request in batch for pair in request]
        sums = iter(_sums(decoder, pairs))
        return [[next(sums) for _ in request] for request in batch]

    return in_pieces(requests, limit, work, cost=padded_tokens)


def padded_tokens(requests: Sequence[Sequence[Pair]]) -> int:
    """Rows times the longest row: what a batch takes in the KV cache."""
    lengths = [len(p.context) + len(p.continuation) for request in requests for p in request]
    return len(lengths) * max(lengths, default=0)


@torch.inference_mode()
def _sums(decoder: Decoder, pairs: Sequence[Pair]) -> list[float]:
    """One sum per pair, in float64 over the tokens' fp32 log-probs."""
    width = max(len(pair.continuation) for pair in pairs) - 1  # the last token predicts nothing
    longest = max(len(pair.context) for pair in pairs) + width
    contexts = [pair.context for pair in pairs]
    cache = cache_for(decoder, contexts, len(pairs), longest)
    hidden, _ = prefill(decoder, contexts, cache)
    states = hidden[:, None]
    if width:
        device = decoder.device
        ids = torch.tensor(
            [[*p.continuation[:-1], *[0] * (width + 1 - len(p.continuation))] for p in pairs],
            device=device,
        )
        starts = torch.tensor([len(pair.context) for pair in pairs], device=device)
        positions = starts[:, None] + torch.arange(width, device=device)
        states = torch.cat((states, decoder(ids, positions, cache, longest)), dim=1)
    where: dict[tuple[Ids, Ids], int] = {}  # context and continuation so far -> its state
    rows: list[int] = []
    columns: list[int] = []
    goals: list[tuple[int, int]] = []
    for row, (context, continuation, _) in enumerate(pairs):
        for t, goal in enumerate(continuation):
            state = where.setdefault((context, continuation[:t]), len(where))
            if state == len(rows):
                rows.append(row)
                columns.append(t)
            goals.append((state, goal))
    found = _logprobs(decoder, states[rows, columns], torch.tensor(goals, device=decoder.device))
    lengths = [len(pair.continuation) for pair in pairs]
    return [float(part.sum()) for part in torch.split(found.double(), lengths)]


def _logprobs(decoder: Decoder, states: Tensor, goals: Tensor) -> Tensor:
    """fp32 log-probs [N] of goals [N, 2] = (row of states, token). The states are [S, hidden], and
    only a few at a time have their logits in memory."""
    found = torch.empty(len(goals), device=states.device)
    for start in range(0, len(states), STATES):
        logits = decoder.logits(states[start : start + STATES])
        here = (goals[:, 0] >= start) & (goals[:, 0] < start + STATES)
        row, token = goals[here, 0] - start, goals[here, 1]
        found[here] = logits[row, token] - logits.logsumexp(-1)[row]
    return found
