"""And inside? Emotion vectors of the base, and where training moved the residual stream.

Vectors are made from the base alone and never fitted on a trained model: a direction that training
made would always be found again in what training made. The layer is chosen by held-out topics of
the base, and a gate that no trained model takes part in says whether there are vectors at all.

Decodable is not used, and none of this shows a feeling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from minihmx.config import MOST, check_number
from minihmx.engine.open import Model, load_decoder
from minihmx.engine.prompts import Prompts
from minihmx.models.decoder import Decoder
from minihmx.probes import causes, stories, vectors
from minihmx.probes.checkpoints import (
    Checkpoint,
    ProbePieces,
    held_out,
    open_base,
    open_checkpoints,
    rubric_of,
)
from minihmx.probes.shift import UNTOUCHED, Inside, measure_runs, score_axis, scored_by_base
from minihmx.probes.states import looked_at, mean_states, message_row, prompt_row, text_row
from minihmx.probes.steering import SteeringVector, save_vector
from minihmx.records import Question
from minihmx.storage.disk import home_path
from minihmx.storage.identity import text_digest

PERPLEXITY_TEXTS = 20  # neutral texts whose perplexity shows what a change of the stream breaks
LEAST_NEUTRAL = 10
TOO_FEW_STORIES = "too few stories"
DECIDES = ("question", "ids", "score")  # of an answer: what the axis of scores is made of


class Counts(NamedTuple):
    """How much is written and drawn: topics a story of each emotion is about, neutral texts, and
    spaces and shuffles that stand for chance. steering: answers to each question under each
    change of the stream, 0 for no such changes. directions: random ones to steer with."""

    stories: int = 64
    neutral: int = 100
    draws: int = vectors.DRAWN
    steering: int = 0
    directions: int = 20


def emotion(names: Sequence[str], flags: Mapping[str, Any], counts: Counts) -> dict[str, Any]:
    """Write what is missing, make the vectors, pass the gate, and measure the checkpoints.

    names: of runs, as `find_adapter` takes them; none: the vectors alone. Where the gate is not
    passed, `usable` is false, `why` says it, and nothing further is measured or written.

    Raises Failure (errors.py) for what the user has to mend.
    """
    _check(counts)
    checkpoints = open_checkpoints(names)
    model = open_base(checkpoints, flags, slow_dtypes=True)
    config, source = model.config, model.source
    for checkpoint in checkpoints:  # what is missing is said before the hour that stories take
        checkpoint.answers(), checkpoint.answers(UNTOUCHED)
    prompts = Prompts(model.tokenizer, config.date, rubric_of(checkpoints, config.rubric))
    found = stories.material()
    identity = {
        "model": source.digest,
        "material": text_digest(str(found)),
        "tokens": [stories.SHORTEST, stories.STORY_TOKENS],
        **{name: getattr(config, name) for name in ("seed", "dtype", "date", "chat_format")},
    }
    pieces = ProbePieces(home_path(config.out) / source.run_name / "base", "emotion", identity)
    decoder = load_decoder(model)
    wanted = stories.wanted_texts(found, counts.stories, counts.neutral)
    rows = stories.write_stories(model, decoder, prompts, pieces, wanted, found.names)
    kept = [row for row in rows if row["fate"] == stories.KEPT_TEXT]
    report: dict[str, Any] = {
        "model": {"id": source.id, "digest": source.digest},
        "settings": identity,
        "counts": counts._asdict(),
        "texts": stories.fates(rows, wanted),
        "usable": False,
        "runs": [],
    }
    train, test = stories.split_topics(found.topics, counts.stories)
    if few := _too_few(kept, found.names, train, test):
        return _kept(pieces, report | {"why": few})
    questions = held_out(checkpoints, config.questions)
    base = model, decoder, prompts, questions, list(found.names)
    inside, chosen = _choose(*base, kept, train, counts.draws)
    report |= chosen | _gate(inside, found.messages)
    if not report["usable"]:
        return _kept(pieces, report)
    report |= _measured(inside, checkpoints, pieces, found)
    if counts.steering:
        report |= _caused(inside, checkpoints, pieces, kept, counts)
    return _kept(pieces, report)


def _kept(pieces: ProbePieces, report: dict[str, Any]) -> dict[str, Any]:
    """The report with the folder in which it is kept now: most of it needs the model to be made
    again, so it could not be shown without."""
    pieces.write_report(report)
    pieces.seal()
    return {**report, "folder": str(pieces.folder)}


def _check(counts: Counts) -> None:
    """Raises UserError for a count that cannot work."""
    check_number("stories", counts.stories, 5, len(stories.material().topics))
    check_number("neutral", counts.neutral, LEAST_NEUTRAL, 100)
    check_number("draws", counts.draws, 1, 100_000)
    check_number("steering", counts.steering, 0, MOST["eval_samples"])
    check_number("directions", counts.directions, 1, 1000)


def _too_few(
    kept: Sequence[Mapping[str, Any]],
    emotions: Mapping[str, str],
    train: Sequence[str],
    test: Sequence[str],
) -> str:
    """Why no vectors can be made of these texts, "" where they can: an emotion needs two stories to
    be made from and one to be tested on, and there must be ten neutral texts."""
    for emotion in emotions:
        topics = [row["topic"] for row in kept if row["emotion"] == emotion]
        fits, tests = (sum(t in part for t in topics) for part in (train, test))
        if fits < 2 or tests < 1:
            return (
                f"{TOO_FEW_STORIES}: of those about {emotion}, {fits} can be fitted on and {tests} "
                "tested on"
            )
    neutral = sum(row["emotion"] == stories.NEUTRAL_NAME for row in kept)
    return f"{TOO_FEW_STORIES}: {neutral} neutral texts" if neutral < LEAST_NEUTRAL else ""


def _choose(
    model: Model,
    decoder: Decoder,
    prompts: Prompts,
    questions: list[Question],
    emotions: list[str],
    kept: Sequence[Mapping[str, Any]],
    train: Sequence[str],
    draws: int,
) -> tuple[Inside, dict[str, Any]]:
    """Read the texts with the base, make vectors on the training topics, and take the layer that
    reads the held-out ones best. The chance of that: the same with shuffled labels."""
    layers = looked_at(model.shape.num_hidden_layers)
    read = mean_states(decoder, [text_row(prompts, row["text"]) for row in kept], layers)
    plain = torch.tensor([row["emotion"] == stories.NEUTRAL_NAME for row in kept])
    told = [row for row in kept if row["emotion"] != stories.NEUTRAL_NAME]
    bases = vectors.neutral_bases(read[plain])
    clean = vectors.without(read[~plain], bases)
    labels = torch.tensor([emotions.index(row["emotion"]) for row in told])
    names = sorted({row["topic"] for row in told})
    topics = torch.tensor([names.index(row["topic"]) for row in told])
    fits = torch.tensor([row["topic"] in train for row in told])

    def made(drawn: Tensor) -> tuple[vectors.Fitted, Tensor]:
        fitted = vectors.fit(clean[fits], drawn[fits], len(emotions))
        return fitted, vectors.accuracy(fitted, clean[~fits], drawn[~fits])

    fitted, by_layer = made(labels)
    shuffles = vectors.shuffled_labels(labels, topics, draws, model.config.seed)
    chance = torch.stack([made(drawn)[1].max() for drawn in shuffles])
    place = vectors.best_layer(by_layer)
    rms = float((read[~plain][:, place] ** 2).mean().sqrt())
    inside = Inside(
        *(model, decoder, prompts, questions, emotions, layers, bases),
        *(clean[fits], labels[fits], topics[fits], fitted, place, rms, draws),
    )
    return inside, {
        "layers": layers,
        "held_out_accuracy": by_layer.tolist(),
        "layer": layers[place],
        "chance": 1 / len(emotions),
        "p_accuracy": vectors.p_of_draws(float(by_layer[place]), chance),
        "neutral_components": [len(basis) for basis in bases],
        "fitted_on": int(fits.sum()),
        "tested_on": int((~fits).sum()),
        "rms": rms,
    }


def _gate(inside: Inside, messages: Mapping[str, str]) -> dict[str, Any]:
    """Whether the vectors read what twelve messages imply and do not say. Readings are held against
    the mean of the twelve, since all of them are messages and no stories."""
    read = inside.read([message_row(inside.prompts, text) for text in messages.values()])
    clean = vectors.without(read, inside.bases)
    own = inside.fitted._replace(centre=clean.mean(0))
    ranked = vectors.vector_readings(own, clean)[:, inside.place].argsort(descending=True)
    firsts = {
        emotion: [inside.emotions[int(i)] for i in row[: stories.AMONG_FIRST]]
        for emotion, row in zip(messages, ranked, strict=True)
    }
    hits = sum(emotion in first for emotion, first in firsts.items())
    why = (
        f"the implied emotion is among the first {stories.AMONG_FIRST} for {hits} of "
        f"{len(messages)} messages"
    )
    usable = hits >= stories.HITS_NEEDED
    return {"gate": {"first": firsts, "hits": hits}, "usable": usable, "why": why}


def _measured(
    inside: Inside,
    checkpoints: Sequence[Checkpoint],
    pieces: ProbePieces,
    found: stories.EmotionMaterial,
) -> dict[str, Any]:
    """The axes that are no emotions, every vector on disk, and every checkpoint's measures."""
    built_in = held_out((), "")  # not the runs' own: the vectors are to be the base's alone
    asked, forbidden = (
        inside.read([prompt_row(inside.prompts, q.text, text) for q in built_in])
        for text in found.system
    )
    axes = {"system": vectors.without((asked - forbidden).mean(0)[None], inside.bases)[0]}
    scored = scored_by_base(checkpoints)
    scores, why = score_axis(inside, scored)
    axes |= {} if scores is None else {"scores": scores}
    axes = {name: functional.normalize(axis, dim=-1) for name, axis in axes.items()}
    place, digest = inside.place, inside.model.source.digest
    made = {
        "system": "a system prompt that asks for feeling less one that forbids it",
        "scores": "the base's answers with high scores less those with low ones, within questions",
    }
    unit = inside.fitted.unit[:, place]
    named = dict(zip(inside.emotions, unit, strict=True))
    named |= {name: axis[place] for name, axis in axes.items()}
    # this one is of answers that runs kept, so other runs get a file of their own
    files = {"scores": f"scores-{text_digest(str([[r[n] for n in DECIDES] for r in scored]))[:8]}"}
    for name, vector in named.items():
        file = files.get(name, name)
        own = SteeringVector(file, vector.clone(), inside.layers[place], inside.rms, digest)
        how = made.get(name, "its stories less the mean over emotions")
        recipe = {"made": f"{how}; neutral components out", "stories": len(inside.clean)}
        save_vector(pieces.store, own, recipe | {"seed": inside.model.config.seed})
    return {
        "axes": {
            name: {e: float(unit[i] @ axis[place]) for i, e in enumerate(inside.emotions)}
            for name, axis in axes.items()
        },
        "scores_axis": why,
        **measure_runs(inside, checkpoints, axes, found.facts),
    }


def _caused(
    inside: Inside,
    checkpoints: Sequence[Checkpoint],
    pieces: ProbePieces,
    kept: Sequence[Mapping[str, Any]],
    counts: Counts,
) -> dict[str, Any]:
    """What the vectors do: steering of the base, and their space taken out of each checkpoint."""
    texts = [row["text"] for row in kept if row["emotion"] == stories.NEUTRAL_NAME]
    ids = [text_row(inside.prompts, text).ids for text in texts[:PERPLEXITY_TEXTS]]
    asked = ids, counts.steering
    return {
        "steering": causes.steering(inside, pieces, *asked, counts.directions),
        "removal": causes.removal(inside, checkpoints, *asked),
    }
