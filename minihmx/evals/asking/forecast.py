"""How long a session will take, estimated from short trials and from a few of the prompts.

Nobody knows the length of a reply beforehand, so the estimate is two numbers: one for replies of
SHORT tokens, and one for replies that all run into their cap.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from minihmx.engine import ranks
from minihmx.engine.sampling import generate
from minihmx.evals.asking.replies import Exchange
from minihmx.evals.asking.results import Results
from minihmx.evals.asking.settings import paragraphs
from minihmx.evals.asking.task import Machine
from minihmx.evals.benchmark import Dialogue
from minihmx.stats import mean

SHORT = 32  # tokens
TRIED = 8  # items of each benchmark whose prompts are measured
TRIAL = 512, 8  # prompt tokens, and tokens of each row, that are timed


def forecast(machine: Machine, todo: Sequence[Results]) -> tuple[float, float]:
    """The least and the most seconds for all samples that are not on the disk, at today's speed."""
    left = [(results, -(-results.left // ranks.world())) for results in todo]
    rows = min(machine.row_limit.rows, max((samples for _, samples in left), default=0))
    if rows == 0:
        return 0.0, 0.0
    per_token, per_step = speeds(machine, rows)
    least = most = 0.0
    for results, samples in left:
        prompt, short, cap = sizes(machine, results)
        steps = samples / min(machine.row_limit.rows, max(samples, 1))
        least += samples * prompt * per_token + steps * short * per_step
        most += samples * prompt * per_token + steps * cap * per_step
    return least, most


def sizes(machine: Machine, results: Results) -> tuple[float, float, float]:
    """Means over one sample: its prompt tokens, its reply tokens if short, and those at the cap."""
    found: list[tuple[int, int, int]] = []
    for item in results.items[:: max(1, len(results.items) // TRIED)][:TRIED]:
        request = results.request(item)
        if isinstance(request, Dialogue):
            turns, cap = len(request.turns), request.max_new_tokens
            prompt = len(Exchange(machine, request, results.settings).prompt(0))
            found.append((turns * prompt, turns * min(SHORT, cap), turns * cap))
        else:
            context = paragraphs(results.settings.system, request.context)
            texts = [context, *request.continuations]
            found.append((sum(map(machine.tokenizer.count, texts)), 0, 0))
    prompt_tokens, short, caps = (mean(values) or 0.0 for values in zip(*found, strict=True))
    return prompt_tokens, short, caps


@torch.inference_mode()
def speeds(machine: Machine, count: int) -> tuple[float, float]:
    """Seconds for one token of a prompt, and for one step in which each of `count` rows gets a
    token."""
    decoder, (length, tokens) = machine.decoder, TRIAL
    length = min(length, decoder.config.max_positions - tokens)
    prompt = [token % decoder.config.vocab_size for token in range(length)]

    def timed(prompts: list[list[int]], new: int) -> float:
        started = time.monotonic()
        generate(decoder, lambda ids: "", prompts, max_new_tokens=new, stop_ids=[])
        return time.monotonic() - started

    rows = [[row % decoder.config.vocab_size] for row in range(count)]
    timed([prompt[:8]], 2)  # the first pass also warms up
    per_step = max(timed(rows, tokens) - timed(rows, 1), 0.0) / (tokens - 1)
    return timed([prompt], 1) / length, per_step
