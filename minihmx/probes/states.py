"""Residual streams, averaged over the tokens of interest: what every reading inside starts from.

Rows are padded on the right and carry no padding on the left, so a row's states are the same in any
batch. The token that a tokenizer puts before a text is read and never averaged: its residual is a
hundred times as large as any other's in many models, and would be all that a mean shows.

Shapes: n texts, L layers that are looked at, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from minihmx.engine.memory import Limit, in_pieces
from minihmx.engine.prefill import same_tokens
from minihmx.engine.prompts import Prompts
from minihmx.models.decoder import Decoder

FROM_TOKEN = 50  # of a text: before that, it could be any text
TAPPED_ROWS = 8  # of a pass whose layers are all kept


class ReadRow(NamedTuple):
    """Token ids, and which of them are averaged: those from `start` to before `end`."""

    ids: list[int]
    start: int
    end: int


def looked_at(depth: int) -> list[int]:
    """The layers from 40 to 90 % of the depth, counted from 1; the stream is read after each.

    >>> looked_at(24)
    [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21]
    """
    return list(range(math.ceil(0.4 * depth), math.floor(0.9 * depth) + 1))


def text_row(prompts: Prompts, text: str) -> ReadRow:
    """A text that is no chat, averaged from its token 50 on, or where it is of fewer than 100 over
    its second half; what the tokenizer puts before a text is not of it."""
    before, ids = prompts.tokenizer.before_text, prompts.tokenizer.encode_text(text)
    start = len(before) + min(FROM_TOKEN, len(ids) // 2)
    return ReadRow([*before, *ids], start, len(before) + len(ids))


def message_row(prompts: Prompts, text: str) -> ReadRow:
    """A user's message in the chat format, averaged over the message's own tokens."""
    ids, other = prompts.policy(text), prompts.policy("?" if text[:1] != "?" else "!")
    start, behind = same_tokens(ids, other), same_tokens(ids[::-1], other[::-1])
    return ReadRow(ids, start, len(ids) - behind)


def prompt_row(prompts: Prompts, text: str, system: str = "") -> ReadRow:
    """A question up to where the assistant starts to speak: its last token alone."""
    ids = replace(prompts, system=system).policy(text)
    return ReadRow(ids, len(ids) - 1, len(ids))


def answer_row(prompts: Prompts, question: str, answer: Sequence[int]) -> ReadRow:
    """A question and an answer to it (token ids), averaged over the answer's tokens."""
    ids = prompts.policy(question)
    return ReadRow([*ids, *answer], len(ids), len(ids) + len(answer))


@torch.inference_mode()
def mean_states(decoder: Decoder, rows: Sequence[ReadRow], layers: Sequence[int]) -> Tensor:
    """The mean residual of each row after each of these layers, fp32 [n, L, D] on the CPU."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    limit = Limit("--decode-rows", TAPPED_ROWS)
    found = list(in_pieces([rows[i] for i in order], limit, lambda p: _piece(decoder, p, layers)))
    return torch.cat(found)[torch.tensor(order).argsort()]


def _piece(decoder: Decoder, rows: Sequence[ReadRow], layers: Sequence[int]) -> Tensor:
    width = max(len(row.ids) for row in rows)
    padded = [row.ids + [0] * (width - len(row.ids)) for row in rows]
    taps = list[Tensor]()
    decoder(torch.tensor(padded, device=decoder.device), taps=taps)
    kept = [taps[layer - 1] for layer in layers]
    means = [
        torch.stack([stream[i, row.start : row.end].mean(0) for stream in kept])
        for i, row in enumerate(rows)
    ]
    return torch.stack(means).float().cpu()
