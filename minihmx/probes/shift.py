"""What training moved inside: wording against weights, and the shift of the residual stream.

A trained model reads its own answers, so part of any difference is only that these are other words.
Each measure is taken for one run at a time, since seeds are what could have come out otherwise.

Shapes: E emotions, L layers, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from minihmx.engine.open import Model, open_adapter, with_adapter
from minihmx.engine.prompts import Prompts
from minihmx.models.adapters import adapter_digest
from minihmx.models.decoder import Decoder
from minihmx.probes import vectors
from minihmx.probes.checkpoints import Checkpoint
from minihmx.probes.states import ReadRow, answer_row, mean_states, prompt_row
from minihmx.records import Question

HIGH_SCORE, LOW_SCORE = 7, 2  # of the two ends of the second axis
LEAST = 5  # answers that each end needs
UNTOUCHED = "epoch-00"  # an evaluation of the base, on the run's own noise


@dataclass(frozen=True)
class Inside:
    """The base, loaded, and the vectors that were made from it.

    clean: the training stories' states [n, L, D], neutral components out; labels and topics [n] are
    theirs. place: of the chosen layer among `layers`. rms: root mean square of the base's residuals
    there, over its stories.
    """

    model: Model
    decoder: Decoder
    prompts: Prompts
    questions: list[Question]
    emotions: list[str]
    layers: list[int]
    bases: list[Tensor]
    clean: Tensor
    labels: Tensor
    topics: Tensor
    fitted: vectors.Fitted
    place: int
    rms: float
    draws: int

    def read(self, rows: Sequence[ReadRow]) -> Tensor:
        """Mean residuals of the decoder as it is now, [n, L, D]."""
        return mean_states(self.decoder, rows, self.layers)


def answers_read(inside: Inside, rows: Sequence[Mapping[str, Any]]) -> Tensor:
    """The mean state of each stored answer after its question, [n, L, D]."""
    texts = {question.id: question.text for question in inside.questions}
    return inside.read(
        [answer_row(inside.prompts, texts[row["question"]], row["ids"]) for row in rows]
    )


def scored_by_base(checkpoints: Sequence[Checkpoint]) -> list[Mapping[str, Any]]:
    """The base's answers that have a score, each once, from the runs' first evaluations."""
    rows = {
        (row["question"], *row["ids"]): row
        for checkpoint in checkpoints
        for row in checkpoint.answers(UNTOUCHED)
        if row["score"] is not None and row["ids"]
    }
    return list(rows.values())


def score_axis(inside: Inside, scored: Sequence[Mapping[str, Any]]) -> tuple[Tensor | None, str]:
    """The base's answers that scored 7 or more less those of 2 or less, [L, D], each centred within
    its question, since questions differ more than answers do; or None, and why."""
    scores = torch.tensor([float(row["score"]) for row in scored])
    high, low = scores >= HIGH_SCORE, scores <= LOW_SCORE
    many, few = int(high.sum()), int(low.sum())
    told = f"{many} of the base's answers scored {HIGH_SCORE} or more, {few} {LOW_SCORE} or less"
    if min(many, few) < LEAST:
        return None, f"{told}: too few for an axis, which needs {LEAST} of each"
    read = vectors.without(answers_read(inside, scored), inside.bases)
    for question in {row["question"] for row in scored}:
        own = torch.tensor([row["question"] == question for row in scored])
        read[own] -= read[own].mean(0)
    return read[high].mean(0) - read[low].mean(0), told


def measure_runs(
    inside: Inside,
    checkpoints: Sequence[Checkpoint],
    axes: Mapping[str, Tensor],
    facts: Sequence[str],
) -> dict[str, Any]:
    """Every checkpoint's measures, and what chance gives for the shares among them."""
    if not checkpoints:
        return {"runs": [], "pairs": []}
    prompts = {
        "questions": [prompt_row(inside.prompts, q.text) for q in inside.questions],
        "facts": [prompt_row(inside.prompts, text) for text in facts],
    }
    base = {name: inside.read(rows) for name, rows in prompts.items()}
    measured = [_run(inside, checkpoint, prompts, base) for checkpoint in checkpoints]
    shares = _shares(inside, [delta for _, moved in measured for delta in moved.values()])
    place = inside.place
    for found, moved in measured:
        for name, delta in moved.items():
            length = float(delta[place].norm() / (inside.rms * delta.shape[-1] ** 0.5))
            cosines = {axis: _cosine(delta[place], own[place]) for axis, own in axes.items()}
            found[name] = {"length": length, "cosines": cosines} | next(shares)
    return {"runs": [found for found, _ in measured], "pairs": _pairs(measured, place)}


RunMeasures = tuple[dict[str, Any], dict[str, Tensor]]  # of a run, and its shifts [L, D] by prompts


def _run(
    inside: Inside,
    checkpoint: Checkpoint,
    prompts: Mapping[str, Sequence[ReadRow]],
    base: Mapping[str, Tensor],
) -> RunMeasures:
    """The decomposition, and the shift at the last token of each kind of prompt."""
    own = [row for row in checkpoint.answers() if row["ids"]]
    untouched = [row for row in checkpoint.answers(UNTOUCHED) if row["ids"]]
    base_on_base, base_on_own = (answers_read(inside, rows).mean(0) for rows in (untouched, own))
    source = inside.model.source
    opened = open_adapter(str(checkpoint.folder), source, inside.model.config.chat_format)
    with with_adapter(inside.decoder, opened):
        trained_on_own = answers_read(inside, own).mean(0)
        moved = {name: (inside.read(rows) - base[name]).mean(0) for name, rows in prompts.items()}
    found = {
        "run": checkpoint.title,
        "direction": checkpoint.direction,
        "seed": checkpoint.seed,
        "adapter": adapter_digest(checkpoint.folder),
        "notices": opened.notices,
        "decomposition": decomposed(inside, base_on_base, base_on_own, trained_on_own),
    }
    return found, moved


def decomposed(
    inside: Inside, base_on_base: Tensor, base_on_own: Tensor, trained_on_own: Tensor
) -> dict[str, dict[str, float]]:
    """How far the trained model's own answers lie from the base's along each emotion, of states
    [L, D]: total = wording (the base reads both) + weights (both read the trained model's).

    In standard deviations that the base's stories have along the emotion.
    """
    read = vectors.vector_readings(inside.fitted, inside.clean)[:, inside.place]
    spread, unit = read.std(0), inside.fitted.unit[:, inside.place]
    differences = {
        "wording": base_on_own - base_on_base,
        "weights": trained_on_own - base_on_own,
        "total": trained_on_own - base_on_base,
    }
    along = {name: unit @ d[inside.place] / spread for name, d in differences.items()}
    return {
        emotion: {name: float(values[i]) for name, values in along.items()}
        for i, emotion in enumerate(inside.emotions)
    }


def _shares(inside: Inside, deltas: Sequence[Tensor]) -> Iterator[dict[str, Any]]:
    """The share of each shift in the emotion space, by layer, and its chance among random spaces,
    among shuffled labels, and beside the neutral components."""
    emotions, draws, seed = len(inside.emotions), inside.draws, inside.model.config.seed
    place = inside.place
    spaces = vectors.random_spaces(inside.clean, emotions, draws, seed)
    shuffles = vectors.shuffled_labels(inside.labels, inside.topics, draws, seed)
    refitted = (vectors.fit(inside.clean, drawn, emotions).unit for drawn in shuffles)
    chance = {
        name: torch.stack(
            [torch.stack([vectors.share_inside(d, space) for d in deltas]) for space in drawn]
        )
        for name, drawn in (("random", spaces), ("shuffled", refitted))
    }
    basis = inside.bases[place][: emotions - 1]  # as many dimensions as the emotions span
    for number, delta in enumerate(deltas):
        observed = vectors.share_inside(delta, inside.fitted.unit)
        found = {
            "share": float(observed[place]),
            "share_by_layer": observed.tolist(),
            "neutral_share": float(vectors.share_inside(delta[place][None], basis[:, None])[0]),
            "neutral_dimensions": len(basis),
        }
        for name, drawn in chance.items():
            own = drawn[:, number]
            found |= {
                f"{name}_mean": float(own[:, place].mean()),
                f"p_{name}": vectors.p_of_draws(float(observed[place]), own[:, place]),
                f"p_{name}_layers": vectors.p_over_layers(observed, own, place),
            }
        yield found


def _pairs(measured: Sequence[RunMeasures], place: int) -> list[dict[str, Any]]:
    """For each seed with both directions: the cosine between their shifts at the chosen layer."""
    return [
        {"seed": one["seed"]}
        | {name: _cosine(delta[place], of_other[name][place]) for name, delta in of_one.items()}
        for one, of_one in measured
        for other, of_other in measured
        if (one["direction"], other["direction"]) == ("forward", "reverse")
        and one["seed"] == other["seed"]
    ]


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(functional.cosine_similarity(one, other, dim=0))
