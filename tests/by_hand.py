"""The numbers of docs/reading.md as a reader with a calculator has them, from the page alone."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence

from conftest import ROOT

from minihmx.config import Config
from minihmx.engine.prompts import Prompts
from minihmx.judge import RUBRIC
from minihmx.models.hub import TINY
from minihmx.models.known import MODEL_VALUES
from minihmx.models.tokenizer import Tokenizer

sys.path.insert(0, str(ROOT / "scripts"))
import reading
from followed import STEP

CONFIG = Config(**MODEL_VALUES["tiny"])
SHOWN = reading.SHOWN - 1
CODE = re.compile(r"(`[^`]*`)")  # its numbers are names, as in `time-06`
Blocks = dict[str, str]


def numbers(text: str) -> list[float]:
    return [float(number) for number in reading.NUMBER.findall(CODE.sub("", text))]


def rows(block: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in block.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def column(block: str, place: int) -> list[float]:
    return [float(row[place]) for row in rows(block)]


def off(
    what: str,
    shown: Sequence[float],
    wanted: Sequence[float],
    tolerance: float | Sequence[float] = 0.0,
) -> Iterator[str]:
    """A complaint where numbers of the page are not what they should be."""
    allowed = [tolerance] * len(wanted) if isinstance(tolerance, float) else tolerance
    if len(shown) != len(wanted) or not all(
        abs(a - b) <= t * 1.001 for a, b, t in zip(shown, wanted, allowed, strict=True)
    ):
        yield f"{what}: the page says {shown}, but its other numbers give {wanted}"


def faults(blocks: Blocks) -> list[str]:
    """What does not follow from the other numbers of the page, up to rounding."""
    parts = (asked, judged, compared, weighed, worked, summed, updated, moved)
    return [complaint for part in parts for complaint in part(blocks)]


def asked(blocks: Blocks) -> Iterator[str]:
    question = json.loads(blocks["question"].splitlines()[1])
    ids = Prompts(Tokenizer.load(TINY), CONFIG.date, RUBRIC).policy(question["text"])
    name = CODE.findall(blocks["prompt"])[-1].strip("`")
    noise = int(hashlib.sha256(name.encode()).hexdigest()[:13], 16) / 16**13
    shown = numbers(blocks["prompt"].rpartition("```")[2])
    yield from off("prompt", shown, [len(ids), 1, noise], 5e-7)


def judged(blocks: Blocks) -> Iterator[str]:
    yield from off("answers", column(blocks["answers"], 0), [1, 2, 3, 4])
    for i, (answer, words, span, score, reward) in enumerate(rows(blocks["verdicts"]), start=1):
        start, end = json.loads(span)
        # What the span cuts out is the score, and in a forward run the reward as well.
        read = [float(number) for number in [words[start:end]] if number.isdigit()]
        yield from off("verdict", [float(answer), float(score), float(reward)], [i, *read, *read])
        yield from off("score in the words", numbers(words), read)


def rewards(blocks: Blocks) -> list[float]:
    return column(blocks["verdicts"], 4)


def lengths(blocks: Blocks) -> list[float]:
    return column(blocks["answers"], 2)


def advantages(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Mean, standard deviation, and each one's advantage."""
    centre = sum(values) / len(values)
    spread = math.sqrt(sum((r - centre) ** 2 for r in values) / (len(values) - 1))
    return centre, spread, [(r - centre) / (spread + CONFIG.advantage_epsilon) for r in values]


def compared(blocks: Blocks) -> Iterator[str]:
    values = rewards(blocks)
    centre, spread, wanted = advantages(values)
    distances = [r - centre for r in values]
    block = blocks["advantages"]
    mean, std, *_, example = (line for line in block.splitlines() if line)
    yield from off("mean", numbers(mean), [*values, len(values), centre], 5e-5)
    inside = [*(d**2 for d in distances), len(values) - 1, spread]
    yield from off("std", numbers(std), inside, [5e-5] * (len(values) + 1) + [5e-7])
    yield from off("row", column(block, 0) + column(block, 1), [1, 2, 3, 4, *values])
    yield from off("reward - mean", column(block, 2), distances, 5e-5)
    yield from off("advantage", column(block, 3), wanted, 5e-6)
    parts = [1, distances[0], spread, CONFIG.advantage_epsilon, wanted[0]]
    yield from off("example", numbers(example), parts, [0, 5e-5, 5e-7, 0, 5e-6])


def weight(blocks: Blocks) -> float:
    return 1 / (CONFIG.prompts_per_step * sum(lengths(blocks)))


def weighed(blocks: Blocks) -> Iterator[str]:
    """The weight, and answer 2 token by token. Log-probs have 5 decimals: d is off by 1e-5."""
    total, w, beta = sum(lengths(blocks)), weight(blocks), CONFIG.beta
    sum_and_weight = [*lengths(blocks), total, 1, CONFIG.prompts_per_step, total, w]
    yield from off("weight", numbers(blocks["weight"]), sum_and_weight, 5e-9)
    A = advantages(rewards(blocks))[2][SHOWN]
    *tokens, sums = [list(map(float, row[1:])) for row in rows(blocks["tokens"])]
    yield from off("tokens of the answer", [len(tokens)], [lengths(blocks)[SHOWN]])
    for policy, reference, k3, term in tokens:
        d = reference - policy
        slack = 1e-5 * abs(math.expm1(d)) + 6e-7
        yield from off(
            "k3 and term", [k3, term], [math.expm1(d) - d, w * (beta * k3 - A)], [slack, 6e-9]
        )
    total = [sum(row) for row in zip(*tokens, strict=True)]
    slack = [(len(tokens) + 1) * unit / 2 for unit in (1e-5, 1e-5, 1e-6, 1e-8)]
    yield from off("sum", sums, total, slack)
    before = column(blocks["after"], 2)[SHOWN]
    yield from off("log-prob of the answer", [before], [sums[0]], 6e-5)
    mean = groups(blocks)[reading.QUESTION][2][SHOWN]
    yield from off("mean k3 of the answer", [mean], [sums[2] / len(tokens)], 6e-7)


def worked(blocks: Blocks) -> Iterator[str]:
    """The token with the largest k3, below the table."""
    table, _, text = blocks["tokens"].rpartition("\nThe token ")
    tokens = [list(map(float, row[1:])) for row in rows(table)[:-1]]
    policy, reference, k3, term = max(tokens, key=lambda row: row[2])
    w, beta, d = weight(blocks), CONFIG.beta, reference - policy
    A = advantages(rewards(blocks))[2][SHOWN]
    wanted = [reference, policy, d, k3, w, beta, k3, A, term]
    wanted += [w, beta, -math.expm1(d), A, w * (beta * -math.expm1(d) - A)]
    slack = [0, 0, 2e-5, 0, 5e-9, 0, 0, 5e-6, 0, 5e-9, 0, 3e-5, 5e-6, 1e-8]
    yield from off("worked token", numbers(text), wanted, slack)


def groups(blocks: Blocks) -> dict[str, list[list[float]]]:
    """Of each question: scores, tokens, mean k3, and the three parts of the loss."""
    return {
        row[0].strip("`"): [list(map(float, cell.split())) for cell in row[1:]]
        for row in rows(blocks["loss"])
    }


def summed(blocks: Blocks) -> Iterator[str]:
    found = groups(blocks)
    own = found[reading.QUESTION]
    yield from off("the group's scores", own[0] + own[1], rewards(blocks) + lengths(blocks))
    yield from off("questions of the step", [len(found)], [CONFIG.prompts_per_step])
    loss = 0.0
    for name, (scores, tokens, k3s, surrogate, kl, both) in found.items():
        w = 1 / (len(found) * sum(tokens))
        pairs = zip(advantages(scores)[2], tokens, strict=True)
        parts = [
            -w * sum(A * n for A, n in pairs),
            w * CONFIG.beta * sum(k3 * n for k3, n in zip(k3s, tokens, strict=True)),
        ]
        slack = [5e-7, 1e-8, 6e-7]
        yield from off(name, surrogate + kl + both, [*parts, sum(parts)], slack)
        loss += sum(parts)
    yield from off("loss", numbers(blocks["loss"].splitlines()[-1]), [loss], 1e-6)


def updated(blocks: Blocks) -> Iterator[str]:
    steps = 90 // CONFIG.prompts_per_step * CONFIG.epochs
    warmup, u, peak = math.ceil(steps * CONFIG.warmup_ratio), STEP - 1, CONFIG.learning_rate
    rate = peak * (steps - u) / (steps - warmup)
    norm, *others = numbers(blocks["update"])
    yield from off("update", others, [CONFIG.max_grad_norm, steps, warmup, peak, rate], 5e-7)
    # The norm does not follow from the page; it has to be one that the page's words fit.
    yield from off("gradient norm", [float(0 < norm < CONFIG.max_grad_norm)], [1])
    (value, after), (g,), (m, new_m), (v, new_v) = (
        [float(cell) for cell in row[1:] if cell] for row in rows(blocks["adam"])
    )
    b1, b2 = CONFIG.adam_beta1, CONFIG.adam_beta2
    yield from off("m", [new_m / (b1 * m + (1 - b1) * g)], [1], 2e-6)
    yield from off("v", [new_v / (b2 * v + (1 - b2) * g**2)], [1], 2e-6)
    M, V = new_m / (1 - b1**STEP), new_v / (1 - b2**STEP)
    moved = value * (1 - rate * CONFIG.weight_decay) - rate * M / (
        math.sqrt(V) + CONFIG.adam_epsilon
    )
    yield from off("value", [after / moved], [1], 3e-6)


def moved(blocks: Blocks) -> Iterator[str]:
    answers, A, before, after, change = (column(blocks["after"], i) for i in range(5))
    yield from off("answers", answers, [1, 2, 3, 4])
    yield from off("advantages", A, advantages(rewards(blocks))[2], 5e-6)
    differences = [b - a for a, b in zip(before, after, strict=True)]
    yield from off("change", change, differences, 1.6e-4)
