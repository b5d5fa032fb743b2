"""The plain records that travel between stages. No behaviour, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Segment(NamedTuple):
    """A piece of a rendered prompt. Only markup may become control tokens (models/chat.py)."""

    text: str
    markup: bool


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Question:
    """One interview question (paper section 3.1, Table 1)."""

    id: str
    category: str
    text: str
    split: Literal["train", "eval"]
    source: Literal["paper", "ours"]


@dataclass(frozen=True)
class Completion:
    """What `sampling.generate` returns for one row.

    ids: generated token ids, the stop token included. logprobs: natural log-probability of each
    id under the distribution it was drawn from. text: decoded without special tokens.
    finish_reason: "stop" (ended by a stop token) or "length" (ran into the cap).
    """

    ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class Verdict:
    """A score the judge gave. span: [start, end) of the integer in the judge's text."""

    score: int
    span: tuple[int, int]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unscored:
    """The judge's text held no score; reason is one word of the grammar in judge.py."""

    reason: str
