"""What the vectors do: the base is steered with each, and a trained model loses their space.

A direction that can be read need not be used. Steering shows what adding one changes, beside random
directions at the same KL; taking the space out shows what a trained model does without it.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from minihmx.config import Config
from minihmx.engine.open import OpenAdapter, open_adapter, with_adapter
from minihmx.learn import logprobs
from minihmx.models.decoder import Decoder
from minihmx.probes import vectors
from minihmx.probes.checkpoints import Checkpoint, ProbePieces
from minihmx.probes.examples import answers_of, judge_answers, score_record
from minihmx.probes.shift import Inside
from minihmx.probes.states import TAPPED_ROWS
from minihmx.probes.steering import SteeringVector, projected_out, steered
from minihmx.records import Completion, Question, Rollout
from minihmx.stats import mean
from minihmx.storage.identity import text_digest

STRENGTHS = (2, 4, 8)  # times the root mean square of the base's residuals
DOUBLED = 2.0  # a perplexity so many times the base's drops a strength: what is left is noise
SPACES = 5  # random ones that are taken out beside the emotions'
Change = Callable[[], AbstractContextManager[None]]
FIELDS_OF_A_TRY = ("alpha", "kl", "score", "scored", "perplexity")


def summed_logprobs(decoder: Decoder, rollouts: Sequence[Rollout], config: Config) -> list[float]:
    """Each answer's log-prob under the decoder as it is, summed over its tokens, in nats."""
    sums = list[float]()
    for start in range(0, len(rollouts), TAPPED_ROWS):
        piece = rollouts[start : start + TAPPED_ROWS]
        with torch.no_grad():
            flat, _ = logprobs(decoder, piece, config)
        lengths = [len(rollout.completion.ids) for rollout in piece]
        sums += [float(part.sum()) for part in torch.split(flat, lengths)]
    return sums


def perplexity(inside: Inside, texts: Sequence[Sequence[int]]) -> float:
    """Of texts (token ids) under the decoder as it is: exp of the mean loss per token."""
    no_question = Question("", "", "", "eval", "ours")
    rows = [
        Rollout(no_question, 0, "", [*ids[:1]], Completion([*ids[1:]], [], "", "length"))
        for ids in texts
    ]
    config = replace(inside.model.config, temperature=1.0)
    total = sum(summed_logprobs(inside.decoder, rows, config))
    return float(torch.tensor(-total / sum(len(ids) - 1 for ids in texts)).exp())


def tried(
    inside: Inside,
    texts: Sequence[Sequence[int]],
    samples: int,
    change: Change,
    opened: OpenAdapter | None = None,
) -> dict[str, Any]:
    """Answers to the held-out questions under a change, judged by the base without it, their KL to
    the base in nats per answer, and the perplexity of neutral texts."""
    config = inside.model.config
    wanted = [(question, s) for question in inside.questions for s in range(samples)]
    with with_adapter(inside.decoder, opened), change():
        rollouts = answers_of(inside.decoder, inside.prompts, config, wanted)
        own = perplexity(inside, texts)
    sound = [rollout for rollout in rollouts if rollout.completion.finite]
    judge_answers(inside.decoder, inside.prompts, config, sound)
    base = summed_logprobs(inside.decoder, sound, config)
    gaps = [sum(r.completion.logprobs) - b for r, b in zip(sound, base, strict=True)]
    scores = score_record(sound)
    return {
        "kl": mean(gaps),
        "score": scores["mean"],
        "scored": scores["scored"],
        "perplexity": own,
    }


def steering(
    inside: Inside,
    pieces: ProbePieces,
    texts: Sequence[Sequence[int]],
    samples: int,
    directions: int,
) -> dict[str, Any]:
    """Every emotion and so many random directions, both signs, at each strength; then their effect
    on the score at one KL that all of them reach."""
    place = inside.place
    units = dict(zip(inside.emotions, inside.fitted.unit[:, place], strict=True))
    generator = torch.Generator().manual_seed(inside.model.config.seed)
    for number in range(1, directions + 1):
        drawn = torch.randn(inside.clean.shape[-1], generator=generator)
        units[f"random-{number:02d}"] = functional.normalize(drawn, dim=0)
    base = tried(inside, texts, samples, nullcontext)
    curves = dict[tuple[str, int], list[dict[str, Any]]]()
    for name, unit in units.items():
        for sign in (1, -1):
            rows = _steered(inside, pieces, texts, samples, name, sign * unit)
            limit = DOUBLED * base["perplexity"]
            whole = [r for r in rows if r["perplexity"] < limit and r["score"] is not None]
            curves[name, sign] = [
                {"alpha": 0, **base, "kl": 0.0},
                *sorted(whole, key=lambda r: r["kl"]),
            ]
    return {"base": base, **equal_kl_effects(curves)}


def equal_kl_effects(curves: Mapping[tuple[str, int], list[dict[str, Any]]]) -> dict[str, Any]:
    """The score less the base's at the largest KL that every curve reaches, and for emotions how
    often a random direction, of either sign, moves it as far. A curve of which every strength was
    dropped is left out, and counted."""
    reaching = {key: rows for key, rows in curves.items() if len(rows) > 1 and rows[-1]["kl"] > 0}
    found: dict[str, Any] = {
        "dropped": len(curves) - len(reaching),
        "tried": [{"name": n, "sign": s, "points": r} for (n, s), r in curves.items()],
    }
    if not reaching:
        return found | {"kl": None, "effects": []}
    kl = min(rows[-1]["kl"] for rows in reaching.values())
    effects = {key: score_at(rows, kl) - rows[0]["score"] for key, rows in reaching.items()}
    chance = [abs(e) for (name, _), e in effects.items() if name.startswith("random-")]
    return found | {
        "kl": kl,
        "random_largest": max(chance, default=None),
        "effects": [
            {
                "name": name,
                "sign": sign,
                "effect": effect,
                "p": vectors.p_of_draws(abs(effect), torch.tensor(chance)) if chance else None,
            }
            for (name, sign), effect in effects.items()
            if not name.startswith("random-")
        ],
    }


def score_at(points: Sequence[Mapping[str, Any]], kl: float) -> float:
    """The score at so many nats, on straight lines between points in the order of their KL."""
    for low, high in itertools.pairwise(points):
        if high["kl"] >= kl:
            share = (kl - low["kl"]) / (high["kl"] - low["kl"] or 1.0)
            return float(low["score"] + share * (high["score"] - low["score"]))
    return float(points[-1]["score"])


def _steered(
    inside: Inside,
    pieces: ProbePieces,
    texts: Sequence[Sequence[int]],
    samples: int,
    name: str,
    unit: Tensor,
) -> list[dict[str, Any]]:
    """One direction at each strength; what stands on the disk is not done again."""
    layer, config = inside.layers[inside.place], inside.model.config
    asked = [question.text for question in inside.questions]
    settings = [config.temperature, config.max_completion_length, config.judge_max_tokens]
    rubric = inside.prompts.rubric
    decides = [unit.tolist(), layer, inside.rms, samples, asked, settings, rubric, texts]
    key = text_digest(str(decides))[:12]
    rows = pieces.read(f"steered-{key}", FIELDS_OF_A_TRY)
    if not rows:
        print(f"steering with {name} ...", file=sys.stderr, flush=True)
        own = SteeringVector(name, unit, layer, inside.rms, "")
        for alpha in STRENGTHS:
            pushed = functools.partial(steered, inside.decoder, own, alpha)
            rows.append({"alpha": alpha, **tried(inside, texts, samples, pushed)})
        pieces.write(f"steered-{key}", rows)
    return rows


def removal(
    inside: Inside,
    checkpoints: Sequence[Checkpoint],
    texts: Sequence[Sequence[int]],
    samples: int,
) -> list[dict[str, Any]]:
    """Each trained model as it is, without the emotion space after the chosen layer, and without
    random spaces that have the covariance of the base's activations."""
    place, emotions, seed = inside.place, len(inside.emotions), inside.model.config.seed
    own = vectors.orthonormal(inside.fitted.unit[:, place])
    spaces = vectors.random_spaces(inside.clean, emotions, SPACES, seed)
    bases = [own, *(vectors.orthonormal(space[:, place]) for space in spaces)]
    layer, found = inside.layers[place], list[dict[str, Any]]()
    for checkpoint in checkpoints:
        print(f"taking spaces out of {checkpoint.title} ...", file=sys.stderr, flush=True)
        source, chat_format = inside.model.source, inside.model.config.chat_format
        opened = open_adapter(str(checkpoint.folder), source, chat_format)
        whole = tried(inside, texts, samples, nullcontext, opened)
        outs = [functools.partial(projected_out, inside.decoder, layer, basis) for basis in bases]
        without = [tried(inside, texts, samples, out, opened) for out in outs]
        found.append(
            {"run": checkpoint.title, "whole": whole, "without": without[0], "random": without[1:]}
        )
    return found
