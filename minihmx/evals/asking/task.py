"""One request on its way to a loaded model, whichever of the two kinds it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from minihmx.engine.memory import Limit
from minihmx.errors import Diverged
from minihmx.evals.asking.settings import Settings
from minihmx.evals.benchmark import Answer, Benchmark, Item, Request
from minihmx.models.decoder import Decoder
from minihmx.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Machine:
    """A loaded model, and how many tokens and rows go through it together."""

    decoder: Decoder
    tokenizer: Tokenizer
    token_limit: Limit
    row_limit: Limit


@dataclass(frozen=True)
class Task:
    """One request on its way to the model."""

    item: Item
    sample: int
    request: Request


Batches = Iterator[tuple[Sequence[Task], list[Answer]]]


def check_finite(
    benchmark: Benchmark, task: Task, values: Sequence[float], settings: Settings
) -> None:
    """Raises Diverged, naming the item, if one of its log-probs is not finite."""
    if not all(map(math.isfinite, values)):
        advice = "try --dtype bfloat16 or float32"
        if settings.dtype == "float32":
            advice = "the model or its adapter seems damaged, so fetch it again"
        raise Diverged(
            f"{benchmark.name}, item {task.item['id']}: the model's log-probs are not finite in "
            f"{settings.dtype}, so no score would mean anything; {advice}. What was finished is "
            "kept."
        )
