"""Was it already there? The best of N answers of the base, against what training made of it.

Of N answers of the base, keep the one with the highest score: that is a policy too, and it puts in
nothing that the base would not say. Its KL to the base is at most log N - (N - 1) / N nats per
answer (Beirami et al. 2024, arXiv 2401.01879). Where a trained model scores no higher at its own KL
than this curve, giving the base's answers other weights is enough to explain it. The worst of N is
the same for the reverse direction.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from minihmx.config import check_number
from minihmx.engine.samplers import sampler_of, token_ids
from minihmx.errors import Diverged, UserError
from minihmx.probes.best_of_curve import best_of_report, by_questions, drawn_as, drawn_notices
from minihmx.probes.checkpoints import (
    NOT_FINITE,
    ProbePieces,
    held_out,
    open_base,
    open_checkpoints,
    rubric_of,
)
from minihmx.records import Question, Rollout
from minihmx.storage.disk import home_path
from minihmx.storage.identity import questions_digest, text_digest

if TYPE_CHECKING:
    from minihmx.engine.open import Model
    from minihmx.engine.prompts import Prompts

MOST_ANSWERS = 1024
WRITTEN_OF_AN_ANSWER = ("sample", "completion", "finish", "judge", "judge_finish", "score")


def best_of(names: Sequence[str], flags: Mapping[str, Any], samples: int) -> dict[str, Any]:
    """Have the base answer every held-out question so many times, judge, and report.

    names: of runs, as `find_adapter` takes them; none: the base alone. What was answered before is
    read from the disk. Raises Failure (errors.py).
    """
    from minihmx.engine.prompts import Prompts

    check_number("samples", samples, 2, MOST_ANSWERS)
    checkpoints = open_checkpoints(names)
    model = open_base(checkpoints, flags, slow_dtypes=True)
    ways = drawn_as(vars(model.config))
    model = replace(model, config=replace(model.config, **ways))  # type: ignore[arg-type]
    config, source = model.config, model.source
    if config.temperature == 0:
        raise UserError("At temperature 0 all answers are one; give --temperature 1.")
    questions = held_out(checkpoints, config.questions)
    ids = [question.id for question in questions]
    answered = [by_questions(checkpoint, ids) for checkpoint in checkpoints]
    prompts = Prompts(model.tokenizer, config.date, rubric_of(checkpoints, config.rubric))
    kept = ("temperature", "max_completion_length", "judge_max_tokens", "seed", "dtype")
    identity = {
        "model": source.digest,
        "questions": questions_digest(questions),
        "rubric": text_digest(prompts.rubric),
        **{name: getattr(config, name) for name in (*kept, "date", "chat_format")},
        **ways,
    }
    pieces = ProbePieces(home_path(config.out) / source.run_name / "base", "best-of", identity)
    table = _answers(model, prompts, questions, pieces, samples)
    pieces.seal()
    return {
        "model": {"id": source.id, "digest": source.digest},
        "settings": identity,
        "folder": str(pieces.folder),
        "notices": drawn_notices(ways, [checkpoint.values for checkpoint in checkpoints]),
        **best_of_report(table, ids, checkpoints, answered),
    }


def _answers(
    model: Model,
    prompts: Prompts,
    questions: Sequence[Question],
    pieces: ProbePieces,
    samples: int,
) -> list[list[float | None]]:
    """The scores by question, asking for what is not on the disk; one file for each question."""
    from minihmx.engine.open import load_decoder

    decoder, table = None, list[list[float | None]]()
    for number, question in enumerate(questions, start=1):
        name = f"question-{number:02d}"
        rows = pieces.read(name, WRITTEN_OF_AN_ANSWER)
        if len(rows) < samples:
            decoder = decoder or load_decoder(model)
            told = f"question {number} of {len(questions)}: {samples - len(rows)} answers ..."
            print(told, file=sys.stderr, flush=True)
            rollouts = _ask(model, decoder, prompts, question, range(len(rows), samples))
            rows += [
                {k: r.line()[k] for k in ("question", *WRITTEN_OF_AN_ANSWER)} for r in rollouts
            ]
            pieces.write(name, rows)
        table.append([row["score"] for row in rows[:samples]])
    return table


def _ask(
    model: Model, decoder: Any, prompts: Prompts, question: Question, numbers: range
) -> list[Rollout]:
    """Answers with these numbers, judged as in training, by a decoder that has no adapter."""
    from minihmx.engine.memory import Limit
    from minihmx.engine.sampling import generate
    from minihmx.probes.examples import judge_answers

    config, ids = model.config, prompts.policy(question.text)
    noise = [("best-of", config.seed, question.text, number) for number in numbers]
    completions = generate(
        decoder,
        prompts.tokenizer.decode,
        [ids] * len(numbers),
        max_new_tokens=config.max_completion_length,
        stop_ids=token_ids(config.stop_ids) or decoder.config.eos_ids,
        temperature=config.temperature,
        sampler=sampler_of(config.sampler, config.temperature),
        noise=noise,
        limit=Limit("--decode-rows", config.decode_rows),
    )
    if not all(completion.finite for completion in completions):
        raise Diverged(NOT_FINITE.format(config.dtype, "answers"))
    rollouts = [
        Rollout(question, number, question.text, ids, completion)
        for number, completion in zip(numbers, completions, strict=True)
    ]
    sampled = config.judge_sampler != "greedy"
    judge_noise = [("judge", *names) for names in noise] if sampled else None
    judge_answers(decoder, prompts, config, rollouts, judge_noise)
    return rollouts
