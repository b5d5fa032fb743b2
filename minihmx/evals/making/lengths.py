"""Prompts as long as a number of tokens allows, in steps, as RULER (Hsieh et al. 2024) makes them.

Each task has one number that makes its prompts longer: sentences, words or documents. That size is
searched once, in steps, and every item then takes that size, or less where it would be too long.
The same random numbers give the same prompts as in lm-evaluation-harness
(tests/evals/golden_ruler.json).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from minihmx.errors import UserError
from minihmx.evals.benchmark import Item, Tokens
from minihmx.seeding import digest

FULL = 4096  # below, steps and lists are shorter, as upstream's are
ALIKE = 42  # the seed of what upstream shuffles alike in every item
# Tokenizers part a text in front of blanks, and put line ends to the word before them.
_PIECE = re.compile(r"[^\S\r\n]*\S+[\r\n]*|\s+")


class Draft(NamedTuple):
    """One item before its length is known.

    counted: the text whose tokens are its length. sized: what is counted in the search for a size.
    """

    prompt: str
    prefill: str
    references: list[str]
    counted: str
    sized: str


@dataclass(frozen=True)
class Maker:
    """How a task is made. draft: from random numbers, the item's number and a size.

    reply: tokens counted beside the text. step: of the search. most: no size is above it.
    least: the smallest size of an item. unit: what a size counts, in words. finish: what is added
    to a prompt that fits; reply counts it too. once: the search, and each item, draws its random
    numbers once for all sizes.
    """

    draft: Callable[[Random, int, int], Draft]
    reply: int
    step: int
    most: int
    unit: str
    least: Callable[[int], int] = lambda number: 1
    start: int = 0  # of the search; none: a step
    finish: Callable[[Random, str], str] = lambda rng, prompt: prompt
    once: bool = False


def make_items(
    task: str, maker: Maker, tokens: Tokens, seed: str, length: int, count: int
) -> Iterator[Item]:
    """The task's items, none longer than `length` tokens: `count`, less those that cannot be so
    short, which are left out as upstream leaves them out.

    Raises UserError where no size reaches the length, or no item stays within it.
    """
    estimate = estimator(tokens)
    size, trusted = _search(task, maker, tokens, estimate, Random(digest(seed, task)), length)
    made, total = 0, 0
    for number in range(count):
        rng, least = Random(digest(seed, task, number)), maker.least(number)
        sizes = [*range(max(size, least), least, -maker.step), least]
        start = rng.getstate()
        for used in sizes:
            if maker.once:
                rng.setstate(start)
            draft = maker.draft(rng, number, used)
            total = estimate(draft.counted) + maker.reply
            if not trusted or abs(total - length) <= length // 100:
                total = tokens(draft.counted) + maker.reply
            if total <= length:
                made += 1
                prompt = maker.finish(rng, draft.prompt)
                yield _item(task, number, length, draft._replace(prompt=prompt))
                break
    if not made:
        raise UserError(
            f"RULER's {task} does not fit into {length:,} tokens: with this model's tokenizer its "
            f"shortest prompts and their replies take {total:,}; take another model, or leave "
            "ruler out of --tasks."
        )


def _item(task: str, number: int, length: int, draft: Draft) -> Item:
    return {
        "id": f"{task}-{number:03d}",
        "task": task,
        "length": length,
        "prompt": draft.prompt,
        "prefill": draft.prefill,
        "references": draft.references,
    }


def _search(
    task: str, maker: Maker, tokens: Tokens, estimate: Tokens, rng: Random, length: int
) -> tuple[int, bool]:
    """The last size that fits, and whether estimates of lengths were close to the truth."""
    size, trusted, start = maker.start or maker.step, True, rng.getstate()
    while True:
        if maker.once:
            rng.setstate(start)
        sized = maker.draft(rng, 0, size).sized
        total = tokens(sized)
        trusted &= abs(estimate(sized) - total) <= length // 400
        if total + maker.reply >= length:
            break
        size += maker.step
        if size > maker.most:
            raise UserError(
                f"RULER's {task} cannot be made {length:,} tokens long: with this model's "
                f"tokenizer {size - maker.step:,} {maker.unit} make only {total:,}, and there are "
                "no more; take fuller texts, or another model."
            )
    exactly = total + maker.reply == length and not maker.once  # where upstream goes one step on
    return size + (maker.step if exactly else -maker.step), trusted


def estimator(tokens: Tokens) -> Tokens:
    """Nearly as many tokens as `tokens` says, in a tenth of the time: word by word, as the same
    words stand in hundreds of prompts."""
    before = tokens("")
    piece = cache(lambda text: tokens(text) - before)
    return lambda text: before + sum(map(piece, _PIECE.findall(text)))
